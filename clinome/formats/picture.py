"""PNG, JPEG and TIFF pictures: bytes on disk to and from arrays.

:func:`read_picture` makes every picture alike, whatever its file holds: 8-bit red, green and blue. Greyscale and palettes become
three channels, 16-bit values are scaled to 8 bits. :func:`read_native` keeps depth and channels: a 16-bit radiograph stays one
channel of uint16. In both, transparent pixels are laid over black, a photograph that its EXIF tag calls rotated is turned upright,
and a TIFF that calls low values white is made bright where it is white.

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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import FormatError, need
from clinome.core.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

LARGEST = 89_478_485  # pixels; a file that promises more is taken for a decompression bomb (Pillow warns from here on)
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_PHOTOMETRIC, _MIN_IS_WHITE = 262, 0  # TIFF's tag, and its value for inverted greyscale
_ORIENTATION = 274  # EXIF's tag; 1 is upright
_BROKEN = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, EOFError, struct.error, zlib.error)


def is_picture(first: bytes) -> bool:
    """Tell from the first 8 bytes of a file whether it is a picture that is read here."""
    return any(first.startswith(signature) for signature in _SIGNATURES)


def read_picture(path: str | Path, *, at_least: int | None = None) -> NDArray[np.uint8]:
    """Read a PNG, JPEG or TIFF file whole as 8-bit colours.

    Parameters
    ----------
    path
        The file; its first bytes, not its name, say which format it is.
    at_least
        Lets a large JPEG be decoded at 1/2, 1/4 or 1/8 of its size (several times faster) as long as both sides keep this
        many pixels. The other formats have no such short cut.

    Returns
    -------
    Pixels, shape (height, width, 3), red, green, blue, 0–255.

    Raises
    ------
    FormatError
        When the file is absent, is none of these formats, is truncated or corrupt (the checksums of PNG chunks are compared),
        holds several pages, or promises more than 89 million pixels.
    """
    return _read(Path(path), _rgb, at_least)


def read_native(path: str | Path) -> NDArray[Any]:
    """Read a PNG, JPEG or TIFF file whole in its own depth.

    Returns
    -------
    Pixels, shape (height, width, channels): 1 channel of grey or 3 of red, green and blue; uint8, or uint16, int32 or float32
    where the file's greyscale is deeper.

    Raises
    ------
    FormatError
        As :func:`read_picture`, and for colours of 16 bits a channel, which would be cut to 8.
    """
    return _read(Path(path), _native, None)


def read_square(path: str | Path, *, side: int, gap: float | None = None) -> NDArray[np.uint8]:
    """Read a picture, cut the largest centred square from it, and scale that to ``side``: shape (side, side, 3), 8-bit colours.

    Scaling averages over all pixels it covers (no aliasing of thin vessels).

    Parameters
    ----------
    gap
        Allows the picture to be brought down by a whole factor first, cheaply, to no less than ``gap`` × ``side`` pixels: a JPEG
        while it is decoded, others by averages of blocks. 1 is quickest, from 2 on hardly to be told from None, no short cut.

    Raises
    ------
    FormatError
        As :func:`read_picture`.
    """
    pillow = need("PIL.Image", "imaging")

    def decode(image: PilImage) -> NDArray[np.uint8]:
        plain = image.mode == "RGB" and "transparency" not in image.info and image.getexif().get(_ORIENTATION, 1) == 1
        whole = image if plain else pillow.fromarray(_rgb(image))
        least = min(whole.size)
        left, top = (whole.width - least) / 2, (whole.height - least) / 2
        box = (left, top, left + least, top + least)
        return np.array(whole.resize((side, side), pillow.Resampling.BILINEAR, box=box, reducing_gap=gap))

    return _read(Path(path), decode, None if gap is None else int(np.ceil(gap * side)))


def _read(path: Path, decode: Callable[[PilImage], NDArray[Any]], at_least: int | None) -> NDArray[Any]:
    image_module = need("PIL.Image", "imaging")
    content = _bytes(path)
    kind = next((name for signature, name in _SIGNATURES.items() if content.startswith(signature)), None)
    if kind is None:
        got = f"first bytes {content[:8]!r}" if content else "0 bytes"
        raise FormatError("the picture is neither PNG, JPEG nor TIFF", where=path, got=got, do="convert it to PNG")
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
            if getattr(image, "n_frames", 1) > 1:
                got = f"{image.n_frames} pages"
                raise FormatError("the picture holds several pages", where=path, got=got, expected="one", do="split it")
            if at_least is not None and kind == "JPEG":
                image.draft("RGB", (at_least, at_least))
            return decode(image)
    except image_module.DecompressionBombError as error:
        raise FormatError("the picture is too large to be a photograph", where=path, got=str(error)) from error
    except _Cut as error:
        raise FormatError(
            "the picture has 16 bits a colour, which would be cut to 8",
            where=path,
            expected="8 bits a colour, or greyscale",
            do="read it as 8-bit colours (read_picture), or convert it",
        ) from error
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
    while place + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if place + 12 + size > len(content):
            break
        (stated,) = struct.unpack_from(">I", content, place + 8 + size)
        if zlib.crc32(memoryview(content)[place + 4 : place + 8 + size]) != stated:
            raise ValueError(f"wrong checksum in the {kind.decode('latin-1')} chunk at byte {place}")
        if kind == b"IEND":
            return
        place += 12 + size
    raise ValueError(f"the file ends at byte {len(content)} without an IEND chunk")


class _Cut(Exception):
    """Depth would be lost."""


def _rgb(image: PilImage) -> NDArray[np.uint8]:
    """Decode to (height, width, 3), upright, without transparency."""
    upright = need("PIL.ImageOps", "imaging").exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # 16-bit greyscale
        wide = np.clip(_bright(image, np.asarray(upright)).astype(np.float64), 0, 65535)
        grey = np.rint(wide / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if _transparent(upright):
        return _over_black(upright)
    return np.array(upright.convert("RGB"))


def _native(image: PilImage) -> NDArray[Any]:
    """Decode to (height, width, channels), upright, without transparency, in the file's depth."""
    if any("16" in str(tile[3]) for tile in getattr(image, "tile", ())) and image.mode in ("RGB", "RGBA"):
        raise _Cut
    upright = need("PIL.ImageOps", "imaging").exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        values = _bright(image, np.asarray(upright))
        return np.array(values, dtype=values.dtype.newbyteorder("="))[:, :, None]
    if _transparent(upright):
        colours = _over_black(upright)
        return colours[:, :, :1] if upright.mode == "LA" else colours
    if upright.mode == "P":
        colours = np.array(upright.convert("RGB"))
        return colours[:, :, :1] if (colours == colours[:, :, :1]).all() else colours
    if upright.mode in ("1", "L"):
        return np.array(upright.convert("L"))[:, :, None]
    return np.array(upright.convert("RGB"))


def _bright(image: PilImage, values: NDArray[Any]) -> NDArray[Any]:
    """Mirror deep greyscale whose TIFF calls low values white (Pillow does so for 8 bits only)."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or tags.get(_PHOTOMETRIC) != _MIN_IS_WHITE or values.dtype.kind != "u":
        return values
    return np.iinfo(values.dtype).max - values


def _transparent(image: PilImage) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _over_black(image: PilImage) -> NDArray[np.uint8]:
    layered = np.asarray(image.convert("RGBA"), dtype=np.uint16)
    return ((layered[:, :, :3] * layered[:, :, 3:] + 127) // 255).astype(np.uint8)
