"""`clinome run`: a whole study from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file; docs/reference/study_file.md describes it.")],
    out: Annotated[Path | None, typer.Option(help="Folder for results. [default: the study file's name without .toml]")] = None,
) -> None:
    """Run a study file: files in, phenotypes, association, loci and report out. The same command goes on after a kill.

    Example:

        clinome run examples/hs-mice/study.toml --out hs-mice
    """
    from clinome.cli._print import print_summary
    from clinome.studies.discover import run_study
    from clinome.studies.study_file import read_study

    checked = read_study(study)
    folder = out or Path(study.stem)
    print_summary(run_study(checked, folder), folder)
