from __future__ import annotations

import numpy as np
from scipy.stats import norm, rankdata

from clinome.stats.transform import adjusted_rank_inverse_normal, rank_inverse_normal


def test_ranks_become_bloms_normal_quantiles_and_missing_stays_missing() -> None:
    values = np.array([[3.0, 1.0], [np.nan, 1.0], [-8.0, 2.0], [700.0, np.nan]])
    ours = rank_inverse_normal(values)
    np.testing.assert_allclose(ours[[2, 0, 3], 0], norm.ppf((np.array([1, 2, 3]) - 0.375) / 3.25))
    assert np.isnan(ours[1, 0])
    assert ours[0, 1] == ours[1, 1]  # ties share a rank
    np.testing.assert_array_equal(rank_inverse_normal(np.exp(values / 100))[:, 0], ours[:, 0])  # only the order counts


def test_covariates_go_before_the_ranks_each_trait_over_its_own_people() -> None:
    generator = np.random.default_rng(1)
    covariates = np.column_stack([generator.normal(1950, 8, 200), generator.integers(0, 2, 200)])
    values = generator.exponential(size=(200, 2)) + covariates[:, :1]
    values[generator.random(values.shape) < 0.1] = np.nan
    ours = adjusted_rank_inverse_normal(values, covariates)
    for p in range(2):
        there = np.isfinite(values[:, p])
        base = np.column_stack([np.ones(there.sum()), covariates[there] - covariates.mean(axis=0)])
        left = values[there, p] - base @ np.linalg.lstsq(base, values[there, p], rcond=None)[0]
        np.testing.assert_allclose(ours[there, p], norm.ppf((rankdata(left) - 0.375) / (there.sum() + 0.25)))
        assert np.isnan(ours[~there, p]).all()
