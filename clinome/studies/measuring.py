"""From masks to phenotypes of people: the wiring behind `clinome measure`.

images + masks ─measure─→ measurements ─fold, by rules that are shown─→ phenotypes, quality, contact sheet of the least certain
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

import clinome
from clinome.cohort.flow import Flow
from clinome.core.errors import FormatError, SchemaError, StudyError
from clinome.core.files import own_folder, write_json
from clinome.core.provenance import write_provenance
from clinome.core.schema import MASKS, SET_ASIDE, check
from clinome.formats.table import read_checked
from clinome.imaging.measure.contact_sheet import Case, contact_sheet
from clinome.imaging.measure.disc import Circle, field_of_view, find_disc, measure_disc, measure_found
from clinome.imaging.measure.fold import Rule, fold, repeatability, write_folded
from clinome.imaging.measure.table import measure
from clinome.imaging.measure.trait import Trait
from clinome.imaging.measure.vessels import measure_vessels
from clinome.imaging.measure.volumes import measure_volumes
from clinome.imaging.reading import without_unreadable
from clinome.imaging.scan import Scan
from clinome.studies.example_pictures import leave_examples, of_contours
from clinome.studies.picture_files import SHOWN, Listed, leave, listed, read_image, read_mask, withdraw
from clinome.studies.task_file import Pictures

Structure = Literal["vessels", "disc", "volumes"]

_LABELS = {"vessels": ("vessel",), "disc": ("disc", "cup")}
_KINDS = {"artery": 1, "vein": 2}
_LEAVES = ("measurements", "quality", "set_aside", "flow", "phenotypes", "measured_traits")  # tables
_SHEET = 20  # contours on the contact sheet


def measure_images(
    pictures: Pictures,
    structure: Structure,
    out: Path,
    *,
    masks: Path | None = None,
    names: Sequence[str] = (),
    rule: Rule | None = None,
    show: bool = True,
) -> pl.DataFrame:
    """Measure ``structure`` in every image and fold to people; return and leave ``phenotypes`` (``core.schema.PHENOTYPES``).

    Parameters
    ----------
    structure
        ``vessels`` (masks of them, or of ``names`` artery and vein), ``disc`` (masks of disc 1 and cup 2; without masks a
        classical detector draws both), ``volumes`` (masks of ``names``).
    masks
        A table with columns image_id and mask_path, as `clinome segment` leaves; by default the images table's own column.
    rule
        How images, visits and eyes become one value a person.
    show
        Whether small pictures of the least certain outlines are left for the page as well, without the names that the contact
        sheet has.

    Leaves measurements, phenotypes, measured_traits (the rules), quality, flow, set_aside and contact_sheet.png.

    Raises
    ------
    StudyError, SchemaError
        When there are no masks where they are needed, or no names.
    FormatError
        When not one image can be measured.
    """
    names = _named(structure, names)
    out, found = own_folder(out, "clinome measure"), _with_masks(listed(pictures), masks)
    if "mask_path" not in found.images.columns and structure != "disc":
        raise SchemaError(
            f"{structure} are measured in masks, and there are none",
            where=pictures.path,
            expected="a column mask_path",
            do="run clinome segment, and give its segmentations.parquet with --masks",
        )
    sure: dict[str, float] = {}

    def one(row: dict[str, Any]) -> Mapping[str, list[Trait]]:
        scan, labels = _both(found.root, row, pictures, names)
        traits, _, certainty = _MEASURES[structure](scan, labels, names, row.get("certainty"))
        sure[row["image_id"]] = certainty
        return traits

    made = measure(found.images, one)
    aside = check(pl.concat([found.set_aside, made.set_aside], how="diagonal_relaxed"), SET_ASIDE)
    if not made.measurements.height:
        raise FormatError("no image can be measured", where=pictures.path, got=str(aside["reason"][0]))
    drawn = "mask_path" in found.images.columns
    outlines = f"masks of {masks.name}" if masks else "own masks" if drawn else "classical detector"
    folded = fold(made.measurements, rule, source=f"clinome {clinome.__version__}, {outlines}")
    flow = without_unreadable(_everybody(found), found.images, aside)
    with_value = folded.phenotypes.filter(pl.any_horizontal(pl.all().exclude("participant_id").is_not_null()))
    flow = flow.keep_only("measuring", "no sound measurement", with_value["participant_id"])
    quality = repeatability(made.measurements, found.images)
    withdraw(out, "contact_sheet.png", *SHOWN, *(f"{name}.parquet" for name in _LEAVES))
    leave(out, measurements=made.measurements, quality=quality, set_aside=aside, flow=flow.table())
    write_folded(folded, out)
    cases = list(_least_certain(found, pictures, structure, names, sure))
    contact_sheet(cases, out / "contact_sheet.png", n=_SHEET)
    leave_examples(out, of_contours(cases, structure) if show else ())
    write_json(out / "summary.json", {"kind": "measure", "title": f"{structure.capitalize()}, measured"})
    settings = {"structure": structure, "names": list(names), "rule": rule or Rule(), "masks": masks and masks.name}
    write_provenance(out, inputs=[masks] if masks else [], settings=settings)
    return folded.phenotypes


def _named(structure: Structure, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the labels 1, 2, … of the masks of ``structure``; those that it cannot have are refused."""
    names = tuple(names) or _LABELS.get(structure, ())
    if not names:
        raise StudyError("volumes need the names of the labels 1, 2, … of the masks", do="give --names anterior,posterior")
    if structure == "vessels" and names != ("vessel",) and not set(names) <= set(_KINDS):
        raise StudyError("vessels are of two kinds", got=", ".join(names), expected="artery, vein, or no names")
    if structure == "disc" and names != _LABELS["disc"]:
        raise StudyError("names of the disc's masks are fixed", got=", ".join(names), expected="1 disc, 2 cup: no names")
    return names


