"""PLINK 1 files: the packed genotypes of a .bed with the variants of its .bim and the people of its .fam.

Counts are copies of A1, the first allele of the .bim. Two bits a genotype, lowest bits first: 00 two copies of A1, 01
missing, 10 one copy, 11 none. Variants with a negative position are left out, as PLINK itself does. The centimorgan, parent
and phenotype columns are not read and are written as 0, 0 0 and −9.

Source: the file format reference of PLINK 1.9 (Chang et al. 2015, doi 10.1186/s13742-015-0047-8), checked in the tests against
what PLINK 2 reads from the same files.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "x.bed"
>>> people = pl.DataFrame({"participant_id": ["a", "b", "c"]})
>>> variants = pl.DataFrame(
...     {"variant_id": "rs1", "chromosome": "1", "position": 7, "effect_allele": "A", "other_allele": "G"}
... )
>>> write_plink(path, samples=people, variants=variants, blocks=[np.array([[2, -1, 0]], np.int8)])
>>> genotypes = PlinkGenotypes(path)
>>> genotypes.read(np.array([0])).counts
array([[ 2, -1,  0]], dtype=int8)
>>> genotypes.close()
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from io import BufferedReader, BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import FormatError, StudyError
from clinome.core.files import replacing
from clinome.formats.genotypes import Block, agreed_build, chosen, file_chromosomes, samples_table, variants_table

MAGIC = b"\x6c\x1b\x01"
FAM = ("family_id", "participant_id", "father", "mother", "sex", "phenotype")
BIM = ("chromosome", "variant_id", "centimorgan", "position", "effect_allele", "other_allele")

# The counts of the eight genotypes in each pair of bytes, as eight int8 side by side in one uint64: half a megabyte, in cache.
_PAIRS = np.arange(65_536, dtype="<u2")[:, None] >> np.arange(0, 16, 2, dtype=np.uint16)
_DECODE = np.array([2, -1, 1, 0], np.int8)[_PAIRS & 3].view(np.uint64).reshape(65_536)
_ENCODE = np.array([1, 3, 2, 0], np.uint8)  # of count + 1


class PlinkGenotypes:
    """A .bed with its .bim and .fam beside it, as :class:`clinome.formats.genotypes.Genotypes`.

    Parameters
    ----------
    path
        The .bed.
    build
        The genome build; the files do not state one.

    Raises
    ------
    FormatError
        When a file of the three is missing, broken, or does not fit the others.
    CohortError
        When two people share an IID.
    """

    concurrent = True

    def __init__(self, path: str | Path, *, build: str | None = None) -> None:
        path = Path(path)
        bim, fam = path.with_suffix(".bim"), path.with_suffix(".fam")
        self.paths: tuple[Path, ...] = (path, bim, fam)
        self.build = agreed_build(build, None, path)
        self.samples = read_fam(fam)
        self.variants, self._rows, n_stored, self.notes = read_bim(bim)
        self._row_bytes = (self.samples.height + 3) // 4
        self._file = _open_bed(path, n_stored, self.samples.height)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.paths[0], self.build)

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read rows of ``variants`` (ascending) for rows of ``samples``; counts are int8, scale 1."""
        rows = chosen(variants, self.variants.height)
        packed = np.empty((len(rows), self._row_bytes), np.uint8)
        stored = rows if self._rows is None else self._rows[rows]
        cuts = [0, *(np.flatnonzero(np.diff(stored) != 1) + 1), len(rows)]  # neighbours are read at once
        for start, stop in pairwise(cuts):
            if stop > start:
                self._read_at(int(stored[start]), packed[start:stop])
        if self._row_bytes % 2:
            packed = np.pad(packed, ((0, 0), (0, 1)))
        counts = _DECODE.take(packed.view("<u2")).view(np.int8)
        if samples is None:
            counts = np.ascontiguousarray(counts[:, : self.samples.height])
        else:
            counts = counts.take(chosen(samples, self.samples.height, "samples", ascending=False), axis=1)
        return Block(rows, counts, 1)

    def _read_at(self, row: int, packed: NDArray[np.uint8]) -> None:
        """Fill ``packed`` from a stored row on; no position is shared, so that threads may read at once."""
        place, left = len(MAGIC) + row * self._row_bytes, memoryview(packed.data).cast("B")
        while len(left):
            read = os.preadv(self._file.fileno(), [left], place)
            if not read:
                raise FormatError("the file became shorter while it was read", where=self.paths[0], do="run the command again")
            place, left = place + read, left[read:]

    def close(self) -> None:
        """Close the .bed."""
        self._file.close()


