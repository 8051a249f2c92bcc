"""From measurements of images to phenotypes of people: one row a person, one column a trait, by rules that are shown.

A measurement that is flagged, or has no value, is left out and counted. What is left is folded in three steps, each by rule:
several images of one eye at one visit, then visits, then eyes. Nothing is imputed: a person for whom the rule finds nothing has no
value, and is counted too.

>>> rows = [("a", "left", 0, 0.4, None), ("b", "right", 0, 0.6, None), ("c", "left", 1, 0.9, None), ("d", "right", 1, 5.0, "blur")]
>>> table = pl.DataFrame(rows, schema=["image_id", "laterality", "visit", "value", "flag"], orient="row")
>>> table = table.with_columns(participant_id=pl.lit("p"), structure=pl.lit("disc"), trait=pl.lit("cup"), unit=pl.lit("ratio"))
>>> fold(table, source="by hand").phenotypes.rows()  # the first visit, mean of the eyes
[('p', 0.5)]
>>> fold(table, Rule(eyes="largest", visits="last"), source="by hand").phenotypes.rows()
[('p', 0.9)]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from clinome.core.errors import SchemaError, StudyError
from clinome.core.files import replacing
from clinome.core.schema import MEASURED_TRAITS, MEASUREMENTS, PHENOTYPES, check
from clinome.imaging.features import views
from clinome.imaging.quality import quality

Repeats = Literal["mean", "median", "first"]
Visits = Literal["first", "last", "mean"]
Eyes = Literal["mean", "left", "right", "largest", "smallest"]

_NO_VISIT = -1  # what a missing visit counts as: one visit of its own, before all others
_SAID = {
    "eyes": {
        "mean": "mean of the eyes",
        "left": "left eye",
        "right": "right eye",
        "largest": "the eye with the larger value",
        "smallest": "the eye with the smaller value",
    },
    "visits": {
        "first": "first visit with a sound value",
        "last": "last visit with a sound value",
        "mean": "mean of the visits, eye by eye",
    },
    "repeats": {"mean": "mean of the images", "median": "median of the images", "first": "first image by its id"},
}


@dataclass(frozen=True)
class Rule:
    """How images of a person become one value.

    Attributes
    ----------
    eyes
        'mean', one eye, or the 'worst' eye as 'largest' or 'smallest'. An organ that is single (no laterality) is its own mean,
        largest and smallest, and has no left and right.
    visits
        The 'first' or 'last' visit at which the person has a sound value of the trait in an eye that the rule looks at, or the
        'mean' of all.
    repeats
        Of several images of one eye at one visit.
    both_eyes
        Whether a value needs both eyes (for 'mean', 'largest' and 'smallest'); otherwise one eye stands for two.
    """

    eyes: Eyes = "mean"
    visits: Visits = "first"
    repeats: Repeats = "mean"
    both_eyes: bool = False

    def __post_init__(self) -> None:
        for name, said in _SAID.items():
            if getattr(self, name) not in said:
                raise StudyError(f"a rule of folding has no {name!r} like that", got=getattr(self, name), expected=", ".join(said))


class Folded(NamedTuple):
    """``phenotypes`` (``core.schema.PHENOTYPES``) and the ``rules`` they were made by (``core.schema.MEASURED_TRAITS``)."""

    phenotypes: pl.DataFrame
    rules: pl.DataFrame


def fold(measurements: pl.DataFrame, rule: Rule | None = None, *, source: str, rules: Mapping[str, Rule] | None = None) -> Folded:
    """Fold measurements (``core.schema.MEASUREMENTS``) to people.

    Parameters
    ----------
    rule, rules
        The rule for all traits, and rules of their own for some, by '<structure>.<trait>' or '<structure>'.
    source
        What measured (program, version, segmenter), for the table of rules.

    Raises
    ------
    SchemaError
        When the table is no table of measurements, or a trait comes in two units.
    StudyError
        When ``rules`` names a trait or structure that is not there.
    """
    table = check(measurements, MEASUREMENTS).with_columns(
        name=pl.col("structure") + "." + pl.col("trait"),
        sound=pl.col("flag").is_null() & pl.col("value").is_finite().fill_null(False),
        visit=pl.col("visit").fill_null(_NO_VISIT),
        laterality=pl.col("laterality").fill_null(""),
    )
    own = dict(rules or {})
    _known(table, own)
    people = table.select("participant_id").unique().sort("participant_id")
    phenotypes, shown = people, []
    for (name,), part in table.group_by("name", maintain_order=True):
        structure, units = str(part["structure"][0]), part["unit"].unique().to_list()
        if len(units) > 1:
            raise SchemaError("a trait is measured in two units", where=f"trait {name!r}", got=" and ".join(sorted(units)))
        chosen = own.get(str(name), own.get(structure, rule or Rule()))
        values = _fold_one(part.filter("sound"), chosen).rename({"value": str(name)})
        phenotypes = phenotypes.join(values, on="participant_id", how="left", maintain_order="left")
        eyes = _SAID["eyes"][chosen.eyes] + (", only where both have one" if chosen.both_eyes else "")
        said = (name, units[0], source, _SAID["repeats"][chosen.repeats], _SAID["visits"][chosen.visits], eyes)
        sound, measured = int(part["sound"].sum()), part["participant_id"].n_unique()
        counts = (part.height, part.height - sound, values.height, measured - values.height)
        shown.append((*said, *counts))
    schema = {column.name: column.dtype for column in MEASURED_TRAITS.columns}
    return Folded(check(phenotypes, PHENOTYPES), check(pl.DataFrame(shown, schema=schema, orient="row"), MEASURED_TRAITS))


def _known(table: pl.DataFrame, own: Mapping[str, Rule]) -> None:
    """Refuse rules for what was not measured."""
    there = {*table["name"], *table["structure"]}
    unknown = sorted(set(own) - there)
    if unknown:
        raise StudyError("a rule of folding names what was not measured", got=unknown[0], expected=", ".join(sorted(there)))


def _fold_one(part: pl.DataFrame, rule: Rule) -> pl.DataFrame:
    """Fold sound measurements of one trait: participant_id and value, for those who have one."""
    if rule.eyes in ("left", "right"):
        part = part.filter(pl.col("laterality") == rule.eyes)
    value = pl.col("value")
    by_repeats = {"mean": value.mean(), "median": value.median(), "first": value.sort_by("image_id").first()}
    seen = part.group_by("participant_id", "laterality", "visit").agg(by_repeats[rule.repeats])
    if rule.both_eyes and rule.eyes not in ("left", "right"):  # both at the visits that count
        at = ["participant_id"] if rule.visits == "mean" else ["participant_id", "visit"]
        sides = pl.col("laterality").filter(pl.col("laterality") != "").n_unique().over(at)
        seen = seen.filter(sides == 2)
    if rule.visits != "mean":
        wanted = pl.col("visit").min() if rule.visits == "first" else pl.col("visit").max()
        seen = seen.filter(pl.col("visit") == wanted.over("participant_id"))
    eyes = seen.group_by("participant_id", "laterality").agg(value.mean())
    by_eyes = {"largest": value.max(), "smallest": value.min()}
    return eyes.group_by("participant_id").agg(by_eyes.get(rule.eyes, value.mean())).sort("participant_id")


def repeatability(
    measurements: pl.DataFrame, images: pl.DataFrame | None = None, *, resamples: int = 500, seed: int = 0
) -> pl.DataFrame:
    """Say how far each trait is one of the person: ``core.schema.QUALITY`` from sound measurements.

    ICC(2,1) between eyes (``left_right_icc``) and between the first two visits (``test_retest_icc``), and the share of variance
    that nuisance columns of ``images`` (scanner, site, illumination …) explain: :func:`clinome.imaging.quality.quality`.
    """
    table = check(measurements, MEASUREMENTS).with_columns(name=pl.col("structure") + "." + pl.col("trait"))
    names = table["name"].unique(maintain_order=True).to_list()
    sound = table.filter(pl.col("flag").is_null() & pl.col("value").is_finite())
    seen = table.select("image_id", "participant_id", "laterality", "visit").unique("image_id", maintain_order=True)
    if images is not None:
        more = [name for name in images.columns if name not in seen.columns]
        seen = seen.join(images.select("image_id", *more), on="image_id", how="left", maintain_order="left")
    wide = seen.select("image_id").join(
        sound.pivot("name", index="image_id", values="value"), on="image_id", how="left", maintain_order="left"
    )
    empty = np.full(seen.height, np.nan)
    columns = [wide[name].fill_null(np.nan).to_numpy() if name in wide.columns else empty for name in names]
    return quality(np.column_stack(columns), seen, views(seen), traits=names, resamples=resamples, seed=seed)


def write_folded(folded: Folded, out: Path) -> None:
    """Write ``phenotypes.parquet``, each column's unit, source and rule in the file's metadata, and ``measured_traits.parquet``.

    The metadata is one key, 'clinome.columns', with a JSON object a column.

    Raises
    ------
    OutputError
        When the folder cannot be written.
    """
    said = folded.rules.select("trait", "unit", "source", "repeats", "visits", "eyes").to_dicts()
    about = {row.pop("trait"): row for row in said}
    with replacing(out / "phenotypes.parquet") as temporary:
        folded.phenotypes.write_parquet(temporary, metadata={"clinome.columns": json.dumps(about, ensure_ascii=False)})
    with replacing(out / "measured_traits.parquet") as temporary:
        folded.rules.write_parquet(temporary)
