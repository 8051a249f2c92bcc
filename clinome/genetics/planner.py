"""What a scan will take, before it starts: time, memory and disk, here or on a machine that is described.

Rates are measured on the very files and traits: some blocks, spread over the variants, are read, multiplied and turned to
statistics by one thread and by many, and a piece of the store is written. A plan scales them::

    seconds a variant = max(block / threads, reading that threads cannot share / processes, bytes of the store / disk rate)

On another machine a core is taken to be as fast as one here, and as little slowed by its neighbours; its GPU, when it has one,
takes the 8-bit products over, at half of its stated rate, and sends counts and sums over a bus of 16 GB/s.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import OutputError, StudyError
from clinome.core.machine import Machine, free_disk, most_memory, used_memory
from clinome.core.progress import say
from clinome.formats.sumstats import Layout, write_sumstats
from clinome.genetics.curves import histogram
from clinome.genetics.results import Shard, shard_frame
from clinome.genetics.scan_job import Job, Numbered, scan_block
from clinome.stats.distributions import z_of_t
from clinome.stats.exact import one_thread

_SECONDS, _ROUNDS = 0.2, 2  # that one measurement takes, about; the quicker counts, for others may be busy meanwhile
_WORTH = 60.0  # seconds of a scan from which measuring its rates is little beside it
_TINY = 200_000_000  # genotypes of a scan of which not even a few are timed
_NOISE = 0.85  # fewer threads are taken when they need less than this share of the time of more
_LEAST = 64  # variants of a block
_PROBE = 128  # variants of a first guess
_PER_CALL, _PER_SUM = 5, 56  # bytes a thread holds for a genotype of a block, and for a variant × sum of its product
_COPIES = 3  # of a shard in memory while it is gathered and written
_GPU_SHARE, _BUS = 0.5, 16e9  # of its stated rate; bytes a second
_VARIANT = 90  # bytes of a variant in the tables of variants and of the Manhattan plot
_HELD = 260  # bytes of memory of a variant that summary and page take beside the table of variants, which was read before
_PASSES = 1.6  # of the summary over the statistics, in units of the two that are timed
_PAGE = 0.7  # seconds of the report and the tables behind it


class Work(NamedTuple):
    """What is to be done: ``variants`` × ``people`` read in blocks of ``block`` and shards of ``shard``; ``traits`` (interactions
    are some, too) of which the store keeps ``store`` bytes a variant; ``sums`` of a block's products, ``digits`` the columns that
    they are made from.
    """

    variants: int
    people: int
    traits: int
    sums: int
    digits: int
    store: int
    block: int
    shard: int

    @classmethod
    def of(cls, job: Job, shards: Sequence[NDArray[np.int64]]) -> Work:
        """Describe the shards of a job that are still to be scanned."""
        prepared = next(iter(job.models.values())).prepared
        columns = [prepared.masks, *(batch.columns for batch in prepared.batches)]
        if (interaction := next(iter(job.models.values())).interaction) is not None:
            columns += [interaction.residuals.columns]
        width = sum(c.integers.shape[1] for c in columns) + prepared.factors[0].size
        groups = job.n_groups * (9 if job.ranks_change else 8)
        return cls(
            variants=sum(map(len, shards)),
            people=len(prepared.masks.integers),
            traits=len(job.names),
            sums=width,
            digits=sum(c.width for c in columns),
            store=8 + 8 * len(job.names) + groups + 8 * len(job.set_names),
            block=job.block_of(),
            shard=max(map(len, shards), default=0),
        )


class Rates(NamedTuple):
    """Seconds a variant: ``alone`` for one thread, ``together`` by the number of threads (of the clock); the parts of ``alone``
    that are matrix ``products``, and ``serial`` reading, which threads cannot share (0 where they can). Seconds a byte of the
    store: ``copying`` it, and bringing it to the ``disk``.
    """

    alone: float
    together: dict[int, float]
    products: float
    serial: float
    copying: float
    disk: float

    def shared_out(self, threads: int) -> float:
        """Return the seconds a variant of so many threads side by side: as seen, or slowed by neighbours as those seen are."""
        if threads in self.together:
            return self.together[threads]
        most = max(self.together)
        slowed = self.together[most] / max(self.alone / most, self.serial)
        return self.alone / threads * max(1.0, slowed)


class Plan(NamedTuple):
    """``seconds`` by part, in order; ``memory`` at its peak and ``disk`` in bytes; how the scan uses the machine; ``notes``."""

    seconds: dict[str, float]
    memory: int
    disk: int
    threads: int
    processes: int
    block: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in a line."""
        total = sum(self.seconds.values())
        shared = f"{self.processes} processes of {self.threads}" if self.processes > 1 else str(self.threads)
        return (
            f"about {duration(total)}, {size(self.memory)} memory, {size(self.disk)} disk; "
            f"{shared} thread{'s' * (self.threads > 1)}, blocks of {self.block:,} variants"
        )


