"""The pixels of DICOM files: decoded, rescaled to the modality's values, windowed on request.

Values are in the order of the file: Hounsfield units for CT, nothing windowed unless asked for. What MONOCHROME1 calls white is
made bright, as a reader of films sees it; colours become red, green and blue, palettes are looked up.

References
----------
DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality look-up), C.11.2 (values of interest). https://dicomstandard.org
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import ClinomeError, FormatError, MissingExtra, need
from clinome.core.machine import free_memory
from clinome.formats.dicom import Header, functional_group, items_of, number_of, open_dataset, text_of
from clinome.formats.gdcm_process import frame_by_gdcm

Window = bool | tuple[float, float]  # none, the file's own first one, or (centre, width)
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_PLUGINS = {
    **dict.fromkeys(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", *_JPEG_2000), "pillow"),
    **dict.fromkeys(("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"), "gdcm"),  # lossless JPEG
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), "pyjpegls"),  # JPEG-LS
}
_PHYSICAL = ("CT", "PT", "NM")  # whose values are units of something: MONOCHROME1 changes how they are shown, not what they are


def read_frames(header: Header, *, window: Window = False) -> Iterator[NDArray[Any]]:
    """Yield the frames of a file in order, each of shape (rows, columns, channels).

    Integers stay integers where the rescaling is by integers, in the smallest type that holds them; the rest is float32. With
    ``window`` they are float32 in 0–1: True takes the file's first window, a pair is (centre, width).

    Raises
    ------
    FormatError
        When the pixels are truncated or corrupt, their compression cannot be decoded, or no window is stated.
    """
    dataset = open_dataset(header.path, pixels=True)
    _check_pixels(header, dataset)
    count, frames = 0, _decoded(header, dataset)
    while True:
        try:
            raw = next(frames, None)
        except ClinomeError:
            raise
        except Exception as error:  # decoders raise nearly anything
            raise _undecodable(header, count, error) from error
        if raw is None or count == len(header.planes):
            break
        values = _valued(header, dataset, count, raw, window)
        if values.shape != (header.rows, header.columns, header.channels):
            got, expected = values.shape, (header.rows, header.columns, header.channels)
            raise FormatError("the pixels are not of the size that the file states", where=header.path, got=got, expected=expected)
        yield values
        count += 1
    if count < len(header.planes):
        raise FormatError(
            "the file holds fewer frames than it states",
            where=header.path,
            got=count,
            expected=len(header.planes),
            do="copy it again",
        )


def _check_pixels(header: Header, dataset: Any) -> None:
    """Refuse a file without pixels, one whose compression nothing here decodes, and one that promises more than memory holds."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise FormatError(
            "the DICOM file holds no pixels", where=header.path, got="a header alone, or cut short", do="export it again"
        )
    uid = need("pydicom.uid", "imaging").UID(header.syntax)
    try:
        decoder = need("pydicom.pixels", "imaging").get_decoder(uid)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        raise _unsupported(header, f"transfer syntax {uid.name}")
    if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta = need("pydicom.dataset", "imaging").FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid
    bytes_a_sample = max(1, int(number_of(dataset, "BitsAllocated") or 8) // 8)
    size = header.rows * header.columns * int(number_of(dataset, "SamplesPerPixel") or 1) * bytes_a_sample
    memory = free_memory()
    if memory is not None and size * len(header.planes) > memory:
        got = f"{len(header.planes):,} × {header.rows:,} × {header.columns:,} pixels"
        raise FormatError("the image is larger than the free memory", where=header.path, got=got, expected=f"{memory >> 20:,} MiB")


def _unsupported(header: Header, got: str) -> FormatError:
    try:
        need("gdcm", "imaging")
    except MissingExtra as error:
        got += f"; {error.what}"
    return FormatError(
        "the pixels are compressed in a way that is not supported",
        where=header.path,
        got=got,
        expected="uncompressed, RLE, JPEG of 8 bits, lossless JPEG, JPEG-LS or JPEG 2000",
        do="export it uncompressed (dcmdjpeg, gdcmconv --raw)",
    )


def _undecodable(header: Header, frame: int, error: Exception) -> FormatError:
    if "does not support" in str(error) or "not supported" in str(error):
        return _unsupported(header, str(error).splitlines()[-1].strip())
    place = f"frame {frame + 1} of {len(header.planes)}" if len(header.planes) > 1 else "its image"
    return FormatError(
        "the pixels are truncated or corrupt",
        where=header.path,
        got=f"{place}: {(str(error).splitlines() or [type(error).__name__])[-1].strip()[:300]}",
        do="copy the file again",
    )


def is_mirrored(header: Header, window: Window = False) -> bool:
    """Tell whether low and high are exchanged: MONOCHROME1, unless its values are units of something and wanted as such."""
    return header.photometric == "MONOCHROME1" and (window is not False or header.modality not in _PHYSICAL)


def _decoded(header: Header, dataset: Any) -> Iterator[NDArray[Any]]:
    """Yield stored pixels frame by frame, in this machine's byte order.

    The decoder is named: left to choose, pydicom asks gdcm first, which ends the process on some broken JPEG files.
    """
    pixels, plugin = need("pydicom.pixels", "imaging"), _PLUGINS.get(header.syntax, "")
    several = len(header.planes) > 1
    deep_colours = plugin == "pillow" and header.channels == 3 and (number_of(dataset, "BitsStored") or 8) > 8  # cut to 8 by Pillow
    frames: Iterator[NDArray[Any]]
    if plugin == "gdcm" or deep_colours:
        need("gdcm", "imaging")
        frames = (frame_by_gdcm(header.path, frame, header.syntax) for frame in range(len(header.planes)))
    elif several and not plugin:
        frames = pixels.iter_pixels(dataset)
    else:
        frames = (_one(header, dataset, frame if several else None, plugin) for frame in range(len(header.planes)))
    for raw in frames:
        yield raw.astype(raw.dtype.newbyteorder("="), copy=False)


def _one(header: Header, dataset: Any, frame: int | None, plugin: str) -> NDArray[Any]:
    """Decode one frame; what Pillow finds broken in JPEG 2000, gdcm may still read."""
    try:
        raw: NDArray[Any] = need("pydicom.pixels", "imaging").pixel_array(dataset, index=frame, decoding_plugin=plugin)
    except Exception:
        if header.syntax not in _JPEG_2000:
            raise
        try:
            return frame_by_gdcm(header.path, frame or 0, header.syntax)
        except ValueError:
            pass
        raise
    return raw


@np.errstate(over="ignore", invalid="ignore")
def _valued(header: Header, dataset: Any, frame: int, raw: NDArray[Any], window: Window) -> NDArray[Any]:
    """Turn stored pixels of one frame into values, shape (rows, columns, channels)."""
    if header.photometric == "PALETTE COLOR":
        return _palette(header, dataset, raw)
    if header.channels == 3:
        return raw if raw.ndim == 3 else raw[:, :, None]
    bits, signed = int(number_of(dataset, "BitsStored") or 16), bool(number_of(dataset, "PixelRepresentation"))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    values, ends = _rescaled(header, dataset, frame, raw, (low, high))
    if window is not False:
        values = _windowed(header, dataset, frame, values, window)
        ends = (0.0, 1.0)
    if is_mirrored(header, window):
        values = _mirrored(values, ends)
    return values[:, :, None]


def _rescaled(
    header: Header, dataset: Any, frame: int, raw: NDArray[Any], ends: tuple[float, float]
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Apply the modality's look-up table or its slope and intercept; return with the values what the ends of the bits become."""
    if raw.dtype.kind == "f":
        return raw, (float(raw.min()), float(raw.max()))
    if items_of(dataset, "ModalityLUTSequence"):
        try:
            values = need("pydicom.pixels", "imaging").apply_modality_lut(raw, dataset)
        except Exception as error:
            raise FormatError("the modality look-up table is broken", where=header.path) from error
        return values, (float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max))
    own = functional_group(dataset, frame, "PixelValueTransformationSequence")
    own = dataset if own is None else own
    slope, shift = number_of(own, "RescaleSlope"), number_of(own, "RescaleIntercept")
    slope, shift = 1.0 if slope is None or slope == 0 else slope, 0.0 if shift is None else shift
    if (slope, shift) == (1.0, 0.0):
        return raw, ends
    mapped = sorted(end * slope + shift for end in ends)
    between = (mapped[0], mapped[1])
    if slope.is_integer() and shift.is_integer() and max(map(abs, mapped)) < 1 << 62:
        whole = raw.astype(np.int64) * int(slope) + int(shift)
        low, high = (int(whole.min()), int(whole.max())) if whole.size else (0, 0)
        kinds = (np.int16, np.uint16, np.int32, np.int64)
        return whole.astype(next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)), between
    return (raw * slope + shift).astype(np.float32), between


