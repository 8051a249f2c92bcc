"""Under structure p-values keep their level with components as covariates: `benchmarks/type_one_error.py`, made small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LEVELS = (1e-2, 1e-3)


@pytest.fixture(scope="module")
def type_one_error() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "type_one_error.py"
    spec = importlib.util.spec_from_file_location("type_one_error", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables(type_one_error: ModuleType) -> dict[str, list[dict[str, Any]]]:
    # Several intervals are asked at once: of each, one in a hundred may miss.
    design = type_one_error.Design(people=1_000, variants=20_000, traits=8, panel=2_000)
    rows = [type_one_error.replicate(design, seed, LEVELS) for seed in (1, 2, 3)]
    return {covariates: type_one_error.summary(rows, covariates, LEVELS, confidence=0.99) for covariates in type_one_error.ADJUSTED}


@pytest.mark.slow
def test_components_bring_traits_and_omnibus_to_their_level(tables: dict[str, list[dict[str, Any]]]) -> None:
    for level, row in zip(LEVELS, tables["components"], strict=True):
        assert row["variants"] == 60_000
        for test in ("dimensions_pooled", "omnibus"):
            low, high = row[test]["interval"]
            assert low <= level <= high, (test, level)
        assert row["dimensions_whose_interval_holds_the_level"] >= 7  # of 8


@pytest.mark.slow
def test_the_strongest_trait_keeps_its_level_and_wastes_little_of_it(tables: dict[str, list[dict[str, Any]]]) -> None:
    for level, row in zip(LEVELS, tables["components"], strict=True):
        assert row["min_p"]["interval"][0] <= level
        low, high = row["min_p_number_at_the_level"]["interval"]
        assert low <= level
        assert high >= 0.8 * level


@pytest.mark.slow
def test_without_components_the_structure_is_seen(tables: dict[str, list[dict[str, Any]]]) -> None:
    for level, row in zip(LEVELS, tables["without"], strict=True):
        for test in ("dimensions_pooled", "omnibus", "min_p"):
            assert row[test]["interval"][0] > 1.5 * level, (test, level)
