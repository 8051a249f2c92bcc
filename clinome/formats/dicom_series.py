"""The images of a DICOM series, put together as a volume: sorted by where they lie, with every gap and contradiction named.

Images are sorted along the normal of their plane; instance numbers and file names say nothing of space. Several images at one
place (times, echoes, b-values, water and fat) become channels when every place has the same ones. Whatever would bend or tear
the volume is an error that names the place, in millimetres along the normal: missing images, uneven spacing, images in another
direction or of another size, images that cannot be told apart.

References
----------
DICOM PS3.3, C.7.6.2.1.1 (Equation C.7.6.2.1-1: from pixel index to millimetres).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import FormatError
from clinome.formats.dicom import Header, Plane, read_header
from clinome.formats.dicom_pixels import Window, read_frames

_SAME_PLACE = 1e-3  # share of the distance between slices
_UNEVEN = 0.1  # share of the distance between slices by which an image may lie beside an even grid
_ROUNDED = 0.1  # millimetres, within which places written with one decimal do, for up to a quarter of the distance
_TILTED = 0.02  # sine between slices' way and normal
_SAME_DIRECTION = 1e-2


class Volume(NamedTuple):
    """``values`` (channels, slices, rows, columns); ``affine`` (4, 4) from (column, row, slice, 1) to millimetres in LPS; ``notes``
    on what is unusual; ``planes[channel][slice]``.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]
    planes: tuple[tuple[Plane, ...], ...]


class Layout(NamedTuple):
    """How planes make a volume: ``planes[channel][slice]``, its affine, notes."""

    planes: tuple[tuple[Plane, ...], ...]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]


def is_placed(headers: Sequence[Header]) -> bool:
    """Tell whether a series is meant as a volume: more than one image, and most of them with a place and a direction."""
    planes = [plane for header in headers for plane in header.planes if not plane.localiser]
    placed = sum(bool(plane.position and plane.directions and plane.pixel_mm) for plane in planes)
    return len(planes) > 1 and 2 * placed > len(planes)


def layout(headers: Sequence[Header], *, where: Path) -> Layout:
    """Say how the images of a series lie, without reading their pixels.

    Raises
    ------
    FormatError
        When they do not make an even stack (see the module); ``where`` is named.
    """
    notes: list[str] = []
    headers = _distinct(headers, notes)
    planes = _along_one_direction([plane for header in headers for plane in header.planes], where, notes)
    _one_size(headers, planes, where)
    directions = np.mean([plane.directions for plane in planes], axis=0).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    row, column = directions / np.maximum(lengths, 1e-9)
    if abs(row @ column) > _SAME_DIRECTION or np.abs(lengths - 1).max() > _SAME_DIRECTION:
        got = np.round(directions, 4).tolist()
        raise FormatError("rows and columns of the images are not unit vectors at right angles", where=where, got=got)
    normal = np.cross(row, column)
    places = _by_place(planes, normal)
    planes_of = _channels(places, where, notes)
    origins = np.array([plane.position for plane in planes_of[0]], np.float64)
    step = _even_step(origins, normal, planes[0], where, notes)
    between_rows, between_columns = planes[0].pixel_mm
    affine = np.eye(4)
    affine[:3] = np.column_stack([row * between_columns, column * between_rows, step, origins[0]])
    return Layout(planes_of, affine, tuple(notes))


def read_volume(headers: Sequence[Header], *, where: Path, window: Window = False) -> Volume:
    """Read a series as a volume; pixels as in :func:`clinome.formats.dicom_pixels.read_frames`.

    Raises
    ------
    FormatError
        As :func:`layout` and ``read_frames``.
    """
    made = layout(headers, where=where)
    place = {(plane.path, plane.frame): (channel, k) for channel, row in enumerate(made.planes) for k, plane in enumerate(row)}
    values: NDArray[Any] | None = None
    for header in headers:
        if any((plane.path, plane.frame) in place for plane in header.planes):
            for plane, frame in zip(header.planes, read_frames(header, window=window), strict=True):
                if (at := place.get((plane.path, plane.frame))) is not None:
                    values = _put(values, frame, at, (len(made.planes), len(made.planes[0])))
    assert values is not None, "a layout holds at least one plane"
    return Volume(values, made.affine, made.notes, made.planes)