def duration(seconds: float) -> str:
    """Write a duration for people.

    >>> [duration(s) for s in (0.4, 42, 600, 9000, 200_000)]
    ['1 s', '42 s', '10 min', '2.5 h', '2.3 days']
    """
    if seconds < 120:
        return f"{max(round(seconds), 1)} s"
    if seconds < 7_200:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(n: int) -> str:
    """Write bytes for people.

    >>> [size(n) for n in (0, 36_000_000, 1_240_000_000)]
    ['1 MB', '36 MB', '1.2 GB']
    """
    return f"{max(round(n / 1e6), 1)} MB" if n < 1e9 else f"{n / 1e9:.1f} GB"


# --- measured -----------------------------------------------------------------------------------------------------------------


def measure(job: Job, rows: NDArray[np.int64], folder: Path, *, threads: Sequence[int]) -> Rates:
    """Measure the rates of a job on some of the variants ``rows``, by one thread and by each number of ``threads``.

    ``folder`` is on the disk of the store; what is written there is removed. About a second, longer where a block takes longer.
    """
    lock, before = threading.Lock(), one_thread()

    def part(k: int, of: int, length: int) -> NDArray[np.int64]:
        """Take a run of rows on one kind of chromosome, the k-th of ``of`` spread over all."""
        start = (len(rows) - length) * k // max(of - 1, 1) if len(rows) > length else 0
        return _of_one_kind(job, rows[start : start + length])

    def timed(work: Callable[[], Any], variants: int) -> float:
        start = perf_counter()
        work()
        return (perf_counter() - start) / max(variants, 1)

    try:
        block = min(job.block_of(), len(rows))
        probe = part(0, 1, min(_LEAST, block))
        scan_block(job, lock, probe)  # whatever is made at first use
        guess = timed(lambda: scan_block(job, lock, probe), len(probe))
        length = int(np.clip(_SECONDS / guess, min(_LEAST, block), block))
        some = part(1, 3, length)
        together = dict.fromkeys({1, *threads}, np.inf)
        for _ in range(_ROUNDS):
            for n in together:
                parts = [part(k, n, length) for k in range(n)] if n > 1 else [some]
                with ThreadPoolExecutor(n, initializer=one_thread) as pool:
                    list(pool.map(sleep, [1e-3] * n))  # so that all threads are there
                    took = timed(lambda: list(pool.map(partial(scan_block, job, lock), parts)), sum(map(len, parts)))  # noqa: B023
                together[n] = min(together[n], took)
        alone = together[1]
        reading = timed(lambda: job.source.read(some, job.read), len(some))
        counts: Any = np.ascontiguousarray(job.source.read(some, job.read).counts)
        prepared = job.models[min(job.models)].prepared
        products = timed(lambda: [batch.columns.product(counts) for batch in prepared.batches], len(some))
    finally:
        one_thread(before)
    serial = 0.0 if job.source.concurrent else min(reading, alone)
    return Rates(alone, together, min(products, alone), serial, *_writing(job, len(rows), folder))


def _writing(job: Job, variants: int, folder: Path) -> tuple[float, float]:
    """Time a piece of the store: seconds a byte to lay it out and copy it, and to bring it to the disk."""
    traits, rows = min(len(job.names), 100), min(variants, 16_384)
    numbers = np.random.default_rng(0).normal(size=(traits, rows)).astype(np.float32)
    nothing = np.zeros((0, rows))
    shard = Shard(np.arange(rows), numbers, numbers, nothing.astype(np.int32), nothing.astype(np.float32), nothing)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{os.getpid()}.partial.", suffix=".arrow") as file:
        start = perf_counter()
        gathered = shard._replace(beta=numbers.copy(), standard_error=numbers.copy())
        shard_frame(gathered, traits=job.names[:traits]).write_ipc(Path(file.name))
        copied = perf_counter() - start
        os.fsync(file.fileno())
        done = perf_counter() - start
        length = Path(file.name).stat().st_size
    return copied / length, done / length


