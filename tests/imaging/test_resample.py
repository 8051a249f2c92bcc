"""Moving pictures: exact where voxels meet voxels, close to closed forms where they do not, one read instead of many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from clinome.core.errors import StudyError
from clinome.imaging.geometry import Geometry, Spread, draw_geometry, rotation, still
from clinome.imaging.resample import resample, resample_labels, resample_pair

EVERYTHING = Spread(
    rotation_degrees=20, scale=0.2, shear=0.1, shift_mm=3, shift=0.02, elastic_mm=2, elastic_grid_mm=16, mirror=(0, 1), chance=0.8
)


def moved(matrix=None, shift=(0.0, 0.0), **more) -> Geometry:
    ndim = len(shift)
    plain = still(ndim)
    return plain._replace(matrix=np.eye(ndim) if matrix is None else np.asarray(matrix), shift_mm=np.array(shift), **more)


def grid(shape, spacing):
    """Places in mm from the centre, shape (ndim, *shape)."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def smooth(places):
    """Return a phantom without sharp edges: a sum of broad bells, of places in mm."""
    centres = [(-9, 4, 6), (7, -8, -4), (2, 10, 3), (0, 0, 0)]
    return sum(
        (i + 1) * np.exp(-sum((x - c) ** 2 for x, c in zip(places, centre, strict=False)) / 72) for i, centre in enumerate(centres)
    )


@pytest.mark.parametrize("shape", [(7, 10), (5, 6, 7), (1, 9), (1, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
def test_nothing_done_is_exactly_nothing(shape, dtype, generator):
    values = generator.integers(0, 2 if dtype is bool else 200, (2, *shape)).astype(dtype)
    assert np.array_equal(resample(values), values.astype(np.float32))
    nearest = resample(values, order=0)
    assert np.array_equal(nearest, values)
    assert nearest.dtype == dtype
    assert not np.shares_memory(nearest, values)


@pytest.mark.parametrize("fill", [0.0, 5.0, "edge", "reflect"])
def test_whole_voxel_moves_are_exact(fill, generator):
    values = generator.random((2, 8, 9), dtype=np.float32)
    out = resample(values, moved(shift=(2.0, -3.0)), fill=fill)
    assert np.array_equal(out[:, 2:, :-3], values[:, :-2, 3:])
    mode = {"edge": {"mode": "edge"}, "reflect": {"mode": "symmetric"}}.get(fill, {"constant_values": fill})
    assert np.array_equal(out, np.pad(values, ((0, 0), (2, 0), (0, 3)), **mode)[:, :8, 3:])


def test_what_lies_outside_is_filled_by_channel(generator):
    values = generator.random((2, 4, 4), dtype=np.float32) + 5
    for geometry in (moved(shift=(0.0, 4.0)), moved(shift=(0.0, 5.5))):
        out = resample(values, geometry, fill=(-1.0, 2.0))
        assert np.allclose(out[0], -1)
        assert np.allclose(out[1], 2)
    flat = np.full((2, 30, 30), 7.0, np.float32)
    assert np.allclose(resample(flat, moved(rotation(0.3, 0, 1, 2)), fill=7.0), 7.0, atol=1e-5)
    assert np.allclose(resample(flat, moved(rotation(0.3, 0, 1, 2)), fill="edge"), 7.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6), (5, 6, 7)])
def test_quarter_turns_equal_rot90(shape, generator):
    values = generator.random((1, *shape), dtype=np.float32)
    ndim = len(shape)
    for a in range(ndim):
        for b in range(a + 1, ndim):
            turned = np.rot90(values, axes=(1 + a, 1 + b))
            out = resample(values, still(ndim)._replace(matrix=rotation(np.pi / 2, a, b, ndim)), shape=turned.shape[1:])
            assert np.array_equal(out, turned)


def test_a_quarter_turn_of_flat_voxels_is_a_turn_in_millimetres(generator):
    values = generator.random((1, 4, 12), dtype=np.float32)  # of 3 × 1 mm
    out = resample(values, moved(rotation(np.pi / 2, 0, 1, 2)), spacing=(3, 1), shape=(12, 4), out_spacing=(1, 3))
    assert np.allclose(out, np.rot90(values, axes=(1, 2)), atol=1e-6)


def test_crops_and_patches_are_cut_where_asked(generator):
    values = generator.random((1, 20, 30), dtype=np.float32)
    assert np.array_equal(resample(values, shape=(4, 6), centre=(7.5, 12.5)), values[:, 6:10, 10:16])
    beyond = resample(values, shape=(6, 6), centre=(0.5, 28.5), fill=9.0)
    assert np.array_equal(beyond[:, 2:, :4], values[:, :4, 26:])
    assert (beyond[:, :2] == 9).all()
    assert (beyond[:, :, 4:] == 9).all()


def test_a_patch_equals_the_crop_of_the_whole(generator):
    values = smooth(grid((60, 70), (1, 1)))[None].astype(np.float32)
    turn = moved(rotation(0.4, 0, 1, 2), lattice=generator.normal(size=(2, 16, 16)), lattice_mm=12.0)
    whole = resample(values, turn, shape=(61, 71), fill="edge")
    patch = resample(values, turn, shape=(21, 11), fill="edge")
    assert np.allclose(patch, whole[:, 20:41, 30:41], atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_equals_the_composed_map_read_by_scipy(ndim, order, generator):
    shape, spacing = ((40, 30), (1.0, 1.5)) if ndim == 2 else ((16, 30, 24), (2.5, 1.0, 1.2))
    values = generator.random((1, *shape)).astype(np.float32)
    spread = Spread(rotation_degrees=25, scale=0.1, shear=0.2, shift_mm=2, elastic_mm=1.5, elastic_grid_mm=8, mirror=(ndim - 1,))
    geometry = draw_geometry(generator, spread, ndim)
    out_shape, out_spacing = [n + 3 for n in shape], [0.8 * s for s in spacing]
    out = resample(values, geometry, shape=out_shape, spacing=spacing, out_spacing=out_spacing, order=order, fill="edge")
    places = grid(out_shape, out_spacing)
    around = np.pad(geometry.lattice, [(0, 0)] + [(16, 16)] * ndim, mode="wrap")
    at = places / geometry.lattice_mm + 8 + 16
    bend = np.stack([map_coordinates(c, at, order=3, prefilter=False) for c in around])
    back = np.linalg.inv(geometry.matrix)
    source = np.einsum("ij,j...->i...", back, places + bend - geometry.shift_mm.reshape(-1, *[1] * ndim))
    index = source / np.reshape(spacing, (-1, *[1] * ndim)) + (np.reshape(shape, (-1, *[1] * ndim)) - 1) / 2
    wanted = map_coordinates(values[0], index, order=order, mode="nearest")
    near = np.abs(out[0] - wanted) < (1e-6 if order == 0 else 2e-3)
    assert near.mean() > (0.999 if order == 0 else 0.9999)  # a place halfway between voxels may round either way


def test_one_read_equals_steps_done_one_after_another_on_a_smooth_phantom(generator):
    values = smooth(grid((80, 90), (1, 1)))[None].astype(np.float32)
    first, second = moved(rotation(0.3, 0, 1, 2) * 1.1, (2.0, -1.0)), moved(rotation(-0.2, 0, 1, 2), (1.0, 4.0))
    both = moved(second.matrix @ first.matrix, second.matrix @ first.shift_mm + second.shift_mm)
    once = resample(values, both, fill="edge")
    twice = resample(resample(values, first, fill="edge"), second, fill="edge")
    assert np.abs(once - twice).max() < 0.02 * values.max()
    sharp = generator.random((1, 80, 90), dtype=np.float32)  # what the second read would cost
    assert resample(resample(sharp, first), second)[0, 20:60, 20:60].std() < 0.9 * resample(sharp, both)[0, 20:60, 20:60].std()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.5)])
