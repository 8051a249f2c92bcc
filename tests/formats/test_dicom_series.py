from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from toolkit.dicom import enhanced, image, save, save_slices, slices

from clinome.core.errors import FormatError
from clinome.formats.dicom import Header, read_header
from clinome.formats.dicom_series import Volume, is_placed, layout, read_volume

AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.5, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])
VALUES = np.random.default_rng(1).integers(-900, 900, (7, 5, 4)).astype(np.int16)


def headers(folder: Path) -> list[Header]:
    return [read_header(path) for path in sorted(folder.glob("*.dcm"))]


def stack(**attributes: Any) -> list[Dataset]:
    return slices(VALUES, AFFINE, **attributes)


def read(datasets: list[Dataset], folder: Path) -> Volume:
    return read_volume(headers(save_slices(datasets, folder)), where=folder)


def refused(datasets: list[Dataset], folder: Path, says: str) -> None:
    found = headers(save_slices(datasets, folder))
    with pytest.raises(FormatError, match=says) as error:
        read_volume(found, where=folder)
    assert str(folder) in str(error.value)


def moved(dataset: Dataset, z: float, x: float = 0.0) -> Dataset:
    dataset.ImagePositionPatient = [AFFINE[0, 3] + x, AFFINE[1, 3], z]
    return dataset


def test_a_whole_series(tmp_path: Path) -> None:
    made = read(stack(), tmp_path)
    np.testing.assert_array_equal(made.values[0], VALUES)
    np.testing.assert_allclose(made.affine, AFFINE)
    assert made.notes == ()
    assert [plane.path.name for plane in made.planes[0]] == [f"{k:04d}.dcm" for k in range(7)]


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        ([3], r"1 slice is missing(.|\n)*5\.00 mm between \(-10\.0, -20\.0, 35\.0\) mm and \(-10\.0, -20\.0, 40\.0\) mm"),
        ([3, 4], r"2 slices are missing(.|\n)*7\.50 mm between(.|\n)*expected: 2\.50 mm"),
        ([1, 5], r"2 slices are missing"),
    ],
)
def test_missing_slices_are_named_by_place(drop: list[int], says: str, tmp_path: Path) -> None:
    refused([one for k, one in enumerate(stack()) if k not in drop], tmp_path, says)


def test_uneven_spacing_is_named_by_place(tmp_path: Path) -> None:
    z = [30.0, 32.5, 35.0, 37.5, 40.0, 43.5, 47.0]
    refused(
        [moved(one, place) for one, place in zip(stack(), z, strict=True)],
        tmp_path,
        r"unevenly spaced(.|\n)*3\.50 mm between \(-10\.0, -20\.0, 40\.0\) mm(.|\n)*expected: 2\.50 mm",
    )


def test_rounded_places_are_no_gaps_and_wider_ones_are_noted(tmp_path: Path) -> None:
    """Spacing of 0.625 mm written with one decimal."""
    z = [round(30 + 0.625 * k, 1) for k in range(7)]
    made = read([moved(one, place) for one, place in zip(stack(), z, strict=True)], tmp_path)
    assert made.affine[2, 2] == pytest.approx((z[-1] - z[0]) / 6)
    assert "beside an even grid" in made.notes[0]


def test_a_tilted_gantry_shears_the_volume_and_is_noted(tmp_path: Path) -> None:
    made = read([moved(one, 30 + 2.5 * k, 0.5 * k) for k, one in enumerate(stack())], tmp_path)
    np.testing.assert_allclose(made.affine[:3, 2], [0.5, 0, 2.5])
    assert "gantry tilt of 11.3°" in made.notes[0]
    crooked = [moved(one, 30 + 2.5 * k, 0.5 * k * k) for k, one in enumerate(stack())]
    refused(crooked, tmp_path / "crooked", "do not lie in one line")


