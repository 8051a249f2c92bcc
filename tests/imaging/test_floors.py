from __future__ import annotations

import numpy as np

from clinome.imaging.floors import WIDTHS, floor_features


def test_columns_are_what_they_say() -> None:
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[1, :16, :, 0] = 255
    found = floor_features(pixels)
    assert found.shape == (2, sum(WIDTHS)) == (2, 798)
    assert found.dtype == np.float32
    coarse, mean, deviation = found[1, :768].reshape(16, 16, 3), found[1, 768:771], found[1, 771:774]
    np.testing.assert_allclose(coarse[:8, :, 0], 1)
    np.testing.assert_allclose(coarse[8:], 0)
    np.testing.assert_allclose(mean, [0.5, 0, 0])
    np.testing.assert_allclose(deviation, [0.5, 0, 0])
    histogram = found[1, 774:].reshape(3, 8)
    np.testing.assert_allclose(histogram.sum(axis=1), 1)
    np.testing.assert_allclose(histogram[0, [0, 7]], 0.5)


def test_rows_are_independent_and_any_size_will_do() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 21, 50, 3), dtype=np.uint8)
    together = floor_features(pixels)
    np.testing.assert_allclose(floor_features(pixels[2:3])[0], together[2], rtol=1e-5, atol=1e-6)
    assert floor_features(pixels[:, :5, :7]).shape == (4, 798)
