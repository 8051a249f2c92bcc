"""Tiny pictures and scans with masks, as files and an images table: bright squares and blocks whose size is known."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import polars as pl
from PIL import Image

SIDE = 16
OBLIQUE = np.array([[0.9, 0.2, 0, -5.0], [-0.2, 0.9, 0.1, 3.0], [0, -0.1, 2.0, 7.0], [0, 0, 0, 1.0]])


def squares(folder: Path, n: int = 14, *, side: int = SIDE, broken: bool = False) -> Path:
    """Write grey pictures of a bright square and its mask (0, 255); return the images table, with ``bright`` and ``level``.

    The square has 4 + (k mod 3) pixels a side; half of the pictures are bright, and ``level`` is how bright. ``broken`` adds a
    picture of no bytes.
    """
    generator = np.random.default_rng(5)
    rows = []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for k in range(n):
        size, bright = 4 + k % 3, k % 2
        at = generator.integers(1, side - size - 1, 2)
        mask = np.zeros((side, side), np.uint8)
        mask[at[0] : at[0] + size, at[1] : at[1] + size] = 255
        level = 40 + 80 * bright + generator.integers(0, 20)
        values = generator.normal(level, 4, mask.shape) + (mask > 0) * 80
        Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(folder / f"pictures/{k}.png")
        Image.fromarray(mask).save(folder / f"pictures/{k}.mask.png")
        rows.append((f"i{k}", f"p{k}", f"pictures/{k}.png", f"pictures/{k}.mask.png", "yes" if bright else "no", float(level)))
    if broken:
        (folder / "pictures/broken.png").touch()
        rows.append(("broken", "pb", "pictures/broken.png", "pictures/0.mask.png", "no", 50.0))
    table = pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "mask_path", "bright", "level"], orient="row")
    table.select("image_id", "bright", "level").write_csv(folder / "targets.csv")
    table.drop("bright", "level").write_parquet(folder / "images.parquet")
    return folder / "images.parquet"


def blocks(folder: Path, n: int = 3) -> Path:
    """Write oblique NIfTI scans, 1 × 2 × 3 … voxels of two labels; return the images table."""
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        labels = np.zeros((10, 9, 8), np.uint8)
        labels[2 : 4 + k, 2:4, 2:4] = 1
        labels[2 : 4 + k, 5:7, 2:4] = 2
        values = np.random.default_rng(k).normal(100, 5, labels.shape) + 50.0 * (labels > 0)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), OBLIQUE), folder / f"{k}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, OBLIQUE), folder / f"{k}.seg.nii.gz")
        rows.append((f"s{k}", f"p{k}", f"{k}.nii.gz", f"{k}.seg.nii.gz"))
    table = pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "mask_path"], orient="row")
    table.write_parquet(folder / "images.parquet")
    return folder / "images.parquet"
