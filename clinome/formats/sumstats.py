"""Summary statistics as other programs exchange them: GWAS-SSF with its metadata, and the layouts of REGENIE and PLINK 2.

One file holds one trait. Written in frames of ``core.schema.SUMMARY_STATISTICS`` as a scan yields them, gzipped when the
name ends in ``.gz``, with equal bytes for equal frames, and under a temporary name until the last frame is in.

    gwas-ssf   tab-separated; chromosome base_pair_location effect_allele other_allele beta standard_error
               effect_allele_frequency neg_log_10_p_value variant_id rsid ref_allele [info] n marker; missing is #NA;
               chromosomes are numbers (X 23, Y 24, MT 25); <file>-meta.yaml beside it
    regenie    space-separated; CHROM GENPOS ID ALLELE0 ALLELE1 A1FREQ [INFO] N TEST BETA SE CHISQ LOG10P EXTRA; the effect
               allele is ALLELE1; CHISQ is (BETA / SE)²; chromosomes X 23, Y 24, MT 26; missing is NA
    plink2     tab-separated; #CHROM POS ID REF ALT A1 A1_FREQ TEST OBS_CT BETA SE T_STAT P; missing is NA; P is written from
               −log10 p and so never becomes 0 (1.2e-400); A1 and ALT are the effect allele, REF is the other allele, whether
               or not that is the reference of a genome (a .bed does not say)

In GWAS-SSF ``rsid`` holds names such as rs3683945 and nothing else; every other name goes, unchanged, to the further column
``marker``; ``variant_id`` is the standard's chromosome_position_reference_alternate and is written when the reference is known.

References: Hayhurst et al. 2022, doi:10.1101/2022.07.15.500230, GWAS-SSF v1.1.0; REGENIE 4.1.2 and PLINK 2.00a output pages.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import polars as pl

from clinome.core.errors import FormatError, SchemaError, StudyError
from clinome.core.files import replacing
from clinome.core.schema import SUMMARY_STATISTICS, check
from clinome.formats.gwas_ssf import CHROMOSOMES, Metadata, Tally, metadata_path, metadata_text

Layout = Literal["gwas-ssf", "regenie", "plink2"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_DIGITS = 9  # significant digits written: |Δβ| stays below 1e-6 SE up to z = 1,000
_HUMAN: dict[str, dict[str, str]] = {
    "gwas-ssf": CHROMOSOMES,
    "regenie": {"X": "23", "Y": "24", "MT": "26"},
    "plink2": {},
}
_MISSING = {"gwas-ssf": "#NA", "regenie": "NA", "plink2": "NA"}
_SUFFIXES = r"(\.(gwas-ssf|regenie|plink2|glm\.(linear|logistic|logistic\.hybrid|firth))|\.(tsv|txt|gz))+$"
_SEPARATOR = {"gwas-ssf": "\t", "regenie": " ", "plink2": "\t"}


def write_sumstats(path: str | Path, frames: Iterable[pl.DataFrame], *, layout: Layout, metadata: Metadata | None = None) -> Path:
    """Write the frames of one trait to ``path`` and return it. See :func:`writing` for many traits side by side.

    >>> import tempfile
    >>> row = {"variant_id": "rs7", "chromosome": "X", "position": 5, "effect_allele": "A", "other_allele": "G", "trait": "t",
    ...        "effect_allele_frequency": 0.25, "n": 9, "beta": -1.5, "standard_error": 0.5, "neg_log_10_p_value": 400.25}
    >>> file = write_sumstats(tempfile.mkdtemp() + "/t.plink2.tsv", [pl.DataFrame([row])], layout="plink2")
    >>> print(file.read_text().replace("\\t", " "), end="")
    #CHROM POS ID REF ALT A1 A1_FREQ TEST OBS_CT BETA SE T_STAT P
    X 5 rs7 G A A 0.25 ADD 9 -1.5 0.5 -3.0 5.62341325e-401
    """
    with writing(path, layout=layout, metadata=metadata) as write:
        for frame in frames:
            write(frame)
    return Path(path)


@contextmanager
def writing(path: str | Path, *, layout: Layout, metadata: Metadata | None = None) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Open a file of summary statistics; yield the function that appends a frame of ``core.schema.SUMMARY_STATISTICS``.

    The file appears under its name when the block ends well, and not at all when it raises.

    Parameters
    ----------
    path
        Ends in ``.tsv`` or ``.tsv.gz`` for GWAS-SSF (its validator asks for that); ``.gz`` compresses.
    layout
        'gwas-ssf' (also writes ``<path>-meta.yaml``), 'regenie' or 'plink2'.
    metadata
        What only the study knows; used by GWAS-SSF.

    Raises
    ------
    SchemaError
        For a frame that is not summary statistics of the one trait, an infinite or NaN number, a name with a blank, or a
        chromosome called by a number that the layout gives to X, Y or MT.
    OutputError
        When ``path`` cannot be written.
    """
    if layout not in LAYOUTS:
        raise StudyError(f"there is no layout {layout!r} of summary statistics", expected=", ".join(LAYOUTS))
    path, about = Path(path), metadata or Metadata()
    seen = Tally()
    with replacing(path) as temporary:
        with temporary.open("wb") as raw, _compressed(raw, path.suffix == ".gz") as put:

            def write(frame: pl.DataFrame) -> None:
                frame = _checked(frame, layout, where=f"{path.name}, after {seen.rows} rows")
                header = seen.frames == 0
                seen.add(frame, path.name)
                if "info" in frame.columns and not seen.info:
                    raise SchemaError("a later frame has the column 'info', the first one had not", where=path.name)
                if seen.info and "info" not in frame.columns:
                    frame = frame.with_columns(info=pl.lit(None, pl.Float64))
                text = io.BytesIO()
                _columns(frame, layout, about.other_is_reference).write_csv(
                    text,
                    include_header=header,
                    separator=_SEPARATOR[layout],
                    null_value=_MISSING[layout],
                    quote_style="never",
                )
                put(text.getvalue())

            yield write
            if seen.frames == 0:
                raise SchemaError("no summary statistics were given to write", where=path.name)
        if layout == "gwas-ssf":
            with temporary.open("rb") as whole:
                md5 = hashlib.file_digest(whole, "md5").hexdigest()
            with replacing(metadata_path(path)) as beside:
                beside.write_text(metadata_text(path.name, about, seen, md5), encoding="utf-8")


