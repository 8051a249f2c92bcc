"""Genotypes with the linkage, the frequencies and the structure of a real cohort: coalescent founders, then gene-dropping.

Every megabase is one coalescent with recombination (msprime; Kelleher, Etheridge & McVean 2016, doi:10.1371/journal.pcbi.1004842;
Baumdicker et al. 2022, doi:10.1093/genetics/iyab229) of a demography in which three demes parted 200 and 400 generations ago
(pairwise F_ST about 0.01 and 0.02). Four fifths of the recombination falls into hotspots, so that linkage reaches tens of
kilobases and then breaks. Megabases are independent of each other: linkage stops at their borders, which lie far beyond its
reach, and distant cousins do not arise by chance. Relatives are made afterwards from founders, by Mendelian transmission with
crossovers: trios (two parents and a child) and pairs of siblings whose parents are not in the cohort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError, need

DEMES = ("A", "B", "C")
BUILD = "simulated"
_DEME_SHARE = (0.60, 0.25, 0.15)
_SPLIT = (200, 400)  # generations ago: A from B, then C from both
_POPULATION_SIZE = 10_000
_RECOMBINATION = 1e-8  # a base pair a generation: 1 cM a megabase
_HOT = 0.8  # share of the recombination in hotspots of 2 kb, one in about 50 kb
_LENGTHS = (60, 55, 50, 45, 40)  # megabases of chromosomes 1, 2, …, and again
_MEGABASE = 1_000_000
_SPACING = 8_300  # base pairs between variants where a piece is not dense
_IN_FAMILIES = 0.05  # share of the participants
MIN_FREQUENCY = 0.01


@dataclass(frozen=True)
class Piece:
    """One stretch of a chromosome with its own genealogy: ``n_variants`` variants within ``start`` … ``start + length``."""

    chromosome: int
    start: int
    length: int
    n_variants: int
    seed: tuple[int, ...]


@dataclass(frozen=True)
class People:
    """Who is in the cohort.

    ``table`` has participant_id, family_id, sex, deme; ``parents`` (n, 2) rows of the founders that a participant is the child
    of, −1 for founders; ``founder`` (n,) row of the founder that the participant is, −1 for children; ``founders`` the number
    of founders in each deme (founders are ordered by deme).
    """

    table: pl.DataFrame
    founder: NDArray[np.int64]
    parents: NDArray[np.int64]
    founders: tuple[int, ...]


def draw_people(participants: int, seed: int) -> People:
    """Draw who is whose child, sex and deme. About 5 % are in families: trios and sibling pairs, in turn."""
    generator = np.random.default_rng([seed, 1])
    n_families = int(_IN_FAMILIES * participants / 2.5)  # a trio has three members in the cohort, a sibling pair two
    n_trios, n_pairs = (n_families + 1) // 2, n_families // 2
    # Rows of the plan: unrelated founders, then families. Parents of sibling pairs are founders who do not take part.
    n_unrelated = participants - 3 * n_trios - 2 * n_pairs
    n_founders = n_unrelated + 2 * n_trios + 2 * n_pairs
    deme_of_family = generator.choice(len(DEMES), size=n_trios + n_pairs, p=_DEME_SHARE)
    deme_of_unrelated = generator.choice(len(DEMES), size=n_unrelated, p=_DEME_SHARE)
    deme = np.concatenate([deme_of_unrelated, np.repeat(deme_of_family, 2)])
    row = np.argsort(np.argsort(deme, kind="stable"), kind="stable")  # founders are stored by deme
    couples = row[n_unrelated:].reshape(-1, 2)
    trios, pairs = couples[:n_trios], couples[n_trios:]

    founder = np.concatenate([row[:n_unrelated], trios.ravel(), np.full(n_trios + 2 * n_pairs, -1)])
    parents = np.concatenate([np.full((n_unrelated + 2 * n_trios, 2), -1), trios, np.repeat(pairs, 2, axis=0)])
    sex = generator.integers(0, 2, len(founder))
    sex[n_unrelated : n_unrelated + 2 * n_trios] = np.tile([1, 0], n_trios)  # mother, father
    family = np.concatenate([np.full(n_unrelated, -1), np.repeat(np.arange(n_trios), 2), np.arange(n_trios)])
    family = np.concatenate([family, np.repeat(np.arange(n_trios, n_trios + n_pairs), 2)])
    people_deme = np.where(family < 0, 0, deme_of_family[family] if len(deme_of_family) else 0)
    people_deme[:n_unrelated] = deme_of_unrelated

    order = generator.permutation(participants)  # so that ids tell nothing
    identifiers = [f"P{k:06d}" for k in range(1, participants + 1)]
    families = [f"F{f + 1:05d}" if f >= 0 else name for f, name in zip(family[order], identifiers, strict=True)]
    table = pl.DataFrame(
        {
            "participant_id": identifiers,
            "family_id": families,
            "sex": np.array(["male", "female"])[sex[order]],
            "deme": np.array(DEMES)[people_deme[order]],
        }
    )
    counts = tuple(int(k) for k in np.bincount(deme, minlength=len(DEMES)))
    assert sum(counts) == n_founders
    return People(table, founder[order].astype(np.int64), parents[order].astype(np.int64), counts)


def chromosome_length(chromosome: int) -> int:
    """Return the base pairs of a simulated chromosome (1, 2, …)."""
    return _LENGTHS[(chromosome - 1) % len(_LENGTHS)] * _MEGABASE


def plan_pieces(variants: int, chromosomes: int, seed: int) -> list[Piece]:
    """Lay out ``variants`` over the chromosomes: one piece a megabase, about 8 kb between variants.

    With too few variants to cover the genome at that spacing, the pieces shrink to islands, so that linkage is kept; with
    more, variants lie closer.
    """
    if not 1 <= chromosomes <= 22:
        raise StudyError("the number of chromosomes must lie between 1 and 22", got=chromosomes)
    if variants < 100 * chromosomes:
        raise StudyError("too few variants for the chromosomes", got=variants, expected=f"at least {100 * chromosomes}")
    places = [(c, m * _MEGABASE) for c in range(1, chromosomes + 1) for m in range(chromosome_length(c) // _MEGABASE)]
    n_pieces = min(len(places), variants // 8)
    chosen = [places[i] for i in np.linspace(0, len(places) - 1, n_pieces).round().astype(int)]
    shares = np.diff(np.linspace(0, variants, n_pieces + 1).round().astype(int))
    pieces = []
    for k, ((chromosome, start), share) in enumerate(zip(chosen, shares, strict=True)):
        length = int(min(_MEGABASE, _SPACING * share))
        pieces.append(Piece(chromosome, start + (_MEGABASE - length) // 2, length, int(share), (seed, 2, k)))
    return pieces


def simulate_piece(piece: Piece, founders: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Run one genealogy.

    Returns
    -------
    positions, alleles
        1-based, ascending, shape (n_variants,); and 0/1, shape (n_variants, 2 × founders): the two haplotypes of a founder side
        by side, founders by deme. Frequencies over all founders are at least ``MIN_FREQUENCY`` from 0 and 1.
    """
    msprime = need("msprime", "simulate")
    generator = np.random.default_rng(piece.seed)
    ancestry_seed, mutation_seed = (int(s) for s in generator.integers(1, 2**31, 2))
    trees = msprime.sim_ancestry(
        samples=[msprime.SampleSet(n, population=deme) for deme, n in zip(DEMES, founders, strict=True) if n],
        demography=_demography(),
        recombination_rate=_recombination_map(piece.length, generator),
        random_seed=ancestry_seed,
        record_provenance=False,
    )
    # Common variants wanted per base pair over those that a mutation rate of 1 would give (4 N ln(1 / MAF) for a neutral tree),
    # four times as many to choose from; doubled until every piece has its number.
    rate = 4 * piece.n_variants / (piece.length * 4 * _POPULATION_SIZE * np.log(1 / MIN_FREQUENCY))
    while True:
        mutated = msprime.sim_mutations(
            trees, rate=rate, model=msprime.BinaryMutationModel(), random_seed=mutation_seed, record_provenance=False
        )
        site, position = _common_sites(mutated)
        if len(site) >= piece.n_variants:
            break
        rate *= 2
    kept = site[_spread(position, piece, generator)]
    alleles = mutated.delete_sites(np.setdiff1d(np.arange(mutated.num_sites), kept), record_provenance=False).genotype_matrix()
    positions = piece.start + mutated.sites_position[kept].astype(np.int64) + 1
    return positions, np.asarray(alleles, dtype=np.uint8)


