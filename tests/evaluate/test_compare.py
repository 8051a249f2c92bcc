from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import kstest, norm, wilcoxon
from sklearn.metrics import roc_auc_score

from clinome.evaluate.compare import auroc_covariance, compare, delong
from clinome.evaluate.discrimination import BRIER
from clinome.evaluate.measuring import measure
from clinome.evaluate.ranking import AUROC
from clinome.evaluate.regression import BIAS, MAE
from clinome.stats.resampling import bootstrap, interval


def two_scores(
    people: int, rows: int, seed: int, gain: float = 0.0, *, mixed: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, two scores as good as each other (but for ``gain``) that share noise within a person, and the person of each row.

    ``mixed``: a person has rows of both classes.
    """
    generator = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), rows)
    truth = (generator.random(people * rows) < 0.4).astype(int) if mixed else (generator.random(people) < 0.4).astype(int)[person]
    shared = generator.normal(size=people)[person]
    scores = [truth + shared + generator.normal(size=people)[person] + generator.normal(size=len(truth)) for _ in range(2)]
    return truth, scores[0] + gain * truth, scores[1], person


def placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above: all pairs."""
    above = score[truth == 1][:, None] - score[truth == 0]
    wins = (above > 0) + 0.5 * (above == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


@given(st.integers(0, 10_000))
def test_equals_delongs_definition_over_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = np.array([0, 0, 1, 1, *generator.integers(0, 2, 40)])
    scores = generator.integers(0, 8, (3, 44)) + truth  # with ties
    areas, covariance = auroc_covariance(truth, scores)
    parts = [placements(truth, score) for score in scores]
    s10, s01 = np.cov([x for x, _ in parts]), np.cov([y for _, y in parts])
    assert_allclose(areas, [roc_auc_score(truth, score) for score in scores])
    assert_allclose(covariance, s10 / (truth == 1).sum() + s01 / (truth == 0).sum(), atol=1e-14)


def test_over_people_equals_obuchowskis_sums_written_out() -> None:
    truth, first, second, person = two_scores(25, 4, 1)
    areas, covariance = auroc_covariance(truth, [first, second], participants=person)
    m, n = (truth == 1).sum(), (truth == 0).sum()
    expected = np.zeros((2, 2))
    with_positive, with_negative = (len(np.unique(person[truth == k])) for k in (1, 0))
    parts = [placements(truth, score) for score in (first, second)]
    for k in range(2):
        for j in range(2):
            s10 = s01 = s11 = s11t = 0.0
            for i in range(25):
                xs = [(parts[q][0][person[truth == 1] == i] - areas[q]).sum() for q in (k, j)]
                ys = [(parts[q][1][person[truth == 0] == i] - areas[q]).sum() for q in (k, j)]
                s10, s01 = s10 + xs[0] * xs[1], s01 + ys[0] * ys[1]
                s11, s11t = s11 + xs[0] * ys[1], s11t + xs[1] * ys[0]
            expected[k, j] = (
                s10 * with_positive / ((with_positive - 1) * m) / m
                + s01 * with_negative / ((with_negative - 1) * n) / n
                + (s11 + s11t) * 25 / 24 / (m * n)
            )
    assert_allclose(covariance, expected)
    alone = auroc_covariance(truth, [first, second], participants=np.arange(100))[1]
    assert_allclose(alone, auroc_covariance(truth, [first, second])[1])


def test_standard_errors_are_those_of_resampled_people() -> None:
    truth, first, second, person = two_scores(80, 3, 5, gain=0.4)
    found = delong(truth, first, second, participants=person)
    drawn = compare(AUROC, truth, first, second, participants=person, resamples=2000, permutations=0)
    assert found.method == "DeLong over participants (Obuchowski)"
    assert found.gain.value == pytest.approx(drawn.gain.value)
    assert found.gain.n == 80
    for one, other in zip(found[:3], drawn[:3], strict=True):
        assert one.upper - one.lower == pytest.approx(other.upper - other.lower, rel=0.15)


def test_p_values_are_uniform_when_nothing_differs_and_naive_ones_are_not() -> None:
    p, naive = [], []
    for seed in range(300):
        truth, first, second, person = two_scores(60, 6, seed, mixed=False)
        p.append(delong(truth, first, second, participants=person).p)
        naive.append(delong(truth, first, second).p)
    assert kstest(p, "uniform").pvalue > 1e-3
    assert np.mean(np.array(p) < 0.05) < 0.09
    assert np.mean(np.array(naive) < 0.05) > 0.2
    clustered = [
        compare(AUROC, *two_scores(40, 4, seed)[:3], participants=two_scores(40, 4, seed)[3], resamples=2, permutations=99).p
        for seed in range(150)
    ]
    assert 0.01 < np.mean(np.array(clustered) <= 0.05) < 0.1


def test_permutations_equal_wilcoxon_like_exact_counts() -> None:
    """A mean absolute error of one row a person: all 2ⁿ swaps of signs, drawn 20,000 times."""
    generator = np.random.default_rng(1)
    error = np.abs(generator.normal(size=(2, 10)))
    gap = error[1] - error[0]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    exact = (np.abs(gap @ signs) >= abs(gap.sum()) - 1e-12).mean()
    found = compare(MAE, np.zeros(10), error[0], error[1], resamples=10, permutations=20_000)
    assert found.p == pytest.approx(exact, abs=0.012)
    assert found.gain.value == pytest.approx(gap.mean())
    assert (wilcoxon(gap).pvalue < 0.2) == (found.p < 0.2)


def test_a_gain_is_positive_where_the_first_is_better() -> None:
    truth, first, second, person = two_scores(100, 2, 3, gain=1.5)
    better = compare(AUROC, truth, first, second, participants=person)
    assert better.gain.lower > 0
    assert better.p < 0.01
    assert better.gain.value == pytest.approx(better.first.value - better.second.value)
    p = np.clip(np.column_stack([0.2 + 0.6 * truth, np.full(len(truth), 0.5)]), 0, 1)
    lower_is_better = compare(BRIER, truth, p[:, 0], p[:, 1], participants=person)
    assert lower_is_better.gain.value == pytest.approx(lower_is_better.second.value - lower_is_better.first.value)
    assert lower_is_better.gain.lower > 0
    same = compare(AUROC, truth, first, first, participants=person)
    assert (same.gain.value, same.gain.lower, same.p) == (0.0, 0.0, 1.0)
    assert delong(truth, first, first).p == 1.0


def test_a_hundred_thousand_rows_take_a_moment() -> None:
    truth, first, second, person = two_scores(25_000, 4, 1)
    started = time.process_time()
    delong(truth, first, second, participants=person)
    assert time.process_time() - started < 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no gain"):
        compare(BIAS, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="two people or more"):
        delong([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, 3, 4], participants=["a", "a", "b", "a"])


def test_the_p_of_ranks_knows_no_scale() -> None:
    truth, first, second, person = two_scores(60, 2, 5, gain=0.3)
    found = [
        compare(AUROC, truth, first, f(second), participants=person, resamples=0).p for f in (np.asarray, np.exp, lambda s: 100 * s)
    ]
    assert found[0] == found[1] == found[2]
    assert 0.001 < found[0] < 1


def test_the_interval_of_an_area_holds_the_truth_with_few_positives() -> None:
    """On its own scale the interval of ten positives holds it 84 times in 100."""
    true, inside, outside = norm.cdf(np.sqrt(2)), 0, 0
    truth = np.repeat([1, 0], [10, 190])
    for seed in range(300):
        score = np.random.default_rng(seed).normal(size=200) + 2 * truth
        found = delong(truth, score, score).first
        inside += found.lower <= true <= found.upper
        reach = 1.96 * np.sqrt(auroc_covariance(truth, [score])[1][0, 0])
        outside += abs(found.value - true) > reach
    assert inside / 300 > 0.9
    assert outside / 300 > 0.13
    perfect = delong([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.1, 0.3, 0.2, 0.9])
    assert (perfect.first.value, np.isnan(perfect.first.lower)) == (1.0, True)


def test_the_width_is_that_of_the_rarer_class() -> None:
    generator = np.random.default_rng(3)
    truth = np.repeat([1, 0], [10, 190])
    score, other = (generator.normal(size=200) + truth for _ in range(2))
    draws = bootstrap([AUROC.prepare(truth, score, np.arange(200), 200).of], 200, resamples=1000, seed=0)[:, 0]
    row = measure([AUROC], truth, score).row(0, named=True)
    assert (row["lower"], row["upper"]) == pytest.approx(interval(draws, people=10))
    assert row["n"] == 200
    assert compare(AUROC, truth, score, other, permutations=0).first[1:3] == pytest.approx(interval(draws, people=10))
