"""Linkage disequilibrium between variants from allele counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CELLS = 1_000_000  # counts that are made floats at once: what stays in the cache
_NOTHING = 1e-9  # of the sum of squares; what is left of constant counts is rounding


def r_squared(counts: NDArray[np.integer], lead: NDArray[np.integer]) -> Floats:
    """Return the squared correlation of each row of ``counts`` (n_variants, n_people) with ``lead`` (n_people,).

    A missing count (negative) takes the variant's mean; a variant without variation has r² 0.

    >>> import numpy as np
    >>> r_squared(np.array([[0, 1, 2, 1], [2, 1, 0, 1], [1, 1, 1, 1]]), np.array([0, 1, 2, 1])).round(9).tolist()
    [1.0, 1.0, 0.0]
    """
    # Sums of hard calls are integers below 2²⁴, which float32 adds exactly.
    exact: type[np.floating[Any]] = np.float32 if counts.dtype == lead.dtype == np.int8 and 4 * len(lead) < 2**24 else np.float64
    y = np.where(lead >= 0, lead, 0).astype(np.float64)
    has = (lead >= 0).astype(np.float64)
    mean, squares = y.sum() / max(has.sum(), 1), (y * y).sum()
    spread = squares - has.sum() * mean**2
    columns = np.stack([np.ones(len(y)), y, has], axis=1).astype(exact)
    result = np.zeros(len(counts))
    if spread <= _NOTHING * squares:
        return result
    step = max(1, _CELLS // max(len(lead), 1))
    for i in range(0, len(counts), step):
        covariation, variation = _with(counts[i : i + step], columns, mean)
        there = variation > 0
        result[i : i + step][there] = covariation[there] ** 2 / variation[there] / spread
    return np.minimum(result, 1.0)


def _with(counts: NDArray[np.integer], columns: NDArray[np.floating[Any]], lead_mean: float) -> tuple[Floats, Floats]:
    """Return the sum of products of the centred counts of each variant with the centred lead, and their sum of squares.

    ``columns`` (n_people, 3): 1, the counts of the lead (0 where missing), and 1 for who has one.
    """
    values = np.maximum(counts, 0).astype(columns.dtype)
    total, product, shared = (values @ columns).T.astype(np.float64)
    squares = np.einsum("vn,vn->v", values, values).astype(np.float64)
    people = np.repeat(columns.sum(axis=0, dtype=np.float64)[:, None], len(counts), axis=1)
    holed = np.flatnonzero(counts.min(axis=1, initial=0) < 0)
    people[:, holed] = ((counts[holed] >= 0).astype(columns.dtype) @ columns).T
    n, lead, both = people  # sums of the three columns over those who have the variant
    mean = total / np.maximum(n, 1)
    variation = squares - n * mean**2
    return product - lead_mean * shared - mean * (lead - lead_mean * both), np.where(variation > _NOTHING * squares, variation, 0.0)
