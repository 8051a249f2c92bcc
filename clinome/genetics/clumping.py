"""From associated variants to loci: LD clumping, merged windows, r² to the lead, the nearest gene.

1. Take the strongest variant that reaches the threshold as a lead; every variant within ``radius`` that reaches it and has
   r² ≥ ``r2`` with the lead belongs to it. Repeat with what is left (the greedy clumping of PLINK; Purcell et al. 2007,
   doi:10.1086/519795).
2. Clumps whose windows (first to last member) lie within ``merge`` of each other are one locus; its lead is the strongest.

LD is that of the people who were analysed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.core.files import replacing
from clinome.core.progress import track
from clinome.core.schema import EVIDENCE, GENES, LOCI, REGIONS, Table, check
from clinome.formats.genotypes import Genotypes
from clinome.genetics.results import GENOME_WIDE, Results
from clinome.stats.ld import r_squared

Floats = NDArray[np.float64]
_CELLS = 24_000_000  # people × variants whose LD is taken at once


@dataclass(frozen=True)
class Clumping:
    """How loci are made: ``alpha`` study-wide; ``r2`` to a lead; ``radius`` and ``merge`` in base pairs; ``flank`` of plots."""

    alpha: float = GENOME_WIDE
    r2: float = 0.1
    radius: int = 1_000_000
    merge: int = 250_000
    flank: int = 250_000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for name, good, expected in (
            ("alpha", 0 < self.alpha < 1, "more than 0 and less than 1"),
            ("r2", 0 <= self.r2 <= 1, "0 to 1"),
            *((name, getattr(self, name) >= 0, "0 base pairs or more") for name in ("radius", "merge", "flank")),
        ):
            if not good:
                raise StudyError(f"the clumping setting {name} is out of range", got=getattr(self, name), expected=expected)


class Loci(NamedTuple):
    """Tables LOCI, REGIONS (r² to the lead in each window) and EVIDENCE (each lead over all traits)."""

    loci: pl.DataFrame
    regions: pl.DataFrame
    evidence: pl.DataFrame


class _Locus(NamedTuple):
    lead: int
    members: list[int]
    start: int
    end: int


def find_loci(
    results: Results,
    genotypes: Genotypes,
    *,
    people: NDArray[np.int64] | None = None,
    settings: Clumping | None = None,
    genes: pl.DataFrame | None = None,
    dimension_threshold: float,
) -> Loci:
    """Turn a summarised scan into loci.

    Parameters
    ----------
    results
        A scan in whose folder :func:`clinome.genetics.studywide.summarise` has written ``manhattan.parquet``.
    people
        Rows of ``genotypes.samples`` whose LD is used (those analysed); None is everybody.
    genes
        GENES; adds the nearest gene.
    dimension_threshold
        −log10 p that a single trait must reach to be named among a locus's traits; where none does, the locus is the omnibus's.
    """
    settings = settings or Clumping()
    table = pl.read_parquet(results.folder / "manhattan.parquet").with_row_index("row")
    source_rows = results.variants["source_row"].to_numpy()
    hits = table.filter(pl.col("study_wide") >= -np.log10(settings.alpha))
    found: list[_Locus] = []
    for (_chromosome,), group in hits.group_by("chromosome", maintain_order=True):
        found += _clump_chromosome(group, genotypes, source_rows, people, settings)
    found.sort(key=lambda locus: locus.lead)
    leads = table[[locus.lead for locus in found]] if found else table.clear()
    rows = [_describe(i + 1, locus, leads.row(i, named=True), dimension_threshold) for i, locus in enumerate(found)]
    evidence = _evidence(results, leads)
    strong = evidence.filter(pl.col("neg_log_10_p_value") >= dimension_threshold)
    for row in rows:
        named = strong.filter(pl.col("locus") == row["locus"]).sort("neg_log_10_p_value", descending=True)["trait"].to_list()
        row["traits"] = ",".join(named) or row["best_trait"]
        if genes is not None:
            row["nearest_gene"], row["gene_distance"] = _nearest(genes, row["chromosome"], row["position"])
    columns = [c for c in LOCI.columns if c.required or genes is not None]
    loci = pl.DataFrame(rows, schema={c.name: c.dtype for c in columns})
    regions = _regions(results, table, rows, [locus.lead for locus in found], genotypes, source_rows, people, settings)
    return Loci(check(loci, LOCI), regions, evidence)


def _clump_chromosome(
    hits: pl.DataFrame, genotypes: Genotypes, source_rows: NDArray[np.int64], people: NDArray[np.int64] | None, settings: Clumping
) -> list[_Locus]:
    """Clump the hits of one chromosome and merge the clumps."""
    hits = hits.sort("position")
    row, position = hits["row"].to_numpy(), hits["position"].to_numpy()
    strength = hits["study_wide"].to_numpy()
    free = np.ones(len(row), dtype=np.bool_)
    clumps: list[_Locus] = []
    for k in np.argsort(-strength, kind="stable"):
        if not free[k]:
            continue
        near = np.flatnonzero(free & (np.abs(position - position[k]) <= settings.radius))
        r2 = _r2(genotypes, source_rows[row[near]], int(source_rows[row[k]]), people)
        members = near[(r2 >= settings.r2) | (near == k)]
        free[members] = False
        clumps.append(_Locus(int(row[k]), row[members].tolist(), int(position[members].min()), int(position[members].max())))
    by_strength = dict(zip(row.tolist(), strength.tolist(), strict=True))
    merged: list[_Locus] = []
    for clump in sorted(clumps, key=lambda c: (c.start, c.end)):
        if merged and clump.start - merged[-1].end <= settings.merge:
            last = merged.pop()
            lead = max((last.lead, clump.lead), key=lambda r: by_strength[r])
            clump = _Locus(lead, last.members + clump.members, last.start, max(last.end, clump.end))
        merged.append(clump)
    return merged


def _r2(genotypes: Genotypes, rows: NDArray[np.int64], lead: int, people: NDArray[np.int64] | None) -> Floats:
    """Return the r² of source ``rows`` (any order, each once) with the source row ``lead``, read in blocks of bounded size."""
    counts = genotypes.read(np.array([lead]), people).counts[0]
    size = max(1, _CELLS // max(len(counts), 1))
    order = np.argsort(rows, kind="stable")
    result = np.zeros(len(rows))
    for start in range(0, len(rows), size):
        some = order[start : start + size]
        result[some] = r_squared(genotypes.read(rows[some], people).counts, counts)
    return result


def _describe(number: int, locus: _Locus, lead: dict[str, Any], dimension_threshold: float) -> dict[str, Any]:
    """Return a row of LOCI; a trait that is not significant itself is not named, however small its p beside the omnibus's."""
    omnibus, best = lead["omnibus"], lead["best"]
    by_omnibus = omnibus is not None and (best is None or omnibus > best or best < dimension_threshold)
    return {
        "locus": number,
        **{
            k: lead[k] for k in ("variant_id", "chromosome", "position", "effect_allele", "other_allele", "effect_allele_frequency")
        },
        "start": locus.start,
        "end": locus.end,
        "best_trait": "omnibus" if by_omnibus else lead["best_trait"],
        "neg_log_10_p_value": omnibus if by_omnibus else best,
        "n_variants": len(locus.members),
    }


