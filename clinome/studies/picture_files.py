"""Files of pictures for the tasks on them: listed, read, decoded once; their masks read and written; bad ones set aside."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import clinome
from clinome.core.errors import ClinomeError, FormatError, StudyError
from clinome.core.files import replacing
from clinome.core.provenance import fingerprint
from clinome.core.schema import IMAGES, SET_ASIDE, check
from clinome.formats.table import read_checked
from clinome.imaging.convert import content_key
from clinome.imaging.dicom_seg import Segment, is_dicom_seg, read_dicom_seg, write_dicom_seg
from clinome.imaging.fingerprint import Fingerprint, fingerprint_of
from clinome.imaging.loading import Decoded, Sample, decode_once
from clinome.imaging.reading import fault_of, index_images, set_aside_table
from clinome.imaging.resample import resample
from clinome.imaging.scan import Scan, read_scan, write_on
from clinome.studies.journal import Journal
from clinome.studies.task_file import Pictures

SHOWN = ("examples.parquet", "pictures")  # single examples, for a page
_PROBES = 16  # images that are looked at to see what most are like


class Listed(NamedTuple):
    """Images that can be read by their headers, what they are relative to, and those set aside so far."""

    images: pl.DataFrame
    root: Path
    set_aside: pl.DataFrame


def listed(pictures: Pictures, *, fingerprints: bool = False) -> Listed:
    """Read an images table, or look through a folder; ``fingerprints`` reads every image whole, for the check of leakage.

    Raises
    ------
    FormatError
        When not one image can be read by its header.
    StudyError
        When a modality is to be taken and no image says of which it is.
    """
    folder = pictures.path.is_dir()
    root = pictures.path if folder else pictures.path.parent
    source = pictures.path if folder else read_checked(pictures.path, IMAGES)
    index = index_images(source, root=root, modality=pictures.modality, fingerprints=fingerprints)
    if not index.images.height:
        reasons = ", ".join(index.set_aside["what"].unique().sort().to_list())
        raise FormatError(
            "no image can be read", where=pictures.path, got=reasons or "none", do="look at the files' paths and kinds"
        )
    if pictures.modality is not None and "modality" not in index.images.columns and not _of_another(index.set_aside):
        do = "leave the modality out: it chooses among DICOM files"
        raise StudyError("no image says of which modality it is", where=pictures.path, got=pictures.modality, do=do)
    return Listed(index.images, root, index.set_aside)


def _of_another(set_aside: pl.DataFrame) -> bool:
    """Tell whether an image was set aside for its modality."""
    return bool((set_aside["what"] == "the scan is of another modality").any())


def read_mask(path: Path, structures: int, *, on: Scan) -> NDArray[np.int16]:
    """Read the mask of the image ``on``, ([depth,] height, width): NIfTI, DICOM or DICOM-SEG in the image's place, or a picture.

    Labels are 0 … ``structures``; 0 and 255 alone mean 0 and 1.

    Raises
    ------
    FormatError
        For a mask that cannot be read, has another shape or lies elsewhere than its image, is a picture in colours, or holds
        fractions or a label without a name.
    """
    scan = read_dicom_seg(path, on).scan if is_dicom_seg(path) else read_scan(path)
    if scan.values.shape[1:] != on.values.shape[1:]:
        got, expected = scan.values.shape[1:], on.values.shape[1:]
        raise FormatError("the mask does not have the shape of its image", where=path, got=got, expected=expected)
    if (apart := _apart(scan, on)) > 0.5:
        do = "give both the affine of the scan that was outlined"
        raise FormatError("the mask lies elsewhere than its image", where=path, got=f"up to {apart:.1f} voxels apart", do=do)
    values = np.asarray(scan.values[0])
    if (scan.values != values).any():
        do = "save labels as grey values 0, 1, 2 …"
        raise FormatError("the mask is a picture in colours", where=path, got=f"{len(scan.values)} channels", do=do)
    if values.dtype.kind == "f" and not (values % 1 == 0).all():
        raise FormatError("the mask holds values between labels", where=path, expected=f"whole numbers from 0 to {structures}")
    if structures == 1 and set(np.unique(values).tolist()) <= {0, 255}:
        values = values > 0
    if values.min(initial=0) < 0 or values.max(initial=0) > structures:
        raise FormatError("the mask holds a label without a name", where=path, got=int(values.max()), expected=f"0 to {structures}")
    return np.asarray(values, np.int16)


def _apart(scan: Scan, other: Scan) -> float:
    """Return how far the corners of two scans of one shape lie apart at most, in voxels; 0 where one has no place in space."""
    if scan.affine is None or other.affine is None:
        return 0.0
    sides = np.array(scan.values.shape[:0:-1]) - 1.0
    corners = np.array([[*(sides * at), 1.0] for at in np.ndindex(2, 2, 2)])
    moved = np.linalg.solve(scan.affine, (other.affine - scan.affine) @ corners.T)
    return float(np.abs(moved[:3]).max())


def write_mask(out: Path, stem: str, labels: NDArray[np.uint8], scan: Scan, *, segments: Sequence[str] = ()) -> Path:
    """Write labels as NIfTI where the scan has a place in space, else as PNG, in the folder ``masks``; return the file.

    Where ``segments`` names labels 1, 2, … it is DICOM-SEG instead, and refused of a scan that is no DICOM series.

    Raises
    ------
    FormatError
        For a volume that does not say where it lies: neither NIfTI nor a picture can hold its mask.
    """
    if segments:
        path = out / "masks" / f"{stem}.dcm"
        names: dict[int, str | Segment] = dict(enumerate(segments, start=1))
        write_dicom_seg(path, labels, scan, segments=names, description="Segmentation by Clinome")
        return path
    if scan.affine is not None and labels.ndim == 3:
        path = out / "masks" / f"{stem}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_on(path, labels, scan)
        return path
    if labels.ndim == 3 and len(labels) > 1:
        do = "convert it to NIfTI that says so (sform or qform)"
        raise FormatError("the volume does not say where it lies, which its mask would have to", where=scan.path, do=do)
    from PIL import Image

    path = out / "masks" / f"{stem}.png"
    with replacing(path) as temporary:
        Image.fromarray(labels.reshape(labels.shape[-2:])).save(temporary)
    return path


class Kept(Sequence[NDArray[Any]]):
    """Decoded pictures in order, as arrays (channels, *space); ``images``: their rows of the images table, with hashes if asked."""

    def __init__(self, decoded: Decoded, images: pl.DataFrame) -> None:
        self.decoded, self.images = decoded, images

    def __len__(self) -> int:
        return len(self.decoded.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.decoded[int(self.decoded.rows[place])].values


class Rows(Sequence[NDArray[Any]]):
    """Some of the kept pictures, in an order of their own."""

    def __init__(self, kept: Kept, rows: Sequence[int]) -> None:
        self.kept, self.rows = kept, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.kept[self.rows[place]]


class Kind(NamedTuple):
    """What pictures are like: their axes of space (2 or 3), and channels."""

    axes: int
    channels: int


def decoded(
    found: Listed, pictures: Pictures, out: Path, *, size: int, kind: Kind | None = None, fingerprints: bool = False
) -> Kept:
    """Decode every image once into ``out/decoded``, sides at most twice ``size``; one of another kind is set aside.

    ``kind`` is what a network takes; by default that of most of a few images spread over all. Grey and colour become each other.
    ``fingerprints``: hash each image as it is read (:mod:`clinome.imaging.fingerprint`), for the check of leakage.
    """
    rows = found.images.to_dicts()
    wanted = kind or usual(found, pictures)

    def decode(k: int) -> Sample:
        scan = read_image(found.root, rows[k], pictures)
        values = fitting(scan, wanted, where=rows[k]["path"]).values
        if prints is not None:
            prints.add(str(k), **fingerprint_of(scan.values)._asdict())
        if pictures.mirror and rows[k].get("laterality") == "left":
            values = values[..., ::-1]
        width = [max(side / (2 * size), 1.0) for side in values.shape[1:]]
        if max(width) > 1:
            kept = [round(side / w) for side, w in zip(values.shape[1:], width, strict=True)]
            values = resample(values, shape=kept, out_spacing=width, fill="edge").astype(np.float32)
        return Sample(np.ascontiguousarray(values))

    key = fingerprint(clinome.__version__, _stamps(found), rows, size, pictures.modality, pictures.mirror, wanted, fingerprints)
    with Journal(out / "decoded" / "fingerprints.jsonl", key) if fingerprints else nullcontext() as prints:
        made = decode_once(decode, len(rows), folder=out / "decoded", key=key)
    images = found.images[made.rows]
    if prints is not None:
        known = [
            prints.done.get(str(k)) or fingerprint_of(read_image(found.root, rows[k], pictures).values)._asdict() for k in made.rows
        ]
        images = images.with_columns(pl.Series(name, [one[name] for one in known], pl.String) for name in Fingerprint._fields)
    return Kept(made, images)


def _stamps(found: Listed) -> list[tuple[str, int, int]]:
    """Return size and time of change of every file of the images, those of a series' folder one by one."""
    files: list[str] = []
    for path in found.images["path"].unique(maintain_order=True):
        whole = found.root / path
        inside = sorted(one for one in whole.rglob("*") if one.is_file()) if whole.is_dir() else [whole]
        files += map(str, inside)
    return content_key(pl.DataFrame({"path": files}), Path())


