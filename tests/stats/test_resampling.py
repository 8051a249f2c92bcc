from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm, t

from clinome.stats.resampling import bootstrap, interval, participant_codes, participant_counts, resampled_sums


def mean(values: np.ndarray):
    return lambda counts: counts @ values / counts.sum(axis=1)


def test_counts_are_whole_and_add_up_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.vstack(list(participant_counts(30, resamples=200, seed=5)))
    assert counts.shape == (200, 30)
    assert np.array_equal(counts, counts.astype(int))
    assert set(counts.sum(axis=1)) == {30.0}
    assert np.array_equal(counts, np.vstack(list(participant_counts(30, resamples=200, seed=5))))
    assert not np.array_equal(counts, np.vstack(list(participant_counts(30, resamples=200, seed=6))))
    monkeypatch.setattr("clinome.stats.resampling._AT_ONCE", 64)
    assert np.array_equal(counts, np.vstack(list(participant_counts(30, resamples=200, seed=5))))


def test_statistics_of_the_same_people_share_their_draws() -> None:
    values = np.random.default_rng(1).normal(size=(40, 2))
    draws = bootstrap([mean(values[:, 0]), mean(values[:, 1])], 40, resamples=300, seed=2)
    assert_allclose(draws, resampled_sums(values, resamples=300, seed=2) / 40)
    assert np.array_equal(draws[:, 1], bootstrap([mean(values[:, 1])], 40, resamples=300, seed=2)[:, 0])


def test_few_people_widen_the_interval_to_students() -> None:
    """The bootstrap of a mean is normal with σ·√((n − 1)/n)/√n; moved outward it is Student's interval (Hesterberg 2015)."""
    n = 12
    draws = norm.ppf((np.arange(200_000) + 0.5) / 200_000) * np.sqrt((n - 1) / n)  # in standard errors
    lower, upper = interval(draws, people=n)
    assert_allclose([lower, upper], [-t.ppf(0.975, n - 1), t.ppf(0.975, n - 1)], rtol=2e-3)
    assert_allclose(interval(draws), norm.ppf([0.025, 0.975]) * np.sqrt((n - 1) / n), rtol=2e-3)
    wide, plain = interval(draws, people=100_000), interval(draws)
    assert_allclose(wide, plain, rtol=1e-3)
    assert np.isnan(interval(draws, people=1)).all()
    assert np.isnan(interval(np.array([np.nan, np.inf]), people=9)).all()


@pytest.mark.parametrize(("people", "rows"), [(12, 1), (60, 8)])
def test_covers_the_truth_where_rows_of_a_person_are_alike_and_naive_intervals_do_not(people: int, rows: int) -> None:
    inside = naive = 0
    repeats = 400
    for seed in range(repeats):
        generator = np.random.default_rng(seed)
        person = np.repeat(np.arange(people), rows)
        values = generator.normal(size=people)[person] + 0.5 * generator.normal(size=people * rows)
        sums = np.bincount(person, weights=values)
        lower, upper = interval(bootstrap([mean(sums / rows)], people, resamples=400, seed=seed)[:, 0], people=people)
        inside += lower <= 0 <= upper
        lower, upper = interval(bootstrap([mean(values)], people * rows, resamples=400, seed=seed)[:, 0])
        naive += lower <= 0 <= upper
    assert 0.92 <= inside / repeats <= 0.98
    if rows > 1:
        assert naive / repeats < 0.7


def test_people_are_numbered_by_name() -> None:
    code, n = participant_codes(["b", "a", "b", "c"], 4)
    assert (code.tolist(), n) == ([1, 0, 1, 2], 3)
    assert participant_codes(np.array([7, 3, 7]), 3)[0].tolist() == [1, 0, 1]
    assert participant_codes(None, 3)[0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="each of the 3 rows"):
        participant_codes(["a", "b"], 3)
    for names in (["a", None, None], np.array([1.0, np.nan, np.nan])):  # they used to be one person, called None or nan
        with pytest.raises(ValueError, match="2 of 3 are missing"):
            participant_codes(names, 3)
