"""`clinome embed` as it is typed: a matrix and whose rows it holds, what the weights are in plain words, the exact errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.command import say
from toolkit.pictures import eyes


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eyes")
    eyes(folder, n_people=3, size=24, visits=1)
    (folder / "pictures" / "empty.jpg").touch()
    return folder / "pictures"


def test_features_rows_and_random_weights_in_plain_words(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", "--images", images, "--network", "resnet18", "--size", 32, "--threads", 1, "--out", tmp_path / "out"]
    shown = say(words, monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert "resnet18 with random weights (seed 1): what it gives is a floor" in shown.out
    assert "6 pictures, 512 features each" in shown.out
    assert "1 of 7 images set aside: 1 × the file is empty" in shown.out
    features, table = np.load(tmp_path / "out" / "features.npy"), pl.read_parquet(tmp_path / "out" / "images.parquet")
    assert table["row"].to_list() == list(range(6))
    assert features.shape == (6, 512)
    assert {"image_id", "participant_id", "path"} <= set(table.columns)
    before = (tmp_path / "out" / "features.npy").stat().st_mtime_ns
    assert say(words, monkeypatch, capsys).out == shown.out
    assert (tmp_path / "out" / "features.npy").stat().st_mtime_ns == before


def test_exact_errors(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (
        (("--network", "vgg"), "there is no such network"),
        (("--network", "resnet18", "--weights", "absent.pth"), "there is no such file of weights"),
        (("--weights", "torchvision/resnet18"), "are not on this machine, and Clinome downloads none"),
    ):
        shown = say(["embed", "--images", images, "--out", tmp_path / "out", *more], monkeypatch, capsys)
        assert (shown.code, said in shown.err) == (1, True), shown.err
    assert not (tmp_path / "out").exists()
