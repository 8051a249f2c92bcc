"""The share of a number's variance that something else explains: groups by their means, or another number by a straight line.

Both are squares of a correlation, with the best number for each group (η²) or with the number itself (r²), and rise by chance with
the number of groups. As any metric of this room they answer for counts of people.

>>> code, value, person = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 4.0, 5.0]), np.arange(4)
>>> round(between_groups(2)(code, value, person, 4).value, 6), round(on_a_line(code, value, person, 4).value, 6)
(0.9, 0.9)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinome.evaluate.measuring import Array, Prepare, Prepared, additive
from clinome.evaluate.regression import PEARSON


def between_groups(levels: int) -> Prepare:
    """Return how to prepare η²: the share of the variance of a number between the groups coded 0 … ``levels`` − 1."""

    def terms(code: Array, value: Array) -> NDArray[np.float64]:
        y = value - value.mean()
        member = np.asarray(code[:, None] == np.arange(levels), dtype=np.float64)
        return np.column_stack([y, y * y, member, member * y[:, None]])

    def of(sums: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
        y, yy, size, total = sums[:, 0], sums[:, 1], sums[:, 2 : 2 + levels], sums[:, 2 + levels :]
        between = np.divide(total**2, size, out=np.zeros_like(total), where=size > 0).sum(axis=1) - y**2 / n
        return np.asarray(between / (yy - y**2 / n))

    return additive(terms, of)


def on_a_line(x: Array, value: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
    """Prepare r²: the share of the variance of a number that a straight line on ``x`` explains."""
    r = PEARSON.prepare(x, value, person, n_participants)
    return Prepared(r.value**2, lambda counts: r.of(counts) ** 2, r.people)
