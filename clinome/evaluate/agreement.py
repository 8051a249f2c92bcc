"""How well two measurements of one thing agree: bias and limits of agreement, intraclass correlation, slopes.

A correlation alone does not say that numbers can stand for each other: a slope of 0.7 shrinks every difference between people, and
a bias shifts them all. ``slope`` is by least squares (all error in the second measurement); ``deming_slope`` allows errors in both,
with the ratio of their variances given.

References
----------
Bland JM, Altman DG. Statistical methods for assessing agreement between two methods of clinical measurement. Lancet 327:307–310
(1986), doi:10.1016/S0140-6736(86)90837-8. Measuring agreement in method comparison studies. Statistical Methods in Medical
Research 8:135–160 (1999), doi:10.1177/096228029900800204.
Linnet K. Evaluation of regression procedures for methods comparison studies. Clinical Chemistry 39:424–432 (1993),
doi:10.1093/clinchem/39.3.424 (Deming regression).
Lin LI. A concordance correlation coefficient to evaluate reproducibility. Biometrics 45:255–268 (1989), doi:10.2307/2532051.
Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. Psychological Bulletin 86:420–428 (1979),
doi:10.1037/0033-2909.86.2.420.

>>> truth, measured = [10.0, 12.0, 15.0, 11.0], [10.5, 12.5, 15.5, 11.5]
>>> found = agreement(truth, measured, resamples=0)
>>> dict(found.select("name", "value").rows())["bias"], dict(found.select("name", "value").rows())["upper_limit"]
(0.5, 0.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Unpack

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.evaluate.measuring import Array, Asked, Metric, Prepare, Prepared, additive, measure
from clinome.stats.reliability import icc_of_sums

Sums = NDArray[np.float64]
_LIMIT = 1.96  # standard deviations, as Bland and Altman


def agreement(
    first: ArrayLike,
    second: ArrayLike,
    *,
    error_ratio: float = 1.0,
    **asked: Unpack[Asked],
) -> pl.DataFrame:
    """Compare two measurements, shape (n,) each, in the same unit; return METRICS.

    ``bias`` (mean of second − first), ``lower_limit`` and ``upper_limit`` (bias ± 1.96 standard deviations of the differences),
    ``difference_slope`` (of the difference on the mean of the two: 0 where the bias is the same for small and large),
    ``pearson_r``, ``concordance`` (Lin), ``icc`` (ICC(2,1)), ``slope`` and ``intercept`` of second on first, ``deming_slope`` and
    ``deming_intercept``.

    Parameters
    ----------
    error_ratio
        Variance of the errors of ``second`` over that of ``first``, for Deming regression.
    asked
        See :class:`clinome.evaluate.measuring.Asked`. Limits of agreement are of single rows, also where people have several.

    Raises
    ------
    CohortError
        As :func:`clinome.evaluate.measuring.measure`.
    """
    return measure(
        agreement_metrics(error_ratio),
        np.asarray(first, dtype=np.float64),
        np.asarray(second, dtype=np.float64),
        **asked,
    )


def agreement_metrics(error_ratio: float = 1.0) -> tuple[Metric, ...]:
    """Return the metrics of :func:`agreement`."""

    def metric(name: str, of: Callable[[Moments], Sums], higher_is_better: bool | None = None) -> Metric:
        return Metric(name, _of_moments(of), higher_is_better)

    return (
        metric("bias", lambda m: m.y - m.x),
        metric("lower_limit", lambda m: m.y - m.x - _LIMIT * m.deviation()),
        metric("upper_limit", lambda m: m.y - m.x + _LIMIT * m.deviation()),
        metric("difference_slope", lambda m: 2 * (m.yy - m.xx) / (m.xx + m.yy + 2 * m.xy)),
        metric("pearson_r", lambda m: m.xy / np.sqrt(m.xx * m.yy), True),
        metric("concordance", lambda m: 2 * m.xy / (m.xx + m.yy + (m.x - m.y) ** 2), True),
        metric("icc", Moments.icc, True),
        metric("slope", lambda m: m.xy / m.xx),
        metric("intercept", lambda m: m.y - m.xy / m.xx * m.x),
        metric("deming_slope", lambda m: m.deming(error_ratio)),
        metric("deming_intercept", lambda m: m.y - m.deming(error_ratio) * m.x),
    )


class Moments(NamedTuple):
    """Of both measurements, a number a resample: how many, means ``x``, ``y`` and (co)variances ``xx``, ``yy``, ``xy`` over n."""

    n: Sums
    x: Sums
    y: Sums
    xx: Sums
    yy: Sums
    xy: Sums

    def deviation(self) -> Sums:
        """Return the standard deviation of the differences, over n − 1."""
        spread = self.xx + self.yy - 2 * self.xy
        spread = np.where(spread > 1e-13 * (self.xx + self.yy), spread, 0.0)  # equal differences, but for rounding
        return np.asarray(np.sqrt(spread * self.n / (self.n - 1)))

    def deming(self, error_ratio: float) -> Sums:
        """Return the Deming slope (Linnet 1993, equation 3); NaN where a measurement does not vary."""
        away = self.yy - error_ratio * self.xx
        slope = (away + np.sqrt(away**2 + 4 * error_ratio * self.xy**2)) / (2 * self.xy)
        return np.where((self.xx > 0) & (self.yy > 0), slope, np.nan)

    def icc(self) -> Sums:
        """Return ICC(2,1)."""
        middle = (self.x + self.y) / 2
        x, y = self.x - middle, self.y - middle
        xx, yy, xy = self.xx + x * x, self.yy + y * y, self.xy + x * y
        sums = np.column_stack([x, y, (xx + yy + 2 * xy) / 4, xx + yy]) * self.n[:, None]
        return icc_of_sums(sums, self.n, 2, "2,1")


def _of_moments(of: Callable[[Moments], Sums]) -> Prepare:
    """Return how to prepare a metric of the moments of two measurements."""

    def prepare(first: Array, second: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
        middle = float(first.mean())  # differences from it keep their digits when squared

        def terms(first: Array, second: Array) -> Sums:
            x, y = first - middle, second - middle
            return np.column_stack([x, y, x * x, y * y, x * y])

        def values(sums: Sums, n: Sums) -> Sums:
            x, y, xx, yy, xy = (column / n for column in sums.T)
            spread = (_variance(xx, x), _variance(yy, y), xy - x * y)
            return np.where(n > 1, of(Moments(n, middle + x, middle + y, *spread)), np.nan)

        return additive(terms, values)(first, second, person, n_participants)

    return prepare


def _variance(square: Sums, mean: Sums) -> Sums:
    """Return the variance; 0 where nothing varies but for rounding."""
    variance = square - mean**2
    return np.where(variance > 1e-13 * square, variance, 0.0)
