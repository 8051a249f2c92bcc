"""The honest floor for any encoder: what plain pixels and colour statistics say, without training.

Whatever a network is said to find must be more than this finds. It sees all pictures alike, so nobody has to be kept out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GRID = 16  # cells a side
_BINS = 8  # histogram bins a channel
WIDTHS = (3 * _GRID**2, 3 * (2 + _BINS))  # columns of the coarse copy, and of the colour statistics


def floor_features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe pictures, shape (n, height, width, 3), by a coarse copy and by their colours: shape (n, 768 + 30).

    The columns are the mean colour (0–1) of each cell of a 16 × 16 grid, then for each channel its mean, its standard deviation
    and the shares of its eight histogram bins: two blocks, of :data:`WIDTHS` columns.

    >>> floor_features(np.zeros((2, 20, 20, 3), np.uint8)).shape
    (2, 798)
    """
    n, height, width, _ = pixels.shape
    unit = pixels.astype(np.float32) / 255.0
    coarse = _cells(_cells(unit, 1), 2)
    mean = unit.mean(axis=(1, 2))
    deviation = np.sqrt(np.maximum((unit**2).mean(axis=(1, 2)) - mean**2, 0.0))
    place = 3 * _BINS * np.arange(n)[:, None, None, None] + _BINS * np.arange(3) + pixels // (256 // _BINS)
    shares = np.bincount(place.ravel(), minlength=3 * _BINS * n).reshape(n, 3 * _BINS) / (height * width)
    return np.hstack([coarse.reshape(n, -1), mean, deviation, shares]).astype(np.float32)


def _cells(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Average ``values`` along ``axis`` into the grid's cells; a side shorter than the grid repeats its pixels."""
    length = values.shape[axis]
    edges = np.arange(_GRID) * length // _GRID
    counts = np.maximum(np.diff(np.append(edges, length)), 1).astype(np.float32)
    sums = np.add.reduceat(values, edges, axis=axis)
    return np.asarray(sums / counts.reshape([-1 if a == axis else 1 for a in range(values.ndim)]))
