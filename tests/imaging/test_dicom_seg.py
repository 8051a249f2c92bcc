from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from toolkit.dicom import MR, enhanced, save, save_slices, slices

from clinome.core.errors import FormatError, StudyError
from clinome.formats.nifti import write_nifti
from clinome.imaging.dicom_seg import Segment, read_dicom_seg, write_dicom_seg
from clinome.imaging.scan import Scan, read_scan

AFFINES = {
    "axial": np.array([[0.5, 0, 0, -9], [0, 0.7, 0, 4], [0, 0, 2.5, 30], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 2.5, -9], [0.5, 0, 0, 4], [0, -0.7, 0, 30], [0, 0, 0, 1.0]]),
    "oblique": np.array([[0.48, -0.14, 0.35, 1], [0.1384, 0.672, 0.0, 2], [-0.0672, 0.0194, 2.4755, 3], [0, 0, 0, 1.0]]),
}
NAMES = {1: "anterior", 2: Segment("posterior", type=("4958002", "SCT", "Amygdala"))}


def series(folder: Path, which: str, order: list[int]) -> Scan:
    affine = AFFINES[which].copy()
    columns = [affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in (0, 1)]
    columns[1] = columns[1] - (columns[1] @ columns[0]) * columns[0]
    columns[1] /= np.linalg.norm(columns[1])
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    affine[:3, :3] = np.column_stack([*columns, np.cross(*columns) * np.sign(np.linalg.det(affine[:3, :3]))]) * lengths
    values = np.random.default_rng(1).integers(0, 900, (6, 8, 7)).astype(np.int16)
    return read_scan(save_slices(slices(values, affine, sop_class=MR, modality="MR"), folder, order))


def labels_on(scan: Scan) -> np.ndarray:
    labels = np.zeros(scan.values.shape[1:], np.int64)
    labels[1:4, 2:5, 1:3] = 1
    labels[3:, 1, 2:4] = 2
    return labels


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 5, 0, 1, 4, 2]])
@pytest.mark.parametrize("which", list(AFFINES))
def test_what_is_written_is_read_again(which: str, order: list[int], tmp_path: Path) -> None:
    scan = series(tmp_path / "series", which, order)
    labels = labels_on(scan)
    write_dicom_seg(tmp_path / "seg.dcm", labels, scan, segments=NAMES, algorithm="test")
    again = read_dicom_seg(tmp_path / "seg.dcm", scan)
    np.testing.assert_array_equal(again.scan.values[0], labels)
    assert again.names == {1: "anterior", 2: "posterior"}
    alone = read_dicom_seg(tmp_path / "seg.dcm").scan
    assert (alone.values > 0).sum() == (labels > 0).sum()
    assert alone.affine is not None
    assert scan.affine is not None
    for label in (1, 2):  # the same place in the body, whatever the grid
        grids = ((alone.affine, alone.values[0]), (scan.affine, labels))
        centres = [affine @ (*np.argwhere(values == label).mean(axis=0)[::-1], 1.0) for affine, values in grids]
        np.testing.assert_allclose(*centres, atol=1e-3)


def test_every_frame_names_the_image_it_lies_on(tmp_path: Path) -> None:
    """By highdicom's and pydicom's own reading: frames, references, places and codes."""
    scan = series(tmp_path / "series", "oblique", [3, 5, 0, 1, 4, 2])
    labels = labels_on(scan)
    write_dicom_seg(tmp_path / "seg.dcm", labels, scan, segments=NAMES)
    made = highdicom.seg.segread(tmp_path / "seg.dcm")
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, (tmp_path / "series").glob("*.dcm"))}
    normal = np.cross(*np.reshape(next(iter(images.values())).ImageOrientationPatient, (2, 3)))
    by_place = sorted(images.values(), key=lambda image: np.dot(normal, image.ImagePositionPatient))
    stack = made.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in by_place],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(stack, labels)
    assert made.PatientID == next(iter(images.values())).PatientID
    assert made.get_segment_description(2).segmented_property_type.meaning == "Amygdala"
    assert made.Modality == "SEG"


def test_onto_a_multi_frame_file_and_nothing_found(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 90, (6, 8, 7)).astype(np.int16)
    source = enhanced(values, AFFINES["axial"], [2, 0, 1, 5, 4, 3])
    source.DimensionOrganizationSequence = []
    scan = read_scan(save(source, tmp_path / "multi.dcm"))
    for labels in (labels_on(scan), np.zeros(scan.values.shape[1:], bool)):
        write_dicom_seg(tmp_path / "seg.dcm", labels, scan, segments=NAMES)
        np.testing.assert_array_equal(read_dicom_seg(tmp_path / "seg.dcm", scan).scan.values[0], labels)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    scan = series(tmp_path / "series", "axial", [0, 1, 2, 3, 4, 5])
    labels = labels_on(scan)
    with pytest.raises(StudyError, match="do not lie on the scan"):
        write_dicom_seg(tmp_path / "a.dcm", labels[1:], scan, segments=NAMES)
    with pytest.raises(StudyError, match=r"no segment describes(.|\n)*2"):
        write_dicom_seg(tmp_path / "a.dcm", labels, scan, segments={1: "one"})
    with pytest.raises(StudyError, match="without a gap"):
        write_dicom_seg(tmp_path / "a.dcm", labels, scan, segments={1: "one", 3: "three"})
    write_nifti(tmp_path / "a.nii", np.zeros((4, 5, 6), np.int16), np.eye(4))
    with pytest.raises(FormatError, match="only onto a scan of a DICOM series"):
        write_dicom_seg(tmp_path / "a.dcm", np.zeros((6, 5, 4)), read_scan(tmp_path / "a.nii"), segments=NAMES)
    for file in (tmp_path / "series").iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.FrameOfReferenceUID
        dataset.save_as(file)
    with pytest.raises(FormatError, match=r"cannot carry a segmentation(.|\n)*FrameOfReferenceUID"):
        write_dicom_seg(tmp_path / "a.dcm", labels, scan, segments=NAMES)
    assert not (tmp_path / "a.dcm").exists()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    scan = series(tmp_path / "series", "axial", [0, 1, 2, 3, 4, 5])
    write_dicom_seg(tmp_path / "seg.dcm", labels_on(scan), scan, segments=NAMES)
    with pytest.raises(FormatError, match=r"no segmentation(.|\n)*modality MR"):
        read_dicom_seg(tmp_path / "series" / "0000.dcm")
    with pytest.raises(FormatError, match="does not lie on the grid"):
        read_dicom_seg(tmp_path / "seg.dcm", series(tmp_path / "other", "sagittal", [0, 1, 2, 3, 4, 5]))
    with pytest.raises(FormatError, match=r"no scan or picture(.|\n)*read_dicom_seg"):
        read_scan(tmp_path / "seg.dcm")
    content = (tmp_path / "seg.dcm").read_bytes()
    for keep in (0.0, 0.3, 0.9):
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * keep)])
        with pytest.raises(FormatError, match=r"cut\.dcm"):
            read_dicom_seg(tmp_path / "cut.dcm")
