"""Tiny trainings from their command to their page: each section holds the numbers of the tables, and no page names anybody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from toolkit.command import say

from clinome.report.numbers import decimals
from tests.report.test_page import Reader

WHO = "PERSON-77"  # how every person and every image of these trainings is called


def read(folder: Path) -> tuple[str, Reader]:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert WHO not in page
    return page, Reader(page)


def number(metrics: pl.DataFrame, name: str, who: str, **of: str) -> str:
    row = metrics.filter(pl.col("name") == name, pl.col("predictor") == who, **of).row(0, named=True)
    return f"{decimals(row['value'], 3)} ({decimals(row['lower'], 3)} to {decimals(row['upper'], 3)})"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures of thirty people with a bright disc, its mask, its size, and a class that its brightness tells."""
    folder, generator, rows = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1), []
    at = np.arange(32) - 15.5
    for k in range(60):
        radius, light = generator.uniform(4, 10), 90 + 80 * (k // 2 % 2)
        disc = np.hypot(at[:, None] - generator.uniform(-3, 3), at) < radius
        name = f"{WHO}{k}"
        values = np.clip(generator.normal(30, 6, (32, 32)) + light * disc, 0, 255)
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray(255 * disc.astype(np.uint8)).save(folder / f"{name}_mask.png")
        about = (["dim", "bright"][light > 100], radius, ["north", "south"][k // 2 % 3 > 0])
        rows.append((name, f"{WHO}{k // 2}", f"{name}.png", f"{name}_mask.png", *about))
    (folder / f"{WHO}3.png").write_bytes(b"")
    names = ["image_id", "participant_id", "path", "mask_path", "tone", "radius", "site"]
    table = pl.DataFrame(rows, schema=names, orient="row")
    table.drop("tone", "radius").write_csv(folder / "images.csv")
    table.select("image_id", "tone", "radius").write_csv(folder / "known.csv")
    people = [f"{WHO}{k}" for k in range(30)]
    split = ["train"] * 12 + ["validation"] * 6 + ["test"] * 12
    pl.DataFrame({"participant_id": people, "split": split}).write_csv(folder / "splits.csv")
    return folder


@pytest.mark.slow
def test_a_predictor(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", pictures / "images.csv", "--targets", pictures / "known.csv", "--classes", "tone", "--numbers", "radius"]
    words += ["--splits", pictures / "splits.csv", "--size", "8", "--epochs", "2", "--threads", "1"]
    shown = say(["train", *words, "--out", tmp_path / "model"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    page, reader = read(tmp_path / "model")
    wanted = {"results", "reliability", "groups", "examples", "learning", "images", "leakage", "participants", "provenance"}
    assert set(reader.ids) >= wanted
    metrics = pl.read_parquet(tmp_path / "model" / "metrics.parquet")
    for name, who, of in (
        ("auroc", "model", "tone"),
        ("auroc", "pixels, logistic", "tone"),
        ("gain:mae", "model against mean", "radius"),
        ("mae", "blend", "radius"),
    ):
        assert number(metrics, name, who, target=of) in reader.text, (name, who)
    assert "Judged on the 24 examples of the split “test”" in reader.text
    curves = json.loads((tmp_path / "model" / "history.json").read_text())["curves"]
    assert [len(one["records"]) for one in curves] == [2]
    assert "AUROC of validation by epoch" in reader.text
    assert "Of 60 images, 59 were used." in reader.text
    assert "begun at random" in reader.text
    assert "resnet, 11,1" in reader.text
    shown_of = pl.read_parquet(tmp_path / "model" / "examples.parquet")
    assert set(shown_of["kind"]) == {"worst", "typical", "least certain"}
    assert page.count("data:image/png") == shown_of.height

    words = ["--model", tmp_path / "model", "--images", pictures / "images.csv", "--out", tmp_path / "new", "--no-pictures"]
    shown = say(["predict", *words], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    page, reader = read(tmp_path / "new")
    assert "What the predictor says of 59 images" in reader.text
    assert "data:image" not in page
    assert not (tmp_path / "new" / "pictures").exists()


@pytest.mark.slow
def test_a_segmenter(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--images", pictures / "images.csv", "--structures", "disc", "--splits", pictures / "splits.csv", "--minutes", "0.05"]
    shown = say(["train", *words, "--threads", "1", "--out", tmp_path / "model"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    page, reader = read(tmp_path / "model")
    assert set(reader.ids) >= {"results", "examples", "learning", "images", "leakage", "participants", "provenance"}
    metrics = pl.read_parquet(tmp_path / "model" / "metrics.parquet")
    for name, who in (("dice", "model"), ("dice", "mean shape"), ("gain:dice", "model against mean shape")):
        assert number(metrics, name, who, subgroup="structure=disc") in reader.text, (name, who)
    gain = metrics.filter(name="gain:dice")["value"].item()
    both = [metrics.filter(name="dice", predictor=who)["value"].item() for who in ("model", "mean shape")]
    assert gain == pytest.approx(both[0] - both[1])
    assert "Judged on the 24 images of the split “test”" in reader.text
    assert "of the largest Dice over the pixels" in reader.text
    assert "unet, " in reader.text
    assert page.count("data:image/png") == pl.read_parquet(tmp_path / "model" / "examples.parquet").height == 20

    words = ["--model", tmp_path / "model" / "segmenter", "--images", pictures / "images.csv", "--out", tmp_path / "masks"]
    shown = say(["segment", *words], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    page, reader = read(tmp_path / "masks")
    assert "59 images were segmented" in reader.text
    assert page.count("data:image/png") == 16
    words = ["--images", pictures / "images.csv", "--masks", tmp_path / "masks" / "segmentations.parquet", "--structure", "disc"]
    shown = say(["measure", *words, "--out", tmp_path / "measured"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    page, reader = read(tmp_path / "measured")
    assert "Measured traits" in reader.text
    assert page.count("data:image/png") == 20
