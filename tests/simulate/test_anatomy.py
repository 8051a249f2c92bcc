"""Latents add up, and eyes and visits agree as much as they should."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clinome.simulate.anatomy import draw_latents, photographed
from clinome.simulate.covariates import CENTRES, draw_covariates
from clinome.simulate.vessels import N_GEOMETRY, draw_geometry, grow

N = 3_000


@pytest.fixture(scope="module")
def people() -> pl.DataFrame:
    generator = np.random.default_rng(1)
    deme = generator.choice(["A", "B", "C"], N, p=[0.6, 0.25, 0.15])
    sex = generator.choice(["male", "female"], N)
    return draw_covariates(deme, sex, generator).with_columns(pl.Series("deme", deme))


def test_latents_are_standardised_whatever_is_planted(people: pl.DataFrame) -> None:
    generator = np.random.default_rng(2)
    planted = np.zeros((N, 6))
    planted[:, 0] = np.sqrt(0.3) * generator.standard_normal(N)
    background = generator.standard_normal((N, 6)) * 7
    share = np.array([0.3, 0, 0, 0, 0, 0])
    latents = draw_latents(people, planted, background, share, generator)
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=0.06)
    assert np.corrcoef(latents[:, 0], planted[:, 0])[0, 1] ** 2 == pytest.approx(0.3, abs=0.04)
    for k in range(6):
        assert np.corrcoef(latents[:, k], background[:, k])[0, 1] ** 2 == pytest.approx(0.10, abs=0.04)
    none = draw_latents(people, planted * 0, background * 0, share * 0, np.random.default_rng(2))
    np.testing.assert_allclose(none.std(axis=0), 1, atol=0.06)


def icc(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("name", ["disc_radius", "cup_ratio", "pigmentation", "calibre", "tortuosity", "branching"])
def test_eyes_and_visits_agree_as_in_real_biobanks(name: str) -> None:
    n = 2_000
    generator = np.random.default_rng(3)
    # The geometry is not looked at here; a few people at a time keep the memory small.
    parts = [getattr(photographed(generator.standard_normal((250, 6)), np.zeros(250, int), generator), name) for _ in range(8)]
    values = np.concatenate(parts).argsort().argsort().reshape(n, 2, 2)  # ranks: anatomy is a monotone function of the latent
    assert 0.75 < icc(values[:, 0, 0], values[:, 1, 0]) < 0.92, "left and right"
    assert 0.90 < icc(values[:, 0, 0], values[:, 0, 1]) < 0.98, "first and second visit"


def test_a_vessel_tree_belongs_to_an_eye_and_is_like_its_fellow() -> None:
    eyes = photographed(np.zeros((30, 6)), np.zeros(30, int), np.random.default_rng(4))
    geometry = eyes.geometry.reshape(30, 2, 2, N_GEOMETRY)
    np.testing.assert_array_equal(geometry[:, :, 0], geometry[:, :, 1])
    assert icc(geometry[:, 0, 0].ravel(), geometry[:, 1, 0].ravel()) == pytest.approx(0.5, abs=0.02)
    assert eyes.left.reshape(30, 2, 2)[:, 0].all()
    assert not eyes.left.reshape(30, 2, 2)[:, 1].any()


def test_a_centre_mostly_uses_its_own_camera() -> None:
    centre = np.repeat([0, 1, 2], 60)
    eyes = photographed(np.zeros((180, 6)), centre, np.random.default_rng(5))
    own = eyes.scanner.reshape(180, 4) == centre[:, None]
    assert 0.6 < own.mean() < 0.85


def test_vessels_obey_murray_and_thin_out() -> None:
    one = np.ones(4, np.float32)
    geometry = draw_geometry(4, np.random.default_rng(6))
    mains, branches, twigs = grow(geometry, calibre=one, tortuosity=0.3 * one, branching=2 * one)
    bare, _, _ = grow(geometry, calibre=one, tortuosity=0.3 * one, branching=-one)
    assert mains.radius.max() < 0.03
    medians = [float(np.median(lines.radius.max(axis=-1))) for lines in (mains, branches, twigs)]
    assert medians[0] > medians[1] > medians[2]
    # At every branching the cubed radii before it are those after it and of the branch together.
    ratio = (mains.radius / bare.radius) ** 3  # what the branches so far have left of the flow
    np.testing.assert_allclose(ratio[..., 0], 1)
    assert np.all(np.diff(ratio, axis=-1) < 1e-6)
    starts = branches.radius[..., 0].reshape(4, len(mains.vein), -1)
    for eye, main in ((0, 0), (1, 3), (2, 7), (3, 11)):
        before = np.flatnonzero(np.diff(ratio[eye, main]) < -1e-4)  # the last point before each branching
        lost = ratio[eye, main, before] - ratio[eye, main, before + 1]
        np.testing.assert_allclose((starts[eye, main] / bare.radius[eye, main, before]) ** 3, lost, rtol=0.01)


def test_covariates_are_in_range_and_depend_on_each_other(people: pl.DataFrame) -> None:
    assert 40 <= people["age"].min() < people["age"].max() <= 75  # type: ignore[operator]
    assert set(people["centre"]) == set(CENTRES)
    assert people["bmi"].min() > 15  # type: ignore[operator]
    assert np.corrcoef(people["age"], people["systolic_pressure"])[0, 1] > 0.2
    assert people["smoking"].value_counts().sort("count")["smoking"].to_list() == ["current", "former", "never"]