def _evidence(results: Results, leads: pl.DataFrame) -> pl.DataFrame:
    """Return EVIDENCE: every lead over every trait."""
    wanted = leads["row"].to_numpy().astype(np.int64)
    names = results.traits["trait"].to_list()
    numbers = np.full((3, len(wanted), len(names)), np.nan)  # −log10 p, beta, standard error
    for rows, pieces in results.walk(wanted):
        here = slice(*np.searchsorted(wanted, (rows[0], rows[-1] + 1)))
        for piece in pieces:
            numbers[:, here, piece.trait] = results.strength(piece), piece.beta, piece.standard_error
    columns = ("neg_log_10_p_value", "beta", "standard_error")
    table = pl.DataFrame(
        {
            "locus": np.repeat(np.arange(1, len(wanted) + 1), len(names)),
            "trait": names * len(wanted),
            **{name: pl.Series(values.ravel()).fill_nan(None) for name, values in zip(columns, numbers, strict=True)},
        },
        schema_overrides={"trait": pl.String},
    )
    return check(table, EVIDENCE)


def _nearest(genes: pl.DataFrame, chromosome: str, position: int) -> tuple[str | None, int | None]:
    """Return the nearest gene on the chromosome and its distance, 0 inside it; ties go to the shorter gene."""
    here = check(genes, GENES).filter(pl.col("chromosome") == chromosome)
    if not here.height:
        return None, None
    distance = pl.max_horizontal(pl.col("start") - position, position - pl.col("end"), pl.lit(0))
    best = here.with_columns(distance.alias("distance"), (pl.col("end") - pl.col("start")).alias("length")).sort(
        "distance", "length", "gene"
    )
    return str(best["gene"][0]), int(best["distance"][0])


def _regions(
    results: Results,
    table: pl.DataFrame,
    loci: list[dict[str, Any]],
    leads: list[int],
    genotypes: Genotypes,
    source_rows: NDArray[np.int64],
    people: NDArray[np.int64] | None,
    settings: Clumping,
) -> pl.DataFrame:
    """Return REGIONS: every variant in the window of a locus and its flanks, with r² to the lead and p for the best trait."""
    inside = [
        table.filter(
            (pl.col("chromosome") == locus["chromosome"])
            & pl.col("position").is_between(locus["start"] - settings.flank, locus["end"] + settings.flank)
        )
        for locus in loci
    ]
    windows = [frame["row"].to_numpy().astype(np.int64) for frame in inside]
    best = [locus["best_trait"] for locus in loci]
    wanted = {t: np.unique(np.concatenate([w for w, b in zip(windows, best, strict=True) if b == t])) for t in set(best)}
    strengths = results.strengths(wanted)
    frames = []
    for locus, lead, frame, rows in track(list(zip(loci, leads, inside, windows, strict=True)), "regional LD"):
        trait = locus["best_trait"]
        strength = pl.Series("neg_log_10_p_value", strengths[trait][np.searchsorted(wanted[trait], rows)])
        r2 = pl.Series("r2", _r2(genotypes, source_rows[rows], int(source_rows[lead]), people))
        shown = frame.select(pl.lit(locus["locus"]).alias("locus"), "variant_id", "chromosome", "position")
        frames.append(shown.with_columns(strength.fill_nan(None), r2))
    if not frames:
        return pl.DataFrame(schema={c.name: c.dtype for c in REGIONS.columns})
    return check(pl.concat(frames), REGIONS)


def save_loci(found: Loci, folder: str | Path) -> None:
    """Write ``loci.parquet``, ``regions.parquet`` and ``evidence.parquet`` into ``folder``."""
    tables: list[tuple[str, pl.DataFrame, Table]] = [
        ("loci", found.loci, LOCI),
        ("regions", found.regions, REGIONS),
        ("evidence", found.evidence, EVIDENCE),
    ]
    for name, frame, table in tables:
        with replacing(Path(folder) / f"{name}.parquet") as temporary:
            check(frame, table).write_parquet(temporary)
