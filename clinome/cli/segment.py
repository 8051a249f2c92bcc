"""`clinome segment`: structures drawn into new images."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class MaskFormat(StrEnum):
    """How masks of volumes are written."""

    nifti = "nifti"
    dicom_seg = "dicom-seg"


def segment(
    model: Annotated[Path, typer.Option(help="The folder `segmenter` in what `clinome train` wrote.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Images table, or a folder of DICOM, NIfTI, PNG or JPEG files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    modality: Annotated[str | None, typer.Option(help="DICOM modality of the files to take, e.g. MR.")] = None,
    format: Annotated[
        MaskFormat,
        typer.Option(help="nifti (of pictures PNG), or dicom-seg, which refers to its DICOM series so that viewers lay it over."),
    ] = MaskFormat.nifti,
    pictures: Annotated[
        bool, typer.Option(help="Leave small pictures of single examples for the report, which then shows people.")
    ] = True,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
) -> None:
    """Segment new images: masks as NIfTI on each scan's own grid (PNG for pictures) or as DICOM-SEG, and a table of them.

    Example:

        clinome segment --model model/segmenter --images new-scans --out masks
    """
    from clinome.cli._print import print_report, print_set_aside
    from clinome.studies.segmenting import segment_images
    from clinome.studies.task_file import Pictures

    how = {"show": pictures, "dicom_seg": format is MaskFormat.dicom_seg, "threads": threads}
    found = segment_images(model, Pictures(images, modality=modality), out, **how)  # type: ignore[arg-type]
    n = found["mask_path"].count()
    typer.echo(f"{n} images segmented: {out / 'segmentations.parquet'}")
    print_set_aside(out, n)
    print_report(out, pictures=pictures)
