from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from clinome.core.errors import ClinomeError, FormatError
from clinome.formats.nifti import is_nifti, read_nifti, read_nifti_header, write_nifti

AFFINE = np.array([[-0.9, 0.1, 0.2, 10], [0.1, 1.1, -0.3, -20], [0.2, 0.3, 2.5, 30], [0, 0, 0, 1.0]])


def noise(shape: tuple[int, ...] = (5, 4, 3), kind: type = np.int16) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, shape).astype(kind)


@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 2), (5, 4, 1)])
def test_values_and_place_are_those_that_nibabel_reads(
    version: type, suffix: str, kind: type, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    nibabel.save(version(noise(shape, kind), AFFINE), path)
    ours, theirs = read_nifti(path), nibabel.load(path)
    np.testing.assert_array_equal(ours.values, theirs.get_fdata())
    assert ours.values.dtype == kind
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    np.testing.assert_allclose(ours.spacing_mm, theirs.header.get_zooms()[:3], rtol=1e-5)
    header = read_nifti_header(path)
    assert header.shape == (*shape, 1)[:4]
    np.testing.assert_array_equal(header.affine, ours.affine)


def test_scale_and_shift(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise(), AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_nifti(tmp_path / "a.nii").values
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, nibabel.load(tmp_path / "a.nii").get_fdata().astype(np.float32))


def test_the_other_byte_order(tmp_path: Path) -> None:
    big = nibabel.Nifti1Image(noise(), AFFINE, nibabel.Nifti1Header(endianness=">"))
    nibabel.save(big, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    found = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(found.values, noise())
    assert found.values.dtype.isnative


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(noise(), AFFINE), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").values, noise())
    assert is_nifti((tmp_path / "a.nii").read_bytes()[:1024])
    assert not is_nifti(b"\x1f\x8bxx")
    assert not is_nifti(gzip.compress(b"x" * 400))
    assert not is_nifti(b"")


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_lengths_are_millimetres_whatever_the_unit(unit: str, scale: float, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise(), AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_nifti(tmp_path / "a.nii")
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[:3], AFFINE[:3] * scale, rtol=1e-6)
    np.testing.assert_allclose(found.spacing_mm, np.linalg.norm(AFFINE[:3, :3], axis=0) * scale, rtol=1e-6)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 2), (4, 1)])
