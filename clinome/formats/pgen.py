"""PLINK 2 files: the genotypes of a .pgen with the variants of its .pvar (or .pvar.zst, .bim) and people of its .psam (or .fam).

Counts are copies of ALT. A site with several ALT alleles becomes one variant an allele, which keeps the site's id. A file
without dosages gives hard calls (scale 1); one with any dosage gives all its variants as dosages in units of 1/16384, the
resolution it stores. Phase is not read. Positions below 0 are left out, as PLINK does.

Source: the PGEN specification draft of plink-ng (Chang, 2.0/pgen_spec); Pgenlib (the same author's library) does the decoding.
The header is read here as well, because Pgenlib trusts it, and only it tells a truncated file and whether there are dosages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import FormatError, StudyError, need
from clinome.core.files import replacing
from clinome.formats.genotypes import (
    Block,
    agreed_build,
    chosen,
    file_chromosomes,
    quality_key,
    samples_table,
    stated_build,
    variants_table,
)
from clinome.formats.plink import people_columns, read_beside, read_bim, read_columns, read_fam, whole_positions, write_columns

MAGIC = b"\x6c\x1b"
DOSAGE_SCALE = 16384
_GROUP = 1 << 16  # variants whose types and record lengths stand together in the header


class PgenGenotypes:
    """A .pgen with its companions beside it, as :class:`clinome.formats.genotypes.Genotypes`.

    Parameters
    ----------
    path
        The .pgen.
    build
        The genome build, where the header of the .pvar does not state it (``##contig`` or ``##reference``).

    Raises
    ------
    FormatError
        When a file of the three is missing, broken, or does not fit the others.
    CohortError
        When two people share an IID.
    """

    concurrent = False

    def __init__(self, path: str | Path, *, build: str | None = None) -> None:
        path = Path(path)
        header = read_header(path)
        pvar, psam = _companion(path, ".pvar", ".pvar.zst", ".bim"), _companion(path, ".psam", ".fam")
        self.paths: tuple[Path, ...] = (path, pvar, psam)
        self.samples = read_fam(psam) if psam.suffix == ".fam" else read_psam(psam)
        sites = _bim_sites(pvar) if pvar.suffix == ".bim" else read_pvar(pvar)
        self.variants, self.notes = sites.variants, sites.notes
        self.build = agreed_build(build, sites.build, pvar)
        for what, got, expected, where in (
            ("variants", sites.n_sites, header.n_variants, pvar),
            ("samples", self.samples.height, header.n_samples, psam),
        ):
            if got != expected:
                raise FormatError(
                    f"the number of {what} is not that of the .pgen",
                    where=where,
                    got=got,
                    expected=f"{expected}, as {path.name} says",
                    do="copy the three files again, together",
                )
        self.scale = DOSAGE_SCALE if header.dosages else 1
        self._sites, self._alleles = sites.rows, sites.alleles
        self._file = _open_reader(path, header.n_samples, sites)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.paths[0], self.build)

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read rows of ``variants`` (ascending) for rows of ``samples``; int8 at scale 1, or int32 at scale 16384."""
        rows = chosen(variants, self.variants.height)
        counts: NDArray[Any] = np.empty((len(rows), self.samples.height), np.int8 if self.scale == 1 else np.float32)
        alleles = self._alleles[rows]
        for allele in np.unique(alleles):
            mine = np.flatnonzero(alleles == allele)
            if len(mine) == len(rows):
                self._decode(self._sites[rows], int(allele), counts)
            else:
                part = np.empty((len(mine), counts.shape[1]), counts.dtype)
                self._decode(self._sites[rows[mine]], int(allele), part)
                counts[mine] = part
        if samples is not None:
            counts = counts.take(chosen(samples, self.samples.height, "samples", ascending=False), axis=1)
        if self.scale > 1:
            counts *= self.scale
            np.rint(counts, out=counts)
        np.maximum(counts, -1, out=counts)  # Pgenlib says −9 for missing
        return Block(rows, counts if self.scale == 1 else counts.astype(np.int32), self.scale)

    def _decode(self, sites: NDArray[np.int64], allele: int, out: NDArray[Any]) -> None:
        read = self._file.read_list if self.scale == 1 else self._file.read_dosages_list
        try:
            read(sites.astype(np.uint32), out, allele_idx=allele)
        except RuntimeError as error:
            raise FormatError(
                "the genotypes of a variant cannot be decoded",
                where=f"{self.paths[0]}, variants {int(sites[0]) + 1} to {int(sites[-1]) + 1}",
                got=str(error),
                do="copy the file again; plink2 --validate names the broken record",
            ) from error

    def close(self) -> None:
        """Close the .pgen."""
        self._file.close()


def _reopen(path: Path, build: str | None) -> PgenGenotypes:
    return PgenGenotypes(path, build=build)


def _open_reader(path: Path, n_samples: int, sites: Sites) -> Any:
    offsets = None if sites.n_alleles is None else np.concatenate([[0], np.cumsum(sites.n_alleles)]).astype(np.uintp)
    try:
        return need("pgenlib", "genetics").PgenReader(str(path).encode(), n_samples, allele_idx_offsets=offsets)
    except RuntimeError as error:
        raise FormatError("the .pgen cannot be opened", where=path, got=str(error), do="copy the three files again") from error


@dataclass(frozen=True)
class Header:
    """What a .pgen says of itself: its numbers of variants and samples, and whether any variant has dosages."""

    n_variants: int
    n_samples: int
    dosages: bool


def read_header(path: Path) -> Header:
    """Read the header of a .pgen and see that the file is as long as it says.

    Raises
    ------
    FormatError
        For other magic bytes, a storage mode that is not read, or a file of another length.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(12)
        if start[:2] != MAGIC or len(start) < 3:
            raise FormatError("this is not a PLINK 2 .pgen", where=path, got=start[:3].hex(" ") or "nothing", expected="6c 1b 10")
        mode = start[2]
        if mode not in (0x02, 0x10):
            kinds = {
                0x01: "a PLINK 1 .bed",
                0x20: "a .pgen with its index apart (.pgi)",
                0x21: "a .pgen with its index apart (.pgi)",
            }
            raise FormatError(
                "this kind of .pgen is not read",
                where=path,
                got=kinds.get(mode, f"storage mode {mode:#04x}"),
                do="rename a PLINK 1 file to .bed; else write it anew: plink2 --pfile PREFIX --make-pgen --out NEW",
            )
        n_variants, n_samples = (int.from_bytes(start[i : i + 4], "little") for i in (3, 7))
        if mode == 0x02:
            _see_length(path, size, 12 + n_variants * ((n_samples + 3) // 4) if len(start) == 12 else None)
            return Header(n_variants, n_samples, dosages=False)
        n_groups = -(-n_variants // _GROUP)
        offsets = np.frombuffer(file.read(8 * n_groups), np.uint8)
        if len(offsets) < 8 * n_groups or not n_variants:
            _see_length(path, size, None)
        end, dosages = _read_records(file.read, n_variants, start[11], path)
        if end is not None:
            end += int(offsets.view("<u8")[-1])
        _see_length(path, size, end)
        return Header(n_variants, n_samples, dosages)


def _read_records(read: Callable[[int], bytes], n_variants: int, control: int, path: Path) -> tuple[int | None, bool]:
    """Return the bytes of the last group's records (None when the header is cut off) and whether a variant has dosages."""
    width, wide_types = (control & 3) + 1, bool(control & 4)
    allele_width = control >> 4 & 3
    dosages = False
    total = 0
    for first in range(0, n_variants, _GROUP):
        n = min(_GROUP, n_variants - first)
        types = np.frombuffer(read(n if wide_types else (n + 1) // 2), np.uint8)
        lengths = np.frombuffer(read(n * width), np.uint8)
        if len(lengths) < n * width:
            return None, dosages
        dosages |= wide_types and bool((types & 0x60).any())
        if wide_types and (((types & 0x08) != 0) & ((types & 0x60) != 0)).any():
            raise FormatError(
                "a site with several ALT alleles has dosages, which Pgenlib cannot read",
                where=path,
                do="split it before: bcftools norm --multiallelics -any, then plink2 --vcf … dosage=DS --make-pgen",
            )
        read(n * allele_width + ((n + 7) // 8 if control >> 6 == 3 else 0))
        total = int((lengths.reshape(n, width).astype(np.int64) << (8 * np.arange(width))).sum())
    return total, dosages


def _see_length(path: Path, size: int, expected: int | None) -> None:
    if size != expected:
        raise FormatError(
            "the .pgen is cut off" if expected is None or size < expected else "the .pgen is longer than its header says",
            where=path,
            got=f"{size} bytes",
            expected="a whole header" if expected is None else f"{expected} bytes",
            do="copy the file again",
        )


@dataclass(frozen=True)
class Sites:
    """The sites of a .pvar, split into one variant an ALT allele.

    ``rows`` is the site of each variant and ``alleles`` which allele of the site it counts (1 is the first ALT), both of shape
    (n_variants,); ``n_alleles`` of each site, shape (n_sites,), or None when all have two.
    """

    variants: pl.DataFrame
    rows: NDArray[np.int64]
    alleles: NDArray[np.int64]
    n_sites: int
    n_alleles: NDArray[np.int64] | None
    build: str | None
    notes: tuple[str, ...]


def read_pvar(path: Path) -> Sites:
    """Read a .pvar or .pvar.zst: with its ``#CHROM`` header, or the columns of a .bim without one."""
    raw, header, line = _headed(path, "CHROM ID CM POS ALT REF", optional="CM", required="CHROM POS ID REF ALT", wanted="INFO")
    raw = whole_positions(raw.rename({"POS": "position"}), where=path, line=line)
    alts = raw["ALT"].str.split(",")
    n_alts = alts.list.len().cast(pl.Int64)
    split = raw.with_columns(alts.alias("ALT"), pl.Series("site", range(raw.height), dtype=pl.Int64)).explode("ALT")
    split = split.with_columns(pl.int_range(1, pl.len() + 1).over("site").alias("allele")).filter(pl.col("position") >= 0)
    names = {"ID": "variant_id", "CHROM": "chromosome", "position": "position", "ALT": "effect_allele", "REF": "other_allele"}
    columns = {new: split[old] for old, new in names.items()}
    if "INFO" in split.columns and (key := quality_key(header)):
        columns["info"] = split["INFO"].str.extract(rf"(?:^|;){key}=([^;,]+)").cast(pl.Float64, strict=False)
    table, notes = variants_table(columns, path)
    if several := int((n_alts > 1).sum()):
        notes.insert(0, f"{several} sites with several ALT alleles were split into one variant an allele, under the site's id")
    if negative := int((raw["position"] < 0).sum()):
        notes.insert(0, f"{negative} variants with a negative position were left out, as PLINK does")
    return Sites(
        table,
        split["site"].to_numpy().astype(np.int64),
        split["allele"].to_numpy().astype(np.int64),
        raw.height,
        (n_alts + 1).to_numpy() if several else None,
        stated_build(header),
        tuple(notes),
    )


def _bim_sites(path: Path) -> Sites:
    table, rows, n_sites, notes = read_bim(path)
    stored = np.arange(n_sites, dtype=np.int64) if rows is None else rows
    return Sites(table, stored, np.ones(len(stored), np.int64), n_sites, None, None, notes)


def read_psam(path: Path) -> pl.DataFrame:
    """Read the people of a .psam: with its ``#FID`` or ``#IID`` header, or the columns of a .fam without one."""
    raw, _, _ = _headed(path, "FID IID PAT MAT SEX PHENO", optional="PHENO", required="IID", wanted="FID SEX")
    family, sex = (raw[name] if name in raw.columns else None for name in ("FID", "SEX"))
    return samples_table(path, raw["IID"], family_id=family, sex=sex)


def _headed(path: Path, headless: str, *, optional: str, required: str, wanted: str = "") -> tuple[pl.DataFrame, str, int]:
    """Read a PLINK 2 table: the columns that matter, the ``##`` lines before it, the line number of its first row.

    ``headless`` are the columns of a table without header, of which ``optional`` may lack; ``required`` are the columns that
    must be there and ``wanted`` those that are read when they are.
    """
    text = read_beside(path)
    if path.suffix == ".zst":
        zstandard = need("zstandard", "genetics")
        try:
            with zstandard.ZstdDecompressor().stream_reader(text, read_across_frames=True) as stream:
                text = stream.read()
        except zstandard.ZstdError as error:
            raise FormatError("the file cannot be decompressed", where=path, got=str(error), do="copy it again") from error
    start = 0
    while text.startswith(b"##", start):
        start = text.find(b"\n", start) + 1 or len(text)
    header, text = text[:start].decode(errors="replace"), text[start:]
    line = header.count("\n") + 1
    names = text.partition(b"\n")[0].decode(errors="replace").split()
    if names and names[0].startswith("#"):
        line, text = line + 1, text.partition(b"\n")[2]
        names[0] = names[0][1:]
    else:
        names = [name for name in headless.split() if len(names) == len(headless.split()) or name != optional]
    if lacks := set(required.split()) - set(names):
        raise FormatError(
            f"the header lacks {', '.join(sorted(lacks))}", where=f"{path}, line {line}", got=" ".join(names), expected=required
        )
    keep = [name for name in names if name in required.split() + wanted.split()]
    return read_columns(text, names, where=path, line=line, keep=keep), header, line


def _companion(path: Path, *suffixes: str) -> Path:
    """Return the first of the companions that is there, or the one that should be."""
    candidates = [path.with_suffix(suffix) for suffix in suffixes]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0])


def write_pgen(
    path: str | Path,
    *,
    samples: pl.DataFrame,
    variants: pl.DataFrame,
    blocks: Iterable[NDArray[np.int8] | NDArray[np.int32]],
    scale: int = 1,
    build: str | None = None,
) -> None:
    """Write a .pgen with its .pvar and .psam, streaming; the three appear together, or not at all.

    Parameters
    ----------
    path
        The .pgen.
    samples
        ``participant_id`` and, when there, ``family_id`` and ``sex``.
    variants
        As in ``core.schema.VARIANTS``; the effect allele becomes ALT.
    blocks
        Counts, each of shape (n_variants of the block, n_samples), in units of ``1 / scale``; −1 is missing.
    scale
        1 writes hard calls; more writes dosages, which the format rounds to 1/16384, and the hard call within 0.1 of each.
    build
        Written into the header, so that it travels with the variants.

    Raises
    ------
    FormatError
        For counts outside 0 to 2, or blocks that do not fit the tables.
    OutputError
        When the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".pgen":
        raise StudyError("the name of a PLINK 2 file ends in .pgen", got=path.name, expected=f"{path.name}.pgen")
    with (
        replacing(path) as pgen,
        replacing(path.with_suffix(".pvar")) as pvar,
        replacing(path.with_suffix(".psam")) as psam,
    ):
        write_columns(psam, people_columns(samples), header=("#FID", "IID", "SEX"))
        _write_pvar(pvar, variants, build)
        pgen.touch()
        writer = need("pgenlib", "genetics").PgenWriter(
            str(pgen).encode(), samples.height, variant_ct=variants.height, nonref_flags=False, dosage_present=scale > 1
        )
        written = 0
        for counts in blocks:
            _see_counts(counts, samples.height, scale, path)
            written += len(counts)
            if written > variants.height:
                break
            if scale == 1:
                writer.append_biallelic_batch(np.where(counts < 0, -9, counts).astype(np.int8))
            else:
                writer.append_dosages_batch(np.where(counts < 0, -9, counts / scale).astype(np.float32))
        if written != variants.height:
            raise FormatError("the blocks do not fit the variants table", where=path, got=written, expected=variants.height)
        writer.close()


def _see_counts(counts: NDArray[Any], n_samples: int, scale: int, path: Path) -> None:
    if counts.ndim != 2 or counts.shape[1] != n_samples:
        raise FormatError(f"a block of shape {counts.shape} does not fit {n_samples} samples", where=path)
    if counts.size and (int(counts.min()) < -1 or int(counts.max()) > 2 * scale):
        raise FormatError(
            f"a count is −1 (missing) or 0 to {2 * scale}", where=path, got=f"values from {counts.min()} to {counts.max()}"
        )


def _write_pvar(path: Path, variants: pl.DataFrame, build: str | None) -> None:
    chromosomes = file_chromosomes(variants)
    with path.open("wb") as file:
        if build:
            for chromosome in chromosomes.unique(maintain_order=True):
                file.write(f"##contig=<ID={chromosome},assembly={build}>\n".encode())
        table = variants.select(chromosomes, "position", "variant_id", "other_allele", "effect_allele")
        write_columns(file, table, header=("#CHROM", "POS", "ID", "REF", "ALT"))
