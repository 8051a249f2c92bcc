"""Metrics that only see how scores order the examples: AUROC, average precision, sensitivity at a fixed specificity.

Examples are sorted once. Positives and negatives at each level of the score, weighted by how often their person is drawn, are then
all that a resample needs: sorting is never repeated. Where few people own many examples (pixels of twenty photographs), the levels
are tables of people and a resample is a matrix product; otherwise weights are gathered in the sorted order.

Of more than 16,384 distinct scores the *resampled* values rest on so many levels of equal numbers of examples, ties within a level
counted half; the value itself is always exact.

References
----------
Hanley JA, McNeil BJ. The meaning and use of the area under a receiver operating characteristic (ROC) curve. Radiology 143:29–36
(1982), doi:10.1148/radiology.143.1.7063747.

>>> round(auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4), round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
(0.75, 0.8333)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinome.evaluate.measuring import Array, Metric, Prepare, Prepared

Weights = NDArray[np.float64]
Curve = Callable[[Weights, Weights], Weights]  # positives and negatives at each level, lowest score first: (b, n_levels) → (b,)
Weigh = Callable[[Weights], Iterator[tuple[Weights, Weights]]]  # counts → positives and negatives at each level, in blocks
_LEVELS = 1 << 14
_AT_ONCE = 1 << 22
_TABLE_PAYS = 25  # a product costs so much less an element than a gather


def _share(part: Weights, whole: Weights) -> Weights:
    """Return part / whole, NaN of nothing."""
    share = np.full(len(whole), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


def auroc_curve(positive: Weights, negative: Weights) -> Weights:
    """Share of pairs in which the positive scores higher, ties counted half."""
    below = np.cumsum(negative, axis=1)
    pairs = below[:, -1] * positive.sum(axis=1)
    won = ((below - negative / 2) * positive).sum(axis=1)
    return _share(won, pairs)


def average_precision_curve(positive: Weights, negative: Weights) -> Weights:
    """Precision at every level as a threshold, weighted by the positives found there (no interpolation, as scikit-learn)."""
    found = np.cumsum(positive[:, ::-1], axis=1)
    called = found + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(found, called, out=np.zeros_like(called), where=called > 0)
    total = found[:, -1]
    return _share((precision * positive[:, ::-1]).sum(axis=1), total)


def _sensitivity_at(specificity: float) -> Curve:
    def of(positive: Weights, negative: Weights) -> Weights:
        below, missed = np.cumsum(negative, axis=1), np.cumsum(positive, axis=1)
        enough = below >= specificity * below[:, -1:] * (1 - 1e-12)
        rows, level = np.arange(len(below)), np.argmax(enough, axis=1)
        total = missed[:, -1]
        return _share(total - missed[rows, level], np.where(below[:, -1] > 0, total, 0.0))

    return of


class Ranking(NamedTuple):
    """Examples sorted by score: positives and negatives at each level (1, n_levels), and the same for counts of people."""

    exact: tuple[Weights, Weights]
    weigh: Weigh
    people: int
    fewest: int

    def prepared(self, curve: Curve) -> Prepared:
        """Return a metric on these ranks."""
        return Prepared(
            float(curve(*self.exact)[0]),
            lambda counts: np.concatenate([curve(*weights) for weights in self.weigh(counts)]),
            self.people,
            self.fewest,
        )


def rank(truth: Array, score: Array, person: NDArray[np.intp], n_participants: int) -> Ranking:
    """Sort examples once, for several metrics: truth 0 or 1 (or False, True), scores and the people's codes, all (n,)."""
    order = np.argsort(score)
    ascending, positive, person = score[order], truth[order].astype(bool), person[order]
    new = np.append(True, ascending[1:] != ascending[:-1])
    level = np.cumsum(new) - 1
    levels = int(level[-1]) + 1
    of_positive, of_all = (np.bincount(some, minlength=levels).astype(np.float64) for some in (level[positive], level))
    if levels > _LEVELS:
        coarse = np.flatnonzero(new) * _LEVELS // len(order)
        level = (np.cumsum(np.append(True, coarse[1:] != coarse[:-1])) - 1)[level]
    tables = _of_people if n_participants * (level[-1] + 1) <= _TABLE_PAYS * len(order) else _of_rows
    people, fewest = len(np.unique(person)), min(len(np.unique(person[some])) for some in (positive, ~positive))
    exact = of_positive[None], (of_all - of_positive)[None]
    return Ranking(exact, tables(positive, level, person, n_participants), people, fewest)


