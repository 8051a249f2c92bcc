"""Training and applying on tables of tiny pictures and oblique volumes: what comes back lies where it should, who is left out is
counted, and what would be misread is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import polars as pl
import pytest
from PIL import Image
from toolkit.dicom import save_slices, slices
from toolkit.masked import OBLIQUE

import clinome
from clinome.core.errors import ClinomeError, CohortError, FormatError, OutputError, SchemaError, StudyError, TraitError
from clinome.core.schema import FLOW, SET_ASIDE, check
from clinome.imaging import segmenter
from clinome.imaging.models import multi_view, resnet
from clinome.imaging.patches import Case
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Recipe, train_predictor
from clinome.imaging.targets import Target
from clinome.studies import example_pictures, picture_files, picture_tasks, segmenting
from clinome.studies.measuring import measure_images
from clinome.studies.picture_examples import examples_of
from clinome.studies.picture_files import decoded, listed
from clinome.studies.picture_tasks import predict_images, train
from clinome.studies.segmenting import segment_images
from clinome.studies.task_file import About, Pictures, Predict, Segment, Split, Task

ABOUT = About(threads=1)
QUICK = Predict(("kind",), size=16, epochs=1, batch=8, floors=False)


@pytest.fixture(autouse=True, scope="module")
def small_network() -> Iterator[None]:
    """Train a network of a sixty-fourth of the weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_tasks, "_network", lambda *_: resnet.Config(layers=18, width=8, stem="small"))
        yield


def pictures(folder: Path, *, n: int = 40, colour: tuple[int, ...] = (), volumes: tuple[int, ...] = ()) -> pl.DataFrame:
    """Write dark and light pictures of n / 2 people, two each, with scans.csv and known.csv; return both tables in one."""
    generator, rows = np.random.default_rng(1), []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        light = 60 + 90 * (k // 2 % 2)
        values = np.clip(light + generator.normal(0, 12, (16, 16)), 0, 255).astype(np.uint8)
        name = f"{k}.nii" if k in volumes else f"{k}.png"
        if k in volumes:
            nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8), np.float32), np.eye(4)), folder / name)
        else:
            Image.fromarray(np.repeat(values[..., None], 3, axis=2) if k in colour else values).save(folder / name)
        rows.append((f"i{k}", f"P{k // 2:02d}", name, "light" if light > 100 else "dark", light / 10))
    table = pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "kind", "level"], orient="row")
    table.drop("kind", "level").write_csv(folder / "scans.csv")
    table.select("image_id", "kind", "level").write_csv(folder / "known.csv")
    return table


def task(folder: Path, targets: Path | None = None, *, split: Split | None = None, **changes: Any) -> Task:
    images = Pictures(folder / "scans.csv", targets or folder / "known.csv")
    return Task(images, ABOUT, split or Split(folds=2), predict=replace(QUICK, **changes))


def blocks(folder: Path, *, n: int = 10, fault: Callable[[int, Path, Path], None] | None = None) -> Path:
    """Write oblique scans of two bright blocks, every second of them stored right to left and back to front, with their masks."""
    generator, rows = np.random.default_rng(2), []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        labels = np.zeros((12, 11, 10), np.uint8)
        a, b = generator.integers(1, 5), generator.integers(1, 4)
        labels[a : a + 4, b : b + 4, 2:6], labels[a : a + 4, b : b + 4, 6:8] = 1, 2
        values = generator.normal(100, 5, labels.shape) + 60.0 * labels
        affine = OBLIQUE @ np.diag([-1, 1, -1, 1]) if k % 2 else OBLIQUE
        scan, mask = folder / f"{k}.nii.gz", folder / f"{k}.seg.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), scan)
        nibabel.save(nibabel.Nifti1Image(labels, affine), mask)
        if fault is not None:
            fault(k, scan, mask)
        rows.append((f"s{k}", f"p{k}", scan.name, mask.name))
    table = pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "mask_path"], orient="row")
    table.write_csv(folder / "scans.csv")
    return folder / "scans.csv"


def outlining(images: Path, split: Split | None = None, *, names: tuple[str, ...] = ("front", "back")) -> Task:
    split = split or Split(validation=0.2, test=0.2)
    return Task(Pictures(images), ABOUT, split, segment=Segment(names, minutes=0.02))


