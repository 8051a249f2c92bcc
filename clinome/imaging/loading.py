"""From files to augmented batches: decoded once, kept within a stated memory, cut and moved anew every epoch.

    files ──decode, in threads──→ one file of plain arrays (or memory) ──map──→ one resample, changes of value ──→ batches

Decoding costs more than anything that comes after it, and every epoch wants the same pictures; so :func:`decode_once` keeps what
it decoded, uncompressed, in a folder, where a killed run goes on and another run finds it again, or in memory when no folder is
given. Of a folder only what a batch needs is mapped, and unmapped with it: memory does not grow with the number of pictures.
Pictures and volumes may differ in size. What cannot be decoded is set aside with the reason.

An example is a :class:`Sample`; what is done to it is a function of the sample and of the generator of (seed, epoch, example), so
batches do not depend on how many threads make them (:func:`clinome.train.batches.ahead`).

>>> pictures = decode_once(lambda row: Sample(np.full((1, 6 + row, 8), row, np.uint8)), 3)
>>> fetch = fetching(pictures, Augmentation(shape=(6, 6), spread=Spread(mirror=(1,))), seed=1)
>>> x, = fetch(Drawn(epoch=0, rows=np.array([2, 0])))
>>> tuple(x.shape), x[:, 0, 0, 0].tolist()
((2, 1, 6, 6), [2.0, 0.0])
"""

from __future__ import annotations

import errno
import json
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from clinome.core.errors import FormatError, OutputError, StudyError
from clinome.core.files import usable_folder, write_array, write_json
from clinome.core.machine import free_disk, free_memory
from clinome.core.progress import track
from clinome.formats.picture import read_square
from clinome.imaging.geometry import Spread, draw_geometry
from clinome.imaging.intensity import Change, vary
from clinome.imaging.reading import fault_of
from clinome.imaging.resample import resample, resample_pair
from clinome.imaging.sampling import Fill
from clinome.train.batches import Drawn, Fetch, example_generator

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNED = 64  # bytes; where an array begins in the file
_PROBES = 16  # examples decoded first, spread over the table, to learn how much room all will take
_TOGETHER = 64 << 20  # bytes written between two entries into the index
_SPARE = 64 << 20  # bytes left free on the disk
_NOT_YET, _SET_ASIDE, _NOTHING = -1, -2, -3  # in place of an offset
_ENTRY = np.dtype([("offset", "<i8"), ("kind", "S8"), ("ndim", "<i8"), ("shape", "<i8", (5,))])


class Sample(NamedTuple):
    """One example as it is kept: canonical, not yet normalised.

    Attributes
    ----------
    values
        Shape (channels, [depth,] height, width), the type it was stored in; left eyes already mirrored.
    labels
        A map of labels of the same place, (1, [depth,] height, width), or None.
    spacing
        In mm for each spatial axis, float64, or None for a photograph.
    """

    values: NDArray[Any]
    labels: NDArray[Any] | None = None
    spacing: NDArray[np.float64] | None = None


Read = Callable[[int], Sample]
Faults = dict[int, tuple[str, str]]  # of rows: what is wrong and the reason, as in core.schema.SET_ASIDE


@dataclass(frozen=True)
class Decoded:
    """Examples that need no more decoding: ``decoded[row]`` gives a :class:`Sample` (read-only arrays).

    Attributes
    ----------
    read
        What gives the sample of a row.
    rows
        Those that could be decoded, ascending, int64.
    set_aside
        The others: (what, reason), as :func:`clinome.imaging.reading.set_aside_table` takes them.
    size
        Bytes that all arrays take.
    """

    read: Read
    rows: NDArray[np.int64]
    set_aside: Faults
    size: int

    def __getitem__(self, row: int) -> Sample:
        if int(row) in self.set_aside:
            raise StudyError(
                "this example was set aside", got=f"row {row}: {self.set_aside[int(row)][1]}", do="draw from .rows alone"
            )
        return self.read(int(row))


