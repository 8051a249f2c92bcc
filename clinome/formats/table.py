"""Tables of people: CSV, TSV, blank-separated text (plain, .gz or .zst) and Parquet, to one frame keyed by ``participant_id``.

People are named as PLINK and REGENIE name them (``#FID IID``, ``#IID``, ``FID IID``, ``IID``: the IID is the participant,
the FID becomes ``family_id``) or by a column ``participant_id``, ``sample_id`` or ``eid``. Identifiers stay text. A value is
missing when it is one of :data:`MISSING` or of the codes that the caller names; nothing else is taken for missing, and what
looks like a code (−9) is said in ``notes``.

>>> import tempfile, pathlib
>>> path = pathlib.Path(tempfile.mkdtemp()) / "traits.txt"
>>> _ = path.write_text("#FID IID HDL\\nf1 007 1.5\\nf1 008 NA\\n")
>>> read_table(path).frame.rows()
[('007', 'f1', 1.5), ('008', 'f1', None)]
"""

from __future__ import annotations

import csv
import difflib
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, FormatError, OutputError, SchemaError, StudyError, TraitError, need
from clinome.core.files import replacing
from clinome.core.schema import Table, check

MISSING = ("", "NA", "nan", "NaN")
"""What counts as missing in every text table; more codes are named by the caller."""

ID_COLUMNS = ("participant_id", "IID", "sample_id", "eid")
"""Columns that name the person, in the order in which they are looked for (``#IID`` is ``IID``)."""

_CELLS = 64_000_000  # values parsed at once: thousands of columns of a few rows, or a hundred of half a million
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")
_SENTINELS = (-9.0, -99.0, -999.0, -9999.0)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", " ": "blanks"}


