"""The Manhattan plot of the whole scan, thinned so that ten million variants become a page that opens.

Every variant with strong evidence is kept. Of the others, each cell of a fine grid (position × −log10 p) keeps one, which
leaves the picture as it was: what is left out lies behind what is drawn. The table is read in passes and never held whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from clinome.core.schema import LOCI, MANHATTAN
from clinome.report.reading import lazy_table, listed, natural, table

STRONG = 4.0  # −log10 p from which every variant is drawn, as long as they are at most MOST_STRONG
MOST_STRONG = 6_000
COLUMNS, ROWS = 320, 30  # cells below it
FINE = 0.05  # height of the bins of −log10 p in which the number of strong variants is counted

VIEWS = {
    "study_wide": ("Study-wide", "p corrected over all {trait}s and, where there are two, over both kinds of test"),
    "best": ("Strongest {trait}", "smallest p over the {trait}s, one variant at a time, uncorrected"),
    "omnibus": ("Omnibus", "one test of all {trait}s together, whatever the rotation of their axes"),
}
LINES = {"study_wide": "study_wide", "best": "dimension", "omnibus": "omnibus"}  # view -> name in summary.json's thresholds


@dataclass(frozen=True)
class View:
    """One way to look at the scan: its values' meaning, its line, and how it was thinned."""

    key: str
    name: str
    meaning: str
    line: float | None
    largest: float
    drawn: int
    every_above: float


@dataclass(frozen=True)
class Manhattan:
    """The views, and ``data``, which the page's script draws."""

    views: tuple[View, ...]
    n_variants: int
    n_chromosomes: int
    data: dict[str, Any]


class Chromosome(NamedTuple):
    """A chromosome and where it lies on the axis, in base pairs from the left."""

    name: str
    start: int
    length: int


def manhattan(folder: Path, thresholds: dict[str, float | None], *, trait: str = "trait") -> Manhattan | None:
    """Read ``gwas/manhattan.parquet`` and thin it; ``None`` where it is absent or empty. ``trait`` is the word for one trait."""
    lazy = lazy_table(folder, "gwas/manhattan.parquet", MANHATTAN)
    if lazy is None:
        return None
    chromosomes, n_variants = _axis(lazy)
    if not n_variants:
        return None
    lazy = lazy.with_row_index("row").with_columns(
        pl.col("chromosome")
        .replace_strict({c.name: c.start for c in chromosomes}, return_dtype=pl.Int64)
        .add(pl.col("position"))
        .alias("x")
    )
    loci = table(folder, "loci/loci.parquet", LOCI)
    leads = [] if loci is None else loci["variant_id"].to_list()
    span = chromosomes[-1].start + chromosomes[-1].length
    views, kept = [], {}
    lines = {key: thresholds.get(name) for key, name in LINES.items()}
    one_test = lines["omnibus"] is None and lines["best"] is not None and lines["best"] == lines["study_wide"]
    for key, (name, meaning) in VIEWS.items():
        if one_test and key == "study_wide":
            continue  # with one trait and no omnibus there is nothing to correct for: it is the strongest trait's own p
        thinned = _thin(lazy, key, span, leads)
        if thinned is None:
            continue
        rows, largest, strong = thinned
        kept[key] = rows
        views.append(View(key, name.format(trait=trait), meaning.format(trait=trait), lines[key], largest, rows.len(), strong))
    wanted = pl.concat(list(kept.values())).unique().sort()
    drawn = lazy.join(wanted.to_frame().lazy(), on="row", how="semi").collect(engine="streaming").sort("x", "row")
    data = _columns(drawn, chromosomes) | {
        "span": span,
        "views": [
            {"key": v.key, "name": v.name, "line": v.line, "largest": v.largest, "points": _places(drawn, kept[v.key])}
            for v in views
        ],
        "labels": _labels(loci, chromosomes) if loci is not None else [],
    }
    return Manhattan(tuple(views), n_variants, len(chromosomes), data)


