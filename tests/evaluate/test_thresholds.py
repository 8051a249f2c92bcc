from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.core.errors import CohortError
from clinome.evaluate.discrimination import at_threshold
from clinome.evaluate.thresholds import choose_threshold, refuse_test, threshold_of

RULES = ("youden", "f1", "accuracy", "sensitivity", "specificity", "cost")


def numbers(truth: np.ndarray, score: np.ndarray, threshold: float) -> dict[str, float]:
    every = np.arange(len(truth))
    return {metric.name: metric.prepare(truth, score, every, len(truth)).value for metric in at_threshold(threshold)}


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 10_000))
def test_no_other_threshold_is_better(rule: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = np.array([0, 1, *generator.integers(0, 2, 30)])
    score = generator.integers(0, 12, 32) + 3 * truth
    found = choose_threshold(truth, score, split="validation", rule=rule, at_least=0.8, false_negative_cost=3.0)  # type: ignore[arg-type]

    def merit(threshold: float) -> float:
        n = numbers(truth, score, threshold)
        called = score >= threshold
        return {
            "youden": n["sensitivity"] + n["specificity"],
            "f1": n["f1"],
            "accuracy": n["accuracy"],
            "cost": -float((called & (truth == 0)).sum() + 3 * (~called & (truth == 1)).sum()),
            "sensitivity": threshold if n["sensitivity"] >= 0.8 else -np.inf,
            "specificity": -threshold if n["specificity"] >= 0.8 else -np.inf,
        }[rule]

    assert merit(found.value) >= max(merit(float(t)) for t in np.unique(score)) - 1e-12
    chosen = numbers(truth, score, found.value)
    assert found.sensitivity == pytest.approx(chosen["sensitivity"])
    assert found.specificity == pytest.approx(chosen["specificity"])
    assert found.n == 32


def test_a_specificity_that_no_score_reaches_calls_nobody() -> None:
    found = choose_threshold([0, 0, 1], [0.9, 0.8, 0.1], split="train", rule="specificity", at_least=0.95)
    assert found.value > 0.9
    assert (found.sensitivity, found.specificity) == (0.0, 1.0)


def table(splits: list[str]) -> pl.DataFrame:
    n = len(splits)
    return pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i}" for i in range(n)],
            "split": splits,
            "ill": ["yes" if i % 2 else "no" for i in range(n)],
            "predicted:ill:yes": [0.1 + 0.5 * (i % 2) + 0.001 * i for i in range(n)],
        }
    )


def test_test_predictions_are_refused() -> None:
    for name in ("test", " Test", "TEST_2", "testing"):
        with pytest.raises(CohortError, match="nothing is chosen on test predictions"):
            refuse_test(["train", name])
    refuse_test(["train", "validation", "fold_1", "contest"])
    mixed = table(["validation"] * 10 + ["test"] * 10)
    with pytest.raises(CohortError, match="10 of 20 predictions of the split 'test'"):
        threshold_of(mixed, "ill")
    with pytest.raises(CohortError, match="nothing is chosen"):
        threshold_of(mixed, "ill", split="test")
    found = threshold_of(mixed, "ill", split="validation")
    assert (found.split, found.n, found.sensitivity, found.specificity) == ("validation", 10, 1.0, 1.0)
    assert threshold_of(mixed.filter(pl.col("split") != "test"), "ill") == found
    assert threshold_of(table(["fold_1", "fold_2"] * 5), "ill").split == "fold_1, fold_2"
    with pytest.raises(CohortError, match="nothing is chosen"):
        choose_threshold([0, 1], [0.1, 0.9], split="test")


def test_refusals() -> None:
    with pytest.raises(ValueError, match="unknown rule 'best'"):
        choose_threshold([0, 1], [0.1, 0.9], split="train", rule="best")  # type: ignore[arg-type]
    with pytest.raises(CohortError, match="both classes"):
        choose_threshold([1, 1], [0.1, 0.9], split="train")
    with pytest.raises(CohortError, match="some examples have no prediction"):  # it used to be the highest score
        choose_threshold([0, 0, 1, 1], [0.1, 0.4, np.nan, 0.8], split="train")
    unknown = choose_threshold([0, 0, np.nan, 1], [0.1, 0.4, 0.9, 0.8], split="train")  # it used to be a positive
    assert (unknown.value, unknown.n, unknown.sensitivity) == (0.8, 3, 1.0)
    number = table(["train"] * 4).select(
        "example_id", "participant_id", "split", pl.lit(3.0).alias("age"), pl.lit(2.0).alias("predicted:age")
    )
    with pytest.raises(CohortError, match="a probability of one class"):
        threshold_of(number, "age")
