"""`clinome predict`: what a trained predictor says of new images."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Option(help="The folder that `clinome train` wrote.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Images table, or a folder of DICOM, NIfTI, PNG or JPEG files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    modality: Annotated[str | None, typer.Option(help="DICOM modality of the files to take, e.g. DX.")] = None,
    pictures: Annotated[
        bool, typer.Option(help="Leave small pictures of single examples for the report, which then shows people.")
    ] = True,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
) -> None:
    """Predict new images; people of the training get predictions of networks that have not seen them, where there are such.

    Example:

        clinome predict --model model --images new-scans --out predictions
    """
    from clinome.cli._print import print_report, print_set_aside
    from clinome.studies.picture_tasks import predict_images
    from clinome.studies.task_file import Pictures

    found = predict_images(model, Pictures(images, modality=modality), out, show=pictures, threads=threads)
    typer.echo(f"{found.height} images predicted: {out / 'predictions.parquet'}")
    print_set_aside(out, found.height)
    print_report(out, pictures=pictures)
