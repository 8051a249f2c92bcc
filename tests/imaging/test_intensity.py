"""Changes of values: closed forms for each, and what holds for any draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinome.core.errors import StudyError
from clinome.imaging import intensity
from clinome.imaging.geometry import Spread, draw_geometry
from clinome.imaging.intensity import Change, apply, draw_amounts, vary, z_score
from clinome.imaging.resample import resample

ALL = Change(0.3, 0.3, 0.4, 1.0, 0.2, 0.3, 1.0, 0.2, invert=0.5)


@pytest.fixture
def scan(generator):
    return generator.normal(50, 10, (2, 9, 10, 11)).astype(np.float32)


def test_normalisation_equals_its_formula(scan):
    z = intensity.z_score(scan)
    assert np.allclose(z, (scan - scan.mean((1, 2, 3), keepdims=True)) / scan.std((1, 2, 3), keepdims=True), atol=1e-5)
    mask = np.zeros(scan.shape[1:], bool)
    mask[2:5, 3:6] = True
    inside = intensity.z_score(scan, mask)[:, mask]
    assert np.allclose(inside.mean(axis=1), 0, atol=1e-5)
    assert np.allclose(inside.std(axis=1), 1, atol=1e-5)
    low, high = np.percentile(scan[0], (5, 95))
    assert np.allclose(intensity.percentile_window(scan, 5, 95)[0], np.clip((scan[0] - low) / (high - low), 0, 1), atol=1e-5)
    assert intensity.window(np.array([[[-2000, -160, 40, 240, 3000]]], np.int16), -160, 240).ravel().tolist() == [0, 0, 0.5, 1, 1]
    grey = np.full((3, 2, 2), 124, np.uint8)
    assert np.allclose(intensity.imagenet(grey)[:, 0, 0], (124 / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225])


def test_local_contrast_takes_slow_shading_and_exposure_away_and_keeps_edges(generator):
    """A picture under another field of light and a steeper curve is nearly the same picture; its halves stay told apart."""
    scene = generator.normal(0, 1, (1, 64, 64))
    scene[:, :, 32:] += 3
    field = 1 + np.linspace(0, 2, 64)[None, :, None] ** 2  # five times as bright below
    lit = 200 + 40 * field * (scene + 10)
    even, uneven = intensity.local_contrast(scene, 6), intensity.local_contrast(lit, 6)
    assert np.corrcoef(even.ravel(), uneven.ravel())[0, 1] > 0.95 > 0.7 > np.corrcoef(scene.ravel(), lit.ravel())[0, 1]
    columns = uneven.mean((0, 1))
    assert int(np.argmax(np.diff(columns))) == 31
    assert abs(float(uneven.mean())) < 1e-5
    assert float(uneven.std()) == pytest.approx(1, rel=1e-4)
    deep = generator.normal(0, 1, (2, 9, 10, 11))
    np.testing.assert_allclose(intensity.local_contrast(5 * deep + 3, 2), intensity.local_contrast(deep, 2), atol=2e-3)


def test_a_flat_picture_gives_no_nan():
    flat = np.full((1, 4, 4), 3.0)
    every = (intensity.z_score(flat), intensity.percentile_window(flat), vary(flat, ALL, np.random.default_rng(1)))
    for out in (*every, intensity.local_contrast(flat, 2)):
        assert np.isfinite(out).all()
    assert (intensity.z_score(flat) == 0).all()
    assert (intensity.local_contrast(flat, 2) == 0).all()


def test_each_change_does_what_it_says(scan):
    sd, mean, low, high = scan.std(), scan.mean(), scan.min(), scan.max()
    assert np.allclose(intensity.brightness(scan, 0.5), scan + 0.5 * sd, atol=1e-4)
    assert np.allclose(intensity.contrast(scan, 0.5), (scan + mean) / 2, atol=1e-4)
    assert np.allclose(intensity.gamma(scan, 2), (scan - low) ** 2 / (high - low) + low, rtol=1e-4, atol=1e-3)
    assert np.allclose(intensity.invert(scan), high + low - scan, atol=1e-4)
    assert np.allclose(intensity.colour(scan, (2, 1))[0], 2 * scan[0] - low, atol=1e-3)
    assert np.allclose(intensity.colour(scan, (2, 1))[1], scan[1], atol=1e-4)
    noisy = intensity.noise(scan, 0.3, 7)
    assert (noisy - scan).std() == pytest.approx(0.3 * sd, rel=0.05)
    assert np.array_equal(noisy, intensity.noise(scan, 0.3, 7))
    assert intensity.blur(scan, 1.0).std() < 0.4 * sd
    assert intensity.low_resolution(scan, 2.0).std() < 0.5 * sd
    assert intensity.low_resolution(scan, 2.0).mean() == pytest.approx(mean, rel=0.02)


def test_a_bias_field_is_the_exponential_of_its_polynomial():
    ones = np.ones((1, 5, 7, 9), np.float32)
    ones[0, 0, 0, 0] = 0  # the least value, from which the field counts
    powers = np.zeros((4, 4, 4))
    powers[1, 0, 0], powers[0, 2, 1] = 0.5, 0.3
    z, y, x = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 7), np.linspace(-1, 1, 9), indexing="ij")
    assert np.allclose(intensity.bias_field(ones, powers)[0, 1:], np.exp(0.5 * z + 0.3 * y**2 * x)[1:], atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(3, 12, 13), (1, 6, 7, 8)]), st.booleans())
@settings(max_examples=40)
def test_any_draw_is_finite_repeatable_and_leaves_its_input(seed, shape, by_channel):
    values = np.random.default_rng(seed).random(shape).astype(np.float32)
    before = values.copy()
    change = Change(*(0.3,) * 8, invert=0.3, chance=0.6, by_channel=by_channel)
    one, two = (vary(values, change, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(values, before)
    assert one.dtype == np.float32
    assert one.shape == shape
    assert np.isfinite(one).all()


def test_draws_stay_within_strengths_and_nothing_is_done_unasked(generator):
    scan = generator.random((1, 8, 8), dtype=np.float32)
    for _ in range(200):
        amounts = draw_amounts(generator, ALL, 3, 2)
        assert 1 / 1.3 <= amounts.contrast <= 1.3
        assert 1 / 1.4 <= amounts.gamma <= 1.4
        assert abs(amounts.brightness) <= 0.3
        assert 0 <= amounts.blur <= 1
        assert 1 <= amounts.low_resolution <= 2
        assert amounts.colour.shape == (3,)
    assert np.array_equal(apply(scan, draw_amounts(generator, Change(), 1, 2)), scan)
    assert np.array_equal(vary(scan, Change(brightness=1, chance=0), generator), scan)
    done = np.mean([draw_amounts(generator, Change(gamma=1, chance=0.25), 1, 2).gamma is not None for _ in range(500)])
    assert 0.2 < done < 0.3


def test_strengths_mean_the_same_before_and_after_normalisation(scan):
    amounts = draw_amounts(np.random.default_rng(3), Change(0.3, 0.3, 0.4, 1.0, 0.2, 0.3, 1.0), 2, 3)
    one = scan[:1]
    assert np.allclose(intensity.z_score(apply(one, amounts)), intensity.z_score(apply(intensity.z_score(one), amounts)), atol=1e-3)


def test_wrong_strengths_are_refused():
    with pytest.raises(StudyError, match="out of range"):
        Change(noise=-1)
    with pytest.raises(StudyError, match="out of range"):
        Change(invert=1.5)
    with pytest.raises(StudyError, match="ends below its start"):
        intensity.window(np.zeros((1, 2, 2)), 5, 5)


def test_a_picture_of_one_value_is_0_however_it_was_moved() -> None:
    """A turn rounds: without a bound, what is left of the rounding would be blown up to a picture of noise."""
    spread = Spread(rotation_degrees=20, scale=0.2, shift=0.1)
    for value in (5.0, 30_000.0, 1e-3, 0.0):
        moved = resample(np.full((2, 40, 30), value, np.float32), draw_geometry(np.random.default_rng(1), spread, 2), fill="edge")
        assert not z_score(np.asarray(moved, np.float32)).any()
    faint = 30_000 + np.random.default_rng(1).integers(0, 2, (1, 40, 30))  # one grey level of 16 bits is a picture
    np.testing.assert_allclose(z_score(faint).std(), 1, rtol=1e-5)