class LoadedTable(NamedTuple):
    """A table of people and what is worth knowing about how it was read.

    ``frame`` has ``participant_id`` (text, unique), ``family_id`` (text, null where the file says 0 or nothing) when the file
    has one, then the other columns in file order: float64 where every value is a number, text otherwise; null is missing.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]


class _Raw(NamedTuple):
    """The columns as the file has them, and where each row is in the file ('line' 17, 'row' 3)."""

    frame: pl.DataFrame
    path: Path
    unit: str
    numbers: Sequence[int]

    @property
    def names(self) -> list[str]:
        return self.frame.columns

    def at(self, row: int, column: str) -> str:
        return f"{self.path}, {self.unit} {self.numbers[row]}, column {column!r}"


def read_table(
    path: str | Path,
    *,
    missing: Sequence[str] = (),
    id_column: str | None = None,
    columns: Sequence[str] | None = None,
    numbers_only: bool = False,
    header: bool = True,
) -> LoadedTable:
    """Read a table with one row a person.

    Parameters
    ----------
    missing
        Codes that mean missing in this file, besides :data:`MISSING`, for example ``["-9", "unknown"]``.
    id_column
        The column that names the person, when it is none of :data:`ID_COLUMNS`.
    columns
        The columns to keep besides the identifiers; None keeps all that have a name. Others are not parsed.
    numbers_only
        Text in a kept column is an error (traits) instead of a categorical column (covariates).
    header
        False reads a PLINK phenotype file without a header: FID, IID, then ``PHENO1``, ``PHENO2``, …

    Raises
    ------
    StudyError
        When there is no such file.
    FormatError
        When the file is empty, truncated, not text, or a line has another number of fields than the header.
    SchemaError
        When no column names the people, a column is there twice, or one that was asked for is not there.
    CohortError
        When a person has two rows, or a row names nobody.
    TraitError
        When a value is infinite, or is text where ``numbers_only`` asks for numbers.
    """
    path = existing(path)
    parquet = path.suffix.lower() in (".parquet", ".pq")
    source = _read_parquet(path) if parquet else _open_text(path, header=header)
    names = source.names
    person = _person_column(names, id_column, path)
    family = next((name for name in ("family_id", "FID", "#FID") if name in names and name != person), None)
    kept = _kept_columns(names, columns, {person, family, "participant_id", "FID", "#FID"}, path)
    codes = frozenset((*MISSING, *(str(code) for code in missing)))
    raw = source if isinstance(source, _Raw) else source.as_numbers(kept, person, codes) or source.as_words()

    notes: list[str] = []
    out = [_identifiers(raw, person, notes).alias("participant_id")]
    if family is not None:
        families = _as_text(raw.frame[family])
        out.append(families.set(families.is_in([*codes, "0"]), None).alias("family_id"))
    together = max(1, _CELLS // raw.frame.height)
    for start in range(0, len(kept), together):
        values, said = _values(raw, kept[start : start + together], codes=codes, numbers_only=numbers_only)
        out += values
        notes += said
    return LoadedTable(pl.DataFrame(out), tuple(notes))


def read_checked(path: str | Path, table: Table) -> pl.DataFrame:
    """Read a table in Clinome's own columns (``core.schema``) from Parquet, CSV or tab-separated text; text columns stay text.

    Raises
    ------
    StudyError
        When there is no such file.
    FormatError
        When it cannot be read as what its name says.
    SchemaError
        When a column is missing or has the wrong type.
    """
    path = existing(path)
    texts = {column.name: pl.String for column in table.columns if column.dtype == pl.String}
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pl.read_parquet(path)
        else:
            mark = "," if ".csv" in path.suffixes else "\t"
            frame = pl.read_csv(
                path, separator=mark, infer_schema_length=None, schema_overrides=texts, null_values="NA", try_parse_dates=True
            )
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FormatError("the table cannot be read", where=path, got=reason, expected="Parquet, CSV or TSV by its name") from error
    return check(frame, table, where=str(path))


def read_id_list(path: str | Path) -> list[str]:
    """Read the people of a keep or remove list: one column of ids, or PLINK's two (FID IID), with or without a header.

    A person named twice is listed once; the order of the file is kept.

    Raises
    ------
    StudyError, FormatError
        When there is no such file; when it is not text, names nobody, or has columns but no header says which holds the ids.
    """
    path = existing(path)
    table = _open_text(path, header=False, narrow=True).as_words().frame
    first = [str(value or "").removeprefix("#") for value in table.row(0)]
    known = [first.index(name) for name in ID_COLUMNS if name in first]
    if known:
        table = table.slice(1)
    elif table.width > 2:
        raise FormatError(
            "a list of people without a header has one column (id) or two (FID IID)", where=path, got=f"{table.width} columns"
        )
    column = known[0] if known else table.width - 1
    people = table.to_series(column).drop_nulls().unique(maintain_order=True).to_list()
    if not people:
        raise FormatError("the list names nobody", where=path)
    return people


def read_fields(path: str | Path) -> list[tuple[int, list[str]]]:
    """Read lines of blank-separated fields (lists of variants, intervals): each with its number in the file, ``#`` lines left out.

    Raises
    ------
    StudyError, FormatError
        When there is no such file, or it is not text or holds nothing.
    """
    path = existing(path)
    lines = [(number, line.split()) for line, number in zip(*_text_lines(path), strict=True) if not line.startswith("#")]
    if not lines:
        raise FormatError("the list is empty", where=path)
    return lines


def write_table(frame: pl.DataFrame, path: str | Path) -> None:
    """Write ``frame`` as Parquet, TSV or CSV (``.parquet``, ``.tsv``, ``.csv``, the latter two also ``.gz``), atomically.

    Null is written as ``NA``; equal frames give equal bytes.
    """
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
    with replacing(path) as temporary:
        if suffixes == ".parquet":
            frame.write_parquet(temporary)
        elif suffixes in (".tsv", ".csv"):
            frame.write_csv(temporary, separator=_DELIMITERS[suffixes], null_value="NA")
        elif suffixes in (".tsv.gz", ".csv.gz"):
            text = frame.write_csv(separator=_DELIMITERS[suffixes[:4]], null_value="NA")
            temporary.write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))
        else:
            raise OutputError(
                "a table's suffix says how it is written", where=path, expected=".parquet, .tsv, .tsv.gz, .csv or .csv.gz"
            )


def existing(path: str | Path) -> Path:
    """Return ``path`` when it is a file, or say that it is not.

    Raises
    ------
    StudyError
        When there is no such file, or it is a folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    there = sorted(p.name for p in path.parent.iterdir() if p.is_file()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.5)
    do = f"names there: {', '.join(near)}" if near and not path.exists() else "name a file in it" if path.exists() else None
    raise StudyError("this is a folder, not a file" if path.exists() else "there is no such file", where=path, do=do)


# ---------------------------------------------------------------------------------------------- bytes to fields


def _read_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[:4] == b"\x28\xb5\x2f\xfd":
            return _unpack_zstd(data)
    except (EOFError, OSError, zlib.error) as error:
        raise FormatError("the compressed file is truncated or damaged", where=path, got=error, do="copy it again") from error
    return data


