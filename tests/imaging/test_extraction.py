"""Features in a stream: those of the network itself, the same in pieces and with any number of workers, bad pictures set aside."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from clinome.core.errors import FormatError, NotConverged, OutputError, StudyError
from clinome.formats.picture import read_square, write_picture
from clinome.imaging import extraction
from clinome.imaging.extraction import extract
from clinome.imaging.loading import Sample, pictures
from clinome.imaging.models import densenet, resnet
from clinome.imaging.reading import set_aside_table
from clinome.nn.weights import IMAGENET
from clinome.train.devices import Mode


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return resnet.Model(resnet.Config.tiny())


def picture(row: int) -> Sample:
    return Sample(np.random.default_rng(row).integers(0, 256, (3, 24, 24)).astype(np.uint8))


def one_bad(row: int) -> Sample:
    if row == 3:
        raise FormatError("the file is empty", where="3.png")
    return picture(row)


def volume(row: int) -> Sample:
    return Sample(np.random.default_rng(row).normal(size=(1, 8, 9, 10)))


def test_pictures_are_scaled_to_the_same_bytes_in_either_layout() -> None:
    batches = []
    for mode in (Mode(channels_last=True), Mode(), Mode(channels_last=True, bfloat16=True)):
        batches.append(extraction._tensor([picture(row) for row in range(3)], IMAGENET, mode, torch.device("cpu")))
    assert batches[0].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(batches[0], other) for other in batches[1:])
    x = torch.from_numpy(np.stack([picture(row).values for row in range(3)])).float() / 255
    torch.testing.assert_close(batches[0], IMAGENET.apply(x), rtol=1e-5, atol=1e-5)


def of_network(network, rows, read=picture):
    x = torch.from_numpy(np.stack([read(row).values for row in rows])).float()
    with torch.inference_mode():
        return network.eval().features(IMAGENET.apply(x / 255)).numpy()


def test_equals_the_networks_own_features(network, tmp_path):
    network.train()
    found = extract(network, picture, 11, out=tmp_path, key="a", preprocessing=IMAGENET, batch_size=4, precision="float32")
    assert network.training  # left as it was
    assert found.values.shape == (11, network.n_features)
    assert np.allclose(found.values, of_network(network, range(11)), atol=1e-4)
    assert found.set_aside == {}
    low = extract(network, picture, 11, out=tmp_path, key="a", preprocessing=IMAGENET, batch_size=4, precision="bfloat16")
    assert low.mode.bfloat16
    assert 0 < np.abs(low.values - found.values).max() < 0.1 * np.abs(found.values).max()


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_workers_or_on_being_killed(network, tmp_path, workers):
    whole = extract(network, one_bad, 14, out=tmp_path / "whole", key="a", batch_size=3, precision="float32", threads=2)
    seen = []

    def dying(row: int) -> Sample:
        seen.append(row)
        if row == 10:
            raise RuntimeError("the power went")
        return one_bad(row)

    with pytest.raises(RuntimeError, match="the power went"):
        extract(network, dying, 14, out=tmp_path / "cut", key="a", batch_size=3, precision="float32", threads=workers)
    seen.clear()

    def again(row: int) -> Sample:
        seen.append(row)
        return one_bad(row)

    cut = extract(network, again, 14, out=tmp_path / "cut", key="a", batch_size=3, precision="float32", threads=workers)
    assert not {5, 6, 7, 8} & set(seen)  # the first four that can be read are looked at again, to learn the width
    assert np.array_equal(cut.values, whole.values, equal_nan=True)
    for name in ("features.npy", "features.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    seen.clear()
    extract(network, again, 14, out=tmp_path / "cut", key="a", batch_size=3, precision="float32")
    assert seen == []
    extract(network, again, 14, out=tmp_path / "cut", key="b", batch_size=3, precision="float32")
    assert set(seen) == set(range(14))


def test_other_weights_are_other_features(network, tmp_path):
    one = extract(network, picture, 4, out=tmp_path, key="a", precision="float32").values[:]
    torch.manual_seed(2)
    other = resnet.Model(resnet.Config.tiny())
    assert not np.allclose(extract(other, picture, 4, out=tmp_path, key="a", precision="float32").values, one)


def test_bad_pictures_are_set_aside_with_the_reason(network, tmp_path, generator):
    pixels = generator.integers(0, 256, (3, 30, 40, 3)).astype(np.uint8)
    for k in range(3):
        write_picture(tmp_path / f"{k}.png", pixels[k])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    images = pl.DataFrame({"image_id": ["a", "b", "c"], "participant_id": ["p"] * 3, "path": [f"{k}.png" for k in range(3)]})
    images = images.with_columns(laterality=pl.Series(["right", "left", "left"]))
    read = pictures(images, root=tmp_path, side=24, gap=1)
    found = extract(network, read, 3, out=tmp_path / "out", key="a", preprocessing=IMAGENET, precision="float32")
    assert np.isnan(found.values[1]).all()
    aside = set_aside_table(images, found.set_aside)
    assert aside["image_id"].to_list() == ["b"]
    assert "truncated or corrupt" in aside["reason"][0]
    square = read_square(tmp_path / "2.png", side=24, gap=1)[:, ::-1].copy()  # a left eye is mirrored
    wanted = of_network(network, [2], lambda row: Sample(np.moveaxis(square, -1, 0)))
    assert np.allclose(found.values[2], wanted[0], atol=1e-4)


def test_volumes_and_networks_without_features(tmp_path):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1))
    found = extract(network, volume, 5, out=tmp_path, key="a", batch_size=2)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(np.stack([volume(k).values for k in range(5)])).float()).flatten(1)
    assert np.allclose(found.values, wanted, atol=0.02)


def test_a_densenet_with_a_head_gives_its_features_not_its_answers(tmp_path):
    torch.manual_seed(1)
    network = densenet.Model(densenet.Config.tiny()).eval()
    found = extract(network, picture, 3, out=tmp_path, key="a", precision="float32")
    with torch.inference_mode():
        wanted = network.features(torch.from_numpy(np.stack([picture(k).values for k in range(3)])).float() / 255)
    assert found.values.shape == (3, network.n_features)
    assert np.allclose(found.values, wanted, atol=1e-5)


def test_what_cannot_be_done_is_said(network, tmp_path, monkeypatch):
    def bad(row: int) -> Sample:
        raise FormatError("the file is empty", where=f"{row}.png")

    with pytest.raises(FormatError, match="none of 4 pictures can be read; the first says: the file is empty"):
        extract(network, bad, 4, out=tmp_path, key="a")
    with pytest.raises(StudyError, match="nothing to extract"):
        extract(network, picture, 0, out=tmp_path, key="a")
    with pytest.raises(StudyError, match="differ in shape"):
        extract(network, lambda row: Sample(np.zeros((3, 24 + row, 24), np.uint8)), 3, out=tmp_path, key="a", precision="float32")
    with pytest.raises(NotConverged, match="not finite"):
        extract(network, lambda row: Sample(np.full((3, 24, 24), np.nan)), 3, out=tmp_path, key="b", precision="float32")
    monkeypatch.setattr(extraction, "free_disk", lambda _: 10)
    with pytest.raises(OutputError, match="too full for the features"):
        extract(network, picture, 4, out=tmp_path, key="c", precision="float32")
