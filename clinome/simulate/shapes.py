"""Procedural pictures that have nothing to do with medicine, and the numbers they were drawn from: something to learn seeing on.

Each picture has a ground colour, a grating, an ellipse and some swaying lines. A network that predicts the numbers has learned
edges, widths, colours and places, and nothing of any organ: what it finds in eyes is a floor for what pretraining as such is worth.

>>> pictures, numbers = draw_shapes(3, size=32, generator=np.random.default_rng(1))
>>> pictures.shape, pictures.dtype.name, len(numbers) == 3 and sorted(numbers.columns)[:2]
((3, 32, 32, 3), 'uint8', ['across', 'blue'])
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def draw_shapes(n: int, *, size: int, generator: np.random.Generator) -> tuple[NDArray[np.uint8], pl.DataFrame]:
    """Draw ``n`` pictures, shape (n, size, size, 3), and return them with a row of numbers each.

    The numbers: red, green, blue of the ground; across, down (0–1), radius, stretch, tilt and light of the ellipse; frequency and
    direction of the grating; count, width and sway of the lines.
    """
    names = ("red", "green", "blue", "across", "down", "radius", "stretch", "tilt", "light", "frequency", "direction")
    table = pl.DataFrame({name: generator.random(n) for name in (*names, "count", "width", "sway")})
    pictures = np.empty((n, size, size, 3), np.uint8)
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    down, across = np.meshgrid(axis, axis, indexing="ij")
    for k, row in enumerate(table.iter_rows(named=True)):
        ground = 0.15 + 0.6 * np.array([row["red"], row["green"], row["blue"]], np.float32)
        angle = np.pi * row["direction"]
        wave = np.sin(2 * np.pi * (3 + 9 * row["frequency"]) * (across * np.cos(angle) + down * np.sin(angle)))
        light = np.float32(1) + np.float32(0.12) * wave.astype(np.float32)
        light += np.float32(1.6 * row["light"] - 0.8) * _ellipse(down, across, row, size)
        light -= np.float32(0.5) * _lines(down, across, row, generator)
        noisy = ground * light[..., None] + generator.normal(0, 0.02, (size, size, 1)).astype(np.float32)
        pictures[k] = np.clip(255 * noisy, 0, 255).astype(np.uint8)
    return pictures, table


def _ellipse(down: Floats, across: Floats, row: dict[str, float], size: int) -> Floats:
    """Return how much of each pixel the ellipse covers, with an edge of a pixel."""
    tilt, radius = np.pi * row["tilt"], 0.08 + 0.2 * row["radius"]
    x, y = across - (0.2 + 0.6 * row["across"]), down - (0.2 + 0.6 * row["down"])
    turned = (x * np.cos(tilt) + y * np.sin(tilt)), (y * np.cos(tilt) - x * np.sin(tilt)) * (1 + row["stretch"])
    inside = np.clip((radius - np.hypot(*turned)) * size + 0.5, 0, 1)
    return np.asarray(inside, np.float32)


def _lines(down: Floats, across: Floats, row: dict[str, float], generator: np.random.Generator) -> Floats:
    """Return how much of each pixel one to six swaying lines cover."""
    covered = np.zeros_like(down)
    width = 0.006 + 0.03 * row["width"]
    for _ in range(1 + int(6 * row["count"])):
        angle, offset, phase = generator.uniform(0, np.pi), generator.uniform(0.2, 0.8), generator.uniform(0, 2 * np.pi)
        along = across * np.cos(angle) + down * np.sin(angle)
        off = down * np.cos(angle) - across * np.sin(angle) + (np.sin(angle) if angle > np.pi / 2 else 0.0)
        distance = np.abs(off - offset - 0.08 * row["sway"] * np.sin(12 * along + phase))
        covered = np.maximum(covered, np.clip((width - distance) / 0.01 + 0.5, 0, 1))
    return np.asarray(covered, np.float32)
