"""From a block of counts to sums over people, and from sums to estimates: exact integers first, elementwise float64 after.

Arrays lie outcome by outcome or group by group, variants last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import Counts
from clinome.stats.layout import Prepared
from clinome.stats.projection import forward

Floats = NDArray[np.float64]
Statistic = Literal["t", "score"]
COLLINEAR = 1e-6  # a count of whose variance the covariates leave less than this share has no beta
_RESOLVED = 2.0**-50  # share of a sum of squares below which a remainder is rounding
_PRODUCTS = 8_000_000  # floats gathered at once for sums over missing people
_NEAR = 1_000_000  # counts whose squares stay in the processor's cache
_IN_CACHE = 8  # groups whose sums with the basis stay in the processor's cache


class Scan(NamedTuple):
    """Of a block: ``beta`` and ``standard_error`` (P, V) per copy of the allele; ``n``, ``frequency`` and ``reason`` (G, V).

    NaN where there is no estimate. ``frequency`` is that of the counted allele among the observed; ``reason`` is 0 for an estimate,
    1 for a count without variation, 2 for one collinear with the covariates, 3 for too few people. ``frequency_of_all`` and
    ``missing_share`` (V,) are those of everybody with an outcome; groups are those of the prepared outcomes, an empty one included.
    """

    beta: Floats
    standard_error: Floats
    n: NDArray[np.int64]
    frequency: Floats
    reason: NDArray[np.int8]
    frequency_of_all: Floats
    missing_share: Floats


class Cells(NamedTuple):
    """Missing counts: the ``rows`` that have any, and their ``people`` (of ``width``) row after row, cut at ``starts``."""

    rows: NDArray[np.int64]
    people: NDArray[np.int64]
    starts: NDArray[np.int64]
    width: int

    @classmethod
    def of(cls, counts: Counts) -> Cells:
        """Find the missing ones among ``counts`` (V, N)."""
        rows = np.flatnonzero(counts.min(axis=1, initial=0) < 0)
        width = counts.shape[1]
        row, people = np.divmod(np.flatnonzero(counts[rows] < 0), width)
        return cls(rows, people, np.searchsorted(row, np.arange(len(rows) + 1)), width)

    def at(self, variants: int) -> NDArray[np.int64] | slice:
        """Return what picks the rows from arrays over all ``variants``: a slice where it can, which copies nothing."""
        return slice(None) if len(self.rows) == variants else self.rows

    def piece(self, some: slice) -> Cells:
        """Return some of the rows."""
        starts = self.starts[some.start : some.stop + 1]
        return Cells(self.rows[some], self.people[starts[0] : starts[-1]], starts - starts[0], self.width)

    def summed(self, values: Floats) -> Floats:
        """Sum whole numbers ``values`` (N, C) over the missing people of each row: (C, v)."""
        from scipy.sparse import csr_array

        if not len(self.rows):
            return np.zeros((values.shape[1], 0))
        shape = len(self.rows), self.width
        return np.ascontiguousarray((csr_array((np.ones(len(self.people)), self.people, self.starts), shape=shape) @ values).T)


class Sums(NamedTuple):
    """Sums over a group's observed people: how many, Σg, Σg² (G, V), z = Σ q_k g (K, G, V); ``lost`` = Σ q_k over the missing ones.

    ``lost`` (K, G, v) is over the rows that have missing counts; q_0 is 1, so that its first entries count them.
    """

    observed: Floats
    total: Floats
    squares: Floats
    z: Floats
    lost: Floats

    def at(self, rows: NDArray[np.int64], some: slice) -> Sums:
        """Return the sums of ``rows``, which are ``some`` of the rows with missing counts."""
        return Sums(self.observed[:, rows], self.total[:, rows], self.squares[:, rows], self.z[:, :, rows], self.lost[:, :, some])


def sums_of(counts: Counts, product: Floats, gone: Floats, cells: Cells, prepared: Prepared) -> Sums:
    """Take a block's sums apart from the first batch's ``product`` (V, C), and ``gone`` (C, v), the same over the missing.

    Missing counts, which are −1 in the product, are put right.
    """
    g, unit = len(prepared.n), prepared.basis.unit[:, None, None]
    head = np.ascontiguousarray(product[:, : g + len(unit)].T)
    squares = np.empty((g, len(counts)))
    step = max(1, _NEAR // counts.shape[1])
    for start in range(0, len(counts), step):
        squares[:, start : start + step] = prepared.masks.product(_squared(counts[start : start + step])).T
    observed = np.repeat(prepared.n, len(counts), axis=1)
    z = np.empty((1 + len(unit), g, len(counts)))
    z[0], z[1:] = head[:g], head[g:, None]
    absents = prepared.absent if len(unit) else []
    lying: Any = np.ascontiguousarray(counts.T) if any(absent is not None for absent in absents) else counts
    for i, absent in enumerate(absents):
        if absent is not None:
            part = absent.columns.transposed_product(lying[absent.people])
            z[1:, i] = part if absent.sign > 0 else z[1:, i] - part
    lost = np.empty((len(z), g, len(cells.rows)))
    lost[0], lost[1:] = gone[:g], gone[g : g + len(unit), None]
    if g > 1:
        for some in pieces(cells, len(unit) + prepared.lacking.most):
            lost[1:, :, some] = over_groups(cells.piece(some), prepared.basis.integers.astype(np.float64), prepared)
    at = cells.at(len(counts))
    observed[:, at] -= lost[0]
    squares[:, at] -= lost[0]
    z[:, :, at] += lost
    z[1:] *= unit
    lost[1:] *= unit
    return Sums(observed, z[0], squares, z, lost)


def _squared(counts: Counts) -> Counts:
    """Square counts; a missing one, −1, gives 1."""
    return counts * counts if counts.dtype == np.int8 else counts.astype(np.int64) ** 2


def over_groups(cells: Cells, values: Floats, prepared: Prepared) -> Floats:
    """Sum whole numbers ``values`` (N, A) over the missing people of each row that each group has: (A, G, v).

    Everybody's sums are shared; a group's own are those less, or instead, the sums over the few people in its :class:`Absent`.
    """
    v, g = len(cells.rows), len(prepared.n)
    whole = cells.summed(values)
    result = np.repeat(whole[:, None], g, axis=1)
    instead = np.array([absent is not None and absent.sign > 0 for absent in prepared.absent])
    result[:, instead] = 0.0
    lengths = np.diff(prepared.lacking.starts)[cells.people]
    ends = np.cumsum(lengths)
    if not len(ends) or not ends[-1]:
        return result
    cell = np.repeat(np.arange(len(lengths)), lengths)  # a pair of a missing cell and a group in whose Absent the person is
    first = prepared.lacking.starts[cells.people[cell]] - (ends - lengths)[cell]
    group = prepared.lacking.groups[first + np.arange(len(cell))]
    at = group * v + np.repeat(np.arange(v), np.diff(cells.starts))[cell]
    people, sign = cells.people[cell], np.where(instead, 1.0, -1.0)[:, None]
    for a, column in enumerate(np.ascontiguousarray(values.T)):
        result[a] += sign * np.bincount(at, weights=column[people], minlength=g * v).reshape(g, v)
    return result


def over(left: Floats, right: Floats) -> Floats:
    """Sum left (b, m, A) × right (b, m, C) over m, exactly for whole numbers: (A, C, b)."""
    return np.ascontiguousarray((left.transpose(0, 2, 1) @ right).transpose(1, 2, 0))


def pieces(cells: Cells, width: int) -> Iterator[slice]:
    """Cut the rows with missing people so that ``width`` floats for each missing cell stay within bounds."""
    lengths = np.diff(cells.starts)
    start = 0
    while start < len(lengths):
        size = max(1, _PRODUCTS // (max(width, 1) * max(int(lengths[start : start + 256].max()), 1)))
        yield slice(start, min(start + min(size, 256), len(lengths)))
        start += min(size, 256)


def gathered(cells: Cells) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the missing people of each row (v, m), filled up with person 0, and who is there (v, m)."""
    lengths = np.diff(cells.starts)
    there = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    people = np.zeros(there.shape, np.int64)
    people[there] = cells.people
    return people, there