def _axis(lazy: pl.LazyFrame) -> tuple[list[Chromosome], int]:
    """Lay the chromosomes side by side in natural order, with a gap of 0.4 % of the genome between them."""
    sizes = (
        lazy.group_by("chromosome").agg(pl.col("position").max().alias("length"), pl.len().alias("n")).collect(engine="streaming")
    )
    found = sorted(sizes.iter_rows(), key=lambda row: natural(row[0]))
    if not found:
        return [], 0
    gap = max(1, sum(length for _, length, _ in found) // 250)
    starts = accumulate((max(length, gap) + gap for _, length, _ in found[:-1]), initial=gap)
    chromosomes = [Chromosome(name, start, max(length, gap)) for (name, length, _), start in zip(found, starts, strict=True)]
    return chromosomes, sum(n for _, _, n in found)


def _thin(lazy: pl.LazyFrame, view: str, span: int, leads: list[str]) -> tuple[pl.Series, float, float] | None:
    """Choose the rows to draw in a view; also its largest value, and the value above which every variant is drawn."""
    value = pl.col(view)
    lazy = lazy.filter(value.is_not_null() & value.is_finite())
    counts = lazy.group_by((value / FINE).floor().alias("bin")).agg(pl.len(), value.max().alias("largest"))
    found = counts.collect(engine="streaming").sort("bin", descending=True)
    if found.is_empty():
        return None
    full = found.filter(found["len"].cum_sum() > MOST_STRONG)
    strong = STRONG if full.is_empty() else max(STRONG, (full["bin"][0] + 1) * FINE)
    # Where peaks are so crowded that the limit lies high, the grid below it keeps cells of the same height as elsewhere.
    rows = round(ROWS * strong / STRONG)
    cell = ((pl.col("x") * COLUMNS) // span).alias("column"), (value * rows / strong).floor().alias("level")
    below = lazy.filter(value < strong).group_by(cell).agg(pl.col("row").min()).select("row")
    above = lazy.filter((value >= strong) | pl.col("variant_id").is_in(leads)).select("row")
    kept = pl.concat([part.collect(engine="streaming")["row"] for part in (below, above)]).unique().sort()
    return kept, found["largest"].max(), strong  # type: ignore[return-value]


def _columns(drawn: pl.DataFrame, chromosomes: list[Chromosome]) -> dict[str, Any]:
    """The drawn variants column by column; words that repeat (alleles, traits, chromosomes) become places in a list."""
    alleles = pl.concat_str("other_allele", "effect_allele", separator=">")
    made = pl.concat_str("chromosome", "position", "other_allele", "effect_allele", separator=":")
    drawn = drawn.with_columns(
        alleles.alias("alleles"), pl.when(pl.col("variant_id") == made).then(pl.lit("")).otherwise("variant_id").alias("id")
    )
    words: dict[str, list[str]] = {"chromosome": [c.name for c in chromosomes]}
    for name in ("alleles", "best_trait"):
        words[name] = sorted(drawn[name].drop_nulls().unique())
    columns = {
        name: drawn[name].replace_strict({w: i for i, w in enumerate(words[name])}, default=None, return_dtype=pl.Int32).to_list()
        for name in words
    }
    columns |= {"id": drawn["id"].to_list(), "position": drawn["position"].to_list()}
    columns["frequency"] = listed(drawn["effect_allele_frequency"], 3)
    columns |= {view: listed(drawn[view], 2) for view in VIEWS}
    return {"variants": columns, "words": words, "chromosomes": [c._asdict() for c in chromosomes]}


def _places(drawn: pl.DataFrame, rows: pl.Series) -> list[int]:
    """Where a view's rows stand among the drawn variants, as steps from one to the next (small numbers, a short page)."""
    places = drawn["row"].is_in(rows.implode()).arg_true()
    return [int(step) for step in places.cast(pl.Int64).diff().fill_null(places.cast(pl.Int64).first()).to_list()]


def _labels(loci: pl.DataFrame, chromosomes: list[Chromosome], *, most: int = 40) -> list[dict[str, Any]]:
    """The lead variants to name, strongest first: number, gene where known, place on the axis."""
    start = {c.name: c.start for c in chromosomes}
    strongest = loci.sort("neg_log_10_p_value", "locus", descending=[True, False]).head(most)
    return [
        {
            "locus": row["locus"],
            "id": row["variant_id"],
            "gene": row.get("nearest_gene"),
            "x": start[row["chromosome"]] + row["position"],
        }
        for row in strongest.iter_rows(named=True)
        if row["chromosome"] in start
    ]
