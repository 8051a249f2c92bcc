"""Transforms of a trait before it is analysed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinome.stats.residuals import prepare, span

Floats = NDArray[np.float64]


def rank_inverse_normal(values: Floats, *, offset: float = 3 / 8) -> Floats:
    """Replace the finite entries of each column (N, P) by normal quantiles of their ranks; ties share their mean rank.

    Φ⁻¹((rank − c) / (n − 2c + 1)) with Blom's c = 3/8 (Blom 1958; Beasley, Erickson & Allison 2009,
    doi:10.1007/s10519-009-9281-0). NaN stays NaN.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    result = np.full(values.shape, np.nan)
    for p in range(values.shape[1]):
        there = np.isfinite(values[:, p])
        rank = rankdata(values[there, p])
        result[there, p] = ndtri((rank - offset) / (there.sum() - 2 * offset + 1))
    return result


def adjusted_rank_inverse_normal(values: Floats, covariates: Floats) -> Floats:
    """Project ``covariates`` (N, C) out of each column of ``values`` (N, P), then take :func:`rank_inverse_normal`.

    The "adjusted" transform of transferGWAS (Kirchler et al. 2022, doi:10.1093/bioinformatics/btac369). Project the covariates
    out again in the scan: ranking does not keep the residuals orthogonal to them (McCaw et al. 2020, doi:10.1111/biom.13214).
    """
    residuals = np.full(values.shape, np.nan)
    for group in prepare(values, span(covariates)).groups:
        residuals[np.ix_(group.mask, group.outcomes)] = group.residuals[group.mask]
    return rank_inverse_normal(residuals)
