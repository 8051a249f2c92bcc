"""`clinome measure`: numbers of outlined structures, folded to people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinome.cli._choices import Eyes, Measured, Visits


def measure(
    images: Annotated[Path, typer.Option(help="Images table, or a folder of DICOM, NIfTI, PNG or JPEG files.", show_default=False)],
    structure: Annotated[Measured, typer.Option(help="What is measured.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    masks: Annotated[
        Path | None,
        typer.Option(help="Table of image_id and mask_path, as `clinome segment` leaves; else the images table's."),
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names of labels 1, 2, … of the masks, by commas; for vessels artery,vein where told apart.")
    ] = None,
    eyes: Annotated[Eyes, typer.Option(help="How two sides become one value.")] = Eyes.mean,
    visits: Annotated[Visits, typer.Option(help="How visits become one value.")] = Visits.first,
    modality: Annotated[str | None, typer.Option(help="DICOM modality of the files to take, e.g. MR.")] = None,
    pictures: Annotated[
        bool, typer.Option(help="Leave small pictures of single examples for the report, which then shows people.")
    ] = True,
) -> None:
    """Measure vessels, optic disc and cup, or volumes in masks, and fold them to one row a person by rules that are shown.

    Example:

        clinome measure --images scans --masks masks.parquet --structure volumes --names anterior,posterior --out volumes
    """
    import polars as pl

    from clinome.cli._print import print_report, print_set_aside
    from clinome.imaging.measure.fold import Rule
    from clinome.studies.measuring import measure_images
    from clinome.studies.task_file import Pictures

    rule = Rule(eyes=eyes.value, visits=visits.value)
    named = tuple(name.strip() for name in (names or "").split(",") if name.strip())
    made = measure_images(
        Pictures(images, modality=modality), structure.value, out, masks=masks, names=named, rule=rule, show=pictures
    )
    sound = made.filter(pl.any_horizontal(pl.exclude("participant_id").is_not_null())).height
    none = "" if sound == made.height else f", {made.height - sound} of them without a sound value"
    typer.echo(f"{made.height} people{none}, {made.width - 1} traits: {out / 'phenotypes.parquet'}")
    typer.echo(f"look at the least certain outlines: {out / 'contact_sheet.png'}")
    print_set_aside(out, pl.read_parquet(out / "measurements.parquet")["image_id"].n_unique())
    print_report(out, pictures=pictures)
