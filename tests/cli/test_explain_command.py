"""`clinome explain` as it is typed: maps and what is said of them, the exact errors, and pictures along a trait."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from PIL import Image
from toolkit.command import say
from toolkit.patches import PATCH, SIDE, pictures, predictor
from toolkit.pictures import eyes

from clinome.imaging.models import resnet
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Recipe, train_predictor
from clinome.imaging.targets import Target


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


def panels(path: Path, shape: tuple[int, int], factor: int, top: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture and the map over it as they are drawn, (height, width, 3), without their enlargement."""
    drawn = np.asarray(Image.open(path)).astype(int)
    both = drawn[top * factor : (top + shape[0]) * factor : factor, : 2 * shape[1] * factor : factor]
    return both[:, : shape[1]], both[:, shape[1] :]


@pytest.mark.slow
def test_maps_lie_on_pictures_as_on_the_files_also_where_the_network_saw_them_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = predictor(tmp_path / "model", pictures(tmp_path, 24), pool="average", epochs=4)
    about = json.loads((model / "predictor.json").read_text())
    about["preparation"]["mirrored"] = True  # taught on right eyes and mirrored left ones
    (model / "predictor.json").write_text(json.dumps(about))
    Image.fromarray(np.asarray(Image.open(tmp_path / "1.png"))[:, ::-1]).save(tmp_path / "left.png")
    rows = [("r", "A", "1.png", "right"), ("l", "B", "left.png", "left")]
    pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "laterality"], orient="row").write_csv(tmp_path / "eyes.csv")
    asked = ["--target", "kind:lit", "--method", "occlusion", "--window", 4, "--images", tmp_path / "eyes.csv"]
    shown = say(["explain", "--model", model, *asked, "--out", tmp_path / "why", "--threads", 1], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    right, left = pl.read_parquet(tmp_path / "why" / "explanations.parquet").iter_rows(named=True)
    there = np.zeros((SIDE, SIDE), dtype=bool)
    there[PATCH] = True
    for row, patch in ((right, there), (left, there[:, ::-1])):
        values = np.load(tmp_path / "why" / row["map_path"])
        assert patch.ravel()[values.argmax()]
        picture, over = panels(tmp_path / "why" / row["picture_path"], (SIDE, SIDE), 12)
        assert picture[patch].mean() > picture[~patch].mean() + 60
        reddest = (over[..., 0] - over[..., 2])[patch].mean(), (over[..., 0] - over[..., 2])[~patch].mean()
        assert reddest[0] > reddest[1] + 60
    np.testing.assert_array_equal(
        np.load(tmp_path / "why" / right["map_path"]), np.load(tmp_path / "why" / left["map_path"])[:, ::-1]
    )


@pytest.mark.slow
def test_maps_of_a_volume_are_drawn_as_radiologists_look_however_the_file_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, shape = np.random.default_rng(2), (10, 12, 20)
    spot = (slice(6, 9), slice(1, 4), slice(14, 18))  # (z, y, x): to the head, the front, the person's left
    volumes = [generator.normal(100, 8, shape).astype(np.float32) for _ in range(24)]
    for k in range(1, 24, 2):
        volumes[k][spot] += 60
    rows = [(f"v{k}", f"p{k}", ("plain", "lit")[k % 2], "test" if k >= 20 else "train") for k in range(24)]
    table = pl.DataFrame(rows, schema=["example_id", "participant_id", "kind", "split"], orient="row")
    network = resnet.Config(layers=18, dims=3, width=4, stem="small")
    given = {"network": network, "preparation": Preparation(shape), "recipe": Recipe(epochs=8, batch=6, learning_rate=5e-3)}
    images = [volume[None] for volume in volumes]
    train_predictor(images, table, [Target("kind", "classes")], out=tmp_path / "model", floors=False, **given)  # type: ignore[arg-type]
    (tmp_path / "scans").mkdir()
    file = nibabel.Nifti1Image(volumes[21].transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]))  # runs to left, back, head
    codes = ("LPS", "RAS", "PIR")
    for code in codes:
        order = nibabel.orientations.axcodes2ornt(code)
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(file.affine), order)
        nibabel.save(file.as_reoriented(turn), tmp_path / "scans" / f"{code}.nii.gz")
    words = ["--target", "kind:lit", "--method", "occlusion", "--window", 3, "--images", tmp_path / "scans", "--threads", 1]
    shown = say(["explain", "--model", tmp_path / "model", *words, "--out", tmp_path / "why"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    found = pl.read_parquet(tmp_path / "why" / "explanations.parquet").sort("image_id")
    maps = [np.load(tmp_path / "why" / name) for name in found["map_path"]]
    drawn = [(tmp_path / "why" / name) for name in found["picture_path"]]
    assert maps[0][spot].mean() > 8 * np.abs(maps[0]).mean()
    for values in maps[1:]:
        np.testing.assert_array_equal(values, maps[0])
    axial, coronal = panels(drawn[0], (12, 20), 19), panels(drawn[0], (10, 20), 19, top=12)
    for where, (picture, over) in (((spot[1], spot[2]), axial), ((slice(10 - 9, 10 - 6), spot[2]), coronal)):
        lit = np.zeros(picture.shape[:2], dtype=bool)
        lit[where] = True  # on the right of the picture, the front or the head above
        red = over[..., 0] - over[..., 2]
        assert red[lit].mean() > red[~lit].mean() + 60
    assert axial[0][spot[1:]].mean() > axial[0].mean() + 60
    for path in drawn[1:]:
        np.testing.assert_array_equal(panels(path, (32, 12), 19), panels(drawn[0], (32, 12), 19))


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
