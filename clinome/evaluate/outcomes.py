"""From a table of predictions to what metrics take: the truth and the predictions of one target, and whose they are.

``predicted:<target>`` is a number; ``predicted:<target>:<class>`` are probabilities, one column a class. With two classes the
*positive* one is that asked for, or the one whose name sorts last (0 < 1, false < true, no < yes); a single column of a
probability is that of the positive class, and every other truth is negative.

>>> table = pl.DataFrame({"example_id": ["a", "b"], "participant_id": ["1", "2"], "split": ["test", "test"],
...                       "sex": ["female", "male"], "predicted:sex:female": [0.9, 0.2], "predicted:sex:male": [0.1, 0.8]})
>>> outcome(table, "sex").classes, outcome(table, "sex", positive="female").predicted.tolist()
(('female', 'male'), [0.9, 0.2])
>>> evaluate(table, "sex", resamples=0).select("name", "value", "target", "split").row(0)
('auroc', 1.0, 'sex', 'test')
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, SchemaError
from clinome.core.schema import PREDICTIONS, check
from clinome.evaluate.discrimination import binary_metrics, class_metrics
from clinome.evaluate.measuring import RESAMPLES, Array, Metric, measure
from clinome.evaluate.regression import regression_metrics

Kind = Literal["number", "binary", "classes"]


class Outcome(NamedTuple):
    """One target of a table of predictions.

    Attributes
    ----------
    truth
        Numbers; 1 where the class is the positive one, else 0; or the class's place in ``classes``: (n,), NaN where unknown.
    predicted
        Numbers or probabilities of the positive class (n,), or a probability a class (n, n_classes).
    classes
        Their names; of two classes the negative one first; empty for a number.
    split
        Of the rows, or null when they are of several.
    """

    kind: Kind
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    classes: tuple[str, ...]
    participants: Array
    example_ids: tuple[str, ...]
    split: str | None


def outcome(predictions: pl.DataFrame, target: str, *, split: str | None = None, positive: str | None = None) -> Outcome:
    """Read ``target`` from a table of predictions (``core.schema.PREDICTIONS``).

    Parameters
    ----------
    split
        The rows to read; None: all (folds that were each held out).
    positive
        The class whose probability counts; None: of two classes the one whose name sorts last, of more all.

    Raises
    ------
    SchemaError
        When the table lacks the target or its predictions, names an unknown class, or holds no probabilities in [0, 1].
    CohortError
        When no row is of ``split``.
    """
    table = check(predictions, PREDICTIONS)
    if split is not None:
        rows = table.filter(pl.col("split") == split)
        if not rows.height:
            raise CohortError(
                f"no prediction is of the split {split!r}", got=", ".join(map(str, table["split"].unique().sort())), expected=split
            )
        table = rows
    if target not in table.columns:
        raise SchemaError(
            f"the predictions have no column {target!r}", where="table 'predictions'", expected="the truth, null unknown"
        )
    number, prefix = f"predicted:{target}", f"predicted:{target}:"
    of_classes = [name for name in table.columns if name.startswith(prefix)]
    if (number in table.columns) == bool(of_classes):
        found = ", ".join(name for name in table.columns if name.startswith("predicted:")) or "none"
        expected = f"'{number}' (a number), or '{prefix}<class>' (probabilities)"
        raise SchemaError(f"the predictions of {target!r} are not one or the other", got=found, expected=expected)
    people, examples = table["participant_id"].to_numpy(), tuple(table["example_id"])
    splits = table["split"].unique().to_list()
    whole = splits[0] if len(splits) == 1 else None
    if not of_classes:
        truth, predicted = (table[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in (target, number))
        return Outcome("number", truth, predicted, (), people, examples, whole)
    kind, truth, predicted, classes = _classes(table, target, [name.removeprefix(prefix) for name in of_classes], positive)
    return Outcome(kind, truth, predicted, classes, people, examples, whole)


def judged(predictions: pl.DataFrame, target: str, *, split: str | None = None, positive: str | None = None) -> Outcome:
    """Read ``target`` to measure it: as :func:`outcome`, but rows that were learnt from or chosen on are not judged with others.

    Raises
    ------
    CohortError
        When ``split`` is None and the rows are of several splits that are no folds: of 'train' or 'validation' beside others.
    """
    names = sorted(set(predictions["split"].unique().to_list()) if split is None and "split" in predictions.columns else ())
    seen = [name for name in names if str(name).lower().startswith(("train", "valid"))]
    if seen and len(names) > 1:
        raise CohortError(
            "rows that were learnt from or chosen on are not judged together with others",
            got=f"the splits {', '.join(map(str, names))}",
            expected="one split, or folds that were each held out",
            do=f"say split={next((name for name in names if name not in seen), names[0])!r}",
        )
    return outcome(predictions, target, split=split, positive=positive)


def _classes(
    table: pl.DataFrame, target: str, classes: list[str], positive: str | None
) -> tuple[Kind, NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Read probabilities and the truth of classes."""
    names = class_names(table[target])
    probability = table.select(f"predicted:{target}:{name}" for name in classes).cast(pl.Float64).fill_null(np.nan).to_numpy()
    if ((probability < -1e-6) | (probability > 1 + 1e-6)).any():
        raise SchemaError(
            f"predictions of {target!r} are not probabilities",
            got=f"from {np.nanmin(probability):.3g} to {np.nanmax(probability):.3g}",
            expected="numbers from 0 to 1",
            do="turn scores into probabilities (clinome.evaluate.calibration), or rank them with clinome.evaluate.ranking",
        )
    if positive is not None and positive not in classes:
        raise SchemaError(f"no column predicts the class {positive!r} of {target!r}", got=", ".join(classes))
    unknown = names.null_count() < len(names) and len(classes) > 1 and set(names.drop_nulls()) - set(classes)
    if unknown:
        raise SchemaError(
            f"{target!r} has classes without a prediction", got=", ".join(sorted(unknown)), expected=", ".join(classes)
        )
    known = names.is_not_null().to_numpy()
    if len(classes) > 2 and positive is None:
        place = {name: float(i) for i, name in enumerate(classes)}
        truth = names.replace_strict(place, default=None, return_dtype=pl.Float64).fill_null(np.nan).to_numpy()
        return "classes", truth, probability, tuple(classes)
    one = positive if positive is not None else max(classes)
    truth = np.where(known, (names == one).fill_null(False).to_numpy(), np.nan).astype(np.float64)
    others = [name for name in classes if name != one]
    return "binary", truth, probability[:, classes.index(one)], (others[0] if len(others) == 1 else f"not {one}", one)