@contextmanager
def _compressed(raw: BinaryIO, gzipped: bool) -> Iterator[Callable[[bytes], int]]:
    """Yield the function that writes bytes; gzip gets no name and no time, so that equal content is equal bytes."""
    if not gzipped:
        yield raw.write
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as file:
        yield file.write


def _checked(frame: pl.DataFrame, layout: Layout, *, where: str) -> pl.DataFrame:
    """See that a frame is summary statistics whose every value the layout can hold."""
    frame = check(frame, SUMMARY_STATISTICS, where=where)
    for name in ("beta", "standard_error", "effect_allele_frequency", "neg_log_10_p_value"):
        if (~frame[name].is_finite()).any():
            raise SchemaError(f"column {name!r} holds an infinite number or NaN", where=where, expected="a number, or null")
    for name in ("variant_id", "chromosome", "effect_allele", "other_allele"):
        blank = frame[name].str.contains(r"^$|\s")
        if blank.any():
            raise SchemaError(
                f"column {name!r} holds a blank, which ends a value in this layout", where=where, got=frame[name].filter(blank)[0]
            )
    taken = frame.filter(pl.col("chromosome").is_in(list(_HUMAN[layout].values())))
    if taken.height:
        raise SchemaError(
            f"the layout {layout} numbers chromosomes as in humans, where {taken['chromosome'][0]} is not an autosome",
            where=where,
            do="choose the layout plink2, which keeps the names",
        )
    return frame