def _everybody(found: Listed) -> Flow:
    people = pl.concat([found.images["participant_id"], found.set_aside["participant_id"].drop_nulls()])
    return Flow.start(people.unique(maintain_order=True).to_list(), stage="images", reason="have an image")


def _with_masks(found: Listed, masks: Path | None) -> Listed:
    """Join the column mask_path (absolute) and certainty; an image without a mask has none."""
    images = found.images
    if masks is None:
        if "mask_path" not in images.columns:
            return found
        root = found.root
    else:
        table, root = read_checked(masks, MASKS), masks.parent
        columns = [name for name in ("image_id", "mask_path", "certainty") if name in table.columns]
        images = images.drop("mask_path", "certainty", strict=False)
        images = images.join(table.select(columns), on="image_id", how="left", maintain_order="left")
    paths = [None if path is None else str((root / path).resolve()) for path in images["mask_path"]]
    return found._replace(images=images.with_columns(mask_path=pl.Series(paths, dtype=pl.String)))


def _both(root: Path, row: dict[str, Any], pictures: Pictures, names: Sequence[str]) -> tuple[Scan, NDArray[np.int16] | None]:
    """Read an image and its mask; raise for one without a mask where there are some."""
    scan = read_image(root, row, pictures)
    if "mask_path" not in row:
        return scan, None
    if row["mask_path"] is None:
        raise FormatError("the image has no mask", where=row["path"])
    return scan, read_mask(Path(row["mask_path"]), len(names), on=scan)


# ---------------------------------------------------------------------------------------------------------------------- structures

_Found = tuple[dict[str, list[Trait]], NDArray[np.integer[Any]], float]
"""Traits by structure, what was outlined, and how certain that is (NaN: nobody knows)."""


def _vessels(scan: Scan, labels: NDArray[np.int16] | None, names: Sequence[str], certainty: float | None) -> _Found:
    assert labels is not None
    picture = _colour(_plane(scan))
    labels = labels.reshape(labels.shape[-2:])
    field, circle = None, None
    if picture is not None:
        field = field_of_view(picture)
        circle = _disc_in(picture, field)
    kind = None
    if names != ("vessel",):
        kind = np.zeros_like(labels)
        for k, name in enumerate(names, start=1):
            kind[labels == k] = _KINDS[name]
    traits = measure_vessels(labels > 0, field=field, disc=circle, kind=kind, pixel_mm=_pixel_mm(scan))
    return {"vessels": traits}, labels, np.nan if certainty is None else certainty


