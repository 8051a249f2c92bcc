from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression, Ridge

from clinome.core.errors import CohortError, SchemaError
from clinome.core.schema import METRICS, PREDICTIONS, check
from clinome.evaluate.compare import compare
from clinome.evaluate.floors import compare_with_floors, in_words, linear, shares, training_mean
from clinome.evaluate.outcomes import evaluate
from clinome.evaluate.ranking import AUROC


def cohort(n: int = 300, seed: int = 0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    age = generator.normal(70, 8, n)
    site = generator.choice(["A", "B", "C"], n)
    ill = generator.random(n) < 1 / (1 + np.exp(-(age - 72) / 4 - (site == "C")))
    return pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i // 2}" for i in range(n)],
            "split": ["train"] * (n // 2) + ["validation"] * (n // 6) + ["test"] * (n - n // 2 - n // 6),
            "age": age,
            "site": site,
            "ill": ill,
            "volume": 100 - 0.5 * age + 3 * (site == "B") + generator.normal(size=n),
        }
    )


def model_of(examples: pl.DataFrame, noise: float = 0.05) -> pl.DataFrame:
    generator = np.random.default_rng(9)
    p = np.clip(0.2 + 0.6 * examples["ill"].to_numpy() + generator.normal(0, noise, examples.height), 0, 1)
    return examples.select("example_id", "participant_id", "split", "ill").with_columns(
        pl.Series("predicted:ill:false", 1 - p), pl.Series("predicted:ill:true", p)
    )


def test_shares_and_mean_are_those_of_the_training_rows() -> None:
    examples = cohort()
    train = examples.filter(split="train")
    found = check(shares(examples, "ill"), PREDICTIONS)
    assert found["predicted:ill:true"].unique().to_list() == pytest.approx([train["ill"].mean()])
    assert found.height == 300
    assert training_mean(examples, "volume")["predicted:volume"].unique().to_list() == pytest.approx([train["volume"].mean()])
    missing = examples.with_columns(volume=pl.when(pl.int_range(pl.len()) < 10).then(None).otherwise("volume"))
    assert training_mean(missing, "volume")["predicted:volume"][0] == pytest.approx(train["volume"][10:].mean())
    folds = training_mean(examples, "volume", fit_on=None)
    for name in ("train", "validation", "test"):
        others = examples.filter(pl.col("split") != name)["volume"].mean()
        assert folds.filter(split=name)["predicted:volume"].unique().to_list() == pytest.approx([others])


def test_shares_order_nobody_over_folds_either() -> None:
    """Learnt from the other folds, these shares have an AUROC of 0.37 over all, and the means a correlation of −0.2."""
    folds = cohort(200, 1).with_columns(split=pl.Series([f"fold_{i % 10}" for i in range(200)]))
    found = shares(folds, "ill", fit_on=None)
    assert evaluate(found, "ill", resamples=0).filter(name="auroc")["value"][0] < 0.4
    table = compare_with_floors(model_of(folds), {"shares": found}, "ill", split=None, resamples=10)
    assert table.filter(name="auroc", predictor="shares")["value"].to_list() == [0.5]
    model = folds.select("example_id", "participant_id", "split", "volume", (pl.col("volume") + 1).alias("predicted:volume"))
    table = compare_with_floors(model, {"mean": training_mean(folds, "volume", fit_on=None)}, "volume", split=None, resamples=10)
    assert table.filter(name="pearson_r", predictor="mean")["value"].to_list() == [None]


