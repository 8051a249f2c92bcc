from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import combine_pvalues

from clinome.stats.multiple_testing import combine_fisher, correlation_of_tests, effective_tests


def test_effective_tests_of_independent_and_of_equal_tests() -> None:
    assert effective_tests(np.zeros((0, 0))) == 0
    assert effective_tests(np.ones((1, 1))) == 1
    assert effective_tests(np.eye(7)) == 7
    assert effective_tests(np.ones((7, 7))) == 1
    assert effective_tests(np.array([[1.0, -1.0], [-1.0, 1.0]])) == 1
    assert effective_tests(np.kron(np.eye(3), np.ones((4, 4)))) == 3


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_corrected_by_effective_tests_the_family_wise_error_is_kept(n: int, rho: float) -> None:
    """Exchangeable tests, z = √ρ·x + √(1 − ρ)·e: P(some |z| > limit) is one integral over x."""
    found = effective_tests(np.full((n, n), rho) + (1 - rho) * np.eye(n))
    limit = -ndtri(5e-8 / found / 2)
    x = np.linspace(-10, 10, 40_001)
    out = ndtr((-limit - np.sqrt(rho) * x) / np.sqrt(1 - rho)) + ndtr((-limit + np.sqrt(rho) * x) / np.sqrt(1 - rho))
    some = -np.expm1(n * np.log1p(-np.minimum(out, 1 - 1e-16)))
    error = np.trapezoid(some * np.exp(-x * x / 2) / np.sqrt(2 * np.pi), x)
    assert error <= 5e-8 * 1.0001
    if n == 2:
        assert error >= 5e-8 * 0.97  # for a pair the bound is exact but for the level at which it is taken


def test_effective_tests_do_not_depend_on_the_order_or_sign_of_tests() -> None:
    generator = np.random.default_rng(5)
    correlation = np.corrcoef(generator.normal(size=(12, 40)) + 2 * generator.normal(size=40))
    order, sign = generator.permutation(12), generator.choice([-1.0, 1.0], 12)
    turned = (correlation * np.outer(sign, sign))[np.ix_(order, order)]
    assert effective_tests(turned) == pytest.approx(effective_tests(correlation), abs=1e-5)
    assert 1 < effective_tests(correlation) < 12


def test_tests_are_correlated_by_the_people_they_share() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(80, 4)) @ generator.normal(size=(4, 4))
    values[generator.random(values.shape) < 0.2] = np.nan
    values[:, 3] = np.where(np.isnan(values[:, 2]), values[:, 3], np.nan)  # the last two share nobody
    present = np.isfinite(values)
    residuals = np.where(present, values - np.nanmean(values, axis=0), 0.0)
    ours = correlation_of_tests(residuals, present)
    for i, j in ((0, 1), (0, 2), (1, 3)):
        both = present[:, i] & present[:, j]
        share = both.sum() / np.sqrt(present[:, i].sum() * present[:, j].sum())
        assert ours[i, j] == pytest.approx(np.corrcoef(values[both, i], values[both, j])[0, 1] * share)
    assert ours[2, 3] == ours[3, 2] == 0
    assert np.diag(ours).tolist() == [1.0] * 4


def test_tests_of_a_few_groups_of_people_are_correlated_as_pair_by_pair() -> None:
    """Complete traits among two ragged patterns, in any order, over more than one strip: each pair as when it is alone."""
    generator = np.random.default_rng(8)
    present = np.ones((60, 200), dtype=np.bool_)
    present[:20, 1::3] = False
    present[30:, 2::3] = False
    present[:, 5] = np.arange(60) < 2
    residuals = np.where(present, generator.normal(size=(60, 200)) + generator.normal(size=(60, 1)), 0.0)
    residuals -= np.where(present, residuals.sum(axis=0) / present.sum(axis=0), 0.0)
    together = correlation_of_tests(residuals, present)
    np.testing.assert_array_equal(together, together.T)
    assert not np.delete(together[5], 5).any()
    for pair in ([0, 199], [0, 1], [1, 2], [4, 196], [131, 5], [2, 197]):
        apart = correlation_of_tests(residuals[:, pair], present[:, pair])
        np.testing.assert_allclose(together[np.ix_(pair, pair)], apart, atol=1e-13)


def test_a_test_that_is_constant_over_the_shared_people_correlates_with_none() -> None:
    values = np.array([[0.1, 1.0], [0.1, 2.0], [0.1, -0.7], [0.1, 0.4], [5.3, np.nan], [-2.2, np.nan]])
    present = np.isfinite(values)
    residuals = np.where(present, values - np.nanmean(values, axis=0), 0.0)
    np.testing.assert_array_equal(correlation_of_tests(residuals, present), np.eye(2))


def test_many_tests_are_correlated_as_few() -> None:
    generator = np.random.default_rng(3)
    present = generator.random((40, 150)) < 0.9
    residuals = np.where(present, generator.normal(size=(40, 150)), 0.0)
    residuals -= np.where(present, residuals.sum(axis=0) / present.sum(axis=0), 0.0)
    together = correlation_of_tests(residuals, present)
    np.testing.assert_array_equal(together, together.T)
    for some in ([0, 149, 70], [63, 64], [10, 127, 128, 129]):
        apart = correlation_of_tests(residuals[:, some], present[:, some])
        np.testing.assert_allclose(together[np.ix_(some, some)], apart, atol=1e-13)


def test_fisher_equals_scipy_leaves_out_what_is_missing_and_does_not_underflow() -> None:
    generator = np.random.default_rng(2)
    p = generator.uniform(size=(50, 4)) ** 3
    ours = combine_fisher(-np.log10(p))
    np.testing.assert_allclose(10.0**-ours, [combine_pvalues(row).pvalue for row in p], rtol=1e-9)
    gaps = np.array([[3.0, np.nan, np.nan], [np.nan] * 3, [2.0, np.nan, 4.0]])
    one, none, two = combine_fisher(gaps)
    assert one == 3.0
    assert np.isnan(none)
    assert two == pytest.approx(-np.log10(combine_pvalues([1e-2, 1e-4]).pvalue))
    assert 790 < combine_fisher(np.array([[400.0, 400.0]]))[0] < 800