def _disc_in(picture: NDArray[np.uint8], field: NDArray[np.bool_]) -> Circle | None:
    """Return the optic disc where one stands out, for what is measured around it."""
    if not field.any():
        return None
    found = find_disc(picture, field=field)
    return found.circle if found.stands_out else None


def _disc(scan: Scan, labels: NDArray[np.int16] | None, names: Sequence[str], certainty: float | None) -> _Found:
    if labels is not None:
        labels = labels.reshape(labels.shape[-2:])
        cup = labels == 2 if (labels == 2).any() else None
        traits = measure_disc(labels > 0, cup, pixel_mm=_pixel_mm(scan), certainty=certainty)
        return {"disc": traits}, labels, np.nan if certainty is None else certainty
    picture = _colour(_plane(scan))
    if picture is None:
        raise FormatError("the detector of the disc needs a colour photograph of 8 bits", got=f"{len(scan.values)} channels")
    found = find_disc(picture)
    sure = min(found.disc_certainty, found.cup_certainty) if found.stands_out else 0.0
    return {"disc": measure_found(found, pixel_mm=_pixel_mm(scan))}, found.disc.astype(np.int16) + found.cup, sure


def _volumes(scan: Scan, labels: NDArray[np.int16] | None, names: Sequence[str], certainty: float | None) -> _Found:
    assert labels is not None
    if scan.spacing_mm is None:
        raise FormatError("the size of a pixel is not known", where=scan.path, do="give scans in DICOM or NIfTI")
    total = "total" if len(names) > 1 else None
    traits = measure_volumes(
        labels, spacing_mm=scan.spacing_mm, names=dict(enumerate(names, start=1)), affine=scan.affine, total=total
    )
    return traits, labels, np.nan if certainty is None else certainty


_MEASURES: dict[str, Callable[[Scan, NDArray[np.int16] | None, Sequence[str], float | None], _Found]] = {
    "vessels": _vessels,
    "disc": _disc,
    "volumes": _volumes,
}


def _plane(scan: Scan) -> NDArray[Any]:
    """Return a picture as (channels, height, width); raise for a volume."""
    values = scan.values
    if values.ndim == 4 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim == 4:
        raise FormatError("a picture is wanted and this is a volume", where=scan.path, got=f"shape {values.shape[1:]}")
    return values


def _colour(values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return (height, width, 3), or None for what is not colour of 8 bits."""
    return np.ascontiguousarray(np.moveaxis(values[:3], 0, -1)) if len(values) >= 3 and values.dtype == np.uint8 else None


def _pixel_mm(scan: Scan) -> float | None:
    """Return the side of a pixel where it is known and square."""
    if scan.spacing_mm is None or abs(scan.spacing_mm[-1] / scan.spacing_mm[-2] - 1) > 0.01:
        return None
    return float(scan.spacing_mm[-1])


def _least_certain(
    found: Listed, pictures: Pictures, structure: Structure, names: Sequence[str], sure: Mapping[str, float]
) -> Iterator[Case]:
    """Read again the images whose outlines are the least certain; of a volume the slice with most of it is shown."""
    chosen = sorted(sure, key=lambda name: (sure[name] if np.isfinite(sure[name]) else -1.0, name))[:_SHEET]
    rows = {row["image_id"]: row for row in found.images.filter(pl.col("image_id").is_in(chosen)).iter_rows(named=True)}
    for name in chosen:
        scan, labels = _both(found.root, rows[name], pictures, names)
        drawn = _MEASURES[structure](scan, None, names, None)[1] if labels is None else labels
        shown = scan.values
        if drawn.ndim == 3:
            most = int(np.count_nonzero(drawn, axis=(1, 2)).argmax())
            shown, drawn = shown[:, most], drawn[most]
        picture = _colour(shown)
        yield Case(name, shown[0] if picture is None else picture, drawn, sure[name])
