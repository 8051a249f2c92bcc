"""Open genotypes by name: one file, or a pattern with ``*`` over chromosomes; and write them in another format.

The suffix names the format; a file's first bytes must agree with it, and stand in for a suffix that is not in the table.

>>> sorted(SUFFIXES)
['.bcf', '.bed', '.bgen', '.pgen', '.vcf', '.vcf.bgz', '.vcf.gz']
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.formats.bgen import BgenGenotypes
from clinome.formats.genotypes import Block, Genotypes, blocks, chosen
from clinome.formats.pgen import DOSAGE_SCALE, PgenGenotypes, write_pgen
from clinome.formats.plink import PlinkGenotypes, write_plink
from clinome.formats.vcf import VcfGenotypes

_FINEST = 65_535  # units of a copy that are kept where files in different units are read as one


def _plink(path: Path, build: str | None, _: Path | None) -> Genotypes:
    return PlinkGenotypes(path, build=build)


def _pgen(path: Path, build: str | None, _: Path | None) -> Genotypes:
    return PgenGenotypes(path, build=build)


def _bgen(path: Path, build: str | None, sample_file: Path | None) -> Genotypes:
    return BgenGenotypes(path, build=build, sample_file=sample_file)


def _vcf(path: Path, build: str | None, _: Path | None) -> Genotypes:
    return VcfGenotypes(path, build=build)


# One line a format: its suffix and what opens it. A new format adds its line here (docs/add_a_format.md).
SUFFIXES: dict[str, Callable[[Path, str | None, Path | None], Genotypes]] = {
    ".bed": _plink,
    ".pgen": _pgen,
    ".bgen": _bgen,
    ".vcf": _vcf,
    ".vcf.gz": _vcf,
    ".vcf.bgz": _vcf,
    ".bcf": _vcf,
}
_BESIDE = {".bim": ".bed", ".fam": ".bed", ".pvar": ".pgen", ".psam": ".pgen", ".sample": ".bgen"}


def open_genotypes(path: str | Path, *, build: str | None = None, sample_file: str | Path | None = None) -> Genotypes:
    """Open a genotype file, or all files of a pattern with ``*`` as one.

    Parameters
    ----------
    path
        A file whose suffix is in ``SUFFIXES``; or a pattern such as ``ukb_chr*.bed``: files in natural order (chr2 before
        chr10), which must hold the same people (found by name where their order differs).
    build
        The genome build ('GRCh37', 'hg38', …), where the file does not state it.
    sample_file
        The .sample of a BGEN whose samples are not named in it; one for all files of a pattern.

    Raises
    ------
    StudyError
        When there is no such file (the message lists near names), or the build contradicts the file.
    FormatError
        When a file is broken, truncated or not what its name says.
    CohortError
        When ids repeat, or the files of a pattern hold different people.
    """
    path = Path(path)
    sample_file = None if sample_file is None else Path(sample_file)
    files = sorted(map(Path, glob.glob(str(path))), key=_natural) if "*" in str(path) else [path]  # noqa: PTH207 - absolute patterns
    files = [file for file in files if not file.name.startswith(".")]
    if not files or not files[0].exists():
        raise _not_there(path)
    opened = []
    try:
        for file in files:
            opened.append(_opener(file, sample_file)(file, build, sample_file))
        return opened[0] if len(opened) == 1 else GenotypeSet(opened)
    except BaseException:
        for source in opened:
            source.close()
        raise


class GenotypeSet:
    """Genotypes of the same people in several files (one a chromosome), as one :class:`Genotypes`.

    People are in the order of the first file; where another lists them otherwise they are found by name, and ``notes`` say so.
    Dosages in different units come in the least common one, or, where that is finer than 1/65535, rounded to PLINK's 1/16384.

    Raises
    ------
    CohortError
        When the files do not hold the same people.
    StudyError
        When they state different genome builds.
    """

    def __init__(self, sources: Sequence[Genotypes]) -> None:
        first = sources[0]
        self._orders = [_order_of(first, source) for source in sources]
        builds = {source.build for source in sources if source.build}
        if len(builds) > 1:
            raise StudyError("the files state different genome builds", where=first.paths[0].parent, got=", ".join(sorted(builds)))
        self._sources = tuple(sources)
        self._starts = np.cumsum([0, *(source.variants.height for source in sources)])
        scales = [source.read(np.zeros(1, np.int64)).scale for source in sources if source.variants.height]
        joint = math.lcm(*scales)
        self.scale = joint if joint <= _FINEST else DOSAGE_SCALE
        self.samples = first.samples
        self.variants = pl.concat([source.variants for source in sources], how="diagonal")
        self.build = next(iter(builds), None)
        self.paths = tuple(path for source in sources for path in source.paths)
        turned = "the people are in another order than in the first file; each was found by name"
        notes = [
            (source, note)
            for source, order in zip(sources, self._orders, strict=True)
            for note in (*([] if order is None else [turned]), *source.notes)
        ]
        rounded = [f"dosages of files in units of 1/{' and 1/'.join(map(str, sorted(set(scales))))} are rounded to 1/{self.scale}"]
        self.notes = (
            *(f"{source.paths[0].name}: {note}" for source, note in notes),
            *(rounded if joint > _FINEST else ()),
        )
        self.concurrent = all(source.concurrent for source in sources)

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read rows of the joint ``variants`` table (ascending) for rows of ``samples``."""
        rows = chosen(variants, self.variants.height)
        cuts = np.searchsorted(rows, self._starts)
        people = slice(None) if samples is None else samples
        parts: list[NDArray[np.int8] | NDArray[np.int32]] = [
            _at_scale(source.read(rows[low:high] - start, samples if order is None else order[people]), self.scale)
            for source, order, start, low, high in zip(
                self._sources, self._orders, self._starts[:-1], cuts[:-1], cuts[1:], strict=True
            )
            if high > low or len(rows) == 0
        ]
        counts: NDArray[np.int32] = parts[0] if len(parts) == 1 else np.concatenate(parts)  # type: ignore[assignment]
        return Block(rows, counts, self.scale)

    def close(self) -> None:
        """Close every file."""
        for source in self._sources:
            source.close()


