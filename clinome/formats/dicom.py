"""DICOM files: what a file says of its images, never of its patient. (Their pixels: :mod:`clinome.formats.dicom_pixels`.)

A file holds one image or many frames; :class:`Header` lists for each frame where it lies and what tells it from others there.

Only the attributes named here are looked at; names, birth dates and free text of the patient are never read, so no message or
table can hold them. ``patient`` and ``series`` are for linking and picking, not for printing.

References
----------
DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups). https://dicomstandard.org
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from clinome.core.errors import ClinomeError, FormatError, need

_ATTRIBUTES = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "ImageType", "NumberOfFrames", "Rows"),
    *("Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PixelSpacing", "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor", "ImagePositionPatient"),
    *("ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "WindowCenter"),
    *("WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "InstanceNumber", "AcquisitionNumber", "AcquisitionTime", "ContentTime"),
    *("AcquisitionDateTime", "TriggerTime", "TemporalPositionIdentifier", "EchoNumbers", "DiffusionBValue"),
    *("DiffusionGradientOrientation", "Laterality", "ImageLaterality", "FrameLaterality", "AcquisitionDate", "StudyDate"),
    *("Manufacturer", "ManufacturerModelName", "EncryptedAttributesSequence"),
)
_NOT_SCANS = {
    "SEG": "read it with clinome.imaging.dicom_seg.read_dicom_seg",
    "RTDOSE": "export the dose as NIfTI",
    "RTSTRUCT": "export the structures as DICOM-SEG or NIfTI",
    "SR": "measure on the images it speaks of",
}
_NO_IMAGE = "the file is not DICOM, nor another image that is read"
_OTHERS = (
    (b"PK\x03\x04", "a zip archive", "unpack it; ask for the password where it is encrypted"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"%PDF", "a PDF document", "export the images, not the report"),
    (b"Salted__", "a file encrypted by OpenSSL", "ask the sender to decrypt it"),
    (b"-----BEGIN PGP", "a file encrypted by PGP", "ask the sender to decrypt it"),
    (b"\x89HDF", "an HDF5 file", "export DICOM, NIfTI or PNG"),
    (b"<!DOCTYPE html", "a web page, perhaps of a failed download", "download it again"),
    (b"<html", "a web page, perhaps of a failed download", "download it again"),
)
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DICOMDIR = "1.2.840.10008.1.3.10"
_ENVELOPED = bytes.fromhex("06092a864886f70d0107")  # the object identifier of PKCS #7 / CMS contents


@dataclass(frozen=True)
class Plane:
    """One frame: where it lies, and what tells it from others at the same place.

    Attributes
    ----------
    path, frame
        The file, and which of its frames (from 0).
    position
        Millimetres in LPS of the centre of the first pixel; () when not stated.
    directions
        Cosines of increasing column index, then of increasing row index, in LPS (six numbers, or none).
    pixel_mm
        Between rows, between columns; () when not stated.
    thickness_mm
        Distance between slices where stated, or else their thickness.
    marks
        Kind of image, place in a sequence of times, echo, b-value and direction; "" or 0 where not stated.
    times
        Acquisition number and times: they sort what the marks do not tell apart.
    number
        InstanceNumber, or the frame's own; of no meaning for space.
    localiser
        The frame says itself that it is one.
    """

    path: Path
    frame: int
    position: tuple[float, ...]
    directions: tuple[float, ...]
    pixel_mm: tuple[float, ...]
    thickness_mm: float | None
    marks: tuple[float | str, ...]
    times: tuple[float | str, ...]
    number: int
    localiser: bool


@dataclass(frozen=True)
class Header:
    """What one file says of its images; ``planes`` has an entry a frame."""

    path: Path
    instance: str
    series: str
    patient: str
    modality: str | None
    rows: int
    columns: int
    channels: int
    photometric: str
    syntax: str
    planes: tuple[Plane, ...]
    laterality: str | None
    date: date | None
    scanner: str | None


def is_dicom(first: bytes) -> bool:
    """Tell from the first 132 bytes of a file whether it is DICOM, with its preamble or (old files) without one."""
    if first[128:132] == b"DICM":
        return True
    group, element, kind = first[:2], first[2:4], first[4:6]
    return (
        group in (b"\x08\x00", b"\x02\x00") and element[1:] == b"\x00" and (kind in (b"UL", b"CS", b"UI") or first[6:8] == b"\0\0")
    )


def read_header(path: str | Path) -> Header:
    """Read what a file says of its images, not their pixels.

    Raises
    ------
    FormatError
        When the file is absent, empty, encrypted, not DICOM, truncated before the pixels, or holds no image.
    """
    path = Path(path)
    dataset = open_dataset(path, pixels=False)
    try:
        return _header(path, dataset)
    except ClinomeError:
        raise
    except Exception as error:  # pydicom decodes values, and damaged ones, when they are first looked at
        raise _truncated(path, type(error).__name__) from error


def by_series(headers: Sequence[Header], key: Callable[[Header], str] = lambda header: header.series) -> dict[str, list[Header]]:
    """Put headers of one series together, in the order of their first files."""
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(key(header), []).append(header)
    return groups


# ------------------------------------------------------------------------------------------------------------------------ headers


def open_dataset(path: Path, *, pixels: bool) -> Any:
    """Let pydicom read a file whose first bytes were looked at; all else becomes a FormatError."""
    pydicom = need("pydicom", "imaging")
    # pydicom's warnings quote values, which may be a patient's.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    try:
        with path.open("rb") as file:
            first = file.read(1024)
        size = path.stat().st_size
    except OSError as error:
        raise FormatError("the file cannot be read", where=path, got=error.strerror, do="check its path") from error
    _refuse_others(path, first)
    tags = None if pixels else list(_ATTRIBUTES)
    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=tags)
    except Exception as error:  # on damaged bytes pydicom raises nearly anything
        raise _truncated(path, f"{size:,} bytes; {type(error).__name__}") from error


def _refuse_others(path: Path, first: bytes) -> None:
    """Say what a file is that is not DICOM."""
    if not first:
        raise FormatError("the file is empty", where=path, got="0 bytes", do="copy the file again")
    if is_dicom(first):
        return
    if first[:1] == b"\x30" and _ENVELOPED in first[:64]:
        raise FormatError(
            "the DICOM file is encrypted (a secured file set)", where=path, got="a CMS envelope", do="ask the sender to decrypt it"
        )
    for start, kind, do in _OTHERS:
        if first.lstrip().lower().startswith(start.lower()):
            raise FormatError(_NO_IMAGE, where=path, got=kind, do=do)
    raise FormatError(
        _NO_IMAGE,
        where=path,
        got="only zeros" if not any(first) else f"first bytes {first[:8]!r}",
        expected="'DICM' at byte 128, or the beginning of a NIfTI, PNG, JPEG or TIFF file",
        do="export it again from the archive; a file that is encrypted must be decrypted by its sender",
    )


def _truncated(path: Path, got: str, expected: str | None = None) -> FormatError:
    return FormatError("the DICOM file is truncated or corrupt", where=path, got=got, expected=expected, do="copy the file again")


def _header(path: Path, dataset: Any) -> Header:
    modality = text_of(dataset, "Modality") or None
    if modality in _NOT_SCANS:
        raise FormatError("the DICOM file is no scan or picture", where=path, got=f"modality {modality}", do=_NOT_SCANS[modality])
    if str(getattr(getattr(dataset, "file_meta", None), "MediaStorageSOPClassUID", "")) == _DICOMDIR:
        raise FormatError("the file is a table of contents (DICOMDIR), not an image", where=path, do="name the folder beside it")
    rows, columns = number_of(dataset, "Rows"), number_of(dataset, "Columns")
    if not rows or not columns:
        raise FormatError(
            "the DICOM file holds no image",
            where=path,
            got=f"modality {modality or 'not stated'}, no Rows or Columns",
            do="leave it out (a report, plan or presentation state), or copy it again if it was an image",
        )
    syntax = str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "") or "")
    if not syntax and not dataset.is_implicit_VR:
        syntax = "1.2.840.10008.1.2.1"
    frames = max(1, int(number_of(dataset, "NumberOfFrames") or 1))
    photometric = text_of(dataset, "PhotometricInterpretation") or "MONOCHROME2"
    colour = number_of(dataset, "SamplesPerPixel") == 3 or photometric == "PALETTE COLOR"
    groups = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    if groups and len(groups) < frames:
        raise _truncated(path, f"{len(groups)} of {frames} frames are described")
    _refuse_short(path, dataset, syntax, int(rows * columns), frames)
    side = next((text_of(dataset, name) for name in ("ImageLaterality", "Laterality") if text_of(dataset, name)), "")
    side = side or text_of(functional_group(dataset, 0, "FrameAnatomySequence"), "FrameLaterality")
    instance = text_of(dataset, "SOPInstanceUID")
    return Header(
        path=path,
        instance=instance,
        series=text_of(dataset, "SeriesInstanceUID") or instance,
        patient=text_of(dataset, "PatientID"),
        modality=modality,
        rows=int(rows),
        columns=int(columns),
        channels=3 if colour else 1,
        photometric=photometric,
        syntax=syntax or "1.2.840.10008.1.2",
        planes=tuple(_plane(path, dataset, frame) for frame in range(frames)),
        laterality={"L": "left", "R": "right"}.get(side.upper()),
        date=_day(text_of(dataset, "AcquisitionDate") or text_of(dataset, "StudyDate")),
        scanner=" ".join(filter(None, (text_of(dataset, "Manufacturer"), text_of(dataset, "ManufacturerModelName")))) or None,
    )


def _refuse_short(path: Path, dataset: Any, syntax: str, pixels: int, frames: int) -> None:
    """Refuse a file that is shorter than its uncompressed pixels alone, or than the marks of as many compressed frames."""
    bits = (number_of(dataset, "BitsAllocated") or 1) * (number_of(dataset, "SamplesPerPixel") or 1)
    if text_of(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits *= 2 / 3
    size, least = path.stat().st_size, int(pixels * frames * bits / 8) if syntax in _UNCOMPRESSED else 8 * frames
    if size < least and "EncryptedAttributesSequence" in dataset:
        got, do = "encrypted attributes and no pixels", "ask the sender to decrypt it"
        raise FormatError("parts of the DICOM file are encrypted, its pixels with them", where=path, got=got, do=do)
    if size < least and syntax != _DEFLATED:
        raise _truncated(path, f"{size:,} bytes", f"at least {least:,} bytes of pixels")


def _plane(path: Path, dataset: Any, frame: int) -> Plane:
    """Describe a frame: from its own functional groups, the shared ones, or (one frame) the data set itself."""
    several = bool(items_of(dataset, "PerFrameFunctionalGroupsSequence") or items_of(dataset, "SharedFunctionalGroupsSequence"))

    def of(sequence: str) -> Any:
        return functional_group(dataset, frame, sequence) if several else dataset

    measures, content = of("PixelMeasuresSequence"), of("FrameContentSequence")
    position = _numbers(path, of("PlanePositionSequence"), "ImagePositionPatient", 3)
    directions = _numbers(path, of("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    pixel = _numbers(path, measures, "PixelSpacing", 2)
    if not pixel:  # of the detector, behind the body
        larger = number_of(dataset, "EstimatedRadiographicMagnificationFactor") or 1.0
        pixel = tuple(length / larger for length in _numbers(path, dataset, "ImagerPixelSpacing", 2))
    one_frame = several or not (number_of(dataset, "NumberOfFrames") or 1) > 1
    thickness = number_of(measures, "SpacingBetweenSlices") or number_of(measures, "SliceThickness")
    kind = "\\".join(_words(dataset, "ImageType") + _words(of("MRImageFrameTypeSequence"), "FrameType"))
    diffusion = of("MRDiffusionSequence")
    directed = next(iter(items_of(diffusion, "DiffusionGradientDirectionSequence")), diffusion)
    marks: tuple[float | str, ...] = (
        kind,
        number_of(content, "TemporalPositionIndex") or number_of(dataset, "TemporalPositionIdentifier") or 0.0,
        number_of(of("MREchoSequence"), "EffectiveEchoTime") or number_of(dataset, "EchoNumbers") or 0.0,
        number_of(diffusion, "DiffusionBValue") or 0.0,
        str(_numbers(path, directed, "DiffusionGradientOrientation", 3) or ""),
    )
    moment = text_of(content, "FrameAcquisitionDateTime") or text_of(dataset, "AcquisitionDateTime")
    delay = number_of(of("CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime")
    times = (
        number_of(content, "FrameAcquisitionNumber") or number_of(dataset, "AcquisitionNumber") or 0.0,
        moment or text_of(dataset, "AcquisitionTime"),
        delay or number_of(dataset, "TriggerTime") or 0.0,
        text_of(dataset, "ContentTime"),
    )
    return Plane(
        path=path,
        frame=frame,
        position=position if one_frame else (),
        directions=directions if one_frame else (),
        pixel_mm=pixel if min(pixel, default=0) > 0 else (),
        thickness_mm=thickness,
        marks=marks,
        times=times,
        number=int(number_of(dataset, "InstanceNumber") or 0) if not several else frame,
        localiser="LOCALIZER" in kind,
    )


def functional_group(dataset: Any, frame: int, sequence: str) -> Any:
    """Return the first item of a functional group: the frame's own, or else the shared one; None where neither is there."""
    for groups, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = items_of(dataset, groups)
        if place < len(items) and (found := items_of(items[place], sequence)):
            return found[0]
    return None


