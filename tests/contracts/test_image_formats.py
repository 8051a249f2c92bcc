"""What every image format promises through ``read_scan``: known by its content, and any damage one error that names the file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from toolkit.dicom import enhanced, image, save

from clinome.core.errors import ClinomeError, FormatError
from clinome.formats.dicom import is_dicom
from clinome.formats.nifti import is_nifti
from clinome.formats.picture import is_picture
from clinome.imaging.scan import read_scan

GREY = np.random.default_rng(1).integers(0, 256, (24, 19), dtype=np.uint8)
VOLUME = np.random.default_rng(2).integers(0, 900, (5, 11, 7)).astype(np.int16)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's, of damaged TIFF
SNIFFERS = {"dicom": is_dicom, "nifti": is_nifti, "picture": is_picture}
# Another program writes each; its first bytes belong to one sniffer alone.
FORMATS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a.dcm": ("dicom", lambda path: save(image(GREY), path)),
    "multi.dcm": ("dicom", lambda path: save(enhanced(VOLUME, np.diag([1.0, 1, 2, 1])), path)),
    "a.nii": ("nifti", lambda path: nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), path)),
    "a.nii.gz": ("nifti", lambda path: nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), path)),
    "two.nii": ("nifti", lambda path: nibabel.save(nibabel.Nifti2Image(VOLUME, np.eye(4)), path)),
    "a.png": ("picture", lambda path: Image.fromarray(GREY).save(path)),
    "a.jpg": ("picture", lambda path: Image.fromarray(GREY).save(path)),
    "a.tif": ("picture", lambda path: Image.fromarray(GREY).save(path)),
}


@pytest.fixture(params=FORMATS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    FORMATS[request.param][1](path)
    return path


def test_its_own_sniffer_and_no_other_knows_it(sample: Path) -> None:
    first = sample.read_bytes()[:1024]
    assert [name for name, knows in SNIFFERS.items() if knows(first)] == [FORMATS[sample.name][0]]


def test_the_content_decides_not_the_name(sample: Path) -> None:
    expected = read_scan(sample)
    other = sample.rename(sample.with_name("other.xyz"))
    np.testing.assert_array_equal(read_scan(other).values, expected.values)


def test_values_are_native_and_finite(sample: Path) -> None:
    scan = read_scan(sample)
    assert scan.values.dtype.isnative
    assert scan.values.ndim in (3, 4)
    assert (scan.affine is None) == (scan.values.ndim == 3)
    assert scan.affine is None or np.isfinite(scan.affine).all()


def test_a_file_that_is_cut_off(sample: Path) -> None:
    whole = sample.read_bytes()
    tail = 12 if sample.suffix == ".tif" else 1  # a TIFF may end in entries that nothing needs
    if sample.suffix == ".jpg":
        tail = 3  # its end mark
    for size in sorted({0, 1, 4, 8, 131, 132, *np.linspace(1, len(whole) - tail, 40).astype(int)}):
        sample.write_bytes(whole[: min(size, len(whole) - tail)])
        with pytest.raises(FormatError) as error:
            read_scan(sample)
        assert str(sample) in str(error.value), size


def test_damaged_bytes(sample: Path) -> None:
    """Damage is an error of ours or other values, never a traceback of a library's."""
    whole = np.frombuffer(sample.read_bytes(), np.uint8)
    generator = np.random.default_rng(3)
    for k in range(80):
        damaged = whole.copy()
        damaged[generator.integers(0, len(whole) if k % 2 else min(len(whole), 400), 4)] = generator.integers(0, 256, 4)
        sample.write_bytes(damaged.tobytes())
        assert str(sample) in _error_of(sample, or_else=str(sample)), k


def test_a_scan_travels_between_processes(sample: Path) -> None:
    scan = read_scan(sample)
    again = pickle.loads(pickle.dumps(scan))
    np.testing.assert_array_equal(again.values, scan.values)
    assert (again.spacing_mm, again.notes) == (scan.spacing_mm, scan.notes)


def _error_of(path: Path, *, or_else: str) -> str:
    try:
        read_scan(path)
    except ClinomeError as error:
        return str(error)
    return or_else
