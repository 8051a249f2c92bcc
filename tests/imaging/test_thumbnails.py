"""Small pictures: what is shown of pictures, volumes and views, and outlines where two disagree the most."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from clinome.imaging.thumbnails import SAID, TRUTH, as_png, disagreement, in_colour, outlined, thumbnail


def test_colour_stays_and_other_values_are_stretched() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (3, 10, 20), dtype=np.uint8)
    assert np.array_equal(in_colour(colour), np.moveaxis(colour, 0, -1))
    grey = np.linspace(-1000, 3000, 101)[None, None].repeat(2, axis=1)
    shown = in_colour(grey)
    assert shown.shape == (2, 101, 3)
    assert (shown[0, 0, 0], shown[0, 50, 0], shown[0, -1, 0]) == (0, 127, 255)  # 1st percentile, middle, 99th
    flat = in_colour(np.full((1, 4, 4), np.nan))
    assert flat.max() == 0


def test_the_longest_side_has_the_pixels_and_volumes_show_their_middle() -> None:
    assert thumbnail(np.zeros((1, 30, 60)), side=100).shape == (50, 100, 3)
    assert thumbnail(np.zeros((1, 300, 1)), side=100).shape == (100, 1, 3)
    volume = np.zeros((1, 7, 8, 8))
    volume[0, 3, :, 4:] = 1.0
    shown = thumbnail(volume, dims=3, side=8)
    assert (shown[:, :3] < 60).all()
    assert (shown[:, 5:] > 190).all()
    views = np.stack([volume[:, 3], 1 - volume[:, 3]])
    assert np.array_equal(thumbnail(views, side=8), shown)


def test_the_slice_of_most_disagreement() -> None:
    truth, said = np.zeros((5, 6, 6), int), np.zeros((5, 6, 6), int)
    truth[1, 1:5, 1:5] = 1
    assert disagreement(truth, truth) == 1  # none: the fullest
    said[1] = truth[1]
    said[3, :2, :2] = 2
    assert disagreement(truth, said) == 3
    truth[3] = -1  # not known
    assert disagreement(truth, said) == 1


def test_outlines_are_drawn_in_their_colours_around_what_is_drawn() -> None:
    truth, said = np.zeros((40, 60), int), np.zeros((40, 60), int)
    truth[10:20, 30:40], said[10:20, 32:42] = 1, 1
    shown = outlined(np.full((1, 40, 60), 5.0), [(truth, TRUTH), (said, SAID)], side=120)
    assert shown.shape == (120, 120, 3)
    green, orange = ((shown == colour).all(axis=-1) for colour in (TRUTH, SAID))
    # A square of twice the longer side, 12 pixels, around rows 10–20 and columns 30–42: five pixels of the page to one
    rows, columns = np.nonzero(green)
    assert (rows.min(), rows.max(), columns.min()) == (35, 84, 30)
    rows, columns = np.nonzero(orange)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (35, 84, 40, 89)
    nothing = outlined(np.full((1, 40, 60), 5.0), [(np.zeros((40, 60), int), SAID)], side=30)
    assert not (nothing == SAID).all(axis=-1).any()
    assert (nothing[:5] == 0).all()  # beyond the picture


def test_what_is_shown_stays_within_the_picture() -> None:
    corner = np.zeros((40, 60), int)
    corner[:10, 50:] = 1
    shown = outlined(np.full((1, 40, 60), 5.0) + np.arange(60), [(corner, SAID)], side=100)
    rows, columns = np.nonzero((shown == SAID).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 49, 50, 99)  # twenty pixels, the last ones
    everywhere = outlined(np.full((1, 40, 60), 5.0) + np.arange(60), [(np.ones((40, 60), int), SAID)], side=60)
    assert (everywhere[:10] == 0).all()  # the whole picture and no more: ten rows above it, ten below
    assert (everywhere[10] == SAID).all()


def test_two_structures_that_touch_are_told_apart() -> None:
    labels = np.zeros((20, 20), int)
    labels[5:15, 5:10], labels[5:15, 10:15] = 1, 2
    shown = outlined(np.zeros((1, 20, 20)), [(labels, SAID)], side=200)
    line = (shown[100] == SAID).all(axis=-1)
    assert np.flatnonzero(line).tolist() == [50, 99, 100, 149]


def test_png_keeps_every_pixel() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(as_png(picture)))), picture)
