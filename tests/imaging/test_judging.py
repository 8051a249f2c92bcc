"""What is measured of a predictor beside its metrics: reliability, groups of people, counts; and what is said before a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import CohortError
from clinome.imaging import judging
from clinome.imaging.judging import Cut, by_group, counts, gains_of_masks, judged_split, reliability, see_judged
from clinome.imaging.targets import Target
from clinome.studies import picture_groups
from clinome.studies.picture_groups import with_groups
from clinome.studies.task_file import Pictures, Predict, Split, Task

N = 120


def people() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "example_id": [f"e{k}" for k in range(N)],
            "participant_id": [f"p{k}" for k in range(N)],
            "split": ["train"] * 20 + ["validation"] * 20 + ["test"] * 80,
            "sex": ["female", "male"] * 60,
            "site": ["only"] * N,
            "ill": generator.integers(0, 2, N),
            "age": generator.uniform(40, 80, N),
        }
    )


def predictions() -> pl.DataFrame:
    """Right of women, at random of men; ages ten too old in men."""
    table = people().filter(pl.col("split") != "train")
    chance = pl.lit(np.random.default_rng(1).uniform(0, 1, table.height))
    said = table.select(said=pl.when(sex="female").then(0.1 + 0.8 * pl.col("ill")).otherwise(chance))["said"]
    older = table["age"] + 10.0 * (table["sex"] == "male").cast(pl.Float64)
    return table.drop("sex", "site").with_columns(
        (1 - said).alias("predicted:ill:0"), said.alias("predicted:ill:1"), older.alias("predicted:age")
    )


def test_groups_are_measured_where_there_are_two_or_more() -> None:
    found = by_group(predictions(), people(), ["ill", "age"], {"ill": Cut(0.5, "")})
    assert set(found["subgroup"].str.split("=").list.first()) == {"all", "sex", "age"}  # of one site there is nothing to compare
    assert not found.filter(target="age")["subgroup"].str.starts_with("age").any()  # not by what is predicted
    rows = {(row["target"], row["name"], row["subgroup"]): row for row in found.iter_rows(named=True)}
    assert rows["ill", "auroc", "sex=female"]["value"] == 1.0
    assert rows["ill", "auroc", "sex=male"]["value"] < 0.8
    assert rows["age", "mae", "sex=male"]["value"] == pytest.approx(10.0)
    assert rows["age", "gap:mae", "sex"]["value"] == pytest.approx(10.0)
    assert (rows["age", "mae", "all"]["n"], rows["age", "mae", "sex=male"]["n"]) == (80, 40)  # the test rows
    assert by_group(predictions(), people().drop("sex", "site", "age"), ["age"], {}).height == 0


def test_reliability_sets_what_was_said_against_what_was_true() -> None:
    found = reliability(predictions(), ["ill", "age"])
    ill, age = found.filter(target="ill"), found.filter(target="age")
    assert ill["class"].unique().to_list() == ["1"]
    assert age["class"].null_count() == age.height == 4  # eighty rows: four bins of twenty
    assert age["n"].to_list() == [20] * 4
    table = predictions().filter(split="test").sort("predicted:age")
    for k, row in enumerate(age.iter_rows(named=True)):
        part = table[20 * k : 20 * k + 20]
        assert (row["predicted"], row["observed"]) == pytest.approx((part["predicted:age"].mean(), part["age"].mean()))
        assert row["lower"] <= row["observed"] <= row["upper"]
    unknown = predictions().with_columns(pl.lit(None, pl.Float64).alias("age"))
    assert set(reliability(unknown, ["ill", "age"])["target"]) == {"ill"}


def test_reliability_of_several_classes_is_one_curve_each() -> None:
    kinds = np.array(["a", "b", "c"])[np.arange(80) % 3]
    table = predictions().filter(split="test").select("example_id", "participant_id", "split").with_columns(kind=pl.Series(kinds))
    table = table.with_columns(pl.Series(f"predicted:kind:{one}", np.where(kinds == one, 0.8, 0.1)) for one in "abc")
    found = reliability(table, ["kind"])
    assert found["class"].unique().sort().to_list() == ["a", "b", "c"]
    assert found.filter(pl.col("predicted") > 0.5)["observed"].to_list() == [1.0] * 3


def test_counts_of_splits_and_classes() -> None:
    table = people().with_columns(age=pl.when(pl.int_range(N) < 2).then(float("nan")).otherwise("age"))
    found = counts(table, [Target("ill", "classes"), Target("age", "number")])
    assert found.filter(pl.col("target").is_null()).select("split", "n", "people").rows() == [
        ("train", 20, 20),
        ("validation", 20, 20),
        ("test", 80, 80),
    ]
    train = found.filter(split="train", target="age").row(0, named=True)
    known = table["age"][2:20].to_numpy()
    assert (train["n"], train["mean"], train["deviation"]) == pytest.approx((18, known.mean(), known.std(ddof=1)))
    assert found.filter(target="ill").group_by("split").agg(pl.col("n").sum()).sort("n")["n"].to_list() == [20, 20, 80]


def test_a_threshold_that_cannot_be_chosen_is_said_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(judging, "say", said.append)
    targets = [Target("ill", "classes"), Target("age", "number")]
    see_judged(people(), targets)
    assert said == []
    one_class = people().with_columns(ill=pl.when(split="validation").then(1).otherwise("ill"))
    see_judged(one_class.filter(pl.col("split") != "test"), targets)  # validation is judged: no threshold is chosen
    assert said == []
    see_judged(one_class, targets)
    assert said == ["the threshold of 'ill' will be 1/2: the validation examples are not of both classes"]


def test_a_target_that_nobody_judged_has_is_refused_before_the_training() -> None:
    unknown = people().with_columns(age=pl.when(pl.col("split") != "test").then("age").otherwise(float("nan")))
    with pytest.raises(CohortError, match=r"nobody in the split 'test' has a known 'age'"):
        see_judged(unknown, [Target("ill", "classes"), Target("age", "number")])
    see_judged(unknown, [Target("ill", "classes"), Target("age", "number", helps=True)])
    see_judged(unknown.with_columns(split=pl.lit("fold_1")), [Target("age", "number")])


def test_a_gain_of_a_rare_structure_rests_on_the_people_who_have_it() -> None:
    def overlaps(seed: int) -> pl.DataFrame:
        dice = np.random.default_rng(seed).uniform(0.2, 0.8, 64)
        rows = [(f"e{k}", f"p{k}", "organ", dice[k]) for k in range(60)]
        rows += [(f"e{k}", f"p{k}", "lesion", dice[60 + k] if k < 4 else None) for k in range(60)]
        return pl.DataFrame(rows, schema=["example_id", "participant_id", "structure", "dice"], orient="row")

    found = gains_of_masks(overlaps(1), overlaps(2), floor_name="mean shape", split="test")
    assert found.select("subgroup", "n").rows() == [("structure=organ", 60), ("structure=lesion", 4), ("all", 60)]
    alone = [overlaps(seed).filter(structure="lesion").drop_nulls() for seed in (1, 2)]
    (of_four,) = gains_of_masks(alone[0], alone[1], floor_name="mean shape", split="test").iter_rows(named=True)
    lesion = found.row(1, named=True)
    assert lesion["value"] == pytest.approx(of_four["value"])
    assert lesion["upper"] - lesion["lower"] == pytest.approx(of_four["upper"] - of_four["lower"], rel=0.2)


def test_who_is_judged() -> None:
    assert judged_split(["train", "validation", "test"]) == "test"
    assert judged_split(["train", "validation"]) == "validation"
    assert judged_split(["fold_1", "fold_2"]) is None


def test_groups_come_from_whatever_table_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = people().select("example_id", "participant_id", "site").head(4)
    known = pl.DataFrame({"image_id": ["e0", "e1"], "ill": [0, 1], "age": [61.0, 62.0], "site": ["x", "y"]})
    known.write_csv(tmp_path / "known.csv")
    ids = ["p0", "p1", "p2", "p3"]
    table = pl.DataFrame({"participant_id": ids, "family_id": ids, "sex": ["male", "female", "male", "female"]})
    table.write_csv(tmp_path / "people.csv")
    images = Pictures(tmp_path / "images.csv", tmp_path / "known.csv")
    task = Task(images, split=Split(participants=tmp_path / "people.csv"), predict=Predict(classes=("ill",)))
    found = with_groups(examples, task)
    assert found["age"].to_list() == [61.0, 62.0, None, None]
    assert found["sex"].to_list() == ["male", "female", "male", "female"]
    assert found["site"].to_list() == ["only"] * 4  # nothing that is known is replaced
    said: list[str] = []
    monkeypatch.setattr(picture_groups, "say", said.append)
    visits = {"participant_id": ["p0", "p0", "p1"], "scanner": ["a", "b", "a"], "modality": ["MR", "MR", "CT"]}
    pl.DataFrame(visits).write_csv(tmp_path / "known.csv")
    found = with_groups(examples, task)
    assert "scanner" not in found.columns  # of which picture is not known
    assert said == [f"no groups are made of 'scanner': {tmp_path / 'known.csv'} has several values of one participant_id"]
    assert found["modality"].to_list() == ["MR", "CT", None, None]
