"""`clinome simulate` on the command line."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from typer.testing import CliRunner

from clinome.cli import app
from clinome.simulate.biobank import biobank_paths
from clinome.studies.study_file import read_study


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["simulate", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_writes_what_was_asked_for_and_names_the_next_command(tmp_path: Path) -> None:
    words = ("--participants", 40, "--variants", 400, "--chromosomes", 2, "--seed", 4, "--size", 32, "--image-format", "png")
    printed = run(*words, "--missing", 0, "--null", "--out", tmp_path / "b")
    paths = biobank_paths(tmp_path / "b")
    assert f"clinome run {paths.folder / 'study.toml'} --out" in printed
    assert read_study(paths.folder / "study.toml").truth is not None
    assert pl.read_parquet(paths.true_loci).height == 0
    images = pl.read_parquet(paths.images)
    assert images.height == 160
    assert all((tmp_path / "b" / path).suffix == ".png" and (tmp_path / "b" / path).is_file() for path in images["path"])


def test_mice_are_drawn_from_a_phenotype_table(tmp_path: Path) -> None:
    table = tmp_path / "pheno.tsv"
    table.write_text(
        "IID\tCoatColour\tObesity.BodyLength\tObesity.EndNormalBW\na\tblack\t9\t25\nb\talbino\t8.5\tNA\nc\tsand\t8\t20\n"
    )
    printed = run("--mice", table, "--size", 32, "--out", tmp_path / "mice")
    assert "mice/images.parquet" in printed
    assert pl.read_parquet(tmp_path / "mice" / "images.parquet")["participant_id"].to_list() == ["a", "a", "c", "c"]


def test_help_shows_an_example_that_can_be_pasted() -> None:
    assert "clinome simulate --participants 200 --variants 2000 --seed 1 --out biobank" in " ".join(run("--help").split())
