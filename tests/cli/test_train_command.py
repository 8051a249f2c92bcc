"""`clinome train` and `clinome predict` on tiny pictures: bad files set aside, leaks refused without the word, folds kept apart."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from clinome.core.errors import StudyError
from clinome.studies import picture_tasks, task_file
from tests.toolkit.command import say


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of twenty people: dark or light; one file is empty."""
    folder, generator, rows = tmp_path_factory.mktemp("scans"), np.random.default_rng(1), []
    for k in range(40):
        light = 60 + 90 * (k // 2 % 2)
        Image.fromarray(np.clip(light + generator.normal(0, 12, (16, 16)), 0, 255).astype(np.uint8)).save(folder / f"{k}.png")
        rows.append((f"i{k}", f"P{k // 2:02d}", f"{k}.png", "light" if light > 100 else "dark", light / 10))
    (folder / "7.png").write_bytes(b"")
    table = pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "kind", "level"], orient="row")
    table.drop("kind", "level").write_csv(folder / "scans.csv")
    table.select("image_id", "kind", "level").write_csv(folder / "known.csv")
    return folder


@pytest.mark.slow
def test_train_and_predict(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.toml"
    task.write_text(
        f'[images]\npath = "{scans / "scans.csv"}"\ntargets = "{scans / "known.csv"}"\n[task]\nthreads = 1\n[split]\nfolds = 2\n'
        '[predict]\nclasses = ["kind"]\nnumbers = ["level"]\nsize = 16\nepochs = 2\nbatch = 8\nfloors = false\n'
        'precision = "bfloat16"\n'
    )
    shown = say(["train", task, "--out", tmp_path / "model"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert "auroc" in shown.out
    predictions = pl.read_parquet(tmp_path / "model" / "predictions.parquet")
    assert predictions.height == 39
    assert set(predictions["split"]) == {"fold_1", "fold_2"}
    assert predictions.group_by("participant_id").agg(pl.col("split").n_unique())["split"].max() == 1
    aside = pl.read_parquet(tmp_path / "model" / "set_aside.parquet")
    assert aside.select("image_id", "what").rows() == [("i7", "the file is empty")]
    assert ">bfloat16, channels last<" in (tmp_path / "model" / "report.html").read_text()

    words = ["--model", str(tmp_path / "model"), "--images", str(scans / "scans.csv"), "--out", str(tmp_path / "new")]
    shown = say(["predict", *words], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert "39 images predicted" in shown.out
    assert "1 of 40 images set aside: 1 × the file is empty" in shown.out
    again = pl.read_parquet(tmp_path / "new" / "predictions.parquet")
    column = "predicted:kind:light"
    both = predictions.join(again, on="example_id", suffix="_again")
    np.testing.assert_allclose(both[column], both[f"{column}_again"], atol=1e-4)  # asked of the networks that had not seen them


def test_a_leaking_split_is_refused_without_the_word(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = pl.read_csv(scans / "scans.csv").with_columns(
        participant_id=pl.when(pl.col("image_id") == "i1").then(pl.lit("Q")).otherwise("participant_id"),
        path=pl.when(pl.col("image_id") == "i1").then(pl.lit("0.png")).otherwise("path"),
    )
    copied.with_columns(path=str(scans) + "/" + pl.col("path")).write_csv(tmp_path / "scans.csv")
    sides = [(f"P{k:02d}", "train" if k < 12 else "validation" if k < 16 else "test") for k in range(20)]
    pl.DataFrame([*sides, ("Q", "test")], schema=["participant_id", "split"], orient="row").write_csv(tmp_path / "splits.csv")
    words = ["train", "--images", tmp_path / "scans.csv", "--targets", scans / "known.csv", "--classes", "kind"]
    words += ["--splits", tmp_path / "splits.csv", "--size", "16", "--epochs", "1", "--out", tmp_path / "model"]
    shown = say(words, monkeypatch, capsys)
    assert shown.code == 1
    assert "the split leaks" in shown.err
    assert "exact_duplicates" in shown.err
    assert not list((tmp_path / "model").glob("*.safetensors"))


def test_images_or_a_task_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = say(["train", "--out", tmp_path / "model"], monkeypatch, capsys)
    assert shown.code == 2
    assert "either a task file or --images" in shown.err


def test_options_say_what_a_task_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(wanted: task_file.Task, *_: object, **__: object) -> None:
        raise StudyError(repr(wanted))

    monkeypatch.setattr(picture_tasks, "train", seen)
    words = ["train", "--images", tmp_path, "--modality", "MR", "--precision", "float32", "--out", tmp_path / "model"]
    of = f"Pictures(path={tmp_path!r}, targets=None, modality='MR', mirror="
    shown = say([*words, "--classes", "kind", "--mirror"], monkeypatch, capsys)
    assert f"{of}True)" in shown.err
    assert "precision='float32'" in shown.err
    shown = say([*words, "--structures", "head"], monkeypatch, capsys)
    assert f"{of}False)" in shown.err
    assert "precision='float32'" in shown.err
    shown = say([*words, "--structures", "head", "--mirror"], monkeypatch, capsys)
    assert (shown.code, "--mirror would not be used" in shown.err) == (2, True)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--modality", "MR"], r"no image says of which modality it is\n.*got: +MR\n.*leave the modality out"),
        (["--mirror"], r"no image says which side it is of, so that mirror would not be used\n.*a column 'laterality'"),
    ],
)
def test_options_that_pictures_have_no_use_for_are_refused(
    option: list[str], says: str, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--images", scans / "scans.csv", "--targets", scans / "known.csv", "--classes", "kind"]
    shown = say([*words, *option, "--out", tmp_path / "model"], monkeypatch, capsys)
    assert shown.code == 1
    assert re.search(says, shown.err, re.DOTALL), shown.err
