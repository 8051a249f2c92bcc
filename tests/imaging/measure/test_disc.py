"""Cup and disc from outlines by closed form, and the detector on the simulator's eyes and on real photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clinome.core.errors import FormatError
from clinome.formats.picture import read_picture
from clinome.imaging.measure.disc import field_of_view, find_disc, measure_disc, measure_found
from clinome.simulate import anatomy, fundus

ROWS, COLUMNS = np.mgrid[:200, :240]


def ellipse(row: float, column: float, down: float, across: float) -> np.ndarray:
    return ((ROWS - row) / down) ** 2 + ((COLUMNS - column) / across) ** 2 < 1


def test_ratios_of_ellipses() -> None:
    disc, cup = ellipse(100, 120, 60.5, 50.5), ellipse(105, 115, 30.5, 35.5)
    found = {t.name: t for t in measure_disc(disc, cup, pixel_mm=0.02)}
    assert_allclose(found["vertical_cup_disc_ratio"].value, 61 / 121)
    assert_allclose(found["horizontal_cup_disc_ratio"].value, 71 / 101)
    assert_allclose(found["cup_disc_area_ratio"].value, 30.5 * 35.5 / (60.5 * 50.5), rtol=0.01)
    assert_allclose(found["disc_area"].value, np.pi * 60.5 * 50.5 * 0.02**2, rtol=0.005)
    assert_allclose(found["rim_area"].value, np.pi * (60.5 * 50.5 - 30.5 * 35.5) * 0.02**2, rtol=0.01)
    assert_allclose(found["disc_height"].value, 121 * 0.02)
    assert {t.unit for t in found.values()} == {"mm", "mm²", "ratio"}
    assert all(t.flag is None for t in found.values())
    assert [t.name for t in measure_disc(disc)] == ["disc_height", "disc_width", "disc_area"]


def flags(*outlines: np.ndarray, **more: float) -> set[str | None]:
    return {t.flag for t in measure_disc(*outlines, **more)}  # type: ignore[arg-type]


def test_what_is_flagged() -> None:
    disc, cup = ellipse(100, 120, 60, 50), ellipse(100, 120, 30, 30)
    assert flags(np.zeros_like(disc), cup) == {"no disc"}
    assert flags(ellipse(20, 120, 60, 50), cup) == {"the disc is cut by the edge of the picture"}
    assert flags(disc, ellipse(100, 160, 30, 30)) == {None, "the cup reaches out of the disc"}
    assert flags(disc, cup, certainty=0.4) == {"certainty 0.40 of the disc's edge"}
    assert flags(disc, cup, cup_certainty=0.4) == {None, "certainty 0.40 of the cup's edge"}


def test_no_field_no_disc() -> None:
    with pytest.raises(FormatError, match="no lit field"):
        find_disc(np.zeros((64, 64, 3), np.uint8))
    lit = np.where(ellipse(100, 120, 90, 90)[..., None], 120, 3).astype(np.uint8).repeat(3, axis=2)
    assert_allclose(field_of_view(lit).sum(), np.pi * 90**2, rtol=0.03)


@pytest.mark.slow
def test_the_simulators_discs_and_cups() -> None:
    """100 eyes at 256 pixels: all discs found, r = .91 of their radius and .94 of the cup–disc ratio."""
    n, size, generator = 14, 256, np.random.default_rng(3)
    eyes = anatomy.photographed(generator.standard_normal((n, 6)), np.zeros(n, int), generator).take(np.arange(0, 4 * n, 4))
    view = fundus._view(eyes, size)
    middle = np.einsum("nij,j->ni", view.matrix, np.array(fundus.DISC)) + view.middle
    found = [find_disc(picture) for picture in fundus.render_fundus(eyes, size=size, generator=generator)]
    off = np.hypot([f.circle.column for f in found] - middle[:, 0], [f.circle.row for f in found] - middle[:, 1])
    assert (off < 0.5 * eyes.disc_radius * view.scale).all()
    radius = np.array([f.circle.radius for f in found]) / view.scale
    assert np.corrcoef(radius, eyes.disc_radius)[0, 1] > 0.75
    assert_allclose(np.median(radius / eyes.disc_radius), 0.95, atol=0.05)
    ratio = np.array([{t.name: t.value for t in measure_found(f)}["vertical_cup_disc_ratio"] for f in found])
    assert np.corrcoef(ratio, eyes.cup_ratio)[0, 1] > 0.85
    assert_allclose(ratio.mean(), eyes.cup_ratio.mean(), atol=0.06)


@pytest.mark.slow
def test_real_photographs(real_data: Callable[[str], Path]) -> None:
    """DRIVE: discs seen by eye, and a picture whose disc is not seen, which must be flagged."""
    folder = real_data("drive-vessels")
    for name, row, column in (("test/08", 274, 495), ("test/10", 278, 463), ("test/16", 268, 467), ("training/25", 270, 460)):
        found = find_disc(read_picture(folder / f"{name}_image.png"))
        assert np.hypot(found.circle.row - row, found.circle.column - column) < 25, name
        assert 30 < found.circle.radius < 70, name
    unsure = measure_found(find_disc(read_picture(folder / "training" / "34_image.png")))
    assert all(t.flag is not None for t in unsure)
