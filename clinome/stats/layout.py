"""Prepared outcomes as integer columns for products with blocks of counts: which columns share a product."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import Columns, Engine, FixedPoint, bits_for, fixed_point
from clinome.stats.residuals import Outcomes

Floats = NDArray[np.float64]
_WIDTH = 1_024  # outcomes of one matrix product
_LOW = (1 << 30) - 1


class Digits(NamedTuple):
    """Integer columns in digits, lowest first: ``integers`` = Σ ``digits``[d] · ``base``^d, each (N, C) in float64.

    Digits are so small that sums over a cohort of a digit times a whole column stay below 2⁵³: by Cauchy and Schwarz
    Σ|ab| ≤ √Σa² √Σb².
    """

    digits: list[Floats]
    base: float

    @classmethod
    def of(cls, integers: NDArray[np.int32], people: int) -> Digits:
        """Split ``integers`` for sums over a cohort of at most ``people`` with columns of :func:`bits_for` that many."""
        bits = max(52 - bits_for(people) - int(np.ceil(np.log2(max(people, 2)))), 2)
        rest, digits = integers.astype(np.int64), []
        for _ in range(-(-33 // bits)):
            low = ((rest + (1 << bits - 1)) & ((1 << bits) - 1)) - (1 << bits - 1)
            digits.append(low.astype(np.float64))
            rest = (rest - low) >> bits
        return cls(digits, float(1 << bits))

    def columns(self) -> Floats:
        """Return all digits side by side (N, D · C)."""
        return np.hstack(self.digits)

    def together(self, sums: Floats) -> Floats:
        """Put the digits' sums (D · C, …) together: (C, …)."""
        parts = sums.reshape(len(self.digits), -1, *sums.shape[1:])
        whole: Floats = parts[0].copy()
        for d in range(1, len(parts)):
            whole += self.base**d * parts[d]
        return whole


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


class Lacking(NamedTuple):
    """For each of N people the ``groups`` in whose :class:`Absent` they are, cut at ``starts`` (N + 1,), and how many at most."""

    starts: NDArray[np.int64]
    groups: NDArray[np.int64]
    most: int

    @classmethod
    def of(cls, absent: list[Absent | None], width: int) -> Lacking:
        """Turn the groups' lists of people round."""
        people = [np.zeros(0, np.int64), *(a.people for a in absent if a is not None)]
        groups = [np.zeros(0, np.int64), *(np.full(len(a.people), g) for g, a in enumerate(absent) if a is not None)]
        order = np.argsort(np.concatenate(people), kind="stable")
        starts = np.searchsorted(np.concatenate(people)[order], np.arange(width + 1))
        return cls(starts, np.concatenate(groups)[order], int(np.diff(starts).max(initial=0)))


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
    def lacking(self) -> Lacking:
        """Whose sums over the basis differ from everybody's by which people."""
        return Lacking.of(self.absent, len(self.basis.integers))

    @property
    def _intercept(self) -> NDArray[np.int32]:
        """One for everybody who is analysed (N, 1)."""
        anybody: NDArray[np.int32] = self.masks.integers.max(axis=1, keepdims=True)
        return anybody

    @cached_property
    def floats(self) -> tuple[Floats, Floats, Floats | None]:
        """Intercept and basis (N, K), residuals, and own covariates as whole numbers in float64, for sums over people left out."""
        basis = np.hstack([self._intercept, self.basis.integers]).astype(np.float64)
        own = None if self.own is None else self.own.integers.astype(np.float64)
        return basis, self.residuals.integers.astype(np.float64), own

    @cached_property
    def digits(self) -> Digits:
        """Intercept and basis in digits."""
        return Digits.of(np.hstack([self._intercept, self.basis.integers]), self.cohort)

    @cached_property
    def pairs(self) -> Floats:
        """Products of the digits of a basis column and another whole one, the lower triangle of all row by row, digit by digit."""
        j, k = np.tril_indices(self.floats[0].shape[1])
        return np.hstack([digit[:, j] * self.floats[0][:, k] for digit in self.digits.digits])

    @cached_property
    def squares(self) -> Floats:
        """Squared residuals, the products of residuals and own covariates, and squared own ones, in two digits side by side.

        Of base 2³⁰, so that sums of either are exact: (N, 2 · P), or (N, 6 · P) with own covariates.
        """
        y = self.residuals.integers.astype(np.int64)
        o = None if self.own is None else self.own.integers.astype(np.int64)
        products = [y * y] if o is None else [y * y, o * y, o * o]
        return np.hstack([part.astype(np.float64) for product in products for part in (product & _LOW, product >> 30)])

    def groups_of(self, batch: Batch) -> NDArray[np.int64] | slice:
        """Return what picks a batch's rows from arrays over groups; a single group is broadcast instead."""
        return slice(0, 1) if len(self.n) == 1 else self.group_of[batch.outcomes]


def digitise(
    outcomes: Outcomes, *, places: NDArray[np.int64] | None = None, width: int | None = None, engine: Engine | None = None
) -> Prepared:
    """Lay prepared outcomes out as integer columns, a row for each column of the counts that will be scanned.

    ``places`` (N,) says which of the ``width`` columns of the counts each person is (−1: none, for people without any outcome);
    None: the people are the columns. ``engine`` multiplies (None: the fastest of this machine).
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

    def fixed(columns: list[Floats]) -> FixedPoint:
        bits = bits_for(outcomes.basis.cohort)
        found = [fixed_point(some, largest_count=largest, bits=bits) for some in columns]
        unit, typical = np.concatenate([f.unit for f in found]), np.concatenate([f.bits for f in found])
        return FixedPoint(placed(np.hstack([f.integers for f in found])), unit, typical)

    masks = placed(np.stack([g.mask for g in groups], axis=1).astype(np.int32))
    basis = outcomes.basis.fixed._replace(integers=placed(outcomes.basis.fixed.integers))
    residuals = fixed([g.residuals for g in groups])
    owns = [g.own for g in groups if g.own is not None]
    own = fixed(owns) if owns else None
    order = np.concatenate([g.outcomes for g in groups])
    batches = []
    for start in range(0, max(len(order), 1), _WIDTH):
        some = slice(start, min(start + _WIDTH, len(order)))
        head = [masks, basis.integers] if start == 0 else []
        more = [] if own is None else [own.integers[:, some]]
        batches.append(Batch(some, Columns(np.hstack([*head, *more, residuals.integers[:, some]]), engine)))
    squares = np.concatenate([g.sum_of_squares for g in groups])[:, None]
    return Prepared(
        n=np.array([[float(g.n)] for g in groups]),
        rank=np.array([[float(g.rank)] for g in groups]),
        grams=np.stack([g.normal.gram for g in groups], axis=2)[..., None],
        factors=np.stack([g.normal.factor for g in groups], axis=2)[..., None],
        masks=Columns(masks, engine),
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
        absent=_absent(masks > 0, basis.integers, engine),
    )


def _absent(masks: NDArray[np.bool_], basis: NDArray[np.int32], engine: Engine | None) -> list[Absent | None]:
    """Choose for each group the fewer people to sum the basis over: those it lacks, or its own. The sums are the same integers."""
    everybody = masks.any(axis=1)
    found: list[Absent | None] = []
    for mask in np.ascontiguousarray(masks.T):
        mine, lacking = np.flatnonzero(mask), np.flatnonzero(everybody & ~mask)
        people, sign = (lacking, -1) if len(lacking) <= len(mine) else (mine, 1)
        found.append(Absent(people, Columns(basis[people], engine), sign) if len(lacking) else None)
    return found
