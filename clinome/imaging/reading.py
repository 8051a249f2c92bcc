"""Tables of images from folders and lists, and their scans in a stream: what cannot be read is set aside, counted, and named.

    folder or table ─index_images→ images, set_aside ─scans→ one scan at a time ─without_unreadable→ the participant flow

One bad file never ends a run over a hundred thousand: whatever is wrong with it becomes a row of ``set_aside`` with the reason.
Of a DICOM file nothing personal is kept: a person's number becomes a keyed hash, names and birth dates are not read.

>>> import tempfile
>>> from clinome.formats.picture import write_picture
>>> folder = Path(tempfile.mkdtemp())
>>> for name in ("p1/left.png", "p2/left.png"):
...     (folder / name).parent.mkdir()
...     write_picture(folder / name, np.zeros((4, 5, 3), np.uint8))
>>> _ = (folder / "p2" / "left.png").write_bytes(b"")
>>> found = index_images(folder)
>>> found.images.select("image_id", "participant_id").rows(), found.set_aside.select("image_id", "what").rows()
([('p1/left', 'p1')], [('p2/left', 'the file is empty')])
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.flow import Flow
from clinome.core.errors import ClinomeError, FormatError
from clinome.core.progress import track
from clinome.core.schema import IMAGES, SET_ASIDE, check
from clinome.formats.dicom import Header, by_series, is_dicom, read_header
from clinome.formats.dicom_pixels import Window
from clinome.formats.dicom_series import is_placed, layout
from clinome.formats.nifti import is_nifti, read_nifti_header
from clinome.formats.picture import is_picture
from clinome.imaging.fingerprint import fingerprint_of
from clinome.imaging.scan import Scan, file_axes, first_bytes, read_scan, series_in

Result = TypeVar("Result")
_BIDS = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)")
_IMAGE = re.compile(r"(\.nii(\.gz)?|\.png|\.jpe?g|\.tiff?|\.dcm|\.dicom|\.ima)$", re.IGNORECASE)
_NO_IMAGE = re.compile(r"\.[A-Za-z]\w{0,7}$")  # a suffix of another kind; numbers end names of DICOM files
_FOUND = ("modality", "laterality", "date", "scanner", "series", "spacing_mm", "orientation")
_PRINTS = ("content_sha256", "fingerprint", "fingerprint_detail")


class Index(NamedTuple):
    """``images`` (``core.schema.IMAGES``) that can be read, and those ``set_aside`` (``core.schema.SET_ASIDE``)."""

    images: pl.DataFrame
    set_aside: pl.DataFrame


class Read(NamedTuple):
    """The image of a row: its ``scan``, or None with the ``fault``: (what, reason), as in ``core.schema.SET_ASIDE``."""

    row: int
    scan: Scan | None
    fault: tuple[str, str] | None


def index_images(
    source: Path | pl.DataFrame,
    *,
    root: Path | None = None,
    modality: str | None = None,
    participant: str | None = None,
    key: str = "",
    fingerprints: bool = False,
    threads: int = 2,
) -> Index:
    """Look at every image of a folder or a table, and say which can be read and what they are.

    Without ``fingerprints`` only headers are read: an image may still prove broken when its pixels are.

    Parameters
    ----------
    source
        A folder, searched with all its folders: DICOM series that make a volume become one row, every other file its own, named
        by its path without the suffix (with it where two differ in it alone). Or a table (``core.schema.IMAGES``), whose values
        win over what the files say.
    root
        What paths are relative to; by default the folder, or the current one for a table.
    modality
        DICOM's code of what is wanted; other images are set aside.
    participant
        A regular expression with one group that finds the person in the path below ``root``. By default a DICOM file's own
        PatientID, hashed; for other files BIDS's ``sub-…``, or else the first folder, or else the name of the file.
    key
        Secret that the hash of PatientID depends on: without one, whoever can guess the hospital's numbers can undo it.
    fingerprints
        Also read every image whole and hash it (:mod:`clinome.imaging.fingerprint`), which proves that it can be decoded.

    Raises
    ------
    FormatError
        When the folder is not there, or holds no image.
    SchemaError
        When the table is no images table.
    """
    if isinstance(source, pl.DataFrame):
        root = Path() if root is None else root
        table = check(source, IMAGES)
        jobs = (partial(_row_of_table, root, row, modality) for row in table.iter_rows(named=True))
        index = _index(list(_in_order(jobs, table.height, threads, "looking at images")), table)
    else:
        index = _index(_folder(Path(source), root or Path(source), modality, participant, key, threads), None)
    return (
        _with_fingerprints(index, root if isinstance(source, pl.DataFrame) else root or Path(source), threads)
        if fingerprints
        else index
    )


def scans(
    images: pl.DataFrame, *, root: Path, modality: str | None = None, window: Window = False, threads: int = 2
) -> Iterator[Read]:
    """Yield a :class:`Read` for every row of ``images``, in order; at most ``threads`` + 1 scans are in memory.

    Columns ``series`` and ``inverted`` are honoured; ``modality`` and ``window`` are as in :func:`clinome.imaging.scan.read_scan`.
    """
    jobs = (partial(_read, root, row, k, modality, window) for k, row in enumerate(images.iter_rows(named=True)))
    return _in_order(jobs, images.height, threads, "reading images")


def set_aside_table(images: pl.DataFrame, faults: dict[int, tuple[str, str]]) -> pl.DataFrame:
    """Return ``core.schema.SET_ASIDE`` of the rows of ``images`` that are keys of ``faults``."""
    rows = sorted(faults)
    about = images[rows].select("image_id", "participant_id", "path")
    what = pl.Series("what", [faults[row][0] for row in rows], pl.String)
    return check(about.with_columns(what, pl.Series("reason", [faults[row][1] for row in rows], pl.String)), SET_ASIDE)


def without_unreadable(flow: Flow, images: pl.DataFrame, set_aside: pl.DataFrame) -> Flow:
    """Drop from the flow the people of ``images`` none of whose images is left when those of ``set_aside`` go."""
    left = images.join(set_aside, on="image_id", how="anti")["participant_id"]
    pictured = {*images["participant_id"], *set_aside["participant_id"].drop_nulls()}
    return flow.drop("reading images", "none of their images could be read", pictured - set(left))


def in_words(set_aside: pl.DataFrame, n: int | None) -> str:
    """Say how many of ``n`` images (None: of how many is not known) were set aside, and why, most frequent first.

    >>> in_words(pl.DataFrame({"what": ["the file is empty"] * 2 + ["2 slices are missing"]}), 100_000)
    '3 of 100,000 images set aside: 2 × the file is empty; 1 × 2 slices are missing'
    """
    if not set_aside.height:
        return "all images can be read" if n is None else f"all of {n:,} images can be read"
    counts = set_aside.group_by("what").len().sort(["len", "what"], descending=[True, False])
    said = "; ".join(f"{count:,} × {what}" for what, count in counts.iter_rows())
    return f"{set_aside.height:,}{'' if n is None else f' of {n:,}'} images set aside: {said}"


def fault_of(error: Exception) -> tuple[str, str]:
    """Return what is wrong and, on one line, the reason, without the advice; also for what no reader should raise."""
    if not isinstance(error, ClinomeError):
        return "the reader broke down over it", f"the reader broke down over it: {type(error).__name__}"
    lines = (line.strip() for line in str(error).splitlines()[1:])
    about = [re.sub(r"^(\w+):\s+", r"\1 ", line) for line in lines if not line.startswith("do:")]
    return error.what, "; ".join([error.what, *about])


# -------------------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True)
class _Entry:
    """A row of either table."""

    image_id: str
    participant_id: str | None
    path: str
    about: dict[str, Any]
    fault: tuple[str, str] | None = None


def _in_order(jobs: Iterable[Callable[[], Result]], n: int, threads: int, title: str) -> Iterator[Result]:
    """Yield the results of ``n`` jobs in order, as many worked on ahead as there are threads."""
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        waiting: deque[Future[Result]] = deque()
        left = iter(jobs)
        for _ in track(range(n), title):
            waiting.extend(pool.submit(job) for job in islice(left, max(threads, 1) - len(waiting)))
            yield waiting.popleft().result()


def _read(root: Path, row: dict[str, Any], k: int, modality: str | None, window: Window) -> Read:
    try:
        inverted = bool(row.get("inverted"))
        scan = read_scan(root / row["path"], series=row.get("series"), modality=modality, window=window, inverted=inverted)
    except Exception as error:  # one bad file never ends a run
        return Read(k, None, fault_of(error))
    return Read(k, scan, None)


def _row_of_table(root: Path, row: dict[str, Any], modality: str | None) -> _Entry:
    path = root / row["path"]
    try:
        if path.is_dir():
            headers = series_in(path, series=row.get("series"))
            about = _of_series(headers, path)
        else:
            about = _of_file(path)
        fault = _other_modality(about, modality)
    except Exception as error:  # one bad file never ends a run
        about, fault = {}, fault_of(error)
    return _Entry(row["image_id"], row["participant_id"], row["path"], about, fault)


def _folder(folder: Path, root: Path, modality: str | None, participant: str | None, key: str, threads: int) -> list[_Entry]:
    if not folder.is_dir():
        raise FormatError("the folder of images is not there", where=folder)
    files = [file for file in sorted(folder.rglob("*")) if _may_be_image(file)]
    looked = list(_in_order((partial(_look, file) for file in files), len(files), threads, "looking at files"))
    who = partial(_person, pattern=None if participant is None else re.compile(participant), key=key)
    entries, headers = [], []
    for file, found in zip(files, looked, strict=True):
        if isinstance(found, Header):
            headers.append(found)
            continue
        about, fault = ({}, found) if isinstance(found, tuple) else (found, _other_modality(found, modality))
        name = _relative(file, root)
        entries.append(_Entry(_stem(name), who(name), name, about, fault))
    for uid, series in by_series(headers).items():
        entries += _series_entries(uid, series, root, modality, who)
    entries = _named_apart(entries)
    if not entries:
        raise FormatError("the folder holds no image", where=folder, expected="DICOM, NIfTI, PNG, JPEG or TIFF files")
    return sorted(entries, key=lambda entry: (entry.path, entry.image_id))


def _series_entries(uid: str, headers: list[Header], root: Path, modality: str | None, who: Any) -> list[_Entry]:
    """Return one entry for a volume, or one for each file of separate pictures."""
    if len(headers) > 1 and is_placed(headers):
        folder = Path(commonpath([header.path.parent for header in headers]))
        name = _relative(folder, root)
        made = hashlib.sha256(uid.encode()).hexdigest()[:16]
        try:
            about = {**_of_series(headers, folder), "series": uid}
            fault = _other_modality(about, modality)
        except Exception as error:  # one bad series never ends a run
            about, fault = {}, fault_of(error)
        return [_Entry(f"series-{made}", who(name, headers[0].patient), name, about, fault)]
    entries = []
    for header in headers:
        name = _relative(header.path, root)
        try:
            about = _of_series([header], header.path)
            fault = _other_modality(about, modality)
        except Exception as error:  # one bad file never ends a run
            about, fault = {}, fault_of(error)
        entries.append(_Entry(_stem(name), who(name, header.patient), name, about, fault))
    return entries


def _named_apart(entries: list[_Entry]) -> list[_Entry]:
    """Name files that differ in their suffix alone (film.png beside film.dcm) by their whole names."""
    stems = Counter(entry.image_id for entry in entries)
    names = {entry.path for entry in entries if entry.image_id == _stem(entry.path)}  # of files: series have names of their own
    shared = {stem for stem, count in stems.items() if count > 1} | names & stems.keys()
    return [replace(entry, image_id=entry.path) if entry.image_id in shared else entry for entry in entries]


def _may_be_image(file: Path) -> bool:
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
        return False
    if _IMAGE.search(file.name) or not _NO_IMAGE.search(file.name):
        return True
    try:
        return is_dicom(first_bytes(file))
    except FormatError:
        return False


def _look(file: Path) -> Header | dict[str, Any] | tuple[str, str]:
    """Return the header of a DICOM file, what another image says of itself, or its fault."""
    try:
        return read_header(file) if is_dicom(first_bytes(file)) else _of_file(file)
    except Exception as error:  # one bad file never ends a run
        return fault_of(error)


def _of_file(file: Path) -> dict[str, Any]:
    first = first_bytes(file)
    if is_dicom(first):
        return _of_series([read_header(file)], file)
    if is_nifti(first):
        header = read_nifti_header(file)
        axes = None if header.affine is None else file_axes(np.diag([-1.0, -1.0, 1.0, 1.0]) @ header.affine)
        return {"spacing_mm": _lengths(header.spacing_mm[::-1]), "orientation": axes}
    if is_picture(first):
        return {}
    read_header(file)  # says what it is instead
    return {}


def _of_series(headers: list[Header], where: Path) -> dict[str, Any]:
    first = headers[0]
    about: dict[str, Any] = {
        "modality": first.modality,
        "laterality": first.laterality,
        "date": first.date,
        "scanner": first.scanner,
    }
    if is_placed(headers):
        made = layout(headers, where=where)
        lengths: NDArray[np.float64] = np.linalg.norm(made.affine[:3, :3], axis=0)
        return {**about, "spacing_mm": _lengths(lengths[::-1]), "orientation": file_axes(made.affine)}
    if len(headers) > 1:
        raise FormatError("the series is a set of separate pictures", where=where, do="give each file a row")
    return {**about, "spacing_mm": _lengths(first.planes[0].pixel_mm) if len(first.planes) == 1 else None}


def _lengths(lengths: Any) -> str | None:
    return " x ".join(f"{float(length):.6g}" for length in lengths) or None


def _other_modality(about: dict[str, Any], modality: str | None) -> tuple[str, str] | None:
    found = about.get("modality")
    if modality is None or found in (None, modality):
        return None
    return "the scan is of another modality", f"the scan is of another modality; got {found}; expected {modality}"


def _person(name: str, patient: str = "", *, pattern: re.Pattern[str] | None, key: str) -> str | None:
    """Return the person of an image: by the pattern, the hashed PatientID, or the path."""
    if pattern is not None:
        found = pattern.search(name)
        return found[1] if found else None
    if patient:
        return hmac.new(key.encode(), patient.encode(), hashlib.sha256).hexdigest()[:16]
    found = _BIDS.search(name)
    return found[1] if found else name.split("/")[0] if "/" in name else _stem(name)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _stem(name: str) -> str:
    return _IMAGE.sub("", name)


def _index(entries: list[_Entry], table: pl.DataFrame | None) -> Index:
    """Make the two tables; a table's own values win."""
    nameless = ("the image does not say whose it is", "the image does not say whose it is")
    entries = [
        e if e.fault or e.participant_id is not None else _Entry(e.image_id, None, e.path, e.about, nameless) for e in entries
    ]
    faulty = [entry for entry in entries if entry.fault]
    columns = {name: [getattr(entry, name) for entry in faulty] for name in ("image_id", "participant_id", "path")}
    columns |= {"what": [e.fault[0] for e in faulty if e.fault], "reason": [e.fault[1] for e in faulty if e.fault]}
    aside = check(pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)), SET_ASIDE)
    good = [entry for entry in entries if not entry.fault]
    types = {column.name: column.dtype for column in IMAGES.columns}
    seen: dict[str, list[Any]] = {name: [getattr(entry, name) for entry in good] for name in ("image_id", "participant_id", "path")}
    seen |= {name: [entry.about.get(name) for entry in good] for name in _FOUND}
    images = pl.DataFrame(seen, schema={name: types[name] for name in seen})
    if table is not None:
        found = images.select("image_id", *_FOUND)
        kept = table.join(found, on="image_id", how="inner", suffix=":found", maintain_order="left")
        mine = [name for name in _FOUND if f"{name}:found" in kept.columns]
        images = kept.with_columns(pl.coalesce(name, f"{name}:found").alias(name) for name in mine).drop(f"{n}:found" for n in mine)
    empty = [name for name in _FOUND if images[name].null_count() == images.height and (table is None or name not in table.columns)]
    return Index(check(images.drop(empty), IMAGES), aside)


def _with_fingerprints(index: Index, root: Path | None, threads: int) -> Index:
    faults: dict[int, tuple[str, str]] = {}
    prints: list[tuple[str | None, ...]] = []
    for read in scans(index.images, root=root or Path(), threads=threads):
        if read.scan is None:
            faults[read.row] = read.fault or ("", "")
        else:
            prints.append(fingerprint_of(read.scan.values))
    good = index.images.filter(~pl.int_range(pl.len()).is_in(list(faults)))
    columns = [pl.Series(name, [found[k] for found in prints], pl.String) for k, name in enumerate(_PRINTS)]
    aside = pl.concat([index.set_aside, set_aside_table(index.images, faults)], how="diagonal")
    return Index(check(good.with_columns(columns), IMAGES), aside)
