from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, JPEGLSLossless, RLELossless
from toolkit.dicom import SECRETS, enhanced, image, save

from clinome.core.errors import ClinomeError, FormatError
from clinome.formats import dicom_pixels, gdcm_process
from clinome.formats.dicom import is_dicom, read_header
from clinome.formats.dicom_pixels import Window, read_frames

NOISE = np.random.default_rng(1).integers(0, 4096, (9, 7)).astype(np.uint16)
COMPRESSED = ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm"]
TWELVE = {"BitsStored": 12, "HighBit": 11}


def read(path: Path, window: Window = False) -> np.ndarray:
    """The one frame of a file, without the axis of channels where there is one."""
    (frame,) = read_frames(read_header(path), window=window)
    return frame[:, :, 0] if frame.shape[2] == 1 else frame


def sample(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert path
    return Path(path)


# --------------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_stored_values_keep_their_type(kind: type, tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(np.iinfo(kind).min, np.iinfo(kind).max, (5, 4), dtype=kind)
    found = read(save(image(values), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == kind


@pytest.mark.parametrize(
    ("slope", "shift", "kind"),
    [(1, -1024, np.int16), (2, 0, np.int16), (1, 40000, np.uint16), (100, -9, np.int32), (0.5, 1, np.float32)],
)
def test_slope_and_intercept(slope: float, shift: float, kind: type, tmp_path: Path) -> None:
    found = read(save(image(NOISE, RescaleSlope=slope, RescaleIntercept=shift, **TWELVE), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(found, NOISE.astype(float) * slope + shift)
    assert found.dtype == kind


def test_a_look_up_table_of_the_modality(tmp_path: Path) -> None:
    made = image(NOISE % 16)
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [16, 0, 16], "US"
    table.LUTData = (np.arange(16, dtype=np.uint16)[::-1] * 3).tobytes()
    made.ModalityLUTSequence = Sequence([table])
    np.testing.assert_array_equal(read(save(made, tmp_path / "a.dcm")), (15 - NOISE % 16) * 3)


def test_bits_above_those_stored_are_not_values(tmp_path: Path) -> None:
    """Old scanners kept overlays there."""
    made = image(NOISE | np.uint16(0x4000), **TWELVE)
    np.testing.assert_array_equal(read(save(made, tmp_path / "a.dcm")), NOISE)


@pytest.mark.parametrize("signed", [False, True])
def test_white_is_bright(signed: bool, tmp_path: Path) -> None:
    values = (NOISE.astype(np.int16) - 2048) if signed else NOISE
    made = image(values, modality="DX", PhotometricInterpretation="MONOCHROME1", **TWELVE)
    ends = (-2048, 2047) if signed else (0, 4095)
    np.testing.assert_array_equal(read(save(made, tmp_path / "a.dcm")), sum(ends) - values.astype(int))
    made.RescaleSlope, made.RescaleIntercept = 2, 10
    mapped = [2 * end + 10 for end in ends]
    np.testing.assert_array_equal(read(save(made, tmp_path / "b.dcm")), sum(mapped) - (2 * values.astype(int) + 10))


def test_units_stay_units_even_where_low_is_shown_white(tmp_path: Path) -> None:
    made = image(NOISE, modality="PT", PhotometricInterpretation="MONOCHROME1", WindowCenter=2000, WindowWidth=4000, **TWELVE)
    path = save(made, tmp_path / "a.dcm")
    np.testing.assert_array_equal(read(path), NOISE)
    assert np.corrcoef(read(path, True).ravel(), NOISE.ravel())[0, 1] < -0.99


def test_windows(tmp_path: Path) -> None:
    path = save(image(NOISE, WindowCenter=[1000, 40], WindowWidth=[501, 80], **TWELVE), tmp_path / "a.dcm")
    expected = np.clip((NOISE - 999.5) / 500 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2.1
    np.testing.assert_allclose(read(path, True), expected, atol=1e-6)
    np.testing.assert_allclose(read(path, (1000, 500)), np.clip((NOISE - 1000.0) / 500 + 0.5, 0, 1), atol=1e-6)
    made = image(NOISE, WindowCenter=1000, WindowWidth=500, VOILUTFunction="SIGMOID", **TWELVE)
    np.testing.assert_allclose(read(save(made, path), True), 1 / (1 + np.exp(-4 * (NOISE - 1000.0) / 500)), atol=1e-6)
    made = image(NOISE, WindowCenter=1000, WindowWidth=500, VOILUTFunction="LINEAR_EXACT", **TWELVE)
    np.testing.assert_allclose(read(save(made, path), True), np.clip((NOISE - 1000.0) / 500 + 0.5, 0, 1), atol=1e-6)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4, 1000, 16], np.array([0, 100, 300, 400], np.uint16).tobytes()
    made = image(NOISE, **TWELVE)
    made.VOILUTSequence = Sequence([table])
    looked = np.array([0, 100, 300, 400])[np.clip(NOISE.astype(int) - 1000, 0, 3)] / 400
    np.testing.assert_allclose(read(save(made, path), True), looked, atol=1e-6)
    with pytest.raises(FormatError, match="states no window"):
        read(save(image(NOISE), path), True)
    with pytest.raises(FormatError, match="wider than 0"):
        read(path, (40, 0))


def test_each_frame_has_its_own_scale(tmp_path: Path) -> None:
    values = np.stack([NOISE, NOISE // 2, NOISE // 3])
    frames = list(read_frames(read_header(save(enhanced(values, np.eye(4)), tmp_path / "a.dcm"))))
    for k, frame in enumerate(frames):  # the toolkit's slope is 1 + k % 2, its intercept 10 k
        np.testing.assert_array_equal(frame[:, :, 0], values[k].astype(int) * (1 + k % 2) + 10 * k)


# --------------------------------------------------------------------------------------------------------- colours, compression


@pytest.mark.parametrize(
    "name",
    [
        "examples_rgb_color.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "SC_rgb_rle_16bit.dcm",
    ],
)
def test_colours_are_pydicoms(name: str) -> None:
    ours = read(sample(name))
    np.testing.assert_array_equal(ours, pydicom.dcmread(sample(name)).pixel_array)
    assert ours.shape[2] == 3


def test_a_palette_is_looked_up() -> None:
    path = sample("examples_palette.dcm")
    dataset = pydicom.dcmread(path)
    expected = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset) >> 8
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm"]
)
def test_lossless_syntaxes_and_byte_orders_give_the_same_pixels(name: str) -> None:
    np.testing.assert_array_equal(read(sample(name)), read(sample("MR_small.dcm")))
    assert read(sample(name)).dtype.isnative


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("frames", [1, 3])
def test_what_is_compressed_comes_back(syntax: UID, frames: int, tmp_path: Path) -> None:
    values = np.stack([(NOISE + k) for k in range(frames)])
    made = image(values if frames > 1 else values[0])
    made.compress(syntax)
    found = list(read_frames(read_header(save(made, tmp_path / "a.dcm"))))
    np.testing.assert_array_equal(np.stack(found)[..., 0], values)


def test_lossless_jpeg_by_gdcm_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder ends the process on some broken files: then the frame is an error, and the next one is read."""
    path = sample("SC_rgb_jpeg_gdcm.dcm")
    expected = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(read(path), expected)
    child = gdcm_process._child
    assert child is not None
    child[1].kill()
    np.testing.assert_array_equal(read(path), expected)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(read(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all((frame == expected).all() for frame in found)
    gdcm_process._stop()
    monkeypatch.setattr(gdcm_process, "_start", lambda: Popen([sys.executable, "-c", "0"], stdin=PIPE, stdout=PIPE))
    with pytest.raises(FormatError, match=r"SC_rgb_jpeg_gdcm(.|\n)*gdcm broke down over it"):
        read(path)
    monkeypatch.undo()
    np.testing.assert_array_equal(read(path), expected)


# ------------------------------------------------------------------------------------------------------------------- what is wrong


def test_compression_that_nothing_decodes(tmp_path: Path) -> None:
    made = pydicom.dcmread(sample("MR_small_jpeg_ls_lossless.dcm"))
    made.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    made.save_as(tmp_path / "a.dcm")
    with pytest.raises(FormatError, match=r"not supported(.|\n)*MPEG-4(.|\n)*expected: uncompressed"):
        read(tmp_path / "a.dcm")
    with pytest.raises(FormatError, match=r"not supported(.|\n)*12-bit"):
        read(sample("JPGExtended.dcm"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"file is empty(.|\n)*0 bytes"),
        (b"\0" * 4000, r"not DICOM(.|\n)*only zeros"),
        (b"PK\x03\x04" + b"x" * 500, r"not DICOM(.|\n)*zip archive(.|\n)*password"),
        (b"%PDF-1.7 " + b"x" * 500, r"not DICOM(.|\n)*PDF"),
        (b"<!DOCTYPE html><html>log in", r"not DICOM(.|\n)*web page"),
        (b"Salted__" + b"x" * 500, r"not DICOM(.|\n)*encrypted by OpenSSL"),
        (bytes.fromhex("308006092a864886f70d010703") + b"x" * 500, r"encrypted(.|\n)*CMS"),
        (b"plain text, " * 50, r"not DICOM, nor another image(.|\n)*'DICM' at byte 128(.|\n)*PNG"),
        (b"\0" * 128 + b"DICM", r"holds no image|truncated"),
    ],
)
def test_other_files(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(FormatError, match=says):
        read(tmp_path / "a.dcm")


def test_encrypted_attributes_without_pixels_are_not_called_truncated(tmp_path: Path) -> None:
    made = pydicom.dcmread(sample("MR_small.dcm"))
    item = pydicom.Dataset()
    item.EncryptedContentTransferSyntaxUID, item.EncryptedContent = made.file_meta.TransferSyntaxUID, b"x" * 64
    made.EncryptedAttributesSequence = [item]
    made.save_as(tmp_path / "clear.dcm")
    assert read(tmp_path / "clear.dcm") is not None  # of the pixels nothing is hidden
    del made.PixelData
    made.save_as(tmp_path / "a.dcm")
    with pytest.raises(FormatError, match=r"parts of the DICOM file are encrypted(.|\n)*a\.dcm(.|\n)*decrypt"):
        read(tmp_path / "a.dcm")


def test_files_that_are_no_pictures() -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read(Path("none.dcm"))
    for name, says in (
        ("liver_1frame.dcm", r"modality SEG(.|\n)*read_dicom_seg"),
        ("rtdose.dcm", "modality RTDOSE"),
        ("rtstruct.dcm", "modality RTSTRUCT"),
        ("reportsi.dcm", "modality SR"),
        ("rtplan.dcm", "holds no image"),
        ("DICOMDIR-empty.dcm", "table of contents"),
    ):
        with pytest.raises(FormatError, match=says):
            read(sample(name))


def test_a_header_without_pixels_and_a_size_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = image(np.zeros((2, 3), np.uint8))
    del made.PixelData
    with pytest.raises(FormatError, match="holds no pixels"):
        read(save(made, tmp_path / "a.dcm"))
    made = image(NOISE)
    made.Rows = 60000
    with pytest.raises(FormatError, match=r"truncated(.|\n)*at least 840,000 bytes"):
        read(save(made, tmp_path / "a.dcm"))
    made = pydicom.dcmread(sample("MR_small_RLE.dcm"))
    made.NumberOfFrames = 2_000_000_000
    with pytest.raises(FormatError, match=r"truncated(.|\n)*at least 16,000,000,000 bytes"):
        read(save(made, tmp_path / "a.dcm"))
    made = image(NOISE, PixelSpacing=[0.5, 0.5])
    made.PixelSpacing = [0.5, 0.5]
    made["PixelSpacing"].value = [0.5]
    with pytest.raises(FormatError, match="PixelSpacing is not 2 numbers"):
        read(save(made, tmp_path / "a.dcm"))
    monkeypatch.setattr(dicom_pixels, "free_memory", lambda: 100)
    with pytest.raises(FormatError, match="larger than the free memory"):
        read(save(image(NOISE), tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm"],
)
def test_a_file_that_is_cut_off(name: str, tmp_path: Path) -> None:
    """Every way of losing the end (but for bytes behind the pixels) is one error that names the file."""
    whole, path = sample(name).read_bytes(), tmp_path / "cut.dcm"
    dataset = pydicom.dcmread(sample(name))
    behind = len(whole) - 300 if dataset.file_meta.TransferSyntaxUID.is_compressed else len(whole) - 200
    for size in sorted({0, 1, 100, 131, 132, 140, *np.linspace(150, behind, 25).astype(int)}):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.dcm"):
            read(path)


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm"],
)
def test_damaged_bytes_are_an_error_or_other_values(name: str, tmp_path: Path) -> None:
    whole, path = np.frombuffer(sample(name).read_bytes(), np.uint8), tmp_path / "a.dcm"
    generator = np.random.default_rng(4)
    for k in range(40):
        damaged = whole.copy()
        damaged[generator.integers(0 if k % 2 else len(whole) // 3, len(whole), 5)] = generator.integers(0, 256, 5)
        path.write_bytes(damaged.tobytes())
        assert str(path) in _error_of(lambda: read(path), or_else=str(path))


def test_nothing_of_the_patient_in_headers_or_warnings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    made = image(NOISE)
    made.PatientBirthDate = "not a date"
    path = save(made, tmp_path / "a.dcm")
    recwarn.clear()
    header = read_header(path)
    list(read_frames(header))
    assert header.patient == SECRETS[2]  # for linking; the rest is not there
    assert not any(secret in repr(header) for secret in SECRETS[:2])
    assert not [warning for warning in recwarn if "pydicom" in str(warning.filename)]


def test_what_is_dicom() -> None:
    assert is_dicom(b"\0" * 128 + b"DICM")
    assert is_dicom(b"II*\0" + b"\0" * 124 + b"DICM")  # a preamble may be a TIFF's header
    assert is_dicom(b"\x08\0\x05\0CS\n\0ISO_IR 100")
    assert not is_dicom(b"")
    assert not is_dicom(b"\x89PNG\r\n\x1a\n" + b"x" * 200)


def _error_of(call: Callable[[], object], *, or_else: str) -> str:
    try:
        call()
    except ClinomeError as error:
        return str(error)
    return or_else
