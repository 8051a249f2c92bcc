"""BGEN 1.2 and 1.3 files (layout 2): genotype probabilities as exact integer dosages.

Counts are copies of the second allele of a variant block (of each further allele where there are more: one variant an allele,
under the site's id). Probabilities are stored as integers of B bits, so the expected count is an exact integer in units of
1 / (2^B − 1): 255 for the usual 8 bits. Above 16 bits it is rounded to 1/65535. Phased and unphased, diploid and haploid
people are read; a haploid person counts as two copies or none, as PLINK counts males on X; ploidy 0 is missing.

Variants are named by their rsid. People are named by the .sample that is given, else the .sample beside the file, else the ids
in the file. The .bgi of bgenix is used when it belongs to the file, else the file is walked once.

Source: the BGEN format specification (Band & Marchini 2018, doi 10.1101/308296, https://www.chg.ox.ac.uk/~gav/bgen_format).
The decoder is our own because the libraries give floating-point probabilities and end the process on broken files; the tests
compare it with cbgen and PLINK 2.
"""

from __future__ import annotations

import functools
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import FormatError, need
from clinome.formats.genotypes import Block, agreed_build, chosen, samples_table, variants_table
from clinome.formats.plink import read_columns

_CHUNK = 1 << 16  # variants turned into a table at a time
_SITES = {
    "variant_id": pl.String,
    "chromosome": pl.String,
    "position": pl.Int64,
    "alleles": pl.String,  # joined by tabs, because polars is slow at taking lists
    "offset": pl.Int64,
    "size": pl.Int64,
}
Site = tuple[str, str, int, str, int, int]


class BgenGenotypes:
    """A .bgen as :class:`clinome.formats.genotypes.Genotypes`; dosages are int32 at scale 2^B − 1.

    Parameters
    ----------
    path
        The .bgen.
    build
        The genome build; the file does not state one.
    sample_file
        An Oxford .sample, for a file that does not name its samples, or to name them otherwise.

    Raises
    ------
    FormatError
        When the file is broken, cut off or of layout 1, or its samples are not named or another number than in the .sample.
    CohortError
        When two people share an id.
    """

    concurrent = False

    def __init__(self, path: str | Path, *, build: str | None = None, sample_file: str | Path | None = None) -> None:
        path = Path(path)
        self._header = read_header(path)
        self._sample_file = None if sample_file is None else Path(sample_file)
        self.build = agreed_build(build, None, path)
        self.samples, named_by, turned = _people(path, self._header, self._sample_file)
        index = path.with_name(f"{path.name}.bgi")
        sites, reason = _indexed_sites(index, path, self._header) if index.exists() else (None, None)
        self.paths: tuple[Path, ...] = (path, *named_by, *([] if sites is None else [index]))
        if sites is None:
            sites = _walked_sites(path, self._header)
        split = sites.with_row_index("site").with_columns(
            pl.col("alleles").list.first().alias("other_allele"), pl.col("alleles").list.slice(1).alias("effect_allele")
        )
        split = split.explode("effect_allele").with_columns((pl.int_range(pl.len()).over("site") + 1).alias("allele"))
        columns = ("variant_id", "chromosome", "position", "effect_allele", "other_allele")
        self.variants, notes = variants_table({name: split[name] for name in columns}, path)
        if several := int((sites["alleles"].list.len() > 2).sum()):
            notes.insert(0, f"{several} sites with several alleles were split into one variant an allele, under the site's id")
        self.notes = (*turned, *([reason] if reason else []), *notes)
        self._places = split.select("offset", "size", "allele", "position").to_numpy()
        self._file = path.open("rb")
        try:
            self._bits = self._packed(0).bits if len(self._places) else 8
        except FormatError:
            self._file.close()
            raise
        self.scale = 2 ** min(self._bits, 16) - 1

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.paths[0], self.build, self._sample_file)

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read rows of ``variants`` (ascending) for rows of ``samples``; counts are int32 at the file's scale."""
        rows = chosen(variants, self.variants.height)
        people = None if samples is None else chosen(samples, self.samples.height, "samples", ascending=False)
        counts = np.empty((len(rows), self.samples.height if people is None else len(people)), np.int32)
        for i, row in enumerate(rows):
            dosage = self._dosage(int(row))
            counts[i] = dosage if people is None else dosage[people]
        return Block(rows, counts, self.scale)

    def _packed(self, row: int) -> Packed:
        """Read the variant block of a row of ``variants`` and decompress its genotypes."""
        offset, size, _, expected = (int(value) for value in self._places[row])
        self._file.seek(offset)
        block = self._file.read(size)
        where = f"{self.paths[0]}, variant {row + 1}"
        try:
            _, _, position, alleles, start = _identify(block)
            if position != expected:
                raise FormatError("the variant is not where the index says", where=where, do="remove the .bgi")
            packed = _take_apart(_decompress(memoryview(block)[start:], self._header, len(alleles)))
        except (struct.error, ValueError, IndexError, zlib.error) as error:
            raise FormatError("a variant cannot be decoded", where=where, got=str(error), do="copy the file again") from error
        if len(packed.ploidy) != self._header.n_samples or packed.n_alleles != len(alleles) or not 1 <= packed.bits <= 32:
            raise FormatError("the genotypes of a variant contradict its header", where=where, do="copy the file again")
        return packed

    def _dosage(self, row: int) -> NDArray[np.int32] | NDArray[np.int64]:
        packed = self._packed(row)
        where = f"{self.paths[0]}, variant {row + 1}"
        if packed.bits != self._bits:
            raise FormatError(
                "the variants store their probabilities with different numbers of bits",
                where=where,
                got=f"{packed.bits} bits",
                expected=f"{self._bits}, as the first variant",
                do="write the file anew: plink2 --bgen FILE ref-first --sample FILE --export bgen-1.2 bits=8 --out NEW",
            )
        counts = expected_counts(packed, int(self._places[row, 2]), where=where)
        if packed.bits <= 16:
            return counts
        rounded = np.rint(counts * (self.scale / (2**packed.bits - 1)))
        return np.where(counts < 0, -1, rounded).astype(np.int64)

    def close(self) -> None:
        """Close the .bgen."""
        self._file.close()