def test_an_ellipsoid_turned_in_millimetres_is_the_turned_ellipsoid(spacing):
    shape, radii = tuple(int(60 / s) for s in spacing), np.array([20.0, 10.0, 14.0])
    turn = rotation(0.5, 0, 1, 3) @ rotation(0.4, 1, 2, 3)

    def inside(places):  # an edge as soft as the coarsest voxel
        return 1 / (1 + np.exp((np.sqrt(sum((x / r) ** 2 for x, r in zip(places, radii, strict=True))) - 1) * 6))

    places = grid(shape, spacing)
    values = inside(places)[None].astype(np.float32)
    out = resample(values, still(3)._replace(matrix=turn), spacing=spacing)
    wanted = inside(np.einsum("ji,j...->i...", turn, places))
    assert np.abs(out[0] - wanted).max() < 0.06
    assert out.sum() == pytest.approx(values.sum(), rel=0.01)


def test_scaling_content_scales_its_volume():
    places = grid((60, 60), (1, 1))
    values = ((places**2).sum(axis=0) < 15**2)[None].astype(np.float32)
    for factor in (0.7, 1.3):
        assert resample(values, moved(np.eye(2) * factor)).sum() == pytest.approx(factor**2 * values.sum(), rel=0.02)


def test_scaling_down_averages_instead_of_skipping(generator):
    noise = generator.normal(size=(1, 256, 256)).astype(np.float32) + 10
    small = resample(noise, out_spacing=(4, 4))
    assert small.shape == (1, 64, 64)
    assert small.mean() == pytest.approx(10, abs=0.02)
    assert small.std() < 0.3  # a plain linear read keeps about 0.5 of the noise, an average of 16 pixels 0.25
    stripes = np.tile([0.0, 1.0], 128).astype(np.float32)[None, None].repeat(8, axis=1)
    assert np.ptp(resample(stripes, out_spacing=(1, 3), fill="edge")[..., 4:-4]) < 0.1
    turned = resample(noise, moved(rotation(0.5, 0, 1, 2)))[0, 80:170, 80:170]
    assert turned.std() > 0.55  # a rotation is not blurred beyond the read itself


