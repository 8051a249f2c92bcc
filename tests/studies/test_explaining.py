"""Maps of trained networks: they lie where the truth was planted, add up to what is predicted, fail loudly, and survive a kill."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from toolkit.patches import PATCH, SIDE, pictures, predictor
from torch import nn

from clinome.core.errors import FormatError, NotConverged, StudyError
from clinome.imaging.models import resnet, unet, vit
from clinome.imaging.patches import Case
from clinome.imaging.segmentation import train_segmenter
from clinome.imaging.segmenter import SegmenterRecipe
from clinome.studies import explaining, maps
from clinome.studies.explaining import explain_images, likeness
from clinome.studies.maps import How, averaged, refuse
from clinome.studies.questions import Group, Question
from clinome.studies.task_file import Pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    return predictor(folder / "model", pictures(folder))


@pytest.fixture(scope="module")
def few(model: Path) -> Path:
    """Four of the pictures, one that is broken, and one of a person whom nobody knows."""
    table = pl.read_csv(model.parent / "scans.csv").head(4)
    (model.parent / "broken.png").write_bytes((model.parent / "0.png").read_bytes()[:90])
    more = [("broken", "P90", "broken.png"), ("new", "P91", "9.png")]
    path = model.parent / "few.csv"
    pl.concat([table, pl.DataFrame(more, schema=table.schema, orient="row")]).write_csv(path)
    return path


@pytest.fixture(scope="module")
def explained(model: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Path]:
    out = tmp_path_factory.mktemp("why")
    how = How(("integrated-gradients", "occlusion", "grad-cam", "attention"), tolerance=0.03)
    return explain_images(model, Pictures(few), out, targets=["kind:lit", "level"], how=how, threads=1), out


def test_the_planted_patch_is_found_and_the_maps_add_up(explained: tuple[pl.DataFrame, Path]) -> None:
    table, out = explained
    assert table.height == 5 * 2 * 4
    lit = table.filter(pl.col("image_id").is_in(["i1", "i3"]), pl.col("target") == "kind")
    for row in lit.iter_rows(named=True):
        values = np.load(out / row["map_path"])
        assert values.shape == (SIDE, SIDE)
        if row["method"] == "integrated-gradients":
            assert np.abs(values[PATCH]).sum() > 0.5 * np.abs(values).sum()  # a tenth of the picture
            assert values.sum() == pytest.approx(row["attributed"], rel=1e-4)
            assert abs(row["attributed"] - row["explained"]) <= row["allowed"]
        if row["method"] == "occlusion":
            assert values[PATCH].mean() > 5 * np.abs(values).mean()
        if row["method"] == "attention":
            assert values.sum() == pytest.approx(1, abs=1e-4)
            assert (values >= 0).all()
    assert table.filter(pl.col("method") != "integrated-gradients")["adds_up"].is_null().all()
    assert all((out / name).stat().st_size > 1000 for name in table["picture_path"])


def test_what_is_explained_is_what_was_predicted_by_the_networks_that_had_not_seen_the_person(
    model: Path, explained: tuple[pl.DataFrame, Path]
) -> None:
    table = explained[0].filter(pl.col("method") == "grad-cam").rename({"image_id": "example_id"})
    told = table.join(pl.read_parquet(model / "predictions.parquet"), on="example_id", suffix="_then", maintain_order="left")
    told = told.filter(pl.col("example_id") != "new")
    assert told["split"].to_list() == told["split_then"].to_list()
    kind, level = (told.filter(pl.col("target") == name) for name in ("kind", "level"))
    p = kind["predicted:kind:lit"].to_numpy()
    np.testing.assert_allclose(kind["said"], np.log(p / (1 - p)), atol=2e-3)
    np.testing.assert_allclose(level["said"], level["predicted:level"], atol=2e-3)
    assert table.filter(pl.col("example_id") == "new")["split"].unique().to_list() == ["new"]


def test_a_broken_file_is_set_aside_and_random_networks_give_other_maps(explained: tuple[pl.DataFrame, Path]) -> None:
    aside = pl.read_parquet(explained[1] / "set_aside.parquet")
    assert aside["image_id"].to_list() == ["broken"]
    assert "truncated or corrupt" in aside["reason"][0]
    alike = likeness(pl.read_parquet(explained[1] / "sanity.parquet"))
    assert alike.height == 8
    signed = alike.filter(pl.col("method").is_in(["integrated-gradients", "occlusion"]))
    assert (signed["similarity"].abs() < explaining.BELIEVED).all()


def test_the_likeliest_class_of_each_picture_without_a_class(model: Path, few: Path, tmp_path: Path) -> None:
    table = explain_images(model, Pictures(few), tmp_path, targets=["kind"], how=How(("grad-cam",)), threads=1)
    seen = dict(table.select("image_id", "class").rows())
    assert [seen[f"i{k}"] for k in range(4)] == ["plain", "lit"] * 2
    assert (table["said"] > 0).all()


def test_killed_and_called_again_it_goes_on_and_ends_with_the_same_bytes(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "_TOGETHER", 3)
    given = {"targets": ["level"], "how": How(("grad-cam",)), "threads": 1}
    whole = explain_images(model, Pictures(few), tmp_path / "whole", **given)  # type: ignore[arg-type]
    drawn: list[str] = []
    write = explaining.written

    def dying(out: Path, name: str, *rest: object) -> dict[str, str]:
        drawn.append(name)
        if name == "i3" and drawn.count("i3") == 1:
            raise KeyboardInterrupt
        return write(out, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(explaining, "written", dying)
    with pytest.raises(KeyboardInterrupt):
        explain_images(model, Pictures(few), tmp_path / "cut", **given)  # type: ignore[arg-type]
    drawn.append("killed")
    again = explain_images(model, Pictures(few), tmp_path / "cut", **given)  # type: ignore[arg-type]
    assert not {"i0", "i1", "i2"} & set(drawn[drawn.index("killed") :])
    assert again.equals(whole)
    for name in ("explanations.parquet", "sanity.parquet", *whole["map_path"], *whole["picture_path"]):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_maps_that_do_not_add_up_are_withheld_and_said_after_the_others_are_written(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "integrated_gradients", partial(maps.integrated_gradients, max_steps=9))
    how = How(("integrated-gradients", "grad-cam"), tolerance=1e-6)
    with pytest.raises(NotConverged, match="do not add up") as raised:
        explain_images(model, Pictures(few), tmp_path, targets=["kind:lit"], how=how, threads=1)
    assert "5 of 5" in str(raised.value)
    table = pl.read_parquet(tmp_path / "explanations.parquet")
    missed = table.filter(pl.col("method") == "integrated-gradients")
    assert missed["map_path"].is_null().all()
    assert missed["note"].unique().to_list() == ["the attributions do not add up: no map is given"]
    assert table.filter(pl.col("method") == "grad-cam")["map_path"].null_count() == 0


class Sum(nn.Module):
    """Adds up a picture; ``cut`` off from it, it says as much and has no gradient."""

    def __init__(self, weight: float, *, cut: bool = False) -> None:
        super().__init__()
        self.weight, self.cut = nn.Parameter(torch.tensor(weight)), cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.detach() + 0 * x if self.cut else x) * self.weight).flatten(1).sum(dim=1, keepdim=True)


def test_one_network_of_several_that_misses_is_named_by_figures_that_miss(tmp_path: Path) -> None:
    inputs = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    question = Question("level", (None,) * 3, "unit", 0)
    how = How().settled("mean")
    sums = inputs.flatten(1).sum(dim=1).numpy()
    # On average what is lacking is a thousandth: within the tolerance, while one of the two explains nothing.
    group = Group([0, 1, 2], [Sum(1.0), Sum(1e-3, cut=True)], inputs, [question])
    _, found = averaged("integrated-gradients", group, question, how)
    assert not found["adds_up"].any()
    assert (np.abs(found["attributed"] - found["explained"]) > found["allowed"]).all()
    np.testing.assert_allclose(found["explained"], 1e-3 * sums, rtol=1e-5)
    table = pl.DataFrame({"image_id": ["a", "b", "c"], **found})
    with pytest.raises(NotConverged, match=r"3 of 3, worst") as raised:
        explaining._require(table, tmp_path)
    got, expected, allowed = re.search(r"a sum of (\S+)\s+expected: (\S+) ± (\S+)", str(raised.value)).groups()  # type: ignore[union-attr]
    assert abs(float(got) - float(expected)) > float(allowed)
    maps, found = averaged("integrated-gradients", group._replace(networks=[Sum(1.0), Sum(3.0)]), question, how)
    assert found["adds_up"].all()
    np.testing.assert_allclose(found["explained"], 2 * sums, rtol=1e-5)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), found["attributed"], rtol=1e-5)


def test_what_cannot_be_asked_is_said(model: Path, few: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such target") as raised:
        explain_images(model, Pictures(few), tmp_path, targets=["age"])
    assert "kind, level" in str(raised.value)
    with pytest.raises(StudyError, match="no such class") as raised:
        explain_images(model, Pictures(few), tmp_path, targets=["kind:dark"])
    assert "kind:lit, kind:plain" in str(raised.value)
    with pytest.raises(FormatError, match="holds no predictor"):
        explain_images(tmp_path, Pictures(few), tmp_path / "out")

    plain = resnet.Model(resnet.Config(layers=18, outputs=1, width=8, stem="small"))
    with pytest.raises(StudyError, match="no attention to show") as raised:
        refuse("attention", plain, torch.rand(1, 3, 16, 16))
    assert "resnet with pool = 'average'" in str(raised.value)
    with pytest.raises(StudyError, match="Grad-CAM is for networks that pool"):
        refuse("grad-cam", vit.Model(vit.Config.tiny()), torch.rand(1, 3, 32, 32))
    assert not (tmp_path / "out").exists()  # seen before anything is read


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of bright discs, and pictures of one disc and of none (``images.csv``)."""
    folder, generator = tmp_path_factory.mktemp("discs"), np.random.default_rng(1)
    cases = []
    for k in range(9):
        y, x = np.mgrid[:40, :40] - generator.integers(10, 30, (2, 1, 1))
        labels = (y**2 + x**2 < 36).astype(np.int64) * (k != 8)
        values = np.clip(80 + 100 * labels + generator.normal(0, 20, labels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{k}.png")
        np.save(folder / f"{k}.npy", labels)
        cases.append(Case(f"{k}", values[None], labels, participant_id=f"{k}"))
    recipe = SegmenterRecipe((16, 16), batch=4, steps=60, learning_rate=1e-2, average=0.9, precision="float32", validations=1)
    config = unet.Config(channels_in=1, outputs=2, widths=(8, 16), norm="batch")
    train_segmenter(
        cases[:5], cases[5:7], network=unet, config=config, recipe=recipe, folder=folder / "model/segmenter", structures=["disc"]
    )
    rows = [("one", "a", "7.png"), ("none", "b", "8.png"), ("volume", "c", "0.npy")]
    pl.DataFrame(rows, schema=["image_id", "participant_id", "path"], orient="row").write_csv(folder / "images.csv")
    return folder


def test_a_segmenter_is_asked_for_its_structure_in_the_patch_around_it(discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    how = How(("integrated-gradients", "occlusion"))
    table = explain_images(discs / "model", Pictures(discs / "images.csv"), out, how=how, threads=1)
    one = table.filter(pl.col("image_id") == "one")
    assert one["unit"].unique().to_list() == ["log odds (mean where drawn)"]
    assert (one["said"] > 0).all()
    values = np.load(out / one["map_path"][0])
    assert values.shape == (16, 16)
    assert values.sum() == pytest.approx(one["attributed"][0], rel=1e-4)
    assert set(likeness(pl.read_parquet(out / "sanity.parquet"))["target"]) == {"disc"}
    none = table.filter(pl.col("image_id") == "none")
    assert none["note"].to_list() == ["the structure was not found"] * 2
    assert none["said"].null_count() == 2
    assert pl.read_parquet(out / "set_aside.parquet")["image_id"].to_list() == ["volume"]
    with pytest.raises(StudyError, match="draws no such structure"):
        explain_images(discs / "model/segmenter", Pictures(discs / "images.csv"), tmp_path / "b", targets=["cup"])
    with pytest.raises(StudyError, match="whose last features are its answer"):
        explain_images(discs / "model", Pictures(discs / "images.csv"), tmp_path / "c", how=How(("grad-cam",)))


def test_a_segmenter_is_tested_on_several_pictures(discs: Path, tmp_path: Path) -> None:
    rows = [(f"i{k}", f"p{k}", f"{k}.png") for k in (8, 0, 1, 2, 3, 4)]  # the first shows no disc
    pl.DataFrame(rows, schema=["image_id", "participant_id", "path"], orient="row").write_csv(discs / "six.csv")
    explain_images(discs / "model", Pictures(discs / "six.csv"), tmp_path, how=How(("occlusion",)), threads=1)
    assert set(pl.read_parquet(tmp_path / "sanity.parquet")["n"]) == {4}


def test_a_map_that_is_gone_is_made_again_and_one_that_is_withheld_now_does_not_stay(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"targets": ["kind:lit"], "threads": 1}
    loose = How(("integrated-gradients",), tolerance=0.03)
    table = explain_images(model, Pictures(few), tmp_path, how=loose, **given)  # type: ignore[arg-type]
    first = tmp_path / table["map_path"][0]
    kept = first.read_bytes()
    first.unlink()
    explain_images(model, Pictures(few), tmp_path, how=loose, **given)  # type: ignore[arg-type]
    assert first.read_bytes() == kept
    monkeypatch.setattr(maps, "integrated_gradients", partial(maps.integrated_gradients, max_steps=9))
    with pytest.raises(NotConverged, match="do not add up"):
        explain_images(model, Pictures(few), tmp_path, how=replace(loose, tolerance=1e-6), **given)  # type: ignore[arg-type]
    assert not list((tmp_path / "maps").iterdir())
    assert not list((tmp_path / "pictures").iterdir())