def usual(found: Listed, pictures: Pictures) -> Kind:
    """Return the most frequent kind of up to 16 images spread over all; the simpler one of two that are as frequent."""
    seen: Counter[Kind] = Counter()
    for k in np.unique(np.linspace(0, found.images.height - 1, _PROBES).astype(int)).tolist():
        try:
            values = read_image(found.root, found.images.row(k, named=True), pictures).values
        except FormatError:
            continue
        seen[Kind(values.ndim - 1, len(values))] += 1
    return min(seen, key=lambda kind: (-seen[kind], kind)) if seen else Kind(2, 1)


def fitting(scan: Scan, kind: Kind, *, where: str) -> Scan:
    """Return the scan as a network of a ``kind`` takes it: grey is the mean of colours, colours are grey repeated.

    Raises
    ------
    FormatError
        For a picture among volumes or a volume among pictures, another number of channels, or values that are not finite.
    """
    values, (axes, channels) = scan.values, kind
    if values.ndim - 1 != axes:
        names = {2: "a picture", 3: "a volume"}
        raise FormatError("the image is of another kind", where=where, got=names.get(values.ndim - 1), expected=names[axes])
    if values.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(values)))):
        do = "write a number where nothing was measured"
        raise FormatError("the image holds values that are not finite", where=where, got=f"{bad:,} of {values.size:,}", do=do)
    if channels == 1 and len(values) == 3:
        values = values.mean(axis=0, keepdims=True, dtype=np.float32)
    elif channels == 3 and len(values) == 1:
        values = np.repeat(values, channels, axis=0)
    if len(values) != channels:
        raise FormatError("the image has another number of channels", where=where, got=len(values), expected=channels)
    return replace(scan, values=values)


