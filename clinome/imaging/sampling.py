"""Reading a picture at given places: whole voxels copied where they can be, else blurred, cut to what is needed and interpolated.

The inner half of :mod:`clinome.imaging.resample`. A :class:`Placement` says which place of the input each output voxel is read at.

Reference
---------
Cardoso MJ, Modat M, Vercauteren T, Ourselin S. Scale factor point spread function matching: beyond aliasing in image resampling.
MICCAI, LNCS 9350:675–683 (2015), doi:10.1007/978-3-319-24571-3_81: the blur before scaling down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.imaging.geometry import Geometry, b_spline

if TYPE_CHECKING:
    from torch import Tensor

Fill = float | Sequence[float] | Literal["edge", "reflect"]
_TO_SIGMA = 1 / (8 * np.log(2))  # variance of a Gaussian from the square of its full width at half maximum
_LEAST_SIGMA = 0.35  # voxels; a narrower blur moves less than 2 % of a voxel's weight to a neighbour and is left out
_WHOLE = 1e-4  # of a voxel: as near as this to whole steps, values are copied, not interpolated


class Placement(NamedTuple):
    """Input place, in voxels, of output voxel ``o``: ``step`` · (o − middle + bend(o)) + ``start``, ``bend`` in output voxels."""

    step: NDArray[np.float64]
    start: NDArray[np.float64]
    shape: tuple[int, ...]
    out_spacing: NDArray[np.float64]
    geometry: Geometry
    flipped: bool

    @property
    def middle(self) -> NDArray[np.float64]:
        """The centre of the output, in its voxels."""
        return (np.array(self.shape) - 1) / 2


def place_of(
    values: NDArray[Any],
    geometry: Geometry,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    out_spacing: Sequence[float] | None = None,
    centre: Sequence[float] | None = None,
    flip_left: bool = False,
) -> Placement:
    """Return where ``values``, shape (channels, *spatial), are read; arguments of :class:`clinome.imaging.resample.Where`.

    Raises
    ------
    StudyError
        When the numbers of axes do not agree or a spacing is not positive.
    """
    ndim = values.ndim - 1
    sides = np.array(values.shape[1:])
    lengths = {len(x) for x in (shape, spacing, out_spacing, centre, geometry.matrix) if x is not None}
    numbers = [x for x in (spacing, out_spacing, shape) if x is not None]
    if ndim not in (2, 3) or lengths != {ndim} or 0 in sides or not all(n > 0 for x in numbers for n in x):
        raise StudyError(
            "the picture cannot be resampled as asked",
            got=f"values of shape {values.shape}, spacing {spacing}, out_spacing {out_spacing}, shape {shape}, centre {centre}, "
            f"a geometry of {len(geometry.matrix)} axes",
            expected="(channels, [depth,] height, width), none empty; for each of 2 or 3 axes a positive spacing and size",
        )
    given = np.ones(ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    wanted = given if out_spacing is None else np.asarray(out_spacing, dtype=np.float64)
    size = np.maximum(np.rint(sides * given / wanted), 1).astype(int) if shape is None else np.asarray(shape, dtype=int)
    origin = (sides - 1) / 2 if centre is None else np.asarray(centre, dtype=np.float64)
    flip = np.ones(ndim)
    flip[-1] = -1.0 if flip_left else 1.0
    back = flip[:, None] * np.linalg.inv(geometry.matrix) / given[:, None]  # output mm to input voxels
    shift = geometry.shift_mm + geometry.shift * size * wanted
    return Placement(back * wanted, origin - back @ shift, tuple(int(n) for n in size), wanted, geometry, flip_left)


def copied(values: NDArray[Any], place: Placement, fill: Fill) -> NDArray[Any] | None:
    """Return the output where it takes whole voxels in whole steps along the axes (crop, flip, quarter turn); None elsewhere."""
    turn = np.rint(place.step)
    first = place.start - place.step @ place.middle
    whole = np.rint(first)
    reach = np.abs(place.step - turn) @ np.array(place.shape)
    if (
        place.geometry.lattice is not None
        or not np.array_equal(np.abs(turn) @ np.ones(len(turn)), np.ones(len(turn)))
        or not np.array_equal(np.ones(len(turn)) @ np.abs(turn), np.ones(len(turn)))
        or (np.abs(first - whole) + reach).max() > _WHOLE
    ):
        return None
    source = np.argmax(np.abs(turn), axis=1)  # the output axis that each input axis is read along
    index, outside = [], []
    for axis, along in enumerate(source):
        at = (whole[axis] + turn[axis, along] * np.arange(place.shape[along])).astype(int)
        n = values.shape[1 + axis]
        outside.append((at < 0) | (at >= n))
        index.append(np.clip(_reflected(at, n) if fill == "reflect" else at, 0, n - 1))
    taken = values
    for axis, at in enumerate(index):
        down = bool(len(at) > 1 and at[1] < at[0])
        straight = len(at) > 0 and np.array_equal(at, np.arange(len(at)) * (-1 if down else 1) + at[0])
        until = int(at[-1]) - 1 if down else int(at[-1]) + 1
        cut = slice(int(at[0]), None if until < 0 else until, -1 if down else 1) if straight else at
        taken = taken[(slice(None),) * (1 + axis) + (cut,)]
    taken = np.array(np.moveaxis(taken, range(1, values.ndim), [1 + int(along) for along in source]), order="C")
    if not isinstance(fill, str):
        for along, beyond in zip(source, outside, strict=True):
            if beyond.any():
                at_axis = np.moveaxis(taken, 1 + int(along), -1)
                at_axis[..., beyond] = _by_channel(fill, values.shape[0], values.ndim)
    return taken


def _reflected(at: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Fold places outside 0…n−1 back at the borders of the picture (the outer voxel is met twice)."""
    at = np.mod(at, 2 * n)
    return np.minimum(at, 2 * n - 1 - at)


