"""From many features of a picture to a few axes along which people differ: averages over pictures, then principal components.

>>> generator = np.random.default_rng(1)
>>> people = generator.normal(size=(500, 1)) * [3.0, 4.0] + 0.1 * generator.normal(size=(500, 2))
>>> principal_axes(people, 1).loadings.round(1).ravel().tolist()
[0.6, 0.8]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import NotConverged
from clinome.stats.reliability import Estimate, interval, resampled_sums

_BLOCK = 1024  # pictures worked on at a time


class Axes(NamedTuple):
    """Principal axes of people: ``mean`` (n_features,), ``loadings`` (n_features, n_axes)."""

    mean: NDArray[np.float64]
    loadings: NDArray[np.float64]


def person_means(values: NDArray[np.floating], person: NDArray[np.int64], n_people: int) -> NDArray[np.float64]:
    """Average rows of ``values``, shape (n_images, d), over each person's pictures: (n_people, d), NaN for nobody's."""
    total = np.zeros((n_people, values.shape[1]))
    for start in range(0, len(values), _BLOCK):
        np.add.at(total, person[start : start + _BLOCK], values[start : start + _BLOCK].astype(np.float64))
    count = np.bincount(person, minlength=n_people)[:, None]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def principal_axes(people: NDArray[np.float64], dimensions: int) -> Axes:
    """Return the ``dimensions`` axes along which ``people``, shape (n_people, n_features), differ most.

    The sign of an axis is chosen so that its largest loading is positive (the first of equals).

    Raises
    ------
    NotConverged
        When the features vary along fewer axes than asked for.
    """
    mean = people.mean(axis=0)
    centred = people - mean
    variance, vectors = np.linalg.eigh(centred.T @ centred / max(len(people) - 1, 1))
    variance, loadings = variance[::-1], vectors[:, ::-1]
    able = int((variance > 1e-9 * max(float(variance.sum()), 1e-300)).sum())
    if able < dimensions:
        raise NotConverged(
            "the pictures do not support as many dimensions as asked for",
            got=f"{able} axes along which {len(people):,} people differ",
            expected=f"{dimensions}",
            do=f"use --dimensions {max(able, 1)} or fewer, or more people" if able else "look at the pictures: they are all alike",
        )
    loadings = loadings[:, :dimensions]
    largest = loadings[np.argmax(np.abs(loadings), axis=0), np.arange(dimensions)]
    return Axes(mean, loadings * np.where(largest < 0, -1.0, 1.0))


def variance_shares(people: NDArray[np.float64], axes: Axes, *, seed: int, resamples: int = 500) -> list[Estimate]:
    """Return the share of the variance between ``people`` that lies along each axis, intervals by resampling people.

    The axes are held fixed while people are resampled.
    """
    centred = people - axes.mean
    scores = centred @ axes.loadings
    n, k = scores.shape
    per_person = np.column_stack([scores, scores**2, (centred**2).sum(axis=1), centred])

    def share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        of_axis = sums[:, k : 2 * k] / n - (sums[:, :k] / n) ** 2
        total = sums[:, 2 * k] / n - ((sums[:, 2 * k + 1 :] / n) ** 2).sum(axis=1)
        return np.asarray(of_axis / total[:, None])

    values = share(per_person.sum(axis=0)[None])[0]
    draws = share(resampled_sums(per_person, resamples=resamples, seed=seed))
    return [Estimate(float(values[j]), *interval(draws[:, j]), n) for j in range(k)]
