"""How many independent tests a set of correlated traits amounts to, and whether a scan is inflated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def effective_tests(correlation: Floats) -> float:
    """Return the effective number of tests of traits with the given correlation matrix, shape (n_traits, n_traits).

    Li & Ji 2005 (doi:10.1038/sj.hdy.6800717, eq. 5): Σ f(|λ|) over the eigenvalues, f(x) = 1{x ≥ 1} + (x − ⌊x⌋).

    >>> import numpy as np
    >>> effective_tests(np.eye(5)), effective_tests(np.ones((5, 5)))
    (5.0, 1.0)
    """
    if not len(correlation):
        return 0.0
    values = np.round(np.abs(np.linalg.eigvalsh(correlation)), 9)
    return float(np.sum((values >= 1) + (values - np.floor(values))))


def pairwise_correlation(residuals: Floats, present: NDArray[np.bool_]) -> Floats:
    """Correlate columns (N, P) over the people whom both of a pair have; 0 where fewer than three share.

    ``residuals`` is zero where ``present`` is False and has mean zero over each column's own people.
    """
    here = present.astype(np.float64)
    shared = here.T @ here
    sums = residuals.T @ here  # Σ of column i over the people of j
    squares = (residuals**2).T @ here
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = residuals.T @ residuals - sums * sums.T / shared
        variance = squares - sums**2 / shared
        result = cross / np.sqrt(variance * variance.T)
    result = np.where((shared >= 3) & np.isfinite(result), np.clip(result, -1, 1), 0.0)
    np.fill_diagonal(result, 1.0)
    return np.asarray(result)


def combine_fisher(neg_log_10_p: Floats) -> Floats:
    """Combine independent p-values along the last axis by Fisher's method, −log10 in and out; NaN is left out.

    −2 Σ ln p has 2k degrees of freedom (Fisher 1925). A row of NaN alone gives NaN.
    """
    from clinome.stats.distributions import neg_log10_chi2

    k = np.isfinite(neg_log_10_p).sum(axis=-1)
    total = 2 * np.log(10.0) * np.nansum(neg_log_10_p, axis=-1)
    combined = np.where(k == 1, np.nansum(neg_log_10_p, axis=-1), neg_log10_chi2(total, 2 * np.maximum(k, 1)))
    return np.where(k > 0, combined, np.nan)