def _by_channel(fill: float | Sequence[float], channels: int, ndim: int) -> NDArray[np.float32]:
    numbers = np.asarray(fill, dtype=np.float32)
    if numbers.ndim and numbers.shape != (channels,):
        raise StudyError("'fill' does not fit the picture", got=f"{len(numbers)} numbers", expected=f"one, or {channels}")
    return numbers.reshape(-1, *(1,) * (ndim - 1))


def blur_of(place: Placement) -> NDArray[np.float64]:
    """Return the sigma in input voxels, for each input axis, of the blur before scaling down (0: none)."""
    wider = np.maximum((place.step**2).sum(axis=1) - 1, 0)
    sigma = np.sqrt(wider * _TO_SIGMA)
    return np.where(sigma < _LEAST_SIGMA, 0.0, sigma)


def blurred(source: NDArray[np.float32], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return ``source``, each channel blurred by a Gaussian of ``sigma`` voxels along each axis."""
    from scipy.ndimage import gaussian_filter

    smooth: NDArray[np.float32] = gaussian_filter(source, (0.0, *sigma), mode="nearest", truncate=3.0)
    return smooth


def needed(values: NDArray[Any], place: Placement, margin: NDArray[np.float64], fill: Fill) -> tuple[NDArray[Any], Placement]:
    """Cut out of ``values`` what the output can depend on, and count places from there."""
    reach = np.abs(place.step) @ place.middle
    if place.geometry.lattice is not None:
        largest = np.abs(place.geometry.lattice).max(axis=tuple(range(1, values.ndim)))
        reach = reach + np.abs(place.step) @ (largest / place.out_spacing)
    sides = np.array(values.shape[1:])
    low = np.floor(place.start - reach - margin)
    high = np.ceil(place.start + reach + margin) + 1
    if fill == "reflect":
        out = (low < 0) | (high > sides)
        low, high = np.where(out, 0, low), np.where(out, sides, high)
    low = np.clip(low, 0, sides - 1).astype(int)
    high = np.maximum(np.clip(high, 0, sides).astype(int), low + 1)
    part = values[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    return part, place._replace(start=place.start - low)


def grid_of(place: Placement, sides: Sequence[int]) -> Tensor:
    """Return input places scaled to −1…1 between the outer faces of the input, the last axis first: (*shape, ndim)."""
    import torch

    grid, bend = torch.empty(*place.shape, len(sides)), _bend(place)
    for axis, n in enumerate(sides):
        _places(place, bend, axis, 2.0 / n, 1.0 / n - 1.0, grid[..., len(sides) - 1 - axis])
    return grid


def sampled_at(source: NDArray[np.float32], grid: Tensor, fill: Fill, *, nearest: bool = False) -> NDArray[np.float32]:
    """Return ``source`` read at the places of ``grid`` (see :func:`grid_of`), linearly or at the nearest voxel."""
    import torch
    from torch.nn import functional as F

    if not isinstance(fill, str) and (level := _by_channel(fill, len(source), source.ndim)).any():
        return sampled_at(source - level, grid, 0.0, nearest=nearest) + level
    padding = {"edge": "border", "reflect": "reflection"}[fill] if isinstance(fill, str) else "zeros"
    read = torch.from_numpy(np.require(source, requirements=("C", "W")))[None]  # torch wants no read-only array
    out = F.grid_sample(read, grid[None], "nearest" if nearest else "bilinear", padding, align_corners=False)
    return np.asarray(out[0].numpy())


def spline_at(source: NDArray[np.float32], place: Placement, fill: Fill) -> NDArray[np.float32]:
    """Return ``source`` read at the places of ``place`` by a cubic spline."""
    import torch
    from scipy.ndimage import map_coordinates

    at, bend = torch.empty(len(place.shape), *place.shape), _bend(place)
    for axis in range(len(place.shape)):
        _places(place, bend, axis, 1.0, 0.0, at[axis])
    mode = {"edge": "nearest", "reflect": "reflect"}[fill] if isinstance(fill, str) else "grid-constant"
    level = np.zeros(len(source)) if isinstance(fill, str) else np.broadcast_to(np.asarray(fill, dtype=float), len(source))
    places = at.numpy()
    channels = [map_coordinates(c, places, order=3, mode=mode, cval=v) for c, v in zip(source, level, strict=True)]
    return np.stack(channels).astype(np.float32)


def _places(place: Placement, bend: Tensor | None, axis: int, factor: float, offset: float, out: Tensor) -> None:
    """Write ``factor`` · place + ``offset`` along one input axis, for every output voxel, into ``out`` (of the output's shape)."""
    import torch

    total = torch.full((1,) * len(place.shape), factor * place.start[axis] + offset)
    for along, n in enumerate(place.shape):
        line = factor * place.step[axis, along] * (np.arange(n) - place.middle[along])
        term = torch.from_numpy(line.astype(np.float32))
        total = total + term.reshape([-1 if k == along else 1 for k in range(len(place.shape))])
    if bend is None:
        out.copy_(total)
    else:
        torch.add(total, bend[axis], alpha=factor, out=out)


def _bend(place: Placement) -> Tensor | None:
    """Return by how many input voxels the displacement moves each place, (ndim, *shape); None where nothing bends."""
    import torch

    lattice = place.geometry.lattice
    if lattice is None:
        return None
    bend = torch.from_numpy(np.tensordot(place.step / place.out_spacing, lattice, 1).astype(np.float32))
    for along, n in enumerate(place.shape):  # the lattice axis in front is worked off and comes back last
        at = (np.arange(n) - place.middle[along]) * place.out_spacing[along] / place.geometry.lattice_mm
        bend = torch.tensordot(bend, torch.from_numpy(b_spline(at)), dims=([1], [1]))
    return bend