def decode_once(
    decode: Read,
    n: int,
    *,
    folder: Path | None = None,
    key: str = "",
    memory: int | None = None,
    threads: int = 2,
    title: str = "decoding pictures",
) -> Decoded:
    """Decode examples 0 … n − 1 and keep them; a :class:`FormatError` sets one aside, any other error is raised.

    Parameters
    ----------
    decode
        Gives the sample of a row; called from ``threads`` threads.
    folder
        Where ``arrays.bin`` (pixels), ``index.npy`` (56 bytes an array) and ``decoded.json`` are kept, or None for memory.
    key
        Names all that the samples depend on (files, size, settings); kept samples of another key are replaced.
    memory
        Without a folder, the bytes that samples may take; by default half of what is free now.

    Raises
    ------
    OutputError
        When the disk has no room for all, told from a few examples before the work begins.
    StudyError
        When they do not fit into memory.
    FormatError
        When not one can be decoded.
    """
    if n < 1:
        raise StudyError("there is nothing to decode", got="0 examples")
    if folder is None:
        decoded = _in_memory(decode, n, memory, threads, title)
    else:
        decoded = _on_disk(decode, n, usable_folder(folder), key, threads, title)
    if not len(decoded.rows):
        raise FormatError(f"none of {n:,} examples can be read; the first says: {next(iter(decoded.set_aside.values()))[1]}")
    return decoded


def _in_memory(decode: Read, n: int, memory: int | None, threads: int, title: str) -> Decoded:
    budget = memory if memory is not None else (free_memory() or (8 << 30)) // 2
    kept: dict[int, Sample] = {}
    bad: Faults = {}
    size = 0
    for row, result in track(_in_order(decode, range(n), threads), title, total=n):
        if isinstance(result, FormatError):
            bad[row] = fault_of(result)
            continue
        kept[row] = result
        size += _size(result)
        if size > budget or (len(kept) >= _PROBES and size / len(kept) * n > 1.5 * budget):
            raise StudyError(
                "the decoded pictures do not fit into the memory they may take",
                got=f"about {size / len(kept) * n / 2**20:,.0f} MiB for {n:,}",
                expected=f"at most {budget / 2**20:,.0f} MiB",
                do="give a folder to keep them in, or a smaller size",
            )
    return Decoded(kept.__getitem__, np.array(sorted(kept), dtype=np.int64), bad, size)


def _on_disk(decode: Read, n: int, folder: Path, key: str, threads: int, title: str) -> Decoded:
    parts = len(Sample._fields)
    index = _index(folder, n, parts, key)
    todo = np.flatnonzero((index["offset"] == _NOT_YET).any(axis=1))
    about: dict[str, Any] = json.loads((folder / "decoded.json").read_text(encoding="utf-8"))
    bad: Faults = {int(row): (what, reason) for row, (what, reason) in about["set_aside"].items()}
    if len(todo):
        _refuse_full(decode, todo, folder)
        bad |= _write(decode, todo, folder, index, key, bad, threads, title)
    kept = np.load(folder / "index.npy", mmap_mode="r")
    path = folder / "arrays.bin"

    def read(row: int) -> Sample:
        with path.open("rb") as file:
            values, labels, spacing = (_mapped(file, entry) for entry in kept[row])
        assert values is not None
        return Sample(values, labels, spacing)

    return Decoded(read, np.flatnonzero(kept["offset"][:, 0] >= 0), bad, path.stat().st_size)


def _index(folder: Path, n: int, parts: int, key: str) -> np.memmap[Any, Any]:
    """Open the index of ``folder`` for writing; begin anew when there is none of this ``key``."""
    try:
        about = json.loads((folder / "decoded.json").read_text(encoding="utf-8"))
        if about["key"] == key and about["n"] == n:
            return open_memmap(folder / "index.npy", mode="r+")
    except (OSError, ValueError, KeyError):
        pass  # absent, or not what this function leaves: begun anew
    for old in ("decoded.json", "index.npy", "arrays.bin"):
        (folder / old).unlink(missing_ok=True)
    empty = np.zeros((n, parts), _ENTRY)
    empty["offset"] = _NOT_YET
    write_array(folder / "index.npy", empty)  # not mapped: writing to a mapped file on a full disk ends the process
    (folder / "arrays.bin").write_bytes(b"")
    write_json(folder / "decoded.json", {"key": key, "n": n, "set_aside": {}})
    return open_memmap(folder / "index.npy", mode="r+")


