"""Regressions that leave people out variant by variant, where their count is missing: exact, for all outcomes at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clinome.stats.layout import Batch, Prepared
from clinome.stats.moments import (
    COLLINEAR,
    Cells,
    Moments,
    Scan,
    Statistic,
    Sums,
    estimate,
    gathered,
    over,
    over_groups,
    pieces,
    reason_of,
    variance_of,
)
from clinome.stats.projection import SINGULAR, cholesky, forward

Floats = NDArray[np.float64]
_TOLD = 1e-9  # share of an outcome's sum of squares below which what is left of it is rounding


def leave_out(
    result: Scan,
    gy: Floats,
    own: Floats | None,
    sums: Sums,
    cells: Cells,
    batch: Batch,
    prepared: Prepared,
    statistic: Statistic,
) -> None:
    """Put into ``result``, for the rows with missing counts, the exact regressions on the people observed.

    ``gy`` and ``own`` (P, V) are ỹ'g and o'g with missing counts at the mean, where they add nothing. Over the observed people
    O = M − S the Gram matrix is A − Q_S'Q_S, and Q_O'ỹ_O = −Q_S'ỹ_S. The sums over S are small products of gathered whole
    numbers, one factor in digits so that they are exact; a Cholesky factor, by elementwise steps over variants, restores the
    projection.
    """
    outcomes = prepared.order[batch.outcomes]
    of, whole = prepared.groups_of(batch), prepared.sum_of_squares[batch.outcomes]
    ranks = prepared.ranks[batch.outcomes]
    _, y_columns, o_columns = prepared.floats
    y_unit = prepared.residuals.unit[batch.outcomes, None]
    unit = np.concatenate([[1.0], prepared.basis.unit])[:, None, None]
    digits, p = prepared.digits, len(prepared.order)
    wide = prepared.digits.columns()
    for some in pieces(cells, (2 if own is None else 3) * len(outcomes) + prepared.pairs.shape[1] + prepared.lacking.most):
        rows, part = cells.rows[some], cells.piece(some)
        people, there = gathered(part)
        here = sums.at(rows, some)
        left = wide[people] * there[..., None]
        factor, singular = _factor_of_observed(part, people, left, prepared)
        solved = forward(factor, here.z)
        variance = variance_of(here, here.z, factor)
        df = here.observed - prepared.rank
        reason = np.where(singular & (df >= 2), np.int8(2), reason_of(here, variance, df))
        result.n[:, rows], result.reason[:, rows] = here.observed.astype(np.int64), reason
        steps = forward(factor[:, :, of], -digits.together(over(left, y_columns[:, batch.outcomes][people])) * unit * y_unit)
        squares = [low + 2.0**30 * high for low, high in _squares_over(part, batch, prepared, p)]
        cov, yy = gy[:, rows], whole - squares[0] * y_unit * y_unit
        gg = np.where(reason == 0, variance, np.nan)[of]
        for k, step in enumerate(steps):
            yy = yy - step * step
            if k:  # the intercept's share went with the mean count
                cov = cov - solved[k][of] * step
        if own is not None and o_columns is not None and prepared.own is not None:
            o_unit = prepared.own.unit[batch.outcomes, None]
            more = forward(factor[:, :, of], -digits.together(over(left, o_columns[:, batch.outcomes][people])) * unit * o_unit)
            remains, og, oy = 1 - squares[2] * o_unit * o_unit, own[:, rows], -squares[1] * o_unit * y_unit
            for k, (r, step) in enumerate(zip(more, steps, strict=True)):
                remains, oy = remains - r * r, oy - r * step
                if k:
                    og = og - r * solved[k][of]
            theirs = ranks > prepared.rank[prepared.group_of[batch.outcomes]]
            length = np.where((remains > SINGULAR) & theirs, np.sqrt(np.abs(remains)), np.inf)
            og, oy = og / length, oy / length
            cov, yy, remainder = cov - og * oy, yy - oy * oy, gg - og * og
            gg = np.where(remainder > COLLINEAR * gg, remainder, np.nan)
        told = yy > _TOLD * whole
        found = Moments(np.where(told, gg, np.nan), cov, np.where(told, yy, np.nan), here.observed[of] - ranks)
        at = np.ix_(outcomes, rows)
        result.beta[at], result.standard_error[at] = estimate(found, statistic, prepared.scale)


def _squares_over(cells: Cells, batch: Batch, prepared: Prepared, p: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield the low and high digits' sums (P, v) over the missing people of ỹ², and of oỹ and o² where there are own covariates."""
    for start in range(0, prepared.squares.shape[1], 2 * p):
        low, high = (prepared.squares[:, start + d * p : start + (d + 1) * p][:, batch.outcomes] for d in (0, 1))
        yield cells.summed(low), cells.summed(high)


def _factor_of_observed(
    cells: Cells, people: NDArray[np.int64], left: Floats, prepared: Prepared
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the Cholesky factors (K, K, G, b) of A − Q_S'Q_S and which of them are singular (G, b).

    ``left`` (b, m, D · K) are the digits of the basis of the ``people`` left out.
    """
    q, unit = prepared.floats[0], np.concatenate([[1.0], prepared.basis.unit])
    j, k = np.tril_indices(len(unit))
    lost = np.zeros((len(unit), len(unit), len(prepared.n), len(people)))
    if len(prepared.n) == 1:
        lost[j, k, 0] = prepared.digits.together(over(left, q[people]))[j, k]
    else:
        lost[j, k] = prepared.digits.together(over_groups(cells, prepared.pairs, prepared))
    gram = prepared.grams - lost * (unit[:, None] * unit)[:, :, None, None]
    dropped = np.isinf(prepared.factors[np.arange(len(unit)), np.arange(len(unit))])
    return cholesky(gram, dropped)
