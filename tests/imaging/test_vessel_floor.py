from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clinome.evaluate.pixels import pixels
from clinome.imaging.vessel_floor import vessel_floor


@pytest.mark.parametrize("sigma", [2.0, 3.0, 4.0])
def test_a_line_two_sigma_wide_scores_highest_at_its_sigma(sigma: float) -> None:
    """The response of σ²·LoG to a bar of half-width a is (a / σ)·exp(−a² / 2σ²) up to a factor: largest at σ = a."""
    picture = np.ones((1, 80, 80), np.float32)
    middle, half = 40, int(sigma)
    picture[0, :, middle - half : middle + half] = 0
    scores = {s: float(vessel_floor(picture, sigmas=(s,))[40, middle]) for s in (sigma / 2, sigma, 2 * sigma)}
    assert max(scores, key=lambda s: scores[s]) == sigma
    assert scores[sigma] == pytest.approx(2 * np.exp(-0.5) / np.sqrt(2 * np.pi), rel=0.12)


def test_only_dark_lines_count_and_the_edge_of_the_field_is_none() -> None:
    y, x = np.mgrid[:120, :120] - 60
    inside = y**2 + x**2 < 50**2
    picture = np.where(inside, 150.0, 0.0)[None].repeat(3, axis=0)
    score = vessel_floor(picture, inside)
    assert (score[~inside] == 0).all()
    picture[1, 58:62] += 60 * inside[58:62]
    bright = vessel_floor(picture, inside)
    picture[1, 58:62] -= 120 * inside[58:62]
    dark = vessel_floor(picture, inside)
    assert bright[60, 60] < 0 < dark[60, 60]
    assert np.abs(score).max() < dark[60, 60] / 5


@pytest.mark.slow
def test_its_auroc_on_drive(real_data: Callable[[str], Path]) -> None:
    from clinome.studies.published.ronneberger_2015.study import read

    cases = read(real_data("drive-vessels"), "test")[::4]
    scores = [vessel_floor(case.image, case.inside) for case in cases]
    table = pixels([c.labels for c in cases], scores, inside=[c.inside for c in cases], resamples=0)  # type: ignore[misc]
    assert dict(table.select("name", "value").rows())["auroc"] == pytest.approx(0.895, abs=0.015)
