"""`clinome simulate`: a biobank with known truth, as real files."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    participants: Annotated[int, typer.Option(help="How many people.")] = 4_000,
    variants: Annotated[int, typer.Option(help="How many variants, over all chromosomes.")] = 30_000,
    seed: Annotated[int, typer.Option(help="Equal seeds and arguments give equal files.")] = 1,
    size: Annotated[int, typer.Option(help="Pixels of a side of the photographs.")] = 88,
    chromosomes: Annotated[int, typer.Option(help="How many chromosomes, 40–60 Mb each.")] = 5,
    image_format: Annotated[str, typer.Option(help="jpeg or png.")] = "jpeg",
    missing: Annotated[float, typer.Option(help="Share of genotype calls, photographs and covariate values left out.")] = 0.003,
    null: Annotated[bool, typer.Option("--null", help="Plant no loci: nothing is heritable.")] = False,
    mice: Annotated[
        Path | None, typer.Option(help="Draw mice from this hs-mice phenotype table (coat colour, length, weight) instead.")
    ] = None,
) -> None:
    """Write a biobank with known truth: genotypes, covariates, fundus photographs, and the truth beside.

    Example:

        clinome simulate --participants 200 --variants 2000 --seed 1 --out biobank
    """
    if mice is not None:
        from clinome.simulate.mice import write_mouse_pictures

        typer.echo(f"pictures of mice are listed in {write_mouse_pictures(mice, out, size=size, seed=seed)}")
        return
    from clinome.simulate.biobank import Options, simulate_biobank

    options = Options(chromosomes=chromosomes, image_format=image_format, missing=missing)
    biobank = simulate_biobank(
        out, participants=participants, variants=variants, seed=seed, size=size, heritable=not null, options=options
    )
    typer.echo(f"{participants} people, {variants} variants and their photographs are in {biobank.folder}")
    from clinome.studies.demo import write_study

    typer.echo(f"next:  clinome run {write_study(out, participants=participants, seed=seed)} --out {out}-study")
