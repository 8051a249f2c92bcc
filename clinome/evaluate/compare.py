"""Are two predictors of the same people different? Paired differences with intervals, and p values.

- :func:`compare`: any metric; the gain's interval from the same resamples of people for both, and a permutation p value: under
  the null hypothesis the two predictors of a person (all rows of a person together) could have been swapped. Where only the order
  of scores counts, ranks are swapped, for the scale of a score says nothing (Venkatraman & Begg 1996).
- :func:`delong`: two AUROCs without resampling. The covariance is of placements (DeLong 1988, with ranks as Sun & Xu 2014,
  O(n log n)); when people have several rows, of sums of placements over people (Obuchowski 1997), which is the same number
  when everybody has one.

References
----------
DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated receiver operating characteristic
curves: a nonparametric approach. Biometrics 44:837–845 (1988), doi:10.2307/2531595.
Sun X, Xu W. Fast implementation of DeLong's algorithm for comparing the areas under correlated receiver operating characteristic
curves. IEEE Signal Processing Letters 21:1389–1393 (2014), doi:10.1109/LSP.2014.2337313.
Obuchowski NA. Nonparametric analysis of clustered ROC curve data. Biometrics 53:567–578 (1997), doi:10.2307/2533958.
Venkatraman ES, Begg CB. A distribution-free procedure for comparing receiver operating characteristic curves from a paired
experiment. Biometrika 83:835–848 (1996), doi:10.1093/biomet/83.4.835.
Pepe MS. The Statistical Evaluation of Medical Tests for Classification and Prediction. Oxford University Press (2003).
Phipson B, Smyth GK. Permutation p-values should never be zero. Statistical Applications in Genetics and Molecular Biology 9:39
(2010), doi:10.2202/1544-6115.1585.

>>> truth, first, second = [0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.6, 0.5, 0.8, 0.9], [0.3, 0.7, 0.2, 0.4, 0.6, 0.5]
>>> found = delong(truth, first, second)
>>> round(found.first.value, 4), round(found.second.value, 4), round(found.gain.value, 4)
(0.8889, 0.6667, 0.2222)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import rankdata

from clinome.evaluate.measuring import RESAMPLES, Metric, estimate, usable
from clinome.stats.resampling import Estimate, bootstrap, participant_codes


class Comparison(NamedTuple):
    """Two predictors of the same people.

    Attributes
    ----------
    gain
        How much better the first is: first − second, or second − first where lower is better.
    p
        Two-sided, of no difference; NaN where it cannot be told.
    method
        How interval and p were made.
    """

    first: Estimate
    second: Estimate
    gain: Estimate
    p: float
    method: str


def compare(
    metric: Metric,
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    participants: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    permutations: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two predictors by any metric, people kept whole in resamples and permutations.

    Parameters
    ----------
    truth, first, second
        Rows of the same examples, as the metric takes them.
    participants, resamples, seed
        See :class:`clinome.evaluate.measuring.Asked`.

    Warnings
    --------
    p is at least 1 / (permutations + 1). Both predictors are taken as they are: what other training data would give is not in it.

    Raises
    ------
    ValueError
        For a metric of which neither higher nor lower is better.
    """
    if metric.higher_is_better is None:
        raise ValueError(f"of {metric.name} neither more nor less is better: there is no gain")
    sign = 1.0 if metric.higher_is_better else -1.0
    known, one, person, n = usable(truth, first, participants)
    two = usable(truth, second, participants)[1]
    prepared = [metric.prepare(known, predicted, person, n) for predicted in (one, two)]
    draws = bootstrap([each.of for each in prepared], n, resamples=resamples, seed=seed)
    values = [each.value for each in prepared]
    gain = sign * (values[0] - values[1])
    fewest = prepared[0].fewest
    of_first, of_second = (estimate(value, draws[:, j], n, fewest=fewest)[0] for j, value in enumerate(values))
    found, how = estimate(gain, sign * (draws[:, 0] - draws[:, 1]), n, fewest=fewest)
    if np.array_equal(one, two):
        found = Estimate(0.0, 0.0, 0.0, n)
    if metric.by_order:  # scores of another scale would change places with those of this one
        one, two = (rankdata(scores) for scores in (one, two))
    # Both predictors' rows side by side, the second's people numbered on: a swap is a matter of counts.
    both = metric.prepare(np.concatenate([known, known]), np.concatenate([one, two]), np.concatenate([person, person + n]), 2 * n)
    generator = np.random.default_rng([seed, n, 1])
    step = max(1, (1 << 21) // n)
    extreme, made = 0, 0
    for start in range(0, permutations, step):
        kept = generator.integers(0, 2, size=(min(step, permutations - start), n)).astype(np.float64)
        swapped = sign * (both.of(np.hstack([kept, 1 - kept])) - both.of(np.hstack([1 - kept, kept])))
        made += int(np.isfinite(swapped).sum())
        extreme += int((np.abs(swapped) >= abs(gain) * (1 - 1e-9) - 1e-12).sum())
    p = (1 + extreme) / (1 + made) if made and np.isfinite(gain) else float("nan")
    return Comparison(of_first, of_second, found, p, f"{how}, paired; p of {made:,} permutations within participants")


def auroc_covariance(
    truth: ArrayLike, scores: ArrayLike, *, participants: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUROCs of several scores on the same rows, shape (n_scores,), and their covariance (n_scores, n_scores).

    Parameters
    ----------
    truth
        0 or 1, shape (n,).
    scores
        Shape (n_scores, n).

    Raises
    ------
    ValueError
        When fewer than two people have a positive or a negative row: nothing can be said of the variance.
    """
    labels, values = np.asarray(truth).astype(bool), np.atleast_2d(np.asarray(scores, dtype=np.float64))
    person, n = participant_codes(participants, len(labels))
    positives, negatives = int(labels.sum()), int((~labels).sum())
    of_positive, of_negative = (np.bincount(person[keep], minlength=n) for keep in (labels, ~labels))
    with_positive, with_negative = int((of_positive > 0).sum()), int((of_negative > 0).sum())
    if min(with_positive, with_negative) < 2:
        raise ValueError(
            f"two people or more need a row of each class, got {with_positive} with a positive, {with_negative} without"
        )
    areas = np.empty(len(values))
    x, y = np.zeros((len(values), n)), np.zeros((len(values), n))
    for k, score in enumerate(values):
        ranks = rankdata(score)
        above = (ranks[labels] - rankdata(score[labels])) / negatives  # share of negatives below each positive
        below = 1 - (ranks[~labels] - rankdata(score[~labels])) / positives
        areas[k] = above.mean()
        x[k] = np.bincount(person[labels], weights=above, minlength=n) - of_positive * areas[k]
        y[k] = np.bincount(person[~labels], weights=below, minlength=n) - of_negative * areas[k]
    s10 = x @ x.T * with_positive / ((with_positive - 1) * positives)
    s01 = y @ y.T * with_negative / ((with_negative - 1) * negatives)
    s11 = x @ y.T * n / (n - 1)
    return areas, s10 / positives + s01 / negatives + (s11 + s11.T) / (positives * negatives)


def delong(truth: ArrayLike, first: ArrayLike, second: ArrayLike, *, participants: ArrayLike | None = None) -> Comparison:
    """Compare the AUROCs of two scores of the same rows by DeLong's test, over people when they have several rows.

    ``truth`` is 0 or 1; all have the shape (n,). Intervals are ± 1.96 standard errors: of the gain as it is, of an AUROC on
    the scale of its logit (Pepe 2003), on which that of few positives does not end too early; a perfect one has none.

    Raises
    ------
    ValueError
        When fewer than two people have a row of a class.
    """
    known, one, _, n = usable(truth, first, participants)
    two = usable(truth, second, participants)[1]
    names = None if participants is None else np.asarray(participants)[np.isfinite(np.asarray(truth, dtype=np.float64))]
    areas, covariance = auroc_covariance(known, [one, two], participants=names)
    of_gain = np.array([1.0, -1.0])
    gain, error = float(of_gain @ areas), float(np.sqrt(max(of_gain @ covariance @ of_gain, 0.0)))
    reach = float(ndtri(0.975))
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    of_first, of_second = (_on_logit(float(area), float(se), reach, n) for area, se in zip(areas, errors, strict=True))
    p = float(2 * ndtr(-abs(gain) / error)) if error > 0 else (1.0 if gain == 0 else float("nan"))
    method = "DeLong" if n == len(known) else "DeLong over participants (Obuchowski)"
    return Comparison(of_first, of_second, Estimate(gain, gain - reach * error, gain + reach * error, n), p, method)


def _on_logit(area: float, error: float, reach: float, n: int) -> Estimate:
    """Return an AUROC with its interval, made on the logit's scale."""
    if not (0 < area < 1 and error > 0):
        return Estimate(area, np.nan, np.nan, n)
    away = reach * error / (area * (1 - area))
    return Estimate(area, float(expit(logit(area) - away)), float(expit(logit(area) + away)), n)