def aside(folder: Path) -> dict[str, str]:
    return dict(check(pl.read_parquet(folder / "set_aside.parquet"), SET_ASIDE).select("image_id", "what").rows())


def counted(folder: Path) -> dict[str, tuple[int, int]]:
    return {row[0]: row[2:] for row in check(pl.read_parquet(folder / "flow.parquet"), FLOW).rows()}


# ---------------------------------------------------------------------------------------------------------------------- structures


@pytest.fixture(scope="module")
def outlined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scans in ``scans``, a segmenter trained on them in ``model`` and its masks of all of them in ``masks``."""
    folder = tmp_path_factory.mktemp("outlined")
    images = blocks(folder / "scans")
    train(outlining(images), folder / "model")
    segment_images(folder / "model" / "segmenter", Pictures(images), folder / "masks")
    return folder


def test_masks_come_back_on_the_oblique_grid_of_their_own_image(
    outlined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a segmenter that cannot err, brightness by brightness, masks equal those drawn, whatever way the file runs."""

    def sure(*_: object, **__: object) -> Callable[[Case], Any]:
        def apply(case: Case) -> Any:
            labels = np.digitize(case.image[0], [130, 190]).astype(np.uint8)
            return SimpleNamespace(labels=labels, probability=np.ones((3, *labels.shape), np.float32))

        return apply

    monkeypatch.setattr(segmenter, "segmenter", sure)
    made = segment_images(outlined / "model" / "segmenter", Pictures(outlined / "scans" / "scans.csv"), tmp_path)
    assert made["image_id"].to_list() == [f"s{k}" for k in range(10)]
    for k, path in enumerate(made["mask_path"]):
        scan, truth, mask = (
            nibabel.load(one) for one in (outlined / f"scans/{k}.nii.gz", outlined / f"scans/{k}.seg.nii.gz", tmp_path / path)
        )
        np.testing.assert_array_equal(mask.affine, scan.affine)
        np.testing.assert_array_equal(mask.get_fdata(), truth.get_fdata())
        assert mask.header.get_zooms() == pytest.approx(scan.header.get_zooms())


def test_volumes_are_voxels_times_their_size_in_mm3(outlined: Path, tmp_path: Path) -> None:
    made = Pictures(outlined / "masks" / "segmentations.parquet")  # has the segmenter's masks, not those it was taught by
    people = measure_images(made, "volumes", tmp_path, names=("front", "back"))
    assert people.height == 10
    voxel = abs(np.linalg.det(OBLIQUE[:3, :3]))
    measured = pl.read_parquet(tmp_path / "measurements.parquet").filter(
        pl.col("trait") == "volume", pl.col("structure") != "total"
    )
    for image, structure, value in measured.select("image_id", "structure", "value").rows():
        labels = nibabel.load(outlined / "masks" / "masks" / f"{image}.nii.gz").get_fdata()
        count = np.count_nonzero(labels == {"front": 1, "back": 2}[structure])
        assert value == pytest.approx(count * voxel, rel=0.02), (image, structure)  # spacing is rounded in NIfTI
    assert measured.height == 20


