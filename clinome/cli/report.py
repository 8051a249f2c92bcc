"""``clinome report``: the HTML page of a result folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Result folder, as the command that made it wrote it.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Page to write. [default: DIR/report.html]")] = None,
    pictures: Annotated[bool, typer.Option(help="Show pictures of single people where the folder holds some.")] = True,
) -> None:
    """Write one self-contained HTML page from a result folder's saved tables.

    Example:

        clinome report results --out results.html --no-pictures
    """
    from clinome.report.page import write_report

    typer.echo(write_report(folder, out=out, pictures=pictures))