@pytest.mark.parametrize("spread", [EVERYTHING, Spread(rotation_degrees=10), Spread(elastic_mm=2, elastic_grid_mm=10)])
def test_labels_stay_labels_and_sit_where_the_picture_does(spread, generator):
    places = grid((64, 64), (1, 1))
    large, little = (np.hypot(places[0] - y, places[1] - x) < r for y, x, r in ((8, -5, 12), (-14, -4, 7)))
    labels = np.select([large, little], [7, 200], 0)[None].astype(np.uint8)
    for seed in range(5):
        geometry = draw_geometry(np.random.default_rng(seed), spread, 2)
        soft = resample((labels == 7).astype(np.float32), geometry)
        for out, doubt in ((resample_labels(labels, geometry), 0.01), (resample(labels, geometry, order=0), 0.26)):
            assert out.dtype == np.uint8
            assert set(np.unique(out)) <= {0, 7, 200}
            assert (out[soft > 0.5 + doubt] == 7).all()  # the nearest of four has a share of a quarter at least
            assert not (out[soft < 0.5 - doubt] == 7).any()


@pytest.mark.parametrize("fill", [0.0, 3.0, "edge", "reflect"])
@pytest.mark.parametrize("spread", [EVERYTHING, Spread(), Spread(mirror=(0, 1)), Spread(scale=1.5)])
def test_a_pair_is_moved_as_each_alone(fill, spread, generator):
    values = generator.integers(0, 255, (2, 40, 37)).astype(np.uint8)
    labels = generator.integers(0, 4, (1, 40, 37)).astype(np.uint8)
    for seed in range(6):
        geometry = draw_geometry(np.random.default_rng(seed), spread, 2)
        where = {"shape": (23, 30), "centre": (20, 19), "spacing": (1, 2), "out_spacing": (1.5, 1.5), "flip_left": bool(seed % 2)}
        moved, won = resample_pair(values, labels, geometry, fill=fill, fill_label=1, swap=[(2, 3)], **where)
        assert np.allclose(moved, resample(values, geometry, fill=fill, **where), atol=1e-4)
        assert np.mean(won == resample_labels(labels, geometry, fill=1, swap=[(2, 3)], **where)) > 0.995
    with pytest.raises(StudyError, match="not of the picture's size"):
        resample_pair(values, labels[:, :-1], geometry)


def test_labels_outside_get_the_fill():
    labels = np.full((1, 6, 6), 3, np.int16)
    assert resample_labels(labels, moved(shift=(0.0, 3.0)), fill=-1)[0, 0].tolist() == [-1, -1, -1, 3, 3, 3]


def test_left_and_right_structures_trade_places_in_a_mirror_image():
    labels = np.zeros((1, 4, 8), np.uint8)
    labels[0, 1, 1], labels[0, 1, 6] = 17, 53  # left and right hippocampus
    mirror = moved(np.diag([1.0, -1.0]), mirrored=(False, True))
    assert np.array_equal(resample_labels(labels, mirror, swap=[(17, 53)]), labels)
    assert np.array_equal(resample_labels(labels, mirror), labels[:, :, ::-1])
    assert np.array_equal(resample_labels(labels, flip_left=True, swap=[(17, 53)]), labels)
    assert np.array_equal(resample_labels(labels, mirror, flip_left=True, swap=[(17, 53)]), labels)
    upside_down = moved(np.diag([-1.0, 1.0]), mirrored=(True, False))
    assert np.array_equal(resample_labels(labels, upside_down, swap=[(17, 53)]), labels[:, ::-1])


def test_a_left_eye_becomes_a_right_one_before_it_is_moved(generator):
    right = generator.random((3, 20, 21), dtype=np.float32)
    geometry = draw_geometry(generator, EVERYTHING, 2)
    assert np.allclose(resample(right[:, :, ::-1], geometry, flip_left=True), resample(right, geometry), atol=2e-5)


