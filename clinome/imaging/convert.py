"""From picture files to one array of equal squares on disk, in the order of the images table.

Decoding is the slow part of working with photographs, and every epoch of training wants them again; so they are decoded once,
into an uncompressed ``.npy`` file that is mapped, not loaded: memory stays bounded however many pictures there are.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from clinome.core.errors import FormatError, OutputError
from clinome.core.progress import track
from clinome.formats.picture import read_square

_BLOCK = 256  # pictures decoded ahead of the writer


def squares(images: pl.DataFrame, *, root: Path, path: Path, size: int, mirror: bool = True, threads: int = 2) -> str:
    """Write every picture of ``images`` as a ``size`` × ``size`` square to ``path`` and return a SHA-256 of all pixels.

    Parameters
    ----------
    images
        Rows of ``core.schema.IMAGES``; ``path`` is taken relative to ``root``.
    path
        The ``.npy`` file to write: uint8, shape (n_images, size, size, 3).
    mirror
        Flip pictures whose ``laterality`` is 'left', so that nose and temple fall on one side in both eyes.

    Raises
    ------
    FormatError
        For the first picture, in the order of the table, that is absent, truncated or corrupt.
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
    left = images["laterality"].fill_null("") == "left" if mirror and "laterality" in images.columns else None
    array = open_memmap(path, mode="w+", dtype=np.uint8, shape=(images.height, size, size, 3))
    digest = hashlib.sha256(repr(array.shape).encode())
    for row, pixels in track(enumerate(_decoded(files, size, threads)), "reading pictures", total=len(files)):
        array[row] = pixels[:, ::-1] if left is not None and left[row] else pixels
        digest.update(array[row])
    array.flush()
    return digest.hexdigest()


def _decoded(files: list[Path], size: int, threads: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the squares of ``files`` in order; Pillow decodes without holding the interpreter's lock."""
    read = partial(read_square, side=size, gap=2)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for start in range(0, len(files), _BLOCK):
            yield from pool.map(read, files[start : start + _BLOCK])


def content_key(images: pl.DataFrame, root: Path) -> list[tuple[str, int, int]]:
    """Return (path, bytes, time of last change) of every picture: what tells, without reading them, that none has changed.

    Raises
    ------
    FormatError
        When a file is absent.
    """
    found = []
    for name in images["path"]:
        try:
            about = (root / name).stat()
        except OSError as error:
            raise FormatError(
                "a picture of the images table is not there",
                where=root / name,
                got=error.strerror,
                do="paths are taken relative to the folder of the images table; check its column 'path'",
            ) from error
        found.append((name, about.st_size, about.st_mtime_ns))
    return found
