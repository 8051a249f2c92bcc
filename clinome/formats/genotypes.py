"""One small interface in front of every genotype format: samples, a variants table, blocks of counts on demand.

The rule for alleles, written once and tested for every format: **counts are copies of the effect allele**, which is the
allele that the format marks as the counted or alternative one:

    PLINK 1   A1 (column 5 of the .bim); A2 is the other allele
    PLINK 2   ALT of the .pvar; REF is the other allele
    BGEN      the second allele of the variant block (as REGENIE's default, ref-first); the first is the other allele
    VCF, BCF  ALT; REF is the other allele

Nothing is ever flipped towards the minor allele. Counts are integers, so that sums over people are exact: hard calls are
0, 1, 2 (``scale`` 1); dosages are integers of ``1 / scale`` (255 for 8-bit BGEN, 16384 for PLINK 2 and VCF ``DS``, the
resolution PLINK 2 stores); a missing value is −1.

The rule for haploid samples (men on X and Y, everybody on MT), the same in every format: **a haploid carrier counts as two
copies**, as PLINK stores men's X, so that counts lie between 0 and 2 × ``scale`` whatever the ploidy:

    PLINK 1, 2  as stored, where haploid calls are homozygous; a heterozygous one is passed on as one copy
    BGEN        ploidy 1, phased or not, also beside ploidy 2 in one variant: 2 × P(allele); ploidy 0 is missing
    VCF, BCF    GT '1' is two copies, '0' none; DS of a haploid GT lies between 0 and 1 and is doubled

What becomes of them in an analysis is decided in :mod:`clinome.genetics.sex_chromosomes`.

The rule for chromosomes, written once in :func:`chromosome_names`; for people in :func:`samples_table`; for variants in
:func:`variants_table`; for genome builds in :func:`build_name` and :func:`agreed_build`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, FormatError, StudyError


@dataclass(frozen=True)
class Block:
    """Counts of the effect allele for consecutive (or chosen) variants.

    Attributes
    ----------
    variants
        Row numbers in the source's ``variants`` table, shape (n_variants,), int64.
    counts
        Copies of the effect allele in units of ``1 / scale``, shape (n_variants, n_samples); int8 for hard calls (scale 1),
        int32 for dosages; −1 is missing. C-contiguous.
    scale
        What one copy of the effect allele counts as.
    """

    variants: NDArray[np.int64]
    counts: NDArray[np.int8] | NDArray[np.int32]
    scale: int


@runtime_checkable
class Genotypes(Protocol):
    """What every genotype file (or set of files over chromosomes) offers. Open one with :func:`open_genotypes`.

    ``samples`` has one row a sample in file order: ``participant_id`` (IID), ``family_id`` (FID or null), ``sex`` ('male',
    'female' or null). ``variants`` follows ``core.schema.VARIANTS``, in file order. ``build`` is 'GRCh37', 'GRCh38', another
    assembly's name, or None when neither the file nor the caller states it. ``paths`` are the files that were opened
    (for checksums). ``notes`` are sentences for the log (ids that were filled in, duplicates, what was assumed). ``concurrent``
    says whether several threads may read at once.
    """

    samples: pl.DataFrame
    variants: pl.DataFrame
    build: str | None
    paths: tuple[Path, ...]
    notes: tuple[str, ...]
    concurrent: bool

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read the given rows of ``variants`` (ascending) for the given rows of ``samples`` (any order; None is all)."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def blocks(
    source: Genotypes, *, size: int, variants: NDArray[np.int64] | None = None, samples: NDArray[np.int64] | None = None
) -> Iterator[Block]:
    """Stream ``source`` in blocks of at most ``size`` variants; ``variants`` (ascending) and ``samples`` select."""
    rows = np.arange(source.variants.height, dtype=np.int64) if variants is None else variants
    for start in range(0, len(rows), size):
        yield source.read(rows[start : start + size], samples)


def chosen(rows: NDArray[np.int64], n: int, what: str = "variants", *, ascending: bool = True) -> NDArray[np.int64]:
    """Return ``rows`` as int64 when they are rows of a table of ``n`` (and ascending), for a reader's first line.

    Raises
    ------
    IndexError
        For a row outside the table, or rows that do not ascend: an error of the calling code, not of a user.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if rows.ndim != 1 or (len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= n)):
        raise IndexError(f"{what} must be row numbers between 0 and {n - 1}")
    if ascending and (np.diff(rows) <= 0).any():
        raise IndexError(f"{what} must be read in ascending order, each once")
    return rows


