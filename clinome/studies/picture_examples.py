"""From tables of images, of what is known of them, and of people to examples with their split; who is left out is counted.

An image is an example when something that is to be learnt is known of it and its person stands in the split. All others are listed
with the reason, as files that cannot be read are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from clinome.cohort.flow import Flow
from clinome.cohort.splits import folds as split_folds
from clinome.cohort.splits import split as split_people
from clinome.core.errors import CohortError, SchemaError, TraitError
from clinome.core.schema import SPLITS, TARGETS
from clinome.formats.table import read_checked, read_table
from clinome.imaging.reading import set_aside_table, without_unreadable
from clinome.studies.picture_files import Listed
from clinome.studies.task_file import Split, Task

UNKNOWN = "nothing that is to be learnt is known of the image"
NO_MASK = "the image has no mask"
NO_SPLIT = "the person is in no part of the split"
_SPLITS = ("train", "validation", "test")


class Examples(NamedTuple):
    """``table``: an image a row with example_id, what is to be learnt, and split; ``left_out`` (``core.schema.SET_ASIDE``)."""

    table: pl.DataFrame
    left_out: pl.DataFrame


def examples_of(
    images: pl.DataFrame, task: Task, *, classes: Sequence[str] = (), numbers: Sequence[str] = (), masks: Sequence[str] = ()
) -> Examples:
    """Return the examples of a task on ``images`` (``core.schema.IMAGES``) and the images that are none.

    Parameters
    ----------
    classes, numbers, masks
        Columns to learn, of the table of targets, or of the images table where there is no other (masks: always). Null and NaN are
        unknown; an image of which one is known is an example.

    Raises
    ------
    SchemaError
        When a column is missing, a key is there twice, or a split has a name of its own.
    TraitError
        When numbers are text or infinite, or classes are fractions.
    CohortError
        When no image has a target, or the split names nobody who has an image.
    """
    table = images if masks else _with_targets(images, task, [*classes, *numbers])
    for name in numbers:
        table = table.with_columns(_as_numbers(table, name))
    for name in classes:
        table = table.with_columns(_as_classes(table, name))
    known = table.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in (*classes, *numbers, *masks)))
    if not known.height:
        raise CohortError(
            "no image has a target",
            where=task.images.targets or task.images.path,
            do="compare the image_id or participant_id of both tables" if task.images.targets else None,
        )
    chosen = _with_split(known, task)
    has_target, is_chosen = set(known["image_id"]), set(chosen["image_id"])
    why = {name: NO_SPLIT if name in has_target else NO_MASK if masks else UNKNOWN for name in images["image_id"]}
    faults = {k: (why[name], why[name]) for k, name in enumerate(images["image_id"]) if name not in is_chosen}
    return Examples(chosen.rename({"image_id": "example_id"}), set_aside_table(images, faults))


def flow_of(found: Listed, unreadable: pl.DataFrame, some: Examples) -> Flow:
    """Return the flow from everybody with an image to those with an example."""
    people = pl.concat([found.images["participant_id"], found.set_aside["participant_id"].drop_nulls()])
    flow = Flow.start(people.unique(maintain_order=True).to_list(), stage="images", reason="have an image")
    flow = without_unreadable(flow, found.images, unreadable)
    no_split = some.left_out.filter(pl.col("what") == NO_SPLIT)["participant_id"]
    known = [*some.table["participant_id"], *no_split]
    flow = flow.keep_only("what is known", "nothing that is to be learnt is known of their images", known)
    return flow.keep_only("split", "in no part of the split", some.table["participant_id"])


# ------------------------------------------------------------------------------------------------------------------------- targets


def _with_targets(images: pl.DataFrame, task: Task, names: Sequence[str]) -> pl.DataFrame:
    """Join the table of targets, by image or by person; its columns win over those of the images table."""
    where = task.images.targets
    if where is None:
        if missing := [name for name in names if name not in images.columns]:
            raise SchemaError(
                f"the images table has no column {missing[0]!r}",
                where=task.images.path,
                got=", ".join(images.columns),
                do="name a table of what is known with targets",
            )
        return images
    known = read_checked(where, TARGETS)
    key = next((one for one in ("image_id", "participant_id") if one in known.columns), None)
    missing = [name for name in names if name not in known.columns]
    if key is None or missing:
        what = f"column {missing[0]!r}" if missing else "column that names images or people"
        expected = None if missing else "image_id or participant_id"
        raise SchemaError(f"the table of targets has no {what}", where=where, got=", ".join(known.columns), expected=expected)
    known = known.select(key, *names).drop_nulls(key)
    if known[key].is_duplicated().any():
        twice = known.filter(pl.col(key).is_duplicated())[key][0]
        raise SchemaError(f"the table of targets names the same {key} twice", where=where, got=twice, expected="a row each")
    return images.drop(names, strict=False).join(known, on=key, how="left", maintain_order="left")


def _as_numbers(table: pl.DataFrame, name: str) -> pl.Series:
    values = table[name]
    if not (values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)):
        raise TraitError(
            f"{name!r} is to be a number and holds something else",
            got=repr(values.drop_nulls()[0]),
            do="name it under classes, or write missing values as NA",
        )
    values = values.cast(pl.Float64).fill_nan(None)
    if values.is_infinite().any():
        raise TraitError(f"{name!r} holds a number that is not finite", where=table.filter(values.is_infinite())["image_id"][0])
    return values


def _as_classes(table: pl.DataFrame, name: str) -> pl.Series:
    values = table[name]
    if not values.dtype.is_float():
        return values
    values = values.fill_nan(None)
    if (values.drop_nulls() % 1 != 0).any():
        got = values.filter(values % 1 != 0)[0]
        raise TraitError(f"{name!r} is to be a class and holds fractions", got=got, do="name it under numbers")
    return values


# --------------------------------------------------------------------------------------------------------------------------- split


def _with_split(table: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Add the column ``split`` (and family_id), by the table that the task names or at random; people of neither are left out."""
    about = task.split
    if "split" in table.columns:
        raise SchemaError(
            "the images table has a column 'split', which would not be used",
            where=task.images.path,
            do="give participant_id and split as a table of their own, with --splits or path in [split], and drop the column",
        )
    if about.participants is not None:
        people = read_table(about.participants).frame
        if "family_id" not in people.columns:
            got = ", ".join(people.columns)
            raise SchemaError("the table of people has no column 'family_id'", where=about.participants, got=got)
        table = table.drop("family_id", strict=False)
        table = table.join(people.select("participant_id", "family_id"), on="participant_id", how="left", maintain_order="left")
    found = table.join(_chosen(table, task), on="participant_id", maintain_order="left")
    if not found.height:
        raise CohortError(
            "the splits name nobody who has an image", where=about.path, do="compare the participant_id of both tables"
        )
    return found


