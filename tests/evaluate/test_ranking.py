from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from clinome.evaluate import ranking
from clinome.evaluate.measuring import measure
from clinome.evaluate.ranking import AUROC, AVERAGE_PRECISION, auroc, average_precision, sensitivity_at_specificity
from clinome.stats.resampling import participant_counts

METRICS = (AUROC, AVERAGE_PRECISION, sensitivity_at_specificity(0.8))
labelled = st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def sensitivity_by_roc(truth: np.ndarray, score: np.ndarray, specificity: float, weight: np.ndarray | None = None) -> float:
    fpr, tpr, _ = roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    return float(tpr[1 - fpr >= specificity - 1e-12].max())


@given(labelled)
def test_equals_scikit_learn_with_ties(rows: list[tuple[bool, int]]) -> None:
    truth, score = (np.array(column) for column in zip(*rows, strict=True))
    assert_allclose(auroc(truth, score), roc_auc_score(truth, score), atol=1e-12)
    assert_allclose(average_precision(truth, score), average_precision_score(truth, score), atol=1e-12)
    for specificity in (0.5, 0.8, 0.95):
        value = sensitivity_at_specificity(specificity).prepare(truth, score, np.arange(len(truth)), len(truth)).value
        assert_allclose(value, sensitivity_by_roc(truth, score, specificity), atol=1e-12)


@given(labelled)
def test_only_the_order_of_scores_counts(rows: list[tuple[bool, int]]) -> None:
    truth, score = (np.array(column) for column in zip(*rows, strict=True))
    assert_allclose(auroc(truth, np.exp(score / 3.0)), auroc(truth, score), atol=1e-12)
    assert_allclose(auroc(truth, -score), 1 - auroc(truth, score), atol=1e-12)
    assert_allclose(auroc(~truth, -score), auroc(truth, score), atol=1e-12)


@pytest.mark.parametrize("people", [3, 40, 150])
def test_a_resample_is_the_metric_with_each_row_as_often_as_its_person(people: int, generator: np.random.Generator) -> None:
    """Both ways of weighing (tables of people, gathered rows) against scikit-learn's sample weights."""
    n = 150
    truth = generator.random(n) < 0.4
    score = np.round(truth + generator.normal(size=n), 1)
    person = np.arange(n) % people
    counts = np.vstack(list(participant_counts(people, resamples=20, seed=1)))
    for weigh in (ranking._of_people, ranking._of_rows):
        order = np.argsort(score)
        level = np.unique(score[order], return_inverse=True)[1]
        parts = list(weigh(truth[order], level, person[order], people)(counts))
        positive, negative = (np.vstack([part[i] for part in parts]) for i in (0, 1))
        assert_allclose(
            ranking.auroc_curve(positive, negative), [roc_auc_score(truth, score, sample_weight=row[person]) for row in counts]
        )
    for metric in METRICS:
        prepared = metric.prepare(truth, score, person, people)
        for row, value in zip(counts, prepared.of(counts), strict=True):
            keep = row[person] > 0
            weight = row[person][keep]
            expected = {
                "auroc": lambda t, s, w: roc_auc_score(t, s, sample_weight=w),
                "average_precision": lambda t, s, w: average_precision_score(t, s, sample_weight=w),
            }.get(metric.name, lambda t, s, w: sensitivity_by_roc(t, s, 0.8, w))(truth[keep], score[keep], weight)
            assert_allclose(value, expected, atol=1e-10, err_msg=metric.name)
        assert_allclose(prepared.of(np.ones((1, people)))[0], prepared.value, atol=1e-12)


def test_one_class_alone_has_no_area() -> None:
    assert np.isnan(auroc([1, 1, 1], [0.1, 0.2, 0.3]))
    assert np.isnan(average_precision([0, 0], [0.1, 0.2]))
    assert np.isnan(auroc([], []))
    with pytest.raises(ValueError, match="between 0 and 1"):
        sensitivity_at_specificity(1.0)


def test_levels_of_many_rows_move_the_interval_by_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    n = 40_000
    truth = generator.random(n) < 0.1
    score = truth + generator.normal(size=n)
    person = generator.integers(0, 25, n)
    counts = np.vstack(list(participant_counts(25, resamples=50, seed=1)))
    rounded = AUROC.prepare(truth, score, person, 25)
    monkeypatch.setattr(ranking, "_LEVELS", 1 << 20)
    exact = AUROC.prepare(truth, score, person, 25)
    assert not np.array_equal(rounded.of(counts), exact.of(counts))
    assert rounded.value == exact.value
    assert_allclose(rounded.of(counts), exact.of(counts), atol=2e-6)


def test_ten_thousand_examples_a_thousand_times_take_seconds() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 10_000)
    started = time.process_time()
    table = measure([AUROC], truth, truth + 1.5 * generator.normal(size=10_000))
    assert time.process_time() - started < 10
    row = table.row(0, named=True)
    assert row["upper"] - row["lower"] == pytest.approx(4 * 0.0053, rel=0.15)  # two standard errors to each side


def test_intervals_of_the_area_cover_the_truth_when_people_have_several_rows() -> None:
    """Scores share a part within a person; the true area is Φ(1/√2)."""
    inside = naive = 0
    repeats = 200
    for seed in range(repeats):
        generator = np.random.default_rng(seed)
        person = np.repeat(np.arange(60), 6)
        truth = (generator.random(60) < 0.5).astype(int)[person]
        score = truth + np.sqrt(0.8) * generator.normal(size=60)[person] + np.sqrt(0.2) * generator.normal(size=360)
        row = measure([AUROC], truth, score, participants=person, resamples=300, seed=seed).row(0, named=True)
        inside += row["lower"] <= 0.7602 <= row["upper"]
        row = measure([AUROC], truth, score, resamples=300, seed=seed).row(0, named=True)
        naive += row["lower"] <= 0.7602 <= row["upper"]
    assert 0.91 <= inside / repeats <= 0.985
    assert naive / repeats < 0.75
