"""Segmentations as DICOM-SEG: written onto the DICOM series that was segmented, so that a viewer or archive lays them over it.

Every slice of the result names the image it belongs to and its place in the body, so nothing depends on the order of files. As the
standard has it, the file repeats from the series who the patient is and which study it belongs to.

References
----------
DICOM PS3.3, A.51 (segmentation IOD). Bridge CP et al. Highdicom: a Python library for standardized encoding of image annotations
and machine learning model outputs in pathology and radiology. J Digit Imaging 35:1719–1737 (2022), doi:10.1007/s10278-022-00683-y.

>>> scan = read_scan("series/")  # doctest: +SKIP
>>> write_dicom_seg("hippocampus.dcm", labels, scan, segments={1: "anterior", 2: "posterior"})  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import clinome
from clinome.core.errors import FormatError, StudyError, need
from clinome.core.files import replacing
from clinome.formats.dicom import open_dataset, read_header
from clinome.imaging.scan import Grid, Scan, on_body_grid, on_file_grid, placed, series_in

Code = tuple[str, str, str]  # value, coding scheme, meaning
_STRUCTURE: Code = ("123037004", "SCT", "Anatomical Structure")
_SERIES_NUMBER = 300


@dataclass(frozen=True)
class Segment:
    """What a label stands for: its name, and SNOMED CT (or other) codes of its category and type."""

    name: str
    category: Code = _STRUCTURE
    type: Code = _STRUCTURE


class Segmentation(NamedTuple):
    """``scan`` whose values (1, depth, height, width) are label numbers, uint8, 0 where there is none; ``names`` of the labels."""

    scan: Scan
    names: dict[int, str]


def write_dicom_seg(
    path: str | Path,
    labels: NDArray[Any],
    scan: Scan,
    *,
    segments: Mapping[int, str | Segment],
    algorithm: str = "Clinome",
    description: str = "Segmentation",
) -> None:
    """Write a map of labels that lies on ``scan``, which came from a DICOM series.

    Parameters
    ----------
    labels
        Whole numbers, shape (depth, height, width) as in ``scan.values``; 0 is none.
    segments
        The meaning of every label number that may occur; they must be 1, 2, … without a gap.
    algorithm
        What made it, by name; written with Clinome's version.
    description
        Of the new series, shown by viewers.

    Raises
    ------
    FormatError
        When the scan did not come from a DICOM series with a place in space, or its files are gone.
    StudyError
        For labels without a meaning, a gap in their numbers, or another shape.
    OutputError
        When the folder cannot be written.
    """
    grid = _checked(labels, scan, segments)
    try:
        made = _made(
            on_file_grid(np.asarray(labels, np.uint8)[None], grid)[0], grid, _sources(scan), segments, algorithm, description
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # highdicom's, of what the series lacks
        raise FormatError(
            "the series cannot carry a segmentation",
            where=scan.path,
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="patient, study and frame of reference stated, slices at right angles to their way",
            do="write it as NIfTI (clinome.imaging.scan.write_on)",
        ) from error
    with replacing(path) as temporary:
        made.save_as(temporary)


def grid_of_series(scan: Scan) -> Grid:
    """Return the grid of a scan that was read from a DICOM series, onto which a segmentation can be written.

    Raises
    ------
    FormatError
        For any other scan: a NIfTI file, a picture, DICOM without a place in space.
    """
    if scan.grid is None or scan.series is None or scan.path is None:
        raise FormatError(
            "a segmentation can be written as DICOM only onto a scan of a DICOM series",
            where=scan.path,
            got="a DICOM image without a place in space" if scan.series else "a file that is not DICOM",
            do="write it as NIfTI or PNG (--format nifti; clinome.imaging.scan.write_on)",
        )
    return scan.grid


def is_dicom_seg(path: str | Path) -> bool:
    """Tell whether the file at ``path`` is a DICOM segmentation; False for what cannot be read."""
    path = Path(path)
    try:
        return path.is_file() and str(open_dataset(path, pixels=False).get("Modality") or "") == "SEG"
    except FormatError:
        return False


def read_dicom_seg(path: str | Path, scan: Scan | None = None) -> Segmentation:
    """Read a DICOM-SEG file; with ``scan``, onto the grid of that scan.

    Slices that the file leaves out, because nothing is on them, are 0.

    Raises
    ------
    FormatError
        When the file is no segmentation or is broken, its segments overlap, or it does not lie on the grid of ``scan``.
    """
    path = Path(path)
    dataset = open_dataset(path, pixels=True)
    if str(dataset.get("Modality") or "") != "SEG":
        raise FormatError(
            "the DICOM file is no segmentation", where=path, got=f"modality {dataset.get('Modality') or 'not stated'}"
        )
    highdicom = need("highdicom", "imaging")
    try:
        read = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
        names = {number: str(read.get_segment_description(number).segment_label) for number in read.segment_numbers}
        volume = read.get_volume(combine_segments=True, rescale_fractional=False, dtype=np.uint8)
    except Exception as error:  # highdicom raises nearly anything on what it cannot use
        overlap = "overlap" in str(error).lower()
        what = "segments of the file overlap: one map of labels cannot hold them" if overlap else "the segmentation cannot be used"
        got = None if overlap else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise FormatError(
            what, where=path, got=got, do="read the segments one by one with highdicom" if overlap else None
        ) from error
    affine = np.asarray(volume.affine)[:, [2, 1, 0, 3]]
    if scan is None:
        return Segmentation(placed(np.asarray(volume.array)[None], affine, modality="SEG", path=path), names)
    values = _onto(np.asarray(volume.array), affine, scan, path)
    return Segmentation(Scan(values, scan.spacing_mm, scan.affine, "SEG", scan.grid, path), names)


def _made(
    frames: NDArray[np.uint8],
    grid: Grid,
    sources: list[Any],
    segments: Mapping[int, str | Segment],
    algorithm: str,
    description: str,
) -> Any:
    highdicom = need("highdicom", "imaging")
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=highdicom.Volume(
            frames,
            grid.affine[:, [2, 1, 0, 3]],
            coordinate_system="PATIENT",
            frame_of_reference_uid=sources[0].FrameOfReferenceUID,
        ),
        segmentation_type="BINARY",
        segment_descriptions=[_described(number, segments[number], algorithm) for number in sorted(segments)],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="Clinome",
        manufacturer_model_name=algorithm,
        software_versions=clinome.__version__,
        device_serial_number="0",
        series_description=description,
        omit_empty_frames=bool(frames.any()),
    )


def _checked(labels: NDArray[Any], scan: Scan, segments: Mapping[int, str | Segment]) -> Grid:
    grid = grid_of_series(scan)
    if labels.shape != scan.values.shape[1:]:
        raise StudyError("the labels do not lie on the scan", got=labels.shape, expected=scan.values.shape[1:])
    if sorted(segments) != list(range(1, len(segments) + 1)):
        raise StudyError("numbers of segments must be 1, 2, … without a gap", got=", ".join(map(str, sorted(segments))))
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *segments})
    if unknown or len(segments) > 255:
        raise StudyError("labels occur that no segment describes", got=", ".join(map(str, unknown[:10])), expected="0 and 1 … 255")
    return grid


def _sources(scan: Scan) -> list[Any]:
    """Return the data sets of the images that the scan's first channel was read from, without their pixels."""
    path = scan.path
    assert path is not None
    headers = series_in(path, series=scan.series) if path.is_dir() else [read_header(path)]
    sources = []
    for header in headers:
        if all(plane.localiser for plane in header.planes):
            continue
        dataset = open_dataset(header.path, pixels=True)
        for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            dataset.pop(name, None)
        sources.append(dataset)
    return sources


