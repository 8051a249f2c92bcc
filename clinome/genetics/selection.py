"""Which variants a scan takes: lists of ids to extract or exclude, and regions of the genome.

>>> variants = pl.DataFrame({"variant_id": ["rs1", "rs2", "rs3"], "chromosome": ["1", "1", "2"], "position": [100, 900, 50]})
>>> select(variants, Selection(regions=("chr1:1-500", "2"))).rows.tolist()
[0, 2]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import FormatError, StudyError
from clinome.formats.genotypes import chromosome_names
from clinome.formats.table import existing, read_fields

_HEADERS = ("ID", "SNP", "SNPID", "rsid", "rsID", "variant_id", "variant", "MarkerName")
_REGION = re.compile(r"(?P<chromosome>[\w.]+)(?::(?P<start>[\d,]+)(?:-(?P<end>[\d,]+))?)?")
_PLINK = b"\x6c\x1b"  # the first bytes of a .bed of genotypes
_EXAMPLES = 3
_TRIED = 10_000  # ids of a list that a guess is tried on
_FEW = 0.5  # share of the ids tried that must match after a rewriting for it to be told
_ALLELES = r"([:_,/][ACGTNIDacgtnid*]+){1,2}$"
_PLACE = r"^(?:chr)?(\w+)[:_](\d+)(?:[:_,].*)?$"


@dataclass(frozen=True)
class Selection:
    """Variants to scan: those in ``extract`` and in any of the regions, without those in ``exclude``; everything by default.

    ``extract`` and ``exclude`` are files with one id a line (or in the first column); ``regions`` are chr:from-to, chr:position
    or chr, 1-based, both ends included; ``intervals`` is a .bed file of regions (chromosome, start, end: 0-based, end excluded).
    """

    extract: Path | None = None
    exclude: Path | None = None
    regions: tuple[str, ...] = ()
    intervals: Path | None = None

    def __post_init__(self) -> None:
        """Refuse regions that cannot be read."""
        for text in self.regions:
            parse_region(text)

    def __bool__(self) -> bool:
        """Tell whether anything is asked for."""
        return self != Selection()


class Selected(NamedTuple):
    """``rows`` (n,) of a table of variants, ascending, and sentences for the log."""

    rows: NDArray[np.int64]
    notes: tuple[str, ...]


class Region(NamedTuple):
    """A stretch of a chromosome, which is named as the user names it; ``start`` and ``end`` are 1-based and included.

    ``name`` is the region as the user wrote it.
    """

    chromosome: str
    start: int
    end: int
    name: str


def select(variants: pl.DataFrame, selection: Selection) -> Selected:
    """Find the rows of ``variants`` (``variant_id``, ``chromosome``, ``position``) that ``selection`` asks for.

    Raises
    ------
    StudyError
        When no id of a list, or no region, names a variant (with a guess why), or nothing is left; when a region cannot be read.
    FormatError
        When a list or an interval file cannot be read.
    """
    keep = np.ones(variants.height, dtype=np.bool_)
    notes: list[str] = []
    if selection.extract is not None:
        keep &= _listed(variants, selection.extract, notes)
    regions = [parse_region(text) for text in selection.regions]
    regions += read_intervals(selection.intervals) if selection.intervals is not None else []
    if regions:
        keep &= _within(variants, regions, notes)
    if selection.exclude is not None:
        keep &= ~_listed(variants, selection.exclude, notes)
    rows = np.flatnonzero(keep).astype(np.int64)
    if not len(rows):
        raise StudyError(
            "the lists and regions leave no variant to scan",
            got=f"{variants.height:,} variants in the genotypes",
            do="extract and regions are combined (a variant must be in both), and exclude takes away from them",
        )
    if selection:
        notes.append(f"{len(rows):,} of {variants.height:,} variants are chosen by lists or regions")
    return Selected(rows, tuple(notes))


def rows_of_ids(variants: pl.DataFrame, ids: Sequence[str], *, where: str | Path) -> Selected:
    """Find the rows of ``variants`` whose id is one of ``ids``; ``where`` says where the ids were named.

    An id that several variants share takes all of them, and ids that name nothing are counted: both with a sentence.

    Raises
    ------
    StudyError
        When no id names a variant: with examples of both sides and a guess why.
    """
    wanted = pl.Series("id", list(dict.fromkeys(ids)), dtype=pl.String)
    found = variants["variant_id"].is_in(wanted.implode())
    matched = variants["variant_id"].filter(found)
    name = where.name if isinstance(where, Path) else where
    unknown = wanted.filter(~wanted.is_in(matched.implode()))
    if not len(matched):
        raise StudyError(
            "no variant has one of these ids",
            where=where,
            got=f"{len(wanted):,} ids, such as {_some(unknown)}",
            expected=f"ids as in the genotypes ({variants.height:,} variants), such as {_some(variants['variant_id'])}",
            do=_guess(variants, unknown) or "name variants by the ids of the genotype files",
        )
    notes = []
    if len(unknown):
        few = len(unknown) > _FEW * len(wanted)
        guess = _guess(variants, unknown) if few else None
        notes.append(
            f"{len(unknown):,} of {len(wanted):,} ids in {name} are not in the genotypes (such as {_some(unknown)})"
            + (f": {guess}" if guess else "")
        )
    n_ids = matched.n_unique()
    if n_ids < len(matched):
        shared = matched.filter(matched.is_duplicated())
        n_shared = shared.n_unique()
        notes.append(
            f"{n_shared:,} ids in {name} name more than one variant (such as {_some(shared.unique(maintain_order=True))}); "
            f"all {len(shared):,} are taken"
        )
    return Selected(found.arg_true().to_numpy().astype(np.int64), tuple(notes))


def read_ids(path: Path, known: pl.Series) -> list[str]:
    """Read the ids in the first column of a file; a header is passed over unless it is one of the ``known`` ids."""
    ids = [fields[0] for _, fields in read_fields(path)]
    headed = ids[0] in _HEADERS and ids[0] not in known
    if headed and len(ids) == 1:
        raise FormatError("the list names no variant", where=path, got=f"the header {ids[0]} alone")
    return ids[1:] if headed else ids


def _listed(variants: pl.DataFrame, path: Path, notes: list[str]) -> NDArray[np.bool_]:
    found = rows_of_ids(variants, read_ids(path, variants["variant_id"]), where=path)
    notes.extend(found.notes)
    inside = np.zeros(variants.height, dtype=np.bool_)
    inside[found.rows] = True
    return inside


def parse_region(text: str) -> Region:
    """Read chr:from-to, chr:position or chr; positions may have commas, the chromosome may have the prefix chr.

    >>> parse_region("chr6:25,000,000-34,000,000")[:3]
    ('chr6', 25000000, 34000000)
    """
    found = _REGION.fullmatch(text.strip())
    if found is None or text.endswith(".bed"):
        raise StudyError(
            "one of the regions is none",
            got=repr(text),
            expected="chr:from-to, for example 6:25000000-34000000, or chr",
            do="name a .bed file as intervals" if text.endswith(".bed") else None,
        )
    first, last = (None if found[k] is None else int(found[k].replace(",", "") or 0) for k in ("start", "end"))
    start, end = first or 1, last if last is not None else (first or np.iinfo(np.int64).max)
    if end < start:
        raise StudyError("one of the regions ends before it starts", got=repr(text), expected="chr:from-to")
    return Region(found["chromosome"], start, int(end), text.strip())


def read_intervals(path: Path) -> list[Region]:
    """Read a .bed file of intervals: chromosome, start (0-based) and end (excluded) in the first three columns.

    Raises
    ------
    FormatError
        For a line that is not that; a PLINK .bed is another thing, and it is said.
    """
    with existing(path).open("rb") as file:
        if file.read(2) == _PLINK:
            raise FormatError(
                "this is a PLINK .bed of genotypes", where=path, expected="a .bed of intervals: chromosome, start, end"
            )
    regions = []
    for number, fields in read_fields(path):
        if fields[0] in ("track", "browser"):
            continue
        whole = len(fields) >= 3 and fields[1].isdigit() and fields[2].isdigit()
        if not whole or int(fields[2]) <= int(fields[1]):
            raise FormatError(
                "this is no interval", where=f"{path}, line {number}", got=" ".join(fields[:4]), expected="chromosome start end"
            )
        start, end = int(fields[1]) + 1, int(fields[2])
        regions.append(Region(fields[0], start, end, f"{fields[0]}:{start}-{end}"))
    if not regions:
        raise FormatError("the file names no interval", where=path)
    return regions


def _within(variants: pl.DataFrame, regions: list[Region], notes: list[str]) -> NDArray[np.bool_]:
    """Tell which variants lie in one of ``regions`` at least."""
    chromosomes, positions = variants["chromosome"], variants["position"].to_numpy()
    there = set(chromosomes.unique())
    inside = np.zeros(variants.height, dtype=np.bool_)
    empty = []
    by_chromosome: dict[str, list[Region]] = {}
    for region in regions:
        by_chromosome.setdefault(chromosome_among(region.chromosome, there), []).append(region)
    for chromosome, some in by_chromosome.items():
        rows = (chromosomes == chromosome).arg_true().to_numpy()
        rows = rows[np.argsort(positions[rows], kind="stable")]
        first = np.searchsorted(positions[rows], [region.start for region in some], side="left")
        after = np.searchsorted(positions[rows], [region.end for region in some], side="right")
        open_regions = np.zeros(len(rows) + 1, dtype=np.int64)
        np.add.at(open_regions, first, 1)
        np.add.at(open_regions, after, -1)
        inside[rows[np.cumsum(open_regions)[:-1] > 0]] = True
        empty += [region.name for region, a, b in zip(some, first, after, strict=True) if a == b]
    if len(empty) == len(regions):
        raise StudyError(
            "no variant lies in the regions" if len(regions) > 1 else "no variant lies in the region",
            got=_some(pl.Series(empty)),
            expected=f"chromosomes of the genotypes ({', '.join(sorted(there)[:30])}) and their positions",
            do="see that positions are of the same genome build as the genotypes",
        )
    if empty:
        notes.append(f"{len(empty):,} of {len(regions):,} regions hold no variant (such as {_some(pl.Series(empty))})")
    return inside


def chromosome_among(chromosome: str, there: Container[str]) -> str:
    """Name a chromosome as a table of variants with those ``there`` does, in which another species' 23 is not X.

    >>> chromosome_among("chr23", ["1", "X"]), chromosome_among("23", ["1", "23", "38"])
    ('X', '23')
    """
    plain = re.sub(r"^chr", "", chromosome, flags=re.IGNORECASE)
    return plain if plain in there else chromosome_names(pl.Series([chromosome]))[0][0]


def _some(ids: pl.Series) -> str:
    return ", ".join(map(repr, ids.head(_EXAMPLES)))


def _guess(variants: pl.DataFrame, unknown: pl.Series) -> str | None:
    """Say which rewriting of ids makes most of ``unknown`` match, and what to do, or None."""
    tried = unknown.head(_TRIED)
    known = variants["variant_id"]
    count = f"of the first {len(tried):,}"
    rewritings: tuple[tuple[str, str, Callable[[pl.Series], pl.Series]], ...] = (
        ("without the prefix chr", "remove it from the list", lambda ids: ids.str.replace(r"^(?i)chr", "")),
        ("with the prefix chr", "add it to the list", lambda ids: "chr" + ids),
        ("without the alleles behind them", "remove them from the list", lambda ids: ids.str.replace(_ALLELES, "")),
    )
    for how, cure, rewrite in rewritings:
        if (n := int(rewrite(tried).is_in(known.implode()).sum())) > _FEW * len(tried):
            return f"{how} {n:,} {count} would match; {cure}"
    lower = known.str.to_lowercase()
    if (n := int(tried.str.to_lowercase().is_in(lower.implode()).sum())) > _FEW * len(tried):
        return f"in another letter case {n:,} {count} would match; write ids as the genotypes do"
    if (n := int(tried.is_in(known.str.replace(_ALLELES, "").implode()).sum())) > _FEW * len(tried):
        return f"the ids of the genotypes have alleles behind them, without which {n:,} {count} would match; add them"
    places = pl.DataFrame(
        {"chromosome": tried.str.extract(_PLACE, 1), "position": tried.str.extract(_PLACE, 2).cast(pl.Int64, strict=False)}
    )
    if (n := places.join(variants, on=["chromosome", "position"], how="semi").height) > _FEW * len(tried):
        return f"the ids name places (chromosome:position), and {n:,} {count} are those of variants with other ids; give regions"
    return None
