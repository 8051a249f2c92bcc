"""From many features of a picture to a few axes: averages over a person's pictures, then the axes along which people differ most
*relative to how much pictures of one person differ*.

Features are first whitened by their covariance within people (within-class covariance normalisation), so that a direction in
which eyes, visits, cameras and light disagree does not count as a difference between people; then come principal components.
With one picture a person nothing is known of that, and the axes are plain principal components.

References
----------
Hatch AO, Kajarekar S, Stolcke A. Within-class covariance normalization for SVM-based speaker recognition. Interspeech (2006),
doi:10.21437/Interspeech.2006-183.
Fisher RA. The use of multiple measurements in taxonomic problems. Annals of Eugenics 7:179–188 (1936),
doi:10.1111/j.1469-1809.1936.tb02137.x.

>>> generator = np.random.default_rng(1)
>>> person = np.repeat(np.arange(500), 2)
>>> trait, noise = generator.normal(size=(500, 1))[person], generator.normal(size=(1000, 2))
>>> pictures = trait * [1.0, 0.0] + noise * [0.1, 9.0]  # the second feature varies most, but says nothing about the person
>>> axes = principal_axes(pictures, person, np.arange(500), dimensions=1)
>>> bool(abs(np.corrcoef(axes.of(pictures)[:, 0], trait[:, 0])[0, 1]) > 0.99)
True
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import NotConverged
from clinome.stats.reliability import Estimate, interval, resampled_sums

_BLOCK = 1024  # pictures worked on at a time
_SHRINK = 0.01  # share of the mean variance that is added to the covariance within people before it is inverted


class Axes(NamedTuple):
    """Axes in the space of features; the unit of a score is the standard deviation between pictures of one person.

    Attributes
    ----------
    mean
        Of people, shape (n_features,).
    whitening
        From features to the space in which pictures of a person differ alike in every direction, shape (n_features, n_features).
    loadings
        From features to scores, shape (n_features, n_axes).
    """

    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]
    loadings: NDArray[np.float64]

    def of(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the scores of rows of ``features``: (n, n_features) to (n, n_axes)."""
        return np.vstack(
            [
                (features[start : start + _BLOCK].astype(np.float64) - self.mean) @ self.loadings
                for start in range(0, len(features), _BLOCK)
            ]
        )


def person_means(values: NDArray[np.floating], person: NDArray[np.int64], n_people: int) -> NDArray[np.float64]:
    """Average rows of ``values``, shape (n_images, d), over each person's pictures: (n_people, d), NaN where there is none."""
    total = np.zeros((n_people, values.shape[1]))
    for start in range(0, len(values), _BLOCK):
        np.add.at(total, person[start : start + _BLOCK], values[start : start + _BLOCK].astype(np.float64))
    count = np.bincount(person, minlength=n_people)[:, None]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def within_covariance(
    values: NDArray[np.floating], person: NDArray[np.int64], means: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the covariance of ``values``, shape (n_images, d), around their person's mean; None with one picture a person."""
    free = len(values) - len(np.unique(person))
    if free == 0:
        return None
    total = np.zeros((values.shape[1], values.shape[1]))
    for start in range(0, len(values), _BLOCK):
        apart = values[start : start + _BLOCK].astype(np.float64) - means[person[start : start + _BLOCK]]
        total += apart.T @ apart
    return np.asarray(total / free)


def principal_axes(
    features: NDArray[np.floating], person: NDArray[np.int64], people: NDArray[np.int64], *, dimensions: int
) -> Axes:
    """Return the ``dimensions`` axes along which ``people`` differ most in units of the difference within people.

    The sign of an axis is chosen so that its largest loading is positive (the first of equals).

    Parameters
    ----------
    features
        Shape (n_images, n_features); mapped from disk if large.
    person
        Whose picture each row is, shape (n_images,).
    people
        The numbers in ``person`` to fit on, ascending; each has a picture.

    Raises
    ------
    NotConverged
        When people differ along fewer axes than asked for.
    """
    means = person_means(features, person, int(person.max(initial=-1)) + 1)
    within = within_covariance(features, person, means)
    n_features = features.shape[1]
    whitening = np.eye(n_features)
    if within is not None and np.trace(within) > 0:
        size, turn = np.linalg.eigh(within)
        floor = _SHRINK * max(float(size.mean()), 0.0)
        whitening = (turn / np.sqrt(np.maximum(size, 0.0) + floor)) @ turn.T
    mean = means[people].mean(axis=0)
    centred = (means[people] - mean) @ whitening
    variance, vectors = np.linalg.eigh(centred.T @ centred / max(len(people) - 1, 1))
    able = int((variance > 1e-9 * max(float(variance.sum()), 1e-300)).sum())
    if able < dimensions:
        raise NotConverged(
            "the pictures do not support as many dimensions as asked for",
            got=f"{able} axes along which {len(people):,} people differ",
            expected=f"{dimensions}",
            do=f"ask for {able} dimensions or fewer, or give more people" if able else "look at the pictures: they are all alike",
        )
    loadings = whitening @ vectors[:, ::-1][:, :dimensions]
    largest = loadings[np.argmax(np.abs(loadings), axis=0), np.arange(dimensions)]
    return Axes(mean, whitening, loadings * np.where(largest < 0, -1.0, 1.0))


def variance_shares(people: NDArray[np.float64], axes: Axes, *, seed: int, resamples: int = 500) -> list[Estimate]:
    """Return the share of the (whitened) variance between ``people`` that lies along each axis, intervals by resampling people.

    ``people`` are averaged features, shape (n_people, n_features). The axes are held fixed while people are resampled.
    """
    centred = (people - axes.mean) @ axes.whitening
    scores = (people - axes.mean) @ axes.loadings
    n, k = scores.shape
    per_person = np.column_stack([scores, scores**2, (centred**2).sum(axis=1), centred])

    def share(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        of_axis = sums[:, k : 2 * k] / n - (sums[:, :k] / n) ** 2
        total = sums[:, 2 * k] / n - ((sums[:, 2 * k + 1 :] / n) ** 2).sum(axis=1)
        return np.asarray(of_axis / total[:, None])

    values = share(per_person.sum(axis=0)[None])[0]
    draws = share(resampled_sums(per_person, resamples=resamples, seed=seed))
    return [Estimate(float(values[j]), *interval(draws[:, j]), n) for j in range(k)]
