"""Pictures whose class is a bright patch at a known place, and a predictor of folds that was taught to see it; in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from clinome.imaging.models import resnet
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Recipe, train_predictor
from clinome.imaging.targets import Target
from clinome.nn.soft_attention import Pool

SIDE, PATCH = 20, (slice(4, 10), slice(4, 10))


def pictures(folder: Path, n: int = 48) -> Path:
    """Write pictures, half of them lit in :data:`PATCH`, and return the images table; ``known.csv`` beside it has the truth."""
    generator, rows = np.random.default_rng(1), []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        values = generator.normal(100, 10, (SIDE, SIDE))
        values[PATCH] += 90 * (k % 2)
        Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(folder / f"{k}.png")
        rows.append((f"i{k}", f"P{k}", f"{k}.png", "lit" if k % 2 else "plain", 3.0 * (k % 2) + generator.normal(0, 0.1)))
    table = pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "kind", "level"], orient="row")
    table.drop("path").write_csv(folder / "known.csv")
    table.select("image_id", "participant_id", "path").write_csv(folder / "scans.csv")
    return folder / "scans.csv"


def predictor(folder: Path, scans: Path, *, pool: Pool = "attention", epochs: int = 6) -> Path:
    """Teach two networks, each on half of the people, what is lit; return the predictor's folder."""
    known = pl.read_csv(scans.parent / "known.csv").rename({"image_id": "example_id"})
    examples = known.with_columns(split=pl.Series([f"fold_{1 + k // 2 % 2}" for k in range(known.height)]))
    images = [np.asarray(Image.open(scans.parent / name))[None] for name in pl.read_csv(scans)["path"]]
    network = resnet.Config(layers=18, width=8, stem="small", pool=pool)
    recipe = Recipe(epochs=epochs, batch=8, learning_rate=4e-3)
    asked = [Target("kind", "classes"), Target("level", "number")]
    shape = Preparation((SIDE, SIDE))
    train_predictor(images, examples, asked, network=network, preparation=shape, out=folder, recipe=recipe, floors=False)
    return folder