def _refuse_full(decode: Read, todo: NDArray[np.int64], folder: Path) -> None:
    """Decode a few examples spread over ``todo`` and refuse where the disk has no room for all."""
    sizes = []
    for row in np.unique(np.linspace(0, len(todo) - 1, _PROBES).astype(int)):
        try:
            sizes.append(_size(decode(int(todo[row]))))
        except FormatError:
            continue
    needed = float(np.mean(sizes)) * len(todo) if sizes else 0.0
    if (free := free_disk(folder)) < needed + _SPARE:
        raise OutputError(
            "the disk is too full for the decoded pictures",
            where=folder,
            got=f"{free >> 20:,} MiB free",
            expected=f"about {needed / 2**20:,.0f} MiB for {len(todo):,} pictures",
            do="free space, name another folder, or choose a smaller size",
        )


def _write(
    decode: Read,
    todo: NDArray[np.int64],
    folder: Path,
    index: np.memmap[Any, Any],
    key: str,
    bad: Faults,
    threads: int,
    title: str,
) -> Faults:
    """Append the examples ``todo`` to the file; an entry goes into the index only when its bytes are on the disk."""
    bad, written = dict(bad), 0
    waiting: list[tuple[int, NDArray[Any]]] = []
    last = index.reshape(-1)[int(np.argmax(index["offset"]))]
    end = int(last["offset"]) + _bytes_of(last) if last["offset"] >= 0 else 0
    with (folder / "arrays.bin").open("r+b") as file:

        def settle() -> None:
            file.flush()
            os.fsync(file.fileno())
            write_json(folder / "decoded.json", {"key": key, "n": len(index), "set_aside": bad})
            for row, entries in waiting:
                index[row] = entries
            index.flush()
            waiting.clear()

        try:
            try:
                for row, result in track(_in_order(decode, todo.tolist(), threads), title, total=len(todo)):
                    entries = np.zeros(index.shape[1], dtype=_ENTRY)
                    if isinstance(result, FormatError):
                        bad[row] = fault_of(result)
                        entries["offset"] = _SET_ASIDE
                    else:
                        end = _append(file, end, result, entries)
                    waiting.append((row, entries))
                    written += _size(result) if isinstance(result, Sample) else 0
                    if written > _TOGETHER:
                        settle()
                        written = 0
            finally:
                settle()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OutputError("the decoded pictures cannot be written", where=folder, got=error.strerror) from error
    return bad


def _append(file: Any, end: int, sample: Sample, entries: NDArray[Any]) -> int:
    """Write the arrays of ``sample`` at ``end`` of the file, describe them in ``entries``, and return the new end."""
    for part, values in enumerate(sample):
        if values is None:
            entries[part]["offset"] = _NOTHING
            continue
        start = -(-end // _ALIGNED) * _ALIGNED
        file.seek(start)
        file.write(np.ascontiguousarray(values).data)
        entries[part] = (start, values.dtype.str.encode(), values.ndim, (*values.shape, *(0,) * (5 - values.ndim)))
        end = start + values.nbytes
    return end


def _bytes_of(entry: Any) -> int:
    return int(np.prod(entry["shape"][: entry["ndim"]]) * np.dtype(entry["kind"].decode()).itemsize)


def _mapped(file: Any, entry: Any) -> NDArray[Any] | None:
    """Map one array of the open file for as long as someone holds it."""
    if entry["offset"] == _NOTHING:
        return None
    offset, shape, kind = int(entry["offset"]), tuple(entry["shape"][: entry["ndim"]].tolist()), np.dtype(entry["kind"].decode())
    size = _bytes_of(entry)
    if os.fstat(file.fileno()).st_size < offset + size:
        raise FormatError("the kept pictures end early", where=file.name, do="remove the folder; it is made again")
    if size == 0:
        return np.empty(shape, kind)
    before = offset % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_READ, offset=offset - before)
    return np.frombuffer(pages, kind, count=size // kind.itemsize, offset=before).reshape(shape)


def _size(sample: Sample) -> int:
    return sum(part.nbytes for part in sample if part is not None)


def _in_order(decode: Read, rows: Sequence[int], threads: int) -> Iterator[tuple[int, Sample | FormatError]]:
    """Yield rows and their samples in order, a few made ahead by ``threads`` threads; a FormatError is yielded, others raised."""

    def attempt(row: int) -> Sample | FormatError:
        try:
            return decode(row)
        except FormatError as error:
            return error

    waiting: deque[tuple[int, Future[Sample | FormatError]]] = deque()
    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="decoding") as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(attempt, row)))
                if len(waiting) > 2 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def pictures(images: pl.DataFrame, *, root: Path, side: int, mirror: bool = True, gap: float | None = 2.0) -> Read:
    """Return what decodes row by row the photographs of ``images``: centred squares, (3, side, side) uint8, left eyes mirrored.

    ``gap`` is that of :func:`clinome.formats.picture.read_square`; the other arguments are those of
    :func:`clinome.imaging.convert.squares`.
    """
    files = images["path"].to_list()
    left = images["laterality"].to_list() if mirror and "laterality" in images.columns else [None] * len(files)

    def read(row: int) -> Sample:
        pixels = read_square(root / files[row], side=side, gap=gap)
        return Sample(np.moveaxis(pixels[:, ::-1].copy() if left[row] == "left" else pixels, -1, 0))

    return read


