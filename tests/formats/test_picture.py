from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clinome.core.errors import FormatError, OutputError
from clinome.formats import picture
from clinome.formats.picture import is_picture, read_native, read_picture, read_square, write_picture


def noise(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_png_returns_what_was_written(tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "round.png"
    write_picture(path, noise(height, width, seed))
    np.testing.assert_array_equal(read_picture(path), noise(height, width, seed))


def test_jpeg_is_close_and_the_content_decides_not_the_name(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    write_picture(tmp_path / "a.jpg", smooth)
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert np.abs(read_picture(tmp_path / "a.png").astype(int) - smooth).max() < 12


def test_a_large_jpeg_may_be_decoded_small(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", np.full((800, 1200, 3), 90, np.uint8))
    small = read_picture(tmp_path / "a.jpg", at_least=100)
    assert small.shape == (100, 150, 3)
    assert abs(int(small.mean()) - 90) <= 1
    assert read_picture(tmp_path / "a.jpg").shape == (800, 1200, 3)


def test_greyscale_of_8_and_16_bits_become_three_equal_channels(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "8.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "16.png")
    expected = np.repeat(ramp[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_picture(tmp_path / "8.png"), expected)
    np.testing.assert_array_equal(read_picture(tmp_path / "16.png"), expected)


def test_palette_one_bit_and_cmyk(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 3), (255, 0, 0))
    red.quantize(4).save(tmp_path / "palette.png")
    Image.new("1", (4, 3), 1).save(tmp_path / "bit.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert read_picture(tmp_path / "palette.png")[0, 0].tolist() == [255, 0, 0]
    assert read_picture(tmp_path / "bit.png").min() == 255
    assert np.abs(read_picture(tmp_path / "cmyk.jpg")[0, 0].astype(int) - [255, 0, 0]).max() <= 3


def test_transparency_is_laid_over_black(tmp_path: Path) -> None:
    layers = np.zeros((1, 3, 4), np.uint8)
    layers[0, :, :3] = (200, 100, 50)
    layers[0, :, 3] = (255, 128, 0)
    Image.fromarray(layers).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png")[0].tolist() == [[200, 100, 50], [100, 50, 25], [0, 0, 0]]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    wide = Image.new("RGB", (6, 2), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    wide.save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (6, 2, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    write_picture(path, noise(40, 40))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    said = r"(.|\n)*the file ends at byte \d+ without an IEND chunk" if suffix == "png" else ""
    with pytest.raises(FormatError, match=rf"truncated or corrupt(.|\n)*cut\.{said}"):
        read_picture(path)


@given(st.integers(0, 10_000))
def test_a_flipped_bit_in_a_png_is_never_silent(tmp_path_factory: pytest.TempPathFactory, where: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(12, 12)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[where % len(content)] ^= 0x10
    path = tmp_path_factory.getbasetemp() / "flipped.png"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        read_picture(path)


def test_not_a_picture_not_there_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(FormatError, match="neither PNG, JPEG nor TIFF"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(FormatError, match=r"cannot be read(.|\n)*No such file"):
        read_picture(tmp_path / "b.png")
    write_picture(tmp_path / "c.png", noise(20, 20))
    monkeypatch.setattr(picture, "LARGEST", 399)
    with pytest.raises(FormatError, match=r"too large(.|\n)*20 × 20"):
        read_picture(tmp_path / "c.png")


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_picture(tmp_path / "file" / "a.png", noise(2, 2))


@pytest.mark.parametrize("gap", [None, 1, 2])
def test_the_middle_square_is_scaled_down_by_averaging(tmp_path: Path, gap: float | None) -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = np.where(np.arange(40) % 2 == 0, 0, 200)[None, :, None]  # the middle, in stripes of a pixel
    write_picture(tmp_path / "a.png", wide)
    small = read_square(tmp_path / "a.png", side=10, gap=gap)
    assert small.shape == (10, 10, 3)
    assert np.abs(small[:, 1:-1].astype(int) - 100).max() <= 12  # no stripes alias
    write_picture(tmp_path / "b.png", wide[:, 30:70])
    np.testing.assert_array_equal(read_square(tmp_path / "b.png", side=40), wide[:, 30:70])


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_short_cut_of_a_square_changes_little(tmp_path: Path, name: str) -> None:
    blocks = noise(6, 6).repeat(100, axis=0).repeat(100, axis=1)
    write_picture(tmp_path / name, blocks)
    whole = read_square(tmp_path / name, side=60).astype(int)
    for gap, most in ((1, 5), (2, 1)):
        assert np.abs(read_square(tmp_path / name, side=60, gap=gap) - whole).mean() < most


def test_a_square_is_upright_in_colours_without_transparency(tmp_path: Path) -> None:
    pixels = noise(20, 20)
    exif = Image.Exif()
    exif[274] = 6  # turned a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_square(tmp_path / "turned.png", side=20), np.rot90(pixels, -1))
    clear = Image.fromarray(np.dstack([pixels, np.zeros((20, 20), np.uint8)]))
    clear.save(tmp_path / "clear.png")
    assert read_square(tmp_path / "clear.png", side=10).max() == 0
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_square(tmp_path / "deep.png", side=20), pixels[:, :, :1].repeat(3, axis=2))


# ------------------------------------------------------------------------------------------------------------------- native depth

DEEP = np.random.default_rng(1).integers(0, 65536, (9, 7), dtype=np.uint16)


def test_deep_greyscale_stays_deep(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    Image.fromarray(DEEP).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        found = read_native(tmp_path / name)
        assert (found.dtype, found.shape) == (np.uint16, (9, 7, 1))
        np.testing.assert_array_equal(found[:, :, 0], DEEP)
    tifffile.imwrite(tmp_path / "big.tif", DEEP, byteorder=">")
    np.testing.assert_array_equal(read_native(tmp_path / "big.tif")[:, :, 0], DEEP)
    tifffile.imwrite(tmp_path / "float.tif", DEEP.astype(np.float32) / 7)
    np.testing.assert_array_equal(read_native(tmp_path / "float.tif")[:, :, 0], DEEP.astype(np.float32) / 7)


def test_channels_are_the_files(tmp_path: Path) -> None:
    grey = (DEEP >> 8).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(noise(9, 7)).save(tmp_path / "colour.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 255)])).save(tmp_path / "alpha.png")
    palette = Image.fromarray(grey)
    palette.putpalette([level for level in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "alpha.png", "palette.png"):
        np.testing.assert_array_equal(read_native(tmp_path / name), grey[:, :, None])
    np.testing.assert_array_equal(read_native(tmp_path / "colour.png"), noise(9, 7))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_whose_low_values_are_white_is_bright_there(kind: type, tmp_path: Path) -> None:
    values = (DEEP >> 8).astype(np.uint8) if kind == np.uint8 else DEEP
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read_native(tmp_path / "a.tif")[:, :, 0], np.iinfo(kind).max - values)
    high = read_picture(tmp_path / "a.tif")[:, :, 0].astype(int)
    assert np.abs(high - (255 - np.round(values / (np.iinfo(kind).max / 255)))).max() <= 1


def test_deep_colours_are_not_cut_in_silence(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([DEEP] * 3), photometric="rgb")
    with pytest.raises(FormatError, match=r"16 bits a colour(.|\n)*read_picture"):
        read_native(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_pages_and_cut_tiffs(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([DEEP] * 3), photometric="minisblack")
    with pytest.raises(FormatError, match=r"several pages(.|\n)*3 pages"):
        read_native(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", DEEP)
    whole = (tmp_path / "b.tif").read_bytes()
    for size in (0, 4, 8, 60, len(whole) // 2, len(whole) - 9):
        (tmp_path / "b.tif").write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"b\.tif"):
            read_native(tmp_path / "b.tif")


def test_what_is_a_picture(tmp_path: Path) -> None:
    assert is_picture(b"\x89PNG\r\n\x1a\n")
    assert is_picture(b"MM\0*")
    assert not is_picture(b"")
    assert not is_picture(b"\0" * 128 + b"DICM")
