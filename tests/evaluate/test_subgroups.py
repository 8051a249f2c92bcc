from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import SchemaError
from clinome.core.schema import METRICS, check
from clinome.evaluate.confounders import confounder_floors, confounding
from clinome.evaluate.floors import compare_with_floors
from clinome.evaluate.outcomes import evaluate
from clinome.evaluate.regression import BIAS
from clinome.evaluate.subgroups import groups_of, subgroups
from clinome.stats.resampling import bootstrap, interval


def cohort(n: int = 400, seed: int = 1) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions of an illness that read the scanner a little, two examples a person; sex, age, site of people."""
    generator = np.random.default_rng(seed)
    people = np.arange(n // 2)
    sex = np.where(people % 2, "female", "male")
    age = generator.uniform(40, 90, n // 2)
    site = np.where(people < 5, "D", np.array(["A", "B", "C"])[people % 3])
    person = np.repeat(people, 2)
    ill = (generator.random(n) < 1 / (1 + np.exp(-(age[person] - 65) / 10))).astype(int)
    noise = np.where(sex[person] == "male", 2.0, 0.5)  # worse in men
    p = 1 / (1 + np.exp(-(2 * ill - 1 + (site[person] == "B") + noise * generator.normal(size=n))))
    predictions = pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i}" for i in person],
            "split": "test",
            "ill": ill,
            "predicted:ill:1": p,
        }
    )
    return predictions, pl.DataFrame({"participant_id": [f"p{i}" for i in people], "sex": sex, "age": age, "site": site})


def test_each_group_is_measured_as_if_it_were_alone() -> None:
    predictions, people = cohort()
    table = subgroups(predictions, people, "ill", by=["sex", "age", "site"])
    check(table, METRICS)
    for sex in ("female", "male"):
        ids = people.filter(sex=sex)["participant_id"].to_list()
        alone = evaluate(predictions.filter(pl.col("participant_id").is_in(ids)), "ill").filter(name="auroc").row(0, named=True)
        row = table.filter(name="auroc", subgroup=f"sex={sex}").row(0, named=True)
        assert row["value"] == pytest.approx(alone["value"])
        assert row["n"] == alone["n"] == 100
        assert row["upper"] - row["lower"] == pytest.approx(alone["upper"] - alone["lower"], rel=0.25)
    whole = evaluate(predictions, "ill").filter(name="auroc").row(0, named=True)
    assert table.filter(name="auroc", subgroup="all").row(0, named=True) == whole
    bands = [name for name in table.filter(name="auroc")["subgroup"] if name.startswith("age=")]
    assert bands == [f"age={low} to {low + 10}" for low in range(40, 90, 10)]


def test_the_gap_is_a_paired_difference_with_its_groups_named() -> None:
    predictions, people = cohort()
    table = subgroups(predictions, people, "ill", by=["sex"], metrics=["auroc", "brier"])
    gap = table.filter(name="gap:auroc").row(0, named=True)
    values = {row["subgroup"]: row["value"] for row in table.filter(name="auroc").iter_rows(named=True)}
    assert gap["value"] == pytest.approx(values["sex=female"] - values["sex=male"])
    assert gap["lower"] > 0
    assert gap["subgroup"] == "sex"
    assert gap["n"] == 200
    assert gap["interval"].endswith("; sex=female less sex=male")
    assert table.filter(name="gap:brier").row(0, named=True)["interval"].endswith("; sex=male less sex=female")
    assert set(table["target"]) == {"ill"}


def test_the_gap_is_as_unsure_as_the_smaller_group() -> None:
    ids, small = [str(i) for i in range(400)], np.arange(400) < 12
    error = np.random.default_rng(5).normal(size=400) + 3 * small
    table = pl.DataFrame({"example_id": ids, "participant_id": ids, "split": "test", "age": 60.0, "predicted:age": 60 + error})
    groups = pl.DataFrame({"participant_id": ids, "site": ["A"] * 12 + ["B"] * 388})
    row = subgroups(table, groups, "age", by=["site"], metrics=["bias"]).filter(name="gap:bias").row(0, named=True)
    zeros = np.zeros(400)
    of = [BIAS.prepare(zeros[some], error[some], np.flatnonzero(some), 400).of for some in (small, ~small)]
    draws = bootstrap(of, 400, resamples=1000, seed=0)  # in the order of identifiers as text, which changes no distribution
    lower, upper = interval(draws[:, 0] - draws[:, 1], people=12)
    assert row["upper"] - row["lower"] == pytest.approx(upper - lower, rel=0.1)
    assert row["upper"] - row["lower"] > 1.08 * np.ptp(np.quantile(draws[:, 0] - draws[:, 1], [0.025, 0.975]))
    assert row["n"] == 400


def test_small_groups_are_named_and_not_told_of() -> None:
    predictions, people = cohort()
    table = subgroups(predictions, people, "ill", by=["site"])
    hidden = table.filter(subgroup="site=D")
    assert hidden.height == 4
    for row in hidden.iter_rows(named=True):
        assert (row["value"], row["lower"], row["n"], row["interval"]) == (None, None, None, "not shown: fewer than 10 people")
    assert "site=D" not in " ".join(table.filter(pl.col("name").str.starts_with("gap:"))["interval"])
    shown = (
        subgroups(predictions, people, "ill", by=["site"], smallest=5).filter(name="auroc", subgroup="site=D").row(0, named=True)
    )
    assert shown["n"] == 5


def test_groups_by_example_for_people_on_two_devices() -> None:
    predictions, _ = cohort()
    devices = pl.DataFrame({"example_id": predictions["example_id"], "device": ["X", "Y"] * 200})
    table = subgroups(predictions, devices, "ill", by=["device"], metrics=["auroc"])
    assert table.filter(subgroup="device=X")["n"][0] == 200  # everybody is in both groups
    gap = table.filter(name="gap:auroc").row(0, named=True)
    assert gap["n"] == 200
    assert gap["lower"] <= 0.02


def test_groups_of_a_column() -> None:
    ages = pl.Series([39.9, 40.0, 49.9, None, 200.0])
    groups = groups_of(ages, [30, 40, 50])
    assert {name: inside.tolist() for name, inside in groups.items()} == {
        "30 to 40": [True, False, False, False, False],
        "40 to 50": [False, True, True, False, False],
        "outside the bands": [False, False, False, False, True],
        "unknown": [False, False, False, True, False],
    }
    quarters = groups_of(pl.Series(range(100)))
    assert [int(inside.sum()) for inside in quarters.values()] == [25, 25, 25, 25]
    assert list(groups_of(pl.Series([2, 1, 1]))) == ["1", "2"]
    assert list(groups_of(pl.Series([True, None, False]))) == ["false", "true", "unknown"]
    assert {name: some.tolist() for name, some in groups_of(pl.Series(["unknown", None, "A"])).items()} == {
        "A": [False, False, True],
        "unknown": [True, True, False],  # nobody is lost to those who are missing
    }
    assert list(groups_of(pl.Series([1.0, float("nan"), 2.0]))) == ["1.0", "2.0", "unknown"]
    codes = groups_of(pl.Series(range(20190101, 20190201)))  # alike in four digits
    assert [int(inside.sum()) for inside in codes.values()] == [25, 25, 25, 25]


def test_refusals() -> None:
    predictions, people = cohort(40)
    with pytest.raises(SchemaError, match="no metric 'mae'"):
        subgroups(predictions, people, "ill", by=["sex"], metrics=["mae"])
    with pytest.raises(SchemaError, match="column 'device' is missing"):
        subgroups(predictions, people, "ill", by=["device"])
    twice = pl.concat([people, people.head(1).with_columns(sex=pl.lit("other"))])
    with pytest.raises(SchemaError, match="'p0' has two values of 'sex'"):
        subgroups(predictions, twice, "ill", by=["sex"])


def test_a_prediction_that_reads_the_site_is_found_out_beside_the_truth() -> None:
    predictions, people = cohort(2000)
    people = people.with_columns(scanner=pl.when(site="B").then(pl.lit("new")).otherwise(pl.lit("old")))
    table = confounding(predictions, people, "ill", by=["age", "sex", "site", "scanner"])
    check(table, METRICS)
    value = {(row["name"], row["predictor"]): row for row in table.iter_rows(named=True)}
    assert {name for name, _ in value} == {"pearson_r:age", "auroc:sex=male", "eta_squared:site", "auroc:scanner=old"}
    assert value["auroc:scanner=old", "model"]["upper"] < 0.45  # the prediction is higher on the new scanner
    truth = value["auroc:scanner=old", "truth"]
    assert truth["lower"] < 0.5 < truth["upper"]
    assert value["eta_squared:site", "model"]["value"] > 3 * value["eta_squared:site", "truth"]["value"]
    assert value["eta_squared:site", "model"]["lower"] > 0
    assert value["eta_squared:site", "model"]["interval"].startswith("95 % expanded basic")
    joined = predictions.join(people, on="participant_id", how="left", maintain_order="left")
    assert value["pearson_r:age", "model"]["value"] == pytest.approx(
        np.corrcoef(joined["age"], joined["predicted:ill:1"])[0, 1], abs=1e-9
    )
    by_site = joined.group_by("site").agg(pl.col("predicted:ill:1").mean(), pl.len())
    mean = joined["predicted:ill:1"].mean()
    between = ((by_site["predicted:ill:1"] - mean) ** 2 * by_site["len"]).sum()
    assert value["eta_squared:site", "model"]["value"] == pytest.approx(
        between / ((joined["predicted:ill:1"] - mean) ** 2).sum(), abs=1e-9
    )


def test_confounding_of_numbers_of_classes_and_of_too_few() -> None:
    predictions, people = cohort(60)
    few = people.with_columns(age=pl.when(pl.int_range(pl.len()) < 6).then("age").otherwise(None))
    hidden = confounding(predictions, few, "ill", by=["age"])
    assert hidden["value"].to_list() == [None, None]
    assert hidden["n"].to_list() == [None, None]
    three = predictions.drop("predicted:ill:1").with_columns(
        ill=pl.Series(["a", "b", "c"] * 20), **{f"predicted:ill:{c}": pl.lit(0.2) + 0.01 * i for i, c in enumerate("abc")}
    )
    table = confounding(three, people, "ill", by=["age"], resamples=0)
    assert set(table["predictor"]) == {f"{who}:{c}" for who in ("model", "truth") for c in "abc"}


def test_confounders_alone_are_floors() -> None:
    predictions, people = cohort(600)
    examples = predictions.join(people, on="participant_id", how="left", maintain_order="left").with_columns(
        split=pl.when(pl.int_range(pl.len()) < 300).then(pl.lit("train")).otherwise(pl.lit("test"))
    )
    model = examples.select(predictions.columns)
    floors = confounder_floors(examples.drop("predicted:ill:1"), "ill", ["age", "sex", "site"])
    assert list(floors) == ["age", "sex", "site", "age+sex+site"]
    model = model.with_columns((1 - pl.col("predicted:ill:1")).alias("predicted:ill:0"))
    table = compare_with_floors(model, floors, "ill")
    value = {row["predictor"]: row["value"] for row in table.filter(name="auroc").iter_rows(named=True)}
    assert value["age"] > 0.7
    assert abs(value["sex"] - 0.5) < 0.1
    gain = table.filter(name="gain:auroc", predictor="model against age").row(0, named=True)
    assert gain["value"] == pytest.approx(value["model"] - value["age"])
