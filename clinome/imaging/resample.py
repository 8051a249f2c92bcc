"""One interpolation for all that moves a picture: change of spacing, crop, mirroring, rotation, scaling, shear, elastic bends.

Each interpolation blurs, so steps done one after another blur again and again. Here all of them are composed into one map from
the places of the output to places of the input, in millimetres, and the input is read once. For a place ``x`` of the output,
in mm from its centre, the input is read at

    centre + F · A⁻¹ · (x + u(x) − shift)

with ``A`` the linear part of what is done to the content (rotation · shear · scale · mirroring), ``u`` a smooth random
displacement, and ``F`` the flip of a left side onto the right one. Because this is in mm, a rotation stays one where voxels are
not cubes. Without a spacing a pixel counts as 1 mm.

Pictures and scans are arrays (channels, [depth,] height, width). torch's ``grid_sample`` interpolates: on one core it took
1.4 ms for a 512 × 512 picture in colour and 5.7 ms for a 64³ volume, ``scipy.ndimage.map_coordinates`` 20 and 11 ms.

References
----------
Cardoso MJ, Modat M, Vercauteren T, Ourselin S. Scale factor point spread function matching: beyond aliasing in image resampling.
MICCAI, LNCS 9350:675–683 (2015), doi:10.1007/978-3-319-24571-3_81: the blur before scaling down.

>>> picture = np.arange(12.0, dtype=np.float32).reshape(1, 3, 4)
>>> turned = draw_geometry(np.random.default_rng(1), Spread(rotation_degrees=15, mirror=(1,)), 2)
>>> resample(picture, turned).shape
(1, 3, 4)
>>> resample(picture, shape=(1, 2)).tolist()  # a crop alone: nothing is interpolated
[[[5.0, 6.0]]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.imaging.geometry import Geometry as Geometry
from clinome.imaging.geometry import Spread as Spread
from clinome.imaging.geometry import b_spline
from clinome.imaging.geometry import draw_geometry as draw_geometry
from clinome.imaging.geometry import rotation as rotation
from clinome.imaging.geometry import still as still

if TYPE_CHECKING:
    from torch import Tensor

Fill = float | Sequence[float] | Literal["edge", "reflect"]
_TO_SIGMA = 1 / (8 * np.log(2))  # variance of a Gaussian from the square of its full width at half maximum
_LEAST_SIGMA = 0.35  # voxels; a narrower blur moves less than 2 % of a voxel's weight to a neighbour and is left out
_TOGETHER = 4  # labels that are interpolated at once: where to read is then worked out once for them
_WHOLE = 1e-4  # of a voxel: as near as this to whole steps, values are copied, not interpolated


class Where(TypedDict, total=False):
    """What of a picture is read, and how finely, by keyword.

    Attributes
    ----------
    shape
        Spatial shape of the output; by default what covers the input at ``out_spacing``.
    spacing, out_spacing
        Distance of voxels along each axis in mm, of the input (1 if not given) and of the output (the input's if not given).
    centre
        The place in the input, counted in its voxels from 0, that comes to the centre of the output; by default the input's own
        centre (half a voxel aside where one side is even and the other odd).
    flip_left
        Mirror the last axis first: for left eyes or sides, so that anatomy agrees with the right ones.
    """

    shape: Sequence[int] | None
    spacing: Sequence[float] | None
    out_spacing: Sequence[float] | None
    centre: Sequence[float] | None
    flip_left: bool


def resample(
    values: NDArray[Any],
    geometry: Geometry | None = None,
    *,
    order: Literal[0, 1, 3] = 1,
    fill: Fill = 0.0,
    **where: Unpack[Where],
) -> NDArray[Any]:
    """Read ``values`` once, where ``geometry``, the change of spacing, the crop and the flip together say.

    Only the part of ``values`` that is needed is touched, so a patch of a large mapped array costs what the patch costs. Where
    output voxels are wider than the input's by a factor s, the input is first blurred along that axis by a Gaussian whose width
    at half maximum squared is s² − 1 voxels² (Cardoso 2015), unless that is narrower than 0.35 voxels.

    Parameters
    ----------
    values
        Shape (channels, *spatial), 2 or 3 spatial axes, any type of number.
    order
        1 linear; 0 the nearest voxel, without blur (labels); 3 a cubic spline, some forty times slower, for work that is done once.
    fill
        What lies outside: a number, one for each channel, 'edge' (the nearest voxel) or 'reflect'.
    where
        What of ``values`` is read, and how finely: see :class:`Where`.

    Returns
    -------
    Shape (channels, *shape): float32, for order 0 the type of ``values``. Where voxels come to lie on voxels (a crop, a flip, a
    quarter turn) they are copied, exactly.

    Raises
    ------
    StudyError
        When the numbers of axes do not agree or a spacing is not positive.
    """
    place = _placement(values, geometry or still(values.ndim - 1), **where)
    if (copied := _copy(values, place, fill)) is not None:
        return copied if order == 0 or copied.dtype == np.float32 else copied.astype(np.float32)
    sigma = np.zeros(values.ndim - 1) if order == 0 else _blur(place)
    part, place = _needed(values, place, np.ceil(3 * sigma) + (12 if order == 3 else 1), fill)
    source = part.astype(np.float32, copy=False)
    if sigma.any():
        source = _blurred(source, sigma)
    if order == 3:
        return _spline(source, place, fill)
    sampled = _sample(source, _grid(place, source.shape[1:]), fill, nearest=order == 0)
    if order == 0 and values.dtype != np.float32:
        return np.rint(sampled).astype(values.dtype) if np.issubdtype(values.dtype, np.integer) else sampled.astype(values.dtype)
    return sampled


def resample_labels(
    labels: NDArray[Any],
    geometry: Geometry | None = None,
    *,
    fill: int = 0,
    swap: Sequence[tuple[int, int]] = (),
    **where: Unpack[Where],
) -> NDArray[Any]:
    """Move a map of labels as :func:`resample` moves its picture, keeping smooth borders smooth: each label is interpolated by
    itself, linearly, and the one with the largest share wins (the lower of equals).

    Parameters
    ----------
    labels
        Shape (channels, *spatial), integer or boolean.
    swap
        Pairs of labels (left, right) that trade places when the result is a mirror image from left to right.
    fill
        The label of what lies outside.
    where
        See :class:`Where`.

    Returns
    -------
    Shape (channels, *shape), the type of ``labels``; no label that was not there before, but for ``fill``.
    """
    place = _placement(labels, geometry or still(labels.ndim - 1), **where)
    won = _copy(labels, place, fill)
    if won is None:
        sigma = _blur(place)
        part, place = _needed(labels, place, np.ceil(3 * sigma) + 1, fill)
        won = _largest_share(part, sigma, _grid(place, part.shape[1:]), fill)
    return _swapped(won, place, swap)


def resample_pair(
    values: NDArray[Any],
    labels: NDArray[Any],
    geometry: Geometry | None = None,
    *,
    fill: Fill = 0.0,
    fill_label: int = 0,
    swap: Sequence[tuple[int, int]] = (),
    **where: Unpack[Where],
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Move a picture and its labels together: :func:`resample` (linear) and :func:`resample_labels`, the map worked out once.

    Raises
    ------
    StudyError
        Also when ``labels`` are not of the picture's size.
    """
    if labels.shape[1:] != values.shape[1:]:
        raise StudyError("the labels are not of the picture's size", got=labels.shape[1:], expected=values.shape[1:])
    place = _placement(values, geometry or still(values.ndim - 1), **where)
    moved, won = _copy(values, place, fill), _copy(labels, place, fill_label)
    if moved is None or won is None:
        sigma = _blur(place)
        margin = np.ceil(3 * sigma) + 1
        part, near = _needed(values, place, margin, fill)
        of_labels, _ = _needed(labels, place, margin, fill)  # the same cut
        grid = _grid(near, part.shape[1:])
        source = part.astype(np.float32, copy=False)
        moved = _sample(_blurred(source, sigma) if sigma.any() else source, grid, fill)
        won = _largest_share(of_labels, sigma, grid, fill_label)
    return moved.astype(np.float32, copy=False), _swapped(won, place, swap)


def _largest_share(part: NDArray[Any], sigma: NDArray[np.float64], grid: Tensor, fill: int) -> NDArray[Any]:
    """Return the label with the largest share of each place of ``grid``, the lower of equals; ``fill`` takes what others leave."""
    share = np.zeros((len(part), *grid.shape[:-1]), dtype=np.float32)  # the largest so far
    won, total = np.full(share.shape, fill, part.dtype), np.zeros_like(share)
    labels = [label for label in _labels_in(part) if label != fill]
    for begin in range(0, len(labels), _TOGETHER):
        some = labels[begin : begin + _TOGETHER]
        source = np.empty((len(some), *part.shape), np.float32)
        for k, label in enumerate(some):
            np.equal(part, label, out=source[k], casting="unsafe")
        flat = source.reshape(-1, *part.shape[1:])
        sampled = _sample(_blurred(flat, sigma) if sigma.any() else flat, grid, 0.0)
        for label, of_label in zip(some, sampled.reshape(len(some), *share.shape), strict=True):
            better = of_label > share
            won = won * ~better + part.dtype.type(label) * better  # several times quicker than assigning under a mask
            np.maximum(share, of_label, out=share)
            total += of_label
    rest = 1 - total
    np.copyto(won, part.dtype.type(fill), where=(rest > share) | ((rest == share) & (won > fill)))
    return won


def _labels_in(part: NDArray[Any]) -> list[int]:
    """Return the labels that occur, ascending."""
    if part.dtype == np.uint8:  # by counting: a third of the time
        return [int(label) for label in np.flatnonzero(np.bincount(part.ravel()))]
    return [int(label) for label in np.unique(part)]


def _swapped(labels: NDArray[Any], place: _Placement, swap: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Exchange labels of left and right structures in ``labels``, in place, where the result is a mirror image."""
    if swap and place.geometry.mirrored[-1] != place.flipped:
        before = labels.copy()
        for left, right in swap:
            labels[before == left], labels[before == right] = right, left
    return labels


class _Placement(NamedTuple):
    """Input place, in voxels, of output voxel ``o``: ``step`` · (o − middle + bend(o)) + ``start``, ``bend`` in output voxels."""

    step: NDArray[np.float64]
    start: NDArray[np.float64]
    shape: tuple[int, ...]
    out_spacing: NDArray[np.float64]
    geometry: Geometry
    flipped: bool

    @property
    def middle(self) -> NDArray[np.float64]:
        return (np.array(self.shape) - 1) / 2


def _placement(
    values: NDArray[Any],
    geometry: Geometry,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    out_spacing: Sequence[float] | None = None,
    centre: Sequence[float] | None = None,
    flip_left: bool = False,
) -> _Placement:
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
    return _Placement(back * wanted, origin - back @ shift, tuple(int(n) for n in size), wanted, geometry, flip_left)


def _copy(values: NDArray[Any], place: _Placement, fill: Fill) -> NDArray[Any] | None:
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


def _blur(place: _Placement) -> NDArray[np.float64]:
    """Return the sigma in input voxels, for each input axis, of the blur before scaling down (0: none)."""
    wider = np.maximum((place.step**2).sum(axis=1) - 1, 0)
    sigma = np.sqrt(wider * _TO_SIGMA)
    return np.where(sigma < _LEAST_SIGMA, 0.0, sigma)


def _blurred(source: NDArray[np.float32], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    blurred: NDArray[np.float32] = gaussian_filter(source, (0.0, *sigma), mode="nearest", truncate=3.0)
    return blurred


def _needed(values: NDArray[Any], place: _Placement, margin: NDArray[np.float64], fill: Fill) -> tuple[NDArray[Any], _Placement]:
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


def _grid(place: _Placement, sides: Sequence[int]) -> Tensor:
    """Return input places scaled to −1…1 between the outer faces of the input, the last axis first: (*shape, ndim)."""
    import torch

    grid, bend = torch.empty(*place.shape, len(sides)), _bend(place)
    for axis, n in enumerate(sides):
        _places(place, bend, axis, 2.0 / n, 1.0 / n - 1.0, grid[..., len(sides) - 1 - axis])
    return grid


def _sample(source: NDArray[np.float32], grid: Tensor, fill: Fill, *, nearest: bool = False) -> NDArray[np.float32]:
    import torch
    from torch.nn import functional as F

    if not isinstance(fill, str) and (level := _by_channel(fill, len(source), source.ndim)).any():
        return _sample(source - level, grid, 0.0, nearest=nearest) + level
    padding = {"edge": "border", "reflect": "reflection"}[fill] if isinstance(fill, str) else "zeros"
    read = torch.from_numpy(np.require(source, requirements=("C", "W")))[None]  # torch wants no read-only array
    out = F.grid_sample(read, grid[None], "nearest" if nearest else "bilinear", padding, align_corners=False)
    return np.asarray(out[0].numpy())


def _spline(source: NDArray[np.float32], place: _Placement, fill: Fill) -> NDArray[np.float32]:
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


def _places(place: _Placement, bend: Tensor | None, axis: int, factor: float, offset: float, out: Tensor) -> None:
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


def _bend(place: _Placement) -> Tensor | None:
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
