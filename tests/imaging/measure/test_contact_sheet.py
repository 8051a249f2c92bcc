"""Certainty by closed form, the right twenty in the right order, and a sheet with nothing in it but pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from clinome.formats.picture import read_picture
from clinome.imaging.measure.contact_sheet import (
    Case,
    boundary_agreement,
    contact_sheet,
    edge_certainty,
    least_certain,
    most_uncertain_slice,
)

SQUARE = np.zeros((40, 50))
SQUARE[10:30, 15:35] = 1.0


def case(name: str, certainty: float) -> Case:
    return Case(name, np.full((40, 50, 3), 90, np.uint8), SQUARE.astype(np.int64), certainty)


def test_certainty_of_an_edge() -> None:
    assert edge_certainty(SQUARE) == 1.0
    assert edge_certainty(np.full((8, 8), 0.5)) == 0.0
    p = 0.2
    assert_allclose(edge_certainty(p + (1 - 2 * p) * SQUARE), 1 + p * np.log2(p) + (1 - p) * np.log2(1 - p))
    blurred = np.clip(SQUARE + 0.4 * (np.roll(SQUARE, 2, axis=0) - SQUARE), 0, 1)
    assert 0.5 < edge_certainty(blurred) < 1
    assert edge_certainty(np.stack([SQUARE] * 9)) == 1.0
    assert edge_certainty(np.zeros((5, 5))) == 1.0


def test_agreement_of_boundaries() -> None:
    first = SQUARE > 0
    assert boundary_agreement(first, first) == 1.0
    assert boundary_agreement(first, np.roll(first, 1, axis=1)) == 1.0  # within a pixel
    moved = boundary_agreement(first, np.roll(first, 3, axis=1))
    assert_allclose(moved, 1 - 2 * 18 / 76, atol=0.06)  # one side of four is off, on each outline twice
    assert boundary_agreement(first, np.roll(first, 3, axis=1), tolerance=3.0) == 1.0
    assert boundary_agreement(first, np.roll(first, 3, axis=1), tolerance=1.5, spacing=(1.0, 0.5)) == 1.0
    assert boundary_agreement(first, np.zeros_like(first)) == 0.0
    assert boundary_agreement(np.zeros_like(first), np.zeros_like(first)) == 1.0


def test_the_slice_to_look_at() -> None:
    scan = np.stack([SQUARE] * 5)
    scan[3, 12:20, 20:30] = 0.5
    assert most_uncertain_slice(scan) == 3


def test_the_least_certain_in_order_whatever_order_they_come_in() -> None:
    cases = [case(f"i{k:02d}", 1 - k / 50) for k in range(40)]
    cases += [case("nan", float("nan")), case("tie b", 0.5), case("tie a", 0.5)]
    expected = ["nan", *[f"i{k}" for k in range(39, 25, -1)], "i25", "tie a", "tie b", "i24", "i23"]
    for order in (range(43), range(42, -1, -1), np.random.default_rng(0).permutation(43)):
        assert [c.image_id for c in least_certain((cases[k] for k in order), 20)] == expected


def test_the_sheet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    assert contact_sheet((case(f"image {k}", k / 30) for k in range(30)), path, tile=100) == 20
    pixels = read_picture(path)
    assert pixels.shape == (4 * 126, 500, 3)
    tile = pixels[:100, :100]
    green = (tile == (90, 255, 90)).all(axis=2)
    rows, columns = np.nonzero(green)
    assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [21, 79, 21, 79], atol=2)  # a margin of 0.35 around
    assert not green[30:70, 30:70].any()
    assert (tile[50, 50] == 90).all()
    assert (pixels[100:126] > 200).any()  # the caption
    with Image.open(path) as image:
        assert image.info == {}
    assert contact_sheet([], path) == 0


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_scans_are_stretched_and_long_names_cut(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.linspace(-1000, 3000, int(np.prod(shape))).reshape(shape)
    empty = Case("x" * 300, picture, np.zeros((40, 50), np.int64), 0.1)
    contact_sheet([empty, empty._replace(picture=np.full(shape, np.nan))], tmp_path / "a.png", tile=80, columns=2)
    pixels = read_picture(tmp_path / "a.png")
    assert np.ptp(pixels[:80, :80]) > 180
    assert pixels[20:60, 80:].max() == 0
