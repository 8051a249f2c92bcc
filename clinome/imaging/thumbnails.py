"""Small pictures of single examples for the page: a picture or the middle of a volume, or outlines where two disagree the most.

>>> small = thumbnail(np.arange(400.0).reshape(1, 20, 20), side=40)
>>> small.shape, small.dtype.name, int(small.min()), int(small.max())
((40, 40, 3), 'uint8', 0, 255)
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from clinome.core.errors import need

SIDE = 200  # pixels of the longest side
TRUTH, SAID = (90, 255, 90), (255, 160, 40)  # colours of outlines: green and orange
_MARGIN = 0.5  # what is shown around outlines, as a share of their size
Picture = NDArray[np.uint8]


def thumbnail(values: NDArray[Any], *, dims: int = 2, side: int = SIDE) -> Picture:
    """Return a picture, (height, width, 3), whose longest side has ``side`` pixels.

    Parameters
    ----------
    values
        (channels, *spatial) or (views, channels, *spatial) of ``dims`` axes of space. Of views the first is shown, of a volume the
        middle slice. Three channels of bytes are colour; else the first channel is stretched from its 1st to its 99th percentile.
    """
    values = np.asarray(values)
    if values.ndim == dims + 2:
        values = values[0]
    if dims == 3:
        values = values[:, values.shape[1] // 2]
    return _scaled(in_colour(values), side)


def in_colour(values: NDArray[Any]) -> Picture:
    """Return (height, width, 3), 0–255, from (channels, height, width)."""
    if len(values) >= 3 and values.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(values[:3], 0, -1))
    wide = values[0].astype(np.float64)
    known = wide[np.isfinite(wide)]
    low, high = np.percentile(known, [1, 99]) if len(known) else (0.0, 1.0)
    grey = np.clip(255 * (np.nan_to_num(wide) - low) / max(float(high - low), 1e-12), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _scaled(picture: Picture, side: int) -> Picture:
    image = need("PIL.Image", "imaging")
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    how = image.Resampling.LANCZOS if scale < 1 else image.Resampling.BILINEAR
    return np.asarray(image.fromarray(picture).resize(size, how))


def disagreement(truth: NDArray[np.integer], said: NDArray[np.integer]) -> int:
    """Return the slice of two label maps (depth, height, width) in which most is labelled otherwise; the fullest if none is.

    What is not known (below 0) counts as agreed.
    """
    apart = np.count_nonzero((truth != said) & (truth >= 0), axis=(1, 2))
    return int(apart.argmax()) if apart.any() else int(np.count_nonzero(truth > 0, axis=(1, 2)).argmax())


def outlined(
    values: NDArray[Any], outlines: Sequence[tuple[NDArray[np.integer], tuple[int, int, int]]], *, side: int = SIDE
) -> Picture:
    """Return a picture, (side, side, 3), cropped to label maps with the contour of each label drawn in the map's colour.

    Parameters
    ----------
    values
        (channels, height, width).
    outlines
        Label maps (height, width) with their colours; the last is drawn on top.
    """
    picture = in_colour(values)
    rows, columns = _window(np.any([labels > 0 for labels, _ in outlines], axis=0), side)
    height, width = picture.shape[:2]
    beyond = ~np.logical_and.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    inside = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    shown = picture[inside]
    shown[beyond] = 0
    for labels, colour in outlines:
        near = np.where(beyond, 0, labels[inside])
        for label in np.unique(near[near > 0]):
            one = near == label
            shown[one & ~binary_erosion(one, border_value=1)] = colour
    return shown


def _window(drawn: NDArray[np.bool_], side: int) -> list[NDArray[np.intp]]:
    """Return the rows and columns that are shown, ``side`` each: a square around what is drawn within the picture, or all of it."""
    middle, half = [length / 2 for length in drawn.shape], max(drawn.shape) / 2
    if drawn.any():
        ends = [np.flatnonzero(drawn.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
        middle = [float(first + last + 1) / 2 for first, last in ends]
        half = min(max(max(int(last - first) + 1 for first, last in ends) * (0.5 + _MARGIN), 8.0), half)
        middle = [min(max(at, half), n - half) if n > 2 * half else n / 2 for at, n in zip(middle, drawn.shape, strict=True)]
    steps = (np.arange(side) + 0.5) * 2 * half / side - half
    return [np.floor(centre + steps).astype(np.intp) for centre in middle]


def as_png(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    held = io.BytesIO()
    need("PIL.Image", "imaging").fromarray(picture).save(held, format="PNG", optimize=True)
    return held.getvalue()
