from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist

from clinome.evaluate.segmentation import compare_masks, dice, segmentation, surface_distances

sizes = st.tuples(st.integers(0, 10_000), st.sampled_from([(9, 11), (6, 7, 8)]))


def blobs(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping ellipsoids, each with a bite taken out at random."""
    generator = np.random.default_rng(seed)
    axes = np.indices(shape).astype(float)
    masks = []
    for _ in range(2):
        centre = np.array(shape) / 2 + generator.normal(size=len(shape))
        radius = np.array(shape) * generator.uniform(0.2, 0.45, len(shape))
        away = sum(((axes[a] - centre[a]) / radius[a]) ** 2 for a in range(len(shape)))
        masks.append((away < 1) & (generator.random(shape) > 0.1))
    return masks[0], masks[1]


def by_hand(truth: np.ndarray, predicted: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Surface voxels by looking at each one's face neighbours, distances between all pairs."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        core = tuple(slice(1, -1) for _ in mask.shape)
        inside = np.ones_like(mask)
        for axis in range(mask.ndim):
            for step in (-1, 1):
                inside &= np.roll(padded, step, axis)[core]
        return np.argwhere(mask & ~inside) * spacing

    distances = cdist(surface(truth), surface(predicted))
    return distances.min(axis=1), distances.min(axis=0)


@given(sizes)
def test_surface_distances_equal_all_pairs(case: tuple[int, tuple[int, ...]]) -> None:
    seed, shape = case
    truth, predicted = blobs(seed, shape)
    if not truth.any() or not predicted.any():
        return
    spacing = np.array([2.5, 0.8, 1.1])[: len(shape)]
    there, back = surface_distances(truth, predicted, spacing=spacing.tolist())
    expected = by_hand(truth, predicted, spacing)
    assert_allclose(np.sort(there), np.sort(expected[0]))
    assert_allclose(np.sort(back), np.sort(expected[1]))


@given(sizes)
def test_both_ways_alike(case: tuple[int, tuple[int, ...]]) -> None:
    truth, predicted = blobs(*case)
    one = compare_masks(truth, predicted, {"a": 1}).row(0, named=True)
    other = compare_masks(predicted, truth, {"a": 1}).row(0, named=True)
    for name in ("dice", "jaccard", "hausdorff_95", "surface_distance", "surface_dice"):
        assert one[name] == pytest.approx(other[name])
    if one["dice"] is not None:
        assert one["jaccard"] == pytest.approx(one["dice"] / (2 - one["dice"]))
        assert one["dice"] == pytest.approx(dice(truth, predicted))
    twice = compare_masks(truth, predicted, {"a": 1}, spacing=[2.0] * truth.ndim, tolerance=2.0).row(0, named=True)
    for name, factor in {"dice": 1, "hausdorff_95": 2, "surface_distance": 2, "surface_dice": 1, "volume": 2**truth.ndim}.items():
        if one[name] is not None:
            assert twice[name] == pytest.approx(factor * one[name])


@pytest.mark.slow
def test_equals_monai() -> None:
    """MONAI 1.6: its means of distances and surface Dice by voxel counts, with anisotropic spacing."""
    metrics = pytest.importorskip("monai.metrics")
    import torch

    spacing = (2.5, 0.8, 1.1)
    for seed in range(5):
        truth, predicted = blobs(seed, (12, 20, 16))
        pair = [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (predicted, truth)]
        row = compare_masks(truth, predicted, {"a": 1}, spacing=spacing, tolerance=1.2).row(0, named=True)
        assert_allclose(
            row["hausdorff_95"], metrics.compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)[0, 0], rtol=1e-5
        )
        found = metrics.compute_average_surface_distance(*pair, symmetric=True, spacing=spacing)
        assert_allclose(row["surface_distance"], found[0, 0], rtol=1e-5)
        assert_allclose(row["surface_dice"], metrics.compute_surface_dice(*pair, [1.2], spacing=spacing)[0, 0], rtol=1e-5)
        assert_allclose(row["dice"], metrics.compute_dice(*pair, include_background=False)[0, 0], rtol=1e-5)


def test_a_shifted_cube_in_millimetres() -> None:
    truth, predicted = np.zeros((20, 20, 20), np.int8), np.zeros((20, 20, 20), np.int8)
    truth[5:15, 5:15, 5:15] = 2
    predicted[6:16, 5:15, 5:15] = 2
    row = compare_masks(truth, predicted, {"head": 2}, spacing=(3.0, 1.0, 1.0), tolerance=2.0).row(0, named=True)
    assert row["dice"] == 0.9
    assert row["volume"] == row["predicted_volume"] == 3000.0
    assert row["volume_error"] == 0.0
    assert row["hausdorff_95"] == 3.0
    assert 0 < row["surface_distance"] < 3
    assert 0.5 < row["surface_dice"] < 0.9


@given(st.integers(0, 10_000), st.integers(0, 2))
def test_a_slice_is_judged_as_the_picture_that_it_is(seed: int, axis: int) -> None:
    truth, predicted = blobs(seed, (11, 14))
    spacing = [0.5, 0.8]
    flat = compare_masks(truth, predicted, {"a": 1}, spacing=spacing, tolerance=0.7).row(0, named=True)
    thick = [*spacing[:axis], 3.0, *spacing[axis:]]
    slices = (np.expand_dims(mask, axis) for mask in (truth, predicted))
    row = compare_masks(*slices, {"a": 1}, spacing=thick, tolerance=0.7).row(0, named=True)
    for name in ("state", "dice", "jaccard", "volume_error", "hausdorff_95", "surface_distance", "surface_dice"):
        if flat["state"] == "both" or ("distance" not in name and "hausdorff" not in name):
            assert row[name] == flat[name], name
    assert row["volume"] == pytest.approx(3 * flat["volume"])  # mm³ of a slice, mm² of a picture
    one = compare_masks(np.ones((1, 1)), np.ones((1, 1)), {"a": 1}).row(0, named=True)
    assert (one["hausdorff_95"], one["surface_dice"]) == (0.0, 1.0)


def test_an_oblique_scan_is_measured_as_the_upright_one() -> None:
    truth, predicted = blobs(4, (9, 12, 10))
    turn, sides = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0], np.array([3.0, 0.6, 0.9])
    spacing = np.linalg.norm(turn * sides, axis=0)  # as it is read off an affine
    row = compare_masks(truth, predicted, {"a": 1}, spacing=spacing.tolist()).row(0, named=True)
    assert row["volume"] == pytest.approx(truth.sum() * abs(np.linalg.det(turn * sides)))
    there, back = by_hand(truth, predicted, sides)  # distances in space are those along the axes
    places = [np.argwhere(mask) @ (turn * sides).T for mask in (truth, predicted)]
    np.testing.assert_allclose(
        cdist(*places).min(axis=1), cdist(*(np.argwhere(mask) * sides for mask in (truth, predicted))).min(axis=1)
    )
    assert row["hausdorff_95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))


def test_empty_structures_are_told_apart() -> None:
    truth, predicted = np.zeros((6, 8), int), np.zeros((6, 8), int)
    truth[1:3, 1:3] = 1
    predicted[4, 4] = 2
    table = compare_masks(truth, predicted, {"missed": 1, "invented": 2, "absent": 3}, example_id="e", participant_id="p")
    assert table["state"].to_list() == ["missed", "invented", "absent"]
    assert table["dice"].to_list() == [0.0, 0.0, None]
    assert table["surface_dice"].to_list() == [0.0, 0.0, None]
    assert table["hausdorff_95"].to_list() == [10.0, 10.0, None]  # the diagonal of 6 × 8
    assert table["volume_error"].to_list() == [-1.0, None, None]
    assert np.isnan(dice(np.zeros(3), np.zeros(3)))


def test_averages_over_images_with_intervals_over_people() -> None:
    generator = np.random.default_rng(5)
    rows = []
    for person in range(30):
        for eye in range(2):
            base = np.zeros((30, 30), int)
            base[8:22, 8:22] = 1
            base[12:16, 12:16] = 2
            rows.append(
                compare_masks(
                    base,
                    np.roll(base, (generator.integers(0, 3), person % 3), axis=(0, 1)) * (person > 0),
                    {"disc": 1, "cup": 2},
                    example_id=f"{person}-{eye}",
                    participant_id=str(person),
                )
            )
    cases = pl.concat(rows)
    table = segmentation(cases, split="test")
    for structure in ("disc", "cup"):
        here = cases.filter(structure=structure)
        row = table.filter(name="dice", subgroup=f"structure={structure}").row(0, named=True)
        assert row["value"] == pytest.approx(here["dice"].mean())
        assert row["lower"] < row["value"] < row["upper"]
        assert row["n"] == 30
        missed = table.filter(name="missed", subgroup=f"structure={structure}").row(0, named=True)
        assert missed["value"] == pytest.approx(2 / 60)
    both = table.filter(name="dice", subgroup="all").row(0, named=True)
    assert both["value"] == pytest.approx(
        table.filter(name="dice", subgroup="structure=disc")["value"][0] / 2
        + table.filter(name="dice", subgroup="structure=cup")["value"][0] / 2
    )


def test_a_rare_structure_rests_on_the_people_who_have_it() -> None:
    rows = []
    for person in range(50):
        truth = np.zeros((12, 12), int)
        truth[2:6, 2:8] = person < 4
        rows.append(
            compare_masks(truth, np.roll(truth, person % 3, 0), {"lesion": 1}, example_id=str(person), participant_id=str(person))
        )
    table = segmentation(pl.concat(rows))
    dice = table.filter(name="dice").row(0, named=True)
    assert dice["n"] == 4
    assert table.filter(name="missed")["n"][0] == 50
    alone = segmentation(pl.concat(rows[:4])).filter(name="dice").row(0, named=True)
    assert (dice["lower"], dice["upper"]) == pytest.approx((alone["lower"], alone["upper"]), abs=0.03)


def test_shapes_and_spacing_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        compare_masks(np.zeros((2, 3)), np.zeros((3, 2)), {"a": 1})
    with pytest.raises(ValueError, match="2 positive numbers"):
        compare_masks(np.zeros((2, 3)), np.zeros((2, 3)), {"a": 1}, spacing=(1.0, 1.0, 1.0))