def test_masks_of_alike_names_are_files_of_their_own_and_what_is_no_such_scan_is_set_aside(outlined: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for name, k in (("a b", 1), ("a_b", 2), ("c", 3)):
        shutil.copy(outlined / "scans" / f"{k}.nii.gz", new / f"{name}.nii.gz")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(new / "photograph.png")
    (new / "empty.nii.gz").touch()
    made = segment_images(outlined / "model" / "segmenter", Pictures(new), tmp_path / "out")
    assert made["image_id"].to_list() == ["a b", "a_b", "c"]
    assert made["mask_path"].n_unique() == 3
    masks = [nibabel.load(tmp_path / "out" / path).get_fdata() for path in made["mask_path"]]
    known = [nibabel.load(outlined / "masks" / "masks" / f"s{k}.nii.gz").get_fdata() for k in (1, 2, 3)]
    assert all(np.array_equal(one, two) for one, two in zip(masks, known, strict=True))
    assert aside(tmp_path / "out") == {
        "empty": "the file is empty",
        "photograph": "the image is of another kind",
    }
    for name in ("a b", "a_b", "c"):
        (new / f"{name}.nii.gz").unlink()
    with pytest.raises(FormatError, match=r"(?s)no image can be segmented.*got a picture; expected a volume"):
        segment_images(outlined / "model" / "segmenter", Pictures(new), tmp_path / "none")


def test_masks_that_are_not_there_or_not_of_their_image_are_set_aside_and_counted(tmp_path: Path) -> None:
    def fault(k: int, scan: Path, mask: Path) -> None:
        labels = np.asarray(nibabel.load(mask).dataobj)
        if k == 1:
            mask.unlink()
        elif k == 2:
            scan.write_bytes(b"")
        elif k == 3:  # the same numbers, laid elsewhere
            nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), mask)
        elif k == 4:
            nibabel.save(nibabel.Nifti1Image(labels.astype(np.float32) / 2, nibabel.load(scan).affine), mask)
        elif k == 5:
            nibabel.save(nibabel.Nifti1Image(labels[:-1], nibabel.load(scan).affine), mask)
        elif k == 7:  # twice the channels of the others
            values = np.repeat(nibabel.load(scan).get_fdata(dtype=np.float32)[..., None], 2, axis=3)
            nibabel.save(nibabel.Nifti1Image(values, nibabel.load(scan).affine), scan)
        elif k == 8:
            values = np.where(labels > 0, nibabel.load(scan).get_fdata(dtype=np.float32), np.float32(np.nan))
            nibabel.save(nibabel.Nifti1Image(values, nibabel.load(scan).affine), scan)

    images = blocks(tmp_path / "scans", n=19, fault=fault)
    table = pl.read_csv(images)
    table.with_columns(mask_path=pl.when(pl.col("image_id") == "s6").then(None).otherwise("mask_path")).write_csv(images)
    metrics = train(outlining(images), tmp_path / "model")
    assert aside(tmp_path / "model") == {
        "s1": "the file cannot be read",
        "s2": "the file is empty",
        "s3": "the mask lies elsewhere than its image",
        "s4": "the mask holds values between labels",
        "s5": "the mask does not have the shape of its image",
        "s6": "the image has no mask",
        "s7": "the image has another number of channels",
        "s8": "the image holds values that are not finite",
    }
    assert counted(tmp_path / "model") == {
        "images": (0, 19),
        "reading images": (7, 12),
        "what is known": (1, 11),
        "split": (0, 11),
    }
    assert {"model", "mean shape"} <= set(metrics["predictor"])


def test_a_side_without_a_mask_is_seen_before_training(tmp_path: Path) -> None:
    images = blocks(tmp_path / "scans", fault=lambda k, _, mask: mask.unlink() if k > 7 else None)
    sides = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    pl.DataFrame({"participant_id": [f"p{k}" for k in range(10)], "split": sides}).write_csv(tmp_path / "splits.csv")
    with pytest.raises(CohortError, match=r"(?s)no image of the split 'test' can be read with its mask.*No such file"):
        train(outlining(images, Split(tmp_path / "splits.csv")), tmp_path / "model")
    assert not (tmp_path / "model" / "segmenter").exists()
    with pytest.raises(CohortError, match=r"(?s)no image of the split 'train'.*a label without a name.*got 2; expected 0 to 1"):
        train(outlining(images, Split(tmp_path / "splits.csv"), names=("front",)), tmp_path / "model")