def _chosen(table: pl.DataFrame, task: Task) -> pl.DataFrame:
    about = task.split
    if about.path is not None:
        return _named_splits(read_checked(about.path, SPLITS).select("participant_id", "split"), about.path)
    columns = ["participant_id", *(["family_id"] if "family_id" in table.columns else [])]
    who = table.select(columns).unique("participant_id", keep="first", maintain_order=True)
    families = who["family_id"].to_list() if "family_id" in who.columns else None
    return _at_random(who["participant_id"].to_list(), families, about, task.task.seed)


def _named_splits(chosen: pl.DataFrame, where: Path) -> pl.DataFrame:
    """Refuse a name that would be taken for another side than it is, such as 'valid'."""
    names = chosen["split"].unique().sort().to_list()
    if any(name not in _SPLITS for name in names) and not all(name.startswith("fold_") for name in names):
        expected = f"{', '.join(map(repr, _SPLITS))}; or 'fold_1', 'fold_2' …"
        raise SchemaError("the table of splits has a name that is none", where=where, got=", ".join(names), expected=expected)
    return chosen


def _at_random(people: list[str], families: list[str | None] | None, about: Split, seed: int) -> pl.DataFrame:
    if about.folds:
        return split_folds(people, families, k=about.folds, seed=seed)
    validation, test = about.shares
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    return split_people(people, families, fractions=shares, seed=seed)
