from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from clinome.core.errors import SchemaError
from clinome.evaluate.ranking import auroc
from clinome.imaging.pixel_floors import coarse_copies, histograms, pixel_floors


def cohort(n: int = 90, folds: int = 3) -> tuple[np.ndarray, pl.DataFrame]:
    """Noise with a bright half, upper or lower: brightness alone says nothing, places say all."""
    generator = np.random.default_rng(0)
    upper = np.arange(n) % 2 == 0
    pictures = generator.normal(100, 20, (n, 1, 20, 16))
    pictures[:, :, :10] += np.where(upper, 15, 0)[:, None, None, None]
    pictures[:, :, 10:] += np.where(upper, 0, 15)[:, None, None, None]
    people = pl.DataFrame(
        {
            "example_id": [str(i) for i in range(n)],
            "participant_id": [str(i) for i in range(n)],
            "split": [f"fold_{i % folds + 1}" for i in range(n)],
            "half": np.where(upper, "upper", "lower"),
            "amount": pictures[:, 0, :10].mean(axis=(1, 2)) - pictures[:, 0, 10:].mean(axis=(1, 2)),
        }
    )
    return pictures, people


def test_pixels_find_a_place_and_histograms_do_not() -> None:
    pictures, people = cohort()
    found = pixel_floors(pictures, people, "half", classes=True, fit_on=None)
    truth = (people["half"] == "upper").to_numpy()
    areas = {name: auroc(truth, table["predicted:half:upper"].to_numpy()) for name, table in found.items()}
    assert min(areas[name] for name in ("pixels, logistic", "pixels, svm", "components, logistic", "blend")) > 0.95
    assert areas["histogram, logistic"] < 0.75
    for table in found.values():
        total = table["predicted:half:upper"].to_numpy() + table["predicted:half:lower"].to_numpy()
        assert_allclose(total, 1.0)
    numbers = pixel_floors(pictures, people, "amount", classes=False, fit_on=None)
    error = {name: np.abs(table["predicted:amount"] - people["amount"]).mean() for name, table in numbers.items()}
    assert error["pixels, ridge"] < 0.3 * error["mean"]  # type: ignore[operator]


def test_the_unit_of_a_number_changes_no_floor() -> None:
    """Grams or kilograms: the same predictions in another unit, and a support vector machine that finds what there is."""
    pictures, people = cohort()
    small, large = (
        pixel_floors(pictures, people.with_columns(amount=pl.col("amount") * unit), "amount", classes=False, fit_on=None)
        for unit in (1.0, 1000.0)
    )
    for name in small:
        assert_allclose(1000 * small[name]["predicted:amount"].to_numpy(), large[name]["predicted:amount"].to_numpy(), rtol=1e-4)
    error = {name: np.abs(table["predicted:amount"].to_numpy() / 1000 - people["amount"]).mean() for name, table in large.items()}
    assert error["pixels, svm"] < 0.5 * error["mean"]


def test_pictures_may_differ_in_size_and_be_small() -> None:
    pictures, people = cohort()
    twice = [np.kron(picture, np.ones((1, 2, 3))) if i % 2 else picture for i, picture in enumerate(pictures)]
    assert_allclose(coarse_copies([*twice[:2], pictures[2]], side=10)[[0, 2]], coarse_copies(pictures[[0, 2]], side=10))
    assert_allclose(histograms([twice[1]]), histograms([pictures[1]]), atol=0.02)
    areas = {
        name: auroc((people["half"] == "upper").to_numpy(), table["predicted:half:upper"].to_numpy())
        for name, table in pixel_floors(twice, people, "half", classes=True, fit_on=None).items()
    }
    assert areas["pixels, logistic"] > 0.9
    tiny = pixel_floors(coarse_copies(pictures, side=5).reshape(-1, 1, 5, 4), people, "half", classes=True, fit_on=None)
    assert tiny["components, logistic"].height == len(pictures)


def test_nobody_is_predicted_from_their_own_truth() -> None:
    """Turning one person's truth around changes the predictions of other folds, not of their own."""
    pictures, people = cohort()
    other = people.with_columns(half=pl.when(pl.col("example_id") == "0").then(pl.lit("lower")).otherwise("half"))
    before, after = (pixel_floors(pictures, table, "half", classes=True, fit_on=None) for table in (people, other))
    mine = (people["split"] == "fold_1").to_numpy()
    for name in before:
        change = np.abs(before[name]["predicted:half:upper"].to_numpy() - after[name]["predicted:half:upper"].to_numpy())
        assert change[mine].max() < 1e-12 < change[~mine].max(), name


def test_histograms_leave_out_the_ground_and_are_shares() -> None:
    picture = np.zeros((2, 1, 10, 10), np.uint8)
    picture[0, 0, 2:5, 2:5], picture[1, 0, 2:9, 2:9] = 200, 200
    picture[:, 0, 2, 2] = 100
    found = histograms(picture, bins=10)
    assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)
    assert_allclose(found[:, -1], [8 / 9, 48 / 49], rtol=1e-6)
    assert histograms(np.full((3, 1, 4, 4), 7.0)).shape == (3, 64)


def test_coarse_copies_keep_the_shape_of_a_picture() -> None:
    assert coarse_copies(np.ones((2, 3, 20, 40)), side=10).shape == (2, 3 * 5 * 10)
    assert coarse_copies(np.ones((2, 3, 1, 20, 40)), side=10).shape == (2, 3 * 5 * 10)
    assert coarse_copies(np.ones((2, 1, 8, 28, 14)), dims=3).shape == (2, 4 * 14 * 7)
    small = np.random.default_rng(0).random((2, 1, 6, 6)).astype(np.float32)
    assert_allclose(coarse_copies(small), small.reshape(2, -1))


def test_a_target_that_is_not_there() -> None:
    pictures, people = cohort(6)
    with pytest.raises(SchemaError, match="missing"):
        pixel_floors(pictures, people, "height", classes=False, fit_on=None)
