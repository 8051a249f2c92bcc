"""Features of every picture: the network's own, by row, with the weights that are named, and the same bytes after a kill."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from toolkit.checkpoints import state
from toolkit.patches import SIDE, pictures, predictor

from clinome.core.errors import FormatError, StudyError
from clinome.formats.picture import read_square, write_picture
from clinome.imaging.learning import transferred
from clinome.imaging.models import resnet, unet
from clinome.imaging.pictures import Preparation, prepared
from clinome.imaging.prediction import Recipe, read_predictor, train_predictor
from clinome.imaging.targets import Target
from clinome.nn.saving import save_model
from clinome.nn.weights import IMAGENET
from clinome.studies import extracting
from clinome.studies.extracting import embed_images
from clinome.studies.extractors import extractor
from clinome.studies.task_file import Pictures


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs, a truncated one in their middle, a volume, and one that is to be inverted."""
    folder, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(2)
    rows = []
    for k in range(6):
        write_picture(folder / f"{k}.png", generator.integers(0, 256, (40, 50, 3)).astype(np.uint8))
        rows.append((f"i{k}", f"P{k // 2}", f"{k}.png", ("left", "right")[k % 2], k == 5))
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), folder / "v.nii.gz")
    rows.append(("volume", "P9", "v.nii.gz", None, False))
    names = ["image_id", "participant_id", "path", "laterality", "inverted"]
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(folder / "images.parquet")
    return folder / "images.parquet"


def bare(network: torch.nn.Module, pixels: list[np.ndarray]) -> np.ndarray:
    x = torch.from_numpy(np.stack([np.moveaxis(one, -1, 0) for one in pixels])).float() / 255
    with torch.inference_mode():
        found: np.ndarray = network.eval().features(IMAGENET.apply(x)).numpy()
    return found


def test_features_are_the_bare_networks_row_by_row(scans: Path, tmp_path: Path) -> None:
    found = embed_images(Pictures(scans), tmp_path, network="resnet18", size=32, seed=3, threads=2)
    assert found.images["image_id"].to_list() == ["i0", "i1", "i3", "i4", "i5"]
    torch.manual_seed(3)
    network = resnet.Model(resnet.Config(layers=18, outputs=0))
    pixels = [read_square(scans.parent / f"{k}.png", side=32, gap=2) for k in (0, 1, 3, 4, 5)]
    pixels[4] = 255 - pixels[4]
    np.testing.assert_allclose(found.features[found.images["row"].to_numpy()], bare(network, pixels), atol=1e-5)
    aside = dict(found.set_aside.select("image_id", "what").rows())
    assert aside["volume"] == "the network takes pictures and this is a volume"
    assert "truncated or corrupt" in aside["i2"]
    assert np.isnan(found.features[2]).all()
    about = json.loads((tmp_path / "weights.json").read_text())
    assert about["weights"] == "random"
    assert "random weights (seed 3)" in found.network.said
    assert str(scans.parent) not in (tmp_path / "weights.json").read_text() + (tmp_path / "provenance.json").read_text()


def test_left_eyes_are_flipped_where_that_is_asked_for(scans: Path, tmp_path: Path) -> None:
    given = {"network": "resnet18", "size": 32, "threads": 1}
    plain = embed_images(Pictures(scans), tmp_path / "a", **given).features  # type: ignore[arg-type]
    flipped = embed_images(Pictures(scans), tmp_path / "b", **given, mirror=True).features  # type: ignore[arg-type]
    same = [bool(np.array_equal(one, other)) for one, other in zip(plain[:2], flipped[:2], strict=True)]
    assert same == [False, True]


