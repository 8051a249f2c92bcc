"""`clinome reproduce`: published results, ours beside theirs."""

from pathlib import Path
from typing import Annotated

import typer


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
    _print(run(name, data=data, out=out or Path(name), small=small, threads=threads))
    if small:
        typer.echo("(the small version is too small to be held against the published numbers)")


def _print(claims: list) -> None:  # type: ignore[type-arg]
    for claim in claims:
        found = "–" if claim.found is None else f"{claim.found:.4g}"
        bar = "–" if claim.bar is None else f"{claim.bar:g}"
        said = claim.published if isinstance(claim.published, str) else f"{claim.published:g} ({claim.mark})"
        typer.echo(f"  {claim.name:32} found {found:>8}  bar {bar:>7}  {claim.verdict:12} {claim.evidence}; published: {said}")