def test_sform_qform_or_both(codes: tuple[int, int], tmp_path: Path) -> None:
    rotated = AFFINE.copy()
    rotated[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * (1.0, 2.0, 3.0)
    image = nibabel.Nifti1Image(noise(), None)
    image.set_sform(rotated, code=codes[0])
    image.set_qform(rotated, code=codes[1])
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").affine, rotated, atol=1e-5)


def test_two_matrices_that_contradict_each_other(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise(), None)
    image.set_sform(np.diag([1.0, 1, 1, 1]), code=1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(FormatError, match=r"where left(.|\n)*RAS by the sform, LAS by the qform"):
        read_nifti(tmp_path / "a.nii")
    image.set_qform(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 5, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").notes == ("sform and qform differ; the sform is used",)


def test_a_file_that_does_not_say_where_left_is(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(noise(), None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    nibabel.save(image, tmp_path / "a.nii")
    found = read_nifti(tmp_path / "a.nii")
    assert found.affine is None
    assert found.spacing_mm == (1.0, 2.0, 3.0)
    assert "which side is left" in found.notes[0]


def test_colours_complex_numbers_and_five_dimensions(tmp_path: Path) -> None:
    colours = np.zeros((3, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = noise((3, 2, 2), np.uint8)
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "a.nii")
    found = read_nifti(tmp_path / "a.nii").values
    assert found.shape == (3, 2, 2, 3)
    np.testing.assert_array_equal(found[..., 1], colours["G"])
    nibabel.save(nibabel.Nifti1Image(noise().astype(np.complex64), AFFINE), tmp_path / "a.nii")
    with pytest.raises(FormatError, match="complex"):
        read_nifti(tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(noise((3, 2, 2, 1, 4)), AFFINE), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii").values, noise((3, 2, 2, 1, 4))[:, :, :, 0])
    nibabel.save(nibabel.Nifti1Image(noise((3, 2, 2, 2, 4)), AFFINE), tmp_path / "a.nii")
    with pytest.raises(FormatError, match="more than four dimensions"):
        read_nifti(tmp_path / "a.nii")


def test_values_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    values = noise(kind=np.float32)
    values[0, 0, :2] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").notes == ("2 of 60 values are not finite",)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_way_of_losing_the_end_or_a_byte(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    nibabel.save(nibabel.Nifti1Image(noise((9, 8, 7)), AFFINE), path)
    whole = path.read_bytes()
    for size in sorted({0, 1, 2, 10, 100, 347, 348, 351, 352, *np.linspace(1, len(whole) - 1, 40).astype(int)}):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"a\.nii"):
            read_nifti(path)
    generator = np.random.default_rng(2)
    for _ in range(150):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[generator.integers(0, min(len(whole), 400), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        assert str(path) in _error_of(path, or_else=str(path))


def _error_of(path: Path, *, or_else: str) -> str:
    try:
        read_nifti(path)
    except ClinomeError as error:
        return str(error)
    return or_else


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_nifti(tmp_path / "none.nii")
    (tmp_path / "a.nii").write_bytes(b"x" * 400)
    with pytest.raises(FormatError, match="is not NIfTI"):
        read_nifti(tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Pair(noise(), AFFINE), tmp_path / "b.img")
    with pytest.raises(FormatError, match="in another"):
        read_nifti(tmp_path / "b.hdr")
    huge = nibabel.Nifti1Header()
    huge.set_data_shape((30000, 30000, 30000))
    huge["vox_offset"], huge["magic"] = 352, b"n+1"
    (tmp_path / "c.nii").write_bytes(huge.binaryblock + b"\0" * 400)
    with pytest.raises(FormatError, match=r"truncated or corrupt(.|\n)*bytes of voxels"):
        read_nifti(tmp_path / "c.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("kind", "stored"), [(bool, np.uint8), (np.int64, np.uint8), (np.float16, np.float32), (np.float64, np.float64)]
)
def test_what_is_written_nibabel_reads(suffix: str, kind: type, stored: type, tmp_path: Path) -> None:
    path, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    values = noise((5, 4, 3, 2), kind)
    write_nifti(path, values, AFFINE)
    image = nibabel.load(path)
    np.testing.assert_array_equal(image.get_fdata(), values.astype(float))
    assert image.get_data_dtype() == stored
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    write_nifti(other, values, AFFINE)
    assert path.read_bytes() == other.read_bytes()
    np.testing.assert_array_equal(read_nifti(path).values, values)
    with pytest.raises(ValueError, match="are no volume"):
        write_nifti(path, values[0, 0], AFFINE)


def test_whole_numbers_beyond_16_bits_and_below_0(tmp_path: Path) -> None:
    for low, high, stored in ((-1, 5, np.int16), (0, 60000, np.uint16), (-5, 70000, np.int32)):
        write_nifti(tmp_path / "a.nii", np.array([low, high]).reshape(2, 1, 1), AFFINE)
        assert read_nifti(tmp_path / "a.nii").values.dtype == stored
        assert read_nifti(tmp_path / "a.nii").values.ravel().tolist() == [low, high]


@pytest.mark.slow
def test_real_hippocampi_are_what_nibabel_reads(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    with tarfile.open(real_data("msd-hippocampus") / "hippocampus.tar") as archive:
        members = [member for member in archive.getmembers() if member.name.endswith((".nii", ".nii.gz"))][:40]
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            path = tmp_path / Path(member.name).name
            path.write_bytes(file.read())
            ours, theirs = read_nifti(path), nibabel.load(path)
            np.testing.assert_array_equal(ours.values, theirs.get_fdata())
            np.testing.assert_array_equal(ours.affine, theirs.affine)
            assert ours.notes == ()
            write_nifti(tmp_path / "again.nii.gz", ours.values, ours.affine)
            np.testing.assert_array_equal(nibabel.load(tmp_path / "again.nii.gz").affine, theirs.affine)
    assert len(members) == 40
