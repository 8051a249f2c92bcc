"""PNG and JPEG pictures: bytes on disk to and from arrays of 8-bit red, green and blue.

Every picture comes out alike, whatever its file holds: greyscale and palettes become three channels, 16-bit values are
scaled to 8 bits, transparent pixels are laid over black, and a photograph that its EXIF tag calls rotated is turned upright.

>>> import tempfile, numpy as np
>>> path = Path(tempfile.mkdtemp()) / "red.png"
>>> write_picture(path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
>>> read_picture(path).shape, read_picture(path)[0, 0].tolist()
((2, 3, 3), [255, 0, 0])
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import FormatError, need
from clinome.core.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

LARGEST = 89_478_485  # pixels; a file that promises more is taken for a decompression bomb (Pillow warns from here on)
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_BROKEN = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, EOFError, struct.error, zlib.error)


def read_picture(path: str | Path, *, at_least: int | None = None) -> NDArray[np.uint8]:
    """Read a PNG or JPEG file whole.

    Parameters
    ----------
    path
        The file; its first bytes, not its name, say which format it is.
    at_least
        Lets a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size (several times faster) as long as both sides keep this
        many pixels. PNG has no such short cut.

    Returns
    -------
    Pixels, shape (height, width, 3), red, green, blue, 0–255.

    Raises
    ------
    FormatError
        When the file is absent, is neither PNG nor JPEG, is truncated or corrupt (the checksums of PNG chunks are compared),
        or promises more than 89 million pixels.
    """
    image_module = need("PIL.Image", "imaging")
    path = Path(path)
    content = _bytes(path)
    kind = next((name for signature, name in _SIGNATURES.items() if content.startswith(signature)), None)
    if kind is None:
        raise FormatError(
            "the picture is neither PNG nor JPEG", where=path, got=f"first bytes {content[:8]!r}", do="convert it to PNG"
        )
    try:
        if kind == "PNG":
            _check_chunks(content)
        with image_module.open(io.BytesIO(content), formats=(kind,)) as image:
            if image.width * image.height > LARGEST:
                raise FormatError(
                    "the picture is too large to be a photograph",
                    where=path,
                    got=f"{image.width} × {image.height} pixels",
                    expected=f"at most {LARGEST:,} pixels",
                    do="remove its row from the images table, or scale it down",
                )
            if at_least is not None and kind == "JPEG":
                image.draft("RGB", (at_least, at_least))
            return _rgb(image)
    except image_module.DecompressionBombError as error:
        raise FormatError("the picture is too large to be a photograph", where=path, got=str(error)) from error
    except _BROKEN as error:
        raise FormatError(
            f"the {kind} picture is truncated or corrupt",
            where=path,
            got=str(error).strip() or type(error).__name__,
            do="copy the file again, or remove its row from the images table",
        ) from error


def write_picture(path: str | Path, pixels: NDArray[np.uint8]) -> None:
    """Write ``pixels``, shape (height, width, 3), 0–255, as the format that the suffix names: .png, .jpg or .jpeg (quality 95).

    Raises
    ------
    OutputError
        When the folder cannot be written.
    """
    image = need("PIL.Image", "imaging").fromarray(np.ascontiguousarray(pixels))
    with replacing(path) as temporary:
        image.save(temporary, **({} if temporary.suffix.lower() == ".png" else {"quality": 95, "subsampling": 0}))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(
            "the picture cannot be read", where=path, got=error.strerror, do="check the column 'path' of the images table"
        ) from error


def _check_chunks(content: bytes) -> None:
    """Walk the chunks of a PNG file and compare their CRCs; Pillow itself does not look at those of the pixel data."""
    place = 8
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        (stated,) = struct.unpack_from(">I", content, place + 8 + size)
        if zlib.crc32(memoryview(content)[place + 4 : place + 8 + size]) != stated:
            raise ValueError(f"wrong checksum in the {kind.decode('latin-1')} chunk at byte {place}")
        if kind == b"IEND":
            return
        place += 12 + size
    raise ValueError(f"the file ends at byte {len(content)} without an IEND chunk")


def _rgb(image: PilImage) -> NDArray[np.uint8]:
    """Decode to (height, width, 3), upright, without transparency."""
    upright = need("PIL.ImageOps", "imaging").exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # 16-bit greyscale
        wide = np.clip(np.asarray(upright, dtype=np.float64), 0, 65535)
        grey = np.rint(wide / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layered = np.asarray(upright.convert("RGBA"), dtype=np.uint16)
        return ((layered[:, :, :3] * layered[:, :, 3:] + 127) // 255).astype(np.uint8)
    return np.array(upright.convert("RGB"))
