from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from toolkit.published import small

from clinome.studies.published.yang_2023 import study


def test_films_are_the_official_split(real_data: Callable[[str], Path]) -> None:
    films, table = study.read(real_data("pneumoniamnist"))
    assert films.shape == (5856, 1, 28, 28)
    counts = table.group_by("split", "pneumonia").len().rows()
    assert {(split, label): n for split, label, n in counts}["test", 1] == 390
    assert {split: sum(n for s, _, n in counts if s == split) for split in ("train", "validation", "test")} == {
        "train": 4708,
        "validation": 524,
        "test": 624,
    }


@pytest.mark.slow
def test_a_twelfth_of_the_films_and_four_epochs(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    _, figures, _ = small("yang_2023", real_data, tmp_path_factory)
    assert figures["auroc"] > 0.8
    assert {row["predictor"] for row in figures["metrics"]} >= {"ours_0", "pixels, logistic", "pixels, svm"}


def test_claims_say_where_they_are_from() -> None:
    claims = tomllib.loads(Path(study.__file__).with_name("claims.toml").read_text())["claim"]
    assert [claim["name"] for claim in claims] == ["auroc", "accuracy", "resnet18_auroc", "gain_over_svm"]
    for claim in claims:
        assert {"published", "source", "mark", "evidence", "tolerance", "why"} <= claim.keys()