def filled(sums: Sums, means: Floats, cells: Cells) -> Floats:
    """Return z with ``means`` (G, V) in place of missing counts."""
    if not len(cells.rows):
        return sums.z
    z = sums.z.copy()
    at = cells.at(z.shape[2])
    z[:, :, at] += means[:, at] * sums.lost
    return z


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Divide, giving 0 where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom > 0, top / bottom, 0.0))


def _centred(sums: Sums) -> Floats:
    return sums.squares - ratio(sums.total * sums.total, sums.observed)


def variance_of(sums: Sums, z: Floats, factors: Floats) -> Floats:
    """Return g̃'g̃ = g'g − |L⁻¹z|² (G, V) for ``z`` (K, G, V) and ``factors`` (K, K, G, 1); the intercept's share is exact."""
    gg = _centred(sums)
    for start in range(0, len(gg), _IN_CACHE):
        some = slice(start, start + _IN_CACHE)
        for u in forward(factors[:, :, some], z[:, some])[1:]:
            gg[some] -= u * u
    return gg


def reason_of(sums: Sums, gg: Floats, residual_df: Floats) -> NDArray[np.int8]:
    """Say why a count has no estimate, as :class:`Scan` numbers the reasons: (G, V)."""
    constant = sums.squares * sums.observed == sums.total * sums.total  # integers below 2⁵³ compare exactly for hard calls
    centred = _centred(sums)
    constant |= centred <= 1e-12 * sums.squares
    reason = np.zeros(gg.shape, dtype=np.int8)
    reason[gg <= COLLINEAR * centred] = 2
    reason[constant] = 1
    reason[residual_df < 2] = 3
    return reason


class Moments(NamedTuple):
    """g̃'g̃, g̃'ỹ, ỹ'ỹ and the degrees of freedom of the model without the count; each broadcasts to (P, V)."""

    gg: Floats
    gy: Floats
    yy: Floats
    df: Floats


def estimate(found: Moments, statistic: Statistic, scale: int) -> tuple[Floats, Floats]:
    """Turn moments into beta and standard error per copy of the allele (P, V)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = found.gy / found.gg
        if statistic == "t":
            left = found.yy - beta * found.gy
            left = np.maximum(left, found.yy * _RESOLVED)  # a perfect fit keeps a finite p
            variance = left / np.where(found.df > 1, found.df - 1, np.nan)
        else:
            variance = found.yy / found.df
        return beta * scale, np.sqrt(variance / found.gg) * scale