def _columns(frame: pl.DataFrame, layout: Layout, other_is_reference: bool) -> pl.DataFrame:
    """Return the columns of a layout, in its order, ready to be written as text."""
    frame = frame.with_columns(pl.col("chromosome").replace(_HUMAN[layout]))
    numbers = ("beta", "standard_error", "effect_allele_frequency", "neg_log_10_p_value", "info")
    frame = frame.with_columns(z=pl.col("beta") / pl.col("standard_error"))
    exact = frame["neg_log_10_p_value"]
    frame = frame.with_columns(pl.col(name).round_sig_figs(_DIGITS) for name in numbers if name in frame.columns)
    if layout == "gwas-ssf":
        return _ssf(frame, other_is_reference)
    z, col = pl.col("z"), pl.col
    if layout == "regenie":
        wanted = {
            **{"CHROM": col("chromosome"), "GENPOS": col("position"), "ID": col("variant_id"), "ALLELE0": col("other_allele")},
            **{"ALLELE1": col("effect_allele"), "A1FREQ": col("effect_allele_frequency")},
            **({"INFO": col("info")} if "info" in frame.columns else {}),
            **{"N": col("n"), "TEST": pl.lit("ADD"), "BETA": col("beta"), "SE": col("standard_error")},
            **{"CHISQ": (z * z).round_sig_figs(_DIGITS), "LOG10P": col("neg_log_10_p_value"), "EXTRA": pl.lit("NA")},
        }
    else:
        wanted = {
            **{"#CHROM": col("chromosome"), "POS": col("position"), "ID": col("variant_id"), "REF": col("other_allele")},
            **{"ALT": col("effect_allele"), "A1": col("effect_allele"), "A1_FREQ": col("effect_allele_frequency")},
            **{"TEST": pl.lit("ADD"), "OBS_CT": col("n"), "BETA": col("beta"), "SE": col("standard_error")},
            **{"T_STAT": z.round_sig_figs(_DIGITS), "P": pl.lit(p_text(exact))},
        }
    return frame.select(**wanted)


def _ssf(frame: pl.DataFrame, other_is_reference: bool) -> pl.DataFrame:
    name = pl.col("variant_id")
    is_rsid = name.str.contains(r"^rs[0-9]+$")
    place = pl.concat_str("chromosome", "position", "other_allele", "effect_allele", separator="_")
    info = ["info"] if "info" in frame.columns else []
    return frame.select(
        "chromosome",
        pl.col("position").alias("base_pair_location"),
        "effect_allele",
        "other_allele",
        "beta",
        "standard_error",
        "effect_allele_frequency",
        "neg_log_10_p_value",
        pl.when(pl.lit(other_is_reference) & place.str.contains(r"^\d+_[1-9]\d*_[ACGT]+_[ACGT]+$")).then(place).alias("variant_id"),
        pl.when(is_rsid).then(name).alias("rsid"),
        pl.lit("OA" if other_is_reference else None, pl.String).alias("ref_allele"),
        *info,
        "n",
        pl.when(~is_rsid).then(name).alias("marker"),
    )


def p_text(neg_log_10_p_value: pl.Series) -> pl.Series:
    """Return p as text that does not underflow, from −log10 p.

    >>> p_text(pl.Series([0.0, 1.0, 400.25, None])).to_list()
    ['1.0', '0.1', '5.62341325e-401', None]
    """
    plain = (10.0**-neg_log_10_p_value).round_sig_figs(_DIGITS).cast(pl.String)
    small = (neg_log_10_p_value >= 4).fill_null(False).arg_true()
    if not len(small):
        return plain
    minus = -neg_log_10_p_value.gather(small)
    exponent = minus.floor()
    mantissa = (10.0 ** (minus - exponent)).round_sig_figs(_DIGITS)
    ten = mantissa >= 10.0  # rounded up to the next power
    frame = pl.DataFrame({"mantissa": mantissa.set(ten, 1.0), "power": (exponent + ten.cast(pl.Float64)).cast(pl.Int64)})
    return plain.scatter(small, frame.select(pl.format("{}e{}", "mantissa", "power")).to_series())


