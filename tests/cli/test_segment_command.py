"""`clinome train --structures`, `clinome segment` and `clinome measure` one after the other, and what each refuses."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from PIL import Image
from toolkit.masked import OBLIQUE, blocks

from tests.toolkit.command import say


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blocks(tmp_path_factory.mktemp("scans"), 12)


@pytest.mark.slow
def test_from_masks_drawn_to_volumes_of_people(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--images", scans, "--structures", "front,back", "--minutes", "0.05", "--threads", 1, "--quiet"]
    shown = say([*words, "--out", tmp_path / "model"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    for structure in ("front", "back"):
        for who in ("model", "mean shape"):
            assert re.search(rf"^{structure}: dice +[01]\.\d{{3}}  .* {who}$", shown.out, re.MULTILINE), shown.out
    assert f"report: {tmp_path / 'model' / 'report.html'}" in shown.out
    assert (tmp_path / "model" / "segmenter" / "segmenter.json").exists()

    new = tmp_path / "new"
    new.mkdir()
    for k in range(3):
        (new / f"sub-{k}.nii.gz").write_bytes((scans.parent / f"{k}.nii.gz").read_bytes())
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(new / "sub-9.png")
    words = ["segment", "--model", tmp_path / "model" / "segmenter", "--images", new, "--out", tmp_path / "masks", "--quiet"]
    shown = say(words, monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert f"3 images segmented: {tmp_path / 'masks' / 'segmentations.parquet'}" in shown.out
    assert "1 of 4 images set aside: 1 × the image is of another kind; see " in shown.out
    made = pl.read_parquet(tmp_path / "masks" / "segmentations.parquet")
    assert made["participant_id"].to_list() == ["0", "1", "2"]  # BIDS names people

    table = tmp_path / "masks" / "segmentations.parquet"
    for words in (["--images", table], ["--images", new, "--masks", table]):
        out = tmp_path / f"volumes{len(words)}"
        shown = say(
            ["measure", *words, "--structure", "volumes", "--names", "front,back", "--out", out, "--quiet"], monkeypatch, capsys
        )
        assert shown.code == 0, shown.err
        measured = pl.read_parquet(out / "measurements.parquet").filter(structure="front", trait="volume")
        for image, value in measured.select("image_id", "value").rows():
            mask = nibabel.load(tmp_path / "masks" / "masks" / f"{image}.nii.gz").get_fdata()
            assert value == pytest.approx((mask == 1).sum() * abs(np.linalg.det(OBLIQUE[:3, :3])), rel=0.02)
        assert measured.height == 3


def test_what_segment_refuses(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        shown = say(["segment", *words, "--out", tmp_path / "out"], monkeypatch, capsys)
        assert shown.code == 1
        return shown.err

    said = refused("--model", scans.parent, "--images", scans).splitlines()
    assert said[:2] == ["error: this folder holds no segmenter", f"  where:    {scans.parent}"]
    assert said[-1] == (
        "  do:       train one with `clinome train` or train_segmenter, and name the folder `segmenter` in what it wrote"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "segmenter.json").write_text("{")
    assert refused("--model", tmp_path / "model", "--images", scans).startswith("error: this folder holds no segmenter\n")
    assert not (tmp_path / "out").exists()


def test_what_train_refuses(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        shown = say(["train", "--out", tmp_path / "out", *words], monkeypatch, capsys)
        assert shown.code == 1
        return shown.err.splitlines()[0]

    assert refused("--images", scans, "--structures", "front,front") == "error: structures are one or more different names"
    assert refused("--images", scans, "--structures", "front", "--folds", 3) == (
        "error: folds are for [predict]; a segmenter takes the shares validation and test"
    )
    shown = say(["train", "--out", tmp_path, "--images", scans, "--structures", "front", "--epochs", 3], monkeypatch, capsys)
    assert shown.code == 2
    assert "--epochs would not be used: it is of the other kind of task" in " ".join(shown.err.split())
    (tmp_path / "task.toml").touch()
    shown = say(["train", tmp_path / "task.toml", "--out", tmp_path, "--seed", 3, "--minutes", 2], monkeypatch, capsys)
    assert shown.code == 2
    assert "--minutes, --seed would not be used: a task file says it" in " ".join(shown.err.split())
    assert refused("--images", scans, "--structures", "front", "--minutes", 0) == "error: minutes is out of range"
    assert refused("--images", scans, "--structures", "front") == (
        "error: no image of the split 'train' can be read with its mask"  # which holds a second label
    )
    pl.read_parquet(scans).drop("mask_path").write_csv(tmp_path / "bare.csv")
    absolute = pl.read_csv(tmp_path / "bare.csv").with_columns(path=str(scans.parent) + "/" + pl.col("path"))
    absolute.write_csv(tmp_path / "bare.csv")
    assert (
        refused("--images", tmp_path / "bare.csv", "--structures", "front") == "error: the images table has no column 'mask_path'"
    )
    assert refused("--images", scans, "--classes", "sex") == "error: the images table has no column 'sex'"
    assert refused("--images", scans) == "error: there is nothing to predict"
    assert refused("--images", scans, "--classes", "sex", "--network", "vgg") == "error: there is no such network"
    assert (
        refused("--images", scans, "--classes", "sex", "--allow", "copies") == "error: there is no such check of leakage to allow"
    )


def test_an_empty_folder_holds_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["--images", tmp_path / "empty", "--out", tmp_path / "out"]
    for command in (["train", "--structures", "front"], ["measure", "--structure", "disc"]):
        shown = say([*command, *words], monkeypatch, capsys)
        assert shown.code == 1
        assert shown.err.startswith("error: the folder holds no image\n")
