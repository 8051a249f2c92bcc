from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from toolkit.dicom import SECRETS, enhanced, image, save, save_slices, slices

from clinome.core.errors import ClinomeError, FormatError
from clinome.formats.nifti import write_nifti
from clinome.formats.picture import write_picture
from clinome.imaging.scan import Scan, on_file_grid, placed, read_scan, write_on

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SIZE = (5, 4, 3)  # of the axes in the file


def turn(degrees: float, about: int) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = (k for k in range(3) if k != about)
    matrix[i, i] = matrix[j, j] = cos
    matrix[i, j], matrix[j, i] = -sin, sin
    return matrix


def phantom(affine: np.ndarray, size: tuple[int, ...] = SIZE) -> np.ndarray:
    """Return values on a file's grid (third, second, first axis) that say where they lie: the same point, the same value."""
    first, second, third = np.meshgrid(*map(np.arange, size), indexing="ij")
    points = affine[:3] @ np.stack([first.ravel(), second.ravel(), third.ravel(), np.ones(first.size)])
    return (1000 + world(points)).reshape(size).transpose(2, 1, 0)


def world(points: np.ndarray) -> np.ndarray:
    """An asymmetric function of the place in LPS, in millimetres."""
    return np.asarray(np.rint(7 * points[0] - 3 * points[1] + 2 * points[2]))


def every_axis_order() -> list[np.ndarray]:
    """All 48 ways in which a file's three axes may run along the body's."""
    found = []
    for axes, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, axes] * np.array(signs) * (1.0, 2.0, 5.0)
        affine[:3, 3] = (11.0, -20.0, 33.0)
        found.append(affine)
    return found


def agrees(scan: Scan) -> None:
    """The scan's value at every index is that of the place which its affine gives the index, and its axes run as promised."""
    assert scan.affine is not None
    z, y, x = np.indices(scan.values.shape[1:]).reshape(3, -1)
    points = scan.affine[:3] @ np.stack([x, y, z, np.ones(x.size)])
    assert np.abs(scan.values[0][z, y, x] - 1000 - world(points)).max() <= 1  # positions are rounded in files
    columns = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    assert (np.diag(columns) > 0.4).all()
    np.testing.assert_allclose(scan.spacing_mm, np.linalg.norm(scan.affine[:3, :3], axis=0)[::-1], rtol=1e-5)


@pytest.mark.parametrize("affine", every_axis_order(), ids=lambda a: "".join(nibabel.aff2axcodes(RAS @ a)))
def test_nifti_in_every_axis_order_and_back_on_its_own_grid(affine: np.ndarray, tmp_path: Path) -> None:
    values = phantom(affine).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), RAS @ affine), tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    agrees(scan)
    assert np.diag(scan.affine)[:3].min() > 0
    assert scan.grid is not None
    np.testing.assert_array_equal(on_file_grid(scan.values, scan.grid)[0], values)
    mask = scan.values[0] > 1000
    write_on(tmp_path / "mask.nii.gz", mask, scan)
    again = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(again.dataobj), (values > 1000).transpose(2, 1, 0))
    np.testing.assert_allclose(again.affine, RAS @ affine, atol=1e-5)
    np.testing.assert_array_equal(read_scan(tmp_path / "mask.nii.gz").values[0], mask)


def dicom_affine(plane: str, oblique: bool, flipped: bool) -> np.ndarray:
    """How scanners write axial, coronal and sagittal stacks: rows to the left or the back, columns to the back or the feet."""
    columns = {
        "axial": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
        "coronal": ([1, 0, 0], [0, 0, -1], [0, 1, 0]),
        "sagittal": ([0, 1, 0], [0, 0, -1], [1, 0, 0]),
    }[plane]
    matrix = np.array(columns, float).T
    if flipped:  # the patient lay on the belly, feet first
        matrix = np.diag([-1.0, 1.0, -1.0]) @ matrix
    if oblique:
        matrix = turn(20, 0) @ turn(-15, 1) @ turn(10, 2) @ matrix
    affine = np.eye(4)
    affine[:3, :3] = matrix * (1.0, 2.0, 5.0)
    affine[:3, 3] = (-40.0, 25.0, 60.0)
    return affine


@pytest.mark.parametrize("order", ["forward", "reversed", "mixed"])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_dicom_series_in_every_plane_and_order(plane: str, oblique: bool, flipped: bool, order: str, tmp_path: Path) -> None:
    affine = dicom_affine(plane, oblique, flipped)
    numbers = {"forward": [0, 1, 2], "reversed": [2, 1, 0], "mixed": [1, 2, 0]}[order]
    values = phantom(affine).astype(np.int16)
    files = slices(values, affine)
    for k, file in zip(numbers, files, strict=True):
        file.InstanceNumber = k + 1
    scan = read_scan(save_slices(files, tmp_path / "series", numbers))
    agrees(scan)
    assert scan.modality == "CT"
    multi = read_scan(save(enhanced(values, affine, numbers), tmp_path / "multi.dcm"))
    np.testing.assert_allclose(multi.affine, scan.affine, atol=1e-4)
    k = np.arange(3)[:, None, None]
    scaled = values.astype(int) * (1 + k % 2) + 10 * k
    assert multi.grid is not None
    stack = on_file_grid(multi.values, multi.grid)[0]
    np.testing.assert_array_equal(stack if np.allclose(multi.grid.affine[:3, 3], affine[:3, 3], atol=1e-4) else stack[::-1], scaled)