# ------------------------------------------------------------------------------------------------------------ augmented batches


@dataclass(frozen=True)
class Augmentation:
    """What is done to a sample on its way into a batch; called with the sample and its generator.

    Attributes
    ----------
    shape
        Spatial shape that comes out: all examples of a batch have it.
    spacing
        Of the output in mm; None keeps the sample's own.
    fit
        Instead, scale each sample, alike on every axis in mm, so that the whole of it just fits into ``shape``.
    spread, change
        How far it is moved and changed.
    normalise
        Values to values, done after the move and before the change.
    fill
        What lies outside the sample; labels outside are ``fill_label``.
    swap
        Pairs of labels that trade places in mirror images.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    fit: bool = False
    spread: Spread = field(default_factory=Spread)
    change: Change = field(default_factory=Change)
    normalise: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None
    fill: Fill = 0.0
    fill_label: int = 0
    swap: tuple[tuple[int, int], ...] = ()

    def __call__(self, sample: Sample, generator: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Return the values, (channels, *shape) float32, and, where the sample has them, the labels, (1, *shape)."""
        geometry = draw_geometry(generator, self.spread, len(self.shape))
        spacing = None if sample.spacing is None else tuple(sample.spacing.tolist())
        wanted = self.spacing
        if self.fit:
            sides = np.array(sample.values.shape[1:]) * (1.0 if spacing is None else np.array(spacing))
            wanted = (float((sides / np.array(self.shape)).max()),) * len(self.shape)
        where: dict[str, Any] = {"shape": self.shape, "spacing": spacing, "out_spacing": wanted}
        if sample.labels is None:
            moved: tuple[NDArray[Any], ...] = (resample(sample.values, geometry, fill=self.fill, **where),)
        else:
            outside: dict[str, Any] = {"fill": self.fill, "fill_label": self.fill_label, "swap": self.swap}
            moved = resample_pair(sample.values, sample.labels, geometry, **outside, **where)
        values = self.normalise(moved[0]) if self.normalise else moved[0]
        return (vary(values, self.change, generator), *moved[1:])


Make = Callable[[Sample, np.random.Generator], tuple[NDArray[Any], ...]]


def fetching(samples: Decoded | Read, make: Make, *, seed: int, targets: Sequence[NDArray[Any]] = ()) -> Fetch:
    """Return the ``fetch`` of a training: rows and epoch to a batch, the same whoever makes it and when.

    Parameters
    ----------
    samples
        Decoded ones, or what decodes a row each time it is wanted (streamed: nothing is kept).
    make
        A sample and its generator to the arrays of the batch, such as :class:`Augmentation`.
    targets
        Arrays of all examples, of which the batch's rows follow.

    Returns
    -------
    A function of :class:`clinome.train.batches.Drawn` that gives a tuple of tensors, the arrays stacked.
    """
    read = samples.__getitem__ if isinstance(samples, Decoded) else samples

    def fetch(drawn: Drawn) -> tuple[Tensor, ...]:
        import torch

        batch: list[NDArray[Any]] = []
        for k, row in enumerate(drawn.rows.tolist()):
            made = make(read(row), example_generator(seed, drawn.epoch, row))
            batch = batch or [np.empty((len(drawn.rows), *part.shape), part.dtype) for part in made]
            shapes = [part.shape for part in made], [part.shape[1:] for part in batch]
            if shapes[0] != shapes[1]:
                raise StudyError("examples of one batch differ in shape", where=f"row {row}", got=shapes[0], expected=shapes[1])
            for whole, part in zip(batch, made, strict=True):  # at once, while the processor still holds it
                whole[k] = part
        tensors = [torch.from_numpy(part) for part in batch]
        return (*tensors, *(torch.from_numpy(np.ascontiguousarray(target[drawn.rows])) for target in targets))

    return fetch
