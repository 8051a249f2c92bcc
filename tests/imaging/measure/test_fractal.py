"""Box counting against sets whose dimension is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.testing import assert_allclose

from clinome.imaging.measure.fractal import box_counting


def carpet(depth: int) -> np.ndarray:
    drawing = np.ones((1, 1), dtype=bool)
    for _ in range(depth):
        row = np.concatenate([drawing] * 3, axis=1)
        middle = np.concatenate([drawing, np.zeros_like(drawing), drawing], axis=1)
        drawing = np.concatenate([row, middle, row])
    return drawing


def koch(depth: int, side: int) -> np.ndarray:
    points = np.array([0, 1], dtype=complex)
    for _ in range(depth):
        step = np.diff(points)
        parts = [
            points[:-1],
            points[:-1] + step / 3,
            points[:-1] + step / 3 * (1 + np.exp(1j * np.pi / 3)),
            points[:-1] + 2 * step / 3,
        ]
        points = np.append(np.stack(parts, axis=1).ravel(), points[-1])
    along = np.concatenate([a + (b - a) * np.linspace(0, 1, 4) for a, b in pairwise(points)])
    drawing = np.zeros((side, side), dtype=bool)
    drawing[np.floor(along.imag * (side - 1)).astype(int), np.floor(along.real * (side - 1)).astype(int)] = True
    return drawing


def test_sierpinskis_carpet_is_exact() -> None:
    found = box_counting(carpet(5), sides=[3, 9, 27, 81])
    assert_allclose(found.dimension, np.log(8) / np.log(3), rtol=1e-9)
    assert found.counts.tolist() == [8**4, 8**3, 8**2, 8]
    assert_allclose(found.r2, 1)


def test_sierpinskis_triangle_koch_line_and_plane() -> None:
    x = np.arange(512)
    assert_allclose(box_counting((x[:, None] & x) == 0).dimension, np.log(3) / np.log(2), atol=0.02)
    assert_allclose(box_counting(koch(6, 1024), sides=[3, 9, 27, 81]).dimension, np.log(4) / np.log(3), atol=0.04)
    line = np.zeros((512, 512), dtype=bool)
    line[200] = True
    assert_allclose(box_counting(line).dimension, 1, atol=0.02)
    assert_allclose(box_counting(np.ones((300, 517), dtype=bool)).dimension, 2, atol=0.06)


def test_place_does_not_matter_much_and_nothing_has_no_dimension() -> None:
    drawing = np.zeros((400, 400), dtype=bool)
    drawing[30:273, 50:293] = carpet(5)
    moved = np.roll(drawing, (17, 23), axis=(0, 1))
    assert_allclose(box_counting(drawing).dimension, box_counting(moved).dimension, atol=0.03)
    assert np.isnan(box_counting(np.zeros((64, 64), dtype=bool)).dimension)
    assert np.isnan(box_counting(np.ones((6, 6), dtype=bool)).dimension)
