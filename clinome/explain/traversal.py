"""What changes in pictures along an axis or with an allele: averages of the pictures of people who are alike in it.

A traversal orders people by a number (their score on an axis of an embedding, copies of an allele), averages the pictures of
people who are alike in it, and regresses every pixel on the number. It shows real pictures, unlike a decoder or ascent on a
network, so it cannot invent; it shows everything that goes with the number, so what should not (camera, age) is projected out by
giving it as a covariate. Averages of few people would show people: below ``fewest`` they are counted and withheld. Where a network
itself responds along an axis is the matter of :mod:`clinome.explain.response`.

>>> grey = np.repeat(np.arange(20, dtype=np.uint8), 4 * 4 * 3).reshape(20, 4, 4, 3)
>>> along = traverse(grey, np.arange(20), np.arange(20.0), groups=4)
>>> along.means[:, 0, 0, 0].round(3).tolist(), along.people.tolist()
([2.0, 7.0, 12.0, 17.0], [5, 5, 5, 5])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clinome.core.progress import track
from clinome.report.loci import FEWEST

_CHUNK = 512  # pictures held as floats at a time
_HELD = 1 << 24  # pixels of people's averages held at a time


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
    standard_error
        Of ``difference``, by the scatter of people around the regression; NaN where withheld, or where people are too few for it.
    freedom
        Degrees of freedom of that: people less coefficients.
    deviation
        The standard deviation of the score over these people: ``difference / deviation`` is the slope, the change a unit of the
        score, such as a copy of an allele, and ``standard_error / deviation`` its error.
    """

    means: NDArray[np.float64]
    people: NDArray[np.int64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    difference: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    freedom: int
    deviation: float

    def clear_of_chance(self, rate: float = 0.05) -> NDArray[np.bool_]:
        """Return where the difference is not 0, by t-tests at a false-discovery ``rate`` over all pixels (Benjamini 1995)."""
        known = self.standard_error > 0
        found = np.zeros(self.difference.shape, dtype=bool)
        if known.any():
            size = np.abs(self.difference[known]) / self.standard_error[known]
            found[known] = stats.false_discovery_control(2 * stats.t.sf(size, self.freedom)) <= rate
        return found


def traverse(
    pictures: NDArray[np.generic],
    person: NDArray[np.int64],
    score: NDArray[np.float64],
    *,
    groups: int = 5,
    alike: NDArray[np.float64] | None = None,
    covariates: NDArray[np.float64] | None = None,
    fewest: int = FEWEST,
) -> Traversal:
    """Average ``pictures`` in groups of people of like ``score``, and regress every pixel on it.

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
    alike
        Numbers that people are grouped by, shape (n_people,), where these are not the score: whole copies of an allele, when the
        score is a dosage.
    covariates
        Shape (n_people, n_covariates), not missing where a score is there; projected out of the difference, not of the means.
    fewest
        People that an average must rest on to be shown; the difference needs twice as many.

    References
    ----------
    Benjamini Y, Hochberg Y. Controlling the false discovery rate. J R Stat Soc B 57:289–300 (1995),
    doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    seen = np.isfinite(score) & (np.bincount(person[person >= 0], minlength=len(score)) > 0)
    members = _members(score if alike is None else alike, seen, groups)
    weights = np.zeros((len(members) + 1, len(score)))
    for row, some in zip(weights, members, strict=False):
        row[some] = 1 / max(len(some), 1)
    projected = None if covariates is None else covariates[seen]
    weights[-1, seen] = slope_weights(score[seen], projected)
    basis = np.zeros((len(score), 0))
    if seen.any():
        spanned = _span(score[seen], projected)
        basis = np.zeros((len(score), spanned.shape[1]))
        basis[seen] = spanned
    sums = np.zeros((len(members) + 1, int(np.prod(pictures.shape[1:]))))
    onto, squares = np.zeros((basis.shape[1], sums.shape[1])), np.zeros(sums.shape[1])
    for people, averages in _of_people(pictures, np.where(seen[person], person, -1)):
        sums += weights[:, people] @ averages
        onto += basis[people].T @ averages
        squares += np.einsum("ij,ij->j", averages, averages)
    freedom = int(seen.sum()) - basis.shape[1]
    left = np.maximum(squares - np.einsum("ij,ij->j", onto, onto), 0.0)
    errors = np.sqrt(left / freedom * (weights[-1] @ weights[-1])) if freedom > 0 else np.full(sums.shape[1], np.nan)
    counts = np.array([len(some) for some in members], dtype=np.int64)
    sums[:-1][counts < fewest] = np.nan
    if seen.sum() < 2 * fewest:
        sums[-1] = errors = np.full(sums.shape[1], np.nan)
    ends = [(score[some].min(), score[some].max()) if len(some) else (np.nan, np.nan) for some in members]
    lower, upper = np.array(ends, dtype=np.float64).reshape(-1, 2).T
    shape = pictures.shape[1:]
    means, difference = sums[:-1].reshape(-1, *shape), sums[-1].reshape(shape)
    spread = float(np.std(score[seen])) if seen.any() else 0.0
    return Traversal(means, counts, lower, upper, difference, errors.reshape(shape), freedom, spread)


def _members(by: NDArray[np.float64], seen: NDArray[np.bool_], groups: int) -> list[NDArray[np.int64]]:
    """Return the people of each group, lowest numbers first: of one value each where there are few, or quantiles."""
    values = np.unique(by[seen])
    if len(values) <= groups:
        return [np.flatnonzero(seen & (by == value)) for value in values]
    return np.array_split(np.flatnonzero(seen)[np.argsort(by[seen], kind="stable")], groups)


def _span(score: NDArray[np.float64], covariates: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return an orthonormal basis of intercept, covariates and score, shape (n, rank)."""
    columns = np.column_stack([np.ones(len(score)), *([] if covariates is None else [covariates]), score])
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, sizes > 1e-9 * sizes[0]])


def _of_people(pictures: NDArray[np.generic], person: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield people, (m,), and the average of each one's pictures, (m, n_pixels), a few people at a time."""
    order = np.argsort(person, kind="stable")
    order = order[np.searchsorted(person[order], 0) :]
    people, first = np.unique(person[order], return_index=True)
    ends = np.append(first, len(order))
    pixels = int(np.prod(pictures.shape[1:]))
    for start in track(range(0, len(people), max(1, _HELD // pixels)), "average pictures"):
        stop = min(start + max(1, _HELD // pixels), len(people))
        rows = order[ends[start] : ends[stop]]
        flat = np.asarray(pictures[rows]).reshape(len(rows), pixels).astype(np.float64)
        cuts = ends[start:stop] - ends[start]
        yield people[start:stop], np.add.reduceat(flat, cuts, axis=0) / np.diff(ends[start : stop + 1])[:, None]


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
