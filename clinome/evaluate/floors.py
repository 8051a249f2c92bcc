"""What the trivial methods achieve on the same split: nothing a model finds counts until it is more than this.

Floors that know no images: the classes' shares (:func:`shares`), the training mean (:func:`training_mean`), and a ridge or
logistic regression on covariates or any other numbers (:func:`linear`). Each learns on the training rows, or on all other folds,
and returns the table of predictions that a model returns, so that :func:`compare_with_floors` can set them side by side.

References
----------
Parker BJ, Günter S, Bedo J. Stratification bias in low signal microarray studies. BMC Bioinformatics 8:326 (2007),
doi:10.1186/1471-2105-8-326: a share learnt from the other folds is low where the held-out fold's is high, so that over all folds it
has an AUROC below one half.

>>> people = pl.DataFrame({"example_id": list("abcd"), "participant_id": list("abcd"), "split": ["train"] * 3 + ["test"],
...                        "age": [60.0, 70.0, 80.0, 90.0]})
>>> training_mean(people, "age").filter(pl.col("split") == "test")["predicted:age"].to_list()
[70.0]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.core.errors import CohortError, SchemaError, need
from clinome.core.schema import PREDICTIONS, check
from clinome.evaluate.measuring import RESAMPLES, metric_row, metrics_table, usable
from clinome.evaluate.outcomes import Outcome, class_names, judged, metrics_of, outcome
from clinome.stats.resampling import bootstrap, participant_codes

_RIDGE = tuple(10.0**k for k in range(-2, 6))  # penalties, features in standard deviations
_LOGISTIC = tuple(10.0**k for k in range(-4, 2))  # inverse penalties
_FOLDS = 5


def shares(examples: pl.DataFrame, target: str, *, fit_on: Sequence[str] | None = ("train",)) -> pl.DataFrame:
    """Predict for everybody the classes' shares among the training rows (the majority, for who wants one class).

    Parameters
    ----------
    examples
        example_id, participant_id, split and ``target`` (null where unknown).
    fit_on
        The splits to learn from; None: splits are folds, and each is predicted from the others.

    Returns
    -------
    pl.DataFrame
        ``core.schema.PREDICTIONS``: the four columns and ``predicted:<target>:<class>``.

    Raises
    ------
    SchemaError
        When a column is missing.
    CohortError
        When nothing is there to learn from.
    """
    names, classes = _classes(examples, target)
    predicted = np.full((examples.height, len(classes)), np.nan)
    for learn, answer in _parts(examples, target, fit_on):
        predicted[answer] = [float((names.gather(learn) == name).to_numpy().mean()) for name in classes]
    return _predictions(examples, target, predicted, classes)


def training_mean(examples: pl.DataFrame, target: str, *, fit_on: Sequence[str] | None = ("train",)) -> pl.DataFrame:
    """Predict for everybody the mean of ``target`` among the training rows; arguments and errors of :func:`shares`."""
    values = examples[target].cast(pl.Float64).to_numpy()
    predicted = np.full(examples.height, np.nan)
    for learn, answer in _parts(examples, target, fit_on):
        predicted[answer] = values[learn].mean()
    return _predictions(examples, target, predicted[:, None], ())


def linear(
    examples: pl.DataFrame,
    target: str,
    features: Sequence[str] | ArrayLike,
    *,
    kind: str | None = None,
    fit_on: Sequence[str] | None = ("train",),
    strengths: Sequence[float] | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Predict by ridge (numbers) or logistic regression (classes) on covariates or other numbers.

    Everything is learnt on the training rows: means (for missing values too) and standard deviations, the levels of text columns,
    and the penalty, by five-fold cross-validation that keeps people whole.

    Parameters
    ----------
    features
        Names of columns of ``examples`` (numbers, or text: one column a level), or numbers (n_examples, n_features).
    kind
        ``number`` or ``classes``; None: text, truth values and whole numbers 0 and 1 are classes.
    fit_on
        See :func:`shares`.
    strengths
        Penalties to try (ridge), or their inverses (logistic, scikit-learn's C).

    Returns
    -------
    pl.DataFrame
        As :func:`shares`, or with ``predicted:<target>``.
    """
    if kind not in (None, "number", "classes"):
        raise ValueError(f"unknown kind {kind!r}; expected 'number' or 'classes'")
    number = kind == "number" or (kind is None and not _looks_like_classes(examples[target]))
    names, classes = (None, ()) if number else _classes(examples, target)
    people = participant_codes(examples["participant_id"].to_numpy(), examples.height)[0]
    predicted = np.full((examples.height, max(len(classes), 1)), np.nan)
    for learn, answer in _parts(examples, target, fit_on):
        table = _table(examples, features, learn)
        lesson = _Lesson(table[learn], people[learn], table[answer])
        if names is None:
            truth = examples[target].cast(pl.Float64).to_numpy()[learn]
            predicted[answer, 0] = _ridge(lesson, truth, strengths or _RIDGE)
        else:
            found = _logistic(lesson, names.gather(learn).to_numpy().astype(str), strengths or _LOGISTIC, seed)
            predicted[answer] = np.column_stack([found.get(name, np.zeros(len(answer))) for name in classes])
    return _predictions(examples, target, predicted, classes)


