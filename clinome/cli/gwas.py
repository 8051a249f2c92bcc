"""`clinome gwas`: many traits against every variant."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clinome.cli._choices import Layout


class Missing(StrEnum):
    """What stands in for a missing genotype."""

    mean = "mean"
    drop = "drop"


class Statistic(StrEnum):
    """How a test is made."""

    t = "t"
    score = "score"


class Ragged(StrEnum):
    """How traits that not everybody has are treated."""

    exact = "exact"
    regenie = "regenie"


class Device(StrEnum):
    """Where matrix products are made."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


def gwas(
    genotypes: Annotated[str, typer.Option(help="A .bed, .pgen, .bgen, .vcf.gz or .bcf; or a pattern with * over chromosomes.")],
    phenotypes: Annotated[Path, typer.Option(help="Table with FID/IID, IID or participant_id and one column a trait.")],
    out: Annotated[Path, typer.Option(help="Folder for results and report.")],
    covariates: Annotated[Path | None, typer.Option(help="Table of covariates; text columns are categorical.")] = None,
    traits: Annotated[str | None, typer.Option(help="Traits to analyse, separated by commas; all by default.")] = None,
    export: Annotated[Layout | None, typer.Option(help="Also write text, one file a trait.")] = None,
    missing_genotypes: Annotated[
        Missing, typer.Option(help="The mean (as REGENIE), or drop per variant (as PLINK 2).")
    ] = Missing.mean,
    statistic: Annotated[Statistic, typer.Option(help="Student's t, or the score test (as REGENIE).")] = Statistic.t,
    ragged_traits: Annotated[
        Ragged, typer.Option(help="Every trait over its own people, or REGENIE's approximation, to compare with it.")
    ] = Ragged.exact,
    omnibus: Annotated[
        bool, typer.Option(help="Also test all traits together (Wilks), whatever the rotation of their axes.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="List of people to keep (IID, or FID IID).")] = None,
    remove: Annotated[Path | None, typer.Option(help="List of people to leave out.")] = None,
    extract: Annotated[Path | None, typer.Option(help="List of variants to scan: one id a line.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="List of variants to leave out.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="Region to scan: chr:from-to or chr; may be repeated.")] = None,
    intervals: Annotated[Path | None, typer.Option(help="Regions to scan as a .bed of intervals (0-based, end excluded).")] = None,
    condition: Annotated[str | None, typer.Option(help="Variants whose counts join the covariates, by commas.")] = None,
    condition_list: Annotated[Path | None, typer.Option(help="The same as a list: one id a line.")] = None,
    interaction: Annotated[
        str | None, typer.Option(help="Covariate, a number or of two levels, with which effects may change: tests trait×covariate.")
    ] = None,
    categorical: Annotated[str | None, typer.Option(help="Covariates coded by numbers that are categories, by commas.")] = None,
    missing_code: Annotated[list[str] | None, typer.Option(help="A code that means missing, e.g. -9; may be repeated.")] = None,
    sample: Annotated[Path | None, typer.Option(help="The .sample file of a BGEN.")] = None,
    build: Annotated[str | None, typer.Option(help="Genome build, e.g. GRCh38, where the file does not state it.")] = None,
    maf: Annotated[float | None, typer.Option(help="Least minor-allele frequency.")] = None,
    mac: Annotated[float | None, typer.Option(help="Least minor-allele count.")] = None,
    missing: Annotated[float | None, typer.Option(help="Largest share of missing genotypes of a variant.")] = None,
    hwe: Annotated[float | None, typer.Option(help="Least p of the exact Hardy-Weinberg test.")] = None,
    info: Annotated[float | None, typer.Option(help="Least imputation INFO, where the file states it.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each process; by default as many as are quickest.")] = None,
    processes: Annotated[int, typer.Option(help="Processes; more than 1 pay where reading keeps threads waiting.")] = 1,
    device: Annotated[Device, typer.Option(help="Where matrix products are made: same results, to the bit.")] = Device.auto,
    plan: Annotated[bool, typer.Option("--plan", help="Scan nothing: say what time, memory and disk the scan will take.")] = False,
    plan_on: Annotated[
        str | None, typer.Option(help="The same on another machine: '64 cores, 512 GB', '16 cores, gpu 1979 TOPS'.")
    ] = None,
) -> None:
    """Associate every variant with every trait by linear regression (0/1 traits too), with covariates projected out.

    Example:

        clinome gwas --genotypes "chr*.bed" --phenotypes traits.tsv --covariates covariates.tsv --out results --export regenie
    """
    from clinome.cli._print import print_plan, print_summary
    from clinome.core.machine import Machine
    from clinome.genetics.association import Options
    from clinome.genetics.filters import Filters
    from clinome.genetics.selection import Selection
    from clinome.studies.discover import plan_study, run_study
    from clinome.studies.study_file import About, Cohort, CovariateTable, GenotypeFiles, Phenotypes, Scan, Study

    options = Options(
        missing_genotypes=missing_genotypes.value,
        statistic=statistic.value,
        ragged_traits=ragged_traits.value,
        filters=Filters(maf=maf, mac=mac, missing=missing, hwe=hwe, info=info),
        threads=threads,
        processes=processes,
        device=device.value,
    )
    codes = tuple(missing_code or ())
    machine = Machine.named(plan_on) if plan_on else None
    study = Study(
        study=About(title=f"Association of {phenotypes.name}", subtitle=Path(genotypes).name),
        genotypes=GenotypeFiles(
            genotypes,
            build=build,
            sample=sample,
            scanned=Selection(extract=extract, exclude=exclude, regions=tuple(region or ()), intervals=intervals),
        ),
        covariates=CovariateTable(covariates, categorical=_listed(categorical), missing=codes) if covariates else None,
        cohort=Cohort(keep=keep, remove=remove),
        phenotypes=Phenotypes(path=phenotypes, columns=_listed(traits), missing=codes),
        gwas=Scan(
            options=options,
            omnibus=omnibus,
            export=(export.value,) if export else (),
            condition=_listed(condition),
            condition_list=condition_list,
            interaction=interaction,
        ),
    )
    if plan or machine:
        print_plan(plan_study(study, out, machine=machine))
    else:
        print_summary(run_study(study, out), out)


def _listed(words: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip()) if words else ()