def convert_genotypes(
    source: Genotypes, path: str | Path, *, variants: NDArray[np.int64] | None = None, samples: NDArray[np.int64] | None = None
) -> None:
    """Write ``source``, or the given rows of its ``variants`` (ascending) and ``samples``, as a .bed or a .pgen.

    Memory does not grow with the number of variants, but for the variants table.

    Raises
    ------
    StudyError
        When the suffix is not one that can be written, or dosages are to become a .bed, which holds hard calls only.
    OutputError
        When the folder cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".bed", ".pgen"):
        raise StudyError("this format cannot be written", where=path, got=path.suffix or "no suffix", expected=".bed or .pgen")
    people = source.samples if samples is None else source.samples[samples]
    table = source.variants if variants is None else source.variants[variants]
    stream = blocks(source, size=max(1, 2**24 // max(1, people.height)), variants=variants, samples=samples)
    first = next(stream, None)
    if first is None or not people.height:
        raise StudyError("there is nothing to write", where=path, got=f"{table.height} variants of {people.height} people")
    counts: Iterator[Any] = (block.counts for block in chain([first], stream))
    if path.suffix == ".pgen":
        write_pgen(path, samples=people, variants=table, blocks=counts, scale=first.scale, build=source.build)
    elif first.scale == 1:
        write_plink(path, samples=people, variants=table, blocks=counts)
    else:
        raise StudyError("the genotypes are dosages, and a .bed holds hard calls only", where=path, do="write a .pgen instead")


def _at_scale(block: Block, scale: int) -> NDArray[np.int8] | NDArray[np.int32]:
    if block.scale == scale:
        return block.counts
    if scale % block.scale:
        return np.where(block.counts < 0, -1, np.rint(block.counts * (scale / block.scale))).astype(np.int32)
    counts = block.counts.astype(np.int32)
    counts[counts > 0] *= scale // block.scale
    return counts


def _natural(path: Path) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path))]


def _order_of(first: Genotypes, other: Genotypes) -> NDArray[np.int64] | None:
    """Return the row in ``other`` of each sample of ``first``; None where they are the same rows."""
    mine, theirs = first.samples["participant_id"], other.samples["participant_id"]
    if mine.equals(theirs):
        return None
    numbered = other.samples.select("participant_id").with_row_index("row")
    rows = mine.to_frame().join(numbered, on="participant_id", how="left", maintain_order="left")["row"]
    if len(mine) == len(theirs) and not rows.null_count():
        return rows.to_numpy().astype(np.int64)
    if len(mine) != len(theirs):
        got = f"{len(mine)} and {len(theirs)} people"
    else:
        row = int(rows.is_null().arg_true()[0])
        got = f"sample {row + 1} is {mine[row]!r} in one and is not in the other"
    raise CohortError(
        "the files of the pattern hold different people",
        where=f"{first.paths[0]} and {other.paths[0]}",
        got=got,
        do="bring them to the same people, for example with plink2 --keep",
    )


def _opener(path: Path, sample_file: Path | None) -> Callable[[Path, str | None, Path | None], Genotypes]:
    """Choose what opens ``path`` by its suffix, which its first bytes may not contradict."""
    name = path.name.lower()
    if main := _BESIDE.get(path.suffix):
        raise StudyError("name the file of the genotypes, not one that lies beside it", got=path.name, expected=path.stem + main)
    if name.endswith((".bed.gz", ".pgen.gz", ".bgen.gz", ".zip")):
        raise FormatError("the file is read in place and cannot be compressed", where=path, do="gunzip it and its companions first")
    named = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)
    held = _sniff(path)
    if named and held and SUFFIXES[named] is not SUFFIXES[held]:
        raise FormatError(
            "the file is not what its name says", where=path, got=f"the first bytes of a {held}", expected=f"a {named}"
        )
    suffix = named or held
    if suffix is None:
        raise FormatError("this is no genotype file that can be read", where=path, got=path.suffix, expected=", ".join(SUFFIXES))
    if sample_file is not None and SUFFIXES[suffix] is not _bgen:
        raise StudyError("a .sample file goes with a .bgen only", where=path, got=sample_file, do="leave the sample file out")
    return SUFFIXES[suffix]


def _sniff(path: Path) -> str | None:
    """Tell the format from the first bytes."""
    with path.open("rb") as file:
        start = file.read(20)
    if start[:2] == b"\x1f\x8b":
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(path, "rb") as unpacked:
            start = unpacked.read(20)
    if start.startswith((b"##fileformat=VCF", b"BCF\x02")):
        return ".vcf"
    if start[:2] == b"\x6c\x1b" and len(start) > 2:
        return ".bed" if start[2] < 2 else ".pgen"
    return ".bgen" if start[16:20] == b"bgen" else None


def _not_there(path: Path) -> StudyError:
    """Say that no file matches, with the names that come nearest."""
    if not path.parent.is_dir():
        return StudyError(
            "there is no such folder", where=path.parent, do="check the path; relative ones start at the current folder"
        )
    there = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    prefixed = [name for name in there if name.startswith(f"{path.name}.") and name.endswith(tuple(SUFFIXES))]
    if prefixed:
        return StudyError("a prefix is not enough: name the file", where=path, got=path.name, expected=" or ".join(prefixed))
    near = difflib.get_close_matches(path.name, there, n=4, cutoff=0.5) or [n for n in there if n.endswith(tuple(SUFFIXES))][:4]
    what = "no file matches the pattern" if "*" in path.name else "there is no such file"
    return StudyError(what, where=path, do=f"names there: {', '.join(near)}" if near else "the folder holds no genotypes")
