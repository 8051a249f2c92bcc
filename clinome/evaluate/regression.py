"""How close predicted numbers are: errors, shares of variance, correlation and bias, with intervals over people.

R² compares with predicting the mean of the *training* examples where that is given, as it must be for a number that
was predicted without seeing the test set; without it, with the mean of the examples measured (as in scikit-learn), which is
the more severe. Of resamples the mean of the examples measured moves along.

>>> regression([60.0, 70.0, 80.0], [62.0, 69.0, 77.0], resamples=0).select("name", "value").rows()[0]
('mae', 2.0)
"""

from __future__ import annotations

from typing import Unpack

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.evaluate.measuring import Array, Asked, Metric, additive, measure

Sums = NDArray[np.float64]


def _errors(truth: Array, predicted: Array) -> Sums:
    error = predicted.astype(np.float64) - truth
    return np.column_stack([error, np.abs(error), error**2])


MAE = Metric("mae", additive(_errors, lambda s, n: s[:, 1] / n), higher_is_better=False)
RMSE = Metric("rmse", additive(_errors, lambda s, n: np.sqrt(s[:, 2] / n)), higher_is_better=False)
BIAS = Metric("bias", additive(_errors, lambda s, n: s[:, 0] / n), higher_is_better=None)


def r2(training_mean: float | None = None) -> Metric:
    """Return R²: 1 − Σ(error²) / Σ(truth − ``training_mean``)², or around the mean of the examples when that is None."""

    def prepare_terms(truth: Array, predicted: Array) -> Sums:
        centre = truth.mean() if training_mean is None else training_mean
        away = truth.astype(np.float64) - centre
        return np.column_stack([(predicted - truth) ** 2, away, away**2])

    def of(s: Sums, n: Sums) -> Sums:
        around = s[:, 2] - s[:, 1] ** 2 / n if training_mean is None else s[:, 2]
        return np.asarray(np.where(around > 0, 1 - s[:, 0] / around, np.nan))

    return Metric("r2", additive(prepare_terms, of))


def _products(truth: Array, predicted: Array) -> Sums:
    x, y = truth - truth.mean(), predicted - predicted.mean()
    return np.column_stack([x, y, x * x, y * y, x * y]).astype(np.float64)


def _correlation(s: Sums, n: Sums) -> Sums:
    x, y, xx, yy, xy = s.T
    spread = (xx - x * x / n) * (yy - y * y / n)
    return np.asarray(np.where(spread > 1e-24 * xx * yy, (xy - x * y / n) / np.sqrt(np.maximum(spread, 1e-300)), np.nan))


PEARSON = Metric("pearson_r", additive(_products, _correlation))


def regression(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    training_mean: float | None = None,
    **asked: Unpack[Asked],
) -> pl.DataFrame:
    """Measure predicted numbers: ``mae``, ``rmse``, ``r2``, ``pearson_r`` and ``bias`` (predicted − truth) as METRICS.

    ``truth`` and ``predicted`` have the shape (n,); ``asked``: see
    :class:`clinome.evaluate.measuring.Asked`; errors are those of :func:`clinome.evaluate.measuring.measure`.
    A correlation with something constant is null.
    """
    return measure(
        regression_metrics(training_mean),
        np.asarray(truth, dtype=np.float64),
        np.asarray(predicted, dtype=np.float64),
        **asked,
    )


def regression_metrics(training_mean: float | None = None) -> tuple[Metric, ...]:
    """Return the metrics of :func:`regression`."""
    return (MAE, RMSE, r2(training_mean), PEARSON, BIAS)
