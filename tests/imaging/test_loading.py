"""Decoded once, the same batches whoever makes them, bad files set aside, memory that does not grow."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from clinome.core.errors import FormatError, OutputError, StudyError
from clinome.core.machine import used_memory
from clinome.formats.picture import read_square, write_picture
from clinome.imaging import loading
from clinome.imaging.geometry import Spread
from clinome.imaging.intensity import Change, z_score
from clinome.imaging.loading import Augmentation, Sample, decode_once, fetching, pictures
from clinome.train.batches import Drawn, ahead, permutation

BAD = 4


def sample(row: int) -> Sample:
    generator = np.random.default_rng(row)
    if row % 2:
        values = generator.integers(-1000, 1000, (1, 5 + row, 8, 9)).astype(np.int16)
        return Sample(values, (values > 0).astype(np.uint8), np.array([3.0, 1.0, 1.0]))
    return Sample(generator.integers(0, 255, (3, 20 + row, 30)).astype(np.uint8))


def one_bad(row: int) -> Sample:
    if row == BAD:
        raise FormatError("the picture is truncated", where=f"{row}.jpg")
    return sample(row)


@pytest.fixture(params=["disk", "memory"])
def keep(request, tmp_path):
    return partial(decode_once, folder=tmp_path / "kept") if request.param == "disk" else decode_once


def assert_same(kept: Sample, wanted: Sample) -> None:
    for one, two in zip(kept, wanted, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)


@pytest.mark.parametrize("threads", [1, 3])
def test_samples_of_any_size_and_type_come_back_as_they_were(keep, threads):
    decoded = keep(one_bad, 9, threads=threads)
    assert decoded.rows.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    for row in decoded.rows:
        assert_same(decoded[row], sample(row))
    assert list(decoded.set_aside) == [BAD]
    assert decoded.set_aside[BAD] == ("the picture is truncated", "the picture is truncated; where 4.jpg")
    with pytest.raises(StudyError, match="set aside"):
        decoded[BAD]


def test_a_killed_run_goes_on_and_a_finished_one_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_refuse_full", lambda *_: None)  # it decodes some examples of its own
    seen: list[int] = []

    def dying(row: int) -> Sample:
        if row == 7:
            raise RuntimeError("the power went")
        seen.append(row)
        return one_bad(row)

    def again(row: int) -> Sample:
        seen.append(row)
        return one_bad(row)

    with pytest.raises(RuntimeError, match="the power went"):
        decode_once(dying, 12, folder=tmp_path, key="a", threads=1)
    before = (tmp_path / "arrays.bin").read_bytes()
    with pytest.raises(RuntimeError, match="the power went"):  # nothing is lost by dying twice
        decode_once(dying, 12, folder=tmp_path, key="a", threads=1)
    seen.clear()
    decoded = decode_once(again, 12, folder=tmp_path, key="a")
    assert not set(seen) & {0, 1, 2, 3}
    assert (tmp_path / "arrays.bin").read_bytes().startswith(before)
    for row in decoded.rows:
        assert_same(decoded[row], sample(row))
    assert list(decoded.set_aside) == [BAD]
    seen.clear()
    assert len(decode_once(again, 12, folder=tmp_path, key="a").rows) == 11
    assert seen == []
    decode_once(again, 12, folder=tmp_path, key="another")
    assert len(set(seen)) == 12


def test_interrupted_and_whole_runs_leave_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_TOGETHER", 1)
    decode_once(one_bad, 12, folder=tmp_path / "whole", threads=1)

    def dying(row: int) -> Sample:
        if row == 8:
            raise KeyboardInterrupt
        return one_bad(row)

    monkeypatch.setattr(loading, "_refuse_full", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        decode_once(dying, 12, folder=tmp_path / "cut", threads=1)
    decode_once(one_bad, 12, folder=tmp_path / "cut", threads=3)
    for name in ("arrays.bin", "index.npy", "decoded.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_damage_to_what_was_kept_is_noticed(tmp_path):
    decode_once(sample, 6, folder=tmp_path, key="a")
    with (tmp_path / "arrays.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(FormatError, match="end early"):
        decode_once(sample, 6, folder=tmp_path, key="a")[5]
    (tmp_path / "decoded.json").write_text("{")
    assert_same(decode_once(sample, 6, folder=tmp_path, key="a")[5], sample(5))


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "free_disk", lambda _: 70 << 20)
    big = Sample(np.zeros((1, 1000, 1000), np.uint8))
    decode_once(lambda row: big, 4, folder=tmp_path / "small")
    with pytest.raises(OutputError, match="too full") as caught:
        decode_once(lambda row: big, 1000, folder=tmp_path / "large")
    assert "about 954 MiB for 1,000 pictures" in str(caught.value)


def test_memory_is_kept_within_what_is_stated():
    big = Sample(np.zeros((1, 1000, 1000), np.uint8))
    assert len(decode_once(lambda row: big, 5, memory=6 << 20).rows) == 5
    with pytest.raises(StudyError, match="do not fit into the memory") as caught:
        decode_once(lambda row: big, 1000, memory=100 << 20)
    assert "about 954 MiB for 1,000" in str(caught.value)


def test_all_bad_is_an_error(keep):
    def bad(row: int) -> Sample:
        raise FormatError("the file is empty")

    with pytest.raises(FormatError, match="none of 3 examples can be read; the first says: the file is empty"):
        keep(bad, 3)
    with pytest.raises(StudyError, match="nothing to decode"):
        keep(bad, 0)


def test_memory_does_not_grow_with_what_is_kept(tmp_path):
    big = Sample(np.zeros((1, 1024, 1024), np.uint8))
    decoded = decode_once(lambda row: big, 150, folder=tmp_path)
    decoded[0].values.sum()
    before = used_memory()
    held = [decoded[row] for row in range(4)]
    for row in range(150):
        held[row % 4] = decoded[row]
        held[row % 4].values.sum()
    assert used_memory() - before < 20 << 20


@pytest.mark.parametrize("ndim", [2, 3])
def test_batches_do_not_depend_on_who_makes_them(keep, ndim):
    rows = np.array([0, 2, 6, 8] if ndim == 2 else [1, 3, 5, 7])
    decoded = keep(one_bad, 9)
    spread = Spread(rotation_degrees=20, scale=0.1, elastic_mm=1, elastic_grid_mm=8, mirror=(ndim - 1,))
    make = Augmentation((8,) * ndim, spread=spread, change=Change(noise=0.1, gamma=0.3), normalise=z_score)
    targets = [np.arange(9) ** 2]
    draw = permutation(4, 2, seed=3)

    def drawn(step: int) -> Drawn:
        whole = draw(step)
        return Drawn(whole.epoch, rows[whole.rows])

    kept = fetching(decoded, make, seed=3, targets=targets)
    streamed = fetching(sample, make, seed=3, targets=targets)
    one, *others = ([b for _, b in ahead(drawn, f, 0, 6, workers=w)] for f, w in ((kept, 0), (kept, 3), (streamed, 2)))
    for other in others:
        for mine, theirs in zip(one, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    x, *labels, y = one[0]
    assert x.shape == (2, 3 if ndim == 2 else 1, *(8,) * ndim)
    assert y.tolist() == (drawn(0).rows ** 2).tolist()
    assert [tuple(z.shape) for z in labels] == ([] if ndim == 2 else [(2, 1, 8, 8, 8)])
    epochs = [b[0] for _, b in ahead(lambda step: Drawn(step, rows), kept, 0, 2)]
    assert not torch.equal(*epochs)  # another epoch, another augmentation


def test_examples_of_unequal_shape_make_no_batch():
    fetch = fetching(sample, lambda kept, _: (kept.values,), seed=1)
    with pytest.raises(StudyError, match="examples of one batch differ in shape"):
        fetch(Drawn(0, np.array([0, 2])))


def test_labels_move_with_their_picture_and_spacing_is_kept_to():
    values = np.zeros((1, 10, 40, 40), np.float32)
    values[0, 4:6, 10:20, 12:30] = 100
    kept = Sample(values, (values > 50).astype(np.uint8), np.array([4.0, 1.0, 1.0]))
    make = Augmentation((20, 20, 20), spacing=(2.0, 2.0, 2.0), spread=Spread(rotation_degrees=30, mirror=(2,)))
    x, labels = make(kept, np.random.default_rng(2))
    assert ((x > 50) == (labels == 1)).mean() > 0.995
    assert labels.sum() * 8 == pytest.approx(kept.labels.sum() * 4, rel=0.15)  # mm³
    fitted, _ = Augmentation((30, 30, 30), fit=True)(kept, np.random.default_rng(2))
    assert fitted.sum() * (40 / 30) ** 3 == pytest.approx(values.sum() * 4, rel=0.05)


def test_photographs_are_read_as_squares_with_left_eyes_mirrored(tmp_path, generator):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, generator.integers(0, 255, (40, 52, 3)).astype(np.uint8))
    images = pl.DataFrame({"path": ["a.png", "b.png"], "laterality": ["right", "left"]})
    read = pictures(images, root=tmp_path, side=24)
    assert np.array_equal(read(0).values, np.moveaxis(read_square(tmp_path / "a.png", side=24), -1, 0))
    assert np.array_equal(read(1).values, np.moveaxis(read_square(tmp_path / "b.png", side=24)[:, ::-1], -1, 0))
    assert np.array_equal(pictures(images, root=tmp_path, side=24, mirror=False)(1).values, read(1).values[:, :, ::-1])
    (tmp_path / "b.png").write_bytes(b"")
    decoded = decode_once(read, 2, folder=tmp_path / "kept")
    assert list(decoded.set_aside) == [1]
    assert json.loads((tmp_path / "kept" / "decoded.json").read_text())["set_aside"].keys() == {"1"}