def _reopen(path: Path, build: str | None, sample_file: Path | None) -> BgenGenotypes:
    return BgenGenotypes(path, build=build, sample_file=sample_file)


@dataclass(frozen=True)
class Packed:
    """The genotypes of one variant block as stored: a byte of ploidy (bit 7: missing) a person, then the probabilities."""

    n_alleles: int
    bits: int
    phased: bool
    ploidy: NDArray[np.uint8]
    probabilities: memoryview


def _take_apart(raw: bytes) -> Packed:
    n_samples, n_alleles = struct.unpack_from("<IH", raw)
    ploidy = np.frombuffer(raw, np.uint8, n_samples, 8)
    phased, bits = raw[8 + n_samples], raw[9 + n_samples]
    return Packed(n_alleles, bits, bool(phased), ploidy, memoryview(raw)[10 + n_samples :])


def expected_counts(packed: Packed, allele: int, *, where: str) -> NDArray[np.int32] | NDArray[np.int64]:
    """Return the expected copies of ``allele`` in units of 1 / (2^bits − 1), shape (n_samples,); −1 is missing.

    Raises
    ------
    FormatError
        For people with more than two copies of a chromosome, probabilities of another length, or a sum above one.
    """
    ploidy = packed.ploidy & 0x3F
    low, high = int(ploidy.min(initial=63)), int(ploidy.max(initial=0))
    if high > 2:
        raise FormatError("people with more than two copies of a chromosome are not read", where=where, got=high)
    stored = [0, *(len(_weights(z, packed.n_alleles, packed.phased, allele)[1]) for z in (1, 2))]  # integers a person
    if low == high:
        values = _integers(packed.probabilities, packed.bits, len(ploidy) * stored[high], where)
        counts = _copies(values.reshape(len(ploidy), -1), high, packed, allele)
    else:
        each = np.array(stored)[ploidy]
        values, starts = _integers(packed.probabilities, packed.bits, int(each.sum()), where), np.cumsum(each) - each
        counts = np.zeros(len(ploidy), np.int64)
        for z in (1, 2):
            mine = starts[ploidy == z]
            counts[ploidy == z] = _copies(values[mine[:, None] + np.arange(stored[z])], z, packed, allele)
    missing = packed.ploidy >= 0x80
    if low == 0:
        missing |= ploidy == 0
    counts[missing] = 0
    if int(counts.min(initial=0)) < 0:
        raise FormatError("the probabilities of a genotype add up to more than one", where=where, do="copy the file again")
    counts[missing] = -1
    return counts


