from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.dicom import image, save

from clinome.core.errors import FormatError, OutputError, SchemaError
from clinome.core.schema import IMAGES, SET_ASIDE, check
from clinome.formats.picture import write_picture
from clinome.formats.table import read_checked
from clinome.imaging import convert
from clinome.imaging.convert import content_key, squares


def table(tmp_path: Path, pictures: list[np.ndarray], sides: list[str | None]) -> pl.DataFrame:
    for k, pixels in enumerate(pictures):
        write_picture(tmp_path / f"{k}.png", pixels)
    names = [str(k) for k in range(len(pictures))]
    return pl.DataFrame(
        {"image_id": names, "participant_id": names, "path": [f"{n}.png" for n in names], "laterality": sides},
        schema_overrides={"laterality": pl.String},
    )


def random_pictures(n: int, side: int = 16) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def test_rows_follow_the_table_and_left_eyes_are_mirrored(tmp_path: Path) -> None:
    pictures = random_pictures(3)
    images = table(tmp_path, pictures, ["left", "right", None])
    squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16)
    array = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(array, np.stack([pictures[0][:, ::-1], pictures[1], pictures[2]]))
    squares(images, root=tmp_path, path=tmp_path / "b.npy", size=16, mirror=False)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.stack(pictures))


def test_the_digest_follows_the_pixels_not_the_files_nor_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = table(tmp_path, random_pictures(7), [None] * 7)
    first = squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16).digest
    monkeypatch.setattr(convert, "_BLOCK", 2)
    assert squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16, threads=3).digest == first
    assert squares(images, root=tmp_path, path=tmp_path / "a.npy", size=17).digest != first
    write_picture(tmp_path / "3.png", np.zeros((16, 16, 3), np.uint8))
    assert squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16).digest != first


def test_broken_pictures_are_set_aside_and_the_others_close_ranks(tmp_path: Path) -> None:
    pictures = random_pictures(5)
    images = table(tmp_path, pictures, ["left", None, None, "left", None])
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:100])
    (tmp_path / "2.png").unlink()
    made = squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.stack([pictures[1], pictures[3][:, ::-1], pictures[4]]))
    assert (tmp_path / "a.npy").stat().st_size == 128 + 3 * 16 * 16 * 3
    check(made.set_aside, SET_ASIDE)
    assert made.set_aside.select("image_id", "what").rows() == [
        ("0", "the PNG picture is truncated or corrupt"),
        ("2", "the file cannot be read"),
    ]
    assert squares(images[[1, 3, 4]], root=tmp_path, path=tmp_path / "b.npy", size=16).digest == made.digest


@pytest.mark.parametrize("n", [9, 10, 99, 100, 1234])
def test_the_header_of_an_array_that_is_shortened(tmp_path: Path, n: int) -> None:
    whole = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2)
    for rows in (0, 1, 8, n - 1):
        np.save(tmp_path / "a.npy", whole)
        convert._shorten(tmp_path / "a.npy", rows)
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole[:rows])


def test_no_picture_at_all(tmp_path: Path) -> None:
    images = table(tmp_path, random_pictures(2), [None] * 2)
    with pytest.raises(
        FormatError, match=r"none of the 2 pictures(.|\n)*elsewhere/0\.png(.|\n)*cannot be read(.|\n)*column 'path'"
    ):
        squares(images, root=tmp_path / "elsewhere", path=tmp_path / "a.npy", size=16)


def test_inverted_films_and_dicom_pictures(tmp_path: Path) -> None:
    grey = np.random.default_rng(2).integers(0, 4000, (16, 16)).astype(np.uint16)
    save(image(grey, modality="DX", BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1"), tmp_path / "film.dcm")
    save(image(np.zeros((5, 4, 4), np.uint8)), tmp_path / "volume.dcm")
    write_picture(tmp_path / "film.png", np.repeat((grey >> 4).astype(np.uint8)[:, :, None], 3, axis=2))
    names = ["film.dcm", "volume.dcm", "film.png"]
    images = pl.DataFrame({"image_id": names, "participant_id": names, "path": names, "inverted": [None, None, True]})
    made = squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16)
    assert made.set_aside["what"].to_list() == ["the file holds a volume or several frames, not a picture"]
    film, png = np.load(tmp_path / "a.npy").astype(int)
    np.testing.assert_array_equal(png[:, :, 0], 255 - (grey >> 4))
    assert np.corrcoef(film[:, :, 0].ravel(), png[:, :, 0].ravel())[0, 1] > 0.999


def test_the_key_of_the_files(tmp_path: Path) -> None:
    images = table(tmp_path, random_pictures(2), [None] * 2)
    before = content_key(images, tmp_path)
    assert content_key(images, tmp_path) == before
    write_picture(tmp_path / "1.png", np.zeros((9, 9, 3), np.uint8))
    assert content_key(images, tmp_path) != before
    (tmp_path / "0.png").unlink()
    assert content_key(images, tmp_path)[0] == ("0.png", -1, -1)


def test_a_full_disk_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = table(tmp_path, random_pictures(1), [None])
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
    with pytest.raises(OutputError, match="too full"):
        squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16)
    assert not (tmp_path / "a.npy").exists()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_images_tables_keep_identifiers_as_text(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"image_id": ["1"], "participant_id": ["007"], "path": ["a.png"], "visit": [0], "blur": [0.5]})
    path = tmp_path / f"images{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="," if suffix == ".csv" else "\t")
    assert read_checked(path, IMAGES).equals(frame)


def test_a_table_that_is_no_images_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image_id,participant_id\n1,2\n")
    with pytest.raises(SchemaError, match="'path' is missing"):
        read_checked(tmp_path / "a.csv", IMAGES)
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(FormatError, match="cannot be read"):
        read_checked(tmp_path / "a.parquet", IMAGES)
