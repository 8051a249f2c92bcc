"""Where the heritable part of the anatomy sits: ten planted loci, a thin polygenic background, and a toy gene table.

Nine loci count in "planted loci found": three each on disc size, cup ratio and pigmentation, at 3.5, 4.0 and 4.5 % of the
latent's variance. In 3,000 people the smallest has a noncentrality of 105 for the latent itself and 70 for traits that together
read two thirds of its variance: power about 0.9 at 5e-8 for a test of sixteen traits at once. The tenth, 4.5 % of vessel calibre,
does not count: vessels are about one pixel wide at the demo's resolution, and how much of their width is read there is up to the
encoder.

The background is 10 % of each latent's variance over up to 3,000 variants, 0.003 % each: it lifts λ a little, as polygenic traits
do, and no single variant of it can be found in a cohort of this size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.core.schema import TRUE_LOCI
from clinome.simulate.anatomy import LATENTS, Values
from clinome.simulate.genotypes import chromosome_length

PLANTED = (*((latent, share) for latent in LATENTS[:3] for share in (0.035, 0.040, 0.045)), ("vessel_calibre", 0.045))
COUNTED = frozenset(LATENTS[:3])
_APART = 5_000_000
_N_BACKGROUND = 3_000
_GENE_NAMES = {"disc_size": "DSC", "cup_ratio": "CUP", "pigmentation": "PIG", "vessel_calibre": "VSC"}


class Target(NamedTuple):
    """A locus to plant: the chromosome, the position to be near, and what it does."""

    chromosome: int
    position: int
    latent: str
    share: float


class Effects(NamedTuple):
    """One chromosome's contribution: rows for ``true_loci``, and the scores of everybody, shape (n_participants, 6) each."""

    loci: pl.DataFrame
    planted: Values
    background: Values


def place_targets(chromosomes: int, generator: np.random.Generator) -> list[Target]:
    """Spread the planted loci evenly over the genome, in random order, with some jitter; at least 5 Mb apart."""
    lengths = [chromosome_length(c) for c in range(1, chromosomes + 1)]
    apart = sum(lengths) / len(PLANTED)
    jitter = max(0.0, min(apart / 2 - 0.65 * _APART, 4e6))
    borders = np.cumsum([0, *lengths])
    targets = []
    for k, row in enumerate(generator.permutation(len(PLANTED))):
        place = (k + 0.5) * apart + generator.uniform(-jitter, jitter)
        chromosome = int(np.searchsorted(borders, place, side="right"))
        # Keep away from the borders of the chromosome, so that a window around the lead is whole.
        within = float(np.clip(place - borders[chromosome - 1], 3e6, lengths[chromosome - 1] - 3e6))
        targets.append(Target(chromosome, int(within), *PLANTED[row]))
    return sorted(targets)


def plant(
    variants: pl.DataFrame, counts: NDArray[np.int8], targets: list[Target], share: float, generator: np.random.Generator
) -> Effects:
    """Give one chromosome's variants their effects.

    Parameters
    ----------
    variants, counts
        The chromosome's table and the copies of the effect allele, shape (n_variants, n_participants).
    targets
        The loci to plant on this chromosome; the nearest variant of frequency 0.2–0.8 becomes causal.
    share
        The chromosome's share of all variants, which is its share of the background.
    """
    n = counts.shape[1]
    position = variants["position"].to_numpy()
    frequency = counts.mean(axis=1) / 2
    common = np.flatnonzero((frequency >= 0.2) & (frequency <= 0.8))
    planted, rows, taken = np.zeros((n, len(LATENTS))), [], np.empty(0, np.int64)
    for target in targets:
        free = common[np.all(np.abs(position[common][:, None] - taken) >= _APART, axis=1)]
        if len(free) == 0:
            raise StudyError(
                "no common variant is left for a planted locus",
                where=f"chromosome {target.chromosome}",
                do="ask for more variants, participants or chromosomes",
            )
        causal = int(free[np.argmin(np.abs(position[free] - target.position))])
        taken = np.append(taken, position[causal])
        sign = generator.choice([-1, 1])
        planted[:, LATENTS.index(target.latent)] += sign * np.sqrt(target.share) * _standardised(counts[causal : causal + 1])[0]
        variant = variants.row(causal, named=True)
        raising = variant["effect_allele"] if sign > 0 else variant["other_allele"]
        where = (variant["variant_id"], variant["chromosome"], variant["position"])
        rows.append((*where, raising, target.latent, target.share, target.latent in COUNTED))
    polymorphic = np.flatnonzero((frequency > 0) & (frequency < 1))
    n_background = min(round(_N_BACKGROUND * share), len(polymorphic))
    tiny = np.sort(generator.choice(polymorphic, n_background, replace=False))
    background = _standardised(counts[tiny]).T @ generator.standard_normal((n_background, len(LATENTS)))
    return Effects(true_loci(rows), planted, background)


def true_loci(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    """Return ``rows`` as a table of ``core.schema.TRUE_LOCI``; no rows give an empty table."""
    return pl.DataFrame(rows, schema={column.name: column.dtype for column in TRUE_LOCI.columns}, orient="row")


def _standardised(counts: NDArray[np.int8]) -> Values:
    values = counts.astype(np.float64)
    standard: Values = (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)
    return standard


def make_genes(loci: pl.DataFrame, chromosomes: int, generator: np.random.Generator) -> pl.DataFrame:
    """Make a toy gene table, ``core.schema.GENES``: a gene around each planted locus, named for what it does, and many others.

    Other genes lie about 400 kb apart, none within 100 kb of a causal variant; all names are invented.
    """
    rows: list[tuple[str, str, int, int]] = []
    for (latent,), found in loci.sort("latent", "variance_explained").group_by("latent", maintain_order=True):
        for k, locus in enumerate(found.iter_rows(named=True), start=1):
            before, after = (int(d) for d in generator.integers(5_000, 40_000, 2))
            name = f"{_GENE_NAMES[str(latent)]}{k}"
            rows.append((name, locus["chromosome"], locus["position"] - before, locus["position"] + after))
    for chromosome in range(1, chromosomes + 1):
        causal = loci.filter(pl.col("chromosome") == str(chromosome))["position"].to_numpy()
        starts = np.arange(200_000, chromosome_length(chromosome) - 200_000, 400_000)
        starts = starts + generator.integers(-150_000, 150_000, len(starts))
        ends = starts + generator.integers(3_000, 60_000, len(starts))
        clear = np.all((starts[:, None] > causal + 100_000) | (ends[:, None] < causal - 100_000), axis=1)
        rows += [
            (f"SIM{chromosome:02d}{k:03d}", str(chromosome), int(start), int(end))
            for k, (start, end) in enumerate(zip(starts[clear], ends[clear], strict=True), start=1)
        ]
    genes = pl.DataFrame(rows, schema=["gene", "chromosome", "start", "end"], orient="row")
    return genes.sort(pl.col("chromosome").cast(pl.Int64), "start")
