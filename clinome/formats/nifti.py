"""NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz): bytes on disk to and from an array with the matrix that places it in space.

Axes are the file's: index (i, j, k), then what varies at a place (time, direction, colour). The affine leads to millimetres in
**RAS** (x to the right, y to the front, z up), as the format has it, whatever unit the file states. The scale (scl_slope,
scl_inter) is applied. A file that does not say where left and right are (neither sform nor qform) has ``affine`` None: a guess
would be wrong for some, and silently.

References
----------
Cox RW et al. A (sort of) new image data format standard: NIfTI-1. Human Brain Mapping (2004). https://nifti.nimh.nih.gov

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "a.nii.gz"
>>> write_nifti(path, np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([-2.0, 1.0, 1.0, 1.0]))
>>> volume = read_nifti(path)
>>> volume.values.shape, volume.values.dtype.name, volume.affine.diagonal().tolist(), volume.spacing_mm
((2, 3, 4), 'int16', [-2.0, 1.0, 1.0, 1.0], (2.0, 1.0, 1.0))
"""

from __future__ import annotations

import gzip
import logging
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import FormatError, need
from clinome.core.files import replacing

_GZIP = b"\x1f\x8b"
_MAGIC = {b"n+1\0": (344, 1), b"n+2\0": (4, 2)}  # where it stands, version
_PAIRS = (b"ni1\0", b"ni2\0")
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # of the unit codes unknown, metre, millimetre, micron
_COLOURS = {128: 3, 2304: 4}  # type codes RGB24 and RGBA32, with their channels
_PIECE = 1 << 24  # bytes read at a time
_quiet = logging.Logger("clinome.nifti", level=logging.CRITICAL + 1)


class Nifti(NamedTuple):
    """One file.

    Attributes
    ----------
    values
        Shape (i, j, k) or (i, j, k, n). The file's own type when it states no scale, float32 or float64 when it does.
    affine
        From (i, j, k, 1) to millimetres in RAS, shape (4, 4); None when the file does not place its voxels.
    spacing_mm
        Along i, j, k.
    notes
        What is unusual about the file, one sentence each.
    """

    values: NDArray[Any]
    affine: NDArray[np.float64] | None
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...]


class NiftiHeader(NamedTuple):
    """What a file says before its voxels: ``shape`` (i, j, k, n), and as in :class:`Nifti`."""

    shape: tuple[int, int, int, int]
    affine: NDArray[np.float64] | None
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...]


def is_nifti(first: bytes) -> bool:
    """Tell from the first 348 bytes of a file (or of what it holds, compressed) whether it is NIfTI."""
    if first.startswith(_GZIP):
        try:
            first = zlib.decompressobj(31).decompress(first, 348)
        except zlib.error:
            return False
    return any(first[place : place + 4] == magic for magic, (place, _) in _MAGIC.items()) or first[344:348] in _PAIRS


def read_nifti_header(path: str | Path) -> NiftiHeader:
    """Read size and place of a volume, not its voxels.

    Raises
    ------
    FormatError
        As :func:`read_nifti`, for what the header shows.
    """
    path = Path(path)
    with _opened(path) as file:
        header, shape = _header(path, file)
        needed = int(header.get_data_offset()) + int(np.prod(shape, dtype=object)) * int(header["bitpix"]) // 8
        made = NiftiHeader(shape, *_place(path, header))
    size = path.stat().st_size
    if size < needed and not _is_compressed(path):
        raise _broken(path, f"{size:,} bytes", f"{needed:,}")
    return made


def read_nifti(path: str | Path) -> Nifti:
    """Read a NIfTI file whole; its first bytes, not its name, say whether it is compressed.

    Raises
    ------
    FormatError
        When the file is absent, empty, truncated, corrupt or no single-file NIfTI; holds complex numbers or more than four
        dimensions of more than one element; or when sform and qform place left and right (or any other direction) contrarily.
    """
    path = Path(path)
    with _opened(path) as file:
        header, shape = _header(path, file)
        affine, spacing, notes = _place(path, header)
        dtype = header.get_data_dtype()
        raw = _voxels(path, file, header, shape, dtype)
    if int(header["datatype"]) in _COLOURS:
        bands = np.stack([raw[name] for name in dtype.names], axis=-1)
        return Nifti(bands.reshape(*shape[:3], -1), affine, spacing, notes)
    values = _scaled(path, header, raw.astype(dtype.newbyteorder("="), copy=False))
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        notes = (*notes, f"{values.size - np.count_nonzero(finite):,} of {values.size:,} values are not finite")
    return Nifti(values if shape[3] > 1 else values[..., 0], affine, spacing, notes)