def _copies(values: NDArray[Any], ploidy: int, packed: Packed, allele: int) -> NDArray[Any]:
    """Turn stored integers, shape (n_people, n_stored), into expected copies; a haploid person has two copies or none."""
    base, factors = _weights(ploidy, packed.n_alleles, packed.phased, allele)
    counts: NDArray[Any] = np.full(len(values), base * (2**packed.bits - 1), np.int32 if packed.bits <= 16 else np.int64)
    for column, factor in enumerate(factors):
        if factor:
            counts += factor * values[:, column].astype(counts.dtype)
    return counts * 2 if ploidy == 1 else counts


@functools.cache
def _weights(ploidy: int, n_alleles: int, phased: bool, allele: int) -> tuple[int, tuple[int, ...]]:
    """Return what the unstored last probability and the stored ones add to the expected count of ``allele``.

    A haplotype stores P(allele 0), …, P(allele K−2); an unphased genotype P(00), P(01), P(11), P(02), … without the last.

    >>> _weights(2, 2, False, 1)  # 2 − 2·P(00) − P(01)
    (2, (-2, -1))
    >>> _weights(2, 2, True, 1)
    (2, (-1, -1))
    """
    one = [int(k == allele) for k in range(n_alleles)]
    diploid = [one[a] + one[b] for b in range(n_alleles) for a in range(b + 1)]
    copies = diploid if ploidy == 2 and not phased else one
    haplotypes = ploidy if phased else min(ploidy, 1)
    return haplotypes * copies[-1], tuple(count - copies[-1] for count in copies[:-1]) * haplotypes


def _integers(packed: memoryview, bits: int, n: int, where: str) -> NDArray[Any]:
    """Unpack ``n`` little-endian integers of ``bits`` bits."""
    expected = (n * bits + 7) // 8
    if len(packed) != expected:
        raise FormatError("the probabilities of a variant are of another length", where=where, got=len(packed), expected=expected)
    if bits in (8, 16, 32):
        return np.frombuffer(packed, f"<u{bits // 8}")
    each = np.unpackbits(np.frombuffer(packed, np.uint8), count=n * bits, bitorder="little").reshape(n, bits)
    return each.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64))


@dataclass(frozen=True)
class Header:
    """The header block of a BGEN: where the variants begin, how many there are, and how they are stored."""

    first_variant: int
    n_variants: int
    n_samples: int
    compression: str
    names_samples: bool
    size: int