def _put(values: NDArray[Any] | None, frame: NDArray[Any], at: tuple[int, int], size: tuple[int, int]) -> NDArray[Any]:
    """Lay a frame (rows, columns, bands) into the volume, which takes a wider type when the frame needs one."""
    rows, columns, bands = frame.shape
    if values is None:
        values = np.zeros((size[0] * bands, size[1], rows, columns), frame.dtype)
    kind = np.result_type(values.dtype, frame.dtype)
    if kind == np.float64 and values.dtype != kind and frame.dtype != kind:
        kind = np.dtype(np.float32)  # a whole type and float32
    values = values.astype(kind, copy=False)
    values[at[0] * bands : (at[0] + 1) * bands, at[1]] = np.moveaxis(frame, -1, 0)
    return values


def _distinct(headers: Sequence[Header], notes: list[str]) -> list[Header]:
    """Keep one file of each SOPInstanceUID."""
    kept = {header.instance or str(header.path): header for header in reversed(headers)}
    if len(kept) < len(headers):
        notes.append(f"{len(headers) - len(kept)} files are copies of others (the same SOPInstanceUID)")
    return [header for header in headers if kept[header.instance or str(header.path)] is header]


def _along_one_direction(planes: list[Plane], where: Path, notes: list[str]) -> list[Plane]:
    """Drop localisers; refuse images that lie in another direction than most."""
    scouts = [plane for plane in planes if plane.localiser]
    if scouts and len(scouts) < len(planes):
        notes.append(f"{len(scouts)} localisers among the images are left out")
        planes = [plane for plane in planes if not plane.localiser]
    if unplaced := [plane for plane in planes if not (plane.position and plane.directions and plane.pixel_mm)]:
        raise FormatError(
            "images of the series do not say where they lie",
            where=unplaced[0].path,
            got=f"{len(unplaced)} of {len(planes)} images without position, orientation or pixel spacing",
            do="read each by its own path, or leave them out",
        )
    common = Counter(tuple(np.round(plane.directions, 2)) for plane in planes).most_common(1)[0][0]
    reference = next(plane.directions for plane in planes if tuple(np.round(plane.directions, 2)) == common)
    astray = [plane for plane in planes if np.abs(np.subtract(plane.directions, reference)).max() > 2 * _SAME_DIRECTION]
    if astray:
        raise FormatError(
            "images of the series lie in different directions",
            where=where,
            got=f"{len(astray)} of {len(planes)} against the others, {_named(astray[0])} the first",
            do="move them to another folder (localisers, reformats), or read the parts apart",
        )
    return planes


def _one_size(headers: Sequence[Header], planes: Sequence[Plane], where: Path) -> None:
    """Refuse a mixture of matrix sizes, pixel spacings, or grey and colour."""
    of = {header.path: header for header in headers}
    kinds = Counter((of[p.path].rows, of[p.path].columns, of[p.path].channels) for p in planes)
    if len(kinds) > 1:
        got = "; ".join(
            f"{n} of {rows} × {columns}" + (" in colour" if c > 1 else "") for (rows, columns, c), n in kinds.most_common()
        )
        raise FormatError("images of the series differ in size", where=where, got=got, do="read the parts apart")
    pixels = np.array([plane.pixel_mm for plane in planes])
    if np.abs(pixels / pixels[0] - 1).max() > 1e-3:
        other = planes[int(np.abs(pixels / pixels[0] - 1).max(axis=1).argmax())]
        raise FormatError(
            "images of the series differ in pixel spacing",
            where=where,
            got=f"{_spaced(planes[0])} and, {_named(other)}, {_spaced(other)}",
            do="read the parts apart",
        )


def _spaced(plane: Plane) -> str:
    return " × ".join(f"{length:g}" for length in plane.pixel_mm) + " mm"


def _named(plane: Plane) -> str:
    return plane.path.name + (f" frame {plane.frame + 1}" if plane.frame else "")


def _by_place(planes: Sequence[Plane], normal: NDArray[np.float64]) -> list[list[Plane]]:
    """Group planes that lie at one place, along the normal."""
    along = np.array([plane.position for plane in planes], np.float64) @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    wide = steps[steps > 1e-4]
    apart = max(1e-4, _SAME_PLACE * float(np.median(wide))) if len(wide) else 1e-4
    groups: list[list[Plane]] = [[planes[order[0]]]]
    for k, step in enumerate(steps):
        if step > apart:
            groups.append([])
        groups[-1].append(planes[order[k + 1]])
    return groups


