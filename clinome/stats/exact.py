"""Sums of products that are exact integers, so that they do not depend on block, thread, order, companion or machine.

A column of floats is written once as integers times a unit (:func:`fixed_point`). Counts of alleles are integers too, so every
sum of counts × integers is an integer, and stays below 2⁵³: whoever adds it up, in whatever order, gets the same one.
:class:`Columns` multiplies by the fastest engine of the machine that passes a check against 64-bit integers:

    int8     the integers split into signed digits of base 256 (base 128 where the processor's 8-bit product saturates), one
             8-bit matrix product with 32-bit sums for all digits, put together again in float64; on a GPU the same sums
    float64  the integers as they are, one float64 matrix product, whose partial sums are exact below 2⁵³

>>> column = fixed_point(np.array([[0.5], [-0.25]]), largest_count=2)
>>> round(float((Columns(column.integers).product(np.array([[2, 1]], np.int8)) * column.unit)[0, 0]), 5)
0.75
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats import onednn

Floats = NDArray[np.float64]
Device = Literal["auto", "cpu", "gpu"]
Counts = NDArray[np.int8] | NDArray[np.int32] | NDArray[np.int64]
_BITS = 20  # of a typical entry: rounding is 2⁻²⁰/√12 = 2.8e-7 of it, and moves an estimate by 2.8e-7 standard errors
FINE_BITS, _SMALL = 30, 4_096  # in cohorts so small that products take no time worth saving
_MOST = 2.0**31 - 2  # the largest entry
_TOGETHER = 16  # columns written at once: they stay in the cache
_EXACT = 2.0**52  # sums stay below: one bit is left for the rounding of the entries themselves
_CPU_PEOPLE, _PAD = 2**22, 32  # 32-bit sums of 8-bit digits × counts hold below; CUDA's product wants multiples of 8, over 16
_SLOWER = 2.0  # times float64: an 8-bit product without kernels for it is many times slower, and a busy machine less than this


class FixedPoint(NamedTuple):
    """``integers`` (n_rows, n_columns), what one ``unit`` of them is worth, and the ``bits`` of a typical entry (n_columns,)."""

    integers: NDArray[np.int32]
    unit: Floats
    bits: NDArray[np.int32]

    def among(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> FixedPoint:
        """Return some rows."""
        return self._replace(integers=self.integers[rows])


def bits_for(people: int) -> int:
    """Return how many bits a typical entry of a column over a cohort of ``people`` gets."""
    return FINE_BITS if people <= _SMALL else _BITS


def fixed_point(columns: Floats, *, largest_count: int, bits: int = _BITS) -> FixedPoint:
    """Round each column to integers × unit such that Σ|integer| · ``largest_count`` < 2⁵³.

    Parameters
    ----------
    columns
        Finite floats, shape (n_rows, n_columns).
    largest_count
        The largest value of the integers that will multiply them (2 for hard calls, 2 × scale for dosages, 1 for masks).
    bits
        The root mean square of a column's entries that are not zero becomes 2^``bits`` where 32 bits hold the largest entry and the
        sums leave room: 20 bits always for hard calls; for dosages of 1/16384 up to 130,000 people, and 18 bits up to 500,000.

    Each column is treated by itself, and rows of zeros change nothing. The error of an entry is at most half a unit.
    """
    rows = columns.T  # contiguous where the caller has them so
    integers = np.zeros(rows.shape, np.int32)
    unit, typical = np.ones(len(rows)), np.zeros(len(rows), np.int32)
    for some, there in _alike(rows):
        mine = np.compress(there, rows[some], axis=1)  # contiguous: each is summed by itself in one order
        values = np.abs(mine)
        largest = values.max(axis=1)
        shares = np.divide(values, largest[:, None], out=values)  # so that neither squares nor sums leave the range of floats
        by_sum = shares.sum(axis=1) * largest_count / (_EXACT - len(shares.T) * largest_count)
        size = np.sqrt(np.multiply(shares, shares, out=shares).mean(axis=1))
        share = np.maximum(np.maximum(size * 2.0**-bits, by_sum), 1 / _MOST)
        unit[some], typical[some] = share * largest, np.ceil(np.log2(size / share))
        integers[np.ix_(some, there)] = np.rint(np.divide(mine, unit[some, None], out=mine), out=mine)
    return FixedPoint(np.ascontiguousarray(integers.T), unit, typical)


def _alike(rows: Floats) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Gather the ``rows`` (P, N) that are zero at the same places, some at a time: their numbers, and where they are not zero."""
    members: dict[bytes, list[int]] = {}
    for k, row in enumerate(rows):
        members.setdefault(np.packbits(row != 0).tobytes(), []).append(k)
    for numbers in members.values():
        there = rows[numbers[0]] != 0
        if there.any():
            for start in range(0, len(numbers), _TOGETHER):
                yield np.array(numbers[start : start + _TOGETHER]), there


