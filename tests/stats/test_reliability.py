from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from clinome.stats.reliability import icc, interval, resampled_sums

FORMS = ("1,1", "2,1", "3,1", "1,k", "2,k", "3,k")
# Shrout & Fleiss 1979, table 2 (six targets, four judges) and table 4 (the six coefficients).
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
PRINTED = {"1,1": 0.17, "2,1": 0.29, "3,1": 0.71, "1,k": 0.44, "2,k": 0.62, "3,k": 0.91}


def by_hand(table: np.ndarray, form: str) -> float:
    """The mean squares written out as in an ANOVA table."""
    n, k = table.shape
    bms = k * np.var(table.mean(axis=1), ddof=1)
    jms = n * np.var(table.mean(axis=0), ddof=1)
    wms = np.var(table, axis=1, ddof=1).mean()
    ems = (wms * n * (k - 1) - jms * (k - 1)) / ((n - 1) * (k - 1))
    return {
        "1,1": (bms - wms) / (bms + (k - 1) * wms),
        "2,1": (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n),
        "3,1": (bms - ems) / (bms + (k - 1) * ems),
        "1,k": (bms - wms) / bms,
        "2,k": (bms - ems) / (bms + (jms - ems) / n),
        "3,k": (bms - ems) / bms,
    }[form]


def noisy(n: int, k: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return 5 + generator.normal(size=(n, 1)) + 0.6 * generator.normal(size=(n, k)) + 0.3 * np.arange(k)


@pytest.mark.parametrize("form", FORMS)
def test_the_published_example(form: str) -> None:
    assert round(icc(JUDGES, form=form).value, 2) == PRINTED[form]  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@given(st.integers(3, 40), st.integers(2, 5), st.integers(0, 1000))
def test_equals_the_anovas_mean_squares(form: str, n: int, k: int, seed: int) -> None:
    table = noisy(n, k, seed)
    assert_allclose(icc(table, form=form, resamples=0).value, by_hand(table, form), atol=1e-9)  # type: ignore[arg-type]


@given(st.integers(0, 1000), st.floats(0.1, 50), st.floats(-100, 100))
def test_units_order_of_people_and_of_eyes_do_not_matter(seed: int, scale: float, shift: float) -> None:
    table = noisy(30, 2, seed)
    value = icc(table, resamples=0).value
    assert_allclose(icc(scale * table + shift, resamples=0).value, value, atol=1e-8)
    assert_allclose(icc(np.random.default_rng(seed).permutation(table), resamples=0).value, value, atol=1e-10)
    assert_allclose(icc(table[:, ::-1], resamples=0).value, value, atol=1e-10)
    assert icc(table + np.array([0, 3]), resamples=0).value < value - 0.2  # agreement minds a shifted rater, consistency does not
    consistency = icc(table, form="3,1", resamples=0).value
    assert_allclose(icc(table + np.array([0, 3]), form="3,1", resamples=0).value, consistency, atol=1e-8)


def test_perfect_agreement_and_nothing_to_agree_on() -> None:
    person = np.arange(20.0)[:, None]
    assert icc(np.hstack([person, person]))[:3] == (1.0, 1.0, 1.0)
    constant = icc(np.full((20, 2), 7.3))
    assert np.isnan(constant.value)
    assert constant.n == 20
    assert np.isnan(icc(JUDGES[:2]).value)


def test_people_with_a_missing_measurement_are_left_out() -> None:
    table = np.vstack([JUDGES, [np.nan, 1, 2, 3]])
    assert icc(table) == icc(JUDGES)


def test_interval_covers_the_truth_at_about_its_level() -> None:
    truth, inside = 1 / (1 + 0.6**2), 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        table = generator.normal(size=(150, 1)) + 0.6 * generator.normal(size=(150, 2))
        estimate = icc(table, resamples=200, seed=seed)
        inside += estimate.lower <= truth <= estimate.upper
    assert 0.90 <= inside / 200 <= 0.985  # 95 % ± 3 binomial standard errors, less what 200 resamples cost


def test_the_interval_of_few_people_is_wide_enough() -> None:
    """Plain quantiles hold the truth 87 times in 100 here."""
    truth, inside = 0.8, 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        found = icc(generator.normal(size=(10, 1)) + 0.5 * generator.normal(size=(10, 2)), resamples=400, seed=0)
        inside += found.lower <= truth <= found.upper
    assert 0.9 <= inside / 300 <= 0.96


def test_resampled_sums_are_seeded_counts_of_people() -> None:
    terms = np.column_stack([np.ones(50), np.arange(50.0)])
    sums = resampled_sums(terms, resamples=4000, seed=3)
    assert np.array_equal(sums, resampled_sums(terms, resamples=4000, seed=3))
    assert set(sums[:, 0]) == {50.0}
    assert_allclose(sums[:, 1].mean(), 49 * 25, rtol=0.01)
    assert_allclose(sums[:, 1].std(), np.sqrt(50) * np.arange(50).std(), rtol=0.05)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_wrong_shape_and_form() -> None:
    with pytest.raises(ValueError, match="n_participants, k"):
        icc(np.ones(5))
    with pytest.raises(ValueError, match="unknown form"):
        icc(JUDGES, form="4,1")  # type: ignore[arg-type]
