"""Features of every picture by a network of the user's choice: the wiring behind `clinome embed`.

    images ─read, bad files set aside─→ pictures as the network wants them ─network→ features.npy, a row a picture

The network is one of Clinome's (with weights of another program, of the weights folder, or random ones), an encoder that `clinome
phenotype` taught, or the network of a predictor that `clinome train` made; each sees pictures as it did when it learned. Killed and
called again, the work goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import ClinomeError, FormatError
from clinome.core.files import own_folder, write_json
from clinome.core.provenance import fingerprint, write_provenance
from clinome.core.schema import IMAGES, SET_ASIDE, check
from clinome.formats.nifti import is_nifti
from clinome.imaging.convert import content_key, square
from clinome.imaging.extraction import extract
from clinome.imaging.loading import Read, Sample
from clinome.imaging.pictures import Preparation, prepared
from clinome.imaging.reading import set_aside_table
from clinome.imaging.scan import first_bytes
from clinome.studies.extractors import Extractor, extractor
from clinome.studies.picture_files import Kind, Listed, decoded, leave, listed, withdraw
from clinome.studies.task_file import Pictures
from clinome.train.devices import Precision


class Embedded(NamedTuple):
    """What :func:`embed_images` leaves.

    Attributes
    ----------
    features
        Shape (n, n_features), float32, mapped from ``features.npy``; rows of pictures that could not be decoded are NaN.
    images
        ``core.schema.IMAGES`` of the pictures that have features, with ``row``, their row of ``features``. Paths are relative to
        the pictures' folder or table; of files elsewhere only the name is left.
    set_aside
        Those that could not be read.
    network
        What made the features.
    """

    features: NDArray[np.float32]
    images: pl.DataFrame
    set_aside: pl.DataFrame
    network: Extractor


def embed_images(
    pictures: Pictures,
    out: Path,
    *,
    network: str | None = None,
    weights: str | None = None,
    size: int | None = None,
    mirror: bool | None = None,
    precision: Precision = "float32",
    threads: int | None = None,
    seed: int = 1,
) -> Embedded:
    """Make the features of every image and leave them with ``images``, ``set_aside``, ``weights.json`` and provenance in ``out``.

    Parameters
    ----------
    network, weights, size, seed
        As in :func:`clinome.studies.extractors.extractor`.
    mirror
        Flip left eyes and limbs; None: where the network was taught so.
    precision, threads
        As in :func:`clinome.imaging.extraction.extract`.

    Raises
    ------
    FormatError
        When weights are not there or do not fit, or no image can be read.
    StudyError
        For a network that there is not.
    NotConverged
        When a feature is not finite.
    """
    made = extractor(network, weights, size=size, seed=seed)
    mirrored = made.mirror if mirror is None else mirror
    out, found = own_folder(out, "clinome embed"), listed(pictures)
    if made.preparation is None:
        images, read, aside = found.images, _squares(found, made.size, mirrored), found.set_aside
    else:
        images, read, aside = _as_trained(found, pictures, out, made, made.preparation, mirrored)
    key = fingerprint(content_key(images, found.root), images.rows(), made.size, mirrored, made.preparation)
    given: dict[str, Any] = {"preprocessing": made.preprocessing, "precision": precision, "threads": threads}
    withdraw(out, "images.parquet", "set_aside.parquet", "weights.json")
    features, faults, mode = extract(made.network, read, images.height, out=out, key=key, **given)
    late = set_aside_table(images, faults)
    aside = check(_below(found.root, pl.concat([aside, late], how="diagonal_relaxed")), SET_ASIDE)
    kept = images.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    kept = kept.join(late.select("image_id"), on="image_id", how="anti", maintain_order="left")
    kept = check(_below(found.root, kept.select("row", pl.exclude("row"))), IMAGES)
    about = {**made.about, "size": made.size, "mirror": mirrored, "n_features": features.shape[1]}
    leave(out, images=kept, set_aside=aside)
    write_json(out / "weights.json", about)
    write_provenance(out, settings={**about, "precision": "bfloat16" if mode.bfloat16 else "float32"}, seed=seed)
    return Embedded(features, kept, aside, made)


def _below(root: Path, table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of images whose absolute paths, which name the user's folders, are relative to ``root`` or names alone."""
    whole = root.resolve()

    def shown(path: str) -> str:
        if not (file := Path(path)).is_absolute():
            return path
        return file.relative_to(whole).as_posix() if file.is_relative_to(whole) else file.name

    return table.with_columns(path=pl.Series([shown(path) for path in table["path"]], dtype=pl.String))


def _squares(found: Listed, size: int, mirror: bool) -> Read:
    """Return what decodes the middle squares of photographs and radiographs: (3, size, size) uint8."""
    rows = found.images.to_dicts()

    def read(row: int) -> Sample:
        about = rows[row]
        pixels = _or_fault(lambda: _square(found.root / about["path"], size))
        pixels = pixels[:, ::-1] if mirror and about.get("laterality") == "left" else pixels
        return Sample(np.ascontiguousarray(np.moveaxis(255 - pixels if about.get("inverted") else pixels, -1, 0)))

    return read


def _square(path: Path, size: int) -> NDArray[np.uint8]:
    if path.is_dir() or is_nifti(first_bytes(path)):
        do = "give slices as pictures, or name a predictor of volumes with --weights"
        raise FormatError("the network takes pictures and this is a volume", where=path, do=do)
    return square(path, size)


def _or_fault(work: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return what ``work`` gives; any error becomes a FormatError, for one bad file never ends a run."""
    try:
        return work()
    except FormatError:
        raise
    except Exception as error:
        what = error.what if isinstance(error, ClinomeError) else f"the reader broke down over it: {type(error).__name__}"
        raise FormatError(what) from error


def _as_trained(
    found: Listed, pictures: Pictures, out: Path, made: Extractor, preparation: Preparation, mirror: bool
) -> tuple[pl.DataFrame, Read, pl.DataFrame]:
    """Return the images that can be decoded, what prepares them as for a predictor, and those set aside."""
    kind = Kind(len(preparation.shape), made.channels)
    flipped = Pictures(pictures.path, modality=pictures.modality, mirror=mirror)
    kept = decoded(found, flipped, out, size=max(preparation.shape), kind=kind)
    late = set_aside_table(found.images, kept.decoded.set_aside)
    aside = pl.concat([found.set_aside, late], how="diagonal_relaxed")
    return found.images[kept.decoded.rows], lambda row: Sample(prepared(kept[row], preparation)), aside
