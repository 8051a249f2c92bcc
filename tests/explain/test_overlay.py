"""Maps over pictures: what is strong is coloured by its sign, even attention is not, of a volume the slices that matter show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clinome.explain.overlay import above_even, as_seen, draw, overlay, strength, write_sheet


def test_signs_have_colours_and_what_is_weak_or_unknown_leaves_the_picture() -> None:
    picture = np.tile(np.linspace(0, 1, 10), (1, 10, 1))
    values = np.zeros((10, 10))
    values[0, 0], values[9, 9], values[5, 5] = 4.0, -4.0, np.nan
    drawn, seen = overlay(picture, values, kind="signed"), as_seen(picture)
    assert drawn[0, 0, 0] > 150 > drawn[0, 0, 2]
    assert drawn[9, 9, 2] > 150 > drawn[9, 9, 0]
    rest = np.ones((10, 10), dtype=bool)
    rest[[0, 9], [0, 9]] = False
    assert np.array_equal(drawn[rest], seen[rest])
    half = overlay(picture, values, kind="positive", scale=8.0)
    assert (np.abs(half[0, 0].astype(int) - seen[0, 0]) < np.abs(overlay(picture, values, kind="positive")[0, 0].astype(int))).any()


def test_strength_is_where_colour_is_full() -> None:
    values = np.arange(1001.0) - 500
    assert strength(values) == np.percentile(np.abs(values), 99.5)
    assert strength(np.eye(1, 1000) * -3) == strength(np.array([3.0])) == 3.0  # one place in a thousand, and one alone
    assert strength(np.full(4, np.nan)) == 0


def test_even_attention_looks_even() -> None:
    above, full = above_even(np.full((4, 8, 8), 1 / 256))
    assert not above.any()
    assert full == 1
    looked = np.full((8, 8), 0.5 / 63)
    looked[2, 3] = 0.5
    above, full = above_even(looked)
    assert np.argwhere(above > 0).tolist() == [[2, 3]]
    assert above[2, 3] == 31


def test_of_a_volume_the_slices_with_most_of_the_map_are_drawn(tmp_path: Path) -> None:
    picture, values = np.zeros((1, 30, 20, 10)), np.zeros((30, 20, 10))
    values[7, 11, 3] = 1.0
    draw(tmp_path / "a.png", picture, values, kind="signed", caption=["one", "two"])
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    red = np.argwhere((drawn[..., 0] > 180) & (drawn[..., 2] < 80))
    heights = (20, 30, 30)  # axial, coronal, sagittal
    factor = -(-224 // 30)
    tops = np.cumsum((0, *heights)) * factor
    places = [(11, 10 + 3), (29 - 7, 10 + 3), (29 - 7, 20 + 11)]
    for top, bottom, place in zip(tops[:-1], tops[1:], places, strict=True):
        mine = red[(red[:, 0] >= top) & (red[:, 0] < bottom)]
        assert ((mine - [top, 0]) // factor == place).all()
        assert len(mine) == factor**2


def test_a_long_caption_widens_the_sheet(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.png", [np.zeros((300, 20, 3), np.uint8)], ["x" * 100])
    assert Image.open(tmp_path / "a.png").width > 300