def seconds_of_summary(work: Work) -> float:
    """Time the passes of the summary over statistics like those of the scan, and scale."""
    rows = min(work.variants, 16_384)
    t = np.random.default_rng(0).normal(size=rows).astype(np.float32)
    label = np.zeros(rows, np.int64)
    times = []
    for _ in range(5):
        start = perf_counter()
        histogram(np.abs(z_of_t(t, np.array([work.people]))), label, 4)
        times.append(perf_counter() - start)
    return _PASSES * float(np.median(times)) / max(rows, 1) * work.variants * work.traits


def export_of(variants: pl.DataFrame, layout: Layout, *, cells: int, people: int) -> tuple[float, int]:
    """Write a piece of one trait as text: seconds and bytes of ``cells`` (variants × traits)."""
    piece = variants[: min(variants.height, 8_192)]
    g = np.random.default_rng(0)
    numbers = {
        "trait": ["trait"] * piece.height,
        "effect_allele_frequency": g.uniform(size=piece.height),
        "n": np.full(piece.height, people),
        "beta": g.normal(size=piece.height).astype(np.float32).astype(np.float64),
        "standard_error": g.uniform(size=piece.height).astype(np.float32).astype(np.float64),
        "neg_log_10_p_value": g.exponential(size=piece.height),
    }
    with tempfile.TemporaryDirectory() as place:
        start = perf_counter()
        path = write_sumstats(Path(place) / f"t.{layout}.tsv.gz", [piece.hstack(pl.DataFrame(numbers))], layout=layout)
        scale = cells / max(piece.height, 1)
        return (perf_counter() - start) * scale, int(path.stat().st_size * scale)


# --- planned ------------------------------------------------------------------------------------------------------------------


