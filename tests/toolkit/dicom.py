"""DICOM files for tests: written from scratch by pydicom, with a patient whose name must never be seen again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT, MR, DX, ENHANCED_MR = (UID(f"1.2.840.10008.5.1.4.1.1.{end}") for end in ("2", "4", "1.1.1", "4.1"))
SECRETS = ("Geheim^Hertha", "19200101", "12345-67")  # name, birth date, number of the patient


def image(pixels: np.ndarray, *, sop_class: UID = CT, modality: str = "CT", **attributes: Any) -> Dataset:
    """Return a data set that holds ``pixels``, (rows, columns[, 3]) or with frames first; attributes by keyword override."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientBirthDate, made.PatientID = SECRETS
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    made.FrameOfReferenceUID, made.StudyID, made.SeriesNumber, made.AccessionNumber = "1.2.3.5", "1", 1, ""
    made.StudyDate, made.StudyTime, made.ReferringPhysicianName, made.PatientSex = "20250102", "101112", "", "O"
    made.Modality, made.ImageType = modality, ["ORIGINAL", "PRIMARY"]
    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    made.SamplesPerPixel, made.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        made.PlanarConfiguration = 0
    size = pixels.shape[:-1] if colour else pixels.shape
    made.Rows, made.Columns = size[-2:]
    if len(size) == 3:
        made.NumberOfFrames = size[0]
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def slices(values: np.ndarray, affine: np.ndarray, **attributes: Any) -> list[Dataset]:
    """Return one data set a slice of ``values`` (slices, rows, columns), placed by ``affine``: (column, row, slice) to LPS."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (*affine[:3, 0] / lengths[0], *affine[:3, 1] / lengths[1])
    shared = {
        "PixelSpacing": [round(float(lengths[1]), 6), round(float(lengths[0]), 6)],
        "ImageOrientationPatient": [round(float(x), 8) for x in directions],
        "SliceThickness": round(float(lengths[2]), 6),
    }
    made = []
    for k in range(len(values)):
        position = [round(float(x), 5) for x in (affine @ (0, 0, k, 1))[:3]]
        made.append(image(values[k], **{**shared, "ImagePositionPatient": position, "InstanceNumber": k + 1, **attributes}))
    return made


def save_slices(datasets: list[Dataset], folder: Path, order: Any = None) -> Path:
    """Write the data sets under names in the given order, which need not be that in space."""
    for name, k in enumerate(range(len(datasets)) if order is None else order):
        save(datasets[k], folder / f"{name:04d}.dcm")
    return folder


def enhanced(values: np.ndarray, affine: np.ndarray, order: Any = None, **attributes: Any) -> Dataset:
    """Return one multi-frame data set, frames in ``order``, with positions in per-frame functional groups."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    order = list(range(len(values)) if order is None else order)
    made = image(values[order], sop_class=ENHANCED_MR, modality="MR", **attributes)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [float(lengths[1]), float(lengths[0])], float(lengths[2])
    orientation.ImageOrientationPatient = [round(float(x), 8) for x in (*affine[:3, 0] / lengths[0], *affine[:3, 1] / lengths[1])]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        own, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [round(float(x), 5) for x in (affine @ (0, 0, k, 1))[:3]]
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1 + k % 2, 10 * k, "US"
        own.PlanePositionSequence, own.PixelValueTransformationSequence = Sequence([position]), Sequence([scale])
        frames.append(own)
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return made
