"""Sweeps: a known optimum is approached, a killed sweep ends as a whole one, failures are kept and named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinome.core.errors import NotConverged, StudyError
from clinome.train.sweep import Choice, Range, sweep

SPACE = {"rate": Range(1e-5, 1.0, log=True), "width": Range(1, 9, whole=True), "kind": Choice(("good", "bad"))}


def value(settings: dict[str, Any]) -> float:
    return -((math.log10(settings["rate"]) + 2) ** 2) - 0.1 * (settings["width"] - 5) ** 2 - 3 * (settings["kind"] == "bad")


def test_the_best_is_near_the_optimum_and_first(tmp_path: Path) -> None:
    found = sweep(value, SPACE, trials=40, out=tmp_path, seed=1)
    assert found.height == 40
    assert found["value"].to_list() == sorted(found["value"], reverse=True)
    best = found.row(0, named=True)
    assert best["kind"] == "good"
    assert abs(math.log10(best["rate"]) + 2) < 1
    assert 3 <= best["width"] <= 7
    assert pl.read_parquet(tmp_path / "trials.parquet").equals(found)


def test_a_sweep_that_was_killed_ends_as_a_whole_one(tmp_path: Path) -> None:
    whole = sweep(value, SPACE, trials=14, out=tmp_path / "whole", seed=3)
    tried: list[dict[str, Any]] = []

    def dies(settings: dict[str, Any]) -> float:
        tried.append(settings)
        if len(tried) == 9:
            raise KeyboardInterrupt
        return value(settings)

    with pytest.raises(KeyboardInterrupt):
        sweep(dies, SPACE, trials=14, out=tmp_path / "cut", seed=3)
    again = sweep(dies, SPACE, trials=14, out=tmp_path / "cut", seed=3)
    assert again.equals(whole)
    assert len(tried) == 15  # the trial in hand is tried again, the eight before it are not


def test_a_training_that_does_not_converge_is_a_failed_trial(tmp_path: Path) -> None:
    def fails(settings: dict[str, Any]) -> float:
        if settings["kind"] == "bad":
            raise NotConverged("the loss is no longer finite")
        return value(settings)

    found = sweep(fails, SPACE, trials=12, out=tmp_path, seed=2)
    failed = found.filter(pl.col("failure").is_not_null())
    assert failed.height > 0
    assert set(failed["failure"]) == {"the loss is no longer finite"}
    assert failed["value"].null_count() == failed.height
    assert set(failed["kind"]) == {"bad"}


def test_lower_may_be_better(tmp_path: Path) -> None:
    found = sweep(lambda settings: -value(settings), SPACE, trials=6, out=tmp_path, higher_is_better=False)
    assert found["value"].to_list() == sorted(found["value"])


def test_a_folder_of_another_sweep(tmp_path: Path) -> None:
    sweep(value, SPACE, trials=1, out=tmp_path, seed=1)
    with pytest.raises(StudyError, match=r"(?s)another space, seed or direction.*choose another folder"):
        sweep(value, SPACE, trials=1, out=tmp_path, seed=2)


def test_nothing_to_vary(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="needs settings to vary"):
        sweep(value, {}, trials=3, out=tmp_path)


def test_more_trials_later_learn_from_what_was_really_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    told: list[tuple[float, float]] = []
    tell = optuna.study.Study.tell

    def listen(self: Any, trial: Any, value: float, **more: Any) -> Any:
        told.append((trial.params["x"], value))
        return tell(self, trial, value, **more)

    sweep(lambda settings: settings["x"], {"x": Range(0.0, 1.0)}, trials=6, out=tmp_path, seed=1)
    monkeypatch.setattr(optuna.study.Study, "tell", listen)
    found = sweep(lambda settings: settings["x"], {"x": Range(0.0, 1.0)}, trials=22, out=tmp_path, seed=1)
    assert found.height == 22
    assert all(x == value for x, value in told)


def test_a_metric_that_is_not_finite_is_a_failed_trial(tmp_path: Path) -> None:
    found = sweep(lambda _: float("nan"), {"x": Range(0.0, 1.0)}, trials=3, out=tmp_path, seed=1)
    assert found["failure"].to_list() == ["the metric is nan"] * 3


def test_another_direction_is_another_sweep(tmp_path: Path) -> None:
    sweep(value, SPACE, trials=2, out=tmp_path, seed=1)
    with pytest.raises(StudyError, match="another space, seed or direction"):
        sweep(value, SPACE, trials=3, out=tmp_path, seed=1, higher_is_better=False)


def test_choices_are_of_one_kind(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="choices of 'width' are not of one kind"):
        sweep(value, {"width": Choice((True, 2))}, trials=1, out=tmp_path)
