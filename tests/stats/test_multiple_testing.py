from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import combine_pvalues

from clinome.stats.multiple_testing import combine_fisher, effective_tests, pairwise_correlation


def test_effective_tests_have_the_closed_forms_of_li_and_ji() -> None:
    assert effective_tests(np.zeros((0, 0))) == 0
    assert effective_tests(np.eye(7)) == 7
    assert effective_tests(np.ones((7, 7))) == 1
    blocks = np.kron(np.eye(3), np.ones((4, 4)))
    assert effective_tests(blocks) == 3
    rho, d = 0.3, 5  # eigenvalues 1 + 4ρ and 1 − ρ (four times): 1 + 0.2 and 4 × 0.7
    assert effective_tests(np.full((d, d), rho) + (1 - rho) * np.eye(d)) == pytest.approx(1.2 + 4 * 0.7)
    assert effective_tests(np.array([[1.0, -1.0], [-1.0, 1.0]])) == 1


def test_pairs_are_correlated_over_the_people_they_share() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(80, 4)) @ generator.normal(size=(4, 4))
    values[generator.random(values.shape) < 0.2] = np.nan
    values[:, 3] = np.where(np.isnan(values[:, 2]), values[:, 3], np.nan)  # the last two share nobody
    present = np.isfinite(values)
    residuals = np.where(present, values - np.nanmean(values, axis=0), 0.0)
    ours = pairwise_correlation(residuals, present)
    for i, j in ((0, 1), (0, 2), (1, 3)):
        both = present[:, i] & present[:, j]
        assert ours[i, j] == pytest.approx(np.corrcoef(values[both, i], values[both, j])[0, 1])
    assert ours[2, 3] == ours[3, 2] == 0
    assert np.diag(ours).tolist() == [1.0] * 4


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
