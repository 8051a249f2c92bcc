"""What a metric is, and how any of them gets its interval: resampling people, never single images.

A metric is prepared once on the truth and the predictions and then answers how large it is when person i counts ``counts[i]``
times. Its value is that of everybody counted once; a thousand resamples are one call with a matrix; two predictors prepared on
the same people and asked the same counts are compared in pairs.

Arguments of the same name mean the same in every function of this room, and are said here once: see :class:`Asked`.

>>> error = Metric("mae", additive(lambda truth, predicted: np.abs(truth - predicted)[:, None], lambda s, n: s[:, 0] / n), False)
>>> table = measure([error], [1.0, 2.0, 3.0, 4.0], [1.5, 2.0, 2.0, 4.5], participants=["a", "a", "b", "c"])
>>> table.select("name", "value", "n").row(0)
('mae', 0.5, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.core.errors import CohortError
from clinome.core.schema import METRICS, check
from clinome.stats.resampling import Estimate, Statistic, bootstrap, interval, participant_codes

RESAMPLES = 1000
_UNDEFINED = 0.1  # share of resamples in which a number may be undefined before there is no interval
Array = NDArray[Any]


class Prepared(NamedTuple):
    """A metric on its data.

    Attributes
    ----------
    value, of
        Its value, and its values for counts of people (n_resamples, n_participants).
    people
        How many have a row in it.
    fewest
        Of those, how many have a row of the rarer class, where it sets one class against the other: with ten positives of a
        thousand people an AUROC is as unsure as of few people. None: ``people``.
    """

    value: float
    of: Statistic
    people: int
    fewest: int | None = None


Prepare = Callable[[Array, Array, NDArray[np.intp], int], Prepared]  # truth, predicted, person of each row, n_participants


@dataclass(frozen=True)
class Metric:
    """A number about predictions.

    Attributes
    ----------
    prepare
        From truth and predictions (rows first), the code of each row's person and the number of people to :class:`Prepared`.
    higher_is_better
        None where neither is (a bias, a prevalence): no gain is computed of it.
    by_order
        Whether only the order of a predictor's scores counts, so that those of two predictors need not be on one scale.
    rises
        Whether it is a share (0 to 1) that is too large by chance, a sum of absolute values or squares, and its resampled values
        too large once more: see :func:`estimate`.
    """

    name: str
    prepare: Prepare
    higher_is_better: bool | None = True
    by_order: bool = False
    rises: bool = False


class Asked(TypedDict, total=False):
    """What can be asked of every measurement by keyword; functions that end in :func:`measure` hand it on as it is.

    Attributes
    ----------
    participants
        The person of each row (or of each image, where a row is a pixel); None, the default: every row is of another. All rows of
        a person are drawn together.
    resamples, seed
        How often people are drawn (:data:`RESAMPLES` by default; 0: no interval), and from which random numbers: functions that
        are given the same people and seed use the same draws.
    predictor, split, subgroup
        What the columns of that name say in the table that comes back: 'model', null and 'all' by default. Of a table of
        predictions ``split`` chooses the rows to measure; None: all.
    """

    participants: ArrayLike | None
    predictor: str
    split: str | None
    subgroup: str
    resamples: int
    seed: int


def additive(
    terms: Callable[[Array, Array], NDArray[np.float64]],
    of: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
) -> Prepare:
    """Return how to prepare a metric that is a function of sums over rows.

    Parameters
    ----------
    terms
        From truth and predictions to the terms to be summed, shape (n_rows, m).
    of
        From sums (n_resamples, m) and numbers of rows (n_resamples,) to values (n_resamples,); infinite is undefined.
    """

    def prepare(truth: Array, predicted: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
        columns = terms(truth, predicted)
        sums = np.column_stack([np.bincount(person, weights=column, minlength=n_participants) for column in columns.T])
        rows = np.bincount(person, minlength=n_participants).astype(np.float64)

        def values(counts: NDArray[np.float64]) -> NDArray[np.float64]:
            with np.errstate(invalid="ignore", divide="ignore"):
                found = np.asarray(of(counts @ sums, counts @ rows), dtype=np.float64)
            return np.where(np.isfinite(found), found, np.nan)

        return Prepared(float(values(np.ones((1, n_participants)))[0]), values, int((rows > 0).sum()))

    return prepare


def measure(
    metrics: Sequence[Metric],
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    participants: ArrayLike | None = None,
    predictor: str = "model",
    split: str | None = None,
    subgroup: str = "all",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure predictions; return ``core.schema.METRICS`` with a row a metric.

    Parameters
    ----------
    truth, predicted
        Rows first. A row whose truth is missing (NaN) is left out.
    participants, predictor, split, subgroup, resamples, seed
        See :class:`Asked`.

    Raises
    ------
    CohortError
        When a prediction is missing or infinite, or nobody is left.
    """
    known, answer, person, n = usable(truth, predicted, participants)
    prepared = [metric.prepare(known, answer, person, n) for metric in metrics]
    draws = bootstrap([one.of for one in prepared], n, resamples=resamples, seed=seed)
    about = {"predictor": predictor, "split": split, "subgroup": subgroup}
    rows = [
        metric_row(metric.name, one.value, drawn, one.people, fewest=one.fewest, rises=metric.rises) | about
        for metric, one, drawn in zip(metrics, prepared, draws.T, strict=True)
    ]
    return metrics_table(rows)


