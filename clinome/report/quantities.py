"""What a network said of new images, or what was measured in them: how it is distributed, and how certain it is.

    predictions.parquet without metrics      what was predicted of new images, and how certain
    segmentations.parquet                    how certain the outlines are, and images in which nothing was found
    phenotypes + measured_traits (+ quality) each trait: people, spread, how well it repeats

The 5 % and 95 % quantiles are shown and not the ends, which are single people; of fewer than ten people there is nothing but
their number. What was said of people of the predictor's own training is told apart, and warned of where it learnt from them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinome.core.schema import MASKS, MEASURED_TRAITS, METRICS, PHENOTYPES, PREDICTIONS, QUALITY
from clinome.report.drawing import histogram
from clinome.report.numbers import FEW, NOTHING, decimals, parts_of_a_whole, plain, whole
from clinome.report.reading import table

_OF_TRAINING = {
    "train": "of people whom it learnt from",
    "fold": "of people of its training, asked of networks that had not seen them",
    "validation": "of people on whom its training was watched",
    "test": "of people on whom it was tested",
}
_ENDS = "Values beyond the 5 % and 95 % quantiles stand in the outermost bars."


@dataclass(frozen=True)
class Quantities:
    """A title, a sentence, plots (caption, SVG), a table, and what is to be said against it."""

    title: str
    about: str
    plots: tuple[tuple[str, str], ...] = ()
    caption: str = ""
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()


def quantities(folder: Path) -> Quantities | None:
    """Read the tables of `clinome predict`, `segment` or `measure`; ``None`` where the folder is of another kind."""
    return _segmented(folder) or _measured(folder) or _predicted(folder)


def _few(values: pl.Series, people: pl.Series) -> bool:
    """Tell whether the known values are of fewer than ten people."""
    return people.filter(values.is_not_null()).n_unique() < FEW


def _spread(values: pl.Series, people: pl.Series) -> tuple[str, ...]:
    """Return mean, standard deviation, and the 5 %, 50 % and 95 % quantiles in words; nothing of fewer than ten people."""
    if _few(values, people):
        return (NOTHING,) * 5
    numbers = [values.mean(), values.std(), *(values.quantile(q, "linear") for q in (0.05, 0.5, 0.95))]
    return tuple(plain(number) for number in numbers)


def _drawn(values: pl.Series, people: pl.Series, title: str, *, ends: tuple[float, float] | None = None) -> list[str]:
    """Return the distribution between ``ends``, by default the 5 % and 95 % quantiles; none of fewer than ten people."""
    if _few(values, people):
        return []
    low, high = ends or (values.quantile(q, "linear") for q in (0.05, 0.95))
    return [histogram(values.drop_nulls().to_list(), title, label=f"Distribution of {title}", low=low, high=high)]


def _predicted(folder: Path) -> Quantities | None:
    found = table(folder, "predictions.parquet", PREDICTIONS)
    if found is None or table(folder, "metrics.parquet", METRICS) is not None:
        return None
    names = [name.removeprefix("predicted:") for name in found.columns if name.startswith("predicted:")]
    targets, people = dict.fromkeys(name.partition(":")[0] for name in names), found["participant_id"]
    plots, rows = list[tuple[str, str]](), list[tuple[str, ...]]()
    for target in targets:
        classes = [name.removeprefix(f"{target}:") for name in names if name.startswith(f"{target}:")]
        if not classes:
            values = found[f"predicted:{target}"].cast(pl.Float64).fill_nan(None)
            rows.append((target, whole(values.len() - values.null_count()), *_spread(values, people)))
            plots += [(f"{target}, as predicted. {_ENDS}", chart) for chart in _drawn(values, people, target)]
            continue
        probability = found.select(pl.col(f"predicted:{target}:{name}").alias(name) for name in classes)
        likeliest = probability.select(best=pl.concat_list(pl.all()).list.arg_max())["best"]
        of_class = [people.filter(likeliest == k) for k in range(len(classes))]
        counts = parts_of_a_whole([(len(some), some.n_unique()) for some in of_class])
        for name, count in zip(classes, counts, strict=True):
            rows.append((f"{target}: {name} is likeliest", count, *_spread(probability[name], people)))
        top = probability.select(top=pl.max_horizontal(pl.all()))["top"]
        caption = f"How certain {target} is: the probability of the likeliest class of each image."
        plots += [(caption, chart) for chart in _drawn(top, people, f"probability, {target}", ends=(1 / len(classes), 1.0))]
    about = f"What the predictor says of {whole(found.height)} images.{_of_training(found['split'])}"
    learnt = int((found["split"] == "train").sum())
    warning = f"{whole(learnt)} of {whole(found.height)} images are of people whom the network learnt from: it may remember these."
    heads = ("Prediction", "Images", "Mean", "Deviation", "5 %", "Median", "95 %")
    caption = "Numbers in their unit; classes by their probability"
    return Quantities("Predictions", about, tuple(plots), caption, heads, tuple(rows), (warning,) if learnt else ())


def _of_training(splits: pl.Series) -> str:
    """Say how many images are of people of the training, and what they were to it."""
    names = ("fold" if name.startswith("fold_") else name for name in splits if name != "new")
    whose = Counter(_OF_TRAINING.get(name, "of people of its training from whom it learnt nothing") for name in names)
    return "".join(f" {whole(count)} are {who}." for who, count in whose.items())


def _segmented(folder: Path) -> Quantities | None:
    found = table(folder, "segmentations.parquet", MASKS)
    if found is None or "certainty" not in found.columns:
        return None
    drawn = found.filter(pl.col("mask_path").is_not_null())
    empty, people = drawn["certainty"].null_count(), drawn["participant_id" if "participant_id" in drawn.columns else "image_id"]
    about = f"{whole(drawn.height)} images were segmented."
    about += f" In {whole(empty)} of them nothing was found." if empty else ""
    caption = "Certainty of the outlines: the mean probability of the chosen class along them, of each image."
    charts = _drawn(drawn["certainty"], people, "certainty")
    return Quantities("Segmentations", about, tuple((f"{caption} {_ENDS}", chart) for chart in charts))


def _measured(folder: Path) -> Quantities | None:
    people = table(folder, "phenotypes.parquet", PHENOTYPES)
    traits = table(folder, "measured_traits.parquet", MEASURED_TRAITS)
    if people is None or traits is None:
        return None
    quality = table(folder, "quality.parquet", QUALITY)
    repeats = {} if quality is None else {(row["trait"], row["measure"]): row["value"] for row in quality.iter_rows(named=True)}
    rows = []
    for row in traits.iter_rows(named=True):
        name = row["trait"]
        values, who = people[name].cast(pl.Float64).fill_nan(None), people["participant_id"]
        icc = [decimals(repeats.get((name, measure)), 2) for measure in ("left_right_icc", "test_retest_icc")]
        rows.append((f"{name} ({row['unit']})", whole(row["people"]), *_spread(values, who), whole(row["flagged"]), *icc))
    heads = ("Trait", "People", "Mean", "Deviation", "5 %", "Median", "95 %", "Flagged", "Left–right ICC", "Test–retest ICC")
    first = traits.row(0, named=True) if traits.height else None
    rule = (
        f" Repeats of one side at one visit: {first['repeats']}; visits: {first['visits']}; sides: {first['eyes']}."
        if first
        else ""
    )
    about = f"{whole(traits.height)} traits of {whole(people.height)} people, by {first['source'] if first else 'nobody'}.{rule}"
    plots = [
        (f"{row['trait']}, {row['unit']}. {_ENDS}", chart)
        for row in traits.head(6).iter_rows(named=True)
        for chart in _drawn(people[row["trait"]].cast(pl.Float64).fill_nan(None), people["participant_id"], row["trait"])
    ]
    return Quantities("Measured traits", about, tuple(plots), "One value a person; flagged values are left out", heads, tuple(rows))
