"""`clinome explain`: why a trained network says what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinome.cli._choices import Asked, Nothing


def explain(
    images: Annotated[Path, typer.Option(help="Images table, or a folder of DICOM, NIfTI, PNG or JPEG files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    model: Annotated[
        Path | None,
        typer.Option(help="What `clinome train` wrote; for --along and --variant what `clinome phenotype` wrote."),
    ] = None,
    method: Annotated[list[Asked] | None, typer.Option(help="How to ask; may be repeated. [default: integrated-gradients]")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="What to explain: age, kind (each image's likeliest class), kind:light; may be repeated. [default: all]"),
    ] = None,
    baseline: Annotated[
        Nothing | None,
        typer.Option(help="What 'nothing there' is: the image's mean, a blurred copy (segmenters' default), its darkest value."),
    ] = None,
    window: Annotated[int | None, typer.Option(help="Pixels a side that occlusion covers. [default: an eighth]")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Share by which integrated gradients may miss what they add up to. [default: 0.01]")
    ] = None,
    along: Annotated[
        str | None, typer.Option(help="Instead: how images change along this column of --phenotypes (or of --model's), e.g. dim03.")
    ] = None,
    phenotypes: Annotated[Path | None, typer.Option(help="Table of people with the column that --along names.")] = None,
    variant: Annotated[str | None, typer.Option(help="Instead: how images change with copies of this variant's allele.")] = None,
    genotypes: Annotated[str | None, typer.Option(help="Where --variant is: a .bed, .pgen, .bgen, .vcf.gz; or a pattern.")] = None,
    covariates: Annotated[Path | None, typer.Option(help="Table of people whose columns are taken out of the change.")] = None,
    groups: Annotated[int | None, typer.Option(help="Groups of equal size that --along is cut into. [default: 5]")] = None,
    size: Annotated[int | None, typer.Option(help="Pixels a side of average images. [default: the model's, or 128]")] = None,
    modality: Annotated[str | None, typer.Option(help="DICOM modality of the files to take, e.g. DX.")] = None,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
) -> None:
    """Show why a network says what it says of each image; or what changes in people's images along a trait or with an allele.

    Maps of integrated gradients are given only where they add up to what they explain. Every method is tried on a network with
    random weights, whose maps must look otherwise. With --along or --variant, images of people who are alike are averaged, and the
    change of each pixel stands beside its standard error.

    Example:

        clinome explain --model model --images new-scans --method integrated-gradients --method occlusion --out why
    """
    from clinome.cli._print import print_set_aside
    from clinome.core.errors import StudyError
    from clinome.studies.task_file import Pictures

    pictures = Pictures(images, modality=modality)
    ordered = along is not None or variant is not None
    of_models = {"method": method, "target": target, "baseline": baseline, "window": window, "tolerance": tolerance}
    of_people = {"phenotypes": phenotypes, "genotypes": genotypes, "covariates": covariates, "groups": groups, "size": size}
    idle = [f"--{name}" for name, value in (of_models if ordered else of_people).items() if value not in (None, [])]
    if ordered and idle:
        do = "leave it out, or leave --along and --variant out"
        raise StudyError("a trained model is asked by it, --along and --variant ask people's images", got=", ".join(idle), do=do)
    if idle:
        raise StudyError("nothing says along what images are ordered", got=", ".join(idle), do="name --along or --variant")
    if ordered:
        from clinome.studies.traversing import Along, traverse_images

        asked = Along(along, phenotypes, variant, genotypes, covariates, groups=groups, size=size)
        made = traverse_images(pictures, out, asked, model=model, threads=threads)
        for row in made.groups.iter_rows(named=True):
            typer.echo(f"{row['label']}: {row['people']} people{'' if row['picture_path'] else ', too few to show'}")
        typer.echo(f"look at: {out / 'along.png'}")
        print_set_aside(out, made.pictures)
        return
    if model is None:
        raise StudyError("nothing says what to explain", do="name a trained model with --model, or --along or --variant")
    import polars as pl

    from clinome.studies.explaining import BELIEVED, explain_images, likeness
    from clinome.studies.maps import How

    methods = tuple(one.value for one in method or [Asked.integrated_gradients])
    how = How(methods, baseline and baseline.value, window, tolerance)  # type: ignore[arg-type]
    table = explain_images(model, pictures, out, targets=tuple(target or ()), how=how, threads=threads)
    seen = table["image_id"].n_unique()
    typer.echo(f"{table['map_path'].count()} maps of {seen} images: {out / 'explanations.parquet'}; look at {out / 'pictures'}")
    for name, what, alike in likeness(pl.read_parquet(out / "sanity.parquet")).iter_rows():
        said = "cannot be compared" if alike is None else f"{alike:.2f}"
        doubt = "" if alike is not None and abs(alike) <= BELIEVED else f"; not within ±{BELIEVED}: do not believe these maps"
        typer.echo(f"  {name} of {what}: rank correlation with the maps of random networks {said}{doubt}")
    print_set_aside(out, seen)