class Engine(NamedTuple):
    """How products are made: ``kind``, the base of the digits (0: none), the ``device``, and the ``library`` of 8-bit ones."""

    kind: Literal["int8", "float64"]
    base: int
    device: str
    library: Literal["torch", "onednn"] = "torch"

    def __str__(self) -> str:
        """Name it for people."""
        return f"8-bit integers, base {self.base}, {self.device}, {self.library}" if self.kind == "int8" else "float64"


FLOAT64 = Engine("float64", 0, "cpu")
_GPU = Path("/dev/nvidiactl")  # is there where a driver is: torch is not loaded to find none


class Columns:
    """Integer columns (N, C), ready to be multiplied with any number of blocks of counts.

    Parameters
    ----------
    integers
        As :func:`fixed_point` makes them.
    engine
        None is the fastest of this machine (:func:`best_engine`).
    """

    def __init__(self, integers: NDArray[np.int32], engine: Engine | None = None) -> None:
        self.integers = integers
        self.width = integers.shape[1]  # columns of the product
        engine = engine or best_engine()
        self.engine = engine if len(integers) <= _CPU_PEOPLE else FLOAT64
        self._planes: list[slice | NDArray[np.int64]] = []
        self._digits: Any = None
        if self.engine.kind == "int8":
            self._load(self.engine.base)

    def _load(self, base: int) -> None:
        """Split into digits, lowest first; a plane of digits leaves out the columns that have none there."""
        rest = self.integers
        columns = np.arange(rest.shape[1])
        planes: list[NDArray[np.int8]] = []
        while len(columns) or not planes:
            low = ((rest + base // 2) & (base - 1)) - base // 2  # base is a power of two; int32 wraps round as it must
            planes.append(low.astype(np.int8))
            whole = len(columns) and columns[-1] - columns[0] == len(columns) - 1
            self._planes.append(slice(int(columns[0]), int(columns[-1]) + 1) if whole else columns)
            rest = ((rest.astype(np.int64) - low) // base).astype(np.int32)
            more = rest.any(axis=0)
            rest, columns = rest[:, more], columns[more]
        self.width = sum(p.shape[1] for p in planes)
        digits = np.array(np.hstack(planes), order="C")
        if self.engine.library == "onednn":
            self._digits = digits
            return
        import torch

        digits = _padded(digits) if self.engine.device != "cpu" else digits
        self._digits = torch.from_numpy(digits).to(self.engine.device)

    def _tensor(self, counts: NDArray[Any]) -> Any:
        """Bring counts to the device; a view is copied, for its strides along an axis of length 1 would mislead the product."""
        import torch

        if self.engine.device != "cpu":
            counts = _padded(counts)
        canonical = counts.strides == (counts.shape[1], 1)
        return torch.from_numpy(counts if canonical else np.array(counts, order="C")).to(self.engine.device)

    @cached_property
    def _turned(self) -> Any:
        """The digits, columns first."""
        if self.engine.library == "onednn":
            return np.array(self._digits.T, order="C")
        import torch

        return torch.from_numpy(np.array(self._digits.cpu().numpy().T, order="C")).to(self.engine.device)

    @cached_property
    def floats(self) -> Floats:
        """The integers in float64."""
        return self.integers.astype(np.float64)

    def product(self, counts: Counts) -> Floats:
        """Return ``counts`` (V, N) × integers, shape (V, C): exact. int8 counts must be −4 … 4; wider ones go by float64."""
        if self._digits is None or counts.dtype != np.int8:
            return self._by_floats(counts, transposed=False)
        if self.engine.library == "onednn":
            return self._together(onednn.multiply(np.ascontiguousarray(counts), self._digits), transposed=False)
        import torch

        left = self._tensor(counts)
        with torch.inference_mode():
            sums = torch._int_mm(left, self._digits).cpu().numpy()[: len(counts), : self.width]
        return self._together(sums, transposed=False)

    def transposed_product(self, counts: Counts) -> Floats:
        """Return integers' × ``counts`` (N, V), shape (C, V): the same sums for counts that lie person by person."""
        if self._digits is None or counts.dtype != np.int8:
            return self._by_floats(counts, transposed=True)
        if self.engine.library == "onednn":
            return self._together(onednn.multiply(self._turned, np.ascontiguousarray(counts)), transposed=True)
        import torch

        right = self._tensor(counts)
        with torch.inference_mode():
            sums = torch._int_mm(self._turned, right).cpu().numpy()[: self.width, : counts.shape[1]]
        return self._together(sums, transposed=True)

    def _by_floats(self, counts: Counts, *, transposed: bool) -> Floats:
        floats = counts.astype(np.float64)
        return np.asarray(self.floats.T @ floats if transposed else floats @ self.floats)

    def _together(self, sums: NDArray[np.int32], *, transposed: bool) -> Floats:
        """Put the digits' sums together: Σ base^i · sum_i, exact in float64."""
        axis = sums if transposed else sums.T  # digits × columns first, whatever lies contiguous
        c = self.integers.shape[1]
        result = axis[:c].astype(np.float64)
        start = c
        for i, columns in enumerate(self._planes[1:], 1):
            width = columns.stop - columns.start if isinstance(columns, slice) else len(columns)
            result[columns] += axis[start : start + width] * float(self.engine.base) ** i
            start += width
        return result if transposed else result.T


def _padded(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """Add zero rows and columns up to a multiple of what CUDA's 8-bit product takes."""
    rows, columns = (-(-n // _PAD) * _PAD for n in values.shape)
    padded = np.zeros((rows, columns), np.int8)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded


@cache
def best_engine(device: Device = "auto") -> Engine:
    """Return the fastest engine whose sums are right on this machine.

    ``device``: 'cpu', 'gpu', or 'auto' (a GPU when there is one). oneDNN's library is taken before torch, which takes a second to
    load; where no 8-bit product is right and not slower than float64, it is float64: the results are the same, to the bit.

    Raises
    ------
    RuntimeError
        When a GPU is asked for and none gives the right sums.
    """
    if device == "gpu" or (device == "auto" and _GPU.exists()):
        gpu = Engine("int8", 256, "cuda")
        if self_check(gpu):
            return gpu
        if device == "gpu":
            raise RuntimeError("there is no GPU here whose 8-bit product is right")
    for library in ("onednn", "torch"):
        for base in (256, 128):
            engine = Engine("int8", base, "cpu", library)
            if self_check(engine) and _seconds(engine) < _SLOWER * _seconds(FLOAT64):
                return engine
    return FLOAT64


def one_thread(threads: int = 1) -> int:
    """Let a product of this thread use so many processors (a scan's own threads are over blocks); return how many it used.

    0, which changes nothing, is what is returned where no library is loaded yet: one that is loaded meanwhile keeps its own number.
    """
    if not threads:
        return 0
    torch = sys.modules.get("torch")  # which other products do without
    if torch is None:
        return onednn.use_threads(threads)
    before = int(torch.get_num_threads())  # asked first: the two libraries may share one OpenMP
    onednn.use_threads(threads)
    torch.set_num_threads(threads)
    return before


def self_check(engine: Engine) -> bool:
    """Say whether an engine's sums equal those of 64-bit integers, for digits and counts at the ends of their range."""
    generator = np.random.default_rng(0)
    digits = [-(engine.base // 2), -1, 0, 1, engine.base // 2 - 1]
    integers = generator.choice(digits, (4_096, 40)).astype(np.int32)
    integers[:, :8] = np.repeat([digits[0], digits[-1]], 4)  # whole columns of the largest, where 16-bit sums would saturate
    counts = generator.integers(-1, 3, (96, 4_096)).astype(np.int8)
    counts[:16] = 2
    expected = counts.astype(np.int64) @ integers
    if engine.library == "onednn" and onednn.library() is None:
        return False
    before = one_thread()
    try:
        columns = Columns(integers, engine)
        both = columns.product(counts), columns.transposed_product(np.ascontiguousarray(counts.T)).T
    except (ImportError, RuntimeError, NotImplementedError, AssertionError):  # torch's, for what this build or device lacks
        return False
    finally:
        one_thread(before)
    return all(bool((sums == expected).all()) for sums in both)


def _seconds(engine: Engine) -> float:
    """Time a small product, the quickest of some."""
    from time import perf_counter

    columns = Columns(np.full((2_048, 64), 2**22, np.int32), engine)
    counts = np.ones((256, 2_048), np.int8)
    times = []
    before = one_thread()  # two would wait for each other on a busy machine
    for _ in range(4):
        start = perf_counter()
        columns.product(counts)
        times.append(perf_counter() - start)
    one_thread(before)
    return min(times)
