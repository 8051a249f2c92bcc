"""Every folder of published results, found unasked: what its claims must say, what its recorded run must hold, that it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toolkit.published import small

from clinome.studies import reproducing
from clinome.studies.reproducing import FOLDER, about, claims, names
from clinome.train import devices

NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("_"))
EVIDENCE = {"same data", "other data", "protocol, simulated"}
DOI = re.compile(r"doi:10\.\d{4,9}/\S+")
HEAD = {"title": str, "paper": str, "data": str, "claim": list}
CLAIM: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "published": (int, float, str),
    "source": str,
    "mark": str,
    "evidence": str,
    "tolerance": (int, float),
    "why": str,
}
MAY: dict[str, type | tuple[type, ...]] = {
    "bar": (int, float),
    "bar_of_longer_run": (int, float),
    "floor": (int, float),
    "lower_is_better": bool,
    "figure": dict,
    "file": str,
}


def recorded(name: str) -> dict[str, Any]:
    path = FOLDER / name / "results" / "figures.json"
    if not path.exists():
        pytest.skip(f"{name} is not recorded yet")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_folder_is_a_result() -> None:
    assert names() == NAMES
    assert all(re.fullmatch(r"[a-z]+_\d{4}", name) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_claims_say_all_that_the_format_demands_and_nothing_else(name: str) -> None:
    told = about(name)
    simulated = told["data"].startswith("none")
    assert set(told) == set(HEAD) | ({"files"} if not simulated else set())
    assert all(isinstance(told[key], kind) and told[key] for key, kind in HEAD.items())
    assert DOI.search(told["paper"])
    assert re.search(r"\(\d{4}\)|, \d{4}|20\d\d", told["paper"])
    for claim in told["claim"]:
        assert CLAIM.keys() <= claim.keys() <= CLAIM.keys() | MAY.keys(), claim["name"]
        for key, kind in (CLAIM | MAY).items():
            assert key not in claim or (isinstance(claim[key], kind) and claim[key] != ""), (claim["name"], key)
        assert claim["mark"] in ("checked", "recalled")
        assert claim["evidence"] in EVIDENCE
        assert (claim["evidence"] == "protocol, simulated") == simulated
        assert claim["tolerance"] >= 0
        if {"bar", "floor"} <= claim.keys():  # a bar that a trivial method passes is none
            better = claim["floor"] > claim["bar"] if claim.get("lower_is_better") else claim["floor"] < claim["bar"]
            assert better, claim["name"]
    every = [claim["name"] for claim in told["claim"]]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_results_hold_their_figures_and_say_how_they_were_made(name: str) -> None:
    figures = recorded(name)
    made = figures["provenance"]
    assert re.match(r"\d+\.\d+", made["clinome"])
    assert datetime.fromisoformat(made["written"]).year >= 2026
    assert made["machine"]["processor"]
    assert made["machine"]["cores"] >= 1
    assert made["libraries"]["numpy"]
    assert bool(made["inputs"]) or about(name)["data"].startswith("none") or "seed" in made
    lacking = [claim.name for claim in claims(name) if claim.found is None]
    said = "\n".join([*figures.get("notes", []), *(path.read_text() for path in (FOLDER / name / "results").glob("README.md"))])
    assert [one for one in lacking if one not in said] == []  # what was not run is said where the results are


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_the_same_data_reproduces_a_number(name: str) -> None:
    for claim in claims(name):
        if claim.evidence != "same data" or isinstance(claim.published, str):
            assert claim.reproduced is None
            assert claim._replace(found=claim.bar).reproduced is None
            continue
        worse = 1 if claim.lower_is_better else -1
        assert claim._replace(found=claim.published).reproduced is True
        assert claim._replace(found=claim.published + worse * (claim.tolerance + 1e-6)).reproduced is False
        assert claim._replace(found=claim.published - worse).reproduced is True  # better than published
        assert claim._replace(found=None).reproduced is None


def test_a_longer_run_stands_in_rows_of_its_own_against_its_own_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"title": "t", "paper": "p", "data": "none: simulated", "files": []}
    rest = {"source": "s", "mark": "checked", "evidence": "same data", "tolerance": 0.01, "why": "w", "floor": 0.5}
    dice = {"name": "dice", "published": 0.9, "bar": 0.88, "bar_of_longer_run": 0.895, **rest}
    gain = {"name": "gain", "published": "words", "bar_of_longer_run": 0.1, **rest}
    told = {**head, "claim": [dice, gain, {"name": "r", "published": 0.8, "bar": 0.7, **rest}]}
    monkeypatch.setattr(reproducing, "about", lambda name: told)
    monkeypatch.setattr(reproducing, "FOLDER", tmp_path)
    results = tmp_path / "x_2020" / "results"
    results.mkdir(parents=True)
    (results / "figures.json").write_text(json.dumps({"dice": 0.889, "gain": {"a": 0.05, "b": 0.2}, "r": 0.75}))
    before = [("dice", 0.88, 0.889, "met"), ("gain, a", None, 0.05, "no bar"), ("gain, b", None, 0.2, "no bar")]
    before.append(("r", 0.7, 0.75, "met"))
    assert [(one.name, one.bar, one.found, one.verdict) for one in claims("x_2020")] == before
    (results / "figures_of_2.json").write_text(json.dumps({"dice": 0.8949, "gain": {"a": {"value": 0.09}, "b": 0.2}, "r": 0.76}))
    after = [("dice", 0.895, 0.8949, "missed"), ("gain, a", 0.1, 0.09, "missed"), ("gain, b", 0.1, 0.2, "met")]
    found = claims("x_2020")
    assert [(one.name.removesuffix(", longer run of 2"), one.bar, one.found, one.verdict) for one in found[4:]] == after
    assert all(one.name.endswith(", longer run of 2") for one in found[4:])
    assert [one.reproduced for one in found] == [False, None, None, False, True, None, None]
    assert claims("x_2020", tmp_path / "figures.json")[0].found is None  # of another folder: no longer run there
    told["claim"] = [{**dice, "file": "other.json"}]
    assert [one.found for one in claims("x_2020")] == [None, None]
    (results / "other.json").write_text(json.dumps({"dice": 0.91}))
    assert claims("x_2020")[0].found == 0.91


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_small_version_runs_and_has_a_figure_for_every_claim(
    name: str, real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, figures, seconds = small(name, real_data, tmp_path_factory)
    found = claims(name, folder / "figures.json")
    assert [claim.name for claim in found if claim.found is None] == []
    assert all(np.isfinite(claim.found) for claim in found)
    assert figures["provenance"]["written"]
    quick = devices._has_bfloat16(torch.device("cpu"))  # a core without AVX-512 makes a third of the operations a second
    assert seconds < (45 if quick else 90)  # 30 of a core that is not shared
