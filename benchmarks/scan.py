"""The linear scan beside PLINK 2 on the same files, in turn: CPU seconds and wall, start-up and text output included.

    .venv/bin/python benchmarks/scan.py --people 10000 --variants 20000 --traits 100

Beside both stands the bare float64 matrix product of the counts with the traits and covariates, which our scan cannot go
below. The record goes to benchmarks/results/ with date, code version and machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from clinome.core.files import write_json
from clinome.core.provenance import provenance

RECORDS = Path(__file__).parent / "results"
COVARIATES = 12


def timed(*command: str) -> dict[str, float]:
    """Run a command and return its wall and CPU seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}


def write_tables(folder: Path, people: int, traits: int, ragged: float) -> None:
    """Write random traits and covariates for the people of the dummy files."""
    generator = np.random.default_rng(1)
    ids = pl.Series([line.split()[1] for line in (folder / "g.fam").read_text().splitlines()])
    values = generator.normal(size=(people, traits))
    values[generator.random(values.shape) < ragged] = np.nan
    for name, table, prefix in (("traits", values, "T"), ("covariates", generator.normal(size=(people, COVARIATES)), "C")):
        frame = pl.DataFrame(table, schema=[f"{prefix}{i}" for i in range(table.shape[1])], orient="row").fill_nan(None)
        frame.insert_column(0, ids.alias("#IID")).write_csv(folder / f"{name}.txt", separator="\t", null_value="NA")


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("people", 10_000), ("variants", 20_000), ("traits", 100)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--missing", type=float, default=0.0, help="share of missing genotypes")
    parser.add_argument("--ragged", type=float, default=0.0, help="share of missing trait values")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        dummy = ("plink2", "--dummy", str(given.people), str(given.variants), str(given.missing), "--seed", "1")
        timed(*dummy, "--make-bed", "--out", str(folder / "g"))
        write_tables(folder, given.people, given.traits, given.ragged)
        mine = ("-m", "clinome", "gwas", "--export", "plink2", "--missing-genotypes", "drop", "--quiet")
        files = (
            "--genotypes",
            f"{folder}/g.bed",
            "--phenotypes",
            f"{folder}/traits.txt",
            "--covariates",
            f"{folder}/covariates.txt",
        )
        ours = timed(sys.executable, *mine, *files, "--out", f"{folder}/ours")
        theirs = ("plink2", "--bfile", f"{folder}/g", "--pheno", f"{folder}/traits.txt", "--covar", f"{folder}/covariates.txt")
        peer = [
            timed(*theirs, "--no-psam-pheno", "--glm", "hide-covar", "--threads", str(threads), "--out", f"{folder}/peer{threads}")
            for threads in (1, 2)
        ]
        counts = np.random.default_rng(0).integers(0, 3, (2_000, given.people)).astype(np.float64)
        columns = np.random.default_rng(1).normal(size=(given.people, given.traits + COVARIATES + 1))
        start = time.process_time()
        for _ in range(max(given.variants // 2_000, 1)):
            counts @ columns
        bare = time.process_time() - start
    finally:
        shutil.rmtree(folder)
    best = min(peer, key=lambda p: p["cpu_seconds"])
    record = {
        **vars(given),
        "ours": ours,
        "plink2": best,
        "bare_float64_product_cpu_seconds": round(bare, 2),
        "plink2_over_ours_cpu": round(best["cpu_seconds"] / ours["cpu_seconds"], 2),
        "ours_over_bare_product": round(ours["cpu_seconds"] / bare, 2),
        "load_average_at_start": os.getloadavg()[0],
        "provenance": provenance(),
    }
    print({k: v for k, v in record.items() if k != "provenance"})
    name = f"scan_{given.people}x{given.variants}x{given.traits}_missing{given.missing:g}_ragged{given.ragged:g}.json"
    write_json(RECORDS / name, record)


if __name__ == "__main__":
    main()
