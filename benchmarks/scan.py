"""The linear scan beside PLINK 2, beside itself, and beside what no program can go below: processor seconds, wall and memory.

    .venv/bin/python benchmarks/scan.py --work /tmp/scan --case complete-100    # a case, or several; without --case all
    .venv/bin/python benchmarks/scan.py --work /tmp/scan --table                # people × traits against the bare product
    .venv/bin/python benchmarks/scan.py --work /tmp/scan --threads              # one thread and two
    .venv/bin/python benchmarks/scan.py --markdown                              # the records as tables

Ours is `clinome gwas` from start to end: start-up, result store, hits, summary and report page. PLINK 2 runs in turn on the same
files with ``--threads 1`` and ``2``, the cheaper counts. Where it takes many minutes it is measured on the first variants of the
file and scaled: processor seconds grow by a line in the variants, whose start a run on a tenth of them gives; the record says so.
REGENIE's figures are stored ones (4.1.2, step 2 with ``--ignore-pred``, 20,000 variants on this class of machine), scaled by the
variants.

Each case, cell and comparison writes a record of its own into ``--records`` with date, code version, machine and load, and is
passed over when this code version has written it; ``--again`` measures anew. Files are kept in ``--work``. On a machine where
something else runs nothing is recorded, unless ``--busy`` is said; the record says that too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from measuring import (
    COVARIATES,
    Cost,
    Files,
    Traits,
    apart,
    bare_product,
    middle,
    moving,
    plink_command,
    run,
    scan_command,
    size_of,
)
from measuring import wait_until_quiet as quiet

from clinome.core.files import write_json
from clinome.core.provenance import code_version, provenance
from clinome.formats.sumstats import read_sumstats
from clinome.genetics.results import Results

RECORDS = Path(__file__).parent / "results"
PEOPLE = 10_000
VARIANTS = 200_000
_REPEATS = 3  # of ours; the median counts
_TABLE = [(people, traits) for people in (2_000, 10_000, 50_000) for traits in (1, 10, 100, 1_000)]
_TABLE_VARIANTS = 100_000  # beside a quarter of them
_REGENIE_VARIANTS = 20_000
_NOISE = 1.03  # of wall seconds of the same command, run after run


@dataclass(frozen=True)
class Case:
    """One comparison, and its bars.

    ``missing`` is the share of genotypes, ``ragged`` of trait values (in ``patterns`` that traits share, None: each its own).
    ``peer`` are the variants that PLINK 2 is measured on (None: all), ``faster`` how many times its processor seconds have to be
    ours. ``regenie`` are its stored seconds per 20,000 variants. ``of`` is the complete case that ours may take ``at_most`` times.
    """

    traits: int
    missing: float = 0.0
    treatment: Literal["mean", "drop"] = "mean"
    ragged: float = 0.0
    patterns: int | None = None
    peer: int | None = None
    faster: float | None = None
    regenie: float | None = None
    faster_than_regenie: float | None = None
    of: str | None = None
    at_most: float | None = None


CASES = {
    "complete-1": Case(1, faster=1, regenie=2.3),
    "complete-100": Case(100, faster=8, regenie=32, faster_than_regenie=40),
    "complete-1000": Case(1_000, peer=20_000, faster=25, regenie=320, faster_than_regenie=60),
    "missing-mean-100": Case(100, missing=0.01, peer=2_000, faster=120, regenie=33),
    "missing-drop-100": Case(100, missing=0.01, treatment="drop", peer=2_000, faster=40),
    "ragged-100": Case(100, ragged=0.05, peer=20_000, faster=15, regenie=57, of="complete-100", at_most=4),
    "ragged-1000": Case(1_000, ragged=0.05, peer=5_000, of="complete-1000", at_most=6),
    "shared-100": Case(100, ragged=0.05, patterns=1, peer=20_000, of="complete-100", at_most=1.3),
    "shared-4-100": Case(100, ragged=0.05, patterns=4, peer=20_000, of="complete-100", at_most=1.3),
}
THREADED = ("complete-1", "complete-100", "missing-drop-100", "ragged-100")


@dataclass(frozen=True)
class Bench:
    """Where files and records are, how many variants are scanned, and whether a busy machine is accepted."""

    files: Files
    records: Path
    variants: int
    busy: bool
    again: bool

    def record(self, name: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """Measure on a quiet machine and write ``scan_<name>.json``, unless this code version has done so with these settings."""
        path = self.records / f"scan_{name}.json"
        if path.exists() and not self.again:
            before = json.loads(path.read_text())
            if before["settings"] == settings and before["provenance"]["clinome"] == code_version():
                print(f"{name}: {path} is there")
                return
        load = quiet(self.busy)
        record = {"settings": settings, "load_average_at_start": load, "busy": self.busy} | measure()
        self.records.mkdir(parents=True, exist_ok=True)
        write_json(path, record | {"provenance": provenance()})
        print(f"{name}: {json.dumps({k: v for k, v in record.items() if k != 'settings'})}", flush=True)

    def inputs(self, case: Case, variants: int) -> tuple[Path, Path, Path]:
        """Return genotypes, traits and covariates of a case."""
        bed = self.files.genotypes(PEOPLE, self.variants, case.missing)
        if variants < self.variants:
            bed = self.files.first(bed, PEOPLE, variants)
        traits = self.files.traits(Traits(PEOPLE, case.traits, case.ragged, case.patterns))
        return bed, traits, self.files.covariates(PEOPLE)

    def ours(self, inputs: tuple[Path, Path, Path], *options: str) -> Cost:
        """Scan into an empty folder, which stays until the next run."""
        out = self.files.folder / "ours"
        shutil.rmtree(out, ignore_errors=True)
        return run(*scan_command(*inputs, out, *options))


def compare(bench: Bench, case: Case, peer: int) -> dict[str, Any]:
    """Run ours, PLINK 2 and, where the case is held against it, our complete scan in turn."""
    options = ("--missing-genotypes", case.treatment)
    whole = bench.inputs(case, bench.variants)
    complete = bench.inputs(CASES[case.of], bench.variants) if case.of else None
    some, few = (bench.inputs(case, n) for n in (peer, peer // 10))
    ours, beside, theirs, start = [], [], {}, {}
    for turn in range(_REPEATS):
        if complete:
            beside.append(bench.ours(complete))
        ours.append(bench.ours(whole, *options))
        if (threads := turn + 1) <= 2:
            theirs[threads] = run(*plink_command(*some, bench.files.folder / "plink", threads))
            if peer < bench.variants:
                start[threads] = run(*plink_command(*few, bench.files.folder / "start", threads))
    mine = middle(ours)
    record: dict[str, Any] = {"ours": mine._asdict(), "ours_runs": [cost._asdict() for cost in ours]}
    scaled = {t: _scaled(theirs[t], start.get(t), peer, bench.variants) for t in theirs}
    threads = min(scaled, key=lambda t: scaled[t]["cpu_seconds"])
    record["plink2"] = scaled[threads] | {
        "threads": threads,
        "measured_on_variants": peer,
        "start_measured_on_variants": peer // 10 if start else None,
        "runs": {f"--threads {t}": [cost._asdict() for cost in (start.get(t), theirs[t]) if cost] for t in theirs},
        "version": subprocess.run(["plink2", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
    }
    record["plink2_over_ours"] = _held(record["plink2"]["cpu_seconds"] / mine.cpu_seconds, case.faster)
    record["plink2_wall_over_ours"] = {"ratio": round(record["plink2"]["wall_seconds"] / mine.wall_seconds, 2)}
    if not case.missing or case.treatment == "drop":
        record["largest_difference_in_se"] = apart(_difference, bench.files.folder)
    if case.regenie:
        stored = case.regenie * bench.variants / _REGENIE_VARIANTS
        record["regenie_stored_cpu_seconds"] = stored
        record["regenie_over_ours"] = _held(stored / mine.cpu_seconds, case.faster_than_regenie)
    if complete:
        record["complete"] = middle(beside)._asdict()
        record["ours_over_complete"] = _held(mine.cpu_seconds / middle(beside).cpu_seconds, case.at_most, most=True)
    for path in bench.files.folder.glob("plink.*"):
        path.unlink()
    for path in bench.files.folder.glob("start.*"):
        path.unlink()
    return record


def _scaled(cost: Cost, start: Cost | None, measured: int, variants: int) -> dict[str, float]:
    """Carry processor and wall seconds on to more variants along the line through two runs."""
    if start is None:
        return {"cpu_seconds": cost.cpu_seconds, "wall_seconds": cost.wall_seconds}
    more = (variants - measured) / (measured - measured // 10)
    return {
        "cpu_seconds": round(cost.cpu_seconds + (cost.cpu_seconds - start.cpu_seconds) * more, 2),
        "wall_seconds": round(cost.wall_seconds + (cost.wall_seconds - start.wall_seconds) * more, 2),
    }


def _held(ratio: float, bar: float | None, *, most: bool = False) -> dict[str, Any]:
    """Return a ratio with its bar, and whether it is met."""
    held = {} if bar is None else {"at_most" if most else "at_least": bar, "met": bool(ratio <= bar if most else ratio >= bar)}
    return {"ratio": round(ratio, 2)} | held


def _difference(folder: Path) -> float:
    """Return the largest |Δβ| of the first trait between ours and PLINK 2, in standard errors: speed of the same numbers."""
    theirs = read_sumstats(folder / "plink.T0.glm.linear")
    both = theirs.join(Results(folder / "ours" / "gwas").trait("T0"), on="variant_id", suffix="_ours")
    sign = pl.when(pl.col("effect_allele") == pl.col("effect_allele_ours")).then(1).otherwise(-1)
    difference = ((pl.col("beta") - sign * pl.col("beta_ours")) / pl.col("standard_error")).abs()
    if both.height < theirs.height:
        raise SystemExit(f"{theirs.height - both.height} variants of PLINK 2 are not in our results")
    return float(both.select(difference.max()).item())


def cell(bench: Bench, people: int, traits: int) -> dict[str, Any]:
    """Scan a quarter of the variants and all, and measure what cannot be saved: the product, and the bytes."""
    whole = bench.files.genotypes(people, bench.variants)
    table, covariates = bench.files.traits(Traits(people, traits)), bench.files.covariates(people)
    quarter = bench.files.first(whole, people, bench.variants // 4)
    less, ours = (middle([bench.ours((bed, table, covariates)) for _ in range(_REPEATS)]) for bed in (quarter, whole))
    written = size_of(bench.files.folder / "ours" / "gwas" / "shards")
    product, moved = bare_product(people, bench.variants, traits), moving(whole, written)
    grown = (ours.cpu_seconds - less.cpu_seconds) / 0.75  # what follows the variants, start-up and tables apart
    return {
        "ours": ours._asdict(),
        "ours_quarter_of_the_variants": less._asdict(),
        "cpu_seconds_without_start": round(grown, 3),
        "bare_product_cpu_seconds": round(product, 3),
        "bytes_of_genotypes": whole.stat().st_size,
        "bytes_of_results": written,
        "moving_cpu_seconds": round(moved, 3),
        "ours_over_product": round(ours.cpu_seconds / product, 2),
        "ours_over_moving": round(ours.cpu_seconds / moved, 2),
        "ours_without_start_over_product_and_moving": round(grown / (product + moved), 2),
        "peak_memory_over_that_of_a_quarter": round(ours.peak_mib / less.peak_mib, 3),
    }


def threaded(bench: Bench, case: Case) -> dict[str, Any]:
    """Scan with one thread and with two in turn."""
    inputs, options = bench.inputs(case, bench.variants), ("--missing-genotypes", case.treatment)
    runs = [[bench.ours(inputs, *options, "--threads", str(threads)) for threads in (1, 2)] for _ in range(_REPEATS)]
    one, two = (middle(list(costs)) for costs in zip(*runs, strict=True))
    return {
        "one_thread": one._asdict(),
        "two_threads": two._asdict(),
        "wall_of_two_over_one": _held(two.wall_seconds / one.wall_seconds, _NOISE, most=True),
    }


def markdown(records: Path) -> str:
    """Return the records as the tables of docs/measured.md."""

    def read(pattern: str) -> list[tuple[str, dict[str, Any]]]:
        return [(path.stem.split("_", 1)[1], json.loads(path.read_text())) for path in sorted(records.glob(f"scan_{pattern}.json"))]

    def held(record: dict[str, Any], name: str) -> str:
        if name not in record:
            return ""
        bar = record[name].get("at_least", record[name].get("at_most"))
        sign = "≥" if "at_least" in record[name] else "≤"
        return f"{record[name]['ratio']:g}" + (f" ({sign} {bar:g}: {'met' if record[name]['met'] else 'missed'})" if bar else "")

    def seconds(cost: dict[str, float]) -> str:
        return f"{cost['cpu_seconds']:.3g} ({cost['wall_seconds']:.3g})"

    found = dict(read("*"))
    rows = [
        "| case | ours, CPU s (wall) | PLINK 2 | PLINK 2 over ours | REGENIE, stored, over ours | over our complete |",
        "|---" * 6 + "|",
    ]
    for name in CASES:
        if (record := found.get(name)) is not None:
            measured, all_variants = record["plink2"]["measured_on_variants"], record["settings"]["variants"]
            scaled = f", scaled from {measured:,} variants" if measured < all_variants else ""
            columns = [name, seconds(record["ours"]), seconds(record["plink2"]) + scaled]
            columns += [held(record, ratio) for ratio in ("plink2_over_ours", "regenie_over_ours", "ours_over_complete")]
            rows.append(f"| {' | '.join(columns)} |")
    rows += ["", "| people × traits | ours, CPU s (wall) | bare product | moving the bytes | over product | over moving | "]
    rows[-1] += "without start, over both | peak memory, MiB, of a quarter and all variants |"
    rows.append("|---" * 8 + "|")
    for people, traits in _TABLE:
        if (record := found.get(f"table_{people}x{traits}")) is not None:
            keys = ("bare_product_cpu_seconds", "moving_cpu_seconds", "ours_over_product", "ours_over_moving")
            columns = [f"{people:,} × {traits:,}", seconds(record["ours"]), *(f"{record[key]:.3g}" for key in keys)]
            columns.append(f"{record['ours_without_start_over_product_and_moving']:.3g}")
            columns.append(f"{record['ours_quarter_of_the_variants']['peak_mib']:.0f}, {record['ours']['peak_mib']:.0f}")
            rows.append(f"| {' | '.join(columns)} |")
    rows += ["", "| case | one thread, CPU s (wall) | two threads | wall of two over one |", "|---" * 4 + "|"]
    for name in THREADED:
        if (record := found.get(f"threads_{name}")) is not None:
            columns = [name, seconds(record["one_thread"]), seconds(record["two_threads"]), held(record, "wall_of_two_over_one")]
            rows.append(f"| {' | '.join(columns)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure what is asked for and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="may be repeated; all by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="people × traits against the bare product and the bytes moved")
    what.add_argument("--threads", action="store_true", help="one thread and two")
    what.add_argument("--markdown", action="store_true", help="print the records as tables and measure nothing")
    parser.add_argument("--variants", type=int, help=f"{VARIANTS:,} by default, {_TABLE_VARIANTS:,} for the table")
    parser.add_argument("--peer-variants", type=int, help="those that PLINK 2 is measured on; by default the case's own")
    parser.add_argument("--people", type=int, action="append", help="rows of the table; all by default")
    parser.add_argument("--work", type=Path, default=Path("/tmp/clinome_scan"), help="where generated files are kept")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--busy", action="store_true", help="measure although something else runs")
    parser.add_argument("--again", action="store_true", help="measure what is recorded already")
    given = parser.parse_args()
    if given.markdown:
        print(markdown(given.records))
        return
    variants = given.variants or (_TABLE_VARIANTS if given.table else VARIANTS)
    bench = Bench(Files(given.work), given.records, variants, given.busy, given.again)
    if given.table:
        for people, traits in _TABLE:
            if given.people is None or people in given.people:
                settings = {"people": people, "traits": traits, "variants": variants, "covariates": COVARIATES}
                bench.record(f"table_{people}x{traits}", settings, lambda p=people, t=traits: cell(bench, p, t))  # type: ignore[misc]
        return
    for name in given.case or (THREADED if given.threads else CASES):
        case = CASES[name]
        settings = {"people": PEOPLE, "variants": variants, "covariates": COVARIATES}
        if given.threads:
            bench.record(f"threads_{name}", settings | asdict(case), lambda c=case: threaded(bench, c))  # type: ignore[misc]
            continue
        peer = int(np.clip(given.peer_variants or case.peer or variants, 10, variants))
        bench.record(name, settings | asdict(case) | {"peer": peer}, lambda c=case, p=peer: compare(bench, c, p))  # type: ignore[misc]


if __name__ == "__main__":
    main()
