"""Linkage, frequencies, structure and relatives of simulated genotypes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from clinome.core.errors import StudyError
from clinome.simulate.genotypes import (
    MIN_FREQUENCY,
    People,
    chromosome_length,
    count_alleles,
    describe_variants,
    draw_people,
    plan_pieces,
    simulate_piece,
)

SEED = 3


@pytest.fixture(scope="module")
def people() -> People:
    return draw_people(800, SEED)


@pytest.fixture(scope="module")
def chromosome(people: People) -> tuple[np.ndarray, np.ndarray]:
    """Forty whole megabases of the first chromosome: positions and counts of the effect allele."""
    pieces = [piece for piece in plan_pieces(30_000, 5, SEED) if piece.chromosome == 1][:40]
    positions, alleles = zip(*(simulate_piece(piece, people.founders) for piece in pieces), strict=True)
    where = np.concatenate(positions)
    return where, count_alleles(where, np.concatenate(alleles), people, np.random.default_rng(SEED))


def test_variants_lie_evenly_over_the_whole_length_and_in_order() -> None:
    pieces = plan_pieces(30_000, 5, SEED)
    assert sum(piece.n_variants for piece in pieces) == 30_000
    for chromosome in range(1, 6):
        here = [piece for piece in pieces if piece.chromosome == chromosome]
        assert len(here) == chromosome_length(chromosome) // 1_000_000
        assert all(a.start + a.length <= b.start for a, b in pairwise(here))
        assert here[-1].start + here[-1].length <= chromosome_length(chromosome)


@pytest.mark.parametrize(("variants", "chromosomes"), [(501, 5), (2_000, 5), (2_000, 1), (2_200, 22)])
def test_few_variants_form_islands_so_that_linkage_stays(variants: int, chromosomes: int) -> None:
    pieces = plan_pieces(variants, chromosomes, SEED)
    assert sum(piece.n_variants for piece in pieces) == variants
    assert {piece.chromosome for piece in pieces} == set(range(1, chromosomes + 1))
    assert max(piece.length / piece.n_variants for piece in pieces) < 10_000


@pytest.mark.parametrize(("variants", "chromosomes", "word"), [(99, 1, "variants"), (30_000, 0, "chromosomes"), (30_000, 23, "22")])
def test_arguments_out_of_range_are_one_clear_error(variants: int, chromosomes: int, word: str) -> None:
    with pytest.raises(StudyError, match=word):
        plan_pieces(variants, chromosomes, SEED)


def test_frequencies_are_common_and_counts_are_genotypes(chromosome: tuple[np.ndarray, np.ndarray]) -> None:
    positions, counts = chromosome
    assert np.all(np.diff(positions) > 0)
    assert counts.min() == 0
    assert counts.max() == 2
    frequency = counts.mean(axis=1) / 2
    # Founders reach MIN_FREQUENCY exactly; a participant table of the same size may fall below by a few copies.
    assert np.minimum(frequency, 1 - frequency).min() > 0.6 * MIN_FREQUENCY
    assert 0.1 < np.mean(np.minimum(frequency, 1 - frequency) > 0.3) < 0.5


def test_linkage_is_strong_nearby_and_gone_a_megabase_away(chromosome: tuple[np.ndarray, np.ndarray]) -> None:
    positions, counts = chromosome
    frequency = counts.mean(axis=1) / 2
    common = (frequency > 0.1) & (frequency < 0.9)
    where, values = positions[common][:1500], counts[common][:1500].astype(float)
    r2 = np.corrcoef(values) ** 2
    distance = np.abs(where[:, None] - where[None, :])
    mean = {
        kb: r2[(distance > low * 1000) & (distance <= kb * 1000)].mean()
        for low, kb in ((0, 10), (20, 40), (60, 100), (300, 500), (2_000, 9_000))
    }
    assert mean[10] > 0.25
    assert mean[10] > mean[40] > mean[100] > mean[500]
    assert mean[40] > 0.08
    assert mean[9_000] == pytest.approx(1 / values.shape[1], rel=0.6)  # only chance and the demes


def test_demes_differ_as_the_splits_say(chromosome: tuple[np.ndarray, np.ndarray], people: People) -> None:
    _, counts = chromosome
    deme = people.table["deme"].to_numpy()

    def hudson(a: str, b: str) -> float:
        """F_ST of Hudson, ratio of averages (Bhatia et al. 2013, doi:10.1101/gr.154831.113)."""
        (p, n), (q, m) = ((counts[:, deme == d].mean(axis=1) / 2, 2 * (deme == d).sum()) for d in (a, b))
        between = (p - q) ** 2 - p * (1 - p) / (n - 1) - q * (1 - q) / (m - 1)
        return float(between.sum() / (p * (1 - q) + q * (1 - p)).sum())

    # A split T generations ago in populations of N: T / (T + 2 N).
    assert hudson("A", "B") == pytest.approx(200 / 20_200, rel=0.35)
    assert hudson("A", "C") == pytest.approx(400 / 20_400, rel=0.35)
    standard = counts - counts.mean(axis=1, keepdims=True)
    standard = standard / standard.std(axis=1, keepdims=True)
    _, _, components = np.linalg.svd(standard[::4], full_matrices=False)
    first = components[0]
    groups = [first[deme == d] for d in "ABC"]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / ((first - first.mean()) ** 2).sum()
    assert within < 0.35, "the first component must separate the demes"


def test_relatives_are_mendelian_and_their_kinship_is_a_quarter(chromosome: tuple[np.ndarray, np.ndarray], people: People) -> None:
    _, counts = chromosome
    families = people.table.with_row_index("row").group_by("family_id", maintain_order=True).agg("row", "deme")
    families = families.filter(families["row"].list.len() > 1)
    assert families["deme"].list.n_unique().max() == 1
    assert 0.03 < families["row"].list.len().sum() / len(people.founder) < 0.07
    children = np.flatnonzero(people.founder < 0)
    founder_row = {int(f): row for row, f in enumerate(people.founder) if f >= 0}
    trios = [(c, *(founder_row[int(p)] for p in people.parents[c])) for c in children if int(people.parents[c][0]) in founder_row]
    siblings = [rows for rows in families["row"].to_list() if len(rows) == 2]
    assert len(trios) >= 5
    assert len(siblings) >= 5
    for child, mother, father in trios:
        assert np.all(counts[:, child] >= (counts[:, mother] == 2).astype(int) + (counts[:, father] == 2))
        assert np.all(counts[:, child] <= 2 - (counts[:, mother] == 0).astype(int) - (counts[:, father] == 0))
        assert people.table["sex"][mother] == "female"
        assert people.table["sex"][father] == "male"

    def kinship(i: int, j: int) -> float:
        """KING-robust within a deme (Manichaikul et al. 2010, doi:10.1093/bioinformatics/btq559)."""
        a, b = counts[:, i], counts[:, j]
        shared = np.sum((a == 1) & (b == 1)) - 2 * np.sum(np.abs(a - b) == 2)
        return float(shared / (np.sum(a == 1) + np.sum(b == 1)))

    assert np.mean([kinship(c, m) for c, m, _ in trios]) == pytest.approx(0.25, abs=0.02)
    assert np.mean([kinship(i, j) for i, j in siblings]) == pytest.approx(0.25, abs=0.06)  # varies with 40 cM
    assert np.mean([kinship(m, f) for _, m, f in trios]) == pytest.approx(0.0, abs=0.03)


def test_a_piece_is_the_same_again_and_other_seeds_differ(people: People) -> None:
    piece = plan_pieces(2_000, 5, SEED)[0]
    first, again = simulate_piece(piece, people.founders), simulate_piece(piece, people.founders)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    other = simulate_piece(plan_pieces(2_000, 5, SEED + 1)[0], people.founders)
    assert not np.array_equal(first[0], other[0])


def test_variants_are_named_by_place_and_two_different_letters() -> None:
    table = describe_variants(2, np.array([5, 9]), np.random.default_rng(1))
    assert (table["effect_allele"] != table["other_allele"]).all()
    row = table.row(1, named=True)
    assert row["variant_id"] == f"2:9:{row['other_allele']}:{row['effect_allele']}"
