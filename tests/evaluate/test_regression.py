from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import pearsonr
from sklearn import metrics as sk

from clinome.evaluate.regression import regression


def test_equals_scikit_learn_and_scipy(generator: np.random.Generator) -> None:
    truth = generator.normal(70, 9, 120)
    predicted = truth + generator.normal(1, 4, 120)
    found = dict(regression(truth, predicted, resamples=0).select("name", "value").rows())
    assert_allclose(found["mae"], sk.mean_absolute_error(truth, predicted))
    assert_allclose(found["rmse"], sk.root_mean_squared_error(truth, predicted))
    assert_allclose(found["r2"], sk.r2_score(truth, predicted))
    assert_allclose(found["pearson_r"], pearsonr(truth, predicted).statistic)
    assert_allclose(found["bias"], (predicted - truth).mean())
    of_training = dict(regression(truth, predicted, training_mean=65.0, resamples=0).select("name", "value").rows())
    assert_allclose(of_training["r2"], 1 - ((predicted - truth) ** 2).sum() / ((truth - 65) ** 2).sum())
    mean = dict(regression(truth, np.full(120, 65.0), training_mean=65.0, resamples=0).select("name", "value").rows())
    assert mean["r2"] == 0
    assert mean["pearson_r"] is None


def test_missing_truth_is_left_out_and_large_numbers_keep_their_digits(generator: np.random.Generator) -> None:
    truth = 1e8 + generator.normal(size=60)
    predicted = truth + 0.1 * generator.normal(size=60)
    found = regression(np.append(truth, np.nan), np.append(predicted, 3.0), resamples=0)
    assert found["n"].to_list() == [60] * 5
    numbers = dict(found.select("name", "value").rows())
    assert_allclose(numbers["pearson_r"], pearsonr(truth, predicted).statistic, rtol=1e-6)


def test_resampling_people_is_wider_than_resampling_rows() -> None:
    generator = np.random.default_rng(4)
    person = np.repeat(np.arange(50), 10)
    error = generator.normal(size=50)[person] + 0.1 * generator.normal(size=500)
    whole, rows = (regression(np.zeros(500), error, participants=p).filter(name="mae").row(0, named=True) for p in (person, None))
    assert whole["n"] == 50
    assert rows["n"] == 500
    assert (whole["upper"] - whole["lower"]) / (rows["upper"] - rows["lower"]) == pytest.approx(np.sqrt(10), rel=0.2)