def plan(work: Work, rates: Rates, machine: Machine, *, held: int, threads: int | None = None, processes: int = 1) -> Plan:
    """Say what the scan of ``work`` takes on ``machine``; its memory is what is free beside the ``held`` bytes of prepared traits.

    ``threads`` of each process; None: as many as are quickest (:func:`quickest`).

    Raises
    ------
    StudyError
        When the smallest blocks on one thread do not fit its memory.
    """
    wanted = fitting(work, None, threads or quickest(rates, max(1, machine.cores // processes)), processes, held)
    threads, block = fitting(work, machine.memory, wanted[0], processes, held)
    compute = rates.shared_out(threads) / processes
    if machine.gpu_tops is not None:
        host = compute * (rates.alone - rates.products) / rates.alone
        operations = 2.0 * work.people * work.digits
        compute = host + operations / (machine.gpu_tops * 1e12 * _GPU_SHARE) + (work.people + 4 * work.digits) / _BUS
    compute += work.store * rates.copying / min(threads * processes, machine.cores)
    bound = max((compute, "computing"), (rates.serial / processes, "reading"), (work.store * rates.disk, "disk"))
    notes = []
    if rates.serial > rates.alone / threads and machine.cores > processes:
        notes.append("reading keeps the threads waiting: with more --processes each reads for itself")
    if bound[1] == "disk":
        notes.append("the disk is slower than the scan")
    if threads < wanted[0]:
        notes.append(f"memory is short: {threads} thread{'s' * (threads > 1)} instead of {wanted[0]}")
    if block < wanted[1]:
        notes.append(f"memory is short: blocks of {block:,} variants instead of {wanted[1]:,}")
    memory = processes * (held + extra_memory(work, threads, block))
    return Plan({"scan": work.variants * bound[0]}, memory, disk_of(work), threads, processes, block, tuple(notes))


def quickest(rates: Rates, most: int) -> int:
    """Return how many threads, at most ``most``, take the least time; more of them unless fewer are clearly quicker."""
    best = most
    for n in sorted((n for n in rates.together if n < most), reverse=True):
        if rates.shared_out(n) < _NOISE * rates.shared_out(best):
            best = n
    return best


def fitting(work: Work, memory: int | None, threads: int, processes: int, held: int) -> tuple[int, int]:
    """Return threads and the variants of a block such that the scan fits ``memory`` bytes: smaller blocks first.

    Few variants are cut so that every thread has a block.
    """
    fair = -(-work.variants // (threads * processes))
    block = min(work.block, max(fair, _LEAST))
    free = None if memory is None else (memory - held * (processes - 1)) / processes
    while free is not None and extra_memory(work, threads, block) > free:
        if block > _LEAST:
            block = max(block // 2, _LEAST)
        elif threads > 1:
            threads //= 2
        else:
            raise StudyError(
                "the scan does not fit the memory",
                got=f"{size(int(memory or 0))} free",
                expected=f"{size(processes * extra_memory(work, threads, block))} in the smallest blocks",
                do="scan fewer traits at once (--traits), take fewer --processes, or a machine with more memory",
            )
    return threads, block


def extra_memory(work: Work, threads: int, block: int) -> int:
    """Return the bytes of one process's blocks and of the shards that wait to be written."""
    rows = min(work.variants, work.shard + max(work.shard, threads * block))
    return threads * block * (_PER_CALL * work.people + _PER_SUM * work.sums) + _COPIES * rows * work.store


def disk_of(work: Work) -> int:
    """Return the bytes of the store and of the tables beside it."""
    return work.variants * (work.store + _VARIANT)


def refuse_full_disk(needed: int, out: Path) -> None:
    """Refuse a scan whose results the disk of ``out`` cannot hold.

    Raises
    ------
    OutputError
        With what is needed and what is free.
    """
    free = free_disk(out)
    if needed > free:
        raise OutputError(
            "the results do not fit on the disk",
            where=out,
            got=f"{size(free)} free",
            expected=f"{size(needed)}",
            do="choose another folder with --out, free space, or scan fewer traits (--traits) or variants",
        )


def settle(job: Job, left: Sequence[Numbered], out: Path, *, threads: int | None, processes: int) -> tuple[Job, int]:
    """Choose blocks and threads for the shards that are left, see that disk and memory suffice, and say how long it will take.

    Rates are measured where the scan is so long that a second is little. Returns the job and the threads of each process.

    Raises
    ------
    OutputError
        When the disk does not suffice.
    StudyError
        When the memory does not suffice.
    """
    work, here = Work.of(job, [rows for _, rows in left]), Machine.here()
    refuse_full_disk(disk_of(work), out)
    most = threads or max(1, here.cores // processes)
    rows = np.concatenate([rows for _, rows in left])
    if work.variants * work.people > _TINY and _guessed(job, rows) / most / processes >= _WORTH:
        rates = measure(job, rows, out, threads=candidates(most) if threads is None else [most])
        planned = plan(work, rates, here, held=used_memory(), threads=threads, processes=processes)
        for line in (f"scan: {planned}", *planned.notes):
            say(line)
        most, block = planned.threads, planned.block
    else:
        most, block = fitting(work, here.memory, most, processes, used_memory())
    return replace(job, block_size=block), most


def planned(
    job: Job,
    shards: Sequence[NDArray[np.int64]],
    out: Path,
    machine: Machine | None,
    *,
    threads: int | None,
    processes: int,
    exports: Sequence[Layout],
) -> Plan:
    """Measure the rates of a job and say what scan, summary and ``exports`` take here, or on a described ``machine``.

    Raises
    ------
    StudyError
        When the memory does not suffice.
    """
    work, held, there = Work.of(job, shards), used_memory(), machine or Machine.here()
    if machine is not None and machine.memory is not None:
        there = machine._replace(memory=machine.memory - held)
    most = threads or max(1, Machine.here().cores // processes)
    rates = measure(job, np.concatenate(shards), out, threads=candidates(most))
    found = plan(work, rates, there, held=held, threads=threads, processes=processes)
    tables = most_memory() + _HELD * work.variants  # reading may have taken more than the scan, and so may the summary
    found = found._replace(memory=max(found.memory, tables))
    seconds, disk = found.seconds | {"summary and report": seconds_of_summary(work) + _PAGE}, found.disk
    for layout in exports:
        seconds[f"export as {layout}"], more = export_of(
            job.source.variants, layout, cells=work.variants * work.traits, people=work.people
        )
        disk += more
    return found._replace(seconds=seconds, disk=disk)


def candidates(most: int) -> list[int]:
    """Return the numbers of threads that are tried: all, and half of them."""
    return sorted({most, max(most // 2, 1)})


def _guessed(job: Job, rows: NDArray[np.int64]) -> float:
    """Time a few variants, for a first guess of what one thread takes for all."""
    probe = _of_one_kind(job, rows[:_PROBE])
    lock, before = threading.Lock(), one_thread()
    try:
        scan_block(job, lock, probe[:1])  # whatever is made at first use
        start = perf_counter()
        scan_block(job, lock, probe)
        return (perf_counter() - start) / len(probe) * len(rows)
    finally:
        one_thread(before)


def _of_one_kind(job: Job, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the rows on the kind of chromosome of the first."""
    return np.asarray(rows[job.kinds[rows] == job.kinds[rows[0]]], dtype=np.int64)
