from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.cohort.pruning import LONG_RANGE_LD, autosomal, frequencies, independent_variants
from clinome.core.errors import CohortError


def chains(rng: np.random.Generator, n_variants: int, n_people: int, *, missing: float = 0.02) -> np.ndarray:
    """Genotypes in which each variant's haplotypes copy the one before with probability 0.9."""
    haplotypes = np.zeros((n_variants, 2 * n_people), np.int8)
    haplotypes[0] = rng.random(2 * n_people) < 0.4
    for j in range(1, n_variants):
        fresh = rng.random(2 * n_people) < rng.uniform(0.02, 0.5)
        haplotypes[j] = np.where(rng.random(2 * n_people) < 0.9, haplotypes[j - 1], fresh)
    counts = haplotypes[:, ::2] + haplotypes[:, 1::2]
    counts[rng.random(counts.shape) < missing] = -1
    return counts


def squared_correlations(counts: np.ndarray) -> np.ndarray:
    filled = np.where(counts < 0, np.nan, counts.astype(float))
    filled = np.where(np.isnan(filled), np.nanmean(filled, axis=1, keepdims=True), filled)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(filled) ** 2


@pytest.mark.parametrize("window", [30_000, 500_000])
def test_no_kept_pair_in_the_window_is_correlated_and_none_is_dropped_without_a_cause(
    generator: np.random.Generator, window: int
) -> None:
    counts = chains(generator, 1500, 200)
    genotypes = array_genotypes(counts, chromosomes=["1"] * 1000 + ["2"] * 500)
    kept = independent_variants(genotypes, r2=0.3, window=window).variants
    assert 50 < len(kept) < 1400
    assert (np.diff(kept) > 0).all()
    r2 = squared_correlations(counts)
    position = genotypes.variants["position"].to_numpy()
    chromosome = genotypes.variants["chromosome"].to_numpy()
    near = (np.abs(position[:, None] - position) <= window) & (chromosome[:, None] == chromosome)
    correlated = (r2 > 0.3 + 1e-5) & near & ~np.eye(1500, dtype=bool)
    assert not correlated[np.ix_(kept, kept)].any()
    frequency, _ = frequencies(genotypes.read(np.arange(1500)))
    common = np.minimum(frequency, 1 - frequency) >= 0.01 + 1e-9
    called = (counts >= 0).mean(axis=1) > 0.95
    for j in set(np.flatnonzero(common & called)) - set(kept):
        earlier = kept[kept < j]
        assert ((r2[j, earlier] > 0.3 - 1e-5) & near[j, earlier]).any(), f"variant {j} was dropped without a cause"


def test_the_order_of_variants_in_the_file_does_not_matter(generator: np.random.Generator) -> None:
    counts = chains(generator, 400, 100)
    genotypes = array_genotypes(counts)
    order = generator.permutation(400)
    shuffled = ArrayGenotypes(genotypes.samples, genotypes.variants[order], counts[order])
    kept = independent_variants(genotypes).variants
    again = independent_variants(shuffled).variants
    assert sorted(order[again]) == kept.tolist()


def test_what_is_left_out_is_counted(generator: np.random.Generator) -> None:
    counts = random_counts(generator, 60, 300)
    counts[40] = 0
    counts[41, :100] = -1
    counts[42] = 1
    chromosomes = ["6"] * 20 + ["X"] * 10 + ["1"] * 30
    positions = np.arange(60) * 1_000_000 + 20_000_000
    positions[59] = 0
    genotypes = array_genotypes(counts, chromosomes=chromosomes, positions=positions, build="GRCh37")
    found = independent_variants(genotypes, r2=0.5)
    outside = {*range(5), *range(15, 20), *range(33, 59)}  # 25–34 Mb of chromosome 6 and 48.2–52.3 Mb of chromosome 1 go
    assert set(found.variants) == outside - {40, 41, 42}
    notes = "\n".join(found.notes)
    assert "10 variants are not on autosomes" in notes
    assert "1 variants have no position" in notes
    assert "3 variants are rarer than 0.01 or missing in more than 5% of people" in notes
    unknown = independent_variants(array_genotypes(counts, chromosomes=chromosomes, positions=positions), r2=0.5)
    assert "no regions of long-range LD are left out because the genome build is not known" in unknown.notes
    assert set(found.variants) < set(unknown.variants)
    given = independent_variants(genotypes, r2=0.5, exclude_regions=[("1", 1, 10**9)])
    assert genotypes.variants[given.variants]["chromosome"].unique().to_list() == ["6"]
    with pytest.raises(CohortError, match=r"(?s)no variant is left.*10 variants are not on autosomes"):
        independent_variants(genotypes, maf=0.499999)


def test_regions_of_both_builds_hold_the_same_landmarks() -> None:
    landmarks = {  # HLA-A, HLA-DRB1, LCT, a marker of the 8p23 inversion (BLK) and MAPT
        "GRCh37": [("6", 29_910_247), ("6", 32_546_546), ("2", 136_545_415), ("8", 11_351_510), ("17", 43_971_748)],
        "GRCh38": [("6", 29_942_532), ("6", 32_578_769), ("2", 135_787_850), ("8", 11_494_001), ("17", 45_894_382)],
    }
    for build, places in landmarks.items():
        regions = LONG_RANGE_LD[build]
        assert all(first < last for _, first, last in regions)
        for chromosome, position in places:
            assert any(c == chromosome and a <= position <= b for c, a, b in regions), (build, chromosome, position)
    for old, new in zip(LONG_RANGE_LD["GRCh37"], LONG_RANGE_LD["GRCh38"], strict=True):
        assert old[0] == new[0]
        assert abs(old[1] - new[1]) < 2.5e6
        assert abs(old[2] - new[2]) < 2.5e6


def test_autosomes_of_any_species() -> None:
    table = pl.DataFrame({"chromosome": ["1", "X", "Gm03", "MT", "38", "0", "Z", "2A"]})
    assert autosomal(table).tolist() == [0, 2, 4, 7]


def test_frequencies_of_dosages() -> None:
    block = array_genotypes(np.array([[0, 255, 510, -1], [-1, -1, -1, -1]]), scale=255).read(np.arange(2))
    frequency, called = frequencies(block)
    assert called.tolist() == [3, 0]
    assert frequency[0] == 0.5
    assert np.isnan(frequency[1])
