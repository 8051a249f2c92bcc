"""What the benchmarks of the scan share: a command's cost, a quiet machine, files to scan, and the limits of this machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import replacing
from clinome.stats.exact import Engine, best_engine, one_thread
from clinome.stats.layout import digitise
from clinome.stats.residuals import prepare, span

T = TypeVar("T")
COVARIATES = 12
_QUIET = 0.7  # load average up to which a time is worth recording
_PATIENCE = 900  # seconds that are waited for it: our own run before leaves it high for some minutes
_PIECE = 1 << 20


class Cost(NamedTuple):
    """What a command took: processor seconds of all its processes, wall seconds, and the peak memory of the largest (MiB)."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


def run(*command: str) -> Cost:
    """Run a command and return its cost; stop with what it said when it fails.

    Linux lets a child's peak memory begin with its parent's, so less than that of this process is not seen: keep it small
    (:func:`apart`).
    """
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{said.read().decode()}")
    return Cost(round(used.ru_utime + used.ru_stime, 3), round(wall, 3), round(used.ru_maxrss / 1024, 1))


def middle(costs: list[Cost]) -> Cost:
    """Return the median of each figure over runs of the same command."""
    return Cost(*(statistics.median(figures) for figures in zip(*costs, strict=True)))


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own, so that what it holds counts for nobody else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def wait_until_quiet(busy: bool) -> float:
    """Return the load average once nothing else runs; stop where that does not happen, unless a ``busy`` machine is accepted."""
    for _ in range(_PATIENCE // 5):
        if busy or os.getloadavg()[0] <= _QUIET:
            break
        time.sleep(5)
    load = os.getloadavg()[0]
    if load > _QUIET and not busy:
        raise SystemExit(f"the load average stays at {load:.2f}, above {_QUIET}: stop what else runs, or say --busy")
    return round(load, 2)


@dataclass(frozen=True)
class Traits:
    """A table of random traits; ``ragged`` is the share that lacks, for each trait by itself or in ``patterns`` shared ones."""

    people: int
    number: int
    ragged: float = 0.0
    patterns: int | None = None
    seed: int = 1


@dataclass(frozen=True)
class Files:
    """Generated files in ``folder``; each is made once and kept."""

    folder: Path

    def genotypes(self, people: int, variants: int, missing: float = 0.0) -> Path:
        """Return a .bed of PLINK 2's dummy genotypes, a share of them ``missing``."""
        bed = self.folder / f"g_{people}x{variants}_{missing:g}.bed"
        if not bed.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / "part"
            dummy = ("plink2", "--dummy", str(people), str(variants), f"{missing:g}", "--seed", "1", "--make-bed")
            run(*dummy, "--out", str(part))
            for suffix in (".fam", ".bim", ".bed"):  # the .bed last: with it the set is whole
                part.with_suffix(suffix).rename(bed.with_suffix(suffix))
        return bed

    def first(self, bed: Path, people: int, variants: int) -> Path:
        """Return a .bed of the first ``variants`` of another."""
        some = bed.with_name(f"{bed.stem}_first{variants}.bed")
        if not some.exists():
            some.with_suffix(".fam").write_bytes(bed.with_suffix(".fam").read_bytes())
            with bed.with_suffix(".bim").open() as lines:
                some.with_suffix(".bim").write_text("".join(line for _, line in zip(range(variants), lines, strict=False)))
            with bed.open("rb") as file, replacing(some) as temporary:
                temporary.write_bytes(file.read(3 + variants * -(-people // 4)))
        return some

    def covariates(self, people: int) -> Path:
        """Return the table of covariates."""
        return apart(_write_table, self.folder / f"covariates_{people}.txt", covariates_of(people), "C")

    def traits(self, traits: Traits) -> Path:
        """Return a table of traits."""
        kind = f"ragged{traits.ragged:g}_patterns{traits.patterns}" if traits.ragged else "complete"
        return apart(_write_table, self.folder / f"traits_{traits.people}x{traits.number}_{kind}.txt", traits, "T")


def covariates_of(people: int) -> Traits:
    """Return what the covariates are: complete columns of another seed."""
    return Traits(people, COVARIATES, seed=2)


def values(traits: Traits) -> NDArray[np.float64]:
    """Draw a table (N, P), NaN where a value lacks."""
    generator = np.random.default_rng(traits.seed)
    drawn = generator.normal(size=(traits.people, traits.number))
    if traits.ragged:
        masks = generator.random((traits.people, traits.patterns or traits.number)) < traits.ragged
        drawn[masks[:, np.arange(traits.number) % masks.shape[1]]] = np.nan
    return drawn


def _write_table(path: Path, traits: Traits, prefix: str) -> Path:
    if not path.exists():
        frame = pl.DataFrame(values(traits), schema=[f"{prefix}{i}" for i in range(traits.number)], orient="row").fill_nan(None)
        ids = pl.Series("#IID", [f"per{i}" for i in range(traits.people)])
        with replacing(path) as temporary:
            frame.insert_column(0, ids).write_csv(temporary, separator="\t", null_value="NA")
    return path


def bare_product(people: int, variants: int, traits: int) -> float:
    """Return the processor seconds of the scan's 8-bit product and nothing else, on one thread.

    Its columns are the digits that the scan takes for complete traits, their covariates and who is there; rows as many as a block.
    """
    return apart(_bare_product, people, variants, traits)


def _bare_product(people: int, variants: int, traits: int) -> float:
    import torch

    torch_product = Engine("int8", best_engine("cpu").base or 256, "cpu")  # the same kernel whichever library brings it
    outcomes = prepare(values(Traits(people, traits)), span(values(covariates_of(people))))
    planes = [batch.columns._digits for batch in digitise(outcomes, engine=torch_product).batches]
    rows = min(1_024, variants)
    counts = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (rows, people), dtype=np.int8))
    one_thread()
    seconds = []
    for _ in range(5):
        start = time.process_time()
        for digits in planes:
            torch._int_mm(counts, digits)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds) * variants / rows


def moving(bed: Path, written: int) -> float:
    """Return the processor seconds of reading a .bed and writing ``written`` bytes beside it, in pieces, and nothing else."""
    return apart(_moving, bed, written)


def _moving(bed: Path, written: int) -> float:
    piece = bytearray(_PIECE)
    start = time.process_time()
    with bed.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass
    with tempfile.TemporaryFile(dir=bed.parent, buffering=0) as file:
        for _ in range(written // _PIECE):
            file.write(piece)
        file.write(piece[: written % _PIECE])
    return time.process_time() - start


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def scan_command(bed: Path, traits: Path, covariates: Path, out: Path, *options: str) -> tuple[str, ...]:
    """Return our command: the result store, hits, summary and report page are written, no text of all variants."""
    tables = ("--phenotypes", str(traits), "--covariates", str(covariates), "--out", str(out))
    return (sys.executable, "-m", "clinome", "gwas", "--genotypes", str(bed), *tables, "--quiet", *options)


def plink_command(bed: Path, traits: Path, covariates: Path, out: Path, threads: int) -> tuple[str, ...]:
    """Return PLINK 2's command; without ``--no-psam-pheno`` it would scan the .fam's phenotype beside the traits."""
    tables = ("--pheno", str(traits), "--no-psam-pheno", "--covar", str(covariates), "--out", str(out))
    return ("plink2", "--bfile", str(bed.with_suffix("")), *tables, "--glm", "hide-covar", "--threads", str(threads))
