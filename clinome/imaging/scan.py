"""A scan or a photograph in memory: its values, where each of them lies in the body, and how to lay a result back onto its file.

Every volume is turned, whatever its file's order, so that its axes run as near as may be along the body's: ``values[c, z, y, x]``
with x from the person's right to left, y from front to back, z from feet to head (LPS, DICOM's own directions). Turning only
swaps and reverses axes: no value is interpolated, an oblique scan stays oblique and its ``affine`` says how. Two-dimensional
pictures (photographs, radiographs, one slice) are left as they are displayed.

>>> affine = np.diag([-1.0, 1.0, 3.0, 1.0])  # the file runs from left to right
>>> scan = placed(np.arange(8.0).reshape(1, 2, 2, 2), affine)
>>> scan.values[0, 0].tolist(), scan.spacing_mm, scan.affine[0].tolist()
([[1.0, 0.0], [3.0, 2.0]], (3.0, 1.0, 1.0), [1.0, 0.0, 0.0, -1.0])
>>> on_file_grid(scan.values, scan.grid)[0, 0].tolist()
[[0.0, 1.0], [2.0, 3.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import FormatError


@dataclass(frozen=True)
class Grid:
    """The order of voxels in a volume's file, and how they were turned from there.

    Attributes
    ----------
    shape
        Of one channel in the file's order, (third, second, first axis): (slices, rows, columns) in DICOM, (k, j, i) in NIfTI.
    affine
        From the file's index (column, row, slice) or (i, j, k) to millimetres in LPS, shape (4, 4).
    axes
        For depth, height and width of the turned volume, the axis of ``shape`` it was.
    reversed
        For depth, height and width of the turned volume, whether it runs against the file.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    axes: tuple[int, int, int]
    reversed: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Scan:
    """One scan or picture.

    Attributes
    ----------
    values
        Shape (channels, [depth,] height, width), in the file's own type where it needs no rescaling.
    spacing_mm
        Distance between neighbours along ([depth,] height, width) in millimetres; None where the file does not say.
    affine
        From the index (x, y, z, 1) of ``values[c, z, y, x]`` to millimetres in LPS, shape (4, 4); None for a photograph.
    modality
        DICOM's code ('CT', 'MR', 'DX', …) where the file says.
    grid
        The order of voxels in the file, for :func:`on_file_grid`; None for pictures.
    path
        The file, or the folder of the series.
    series
        SeriesInstanceUID of a DICOM series.
    notes
        What a reader should know of the file and the values do not show, one sentence each.
    """

    values: NDArray[Any]
    spacing_mm: tuple[float, ...] | None = None
    affine: NDArray[np.float64] | None = None
    modality: str | None = None
    grid: Grid | None = None
    path: Path | None = None
    series: str | None = None
    notes: tuple[str, ...] = ()


def placed(values: NDArray[Any], affine: NDArray[np.float64], **about: Any) -> Scan:
    """Turn ``values`` of a file, shape (channels, third, second, first axis), to the body's directions.

    ``affine`` leads from the index (first, second, third axis) to millimetres in LPS; ``about`` are further fields of
    :class:`Scan`.

    Raises
    ------
    FormatError
        When the affine does not span space (a zero or parallel axis, a number that is not finite).
    """
    affine = np.asarray(affine, dtype=np.float64)
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or (lengths < 1e-6).any() or abs(np.linalg.det(columns / lengths)) < 1e-3:
        raise FormatError(
            "the file places its voxels on a line or a plane, not in space",
            where=about.get("path"),
            got=f"an affine of {np.round(columns, 4).tolist()}",
            expected="three directions that span space",
            do="convert the scan again from its source",
        )
    # In NumPy's order axis 0 of a channel is the file's third axis: direction[d, a] is the cosine of body axis d with array axis a.
    direction = (columns / lengths)[::-1, ::-1]
    axes = max(permutations(range(3)), key=lambda order: sum(abs(direction[d, a]) for d, a in enumerate(order)))
    backwards = tuple(bool(direction[d, a] < 0) for d, a in enumerate(axes))
    shape = values.shape[1:]
    grid = Grid((shape[0], shape[1], shape[2]), affine, (axes[0], axes[1], axes[2]), (backwards[0], backwards[1], backwards[2]))
    spacing = tuple(float(lengths[2 - a]) for a in axes)
    return Scan(on_body_grid(values, grid), spacing, affine @ _index_in_file(grid), grid=grid, **about)


def on_body_grid(values: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Turn an array in the file's order, shape (channels, \\*grid.shape), to the body's; a view of the same numbers."""
    turned = values.transpose(0, *(1 + axis for axis in grid.axes))
    return turned[:, *(slice(None, None, -1) if back else slice(None) for back in grid.reversed)]


def on_file_grid(values: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Lay an array in the body's order, shape (channels, depth, height, width) of a :class:`Scan`, back onto the file's grid.

    Raises
    ------
    ValueError
        When the array is not of the scan's shape.
    """
    expected = tuple(grid.shape[axis] for axis in grid.axes)
    if values.shape[1:] != expected:
        raise ValueError(f"an array of {values.shape[1:]} does not lie on a grid of {expected}")
    turned = values[:, *(slice(None, None, -1) if back else slice(None) for back in grid.reversed)]
    return turned.transpose(0, *(1 + axis for axis in np.argsort(grid.axes)))


def _index_in_file(grid: Grid) -> NDArray[np.float64]:
    """Return the matrix from the index (x, y, z, 1) of the turned volume to that of the file (first, second, third axis, 1)."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for turned, (axis, back) in enumerate(zip(grid.axes, grid.reversed, strict=True)):
        matrix[2 - axis, 2 - turned] = -1.0 if back else 1.0
        matrix[2 - axis, 3] = grid.shape[axis] - 1 if back else 0
    return matrix
