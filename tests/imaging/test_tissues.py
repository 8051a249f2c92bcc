from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clinome.core.errors import TraitError
from clinome.imaging.tissues import edges, local_histograms, smoothed, tissue_maps, tissue_means, tissue_scale


def head(seed: int = 0) -> np.ndarray:
    """Two views of a white disc in grey in fluid, with noise, on a black ground."""
    place = np.arange(64) - 31.5
    radius = np.hypot(place[:, None], place[None])
    plain = np.select([radius < 14, radius < 22, radius < 28], [160.0, 110.0, 60.0], 0.0)
    noisy = plain + np.random.default_rng(seed).normal(0, 4, (2, 1, 64, 64)) * (plain > 0)
    return np.where(plain > 0, np.maximum(noisy, 1.0), 0.0)


def test_means_are_found_and_the_scale_has_no_unit() -> None:
    views = head()
    assert_allclose(tissue_means(views[views > 0]), [60, 110, 160], atol=2)
    assert_allclose(tissue_scale(views), tissue_scale(7 * views), atol=1e-3)
    assert_allclose(np.median(tissue_scale(views)[views > 140]), 3.0, atol=0.05)


def test_maps_are_shares_of_the_tissues_there() -> None:
    views = head()
    maps = tissue_maps(views)
    inside = maps.sum(axis=1) > 0
    assert maps.shape == (2, 3, 64, 64)
    assert maps.max() <= 1.0 + 1e-6
    assert_allclose(maps.sum(axis=1)[inside], 1.0, atol=1e-5)
    area = maps.sum(axis=(2, 3))[0]
    assert_allclose(area, [np.pi * (28**2 - 22**2), np.pi * (22**2 - 14**2), np.pi * 14**2], rtol=0.06)


def test_a_dark_hole_in_the_head_is_fluid() -> None:
    views = head()
    views[:, :, 30:34, 30:34] = 0.0
    assert tissue_maps(views)[0, 0, 31, 31] == 1.0
    assert tissue_maps(views)[0, 0, 1, 1] == 0.0


def test_rows_of_features() -> None:
    views = head()
    assert smoothed(tissue_maps(views), 4).shape == (2 * 3 * 32 * 32,)
    steep = edges(views)[0, 0]
    assert steep[32, 18] > 5 * steep[32, 32]  # the border of the disc, and its middle
    scale = tissue_scale(views)
    found = local_histograms(scale, 0.25, 3.75, levels=10).reshape(10, 2, 5, 5)
    assert found[7, 0, 2, 2] > 0.5  # level 2.97: white matter in the middle
    assert found[:, 0, 0, 0].sum() < 0.15  # mostly ground


def test_without_three_levels() -> None:
    with pytest.raises(TraitError, match="three tissues"):
        tissue_means(np.full(50, 3.0))
    with pytest.raises(TraitError, match="no pixel"):
        tissue_means(np.empty(0))
