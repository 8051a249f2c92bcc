from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import calibration_curve as sk_curve
from sklearn.isotonic import IsotonicRegression

from clinome.core.errors import CohortError, SchemaError
from clinome.core.schema import CALIBRATION, check
from clinome.evaluate.calibration import (
    calibration,
    calibration_curve,
    fit_recalibration,
    recalibrate,
    recalibrate_predictions,
)


def overconfident(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    fair = generator.random(n)
    return (generator.random(n) < fair).astype(float), np.asarray(expit(2 * logit(fair) + 0.5))


def test_slope_and_intercept_equal_a_logistic_regression() -> None:
    truth, p = overconfident(400)
    found = dict(calibration(truth, p, resamples=0).select("name", "value").rows())
    fit = sm.Logit(truth, sm.add_constant(logit(p))).fit(disp=0)
    assert_allclose(found["calibration_slope"], fit.params[1], rtol=1e-5)
    large = sm.GLM(truth, np.ones(400), family=sm.families.Binomial(), offset=logit(p)).fit()
    assert_allclose(found["calibration_in_the_large"], large.params[0], rtol=1e-5)


def test_resampled_slopes_are_regressions_with_weights() -> None:
    truth, p = overconfident(90, 3)
    person = np.arange(90) // 3
    draws = calibration(truth, p, participants=person, resamples=200)
    row = draws.filter(name="calibration_slope").row(0, named=True)
    fit = sm.Logit(truth, sm.add_constant(logit(p))).fit(disp=0, cov_type="cluster", cov_kwds={"groups": person})
    assert row["n"] == 30
    assert (row["upper"] - row["lower"]) / 4 == pytest.approx(fit.bse[1], rel=0.35)
    from clinome.evaluate.calibration import IN_THE_LARGE, SLOPE

    counts = np.random.default_rng(1).multinomial(30, np.ones(30) / 30, size=5).astype(float)
    for metric, name in ((SLOPE, "slope"), (IN_THE_LARGE, "large")):
        found = metric.prepare(truth, p, person, 30).of(counts)
        for weights, value in zip(counts[:, person], found, strict=True):
            design = sm.add_constant(logit(p)) if name == "slope" else np.ones(90)
            offset = None if name == "slope" else logit(p)
            fit = sm.GLM(truth, design, family=sm.families.Binomial(), offset=offset, freq_weights=weights).fit()
            assert_allclose(value, fit.params[-1], rtol=1e-4)


@pytest.mark.parametrize("factor", [0.02, 0.1, 3.0, 6.0, 20.0])
def test_the_slope_of_a_network_far_too_sure_or_unsure(factor: float) -> None:
    """Newton's method from a slope of 1 used to find none below about a third."""
    generator = np.random.default_rng(4)
    fair = generator.normal(size=400)
    truth, p = (generator.random(400) < expit(fair)).astype(float), np.asarray(expit(factor * fair))
    rows = {row["name"]: row for row in calibration(truth, p, resamples=200).iter_rows(named=True)}
    x = logit(np.clip(p, 1e-7, 1 - 1e-7))
    fit = sm.Logit(truth, sm.add_constant(x)).fit(disp=0)
    assert_allclose(rows["calibration_slope"]["value"], fit.params[1], rtol=1e-4)
    assert rows["calibration_slope"]["interval"] == "95 % expanded percentile, 200 resamples of participants"
    large = minimize(lambda a: np.logaddexp(0, -(2 * truth - 1) * (a + x)).sum(), [0.0], method="Nelder-Mead", tol=1e-10)
    assert_allclose(rows["calibration_in_the_large"]["value"], large.x[0], atol=1e-3)
    assert rows["calibration_in_the_large"]["lower"] is not None


def test_the_interval_of_the_calibration_error_makes_up_for_chance() -> None:
    """Quantiles of resamples never held the truth here, for resampling adds to the error once more."""
    generator, inside, value = np.random.default_rng(8), 0, 0.0
    fair = np.random.default_rng(0).normal(scale=1.5, size=400_000)
    sure = expit(1.5 * fair)
    bin_of = np.minimum((sure * 15).astype(int), 14)
    true = np.abs(np.bincount(bin_of, expit(fair) - sure, minlength=15)).sum() / len(fair)
    for _ in range(80):
        fair = generator.normal(scale=1.5, size=200)
        truth = (generator.random(200) < expit(fair)).astype(float)
        row = calibration(truth, expit(1.5 * fair), resamples=200).filter(name="ece").row(0, named=True)
        inside += row["lower"] <= true <= row["upper"]
        value += row["value"] / 80
        assert row["lower"] >= 0
    assert value > 1.2 * true
    assert inside / 80 > 0.8
    assert row["interval"] == "95 % expanded basic, 200 resamples of participants"


def test_perfect_separation_has_no_slope() -> None:
    truth = np.array([0.0] * 10 + [1.0] * 10)
    row = calibration(truth, np.linspace(0.1, 0.9, 20)).filter(name="calibration_slope").row(0, named=True)
    assert row["value"] is None


def test_expected_calibration_error_by_hand() -> None:
    truth, p = [0, 1, 1, 1], [0.1, 0.2, 0.9, 0.95]
    table = calibration(truth, p, bins=2, resamples=0).filter(name="ece_2")
    assert table["value"][0] == pytest.approx((abs(1 - 0.3) + abs(2 - 1.85)) / 4)
    several = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    found = calibration([0, 2, 0], several, bins=1, resamples=0)
    assert found["name"].to_list() == ["ece_1"]
    assert found["value"][0] == pytest.approx(abs(2 - 1.8) / 3)


def test_the_curve_equals_scikit_learns_and_covers_the_fair_one() -> None:
    generator = np.random.default_rng(2)
    p = generator.random(2000)
    truth = (generator.random(2000) < p).astype(float)
    curve = check(calibration_curve(truth, p), CALIBRATION)
    observed, predicted = sk_curve(truth, p, n_bins=10, strategy="quantile")
    assert_allclose(curve["observed"], observed, atol=1e-12)
    assert_allclose(curve["predicted"], predicted, atol=1e-12)
    assert curve["n"].sum() == 2000
    assert curve.filter((pl.col("lower") <= pl.col("predicted")) & (pl.col("predicted") <= pl.col("upper"))).height >= 8
    few = calibration_curve([0, 1, 0, 1, 1], [0.2, 0.2, 0.2, 0.7, 0.7])
    assert few.select("from", "observed", "n").rows() == [(0.2, pytest.approx(1 / 3), 3), (0.7, 1.0, 2)]


@given(st.floats(0.2, 5), st.integers(0, 100))
def test_temperature_finds_how_far_logits_were_stretched(scale: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3000, 3))
    truth = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((3000, 1))).sum(axis=1)
    stretched = softmax(logits * scale, axis=1)
    found = fit_recalibration(truth, stretched, split="validation")
    assert found.scale == pytest.approx(1 / scale, rel=0.2)
    better = recalibrate(stretched, found)
    assert_allclose(better.sum(axis=1), 1)
    assert np.array_equal(better.argmax(axis=1), stretched.argmax(axis=1))