def read_sumstats(path: str | Path, *, trait: str | None = None) -> pl.DataFrame:
    """Read a file of summary statistics in any of the three layouts (plain or gzipped) as ``core.schema.SUMMARY_STATISTICS``.

    Which layout it is, its header says. Of REGENIE and PLINK 2 files the rows of the additive test are kept. PLINK 2's
    optional columns are understood: ``OR`` with ``LOG(OR)_SE``, ``LOG10_P`` or ``NEG_LOG10_P`` for ``P``, ``OMITTED``,
    ``A1_FREQ`` absent. A column that a program did not write is null; a p that a program printed as 0 is infinite.

    Parameters
    ----------
    trait
        The trait's name; None takes the file's name without its suffixes.

    Raises
    ------
    FormatError
        When the file is truncated, is none of the layouts, or has a value that is not what its column holds.
    """
    path = Path(path)
    text = _text(path)
    header = text[: text.find(b"\n")].decode("utf-8", "replace").rstrip("\r")
    names = header.split("\t") if "\t" in header else header.split()
    layout = _sniff(names, path)
    if not text.endswith(b"\n"):
        raise FormatError("the file ends in the middle of a line", where=path, do="copy the file again, it is truncated")
    try:
        frame = pl.read_csv(
            text, separator=_SEPARATOR[layout], infer_schema=False, quote_char=None, null_values=[_MISSING[layout], "NA", "nan"]
        )
    except pl.exceptions.PolarsError as error:
        raise FormatError(f"the lines do not all have the header's columns: {str(error).splitlines()[0]}", where=path) from error
    frame = frame.with_row_index("line", offset=2)
    table = {"gwas-ssf": _from_ssf, "regenie": _from_regenie, "plink2": _from_plink2}[layout](frame)
    name = trait if trait is not None else re.sub(_SUFFIXES, "", path.name)
    return _typed(table.with_columns(trait=pl.lit(name)), path)


