from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from PIL import Image
from toolkit.dicom import SECRETS, image, save, save_slices, slices

from clinome.cohort.flow import Flow
from clinome.core.errors import FormatError, SchemaError
from clinome.core.schema import IMAGES, SET_ASIDE, check
from clinome.imaging import reading
from clinome.imaging.reading import fault_of, in_words, index_images, scans, set_aside_table, without_unreadable

AFFINE = np.diag([0.5, 0.5, 3.0, 1.0])


def volume(seed: int = 1, depth: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (depth, 6, 5)).astype(np.int16)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A folder as hospitals have them: two whole series, a film, a NIfTI, a photograph, and what is wrong with others."""
    root = tmp_path / "hospital"
    for name, patient in (("one", "100"), ("two", "200")):
        files = slices(volume(), AFFINE, SeriesInstanceUID=f"1.9.{patient}", PatientID=patient)
        save_slices(files, root / name, [2, 0, 3, 1])
    gap = save_slices(slices(volume(depth=6), AFFINE, SeriesInstanceUID="1.9.300", PatientID="300"), root / "gap")
    (gap / "0002.dcm").unlink()
    film = image(volume()[0].astype(np.uint16), modality="DX", SeriesInstanceUID="1.9.400", PatientID="400", ImageLaterality="L")
    film.AcquisitionDate, film.Manufacturer = "20250304", "Maker"
    save(film, root / "film.dcm")
    head = nibabel.Nifti1Image(volume().transpose(2, 1, 0), np.diag([-0.5, -0.5, 3.0, 1.0]))
    (root / "sub-07" / "anat").mkdir(parents=True)
    nibabel.save(head, root / "sub-07" / "anat" / "t1.nii.gz")
    Image.fromarray(volume()[0].astype(np.uint8)).save(root / "eye.png")
    (root / "bad").mkdir()
    (root / "bad" / "empty.dcm").touch()
    (root / "bad" / "cut.nii.gz").write_bytes((root / "sub-07" / "anat" / "t1.nii.gz").read_bytes()[:60])
    (root / "bad" / "page.png").write_text("<!DOCTYPE html><html>Please log in</html>")
    (root / "notes.txt").write_text("not an image")
    (root / ".DS_Store").write_bytes(b"x")
    return root


def test_a_folder_becomes_two_tables(hospital: Path) -> None:
    found = index_images(hospital)
    check(found.images, IMAGES)
    check(found.set_aside, SET_ASIDE)
    rows = {row["path"]: row for row in found.images.iter_rows(named=True)}
    assert list(rows) == ["eye.png", "film.dcm", "one", "sub-07/anat/t1.nii.gz", "two"]
    assert (rows["one"]["modality"], rows["one"]["spacing_mm"], rows["one"]["orientation"]) == ("CT", "3 x 0.5 x 0.5", "LPS")
    assert rows["one"]["series"] == "1.9.100"
    assert rows["film.dcm"]["laterality"] == "left"
    assert str(rows["film.dcm"]["date"]) == "2025-03-04"
    assert rows["film.dcm"]["scanner"] == "Maker"
    head = rows["sub-07/anat/t1.nii.gz"]
    assert (head["participant_id"], head["orientation"], head["spacing_mm"]) == ("07", "LPS", "3 x 0.5 x 0.5")
    aside = dict(found.set_aside.select("path", "what").iter_rows())
    assert aside.keys() == {"bad/empty.dcm", "bad/cut.nii.gz", "bad/page.png", "gap"}
    assert aside["gap"] == "1 slice is missing"
    assert aside["bad/empty.dcm"] == "the file is empty"
    assert "web page" in found.set_aside.filter(pl.col("path") == "bad/page.png")["reason"][0]
    assert "\n" not in "".join(found.set_aside["reason"])


def test_people_are_hashed_with_the_key_and_nothing_else_of_them_is_kept(hospital: Path, tmp_path: Path) -> None:
    save(image(volume()[0], SeriesInstanceUID="1.9.500"), hospital / "secret.dcm")
    one, two, three = (index_images(hospital, key=key).images for key in ("", "", "salt"))
    assert one.equals(two)
    people = [dict(frame.select("path", "participant_id").iter_rows()) for frame in (one, three)]
    assert people[0]["one"] != people[1]["one"]
    assert people[0]["one"] != people[0]["two"]
    written = one.write_csv() + index_images(hospital).set_aside.write_csv()
    assert not any(secret in written for secret in (*SECRETS, "100\n", ",300,"))


def test_people_by_a_pattern(hospital: Path) -> None:
    found = index_images(hospital, participant=r"^(one|two)")
    assert found.images.select("path", "participant_id").rows() == [("one", "one"), ("two", "two")]
    aside = dict(found.set_aside.select("path", "what").iter_rows())
    assert aside["eye.png"] == "the image does not say whose it is"
    assert found.set_aside["participant_id"].null_count() == found.set_aside.height


def test_a_table_keeps_its_order_its_columns_and_its_own_values(hospital: Path) -> None:
    table = pl.DataFrame(
        {
            "image_id": ["d", "c", "b", "a"],
            "participant_id": ["4", "3", "2", "1"],
            "path": ["two", "film.dcm", "bad/empty.dcm", "absent.png"],
            "laterality": [None, "right", None, None],
            "blur": [0.1, 0.2, 0.3, 0.4],
        },
        schema_overrides={"laterality": pl.String},
    )
    found = index_images(table, root=hospital)
    assert found.images["image_id"].to_list() == ["d", "c"]
    assert found.images["laterality"].to_list() == [None, "right"]
    assert found.images["modality"].to_list() == ["CT", "DX"]
    assert found.images["blur"].to_list() == [0.1, 0.2]
    assert found.set_aside.select("image_id", "participant_id", "what").rows() == [
        ("b", "2", "the file is empty"),
        ("a", "1", "the file cannot be read"),
    ]
    only = index_images(table, root=hospital, modality="CT")
    assert only.images["image_id"].to_list() == ["d"]
    assert only.set_aside["reason"][0] == "the scan is of another modality; got DX; expected CT"
    with pytest.raises(SchemaError):
        index_images(table.drop("participant_id"), root=hospital)


def test_scans_come_in_order_and_bad_ones_are_said(hospital: Path) -> None:
    images = index_images(hospital).images
    (hospital / "film.dcm").write_bytes((hospital / "film.dcm").read_bytes()[:-5])
    found = list(scans(images, root=hospital, threads=3))
    assert [read.row for read in found] == [0, 1, 2, 3, 4]
    assert found[1].scan is None
    assert found[1].fault is not None
    assert found[1].fault[0] == "the pixels are truncated or corrupt"
    assert found[2].scan is not None
    assert found[4].scan is not None
    np.testing.assert_array_equal(found[2].scan.values, found[4].scan.values)
    np.testing.assert_array_equal(found[2].scan.values[0], volume())
    inverted = images.with_columns(inverted=pl.lit(True))
    eye = next(scans(inverted, root=hospital)).scan
    assert eye is not None
    np.testing.assert_array_equal(eye.values[0], 255 - volume()[0].astype(np.uint8))


def test_fingerprints_prove_that_pixels_decode_and_find_copies(hospital: Path) -> None:
    (hospital / "film.dcm").write_bytes((hospital / "film.dcm").read_bytes()[:-5])
    found = index_images(hospital, fingerprints=True)
    assert "film.dcm" in found.set_aside["path"].to_list()
    prints = dict(found.images.select("path", "content_sha256").iter_rows())
    assert prints["one"] == prints["two"] == prints["sub-07/anat/t1.nii.gz"]
    assert len(found.images["fingerprint"][0]) == 16


def test_one_bad_file_in_every_ten_ends_nothing_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 300
    for k in range(n):
        Image.fromarray(np.full((8, 8), k % 256, np.uint8)).save(tmp_path / f"{k:03d}.png")
        if k % 10 == 0:
            (tmp_path / f"{k:03d}.png").write_bytes([b"", b"\x89PNG\r\n\x1a\nxx", b"no picture"][k // 10 % 3])
    names = [f"{k:03d}" for k in range(n)]
    people = [name[:2] + "x" if int(name) >= 10 else name for name in names]
    images = pl.DataFrame({"image_id": names, "participant_id": people, "path": [f"{name}.png" for name in names]})
    plain = reading.read_scan

    def read(path: Path, **about: object) -> object:
        if path.name == "155.png":
            raise ZeroDivisionError("a fault of the reader's own")
        return plain(path, **about)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read_scan", read)
    faults = {found.row: found.fault for found in scans(images, root=tmp_path) if found.fault}
    assert sorted(faults) == sorted([*range(0, n, 10), 155])
    aside = set_aside_table(images, faults)
    assert aside.filter(pl.col("image_id") == "155")["reason"][0] == "the reader broke down over it: ZeroDivisionError"
    assert in_words(aside, n).startswith("31 of 300 images set aside: 10 × ")
    flow = without_unreadable(Flow.start(dict.fromkeys(people)), images, aside)
    assert flow.steps[-1].dropped == ("000",)
    assert flow.table().rows()[-1] == ("reading images", "none of their images could be read", 1, 38)
    assert flow.exclusions()["participant_id"].to_list() == ["000"]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (400, 500, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    ids = [str(k) for k in range(60)]
    images = pl.DataFrame({"image_id": ids, "participant_id": ids, "path": ["a.png"] * 60})
    tracemalloc.start()
    for found in scans(images, root=tmp_path, threads=2):
        assert found.scan is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 600_000  # three scans with their files; all would be 60


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not there"):
        index_images(tmp_path / "none")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FormatError, match="holds no image"):
        index_images(tmp_path)


def test_separate_films_of_one_series_are_a_row_each(tmp_path: Path) -> None:
    for k in range(4):  # the four views of a mammogram
        save(image(volume(k)[0].astype(np.uint16), modality="MG", InstanceNumber=k), tmp_path / "study" / f"{k}.dcm")
    found = index_images(tmp_path)
    assert found.images["path"].to_list() == [f"study/{k}.dcm" for k in range(4)]
    assert not found.set_aside.height
    shutil.rmtree(tmp_path / "study")


def test_files_that_differ_in_their_suffix_alone_keep_names_apart(tmp_path: Path) -> None:
    pixels = volume()[0].astype(np.uint8)
    for name in ("eye.png", "eye.tif", "eye.png.png", "head.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    for name in ("scan.nii.gz", "scan.png", "head"):  # broken, and beside one that is not
        (tmp_path / name).touch()
    found = index_images(tmp_path)
    assert found.images["image_id"].to_list() == ["eye.png", "eye.png.png", "eye.tif", "head.png"]
    assert found.set_aside["image_id"].to_list() == ["head", "scan.nii.gz", "scan.png"]
    assert found.images["participant_id"].to_list() == ["eye", "eye.png", "eye", "head"]  # as before: one person's


def test_a_fault_is_one_line_without_advice() -> None:
    fault = fault_of(FormatError("it is broken", where="a.dcm", got=1, expected=2, do="mend it"))
    assert fault == ("it is broken", "it is broken; where a.dcm; got 1; expected 2")
    assert in_words(pl.DataFrame({"what": []}, schema={"what": pl.String}), 3) == "all of 3 images can be read"
