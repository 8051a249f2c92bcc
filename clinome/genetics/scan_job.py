"""The work of a scan: blocks of variants read, multiplied and turned to statistics by threads; shards written once, atomically."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import replacing
from clinome.core.progress import track
from clinome.core.shards import map_shards
from clinome.formats.genotypes import Genotypes
from clinome.genetics.filters import Filters, Tally, failed, tally
from clinome.genetics.results import REASONS, Shard, shard_frame
from clinome.genetics.sex_chromosomes import Kind, Sexes, copies, recode
from clinome.stats.exact import Columns, Counts, one_thread
from clinome.stats.interaction import PreparedInteraction, scan_interaction
from clinome.stats.layout import Prepared
from clinome.stats.linear import Missing, scan
from clinome.stats.moments import Scan, Statistic
from clinome.stats.omnibus import omnibus
from clinome.stats.residuals import Group

Floats = NDArray[np.float64]
Numbered = tuple[int, NDArray[np.int64]]  # a shard's number and its variants
_CELLS = 12_000_000  # people × variants of a block: a few MB a thread beside the counts themselves
_SUMS = 8_000_000  # variants × sums of a block
_SHARD = 40_000_000  # variants × traits of a shard


class Model(NamedTuple):
    """What is regressed on the variants of one kind of chromosome.

    ``interaction`` serves the interaction with a covariate, where one is asked for.
    ``sets`` holds the prepared outcomes of each omnibus set with their group, or None where the set cannot be tested. ``people``
    are 0/1 columns over the columns of the counts: who is analysed, and on X who of them are women. ``more`` (G,): how many
    more covariate columns than on autosomes each group has.
    """

    prepared: Prepared
    interaction: PreparedInteraction | None
    sets: list[tuple[Prepared, Group] | None]
    people: Columns
    more: NDArray[np.int8]


@dataclass(frozen=True)
class Job:
    """Everything that a shard needs, prepared once. ``read`` are the rows of the samples that are read (None: all)."""

    source: Genotypes
    read: NDArray[np.int64] | None
    names: list[str]
    set_names: list[str]
    models: dict[Kind, Model]
    kinds: NDArray[np.int8]
    people: Sexes
    n_groups: int
    info: Floats | None
    filters: Filters
    statistic: Statistic
    missing: Missing
    block_size: int | None

    @property
    def ranks_change(self) -> bool:
        """Whether some variants are regressed with more or fewer covariates than others."""
        return any(model.more.any() for model in self.models.values())

    def block_of(self) -> int:
        """Return how many variants are read and multiplied at once: enough for the product, no more than caches and memory take."""
        if self.block_size is not None:
            return self.block_size
        prepared = next(iter(self.models.values())).prepared
        people = len(prepared.masks.integers)
        columns = len(self.names) + prepared.factors[0].size
        return int(np.clip(min(_CELLS // max(people, 1), _SUMS // max(columns, 1)), 64, 2_048))


def shard_rows(rows: NDArray[np.int64], size: int, traits: int) -> list[NDArray[np.int64]]:
    """Cut the variants into shards of at most ``size``, fewer where many traits would make a shard large."""
    size = max(min(size, _SHARD // max(traits, 1)), 1)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def shards_left(shards: Sequence[NDArray[np.int64]], out: Path) -> list[Numbered]:
    """Return the shards that are not in ``out`` yet."""
    return [(number, rows) for number, rows in enumerate(shards) if not all(path.exists() for path in _paths(out, number))]


def run_shards(job: Job, left: Sequence[Numbered], out: Path, *, threads: int, processes: int) -> None:
    """Scan the shards ``left`` and write them into ``out``, by ``processes`` of so many ``threads``."""
    if processes > 1:
        for _ in map_shards(partial(_alone, job, out, threads), left, processes=processes, title="association"):
            pass
        return
    for _ in track(_scanned(job, left, out, threads), "association", total=len(left)):
        pass


def _alone(job: Job, out: Path, threads: int, shard: Numbered) -> None:
    for _ in _scanned(job, [shard], out, threads):
        pass


def _paths(out: Path, number: int) -> tuple[Path, Path]:
    """Return where a shard's results and its table of variants are."""
    return out / "shards" / f"{number:06d}.arrow", out / "shards" / f"{number:06d}.variants.parquet"


def _scanned(job: Job, shards: Sequence[Numbered], out: Path, threads: int) -> Iterator[int]:
    """Scan shards by ``threads``, each block by one of them; yield the shards' numbers.

    A shard is written once the shards after it hold a block for every thread, so that none waits for the writing.
    """
    lock, waiting = threading.Lock(), deque[tuple[int, list[Future[Scanned]]]]()
    before = one_thread()
    try:
        with ThreadPoolExecutor(threads, initializer=one_thread) as pool:
            try:
                for number, rows in shards:
                    waiting.append((number, [pool.submit(scan_block, job, lock, part) for part in _blocks(job, rows)]))
                    while sum(len(blocks) for _, blocks in waiting) - len(waiting[0][1]) >= threads:
                        yield _write(job, out, *waiting.popleft())
                while waiting:
                    yield _write(job, out, *waiting.popleft())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        one_thread(before)


