"""The loci: their table, the region around each, what the evidence looks like over the dimensions, and what each locus looks like.

The average picture of a genotype is an average of people. Where it rests on fewer than ``FEWEST`` of them it would show a
person rather than a genotype, and it is withheld.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinome.core.schema import EVIDENCE, GENES, GENOTYPE_PICTURES, LOCI, MANHATTAN, REGIONS
from clinome.report.numbers import base_pairs
from clinome.report.phenotypes import picture
from clinome.report.reading import lazy_table, listed, table

FEWEST = 5  # people behind an average picture that may be shown
MOST_CARDS = 60  # loci with a region and pictures of their own; all are in the table
MOST_POINTS = 1_500  # variants drawn in a region
MOST_COLUMNS = 200  # traits in the grid of evidence: more are narrower than a reader can tell, and a page of megabytes


@dataclass(frozen=True)
class GenotypePicture:
    """An average picture; ``address`` is ``None`` where it is withheld or its file is not there."""

    kind: str
    genotype: str
    copies: int | None
    n: int
    withheld: bool
    address: str | None


@dataclass(frozen=True)
class Locus:
    """A row of the loci table with its pictures and, for the strongest loci, the region to draw."""

    row: dict[str, Any]
    omnibus: float | None
    study_wide: float | None
    pictures: tuple[GenotypePicture, ...]
    region: dict[str, Any] | None

    @property
    def number(self) -> int:
        """The locus's number along the genome."""
        return int(self.row["locus"])

    @property
    def gene(self) -> str | None:
        """The nearest gene, when a gene table was given."""
        return self.row.get("nearest_gene")

    @property
    def gene_place(self) -> str:
        """Where the lead lies relative to the gene."""
        distance = self.row.get("gene_distance")
        return "" if distance is None else "inside" if distance == 0 else f"{base_pairs(abs(distance))} away"


@dataclass(frozen=True)
class Loci:
    """All loci in the order of the genome; those of ``cards`` are also shown one by one."""

    rows: tuple[Locus, ...]
    cards: tuple[Locus, ...]
    has_genes: bool
    has_joint: bool
    evidence: dict[str, Any] | None


def loci(folder: Path, lines: Mapping[str, float | None]) -> Loci | None:
    """Read the tables in ``loci/``; ``None`` where there is no table of loci.

    ``lines`` holds the −log10 p at which one 'dimension' and the 'omnibus' are significant.
    """
    found = table(folder, "loci/loci.parquet", LOCI)
    if found is None:
        return None
    found = found.sort("locus")
    regions, genes = table(folder, "loci/regions.parquet", REGIONS), table(folder, "loci/genes.parquet", GENES)
    pictures, joint = _pictures(folder), _joint(folder, found)
    strongest = set(found.sort("neg_log_10_p_value", descending=True)["locus"].head(MOST_CARDS).to_list())
    rows = []
    for row in found.iter_rows(named=True):
        region = None
        if regions is not None and row["locus"] in strongest:
            line = lines.get("omnibus" if row["best_trait"] == "omnibus" else "dimension")
            region = _region(row, regions.filter(pl.col("locus") == row["locus"]), genes, line)
        omnibus, study_wide = joint.get((row["chromosome"], row["position"], row["variant_id"]), (None, None))
        rows.append(Locus(row, omnibus, study_wide, pictures.get(row["locus"], ()), region))
    has_genes = "nearest_gene" in found.columns and found["nearest_gene"].null_count() < found.height
    cards = tuple(locus for locus in rows if locus.number in strongest)
    return Loci(tuple(rows), cards, has_genes, any(locus.omnibus is not None for locus in rows), _evidence(folder, found))


def _joint(folder: Path, found: pl.DataFrame) -> dict[tuple[str, int, str], tuple[float | None, float | None]]:
    """Omnibus and study-wide −log10 p of the leads from the table of the whole scan: a lead need not be strong in one dimension."""
    scan = lazy_table(folder, "gwas/manhattan.parquet", MANHATTAN)
    if scan is None:
        return {}
    names = ["chromosome", "position", "variant_id"]
    leads = scan.join(found.select(names).unique().lazy(), on=names, how="semi").select(*names, "omnibus", "study_wide")
    return {(row[0], row[1], row[2]): (row[3], row[4]) for row in leads.collect(engine="streaming").iter_rows()}


def _pictures(folder: Path) -> dict[int, tuple[GenotypePicture, ...]]:
    """Average pictures by locus: by copies of the effect allele, the difference last."""
    frame = table(folder, "loci/genotype_pictures.parquet", GENOTYPE_PICTURES)
    if frame is None:
        return {}
    by_locus: dict[int, tuple[GenotypePicture, ...]] = {}
    order = frame.sort("locus", pl.col("kind") != "mean", "copies", maintain_order=True)
    for (locus,), group in order.group_by("locus", maintain_order=True):
        rows = group.to_dicts()
        homozygotes = [r["n"] for r in rows if r["kind"] == "mean" and r["copies"] in (0, 2)]
        made = []
        for row in rows:
            people = min([row["n"], *homozygotes]) if row["kind"] != "mean" else row["n"]
            withheld = people < FEWEST
            address = None if withheld else picture(folder / "loci" / row["path"])
            made.append(GenotypePicture(row["kind"], row["genotype"], row["copies"], row["n"], withheld, address))
        by_locus[int(str(locus))] = tuple(made)
    return by_locus