def test_linear_floors_equal_scikit_learn_at_one_strength() -> None:
    examples = cohort().with_columns(age=pl.when(pl.int_range(pl.len()) % 17 == 3).then(None).otherwise("age"))
    learn = examples["split"].to_numpy() == "train"
    age = examples["age"].fill_null(examples.filter(split="train")["age"].mean()).to_numpy()
    design = np.column_stack([age, *[(examples["site"] == s).cast(float) for s in "ABC"]])
    known = examples.filter(split="train")["age"].drop_nulls().to_numpy()
    design = (design - design[learn].mean(axis=0)) / np.array([known.std(), *design[learn, 1:].std(axis=0)])
    ridge = Ridge(alpha=10.0).fit(design[learn], examples["volume"].to_numpy()[learn])
    found = linear(examples, "volume", ["age", "site"], strengths=[10.0])
    assert_allclose(found["predicted:volume"], ridge.predict(design), rtol=1e-6)
    logistic = LogisticRegression(C=0.1).fit(design[learn], examples["ill"].to_numpy()[learn])
    found = linear(examples, "ill", ["age", "site"], strengths=[0.1])
    assert_allclose(found["predicted:ill:true"], logistic.predict_proba(design)[:, 1], atol=1e-3)
    assert_allclose(found["predicted:ill:true"] + found["predicted:ill:false"], 1)
    design[examples["age"].is_null().to_numpy(), 0] = np.nan
    arrays = linear(examples, "ill", design, strengths=[0.1])
    assert_allclose(arrays["predicted:ill:true"], found["predicted:ill:true"], atol=1e-3)


def test_linear_learns_nothing_from_rows_it_answers() -> None:
    examples = cohort()
    spoiled = examples.with_columns(
        ill=pl.when(split="train").then("ill").otherwise(~pl.col("ill")),
        volume=pl.when(split="train").then("volume").otherwise(0.0),
    )
    for target in ("ill", "volume"):
        one, other = (linear(table, target, ["age", "site"]).drop(target) for table in (examples, spoiled))
        assert one.equals(other)
    folds = linear(examples, "volume", ["age", "site"], fit_on=None)
    changed = examples.with_columns(volume=pl.when(split="test").then(-5.0).otherwise("volume"))
    again = linear(changed, "volume", ["age", "site"], fit_on=None)
    assert folds.filter(split="test")["predicted:volume"].equals(again.filter(split="test")["predicted:volume"])
    assert not folds.filter(split="train")["predicted:volume"].equals(again.filter(split="train")["predicted:volume"])


def test_the_penalty_is_chosen_so_that_noise_is_kept_out() -> None:
    generator = np.random.default_rng(2)
    examples = cohort(400)
    noise = linear(examples, "volume", generator.normal(size=(400, 300)))
    test = noise.filter(split="test")
    assert (test["predicted:volume"] - test["volume"]).abs().mean() < 1.1 * (
        training_mean(examples, "volume").filter(split="test")["predicted:volume"] - test["volume"]
    ).abs().mean()


def test_a_kind_is_seen_or_told() -> None:
    examples = cohort().with_columns(code=pl.col("ill").cast(pl.Int64), many=pl.int_range(pl.len()) % 5)
    assert "predicted:code:1" in linear(examples, "code", ["age"]).columns
    assert "predicted:many" in linear(examples, "many", ["age"]).columns
    assert "predicted:many:4" in linear(examples, "many", ["age"], kind="classes").columns
    assert "predicted:code" in linear(examples, "code", ["age"], kind="number").columns
    alone = examples.with_columns(code=pl.when(split="train").then(1).otherwise("code"))  # one class to learn from
    assert linear(alone, "code", ["age"])["predicted:code:1"].unique().to_list() == [1.0]


def test_every_predictor_is_cut_at_its_own_threshold() -> None:
    examples = cohort()
    model, floors = model_of(examples, 0.3), {"age": linear(examples, "ill", ["age"]), "shares": shares(examples, "ill")}
    table = compare_with_floors(model, floors, "ill", threshold={"model": 0.7, "age": 0.3}, resamples=10)
    for name, predictions, threshold in (("model", model, 0.7), ("age", floors["age"], 0.3), ("shares", floors["shares"], 0.5)):
        alone = evaluate(predictions, "ill", split="test", threshold=threshold, resamples=0)
        for metric in ("sensitivity", "accuracy", "auroc"):
            mine = table.filter(name=metric, predictor=name)["value"].item()
            assert mine == alone.filter(name=metric)["value"].item(), (name, metric)
    with pytest.raises(ValueError, match="given for 'sex'; the predictors are model, age, shares"):
        compare_with_floors(model, floors, "ill", threshold={"sex": 0.7})


