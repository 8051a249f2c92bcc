from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from clinome.evaluate.agreement import agreement
from clinome.stats.reliability import icc

# Peak expiratory flow of 17 people by two meters, first measurements (Bland & Altman 1986, table 1; l/min).
WRIGHT = np.array([494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427], dtype=float)
MINI = np.array([512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451], dtype=float)


def values(first: np.ndarray, second: np.ndarray, **more: object) -> dict[str, float]:
    return dict(agreement(first, second, resamples=0, **more).select("name", "value").rows())  # type: ignore[arg-type]


def test_the_published_peak_flows() -> None:
    """Bland & Altman 1986: Wright less mini −2.1 l/min, standard deviation 38.8, r = 0.94."""
    found = values(WRIGHT, MINI)
    assert round(found["bias"], 1) == 2.1
    assert round((found["upper_limit"] - found["lower_limit"]) / 2 / 1.96, 1) == 38.8
    assert round(found["pearson_r"], 2) == 0.94


def test_slopes_correlations_and_icc_equal_other_programs(generator: np.random.Generator) -> None:
    first = generator.normal(1700, 200, 80)
    second = 100 + 0.9 * first + generator.normal(0, 60, 80)
    found = values(first, second)
    fit = sm.OLS(second, sm.add_constant(first)).fit()
    assert_allclose([found["intercept"], found["slope"]], fit.params, rtol=1e-8)
    assert_allclose(found["pearson_r"], stats.pearsonr(first, second).statistic)
    assert_allclose(found["icc"], icc(np.column_stack([first, second]), resamples=0).value, rtol=1e-8)
    for ratio in (1.0, 4.0):  # Deming regression is the principal axis where both errors have one unit
        axis = np.linalg.eigh(np.cov(first, second / np.sqrt(ratio)))[1][:, -1]
        slope = np.sqrt(ratio) * axis[1] / axis[0]
        deming = values(first, second, error_ratio=ratio)
        assert_allclose(deming["deming_slope"], slope, rtol=1e-8)
        assert_allclose(deming["deming_intercept"], second.mean() - slope * first.mean(), atol=1e-6)
    difference = sm.OLS(second - first, sm.add_constant((first + second) / 2)).fit()
    assert_allclose(found["difference_slope"], difference.params[1], rtol=1e-8)
    means, spread = (first.mean(), second.mean()), np.cov(first, second, ddof=0)
    assert_allclose(found["concordance"], 2 * spread[0, 1] / (spread[0, 0] + spread[1, 1] + (means[0] - means[1]) ** 2))


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-1000, 1000))
def test_units_do_not_matter_and_the_two_may_change_places(seed: int, scale: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    first = generator.normal(size=30)
    second = first + 0.5 * generator.normal(size=30)
    plain, other, swapped = (
        values(a, b) for a, b in ((first, second), (scale * first + shift, scale * second + shift), (second, first))
    )
    for name in ("pearson_r", "concordance", "icc", "slope", "deming_slope", "difference_slope"):
        assert_allclose(other[name], plain[name], rtol=1e-4, atol=1e-6)
    assert_allclose(swapped["deming_slope"], 1 / plain["deming_slope"], rtol=1e-8)
    assert_allclose([swapped["lower_limit"], swapped["bias"]], [-plain["upper_limit"], -plain["bias"]], atol=1e-12)
    for name in ("pearson_r", "concordance", "icc"):
        assert_allclose(swapped[name], plain[name], atol=1e-12)


def test_equal_measurements_and_a_constant_one() -> None:
    same = values(WRIGHT, WRIGHT)
    assert [same[name] for name in ("bias", "lower_limit", "upper_limit")] == [0, 0, 0]
    assert [same[name] for name in ("pearson_r", "concordance", "icc", "slope", "deming_slope")] == pytest.approx([1] * 5)
    constant = values(WRIGHT, np.full(17, 400.0))
    assert constant["slope"] == pytest.approx(0)
    assert constant["pearson_r"] is None
    assert constant["deming_slope"] is None


def test_intervals_are_those_of_the_closed_forms() -> None:
    """One row a person, normal differences: Bland & Altman's standard errors of the bias and of a limit (1999, section 2.3)."""
    generator = np.random.default_rng(8)
    n, deviation = 400, 5.0
    first = generator.normal(100, 20, n)
    second = first + generator.normal(2, deviation, n)
    found = {row["name"]: row for row in agreement(first, second, resamples=4000).iter_rows(named=True)}
    errors = {"bias": 1 / np.sqrt(n), "upper_limit": np.sqrt(1 / n + 1.96**2 / (2 * (n - 1)))}
    for name, error in errors.items():
        half = (found[name]["upper"] - found[name]["lower"]) / 2
        assert half == pytest.approx(1.96 * deviation * error, rel=0.12)
    assert found["bias"]["lower"] < 2 < found["bias"]["upper"]
    wide = {row["name"]: row for row in agreement(first, second, participants=np.arange(n) // 8).iter_rows(named=True)}
    assert wide["bias"]["n"] == 50