def test_the_same_head_as_nifti_and_as_dicom(tmp_path: Path) -> None:
    """A known trap: NIfTI counts to the right and to the front, DICOM to the left and to the back."""
    affine = dicom_affine("axial", True, False)
    values = phantom(affine).astype(np.int16)
    dicom = read_scan(save_slices(slices(values, affine), tmp_path / "series"))
    write_nifti(tmp_path / "a.nii", values.transpose(2, 1, 0)[::-1], RAS @ affine @ flip_first(5))
    nifti = read_scan(tmp_path / "a.nii")
    np.testing.assert_array_equal(dicom.values, nifti.values)
    np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-4)


def flip_first(n: int) -> np.ndarray:
    matrix = np.diag([-1.0, 1.0, 1.0, 1.0])
    matrix[0, 3] = n - 1
    return matrix


def test_a_series_is_chosen_by_its_name_or_asked_for(tmp_path: Path) -> None:
    affine = dicom_affine("axial", False, False)
    for uid, shift in (("1.2.3.4", 0), ("1.2.3.9", 100)):
        save_slices(slices(phantom(affine).astype(np.int16) + shift, affine, SeriesInstanceUID=uid), tmp_path / "study" / uid)
    with pytest.raises(FormatError, match=r"several series(.|\n)*1\.2\.3\.4 \(CT, 3 images\); 1\.2\.3\.9"):
        read_scan(tmp_path / "study")
    with pytest.raises(FormatError, match="does not hold that series"):
        read_scan(tmp_path / "study", series="7")
    one, two = (read_scan(tmp_path / "study", series=uid) for uid in ("1.2.3.4", "1.2.3.9"))
    np.testing.assert_array_equal(one.values + 100, two.values)
    assert two.series == "1.2.3.9"
    with pytest.raises(FormatError, match=r"another modality(.|\n)*got: +CT(.|\n)*expected: MR"):
        read_scan(tmp_path / "study", series="1.2.3.4", modality="MR")


def test_files_that_lie_beside_a_series(tmp_path: Path) -> None:
    affine = dicom_affine("axial", False, False)
    folder = save_slices(slices(phantom(affine).astype(np.int16), affine), tmp_path)
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "DICOMDIR").write_bytes(b"x")
    (folder / "report.pdf").write_bytes(b"%PDF")
    assert read_scan(folder).values.shape == (1, 3, 4, 5)
    (folder / "0009.dcm").touch()  # it may be a slice
    with pytest.raises(FormatError, match=r"file is empty(.|\n)*0009\.dcm"):
        read_scan(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(FormatError, match="no DICOM file"):
        read_scan(tmp_path / "none")


def test_photographs_and_radiographs_keep_their_view_and_depth(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    write_picture(tmp_path / "a.png", np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2))
    assert read_scan(tmp_path / "a.png").values.shape == (3, 3, 4)
    film = image(
        grey, modality="DX", BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1", ImagerPixelSpacing=[0.2, 0.1]
    )
    scan = read_scan(save(film, tmp_path / "film.dcm"))
    np.testing.assert_array_equal(scan.values[0], 4095 - grey)
    assert (scan.values.dtype, scan.spacing_mm, scan.affine) == (np.uint16, (0.2, 0.1), None)
    assert "mirrored" in scan.notes[0]
    again = read_scan(tmp_path / "film.dcm", inverted=True)
    np.testing.assert_array_equal(again.values[0], grey)
    with pytest.raises(FormatError, match="without a place"):
        write_on(tmp_path / "a.nii", scan.values, scan)


def test_no_guess_of_left_and_right(tmp_path: Path) -> None:
    plain = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), None)
    plain.header.set_zooms((1.0, 2.0, 3.0))
    nibabel.save(plain, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.affine is None
    assert scan.spacing_mm == (3.0, 2.0, 1.0)
    assert "which side is left" in scan.notes[0]
    with pytest.raises(FormatError, match="without a place"):
        write_on(tmp_path / "b.nii", scan.values, scan)


def test_an_affine_that_spans_no_space() -> None:
    for affine in (np.diag([1.0, 0.0, 1.0, 1.0]), np.full((4, 4), np.nan), np.ones((4, 4))):
        with pytest.raises(FormatError, match="not in space"):
            placed(np.zeros((1, 2, 2, 2)), affine)


def test_an_array_of_another_size_lies_on_no_grid() -> None:
    scan = placed(np.zeros((1, 2, 3, 4)), np.eye(4))
    assert scan.grid is not None
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) does not lie"):
        on_file_grid(np.zeros((1, 2, 3, 5)), scan.grid)


def test_no_message_shows_the_patient(tmp_path: Path) -> None:
    affine = dicom_affine("axial", False, False)
    folder = save_slices(slices(phantom(affine, (5, 4, 6)).astype(np.int16), affine), tmp_path / "series")
    (folder / "0003.dcm").unlink()
    save(image(np.zeros((4, 4), np.uint8), modality="OT", PatientID="x"), tmp_path / "cut.dcm")
    content = (tmp_path / "cut.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[:-9])
    for path in (folder, tmp_path / "cut.dcm", tmp_path):
        with pytest.raises(ClinomeError) as error:
            read_scan(path)
        assert not any(secret in str(error.value) for secret in SECRETS)
    scan = read_scan(folder / "0000.dcm")
    assert not any(secret in repr(scan) for secret in SECRETS)