def write_nifti(path: str | Path, values: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write ``values``, shape (i, j, k) or (i, j, k, n), placed by ``affine`` (RAS, millimetres), as .nii or .nii.gz.

    Truth values are written as 0 and 1, 64-bit whole numbers in the smallest type that holds them, float16 as float32. Equal
    values give equal bytes.

    Raises
    ------
    ValueError
        For another number of dimensions, or an affine that is not (4, 4).
    OutputError
        When the folder cannot be written.
    """
    nibabel = need("nibabel", "imaging")
    if values.ndim not in (3, 4) or np.shape(affine) != (4, 4):
        raise ValueError(f"values of {values.shape} and an affine of {np.shape(affine)} are no volume")
    kind = nibabel.Nifti1Image if max(values.shape) < 32768 else nibabel.Nifti2Image
    image = kind(_storable(values), np.asarray(affine, np.float64))
    image.header.set_xyzt_units("mm", "sec" if values.ndim == 4 else None)
    image.set_sform(affine, code=1)
    crossing = affine[:3, :3].T @ affine[:3, :3]
    if np.allclose(crossing, np.diag(np.diag(crossing)), atol=1e-4 * crossing.max()):  # quaternions hold no shear
        image.set_qform(affine, code=1)
    content = image.to_bytes()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, 6, mtime=0) if temporary.suffix == ".gz" else content)


# ------------------------------------------------------------------------------------------------------------------------ reading


def _is_compressed(path: Path) -> bool:
    """Tell whether a file is gzip."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


class _opened:
    """The file's content, decompressed as it is read; what the operating system or zlib refuses becomes a FormatError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> BinaryIO:
        try:
            self.file: BinaryIO = self.path.open("rb")
            if self.file.read(2) == _GZIP:
                self.file.close()
                self.file = gzip.open(self.path, "rb")  # type: ignore[assignment]
            else:
                self.file.seek(0)
        except OSError as error:
            raise FormatError("the volume cannot be read", where=self.path, got=error.strerror) from error
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self.file.close()
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            raise _broken(self.path, str(error)) from error


def _broken(path: Path, got: str, expected: str | None = None) -> FormatError:
    return FormatError("the NIfTI file is truncated or corrupt", where=path, got=got, expected=expected, do="copy the file again")


def _header(path: Path, file: BinaryIO) -> tuple[Any, tuple[int, int, int, int]]:
    """Return nibabel's header and the shape as four numbers; the file then stands behind the header."""
    nibabel = need("nibabel", "imaging")
    first = file.read(348)
    if not first:
        raise FormatError("the file is empty", where=path, got="0 bytes", do="copy the file again")
    if first[344:348] in _PAIRS:
        raise FormatError("the header stands in one file and the voxels in another", where=path, do="convert it to a single .nii")
    version = next((version for magic, (place, version) in _MAGIC.items() if first[place : place + 4] == magic), None)
    if version is None:
        if len(first) < 348:
            raise _broken(path, f"{len(first)} bytes", "a header of 348")
        raise FormatError("the file is not NIfTI", where=path, got=f"first bytes {first[:8]!r}", do="convert it with dcm2niix")
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    content = first if version == 1 else first + file.read(540 - 348)
    try:
        header = kind(content, check=False)
        header.check_fix(logger=_quiet, error_level=40)
        shape = tuple(int(n) for n in header.get_data_shape())
        header.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError, KeyError, ValueError, struct.error) as error:
        raise _broken(path, str(error)) from error
    if not shape or min(shape) < 1:
        raise _broken(path, f"a volume of {' × '.join(map(str, shape)) or 'no'} voxels", "at least one voxel")
    wide = [n for n in shape[3:] if n > 1]
    if len(wide) > 1:
        raise FormatError(
            "the file has more than four dimensions", where=path, got=" × ".join(map(str, shape)), do="split it into volumes"
        )
    space = (*shape[:3], 1, 1)
    return header, (space[0], space[1], space[2], wide[0] if wide else 1)