def test_gains_are_paired_and_positive_where_the_model_is_better() -> None:
    examples = cohort()
    model = model_of(examples, 0.3)
    floors = {"shares": shares(examples, "ill"), "age+site": linear(examples, "ill", ["age", "site"])}
    table = compare_with_floors(model, floors, "ill")
    check(table, METRICS)
    assert table["n"].unique().to_list() == [50]
    gain = table.filter(name="gain:auroc", predictor="model against age+site").row(0, named=True)
    test = examples["split"].to_numpy() == "test"
    alone = compare(
        AUROC,
        examples["ill"].to_numpy()[test],
        model["predicted:ill:true"].to_numpy()[test],
        floors["age+site"]["predicted:ill:true"].to_numpy()[test],
        participants=examples["participant_id"].to_numpy()[test],
    )
    assert (gain["value"], gain["lower"], gain["upper"]) == pytest.approx(alone.gain[:3])
    brier = {row["predictor"]: row["value"] for row in table.filter(name="brier").iter_rows(named=True)}
    gain = table.filter(name="gain:brier", predictor="model against shares").row(0, named=True)
    assert gain["value"] == pytest.approx(brier["shares"] - brier["model"])
    assert gain["lower"] > 0
    own = evaluate(model, "ill", split="test")
    assert table.filter(predictor="model").equals(own)
    words = in_words(table)
    assert words.splitlines()[0].split() == ["model", "shares", "age+site"]
    assert "  gain" in words


def test_order_of_rows_and_of_classes_does_not_matter() -> None:
    examples = cohort().with_columns(grade=pl.Series(["a", "b", "c"] * 100))
    generator = np.random.default_rng(1)
    p = generator.dirichlet(np.ones(3), 300)
    model = examples.select("example_id", "participant_id", "split", "grade").with_columns(
        pl.Series(f"predicted:grade:{g}", p[:, j]) for j, g in enumerate("cab")
    )
    floor = linear(examples, "grade", ["age"])
    one = compare_with_floors(model, {"age": floor}, "grade")
    other = compare_with_floors(model, {"age": floor.sample(fraction=1.0, shuffle=True, seed=3)}, "grade")
    assert one.equals(other)
    assert one.filter(name="auroc", predictor="age").row(0, named=True)["value"] == pytest.approx(
        evaluate(floor, "grade", split="test").filter(name="auroc")["value"][0]
    )


def test_floors_of_other_examples_are_refused() -> None:
    examples = cohort()
    model, floor = model_of(examples), shares(examples, "ill")
    with pytest.raises(CohortError, match="'shares' has no prediction of an example of the model"):
        compare_with_floors(model, {"shares": floor.head(280)}, "ill")
    with pytest.raises(CohortError, match="another split"):
        compare_with_floors(model, {"shares": floor.with_columns(split=pl.lit("train"))}, "ill")
    with pytest.raises(CohortError, match="another truth"):
        compare_with_floors(model, {"shares": floor.with_columns(~pl.col("ill"))}, "ill")
    number = training_mean(examples.with_columns(pl.col("ill").cast(pl.Float64)), "ill")
    with pytest.raises(CohortError, match="predicts something else"):
        compare_with_floors(model, {"mean": number}, "ill")


def test_refusals() -> None:
    examples = cohort()
    with pytest.raises(SchemaError, match="column 'height' is missing"):
        linear(examples, "ill", ["height"])
    with pytest.raises(SchemaError, match="column 'split' is missing"):
        training_mean(examples.drop("split"), "volume")
    with pytest.raises(SchemaError, match="column 'weight' is missing"):
        shares(examples, "weight")
    with pytest.raises(CohortError, match="no example with a known 'volume' to learn from"):
        training_mean(examples.filter(split="test"), "volume")
    with pytest.raises(ValueError, match="n_examples = 300"):
        linear(examples, "ill", np.zeros((10, 2)))
    with pytest.raises(ValueError, match="unknown kind"):
        linear(examples, "ill", ["age"], kind="rank")