def _blocks(job: Job, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut a shard where the kind of chromosome changes, and into blocks."""
    size = job.block_of()
    for run in np.split(rows, np.flatnonzero(np.diff(job.kinds[rows])) + 1):
        for start in range(0, len(run), size):
            yield run[start : start + size]


class Scanned(NamedTuple):
    """A block's part of a shard, and its rows in the table of variants."""

    shard: Shard
    table: pl.DataFrame


def scan_block(job: Job, lock: threading.Lock, rows: NDArray[np.int64]) -> Scanned:
    """Read the variants ``rows``, all on one kind of chromosome, and test them; ``lock`` is for files that only one may read."""
    kind = Kind(job.kinds[rows[0]])
    model = job.models[kind]
    if job.source.concurrent:
        block = job.source.read(rows, job.read)
    else:
        with lock:
            block = job.source.read(rows, job.read)
    counts, lost = recode(block.counts, block.scale, job.kinds[rows], job.people)
    why = _left_out(job, model, kind, rows, counts, block.scale)
    kept = np.flatnonzero(why == "")
    if len(kept) < len(rows):
        counts = counts[kept]
    found = scan(counts, model.prepared, statistic=job.statistic, missing=job.missing)
    estimates = [(found.beta, found.standard_error)]
    if model.interaction is not None:
        interaction = scan_interaction(counts, model.interaction, missing=job.missing)
        estimates.append((interaction.beta, interaction.standard_error))
    per_copy = 2 / int(copies(np.array([kind]))[0])
    beta, error = (np.multiply(np.vstack(values), per_copy, dtype=np.float32) for values in zip(*estimates, strict=True))
    strength = np.full((len(model.sets), len(kept)), np.nan)
    for i, tested in enumerate(model.sets):
        if tested is not None:
            strength[i] = omnibus(scan(counts, tested[0]), tested[1])
    g = job.n_groups
    n, frequency = found.n[:g].astype(np.int32), found.frequency[:g].astype(np.float32)
    more = np.repeat(model.more[:g, None], len(kept), axis=1)
    shard = Shard(rows[kept], beta, error, n, frequency, strength, more)
    return Scanned(shard, _variants(job, rows, kept, why, lost, found))


def _left_out(job: Job, model: Model, kind: Kind, rows: NDArray[np.int64], counts: Counts, scale: int) -> NDArray[np.str_]:
    """Name the filter that each variant of a block does not pass, or ''."""
    info = None if job.info is None else job.info[rows]
    if not job.filters.counting:
        low = np.zeros(len(rows), dtype=np.bool_) if info is None or job.filters.info is None else info < job.filters.info
        return np.where(low, "info", "")
    counted = tally(counts, model.people)
    haploid = counted[0] if kind in (Kind.Y, Kind.MT) else None
    if kind == Kind.X and job.people.male.any():  # where nobody's sex is known, X is taken as it stands
        haploid = Tally(*(everybody - women for everybody, women in zip(*counted, strict=True)))
    return failed(
        counted[0],
        n=int(model.people.integers[:, 0].sum()),
        scale=scale,
        haploid=haploid,
        filters=job.filters,
        info=info,
        hwe={Kind.AUTOSOME: counted[0], Kind.X: counted[-1]}.get(kind),
    )


def _variants(
    job: Job, rows: NDArray[np.int64], kept: NDArray[np.int64], why: NDArray[np.str_], lost: NDArray[np.int64], found: Scan
) -> pl.DataFrame:
    """Return the block's rows of the table of variants, those that were left out included."""
    frequency, share = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    frequency[kept], share[kept] = found.frequency_of_all, found.missing_share
    reason = np.array([f"filter:{name}" if name else None for name in why.tolist()], dtype=object)
    best = found.reason[: job.n_groups].min(axis=0, initial=127)
    reason[kept] = [REASONS.get(number) for number in best.tolist()]
    columns = {
        "source_row": rows,
        "effect_allele_frequency": frequency,
        "missing_share": share,
        "reason": pl.Series(reason.tolist(), dtype=pl.String),
    }
    if job.kinds.any():
        columns["heterozygous_haploids"] = lost
        if job.set_names:
            people = sum(tested[1].n for tested in job.models[Kind(job.kinds[rows[0]])].sets if tested is not None)
            columns["omnibus_n"] = np.full(len(rows), people)
    return pl.DataFrame(columns).with_columns(pl.col("effect_allele_frequency", "missing_share").fill_nan(None))


def _write(job: Job, out: Path, number: int, blocks: list[Future[Scanned]]) -> int:
    """Gather a shard from its blocks and write its two files."""
    parts = [block.result() for block in blocks]
    shard = Shard(*(np.concatenate(values, axis=-1) for values in zip(*(part.shard for part in parts), strict=True)))
    results, variants = _paths(out, number)
    with replacing(variants) as temporary:
        pl.concat([part.table for part in parts]).write_parquet(temporary)
    with replacing(results) as temporary:
        shard_frame(shard, traits=job.names, omnibus_sets=job.set_names, ranks_change=job.ranks_change).write_ipc(temporary)
    return number
