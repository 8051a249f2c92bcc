"""How well repeated measurements of a person agree: intraclass correlations, with intervals by resampling people.

The six forms of Shrout & Fleiss (1979), from the mean squares of the two-way table people × measurements:

    =====  =========================================================================================
    1,1    each person is measured by other raters: agreement of one measurement
    2,1    the same raters for all, raters are a sample of many: absolute agreement of one measurement
    3,1    the same raters for all, just these raters: consistency (a constant shift of a rater is free)
    1,k …  the same for the mean of the k measurements
    =====  =========================================================================================

References
----------
Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. Psychological Bulletin 86:420–428 (1979),
doi:10.1037/0033-2909.86.2.420. Table 4 for the example below.

>>> import numpy as np
>>> shrout_fleiss = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
>>> [round(icc(shrout_fleiss, form=form).value, 2) for form in ("1,1", "2,1", "3,1", "1,k", "2,k", "3,k")]
[0.17, 0.29, 0.71, 0.44, 0.62, 0.91]
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinome.stats.resampling import Estimate, interval, resampled_sums

__all__ = ["Estimate", "Form", "icc", "icc_of_sums", "interval", "resampled_sums"]

Form = Literal["1,1", "2,1", "3,1", "1,k", "2,k", "3,k"]


def icc(ratings: ArrayLike, *, form: Form = "2,1", resamples: int = 500, seed: int = 0) -> Estimate:
    """Return the intraclass correlation of ``ratings``, shape (n_participants, k_measurements).

    People with a missing (NaN) measurement are left out. The interval is the expanded percentile interval over ``resamples`` draws
    of people with replacement (:mod:`clinome.stats.resampling`); it is NaN for ``resamples`` 0, and everything is NaN for fewer
    than three people or when nothing varies.

    Warnings
    --------
    A person sampled twice adds no new disagreement: of ten people the interval holds the truth 92 times in 100, of fifty 95.

    Raises
    ------
    ValueError
        For an array that is not two-dimensional, fewer than two measurements, or an unknown form.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"ratings must have the shape (n_participants, k ≥ 2 measurements), got {table.shape}")
    if form not in get_args(Form):
        raise ValueError(f"unknown form {form!r}; expected one of {', '.join(get_args(Form))}")
    table = table[np.isfinite(table).all(axis=1)]
    n, k = table.shape
    if n < 3:
        return Estimate(np.nan, np.nan, np.nan, n)
    table = table - table.mean()
    # Every mean square is a function of sums over people, so a resample is one product of counts and per-person terms.
    mean = table.mean(axis=1)
    per_person = np.column_stack([table, mean**2, (table**2).sum(axis=1)])
    value = icc_of_sums(per_person.sum(axis=0)[None], n, k, form)[0]
    draws = icc_of_sums(resampled_sums(per_person, resamples=resamples, seed=seed), n, k, form)
    lower, upper = interval(draws, people=n)
    return Estimate(float(value), lower, upper, n)


def icc_of_sums(sums: NDArray[np.float64], n: int | NDArray[np.float64], k: int, form: Form) -> NDArray[np.float64]:
    """Return the coefficient for each row of ``sums``: k rater totals, Σ person mean², Σ all squares.

    ``n`` is how many were summed, one number or one a row. Measurements are best summed as differences from their common mean,
    which loses fewer digits.
    """
    rater, mean_squares, squares = sums[:, :k] / np.reshape(n, (-1, 1)), sums[:, k], sums[:, k + 1]
    grand = rater.mean(axis=1)
    between = k * (mean_squares - n * grand**2)
    raters = n * ((rater - grand[:, None]) ** 2).sum(axis=1)
    within = np.maximum(squares - k * mean_squares, 0.0)
    bms, wms = between / (n - 1), within / (n * (k - 1))
    jms, ems = raters / (k - 1), np.maximum(within - raters, 0.0) / ((n - 1) * (k - 1))
    noise, shift = (wms, 0.0) if form[0] == "1" else (ems, (k * (jms - ems) / n if form[0] == "2" else 0.0))
    single = form[2] == "1"
    numerator = bms - noise
    denominator = bms + (k - 1) * noise + shift if single else bms + shift / k
    scale = squares + n * k * grand**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(denominator) > 1e-12 * np.maximum(scale, 1e-300), numerator / denominator, np.nan)