def _demography() -> Any:
    msprime = need("msprime", "simulate")
    demography = msprime.Demography()
    for name in (*DEMES, "AB", "ABC"):
        demography.add_population(name=name, initial_size=_POPULATION_SIZE)
    demography.add_population_split(time=_SPLIT[0], derived=["A", "B"], ancestral="AB")
    demography.add_population_split(time=_SPLIT[1], derived=["AB", "C"], ancestral="ABC")
    return demography


def _recombination_map(length: int, generator: np.random.Generator) -> Any:
    msprime = need("msprime", "simulate")
    width, apart = 2_000, 50_000
    n_hot = length // apart
    if n_hot == 0:
        return msprime.RateMap.uniform(length, _RECOMBINATION)
    starts = (np.arange(n_hot) * apart + generator.integers(0, apart - width, n_hot)).astype(float)
    strength = generator.gamma(1.5, size=n_hot)
    hot = _HOT * _RECOMBINATION * length * strength / (strength.sum() * width)
    cold = (1 - _HOT) * _RECOMBINATION
    borders = np.concatenate([[0], np.column_stack([starts, starts + width]).ravel(), [length]])
    rates = np.full(len(borders) - 1, cold)
    rates[1::2] += hot
    keep = np.diff(borders) > 0
    return msprime.RateMap(position=np.concatenate([borders[:-1][keep], [length]]), rate=rates[keep])