def test_temperature_has_the_least_loss() -> None:
    truth, p = overconfident(500)
    found = fit_recalibration(truth, p, split="validation")
    loss = lambda t: -np.log(np.where(truth == 1, expit(t * logit(p)), expit(-t * logit(p)))).mean()  # noqa: E731
    assert_allclose(found.scale, minimize(loss, 1.0, tol=1e-10).x[0], rtol=1e-4)
    two = fit_recalibration(truth, np.column_stack([1 - p, p]), split="validation")
    assert_allclose(two.scale, found.scale, rtol=1e-4)
    assert_allclose(recalibrate(np.column_stack([1 - p, p]), two)[:, 1], recalibrate(p, found), rtol=1e-4)
    assert_allclose(
        np.exp(log_softmax(two.scale * np.log(np.column_stack([1 - p, p])), axis=1))[:, 1], recalibrate(p, two), rtol=1e-5
    )


def test_platt_and_isotonic_equal_other_programs_and_keep_the_order() -> None:
    truth, p = overconfident(400)
    platt = fit_recalibration(truth, p, split="validation", method="platt")
    positives = truth.sum()
    target = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (400 - positives + 2))
    fit = sm.GLM(target, sm.add_constant(logit(p)), family=sm.families.Binomial()).fit()
    assert_allclose([platt.shift, platt.scale], fit.params, rtol=1e-5)
    isotonic = fit_recalibration(truth, p, split="validation", method="isotonic")
    other = IsotonicRegression(out_of_bounds="clip").fit(p, truth)
    new = np.random.default_rng(5).random(1000)
    assert_allclose(recalibrate(new, isotonic), other.predict(new), atol=1e-12)
    for found in (platt, isotonic):
        assert (np.diff(recalibrate(np.sort(new), found)) >= 0).all()
        assert json.loads(json.dumps(asdict(found)))["method"] == found.method
    separated = fit_recalibration([0.0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], split="validation", method="platt")
    assert np.isfinite(separated.scale)


def test_a_table_is_recalibrated_from_its_validation_rows_alone() -> None:
    truth, p = overconfident(600)
    ids = [f"e{i}" for i in range(600)]
    table = pl.DataFrame(
        {
            "example_id": ids,
            "participant_id": ids,
            "split": ["validation"] * 300 + ["test"] * 300,
            "ill": truth.astype(int),
            "predicted:ill:0": 1 - p,
            "predicted:ill:1": p,
        }
    )
    better, found = recalibrate_predictions(table, "ill")
    assert (found.split, found.n) == ("validation", 300)
    assert_allclose(better["predicted:ill:0"] + better["predicted:ill:1"], 1)
    spoiled = table.with_columns(ill=pl.when(split="test").then(0).otherwise("ill"))
    assert recalibrate_predictions(spoiled, "ill")[1] == found
    with pytest.raises(CohortError, match="nothing is chosen on test predictions"):
        recalibrate_predictions(table, "ill", fit_on="test")
    number = table.select("example_id", "participant_id", "split", "ill", pl.lit(1.0).alias("predicted:ill"))
    with pytest.raises(SchemaError, match="as a number"):
        recalibrate_predictions(number, "ill")


def test_refusals() -> None:
    with pytest.raises(CohortError, match="nothing is chosen on test"):
        fit_recalibration([0, 1], [0.2, 0.7], split="test")
    with pytest.raises(CohortError, match="two classes"):
        fit_recalibration([1, 1], [0.2, 0.7], split="validation")
    with pytest.raises(ValueError, match="unknown method"):
        fit_recalibration([0, 1], [0.2, 0.7], split="validation", method="guess")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="take 'temperature'"):
        fit_recalibration([0, 1], [[0.2, 0.8], [0.7, 0.3]], split="validation", method="platt")
