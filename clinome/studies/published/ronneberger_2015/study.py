"""U-Net on DRIVE: twenty photographs to learn from, twenty to be judged on; floor and second observer beside it.

Four of the twenty training photographs are held out: they alone choose the thresholds, of the network and of the floor. Test
photographs are looked at once, at the end.

    python -m clinome.studies.published.ronneberger_2015.study --data ../shared/data --out results

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
from clinome.evaluate.pixels import pixels, pool
from clinome.evaluate.ranking import AUROC
from clinome.evaluate.segmentation import compare_masks, segmentation
from clinome.evaluate.thresholds import choose_threshold
from clinome.formats.picture import read_picture
from clinome.imaging.intensity import Change
from clinome.imaging.models import unet
from clinome.imaging.patches import Case
from clinome.imaging.resample import Spread
from clinome.imaging.segmentation import Recipe, segment, train_segmenter
from clinome.imaging.vessel_floor import vessel_floor

HELD_OUT = (24, 29, 34, 39)
CONFIG = unet.Config(channels_in=3, outputs=2, widths=(16, 32, 64, 128))
RECIPE = Recipe(
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
    RECIPE, patch=(48, 48), steps=250, learning_rate=5e-3, average=0.98, window=(128, 128), validations=1, quarter_turns=False
)
SHORT = replace(RECIPE, steps=600, average=0.99, validations=1)  # for the paper's claim, that joined maps are needed


def read(folder: Path, split: str, *, small: bool = False) -> list[Case]:
    """Read the photographs of a split as cases in their order; ``small`` takes five, and of each the middle."""
    cases = []
    for path in sorted((folder / split).glob("*_image.png"))[: 5 if small else None]:
        number = path.name.split("_")[0]
        image = read_picture(path).transpose(2, 0, 1)
        vessels, inside = (read_picture(path.with_name(f"{number}_{what}.png"))[..., 0] > 127 for what in ("manual1", "fov"))
        cut = (slice(200, 360), slice(200, 360)) if small else (slice(None), slice(None))
        cases.append(Case(number, image[:, *cut], vessels[cut].astype(np.int16), inside[cut], participant_id=number))
    return cases


def run(data: Path, out: Path, *, small: bool = False, threads: int = 1) -> dict[str, Any]:
    """Train, judge and compare; write ``figures.json``, ``metrics.parquet`` and the networks into ``out``; return the figures."""
    start, resamples = time.process_time(), 100 if small else 1000
    folder = data / "drive-vessels" if (data / "drive-vessels").is_dir() else data
    photographs, test = read(folder, "training", small=small), read(folder, "test", small=small)
    held_names = {f"{n:02d}" for n in HELD_OUT}
    held = [case for case in photographs if case.example_id in held_names]
    training = [case for case in photographs if case.example_id not in held_names]
    recipe = SMALL if small else RECIPE
    config = replace(CONFIG, widths=(8, 16, 32)) if small else CONFIG
    given: dict[str, Any] = {"network": unet, "structures": ["vessel"], "threads": threads}
    trained = train_segmenter(training, held, config=config, recipe=recipe, folder=out / "unet", **given)
    assert trained.threshold is not None
    found = [one.probability[1] for one in segment(out / "unet", test)]
    line = [vessel_floor(case.image, case.inside) for case in test]
    of_line = _threshold(held, [vessel_floor(case.image, case.inside) for case in held])
    about: dict[str, Any] = {"inside": [case.inside for case in test], "split": "test", "resamples": resamples}
    truth = [np.asarray(case.labels) for case in test]
    tables = [
        pixels(truth, found, threshold=trained.threshold, **about),
        pixels(truth, line, threshold=of_line, predictor="Laplacian of Gaussian", **about),
        _images(test, [p >= trained.threshold for p in found], "model"),
    ]
    gains = {
        "auroc": _gain(AUROC, test, found, line, resamples),
        "dice": _gain(DICE, test, [1.0 * (p >= trained.threshold) for p in found], [1.0 * (s >= of_line) for s in line], resamples),
    }
    if not small:
        second = [read_picture(folder / "test" / f"{case.example_id}_manual2.png")[..., 0] > 127 for case in test]
        observer = pixels(truth, [1.0 * mask for mask in second], threshold=0.5, predictor="second observer", **about)
        tables += [observer.filter(pl.col("name") == "dice"), _images(test, second, "second observer")]
        gains |= _without_skips(training, held, test, out, given)
    metrics = pl.concat(tables)
    metrics.write_parquet(out / "metrics.parquet")
    figures = {
        "metrics": metrics.to_dicts(),
        "gains": gains,
        "threshold": trained.threshold,
        "held_out_dice": trained.held_out_dice,
        "cpu_seconds": time.process_time() - start,
        "provenance": provenance(inputs=sorted(folder.rglob("*_image.png")), settings={"recipe": recipe, "network": config}),
    }
    write_json(out / "figures.json", figures)
    return figures


DICE = next(metric for metric in at_threshold(0.5) if metric.name == "f1")


def _threshold(cases: list[Case], scores: list[NDArray[np.float32]]) -> float:
    truth, score, _ = pool([np.asarray(c.labels) for c in cases], scores, inside=[np.asarray(c.inside) for c in cases])
    return choose_threshold(truth, score, split="held out", rule="f1").value


def _images(cases: list[Case], masks: list[NDArray[np.bool_]], predictor: str) -> pl.DataFrame:
    """Return the mean over images of overlap and surface distances, in pixels."""
    rows = [
        compare_masks(c.labels * c.inside, m & c.inside, {"vessel": 1}, example_id=c.example_id, participant_id=c.example_id)
        for c, m in zip(cases, masks, strict=True)
        if c.labels is not None and c.inside is not None
    ]
    return segmentation(pl.concat(rows), predictor=predictor, split="test")


def _gain(metric: Any, cases: list[Case], first: list[Any], second: list[Any], resamples: int) -> dict[str, float | int | str]:
    """Return by how much the first beats the second over pooled pixels, paired over images."""
    truth, inside = [np.asarray(c.labels) for c in cases], [np.asarray(c.inside) for c in cases]
    labels, one, image = pool(truth, first, inside=inside)
    _, two, _ = pool(truth, second, inside=inside)
    found = compare(metric, labels, one, two, participants=image, resamples=resamples, permutations=0)
    return {**found.gain._asdict(), "first": found.first.value, "second": found.second.value}


def _without_skips(training: list[Case], held: list[Case], test: list[Case], out: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Compare the U-Net with the same encoder–decoder without skips, two seeds each, probabilities averaged over the seeds."""
    mean: dict[bool, list[NDArray[np.float32]]] = {}
    for skips in (True, False):
        config = replace(CONFIG, skips=skips)
        said = []
        for seed in (1, 2):
            folder = out / f"{'with' if skips else 'without'}_skips_{seed}"
            train_segmenter(training, held, config=config, recipe=replace(SHORT, seed=seed), folder=folder, **given)
            said.append([one.probability[1] for one in segment(folder, test, views=False)])
        mean[skips] = [(a + b) / 2 for a, b in zip(*said, strict=True)]
    return {"auroc_of_skips": _gain(AUROC, test, mean[True], mean[False], 1000)}


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    print(
        {name: value for name, value in run(**vars(parser.parse_args())).items() if name in ("gains", "threshold", "held_out_dice")}
    )
