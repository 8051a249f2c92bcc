"""U-Net on DRIVE: twenty photographs to learn from, twenty to be judged on; floor and second observer beside it.

Four of the twenty training photographs are held out: they alone choose the thresholds, of the network and of the floor. Test
photographs are looked at once, at the end.

    clinome reproduce ronneberger_2015 --data ../shared/data --out out

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import write_json
from clinome.core.provenance import provenance
from clinome.evaluate.compare import compare
from clinome.evaluate.discrimination import at_threshold
from clinome.evaluate.measuring import Metric
from clinome.evaluate.pixels import pixels, pool
from clinome.evaluate.ranking import AUROC
from clinome.evaluate.segmentation import compare_masks, segmentation
from clinome.evaluate.thresholds import choose_threshold
from clinome.formats.picture import read_picture
from clinome.imaging.geometry import Spread
from clinome.imaging.intensity import Change
from clinome.imaging.models import unet
from clinome.imaging.patches import Case
from clinome.imaging.segmentation import train_segmenter
from clinome.imaging.segmenter import SegmenterRecipe, segment
from clinome.imaging.vessel_floor import vessel_floor

HELD_OUT = (24, 29, 34, 39)
FLOOR, OBSERVER = "Laplacian of Gaussian", "second observer"
DICE = next(metric for metric in at_threshold(0.5) if metric.name == "f1")
CONFIG = unet.Config(channels_in=3, outputs=2, widths=(16, 32, 64, 128))
RECIPE = SegmenterRecipe(
    patch=(96, 96),
    batch=8,
    steps=7_000,
    foreground=0.0,
    learning_rate=2e-3,
    weight_decay=1e-2,
    average=0.999,
    dice=0.0,
    spread=Spread(rotation_degrees=180, scale=0.3, shear=0.1, elastic_mm=1.5, elastic_grid_mm=16, mirror=(0, 1)),
    change=Change(brightness=0.5, contrast=0.4, gamma=0.3, colour=0.2, noise=0.2, chance=0.7),
    window=(320, 320),
    overlap=0.125,
    mirror=(0,),
    quarter_turns=True,
)
SMALL = replace(
    RECIPE, patch=(48, 48), steps=200, learning_rate=5e-3, average=0.98, window=(128, 128), validations=1, quarter_turns=False
)
MIDDLE = (slice(200, 360), slice(200, 360))  # of a photograph, in the small version
SHORT = replace(RECIPE, steps=600, average=0.99, validations=1)  # for the paper's claim, that joined maps are needed


def read(folder: Path, split: str, *, small: bool = False) -> list[Case]:
    """Read the photographs of a split as cases in their order; ``small`` takes five, and of each the middle."""
    cases = []
    for path in sorted((folder / split).glob("*_image.png"))[: 5 if small else None]:
        number = path.name.split("_")[0]
        image = read_picture(path).transpose(2, 0, 1)
        vessels, inside = (read_picture(path.with_name(f"{number}_{what}.png"))[..., 0] > 127 for what in ("manual1", "fov"))
        cut = MIDDLE if small else (slice(None), slice(None))
        cases.append(Case(number, image[:, *cut], vessels[cut].astype(np.int16), inside[cut], participant_id=number))
    return cases


def run(data: Path, out: Path, *, small: bool = False, threads: int = 1) -> dict[str, Any]:
    """Train, judge and compare; write ``figures.json``, ``metrics.parquet`` and the networks into ``out``; return the figures."""
    folder = data / "drive-vessels" if (data / "drive-vessels").is_dir() else data
    photographs, test = read(folder, "training", small=small), read(folder, "test", small=small)
    held = [case for case in photographs if int(case.example_id) in HELD_OUT]
    training = [case for case in photographs if int(case.example_id) not in HELD_OUT]
    recipe, config = (SMALL, replace(CONFIG, widths=(8, 16, 32))) if small else (RECIPE, CONFIG)
    trained = train_segmenter(
        training, held, network=unet, config=config, recipe=recipe, folder=out / "unet", structures=["vessel"], threads=threads
    )
    start, resamples = time.process_time(), 100 if small else 1000
    found = [one.probability[1] for one in segment(out / "unet", test)]
    line = [vessel_floor(case.image, case.inside) for case in test]
    truth, score, _ = _pooled(held, [vessel_floor(case.image, case.inside) for case in held])
    cuts = {"model": float(trained.threshold or 0.5), FLOOR: choose_threshold(truth, score, split="held out", rule="f1").value}
    masks = {"model": [p >= cuts["model"] for p in found], FLOOR: [s >= cuts[FLOOR] for s in line]}
    scores = {"model": found, FLOOR: line}
    drawn = [read_picture(folder / "test" / f"{case.example_id}_manual2.png")[..., 0] > 127 for case in test]
    masks[OBSERVER] = [mask[MIDDLE] for mask in drawn] if small else drawn
    scores[OBSERVER], cuts[OBSERVER] = [1.0 * mask for mask in masks[OBSERVER]], 0.5
    tables = [_over_pixels(test, scores[name], cuts[name], name, resamples) for name in scores]
    tables += [_over_images(test, masks[name], name, resamples) for name in masks]
    pl.concat(tables).write_parquet(out / "metrics.parquet")
    figures: dict[str, Any] = {
        "metrics": pl.concat(tables).to_dicts(),
        "gain_over_floor": {
            "auroc": _gain(AUROC, test, found, line, resamples),
            "dice": _gain(DICE, test, [1.0 * mask for mask in masks["model"]], [1.0 * mask for mask in masks[FLOOR]], resamples),
        },
        "threshold": cuts["model"],
        "held_out_dice": trained.held_out_dice,
        "cpu_seconds": {"training": trained.cpu_seconds, "judging": time.process_time() - start},
        "provenance": provenance(inputs=sorted(folder.rglob("*_image.png")), settings={"recipe": recipe, "network": config}),
    }
    write_json(out / "figures.json", figures)
    short = replace(SMALL, steps=12) if small else SHORT
    figures["gain_of_skips"] = {"auroc": gain_of_skips(training, held, test, out, threads, recipe=short, config=config)}
    write_json(out / "figures.json", figures)
    return figures


def gain_of_skips(
    training: list[Case],
    held: list[Case],
    test: list[Case],
    out: Path,
    threads: int,
    *,
    recipe: SegmenterRecipe = SHORT,
    config: unet.Config = CONFIG,
) -> dict[str, float]:
    """Compare the U-Net with the same encoder–decoder without skips: two seeds each, probabilities averaged over the seeds."""
    mean = {}
    for skips in (True, False):
        said = []
        for seed in (1, 2):
            folder = out / f"{'with' if skips else 'without'}_skips_{seed}"
            train_segmenter(
                training,
                held,
                network=unet,
                config=replace(config, skips=skips),
                recipe=replace(recipe, seed=seed),
                folder=folder,
                structures=["vessel"],
                threads=threads,
            )
            said.append([one.probability[1] for one in segment(folder, test, views=False)])
        mean[skips] = [(a + b) / 2 for a, b in zip(*said, strict=True)]
    return _gain(AUROC, test, mean[True], mean[False], 1000)


def _pooled(cases: list[Case], scores: list[Any]) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[np.intp]]:
    return pool([np.asarray(c.labels) for c in cases], scores, inside=[np.asarray(c.inside) for c in cases])


def _over_pixels(cases: list[Case], scores: list[Any], threshold: float, predictor: str, resamples: int) -> pl.DataFrame:
    """Return what is measured over all images' pixels together."""
    truth, inside = [np.asarray(c.labels) for c in cases], [np.asarray(c.inside) for c in cases]
    table = pixels(truth, scores, inside=inside, threshold=threshold, predictor=predictor, split="test", resamples=resamples)
    return table.filter(pl.col("name") != "auroc") if predictor == OBSERVER else table  # a mask has no order


def _over_images(cases: list[Case], masks: list[Any], predictor: str, resamples: int) -> pl.DataFrame:
    """Return the means over images of overlap and of distances between surfaces, in pixels."""
    rows = [
        compare_masks(
            np.asarray(case.labels) * np.asarray(case.inside),
            mask & np.asarray(case.inside),
            {"vessel": 1},
            example_id=case.example_id,
            participant_id=case.participant_id,
        )
        for case, mask in zip(cases, masks, strict=True)
    ]
    return segmentation(pl.concat(rows), predictor=predictor, split="test", resamples=resamples)


def _gain(metric: Metric, cases: list[Case], first: list[Any], second: list[Any], resamples: int) -> dict[str, float]:
    """Return by how much the first beats the second over pooled pixels, paired over images."""
    truth, one, image = _pooled(cases, first)
    found = compare(metric, truth, one, _pooled(cases, second)[1], participants=image, resamples=resamples, permutations=0)
    return {**found.gain._asdict(), "first": found.first.value, "second": found.second.value}
