"""`clinome segment`: NIfTI and DICOM-SEG say the same, each in its source's place; what cannot carry the one that is asked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pydicom
import pytest
import torch

from clinome.formats.nifti import write_nifti
from clinome.imaging.dicom_seg import read_dicom_seg
from clinome.imaging.models import unet3d
from clinome.imaging.patches import PatchPreparation
from clinome.imaging.scan import read_scan
from clinome.imaging.segmenter import SegmenterRecipe, save_segmenter
from tests.toolkit.command import say
from tests.toolkit.dicom import MR, save_slices, slices

AFFINE = np.array([[0.0, 0.0, 2.5, -9.0], [0.5, 0.0, 0.0, 4.0], [0.0, -0.5, 0.0, 30.0], [0.0, 0.0, 0.0, 1.0]])  # sagittal


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of two structures with weights as drawn: what it finds is arbitrary, and there is something of each."""
    folder = tmp_path_factory.mktemp("segmenter")
    torch.manual_seed(31)
    config = unet3d.Config.nnunet(1, 3, (4, 8), halvings=((2, 2, 2),), kernels=((3, 3, 3),) * 2)
    about = {
        "structures": ["anterior", "posterior"],
        "recipe": asdict(SegmenterRecipe((8, 8, 8))),
        "preparation": asdict(PatchPreparation()),
        "threshold": None,
        "key": "drawn",
    }
    save_segmenter(folder, unet3d.Model(config), about, cpu_seconds=0.0)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series, whose files are not in the order of their slices, and a NIfTI file."""
    folder, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(1)
    for name, order in (("one", [3, 5, 0, 1, 4, 2]), ("two", [0, 1, 2, 3, 4, 5])):
        values = generator.integers(0, 900, (6, 10, 9)).astype(np.int16)
        about = {"SeriesInstanceUID": f"1.2.3.{len(order)}.{order[0]}"}
        save_slices(slices(values, AFFINE, sop_class=MR, modality="MR", **about), folder / name, order)
    write_nifti(folder / "three.nii.gz", generator.normal(size=(9, 10, 6)).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    rows = [(name, f"P{name}", path) for name, path in (("one", "one"), ("two", "two"), ("three", "three.nii.gz"))]
    pl.DataFrame(rows, schema=["image_id", "participant_id", "path"], orient="row").write_csv(folder / "scans.csv")
    return folder


def test_dicom_seg_holds_what_nifti_holds_and_refers_to_its_series(
    model: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", "--model", model, "--images", scans / "scans.csv"]
    shown = say([*words, "--out", tmp_path / "nifti"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert "3 images segmented" in shown.out
    shown = say([*words, "--format", "dicom-seg", "--out", tmp_path / "seg"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    assert "2 images segmented" in shown.out
    assert "1 of 3 images set aside: 1 × a segmentation can be written as DICOM only onto a scan of a DICOM series" in shown.out
    found = pl.read_parquet(tmp_path / "seg" / "segmentations.parquet")
    assert found["mask_path"].to_list() == ["masks/one.dcm", "masks/two.dcm"]
    for name in ("one", "two"):
        scan, written = read_scan(scans / name), tmp_path / "seg" / "masks" / f"{name}.dcm"
        again = read_dicom_seg(written, scan)
        labels = read_scan(tmp_path / "nifti" / "masks" / f"{name}.nii.gz").values
        assert set(np.unique(labels)) == {0, 1, 2}
        np.testing.assert_array_equal(again.scan.values, labels)
        assert again.names == {1: "anterior", 2: "posterior"}
        refers = pydicom.dcmread(written).ReferencedSeriesSequence[0]
        assert refers.SeriesInstanceUID == scan.series
        files = {pydicom.dcmread(file).SOPInstanceUID for file in (scans / name).iterdir()}
        assert {item.ReferencedSOPInstanceUID for item in refers.ReferencedInstanceSequence} <= files

    volumes = []
    for kind in ("nifti", "seg"):  # what is measured of either is the same
        table = pl.read_parquet(tmp_path / kind / "segmentations.parquet").filter(pl.col("image_id") != "three")
        table.write_parquet(tmp_path / kind / "two.parquet")
        images, out = ["--images", tmp_path / kind / "two.parquet"], tmp_path / f"volumes_{kind}"
        shown = say(
            ["measure", *images, "--structure", "volumes", "--names", "anterior,posterior", "--out", out], monkeypatch, capsys
        )
        assert shown.code == 0, shown.err
        volumes.append(pl.read_parquet(out / "measurements.parquet").filter(trait="volume"))
    assert volumes[0].height == 6
    assert volumes[0].equals(volumes[1])


def test_a_volume_without_a_place_is_set_aside(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(2).normal(size=(9, 10, 6)).astype(np.float32), None)
    nibabel.save(image, tmp_path / "nowhere.nii.gz")
    shown = say(["segment", "--model", model, "--images", tmp_path, "--out", tmp_path / "out"], monkeypatch, capsys)
    assert shown.code == 1
    assert "the volume does not say where it lies" in shown.err


def test_when_no_source_is_dicom_the_reason_is_said(
    model: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.read_csv(scans / "scans.csv").filter(pl.col("image_id") == "three").with_columns(
        path=str(scans) + "/" + pl.col("path")
    ).write_csv(tmp_path / "scans.csv")
    words = ["segment", "--model", model, "--images", tmp_path / "scans.csv", "--format", "dicom-seg", "--out", tmp_path / "out"]
    shown = say(words, monkeypatch, capsys)
    assert shown.code == 1
    assert "no image can be segmented" in shown.err
    assert "a segmentation can be written as DICOM only onto a scan of a DICOM series" in shown.err
    assert "a file that is not DICOM" in shown.err
