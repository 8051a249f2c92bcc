from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.published import small

from clinome.studies.published.poplin_2018 import study


def test_folds_spread_sex_dementia_and_age(real_data: Callable[[str], Path]) -> None:
    views, people = study.read(real_data("oasis1-slices"))
    assert views.shape == (196, 3, 1, 208, 208)
    assert people["dementia"].sum() == 98
    of_fold = people.group_by("split").agg(
        n=pl.len(), demented=pl.col("dementia").mean(), men=(pl.col("sex") == "M").mean(), age=pl.col("age").mean()
    )
    assert of_fold.height == 10
    assert of_fold["n"].is_between(19, 21).all()
    assert of_fold["demented"].is_between(0.4, 0.6).all()
    assert float(of_fold["age"].std()) < 2.5  # type: ignore[arg-type]
    assert people["participant_id"].n_unique() == 196


@pytest.mark.slow
def test_a_third_of_the_people_beat_the_mean(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    _, figures, _ = small("poplin_2018", real_data, tmp_path_factory)
    errors = {row["predictor"]: row["value"] for row in figures["metrics"] if row["target"] == "age" and row["name"] == "mae"}
    assert figures["age_mae"] == errors["kernels"] < errors["mean"] - 0.5
    assert figures["sex_auroc"] > 0.75


def test_nobodys_own_truth_reaches_their_prediction() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 8))
    people = pl.DataFrame(
        {
            "example_id": [str(i) for i in range(60)],
            "participant_id": [str(i) for i in range(60)],
            "split": [f"fold_{i % 3 + 1}" for i in range(60)],
            "age": rows[:, 0] + 70,
        }
    )
    other = people.with_columns(age=pl.when(pl.col("example_id") == "0").then(pl.lit(1000.0)).otherwise("age"))
    before, after = (
        study.by_kernels([rows @ rows.T], [False], table, "age")["predicted:age"].to_numpy() for table in (people, other)
    )
    mine = (people["split"] == "fold_1").to_numpy()
    assert np.abs(before - after)[mine].max() < 1e-9 < np.abs(before - after)[~mine].min()


def test_claims_say_where_they_are_from() -> None:
    claims = tomllib.loads(Path(study.__file__).with_name("claims.toml").read_text())["claim"]
    assert [claim["name"] for claim in claims] == ["age_mae", "sex_auroc", "dementia_auroc", "gain_of_attention"]
    for claim in claims:
        assert {"published", "source", "mark", "evidence", "bar", "tolerance", "why"} <= claim.keys()
        assert claim["evidence"] == "other data"
