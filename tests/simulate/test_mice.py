"""Mice drawn from real coat colours and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import StudyError
from clinome.core.schema import IMAGES, check
from clinome.formats.picture import read_picture
from clinome.simulate.mice import COATS, render_mice, write_mouse_pictures


def darkest_share(pictures: np.ndarray, below: int) -> float:
    return float(np.mean(pictures.max(axis=-1) < below))


def test_same_seed_same_bytes_and_each_view_its_own_pose() -> None:
    arguments = (["black", "sand"], [9.0, 8.0], [25.0, 20.0])
    first, again, other = (render_mice(*arguments, size=48, seed=[1, view]) for view in (0, 0, 1))
    assert first.shape == (2, 48, 48, 3)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_coats_look_like_their_names() -> None:
    n = 40
    drawn = {name: render_mice([name] * n, np.full(n, 9.0), np.full(n, 26.0), size=48, seed=2) for name in COATS}
    dark = {name: darkest_share(p, 75) for name, p in drawn.items()}
    assert dark["black"] > 3 * dark["light.brown"]
    assert dark["black"] > 10 * dark["albino"]
    same_pose = drawn["chocolate"].astype(int) - drawn["black"]
    red, _, blue = np.abs(same_pose).mean(axis=(0, 1, 2))
    assert red > 2 * blue, "chocolate is black with red in it"


@pytest.mark.parametrize(("name", "small", "big"), [("length", (7.0, 26.0), (10.5, 26.0)), ("weight", (9.0, 15.0), (9.0, 40.0))])
def test_longer_and_heavier_mice_cover_more(name: str, small: tuple[float, float], big: tuple[float, float]) -> None:
    n = 30
    few, many = (
        darkest_share(render_mice(["black"] * n, np.full(n, length), np.full(n, weight), size=64, seed=3), 75)
        for length, weight in (small, big)
    )
    assert many > 1.1 * few, name


def test_an_unknown_coat_and_an_impossible_size_are_one_clear_error() -> None:
    with pytest.raises(StudyError, match="coat colour") as raised:
        render_mice(["black", "blue"], [9, 9], [25, 25], seed=1)
    assert "blue" in str(raised.value)
    with pytest.raises(StudyError, match="positive"):
        render_mice(["black"], [np.nan], [25], seed=1)


def test_real_mice_get_two_pictures_each(real_data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table = tmp_path / "mice.tsv"
    source = real_data("hs-mice") / "hs_mice.pheno.tsv.gz"
    pl.read_csv(source, separator="\t", infer_schema=False).head(60).write_csv(table, separator="\t")
    listed = write_mouse_pictures(table, tmp_path / "mice", size=40)
    images = check(pl.read_parquet(listed), IMAGES)
    known = pl.read_csv(table, separator="\t", null_values="NA").drop_nulls(
        ["CoatColour", "Obesity.BodyLength", "Obesity.EndNormalBW"]
    )
    assert sorted(set(images["participant_id"])) == sorted(known["IID"])
    assert images.height == 2 * known.height
    assert read_picture(listed.parent / images["path"][3]).shape == (40, 40, 3)
    before = read_picture(listed.parent / images["path"][3])
    write_mouse_pictures(table, tmp_path / "again", size=40)
    np.testing.assert_array_equal(before, read_picture(tmp_path / "again" / images["path"][3]))
