from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from clinome.core.errors import CohortError
from clinome.evaluate.segmentation import dice
from clinome.imaging.shape_floor import likeliest, mean_shape, stretched


def test_shares_are_the_mean_over_images_and_sum_to_one(generator: np.random.Generator) -> None:
    labels = [generator.integers(0, 3, (4, 5, 6)) for _ in range(7)]
    prior = mean_shape(labels, classes=3)
    expected = np.mean([[one == c for c in range(3)] for one in labels], axis=0)
    np.testing.assert_allclose(prior, expected, atol=1e-6)
    assert (likeliest(prior, (4, 5, 6)) == expected.argmax(axis=0)).all()


def test_the_same_shape_at_another_size_is_the_prior_itself() -> None:
    small = np.zeros((6, 8, 6), int)
    small[2:4, 2:6, 2:4] = 1
    large = small.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    prior = mean_shape([small, small], classes=2)
    assert dice(large == 1, likeliest(prior, large.shape) == 1) > 0.95
    assert dice(small == 1, likeliest(mean_shape([large], classes=2), small.shape) == 1) == 1.0


def test_stretching_runs_from_edge_to_edge_and_keeps_what_is_constant() -> None:
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 16, 1, 1).repeat(3, 2).repeat(3, 3)
    wide = stretched(ramp, (32, 3, 3))
    np.testing.assert_allclose(wide[0, 1:-1, 0, 0], (np.arange(1, 31) - 0.5) / 30, atol=1e-5)
    np.testing.assert_allclose(stretched(np.full((2, 5, 6, 7), 3.0, np.float32), (9, 4, 11)), 3, rtol=1e-6)


def test_unlabelled_places_are_left_out() -> None:
    prior = mean_shape([np.array([[0, 1, 1]]), np.array([[0, -1, 0]]), np.array([[-1, -1, 0]])], classes=2)
    np.testing.assert_allclose(prior[:, 0], [[1, 0, 2 / 3], [0, 1, 1 / 3]], atol=1e-6)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(CohortError, match="at least one image"):
        mean_shape([], classes=2)
    with pytest.raises(CohortError, match=r"(?s)belongs to no class.*image 1.*3"):
        mean_shape([np.array([[0, 1]]), np.array([[0, 3]])], classes=2)


def test_real_hippocampus_floor(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    with tarfile.open(real_data("msd-hippocampus") / "hippocampus.tar") as archive:
        members = sorted(
            (m for m in archive.getmembers() if "/hippocampus_" in m.name and "labels" in m.name), key=lambda m: m.name
        )
        archive.extractall(tmp_path, members[:60], filter="data")
    labels = [np.asarray(nibabel.load(tmp_path / m.name).dataobj).astype(np.int64) for m in members[:60]]
    prior = mean_shape(labels[:45], classes=3, shape=(36, 50, 36))
    means = [np.mean([dice(one == c, likeliest(prior, one.shape) == c) for one in labels[45:]]) for c in (1, 2)]
    assert 0.68 < means[0] < 0.80  # .745 and .692 with 208 images to learn from
    assert 0.60 < means[1] < 0.76
