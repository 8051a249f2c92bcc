"""`clinome demo`: the whole flow on a simulated biobank whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the biobank and the study.")] = Path("demo"),
    participants: Annotated[int, typer.Option(help="People to simulate.")] = 4_000,
    variants: Annotated[int, typer.Option(help="Variants to simulate.")] = 30_000,
    seed: Annotated[int, typer.Option(help="Same seed, same biobank.")] = 1,
) -> None:
    """Simulate a biobank, run the study that finds its planted loci from photographs, and name the report to open.

    Example:

        clinome demo --out demo
    """
    from clinome.cli._print import print_summary
    from clinome.studies.demo import run_demo

    print_summary(run_demo(out, participants=participants, variants=variants, seed=seed), out / "study")
