"""The command line: one thin file a command, found by its name; parse, call one public function, print."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Annotated, Any

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
    _show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def _with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``--quiet``: progress is shown on a terminal unless it is there."""

    @functools.wraps(command)
    def watched(*, quiet: bool = False, **given: Any) -> None:
        from clinome.core.progress import show

        show(not quiet)
        try:
            command(**given)
        except KeyboardInterrupt:
            typer.echo("stopped; what was finished stays, and the same command goes on from there", err=True)
            raise typer.Exit(130) from None

    option = Annotated[bool, typer.Option("--quiet", help="No progress on the terminal.")]
    added = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
    own = inspect.signature(command, eval_str=True)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
    watched.__signature__ = own.replace(parameters=[*parameters, added])  # type: ignore[attr-defined]
    watched.__annotations__ = {p.name: p.annotation for p in (*parameters, added)}
    return watched


for _found in pkgutil.iter_modules(__path__):
    if not _found.name.startswith("_"):
        _command = getattr(importlib.import_module(f"{__name__}.{_found.name}"), _found.name)
        app.command(name=_found.name)(_with_quiet(_command))
