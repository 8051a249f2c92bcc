"""A trained network beside each floor: what each reaches with its interval, the paired gains, and what they allow to say.

A gain is of the same people for both, positive where the network is better, whatever the measure (``core.schema.METRICS``: rows
named 'gain:<measure>' of 'model against <floor>'). Where its 95 % interval holds 0 the page says that the network is not shown to
be better, and of a floor without such a gain that it was not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinome.core.errors import SchemaError
from clinome.core.schema import METRICS, OVERLAPS, PREDICTIONS
from clinome.report.drawing import Axis, axis, axis_mark, interval_mark
from clinome.report.numbers import decimals, plain, whole
from clinome.report.reading import json_object, lazy_table, table

MAIN = ("auroc", "mae", "dice", "accuracy")  # the measure a task is first judged by: of those it has, the first
NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "pearson_r": "correlation r",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "jaccard": "Jaccard",
    "hausdorff_95": "95 % Hausdorff distance",
    "error": "error in standard deviations",  # of numbers, while a network is trained
}
LESS_IS_BETTER = ("mae", "rmse", "brier", "log_loss", "ece", "hausdorff_95", "surface_distance", "missed", "invented")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval (None: none) and how that was made."""

    value: float | None
    lower: float | None
    upper: float | None
    interval: str

    def words(self, digits: int = 3) -> str:
        """Write it as '0.91 (0.88 to 0.94)'."""
        if self.lower is None or self.upper is None:
            return decimals(self.value, digits)
        return f"{decimals(self.value, digits)} ({decimals(self.lower, digits)} to {decimals(self.upper, digits)})"


Estimates = dict[tuple[str, str], Estimate]  # by the measure's name and a predictor or group


@dataclass(frozen=True)
class Row:
    """A predictor: what it reaches, the network's gain over it (None: the network itself), and both drawn."""

    name: str
    reached: Estimate
    gain: Estimate | None
    reached_mark: str
    gain_mark: str


@dataclass(frozen=True)
class Judged:
    """A target or structure: its rows, what they allow to say, the threshold, and every measure of every predictor."""

    name: str
    measure: str
    less_is_better: bool
    people: int | None
    rows: tuple[Row, ...]
    scale: str
    gain_scale: str
    verdicts: tuple[str, ...]
    threshold: str | None
    predictors: tuple[str, ...]
    measures: tuple[tuple[str, tuple[Estimate | None, ...]], ...]

    @property
    def model(self) -> Row:
        """The network's own row."""
        return self.rows[0]

    @property
    def digits(self) -> int:
        """Decimals that a number of this measure is written with."""
        return 3 if max((abs(row.reached.value or 0) for row in self.rows), default=0) < 10 else 2


@dataclass(frozen=True)
class Results:
    """What is judged, on whom, by how many gains with an interval, and the headline and warnings that follow."""

    judged: tuple[Judged, ...]
    whom: str
    gains: int
    headline: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def results(folder: Path) -> Results | None:
    """Read ``metrics.parquet``; ``None`` where it is absent or holds no measure that a task is judged by.

    Raises
    ------
    SchemaError
        When a number is there twice.
    """
    metrics = table(folder, "metrics.parquet", METRICS)
    if metrics is None or not {"predictor", "split"} <= set(metrics.columns):
        return None
    metrics = metrics.with_columns(pl.col("predictor").fill_null("model"))
    about = json_object(folder, "predictor.json") or json_object(folder, "segmenter/segmenter.json")
    by_target = "target" in metrics.columns and metrics["target"].null_count() < metrics.height
    if by_target:
        metrics = metrics.filter(pl.col("subgroup") == "all")
    of = pl.col("target") if by_target else pl.col("subgroup").str.strip_prefix("structure=")
    found = []
    for (name,), rows in metrics.with_columns(of.alias("_of")).group_by("_of", maintain_order=True):
        one = _judged(
            "mean of the structures" if name == "all" else str(name),
            estimates_of(rows, "predictor", where=folder / "metrics.parquet"),
            rows,
            _threshold(about, str(name), by_target, rows["predictor"].n_unique() > 1),
        )
        if one is not None:
            found.append(one)
    if not found:
        return None
    warnings = [f"{one.name}: {line}" for one in found for line in one.verdicts if line.startswith(("not", "worse"))]
    whom, warning = _whom(metrics, folder)
    headline = [(f"{one.measure}, {one.name}", one.model.reached.words(one.digits)) for one in found[:3]]
    people = max((one.people or 0 for one in found), default=0)
    gains = sum(_known(row.gain) for one in found for row in one.rows)
    return Results(tuple(found), whom, gains, (*headline, ("people judged", whole(people or None))), (*warning, *warnings))


