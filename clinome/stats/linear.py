r"""Ordinary least squares of many outcomes on one count at a time, covariates projected out: the array core of a scan.

Letters: N people, V variants of a block, P outcomes, G groups of outcomes that share their people M, K columns q_k that span the
covariates (the intercept is q_0), the same for all groups and orthonormal over the whole cohort.

For an outcome y of the people M the Frisch–Waugh–Lovell theorem gives the coefficient of a count g from residuals alone.
With ỹ the residual of y on the q_k within M, A = Q'MQ (K × K, once for a group, A = LL') and z = Q'Mg::

    g̃'ỹ = g'ỹ                       (ỹ is zero outside M and orthogonal to the q_k within it)
    g̃'g̃ = g'Mg − |L⁻¹z|²
    β = g̃'ỹ / g̃'g̃,   t: SE² = (ỹ'ỹ − β·g̃'ỹ) / (n − K − 1) / g̃'g̃,   score: SE² = ỹ'ỹ / (n − K) / g̃'g̃

Of the sums over people, g'ỹ costs one product for all outcomes; g'Mg and g'M1 one product with the groups' masks; z is the sum over
the whole cohort, which all groups share, less the sum over the few people whom a group lacks. A person whose count is missing
takes the mean of the outcome's observed people (one sparse product over the missing cells) or is left out of that variant's
regression (the same, and a Cholesky factor of A − Σ qq' over the people left out).

All sums are exact integers (:mod:`clinome.stats.exact`); what follows is elementwise float64 in a fixed order. So a result does not
depend on block size, threads, order of variants, machine, or which outcomes run beside it, to the last bit.

References: Frisch & Waugh 1933, doi:10.2307/1907330; Lovell 1963, doi:10.1080/01621459.1963.10480682; for the approximation
named 'regenie' Mbatchou et al. 2021, doi:10.1038/s41588-021-00870-7.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import Columns, Counts, FixedPoint
from clinome.stats.layout import Batch, Prepared
from clinome.stats.left_out import leave_out
from clinome.stats.moments import (
    COLLINEAR,
    Cells,
    Moments,
    Scan,
    Statistic,
    Sums,
    estimate,
    filled,
    ratio,
    reason_of,
    sums_of,
    variance_of,
)
from clinome.stats.projection import backward, forward

Floats = NDArray[np.float64]
Missing = Literal["mean", "drop"]


def scan(counts: Counts, prepared: Prepared, *, statistic: Statistic = "t", missing: Missing = "mean") -> Scan:
    """Regress every outcome on every row of ``counts`` (V, N; units of 1 / scale, −1 missing).

    ``missing="mean"`` puts the mean of the outcome's observed people in place of a missing count (as REGENIE does);
    ``"drop"`` leaves the person out of that variant's regression (as PLINK 2 does). Both are exact.
    """
    cells = Cells.of(counts)
    columns = prepared.batches[0].columns
    product, gone = columns.product(counts), _over_missing(cells, columns)
    sums = sums_of(counts, product, gone, cells, prepared)
    means = ratio(sums.total, sums.observed)
    if prepared.approximate:
        means = np.broadcast_to(means[prepared.everybody], means.shape)  # REGENIE's: the mean of everybody
    drop = missing == "drop" and len(cells.rows) > 0
    z = sums.z if drop else filled(sums, means, cells)
    observed = sums.observed if drop else np.broadcast_to(prepared.n, sums.observed.shape)
    if prepared.approximate:
        variance, slopes = _of_masked_residuals(sums, means, z, prepared)
    else:
        variance, slopes = variance_of(sums, z, prepared.factors), None
    reason = reason_of(sums, variance, observed - prepared.rank)
    variance = np.where(reason == 0, variance, np.nan)
    frequency = np.where(sums.observed > 0, ratio(sums.total, 2 * prepared.scale * sums.observed), np.nan)
    shape = len(prepared.order), len(counts)
    share = 1 - sums.observed[prepared.everybody] / max(int(prepared.n[prepared.everybody, 0]), 1)
    nothing = np.full(shape, np.nan), np.full(shape, np.nan)
    result = Scan(*nothing, observed.astype(np.int64), frequency, reason, frequency[prepared.everybody], share)
    for batch in prepared.batches:
        if batch.outcomes.start > 0:
            product, gone = batch.columns.product(counts), _over_missing(cells, batch.columns)
        own, gy = _covariances(product, gone, batch, means, cells, prepared)
        of = prepared.groups_of(batch)
        if slopes is not None:
            for k in range(len(slopes)):
                gy = gy - prepared.slopes[k, batch.outcomes, None] * slopes[k]
        found = Moments(variance[of], gy, prepared.sum_of_squares[batch.outcomes], observed[of] - prepared.ranks[batch.outcomes])
        if own is not None:
            left = variance[of] - own * own
            found = found._replace(gg=np.where(left > COLLINEAR * variance[of], left, np.nan))
        rows = prepared.order[batch.outcomes]
        result.beta[rows], result.standard_error[rows] = estimate(found, statistic, prepared.scale)
        if drop:
            leave_out(result, gy, own, sums, cells, batch, prepared, statistic)
    return result


def _over_missing(cells: Cells, columns: Columns) -> Floats:
    """Sum columns over the missing people of each row (C, v); their float copy is made only where somebody is missing."""
    return cells.summed(columns.floats) if len(cells.rows) else np.zeros((columns.integers.shape[1], 0))


def _covariances(
    product: Floats, gone: Floats, batch: Batch, means: Floats, cells: Cells, prepared: Prepared
) -> tuple[Floats | None, Floats]:
    """Return o'g (None without own covariates) and ỹ'g of a batch (P, V), missing counts at ``means`` (G, V).

    The mean count is taken off first: rounded columns do not sum to zero exactly, and most people may have two copies.
    """
    stop, width, of = len(gone), batch.outcomes.stop - batch.outcomes.start, prepared.groups_of(batch)
    at = cells.at(len(product))

    def put_right(columns: slice, fixed: FixedPoint) -> Floats:
        unit = fixed.unit[batch.outcomes, None]
        sums = np.ascontiguousarray(product[:, columns].T)
        sums[:, at] += gone[columns]
        sums *= unit
        if not prepared.approximate:
            sums -= means[of] * (fixed.integers[:, batch.outcomes].sum(axis=0, dtype=np.int64)[:, None] * unit)
        sums[:, at] += means[:, at][of] * (gone[columns] * unit)
        return sums

    own = None if prepared.own is None else put_right(slice(stop - 2 * width, stop - width), prepared.own)
    return own, put_right(slice(stop - width, stop), prepared.residuals)


def _of_masked_residuals(sums: Sums, means: Floats, z: Floats, prepared: Prepared) -> tuple[Floats, Floats]:
    """Return what REGENIE takes for g̃'g̃ (G, V), and the slopes (K, V) of the count on the basis over everybody."""
    factor = prepared.factors[:, :, prepared.everybody]
    slopes = backward(factor, forward(factor, z[:, prepared.everybody]))
    squares = sums.squares + means * means * (prepared.n - sums.observed)
    gg = squares
    for j in range(len(slopes)):
        gg = gg - 2 * slopes[j] * z[j]
        for k in range(len(slopes)):
            gg = gg + slopes[j] * slopes[k] * prepared.grams[j, k]
    return gg, slopes
