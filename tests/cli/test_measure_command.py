from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.masked import OBLIQUE, blocks, squares
from toolkit.pictures import eyes
from typer.testing import CliRunner

from clinome.cli import app
from clinome.core.errors import SchemaError, StudyError


def run(*words: object) -> str:
    shown = CliRunner().invoke(app, ["measure", *map(str, words)], catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.output


def test_volumes_are_voxels_times_their_size_and_fold_to_people(tmp_path: Path) -> None:
    said = run("--images", blocks(tmp_path / "in"), "--structure", "volumes", "--names", "front,back", "--out", tmp_path / "out")
    assert "3 people, 6 traits" in said
    found = pl.read_parquet(tmp_path / "out" / "phenotypes.parquet").sort("participant_id")
    voxel = abs(np.linalg.det(OBLIQUE[:3, :3]))
    np.testing.assert_allclose(found["front.volume"], voxel * 4 * np.array([2, 3, 4]), rtol=0.02)  # spacing is rounded in NIfTI
    np.testing.assert_allclose(found["total.volume"], found["front.volume"] + found["back.volume"])
    rules = pl.read_parquet(tmp_path / "out" / "measured_traits.parquet")
    assert rules.filter(pl.col("trait") == "front.volume").select("unit", "visits", "people").row(0) == (
        "mm³",
        "first visit with a sound value",
        3,
    )
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 1000


def test_a_bad_image_and_one_without_a_mask_are_set_aside_and_counted(tmp_path: Path) -> None:
    images = squares(tmp_path / "in", 4, broken=True)
    table = images.with_name("masks.parquet")
    masks = pl.read_parquet(images).select("image_id", "mask_path").filter(pl.col("image_id") != "i1")
    masks.with_columns(certainty=pl.lit(0.5)).write_parquet(table)
    said = run("--images", images, "--masks", table, "--structure", "vessels", "--out", tmp_path / "out")
    aside = pl.read_parquet(tmp_path / "out" / "set_aside.parquet")
    assert dict(aside.select("image_id", "what").rows()) == {"i1": "the image has no mask", "broken": "the file is empty"}
    assert "2 of 5 images set aside" in said
    flow = pl.read_parquet(tmp_path / "out" / "flow.parquet")
    assert flow["dropped"].sum() + flow["remaining"][-1] == 5
    measured = pl.read_parquet(tmp_path / "out" / "measurements.parquet").filter(pl.col("trait") == "area_density")
    np.testing.assert_allclose(measured["value"], [(4 + k % 3) ** 2 / 256 for k in (0, 2, 3)])


def test_without_masks_the_disc_is_looked_for_and_both_eyes_are_one_person(tmp_path: Path) -> None:
    truth = eyes(tmp_path, n_people=3, size=32, visits=1)
    truth.images.write_parquet(tmp_path / "images.parquet")
    run("--images", tmp_path / "images.parquet", "--structure", "disc", "--eyes", "largest", "--out", tmp_path / "out")
    measured = pl.read_parquet(tmp_path / "out" / "measurements.parquet")
    assert measured["image_id"].n_unique() == 6
    assert {"vertical_cup_disc_ratio", "disc_area"} <= set(measured["trait"])
    rules = pl.read_parquet(tmp_path / "out" / "measured_traits.parquet")
    assert rules["eyes"].unique().to_list() == ["the eye with the larger value"]
    assert rules["source"][0].endswith("classical detector")


def test_what_cannot_be_measured_is_said_before_anything_is_read(tmp_path: Path) -> None:
    images = squares(tmp_path / "in", 2)
    with pytest.raises(StudyError, match="volumes need the names"):
        run("--images", images, "--structure", "volumes", "--out", tmp_path / "out")
    pl.read_parquet(images).drop("mask_path").write_parquet(images)
    with pytest.raises(SchemaError, match="there are none"):
        run("--images", images, "--structure", "vessels", "--out", tmp_path / "out")