def _reopen(path: Path, build: str | None) -> PlinkGenotypes:
    return PlinkGenotypes(path, build=build)


def read_fam(path: Path) -> pl.DataFrame:
    """Read the people of a .fam as a ``samples`` table."""
    table = read_columns(read_beside(path), FAM, where=path)
    return samples_table(path, table["participant_id"], family_id=table["family_id"], sex=table["sex"])


def read_bim(path: Path) -> tuple[pl.DataFrame, NDArray[np.int64] | None, int, tuple[str, ...]]:
    """Read the variants of a .bim: the table, the stored row of each (None when all are kept), the rows stored, notes."""
    raw = whole_positions(read_columns(read_beside(path), BIM, where=path), where=path)
    kept = raw["position"] >= 0
    table, notes = variants_table({name: raw[name].filter(kept) for name in BIM if name != "centimorgan"}, path)
    if kept.all():
        return table, None, raw.height, tuple(notes)
    rows = kept.arg_true().to_numpy().astype(np.int64)
    left_out = f"{raw.height - len(rows)} variants with a negative position were left out, as PLINK does"
    return table, rows, raw.height, (left_out, *notes)


def whole_positions(raw: pl.DataFrame, *, where: Path, line: int = 1) -> pl.DataFrame:
    """Turn the column ``position`` into whole numbers, or name the line (the table starts at ``line``) that holds none."""
    whole = raw["position"].cast(pl.Int64, strict=False)
    if whole.null_count():
        row = int(whole.is_null().arg_true()[0])
        raise FormatError("a position is not a whole number", where=f"{where}, line {line + row}", got=raw["position"][row])
    return raw.with_columns(whole)


def read_columns(
    text: bytes, names: Sequence[str], *, where: Path, line: int = 1, keep: Sequence[str] | None = None
) -> pl.DataFrame:
    """Read a table without header whose columns are parted by tabs or spaces, all as text.

    Parameters
    ----------
    text
        The lines; the first one is number ``line`` of the file ``where``.
    names
        The names of its columns; ``keep`` are the ones wanted (None: all).

    Raises
    ------
    FormatError
        When it is empty, not text, or a line has another number of columns.
    """
    first = text.split(b"\n", 1)[0].rstrip(b"\r")
    if first.count(b"\t") != len(names) - 1 or b" " in first:
        text = re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t\r]+$", b"", text))
    text = text.rstrip(b"\r\n\t ")
    if not text:
        raise FormatError("the file is empty", where=where, expected=f"lines of {len(names)} columns")
    n_lines = text.count(b"\n") + 1
    if text.count(b"\t") == n_lines * (len(names) - 1):
        with contextlib.suppress(pl.exceptions.PolarsError):
            options = {"separator": "\t", "has_header": False, "infer_schema": False, "quote_char": None}
            table = pl.read_csv(BytesIO(text), new_columns=list(names), **options).select(keep or names)  # type: ignore[arg-type]
            if table.height == n_lines and not any(table[name].null_count() for name in table.columns):
                return table
    for number, row in enumerate(text.split(b"\n"), line):
        if len(row.split()) != len(names):
            raise FormatError(
                f"a line does not have {len(names)} columns",
                where=f"{where}, line {number}",
                got=f"{len(row.split())} columns",
                expected=", ".join(names),
            )
    raise FormatError("the file is not a text table", where=where, expected=f"lines of {len(names)} columns: {', '.join(names)}")


