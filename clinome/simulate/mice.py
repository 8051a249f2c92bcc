"""Pictures of mice from what was recorded of real ones: coat colour, body length and weight.

The heterogeneous-stock mice of Valdar et al. (2006, doi:10.1038/ng1840) have real genotypes and a coat colour scored by eye. Drawn
as pictures, with pose, light and bedding as nuisance, they close the circle on real genetics: pixels → embedding → association has
to give back Tyr (albino) and Tyrp1 (brown instead of black).

>>> render_mice(["black", "albino"], [9.1, 8.7], [25.0, 22.5], size=48, seed=1).shape
(2, 48, 48, 3)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.core.errors import StudyError
from clinome.core.files import file_name, usable_folder
from clinome.core.progress import track
from clinome.core.schema import IMAGES, check
from clinome.formats.picture import write_picture
from clinome.formats.table import read_table, write_table

Array = NDArray[np.floating[Any]]

# Coat as red, green, blue in 0–1, and how agouti-banded (grizzled) the hair is.
COATS: dict[str, tuple[float, float, float, float]] = {
    "albino": (0.93, 0.91, 0.88, 0.02),
    "black": (0.13, 0.12, 0.12, 0.03),
    "chocolate": (0.30, 0.19, 0.12, 0.03),
    "dark.brown": (0.31, 0.25, 0.18, 0.11),
    "light.brown": (0.50, 0.38, 0.23, 0.11),
    "silverado": (0.62, 0.59, 0.54, 0.10),
    "lead": (0.35, 0.37, 0.41, 0.03),
    "sand": (0.73, 0.61, 0.43, 0.06),
    "DBA.grey": (0.47, 0.42, 0.37, 0.05),
}
_SKIN = (0.86, 0.62, 0.56)
_BEDDING = np.array([[0.72, 0.64, 0.50], [0.60, 0.60, 0.58], [0.78, 0.76, 0.71], [0.47, 0.50, 0.52]], np.float32)
COLOUR_COLUMN, LENGTH_COLUMN, WEIGHT_COLUMN = "CoatColour", "Obesity.BodyLength", "Obesity.EndNormalBW"
_BATCH = 64


def render_mice(
    colour: Sequence[str], length: ArrayLike, weight: ArrayLike, *, size: int = 64, seed: int | Sequence[int]
) -> NDArray[np.uint8]:
    """Draw one picture of each mouse, seen from above.

    Parameters
    ----------
    colour
        Names of ``COATS``.
    length, weight
        Body length in cm and weight in g, shape (n,); both only change the outline.
    seed
        Draws pose, light, bedding and hair.

    Returns
    -------
    NDArray[np.uint8]
        Red, green, blue, shape (n, size, size, 3).

    Raises
    ------
    StudyError
        For a coat colour that has no picture, or a length or weight that is not positive.
    """
    unknown = sorted(set(colour) - set(COATS))
    if unknown:
        raise StudyError("a coat colour has no picture", got=", ".join(map(str, unknown)), expected=", ".join(COATS))
    lengths, weights = np.asarray(length, np.float32), np.asarray(weight, np.float32)
    if not (np.all(lengths > 0) and np.all(weights > 0)):
        raise StudyError("body length and weight must be positive numbers", do="leave out mice that lack them")
    coats = np.array([COATS[name] for name in colour], np.float32).reshape(-1, 4)
    generator = np.random.default_rng(seed)
    pictures = np.empty((len(coats), size, size, 3), np.uint8)
    for start in range(0, len(coats), _BATCH):
        rows = slice(start, start + _BATCH)
        pictures[rows] = _draw(coats[rows], lengths[rows], weights[rows], size, generator)
    return pictures


def _draw(coats: Array, length: Array, weight: Array, size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    n = len(coats)

    def spread(deviation: float, *more: int) -> Array:
        return (deviation * generator.standard_normal((n, *more))).astype(np.float32)

    # Picture axes run from −1 to 1 over 12 cm; the mouse lies along x after a turn, head towards +x.
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    turn = generator.uniform(0, 2 * np.pi, n).astype(np.float32)[:, None, None]
    place = spread(0.07, 2)[..., None, None]
    px, py = axis[None, None, :] - place[:, 0], axis[None, :, None] - place[:, 1]
    x, y = np.cos(turn) * px + np.sin(turn) * py, np.cos(turn) * py - np.sin(turn) * px
    half = (length / 12)[:, None, None]
    y = y - spread(0.10)[:, None, None] * ((x / half) ** 2 - 0.3)  # a bent back
    # A body is roughly an ellipsoid of the weight's volume: width follows sqrt(weight / length).
    wide = 0.82 * np.sqrt(weight / length)[:, None, None] / 6
    soft = np.float32(1.6 / size)

    def ellipse(cx: Array | float, cy: Array | float, rx: Array, ry: Array) -> Array:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
        inside: Array = 1 / (1 + np.exp(-np.clip((1 - radius) * np.minimum(rx, ry) / soft, -30, 30) * 2))
        return inside

    hips, chest = ellipse(-0.25 * half, 0.0, 0.62 * half, wide), ellipse(0.22 * half, 0.0, 0.52 * half, 0.80 * wide)
    head = ellipse(0.78 * half, 0.0, 0.30 * half, 0.46 * wide)
    body = 1 - (1 - hips) * (1 - chest) * (1 - head)
    ear = np.maximum(*(ellipse(0.62 * half, s * 0.44 * wide, 0.10 * half, 0.24 * wide) for s in (-1, 1)))
    eye = np.maximum(*(ellipse(0.88 * half, s * 0.24 * wide, 0.035 * half, 0.09 * wide) for s in (-1, 1)))
    tail_y = spread(0.12)[:, None, None] * np.sin((x + 0.8 * half) * 5)
    tail = np.exp(-(((y - tail_y) / (0.8 * soft + 0.012)) ** 2)) * (x < -0.75 * half) * (x > -1.65 * half)
    shade = 1 - 0.45 * np.clip(np.abs(y) / wide, 0, 1) ** 2  # round back: darker flanks

    hair = generator.standard_normal((n, size, size), dtype=np.float32)
    bedding = _BEDDING[generator.integers(0, len(_BEDDING), n)] + spread(0.02, 3)
    picture = bedding[:, None, None, :] * (1 + 0.05 * hair[..., None])
    shadow = np.clip(ellipse(-0.03, 0.05, 1.02 * half, 1.15 * wide) - body, 0, 1)
    picture = picture * (1 - 0.45 * shadow[..., None])
    skin = np.array(_SKIN, np.float32) * (0.75 + 0.25 * np.mean(coats[:, None, None, :3], axis=-1, keepdims=True))
    picture = _over(picture, tail, skin)
    coat = coats[:, None, None, :3] * shade[..., None] + (coats[:, None, None, 3:] + 0.01) * 0.7 * hair[..., None]
    picture = _over(picture, body, coat)
    picture = _over(picture, 0.75 * ear, skin)
    dark_eyes = np.where(coats[:, :1] > 0.9, [[0.75, 0.25, 0.30]], [[0.05, 0.05, 0.05]]).astype(np.float32)  # albinos: red
    picture = _over(picture, eye, dark_eyes[:, None, None, :])
    light = np.exp(spread(0.10))[:, None, None, None] * (1 + spread(0.025, 3)[:, None, None, :])
    slope = 1 + (spread(0.10)[:, None, None] * px + spread(0.10)[:, None, None] * py)[..., None]
    picture = picture * light * slope + 0.015 * generator.standard_normal(picture.shape, dtype=np.float32)
    drawn: NDArray[np.uint8] = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    return drawn


def _over(below: Array, cover: Array, colour: Array) -> Array:
    covered: Array = below * (1 - cover[..., None]) + colour * cover[..., None]
    return covered


def write_mouse_pictures(phenotype_table: str | Path, out: str | Path, *, size: int = 64, seed: int = 1) -> Path:
    """Draw two pictures of every mouse of the hs-mice phenotype table and list them.

    Parameters
    ----------
    phenotype_table
        ``hs_mice.pheno.tsv.gz`` or a table with its columns IID, CoatColour, Obesity.BodyLength (cm), Obesity.EndNormalBW (g).
        Mice that lack one of them get no picture.
    out
        The folder for ``images.parquet`` (``core.schema.IMAGES``; the two views are visits 0 and 1) and ``images/``.

    Returns
    -------
    Path
        The images table, written last.
    """
    out = usable_folder(out)
    wanted = [COLOUR_COLUMN, LENGTH_COLUMN, WEIGHT_COLUMN]
    frame = read_table(phenotype_table, columns=wanted).frame.drop_nulls(wanted)
    rows = []
    views = [
        render_mice(frame[COLOUR_COLUMN].to_list(), frame[LENGTH_COLUMN], frame[WEIGHT_COLUMN], size=size, seed=[seed, view])
        for view in (0, 1)
    ]
    for k, participant in enumerate(track(frame["participant_id"].to_list(), "mice")):
        for view in (0, 1):
            name = f"{file_name(participant)}_{view}"
            path = f"images/{name}.jpg"
            write_picture(out / path, views[view][k])
            rows.append((name, participant, path, view, "photograph from above"))
    columns = ["image_id", "participant_id", "path", "visit", "modality"]
    write_table(check(pl.DataFrame(rows, schema=columns, orient="row"), IMAGES), out / "images.parquet")
    return out / "images.parquet"
