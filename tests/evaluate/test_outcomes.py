from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import CohortError, SchemaError
from clinome.evaluate.discrimination import classification
from clinome.evaluate.outcomes import class_names, evaluate, outcome
from clinome.evaluate.regression import regression


def table(**columns: object) -> pl.DataFrame:
    ids = [f"e{i}" for i in range(4)]
    base = {"example_id": ids, "participant_id": ["p0", "p0", "p1", "p2"], "split": ["train", "test", "test", "test"]}
    return pl.DataFrame(base | columns)


def test_two_classes_and_which_is_positive() -> None:
    both = table(sex=["m", "f", None, "m"], **{"predicted:sex:m": [0.9, 0.2, 0.4, 0.6], "predicted:sex:f": [0.1, 0.8, 0.6, 0.4]})
    found = outcome(both, "sex")
    assert (found.kind, found.classes, found.split) == ("binary", ("f", "m"), None)
    np.testing.assert_array_equal(found.truth, [1, 0, np.nan, 1])
    np.testing.assert_array_equal(found.predicted, [0.9, 0.2, 0.4, 0.6])
    other = outcome(both, "sex", positive="f", split="test")
    assert (other.classes, other.split, other.example_ids) == (("m", "f"), "test", ("e1", "e2", "e3"))
    np.testing.assert_array_equal(other.truth, [1, np.nan, 0])
    one = table(ill=[0, 1, 1, 0], **{"predicted:ill:1": [0.2, 0.7, 0.9, 0.1]})
    assert outcome(one, "ill").classes == ("not 1", "1")
    assert outcome(one.with_columns(pl.col("ill").cast(pl.Float64)), "ill").truth.tolist() == [0, 1, 1, 0]
    assert outcome(
        one.with_columns(pl.col("ill").cast(pl.Boolean)).rename({"predicted:ill:1": "predicted:ill:true"}), "ill"
    ).truth.tolist() == [0, 1, 1, 0]


def test_several_classes_and_numbers() -> None:
    three = table(grade=["a", "c", None, "b"], **{f"predicted:grade:{g}": [0.2, 0.3, 0.5, 0.1] for g in "abc"})
    found = outcome(three, "grade")
    assert (found.kind, found.classes) == ("classes", ("a", "b", "c"))
    np.testing.assert_array_equal(found.truth, [0, 2, np.nan, 1])
    assert found.predicted.shape == (4, 3)
    assert outcome(three, "grade", positive="b").kind == "binary"
    number = outcome(table(age=[50, 60, None, 70], **{"predicted:age": [51.0, 62, 63, 64]}), "age")
    assert number.kind == "number"
    np.testing.assert_array_equal(number.truth, [50, 60, np.nan, 70])


def test_a_table_gives_what_its_arrays_give() -> None:
    generator = np.random.default_rng(1)
    n = 120
    truth, p, age = generator.integers(0, 2, n), generator.random(n), generator.normal(60, 9, n)
    frame = pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i // 3}" for i in range(n)],
            "split": "test",
            "ill": truth,
            "predicted:ill:1": p,
            "age": age,
            "predicted:age": age + 1,
        }
    )
    people = frame["participant_id"].to_numpy()
    assert (
        evaluate(frame, "ill", threshold=0.3)
        .drop("target")
        .equals(classification(truth, p, participants=people, threshold=0.3, split="test").drop("target"))
    )
    assert (
        evaluate(frame, "age", training_mean=55.0, predictor="ridge")
        .drop("target")
        .equals(regression(age, age + 1, participants=people, training_mean=55.0, split="test", predictor="ridge").drop("target"))
    )
    assert evaluate(frame, "age")["target"].unique().to_list() == ["age"]


def test_class_names_are_text_without_points() -> None:
    assert class_names(pl.Series([1.0, None, 0.0, float("nan")])).to_list() == ["1", None, "0", None]
    assert class_names(pl.Series([True, False])).to_list() == ["true", "false"]
    assert class_names(pl.Series([1.5, 2.0])).to_list() == ["1.5", "2.0"]


@pytest.mark.parametrize(
    ("columns", "more", "error", "words"),
    [
        ({}, {}, SchemaError, "no column 'y'"),
        ({"y": [0, 1, 0, 1]}, {}, SchemaError, "not one or the other"),
        ({"y": [0, 1, 0, 1], "predicted:y": [0.1] * 4, "predicted:y:1": [0.1] * 4}, {}, SchemaError, "not one or the other"),
        ({"y": [0, 1, 0, 1], "predicted:y:1": [0.1, 1.2, 0.1, 0.1]}, {}, SchemaError, "not probabilities"),
        ({"y": [0, 1, 0, 1], "predicted:y:1": [0.1] * 4}, {"positive": "2"}, SchemaError, "no column predicts the class '2'"),
        ({"y": [0, 1, 2, 1], "predicted:y:1": [0.1] * 4, "predicted:y:0": [0.9] * 4}, {}, SchemaError, "classes without"),
        ({"y": [0, 1, 0, 1], "predicted:y:1": [0.1] * 4}, {"split": "validation"}, CohortError, "no prediction is of the split"),
    ],
)  # fmt: skip
def test_refusals(columns: dict[str, list[float]], more: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        outcome(table(**columns), "y", **more)


def test_rows_that_were_chosen_on_are_not_judged_with_others() -> None:
    ids = [str(i) for i in range(8)]
    frame = pl.DataFrame({"example_id": ids, "participant_id": ids, "split": ["validation"] * 4 + ["test"] * 4, "y": [0, 1] * 4})
    frame = frame.with_columns(pl.lit(0.5).alias("predicted:y:1"))
    with pytest.raises(CohortError, match=r"(?s)chosen on are not judged.*test, validation.*split='test'"):
        evaluate(frame, "y")
    assert evaluate(frame, "y", split="test", resamples=0)["n"][0] == 4
    folds = frame.with_columns(split=pl.Series(["fold_1", "fold_2"] * 4))
    assert evaluate(folds, "y", resamples=0)["n"][0] == 8
    assert outcome(frame, "y").split is None  # reading, as a recalibration does, is no judging
