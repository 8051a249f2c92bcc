"""The command line: one thin file a command, found by its name; parse, call one public function, print."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated

import typer

app = typer.Typer(
    name="clinome",
    help="Deep learning in computational medicine: scans, records and genomes in; predictions and loci out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        import clinome

        typer.echo(clinome.__version__)
        raise typer.Exit


@app.callback()
def _shared(
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on the terminal.")] = False,
    _show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    from clinome.core.progress import show

    show(not quiet)


for _found in pkgutil.iter_modules(__path__):
    if _found.name.startswith("_"):
        continue
    _command = getattr(importlib.import_module(f"{__name__}.{_found.name}"), _found.name)
    app.command(name=_found.name)(_command)
