"""The metadata file that GWAS-SSF asks for beside a file of summary statistics, and what of that file it cannot vouch for.

The standard's mandatory fields are always written; what nobody stated is 'NR' (not reported) or 'unknown'. A file with rows
that the standard does not allow (no estimate, position 0, a chromosome outside 1-25, alleles not spelled in bases) keeps
them, calls itself 'pre-GWAS-SSF' and counts them in ``author_notes``.

Reference: GWAS-SSF v1.1.0, Hayhurst et al. 2022, doi:10.1101/2022.07.15.500230.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from clinome.core.errors import SchemaError

CHROMOSOMES = {"X": "23", "Y": "24", "MT": "25"}


@dataclass(frozen=True)
class Metadata:
    """What the GWAS-SSF metadata file says about a study; fields are the standard's, 'NR' is its "not reported".

    ``other_is_reference`` states that the other allele is the reference of ``genome_assembly`` (true for VCF, PLINK 2 and
    BGEN files written reference-first); it fills ``variant_id`` and ``ref_allele``. ``sample_size`` None becomes the largest
    ``n`` of the file; ``modified`` None becomes today.
    """

    trait_description: str | None = None
    genome_assembly: str | None = None
    sample_size: int | None = None
    sample_ancestry_category: tuple[str, ...] = ("NR",)
    genotyping_technology: tuple[str, ...] = ("NR",)
    imputation_panel: str | None = None
    sex: Literal["M", "F", "combined", "NR"] = "NR"
    adjusted_covariates: tuple[str, ...] = ()
    analysis_software: str | None = None
    author_notes: str | None = None
    other_is_reference: bool = False
    modified: date | None = None


def metadata_path(path: str | Path) -> Path:
    """Return where GWAS-SSF keeps the metadata of ``path``: ``x.tsv.gz`` → ``x.tsv.gz-meta.yaml``."""
    return Path(f"{path}-meta.yaml")


@dataclass
class Tally:
    """What the frames written so far add up to, for the metadata."""

    frames: int = 0
    trait: str | None = None
    info: bool = False
    rows: int = 0
    largest_n: int = 0
    sorted: bool = True
    last: tuple[int, int] = (0, 0)
    odd: dict[str, int] = field(default_factory=dict)

    def add(self, frame: pl.DataFrame, where: str) -> None:
        """Take in a frame that is being written; the first one decides the trait and whether there is a column of INFO."""
        traits = frame["trait"].unique().to_list()
        if self.frames == 0:
            self.info = "info" in frame.columns
        if self.trait is None and len(traits) == 1:
            self.trait = traits[0]
        self.frames += 1
        if traits not in ([self.trait], []):
            raise SchemaError("a file of summary statistics holds one trait", where=where, got=sorted({*traits, self.trait or ""}))
        self.rows += frame.height
        largest = frame["n"].max()
        self.largest_n = max(self.largest_n, int(largest) if isinstance(largest, int) else 0)
        self._judge(frame)

    def _judge(self, frame: pl.DataFrame) -> None:
        """Count what GWAS-SSF's validator refuses and Clinome keeps, and see whether the rows are in genome order."""
        chromosome = pl.col("chromosome").replace(CHROMOSOMES).cast(pl.Int64, strict=False)
        acgt = r"^[ACGTacgt]+$"
        odd = {
            "rows without an estimate (#NA)": pl.col("beta").is_null(),
            "rows at position 0 (unknown)": pl.col("position") == 0,
            "rows on a chromosome outside 1-25": ~chromosome.is_between(1, 25).fill_null(False),
            "rows with an allele that is not spelled in A, C, G, T": ~(
                pl.col("effect_allele").str.contains(acgt) & pl.col("other_allele").str.contains(acgt)
            ),
        }
        for name, count in frame.select(**{name: rule.sum() for name, rule in odd.items()}).row(0, named=True).items():
            self.odd[name] = self.odd.get(name, 0) + count
        places = frame.select(chromosome.fill_null(0).alias("chromosome"), "position")
        if places.height and self.sorted:
            key = places.to_struct("place")
            self.sorted = not self.odd["rows on a chromosome outside 1-25"] and key.is_sorted() and places.row(0) >= self.last
            self.last = places.row(-1)


def metadata_text(file_name: str, about: Metadata, seen: Tally, md5: str) -> str:
    """Return the metadata file; strings are quoted as JSON quotes them, which YAML reads."""
    odd = [f"{count} {name}" for name, count in seen.odd.items() if count]
    notes = [about.author_notes] if about.author_notes else []
    notes += ["kept although GWAS-SSF does not allow it: " + ", ".join(odd)] if odd else []
    modified = about.modified or datetime.now(UTC).date()

    def listed(values: Iterable[str], indent: str = "") -> str:
        return "".join(f"\n{indent}  - {_quoted(value)}" for value in values)

    lines = ["---", "# Study meta-data"]
    lines += [f"author_notes: {_quoted('; '.join(notes))}"] if notes else []
    lines += [f"date_metadata_last_modified: {modified.isoformat()}", "", "# Trait Information"]
    lines += [f"trait_description:{listed([about.trait_description or seen.trait or ''])}", "", "# Genotyping Information"]
    lines += [f"genome_assembly: {_quoted(about.genome_assembly or 'unknown')}", 'coordinate_system: "1-based"']
    lines += [f"genotyping_technology:{listed(about.genotyping_technology)}"]
    lines += [f"imputation_panel: {_quoted(about.imputation_panel)}"] if about.imputation_panel else []
    lines += [
        "",
        "# Sample Information",
        "samples:",
        f"  - sample_ancestry_category:{listed(about.sample_ancestry_category, '    ')}",
    ]
    lines += [
        f"    sample_size: {about.sample_size or seen.largest_n}",
        "    case_control_study: false",
        f"sex: {_quoted(about.sex)}",
    ]
    lines += ["", "# Summary Statistic information", f"data_file_name: {_quoted(file_name)}"]
    lines += [f"file_type: {_quoted('pre-GWAS-SSF' if odd else 'GWAS-SSF v1.0')}", f"data_file_md5sum: {_quoted(md5)}"]
    lines += [f"analysis_software: {_quoted(about.analysis_software)}"] if about.analysis_software else []
    lines += [f"adjusted_covariates:{listed(about.adjusted_covariates)}"] if about.adjusted_covariates else []
    lines += ["", "# Harmonization status", "is_harmonised: false", f"is_sorted: {str(seen.sorted).lower()}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