def test_elastic_displacements_have_the_stated_size_and_never_fold(generator):
    spread = Spread(elastic_mm=3, elastic_grid_mm=12)
    ramp = np.stack(np.meshgrid(np.arange(200.0), np.arange(200.0), indexing="ij")).astype(np.float32)
    moves = []
    for _ in range(20):
        out = resample(ramp, draw_geometry(generator, spread, 2), fill="edge")
        moves.append((out - ramp)[:, 20:-20, 20:-20])
        gradients = [np.gradient(out[i, 20:-20, 20:-20], axis=j) for i in (0, 1) for j in (0, 1)]
        assert (gradients[0] * gradients[3] - gradients[1] * gradients[2] < 0).mean() < 0.005
    assert np.sqrt(np.mean(np.square(moves))) == pytest.approx(3, rel=0.05)


def test_the_same_generator_gives_the_same_picture(generator):
    values = generator.random((1, 30, 30), dtype=np.float32)
    one, two, other = (resample(values, draw_geometry(np.random.default_rng(s), EVERYTHING, 2)) for s in (4, 4, 5))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("ndim", [2, 3])
def test_draws_stay_within_the_spread(ndim, generator):
    spread = Spread(rotation_degrees=30, scale=0.25, mirror=(ndim - 1,), shift_mm=4, shift=0.1)
    factors, flips = [], []
    for _ in range(300):
        geometry = draw_geometry(generator, spread, ndim)
        factors.append(np.abs(np.linalg.det(geometry.matrix)) ** (1 / ndim))
        flips.append(geometry.mirrored[-1])
        assert (np.linalg.det(geometry.matrix) < 0) == geometry.mirrored[-1]
        assert not any(geometry.mirrored[:-1])
        assert np.abs(geometry.shift_mm).max() <= 4
        assert np.abs(geometry.shift).max() <= 0.1
    assert 1 / 1.25 <= min(factors) < 0.85 < 1.2 < max(factors) <= 1.25
    assert 0.4 < np.mean(flips) < 0.6
    only_in_plane = draw_geometry(generator, Spread(rotation_degrees=(90.0, 0.0, 0.0)), 3).matrix
    assert np.allclose(only_in_plane[0], [1, 0, 0])


@given(st.integers(0, 2**32 - 1), st.integers(8, 40), st.integers(8, 40), st.sampled_from([0, 1]))
@settings(max_examples=60)
def test_what_is_read_lies_within_what_was_there(seed, height, width, order):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (2, height, width)).astype(np.uint8)
    spread = Spread(rotation_degrees=180, scale=0.5, shift=0.2, elastic_mm=2, elastic_grid_mm=9, mirror=(0, 1), chance=0.5)
    geometry = draw_geometry(generator, spread, 2)
    out = resample(values, geometry, order=order, fill="edge", shape=(height + 3, width - 2), flip_left=bool(seed % 2))
    assert out.shape == (2, height + 3, width - 2)
    assert np.isfinite(out).all()
    for channel in (0, 1):
        assert values[channel].min() - 1e-3 <= out[channel].min()
        assert out[channel].max() <= values[channel].max() + 1e-3
    doubled = resample(values.astype(np.float32) * 2 + 1, geometry, fill="edge", shape=out.shape[1:], flip_left=bool(seed % 2))
    if order == 1:  # reading is linear
        assert np.allclose(doubled, 2 * out + 1, atol=1e-2)


def test_a_patch_of_a_mapped_array_reads_only_its_part(tmp_path):
    path = tmp_path / "large.npy"
    large = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(1, 2000, 2000, 400))  # 1.6 GB, sparse
    large[0, 1000, 1000, 200] = 80
    patch = resample(large, moved(rotation(0.1, 0, 1, 3), (0, 0, 0)), shape=(16, 16, 16), centre=(1000, 1000, 200))
    assert patch.sum() == pytest.approx(80, rel=0.3)


def test_wrong_sizes_are_refused():
    with pytest.raises(StudyError, match="cannot be resampled as asked"):
        resample(np.zeros((1, 4, 4)), spacing=(1, 1, 1))
    with pytest.raises(StudyError, match="cannot be resampled as asked"):
        resample(np.zeros((1, 4, 4)), spacing=(0, 1))
    with pytest.raises(StudyError, match="'fill' does not fit"):
        resample(np.zeros((2, 4, 4)), moved(shift=(1.0, 0.0)), fill=(1.0, 2.0, 3.0))
    with pytest.raises(StudyError, match="fold the picture"):
        Spread(elastic_mm=5, elastic_grid_mm=10)
    with pytest.raises(StudyError, match="out of range"):
        Spread(scale=-0.1)
    with pytest.raises(StudyError, match="does not fit the picture"):
        draw_geometry(np.random.default_rng(1), Spread(mirror=(2,)), 2)