def _common_sites(trees: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the sites with one mutation and a frequency in range, with their positions; counted on the trees."""
    node, site = trees.mutations_node, trees.mutations_site
    position = trees.sites_position[site]  # ascending: mutations are stored by site
    copies = np.zeros(len(node), np.int64)
    k = 0
    for tree in trees.trees():
        right = tree.interval.right
        while k < len(node) and position[k] < right:
            copies[k] = tree.num_samples(int(node[k]))
            k += 1
    lowest = MIN_FREQUENCY * trees.num_samples
    common = (copies >= lowest) & (copies <= trees.num_samples - lowest) & (np.bincount(site)[site] == 1)
    return site[common].astype(np.int64), position[common]


def _spread(position: NDArray[np.float64], piece: Piece, generator: np.random.Generator) -> NDArray[np.int64]:
    """Choose ``n_variants`` sites: one at random in each of as many equal slots; empty slots are made up for from the rest."""
    order = generator.permutation(len(position))
    slot = (position[order] * piece.n_variants / piece.length).astype(np.int64)
    _, first = np.unique(slot, return_index=True)
    chosen = order[first]
    rest = np.setdiff1d(order, chosen)
    more = generator.choice(rest, piece.n_variants - len(chosen), replace=False)
    return np.sort(np.concatenate([chosen, more]))


def count_alleles(
    positions: NDArray[np.int64], alleles: NDArray[np.uint8], people: People, generator: np.random.Generator
) -> NDArray[np.int8]:
    """Drop one chromosome's founder alleles through the pedigree.

    Parameters
    ----------
    positions
        Ascending base pairs, shape (n_variants,).
    alleles
        0/1, shape (n_variants, 2 × founders).
    generator
        Draws the crossovers, one a Morgan on average without interference (Haldane), and which haplotype a gamete starts on.

    Returns
    -------
    NDArray[np.int8]
        Copies of the counted allele, shape (n_variants, n_participants).
    """
    counts = np.empty((len(positions), len(people.founder)), np.int8)
    founders = np.flatnonzero(people.founder >= 0)
    first = 2 * people.founder[founders]
    counts[:, founders] = alleles[:, first] + alleles[:, first + 1]
    morgans = _RECOMBINATION * (positions[-1] - positions[0] + 1)
    for child in np.flatnonzero(people.founder < 0):
        total = np.zeros(len(positions), np.int8)
        for parent in people.parents[child]:
            crossovers = np.sort(generator.uniform(positions[0], positions[-1], generator.poisson(morgans)))
            side = (np.searchsorted(crossovers, positions) + generator.integers(2)) % 2
            total += alleles[np.arange(len(positions)), 2 * parent + side].astype(np.int8)
        counts[:, child] = total
    return counts


def describe_variants(chromosome: int, positions: NDArray[np.int64], generator: np.random.Generator) -> pl.DataFrame:
    """Return one chromosome's variants as ``core.schema.VARIANTS``, with random pairs of letters as alleles."""
    letters = np.array(["A", "C", "G", "T"])
    effect = generator.integers(0, 4, len(positions))
    other = (effect + generator.integers(1, 4, len(positions))) % 4
    table = pl.DataFrame(
        {
            "chromosome": np.full(len(positions), str(chromosome)),
            "position": positions,
            "effect_allele": letters[effect],
            "other_allele": letters[other],
        }
    )
    name = pl.concat_str("chromosome", "position", "other_allele", "effect_allele", separator=":")
    return table.select(name.alias("variant_id"), "chromosome", "position", "effect_allele", "other_allele")
