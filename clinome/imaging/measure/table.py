"""The table of measurements: a function that measures one image, over all images; what cannot be measured is set aside.

>>> import polars as pl
>>> from clinome.imaging.measure.trait import trait
>>> images = pl.DataFrame({"image_id": ["a", "b"], "participant_id": ["p", "p"], "path": ["a.png", "b.png"], "visit": [0, 1]})
>>> found = measure(images, lambda row: {"disc": [trait("height", 40.0 + row["visit"], "px")]})
>>> found.measurements.select("image_id", "visit", "structure", "trait", "value").rows()
[('a', 0, 'disc', 'height', 40.0), ('b', 1, 'disc', 'height', 41.0)]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import polars as pl

from clinome.core.progress import track
from clinome.core.schema import MEASUREMENTS, check
from clinome.imaging.measure.trait import Trait
from clinome.imaging.reading import fault_of, set_aside_table

Measure = Callable[[dict[str, Any]], Mapping[str, Iterable[Trait]]]
"""From a row of the images table to traits by structure."""

_SCHEMA = {column.name: column.dtype for column in MEASUREMENTS.columns}


class Measured(NamedTuple):
    """``measurements`` (``core.schema.MEASUREMENTS``) and the images ``set_aside`` (``core.schema.SET_ASIDE``)."""

    measurements: pl.DataFrame
    set_aside: pl.DataFrame


def measure(images: pl.DataFrame, function: Measure) -> Measured:
    """Measure every image of a table (``core.schema.IMAGES``), one after the other.

    An error on one image sets that image aside with its reason and never ends the run.
    """
    rows: list[tuple[Any, ...]] = []
    faults: dict[int, tuple[str, str]] = {}
    for k, image in enumerate(track(images.iter_rows(named=True), "measuring", total=images.height)):
        try:
            found = rows_of(image, function(image))
        except Exception as error:  # one bad file never ends a run
            faults[k] = fault_of(error)
        else:
            rows += found
    return Measured(check(pl.DataFrame(rows, schema=_SCHEMA, orient="row"), MEASUREMENTS), set_aside_table(images, faults))


def rows_of(image: Mapping[str, Any], structures: Mapping[str, Iterable[Trait]]) -> list[tuple[Any, ...]]:
    """Return rows of ``core.schema.MEASUREMENTS`` for one image; a value that is not finite becomes null."""
    about = (image["image_id"], image["participant_id"], image.get("laterality"), image.get("visit"))
    return [
        (*about, structure, trait.name, trait.value if math.isfinite(trait.value) else None, trait.unit, trait.flag)
        for structure, traits in structures.items()
        for trait in traits
    ]
