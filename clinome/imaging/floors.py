"""The honest floor for any encoder: what plain pixels and colour statistics say, without training.

Whatever a network is said to find must be more than this finds. It sees all pictures alike, so nobody has to be kept out.
"""

from __future__ import annotations

from itertools import pairwise

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
    coarse = _cells(_cells(unit, height, 1), width, 2)
    colours = [unit.mean(axis=(1, 2)), unit.std(axis=(1, 2))]
    which = (pixels // (256 // _BINS)).reshape(n, height * width, 3)
    colours += [(which == b).mean(axis=1, dtype=np.float32) for b in range(_BINS)]
    return np.hstack([coarse.reshape(n, -1), *colours]).astype(np.float32)


def _cells(values: NDArray[np.float32], length: int, axis: int) -> NDArray[np.float32]:
    """Average ``values`` along ``axis`` into the grid's cells; a side shorter than the grid repeats its pixels."""
    edges = np.arange(_GRID + 1) * length / _GRID
    cells = [
        values.take(range(int(low), max(int(np.ceil(high)), int(low) + 1)), axis=axis).mean(axis=axis, keepdims=True)
        for low, high in pairwise(edges)
    ]
    return np.concatenate(cells, axis=axis)
