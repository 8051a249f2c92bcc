"""What is measured of a predictor once it has said what it says: thresholds, metrics beside floors, reliability, subgroups, counts.

Which rows are judged follows from the split: the test rows; without any, the validation rows; of folds all rows together, for each
was held out from the networks that were asked (:func:`clinome.evaluate.floors.compare_with_floors` says what follows for an AUROC).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from clinome.core.errors import CohortError
from clinome.core.progress import say
from clinome.core.schema import COUNTS, RELIABILITY, check
from clinome.evaluate.calibration import calibration, calibration_curve
from clinome.evaluate.floors import compare_with_floors
from clinome.evaluate.measuring import RESAMPLES, Metric, additive, metric_row, metrics_table
from clinome.evaluate.outcomes import Outcome, class_names, outcome
from clinome.evaluate.subgroups import subgroups
from clinome.evaluate.thresholds import threshold_of
from clinome.imaging.pictures import Images
from clinome.imaging.pixel_floors import pixel_floors
from clinome.imaging.targets import Coded, Target
from clinome.stats.resampling import bootstrap, participant_codes

FOLD = "fold_"  # how the splits of a cross-fitting begin
GROUPS = ("sex", "age", "site", "scanner", "modality", "laterality")  # columns that subgroups are made of where they are there
_MEASURED = ("calibration_slope", "calibration_in_the_large", "ece")


class Cut(NamedTuple):
    """A threshold on the probability of the positive class, and in words where it comes from."""

    value: float
    why: str


def judged_split(splits: Sequence[str] | pl.Series) -> str | None:
    """Return the split that is judged; None: all rows, which are folds."""
    if all(name.startswith(FOLD) for name in splits):
        return None
    return "test" if "test" in splits else "validation"


def see_judged(examples: pl.DataFrame, targets: Sequence[Target]) -> None:
    """See before a training that there are truths to judge it by, and say which thresholds cannot be chosen.

    Raises
    ------
    CohortError
        When nobody who is judged has a known value of a target.
    """
    split, judged = examples["split"], judged_split(examples["split"])
    for target in (one for one in targets if not one.helps):
        column, classes = examples[target.name], target.kind == "classes"
        known = class_names(column) if classes else column.cast(pl.Float64).fill_nan(None)
        if judged and not known.filter(split == judged).drop_nulls().len():
            do = "split again, or name the target among those that only help"
            raise CohortError(f"nobody in the split {judged!r} has a known {target.name!r}, so nothing can be judged", do=do)
        cut = classes and judged == "test" and "validation" in split and known.drop_nulls().n_unique() == 2
        if cut and known.filter(split == "validation").drop_nulls().n_unique() < 2:
            say(f"the threshold of {target.name!r} will be 1/2: the validation examples are not of both classes")


def threshold(predictions: pl.DataFrame, target: str) -> Cut:
    """Return the best threshold (Youden's) on validation predictions of a target of two classes.

    It is 1/2 where validation is what is judged, has not both classes, or is told the same of everybody (classes' shares).
    """
    if judged_split(predictions["split"]) is None:
        return Cut(0.5, "one half: in folds nothing is left to choose it on")
    if not {"validation", "test"} <= set(predictions["split"]):
        return Cut(0.5, "one half: there are no validation rows beside those that are judged")
    found = outcome(predictions, target, split="validation")
    known = np.isfinite(found.truth)
    if len(np.unique(found.truth[known])) < 2:
        return Cut(0.5, "one half: the validation rows are not of both classes")
    if not np.ptp(found.predicted[known]):
        return Cut(0.5, "one half: all validation rows are told the same")
    chosen = threshold_of(predictions, target, split="validation")
    return Cut(chosen.value, f"largest sensitivity + specificity (Youden) on {chosen.n:,} rows of the split 'validation'")


def measured(
    images: Images,
    examples: pl.DataFrame,
    predictions: pl.DataFrame,
    coded: Mapping[str, Sequence[Coded]],
    cuts: Mapping[str, Cut],
    *,
    dims: int,
    floors: bool,
    seed: int,
) -> pl.DataFrame:
    """Measure every target on the rows that are judged, beside floors on the same people; return METRICS.

    Parameters
    ----------
    coded
        The targets as each part's networks know them: 'all', or a fold each.
    cuts
        The thresholds of the model; every floor has one of its own, chosen alike.
    """
    judged = judged_split(predictions["split"])
    tables = []
    for k, one in enumerate(next(iter(coded.values()))):
        if one.helps:
            continue
        about = {"classes": bool(one.classes), "dims": dims, "fit_on": ("train",) if judged else None, "seed": seed}
        beside = pixel_floors(images, examples, one.name, **about) if floors else {}  # type: ignore[arg-type]
        own = {"model": cuts[one.name].value} if one.name in cuts else {}
        if own:
            own |= {name: threshold(floor, one.name).value for name, floor in beside.items()}
        mean = None if one.classes else _training_mean(predictions, {part: of[k] for part, of in coded.items()})
        tables.append(
            compare_with_floors(predictions, beside, one.name, split=judged, threshold=own, training_mean=mean, seed=seed)
        )
        tables.append(_calibrated(outcome(predictions, one.name, split=judged), one.name, seed))
    return pl.concat(tables)


def _training_mean(predictions: pl.DataFrame, coded: Mapping[str, Coded]) -> float:
    """Return the mean of the training rows; of folds, the average over the rows judged of the mean that their networks knew."""
    if len(coded) == 1:
        return next(iter(coded.values())).mean
    of = {part: one.mean for part, one in coded.items()}
    return float(np.mean([of[split] for split in predictions["split"]]))


def _calibrated(found: Outcome, target: str, seed: int) -> pl.DataFrame:
    """Return calibration slope, calibration in the large and expected calibration error where they can be had."""
    known = np.isfinite(found.truth)
    if found.kind == "number" or len(np.unique(found.truth[known])) < 2:
        return metrics_table([]).with_columns(target=pl.lit(target))
    table = calibration(found.truth, found.predicted, participants=found.participants, split=found.split, seed=seed)
    return table.filter(pl.col("name").is_in(_MEASURED)).with_columns(target=pl.lit(target))


def reliability(predictions: pl.DataFrame, targets: Sequence[str], *, seed: int = 0) -> pl.DataFrame:
    """Return what was true where how much was predicted, of each target (each class): ``core.schema.RELIABILITY``.

    Bins are of equal numbers of examples: as many as have twenty each, three at least and ten at most.
    """
    tables = []
    for target in targets:
        found = outcome(predictions, target, split=judged_split(predictions["split"]))
        if not np.isfinite(found.truth).any():
            continue
        if found.kind == "classes":
            each = [(name, found.truth == k, found.predicted[:, k]) for k, name in enumerate(found.classes)]
        else:
            each = [(found.classes[1] if found.classes else "", found.truth, found.predicted)]
        for name, truth, said in each:
            truth = np.where(np.isfinite(found.truth), truth, np.nan)
            bins = min(max(int(np.isfinite(truth).sum()) // 20, 3), 10)
            curve = calibration_curve(truth, said, participants=found.participants, bins=bins, seed=seed)
            of_class = pl.lit(name or None, pl.String).alias("class")
            tables.append(curve.select(pl.lit(target).alias("target"), of_class, pl.all()))
    if not tables:
        tables = [pl.DataFrame(schema={column.name: column.dtype for column in RELIABILITY.columns})]
    return check(pl.concat(tables), RELIABILITY)


def by_group(
    predictions: pl.DataFrame, examples: pl.DataFrame, targets: Sequence[str], cuts: Mapping[str, Cut], *, seed: int = 0
) -> pl.DataFrame:
    """Measure every target in the groups that columns of ``examples`` make (:data:`GROUPS`); return METRICS, empty without any."""
    judged = judged_split(predictions["split"])
    shown = examples.filter(pl.col("split") == judged) if judged else examples
    tables = [metrics_table([])]
    for target in targets:
        by = [name for name in GROUPS if name in shown.columns and name != target and shown[name].drop_nulls().n_unique() > 1]
        if by and predictions.filter(pl.col(target).is_not_null()).height:
            cut = cuts[target].value if target in cuts else 0.5
            tables.append(subgroups(predictions, examples, target, by=by, split=judged, threshold=cut, seed=seed))
    return pl.concat(tables)


def gains_of_masks(model: pl.DataFrame, floor: pl.DataFrame, *, floor_name: str, split: str, seed: int = 0) -> pl.DataFrame:
    """Return by how much a segmenter's Dice is above a floor's on the same images, paired by person: METRICS named 'gain:dice'.

    ``model`` and ``floor`` are ``core.schema.OVERLAPS`` of the same images; an image counts where a structure is in the truth or in
    both predictions. ``n`` are the people of these images, ``subgroup`` is ``structure=<name>``, and of several structures 'all'
    for the mean of their means, as in :func:`clinome.evaluate.segmentation.segmentation`.
    """
    both = model.join(floor, on=["example_id", "structure"], suffix="_floor", maintain_order="left").drop_nulls(
        ["dice", "dice_floor"]
    )
    if not both.height:
        return metrics_table([])
    person, n = participant_codes(both["participant_id"].to_numpy(), both.height)
    gain, structure = (both["dice"] - both["dice_floor"]).to_numpy(), both["structure"].to_numpy()
    names = both["structure"].unique(maintain_order=True).to_list()
    of = [_MEAN.prepare(gain[here], gain[here], person[here], n) for here in (structure == name for name in names)]
    draws = bootstrap([one.of for one in of], n, resamples=RESAMPLES, seed=seed)
    found = [(f"structure={name}", one.value, draws[:, k], one.people) for k, (name, one) in enumerate(zip(names, of, strict=True))]
    found += [("all", float(np.mean([one.value for one in of])), draws.mean(axis=1), n)] if len(names) > 1 else []
    about = {"predictor": f"model against {floor_name}", "split": split}
    return metrics_table(
        [metric_row("gain:dice", value, drawn, people) | about | {"subgroup": group} for group, value, drawn, people in found]
    )


_MEAN = Metric("mean", additive(lambda values, _: values[:, None].astype(np.float64), lambda s, n: s[:, 0] / n))


def counts(examples: pl.DataFrame, targets: Sequence[Target]) -> pl.DataFrame:
    """Count the examples of each split, and those of each class of each target: ``core.schema.COUNTS``."""
    rows: list[dict[str, object]] = []

    def count(split: str, some: pl.DataFrame, target: str | None, of_class: str | None, **more: float | None) -> None:
        number = {"n": some.height, "people": some["participant_id"].n_unique()}
        rows.append({"split": split, "target": target, "class": of_class, **number, **more})

    order = {"train": 0, "validation": 1, "test": 2}
    for split in sorted(examples["split"].unique(), key=lambda name: (order.get(name, 3), len(name), name)):
        inside = examples.filter(pl.col("split") == split)
        count(split, inside, None, None)
        for target in targets:
            if target.kind == "classes":
                names = class_names(examples[target.name])
                own = class_names(inside[target.name])
                for name in names.drop_nulls().unique().sort():
                    count(split, inside.filter(own == name), target.name, name)
            else:
                known = inside.with_columns(pl.col(target.name).cast(pl.Float64).fill_nan(None)).drop_nulls(target.name)
                values = known[target.name]
                count(split, known, target.name, None, mean=values.mean(), deviation=values.std())  # type: ignore[arg-type]
    return check(pl.DataFrame(rows, schema={column.name: column.dtype for column in COUNTS.columns}), COUNTS)
