from __future__ import annotations

import numpy as np
from toolkit.genotypes import random_counts

from clinome.stats.ld import r_squared


def test_it_is_the_squared_correlation_of_the_counts_with_missing_at_the_mean() -> None:
    generator = np.random.default_rng(1)
    lead = random_counts(generator, 1, 400, missing=0.05)[0]
    noisy = np.where(generator.random((30, 400)) < 0.4, lead, random_counts(generator, 30, 400, missing=0.05))
    filled = np.where(noisy < 0, np.nan, noisy)
    filled = np.where(np.isnan(filled), np.nanmean(filled, axis=1, keepdims=True), filled)
    mine = np.where(lead < 0, lead[lead >= 0].mean(), lead)
    expected = [np.corrcoef(row, mine)[0, 1] ** 2 for row in filled]
    np.testing.assert_allclose(r_squared(noisy, lead), expected, atol=1e-12)
    dosages = np.where(noisy < 0, -1, noisy.astype(np.int32) * 16_384)
    np.testing.assert_allclose(r_squared(dosages, np.where(lead < 0, -1, lead.astype(np.int32) * 16_384)), expected, atol=1e-12)
    flipped = np.where(noisy < 0, -1, 2 - noisy)
    np.testing.assert_allclose(r_squared(flipped, lead), expected, atol=1e-12)


def test_a_count_without_variation_is_in_no_ld() -> None:
    lead = np.array([0, 1, 2, 1])
    assert r_squared(np.array([[1, 1, 1, 1], [-1, -1, -1, -1], [1, -1, 1, 1]]), lead).tolist() == [0, 0, 0]
    assert r_squared(lead[None, :], np.ones(4, dtype=int)).tolist() == [0]