def _described(number: int, segment: str | Segment, algorithm: str) -> Any:
    highdicom = need("highdicom", "imaging")
    about = Segment(segment) if isinstance(segment, str) else segment
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=about.name,
        segmented_property_category=highdicom.sr.CodedConcept(*about.category),
        segmented_property_type=highdicom.sr.CodedConcept(*about.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm,
            version=clinome.__version__,
            family=highdicom.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        ),
    )


def _onto(array: NDArray[Any], affine: NDArray[np.float64], scan: Scan, path: Path) -> NDArray[np.uint8]:
    """Lay label numbers, shape (slices, rows, columns) and placed by ``affine``, onto the grid of ``scan``."""
    if scan.grid is None:
        raise FormatError("the scan has no place in space", where=scan.path)
    index = np.linalg.inv(scan.grid.affine) @ affine  # from the segmentation's (column, row, slice) to the scan's
    turn, start = np.rint(index[:3, :3]).astype(int), np.rint(index[:3, 3]).astype(int)
    whole = np.abs(index[:3] - np.rint(index[:3])).max() < 0.05 and (np.abs(turn).sum(axis=0) == 1).all()
    columns, rows, slices = (int(n) for n in array.shape[::-1])
    corner = turn @ np.array([columns - 1, rows - 1, slices - 1]) + start
    size = np.array(scan.grid.shape[::-1])
    low, high = np.minimum(start, corner), np.maximum(start, corner)
    if not whole or abs(round(np.linalg.det(turn))) != 1 or (low < 0).any() or (high >= size).any():
        raise FormatError(
            "the segmentation does not lie on the grid of the scan",
            where=path,
            got=f"voxel steps of {np.round(index[:3, :3], 3).tolist()} in the scan's, from {np.round(index[:3, 3], 2).tolist()}",
            expected="whole voxels within it",
            do="read it without the scan, and resample",
        )
    k, j, i = np.nonzero(array)
    there = turn @ np.stack([i, j, k]) + start[:, None]
    laid = np.zeros(scan.grid.shape, np.uint8)
    laid[there[2], there[1], there[0]] = array[k, j, i]
    return on_body_grid(laid[None], scan.grid)
