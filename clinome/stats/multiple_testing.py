"""How many independent tests a set of correlated traits amounts to, and whether a scan is inflated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def effective_tests(correlation: Floats, *, level: float = 5e-8) -> float:
    """Return by how many independent tests normal tests with the given correlation, shape (n_tests, n_tests), are bounded.

    P(some |z| is large) ≤ Σ P(one) − Σ P(both of a pair) over the edges of any tree (Hunter 1976, doi:10.2307/3212481; Worsley
    1982, doi:10.1093/biomet/69.2.297); the tree of strongest correlations gives the tightest bound. Divided by P(one) it is the
    number by which to correct, taken at ``level`` split over all tests, where it is largest. So the family-wise error is kept,
    whatever the correlation, at ``level`` and at any larger one. Numbers from eigenvalues (Li & Ji 2005) do not keep it so far
    out, where tests that correlate by 0.7 are nearly independent: for ten of them they say 4, and 9.4 is true.

    >>> import numpy as np
    >>> effective_tests(np.eye(5)), effective_tests(np.ones((5, 5)))
    (5.0, 1.0)
    """
    from scipy.special import ndtr, ndtri

    n = len(correlation)
    if n < 2:
        return float(n)
    r = np.minimum(_strongest_tree(correlation), 1.0)[:, None]
    tail = level / n / 2
    limit = -ndtri(tail)
    x = -ndtri(tail * (np.arange(_POINTS) + 0.5) / _POINTS)  # quantiles of a normal beyond the limit
    spread = np.sqrt(np.maximum(1 - r * r, 1e-24))
    both = ndtr((r * x - limit) / spread) + ndtr((-r * x - limit) / spread)
    return float(np.round(n - both.mean(axis=1).sum(), 6))


_POINTS = 1_000


def _strongest_tree(correlation: Floats) -> Floats:
    """Return the n − 1 sizes of correlation of a maximum spanning tree (Prim 1957) over tests, correlation (n, n)."""
    outside = np.ones(len(correlation), dtype=np.bool_)
    reach = np.full(len(correlation), -1.0)  # of each test outside, its strongest correlation with one inside
    edges, k = [], 0
    for _ in range(len(correlation) - 1):
        outside[k], reach[k] = False, -1.0
        np.maximum(reach, np.abs(correlation[k]), out=reach, where=outside)
        k = int(np.argmax(reach))
        edges.append(reach[k])
    return np.array(edges)


def correlation_of_tests(residuals: Floats, present: NDArray[np.bool_]) -> Floats:
    """Return how the tests of columns (N, P) with a variant correlate, shape (P, P).

    That is the correlation of two columns over the people whom both have, times the share of people that both have
    (n_both / √(n_one · n_other)); 0 where fewer than three share or one is constant among those who do. ``residuals`` is
    zero where ``present`` is False and has mean zero over each column's own people.
    """
    order, group, masks = _by_people(present)
    here, own = masks.astype(np.float64), np.sqrt(masks.sum(axis=0, dtype=np.float64))[group]
    residuals = residuals if (order[1:] > order[:-1]).all() else residuals[:, order]
    squared = residuals**2
    result = np.empty((len(order), len(order)))
    for start in range(0, len(order), _ROWS):  # a strip at a time stays in the cache; the other triangle is its mirror
        some, rest = slice(start, start + _ROWS), slice(start, None)
        first, last = group[some][0], group[some][-1] + 1
        theirs, others = here[:, first:last], here[:, first:]  # people are summed over once a group, not once a column
        row, column = group[some] - first, group[rest] - first
        shared = (theirs.T @ others).take(row, axis=0).take(column, axis=1)
        one, other = (residuals[:, some].T @ others).take(column, axis=1), (theirs.T @ residuals[:, rest]).take(row, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = residuals[:, some].T @ residuals[:, rest] - one * other / shared
            variance = _varied((squared[:, some].T @ others).take(column, axis=1), one**2 / shared)
            variance *= _varied((theirs.T @ squared[:, rest]).take(row, axis=0), other**2 / shared)
            strip = np.clip(cross / np.sqrt(variance), -1, 1) * shared / np.outer(own[some], own[rest])
        strip[(shared < 3) | ~np.isfinite(strip)] = 0.0
        corner = strip[:, : len(strip)]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T  # the two halves are rounded differently
        result[np.ix_(order[some], order[rest])] = strip
        result[np.ix_(order[rest], order[some])] = strip.T
    np.fill_diagonal(result, 1.0)
    return result


_ROWS = 128


def _by_people(present: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Put columns (N, P) of the same people side by side: their numbers, then the group of each, and the groups' masks (N, G)."""
    numbers: dict[bytes, int] = {}
    packed = np.ascontiguousarray(np.packbits(present, axis=0).T)
    group = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in packed], dtype=np.int64)
    order = np.argsort(group, kind="stable")
    first = np.unique(group, return_index=True)[1]
    return order, group[order], present[:, first]


def _varied(squares: Floats, mean_part: Floats) -> Floats:
    """Return Σ(x − x̄)², NaN where it is rounding alone: a column that is constant over the people shared correlates with none."""
    rest = squares - mean_part
    return np.where(rest > 1e-9 * squares, rest, np.nan)


def combine_fisher(neg_log_10_p: Floats) -> Floats:
    """Combine independent p-values along the last axis by Fisher's method, −log10 in and out; NaN is left out.

    −2 Σ ln p has 2k degrees of freedom (Fisher 1925). A row of NaN alone gives NaN.
    """
    from clinome.stats.distributions import neg_log10_chi2

    k = np.isfinite(neg_log_10_p).sum(axis=-1)
    total = 2 * np.log(10.0) * np.nansum(neg_log_10_p, axis=-1)
    combined = np.where(k == 1, np.nansum(neg_log_10_p, axis=-1), neg_log10_chi2(total, 2 * np.maximum(k, 1)))
    return np.where(k > 0, combined, np.nan)
