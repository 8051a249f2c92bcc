from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import FormatError, OutputError, SchemaError
from clinome.core.schema import IMAGES
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
    first = squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16)
    monkeypatch.setattr(convert, "_BLOCK", 2)
    assert squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16, threads=3) == first
    assert squares(images, root=tmp_path, path=tmp_path / "a.npy", size=17) != first
    write_picture(tmp_path / "3.png", np.zeros((16, 16, 3), np.uint8))
    assert squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16) != first


def test_a_broken_picture_is_one_error_that_names_it(tmp_path: Path) -> None:
    images = table(tmp_path, random_pictures(3), [None] * 3)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:100])
    with pytest.raises(FormatError, match=r"truncated or corrupt(.|\n)*1\.png"):
        squares(images, root=tmp_path, path=tmp_path / "a.npy", size=16)


def test_the_key_of_the_files(tmp_path: Path) -> None:
    images = table(tmp_path, random_pictures(2), [None] * 2)
    before = content_key(images, tmp_path)
    assert content_key(images, tmp_path) == before
    write_picture(tmp_path / "1.png", np.zeros((9, 9, 3), np.uint8))
    assert content_key(images, tmp_path) != before
    (tmp_path / "0.png").unlink()
    with pytest.raises(FormatError, match=r"is not there(.|\n)*0\.png"):
        content_key(images, tmp_path)


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