def chromosome_names(raw: pl.Series) -> tuple[pl.Series, list[str]]:
    """Write chromosomes the way ``core.schema.VARIANTS`` does; the second value are sentences for the log.

    The prefix ``chr`` and leading zeros go; M becomes MT; PLINK's human codes 23, 24, 25 (XY, PAR1, PAR2) and 26 become X, Y,
    X and MT, unless the file has a chromosome above 26 (then it is another species and the numbers are names).

    Example
    -------
    >>> chromosome_names(pl.Series(["chr1", "02", "23", "XY", "chrM"]))[0].to_list()
    ['1', '2', 'X', 'X', 'MT']
    """
    notes = []
    names = {}
    plain, human = _plain_names(raw)
    codes = {"M": "MT"} | dict.fromkeys(_PSEUDO_AUTOSOMAL, "X") | (_PLINK_CODES if human else {})
    for name, short in plain.items():
        upper = short.upper() if short.upper() in {"X", "Y", "M", "MT", *_PSEUDO_AUTOSOMAL} else short
        names[name] = codes.get(upper, upper)
    if human and (numbered := sorted(set(plain.values()) & set(_PLINK_CODES))):
        notes.append(
            f"chromosome codes {', '.join(numbered)} were read as PLINK's human codes (23 X, 24 Y, 25 pseudo-autosomal X, 26 MT)"
        )
    return raw.cast(pl.String).replace_strict(names, return_dtype=pl.String), notes


def pseudo_autosomal(raw: pl.Series) -> pl.Series | None:
    """Say which chromosomes are the codes of the pseudo-autosomal part of X (XY, PAR1, PAR2, human 25); None when none is.

    Example
    -------
    >>> pseudo_autosomal(pl.Series(["X", "PAR1", "chrXY"])).to_list()
    [False, True, True]
    """
    plain, human = _plain_names(raw)
    codes = {*_PSEUDO_AUTOSOMAL, *(["25"] if human else [])}
    names = [name for name, short in plain.items() if short.upper() in codes]
    return raw.is_in(names) if names else None


_PSEUDO_AUTOSOMAL = ("XY", "PAR1", "PAR2")
_PLINK_CODES = {"23": "X", "24": "Y", "25": "X", "26": "MT"}


def _plain_names(raw: pl.Series) -> tuple[dict[str, str], bool]:
    """Map each chromosome to its name without ``chr`` and leading zeros; and say whether PLINK's human codes can be meant."""
    plain = {name: re.sub(r"^0+(?=\d)", "", re.sub(r"^chr", "", str(name), flags=re.IGNORECASE)) for name in raw.unique()}
    return plain, not any(name.isdigit() and int(name) > 26 for name in plain.values())


def variants_table(columns: dict[str, pl.Series], where: Path) -> tuple[pl.DataFrame, list[str]]:
    """Make the ``variants`` table of a file from its raw columns, and the sentences for the log.

    Parameters
    ----------
    columns
        'variant_id', 'chromosome', 'position', 'effect_allele', 'other_allele' and, when the file has it, 'info', as read.
        Ids that are null, empty or '.' become chromosome:position:other:effect; repeated ids are kept and noted.
        Where the file has codes of the pseudo-autosomal part of X, the table has the column 'pseudo_autosomal'.

    Raises
    ------
    FormatError
        For a variant without chromosome, position or alleles.
    """
    table = pl.DataFrame(columns).with_columns(pl.col("position").cast(pl.Int64))
    for name in ("chromosome", "position", "effect_allele", "other_allele"):
        if table[name].null_count():
            row = int(table[name].is_null().arg_true()[0])
            raise FormatError(f"a variant has no {name.replace('_', ' ')}", where=f"{where}, variant {row + 1}")
    chromosome, notes = chromosome_names(table["chromosome"])
    shared = pseudo_autosomal(table["chromosome"])
    table = table.with_columns(chromosome.alias("chromosome"))
    if shared is not None:
        table = table.with_columns(shared.alias("pseudo_autosomal"))
        notes.append(f"{int(shared.sum())} variants of XY, PAR1 or PAR2 are named X and marked as pseudo-autosomal")
    unnamed = pl.col("variant_id").is_null() | pl.col("variant_id").is_in(["", "."])
    n_unnamed = int(table.select(unnamed.sum()).item())
    if n_unnamed:
        filled = pl.concat_str("chromosome", "position", "other_allele", "effect_allele", separator=":")
        table = table.with_columns(pl.when(unnamed).then(filled).otherwise(pl.col("variant_id")).alias("variant_id"))
        notes.append(f"{n_unnamed} variants without id were named chromosome:position:other:effect")
    repeated = table.height - table["variant_id"].n_unique()
    if repeated:
        notes.append(f"{repeated} variants repeat the id of another one; all are kept")
    optional = [name for name in ("info", "pseudo_autosomal") if name in table.columns]
    return table.select("variant_id", "chromosome", "position", "effect_allele", "other_allele", *optional), notes


