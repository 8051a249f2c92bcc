"""A trained network beside each floor: what each reaches with its interval, the paired gains, and what they allow to say.

A gain is of the same people for both, positive where the network is better, whatever the measure (``core.schema.METRICS``: rows
named 'gain:<measure>' of 'model against <floor>'). Where its 95 % interval holds 0 the page says that the network is not shown to
be better.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinome.core.provenance import checksum
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
    "jaccard": "Jaccard",
    "hausdorff_95": "95 % Hausdorff distance",
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
    """What is judged, on whom, and the headline and warnings that follow."""

    judged: tuple[Judged, ...]
    whom: str
    headline: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def results(folder: Path) -> Results | None:
    """Read ``metrics.parquet``; ``None`` where it is absent or holds no measure that a task is judged by."""
    metrics = table(folder, "metrics.parquet", METRICS)
    if metrics is None or not {"predictor", "split"} <= set(metrics.columns):
        return None
    about = json_object(folder, "predictor.json") or json_object(folder, "segmenter/segmenter.json")
    by_target = "target" in metrics.columns and metrics["target"].null_count() < metrics.height
    if by_target:
        metrics = metrics.filter(pl.col("subgroup") == "all")
    of = pl.col("target") if by_target else pl.col("subgroup").str.strip_prefix("structure=")
    found = []
    for (name,), rows in metrics.with_columns(of.alias("_of")).group_by("_of", maintain_order=True):
        one = _judged(
            "mean of the structures" if name == "all" else str(name),
            rows,
            _threshold(about, str(name), by_target, rows["predictor"].n_unique() > 1),
        )
        if one is not None:
            found.append(one)
    if not found:
        return None
    warnings = [f"{one.name}: {line}" for one in found for line in one.verdicts if line.startswith(("not", "worse"))]
    whom, warning = _whom(metrics, folder)
    warning = (*_mixed(about, folder), *warning)
    headline = [(f"{one.measure}, {one.name}", one.model.reached.words(one.digits)) for one in found[:3]]
    people = max((one.people or 0 for one in found), default=0)
    return Results(tuple(found), whom, (*headline, ("people judged", whole(people or None))), (*warning, *warnings))


def _judged(name: str, rows: pl.DataFrame, threshold: str | None) -> Judged | None:
    measure = next((one for one in MAIN if (rows["name"] == one).any()), None)
    if measure is None:
        return None
    estimates = {(row["name"], row["predictor"]): _estimate(row) for row in rows.iter_rows(named=True)}
    named = rows["predictor"].unique(maintain_order=True).to_list()
    judged = next((who.split(" against ")[0] for who in named if " against " in who), "model")
    predictors = sorted((who for who in named if " against " not in who), key=lambda who: who != judged)
    model = predictors[0]
    reached = {who: estimates[measure, who] for who in predictors if (measure, who) in estimates}
    gains = {who: estimates.get((f"gain:{measure}", f"{model} against {who}")) for who in predictors}
    scale = axis([end for one in reached.values() for end in (one.value, one.lower, one.upper)])
    gain_scale = axis([0.0, *(end for one in gains.values() if one for end in (one.value, one.lower, one.upper))])
    made = tuple(_row(who, one, gains[who], scale, gain_scale) for who, one in reached.items())
    names = [one for one in rows["name"].unique(maintain_order=True) if not one.startswith("gain:")]
    return Judged(
        name=name,
        measure=NAMES.get(measure, measure.replace("_", " ")),
        less_is_better=measure in LESS_IS_BETTER,
        people=max((n for n in rows["n"] if n is not None), default=None) if "n" in rows.columns else None,
        rows=made,
        scale=axis_mark(scale),
        gain_scale=axis_mark(gain_scale) if any(gains.values()) else "",
        verdicts=_verdicts({who: gain for who, gain in gains.items() if gain is not None}, alone=len(predictors) == 1),
        threshold=threshold,
        predictors=tuple(predictors),
        measures=tuple((in_words(one), tuple(estimates.get((one, who)) for who in predictors)) for one in names),
    )


def _estimate(row: dict[str, Any]) -> Estimate:
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


def _verdicts(gains: dict[str, Estimate], *, alone: bool) -> tuple[str, ...]:
    """Say over which floors the gain is shown, over which not, and over which there is none."""
    better = [who for who, one in gains.items() if one.lower is not None and one.lower > 0]
    worse = [who for who, one in gains.items() if one.upper is not None and one.upper < 0]
    unknown = [who for who, one in gains.items() if one.lower is None or one.upper is None]
    open_ = [who for who in gains if who not in (*better, *worse, *unknown)]
    said = ["not compared with anything: no floor was computed beside it."] if alone else []
    if better:
        whom = "every floor" if len(better) == len(gains) else ", ".join(f"“{who}”" for who in better)
        said.append(f"better than {whom}: the 95 % interval of the paired gain lies above 0.")
    for whom_, what in ((open_, "not shown to be better than"), (worse, "worse than")):
        ends = "holds 0" if whom_ is open_ else "lies below 0"
        if whom_:
            said.append(f"{what} {', '.join(f'“{who}”' for who in whom_)}: the 95 % interval of the paired gain {ends}.")
    if unknown:
        said.append(f"not compared with {', '.join(f'“{who}”' for who in unknown)}: the gain has no interval.")
    return tuple(said)


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
    return f"{plain(value)}{of}; {why}{'. Every floor has one of its own, chosen alike' if floors else ''}"


def _mixed(about: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Return a warning where a table is not the one that the predictor was saved with."""
    for name, sha256 in (about.get("tables") or {}).items():
        path = folder / f"{name}.parquet"
        if path.is_file() and checksum(path) != sha256:
            return (f"{path.name} is not of the predictor in this folder: a training was stopped while it wrote. Run it again.",)
    return ()


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
        return f"Judged on all {n}in folds: each was predicted by networks that learnt from other people.", ()
    if split == ["validation"]:
        warning = "There is no test split: results are of the validation split, on which the training was watched, and may flatter."
        return f"Judged on the {f'{n}of the ' if n else ''}split “validation”, which no network learnt from.", (warning,)
    return f"Judged on the {f'{n}of the ' if n else ''}split “{', '.join(split)}”, of which nothing was learnt or chosen.", ()
