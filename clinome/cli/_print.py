"""What the commands that run a study print when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from clinome.genetics.planner import Plan


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
