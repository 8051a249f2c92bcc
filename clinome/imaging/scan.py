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

import re
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import FormatError
from clinome.formats.dicom import Header, by_series, is_dicom, read_header
from clinome.formats.dicom_pixels import Window, is_mirrored, read_frames
from clinome.formats.dicom_series import is_placed, read_volume
from clinome.formats.nifti import is_nifti, read_nifti, write_nifti
from clinome.formats.picture import is_picture, read_native

_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from LPS to RAS and back
_BESIDE = re.compile(  # names of files that may lie among DICOM images and are passed over
    r"\.(txt|md|csv|tsv|json|xml|html?|pdf|db|ini|inf|log|exe|lnk|zip|png|jpe?g|gif|tiff?|gz|nii|bval|bvec|sha256|md5|parquet|toml)$",
    re.IGNORECASE,
)


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


def read_scan(
    path: str | Path,
    *,
    series: str | None = None,
    modality: str | None = None,
    window: Window = False,
    inverted: bool = False,
) -> Scan:
    """Read a NIfTI file, a DICOM file, a folder with a DICOM series, or a picture; the content says which it is.

    Parameters
    ----------
    path
        File or folder; DICOM files of a folder are looked for in its folders too.
    series
        SeriesInstanceUID of the series to take, needed where a folder holds several.
    modality
        DICOM's code of what is wanted ('CT'); anything else is refused. Files that state none are taken.
    window
        DICOM only: False gives the modality's values (Hounsfield units), True maps the file's first window to 0–1, a pair
        (centre, width) maps that one.
    inverted
        The file holds greyscale whose low values are bright and does not say so (films exported so): mirror it within its type.

    Raises
    ------
    FormatError
        One sentence for each of: absent, empty, encrypted or truncated files, unsupported compression, no pixels, another
        modality, several series, missing or unevenly spaced slices, mixed spacings, sizes or directions.
    """
    path = Path(path)
    if path.is_dir():
        scan = _from_headers(series_in(path, series=series), path, modality, window)
    else:
        scan = _from_file(path, modality, window)
    return replace(scan, values=_mirrored(scan.values)) if inverted else scan


def write_on(path: str | Path, values: NDArray[Any], scan: Scan) -> None:
    """Write an array that lies on ``scan`` (a segmentation, a map) as NIfTI, on the grid and in the order of the scan's file.

    Parameters
    ----------
    values
        Shape (depth, height, width) or (channels, depth, height, width), as in ``scan.values``.

    Raises
    ------
    FormatError
        When the scan has no place in space: a picture, or a file that does not say where left is.
    """
    if scan.grid is None:
        raise FormatError(
            "a scan without a place in space cannot be written as NIfTI", where=scan.path, do="save the array as .npy"
        )
    several = values if values.ndim == 4 else values[None]
    laid = on_file_grid(several, scan.grid).transpose(3, 2, 1, 0)
    write_nifti(path, laid[..., 0] if values.ndim == 3 else laid, _RAS @ scan.grid.affine)


def series_in(folder: Path, *, series: str | None = None) -> list[Header]:
    """Return the headers of the one series in ``folder`` and its folders, or of the one that ``series`` names.

    Raises
    ------
    FormatError
        When there is no DICOM file, or a file that should be DICOM is not (it may be a slice), or several series.
    """
    headers = [read_header(file) for file in dicom_files(folder)]
    groups = by_series(headers)
    if not groups:
        raise FormatError("the folder holds no DICOM file", where=folder, do="name a file, or the folder of a series")
    if series is None and len(groups) == 1:
        return headers
    if series in groups:
        return groups[str(series)]
    listed = "; ".join(f"{uid} ({found[0].modality}, {sum(len(h.planes) for h in found)} images)" for uid, found in groups.items())
    what = "the folder holds several series" if series is None else "the folder does not hold that series"
    raise FormatError(what, where=folder, got=listed, expected=series, do="name one with series=…")


def dicom_files(folder: Path) -> list[Path]:
    """List, sorted, the files of ``folder`` and its folders that are DICOM or should be, by content and name."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
            continue
        if not _BESIDE.search(file.name) or is_dicom(first_bytes(file)):
            found.append(file)
    return found


def first_bytes(path: Path) -> bytes:
    """Return the first 1,024 bytes of a file.

    Raises
    ------
    FormatError
        When it cannot be read or is empty.
    """
    try:
        with path.open("rb") as file:
            first = file.read(1024)
    except OSError as error:
        raise FormatError("the file cannot be read", where=path, got=error.strerror, do="check its path") from error
    if not first:
        raise FormatError("the file is empty", where=path, got="0 bytes", do="copy the file again")
    return first


def _from_file(path: Path, modality: str | None, window: Window) -> Scan:
    first = first_bytes(path)
    if is_dicom(first):  # before all else: a preamble may be the header of a TIFF
        return _from_headers([read_header(path)], path, modality, window)
    if is_nifti(first):
        volume = read_nifti(path)
        channels_first = np.moveaxis(volume.values, -1, 0) if volume.values.ndim == 4 else volume.values[None]
        values = channels_first.transpose(0, 3, 2, 1)
        if volume.affine is None:
            return Scan(values, volume.spacing_mm[::-1], path=path, notes=volume.notes)
        return placed(values, _RAS @ volume.affine, path=path, notes=volume.notes)
    if is_picture(first):
        return Scan(np.moveaxis(read_native(path), -1, 0), path=path)
    return _from_headers([read_header(path)], path, modality, window)


def _from_headers(headers: list[Header], path: Path, modality: str | None, window: Window) -> Scan:
    first = headers[0]
    if modality is not None and first.modality not in (None, modality):
        raise FormatError("the scan is of another modality", where=path, got=first.modality, expected=modality)
    about: dict[str, Any] = {"modality": first.modality, "path": path, "series": first.series}
    notes = ("grey values were mirrored: the file shows low values as white",) if is_mirrored(first, window) else ()
    if is_placed(headers):
        volume = read_volume(headers, where=path, window=window)
        return placed(volume.values, volume.affine, notes=(*notes, *volume.notes), **about)
    if len(headers) > 1:
        raise FormatError(
            "the series is a set of separate pictures: they do not say where they lie",
            where=path,
            got=f"{len(headers)} files",
            do="read each by its own path",
        )
    frames = list(read_frames(first, window=window))
    if len(frames) == 1:
        return Scan(np.moveaxis(frames[0], -1, 0), first.planes[0].pixel_mm or None, notes=notes, **about)
    notes = (*notes, "the frames do not say where they lie; they are in the order of the file")
    return Scan(np.moveaxis(np.stack(frames), -1, 0), None, notes=notes, **about)


def _mirrored(values: NDArray[Any]) -> NDArray[Any]:
    """Exchange low and high: within the fewest bits, at least 8, that hold whole numbers from 0; otherwise within their range."""
    low, high = values.min(), values.max()
    if values.dtype.kind not in "iu" or low < 0:
        return np.asarray(low + high - values)
    return np.asarray((1 << max(8, int(high).bit_length())) - 1 - values, values.dtype)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
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


def file_axes(affine: NDArray[np.float64]) -> str:
    """Say where the axes of a file run, most nearly: 'LPS' is to Left, to Posterior, to Superior.

    >>> file_axes(np.array([[0, -1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, -3.0, 0], [0, 0, 0, 1]]))
    'PRI'
    """
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order = max(permutations(range(3)), key=lambda body: sum(abs(columns[d, a]) for a, d in enumerate(body)))
    return "".join("LPS"[d] if columns[d, a] > 0 else "RAI"[d] for a, d in enumerate(order))


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
