"""`clinome embed`: the features of every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinome.cli._choices import Precision


def embed(
    images: Annotated[Path, typer.Option(help="Images table, or a folder of DICOM, NIfTI, PNG or JPEG files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    network: Annotated[
        str | None,
        typer.Option(
            help="small, resnet18, resnet50, inception_v3, densenet121, or a name of published weights. [default: resnet50]"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="File or name of weights; or what `clinome train` or `clinome phenotype` wrote. Without it they are random."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels a side that the network reads. [default: as it was taught, or 224]")
    ] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Flip left eyes. [default: as the network was taught]")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="float32: same bytes whatever the threads; measure: the quickest on this machine.")
    ] = Precision.float32,
    modality: Annotated[str | None, typer.Option(help="DICOM modality of the files to take, e.g. DX.")] = None,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Processor cores to use; all by default.")] = None,
) -> None:
    """Write the raw features of every picture as one matrix: a row a picture, nothing averaged, nothing chosen.

    For phenotypes of people (averages over their pictures, a few axes with their quality, nobody phenotyped by a network that has
    seen them) use `clinome phenotype`.

    Example:

        clinome embed --images scans --network resnet50 --weights resnet50-11ad3fa6.pth --out features
    """
    from clinome.cli._print import print_set_aside
    from clinome.studies.extracting import embed_images
    from clinome.studies.task_file import Pictures

    how = {"network": network, "weights": weights, "size": size, "mirror": mirror, "seed": seed}
    made = embed_images(Pictures(images, modality=modality), out, **how, precision=precision.value, threads=threads)  # type: ignore[arg-type]
    typer.echo(made.network.said)
    typer.echo(f"{made.images.height} pictures, {made.features.shape[1]} features each: {out / 'features.npy'}")
    typer.echo(f"whose rows they are: column `row` of {out / 'images.parquet'}")
    print_set_aside(out, made.images.height)