def _text(path: Path) -> bytes:
    """Return a file's content, decompressed when its first bytes say gzip."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FormatError("the file cannot be read", where=path, got=error.strerror) from error
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError("the gzip data is truncated or damaged", where=path, got=error, do="copy the file again") from error


def _sniff(names: list[str], path: Path) -> Layout:
    has = set(names)
    if {"chromosome", "base_pair_location", "effect_allele", "other_allele"} <= has:
        return "gwas-ssf"
    if {"CHROM", "GENPOS", "ID", "ALLELE0", "ALLELE1", "BETA", "SE", "LOG10P"} <= has:
        return "regenie"
    if {"#CHROM", "POS", "ID", "REF", "ALT", "A1"} <= has:
        return "plink2"
    raise FormatError(
        "the header is not that of summary statistics in a layout Clinome knows",
        where=path,
        got=", ".join(names)[:200] or "an empty file",
        expected="GWAS-SSF (chromosome base_pair_location …), REGENIE (CHROM GENPOS ID …) or PLINK 2 (#CHROM POS ID REF ALT A1 …)",
    )


def _from_ssf(frame: pl.DataFrame) -> pl.DataFrame:
    def given(name: str) -> pl.Expr:
        return pl.col(name) if name in frame.columns else pl.lit(None, pl.String)

    log10p = given("neg_log_10_p_value") if "neg_log_10_p_value" in frame.columns else _neg_log_10("p_value")
    named = pl.concat_str("chromosome", "base_pair_location", "other_allele", "effect_allele", separator=":")
    back = {number: name for name, number in _HUMAN["gwas-ssf"].items()}
    return frame.select(
        "line",
        pl.coalesce(given("marker"), given("rsid"), given("variant_id"), named).alias("variant_id"),
        pl.col("chromosome").replace(back),
        pl.col("base_pair_location").alias("position"),
        "effect_allele",
        "other_allele",
        *(["info"] if "info" in frame.columns else []),
        given("effect_allele_frequency").alias("effect_allele_frequency"),
        given("n").alias("n"),
        given("beta").alias("beta"),
        given("standard_error").alias("standard_error"),
        log10p.alias("neg_log_10_p_value"),
    )


def _from_regenie(frame: pl.DataFrame) -> pl.DataFrame:
    back = {number: name for name, number in _HUMAN["regenie"].items()}
    # a species with more than 26 chromosomes has autosomes called 23 and 24
    human = frame["CHROM"].cast(pl.Int64, strict=False).max() in (None, *range(27))
    return frame.filter(pl.col("TEST") == "ADD" if "TEST" in frame.columns else True).select(
        "line",
        pl.col("ID").alias("variant_id"),
        (pl.col("CHROM").replace(back) if human else pl.col("CHROM")).alias("chromosome"),
        pl.col("GENPOS").alias("position"),
        pl.col("ALLELE1").alias("effect_allele"),
        pl.col("ALLELE0").alias("other_allele"),
        *([pl.col("INFO").alias("info")] if "INFO" in frame.columns else []),
        pl.col("A1FREQ").alias("effect_allele_frequency"),
        (pl.col("N") if "N" in frame.columns else pl.lit(None, pl.String)).alias("n"),
        pl.col("BETA").alias("beta"),
        pl.col("SE").alias("standard_error"),
        pl.col("LOG10P").alias("neg_log_10_p_value"),
    )


def _from_plink2(frame: pl.DataFrame) -> pl.DataFrame:
    def first(*names: str) -> pl.Expr:
        return next((pl.col(name) for name in names if name in frame.columns), pl.lit(None, pl.String))

    logs = [name for name in ("LOG10_P", "NEG_LOG10_P") if name in frame.columns]
    log10p = pl.col(logs[0]) if logs else _neg_log_10("P") if "P" in frame.columns else pl.lit(None, pl.String)
    beta = first("BETA") if "BETA" in frame.columns else first("OR").cast(pl.Float64, strict=False).log().cast(pl.String)
    other = pl.when(pl.col("A1") == pl.col("REF")).then("ALT").otherwise("REF")
    return frame.filter(pl.col("TEST") == "ADD" if "TEST" in frame.columns else True).select(
        "line",
        pl.col("ID").alias("variant_id"),
        pl.col("#CHROM").alias("chromosome"),
        pl.col("POS").alias("position"),
        pl.col("A1").alias("effect_allele"),
        (pl.col("OMITTED") if "OMITTED" in frame.columns else other).alias("other_allele"),
        first("A1_FREQ").alias("effect_allele_frequency"),
        first("OBS_CT").alias("n"),
        beta.alias("beta"),
        first("SE", "LOG(OR)_SE").alias("standard_error"),
        log10p.alias("neg_log_10_p_value"),
    )


def _neg_log_10(name: str) -> pl.Expr:
    """Return −log10 of a column of p-values written as text, also where p is below the smallest float (1.2e-400)."""
    parts = pl.col(name).str.to_lowercase().str.split_exact("e", 1)
    mantissa = parts.struct.field("field_0").cast(pl.Float64, strict=False)
    exponent = parts.struct.field("field_1").cast(pl.Float64, strict=False).fill_null(0.0)
    logged = -(mantissa.log10() + exponent) + 0.0  # + 0.0 turns −0.0 into 0.0
    return pl.when(mantissa.is_null()).then(name).otherwise(logged.cast(pl.String))  # a value that is no number is named later


def _typed(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Cast text to the types of the table, naming the first line whose value does not fit."""
    types = {column.name: column.dtype for column in SUMMARY_STATISTICS.columns}
    for column in SUMMARY_STATISTICS.columns:
        if column.name not in table.columns:
            continue
        cast = table[column.name].cast(types[column.name], strict=False)
        lost = cast.is_null()
        if column.nullable:
            lost = lost & table[column.name].is_not_null()
        if lost.any():
            row = table.row(int(lost.arg_true()[0]), named=True)
            raise FormatError(
                f"a value of {column.name!r} is not what it should be",
                where=f"{path}, line {row['line']}",
                got=row[column.name] or "nothing",
                expected=column.meaning,
            )
        table = table.with_columns(cast)
    table = table.select(column.name for column in SUMMARY_STATISTICS.columns if column.name in table.columns)
    return check(table, SUMMARY_STATISTICS, where=str(path))
