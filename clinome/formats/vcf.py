"""VCF and BCF files: called genotypes (GT) or dosages (DS), with several ALT alleles split into one variant each.

Counts are copies of the variant's ALT allele; any other allele of the site counts as none. Half-called genotypes (``./1``) are
missing. A haploid call counts as two copies or none, as PLINK counts males on X; a dosage (in units of 1/16384) lies between
0 and 1 where GT is haploid, and is doubled. Where the header declares DS it is read, and GT where DS is missing or not there;
``field`` chooses otherwise. On X, Y and MT a DS without GT is an error, as in PLINK 2: nothing says which scale it is on.
Symbolic alleles (``<DEL>``, ``*``) are kept under their names; a site without ALT has the effect allele '.', which nobody has.

One pass over the sites makes the variants table (and meets a cut-off file before work begins); reading goes forward through the
file, record by record, and starts again only when rows before the last ones are asked for.

Source: the VCF 4.3 specification (samtools/hts-specs); cyvcf2 (Pedersen & Quinlan 2017, doi 10.1093/bioinformatics/btx057) reads
the records.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import FormatError, StudyError, need
from clinome.formats.genotypes import Block, agreed_build, chosen, quality_key, samples_table, stated_build, variants_table

DOSAGE_SCALE = 16384
FIXED = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_CONTIG = re.compile(r"[0-9A-Za-z!#$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*")
_CHUNK = 1 << 16

Site = tuple[str, str, int, str, Sequence[str], str | None]  # id, chromosome, position, REF, ALTs, imputation quality


class VcfGenotypes:
    """A .vcf, .vcf.gz or .bcf as :class:`clinome.formats.genotypes.Genotypes`.

    Parameters
    ----------
    path
        The file.
    build
        The genome build, where the header does not state it (``##contig`` or ``##reference``).
    field
        'GT' reads called genotypes (int8, scale 1), 'DS' dosages (int32, scale 16384); None reads DS when the header
        declares it, else GT.

    Raises
    ------
    FormatError
        When the file is broken, cut off, or holds no genotypes.
    StudyError
        When DS is asked for and not declared, or the build contradicts the header.
    CohortError
        When two samples have the same name.
    """

    concurrent = False

    def __init__(self, path: str | Path, *, build: str | None = None, field: Literal["GT", "DS"] | None = None) -> None:
        path = Path(path)
        self.paths: tuple[Path, ...] = (path,)
        kind = _see_whole(path)
        header = _bcf_header(path) if kind == "BCF" else _vcf_header(path)
        self.build = agreed_build(build, stated_build(header.text), path)
        self.samples = samples_table(path, pl.Series(header.samples, dtype=pl.String))
        self._field, reason = _field(header.text, field, path)
        key = quality_key(header.text)
        table = _sites_table(_bcf_sites(path, key) if kind == "BCF" else _vcf_sites(path, header, key), key is not None)
        self._contigs = _contigs(table["chromosome"], path)
        columns = [name for name in table.columns if name not in ("site", "allele")]
        self.variants, notes = variants_table({name: table[name] for name in columns}, path)
        if several := int((table.group_by("site").len()["len"] > 1).sum()):
            notes.insert(0, f"{several} sites with several ALT alleles were split into one variant an allele, under the site's id")
        self.notes = (*([reason] if reason else []), *notes)
        self.scale = DOSAGE_SCALE if self._field == "DS" else 1
        self._sites, self._alleles = table["site"].to_numpy(), table["allele"].to_numpy()
        self._some_haploid = self.variants["chromosome"].is_in(["X", "Y", "MT"]).to_numpy()
        self._asked = field
        self._file: Any = None
        self._last: Any = None  # the record that was read last, number _next − 1
        self._next = 0

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.paths[0], self.build, self._asked)

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read rows of ``variants`` (ascending) for rows of ``samples``; int8 at scale 1, or int32 at scale 16384."""
        rows = chosen(variants, self.variants.height)
        people = None if samples is None else chosen(samples, self.samples.height, "samples", ascending=False)
        shape = (len(rows), self.samples.height if people is None else len(people))
        counts: NDArray[Any] = np.empty(shape, np.int8 if self.scale == 1 else np.int32)
        site, record = -1, None
        for i, row in enumerate(rows):
            if self._sites[row] != site:
                site = int(self._sites[row])
                record = self._record(site, int(row))
            found = self._counts(record, int(self._alleles[row]), int(row))
            counts[i] = found if people is None else found[people]
        return Block(rows, counts, self.scale)

    def _record(self, site: int, row: int) -> Any:
        """Go forward to a site (from the start when it lies behind)."""
        if self._file is None or site < self._next - 1:
            self.close()
            self._file, self._next = _open(self.paths[0], contigs=self._contigs), 0
        if site == self._next - 1:
            return self._last
        try:
            while self._next <= site:
                self._last = next(self._file)
                self._next += 1
        except StopIteration:
            raise FormatError("the file ends before its last variant", where=self.paths[0], do="run the command again") from None
        except Exception as error:  # cyvcf2 raises the base class
            raise FormatError(
                "a record cannot be read",
                where=f"{self.paths[0]}, variant {row + 1} ({self.variants['variant_id'][row]})",
                got=str(error),
                do="bcftools view FILE names the broken line",
            ) from error
        if self.variants["position"][row] != self._last.POS:
            raise FormatError("the file changed after it was opened", where=self.paths[0], do="run the command again")
        return self._last

    def _counts(self, record: Any, allele: int, row: int) -> NDArray[Any]:
        where = f"{self.paths[0]}, variant {row + 1} ({self.variants['variant_id'][row]})"
        try:
            has, n_alts = record.FORMAT, max(1, len(record.ALT))
        except UnicodeDecodeError as error:
            raise FormatError("a record is not text", where=where, got=str(error), do="copy the file again") from error
        calls = record.genotype.array() if "GT" in has else None
        if self._field == "DS" and "DS" in has:
            if calls is None and self._some_haploid[row]:
                raise FormatError(
                    "DS stands without GT, so that nothing says whether a person's dosages go up to 1 (haploid) or 2",
                    where=where,
                    do="write the file again with GT, or read its autosomes alone",
                )
            dosages = _dosages(record.format("DS"), allele, n_alts, where)
            return dosages if calls is None else _with_calls(dosages, calls, allele, where, haploid=bool(self._some_haploid[row]))
        if calls is not None:
            copies = called_copies(calls, allele, where)
            return copies if self.scale == 1 else np.where(copies < 0, -1, copies.astype(np.int32) * self.scale)
        return np.full(self.samples.height, -1, np.int8)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = self._last = None


def _reopen(path: Path, build: str | None, field: Literal["GT", "DS"] | None) -> VcfGenotypes:
    return VcfGenotypes(path, build=build, field=field)


def called_copies(calls: NDArray[np.int16], allele: int, where: str) -> NDArray[np.int8]:
    """Count an allele in called genotypes.

    Parameters
    ----------
    calls
        Allele numbers, shape (n_samples, ploidy + 1), the last column being phase; −1 is missing, −2 fills up lower ploidy.

    Example
    -------
    >>> called_copies(np.array([[0, 1, 0], [2, 1, 0], [-1, 1, 0], [1, -2, 1]], np.int16), 1, "")
    array([ 1,  1, -1,  2], dtype=int8)
    """
    if calls.shape[1] > 3 and (calls[:, 2:-1] != -2).any():
        raise FormatError(
            "a genotype has more than two alleles", where=where, got=f"ploidy {calls.shape[1] - 1}", expected="1 or 2"
        )
    first = calls[:, 0]
    second = first if calls.shape[1] == 2 else np.where(calls[:, 1] == -2, first, calls[:, 1])  # a haploid call counts twice
    copies: NDArray[np.int8] = (first == allele).view(np.int8) + (second == allele).view(np.int8)
    copies[(first < 0) | (second < 0)] = -1
    return copies


def _dosages(values: NDArray[np.float32], allele: int, n_alts: int, where: str) -> NDArray[np.int32]:
    if values is None or values.shape[1] != n_alts:
        raise FormatError(
            "DS does not hold one value an ALT allele",
            where=where,
            got=f"{0 if values is None else values.shape[1]} values",
            expected=n_alts,
            do="split the sites before: bcftools norm --multiallelics -any",
        )
    dosage = values[:, allele - 1]
    missing = np.isnan(dosage)
    if ((dosage < 0) | (dosage > 2)).any():
        raise FormatError("a dosage is not between 0 and 2", where=where, got=float(dosage[(dosage < 0) | (dosage > 2)][0]))
    return np.where(missing, -1, np.rint(np.where(missing, 0, dosage) * DOSAGE_SCALE)).astype(np.int32)


def _with_calls(
    dosages: NDArray[np.int32], calls: NDArray[np.int16], allele: int, where: str, *, haploid: bool
) -> NDArray[np.int32]:
    """Double the dosages of haploid people, and take the call of people who have no dosage.

    ``haploid`` says that the chromosome can be haploid, so that a GT of '.' is one missing allele; elsewhere it is the short
    form of './.'.
    """
    one = np.ones(len(calls), np.bool_) if calls.shape[1] == 2 else calls[:, 1] == -2
    if not haploid:
        one &= calls[:, 0] >= 0
    if (beyond := one & (dosages > DOSAGE_SCALE)).any():
        raise FormatError(
            "a dosage of a haploid genotype is not between 0 and 1",
            where=where,
            got=float(dosages[beyond][0] / DOSAGE_SCALE),
            do="write DS as copies of the allele among those that GT has, or read GT",
        )
    doubled = np.where(one & (dosages > 0), 2 * dosages, dosages)
    copies = called_copies(calls, allele, where).astype(np.int32)
    return np.where((dosages < 0) & (copies >= 0), copies * DOSAGE_SCALE, doubled)


def _contigs(chromosomes: pl.Series, path: Path) -> list[str]:
    names = [str(name) for name in chromosomes.unique(maintain_order=True)]
    for name in names:
        if not _CONTIG.fullmatch(name):
            raise FormatError(
                "a chromosome has a name that VCF does not allow", where=path, got=repr(name), do="copy the file again"
            )
    return names


def _field(header: str, asked: str | None, path: Path) -> tuple[str, str | None]:
    declared = "##FORMAT=<ID=DS," in header
    if asked == "DS" and not declared:
        raise StudyError("the dosage field DS was asked for, and the header does not declare it", where=path, do="read GT instead")
    if asked is None and declared:
        return "DS", "dosages were read from DS, and from GT where DS is missing"
    return asked or "GT", None


def _open(path: Path, *, samples: list[str] | None = None, contigs: Sequence[str] = ()) -> Any:
    """Open with cyvcf2; ``contigs`` are declared if the header does not (cyvcf2 crashes on a broken record of one it lacks)."""
    cyvcf2 = need("cyvcf2", "genetics")
    cyvcf2.cyvcf2.set_htslib_log_level(0)  # what it would print is said by our errors
    try:
        file = cyvcf2.VCF(str(path), samples=samples)
        for name in set(contigs) - set(file.seqnames):
            file.add_to_header(f"##contig=<ID={name}>")
        return file
    except Exception as error:
        raise FormatError("the file cannot be opened as a VCF or BCF", where=path, got=str(error), do="copy it again") from error


def _see_whole(path: Path) -> Literal["VCF", "BCF"]:
    """Tell a VCF from a BCF by its first bytes, and see that a blocked gzip (BGZF) has its end."""
    with path.open("rb") as file:
        start = file.read(18)
        if start[:2] == b"\x1f\x8b" and start[12:14] == b"BC":
            file.seek(max(0, file.seek(0, 2) - len(_BGZF_END)))
            if (end := file.read()) != _BGZF_END:
                raise FormatError(
                    "the file is cut off: its last block is not the mark of its end",
                    where=path,
                    got=end[:8].hex(" ") + " …",
                    expected=_BGZF_END[:8].hex(" ") + " …",
                    do="copy it again",
                )
    try:
        with gzip.open(path, "rb") if start[:2] == b"\x1f\x8b" else path.open("rb") as file:
            first = file.read(16)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError("the file cannot be decompressed", where=path, got=str(error), do="copy it again") from error
    if first.startswith(b"BCF\x02"):
        return "BCF"
    if first.startswith(b"##fileformat=VCF"):
        return "VCF"
    raise FormatError("this is neither a VCF nor a BCF", where=path, got=repr(first[:16]), expected="'##fileformat=VCF' or 'BCF'")


@dataclass(frozen=True)
class Header:
    """The ``##`` lines, the names of the samples, and the number of the ``#CHROM`` line."""

    text: str
    samples: list[str]
    line: int


def _lines(path: Path) -> Generator[bytes]:
    """Yield the lines of a VCF without their ends, and raise where the file is cut off or broken."""
    line = b"\n"
    try:
        with path.open("rb") as test:
            compressed = test.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            for line in file:
                yield line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError("the file is cut off or damaged", where=path, got=str(error), do="copy it again") from error
    if not line.endswith(b"\n"):
        raise FormatError(
            "the file ends in the middle of a line", where=path, got=line[-40:].decode(errors="replace"), do="copy it again"
        )


def _vcf_header(path: Path) -> Header:
    text: list[str] = []
    names: list[str] = []
    with closing(_lines(path)) as lines:
        for line in lines:
            if not line.startswith(b"##"):
                names = line.decode(errors="replace").split("\t")
                break
            text.append(line.decode(errors="replace"))
    if tuple(names[: len(FIXED)]) != FIXED or len(names) == len(FIXED):
        raise FormatError(
            "the VCF holds no genotypes",
            where=f"{path}, line {len(text) + 1}",
            got=" ".join(names[:10]),
            expected=" ".join(FIXED) + " and the samples",
        )
    return Header("\n".join(text), names[len(FIXED) :], len(text) + 1)


def _vcf_sites(path: Path, header: Header, key: str | None) -> Iterator[Site]:
    """Yield the sites of a VCF from its text: only the fixed columns are parsed, and the columns counted."""
    tabs = len(FIXED) + len(header.samples) - 1
    quality = re.compile(rb"(?:^|;)" + key.encode() + rb"=([^;]+)") if key else None
    for number, line in enumerate(_lines(path), 1):
        if number <= header.line:
            continue
        fields = line.split(b"\t", 8)
        if line.count(b"\t") != tabs or not fields[1].isdigit():
            columns = line.count(b"\t") + 1
            raise FormatError(
                "a record is not whole",
                where=f"{path}, line {number}",
                got=f"{columns} columns, position {fields[1].decode(errors='replace') if columns > 1 else ''!r}",
                expected=f"{tabs + 1} columns and a whole position",
                do="copy the file again",
            )
        chromosome, position, name, ref, alts = (field.decode(errors="replace") for field in fields[:5])
        found = quality.search(fields[7]) if quality else None
        yield name, chromosome, int(position), ref, alts.split(","), found and found[1].decode(errors="replace")


def _bcf_header(path: Path) -> Header:
    file = _open(path)
    try:
        if not file.samples:
            raise FormatError("the BCF holds no genotypes", where=path)
        return Header(file.raw_header, list(file.samples), 0)
    finally:
        file.close()


def _bcf_sites(path: Path, key: str | None) -> Iterator[Site]:
    file = _open(path, samples=[])
    after = "the header"
    try:
        for record in file:
            quality = record.INFO.get(key) if key else None
            text = ",".join(map(str, quality)) if isinstance(quality, tuple) else None if quality is None else str(quality)
            yield record.ID or ".", record.CHROM, record.POS, record.REF, record.ALT or ["."], text
            after = f"{record.CHROM}:{record.POS}"
    except Exception as error:
        raise FormatError(
            "the file is cut off or damaged", where=f"{path}, after {after}", got=str(error), do="copy it again"
        ) from error
    finally:
        file.close()


def _sites_table(sites: Iterator[Site], with_quality: bool) -> pl.DataFrame:
    """Make one row an ALT allele: the columns of ``variants``, the number of the site, and of the allele (1 is the first ALT)."""
    schema: dict[str, Any] = {"variant_id": pl.String, "chromosome": pl.String, "position": pl.Int64, "other_allele": pl.String}
    schema |= {"effect_allele": pl.String, "info": pl.Float64, "site": pl.Int64, "allele": pl.Int64}
    frames, rows = [], []
    for number, (name, chromosome, position, ref, alts, quality) in enumerate(sites):
        qualities = (quality or "").split(",")
        for i, alt in enumerate(alts):
            info = _number(qualities[i] if len(qualities) == len(alts) else qualities[0])
            rows.append((name, chromosome, position, ref, alt, info, number, i + 1))
        if len(rows) >= _CHUNK:
            frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
            rows = []
    table = pl.concat([*frames, pl.DataFrame(rows, schema=schema, orient="row")])
    return table if with_quality else table.drop("info")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