def _unpack_zstd(data: bytes) -> bytes:
    """Unpack every frame of ``data``; unlike the library's stream reader, an early end is an error."""
    zstandard = need("zstandard", "genetics")
    out = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            out.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error
        if not frame.eof:
            raise EOFError("the file ended before the end of the compressed stream")
        data = frame.unused_data
    return b"".join(out)


def _text_lines(path: Path) -> tuple[list[str], list[int]]:
    """Return the lines that hold something and their numbers, without a byte-order mark, Windows line ends, or ``##`` lines."""
    data = _read_bytes(path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in data[:65536]:
        raise FormatError("this is not a text table", where=path, got="zero bytes", expected="UTF-8 text or Parquet")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FormatError(
            "the text is not UTF-8", where=f"{path}, line {line}", got=f"byte 0x{data[error.start]:02x}", do="save it as UTF-8"
        ) from error
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    numbers = [i for i, line in enumerate(lines) if line and not line.isspace() and not line.startswith("##")]
    if not numbers:
        raise FormatError("the file is empty", where=path)
    return [lines[i] for i in numbers], [i + 1 for i in numbers]


class _Text(NamedTuple):
    """A text table: rows (``data``, without the header) of ``columns``; those without a name are called NUL and their number."""

    path: Path
    columns: list[str]
    separator: str
    data: bytes
    numbers: Sequence[int]

    @property
    def names(self) -> list[str]:
        return [name for name in self.columns if not name.startswith("\0")]

    def as_words(self) -> _Raw:
        """Parse all fields as text, without blanks around them."""
        try:
            return self._parsed()
        except pl.exceptions.PolarsError as error:
            got = str(error).strip().splitlines()[-1]
            raise FormatError(
                "a quoted value does not end where it should", where=self.path, got=got, do="quote values whole"
            ) from error

    def as_numbers(self, columns: Sequence[str], person: str, codes: frozenset[str]) -> _Raw | None:
        """Parse some columns as floats at once, at a fraction of the cost of their words; None where a value is none, or odd."""
        try:
            raw = self._parsed(schema_overrides=dict.fromkeys(columns, pl.Float64), null_values=sorted(codes))
        except pl.exceptions.PolarsError:
            return None
        finite = raw.frame.select(pl.col(columns).is_finite().all()).row(0) if columns else ()
        return raw if all(finite) and not raw.frame[person].has_nulls() else None  # a person may be named as a code

    def _parsed(self, **options: Any) -> _Raw:
        frame = pl.read_csv(
            self.data, separator=self.separator, has_header=False, new_columns=self.columns, infer_schema=False, **options
        )
        frame = frame.select(self.names)  # without a comma at the line's end, or the row names of another program
        return _Raw(frame.with_columns(pl.col(pl.String).str.strip_chars()), self.path, "line", self.numbers)


def _open_text(path: Path, *, header: bool, narrow: bool = False) -> _Text:
    """Cut a text table into header and rows. ``narrow`` allows fewer than three columns without a header."""
    lines, numbers = _text_lines(path)
    separator = _separator(lines, numbers, path)
    if separator == " ":
        lines, separator = ["\t".join(line.split()) for line in lines], "\t"
    if header:
        names = next(csv.reader([lines[0]], delimiter=separator))
        names = [name.strip() for name in names]
        lines, numbers = lines[1:], numbers[1:]
        if not lines:
            raise FormatError("the file has a header and no rows", where=path)
    else:
        width = len(next(csv.reader([lines[0]], delimiter=separator)))
        names = ["FID", "IID", *(f"PHENO{i}" for i in range(1, width - 1))][:width]
        if width < 3 and not narrow:
            raise FormatError("a phenotype file without a header has FID, IID and traits", where=path, got=f"{width} columns")
    seen = Counter(filter(None, names))
    twice = next((name for name, times in seen.items() if times > 1), None)
    if twice is not None:
        raise SchemaError(f"column {twice!r} is there twice", where=path, do="rename one of them")
    unnamed = [f"\0{i}" for i in range(len(names))]
    names = [name or blank for name, blank in zip(names, unnamed, strict=True)]
    return _Text(path, names, separator, "\n".join(lines).encode(), numbers)


def _separator(lines: list[str], numbers: list[int], path: Path) -> str:
    """Choose what separates the fields: the suffix's delimiter, else what the header holds; it must fit every line."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    stated = [_DELIMITERS[suffix] for suffix in suffixes if suffix in _DELIMITERS]
    candidates = [mark for mark in dict.fromkeys([*stated, "\t", ",", ";"]) if mark in lines[0]]
    if not candidates or (candidates == ["\t"] and " " in lines[0]):  # blanks and tabs mixed, as PLINK takes them
        candidates.append(" ")
        if not {"IID", "#IID"} & set(lines[0].split("\t")):
            candidates.reverse()
    ragged = [_ragged(lines, mark) for mark in candidates]
    if None in ragged:
        return candidates[ragged.index(None)]
    row, mark = ragged[0] or 0, candidates[0]
    do = "write NA where a value is missing, and quote text that holds the delimiter (on one line)"
    if row == 1 and _n_fields(lines[1], mark) == _n_fields(lines[0], mark) + 1:
        do = "name the first column in the header too (R leaves it out: write.table(…, row.names = FALSE))"
    raise FormatError(
        "a line has another number of fields than the first line",
        where=f"{path}, line {numbers[row]}",
        got=f"{_n_fields(lines[row], mark)} fields between {_NAMES[mark]}",
        expected=f"{_n_fields(lines[0], mark)}",
        do=do,
    )


def _n_fields(line: str, mark: str) -> int:
    if mark == " ":
        return len(line.split())
    if '"' in line:
        return len(next(csv.reader([line], delimiter=mark)))
    return line.count(mark) + 1


def _ragged(lines: list[str], mark: str) -> int | None:
    """Return the first line whose number of fields is not that of the first line."""
    expected = _n_fields(lines[0], mark)
    return next((i for i, line in enumerate(lines) if _n_fields(line, mark) != expected), None)


def _read_parquet(path: Path) -> _Raw:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise FormatError("the Parquet file is truncated or damaged", where=path, got=first, do="copy it again") from error
    if not frame.height:
        raise FormatError("the table has no rows", where=path)
    return _Raw(frame, path, "row", range(1, frame.height + 1))


# ---------------------------------------------------------------------------------------------- fields to columns


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def _person_column(names: list[str], id_column: str | None, path: Path) -> str:
    wanted = (id_column,) if id_column is not None else ("participant_id", "IID", "#IID", *ID_COLUMNS[2:])
    for name in wanted:
        if name in names:
            return name
    if id_column is not None:
        raise SchemaError(f"there is no column {id_column!r}", where=path, got=_listed(names))
    raise SchemaError(
        "no column names the people",
        where=path,
        got=_listed(names),
        expected=", ".join(ID_COLUMNS),
        do="pass id_column = the column that does (or header = False for a PLINK phenotype file without a header)",
    )


def _kept_columns(names: list[str], columns: Sequence[str] | None, ids: set[str | None], path: Path) -> list[str]:
    data = [name for name in names if name not in ids]
    if columns is None:
        return data
    there = set(data)
    for name in columns:
        if name not in there:
            near = difflib.get_close_matches(name, data, n=3, cutoff=0.6)
            do = f"did you mean {' or '.join(near)}?" if near else None
            raise SchemaError(f"there is no column {name!r} to analyse", where=path, got=_listed(data), do=do)
    return list(dict.fromkeys(columns))


def _as_text(column: pl.Series) -> pl.Series:
    """Write identifiers as text; whole numbers that were stored as floats lose their '.0'."""
    if column.dtype.is_float() and column.drop_nulls().is_finite().all() and (column.drop_nulls() % 1 == 0).all():
        column = column.cast(pl.Int64)
    return column.cast(pl.String)


def _identifiers(raw: _Raw, name: str, notes: list[str]) -> pl.Series:
    ids = _as_text(raw.frame[name])
    if raw.frame[name].dtype.is_float():
        notes.append(f"column {name} holds the people's identifiers as decimal numbers; read as whole numbers")
    empty = (ids.is_null() | ids.is_in(list(MISSING))).arg_true()
    if len(empty):
        raise CohortError("a row names nobody", where=raw.at(empty[0], name))
    if ids.is_duplicated().any():
        twice = ids.filter(ids.is_duplicated())
        raise CohortError(
            "people have more than one row",
            where=f"{raw.path}, column {name!r}",
            got=f"{twice.n_unique()} people with several rows, for example {twice[0]!r}",
            expected="one row a person",
            do="keep one row a person (one visit, one measurement) before the study",
        )
    return ids


def _values(raw: _Raw, names: Sequence[str], *, codes: frozenset[str], numbers_only: bool) -> tuple[list[pl.Series], list[str]]:
    """Turn columns into floats where all their values are numbers, else into text, and say what looks odd.

    Columns go through each step together, so that a table of thousands of traits costs little more than its bytes.
    """
    schema = raw.frame.select(names).schema
    dates = {name for name, dtype in schema.items() if dtype.is_temporal() and not numbers_only}
    numeric = {name for name, dtype in schema.items() if dtype.is_numeric() or dtype == pl.Boolean}
    worded = [name for name in names if name not in dates | numeric]
    words = raw.frame.select(_without(pl.col(worded).cast(pl.String), list(codes)))
    typed = raw.frame.select(pl.col([name for name in names if name in numeric]).cast(pl.Float64))
    if typed.width:  # most columns have no NaN, and are not copied
        unknown = typed.select(pl.all().is_nan().any()).row(0, named=True)
        typed = typed.with_columns(pl.col([name for name, some in unknown.items() if some]).fill_nan(None))
    numbers = pl.DataFrame([*words.select(pl.all().cast(pl.Float64, strict=False)), *typed])
    wrong = dict(zip(worded, _counted(words, worded) - _counted(numbers, worded), strict=True))
    coded = [float(code) for code in codes if _NUMBER.fullmatch(code)]  # '-9' is also -9.0
    numbers = numbers.select(_without(pl.all(), coded))
    finite = numbers.select(pl.all().is_finite().all()).row(0, named=True) if numbers.width else {}
    least = numbers.select(pl.all().min()).row(0, named=True) if numbers.width else {}

    out, notes = [], []
    for name in names:
        if name in dates:
            out.append(raw.frame[name])
        elif wrong.get(name):
            column, said = _words(raw, words[name], numbers_only=numbers_only)
            out.append(column)
            notes += said
        else:
            out.append(numbers[name])
            if not finite[name]:
                raise _not_finite(raw, numbers[name])
            if least[name] in _SENTINELS:
                notes += _sentinel(numbers[name])
    return out, notes


def _without(columns: pl.Expr, values: list[str] | list[float]) -> pl.Expr:
    """Put null where a value is one of ``values``."""
    return pl.when(columns.is_in(values)).then(None).otherwise(columns).name.keep() if values else columns


def _counted(frame: pl.DataFrame, names: Sequence[str]) -> NDArray[np.int64]:
    """Count the values of each column that are not missing."""
    return np.array(frame.select(pl.col(names).count()).row(0) if names else (), dtype=np.int64)


def _words(raw: _Raw, words: pl.Series, *, numbers_only: bool) -> tuple[pl.Series, list[str]]:
    """Keep a column that holds text as text: an error where numbers are due, a note where most of it is numbers."""
    name = words.name
    wrong = (words.is_not_null() & words.cast(pl.Float64, strict=False).is_null()).arg_true()
    word = words[wrong[0]]
    if numbers_only:
        raise TraitError(
            f"trait {name!r} holds text",
            where=raw.at(wrong[0], name),
            got=f"{word!r} ({len(wrong)} of {len(words)} rows hold text)",
            expected="a number or " + ", ".join(code for code in MISSING if code),
            do=f"name the traits to analyse, or, if it means missing, {_as_missing(word)}",
        )
    if 2 * len(wrong) >= words.count():
        return words, []
    note = f"column {name} holds text in {len(wrong)} of {len(words)} rows ({word!r} first, {raw.unit} {raw.numbers[wrong[0]]}) "
    return words, [note + f"and is read as categories: if it means missing, {_as_missing(word)}"]


def _as_missing(code: str) -> str:
    """Say how a code is named as missing."""
    return f"name it as missing: --missing-code={code}, or missing = [{code!r}] in a study file and in Python"


def _not_finite(raw: _Raw, numbers: pl.Series) -> TraitError:
    name = numbers.name
    infinite = (~numbers.is_finite()).fill_null(False).arg_true()
    value = raw.frame[name][infinite[0]]
    return TraitError(
        f"column {name!r} holds a value that is not finite",
        where=raw.at(infinite[0], name),
        got=f"{value} ({len(infinite)} of {len(numbers)} rows)",
        do=f"correct it, or, if it means missing, {_as_missing(str(value))}",
    )


def _sentinel(numbers: pl.Series) -> list[str]:
    """Say when the only negative value looks like a code for missing."""
    negative = numbers.filter(numbers < 0)
    if len(negative) < 3 or negative.n_unique() > 1:
        return []
    code = f"{negative[0]:g}"
    note = f"column {numbers.name} holds {code} in {len(negative)} rows and no other negative value: "
    return [note + f"if it means missing, {_as_missing(code)}"]