def items_of(dataset: Any, name: str) -> Sequence[Any]:
    """Return the items of a sequence; none where it is absent or there is no data set."""
    return () if dataset is None else dataset.get(name) or ()


def text_of(dataset: Any, name: str) -> str:
    """Return a value as text, empty where there is none."""
    try:
        value = None if dataset is None else dataset.get(name)
    except Exception:
        return ""
    return "" if value is None else str(value).strip()


def _words(dataset: Any, name: str) -> list[str]:
    value = None if dataset is None else dataset.get(name)
    return [] if not value else [value] if isinstance(value, str) else [str(word) for word in value]


def number_of(dataset: Any, name: str) -> float | None:
    """Return a number, the first where there are several; None where there is none or it is not finite."""
    try:
        value = None if dataset is None else dataset.get(name)
        if value is None or value == "":
            return None
        found = float(value if np.isscalar(value) or not hasattr(value, "__len__") else value[0])
    except Exception:
        return None
    return found if math.isfinite(found) else None


def _numbers(path: Path, dataset: Any, name: str, count: int) -> tuple[float, ...]:
    """Return ``count`` numbers, or none where the value is absent or empty."""
    try:
        value = None if dataset is None else dataset.get(name)
        if value is None or value == "" or len(value) == 0:
            return ()
        found = tuple(float(number) for number in value)
    except Exception as error:
        raise FormatError(f"{name} is not {count} numbers", where=path, do="export the file again") from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise FormatError(f"{name} is not {count} numbers", where=path, got=found, do="export the file again")
    return found


def _day(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None
