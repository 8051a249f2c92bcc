from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toolkit.published import small

from clinome.studies.published.ronneberger_2015 import study


def test_cases_are_drives(real_data: Callable[[str], Path]) -> None:
    cases = study.read(real_data("drive-vessels"), "training")
    assert [case.example_id for case in cases] == [str(n) for n in range(21, 41)]
    assert set(study.HELD_OUT) < {int(case.example_id) for case in cases}
    first = cases[0]
    assert first.image.shape == (3, 584, 565)
    assert first.labels is not None
    assert first.inside is not None
    assert set(np.unique(first.labels)) == {0, 1}
    assert 0.10 < first.labels[first.inside].mean() < 0.15
    assert first.labels[~first.inside].mean() < 0.001


@pytest.mark.slow
def test_a_minute_of_training_beats_lines_by_filter(
    real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, figures, _ = small("ronneberger_2015", real_data, tmp_path_factory)
    assert figures["gain_over_floor"]["auroc"]["lower"] > 0
    assert figures["gain_over_floor"]["auroc"]["first"] > 0.92
    assert 0 < figures["threshold"] < 1


def test_claims_say_where_they_are_from() -> None:
    claims = tomllib.loads(Path(study.__file__).with_name("claims.toml").read_text())["claim"]
    assert [claim["name"] for claim in claims] == ["auroc", "dice", "second_observer_dice", "gain_of_skips"]
    for claim in claims:
        assert {"published", "source", "mark", "evidence", "bar", "tolerance", "why"} <= claim.keys()
        assert claim["evidence"] == "same data"
