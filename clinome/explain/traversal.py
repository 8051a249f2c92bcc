"""What changes in pictures along an axis or with an allele: averages of the pictures of people who are alike in it.

A traversal orders people by a number (their score on an axis of an embedding, copies of an allele), averages the pictures of
people who are alike in it, and subtracts the ends. It shows real pictures, unlike a decoder or ascent on a network, so it
cannot invent; it shows everything that goes with the number, so what should not (camera, age) is projected out by giving it as
a covariate. Averages of few people would show people: below ``fewest`` they are counted and withheld. Where a network itself
responds along an axis is the matter of :mod:`clinome.explain.response`.

>>> grey = np.repeat(np.arange(20, dtype=np.uint8), 4 * 4 * 3).reshape(20, 4, 4, 3)
>>> along = traverse(grey, np.arange(20), np.arange(20.0), groups=4)
>>> along.means[:, 0, 0, 0].round(3).tolist(), along.people.tolist()
([2.0, 7.0, 12.0, 17.0], [5, 5, 5, 5])
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.progress import track
from clinome.report.loci import FEWEST

_CHUNK = 512  # pictures held as floats at a time


class Traversal(NamedTuple):
    """Average pictures along an axis.

    Attributes
    ----------
    means
        One picture a group of people, lowest scores first, shape (n_groups, *picture); NaN where withheld.
    people, lower, upper
        How many people a group has, and its lowest and highest score, shape (n_groups,).
    difference
        Change of each pixel for one standard deviation of the score, by regression over all people with covariates projected
        out, shape (*picture); NaN where withheld.
    """

    means: NDArray[np.float64]
    people: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    difference: NDArray[np.float64]


def traverse(
    pictures: NDArray[np.generic],
    person: NDArray[np.int64],
    score: NDArray[np.float64],
    *,
    groups: int = 5,
    covariates: NDArray[np.float64] | None = None,
    fewest: int = FEWEST,
) -> Traversal:
    """Average ``pictures`` in groups of people of like ``score``.

    Every person weighs the same, however many pictures they have. People are cut at the quantiles of the score into groups of
    (nearly) equal number; a score of a few values (copies of an allele) makes a group of each value instead.

    Parameters
    ----------
    pictures
        Shape (n_pictures, …), aligned to each other; mapped from disk if large: one pass is made over them.
    person
        Whose picture each is: a row of ``score``, shape (n_pictures,); −1 leaves a picture out.
    score
        One number a person, shape (n_people,); NaN leaves the person out.
    covariates
        Shape (n_people, n_covariates), not missing where a score is there; projected out of the difference, not of the means.
    fewest
        People that an average must rest on to be shown; the difference needs twice as many.
    """
    seen = np.isfinite(score) & (np.bincount(person[person >= 0], minlength=len(score)) > 0)
    values = np.unique(score[seen])
    order = np.flatnonzero(seen)[np.argsort(score[seen], kind="stable")]
    if len(values) <= groups:
        members = [np.flatnonzero(seen & (score == value)) for value in values]
    else:
        members = np.array_split(order, groups)
    weights = np.zeros((len(members) + 1, len(score)))
    for row, some in zip(weights, members, strict=False):
        row[some] = 1 / max(len(some), 1)
    weights[-1, seen] = slope_weights(score[seen], None if covariates is None else covariates[seen])
    averaged = weighted_means(weights, person, pictures)
    counts = np.array([len(some) for some in members], dtype=np.int64)
    averaged[:-1][counts < fewest] = np.nan
    if seen.sum() < 2 * fewest:
        averaged[-1] = np.nan
    ends = [(score[some].min(), score[some].max()) if len(some) else (np.nan, np.nan) for some in members]
    lower, upper = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    return Traversal(averaged[:-1], counts, lower, upper, averaged[-1])


def slope_weights(score: NDArray[np.float64], covariates: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return weights of people, shape (n,), whose weighted sum of any value is its change for one standard deviation of ``score``.

    They are those of linear regression with an intercept and ``covariates`` (n, k); all 0 where nothing of the score is left.
    """
    design = np.column_stack([np.ones(len(score)), *([] if covariates is None else [covariates])])
    rest = score - design @ np.linalg.lstsq(design, score, rcond=None)[0]
    left = float(rest @ rest)
    spread = float(np.std(score)) if len(score) else 0.0
    return rest * (spread / left) if left > 1e-9 * len(score) * spread**2 > 0 else np.zeros(len(score))


def weighted_means(weights: NDArray[np.float64], person: NDArray[np.int64], pictures: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return Σ over people of weight × the person's average picture, shape (n_sums, *picture), in one pass over the pictures.

    ``weights`` has shape (n_sums, n_people); ``person`` (n_pictures,) is a row of people, −1 for none.
    """
    counted = np.bincount(person[person >= 0], minlength=weights.shape[1])
    total = np.zeros((len(weights), int(np.prod(pictures.shape[1:]))))
    for start in track(range(0, len(pictures), _CHUNK), "average pictures"):
        some = person[start : start + _CHUNK]
        share = np.where(some >= 0, 1 / np.maximum(counted[some], 1), 0.0)
        flat = np.asarray(pictures[start : start + _CHUNK]).reshape(-1, total.shape[1]).astype(np.float32)
        total += (weights[:, some] * share).astype(np.float32) @ flat
    return total.reshape(len(weights), *pictures.shape[1:])
