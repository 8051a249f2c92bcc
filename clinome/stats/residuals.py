"""Outcomes with covariates projected out, grouped by who is missing: what a scan prepares once.

The covariates' basis is that of the whole cohort and the same for all outcomes; each group of outcomes has its own least squares on
it over its own people.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import FixedPoint, bits_for, fixed_point
from clinome.stats.projection import Normal, normal_equations, orthonormal, residual, residual_of_filled, squares

Floats = NDArray[np.float64]
Ragged = Literal["exact", "regenie"]


class Basis(NamedTuple):
    """Covariates beyond the intercept, orthonormal over a cohort of ``cohort`` people, as ``fixed``-point columns (N, K−1).

    The rounded columns are the covariates from here on, so that all that follows agrees with itself. ``scale`` is what a copy of
    the allele counts as in the counts that they will be multiplied with. Rows may be fewer than the cohort: :meth:`among`.
    """

    fixed: FixedPoint
    cohort: int
    scale: int

    def among(self, people: NDArray[np.bool_]) -> Basis:
        """Return the rows of some ``people`` (N,)."""
        return self._replace(fixed=self.fixed.among(people))

    def columns(self) -> Floats:
        """Return the intercept and the columns, each contiguous: (K, N)."""
        return np.vstack([np.ones(len(self.fixed.integers)), (self.fixed.integers * self.fixed.unit).T])


class Group(NamedTuple):
    """Outcomes that share the same people, prepared once.

    ``mask`` (N,) of the ``n`` people analysed; ``normal`` equations of intercept and basis over them; ``residuals`` (N, P):
    outcomes with these projected out, zero outside the mask; ``sum_of_squares`` (P,) of them; ``outcomes`` (P,): column
    numbers in the caller's table; ``own`` (N, P): what the basis leaves of an outcome's own covariate, of length 1 (0 where it
    leaves nothing), or None; ``slopes`` (K, P) = Q'r: zero but for the approximation 'regenie'.
    """

    mask: NDArray[np.bool_]
    n: int
    normal: Normal
    residuals: Floats
    sum_of_squares: Floats
    outcomes: NDArray[np.int64]
    own: Floats | None
    slopes: Floats

    @property
    def rank(self) -> int:
        """How many columns intercept and covariates have over the people of the group."""
        return self.normal.rank

    def ranks(self) -> NDArray[np.int64]:
        """Return the number of covariate columns (the intercept included) of each outcome, shape (P,)."""
        ranks = np.full(len(self.outcomes), self.rank, dtype=np.int64)
        return ranks if self.own is None else ranks + self.own.any(axis=0)


class Outcomes(NamedTuple):
    """``groups`` of outcomes over a common ``basis``, the last of them empty and of everybody unless another has everybody.

    ``everybody`` is that group's number; ``approximate`` says whether outcomes were masked as REGENIE does.
    """

    groups: list[Group]
    basis: Basis
    everybody: int
    approximate: bool


def span(covariates: Floats, *, scale: int = 1) -> Basis:
    """Return what spans ``covariates`` (N, C; finite) over a whole cohort; ``scale`` is what a copy of the allele counts as."""
    fixed = fixed_point(orthonormal(covariates), largest_count=2 * scale, bits=bits_for(len(covariates)))
    return Basis(fixed, len(covariates), scale)


def prepare(
    outcomes: Floats,
    basis: Basis,
    own: Floats | None = None,
    *,
    among: NDArray[np.bool_] | None = None,
    ragged: Ragged = "exact",
) -> Outcomes:
    """Group the columns of ``outcomes`` (N, P; NaN is missing) by who is missing and project the ``basis`` out of them.

    Parameters
    ----------
    own
        One more covariate for each outcome (N, P); where it is NaN the outcome counts as missing.
    among
        People outside (N,) are left out of every group, after grouping.
    ragged
        'exact', or 'regenie': outcomes and counts are residualised over everybody and then masked, as REGENIE does it
        (Mbatchou et al. 2021, doi:10.1038/s41588-021-00870-7).

    Every outcome is treated by itself: its residuals depend on its own people and values and on the basis, whatever stands beside
    it. One that is constant, explained by the covariates, or has no more people than these, ends with a zero ``sum_of_squares``.
    """
    columns = basis.columns()
    present = np.isfinite(outcomes) if own is None else np.isfinite(outcomes) & np.isfinite(own)
    packed = np.packbits(present, axis=0)
    members: dict[bytes, list[int]] = {}
    for p in range(outcomes.shape[1]):
        members.setdefault(packed[:, p].tobytes(), []).append(p)
    masks = [present[:, some[0]] & (True if among is None else among) for some in members.values()]
    everybody = np.any(masks, axis=0)
    theirs = np.compress(everybody, columns, axis=1)  # contiguous, which indexing by a mask is not
    whole = normal_equations(theirs) if ragged == "regenie" else None
    groups = []
    for mask, some in zip(masks, members.values(), strict=True):
        mine = np.compress(mask, columns, axis=1)
        normal = normal_equations(mine)
        residuals, slopes, owns = np.zeros((len(some), len(mask))), np.zeros((len(columns), len(some))), None
        if whole is not None:
            filled = np.ascontiguousarray(outcomes[np.ix_(everybody, some)].T)
            residuals[:, everybody] = residual_of_filled(filled, mask[everybody], theirs, whole)
            rows = np.compress(mask, residuals, axis=1)
            slopes[:] = [(column * rows).sum(axis=1) for column in mine]
        else:
            rows = residual(_rows(outcomes, mask, some), mine, normal)
            if own is not None:
                units = _units(residual(_rows(own, mask, some), mine, normal))
                rows = _without(rows, units)
                owns = np.zeros_like(residuals)
                owns[:, mask] = units
            residuals[:, mask] = rows
        groups.append(
            Group(
                mask, int(mask.sum()), normal, residuals.T, squares(rows), np.array(some), None if owns is None else owns.T, slopes
            )
        )
    covering = [i for i, group in enumerate(groups) if group.n == int(everybody.sum())]
    if not covering:
        groups.append(empty_group(everybody, whole or normal_equations(theirs)))
    return Outcomes(groups, basis, covering[0] if covering else len(groups) - 1, whole is not None)


def empty_group(mask: NDArray[np.bool_], normal: Normal) -> Group:
    """Return a group of the people of ``mask`` without any outcome."""
    nothing = np.zeros((len(mask), 0))
    slopes = np.zeros((len(normal.gram), 0))
    return Group(mask, int(mask.sum()), normal, nothing, np.zeros(0), np.zeros(0, dtype=np.int64), None, slopes)


def _rows(columns: Floats, mask: NDArray[np.bool_], some: list[int]) -> Floats:
    """Return ``some`` of the ``columns`` (N, P) over the people of ``mask`` as contiguous rows (len(some), n)."""
    return np.stack([columns[mask, p] for p in some])


def _units(rows: Floats) -> Floats:
    """Return ``rows`` at length 1, those of zeros as they are."""
    length = np.sqrt(squares(rows))[:, None]
    return np.divide(rows, length, out=rows.copy(), where=length > 0)


def _without(rows: Floats, units: Floats) -> Floats:
    """Project each of ``units`` out of its row, twice."""
    for _ in range(2):
        rows = rows - units * (units * rows).sum(axis=1, keepdims=True)
    return rows
