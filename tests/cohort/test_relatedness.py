from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolkit.genotypes import array_genotypes, random_counts

from clinome.cohort.relatedness import related_pairs, unrelated
from clinome.core.errors import StudyError
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.plink import write_plink


def pedigree(rng: np.random.Generator, n_variants: int = 6000) -> np.ndarray:
    """Grandparents 0 1, parents 2 (of them) 3 4, children 5 6 (of 2 3) and 7 (of 2 4), a twin of 5, then strangers."""
    frequency = rng.uniform(0.1, 0.5, n_variants)
    haplotypes: list[np.ndarray] = []

    def founder() -> None:
        haplotypes.append((rng.random((2, n_variants)) < frequency).astype(np.int8))

    def child(mother: int, father: int) -> None:
        pick = rng.integers(0, 2, size=(2, n_variants))
        rows = np.arange(n_variants)
        haplotypes.append(np.stack([haplotypes[mother][pick[0], rows], haplotypes[father][pick[1], rows]]))

    founder(), founder(), child(0, 1), founder(), founder()
    child(2, 3), child(2, 3), child(2, 4)
    haplotypes.append(haplotypes[5])
    for _ in range(6):
        founder()
    return np.stack([h.sum(axis=0) for h in haplotypes], axis=1)


def test_kinship_of_a_pedigree_is_what_it_should_be(generator: np.random.Generator) -> None:
    table = related_pairs(array_genotypes(pedigree(generator)))
    found = {(a, b): k for a, b, k in table.iter_rows()}
    expected = {
        0.5: [("p5", "p8")],
        0.25: [("p0", "p2"), ("p1", "p2"), ("p2", "p5"), ("p2", "p6"), ("p2", "p7"), ("p3", "p5"), ("p4", "p7"), ("p5", "p6")],
        0.125: [("p0", "p5"), ("p1", "p6"), ("p0", "p7"), ("p5", "p7"), ("p6", "p7")],
    }
    for kinship, pairs in expected.items():
        for pair in pairs:
            assert found[pair] == pytest.approx(kinship, abs=0.035), pair
    strangers = {"p0", "p1", "p3", "p4", *(f"p{i}" for i in range(9, 15))}
    assert not [pair for pair in found if strangers.issuperset(pair)]
    assert len(found) == 8 + 7 + 3 + 6, "twin pairs counted: p8 is related to whom p5 is"


def test_definition_pair_by_pair_with_missing_genotypes_in_tiles(generator: np.random.Generator) -> None:
    counts = random_counts(generator, 300, 23, missing=0.1)
    genotypes = array_genotypes(counts)
    table = related_pairs(genotypes, cutoff=-10, pairs_at_a_time=100)
    assert len(genotypes.reads) > 1
    assert table.equals(related_pairs(genotypes, cutoff=-10))
    assert table.height == 23 * 22 // 2
    for a, b, kinship in table.iter_rows():
        x, y = counts[:, int(a[1:])].astype(int), counts[:, int(b[1:])].astype(int)
        x, y = x[(x >= 0) & (y >= 0)], y[(x >= 0) & (y >= 0)]
        smaller = min((x == 1).sum(), (y == 1).sum())
        by_hand = (((x == 1) & (y == 1)).sum() - 2 * (np.abs(x - y) == 2).sum()) / (2 * smaller) + 0.5
        by_hand -= ((x == 1).sum() + (y == 1).sum()) / (4 * smaller)
        assert kinship == pytest.approx(by_hand, abs=1e-12)


def king_of_plink(plink2: str, prefix: Path, cutoff: float) -> dict[tuple[str, str], float]:
    command = [plink2, "--bfile", str(prefix), "--make-king-table", "--king-table-filter", str(cutoff), "--threads", "1"]
    subprocess.run([*command, "--out", str(prefix)], check=True, capture_output=True)
    table = pl.read_csv(f"{prefix}.kin0", separator="\t", infer_schema=False)
    return {(r["IID1"], r["IID2"]): float(r["KINSHIP"]) for r in table.iter_rows(named=True)}


