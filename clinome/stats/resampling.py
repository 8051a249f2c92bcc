"""How far a number would move with other people: resampling participants with replacement, everything of a person together.

Images, eyes and visits of one person resemble each other, so they are never drawn apart. A resample is a vector of counts, how
often each person is in it, and a statistic is a function of such counts; many resamples are one matrix, and every number about
the same people, from one model or from two, comes from the same resamples, so that differences are paired.

The interval is the middle 95 % of the resampled values (percentile interval). With few people that is too narrow, for a
resample varies less than a sample by the factor √((n − 1)/n) and its quantiles are normal where Student's are meant;
``interval(…, people=n)`` moves the two quantiles outward by just that (Hesterberg's expanded percentile interval).

References
----------
Efron B, Tibshirani RJ. An Introduction to the Bootstrap (1993), chapter 13 (percentile interval).
Hesterberg TC. What teachers should know about the bootstrap. The American Statistician 69:371–386 (2015),
doi:10.1080/00031305.2015.1089789 (expanded percentile interval).
Field CA, Welsh AH. Bootstrapping clustered data. Journal of the Royal Statistical Society B 69:369–390 (2007),
doi:10.1111/j.1467-9868.2007.00593.x (whole clusters are drawn).

>>> heights = np.array([170.0, 181.0, 165.0, 174.0, 190.0, 177.0])
>>> draws = bootstrap([lambda counts: counts @ heights / counts.sum(axis=1)], len(heights), resamples=2000, seed=1)
>>> lower, upper = interval(draws[:, 0], people=len(heights))
>>> bool(lower < heights.mean() < upper)
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # counts (n_resamples, n_participants) → values (n_resamples,)
_AT_ONCE = 1 << 22  # resampling weights held at a time


class Estimate(NamedTuple):
    """A number with its 95 % interval and how many people it rests on; NaN where it cannot be estimated."""

    value: float
    lower: float
    upper: float
    n: int


def participant_counts(n_participants: int, *, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each person is drawn, in blocks of shape (some resamples, n_participants); rows add up to n_participants.

    The draws depend on ``seed`` and the number of people alone, so statistics of the same people share them.
    """
    generator = np.random.default_rng([seed, n_participants])
    step = max(1, _AT_ONCE // max(n_participants, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, n_participants, size=(rows, n_participants)) + n_participants * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_participants)
        yield counts.reshape(rows, n_participants).astype(np.float64)


def bootstrap(statistics: Sequence[Statistic], n_participants: int, *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return every statistic over the same draws of people with replacement: shape (resamples, len(statistics))."""
    values = np.empty((resamples, len(statistics)))
    done = 0
    for counts in participant_counts(n_participants, resamples=resamples, seed=seed):
        for j, statistic in enumerate(statistics):
            values[done : done + len(counts), j] = statistic(counts)
        done += len(counts)
    return values


def resampled_sums(per_person: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Return sums of ``per_person``, shape (n_participants, m), over people drawn with replacement: shape (resamples, m).

    The draws are those of :func:`participant_counts`.
    """
    sums = np.empty((resamples, per_person.shape[1]))
    done = 0
    for counts in participant_counts(len(per_person), resamples=resamples, seed=seed):
        sums[done : done + len(counts)] = counts @ per_person
        done += len(counts)
    return sums


def interval(draws: NDArray[np.float64], *, people: int | None = None) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of the finite ``draws``, widened for few ``people``; NaN when there are none."""
    draws = draws[np.isfinite(draws)]
    if not len(draws) or (people is not None and people < 2):
        return float("nan"), float("nan")
    tail = 0.025 if people is None else float(ndtr(-np.sqrt(people / (people - 1)) * stdtrit(people - 1, 0.975)))
    lower, upper = np.quantile(draws, [tail, 1 - tail])
    return float(lower), float(upper)


def participant_codes(participants: ArrayLike | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Number the people 0, 1, … in the order of their names: a code a row and how many people; None is a person a row.

    Raises
    ------
    ValueError
        When there is not one name a row, or a name is missing: all whose name is missing would be one person.
    """
    if participants is None:
        return np.arange(n, dtype=np.intp), n
    names = np.asarray(participants)
    if names.shape != (n,):
        raise ValueError(f"participants must name the person of each of the {n} rows, got the shape {names.shape}")
    if names.dtype.kind in "Of" and (missing := int(np.sum([name is None or name != name for name in names.tolist()]))):
        raise ValueError(f"participants must name the person of each row, {missing} of {n} are missing")
    known, code = np.unique(names if names.dtype.kind in "iub" else names.astype(str), return_inverse=True)
    return code.astype(np.intp), len(known)