def test_localisers_are_left_out_and_other_directions_refused(tmp_path: Path) -> None:
    scout = image(np.zeros((9, 9), np.int16), PixelSpacing=[3, 3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    scout.ImagePositionPatient, scout.ImageType = [0, 0, 0], ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    made = read([*stack(), scout], tmp_path / "a")
    np.testing.assert_array_equal(made.values[0], VALUES)
    assert made.notes == ("1 localisers among the images are left out",)
    scout.ImageType = ["ORIGINAL", "PRIMARY"]
    refused([*stack(), scout], tmp_path / "b", r"different directions(.|\n)*1 of 8(.|\n)*0007\.dcm")


def test_mixed_sizes_spacings_and_places(tmp_path: Path) -> None:
    other = stack()
    other[2].PixelSpacing = [0.5, 0.6]
    refused(other, tmp_path / "spacing", r"pixel spacing(.|\n)*0\.5 × 0\.5 mm and, 0002\.dcm, 0\.5 × 0\.6 mm")
    other = stack()
    other[2] = image(np.zeros((5, 9), np.int16), PixelSpacing=[0.5, 0.5], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    refused([*other[:2], moved(other[2], 35.0), *other[3:]], tmp_path / "size", r"differ in size(.|\n)*6 of 5 × 4; 1 of 5 × 9")
    other = stack()
    del other[4].ImagePositionPatient
    found = headers(save_slices(other, tmp_path / "place"))
    assert is_placed(found)
    assert not is_placed(found[4:5])
    with pytest.raises(FormatError, match=r"where they lie(.|\n)*0004\.dcm(.|\n)*1 of 7"):
        layout(found, where=tmp_path)
    for wrong in ([1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 2, 0]):
        refused(stack(ImageOrientationPatient=wrong), tmp_path / "turn", "unit vectors at right angles")


def test_copies(tmp_path: Path) -> None:
    twice = stack()
    made = read([*twice, twice[3]], tmp_path / "same")  # one file under two names
    np.testing.assert_array_equal(made.values[0], VALUES)
    assert "the same SOPInstanceUID" in made.notes[0]
    again = stack()[3]  # sent again under a new number
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made = read([*stack(), again], tmp_path / "again")
    np.testing.assert_array_equal(made.values[0], VALUES)
    assert made.notes == ("1 images are copies of others, pixel for pixel",)
    again.PixelData = (VALUES[3] + 1).tobytes()
    refused([*stack(), again], tmp_path / "other", r"nothing tells them apart(.|\n)*\(-10\.0, -20\.0, 37\.5\) mm")


def test_times_and_echoes_are_channels(tmp_path: Path) -> None:
    early = stack(TemporalPositionIdentifier=1)
    late = slices(VALUES + 1, AFFINE, TemporalPositionIdentifier=2)
    mixed = [one for k in (3, 1, 0, 5, 6, 2, 4) for one in (late[k], early[k])]
    made = read(mixed, tmp_path / "times")
    np.testing.assert_array_equal(made.values, np.stack([VALUES, VALUES + 1]))
    assert "2 images at each place" in made.notes[0]
    refused(mixed[:-1], tmp_path / "one", r"different numbers of images(.|\n)*1 at (.|\n)*, 2 elsewhere")
    late[2].TemporalPositionIdentifier = 3
    refused([*early, *late], tmp_path / "kind", "differ in kind")
    by_clock = [*stack(AcquisitionTime="101500.5"), *slices(VALUES + 1, AFFINE, AcquisitionTime="101400")]
    np.testing.assert_array_equal(read(by_clock, tmp_path / "clock").values, np.stack([VALUES + 1, VALUES]))


def test_slices_that_differ_in_scale(tmp_path: Path) -> None:
    """PET has a slope for each slice; whole and fractional ones share a volume."""
    files = stack(modality="PT")
    for k, one in enumerate(files):
        one.RescaleSlope, one.RescaleIntercept = 1 + k / 4, 0
    made = read(files, tmp_path)
    expected = VALUES * (1 + np.arange(7) / 4)[:, None, None]
    np.testing.assert_allclose(made.values[0], expected, rtol=1e-6)
    assert made.values.dtype == np.float32


def test_a_multi_frame_file_with_two_times(tmp_path: Path) -> None:
    """Positions and times from functional groups; the order of frames says nothing."""
    both = enhanced(np.concatenate([VALUES, VALUES]), AFFINE)
    frames = list(both.PerFrameFunctionalGroupsSequence)
    for k, frame in enumerate(frames):
        content = Dataset()
        content.TemporalPositionIndex = 2 - k // 7  # the second half is earlier
        frame.FrameContentSequence = Sequence([content])
        frame.PlanePositionSequence[0].ImagePositionPatient = [-10, -20, 30 + 2.5 * (k % 7)]
        frame.PixelValueTransformationSequence[0].RescaleSlope = 1
        frame.PixelValueTransformationSequence[0].RescaleIntercept = k // 7
    made = read_volume([read_header(save(both, tmp_path / "a.dcm"))], where=tmp_path)
    np.testing.assert_array_equal(made.values, np.stack([VALUES + 1, VALUES]))
    np.testing.assert_allclose(made.affine, AFFINE)
    del both.PerFrameFunctionalGroupsSequence[5:]
    with pytest.raises(FormatError, match=r"5 of 14 frames are described"):
        read_header(save(both, tmp_path / "b.dcm"))


def test_three_hundred_slices_in_the_order_of_space(tmp_path: Path) -> None:
    values = np.zeros((300, 2, 2), np.int16) + np.arange(300, dtype=np.int16)[:, None, None]
    order = np.random.default_rng(2).permutation(300)
    made = read_volume(headers(save_slices(slices(values, AFFINE), tmp_path, order)), where=tmp_path)
    np.testing.assert_array_equal(made.values[0], values)
