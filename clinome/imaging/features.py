"""From the images table and the decoded pictures to what a network is fed: who is on which picture, pairs, augmented batches.

All randomness comes in as numbers drawn beforehand, a row a person and epoch, so that an epoch can be made again alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 8  # random numbers that one augmented picture takes


class Views(NamedTuple):
    """Who and what is on each picture, in the order of the images table.

    Attributes
    ----------
    people
        Participant ids, sorted, each once.
    person
        Row in ``people``, shape (n_images,), int64.
    eye
        0 left, 1 right, −1 unknown or a single organ, shape (n_images,), int64.
    visit
        Visit number, shape (n_images,), int64; 0 where the table does not say.
    """

    people: list[str]
    person: NDArray[np.int64]
    eye: NDArray[np.int64]
    visit: NDArray[np.int64]


def views(images: pl.DataFrame) -> Views:
    """Return :class:`Views` of an images table (``core.schema.IMAGES``).

    >>> views(pl.DataFrame({"participant_id": ["b", "a"], "laterality": ["left", "right"]})).person.tolist()
    [1, 0]
    """
    people, person = np.unique(images["participant_id"].to_numpy(), return_inverse=True)
    eye = np.full(images.height, -1, dtype=np.int64)
    if "laterality" in images.columns:
        side = images["laterality"].to_numpy()
        eye = np.where(side == "left", 0, np.where(side == "right", 1, -1)).astype(np.int64)
    visit = np.zeros(images.height, dtype=np.int64)
    if "visit" in images.columns:
        visit = images["visit"].fill_null(0).to_numpy().astype(np.int64)
    return Views([str(p) for p in people], person.astype(np.int64), eye, visit)


def draw_pairs(seen: Views, people: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw two pictures of each person: one at random, then one that shares as little as possible with it but the person.

    Another visit counts for more than the other eye, because both eyes of a visit share camera, operator and light. A person
    with a single picture gets it twice (the two are told apart by augmentation alone).

    Parameters
    ----------
    people
        Rows of ``seen.people``, ascending, each with at least one picture.

    Returns
    -------
    Rows of the images table, shape (len(people), 2).
    """
    order = np.argsort(seen.person, kind="stable")
    starts = np.searchsorted(seen.person[order], people)
    counts = np.searchsorted(seen.person[order], people, side="right") - starts
    slot = np.arange(counts.max())
    there = slot < counts[:, None]
    rows = order[np.minimum(starts[:, None] + slot, len(order) - 1)]
    row_of = np.arange(len(people))
    chosen = np.argmax(np.where(there, generator.random(rows.shape), -1.0), axis=1)
    first = rows[row_of, chosen]
    apart = 2.0 * (seen.visit[rows] != seen.visit[first][:, None]) + (seen.eye[rows] != seen.eye[first][:, None])
    preference = np.where(there, 1.0 + apart + generator.random(rows.shape), -1.0)
    preference[row_of, chosen] = 0.0
    return np.column_stack([first, rows[row_of, np.argmax(preference, axis=1)]])


def augment(pixels: NDArray[np.uint8], draws: NDArray[np.float64]) -> Tensor:
    """Change pictures in ways that do not change the person: a little light, contrast, colour cast, shift and rotation.

    Size is never changed (disc and vessel sizes are phenotypes), nor colour by as much as people differ (pigmentation is one);
    most of what must be ignored is learned from the real difference between eyes, visits and cameras.

    Parameters
    ----------
    pixels
        Shape (n, height, width, 3).
    draws
        Numbers in 0–1, shape (n, :data:`DRAWS`): light, contrast, three channel gains, shift down, shift across, angle.

    Returns
    -------
    Shape (n, 3, height, width), about 0–1, float32.
    """
    import torch
    from torch.nn import functional as F

    d = torch.from_numpy((2.0 * draws - 1.0).astype(np.float32))
    x = to_tensor(pixels)
    turn, down, across = 0.05 * d[:, 7], 0.03 * d[:, 5], 0.03 * d[:, 6]  # radians; halves of the side
    cos, sin = torch.cos(turn), torch.sin(turn)
    theta = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    gain = torch.exp(0.06 * d[:, 0:1] + 0.025 * d[:, 2:5])[:, :, None, None]
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - middle) * torch.exp(0.06 * d[:, 1])[:, None, None, None] + middle) * gain


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Turn pixels (n, height, width, 3), 0–255, into a float32 tensor (n, 3, height, width), 0–1, channels last in memory."""
    import torch

    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div_(255.0)
