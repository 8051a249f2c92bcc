from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.published import small

from clinome.core.schema import MEASUREMENTS, OVERLAPS, PHENOTYPES, check
from clinome.imaging.patches import Case
from clinome.imaging.planner import Plan
from clinome.studies.published.isensee_2021 import study


def test_images_have_the_labels_that_the_data_set_lists(real_data: Callable[[str], Path]) -> None:
    folder = real_data("msd-hippocampus")
    listed = pl.read_csv(folder / "volumes.csv").head(12).rows(named=True)
    for case, row in zip(study.read(folder, only=12), listed, strict=True):
        assert case.example_id == row["id"]
        assert case.image.shape == (1, row["nz"], row["ny"], row["nx"])
        assert case.labels is not None
        counts = [np.count_nonzero(case.labels == label) for label in study.STRUCTURES.values()]
        assert counts == [row["vox_anterior"], row["vox_posterior"]]
        # the head lies in front: y runs from front to back
        head, body = (np.argwhere(case.labels == label)[:, 1].mean() for label in study.STRUCTURES.values())
        assert head < body


@pytest.mark.slow
def test_seconds_of_training_on_twenty_people_come_up_to_the_mean_shape(
    real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, figures, _ = small("isensee_2021", real_data, tmp_path_factory)
    gains = figures["gain_over_mean_shape"]
    assert min(gain["first"] for gain in gains.values()) > 0.7
    assert np.mean([gain["value"] for gain in gains.values()]) > 0
    plan = Plan.load(folder / "fold_0" / "plan.json")
    assert (plan.patch, plan.spacing_mm) == ((32, 48, 32), (1.0, 1.0, 1.0))
    measured = check(pl.read_parquet(folder / "measurements.parquet"), MEASUREMENTS)
    people = check(pl.read_parquet(folder / "phenotypes.parquet"), PHENOTYPES)
    assert measured.height == 3 * people.height == 18
    parts = people["anterior.volume"] + people["posterior.volume"]
    np.testing.assert_allclose(parts, people["whole.volume"])


@pytest.mark.slow
def test_overlaps_are_kept_for_these_networks_and_images_alone(
    real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = study.read(real_data("msd-hippocampus"), only=9)
    plan = study.planned(cases, replace(study.BUDGET, seconds=1))
    segmented: list[int] = []
    segment = study.segment

    def counted(folder: Path, test: list[Case]) -> object:
        segmented.append(len(test))
        return segment(folder, test)

    monkeypatch.setattr(study, "segment", counted)

    def learn(steps: int, test: list[Case]) -> pl.DataFrame:
        recipe = study.recipe_of(plan, steps=steps, validations=1, average=0.5)
        return study.learn(cases[2:], test, [tmp_path / "fold"], plan, recipe)

    first = learn(2, cases[:2])
    assert learn(2, cases[:2]).equals(first)
    assert segmented == [2]
    assert learn(2, cases[:1])["example_id"].unique().to_list() == [cases[0].example_id]
    assert not learn(4, cases[:2]).equals(first)
    assert segmented == [2, 1, 2]


def overlaps(volume: list[float], predicted: list[float]) -> pl.DataFrame:
    fixed = {
        "state": "both",
        "jaccard": 0.7,
        "volume_error": 0.0,
        "hausdorff_95": 1.0,
        "surface_distance": 0.4,
        "surface_dice": 0.9,
    }
    rows = [
        {"example_id": f"i{k}", "participant_id": f"p{k}", "structure": name, "dice": 0.8 + 0.01 * k, **fixed}
        | {"volume": one, "predicted_volume": two}
        for k, (one, two) in enumerate(zip(volume, predicted, strict=True))
        for name in study.STRUCTURES
    ]
    return check(pl.DataFrame(rows), OVERLAPS)


def test_volumes_of_the_whole_are_sums_and_an_absent_part_is_flagged() -> None:
    table = overlaps([10.0, 12.0, 15.0], [11.0, 0.0, 16.0])
    measured = study.measurements(table)
    whole = measured.filter(structure="whole")
    assert whole["value"].to_list() == [22.0, 0.0, 32.0]
    assert measured.filter(pl.col("flag") == "absent")["image_id"].unique().to_list() == ["i1"]
    by_name = {frame["subgroup"][0]: frame for frame in study.volumes(table)}
    r = by_name["volume=anterior"].filter(name="pearson_r")["value"][0]
    assert r == pytest.approx(np.corrcoef([10, 12, 15], [11, 0, 16])[0, 1])


def test_the_gain_is_paired_over_people() -> None:
    first = overlaps([1.0] * 8, [1.0] * 8)
    second = first.with_columns(pl.col("dice") - 0.05).sample(fraction=1.0, shuffle=True, seed=1)
    found = study.gain(first, second, "posterior")
    assert found["value"] == pytest.approx(0.05)
    assert found["upper"] - found["lower"] < 1e-6  # everybody gains as much: no spread, whatever the order


def test_recorded_results_are_of_all_people_and_meet_what_they_are_said_to_meet() -> None:
    folder = Path(study.__file__).parent
    claims = {claim["name"]: claim for claim in tomllib.loads((folder / "claims.toml").read_text())["claim"]}
    assert all({"published", "source", "mark", "evidence", "bar", "tolerance", "why"} <= claim.keys() for claim in claims.values())
    figures = json.loads((folder / "results" / "figures.json").read_text())
    assert claims.keys() <= figures.keys()
    for name, reproduced in (("dice_anterior", True), ("dice_posterior", False)):  # as results/README.md says
        assert figures[name] >= claims[name]["bar"]
        assert (claims[name]["published"] - figures[name] <= claims[name]["tolerance"]) == reproduced
    assert all(gain["n"] == 260 and gain["lower"] > 0 for gain in figures["gain_over_mean_shape"].values())
    assert sum(figures["cpu_seconds_of_folds"]) < 2 * 3600  # an hour on two cores
