from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from toolkit.masked import OBLIQUE, blocks, squares
from toolkit.pictures import eyes
from typer.testing import CliRunner

from clinome.cli import app
from clinome.core.errors import SchemaError, StudyError
from clinome.studies import measuring
from clinome.studies.task_file import Pictures


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


def test_nothing_of_an_earlier_run_stands_beside_one_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, out = blocks(tmp_path / "in"), tmp_path / "out"
    run("--images", images, "--structure", "volumes", "--names", "front,back", "--out", out)

    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "write_folded", dying)
    with pytest.raises(KeyboardInterrupt):
        measuring.measure_images(Pictures(images), "volumes", out, names=("one", "two"))
    assert set(pl.read_parquet(out / "measurements.parquet")["structure"]) == {"one", "two", "total"}
    left = {path.name for path in out.iterdir()}
    assert not left & {"phenotypes.parquet", "measured_traits.parquet", "contact_sheet.png", "report.html", "summary.json"}


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


def test_people_without_a_sound_value_are_counted_apart(tmp_path: Path) -> None:
    images = blocks(tmp_path / "in")
    empty = tmp_path / "in" / pl.read_parquet(images)["mask_path"][0]
    mask = nibabel.load(empty)
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), empty)
    said = run("--images", images, "--structure", "volumes", "--names", "front,back", "--out", tmp_path / "out")
    assert "3 people, 1 of them without a sound value, 6 traits" in said


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


def test_names_that_do_not_fit_a_structure(tmp_path: Path) -> None:
    images = squares(tmp_path / "in", 2)
    with pytest.raises(StudyError, match=r"(?s)vessels are of two kinds.*got:      artery, lymph.*artery, vein, or no"):
        run("--images", images, "--structure", "vessels", "--names", "artery,lymph", "--out", tmp_path / "out")
    with pytest.raises(StudyError, match=r"(?s)names of the disc's masks are fixed.*got:      cup.*1 disc, 2 cup: no names"):
        run("--images", images, "--structure", "disc", "--names", "cup", "--out", tmp_path / "out")
    pl.DataFrame({"image_id": ["i0"], "mask": ["0.png"]}).write_csv(tmp_path / "masks.csv")
    with pytest.raises(SchemaError, match="mask_path"):
        run("--images", images, "--structure", "vessels", "--masks", tmp_path / "masks.csv", "--out", tmp_path / "out")


def test_a_mask_laid_elsewhere_than_its_scan_is_not_measured(tmp_path: Path) -> None:
    images = blocks(tmp_path / "in")
    mask = nibabel.load(tmp_path / "in" / "1.seg.nii.gz")
    there = np.asarray(mask.dataobj)
    turned = mask.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])  # the same numbers, stored the other way round
    nibabel.save(nibabel.Nifti1Image(there, turned), tmp_path / "in" / "1.seg.nii.gz")
    nudged = mask.affine.copy()
    nudged[:3, 3] += 0.1  # a tenth of a millimetre, as programs round
    other = tmp_path / "in" / "2.seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(other).dataobj), nudged), other)
    run("--images", images, "--structure", "volumes", "--names", "front,back", "--out", tmp_path / "out")
    aside = pl.read_parquet(tmp_path / "out" / "set_aside.parquet")
    assert aside.select("image_id", "what").rows() == [("s1", "the mask lies elsewhere than its image")]
    assert aside["reason"][0].endswith("voxels apart")


def test_eyes_and_visits_are_folded_as_asked(tmp_path: Path) -> None:
    images = squares(tmp_path / "in", 4)  # of 4, 5, 6 and 4 pixels a side
    table = pl.read_parquet(images)
    eyes = {"laterality": ["left", "right", "left", "right"], "visit": [0, 0, 1, 1]}
    table.with_columns(participant_id=pl.lit("p"), **{name: pl.Series(values) for name, values in eyes.items()}).write_parquet(
        images
    )
    area = np.array([16, 25, 36, 16]) / 256
    asked = {
        ("mean", "first"): area[:2].mean(),
        ("left", "last"): area[2],
        ("largest", "first"): area[1],
        ("smallest", "last"): area[3],
        ("right", "mean"): area[[1, 3]].mean(),
    }
    for (eye, visit), expected in asked.items():
        out = tmp_path / f"{eye}-{visit}"
        run("--images", images, "--structure", "vessels", "--eyes", eye, "--visits", visit, "--out", out)
        people = pl.read_parquet(out / "phenotypes.parquet")
        assert people["vessels.area_density"].to_list() == pytest.approx([expected])