def read_beside(path: Path) -> bytes:
    """Read a whole companion file, or say that it is missing beside its genotypes."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FormatError(
            f"the {path.suffix} that belongs to the genotypes is not there", where=path, do="put it beside, with the same name"
        ) from None


def _open_bed(path: Path, n_variants: int, n_samples: int) -> BufferedReader:
    file = path.open("rb")
    got = file.read(3)
    expected = len(MAGIC) + n_variants * ((n_samples + 3) // 4)
    size = os.fstat(file.fileno()).st_size
    if got == MAGIC and size == expected:
        return file
    file.close()
    if got == MAGIC[:2] + b"\x00":
        raise FormatError(
            "the .bed stores one person after the other, an order no longer in use",
            where=path,
            do="plink1.9 --bfile PREFIX --make-bed --out NEW turns it",
        )
    if got != MAGIC:
        raise FormatError("this is not a PLINK 1 .bed", where=path, got=got.hex(" ") or "nothing", expected=MAGIC.hex(" "))
    raise FormatError(
        f"the .bed is too {'short' if size < expected else 'long'} for its .bim and .fam",
        where=path,
        got=f"{size} bytes",
        expected=f"{expected} bytes: 3 + {n_variants} variants × {(n_samples + 3) // 4} bytes for {n_samples} people",
        do="copy the three files again, together",
    )


def write_plink(path: str | Path, *, samples: pl.DataFrame, variants: pl.DataFrame, blocks: Iterable[NDArray[np.int8]]) -> None:
    """Write a .bed with its .bim and .fam, streaming; the three appear together, or not at all.

    Parameters
    ----------
    path
        The .bed.
    samples
        ``participant_id`` and, when there, ``family_id`` and ``sex``.
    variants
        As in ``core.schema.VARIANTS``; the effect allele becomes A1.
    blocks
        Hard calls, each of shape (n_variants of the block, n_samples): copies of the effect allele, −1 missing.

    Raises
    ------
    FormatError
        For a count that is not −1, 0, 1 or 2, blocks that do not fit the tables, or a name with a space in it.
    OutputError
        When the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".bed":
        raise StudyError("the name of a PLINK 1 file ends in .bed", got=path.name, expected=f"{path.name}.bed")
    n = samples.height
    with (
        replacing(path) as bed,
        replacing(path.with_suffix(".bim")) as bim,
        replacing(path.with_suffix(".fam")) as fam,
    ):
        none, zero, names = pl.lit("-9").alias("phenotype"), pl.lit("0"), ("family_id", "participant_id")
        people = people_columns(samples).select(*names, zero.alias("father"), zero.alias("mother"), "sex", none)
        write_columns(fam, people)
        chromosomes = file_chromosomes(variants)
        write_columns(bim, variants.select(chromosomes, "variant_id", zero, "position", "effect_allele", "other_allele"))
        written = 0
        with bed.open("wb") as file:
            file.write(MAGIC)
            for counts in blocks:
                if counts.ndim != 2 or counts.shape[1] != n:
                    raise FormatError(f"a block of shape {counts.shape} does not fit {n} samples", where=path)
                file.write(pack(counts, where=path).data)
                written += len(counts)
        if written != variants.height:
            raise FormatError("the blocks do not fit the variants table", where=path, got=written, expected=variants.height)


def pack(counts: NDArray[np.int8], *, where: Path) -> NDArray[np.uint8]:
    """Pack hard calls, shape (n_variants, n_samples), into .bed rows, shape (n_variants, ⌈n_samples / 4⌉)."""
    if counts.size and (int(counts.min()) < -1 or int(counts.max()) > 2):
        raise FormatError(
            "a hard call is −1 (missing), 0, 1 or 2", where=where, got=f"values from {counts.min()} to {counts.max()}"
        )
    n_variants, n = counts.shape
    codes = np.zeros((n_variants, (n + 3) // 4 * 4), np.uint8)
    codes[:, :n] = _ENCODE[counts + 1]
    packed: NDArray[np.uint8] = codes[:, 0::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6
    return packed


def people_columns(samples: pl.DataFrame) -> pl.DataFrame:
    """Turn a ``samples`` table into the columns family_id ('0' without one), participant_id and sex ('1', '2' or '0')."""
    null = pl.lit(None, dtype=pl.String)
    family, sex = (pl.col(name) if name in samples.columns else null.alias(name) for name in ("family_id", "sex"))
    codes = sex.replace_strict({"male": "1", "female": "2"}, default="0", return_dtype=pl.String)
    return samples.select(family.fill_null("0"), "participant_id", codes)


def write_columns(file: Path | BinaryIO, table: pl.DataFrame, *, header: Sequence[str] | None = None) -> None:
    """Write a table as PLINK reads it, under ``header`` or none.

    Raises
    ------
    FormatError
        For a name with a space in it, or an empty one.
    """
    for name in table.columns:
        if table[name].dtype == pl.String and (bad := table[name].filter(table[name].str.contains(r"\s|^$"))).len():
            raise FormatError(f"PLINK cannot hold a {name} with a space in it or none at all", got=repr(bad[0]))
    named = table if header is None else table.rename(dict(zip(table.columns, header, strict=True)))
    named.write_csv(file, separator="\t", include_header=header is not None, quote_style="never")
