from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from clinome.cli import app
from clinome.core.errors import SchemaError
from tests.toolkit.pictures import eyes


def test_the_example_of_the_help_works_on_a_small_folder(tmp_path: Path) -> None:
    truth = eyes(tmp_path, n_people=12, size=24)
    truth.images.write_parquet(tmp_path / "images.parquet")
    words = ["phenotype", "--images", str(tmp_path / "images.parquet"), "--out", str(tmp_path / "out"), "--encoder", "pixels"]
    shown = CliRunner().invoke(app, [*words, "--size", "24", "--dimensions", "3"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "12 people, 3 traits" in shown.output
    assert "agreement between visits" in shown.output
    assert pl.read_parquet(tmp_path / "out" / "phenotypes.parquet").shape == (12, 4)


def test_families_and_the_encoder(tmp_path: Path) -> None:
    truth = eyes(tmp_path, n_people=40, size=24)
    truth.images.write_csv(tmp_path / "images.csv")
    people = pl.DataFrame({"participant_id": truth.people, "family_id": [f"f{k // 4}" for k in range(40)], "age": [50] * 40})
    people.write_csv(tmp_path / "people.tsv", separator="\t")
    words = ["phenotype", "--images", str(tmp_path / "images.csv"), "--participants", str(tmp_path / "people.tsv")]
    words += ["--out", str(tmp_path / "out"), "--size", "24", "--dimensions", "2", "--epochs", "1", "--threads", "1"]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "(trained the encoder)" in shown.output
    sides = pl.read_parquet(tmp_path / "out" / "splits.parquet").join(people.cast({"age": pl.Int64}), on="participant_id")
    assert (sides.group_by("family_id").agg(pl.col("split").n_unique())["split"] == 1).all()


def test_a_table_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "images.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(SchemaError, match="'image_id' is missing"):
        CliRunner().invoke(
            app, ["phenotype", "--images", str(tmp_path / "images.tsv"), "--out", str(tmp_path / "out")], catch_exceptions=False
        )
    assert not (tmp_path / "out").exists()
