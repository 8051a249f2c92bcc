"""What a network said of new images, or what was measured in them: how it is distributed, and how certain it is.

    predictions.parquet without metrics      what was predicted of new images, and how certain
    segmentations.parquet                    how certain the outlines are, and images in which nothing was found
    phenotypes + measured_traits (+ quality) each trait: people, spread, how well it repeats

The 5 % and 95 % quantiles are shown and not the ends, which are single people; of fewer than ten people there is nothing but
their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinome.core.schema import MASKS, MEASURED_TRAITS, METRICS, PHENOTYPES, PREDICTIONS, QUALITY
from clinome.report.drawing import histogram
from clinome.report.numbers import NOTHING, decimals, plain, whole
from clinome.report.reading import table

_FEWEST = 10  # people or images of whom numbers are shown


@dataclass(frozen=True)
class Quantities:
    """A title, a sentence, plots (caption, SVG) and a table."""

    title: str
    about: str
    plots: tuple[tuple[str, str], ...] = ()
    caption: str = ""
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def quantities(folder: Path) -> Quantities | None:
    """Read the tables of `clinome predict`, `segment` or `measure`; ``None`` where the folder is of another kind."""
    return _segmented(folder) or _measured(folder) or _predicted(folder)


def _spread(values: pl.Series) -> tuple[str, ...]:
    """Return mean, standard deviation, and the 5 %, 50 % and 95 % quantiles in words; nothing of fewer than ten."""
    if values.len() - values.null_count() < _FEWEST:
        return (NOTHING,) * 5
    numbers = [values.mean(), values.std(), *(values.quantile(q, "linear") for q in (0.05, 0.5, 0.95))]
    return tuple(plain(number) for number in numbers)


def _drawn(values: pl.Series, title: str, *, low: float | None = None, high: float | None = None) -> list[str]:
    """Return the distribution, or none of fewer than ten."""
    known = values.drop_nulls()
    if len(known) < _FEWEST:
        return []
    return [histogram(known.to_list(), title, label=f"Distribution of {title}", low=low, high=high)]


def _predicted(folder: Path) -> Quantities | None:
    found = table(folder, "predictions.parquet", PREDICTIONS)
    if found is None or table(folder, "metrics.parquet", METRICS) is not None:
        return None
    names = [name.removeprefix("predicted:") for name in found.columns if name.startswith("predicted:")]
    targets = dict.fromkeys(name.partition(":")[0] for name in names)
    plots, rows = list[tuple[str, str]](), list[tuple[str, ...]]()
    for target in targets:
        classes = [name.removeprefix(f"{target}:") for name in names if name.startswith(f"{target}:")]
        if not classes:
            values = found[f"predicted:{target}"].cast(pl.Float64)
            rows.append((target, whole(values.len() - values.null_count()), *_spread(values)))
            plots += [(f"{target}, as predicted.", chart) for chart in _drawn(values, target)]
            continue
        probability = found.select(pl.col(f"predicted:{target}:{name}").alias(name) for name in classes)
        likeliest = probability.select(best=pl.concat_list(pl.all()).list.arg_max())["best"]
        for k, name in enumerate(classes):
            rows.append((f"{target}: {name} is likeliest", whole(int((likeliest == k).sum())), *_spread(probability[name])))
        top = probability.select(top=pl.max_horizontal(pl.all()))["top"]
        caption = f"How certain {target} is: the probability of the likeliest class of each image."
        plots += [(caption, chart) for chart in _drawn(top, f"probability, {target}", low=1 / len(classes), high=1.0)]
    known = found.filter(pl.col("split") != "new").height
    about = f"What the predictor says of {whole(found.height)} images."
    about += (
        f" {whole(known)} of them are of people of its training; in folds they were asked of networks that had not seen them."
        if known
        else ""
    )
    heads = ("Prediction", "Images", "Mean", "Deviation", "5 %", "Median", "95 %")
    return Quantities("Predictions", about, tuple(plots), "Numbers in their unit; classes by their probability", heads, tuple(rows))


def _segmented(folder: Path) -> Quantities | None:
    found = table(folder, "segmentations.parquet", MASKS)
    if found is None or "certainty" not in found.columns:
        return None
    drawn = found.filter(pl.col("mask_path").is_not_null())
    empty = drawn["certainty"].null_count()
    about = f"{whole(drawn.height)} images were segmented."
    about += f" In {whole(empty)} of them nothing was found." if empty else ""
    caption = "Certainty of the outlines: the mean probability of the chosen class along them, of each image."
    return Quantities(
        "Segmentations", about, tuple((caption, chart) for chart in _drawn(drawn["certainty"], "certainty", high=1.0))
    )


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
        values = people[name].cast(pl.Float64).fill_nan(None)
        icc = [decimals(repeats.get((name, measure)), 2) for measure in ("left_right_icc", "test_retest_icc")]
        rows.append((f"{name} ({row['unit']})", whole(row["people"]), *_spread(values), whole(row["flagged"]), *icc))
    heads = ("Trait", "People", "Mean", "Deviation", "5 %", "Median", "95 %", "Flagged", "Left–right ICC", "Test–retest ICC")
    first = traits.row(0, named=True) if traits.height else None
    rule = (
        f" Repeats of one side at one visit: {first['repeats']}; visits: {first['visits']}; sides: {first['eyes']}."
        if first
        else ""
    )
    about = f"{whole(traits.height)} traits of {whole(people.height)} people, by {first['source'] if first else 'nobody'}.{rule}"
    plots = [
        (f"{row['trait']}, {row['unit']}.", chart)
        for row in traits.head(6).iter_rows(named=True)
        for chart in _drawn(people[row["trait"]].cast(pl.Float64).fill_nan(None), row["trait"])
    ]
    return Quantities("Measured traits", about, tuple(plots), "One value a person; flagged values are left out", heads, tuple(rows))