def _judged(name: str, estimates: Estimates, rows: pl.DataFrame, threshold: str | None) -> Judged | None:
    measure = next((one for one in MAIN if (rows["name"] == one).any()), None)
    if measure is None:
        return None
    model = network_of(rows)
    predictors = [who for who in rows["predictor"].unique(maintain_order=True) if " against " not in who]
    predictors.sort(key=lambda who: who != model)
    reached = {who: estimates[measure, who] for who in predictors if (measure, who) in estimates}
    gains = {who: estimates.get((f"gain:{measure}", f"{model} against {who}")) for who in predictors[1:]}
    scale = axis([end for one in reached.values() for end in (one.value, one.lower, one.upper)])
    gain_scale = axis([0.0, *(end for one in gains.values() if one for end in (one.value, one.lower, one.upper))])
    made = tuple(_row(who, one, gains.get(who), scale, gain_scale) for who, one in reached.items())
    names = [one for one in rows["name"].unique(maintain_order=True) if not one.startswith("gain:")]
    return Judged(
        name=name,
        measure=NAMES.get(measure, measure.replace("_", " ")),
        less_is_better=measure in LESS_IS_BETTER,
        people=max((n for n in rows["n"] if n is not None), default=None) if "n" in rows.columns else None,
        rows=made,
        scale=axis_mark(scale),
        gain_scale=axis_mark(gain_scale) if any(gains.values()) else "",
        verdicts=_verdicts(gains),
        threshold=threshold,
        predictors=tuple(predictors),
        measures=tuple((in_words(one), tuple(estimates.get((one, who)) for who in predictors)) for one in names),
    )


def network_of(rows: pl.DataFrame) -> str:
    """Return the network's name among the predictors of METRICS: who is set against floors, else 'model', else the first."""
    named = rows["predictor"].unique(maintain_order=True).to_list()
    judged = next((who.split(" against ")[0] for who in named if " against " in who), "model")
    return judged if judged in named else str(named[0])


def estimates_of(rows: pl.DataFrame, by: str, *, where: Path) -> Estimates:
    """Return the estimates of METRICS by name and the column ``by``.

    Raises
    ------
    SchemaError
        When two rows have the same, for then nobody knows which is meant.
    """
    twice = rows.select("name", by).filter(rows.select("name", by).is_duplicated())
    if twice.height:
        raise SchemaError(
            "a number is in the table twice",
            where=where,
            got=f"two rows or more of {twice['name'][0]!r} with the {by} {twice[by][0]!r}",
            expected="one row of it for each target or structure, of one split and one predictor",
            do="make the table again, or give each split a folder of its own",
        )
    return {(row["name"], row[by]): estimate_of(row) for row in rows.iter_rows(named=True)}


def estimate_of(row: dict[str, Any]) -> Estimate:
    """Return the estimate in a row of METRICS."""
    return Estimate(row["value"], row["lower"], row["upper"], row["interval"])


def _row(name: str, reached: Estimate, gain: Estimate | None, scale: Axis, gain_scale: Axis) -> Row:
    mark = interval_mark(reached.value, reached.lower, reached.upper, scale)
    of_gain = "" if gain is None else interval_mark(gain.value, gain.lower, gain.upper, gain_scale, zero=True)
    return Row(name, reached, gain, mark, of_gain)


