"""Where to cut a score in two: chosen from training or validation predictions only.

A threshold that was chosen on the examples it is judged on flatters every number that depends on it, so the functions here
refuse predictions of a split named 'test' (or 'test…').

References
----------
Youden WJ. Index for rating diagnostic tests. Cancer 3:32–35 (1950),
doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3.

>>> found = choose_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], split="validation", rule="sensitivity", at_least=1.0)
>>> found.value, found.sensitivity, found.specificity
(0.35, 1.0, 0.5)
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.core.errors import CohortError
from clinome.evaluate.measuring import usable
from clinome.evaluate.outcomes import outcome

Rule = Literal["youden", "f1", "accuracy", "sensitivity", "specificity", "cost"]


class Threshold(NamedTuple):
    """Scores of ``value`` and above are positive; what that gave where it was chosen, on ``n`` examples of ``split``."""

    value: float
    rule: str
    split: str
    n: int
    sensitivity: float
    specificity: float


def refuse_test(splits: ArrayLike) -> None:
    """Raise when any of ``splits`` is named 'test' or begins so.

    Raises
    ------
    CohortError
        It says how many rows.
    """
    names = np.atleast_1d(np.asarray(splits)).astype(str)
    test = np.char.startswith(np.char.lower(np.char.strip(names)), "test")
    if test.any():
        raise CohortError(
            "nothing is chosen on test predictions",
            got=f"{int(test.sum()):,} of {len(names):,} predictions of the split {str(names[test][0])!r}",
            expected="predictions of 'train', 'validation' or a fold",
            do="predict held-out training examples and choose there",
        )


def choose_threshold(
    truth: ArrayLike,
    score: ArrayLike,
    *,
    split: str,
    rule: Rule = "youden",
    at_least: float = 0.9,
    false_negative_cost: float = 1.0,
) -> Threshold:
    """Choose a threshold for ``score``; ties between thresholds go to the highest.

    Parameters
    ----------
    truth, score
        0 or 1 (NaN unknown: left out), and a number, of one shape (pixels may be many millions).
    split
        Where they are from; 'test' is refused.
    rule
        ``youden``: the largest sensitivity + specificity. ``f1``: the largest F1 (Dice of pixels). ``accuracy``: the most right.
        ``sensitivity``: the highest threshold with a sensitivity of ``at_least``. ``specificity``: the lowest
        with that specificity. ``cost``: the least cost, a missed positive costing ``false_negative_cost`` times a false alarm.

    Raises
    ------
    CohortError
        For test predictions, scores that are missing, or examples of one class only.
    ValueError
        For an unknown rule.
    """
    refuse_test(split)
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; expected one of {', '.join(get_args(Rule))}")
    known, scores, *_ = usable(np.asarray(truth).ravel(), np.asarray(score).ravel(), None)
    labels = known.astype(bool)
    order = np.argsort(scores)[::-1]
    descending = scores[order]
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))  # of equal scores
    tp = np.cumsum(labels[order])[last].astype(np.float64)
    fp = last + 1.0 - tp
    if not len(tp) or not tp[-1] or not fp[-1]:
        raise CohortError("a threshold needs examples of both classes", got=f"{int(labels.sum())} positives of {len(labels)}")
    sensitivity, specificity = tp / tp[-1], 1 - fp / fp[-1]
    merit = _merit(rule, tp, fp, at_least, false_negative_cost)
    best = int(np.argmax(merit))
    if rule == "specificity" and merit[best] == 0:  # even the highest score calls too many: nobody is called
        return Threshold(float(np.nextafter(descending[0], np.inf)), rule, str(split), len(scores), 0.0, 1.0)
    found = float(sensitivity[best]), float(specificity[best])
    return Threshold(float(descending[last[best]]), rule, str(split), len(scores), *found)


def _merit(rule: Rule, tp: NDArray[np.float64], fp: NDArray[np.float64], at_least: float, cost: float) -> NDArray[np.float64]:
    """Return what is to be largest, at each threshold from the highest down."""
    fn, tn = tp[-1] - tp, fp[-1] - fp
    if rule == "youden":
        return np.asarray(tp / tp[-1] + tn / fp[-1])
    if rule == "f1":
        return np.asarray(2 * tp / (2 * tp + fp + fn))
    if rule == "accuracy":
        return np.asarray(tp + tn)
    if rule == "sensitivity":
        return np.asarray(tp >= at_least * tp[-1] * (1 - 1e-12), dtype=np.float64)
    if rule == "specificity":
        enough = tn >= at_least * fp[-1] * (1 - 1e-12)
        return np.where(enough, np.arange(len(tp)) + 1.0, 0.0)
    return np.asarray(-(fp + cost * fn))


def threshold_of(
    predictions: pl.DataFrame,
    target: str,
    *,
    split: str | None = None,
    positive: str | None = None,
    rule: Rule = "youden",
    at_least: float = 0.9,
    false_negative_cost: float = 1.0,
) -> Threshold:
    """Choose a threshold for the positive class of ``target`` in a table of predictions; see :func:`choose_threshold`.

    ``split`` names the rows to choose from (None: all, of which none may be of the test split).

    Raises
    ------
    CohortError
        For rows of the test split, a target that is not of two classes, or examples of one class only.
    """
    refuse_test(predictions["split"] if split is None else split)
    found = outcome(predictions, target, split=split, positive=positive)
    if found.kind != "binary":
        raise CohortError("a threshold cuts a probability of one class", got=f"{target!r}, of kind {found.kind!r}")
    named = split or found.split or ", ".join(sorted(predictions["split"].unique()))
    return choose_threshold(
        found.truth,
        found.predicted,
        split=named,
        rule=rule,
        at_least=at_least,
        false_negative_cost=false_negative_cost,
    )
