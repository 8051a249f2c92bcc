"""From picture files to one array of equal squares on disk, in the order of the images table.

Decoding is the slow part of working with photographs, and every epoch of training wants them again; so they are decoded once,
into an uncompressed ``.npy`` file that is mapped, not loaded: memory stays bounded however many pictures there are. A picture that
cannot be read is set aside with the reason, and the others go on.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.lib import format as npy
from numpy.typing import NDArray

from clinome.core.errors import FormatError, OutputError, need
from clinome.core.progress import track
from clinome.formats.dicom import is_dicom
from clinome.formats.picture import read_square
from clinome.imaging.reading import fault_of, set_aside_table
from clinome.imaging.scan import Scan, first_bytes, read_scan

_BLOCK = 256  # pictures decoded ahead of the writer
Fault = tuple[str, str]  # what, and the reason, as in core.schema.SET_ASIDE


class Squares(NamedTuple):
    """``digest``, a SHA-256 of all pixels, and the pictures that were ``set_aside`` (``core.schema.SET_ASIDE``)."""

    digest: str
    set_aside: pl.DataFrame


def squares(images: pl.DataFrame, *, root: Path, path: Path, size: int, mirror: bool = True, threads: int = 2) -> Squares:
    """Write every picture of ``images`` that can be read as a ``size`` × ``size`` square to ``path``.

    Parameters
    ----------
    images
        Rows of ``core.schema.IMAGES``; ``path`` is taken relative to ``root``. Photographs and radiographs: PNG, JPEG, TIFF, DICOM.
        Where ``inverted`` is true, low values are made bright.
    path
        The ``.npy`` file to write: uint8, shape (n_readable, size, size, 3), the rows that are not set aside in their order.
    mirror
        Flip pictures whose ``laterality`` is 'left', so that nose and temple fall on one side in both eyes.

    Raises
    ------
    FormatError
        When not one of the pictures can be read; it gives the first one's fault.
    OutputError
        When the disk has no room for the array.
    """
    needed = images.height * size * size * 3
    if (free := shutil.disk_usage(path.parent).free) < needed + (64 << 20):
        raise OutputError(
            "the disk is too full for the decoded pictures",
            where=path.parent,
            got=f"{free >> 20} MiB free",
            expected=f"{needed >> 20} MiB for {images.height:,} pictures",
            do="free space, or choose a smaller size",
        )
    files = [root / name for name in images["path"]]
    left = _is(images, "laterality", "left") if mirror else np.zeros(images.height, bool)
    inverted = _is(images, "inverted", "true")
    array = npy.open_memmap(path, mode="w+", dtype=np.uint8, shape=(images.height, size, size, 3))
    digest, faults = hashlib.sha256(), {}
    for row, pixels in track(enumerate(_decoded(files, size, threads)), "reading pictures", total=len(files)):
        if isinstance(pixels, tuple):
            faults[row] = pixels
            continue
        upright = pixels[:, ::-1] if left[row] else pixels
        array[row - len(faults)] = 255 - upright if inverted[row] else upright
        digest.update(array[row - len(faults)])
    array.flush()
    if faults:
        if len(faults) == len(files):
            do = "paths are taken relative to the folder of the images table; check its column 'path'"
            raise FormatError(f"none of the {len(files):,} pictures can be read", where=files[0], got=faults[0][1], do=do)
        del array
        _shorten(path, len(files) - len(faults))
    digest.update(repr((len(files) - len(faults), size, size, 3)).encode())
    return Squares(digest.hexdigest(), set_aside_table(images, faults))


def content_key(images: pl.DataFrame, root: Path) -> list[tuple[str, int, int]]:
    """Return (path, bytes, time of last change) of every picture: what tells, without reading them, that none has changed.

    Of a file that is not there, both numbers are −1.
    """
    found = []
    for name in images["path"]:
        try:
            about = (root / name).stat()
        except OSError:
            found.append((name, -1, -1))
            continue
        found.append((name, about.st_size, about.st_mtime_ns))
    return found


def as_colours(scan: Scan) -> NDArray[np.uint8]:
    """Return a picture as 8-bit colours, shape (height, width, 3); deeper grey is stretched over its middle 99.8 %.

    Raises
    ------
    FormatError
        For a volume, or several frames.
    """
    if scan.values.ndim != 3 or len(scan.values) not in (1, 3):
        got = " × ".join(map(str, scan.values.shape))
        raise FormatError("the file holds a volume or several frames, not a picture", where=scan.path, got=got)
    values = scan.values
    if values.dtype != np.uint8:
        low, high = np.quantile(values, (0.001, 0.999))
        values = (np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0) * 255.0).round().astype(np.uint8)
    return np.repeat(values, 3 // len(values), axis=0).transpose(1, 2, 0)


def _is(images: pl.DataFrame, column: str, value: str) -> NDArray[np.bool_]:
    if column not in images.columns:
        return np.zeros(images.height, bool)
    return (images[column].cast(pl.String).fill_null("") == value).to_numpy()


def _decoded(files: list[Path], size: int, threads: int) -> Iterator[NDArray[np.uint8] | Fault]:
    """Yield the squares of ``files`` in order, or what is wrong; Pillow decodes without holding the interpreter's lock."""

    def read(file: Path) -> NDArray[np.uint8] | Fault:
        try:
            return square(file, size)
        except Exception as error:  # one bad file never ends a run
            return fault_of(error)

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for start in range(0, len(files), _BLOCK):
            yield from pool.map(read, files[start : start + _BLOCK])


def square(file: Path, size: int) -> NDArray[np.uint8]:
    """Return the largest centred square of a photograph or radiograph (PNG, JPEG, TIFF, DICOM) at ``size`` pixels: (size, size, 3).

    Raises
    ------
    FormatError
        When the file cannot be read, or is a volume.
    """
    if not is_dicom(first_bytes(file)):
        return read_square(file, side=size, gap=2)
    pillow = need("PIL.Image", "imaging")
    whole = pillow.fromarray(as_colours(read_scan(file)))
    least = min(whole.size)
    left, top = (whole.width - least) / 2, (whole.height - least) / 2
    return np.array(
        whole.resize((size, size), pillow.Resampling.BILINEAR, box=(left, top, left + least, top + least), reducing_gap=2)
    )


def _shorten(path: Path, rows: int) -> None:
    """Keep the first ``rows`` of an ``.npy`` file, without copying them; its header stays as long as it was."""
    with path.open("r+b") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        start = file.tell()
        file.seek(0)
        head = file.read(start)
        fewer = re.sub(rb"\(\d+,", b"(%d," % rows, head, count=1).rstrip()
        file.seek(0)
        file.write(fewer.ljust(start - 1) + b"\n")
        file.truncate(start + rows * int(np.prod(shape[1:])) * dtype.itemsize)
