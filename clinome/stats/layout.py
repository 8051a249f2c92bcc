"""Prepared outcomes as integer columns for products with blocks of counts: which columns share a product."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import BITS, FINE_BITS, Columns, FixedPoint, fixed_point
from clinome.stats.residuals import Outcomes

Floats = NDArray[np.float64]
_WIDTH = 1_024  # outcomes of one matrix product
_SMALL = 4_096  # people of a cohort whose product takes no time worth saving: outcomes keep the finer rounding there


class Coarse(NamedTuple):
    """Integer columns, by how many bits to ``shift`` so that sums of products of two stay below 2⁵³, and ``unit`` after it."""

    integers: NDArray[np.int32]
    shift: NDArray[np.int32]
    unit: Floats

    @classmethod
    def of(cls, fixed: FixedPoint, people: int) -> Coarse:
        """Choose the bits for sums over at most ``people``."""
        bits = (51 - int(np.ceil(np.log2(max(people, 2))))) // 2  # Σ|ab| ≤ √Σa² √Σb² ≤ people · 4^bits (Cauchy and Schwarz)
        shift = np.maximum(fixed.bits - bits, 0)
        return cls(fixed.integers, shift, fixed.unit * np.ldexp(1.0, shift))

    def rows(self, people: NDArray[np.int64], columns: slice = slice(None)) -> Floats:
        """Return whole numbers for ``people`` (b, m): (b, m, C)."""
        return np.rint(self.integers[:, columns][people] * np.ldexp(1.0, -self.shift[columns]))


class Batch(NamedTuple):
    """Some outcomes, numbered in the prepared order by ``outcomes``, and the columns of one product for them.

    The ``columns`` are, in the first batch, the masks and the basis (the head); then, where there are any, the outcomes' own
    covariates; then their residuals.
    """

    outcomes: slice
    columns: Columns


class Absent(NamedTuple):
    """How a group's sums over the basis come about: those over ``people``, with ``sign`` −1 taken from the whole cohort's."""

    people: NDArray[np.int64]
    columns: Columns
    sign: int


@dataclass(frozen=True)
class Prepared:
    """Outcomes laid out for products with blocks of counts; make it with :func:`digitise`.

    Over groups: ``n``, ``rank`` (G, 1), ``grams`` and ``factors`` (K, K, G, 1), ``masks`` (N, G); ``everybody`` and
    ``approximate`` as in :class:`clinome.stats.residuals.Outcomes`. Over outcomes: ``order`` (P,) are the callers' numbers,
    ``group_of`` (P,) the groups, ``ranks`` (P, 1), ``sum_of_squares`` (P, 1), NaN where nothing is left, and ``slopes`` (K, P).
    ``basis``, ``residuals`` and ``own`` are integer columns, a row for each column of the counts.
    """

    n: Floats
    rank: Floats
    grams: Floats
    factors: Floats
    masks: Columns
    everybody: int
    approximate: bool
    order: NDArray[np.int64]
    group_of: NDArray[np.int64]
    ranks: Floats
    sum_of_squares: Floats
    slopes: Floats
    scale: int
    cohort: int
    basis: FixedPoint
    residuals: FixedPoint
    own: FixedPoint | None
    batches: list[Batch]
    absent: list[Absent | None]

    @cached_property
    def coarse(self) -> tuple[Coarse, Coarse, Coarse | None]:
        """Basis, residuals and own covariates for products over the people left out."""
        own = None if self.own is None else Coarse.of(self.own, self.cohort)
        return Coarse.of(self.basis, self.cohort), Coarse.of(self.residuals, self.cohort), own

    def groups_of(self, batch: Batch) -> NDArray[np.int64] | slice:
        """Return what picks a batch's rows from arrays over groups; a single group is broadcast instead."""
        return slice(0, 1) if len(self.n) == 1 else self.group_of[batch.outcomes]


def digitise(outcomes: Outcomes, *, places: NDArray[np.int64] | None = None, width: int | None = None) -> Prepared:
    """Lay prepared outcomes out as integer columns, a row for each column of the counts that will be scanned.

    ``places`` (N,) says which of the ``width`` columns of the counts each person is (−1: none, for people without any outcome);
    None: the people are the columns.
    """
    places = np.arange(len(outcomes.basis.fixed.integers)) if places is None else places
    width = len(places) if width is None else width
    groups = outcomes.groups
    rows = np.flatnonzero((places >= 0) & np.any([g.mask for g in groups], axis=0))
    largest = 2 * outcomes.basis.scale

    def placed(values: NDArray[Any]) -> NDArray[Any]:
        result = np.zeros((width, *values.shape[1:]), values.dtype)
        result[places[rows]] = values[rows]
        return result

    def fixed(columns: list[Floats], bits: int) -> FixedPoint:
        found = [fixed_point(some, largest_count=largest, bits=bits) for some in columns]
        unit, typical = np.concatenate([f.unit for f in found]), np.concatenate([f.bits for f in found])
        return FixedPoint(placed(np.hstack([f.integers for f in found])), unit, typical)

    masks = placed(np.stack([g.mask for g in groups], axis=1).astype(np.int32))
    basis = outcomes.basis.fixed._replace(integers=placed(outcomes.basis.fixed.integers))
    residuals = fixed([g.residuals for g in groups], FINE_BITS if outcomes.basis.cohort <= _SMALL else BITS)
    owns = [g.own for g in groups if g.own is not None]
    own = fixed(owns, FINE_BITS) if owns else None
    order = np.concatenate([g.outcomes for g in groups])
    batches = []
    for start in range(0, max(len(order), 1), _WIDTH):
        some = slice(start, min(start + _WIDTH, len(order)))
        head = [masks, basis.integers] if start == 0 else []
        more = [] if own is None else [own.integers[:, some]]
        batches.append(Batch(some, Columns(np.hstack([*head, *more, residuals.integers[:, some]]))))
    squares = np.concatenate([g.sum_of_squares for g in groups])[:, None]
    return Prepared(
        n=np.array([[float(g.n)] for g in groups]),
        rank=np.array([[float(g.rank)] for g in groups]),
        grams=np.stack([g.normal.gram for g in groups], axis=2)[..., None],
        factors=np.stack([g.normal.factor for g in groups], axis=2)[..., None],
        masks=Columns(masks),
        everybody=outcomes.everybody,
        approximate=outcomes.approximate,
        order=order,
        group_of=np.repeat(np.arange(len(groups)), [len(g.outcomes) for g in groups]),
        ranks=np.concatenate([g.ranks() for g in groups])[:, None].astype(np.float64),
        sum_of_squares=np.where(squares > 0, squares, np.nan),
        slopes=np.hstack([g.slopes for g in groups]),
        scale=outcomes.basis.scale,
        cohort=outcomes.basis.cohort,
        basis=basis,
        residuals=residuals,
        own=own,
        batches=batches,
        absent=[_absent(masks, i, basis.integers) for i in range(len(groups))],
    )


def _absent(masks: NDArray[np.int32], group: int, basis: NDArray[np.int32]) -> Absent | None:
    """Choose the fewer people to sum the basis over: those a group lacks, or its own. The sums are the same integers."""
    mine = np.flatnonzero(masks[:, group])
    lacking = np.flatnonzero(masks.any(axis=1) & (masks[:, group] == 0))
    people, sign = (lacking, -1) if len(lacking) <= len(mine) else (mine, 1)
    return Absent(people, Columns(basis[people]), sign) if len(lacking) and basis.shape[1] else None
