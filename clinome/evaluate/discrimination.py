"""How well predicted probabilities tell classes apart: two classes, several, or several labels at once, with intervals over people.

What depends on a threshold is measured at the threshold given (1/2 by default), which must have been fixed beforehand: see
:mod:`clinome.evaluate.thresholds`. A prediction equal to the threshold is positive. A ratio of nothing (the positive predictive
value where nobody is called positive) is undefined, not 0.

References
----------
Brier GW. Verification of forecasts expressed in terms of probability. Monthly Weather Review 78:1–3 (1950),
doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2. For two classes the mean of (p − y)², half of Brier's sum over classes; for
several, his sum over classes (from 0 to 2).
Brodersen KH et al. The balanced accuracy and its posterior distribution. ICPR (2010), doi:10.1109/ICPR.2010.764.

>>> table = classification([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], resamples=0)
>>> dict(table.select("name", "value").rows())["balanced_accuracy"]
0.75
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.evaluate.measuring import Array, Asked, Metric, Prepare, Prepared, additive, measure
from clinome.evaluate.ranking import AUROC, AVERAGE_PRECISION, sensitivity_at_specificity

Sums = NDArray[np.float64]
_SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1 in the log loss, which is infinite there


def _log(probability: Array) -> Sums:
    return np.asarray(np.log(np.clip(probability, _SMALLEST, 1.0)), dtype=np.float64)


BRIER = Metric("brier", additive(lambda y, p: ((p - y) ** 2)[:, None], lambda s, n: s[:, 0] / n), higher_is_better=False)
LOG_LOSS = Metric(
    "log_loss",
    additive(lambda y, p: -np.where(y == 1, _log(p), _log(1 - p))[:, None], lambda s, n: s[:, 0] / n),
    higher_is_better=False,
)


def at_threshold(threshold: float) -> tuple[Metric, ...]:
    """Return accuracy, balanced accuracy, sensitivity, specificity, predictive values and F1 of scores ≥ ``threshold``.

    F1 of the pixels of a structure is their Dice coefficient.
    """

    def cells(truth: Array, score: Array) -> Sums:
        called, positive = score >= threshold, truth == 1
        return np.column_stack([called & positive, called & ~positive, ~called & positive, ~called & ~positive]).astype(np.float64)

    def metric(name: str, of: Callable[[Sums, Sums, Sums, Sums], Sums]) -> Metric:
        return Metric(name, additive(cells, lambda s, n: of(*s.T)))

    return (
        metric("accuracy", lambda tp, fp, fn, tn: (tp + tn) / (tp + fp + fn + tn)),
        metric("balanced_accuracy", lambda tp, fp, fn, tn: (tp / (tp + fn) + tn / (tn + fp)) / 2),
        metric("sensitivity", lambda tp, fp, fn, tn: tp / (tp + fn)),
        metric("specificity", lambda tp, fp, fn, tn: tn / (tn + fp)),
        metric("ppv", lambda tp, fp, fn, tn: tp / (tp + fp)),
        metric("npv", lambda tp, fp, fn, tn: tn / (tn + fn)),
        metric("f1", lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn)),
    )


def binary_metrics(threshold: float = 0.5, *, specificity: float = 0.9) -> tuple[Metric, ...]:
    """Return the metrics of two classes: truth 0 or 1, the prediction a probability of 1."""
    ranks = (AUROC, AVERAGE_PRECISION, sensitivity_at_specificity(specificity))
    return (*ranks, *at_threshold(threshold), BRIER, LOG_LOSS)


def class_metrics(classes: Sequence[str]) -> tuple[Metric, ...]:
    """Return the metrics of several classes: truth a class's number, predictions a probability a class.

    ``auroc`` and ``average_precision`` are means over the classes that occur, each against the rest (macro);
    ``auroc:<class>`` is each alone.
    """
    of_rest = [[_against_rest(metric, k) for k in range(len(classes))] for metric in (AUROC, AVERAGE_PRECISION)]
    macro = [Metric(one.name, _mean_of(each)) for one, each in zip((AUROC, AVERAGE_PRECISION), of_rest, strict=True)]
    brier = additive(lambda y, p: ((p - _one_hot(y, p.shape[1])) ** 2).sum(axis=1)[:, None], lambda s, n: s[:, 0] / n)
    loss = additive(lambda y, p: -_log(p[np.arange(len(y)), y.astype(np.intp)])[:, None], lambda s, n: s[:, 0] / n)
    hits = additive(lambda y, p: (p.argmax(axis=1) == y)[:, None].astype(np.float64), lambda s, n: s[:, 0] / n)
    alone = [Metric(f"auroc:{name}", prepare) for name, prepare in zip(classes, of_rest[0], strict=True)]
    return (
        *macro,
        Metric("accuracy", hits),
        Metric("balanced_accuracy", additive(_hits_by_class, _mean_recall)),
        Metric("brier", brier, higher_is_better=False),
        Metric("log_loss", loss, higher_is_better=False),
        *alone,
    )


def label_metrics(labels: Sequence[str], threshold: float = 0.5) -> tuple[Metric, ...]:
    """Return the metrics of several labels at once: truth 0 or 1 (NaN unknown) and a probability for each, shape (n, n_labels).

    Each metric of two classes, ``<name>:<label>`` for each label and ``<name>`` for their mean (macro).
    """
    kinds = binary_metrics(threshold)
    macro = [Metric(kind.name, _mean_of([_column(kind, k) for k in range(len(labels))]), kind.higher_is_better) for kind in kinds]
    alone = [
        Metric(f"{kind.name}:{label}", _column(kind, k), kind.higher_is_better) for kind in kinds for k, label in enumerate(labels)
    ]
    return (*macro, *alone)


def classification(
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
    **asked: Unpack[Asked],
) -> pl.DataFrame:
    """Measure probabilities of classes; return METRICS.

    Parameters
    ----------
    truth, probability
        Two classes: 0 or 1, and the probability of 1, both (n,). Several classes: the number of the class (n,), and a probability a
        class (n, n_classes). Several labels: 0 or 1 (n, n_labels), and a probability each (n, n_labels); NaN is an unknown truth.
    classes, labels
        Their names, one a column; give ``labels`` where several can be true of one example.
    threshold
        At which two classes or labels are told apart. Of several classes the most probable counts.
    asked
        See :class:`clinome.evaluate.measuring.Asked`.

    Raises
    ------
    ValueError
        When shapes do not fit.
    CohortError
        As :func:`clinome.evaluate.measuring.measure`.
    """
    known, given = np.asarray(truth, dtype=np.float64), np.asarray(probability)
    if labels is not None:
        if known.shape != given.shape or known.ndim != 2 or known.shape[1] != len(labels):
            raise ValueError(f"labels need truth and probabilities of shape (n, {len(labels)}), got {known.shape}, {given.shape}")
        metrics = label_metrics(labels, threshold)
    elif given.ndim == 2:
        names = [str(k) for k in range(given.shape[1])] if classes is None else list(classes)
        if known.ndim != 1 or len(names) != given.shape[1]:
            raise ValueError(
                f"{len(names)} classes need truth (n,) and probabilities (n, {len(names)}), got {known.shape}, {given.shape}"
            )
        metrics = class_metrics(names)
    else:
        if not np.isin(known[np.isfinite(known)], (0.0, 1.0)).all():
            raise ValueError("truth of two classes is 0 or 1")
        metrics = binary_metrics(threshold)
    return measure(
        metrics,
        known,
        given,
        **asked,
    )


def _one_hot(truth: Array, n_classes: int) -> Sums:
    return np.asarray(truth[:, None] == np.arange(n_classes), dtype=np.float64)


def _hits_by_class(truth: Array, probability: Array) -> Sums:
    member = _one_hot(truth, probability.shape[1])
    return np.hstack([member, member * (probability.argmax(axis=1) == truth)[:, None]])


def _mean_recall(sums: Sums, _: Sums) -> Sums:
    """Mean recall over the classes that occur (as scikit-learn's balanced accuracy)."""
    k = sums.shape[1] // 2
    size, hits = sums[:, :k], sums[:, k:]
    recall = np.divide(hits, size, out=np.zeros_like(hits), where=size > 0)
    return np.asarray(recall.sum(axis=1) / (size > 0).sum(axis=1))


def _against_rest(metric: Metric, k: int) -> Prepare:
    return lambda truth, probability, person, n: metric.prepare(truth == k, probability[:, k], person, n)


def _column(metric: Metric, k: int) -> Prepare:
    """Return how to prepare ``metric`` on column k, over the rows whose truth is known there."""

    def prepare(truth: Array, probability: Array, person: NDArray[np.intp], n: int) -> Prepared:
        known = np.isfinite(truth[:, k])
        return metric.prepare(truth[known, k], probability[known, k], person[known], n)

    return prepare


def _mean_of(prepares: Sequence[Prepare]) -> Prepare:
    """Return how to prepare the mean of those numbers that are defined when everybody counts once."""

    def prepare(truth: Array, predicted: Array, person: NDArray[np.intp], n: int) -> Prepared:
        each = [one(truth, predicted, person, n) for one in prepares]
        each = [one for one in each if np.isfinite(one.value)] or each[:1]
        return Prepared(
            float(np.mean([one.value for one in each])),
            lambda counts: np.mean([one.of(counts) for one in each], axis=0),
            max(one.people for one in each),
            min((one.fewest for one in each if one.fewest is not None), default=None),
        )

    return prepare
