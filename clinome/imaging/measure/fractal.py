"""The fractal dimension of a drawing by box counting: how fast the number of occupied boxes grows as boxes shrink.

The dimension is minus the slope of log(count) on log(side) over the stated sides. For each side the grid is laid at several
offsets and the smallest count is taken, as the definition (the fewest boxes that cover) asks. Retinal vessels measure 1.4–1.7;
the number depends on the resolution, on what was outlined and on the sides, so it is compared only where all three agree.

References
----------
Mainster MA. The fractal properties of retinal vessels: embryological and clinical implications. Eye 4:235–241 (1990),
doi:10.1038/eye.1990.33.
Falconer K. Fractal Geometry (2003), chapter 3 (box-counting dimension).

>>> round(box_counting(np.ones((64, 64), bool)).dimension, 6)
2.0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BoxCounts(NamedTuple):
    """A box-counting ``dimension``, the ``sides`` in pixels and the ``counts`` it rests on, and the r² of the straight line."""

    dimension: float
    sides: NDArray[np.int64]
    counts: NDArray[np.int64]
    r2: float


def box_counting(drawing: NDArray[np.bool_], *, sides: Sequence[int] | None = None, offsets: int = 4) -> BoxCounts:
    """Count boxes that hold something of ``drawing``, shape (height, width).

    Parameters
    ----------
    sides
        Of the boxes in pixels; None: 2, 4, 8, … up to a quarter of the drawing's shorter side.
    offsets
        Places of the grid tried along each axis (as many as fit into the side).

    Returns
    -------
    The dimension is NaN for an empty drawing or fewer than two sides.
    """
    drawing = np.asarray(drawing, dtype=bool)
    if sides is None:
        sides = [2**k for k in range(1, 30) if 2**k <= min(drawing.shape) // 4]
    counts = np.array([_fewest(drawing, side, offsets) for side in sides], dtype=np.int64)
    if len(counts) < 2 or not counts.min(initial=1):
        return BoxCounts(float("nan"), np.array(sides, dtype=np.int64), counts, float("nan"))
    x, y = np.log(np.array(sides, dtype=np.float64)), np.log(counts)
    x, y = x - x.mean(), y - y.mean()
    explained = (x @ y) ** 2 / max(float((x @ x) * (y @ y)), 1e-300)
    return BoxCounts(float(-(x @ y) / (x @ x)), np.array(sides, dtype=np.int64), counts, float(explained))


def _fewest(drawing: NDArray[np.bool_], side: int, offsets: int) -> int:
    """Return the smallest number of boxes of ``side`` that hold something, over places of the grid."""
    shifts = sorted({k * side // offsets for k in range(offsets)})
    return min(_count(drawing, side, down, across) for down in shifts for across in shifts)


def _count(drawing: NDArray[np.bool_], side: int, down: int, across: int) -> int:
    height, width = drawing.shape
    padded = np.pad(drawing, ((down, -(height + down) % side), (across, -(width + across) % side)))
    boxes = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
    return int(boxes.any(axis=(1, 3)).sum())