def class_names(values: pl.Series) -> pl.Series:
    """Return the classes of a column as text: whole numbers without a point, null where missing."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
        if bool((values.drop_nulls() % 1 == 0).all()):
            values = values.cast(pl.Int64)
    return values.cast(pl.String)


def metrics_of(found: Outcome, *, threshold: float = 0.5, training_mean: float | None = None) -> tuple[Metric, ...]:
    """Return the metrics that fit the kind of a target."""
    if found.kind == "number":
        return regression_metrics(training_mean)
    return class_metrics(found.classes) if found.kind == "classes" else binary_metrics(threshold)


def evaluate(
    predictions: pl.DataFrame,
    target: str,
    *,
    split: str | None = None,
    positive: str | None = None,
    threshold: float = 0.5,
    training_mean: float | None = None,
    predictor: str = "model",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure the predictions of ``target``; return METRICS, intervals by resampling participants. Errors as :func:`judged`.

    Classes get the metrics of :mod:`clinome.evaluate.discrimination`, numbers those of :mod:`clinome.evaluate.regression`.

    Parameters
    ----------
    predictions, split, positive
        See :func:`outcome`.
    threshold
        For two classes; fix it beforehand with :func:`clinome.evaluate.thresholds.choose_threshold`.
    training_mean
        For numbers: what R² compares with.
    predictor, resamples, seed
        See :class:`clinome.evaluate.measuring.Asked`.
    """
    found = judged(predictions, target, split=split, positive=positive)
    table = measure(
        metrics_of(found, threshold=threshold, training_mean=training_mean),
        found.truth,
        found.predicted,
        participants=found.participants,
        predictor=predictor,
        split=found.split,
        resamples=resamples,
        seed=seed,
    )
    return table.with_columns(target=pl.lit(target))
