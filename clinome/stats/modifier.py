"""A modifier x of genetic effects, ready for products with counts, and what it does to the variance of outcomes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import FixedPoint, bits_for, fixed_point
from clinome.stats.moments import ratio
from clinome.stats.residuals import Basis, Outcomes

Floats = NDArray[np.float64]
_BITS = 27  # of a typical entry of the columns that an interaction multiplies with, at least


class Modifier(NamedTuple):
    """A modifier x over a whole cohort, so that it does not change with the outcomes at hand; make it with :func:`modifier_of`.

    ``values`` (N,): x with mean 0 and variance 1; ``unit``: its standard deviation (0: it does not vary). ``columns``: the basis
    q_k beyond the intercept and x∘q_k side by side, as integers; ``coarse``: intercept and basis for sums over people left out.
    """

    values: Floats
    unit: float
    columns: FixedPoint
    coarse: FixedPoint

    def among(self, people: NDArray[np.bool_]) -> Modifier:
        """Return the rows of some ``people`` (N,)."""
        return Modifier(self.values[people], self.unit, self.columns.among(people), self.coarse.among(people))


def bits_of(people: int) -> int:
    """Return how many bits a typical entry of a column gets that an interaction over a cohort of ``people`` multiplies with."""
    return max(_BITS, bits_for(people))


def modifier_of(x: Floats, basis: Basis) -> Modifier:
    """Prepare ``x`` (N,; finite, any units), which ``basis`` must span, over the whole cohort of the basis."""
    values, unit = _standardised(x, np.ones(len(x), dtype=np.bool_))
    columns = basis.columns().T
    both = np.hstack([columns[:, 1:], values[:, None] * columns[:, 1:]])
    fixed = fixed_point(both, largest_count=2 * basis.scale, bits=bits_of(basis.cohort))
    return Modifier(values, unit, fixed, coarse(columns, basis.cohort))


def coarse(columns: Floats, people: int) -> FixedPoint:
    """Write ``columns`` (N, C) as integers so small that sums of products of two columns over at most ``people`` are exact.

    By Cauchy and Schwarz Σ|ab| ≤ people · 4^bits, which must stay below 2⁵³.
    """
    bits = (51 - int(np.ceil(np.log2(max(people, 2))))) // 2
    return fixed_point(columns, largest_count=1, bits=bits)


def _standardised(x: Floats, mask: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Return x with mean 0 and variance 1 over ``mask``, zero outside, and its standard deviation there; zeros for a constant."""
    whole = np.zeros(len(x))
    inside = x[mask]
    if not len(inside) or np.ptp(inside) <= 1e-12 * np.abs(inside).max():
        return whole, 0.0
    centred = inside - inside.mean()
    centred = centred - centred.mean()  # an offset far above the spread leaves its rounding in the first mean
    unit = float(np.sqrt(np.mean(centred * centred)))
    whole[mask] = centred / unit
    return whole, unit


def variance_ratio(outcomes: Outcomes, modifier: Floats) -> Floats:
    """Return the factor (P,) by which squared t of each outcome's interaction is too large on average when there is none.

    Σx²ỹ² / Σỹ² for standardised x: 1 when the residuals' variance does not follow x², for genotypes that do not depend on x. Its
    standard error for normal outcomes and a normal x is about 2 / √n; NaN where x does not vary.
    """
    found = np.full(sum(len(group.outcomes) for group in outcomes.groups), np.nan)
    for group in outcomes.groups:
        x, unit = _standardised(modifier, group.mask)
        if unit > 0:
            squares = group.residuals**2
            found[group.outcomes] = ratio((x[:, None] ** 2 * squares).sum(axis=0), squares.sum(axis=0))
    return found