def _voxels(path: Path, file: BinaryIO, header: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read as many bytes as the header promises, no more, into an array of the file's type, shape (i, j, k, n)."""
    if dtype.kind == "c":
        raise FormatError("the voxels are complex numbers", where=path, got=str(dtype), do="write magnitude or phase alone")
    start = int(header.get_data_offset())
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    seen = file.tell()
    if start < seen or start > 1 << 30:
        raise _broken(path, f"voxels from byte {start:,}", f"from byte {seen} on")
    there = path.stat().st_size * 1100  # deflate packs at most 1,032 to one
    if needed > there:
        raise _broken(path, f"{path.stat().st_size:,} bytes", f"{needed:,} bytes of voxels")
    file.seek(start)
    content = bytearray()
    while len(content) < needed and (piece := file.read(min(_PIECE, needed - len(content)))):
        content += piece
    if len(content) < needed:
        raise _broken(path, f"{len(content):,} bytes of voxels", f"{needed:,} ({' × '.join(map(str, shape))} of {dtype})")
    while file.read(_PIECE):  # gzip compares its checksum at the end
        pass
    return np.frombuffer(content, dtype).reshape(shape, order="F")


def _scaled(path: Path, header: Any, raw: NDArray[Any]) -> NDArray[Any]:
    """Apply scl_slope and scl_inter where the file states them."""
    nibabel = need("nibabel", "imaging")
    try:
        slope, shift = header.get_slope_inter()
    except nibabel.spatialimages.HeaderDataError as error:
        raise _broken(path, str(error)) from error
    if slope is None or (slope, shift) == (1.0, 0.0):
        return raw if raw.dtype.kind != "f" or raw.dtype.itemsize <= 8 else raw.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are noted
        wide: NDArray[np.float64] = raw.astype(np.float64) * slope + shift
        return wide.astype(np.float32) if raw.dtype.itemsize <= 2 or raw.dtype == np.float32 else wide


@np.errstate(over="ignore", invalid="ignore")
def _place(path: Path, header: Any) -> tuple[NDArray[np.float64] | None, tuple[float, float, float], tuple[str, ...]]:
    """Return affine, spacing and notes, in millimetres; refuse two matrices that contradict each other."""
    unit = int(header["xyzt_units"]) & 7
    scale = _MILLIMETRES.get(unit, 1.0)
    sizes = np.abs(np.asarray(header["pixdim"], np.float64)[1:4]) * scale
    sizes = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0)
    notes: list[str] = [] if scale == 1.0 else [f"lengths are stated in {'metres' if unit == 1 else 'microns'}"]
    known: dict[str, NDArray[np.float64]] = {}
    for name, of in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            matrix, code = of(coded=True)
        except Exception as error:  # quaternions that are none: nibabel raises several kinds
            raise _broken(path, f"{name}: {error}") from error
        if code:
            matrix = np.asarray(matrix, np.float64).copy()
            matrix[:3] *= scale
            if not np.isfinite(matrix).all():
                raise _broken(path, f"the {name} holds numbers that are not finite")
            known[name] = matrix
    if len(known) == 2 and not np.allclose(known["sform"], known["qform"], atol=1e-2):
        _refuse_contrary(path, known)
        notes.append("sform and qform differ; the sform is used")
    affine = known.get("sform", known.get("qform"))
    if affine is None:
        notes.append("the file does not say which side is left (neither sform nor qform)")
    else:
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return affine, (float(sizes[0]), float(sizes[1]), float(sizes[2])), tuple(notes)


def _refuse_contrary(path: Path, known: dict[str, NDArray[np.float64]]) -> None:
    """Stop where an axis runs another way (by more than 60°) in one matrix than in the other."""
    orientation = need("nibabel", "imaging").aff2axcodes
    codes = {name: "".join(letter or "?" for letter in orientation(matrix)) for name, matrix in known.items()}
    columns = [matrix[:3, :3] / np.maximum(np.linalg.norm(matrix[:3, :3], axis=0), 1e-9) for matrix in known.values()]
    if ((columns[0] * columns[1]).sum(axis=0) < 0.5).any():
        raise FormatError(
            "sform and qform say different things of where left, front and top are",
            where=path,
            got=f"axes {codes['sform']} by the sform, {codes['qform']} by the qform",
            do="find out which is right, and set the code of the other to 0 (nibabel: image.header['qform_code'] = 0)",
        )


def _storable(values: NDArray[Any]) -> NDArray[Any]:
    """Return ``values`` in a type that other programs read."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        kinds = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
        small = next((kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), None)
        return values if small is None else values.astype(small)
    return values.astype(np.float32) if values.dtype == np.float16 else values
