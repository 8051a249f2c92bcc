"""Nearly independent common variants: what principal components and kinship are computed from.

Variants in linkage disequilibrium repeat each other, and a few long regions (the MHC, large inversions) hold so much of it
that they make principal components of their own. So: autosomes, common variants, outside those regions, then thinned until
no two within a window are correlated above a threshold.

``LONG_RANGE_LD`` are the regions of Price et al. (2008, table in the letter; coordinates of build 36) lifted to GRCh37 and
GRCh38 and widened to the next 0.1 Mb, the MHC widened to 25–34 Mb, and the 17q21.31 inversion (Stefansson et al. 2005).

References
----------
Price et al. (2008) Long-range LD can confound genome scans in admixed populations. Am J Hum Genet, doi:10.1016/j.ajhg.2008.06.005
Stefansson et al. (2005) A common inversion under selection in Europeans. Nat Genet, doi:10.1038/ng1508
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError
from clinome.core.progress import track
from clinome.formats.genotypes import Block, Genotypes

NOT_AUTOSOMES = ("X", "Y", "XY", "MT", "M", "W", "Z", "PAR1", "PAR2", "0", "Un", "")

# chromosome, then first and last megabase in GRCh37 and in GRCh38
_MEGABASES = (
    ("1", 48.2, 52.3, 47.7, 51.8),
    ("2", 86.1, 101.2, 85.9, 100.6),
    ("2", 134.7, 138.3, 134.0, 137.6),
    ("2", 183.2, 190.3, 182.4, 189.5),
    ("3", 47.5, 50.1, 47.4, 50.0),
    ("3", 83.4, 87.0, 83.3, 86.9),
    ("3", 88.9, 96.1, 88.8, 96.4),
    ("5", 44.4, 50.5, 44.4, 51.2),
    ("5", 97.9, 100.5, 98.6, 101.2),
    ("5", 128.9, 132.0, 129.6, 132.7),
    ("5", 135.4, 138.5, 136.1, 139.2),
    ("6", 25.0, 34.0, 25.0, 34.0),
    ("6", 56.8, 64.0, 57.0, 63.3),
    ("6", 139.9, 142.5, 139.6, 142.2),
    ("7", 55.0, 66.4, 54.9, 66.9),
    ("8", 7.9, 12.0, 8.1, 12.2),
    ("8", 42.8, 49.9, 43.0, 49.0),
    ("8", 111.9, 115.0, 110.9, 114.0),
    ("10", 36.9, 43.7, 36.6, 43.2),
    ("11", 46.0, 57.3, 46.0, 57.5),
    ("11", 87.8, 90.9, 88.1, 91.2),
    ("12", 33.1, 41.8, 32.9, 41.4),
    ("12", 111.0, 113.6, 110.5, 113.2),
    ("17", 43.5, 45.0, 45.4, 47.0),
    ("20", 32.5, 35.1, 33.9, 36.5),
)
LONG_RANGE_LD: dict[str, tuple[tuple[str, int, int], ...]] = {
    "GRCh37": tuple((name, round(first * 1e6), round(last * 1e6)) for name, first, last, _, _ in _MEGABASES),
    "GRCh38": tuple((name, round(first * 1e6), round(last * 1e6)) for name, _, _, first, last in _MEGABASES),
}
"""Genome build → (chromosome, first, last base pair), of regions that are left out."""


class IndependentVariants(NamedTuple):
    """``variants`` are rows of the genotypes' variants table, ascending, int64; ``notes`` say how many were left out and why."""

    variants: NDArray[np.int64]
    notes: tuple[str, ...]


