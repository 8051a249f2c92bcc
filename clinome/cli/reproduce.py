"""`clinome reproduce`: published results, ours beside theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clinome.studies.reproducing import Claim


def reproduce(
    name: Annotated[str | None, typer.Argument(help="The published result, e.g. isensee_2021; without it, all are listed.")] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that holds the data set.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write into; by default the name.")] = None,
    small: Annotated[bool, typer.Option("--small", help="The version of a minute, which the tests run.")] = False,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
) -> None:
    """Run a published result again and print its claims beside what was found, misses as misses.

    Example:

        clinome reproduce kirchler_2022 --out power --small
    """
    from clinome.studies.reproducing import about, claims, names
    from clinome.studies.reproducing import reproduce as run

    if name is None:
        for one in names():
            typer.echo(f"{one:18} {about(one)['title']}")
            _print(claims(one))
        return
    _print(run(name, data=data, out=out or Path(name), small=small, threads=threads), judged=not small)
    if small:
        typer.echo("(the small version shows that all works; it is too small to be held against bars and published numbers)")


def _print(claims: list[Claim], *, judged: bool = True) -> None:
    for claim in claims:
        found = "–" if claim.found is None else f"{claim.found:.4g}"
        bar = "–" if claim.bar is None else f"{claim.bar:g}"
        verdict = claim.verdict + (", reproduced" if claim.reproduced else "") if judged else ""
        said = claim.published if isinstance(claim.published, str) else f"{claim.published:g} ({claim.mark})"
        typer.echo(f"  {claim.name:32} found {found:>8}  bar {bar:>7}  {verdict:17} {claim.evidence}; published: {said}")
