"""Photographs follow the anatomy they are drawn from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from clinome.simulate.fundus import Eyes, average_eyes, render_fundus
from clinome.simulate.vessels import DISC, FOVEA

SIZE = 88
N = 12


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return average_eyes(N, np.random.default_rng(11))


def picture(eyes: Eyes, size: int = SIZE) -> np.ndarray:
    return render_fundus(eyes, size=size, generator=np.random.default_rng(5)).astype(float)


def around(centre: tuple[float, float], radius: float, size: int = SIZE) -> np.ndarray:
    """Pixels within ``radius`` of a place on a right eye's retina that is not shifted or turned."""
    axis = (np.arange(size) - (size - 1) / 2) / (0.485 * size)
    return np.hypot(axis[None, :] - centre[0], axis[:, None] - centre[1]) < radius


def levels(eyes: Eyes, name: str, values: tuple[float, ...]) -> list[np.ndarray]:
    return [picture(replace(eyes, **{name: np.full(N, value, np.float32)})) for value in values]


def strictly_rising(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def test_same_seed_same_bytes_and_shape(eyes: Eyes) -> None:
    a, b = (render_fundus(eyes, size=64, generator=np.random.default_rng(1)) for _ in range(2))
    assert a.shape == (N, 64, 64, 3)
    assert a.dtype == np.uint8
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, render_fundus(eyes, size=64, generator=np.random.default_rng(2)))


def test_it_looks_like_a_fundus(eyes: Eyes) -> None:
    pictures = picture(eyes).mean(axis=0)
    assert pictures[~around((0, 0), 1.02)].max() < 12, "the surround is black"
    retina = around((0, 0), 0.9) & ~around(DISC, 0.3) & ~around(FOVEA, 0.3)
    red, green, blue = pictures[retina].mean(axis=0)
    assert red > 1.5 * green > 1.5 * blue, "the retina is orange-red"
    assert pictures[around(DISC, 0.08)].mean() > 1.4 * pictures[retina].mean(), "the disc is bright"
    assert pictures[around(FOVEA, 0.1)].mean() < 0.9 * pictures[retina].mean(), "the macula is dark"


def test_a_wider_disc_is_a_larger_bright_area(eyes: Eyes) -> None:
    areas = [float(np.sum(p[:, around(DISC, 0.4), 1] > 110)) for p in levels(eyes, "disc_radius", (0.10, 0.12, 0.14, 0.17))]
    assert strictly_rising(areas)
    assert areas[-1] / areas[0] == pytest.approx((0.17 / 0.10) ** 2, rel=0.35)


def test_a_larger_cup_is_a_larger_pale_area_in_the_same_disc(eyes: Eyes) -> None:
    pictures = levels(eyes, "cup_ratio", (0.2, 0.4, 0.6, 0.8))
    assert strictly_rising([float(p[:, around(DISC, 0.13), 2].mean()) for p in pictures])
    outside = [float(p[:, around((0, 0), 0.95) & ~around(DISC, 0.25)].mean()) for p in pictures]
    assert np.ptp(outside) < 0.2, "nothing but the disc changes"


def test_pigment_darkens(eyes: Eyes) -> None:
    assert strictly_rising([-float(p.mean()) for p in levels(eyes, "pigmentation", (0.1, 0.4, 0.7, 0.95))])


def test_wider_vessels_take_more_light_in_proportion_to_their_cross_section(eyes: Eyes) -> None:
    bare = picture(replace(eyes, calibre=np.full(N, 1e-3, np.float32)))
    away = around((0, 0), 0.95) & ~around(DISC, 0.25)

    def depth(p: np.ndarray) -> float:
        return float(np.log(bare[:, away, 1] / p[:, away, 1]).mean())

    thin, wide = (depth(p) for p in levels(eyes, "calibre", (0.8, 1.2)))
    assert thin > 0.01
    assert wide / thin == pytest.approx((1.2 / 0.8) ** 2, rel=0.15)


def test_more_branching_takes_more_light(eyes: Eyes) -> None:
    assert strictly_rising([-float(p[..., 1].mean()) for p in levels(eyes, "branching", (0.1, 0.4, 0.7, 0.95))])


def test_tortuosity_lengthens_and_bends_the_vessels(eyes: Eyes) -> None:
    from clinome.simulate.vessels import grow

    def turning(amplitude: float) -> float:
        same = np.full(N, amplitude, np.float32)
        mains, _, _ = grow(eyes.geometry, calibre=eyes.calibre, tortuosity=same, branching=eyes.branching)
        return float(np.abs(np.diff(mains.heading, n=2, axis=-1)).mean())

    assert strictly_rising([turning(a) for a in (0.05, 0.2, 0.4, 0.7)])
    straight, bent = levels(eyes, "tortuosity", (0.05, 0.6))
    assert np.abs(straight - bent).mean() > 1


def test_a_left_eye_is_the_mirror_of_the_right_eye(eyes: Eyes) -> None:
    right = render_fundus(eyes, size=SIZE, generator=np.random.default_rng(3)).mean(axis=0)
    left = render_fundus(replace(eyes, left=np.ones(N, bool)), size=SIZE, generator=np.random.default_rng(4)).mean(axis=0)
    mirrored, as_is = np.abs(left[:, ::-1] - right).mean(), np.abs(left - right).mean()
    assert mirrored < 0.02 * 255 / np.sqrt(N), "only sensor noise is left"
    assert as_is > 4 * mirrored


def test_nuisance_does_what_it_says(eyes: Eyes) -> None:
    dim, bright = levels(eyes, "illumination", (0.7, 1.2))
    assert dim[:, around((0, 0), 0.8)].mean() < 0.75 * bright[:, around((0, 0), 0.8)].mean()
    sharp, soft = (picture(replace(eyes, blur=np.full(N, b, np.float32)), size=128) for b in (0.004, 0.03))
    middle = around((0, 0), 0.85, 128)

    def detail(p: np.ndarray) -> float:
        smooth = (p + np.roll(p, 1, 1) + np.roll(p, 1, 2) + np.roll(p, (1, 1), (1, 2))) / 4  # leaves out most of the noise
        return float(np.abs(np.diff(smooth[..., 1], axis=2)[:, middle[:, 1:]]).mean())

    assert detail(soft) < 0.8 * detail(sharp)
    casts = [picture(replace(eyes, scanner=np.full(N, k, np.intp))).reshape(-1, 3).mean(axis=0) for k in range(3)]
    warmth = [cast[0] / cast[2] for cast in casts]
    assert max(warmth) / min(warmth) > 1.15


def test_the_same_anatomy_at_another_resolution_is_the_same_picture(eyes: Eyes) -> None:
    small, large = picture(eyes, 64).mean(axis=0), picture(eyes, 192).mean(axis=0)
    pooled = large.reshape(64, 3, 64, 3, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small)[around((0, 0), 0.9, 64)].mean() < 2.5