def test_a_mask_in_colours_is_no_mask(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 3), np.uint8)
    values[2:5, 2:5] = (255, 0, 0)
    Image.fromarray(values).save(tmp_path / "mask.png")
    Image.fromarray(values[..., 0]).save(tmp_path / "picture.png")
    table = pl.DataFrame({"image_id": ["a"], "participant_id": ["p"], "path": ["picture.png"], "mask_path": ["mask.png"]})
    table.write_csv(tmp_path / "scans.csv")
    with pytest.raises(FormatError, match=r"(?s)no image can be measured.*the mask is a picture in colours"):
        measure_images(Pictures(tmp_path / "scans.csv"), "vessels", tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- classes and numbers


NOBODY, ONE_OF_TWO, NO_ROW = ["i8", "i9", "i10"], "i12", "i11"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with forty grey pictures in ``scans``, some of them bad, and in ``model`` a predictor that learnt from them."""
    folder = tmp_path_factory.mktemp("predictor")
    table = pictures(folder / "scans", colour=(1, 20), volumes=(0,))
    whole = (folder / "scans" / "3.png").read_bytes()
    (folder / "scans" / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "scans" / "4.png").write_bytes(b"")
    (folder / "scans" / "5.png").write_text("this is no picture")
    (folder / "scans" / "6.png").unlink()
    known = table.select("image_id", "kind", "level").with_columns(
        kind=pl.when(pl.col("image_id").is_in([*NOBODY, ONE_OF_TWO])).then(None).otherwise("kind"),
        level=pl.when(pl.col("image_id").is_in(NOBODY)).then(float("nan")).otherwise("level"),
    )
    known.filter(pl.col("image_id") != NO_ROW).write_parquet(folder / "known.parquet")
    sides = [(f"P{k:02d}", "train" if k < 11 else "validation" if k < 15 else "test") for k in range(19)]  # not P19
    pl.DataFrame(sides, schema=["participant_id", "split"], orient="row").write_csv(folder / "splits.csv")
    asked = task(folder / "scans", folder / "known.parquet", split=Split(folder / "splits.csv"), numbers=("level",))
    train(asked, folder / "model")
    return folder


def test_who_is_left_out_is_listed_with_the_reason_and_counted(predictor: Path) -> None:
    found = aside(predictor / "model")
    assert found["i4"] == "the file is empty"
    assert found["i6"] == "the file cannot be read"
    assert {"i3", "i5"} <= found.keys()
    assert {name: what for name, what in found.items() if name not in ("i3", "i4", "i5", "i6")} == {
        "i0": "the image is of another kind",  # a volume, though it is the first
        **dict.fromkeys([*NOBODY, NO_ROW], "nothing that is to be learnt is known of the image"),
        **dict.fromkeys(["i38", "i39"], "the person is in no part of the split"),
    }
    reasons = pl.read_parquet(predictor / "model" / "set_aside.parquet").select("what", "reason").rows()
    assert all(reason.startswith(what) for what, reason in reasons)
    assert counted(predictor / "model") == {
        "images": (0, 20),
        "reading images": (1, 19),  # both of P02's; P00, P01 and P03 have another
        "what is known": (2, 17),  # P04 and P05
        "split": (1, 16),
    }
    predictions = pl.read_parquet(predictor / "model" / "predictions.parquet")
    assert predictions["split"].value_counts().sort("split").rows() == [("test", 8), ("validation", 8)]


def test_grey_and_colour_become_each_other_and_volumes_are_set_aside(predictor: Path, tmp_path: Path) -> None:
    """Grey pictures saved in colours are the same pictures: the predictor says the same of them, whichever comes first."""
    pictures(tmp_path / "grey")
    grey = predict_images(predictor / "model", Pictures(tmp_path / "grey" / "scans.csv"), tmp_path / "of_grey")
    pictures(tmp_path / "mixed", colour=(0, 1, 5, 8), volumes=(7,))
    mixed = predict_images(predictor / "model", Pictures(tmp_path / "mixed" / "scans.csv"), tmp_path / "of_mixed")
    assert grey.height == 40
    assert aside(tmp_path / "of_mixed") == {"i7": "the image is of another kind"}
    both = grey.filter(pl.col("example_id") != "i7")
    assert both["example_id"].equals(mixed["example_id"])
    for name in ("predicted:kind:light", "predicted:level"):
        np.testing.assert_allclose(both[name], mixed[name], rtol=1e-4)


def test_families_stay_on_one_side(tmp_path: Path) -> None:
    images = pictures(tmp_path / "scans").drop("kind", "level")
    people = pl.DataFrame({"participant_id": [f"P{k:02d}" for k in range(20)], "family_id": [f"F{k % 7}" for k in range(20)]})
    people.write_csv(tmp_path / "people.csv")
    for split in (Split(folds=3), Split()):
        asked = task(tmp_path / "scans", split=replace(split, participants=tmp_path / "people.csv"))
        table = examples_of(images.with_columns(family_id=pl.lit("other")), asked, classes=("kind",)).table
        assert table.height == 40
        assert table["family_id"].n_unique() == 7  # those of the table of people
        assert table.group_by("family_id").agg(pl.col("split").n_unique())["split"].max() == 1
        assert table["split"].n_unique() == 3


def test_the_mean_of_a_number_is_that_of_the_known(tmp_path: Path) -> None:
    table = pictures(tmp_path / "scans")
    some = table.select("image_id", level=pl.when(pl.int_range(40) % 4 == 1).then(float("nan")).otherwise("level"))
    some.write_parquet(tmp_path / "known.parquet")
    asked = task(tmp_path / "scans", tmp_path / "known.parquet", classes=(), numbers=("level",))
    known = examples_of(table.drop("kind", "level"), asked, numbers=("level",))
    assert known.left_out.height == 10
    assert known.table["level"].null_count() == 0
    assert known.table["level"].mean() == pytest.approx(some["level"].fill_nan(None).mean())


def test_a_leaking_split_is_refused_in_these_words_and_allowed_by_name(tmp_path: Path) -> None:
    table = pictures(tmp_path / "scans")
    shutil.copy(tmp_path / "scans" / "0.png", tmp_path / "scans" / "39.png")  # a copy of P00's in the hands of P19
    sides = [(f"P{k:02d}", "train" if k < 12 else "validation" if k < 16 else "test") for k in range(20)]
    pl.DataFrame(sides, schema=["participant_id", "split"], orient="row").write_csv(tmp_path / "splits.csv")
    known = table.with_columns(kind=pl.when(pl.col("image_id") == "i39").then(pl.lit("dark")).otherwise("kind"))
    known.select("image_id", "kind").write_csv(tmp_path / "known.csv")
    split = Split(tmp_path / "splits.csv")
    with pytest.raises(CohortError) as refused:
        train(task(tmp_path / "scans", tmp_path / "known.csv", split=split), tmp_path / "model")
    assert str(refused.value) == (
        "the split leaks: what is learnt on one side is known on the other\n"
        "  got:      exact_duplicates: 1 in test, train (e.g. i39); near_duplicates: 1 in test, train (e.g. i39)\n"
        "  expected: no person, family, example or file in two splits\n"
        "  do:       split again by person and family, without copies; or allow it by name: exact_duplicates, near_duplicates"
    )
    assert not list((tmp_path / "model").rglob("*.safetensors"))
    allowed = replace(split, allow=("exact_duplicates", "near_duplicates"))
    train(task(tmp_path / "scans", tmp_path / "known.csv", split=allowed), tmp_path / "model")
    report = pl.read_parquet(tmp_path / "model" / "leakage.parquet")  # allowed is not hidden
    assert report.filter(pl.col("check") == "exact_duplicates").select("severity", "n").rows() == [("leak", 1)]


def test_a_slice_that_changed_in_a_series_is_decoded_again(tmp_path: Path) -> None:
    """The folder of a series keeps its name, size and time of change when a file in it is written anew."""
    values, images = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5), Pictures(tmp_path / "scans")
    made = []
    for brighter in (0, 100):
        save_slices(slices(values + np.int16(brighter), np.eye(4)), tmp_path / "scans" / "P1")
        found = listed(images)
        assert (tmp_path / "scans" / found.images["path"][0]).is_dir()
        made.append(np.array(decoded(found, images, tmp_path / "out", size=16)[0]))
    before, after = made
    np.testing.assert_array_equal(after, before + 100)


def test_pictures_are_hashed_as_they_are_decoded_and_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "scans", colour=(3,), volumes=(1,))
    images, count, reading = Pictures(tmp_path / "scans" / "scans.csv"), [0], picture_files.read_scan

    def read(*given: Any, **named: Any) -> Any:
        count[0] += 1
        return reading(*given, **named)

    whole = listed(images, fingerprints=True).images.filter(pl.col("image_id") != "i1")
    monkeypatch.setattr(picture_files, "read_scan", read)
    for times in (16 + 16 + 40, 16):  # some to see what most are like and how much room they take, then each once
        made = decoded(listed(images), images, tmp_path / "out", size=16, fingerprints=True)
        assert made.images.equals(whole.select(made.images.columns))
        assert made.images["fingerprint"].null_count() == 0
        assert count[0] == times
        count[0] = 0
    (tmp_path / "out" / "decoded" / "fingerprints.jsonl").unlink()
    assert decoded(listed(images), images, tmp_path / "out", size=16, fingerprints=True).images.equals(made.images)


# ------------------------------------------------------------------------------------------------------------------ what is refused


def level(values: Any) -> pl.DataFrame:
    return pl.DataFrame({"image_id": [f"i{k}" for k in range(40)], "kind": ["a", "b"] * 20, "level": values})


@pytest.mark.parametrize(
    ("known", "numbers", "error", "says"),
    [
        (level(1.0).drop("image_id"), (), SchemaError, r"(?s)no column that names images or people.*known.*got:.*kind, level"),
        (level(1.0).drop("kind"), (), SchemaError, r"(?s)table of targets has no column 'kind'.*got:      image_id, level"),
        (pl.concat([level(1.0), level(1.0).tail(1)]), (), SchemaError, r"(?s)the same image_id twice.*got:      i39"),
        (level(["sixty"] * 40), ("level",), TraitError, r"(?s)'level' is to be a number.*got:      'sixty'.*under classes"),
        (level([1.0] * 39 + [np.inf]), ("level",), TraitError, r"(?s)'level' holds a number that is not finite.*i39"),
        (level(1.0).with_columns(kind=0.5), (), TraitError, r"(?s)'kind' is to be a class and holds fractions.*got:      0.5"),
        (level(1.0).with_columns(image_id=pl.lit("x") + pl.col("image_id")), (), CohortError, r"no image has a target"),
    ],
)
def test_targets_that_would_be_misread(
    known: pl.DataFrame, numbers: tuple[str, ...], error: type[ClinomeError], says: str, tmp_path: Path
) -> None:
    known.write_parquet(tmp_path / "known.parquet")
    images = pl.DataFrame(
        {name: [f"{start}{k}" for k in range(40)] for name, start in (("image_id", "i"), ("participant_id", "P"))}
    )
    asked = task(tmp_path, tmp_path / "known.parquet", numbers=numbers)
    with pytest.raises(error, match=says):
        examples_of(images.with_columns(path=pl.lit("a.png")), asked, classes=("kind",), numbers=numbers)


def test_splits_and_people_that_would_be_misread(tmp_path: Path) -> None:
    images = pictures(tmp_path / "scans", n=8).drop("kind", "level")
    sides = pl.DataFrame({"participant_id": ["P00", "P01", "P02"], "split": ["train", "valid", "test"]})
    sides.write_csv(tmp_path / "splits.csv")
    sides.drop("split").write_csv(tmp_path / "people.csv")

    def asked(split: Split) -> pl.DataFrame:
        return examples_of(images, task(tmp_path / "scans", split=split), classes=("kind",)).table

    with pytest.raises(SchemaError, match=r"(?s)a name that is none.*got:      test, train, valid.*'validation'"):
        asked(Split(tmp_path / "splits.csv"))
    with pytest.raises(SchemaError, match=r"(?s)the table of people has no column 'family_id'"):
        asked(Split(folds=2, participants=tmp_path / "people.csv"))
    with pytest.raises(SchemaError, match=r"(?s)images table has a column 'split', which would not be used"):
        examples_of(images.with_columns(split=pl.lit("train")), task(tmp_path / "scans"), classes=("kind",))
    with pytest.raises(StudyError, match=r"(?s)says already who is in which fold.*folds 3 and splits.csv"):
        Split(tmp_path / "splits.csv", folds=3)
    with pytest.raises(StudyError, match=r"(?s)no such check of leakage.*got:      duplicates.*exact_duplicates"):
        Split(allow=("duplicates",))
    with pytest.raises(StudyError, match=r"(?s)no such network.*got:      vgg.*resnet18, resnet50"):
        replace(QUICK, network="vgg")  # type: ignore[arg-type]


def test_columns_of_the_targets_win_over_those_of_the_images(tmp_path: Path) -> None:
    images = pictures(tmp_path / "scans", n=8).drop("level").with_columns(kind=pl.lit("old"))
    some = examples_of(images, task(tmp_path / "scans"), classes=("kind",))
    assert set(some.table["kind"]) == {"dark", "light"}


def test_a_predictor_of_several_views_is_asked_in_python(tmp_path: Path) -> None:
    table = pictures(tmp_path / "scans", n=20)
    examples = table.select(example_id="image_id", participant_id="image_id", kind="kind")
    train_predictor(
        np.random.default_rng(1).normal(size=(20, 2, 1, 8, 8)),
        examples.with_columns(split=pl.Series(["fold_1", "fold_2"]).gather(pl.int_range(20, eager=True) % 3 % 2)),
        [Target("kind", "classes")],
        network=multi_view.Config(views=2, widths=(4, 4), size=8),
        preparation=Preparation((8, 8)),
        out=tmp_path / "model",
        recipe=Recipe(epochs=1, batch=8),
        floors=False,
    )
    with pytest.raises(FormatError, match=r"(?s)several views of a person together.*got:      2.*in Python"):
        predict_images(tmp_path / "model", Pictures(tmp_path / "scans" / "scans.csv"), tmp_path / "out")


def test_a_folder_of_another_kind_is_refused(predictor: Path, outlined: Path, tmp_path: Path) -> None:
    images = Pictures(predictor / "scans" / "scans.csv")
    before = {path: path.read_bytes() for path in (predictor / "model").glob("*.parquet")}
    with pytest.raises(
        OutputError, match=r"(?s)results of another kind.*got:      clinome train, classes and numbers.*clinome predict"
    ):
        predict_images(predictor / "model", images, predictor / "model")
    with pytest.raises(OutputError, match=r"(?s)results of another kind.*expected: clinome train, structures"):
        train(outlining(outlined / "scans" / "scans.csv"), predictor / "model")
    assert {path: path.read_bytes() for path in (predictor / "model").glob("*.parquet")} == before
    with pytest.raises(FormatError, match=r"(?s)holds no segmenter.*the folder `segmenter`"):
        segment_images(predictor / "model", images, tmp_path / "a")
    with pytest.raises(FormatError, match=r"(?s)holds no predictor.*got: +No such file or directory\n.*clinome segment"):
        predict_images(outlined / "model", images, tmp_path / "b")


def test_left_eyes_of_new_pictures_are_mirrored_as_those_of_the_training_were(tmp_path: Path) -> None:
    known = pictures(tmp_path / "old").drop("kind", "level")
    known.with_columns(laterality=pl.Series(["left", "right"] * 20)).write_csv(tmp_path / "old" / "scans.csv")
    one = task(tmp_path / "old")
    train(replace(one, images=replace(one.images, mirror=True)), tmp_path / "model", pictures=False)
    values = np.random.default_rng(2).integers(0, 255, (16, 16), dtype=np.uint8)
    (tmp_path / "new").mkdir()
    for name, some in (("left", values), ("right", values[:, ::-1])):
        Image.fromarray(np.ascontiguousarray(some)).save(tmp_path / "new" / f"{name}.png")
    rows = [("L", "A", "left.png", "left"), ("R", "B", "right.png", "right"), ("O", "C", "left.png", "right")]
    names = ["image_id", "participant_id", "path", "laterality"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(tmp_path / "new" / "scans.csv")
    said = predict_images(tmp_path / "model", Pictures(tmp_path / "new" / "scans.csv"), tmp_path / "out", show=False)
    left, right, other = said["predicted:kind:light"].to_list()
    assert left == right
    assert left != other


# ----------------------------------------------------------------------------------------- a run into the folder of one before it


class Killed(BaseException):
    """Stands for the end of a process."""


def shown(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but the decoded pictures and networks, and provenance, which holds the time."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    caches = ("decoded", "networks", "provenance.json")
    return {str(name): path.read_bytes() for name, path in files.items() if name.parts[0] not in caches}


def killed_at_each_write(run: Callable[[Path], object], before: Path, after: Path, tmp_path: Path) -> int:
    """Run into copies of ``before``, killed at each write: a folder shows the one or the other. Return how often it was killed."""
    old, new, written = shown(before), shown(after), Path.replace
    for dies_before in range(40):
        folder, left = shutil.copytree(before, tmp_path / f"killed_{dies_before}"), [dies_before]

        def replace(path: Path, target: Path, *, left: list[int] = left) -> Path:
            if ".partial." in path.name and not {"decoded", "pictures", ".writable"} & {path.parent.name, Path(target).name}:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return written(path, target)

        killed = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            try:
                run(folder)
            except Killed:
                killed = True
        found = shown(folder)
        assert found.items() <= old.items() or found.items() <= new.items(), sorted(found)
        if killed:
            run(folder)
        assert shown(folder) == new
        if not killed:
            return dies_before
        shutil.rmtree(folder)
    raise AssertionError("it never came to its end")


def test_predictions_never_stand_beside_those_of_a_run_before(predictor: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "scans", n=8)
    pictures(tmp_path / "fewer", n=4, volumes=(1,))

    def run(which: str) -> Callable[[Path], object]:
        return lambda out: predict_images(predictor / "model", Pictures(tmp_path / which / "scans.csv"), out)

    run("scans")(tmp_path / "before")
    run("fewer")(tmp_path / "after")
    (tmp_path / "before" / "report.html").write_text("the page of eight pictures")
    assert killed_at_each_write(run("fewer"), tmp_path / "before", tmp_path / "after", tmp_path) > 4


@pytest.mark.slow
def test_a_training_never_stands_beside_parts_of_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_pictures, "as_png", lambda pixels: pixels.tobytes())  # in a moment
    pictures(tmp_path / "scans", n=16, volumes=(1,))

    def run(**changes: Any) -> Callable[[Path], object]:
        return lambda out: train(task(tmp_path / "scans", **changes), out)

    run(epochs=2)(tmp_path / "before")
    run()(tmp_path / "after")
    for name in ("networks", "decoded"):  # trained, nothing written yet
        shutil.copytree(tmp_path / "after" / name, tmp_path / "before" / name, dirs_exist_ok=True)
    (tmp_path / "before" / "report.html").write_text("the page of two epochs")
    assert killed_at_each_write(run(), tmp_path / "before", tmp_path / "after", tmp_path) > 12


def test_a_segmenter_never_stands_beside_measures_of_one_before(
    outlined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    folder = shutil.copytree(outlined / "model", tmp_path / "model")
    before = shown(folder)
    monkeypatch.setattr(segmenting, "_judged", kill)
    with pytest.raises(Killed):
        train(outlining(outlined / "scans" / "scans.csv", Split(validation=0.3, test=0.2)), folder)
    found = shown(folder)
    assert found["segmenter/segmenter.json"] != before["segmenter/segmenter.json"]
    assert {name for name in found if "/" not in name} == {"made_by.json", "plan.json"}
    assert found["plan.json"] != before["plan.json"]


def test_masks_never_stand_beside_those_of_a_run_before(outlined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images by one version, killed after two masks by another; then five images by that."""
    model, scans, folder = outlined / "model" / "segmenter", outlined / "scans" / "scans.csv", tmp_path / "masks"
    shutil.copytree(outlined / "masks", folder)
    (folder / "masks" / "mine.nii.gz").write_bytes(b"somebody's own")
    writing, made = segmenting.write_mask, list[Path]()

    def write(*given: Any, **named: Any) -> Path:
        if len(made) == 2:
            raise Killed
        made.append(writing(*given, **named))
        return made[-1]

    monkeypatch.setattr(clinome, "__version__", "another")
    with monkeypatch.context() as patch:
        patch.setattr(segmenting, "write_mask", write)
        with pytest.raises(Killed):
            segment_images(model, Pictures(scans), folder)
    names = {path.name for path in (folder / "masks").iterdir()}
    assert names == {path.name for path in made} | {"mine.nii.gz"}
    assert {path.name for path in folder.iterdir()} == {"made_by.json", "masks", "segmented.jsonl"}
    pl.read_csv(scans)[1:6].with_columns(path=str(scans.parent) + "/" + pl.col("path")).write_csv(tmp_path / "five.csv")
    segment_images(model, Pictures(tmp_path / "five.csv"), folder)
    names = {path.name for path in (folder / "masks").iterdir()}
    assert names == {f"s{k}.nii.gz" for k in range(1, 6)} | {"mine.nii.gz"}
    assert set(pl.read_parquet(folder / "segmentations.parquet")["image_id"]) == {f"s{k}" for k in range(1, 6)}