class _Lesson(NamedTuple):
    """Features to learn from and their people, and features to answer: (n_learn, m), (n_learn,), (n_answer, m)."""

    features: NDArray[np.float64]
    person: NDArray[np.intp]
    asked: NDArray[np.float64]


def _ridge(lesson: _Lesson, truth: NDArray[np.float64], strengths: Sequence[float]) -> NDArray[np.float64]:
    """Learn ``truth`` and return the numbers answered."""
    linear_model, selection = need("sklearn.linear_model", "imaging"), need("sklearn.model_selection", "imaging")
    folds = min(_FOLDS, len(np.unique(lesson.person)))
    if folds < 2:
        return np.full(len(lesson.asked), truth.mean())
    splits = list(selection.GroupKFold(folds).split(truth, groups=lesson.person))
    model = linear_model.RidgeCV(alphas=list(strengths), cv=splits, scoring="neg_mean_squared_error")
    return np.asarray(model.fit(lesson.features, truth).predict(lesson.asked), dtype=np.float64)


def _logistic(lesson: _Lesson, label: NDArray[np.str_], strengths: Sequence[float], seed: int) -> dict[str, NDArray[np.float64]]:
    """Learn ``label`` and return the probabilities answered of each class that occurs in it."""
    classes, count = np.unique(label, return_counts=True)
    if len(classes) == 1:
        return {str(classes[0]): np.ones(len(lesson.asked))}
    linear_model, selection = need("sklearn.linear_model", "imaging"), need("sklearn.model_selection", "imaging")
    of_class = min(len(np.unique(lesson.person[label == name])) for name in classes)
    folds = min(_FOLDS, int(count.min()), of_class)
    strength = strengths[len(strengths) // 2]
    if folds >= 2:
        splits = list(selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(label, label, lesson.person))
        splits = [one for one in splits if len(np.unique(label[one[0]])) == len(classes)]
        losses = [sum(_held_out_loss(linear_model, lesson.features, label, classes, one, c) for one in splits) for c in strengths]
        strength = strengths[int(np.argmin(losses))]
    model = linear_model.LogisticRegression(C=strength, max_iter=1000).fit(lesson.features, label)
    return dict(zip(map(str, model.classes_), model.predict_proba(lesson.asked).T, strict=True))


def _held_out_loss(
    linear_model: Any,
    table: NDArray[np.float64],
    label: NDArray[np.str_],
    classes: NDArray[np.str_],
    split: tuple[NDArray[np.intp], NDArray[np.intp]],
    strength: float,
) -> float:
    model = linear_model.LogisticRegression(C=strength, max_iter=1000).fit(table[split[0]], label[split[0]])
    probability = model.predict_proba(table[split[1]])[np.arange(len(split[1])), np.searchsorted(classes, label[split[1]])]
    return float(-np.log(np.maximum(probability, 1e-12)).sum())


def _table(examples: pl.DataFrame, features: Sequence[str] | ArrayLike, learn: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return features in standard deviations of the rows to learn from: (n_examples, n_columns)."""
    if isinstance(features, Sequence) and all(isinstance(name, str) for name in features):
        if absent := [name for name in features if name not in examples.columns]:
            raise SchemaError(f"column {absent[0]!r} is missing", where="the examples of a floor", got=", ".join(examples.columns))
        columns = [column for name in features for column in _numbers(examples[str(name)], learn)]
        table = np.column_stack(columns)
    else:
        table = np.asarray(features, dtype=np.float64)
        if table.ndim != 2 or len(table) != examples.height:
            raise ValueError(f"features must have the shape (n_examples = {examples.height}, n_features), got {table.shape}")
    seen = np.where(np.isfinite(table[learn]), table[learn], np.nan)
    known = np.isfinite(seen).any(axis=0)
    table, seen = table[:, known], seen[:, known]
    mean, deviation = np.nanmean(seen, axis=0), np.nanstd(seen, axis=0)
    return np.where(np.isfinite(table), (table - mean) / np.where(deviation > 1e-12, deviation, 1.0), 0.0)


def _numbers(column: pl.Series, learn: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
    """Yield a column of numbers, or a 0/1 column for each level of text seen in the rows to learn from."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        yield column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return
    text = column.cast(pl.String)
    for level in text.gather(learn).drop_nulls().unique().sort():
        yield (text == level).cast(pl.Float64).fill_null(np.nan).to_numpy()


def _parts(
    examples: pl.DataFrame, target: str, fit_on: Sequence[str] | None
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield rows to learn from (their truth is known) and rows to answer."""
    for name in ("example_id", "participant_id", "split", target):
        if name not in examples.columns:
            raise SchemaError(f"column {name!r} is missing", where="the examples of a floor", got=", ".join(examples.columns))
    split, column = examples["split"].to_numpy(), examples[target]
    known = (column.is_not_null() & (column.is_not_nan() if column.dtype.is_float() else True)).to_numpy()
    if fit_on is None:
        parts = [(known & (split != fold), split == fold) for fold in np.unique(split)]
    else:
        parts = [(known & np.isin(split, list(fit_on)), np.ones(len(split), dtype=bool))]
    for learn, answer in parts:
        if not learn.any():
            raise CohortError(
                f"there is no example with a known {target!r} to learn from",
                got=", ".join(map(str, np.unique(split))),
                expected="another fold" if fit_on is None else f"rows of the split {' or '.join(fit_on)}",
            )
        yield np.flatnonzero(learn), np.flatnonzero(answer)


def _classes(examples: pl.DataFrame, target: str) -> tuple[pl.Series, tuple[str, ...]]:
    if target not in examples.columns:
        raise SchemaError(f"column {target!r} is missing", where="the examples of a floor", got=", ".join(examples.columns))
    names = class_names(examples[target])
    return names, tuple(names.drop_nulls().unique().sort())


def _looks_like_classes(column: pl.Series) -> bool:
    if column.dtype.is_integer():
        return set(column.drop_nulls().unique()) <= {0, 1}
    return not column.dtype.is_numeric()


def _predictions(examples: pl.DataFrame, target: str, predicted: NDArray[np.float64], classes: tuple[str, ...]) -> pl.DataFrame:
    columns = [f"predicted:{target}:{name}" for name in classes] or [f"predicted:{target}"]
    table = examples.select("example_id", "participant_id", "split", target)
    return check(table.with_columns(pl.Series(name, predicted[:, j]) for j, name in enumerate(columns)), PREDICTIONS)


def compare_with_floors(
    predictions: pl.DataFrame,
    floors: Mapping[str, pl.DataFrame],
    target: str,
    *,
    split: str | None = "test",
    positive: str | None = None,
    threshold: float | Mapping[str, float] = 0.5,
    training_mean: float | None = None,
    predictor: str = "model",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Set a model beside floors on the same examples; return METRICS of each, and the model's paired gains.

    A gain is in rows named ``gain:<metric>`` of the predictor ``<model> against <floor>``; it is positive where the model is better
    (also of errors, of which less is better), and its interval is of the same resamples of participants for both.

    Folds are measured together, not each alone and averaged: a fold can be too small to hold both classes, and people are resampled
    over all. What goes by order (AUROC) thereby compares the numbers of different networks, whose scales may differ, which usually
    lowers it. A floor that tells everybody in a fold the same is measured as one that tells everybody the same (Parker 2007).

    Parameters
    ----------
    predictions, floors
        ``core.schema.PREDICTIONS`` of the model, and of each floor by its name; floors may hold more examples than the model.
    split, positive, training_mean, predictor, resamples, seed
        As :func:`clinome.evaluate.outcomes.evaluate`.
    threshold
        For two classes, fixed beforehand: of everybody, or by the name of a predictor (who is not named has 1/2). A threshold suits
        the probabilities that it was chosen on, so one chosen for the model is given for the model alone.

    Raises
    ------
    ValueError
        When ``threshold`` names nobody's predictor.
    CohortError
        When a floor lacks an example of the model, or holds it in another split or with another truth.
    """
    found = judged(predictions, target, split=split, positive=positive)
    positive = found.classes[1] if found.kind == "binary" else None
    names, every = (
        [predictor, *floors],
        [found.predicted, *(_same(floor, found, target, positive, n) for n, floor in floors.items())],
    )
    truth, _, person, n = usable(found.truth, found.predicted, found.participants)
    known = np.isfinite(found.truth)
    if split is None:
        every = [_levelled(predicted, predictions["split"].to_numpy()) for predicted in every]
    cuts = threshold if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
    if unknown := set(cuts) - set(names):
        raise ValueError(f"a threshold is given for {min(unknown)!r}; the predictors are {', '.join(names)}")
    of_each = [metrics_of(found, threshold=cuts.get(name, 0.5), training_mean=training_mean) for name in names]
    metrics = of_each[0]
    prepared = [
        [own[i].prepare(truth, predicted[known], person, n) for own, predicted in zip(of_each, every, strict=True)]
        for i in range(len(metrics))
    ]
    draws = bootstrap([one.of for of_metric in prepared for one in of_metric], n, resamples=resamples, seed=seed)
    rows: list[dict[str, Any]] = []
    for i, metric in enumerate(metrics):
        drawn_of = draws[:, i * len(names) : (i + 1) * len(names)]
        for j, (name, one) in enumerate(zip(names, prepared[i], strict=True)):
            rows.append(
                metric_row(metric.name, one.value, drawn_of[:, j], one.people, fewest=one.fewest)
                | {"predictor": name, "split": found.split}
            )
            if j and metric.higher_is_better is not None:
                sign = 1.0 if metric.higher_is_better else -1.0
                gain, drawn = sign * (prepared[i][0].value - one.value), sign * (drawn_of[:, 0] - drawn_of[:, j])
                against = f"{predictor} against {name}"
                rows.append(
                    metric_row(f"gain:{metric.name}", gain, drawn, one.people, fewest=one.fewest)
                    | {"predictor": against, "split": found.split}
                )
    return metrics_table(rows).with_columns(target=pl.lit(target))


def _levelled(predicted: NDArray[np.float64], fold: NDArray[Any]) -> NDArray[np.float64]:
    """Return predictions; of who tells everybody in a fold the same, one for all, for it orders nobody (Parker 2007)."""
    folds, of = np.unique(fold.astype(str), return_inverse=True)
    first = predicted[[int(np.argmax(of == k)) for k in range(len(folds))]]
    alike = np.bincount(of).min() > 1 and np.array_equal(predicted, first[of])
    return np.broadcast_to(predicted.mean(axis=0), predicted.shape) if alike else predicted


def _same(floor: pl.DataFrame, model: Outcome, target: str, positive: str | None, name: str) -> NDArray[np.float64]:
    """Return a floor's predictions in the order of the model's examples."""
    place = {example: i for i, example in enumerate(floor["example_id"])}
    lacking = [example for example in model.example_ids if example not in place]
    if lacking:
        raise CohortError(
            f"the floor {name!r} has no prediction of an example of the model",
            got=f"{lacking[0]} and {len(lacking) - 1:,} more" if len(lacking) > 1 else lacking[0],
            do="compute the floor on the same table of examples",
        )
    rows = floor[[place[example] for example in model.example_ids]]
    found = outcome(rows, target, positive=positive)
    if found.kind != model.kind or (model.kind == "classes" and not set(found.classes) <= set(model.classes)):
        raise CohortError(
            f"the floor {name!r} predicts something else", got=", ".join(found.classes), expected=", ".join(model.classes)
        )
    predicted = found.predicted
    truth = found.truth
    if model.kind == "classes":
        place_of = np.array([model.classes.index(one) for one in found.classes])
        predicted = np.zeros((len(truth), len(model.classes)))
        predicted[:, place_of] = found.predicted
        truth = np.where(np.isfinite(truth), place_of[np.nan_to_num(truth).astype(np.intp)], np.nan)
    if model.split is not None and found.split != model.split:
        raise CohortError(f"the floor {name!r} holds examples in another split", got=found.split, expected=model.split)
    if not np.allclose(truth, model.truth, equal_nan=True):
        raise CohortError(f"the floor {name!r} holds another truth of {target!r} for the same examples")
    if not np.isfinite(predicted).all():
        raise CohortError(f"the floor {name!r} lacks predictions of some examples")
    return predicted


def in_words(table: pl.DataFrame, *, digits: int = 3) -> str:
    """Return METRICS as text: a line a metric, a column a predictor, and below it the gains against each floor.

    >>> rows = [("auroc", "model", 0.9), ("auroc", "shares", 0.5), ("gain:auroc", "model against shares", 0.4)]
    >>> table = pl.DataFrame(rows, schema=["name", "predictor", "value"], orient="row")
    >>> print(in_words(table.with_columns(lower=None, upper=None, interval=pl.lit("none"), subgroup=pl.lit("all"))))
            model  shares
    auroc   0.900  0.500
      gain         +0.400
    """
    who = [name for name in table["predictor"].unique(maintain_order=True) if " against " not in str(name)]
    body: dict[str, dict[str, str]] = {}
    for row in table.iter_rows(named=True):
        gain = row["name"].startswith("gain:")
        column = row["predictor"].split(" against ")[1] if gain else row["predictor"]
        label = row["name"].removeprefix("gain:") + ("" if row["subgroup"] == "all" else f" ({row['subgroup']})")
        value = "undefined" if row["value"] is None else f"{row['value']:{'+' if gain else ''}.{digits}f}"
        reach = "" if row["lower"] is None else f" [{row['lower']:.{digits}f}, {row['upper']:.{digits}f}]"
        body.setdefault(f"{label}\n  gain" if gain else label, {})[column] = value + reach
    lines = [
        ["", *map(str, who)],
        *([label.split("\n")[-1], *(cells.get(name, "") for name in who)] for label, cells in body.items()),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(who) + 1)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
