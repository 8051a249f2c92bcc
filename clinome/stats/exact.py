"""Sums of products that are exact integers, so that they do not depend on block, thread, order or companion.

A column of floats is written as integers times a power of two (:func:`fixed_point`), fine enough that rounding is far below
any statistic's error and coarse enough that every partial sum of counts × integers stays below 2⁵³, where float64 addition
is exact. A float64 matrix product of such columns then returns the exact integers whatever the library's blocking,
threading and use of fused operations.

>>> import numpy as np
>>> column = fixed_point(np.array([[0.5], [-0.25]]), largest_count=2)
>>> float((np.array([[2.0, 1.0]]) @ column.integers * column.unit)[0, 0])
0.75
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXACT_BITS = 52  # sums stay below 2⁵²: one bit is left for the rounding of the entries themselves
_MOST_BITS = 44  # of an entry: beyond that nothing is gained over the float64 that precedes it


class FixedPoint(NamedTuple):
    """``integers`` (n_rows, n_columns) held as float64, and the power of two (n_columns,) that one unit of them is worth."""

    integers: NDArray[np.float64]
    unit: NDArray[np.float64]


def fixed_point(columns: NDArray[np.float64], *, largest_count: int) -> FixedPoint:
    """Round each column to integers × unit such that Σ|integer| · ``largest_count`` < 2⁵³.

    Parameters
    ----------
    columns
        Finite floats, shape (n_rows, n_columns).
    largest_count
        The largest value of the integers that will multiply them (2 for hard calls, 2 × scale for dosages, 1 for masks).

    Each column is treated by itself. The error of an entry is at most unit / 2: for 10,000 people and hard calls about
    2⁻³⁸ of the column's mean absolute value, for 500,000 people and dosages of 1/16384 about 2⁻¹⁹ of it × 2.
    """
    total = np.abs(columns).sum(axis=0)
    largest = np.abs(columns).max(axis=0, initial=0.0)
    rows = max(len(columns), 1)
    with np.errstate(divide="ignore"):
        # Rounding adds at most 1/2 an entry to the sum of absolute integers.
        by_sum = np.floor(np.log2((2.0**_EXACT_BITS / largest_count - rows) / total))
        by_entry = np.floor(_MOST_BITS - np.log2(largest))
    exponent = np.where(total > 0, np.minimum(by_sum, by_entry), 0.0)
    return FixedPoint(np.rint(np.ldexp(columns, exponent.astype(np.int64))), np.ldexp(1.0, -exponent.astype(np.int64)))