def _mirrored(values: NDArray[Any], ends: tuple[float, float]) -> NDArray[Any]:
    """Exchange low and high, within what the bits can hold."""
    if values.dtype.kind == "f":
        return (ends[0] + ends[1] - values).astype(values.dtype)
    mirrored = int(ends[0]) + int(ends[1]) - values.astype(np.int64)
    fits = mirrored.size == 0 or (np.iinfo(values.dtype).min <= mirrored.min() and mirrored.max() <= np.iinfo(values.dtype).max)
    return mirrored.astype(values.dtype if fits else np.int32)


def _windowed(header: Header, dataset: Any, frame: int, values: NDArray[Any], window: Window) -> NDArray[np.float32]:
    """Map values to 0–1 by a window (PS3.3 C.11.2.1.2–3) or the file's look-up table."""
    own = functional_group(dataset, frame, "FrameVOILUTSequence")
    own = dataset if own is None else own
    kind = "LINEAR_EXACT"
    if isinstance(window, tuple):
        centre, width = window
    elif (tables := items_of(own, "VOILUTSequence")) and values.dtype.kind in "iu":
        _, first, _ = (int(number) for number in tables[0].LUTDescriptor)
        first = first - 65536 if values.dtype.kind == "i" and first > 32767 else first
        table = _table(header, tables[0].LUTData)
        return np.asarray(
            table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)] / max(float(table.max()), 1.0), np.float32
        )
    else:
        stated = number_of(own, "WindowCenter"), number_of(own, "WindowWidth")
        if stated[0] is None or stated[1] is None:
            raise FormatError("the file states no window", where=header.path, do="give one as (centre, width)")
        centre, width, kind = stated[0], stated[1], text_of(own, "VOILUTFunction").upper() or "LINEAR"
    if not width > 0:
        raise FormatError("a window must be wider than 0", where=header.path, got=width)
    wide = values.astype(np.float32)
    if kind == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (wide - centre) / width)), np.float32)
    if kind == "LINEAR":  # a width of 1 is a step
        centre, width = centre - 0.5, max(width - 1.0, 1e-6)
    return np.asarray(np.clip((wide - centre) / width + 0.5, 0.0, 1.0), np.float32)


def _table(header: Header, data: Any) -> NDArray[np.float32]:
    """Return the entries of a look-up table, stored as numbers or as the bytes of 16-bit ones."""
    if isinstance(data, bytes):
        return np.frombuffer(data, ">u2" if header.syntax == _BIG_ENDIAN else "<u2").astype(np.float32)
    return np.asarray(data, np.float32)


def _palette(header: Header, dataset: Any, raw: NDArray[Any]) -> NDArray[Any]:
    """Look colours up; a table of 16 bits whose low bytes repeat the high ones, or are 0, is one of 8."""
    try:
        colours: NDArray[Any] = need("pydicom.pixels", "imaging").apply_color_lut(raw, dataset)
    except Exception as error:
        raise FormatError("the colour palette is broken", where=header.path) from error
    colours = colours[..., :3]
    if colours.dtype == np.uint16:
        return (colours >> 8).astype(np.uint8)
    return colours
