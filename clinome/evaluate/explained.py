"""The share of a number's variance that lies between groups (η²), and what its interval is.

It is the square of the correlation with the mean of the group, above 0 by chance, the more the more groups there are: of twenty
sites that do not matter and two hundred people about a tenth. Its resamples are too large once more, so that their quantiles
would never hold a truth of 0; a metric of it therefore ``rises`` (:class:`clinome.evaluate.measuring.Metric`).

>>> code, value, person = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 4.0, 5.0]), np.arange(4)
>>> round(between_groups("eta_squared", 2).prepare(code, value, person, 4).value, 6)
0.9
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinome.evaluate.measuring import Array, Metric, additive


def between_groups(name: str, levels: int) -> Metric:
    """Return η² under a ``name``: the share of the variance of a number (the prediction) between groups 0 … ``levels`` − 1."""

    def terms(code: Array, value: Array) -> NDArray[np.float64]:
        y = value - value.mean()
        member = np.asarray(code[:, None] == np.arange(levels), dtype=np.float64)
        return np.column_stack([y, y * y, member, member * y[:, None]])

    def of(sums: NDArray[np.float64], n: NDArray[np.float64]) -> NDArray[np.float64]:
        y, yy, size, total = sums[:, 0], sums[:, 1], sums[:, 2 : 2 + levels], sums[:, 2 + levels :]
        between = np.divide(total**2, size, out=np.zeros_like(total), where=size > 0).sum(axis=1) - y**2 / n
        return np.asarray(between / (yy - y**2 / n))

    return Metric(name, additive(terms, of), rises=True)