def read_image(root: Path, row: dict[str, Any], pictures: Pictures) -> Scan:
    """Read the scan or picture of a row of the images table; what breaks its reader is a FormatError too."""
    path = root / row["path"]
    try:
        return read_scan(path, series=row.get("series"), modality=pictures.modality, inverted=bool(row.get("inverted")))
    except ClinomeError:
        raise
    except Exception as error:  # one bad file never ends a run
        raise FormatError(fault_of(error)[0], where=path, got=type(error).__name__) from error


def all_aside(found: Listed, decoded: Decoded) -> pl.DataFrame:
    """Return what was set aside by its header and what by its pixels."""
    aside = set_aside_table(found.images, decoded.set_aside)
    return check(pl.concat([found.set_aside, aside], how="diagonal_relaxed"), SET_ASIDE)


def withdraw(out: Path, *names: str) -> None:
    """Take away what a run before this one shows in ``out``, its page and the files and folders ``names``, before any part of this
    one does.
    """
    remove(out, "report.html", "summary.json", "provenance.json", *names)


def remove(out: Path, *names: str) -> None:
    """Remove files and folders of ``out``, where they are; ``*`` in a name stands for anything."""
    for name in names:
        for path in list(out.glob(name)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def leave(out: Path, **tables: pl.DataFrame) -> None:
    """Write tables into ``out``, each under its name, whole or not at all."""
    for name, table in tables.items():
        with replacing(out / f"{name}.parquet") as temporary:
            table.write_parquet(temporary)


def plain(settings: Any) -> dict[str, Any]:
    """Return settings without the folders of their paths, as they may be shown."""
    return {name: value.name if isinstance(value, Path) else value for name, value in asdict(settings).items()}
