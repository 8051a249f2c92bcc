"""Linkage disequilibrium between variants from allele counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def r_squared(counts: NDArray[np.integer], lead: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the squared correlation of each row of ``counts`` (n_variants, n_people) with ``lead`` (n_people,).

    A missing count (negative) takes the variant's mean; a variant without variation has r² 0.

    >>> import numpy as np
    >>> r_squared(np.array([[0, 1, 2, 1], [2, 1, 0, 1], [1, 1, 1, 1]]), np.array([0, 1, 2, 1])).round(9).tolist()
    [1.0, 1.0, 0.0]
    """
    x, y = _standardised(counts), _standardised(lead[None, :])[0]
    return np.asarray(np.clip((x @ y) ** 2, 0.0, 1.0))


def _standardised(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Rows centred over the observed, missing at the mean, of unit length; constant rows are zero."""
    observed = counts >= 0
    values = np.where(observed, counts, 0).astype(np.float64)
    mean = values.sum(axis=1) / np.maximum(observed.sum(axis=1), 1)
    values = np.where(observed, values - mean[:, None], 0.0)
    length = np.sqrt((values**2).sum(axis=1))
    return np.asarray(values / np.where(length > 0, length, 1.0)[:, None])