def test_weights_of_another_program_are_matched_and_told(scans: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    network = resnet.Model(resnet.Config(layers=18))
    save_file({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "w.safetensors")
    found = embed_images(
        Pictures(scans), tmp_path / "out", network="resnet18", weights=str(tmp_path / "w.safetensors"), size=32, threads=1
    )
    pixels = [read_square(scans.parent / "0.png", side=32, gap=2)]
    np.testing.assert_allclose(found.features[0], bare(network, pixels)[0], atol=1e-5)
    assert "120 of 120 weights from" in found.network.said
    assert "scaled by ImageNet's mean" in found.network.said
    about = json.loads((tmp_path / "out" / "weights.json").read_text())["weights"]
    assert about["path"] == "w.safetensors"
    assert len(about["matched"]) == 120
    assert sorted(about["left"]) == ["module.fc.bias", "module.fc.weight"]


def test_no_table_names_the_users_folders(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.png").write_bytes((scans.parent / "0.png").read_bytes())
    (tmp_path / "archive/a.png").write_bytes((scans.parent / "1.png").read_bytes())
    (tmp_path / "archive/c.png").touch()
    paths = [str(tmp_path / "archive/a.png"), str(tmp_path / "elsewhere/b.png"), "a.png", str(tmp_path / "archive/c.png")]
    table = pl.DataFrame({"image_id": ["a", "b", "again", "c"], "participant_id": list("PQPR"), "path": paths})
    table.write_parquet(tmp_path / "archive/images.parquet")
    found = embed_images(Pictures(tmp_path / "archive/images.parquet"), tmp_path / "out", network="small", size=16, threads=1)
    assert found.images.select("row", "path").rows() == [(0, "a.png"), (1, "b.png"), (2, "a.png")]
    assert found.set_aside["path"].to_list() == ["c.png"]
    np.testing.assert_array_equal(found.features[0], found.features[2])
    kept = pl.read_parquet(tmp_path / "out/images.parquet")
    assert not any(str(tmp_path) in str(value) for row in kept.rows() for value in row)
    assert not any(str(tmp_path) in path.read_text() for path in (tmp_path / "out").glob("*.json") if path.stem != "features")


def test_killed_and_called_again_it_ends_with_the_same_bytes(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pl.read_parquet(scans).filter(pl.col("image_id") != "volume")
    many = pl.concat([table.with_columns(image_id=pl.col("image_id") + f"_{k}") for k in range(6)])
    many.write_parquet(scans.parent / "many.parquet")
    given = {"network": "resnet18", "size": 32, "threads": 1}
    embed_images(Pictures(scans.parent / "many.parquet"), tmp_path / "whole", **given)  # type: ignore[arg-type]
    decode, seen, dies = extracting.square, list[Path](), [True]

    def dying(path: Path, size: int) -> np.ndarray:
        seen.append(path)
        if len(seen) == 25 and dies:
            raise KeyboardInterrupt
        return decode(path, size)

    monkeypatch.setattr(extracting, "square", dying)
    with pytest.raises(KeyboardInterrupt):
        embed_images(Pictures(scans.parent / "many.parquet"), tmp_path / "cut", **given)  # type: ignore[arg-type]
    seen.clear()
    dies.clear()
    embed_images(Pictures(scans.parent / "many.parquet"), tmp_path / "cut", **given)  # type: ignore[arg-type]
    assert len(seen) == 5 + 20  # a few to learn the width, and 20 of 36: the batch of 16 that was done is found
    for name in ("features.npy", "images.parquet", "set_aside.parquet", "weights.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_phenotype_encoder_sees_pictures_as_it_learned(scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "phenotypes"
    made = transferred("small", None, size=24, seed=1)
    made.save(folder / "encoder.safetensors")
    (folder / "embedding.json").write_text(json.dumps({"config": {"size": 24, "mirror": True}}))
    found = embed_images(Pictures(scans), tmp_path / "out", weights=str(folder), threads=1)
    assert (found.network.size, found.network.mirror) == (24, True)
    pixels = read_square(scans.parent / "0.png", side=24, gap=2)[:, ::-1].copy()
    with torch.inference_mode():
        wanted = made.network.features(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    np.testing.assert_allclose(found.features[0], wanted[0], atol=1e-5)
    with pytest.raises(StudyError, match="which network they are of"):
        extractor("resnet18", str(folder))


def test_a_predictors_network_sees_pictures_as_it_learned(tmp_path: Path) -> None:
    table = pictures(tmp_path / "lit", 16)
    model = predictor(tmp_path / "model", table, epochs=1)
    with pytest.raises(StudyError, match="several networks") as raised:
        extractor(None, str(model))
    assert "fold_1_0.safetensors" in str(raised.value)
    known = read_predictor(model)
    file = known.folder / "fold_1_0.safetensors"
    found = embed_images(Pictures(table), tmp_path / "out", weights=str(file), threads=1)
    network = known.networks("fold_1")[0]
    values = prepared(np.asarray(read_square(table.parent / "3.png", side=SIDE))[None, :, :, 0], Preparation((SIDE, SIDE)))
    with torch.inference_mode():
        wanted = network.features(torch.from_numpy(values)[None])
    np.testing.assert_allclose(found.features[3], wanted[0], atol=1e-5)
    with pytest.raises(StudyError, match="reads pictures of one size"):
        extractor(None, str(file), size=64)
    (tmp_path / "alone.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(FormatError, match="does not say how pictures were prepared"):
        extractor(None, str(tmp_path / "alone.safetensors"))


def test_a_predictor_of_volumes_embeds_volumes(tmp_path: Path) -> None:
    generator, rows, volumes = np.random.default_rng(4), [], []
    for k in range(8):
        values = generator.normal(size=(8, 9, 10)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / f"{k}.nii.gz")
        volumes.append(values[None])
        rows.append((f"v{k}", f"p{k}", f"{k}.nii.gz", float(k), "test" if k > 5 else "train"))
    table = pl.DataFrame(rows, schema=["example_id", "participant_id", "path", "level", "split"], orient="row")
    table.select("participant_id", "path", image_id="example_id").write_csv(tmp_path / "volumes.csv")
    network = resnet.Config(layers=18, dims=3, width=4, stem="small")
    given = {"network": network, "preparation": Preparation((8, 8, 8)), "recipe": Recipe(epochs=1, batch=3), "floors": False}
    train_predictor(volumes, table.drop("path"), [Target("level", "number")], out=tmp_path / "model", **given)  # type: ignore[arg-type]
    found = embed_images(Pictures(tmp_path / "volumes.csv"), tmp_path / "out", weights=str(tmp_path / "model"), threads=1)
    known = read_predictor(tmp_path / "model")
    with torch.inference_mode():
        wanted = known.networks("all")[0].features(torch.from_numpy(prepared(volumes[2], known.preparation))[None])
    np.testing.assert_allclose(found.features[found.images["image_id"].to_list().index("v2")], wanted[0], atol=1e-5)


def test_what_makes_no_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such network") as raised:
        extractor("vgg16", None)
    assert "resnet50" in str(raised.value)
    assert "retfound/cfp" in str(raised.value)
    with pytest.raises(FormatError, match="no such file of weights"):
        extractor(None, str(tmp_path / "no.pth"))
    drawn = unet.Model(unet.Config(channels_in=1, outputs=2, widths=(8, 16)))
    save_model(drawn, tmp_path / "unet.safetensors", about={"preprocessing": None})
    with pytest.raises(StudyError, match="no features of whole pictures"):
        extractor(None, str(tmp_path / "unet.safetensors"))
    (tmp_path / "segmenter.json").write_text("{}")
    with pytest.raises(StudyError, match="a segmenter has no features"):
        extractor(None, str(tmp_path))


def test_a_name_of_published_weights_says_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINOME_WEIGHTS", str(tmp_path))
    (tmp_path / "torchvision/resnet18").mkdir(parents=True)
    network = resnet.Model(resnet.Config(layers=18))
    save_file(state(network), tmp_path / "torchvision/resnet18/model.safetensors")
    made = extractor(None, "torchvision/resnet18")
    assert (made.size, made.preprocessing) == (224, IMAGENET)
    assert made.network.state_dict()["conv1.weight"].equal(state(network)["conv1.weight"])
    assert "BSD-3-Clause" in made.said
