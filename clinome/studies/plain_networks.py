"""A published network against a plain one of equal size and budget, paired on the same films: what its design is worth here.

The plain network is the one that He et al. compare residual networks with: convolutions of 3 × 3 in stages, nothing around them.
Its width is chosen so that it has as many parameters; both see the same films, changed in the same ways, equally often, from the
same seeds. The films are PneumoniaMNIST's. Either sign is a result.

References
----------
He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. CVPR (2016), doi:10.1109/CVPR.2016.90, section 3.3.
Yang J, Shi R, Wei D, et al. MedMNIST v2. Sci Data 10, 41 (2023), doi:10.1038/s41597-022-01721-8.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from clinome.core.files import usable_folder, write_json
from clinome.core.provenance import provenance
from clinome.evaluate.compare import delong
from clinome.imaging.models import resnet
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import train_predictor
from clinome.studies.published.yang_2023.study import RECIPE, TARGET, read

SEEDS = (0, 1)
_YES = f"predicted:{TARGET.name}:1"


class Rival(NamedTuple):
    """A network, the side of the films it is shown, and how often it is shown all of them; the plain network's layers."""

    network: Any
    side: int
    epochs: int
    layers: int = 18


def parameters(config: Any) -> int:
    """Return the number of parameters of the network of a ``Config``."""
    with torch.device("meta"):  # shapes alone: no weight is drawn
        model = importlib.import_module(type(config).__module__).Model(config)
    return sum(parameter.numel() for parameter in model.parameters())


def plain(rival: Rival) -> resnet.Config:
    """Return the plain network whose number of parameters is nearest to the rival's: one channel in, two classes out."""
    wanted = parameters(replace(rival.network, channels_in=1, outputs=2))
    stem: Any = "small" if rival.side <= 64 else "large"
    layers: Any = rival.layers
    tried = [resnet.Config(layers=layers, channels_in=1, outputs=2, width=w, stem=stem, shortcuts=False) for w in range(2, 65)]
    return min(tried, key=lambda config: abs(parameters(config) - wanted))


def against_plain(rival: Rival, data: Path, out: Path, *, small: bool = False) -> dict[str, Any]:
    """Train both for every seed, compare them on the test films, and write ``figures.json`` into ``out``.

    Returns
    -------
    dict
        ``gain_over_plain`` (the AUROC of the seeds' mean prediction less the plain network's, by DeLong), ``auroc`` of every seed,
        ``parameters``, ``cpu_seconds``, ``provenance``.
    """
    folder, out = data / "pneumoniamnist" if (data / "pneumoniamnist").is_dir() else data, usable_folder(out)
    films, examples = read(folder, small=small)
    recipe = replace(RECIPE, epochs=rival.epochs, average=0.98, turns=1, members=1)  # a seed is one network
    recipe = replace(recipe, epochs=1, batch=16, average=0.9) if small else recipe
    given: dict[str, Any] = {"preparation": Preparation((rival.side, rival.side)), "recipe": recipe}
    configs = {"network": rival.network, "plain": plain(rival)}
    said: dict[str, list[pl.DataFrame]] = {name: [] for name in configs}
    seconds = dict.fromkeys(configs, 0.0)
    for seed in SEEDS[: 1 if small else None]:
        for name, config in configs.items():
            start = time.process_time()
            said[name].append(_test(films, examples, config, out / f"{name}_{seed}", seed, **given))
            seconds[name] += time.process_time() - start
    truth = said["plain"][0][TARGET.name].to_numpy()
    mean = {name: np.mean([table[_YES].to_numpy() for table in tables], axis=0) for name, tables in said.items()}
    found = delong(truth, mean["network"], mean["plain"])
    figures = {
        "gain_over_plain": {**found.gain._asdict(), "first": found.first.value, "second": found.second.value, "p": found.p},
        "auroc": {name: [_auroc(truth, table) for table in tables] for name, tables in said.items()},
        "parameters": {name: parameters(replace(config, channels_in=1, outputs=2)) for name, config in configs.items()},
        "cpu_seconds": seconds,
        "provenance": provenance(inputs=[folder / "pneumoniamnist.npz"], settings={**configs, "recipe": recipe}, seed=SEEDS[0]),
    }
    write_json(out / "figures.json", figures)
    return figures


def _test(films: NDArray[np.uint8], examples: pl.DataFrame, config: Any, out: Path, seed: int, **given: Any) -> pl.DataFrame:
    """Train one network and return its predictions of the test films, in their order."""
    given |= {"floors": False, "allow": ["exact_duplicates"], "seed": seed}
    trained = train_predictor(films, examples, [TARGET], network=config, out=out, **given)
    return trained.predictions.filter(pl.col("split") == "test")


def _auroc(truth: NDArray[np.int64], table: pl.DataFrame) -> float:
    score = table[_YES].to_numpy()
    return delong(truth, score, score).first.value