def file_chromosomes(variants: pl.DataFrame) -> pl.Series:
    """Return the chromosomes as a file for PLINK has them: XY for what ``variants`` marks as pseudo-autosomal."""
    if "pseudo_autosomal" not in variants.columns:
        return variants["chromosome"]
    shared = pl.col("pseudo_autosomal").fill_null(False)
    return variants.select(pl.when(shared).then(pl.lit("XY")).otherwise("chromosome").alias("chromosome")).to_series()


def samples_table(
    where: Path, participant_id: pl.Series, *, family_id: pl.Series | None = None, sex: pl.Series | None = None
) -> pl.DataFrame:
    """Make the ``samples`` table of a file; FID '0' (or empty) is no family, sex codes are 1 / M male and 2 / F female.

    Raises
    ------
    CohortError
        When two samples share a participant id (IID); FID does not tell people apart.
    """
    n = len(participant_id)
    if participant_id.n_unique() < n:
        twice = participant_id.filter(participant_id.is_duplicated())
        raise CohortError(
            "two samples have the same participant id (IID)",
            where=where,
            got=f"{twice[0]!r} more than once ({len(twice)} samples share an id)",
            expected="every IID once; families (FID) do not tell people apart",
            do="rename them, for example with plink2 --update-ids or --set-iid, or leave the repeated samples out",
        )
    empty = pl.Series([None] * n, dtype=pl.String)
    family = empty if family_id is None else family_id.replace({"0": None, "": None, "NA": None})
    codes = {"1": "male", "2": "female", "M": "male", "F": "female", "m": "male", "f": "female"}
    known = empty if sex is None else sex.replace_strict(codes, default=None, return_dtype=pl.String)
    return pl.DataFrame({"participant_id": participant_id, "family_id": family, "sex": known})


_BUILDS = {
    "GRCh37": re.compile(r"grch37|hg19|hs37|b37|ncbi37|human_g1k_v37", re.IGNORECASE),
    "GRCh38": re.compile(r"grch38|hg38|hs38|b38|ncbi38", re.IGNORECASE),
    "NCBI36": re.compile(r"ncbi36|hg18|grch36|b36", re.IGNORECASE),
}


def build_name(text: str | None) -> str | None:
    """Find the genome build that a header, a path of a reference or a person names.

    Example
    -------
    >>> build_name("hg19"), build_name("file:///ref/GRCh38_full.fa"), build_name(None), build_name("GRCm39")
    ('GRCh37', 'GRCh38', None, 'GRCm39')
    """
    if text is None:
        return None
    for name, pattern in _BUILDS.items():
        if pattern.search(text):
            return name
    return text if re.fullmatch(r"\w+(\.p?\d+)?", text) else None


def stated_build(header: str) -> str | None:
    """Find the genome build in the ``##`` lines of a VCF or .pvar: ``assembly=`` of a contig, else the reference's name.

    Example
    -------
    >>> stated_build("##contig=<ID=1,assembly=b37>")
    'GRCh37'
    """
    for name in re.findall(r"##contig=<[^\n]*assembly=\"?([^,>\"\n]+)", header):
        if build := build_name(name):
            return build
    for name in re.findall(r"##(?:reference|assembly)=(\S+)", header):
        if (build := build_name(Path(name).name)) in _BUILDS:
            return build
    return None


def quality_key(header: str) -> str | None:
    """Find which INFO field of a VCF or .pvar holds the imputation quality: DR2 of Beagle, R2 of Minimac, INFO of IMPUTE."""
    return next((key for key in ("DR2", "R2", "INFO") if f"##INFO=<ID={key}," in header), None)


def agreed_build(asked: str | None, stated: str | None, where: Path) -> str | None:
    """Return the build of a file: what the caller says, or what the file states.

    Raises
    ------
    StudyError
        When both are given and differ, or what the caller says is no name of a build.
    """
    if asked and build_name(asked) is None:
        raise StudyError("this is no name of a genome build", got=repr(asked), expected="for example GRCh38, hg19 or GRCm39")
    asked, stated = build_name(asked), build_name(stated)
    if asked and stated and asked != stated:
        raise StudyError(
            "the genome build that was asked for is not the one the file states",
            where=where,
            got=f"asked for {asked}",
            expected=f"{stated}, as the file states",
            do="leave the build out, or lift the file over before the analysis",
        )
    return asked or stated
