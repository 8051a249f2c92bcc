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

>>> from clinome.imaging.geometry import Spread, draw_geometry
>>> picture = np.arange(12.0, dtype=np.float32).reshape(1, 3, 4)
>>> turned = draw_geometry(np.random.default_rng(1), Spread(rotation_degrees=15, mirror=(1,)), 2)
>>> resample(picture, turned).shape
(1, 3, 4)
>>> resample(picture, shape=(1, 2)).tolist()  # a crop alone: nothing is interpolated
[[[5.0, 6.0]]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.imaging.geometry import Geometry, still
from clinome.imaging.sampling import Fill, Placement, blur_of, blurred, copied, grid_of, needed, place_of, sampled_at, spline_at

if TYPE_CHECKING:
    from torch import Tensor

_TOGETHER = 4  # labels that are interpolated at once: where to read is then worked out once for them


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
    place = place_of(values, geometry or still(values.ndim - 1), **where)
    if (whole := copied(values, place, fill)) is not None:
        return whole if order == 0 or whole.dtype == np.float32 else whole.astype(np.float32)
    sigma = np.zeros(values.ndim - 1) if order == 0 else blur_of(place)
    part, place = needed(values, place, np.ceil(3 * sigma) + (12 if order == 3 else 1), fill)
    source = part.astype(np.float32, copy=False)
    if sigma.any():
        source = blurred(source, sigma)
    if order == 3:
        return spline_at(source, place, fill)
    sampled = sampled_at(source, grid_of(place, source.shape[1:]), fill, nearest=order == 0)
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
    place = place_of(labels, geometry or still(labels.ndim - 1), **where)
    won = copied(labels, place, fill)
    if won is None:
        sigma = blur_of(place)
        part, place = needed(labels, place, np.ceil(3 * sigma) + 1, fill)
        won = _largest_share(part, sigma, grid_of(place, part.shape[1:]), fill)
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
    place = place_of(values, geometry or still(values.ndim - 1), **where)
    moved, won = copied(values, place, fill), copied(labels, place, fill_label)
    if moved is None or won is None:
        sigma = blur_of(place)
        margin = np.ceil(3 * sigma) + 1
        part, near = needed(values, place, margin, fill)
        of_labels, _ = needed(labels, place, margin, fill)  # the same cut
        grid = grid_of(near, part.shape[1:])
        source = part.astype(np.float32, copy=False)
        moved = sampled_at(blurred(source, sigma) if sigma.any() else source, grid, fill)
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
        sampled = sampled_at(blurred(flat, sigma) if sigma.any() else flat, grid, 0.0)
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


def _swapped(labels: NDArray[Any], place: Placement, swap: Sequence[tuple[int, int]]) -> NDArray[Any]:
    """Exchange labels of left and right structures in ``labels``, in place, where the result is a mirror image."""
    if swap and place.geometry.mirrored[-1] != place.flipped:
        before = labels.copy()
        for left, right in swap:
            labels[before == left], labels[before == right] = right, left
    return labels
