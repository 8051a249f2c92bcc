"""Files of pictures for the tasks on them: listed, read, decoded once; their masks read and written; bad ones set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import FormatError
from clinome.core.files import file_name, replacing
from clinome.core.provenance import fingerprint
from clinome.core.schema import IMAGES, SET_ASIDE, check
from clinome.formats.table import read_checked
from clinome.imaging.convert import content_key
from clinome.imaging.loading import Decoded, Sample, decode_once
from clinome.imaging.reading import index_images, set_aside_table
from clinome.imaging.resample import resample
from clinome.imaging.scan import Scan, read_scan, write_on
from clinome.studies.task_file import Pictures


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
    return Listed(index.images, root, index.set_aside)


def read_mask(path: Path, structures: int) -> NDArray[np.int16]:
    """Read a mask: NIfTI or DICOM in its scan's place, or a picture; 0 and 255 alone mean 0 and 1."""
    values = np.asarray(read_scan(path).values[0])
    if structures == 1 and set(np.unique(values).tolist()) <= {0, 255}:
        values = values > 0
    if values.min(initial=0) < 0 or values.max(initial=0) > structures:
        raise FormatError("the mask holds a label without a name", where=path, got=int(values.max()), expected=f"0 to {structures}")
    return np.asarray(values, np.int16)


def write_mask(out: Path, name: str, labels: NDArray[np.uint8], scan: Scan) -> Path:
    """Write labels as NIfTI where the scan has a place in space, else as PNG; return the file."""
    if scan.affine is not None and labels.ndim == 3:
        path = out / "masks" / f"{file_name(name)}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_on(path, labels, scan)
        return path
    from PIL import Image

    path = out / "masks" / f"{file_name(name)}.png"
    with replacing(path) as temporary:
        Image.fromarray(np.asarray(labels if labels.ndim == 2 else labels.max(axis=0), np.uint8)).save(temporary)
    return path


class Kept(Sequence[NDArray[Any]]):
    """Decoded pictures in order, as arrays (channels, *space)."""

    def __init__(self, decoded: Decoded) -> None:
        self.decoded = decoded

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


def decoded(found: Listed, pictures: Pictures, out: Path, *, size: int) -> Kept:
    """Decode every image once into ``out/decoded``: grey or colour as the first one is, sides at most twice ``size``."""
    rows = found.images.to_dicts()
    channels = next((scan.values.shape[0] for row in rows if (scan := _try(found.root, row, pictures)) is not None), 1)

    def decode(k: int) -> Sample:
        values = read_image(found.root, rows[k], pictures).values
        if len(values) != channels:
            values = values.mean(axis=0, keepdims=True) if channels == 1 else np.repeat(values[:1], channels, axis=0)
        if pictures.mirror and rows[k].get("laterality") == "left":
            values = values[..., ::-1]
        width = [max(side / (2 * size), 1.0) for side in values.shape[1:]]
        if max(width) > 1:
            kept = [round(side / w) for side, w in zip(values.shape[1:], width, strict=True)]
            values = resample(values, shape=kept, out_spacing=width, fill="edge").astype(np.float32)
        return Sample(np.ascontiguousarray(values))

    paths = [path for path in found.images["path"] if (found.root / path).is_file()]
    stamps = content_key(found.images.filter(pl.col("path").is_in(paths)), found.root)
    key = fingerprint(stamps, found.images["image_id"].to_list(), size, pictures.mirror, channels)
    return Kept(decode_once(decode, len(rows), folder=out / "decoded", key=key))


def _try(root: Path, row: dict[str, Any], pictures: Pictures) -> Scan | None:
    try:
        return read_image(root, row, pictures)
    except FormatError:
        return None


def read_image(root: Path, row: dict[str, Any], pictures: Pictures) -> Scan:
    """Read the scan or picture of a row of the images table."""
    return read_scan(root / row["path"], series=row.get("series"), modality=pictures.modality, inverted=bool(row.get("inverted")))


def all_aside(found: Listed, decoded: Decoded) -> pl.DataFrame:
    """Return what was set aside by its header and what by its pixels."""
    aside = set_aside_table(found.images, decoded.set_aside)
    return check(pl.concat([found.set_aside, aside], how="diagonal_relaxed"), SET_ASIDE)


def leave(out: Path, **tables: pl.DataFrame) -> None:
    """Write tables into ``out``, each under its name, whole or not at all."""
    for name, table in tables.items():
        with replacing(out / f"{name}.parquet") as temporary:
            table.write_parquet(temporary)


def plain(settings: Any) -> dict[str, Any]:
    """Return settings without the folders of their paths, as they may be shown."""
    return {name: value.name if isinstance(value, Path) else value for name, value in asdict(settings).items()}
