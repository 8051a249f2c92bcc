"""Regressions that leave people out variant by variant, where their count is missing: exact, for all outcomes at once."""

from __future__ import annotations

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
    numbers; a Cholesky factor, by elementwise steps over variants, restores the projection.
    """
    outcomes = prepared.order[batch.outcomes]
    of, whole = prepared.groups_of(batch), prepared.sum_of_squares[batch.outcomes]
    ranks = prepared.ranks[batch.outcomes]
    _, coarse, coarse_own = prepared.coarse
    for some in pieces(cells, (2 if own is None else 3) * len(outcomes) + len(prepared.factors) ** 2 + prepared.lacking.most):
        rows, part = cells.rows[some], cells.piece(some)
        people, there = gathered(part)
        here = sums.at(rows, some)
        q, unit, factor, singular = _factor_of_observed(part, people, there, prepared)
        solved = forward(factor, here.z)
        variance = variance_of(here, here.z, factor)
        df = here.observed - prepared.rank
        reason = np.where(singular & (df >= 2), np.int8(2), reason_of(here, variance, df))
        result.n[:, rows], result.reason[:, rows] = here.observed.astype(np.int64), reason
        y = coarse.integers[:, batch.outcomes][people]
        scale = coarse.unit[batch.outcomes, None]
        steps = forward(factor[:, :, of], -over(q, y) * unit[:, None, None] * scale)
        cov, yy = gy[:, rows], whole - over(there[..., None].astype(np.float64), y * y)[0] * scale * scale
        gg = np.where(reason == 0, variance, np.nan)[of]
        for k, step in enumerate(steps):
            yy = yy - step * step
            if k:  # the intercept's share went with the mean count
                cov = cov - solved[k][of] * step
        if own is not None and coarse_own is not None:
            o = coarse_own.integers[:, batch.outcomes][people]
            size = coarse_own.unit[batch.outcomes, None]
            more = forward(factor[:, :, of], -over(q, o) * unit[:, None, None] * size)
            left = np.ones_like(yy) - over(there[..., None].astype(np.float64), o * o)[0] * size * size
            og, oy = own[:, rows], -over(there[..., None].astype(np.float64), o * y)[0] * size * scale
            for k, (r, step) in enumerate(zip(more, steps, strict=True)):
                left, oy = left - r * r, oy - r * step
                if k:
                    og = og - r * solved[k][of]
            length = np.where(
                (left > SINGULAR) & (ranks > prepared.rank[prepared.group_of[batch.outcomes]]), np.sqrt(np.abs(left)), np.inf
            )
            og, oy = og / length, oy / length
            cov, yy, remainder = cov - og * oy, yy - oy * oy, gg - og * og
            gg = np.where(remainder > COLLINEAR * gg, remainder, np.nan)
        found = Moments(gg, cov, np.where(yy > 1e-9 * whole, yy, np.nan), here.observed[of] - ranks)
        at = np.ix_(outcomes, rows)
        result.beta[at], result.standard_error[at] = estimate(found, statistic, prepared.scale)


def _factor_of_observed(
    cells: Cells, people: NDArray[np.int64], there: NDArray[np.bool_], prepared: Prepared
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return the basis of ``people`` left out (b, m, K) in whole numbers of ``unit`` (K,), the Cholesky factors (K, K, G, b) of
    A − Q_S'Q_S, and which of them are singular (G, b).
    """
    coarse = prepared.coarse[0]
    unit = np.concatenate([[1.0], coarse.unit])
    q = np.empty((*people.shape, len(unit)))
    q[..., 0], q[..., 1:] = there, coarse.integers[people] * there[..., None]
    if len(prepared.n) == 1:
        q *= prepared.masks.floats[people]
        lost = over(q, q)[:, :, None]
    else:
        j, k = np.tril_indices(len(unit))
        lost = np.empty((len(unit), len(unit), len(prepared.n), len(people)))
        lost[j, k] = over_groups(cells, prepared.squares, prepared)
        lost[k, j] = lost[j, k]
    gram = prepared.grams - lost * (unit[:, None] * unit)[:, :, None, None]
    dropped = np.isinf(prepared.factors[np.arange(len(unit)), np.arange(len(unit))])
    factor, singular = cholesky(gram, dropped)
    return q, unit, factor, singular