def in_words(name: str) -> str:
    """Write a measure's name as people say it.

    >>> in_words("auroc:light"), in_words("balanced_accuracy")
    ('AUROC of light', 'balanced accuracy')
    """
    kind, _, of = name.partition(":")
    said = NAMES.get(kind, kind.replace("_", " "))
    return f"{said} of {of}" if of else said


def _known(gain: Estimate | None) -> bool:
    """Tell whether there is an interval to judge by."""
    return gain is not None and gain.lower is not None and gain.upper is not None


def _verdicts(gains: dict[str, Estimate | None]) -> tuple[str, ...]:
    """Say over which floors the gain is shown, over which not, and which were not compared."""
    if not gains:
        return ("not compared with anything: no floor was computed beside it.",)
    ends = {who: (one.lower, one.upper) for who, one in gains.items() if one and one.lower is not None and one.upper is not None}
    better = [who for who, (lower, _) in ends.items() if lower > 0]
    worse = [who for who, (_, upper) in ends.items() if upper < 0]
    open_ = [who for who in ends if who not in (*better, *worse)]
    said = []
    if better:
        whom = "every floor" if len(better) == len(gains) else _quoted(better)
        said.append(f"better than {whom}: the 95 % interval of the paired gain lies above 0.")
    if open_:
        said.append(f"not shown to be better than {_quoted(open_)}: the 95 % interval of the paired gain holds 0.")
    if worse:
        said.append(f"worse than {_quoted(worse)}: the 95 % interval of the paired gain lies below 0.")
    if unknown := [who for who in gains if who not in ends]:
        said.append(f"not compared with {_quoted(unknown)}: there is no paired gain with an interval.")
    return tuple(said)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _threshold(about: dict[str, Any], name: str, by_target: bool, floors: bool) -> str | None:
    """Say from which probability on a row (a pixel) is called positive, and where that comes from."""
    if not by_target:
        value = about.get("threshold")
        return (
            None if value is None else f"{plain(value)}, of the largest Dice over the pixels of the images held out from training"
        )
    value = (about.get("thresholds") or {}).get(name)
    if value is None:
        return None
    classes: list[str] = next((one["classes"] for part in about["targets"].values() for one in part if one["name"] == name), [])
    of = f" of the probability of “{classes[-1]}”" if classes else ""
    why = (about.get("thresholds_from") or {}).get(name, "")
    return f"{plain(value)}{of}; {why}{'. The rule is the same for every floor' if floors else ''}"


def _whom(metrics: pl.DataFrame, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Say who is judged, and what is to be said against it."""
    split = metrics["split"].drop_nulls().unique().to_list()
    judged = lazy_table(folder, "predictions.parquet", PREDICTIONS)
    kind = "examples"
    if judged is None:
        judged, kind = lazy_table(folder, "overlaps.parquet", OVERLAPS), "images"
    n = ""
    if judged is not None:
        rows = judged.filter(pl.col("split").is_in(split)) if split and kind == "examples" else judged
        n = f"{whole(rows.select(pl.col('example_id').n_unique()).collect().item())} {kind} "
    if not split:
        whom = f"Judged on all {n}in folds: each was predicted by networks that learnt from other people."
        if (metrics["name"] == "auroc").any():
            whom += (
                " All folds are ranked together (AUROC, average precision), so probabilities of different networks are compared, "
                "whose scales may differ: that usually lowers these measures."
            )
        return whom, ()
    judged_on = f"Judged on the {f'{n}of the ' if n else ''}split “{', '.join(split)}”"
    if split == ["test"]:
        return f"{judged_on}, of which nothing was learnt or chosen.", ()
    if split == ["validation"]:
        warning = "There is no test split: results are of the validation split, on which the training was watched, and may flatter."
        return f"{judged_on}, which no network learnt from.", (warning,)
    return f"{judged_on}.", ("Results are not of a test split alone, and may flatter.",)