def usable(truth: ArrayLike, predicted: ArrayLike, participants: ArrayLike | None) -> tuple[Array, Array, NDArray[np.intp], int]:
    """Return truth, predictions and people's codes of the rows whose truth is known, and the number of people.

    Raises
    ------
    CohortError
        When a prediction is missing or infinite (a model may not choose its examples), or no row is left.
    """
    labels, answers = np.asarray(truth), np.asarray(predicted)
    if len(labels) != len(answers):
        raise ValueError(f"truth and predictions are rows of the same examples, got {len(labels)} and {len(answers)}")
    names = None if participants is None else np.asarray(participants)
    known = np.isfinite(labels) if labels.ndim == 1 else np.isfinite(labels).any(axis=1)
    if not known.all():
        labels, answers = labels[known], answers[known]
        names = names[known] if names is not None else None
    if not len(labels):
        raise CohortError("there is nobody whose truth is known to measure predictions on")
    if not np.isfinite(answers).all():
        lacking = int((~np.isfinite(answers)).reshape(len(answers), -1).any(axis=1).sum())
        raise CohortError(
            "some examples have no prediction",
            got=f"{lacking:,} of {len(answers):,} are missing or infinite",
            expected="a number for every example, for a predictor may not choose whom it is judged on",
            do="leave these examples out of the table for every predictor, and report how many they are",
        )
    return labels, answers, *participant_codes(names, len(labels))


def estimate(
    value: float, draws: NDArray[np.float64], n: int, *, fewest: int | None = None, rises: bool = False
) -> tuple[Estimate, str]:
    """Return a value with its interval from ``draws`` and how that was made, in words for METRICS.

    Resamples in which the number is undefined (of one class only, say) are left out and counted in the words; there is no
    interval when they are more than a tenth, when there are fewer than two people, or when all resamples give one number (a
    perfect AUROC of ten people is no sure one). It is widened for the ``fewest`` people of a class (see :class:`Prepared`).

    Of a number that ``rises`` by chance (see :class:`Metric`) resamples lie as far above the value as the value lies above the
    truth, so the interval is turned round the value (the basic interval), within 0 and 1, and reaches up to the value at least.
    """
    undefined = int((~np.isfinite(draws)).sum())
    if not len(draws) or not np.isfinite(value):
        return Estimate(value, np.nan, np.nan, n), "none"
    if n < 2:
        return Estimate(value, np.nan, np.nan, n), "none: one person"
    if undefined > _UNDEFINED * len(draws):
        return Estimate(value, np.nan, np.nan, n), f"none: undefined in {undefined:,} of {len(draws):,} resamples of participants"
    if np.nanmax(draws) == np.nanmin(draws):
        return Estimate(value, np.nan, np.nan, n), "none: the same in every resample of participants"
    lower, upper = interval(draws, people=fewest or n)
    if rises:
        lower, upper = max(2 * value - upper, 0.0), min(max(2 * value - lower, value), 1.0)
    how = f"95 % expanded {'basic' if rises else 'percentile'}, {len(draws):,} resamples of participants"
    return Estimate(value, lower, upper, n), how + (f", {undefined:,} undefined" if undefined else "")


def metric_row(
    name: str,
    value: float,
    draws: NDArray[np.float64],
    n: int,
    *,
    predictor: str = "model",
    split: str | None = None,
    subgroup: str = "all",
    fewest: int | None = None,
    rises: bool = False,
) -> dict[str, Any]:
    """Return a row of METRICS from a value, its resampled values, shape (n_resamples,), and the ``n`` people it rests on."""
    found, how = estimate(value, draws, n, fewest=fewest, rises=rises)
    columns = {"name": name, "interval": how, "subgroup": subgroup, "predictor": predictor, "split": split, "n": n}
    return columns | {"value": found.value, "lower": found.lower, "upper": found.upper}


def metrics_table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """Return rows as ``core.schema.METRICS``; what cannot be estimated is null."""
    kinds = {column.name: column.dtype for column in METRICS.columns}
    frame = pl.DataFrame([{name: row.get(name) for name in kinds} for row in rows], schema=kinds, orient="row")
    return check(frame.with_columns(pl.col("value", "lower", "upper").fill_nan(None)), METRICS)
