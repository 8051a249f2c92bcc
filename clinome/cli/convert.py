"""`clinome convert`: genotypes, summary statistics or weights in a file of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinome.cli._choices import Layout


def convert(
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .bed, .pgen, .tsv, .tsv.gz or .safetensors; a folder for several traits of --results.",
            show_default=False,
        ),
    ],
    genotypes: Annotated[
        str | None, typer.Option(help="A .bed, .pgen, .bgen, .vcf.gz or .bcf; or a pattern with * over chromosomes.")
    ] = None,
    sumstats: Annotated[Path | None, typer.Option(help="A file of summary statistics: GWAS-SSF, REGENIE or PLINK 2.")] = None,
    results: Annotated[Path | None, typer.Option(help="Result folder, as 'clinome run' or 'clinome gwas' wrote it.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Pickled weights or network of another program (.pt, .pth, .bin, .ckpt), to .safetensors.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="The word that --weights come from where you think they do.")] = False,
    layout: Annotated[Layout | None, typer.Option(help="Layout of the summary statistics to write.")] = None,
    trait: Annotated[
        list[str] | None,
        typer.Option(help="A trait of --results to write, may be repeated (all without it); or the name of that of --sumstats."),
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="Region of --results to write: chr:from-to or chr; may be repeated.")
    ] = None,
    p_value: Annotated[float | None, typer.Option(help="Largest p-value of --results to write.")] = None,
    keep: Annotated[Path | None, typer.Option(help="List of people to keep (IID, or FID IID), with --genotypes.")] = None,
    extract: Annotated[Path | None, typer.Option(help="List of ids of variants to keep, with --genotypes.")] = None,
    sample: Annotated[Path | None, typer.Option(help="The .sample file of a BGEN.")] = None,
    build: Annotated[str | None, typer.Option(help="Genome build, e.g. GRCh38, where the file does not state it.")] = None,
) -> None:
    """Write genotypes as .bed or .pgen, summary statistics in another layout, or weights as .safetensors, from one source.

    Example:

        clinome convert --genotypes biobank/genotypes.bed --out biobank.pgen

        clinome convert --results biobank-gwas --layout regenie --out regenie

        clinome convert --results biobank-gwas --layout plink2 --trait dim03 --region 6:25000000-34000000 --out hla.tsv

        clinome convert --sumstats t.regenie.gz --layout plink2 --out t.glm.gz

        clinome convert --weights resnet50.pth --trust --out resnet50.safetensors
    """
    from clinome.core.errors import StudyError
    from clinome.genetics.convert import genotype_file, result_files, statistics_file
    from clinome.genetics.export import Part

    sources = {"--genotypes": genotypes, "--sumstats": sumstats, "--results": results, "--weights": weights}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise StudyError("one source is converted at a time", got=" and ".join(given) or "none", expected=" or ".join(sources))
    if trust and weights is None:
        raise StudyError("--trust does not go with " + given[0], do="leave --trust out")
    of_genotypes = {"--keep": keep, "--extract": extract, "--sample": sample, "--build": build}
    of_results = {"--region": region, "--p-value": p_value}
    of_statistics = {"--layout": layout, "--trait": trait}
    strange = ({} if genotypes is not None else of_genotypes) | ({} if results is not None else of_results)
    strange |= of_statistics if genotypes is not None or weights is not None else {}
    for name, value in strange.items():
        if value is not None:
            raise StudyError(f"{name} does not go with {given[0]}", do=f"leave {name} out")
    if weights is not None:
        from clinome.nn.weight_convert import convert_weights

        written = convert_weights(weights, out, trust=trust)
        typer.echo(f"{written.tensors:,} tensors of a file with sha256 {written.sha256}: {out}")
        return
    if genotypes is not None:
        made = genotype_file(genotypes, out, keep=keep, extract=extract, sample_file=sample, build=build)
        for note in made.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"{made.n_variants:,} variants of {made.n_people:,} people: {out}")
        return
    if layout is None:
        raise StudyError(f"{given[0]} needs a layout", expected=" or ".join(f"--layout {choice.value}" for choice in Layout))
    if sumstats is not None:
        if trait and len(trait) > 1:
            raise StudyError("a file of summary statistics holds one trait", got=", ".join(trait), do="give --trait once")
        typer.echo(f"{statistics_file(sumstats, out, layout=layout.value, trait=trait[0] if trait else None):,} variants: {out}")
    elif results is not None:
        part = Part(tuple(trait or ()), tuple(region or ()), 1.0 if p_value is None else p_value)
        for file in result_files(results, out, layout=layout.value, part=part):
            typer.echo(file)
