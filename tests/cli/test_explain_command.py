"""`clinome explain` as it is typed: maps and what is said of them, the exact errors, and pictures along a trait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.command import say
from toolkit.patches import pictures, predictor
from toolkit.pictures import eyes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    predictor(folder / "model", pictures(folder, 12), pool="average", epochs=2)
    table = pl.read_csv(folder / "scans.csv").head(3)
    (folder / "empty.png").touch()
    pl.concat([table, pl.DataFrame([("bad", "P9", "empty.png")], schema=table.schema, orient="row")]).write_csv(folder / "few.csv")
    return folder / "model"


def words(model: Path, out: Path, *more: object) -> list[object]:
    return ["explain", "--model", model, "--images", model.parent / "few.csv", "--out", out, "--threads", 1, *more]


def test_maps_their_sanity_and_what_was_set_aside(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--method", "occlusion", "--method", "grad-cam", "--target", "kind:lit", "--baseline", "darkest", "--window", 5]
    shown = say(words(model, tmp_path / "why", *asked), monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert "6 maps of 3 images" in shown.out
    assert "occlusion of kind: rank correlation with the maps of random networks" in shown.out
    assert "1 of 4 images set aside: 1 × the file is empty" in shown.out
    table = pl.read_parquet(tmp_path / "why" / "explanations.parquet")
    assert all((tmp_path / "why" / name).is_file() for name in (*table["map_path"], *table["picture_path"]))


def test_what_does_not_add_up_ends_the_command_after_all_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.read_csv(model.parent / "few.csv").head(1).write_csv(model.parent / "one.csv")
    asked = [one if one != model.parent / "few.csv" else model.parent / "one.csv" for one in words(model, tmp_path / "why")]
    shown = say([*asked, "--target", "level", "--tolerance", 1e-9], monkeypatch, capsys)
    assert shown.code == 1
    assert "attributions do not add up" in shown.err
    assert "raise --tolerance" in shown.err
    assert (tmp_path / "why" / "explanations.parquet").is_file()


def test_exact_errors(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (
        (("--method", "attention"), "this network has no attention to show"),
        (("--target", "age"), "the predictor has no such target"),
        (("--along", "dim01"), "this folder holds no encoder of people's pictures"),
        (("--along", "dim01", "--method", "occlusion"), "--along and --variant ask people's images\n  got:      --method\n"),
        (("--along", "dim01", "--tolerance", 0.1), "--along and --variant ask people's images\n  got:      --tolerance\n"),
        (("--groups", 3, "--size", 64), "nothing says along what images are ordered\n  got:      --groups, --size\n"),
        (
            ("--baseline", "mean", "--method", "grad-cam"),
            "no method that is asked uses a baseline\n  got:      baseline mean and grad-cam",
        ),
        (("--window", 4), "no method that is asked uses a window\n  got:      window 4 and integrated-gradients"),
        (("--tolerance", 0.1, "--method", "occlusion"), "no method that is asked uses a tolerance"),
        (
            ("--window", 50, "--method", "occlusion"),
            "does not fit into the network's picture\n  got:      window 50\n",
        ),
        (("--window", 0, "--method", "occlusion"), "a setting is out of range\n  got:      window 0\n  expected: above 0\n"),
        (("--variant", "rs1", "--genotypes", "g.bed", "--groups", 3), "by a variant, people are grouped by its genotypes"),
        (("--variant", "rs1", "--genotypes", "g.bed", "--phenotypes", "t.csv"), "leave --phenotypes and --groups out"),
        (("--along", "dim01", "--genotypes", "g.bed"), "along a trait no genotypes are read"),
        (("--along", "dim01", "--groups", 1), "a setting is out of range\n  got:      groups 1\n  expected: from 2\n"),
        (("--genotypes", "g.bed"), "nothing says along what images are ordered"),
        (("--variant", "rs1"), "nothing says where the variant is"),
        (("--variant", "rs1", "--along", "dim01", "--genotypes", "g.bed"), "name one of --along and --variant"),
    ):
        shown = say(words(model, tmp_path / "a", *more), monkeypatch, capsys)
        assert (shown.code, said in shown.err) == (1, True), shown.err
    shown = say(["explain", "--images", model.parent / "few.csv", "--out", tmp_path / "b"], monkeypatch, capsys)
    assert "nothing says what to explain" in shown.err


def test_pictures_along_a_trait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    truth = eyes(tmp_path, n_people=40, size=24, visits=1)
    truth.images.write_parquet(tmp_path / "images.parquet")
    traits = pl.DataFrame({"participant_id": truth.people, "disc": truth.latents[:, 0]})
    traits.write_csv(tmp_path / "traits.csv")
    along = ["--phenotypes", tmp_path / "traits.csv", "--along", "disc", "--groups", 4, "--size", 24]
    shown = say(["explain", "--images", tmp_path / "images.parquet", "--out", tmp_path / "out", *along], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert shown.out.count("10 people") == 4
    difference = np.load(tmp_path / "out" / "difference.npy").mean(axis=2)
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    assert abs(row - 11.5) < 5  # the rim of the disc, which lies to the right of the middle
    assert 12 < column < 22