def independent_variants(
    genotypes: Genotypes,
    *,
    r2: float = 0.2,
    window: int = 500_000,
    maf: float = 0.01,
    max_missing: float = 0.05,
    exclude_regions: Sequence[tuple[str, int, int]] | None = None,
    samples: NDArray[np.int64] | None = None,
) -> IndependentVariants:
    """Choose common autosomal variants of which no two within ``window`` have a squared correlation above ``r2``.

    Along each chromosome a variant is kept when it is not correlated with one kept before it. Blocks of variants are
    streamed; only the kept ones within the window stay in memory.

    Parameters
    ----------
    r2
        Largest squared correlation of allele counts (missing ones at the variant's mean) between two kept variants.
    window
        Base pairs over which pairs are compared.
    maf, max_missing
        Rarer variants, and those missing in a larger share of people, are left out.
    exclude_regions
        (chromosome, first, last) to leave out; None takes :data:`LONG_RANGE_LD` of the genotypes' build, and none, with a
        note, when the build is not known.
    samples
        Rows of the people to look at; None is all. A few thousand are enough.

    Raises
    ------
    CohortError
        When no variant is left.
    """
    notes: list[str] = []
    rows = autosomal(genotypes.variants)
    if left := genotypes.variants.height - len(rows):
        notes.append(f"{left} variants are not on autosomes")
    table = genotypes.variants[rows]
    placed = (table["position"] > 0).to_numpy()
    if left := int((~placed).sum()):
        notes.append(f"{left} variants have no position")
    if exclude_regions is None:
        exclude_regions = LONG_RANGE_LD.get(genotypes.build or "", ())
        if not exclude_regions:
            build = f"for build {genotypes.build}" if genotypes.build else "because the genome build is not known"
            notes.append(f"no regions of long-range LD are left out {build}")
    outside = ~_inside(table, exclude_regions)
    if left := int((placed & ~outside).sum()):
        notes.append(f"{left} variants lie in regions of long-range LD")
    rows, table = rows[placed & outside], table.filter(pl.Series(placed & outside))

    people = genotypes.samples.height if samples is None else len(samples)
    pruner = _Pruner(genotypes, samples, r2=r2, window=window, maf=maf, max_missing=max_missing)
    kept = []
    chromosomes = table["chromosome"].unique(maintain_order=True).to_list()
    for chromosome in track(chromosomes, "independent variants"):
        here = (table["chromosome"] == chromosome).to_numpy()
        kept.append(pruner.chromosome(rows[here], table["position"].to_numpy()[here], size=max(1, min(1024, 2**25 // people))))
    variants = np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)
    if pruner.rare:
        notes.append(f"{pruner.rare} variants are rarer than {maf:g} or missing in more than {max_missing:.0%} of people")
    notes.append(f"{len(variants)} of {genotypes.variants.height} variants are common and independent (r² ≤ {r2:g} in {window} bp)")
    if not len(variants):
        raise CohortError("no variant is left for principal components or kinship", got="; ".join(notes))
    return IndependentVariants(variants, tuple(notes))


def autosomal(variants: pl.DataFrame) -> NDArray[np.int64]:
    """Return the rows of a ``variants`` table that are on autosomes (of any species: not X, Y, MT, Z, W or unplaced)."""
    return (~variants["chromosome"].is_in(NOT_AUTOSOMES)).arg_true().to_numpy().astype(np.int64)


def frequencies(block: Block) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the effect-allele frequency of each variant of a block (NaN when nobody is called) and the people called."""
    called = (block.counts >= 0).sum(axis=1, dtype=np.int64)
    total = block.counts.sum(axis=1, dtype=np.int64) + (block.counts.shape[1] - called)  # a missing count is −1
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / (2.0 * block.scale * called), called


def _inside(table: pl.DataFrame, regions: Sequence[tuple[str, int, int]]) -> NDArray[np.bool_]:
    chromosome, position = table["chromosome"], table["position"]
    inside = np.zeros(table.height, dtype=bool)
    for name, first, last in regions:
        inside |= ((chromosome == name) & (position >= first) & (position <= last)).to_numpy()
    return inside


class _Pruner:
    """Walks along chromosomes and remembers what was kept within the window."""

    def __init__(
        self, genotypes: Genotypes, samples: NDArray[np.int64] | None, *, r2: float, window: int, maf: float, max_missing: float
    ) -> None:
        self.genotypes, self.samples = genotypes, samples
        self.r2, self.window, self.maf, self.max_missing = r2, window, maf, max_missing
        self.rare = 0

    def chromosome(self, rows: NDArray[np.int64], positions: NDArray[np.int64], *, size: int) -> NDArray[np.int64]:
        """Return the kept ones among ``rows``, which are all on one chromosome, in any order."""
        order = np.argsort(positions, kind="stable")
        rows, positions = rows[order], positions[order]
        kept = [np.empty(0, np.int64)]
        near: NDArray[np.float32] | None = None
        near_positions = np.empty(0, np.int64)
        for start in range(0, len(rows), size):
            unit, usable = self._unit(rows[start : start + size])
            here, at = rows[start : start + size][usable], positions[start : start + size][usable]
            if not len(here):
                continue
            if near is None:
                near = np.empty((0, unit.shape[1]), np.float32)
            inside = near_positions >= at[0] - self.window
            near, near_positions = near[inside], near_positions[inside]
            close = at[:, None] - near_positions <= self.window
            dropped = ((unit @ near.T) ** 2 > self.r2) & close
            chosen = self._walk(unit, at, dropped.any(axis=1))
            kept.append(here[chosen])
            near = np.concatenate([near, unit[chosen]])
            near_positions = np.concatenate([near_positions, at[chosen]])
        return np.concatenate(kept)

    def _walk(self, unit: NDArray[np.float32], at: NDArray[np.int64], dropped: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Keep variants of a block from first to last, each dropping the later ones that it is correlated with."""
        linked = (unit @ unit.T) ** 2 > self.r2
        linked &= at[None, :] - at[:, None] <= self.window
        chosen = []
        for i in range(len(at)):
            if not dropped[i]:
                chosen.append(i)
                dropped |= linked[i]
        return np.array(chosen, dtype=np.int64)

    def _unit(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read variants as centred rows of length 1, and say which pass the filters (only those are returned)."""
        order = np.argsort(rows)
        block = self.genotypes.read(rows[order], self.samples)
        counts = block.counts[np.argsort(order)] if (np.diff(order) < 0).any() else block.counts
        frequency, called = frequencies(Block(rows, counts, block.scale))
        with np.errstate(invalid="ignore"):
            usable = (np.minimum(frequency, 1 - frequency) >= max(self.maf, 1e-9)) & (
                called >= (1 - self.max_missing) * counts.shape[1]
            )
        counts = counts[usable]
        unit = counts.astype(np.float32)
        unit -= (2 * block.scale * frequency[usable, None]).astype(np.float32)
        unit[counts < 0] = 0
        length = np.linalg.norm(unit, axis=1, keepdims=True)
        varies = length[:, 0] > 0  # everybody heterozygous has a frequency of a half and no variance
        usable[np.flatnonzero(usable)[~varies]] = False
        self.rare += int((~usable).sum())
        return unit[varies] / length[varies], usable
