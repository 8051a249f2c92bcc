"""Is a learned dimension a trait of the person? Reliability between eyes and visits, and how much of it is nuisance.

A dimension that differs between a person's two eyes, or between two visits, or that follows the camera, costs power and can
make false discoveries where camera and ancestry go together. Nothing is dropped here; the reader (and the study) decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.schema import QUALITY, check
from clinome.evaluate.explained import between_groups
from clinome.evaluate.measuring import estimate
from clinome.evaluate.regression import PEARSON
from clinome.imaging.features import Views
from clinome.stats.reliability import icc
from clinome.stats.resampling import Estimate, bootstrap, interval

_NOT_NUISANCE = {"image_id", "participant_id", "path", "laterality", "date", "modality"}


def quality(
    values: NDArray[np.float64],
    images: pl.DataFrame,
    seen: Views,
    *,
    traits: Sequence[str],
    shares: dict[str, Estimate] | None = None,
    held_out: NDArray[np.float64] | None = None,
    min_reliability: float = 0.0,
    resamples: int = 500,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure each dimension; return a ``quality`` table (``core.schema.QUALITY``).

    The measures of a trait are ``variance_share`` (when ``shares`` has it); ``left_right_icc``, the agreement ICC(2,1) of the
    mean over visits of the left with that of the right eye; ``test_retest_icc``, that of the mean over eyes at the first two
    visits; ``nuisance_r2:<column>`` for scanner, site, visit and every numeric column of ``images``: the share of the variance
    between pictures that a linear (or, for text, a one-mean-a-group) fit on that column explains; and, when ``min_reliability``
    is above 0, ``reliable``: 1 when neither ICC that could be measured is below it, else 0. Intervals are of ``resamples`` draws of
    people with replacement (all pictures of a person together); those of shares of variance, which are above 0 by chance alone,
    make up for it (:mod:`clinome.evaluate.explained`; of a line, the squares of the correlation's).

    Parameters
    ----------
    values
        A number a picture, shape (n_images, n_traits); NaN in a column leaves the picture out of that trait.
    held_out
        As ``values``, from axes fitted without the person (:func:`clinome.imaging.axes.held_out_scores`): the two ICC are theirs.
        None where ``values`` were not fitted to these people.
    images, seen
        The images table and its :func:`clinome.imaging.features.views`, in the same order.

    Warnings
    --------
    An R² on ``visit`` holds true ageing as well as a changed protocol; one on ``scanner`` holds true differences between sites.
    """
    nuisances = [name for name in images.columns if name not in _NOT_NUISANCE and images[name].drop_nulls().n_unique() > 1]
    rows: list[tuple[str, str, Estimate]] = []
    for j, trait in enumerate(traits):
        column = values[:, j]
        if shares is not None:
            rows.append((trait, "variance_share", shares[trait]))
        fresh = column if held_out is None else held_out[:, j]
        eyes = _person_means(fresh, seen, seen.eye, (0, 1))
        visits = _person_means(fresh, seen, seen.visit, tuple(np.unique(seen.visit)[:2]))
        iccs = {"left_right_icc": eyes, "test_retest_icc": visits}
        agreements = {name: icc(table, resamples=resamples, seed=seed) for name, table in iccs.items() if table is not None}
        rows += [(trait, name, agreement) for name, agreement in agreements.items()]
        for name in nuisances:
            rows.append((trait, f"nuisance_r2:{name}", nuisance_r2(column, images[name], seen, resamples=resamples, seed=seed)))
        if min_reliability > 0:
            measured = [a for a in agreements.values() if np.isfinite(a.value)]
            passed = float(bool(measured) and min(a.value for a in measured) >= min_reliability)
            rows.append((trait, "reliable", Estimate(passed, np.nan, np.nan, max((a.n for a in measured), default=0))))
    columns = {
        "trait": [trait for trait, _, _ in rows],
        "measure": [measure for _, measure, _ in rows],
        **{name: [getattr(estimate, name) for _, _, estimate in rows] for name in ("value", "lower", "upper")},
        "n": [estimate.n for _, _, estimate in rows],
    }
    numbers = pl.col("value", "lower", "upper")
    return check(pl.DataFrame(columns).with_columns(numbers.cast(pl.Float64).fill_nan(None)), QUALITY)


def _person_means(
    column: NDArray[np.float64], seen: Views, label: NDArray[np.int64], pair: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """Average ``column`` over a person's pictures of each label in ``pair``: (n_people, 2), NaN where there is none."""
    if len(pair) < 2:
        return None
    means = np.full((len(seen.people), 2), np.nan)
    for side, wanted in enumerate(pair):
        rows = (label == wanted) & np.isfinite(column)
        count = np.bincount(seen.person[rows], minlength=len(seen.people))
        total = np.bincount(seen.person[rows], weights=column[rows], minlength=len(seen.people))
        means[count > 0, side] = total[count > 0] / count[count > 0]
    return means if np.isfinite(means).all(axis=1).sum() >= 3 else None


def nuisance_r2(column: NDArray[np.float64], nuisance: pl.Series, seen: Views, *, resamples: int = 500, seed: int = 0) -> Estimate:
    """Return the share of the variance of ``column`` (a number a picture) that ``nuisance`` explains, with its interval.

    Text columns get a mean a group, numeric ones a straight line. Pictures with a missing value on either side are left out.
    """
    text = not nuisance.dtype.is_numeric() and nuisance.dtype != pl.Boolean
    known = nuisance.is_not_null().to_numpy() & np.isfinite(column)
    if not text:
        x = nuisance.cast(pl.Float64).fill_null(np.nan).to_numpy()
        known &= np.isfinite(x)
    people, person = np.unique(seen.person[known], return_inverse=True)
    if len(people) < 3:
        return Estimate(np.nan, np.nan, np.nan, len(people))
    if text:
        groups, code = np.unique(nuisance.cast(pl.String).to_numpy()[known].astype(str), return_inverse=True)
        one = between_groups("eta_squared", len(groups)).prepare(code, column[known], person, len(people))
    else:
        one = PEARSON.prepare(x[known], column[known], person, len(people))
    draws = bootstrap([one.of], len(people), resamples=resamples, seed=seed)[:, 0]
    if text:
        return estimate(one.value, draws, len(people), rises=True)[0]
    lower, upper = interval(draws, people=len(people))
    ends = sorted((lower**2, upper**2))
    return Estimate(one.value**2, 0.0 if lower < 0 < upper else ends[0], ends[1], len(people))