def ranked(curve: Curve) -> Prepare:
    """Return how to prepare a metric that is a function of positives and negatives at each level of the score."""

    def prepare(truth: Array, score: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
        if not len(score):
            return Prepared(float("nan"), lambda counts: np.full(len(counts), np.nan), 0)
        return rank(truth, score, person, n_participants).prepared(curve)

    return prepare


def _of_people(positive: NDArray[np.bool_], level: Array, person: NDArray[np.intp], n_participants: int) -> Weigh:
    """Tables of people × levels, multiplied by the counts."""
    levels = int(level[-1]) + 1
    cell = person * levels + level
    tables = [
        np.bincount(cell[keep], minlength=n_participants * levels).reshape(n_participants, levels).astype(np.float64)
        for keep in (positive, ~positive)
    ]
    step = max(1, _AT_ONCE // levels)

    def weigh(counts: Weights) -> Iterator[tuple[Weights, Weights]]:
        for start in range(0, len(counts), step):
            some = counts[start : start + step]
            yield some @ tables[0], some @ tables[1]

    return weigh


def _of_rows(positive: NDArray[np.bool_], level: Array, person: NDArray[np.intp], n_participants: int) -> Weigh:
    """Counts gathered in the order of the scores; levels of several examples added up."""
    first = np.flatnonzero(np.append(True, level[1:] != level[:-1]))
    step = max(1, _AT_ONCE // len(level))

    def weigh(counts: Weights) -> Iterator[tuple[Weights, Weights]]:
        for start in range(0, len(counts), step):
            every = np.take(counts[start : start + step], person, axis=1)
            positives = every * positive
            every -= positives
            if len(first) < len(level):
                positives, every = (np.add.reduceat(w, first, axis=1) for w in (positives, every))
            yield positives, every

    return weigh


AUROC = Metric("auroc", ranked(auroc_curve), by_order=True)
AVERAGE_PRECISION = Metric("average_precision", ranked(average_precision_curve), by_order=True)


def sensitivity_at_specificity(specificity: float) -> Metric:
    """Return the sensitivity at the lowest threshold that keeps ``specificity`` (in (0, 1)) of the negatives below it.

    The threshold is found again in every resample, so the interval holds its uncertainty.
    """
    if not 0 < specificity < 1:
        raise ValueError(f"a specificity lies between 0 and 1, got {specificity}")
    return Metric(f"sensitivity_at_specificity_{specificity:g}", ranked(_sensitivity_at(specificity)), by_order=True)


def auroc(truth: ArrayLike, score: ArrayLike) -> float:
    """Return the area under the ROC curve of ``score`` for ``truth`` (0 or 1), both of shape (n,); NaN with one class only."""
    return _value(AUROC, truth, score)


def average_precision(truth: ArrayLike, score: ArrayLike) -> float:
    """Return the average precision of ``score`` for ``truth`` (0 or 1), both of shape (n,); NaN without a positive."""
    return _value(AVERAGE_PRECISION, truth, score)


def _value(metric: Metric, truth: ArrayLike, score: ArrayLike) -> float:
    labels, scores = np.asarray(truth).ravel(), np.asarray(score).ravel()
    return metric.prepare(labels, scores, np.zeros(len(labels), dtype=np.intp), 1).value
