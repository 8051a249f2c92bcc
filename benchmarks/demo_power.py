"""Power and false loci of `clinome demo` over seeds, and what is found when genotypes are shuffled between people.

    .venv/bin/python benchmarks/demo_power.py --seeds 20 --work /tmp/demo_power

Each seed is a biobank of its own, run exactly as `make demo` runs seed 1. Then the same phenotypes are scanned with the
genotypes' names permuted: whatever is found is false. The floor is plain pixels without training, in everybody. Finished
seeds are kept in ``--work``, so the command goes on after a kill; the record goes to benchmarks/results/demo_power.json with
date, code version and machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.files import write_json
from clinome.core.provenance import provenance
from clinome.studies.demo import run_demo
from clinome.studies.discover import run_study
from clinome.studies.study_file import Cohort, GenotypeFiles, Phenotypes, read_study

RECORD = Path(__file__).parent / "results" / "demo_power.json"


def one_seed(work: Path, seed: int) -> dict[str, Any]:
    """Run a seed and its shuffled twin; keep only the numbers."""
    done = work / f"seed{seed:02d}.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    folder = work / f"seed{seed:02d}"
    start = time.perf_counter()
    summary = run_demo(folder, seed=seed)
    seconds = time.perf_counter() - start
    truth = pl.read_parquet(folder / "study" / "loci" / "truth.parquet").filter("counted")
    floor = pl.read_parquet(folder / "study" / "floor" / "loci" / "truth.parquet").filter("counted")
    by_latent = truth.group_by("latent", maintain_order=True).agg(pl.col("found").sum(), pl.len())
    shuffled = run_study(_shuffled(folder, seed), folder / "shuffled", report=False)
    result = {
        "seed": seed,
        "found": int(truth["found"].sum()),
        "counted": truth.height,
        "false": int(summary["truth_line"].rsplit(" ", 1)[1]),
        "floor_found": int(floor["found"].sum()),
        "found_by_latent": {latent: [found, n] for latent, found, n in by_latent.iter_rows()},
        "shuffled_loci": pl.read_parquet(folder / "shuffled" / "loci" / "loci.parquet").height,
        "lambda_all_traits": _lambda(folder / "study"),
        "shuffled_lambda": _lambda(folder / "shuffled"),
        "seconds": round(seconds),
        "shuffled_headline": shuffled["headline"][0],
    }
    write_json(done, result)
    shutil.rmtree(folder)
    return result


def _lambda(study: Path) -> float:
    table = pl.read_parquet(study / "gwas" / "lambdas.parquet")
    return float(table.filter((pl.col("test") == "all traits") & (pl.col("frequency_bin") == "all"))["lambda_gc"][0])


def _shuffled(folder: Path, seed: int) -> Any:
    """Return the study with the people of the .fam permuted and the phenotypes of the first run."""
    place = folder / "permuted"
    place.mkdir(exist_ok=True)
    for suffix in (".bed", ".bim"):
        (place / f"genotypes{suffix}").unlink(missing_ok=True)
        (place / f"genotypes{suffix}").hardlink_to(folder / "biobank" / f"genotypes{suffix}")
    lines = (folder / "biobank" / "genotypes.fam").read_text().splitlines()
    order = np.random.default_rng(seed).permutation(len(lines))
    (place / "genotypes.fam").write_text("\n".join(lines[i] for i in order) + "\n")
    phenotypes = pl.read_parquet(folder / "study" / "phenotypes" / "phenotypes.parquet").drop_nulls()
    phenotypes.write_parquet(place / "phenotypes.parquet")
    study = read_study(folder / "biobank" / "study.toml")
    return replace(
        study,
        genotypes=GenotypeFiles(str(place / "genotypes.bed")),
        images=None,
        phenotypes=Phenotypes(path=place / "phenotypes.parquet", transform="rank-normal"),
        cohort=Cohort(principal_components=study.cohort.principal_components),
        truth=None,
    )


def wilson(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share (Wilson 1927)."""
    z, p = 1.959964, k / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


def main() -> None:
    """Run the seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("/tmp/demo_power"))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(1, given.seeds + 1):
        rows.append(one_seed(given.work, seed))
        found, counted = sum(r["found"] for r in rows), sum(r["counted"] for r in rows)
        low, high = wilson(found, counted)
        print(
            f"seed {seed}: found {rows[-1]['found']}/{rows[-1]['counted']}, false {rows[-1]['false']}, "
            f"shuffled {rows[-1]['shuffled_loci']}; "
            f"so far power {found}/{counted} = {found / counted:.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )
        record = {
            "power": found / counted,
            "power_interval_95_wilson": [low, high],
            "power_of_the_floor": sum(r["floor_found"] for r in rows) / counted,
            "seeds_with_at_least_80_percent": sum(r["found"] >= 0.8 * r["counted"] for r in rows),
            "false_loci": sum(r["false"] for r in rows),
            "seeds_with_more_than_one_false_locus": sum(r["false"] > 1 for r in rows),
            "shuffled_loci": sum(r["shuffled_loci"] for r in rows),
            "seeds": rows,
            "provenance": provenance(),
        }
        write_json(RECORD, record)


if __name__ == "__main__":
    main()