def read_header(path: Path) -> Header:
    """Read the header block of a BGEN.

    Raises
    ------
    FormatError
        For other magic bytes, layout 1, or a compression that the format does not know.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(20)
        if len(start) < 20 or start[16:20] not in (b"bgen", b"\0\0\0\0"):
            raise FormatError(
                "this is not a BGEN", where=path, got=start[16:20].hex(" ") or "nothing", expected="62 67 65 6e at 16"
            )
        offset, length, n_variants, n_samples = struct.unpack_from("<IIII", start)
        file.seek(length)
        flags = int.from_bytes(file.read(4), "little")
    if length < 20 or length > offset or offset + 4 > size:
        raise _cut_off(path, size, offset + 4)
    layout, compression = flags >> 2 & 15, flags & 3
    if layout != 2 or compression == 3:
        raise FormatError(
            "this kind of BGEN is not read",
            where=path,
            got=f"layout {layout}, compression {compression}",
            expected="layout 2 (BGEN 1.2 or 1.3), compression 0, 1 or 2",
            do="write it anew: plink2 --bgen FILE ref-first --sample FILE --export bgen-1.2 bits=8 --out NEW",
        )
    return Header(offset + 4, n_variants, n_samples, ("none", "zlib", "zstd")[compression], bool(flags >> 31), size)


def _cut_off(path: Path, size: int, expected: object) -> FormatError:
    return FormatError(
        "the BGEN is cut off or damaged", where=path, got=f"{size} bytes", expected=f"{expected} bytes or more", do="copy it again"
    )


def _people(path: Path, header: Header, given: Path | None) -> tuple[pl.DataFrame, list[Path], list[str]]:
    """Name the samples; the second value is the .sample that was used, if one was; the third says what is odd about it.

    A .sample goes by position. But where it lists the very people whom the BGEN names itself, in another order, position would
    give each person the genotypes of another: they are found by name.
    """
    ids = _embedded_ids(path, header) if header.names_samples else None
    beside = path.with_suffix(".sample")
    sample_file = given or (beside if beside.exists() else None)
    if sample_file is None:
        if ids is None:
            raise FormatError(
                "the BGEN does not name its samples", where=path, expected=f"{beside.name} beside it", do="give its .sample file"
            )
        return samples_table(path, pl.Series(ids, dtype=pl.String)), [], []
    people = read_sample_file(sample_file)
    if people.height != header.n_samples:
        raise FormatError(
            "the .sample belongs to another BGEN",
            where=sample_file,
            got=f"{people.height} people",
            expected=f"{header.n_samples}, as in {path}",
        )
    if ids is None:
        return people, [sample_file], []
    joint = people.select(pl.concat_str("family_id", "participant_id", separator="_"), "participant_id")
    named = next((name for name in joint.columns if set(joint[name]) == set(ids)), None)
    if named is None and given is None:
        row = next(i for i, name in enumerate(people["participant_id"]) if name != ids[i])
        raise FormatError(
            "the .sample beside the BGEN names other people than the BGEN itself",
            where=sample_file,
            got=f"person {row + 1} is {people['participant_id'][row]!r}",
            expected=f"{ids[row]!r}",
            do="remove the .sample, or name the right one as the sample file",
        )
    if named is None or joint[named].to_list() == ids:
        return people, [sample_file], []
    rows = {name: row for row, name in enumerate(joint[named])}
    note = f"{sample_file.name} lists the people in another order than the BGEN, which names them itself; each was found by name"
    return people[[rows[name] for name in ids]], [sample_file], [note]


def _embedded_ids(path: Path, header: Header) -> list[str]:
    with path.open("rb") as file:
        file.seek(4)
        file.seek(4 + int.from_bytes(file.read(4), "little"))
        block = file.read(header.first_variant - file.tell())
    try:
        _, n = struct.unpack_from("<II", block)
        at, ids = 8, []
        for _ in range(n):
            name, at = _string(block, at, "<H")
            ids.append(name)
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError("the sample names in the BGEN are damaged", where=path, do="copy it again") from error
    if n != header.n_samples:
        raise FormatError("the BGEN names another number of samples", where=path, got=n, expected=header.n_samples)
    return ids


def read_sample_file(path: Path) -> pl.DataFrame:
    """Read an Oxford .sample: a line of names, a line of column types, then a line a person; ID_2 is the participant."""
    try:
        names, types, rest = (path.read_bytes().rstrip() + b"\n").split(b"\n", 2)
    except FileNotFoundError:
        raise FormatError("the .sample file is not there", where=path) from None
    except ValueError:
        names, types, rest = b"", b"", b""
    columns = names.decode(errors="replace").split()
    if not columns or not columns[0].upper().startswith("ID") or types.split()[:1] != [b"0"]:
        raise FormatError("this is not a .sample file", where=path, expected="a line 'ID_1 ID_2 missing sex', then '0 0 0 D'")
    table = read_columns(rest, columns, where=path, line=3)
    two = len(columns) > 1 and columns[1].upper() == "ID_2"
    sex = next((table[name] for name in columns if name.lower() == "sex"), None)
    return samples_table(path, table[columns[int(two)]], family_id=table[columns[0]] if two else None, sex=sex)


def _string(block: bytes, at: int, length: str) -> tuple[str, int]:
    (n,) = struct.unpack_from(length, block, at)
    at += struct.calcsize(length)
    if at + n > len(block):
        raise struct.error("a name goes over the end")
    return block[at : at + n].decode(), at + n


def _identify(block: bytes) -> tuple[str, str, int, list[str], int]:
    """Parse the head of a variant block: rsid, chromosome, position, alleles, and where its genotypes begin."""
    _, at = _string(block, 0, "<H")
    rsid, at = _string(block, at, "<H")
    chromosome, at = _string(block, at, "<H")
    position, n_alleles = struct.unpack_from("<IH", block, at)
    at += 6
    alleles = []
    for _ in range(n_alleles):
        allele, at = _string(block, at, "<I")
        alleles.append(allele)
    return rsid, chromosome, position, alleles, at


def _decompress(data: memoryview, header: Header, n_alleles: int) -> bytes:
    """Decompress the genotypes of a variant block."""
    (length,) = struct.unpack_from("<I", data)
    if header.compression == "none":
        return bytes(data[4 : 4 + length])
    (expected,) = struct.unpack_from("<I", data, 4)
    per_person = max(2 * (n_alleles - 1), n_alleles * (n_alleles + 1) // 2 - 1)
    if expected > 10 + header.n_samples * (1 + 4 * per_person):
        raise ValueError(f"{expected} bytes for {header.n_samples} people")
    if header.compression == "zlib":
        raw = zlib.decompress(data[8 : 4 + length], bufsize=max(1, expected))
    else:
        zstandard = need("zstandard", "genetics")
        try:
            raw = zstandard.ZstdDecompressor().decompress(bytes(data[8 : 4 + length]), max_output_size=expected)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    if len(raw) != expected:
        raise ValueError(f"{len(raw)} bytes instead of {expected}")
    return raw


def _walked_sites(path: Path, header: Header) -> pl.DataFrame:
    """Make the table of sites by walking over the variant blocks of the file."""
    with path.open("rb") as file:
        end, frames = header.first_variant, []
        for start in range(0, header.n_variants, _CHUNK):
            sites = []
            for number in range(start, min(start + _CHUNK, header.n_variants)):
                sites.append(_walk(file, end, f"{path}, variant {number + 1}", header))
                end = sites[-1][4] + sites[-1][5]
            frames.append(_frame(sites))
    if end != header.size:
        raise FormatError(
            "the BGEN is longer than its header says", where=path, got=f"{header.size} bytes", expected=f"{end} bytes"
        )
    return pl.concat(frames) if frames else _frame([])


def _walk(file: BufferedReader, start: int, where: str, header: Header) -> Site:
    file.seek(start)
    for peek in (512, 1 << 16, 1 << 24):  # alleles can be long
        head = file.read(peek)
        try:
            rsid, chromosome, position, alleles, at = _identify(head)
            (length,) = struct.unpack_from("<I", head, at)
        except (struct.error, UnicodeDecodeError):
            file.seek(start)
            continue
        size = at + 4 + length
        if start + size > header.size:
            break
        return rsid, chromosome, position, "\t".join(alleles), start, size
    raise FormatError(
        "the BGEN is cut off or damaged", where=where, got=f"the file ends at byte {header.size}", do="copy the file again"
    )


def _frame(sites: Sequence[Site]) -> pl.DataFrame:
    columns = zip(*sites, strict=True) if sites else [()] * len(_SITES)
    frame = pl.DataFrame(dict(zip(_SITES, columns, strict=True)), schema=_SITES)
    return frame.with_columns(pl.col("alleles").str.split("\t"))


def _indexed_sites(index: Path, path: Path, header: Header) -> tuple[pl.DataFrame | None, str | None]:
    """Make the table of sites from a .bgi; (None, why) when it does not belong to the file."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(index.resolve()))}?mode=ro&immutable=1", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if "Metadata" in tables:
                size, start = database.execute("SELECT file_size, first_1000_bytes FROM Metadata").fetchone()
                with path.open("rb") as file:
                    same = size == header.size and bytes(start) == file.read(len(start))
            else:
                same = True
            frames = list(_index_frames(database, path)) if same else []
    except (sqlite3.Error, TypeError, struct.error, UnicodeDecodeError) as error:
        return None, f"{index.name} was not used: it cannot be read ({error})"
    sites = pl.concat(frames) if frames else _frame([])
    ends = (sites["offset"] + sites["size"]).max() if sites.height else header.first_variant
    if not same or sites.height != header.n_variants or ends != header.size:
        return None, f"{index.name} was not used: it belongs to another file, or to an older one of this name"
    return sites, None


def _index_frames(database: sqlite3.Connection, path: Path) -> Iterator[pl.DataFrame]:
    rows = database.execute(
        "SELECT rsid, chromosome, position, number_of_alleles, allele1, allele2, file_start_position, size_in_bytes"
        " FROM Variant ORDER BY file_start_position"
    )
    with path.open("rb") as file:
        while chunk := rows.fetchmany(_CHUNK):
            sites = []
            for rsid, chromosome, position, n_alleles, first, second, offset, size in chunk:
                alleles = [first, second]
                if n_alleles != 2:  # the index holds two alleles only
                    file.seek(offset)
                    alleles = _identify(file.read(size))[3]
                sites.append((rsid, chromosome, position, "\t".join(alleles), offset, size))
            yield _frame(sites)