def same_as_plink(table: pl.DataFrame, expected: dict[tuple[str, str], float]) -> None:
    found = {(a, b): k for a, b, k in table.iter_rows()}
    assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in expected}
    for (a, b), kinship in expected.items():
        assert found.get((a, b), found.get((b, a))) == pytest.approx(kinship, abs=1e-6)


def test_same_as_plink2_on_simulated_people(program, generator: np.random.Generator, tmp_path: Path) -> None:
    counts = pedigree(generator, 2000)
    counts[generator.random(counts.shape) < 0.03] = -1
    genotypes = array_genotypes(counts)
    write_plink(tmp_path / "people.bed", samples=genotypes.samples, variants=genotypes.variants, blocks=iter([counts]))
    expected = king_of_plink(program("plink2"), tmp_path / "people", -1)
    assert len(expected) == 15 * 14 // 2
    same_as_plink(related_pairs(genotypes, cutoff=-1), expected)


def test_same_as_plink2_on_hapmap(program, real_data, tmp_path: Path) -> None:
    folder = real_data("1kg-hm3-thinned")
    for name in ("hm3.bed", "hm3.bim"):
        (tmp_path / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    shutil.copy(folder / "hm3.fam", tmp_path / "hm3.fam")
    expected = king_of_plink(program("plink2"), tmp_path / "hm3", 0.05)
    assert len(expected) > 5
    same_as_plink(related_pairs(open_genotypes(tmp_path / "hm3.bed"), cutoff=0.05), expected)


def test_whole_dosages_are_hard_calls_and_others_an_error(generator: np.random.Generator) -> None:
    counts = random_counts(generator, 400, 8, missing=0.05)
    hard = array_genotypes(counts)
    whole = array_genotypes(np.where(counts < 0, -1, counts.astype(np.int32) * 255), scale=255)
    assert related_pairs(whole, cutoff=-9).equals(related_pairs(hard, cutoff=-9))
    half = array_genotypes(np.full((3, 4), 100), scale=255)
    with pytest.raises(StudyError, match="hard calls"):
        related_pairs(half)


def test_subsets_of_people_and_variants(generator: np.random.Generator) -> None:
    counts = pedigree(generator)
    people, variants = np.array([7, 2, 0, 5]), np.arange(0, 6000, 2)
    smaller = array_genotypes(counts[variants][:, people])
    renamed = related_pairs(smaller).with_columns(
        pl.col("^participant.*$").replace({f"p{i}": f"p{p}" for i, p in enumerate(people)})
    )
    assert related_pairs(array_genotypes(counts), variants=variants, samples=people).equals(renamed)


PAIRS = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=30)


@given(PAIRS, st.dictionaries(st.integers(0, 14).map(str), st.floats(-3, 3), max_size=5), st.randoms(use_true_random=False))
def test_unrelated_is_independent_maximal_and_order_free(pairs, prefer, random) -> None:
    ids = [str(i) for i in range(15)]
    linked = [(str(a), str(b)) for a, b in pairs]
    schema = {"participant_id_1": pl.String, "participant_id_2": pl.String}
    kept = unrelated(ids, pl.DataFrame(linked, schema=schema, orient="row"), prefer=prefer)
    edges = {frozenset(pair) for pair in linked if pair[0] != pair[1]}
    assert not [edge for edge in edges if edge <= set(kept)]
    for person in set(ids) - set(kept):
        assert any(edge <= {person, *kept} for edge in edges), "somebody without a kept relative was dropped"
    shuffled, turned = ids[:], [(b, a) for a, b in linked]
    random.shuffle(shuffled)
    random.shuffle(turned)
    again = unrelated(shuffled, pl.DataFrame(turned, schema=schema, orient="row"), prefer=prefer)
    assert set(again) == set(kept)


def test_preferred_people_are_kept() -> None:
    pair = pl.DataFrame({"participant_id_1": ["a"], "participant_id_2": ["b"]})
    assert unrelated(["a", "b"], pair) == ["a"]
    assert unrelated(["a", "b"], pair, prefer={"b": 5.0, "a": 2.0}) == ["b"]
    assert unrelated(["a"], pair) == ["a"], "a relative outside the study does not count"
