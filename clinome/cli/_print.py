"""What the commands that run a study print when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import polars as pl

    from clinome.genetics.planner import Plan

MAIN = ("auroc", "mae", "dice", "accuracy")  # the measure that a task is first judged by


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """Print warnings and notes to standard error, the headline and the report's path to standard output."""
    for kind in ("warnings", "notes"):
        for line in summary[kind]:
            typer.echo(f"{kind[:-1]}: {line}", err=True)
    for label, value in summary["headline"]:
        if label != "truth":
            typer.echo(f"{label}: {value}")
    typer.echo(f"report: {(out / 'report.html').resolve()}")
    if summary["truth_line"]:
        typer.echo(summary["truth_line"])


def print_plan(plan: Plan) -> None:
    """Print what a scan would take: in a line, and its time part by part."""
    from clinome.genetics.planner import duration

    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(plan)
    for part, seconds in plan.seconds.items():
        typer.echo(f"{part}: {duration(seconds)}")


def print_metrics(metrics: pl.DataFrame) -> None:
    """Print, for each target or structure, the first measure of the model and of every floor, with its interval and the gain."""
    import polars as pl

    what_of = pl.coalesce("target", "subgroup").str.replace("structure=", "", literal=True)
    for (what,), of_what in metrics.group_by(what_of, maintain_order=True):
        name = next((one for one in MAIN if (of_what["name"] == one).any()), None)
        if name is None:
            continue
        for row in of_what.filter(pl.col("name").is_in([name, f"gain:{name}"])).iter_rows(named=True):
            if row["value"] is not None:
                interval = "" if row["lower"] is None else f"  {row['lower']:.3f} to {row['upper']:.3f}"
                typer.echo(f"{what}: {row['name']:<10} {row['value']:>8.3f}{interval:<20} {row['predictor']}")


def print_set_aside(folder: Path, done: int | None = None) -> None:
    """Say how many images were set aside in ``folder`` and why, if any; ``done``: how many were not, where that is known."""
    import polars as pl

    from clinome.imaging.reading import in_words

    aside = pl.read_parquet(folder / "set_aside.parquet")
    if aside.height:
        typer.echo(f"  {in_words(aside, None if done is None else done + aside.height)}; see {folder / 'set_aside.parquet'}")


def print_report(folder: Path, *, pictures: bool) -> None:
    """Write the page of ``folder`` and print where it is; say which packages it lacks, for the results are there without it."""
    from clinome.core.errors import MissingExtra
    from clinome.report.page import write_report

    try:
        typer.echo(f"report: {write_report(folder, pictures=pictures)}")
    except MissingExtra as error:
        typer.echo(f"no report: {error}, then clinome report {folder}", err=True)
