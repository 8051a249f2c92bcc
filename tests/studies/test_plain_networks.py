"""A published network against a plain one: as many parameters, one network a seed, and the gain of the seeds' means."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from clinome.evaluate.compare import delong
from clinome.studies import plain_networks
from clinome.studies.plain_networks import against_plain, parameters, plain

NAMES = ("he_2016", "huang_2017", "szegedy_2016", "dosovitskiy_2021")


def rival(name: str) -> plain_networks.Rival:
    found: plain_networks.Rival = importlib.import_module(f"clinome.studies.published.{name}.study").RIVAL
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_network_is_as_large(name: str) -> None:
    theirs = parameters(replace(rival(name).network, channels_in=1, outputs=2))
    assert abs(parameters(plain(rival(name))) / theirs - 1) < 0.06
    assert not plain(rival(name)).shortcuts


def test_a_seed_is_one_network_and_the_gain_is_of_the_seeds_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, generator, asked = np.arange(60) % 2, np.random.default_rng(1), []
    said = {name: [generator.random(60) + share * truth for _ in (0, 1)] for name, share in (("network", 0.8), ("plain", 0.4))}

    def trained(films: Any, examples: Any, config: Any, out: Path, seed: int, **given: Any) -> pl.DataFrame:
        name = out.name.removesuffix(f"_{seed}")
        asked.append((name, seed, given["recipe"].members, given["recipe"].epochs, given["preparation"].shape))
        return pl.DataFrame({"pneumonia": truth, "predicted:pneumonia:1": said[name][seed]})

    monkeypatch.setattr(plain_networks, "_test", trained)
    monkeypatch.setattr(plain_networks, "read", lambda folder, small: (np.zeros((0, 1, 28, 28), np.uint8), pl.DataFrame()))
    (tmp_path / "pneumoniamnist.npz").touch()
    figures = against_plain(rival("he_2016"), tmp_path, tmp_path / "out")
    assert asked == [(name, seed, 1, 4, (28, 28)) for seed in (0, 1) for name in ("network", "plain")]
    found = delong(truth, np.mean(said["network"], axis=0), np.mean(said["plain"], axis=0))
    assert figures["gain_over_plain"]["value"] == found.gain.value
    assert figures["auroc"]["plain"] == [delong(truth, one, one).first.value for one in said["plain"]]
