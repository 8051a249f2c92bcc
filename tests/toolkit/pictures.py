"""Small eye-like pictures with known latents: a coloured ground, a bright disc with a brighter cup, camera, light, shift and grain.

Three latents a person (disc size, cup ratio, pigmentation), shared by eyes and visits up to a little noise; what differs between
pictures of one person is nuisance. Real folders: ``pictures/*.png`` and the images table.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.formats.picture import write_picture

LATENTS = ("disc_size", "cup_ratio", "pigmentation")


class Eyes(NamedTuple):
    """A folder of pictures: the images table, and the latents (n_people, 3) in the order of ``people``."""

    images: pl.DataFrame
    latents: NDArray[np.float64]
    people: list[str]


def draw_eye(
    disc: float, cup: float, pigment: float, *, right: bool, nuisance: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Draw one picture; ``nuisance``: camera cast, light, shift down, shift across (each about −1 … 1), seed of the grain."""
    cast, light, down, across = nuisance[:4]
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size - 0.5
    side = 1 if right else -1
    ground = np.array([0.62, 0.32, 0.18]) * np.exp(-0.22 * pigment * np.array([0.6, 1.0, 1.3]))
    r = np.hypot(x - side * (0.18 + 0.02 * across), y - 0.03 * down)
    radius = 0.11 * np.exp(0.18 * disc)
    inner = radius * np.clip(0.45 + 0.12 * cup, 0.1, 0.9)

    def edge(limit: float) -> NDArray[np.float64]:
        return np.clip((limit - r) * size / 1.5 + 0.5, 0, 1)[:, :, None]

    picture = np.broadcast_to(ground, (size, size, 3))
    picture = picture + edge(radius) * (np.array([0.85, 0.62, 0.36]) - picture)
    picture = picture + edge(inner) * (np.array([0.97, 0.86, 0.66]) - picture)
    picture = picture * np.exp(0.1 * light) * np.exp(0.07 * cast * np.array([1.0, 0.0, -1.0]))
    field = np.clip((0.48 - np.hypot(x, y)) * size + 0.5, 0, 1)[:, :, None]
    grain = 0.012 * np.random.default_rng(int(nuisance[4])).standard_normal((size, size, 3))
    return np.rint(255 * np.clip((picture + grain) * field, 0, 1)).astype(np.uint8)


def eyes(folder: Path, *, n_people: int, seed: int = 1, size: int = 32, eyes_a_visit: int = 2, visits: int = 2) -> Eyes:
    """Write pictures of ``n_people`` people and return the images table (paths relative to ``folder``) and the truth."""
    generator = np.random.default_rng(seed)
    latents = generator.normal(size=(n_people, 3))
    people = [f"P{k:04d}" for k in range(n_people)]
    rows = []
    for k, person in enumerate(people):
        for visit in range(visits):
            camera = generator.integers(3)
            for eye in range(eyes_a_visit):
                own = latents[k] + 0.15 * generator.normal(size=3)
                light = generator.normal()
                nuisance = np.array([camera - 1.0, light, *generator.uniform(-1, 1, 2), len(rows)])
                name = f"{person}_{visit}_{'LR'[eye]}"
                pixels = draw_eye(*own, right=eye == 1, nuisance=nuisance, size=size)
                write_picture(folder / "pictures" / f"{name}.png", pixels)
                rows.append((name, person, f"pictures/{name}.png", ("left", "right")[eye], visit, f"camera {camera}", light))
    columns = ["image_id", "participant_id", "path", "laterality", "visit", "scanner", "illumination"]
    return Eyes(pl.DataFrame(rows, schema=columns, orient="row"), latents, people)