def _channels(places: list[list[Plane]], where: Path, notes: list[str]) -> tuple[tuple[Plane, ...], ...]:
    """Order the images at each place by what tells them apart; every place must have the same ones."""
    found = sum(map(len, places))
    places = [_told_apart(sorted(place, key=lambda plane: (plane.marks, plane.times, plane.number)), where) for place in places]
    if (copies := found - sum(map(len, places))) > 0:
        notes.append(f"{copies} images are copies of others, pixel for pixel")
    usual = Counter(map(len, places)).most_common(1)[0][0]
    if (odd := next((place for place in places if len(place) != usual), None)) is not None:
        raise FormatError(
            "places of the series have different numbers of images",
            where=where,
            got=f"{len(odd)} at {_at(odd[0])} ({_named(odd[0])}), {usual} elsewhere",
            do="copy the missing images, or read the parts apart",
        )
    if usual > 1:
        kinds = [tuple(plane.marks for plane in place) for place in places]
        if (other := next((k for k, kind in enumerate(kinds) if kind != kinds[0]), None)) is not None:
            raise FormatError(
                "images at one place differ in kind (time, echo, b-value, type) from those elsewhere",
                where=where,
                got=f"at {_at(places[other][0])} and {_at(places[0][0])}",
                do="read the parts apart",
            )
        notes.append(f"the {usual} images at each place (times, echoes or kinds) are channels")
    return tuple(tuple(place[channel] for place in places) for channel in range(usual))


def _told_apart(place: list[Plane], where: Path) -> list[Plane]:
    """Return the images of one place, sorted, without copies of those that nothing else tells apart.

    Raises
    ------
    FormatError
        When such images differ.
    """
    kept = place[:1]
    for plane in place[1:]:
        if (plane.marks, plane.times) != (kept[-1].marks, kept[-1].times):
            kept.append(plane)
        elif not np.array_equal(_pixels(plane), _pixels(kept[-1])):
            raise FormatError(
                "two images lie at one place, and nothing tells them apart",
                where=where,
                got=f"{_named(kept[-1])} and {_named(plane)} at {_at(plane)}",
                do="move one of each to another folder",
            )
    return kept


def _pixels(plane: Plane) -> NDArray[Any]:
    return next(islice(read_frames(read_header(plane.path)), plane.frame, None))


def _even_step(
    origins: NDArray[np.float64], normal: NDArray[np.float64], first: Plane, where: Path, notes: list[str]
) -> NDArray[np.float64]:
    """Return the way from one slice to the next, or name the place where slices are missing or unevenly spaced.

    ``origins`` are those of sorted slices, shape (n_slices, 3).
    """
    if len(origins) == 1:
        return normal * (first.thickness_mm or 1.0)
    step: NDArray[np.float64] = (origins[-1] - origins[0]) / (len(origins) - 1)
    steps = np.diff(origins @ normal)
    usual = float(np.median(steps[steps < 1.5 * np.quantile(steps, 0.1)]))  # a gap may stand at every other place
    multiple = np.rint(steps / usual)
    far = np.flatnonzero(multiple > 1)
    if len(far) and np.abs(steps[far] / usual - multiple[far]).max() < _UNEVEN:
        k, missing = int(far[0]), int((multiple[far] - 1).sum())
        raise FormatError(
            f"{missing} {'slice is' if missing == 1 else 'slices are'} missing",
            where=where,
            got=f"{steps[k]:.2f} mm between {_point(origins[k])} and {_point(origins[k + 1])}",
            expected=f"{usual:.2f} mm, as elsewhere",
            do="copy the series again, whole",
        )
    length = float(np.linalg.norm(step))
    beside = np.linalg.norm(origins - (origins[0] + np.arange(len(origins))[:, None] * step), axis=1) / length
    if beside.max() > max(_UNEVEN, min(_ROUNDED / length, 0.25)):
        k = int(np.abs(steps - usual).argmax())
        even = np.abs(steps - usual).max() <= _UNEVEN * usual
        raise FormatError(
            "the slices do not lie in one line" if even else "the slices are unevenly spaced",
            where=where,
            got=f"{steps[k]:.2f} mm between {_point(origins[k])} and {_point(origins[k + 1])}",
            expected=f"{usual:.2f} mm, as elsewhere",
            do="read the parts apart, or resample the series where it was made",
        )
    if beside.max() > 0.01:
        notes.append(f"slices lie up to {beside.max():.0%} of their distance beside an even grid")
    tilt = float(np.linalg.norm(step - (step @ normal) * normal)) / length
    if tilt > _TILTED:
        notes.append(f"slices are shifted against each other (gantry tilt of {np.degrees(np.arcsin(tilt)):.1f}°)")
    return step


def _at(plane: Plane) -> str:
    return _point(np.asarray(plane.position, np.float64))


def _point(position: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{number:.1f}" for number in position) + ") mm"