def _region(locus: dict[str, Any], region: pl.DataFrame, genes: pl.DataFrame | None, line: float | None) -> dict[str, Any] | None:
    """The variants and genes around a lead, column by column, as the page's script draws them."""
    region = region.filter(pl.col("neg_log_10_p_value").is_finite())
    if region.is_empty():
        return None
    region = _thin(region)
    start, end = min(locus["start"], region["position"].min()), max(locus["end"], region["position"].max())
    return {
        "locus": locus["locus"],
        "lead": locus["variant_id"],
        "chromosome": locus["chromosome"],
        "trait": locus["best_trait"],
        "start": start,
        "end": end,
        "line": line,
        "id": region["variant_id"].to_list(),
        "position": region["position"].to_list(),
        "value": listed(region["neg_log_10_p_value"], 3),
        "r2": listed(region["r2"], 3),
        "genes": _lanes(genes, locus["chromosome"], start, end),
    }


def _thin(region: pl.DataFrame) -> pl.DataFrame:
    """Keep the variants linked to the lead or with evidence, and one a cell of the others, when there are very many."""
    if region.height <= MOST_POINTS:
        return region.sort("position", "variant_id")
    ranked = region.sort(pl.col("r2").fill_null(0) + pl.col("neg_log_10_p_value") / 10, descending=True)
    kept, rest = ranked.head(MOST_POINTS // 2), ranked.slice(MOST_POINTS // 2)
    first, last = region["position"].min(), region["position"].max()
    column = (pl.col("position") - first) * 150 // (pl.lit(last) - first + 1)
    one = rest.group_by(
        column.alias("column"), (pl.col("neg_log_10_p_value") * 2).floor().alias("level"), maintain_order=True
    ).first()
    return pl.concat([kept, one.select(kept.columns).head(MOST_POINTS // 2)]).sort("position", "variant_id")


def _lanes(genes: pl.DataFrame | None, chromosome: str, start: int, end: int, *, most: int = 60) -> list[dict[str, Any]]:
    """The genes of a window with the lane in which each is drawn, so that names do not lie on each other."""
    if genes is None:
        return []
    inside = genes.filter((pl.col("chromosome") == chromosome) & (pl.col("end") >= start) & (pl.col("start") <= end))
    if inside.height > most:  # the longest ones; a window of 5 Mb can hold hundreds
        inside = inside.sort(pl.col("end") - pl.col("start"), descending=True).head(most)
    ends: list[float] = []
    drawn = []
    for gene in inside.sort("start", "end", "gene").iter_rows(named=True):
        width = max(gene["end"] - gene["start"], (end - start) * 0.017 * len(gene["gene"]))  # a letter takes 1.7 % of the plot
        middle = (max(gene["start"], start) + min(gene["end"], end)) / 2
        left, right = middle - width / 2, middle + width / 2
        lane = next((i for i, last in enumerate(ends) if last < left), len(ends))
        ends[lane : lane + 1] = [right]
        drawn.append({"gene": gene["gene"], "start": gene["start"], "end": gene["end"], "lane": lane})
    return drawn


def _evidence(folder: Path, found: pl.DataFrame) -> dict[str, Any] | None:
    """−log10 p of every lead for every dimension, with beta and its standard error: one row a locus, one column a trait.

    Of more than :data:`MOST_COLUMNS` traits those are shown that are strongest at some lead; ``of`` is how many there are.
    """
    frame = table(folder, "loci/evidence.parquet", EVIDENCE)
    if frame is None or frame["trait"].n_unique() < 2:
        return None  # of one trait the table of loci says it all
    best = frame.group_by("trait", maintain_order=True).agg(pl.col("neg_log_10_p_value").max())
    strongest = best.sort("neg_log_10_p_value", descending=True, nulls_last=True)["trait"].head(MOST_COLUMNS)
    traits = best.filter(pl.col("trait").is_in(strongest.implode()))["trait"].to_list()
    frame = frame.filter(pl.col("trait").is_in(strongest.implode()))
    cells = {(r["locus"], r["trait"]): r for r in frame.iter_rows(named=True)}
    order = [n for n in found["locus"].to_list() if n in set(frame["locus"].to_list())]
    names = {row["locus"]: row.get("nearest_gene") or row["variant_id"] for row in found.iter_rows(named=True)}

    def grid(column: str, digits: int) -> list[list[float | None]]:
        return [[_rounded(cells.get((n, t), {}).get(column), digits) for t in traits] for n in order]

    return {
        "traits": traits,
        "of": best.height,
        "loci": order,
        "names": [names[n] for n in order],
        "value": grid("neg_log_10_p_value", 2),
        "beta": grid("beta", 4),
        "standard_error": grid("standard_error", 4),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
