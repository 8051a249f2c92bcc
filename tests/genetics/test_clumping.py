"""Loci from associated variants: planted signals come back as the loci they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.core.errors import StudyError
from clinome.genetics.association import Options, associate
from clinome.genetics.clumping import Clumping, Loci, find_loci, save_loci
from clinome.genetics.results import Results
from clinome.genetics.studywide import summarise, thresholds

PEOPLE = 1_500


class Made(NamedTuple):
    genotypes: ArrayGenotypes
    results: Results


def haplotypes(generator: np.random.Generator, n_variants: int, *, copied: float) -> np.ndarray:
    """Draw a run of variants, each a copy of the one before for a share ``copied`` of haplotypes: LD that decays."""
    rows = [generator.random(2 * PEOPLE) < 0.4]
    for _ in range(n_variants - 1):
        rows.append(np.where(generator.random(2 * PEOPLE) < copied, rows[-1], generator.random(2 * PEOPLE) < 0.4))
    return np.array(rows).reshape(n_variants, PEOPLE, 2).sum(axis=2).astype(np.int8)


def scanned(out: Path, counts: np.ndarray, positions: np.ndarray, traits: dict[str, np.ndarray], **how: object) -> Made:
    genotypes = array_genotypes(counts, positions=positions, **how)  # type: ignore[arg-type]
    frame = pl.DataFrame({"participant_id": genotypes.samples["participant_id"], **traits})
    sets = {"all": frame} if len(traits) > 1 else {}
    results = associate(genotypes, frame, omnibus_sets=sets, out=out, options=Options(shard_size=64))
    summarise(results, tests=float(len(traits)))
    genotypes.reads.clear()
    return Made(genotypes, results)


def loci_of(made: Made, *, genes: pl.DataFrame | None = None, **settings: object) -> Loci:
    n = made.results.traits.height
    limits = thresholds(5e-8, float(n), has_traits=True, has_omnibus=n > 1)
    return find_loci(
        made.results, made.genotypes, settings=Clumping(**settings), genes=genes, dimension_threshold=limits.dimension  # type: ignore[arg-type]
    )  # fmt: skip


def test_two_independent_signals_three_megabases_apart_are_two_loci(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    counts = random_counts(generator, 400, PEOPLE, maf=(0.3, 0.5))
    y = 0.5 * counts[100] + 0.5 * counts[399] + generator.normal(size=PEOPLE)
    positions = np.arange(1, 401) * 10_000
    found = loci_of(scanned(tmp_path, counts, positions, {"y": y}))
    assert found.loci["variant_id"].to_list() == ["v100", "v399"]
    assert found.loci["locus"].to_list() == [1, 2]
    assert found.loci["n_variants"].to_list() == [1, 1]
    assert found.loci.select("start", "end").rows() == [(1_010_000, 1_010_000), (4_000_000, 4_000_000)]
    first = found.regions.filter(locus=1)
    assert first["position"].to_list() == list(range(760_000, 1_260_001, 10_000))  # the window and its flanks of 250 kb
    assert first.filter(variant_id="v100")["r2"][0] == pytest.approx(1)
    assert first.filter(pl.col("variant_id") != "v100")["r2"].max() < 0.02  # type: ignore[operator]


def test_one_signal_with_ld_is_one_locus_however_long_its_tail(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    counts = haplotypes(generator, 120, copied=0.97)
    y = 1.2 * counts[60] + generator.normal(size=PEOPLE)
    made = scanned(tmp_path, counts, np.arange(1, 121) * 20_000, {"y": y})
    found = loci_of(made)
    assert found.loci["variant_id"].to_list() == ["v60"]
    hits = made.results.trait("y").filter(pl.col("neg_log_10_p_value") >= -np.log10(5e-8))
    assert hits.height > 30
    assert found.loci["n_variants"][0] == hits.height
    assert (found.loci["start"][0], found.loci["end"][0]) == (hits["position"].min(), hits["position"].max())
    # Without merging, the same tail is several clumps: those beyond the reach of r² 0.1 and 1 Mb.
    tail = loci_of(made, merge=0, radius=100_000)
    assert tail.loci.height > 1
    assert tail.loci["n_variants"].sum() == hits.height


def test_r2_of_a_region_is_the_squared_correlation_and_p_that_of_the_best_trait(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    counts = haplotypes(generator, 80, copied=0.9)
    traits = {"a": 0.6 * counts[40] + generator.normal(size=PEOPLE), "b": generator.normal(size=PEOPLE)}
    made = scanned(tmp_path, counts, np.arange(1, 81) * 30_000, traits)
    found = loci_of(made)
    assert found.loci["best_trait"].to_list() == ["a"]
    assert found.loci["traits"].to_list() == ["a"]
    region = found.regions
    rows = [int(v[1:]) for v in region["variant_id"]]
    np.testing.assert_allclose(region["r2"].to_numpy(), [np.corrcoef(counts[r], counts[40])[0, 1] ** 2 for r in rows], atol=1e-9)
    whole = made.results.trait("a")["neg_log_10_p_value"].to_numpy()
    np.testing.assert_array_equal(region["neg_log_10_p_value"].to_numpy(), whole[rows])
    assert found.evidence["trait"].to_list() == ["a", "b"]
    assert found.evidence["neg_log_10_p_value"][0] == whole[40]


def test_a_signal_spread_over_traits_is_the_omnibus_and_names_no_false_trait(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    counts = random_counts(generator, 60, PEOPLE, maf=(0.3, 0.5))
    effects = generator.normal(0, 1, (12, 1))
    values = 0.13 * effects * counts[20] + generator.normal(size=(12, PEOPLE))
    made = scanned(tmp_path, counts, np.arange(1, 61) * 50_000, {f"d{k}": row for k, row in enumerate(values)})
    found = loci_of(made)
    assert found.loci["variant_id"].to_list() == ["v20"]
    assert found.loci["best_trait"].to_list() == ["omnibus"]
    joint = made.results.trait("omnibus")["neg_log_10_p_value"].to_numpy()
    assert found.loci["neg_log_10_p_value"][0] == joint[20]
    at = [int(v[1:]) for v in found.regions["variant_id"]]
    np.testing.assert_array_equal(found.regions["neg_log_10_p_value"].to_numpy(), joint[at])


def test_a_trait_that_is_not_significant_itself_is_not_named_where_the_omnibus_is(tmp_path: Path) -> None:
    """The lead's smallest p is a trait's, below the line of one trait among twelve; the omnibus is over its own line."""
    generator = np.random.default_rng(9)
    counts = random_counts(generator, 60, PEOPLE, maf=(0.3, 0.5))
    basis = np.linalg.qr(np.column_stack([np.ones(PEOPLE), counts[20], generator.normal(size=(PEOPLE, 12))]))[0]
    z = np.array([5.8, *[1.6] * 11])  # noise orthogonal to the count and to itself: each trait's z is what is written here
    values = z[:, None] * basis[:, 1] + np.sqrt(PEOPLE) * basis[:, 2:].T
    made = scanned(tmp_path, counts, np.arange(1, 61) * 50_000, {f"d{k}": row for k, row in enumerate(values)})
    found = loci_of(made)
    limits = thresholds(5e-8, 12.0, has_traits=True, has_omnibus=True)
    lead = pl.read_parquet(tmp_path / "manhattan.parquet").row(20, named=True)
    assert limits.omnibus is not None
    assert limits.omnibus < lead["omnibus"] < lead["best"] < limits.dimension
    assert found.loci.select("variant_id", "traits", "best_trait").rows() == [("v20", "omnibus", "omnibus")]
    assert found.loci["neg_log_10_p_value"][0] == lead["omnibus"]


def test_chromosomes_are_kept_apart_and_a_file_out_of_order_gives_the_same_loci(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    counts = random_counts(generator, 60, PEOPLE, maf=(0.3, 0.5))
    chromosomes = ["1"] * 30 + ["2"] * 30
    y = 0.5 * counts[10] + 0.5 * counts[40] + generator.normal(size=PEOPLE)
    positions = np.tile(np.arange(1, 31) * 10_000, 2)
    made = scanned(tmp_path / "a", counts, positions, {"y": y}, chromosomes=chromosomes)
    assert loci_of(made).loci.select("chromosome", "position").rows() == [("1", 110_000), ("2", 110_000)]
    order = generator.permutation(30).tolist() + (30 + generator.permutation(30)).tolist()
    turned = scanned(tmp_path / "b", counts[order], positions[order], {"y": y}, chromosomes=chromosomes)
    again = loci_of(turned)
    assert (
        again.loci.select("chromosome", "position", "start", "end").rows()
        == loci_of(made).loci.select("chromosome", "position", "start", "end").rows()
    )


def test_variants_of_one_name_at_one_place_keep_their_own_r2(tmp_path: Path) -> None:
    """A site with two alternative alleles, split: same id and position, other counts; the lead is the second of them."""
    generator = np.random.default_rng(6)
    counts = random_counts(generator, 20, PEOPLE, maf=(0.3, 0.5))
    y = 0.6 * counts[8] + generator.normal(size=PEOPLE)
    positions = np.arange(1, 21) * 10_000
    positions[7] = positions[8]
    genotypes = array_genotypes(counts, positions=positions)
    names = [f"v{j}" if j not in (7, 8) else "rs1" for j in range(20)]
    genotypes = ArrayGenotypes(genotypes.samples, genotypes.variants.with_columns(variant_id=pl.Series(names)), counts)
    traits = pl.DataFrame({"participant_id": genotypes.samples["participant_id"], "y": y})
    results = associate(genotypes, traits, out=tmp_path)
    summarise(results, tests=1.0)
    region = loci_of(Made(genotypes, results)).regions.filter(variant_id="rs1")
    assert region["r2"][0] < 0.05
    assert region["r2"][1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("position", "gene", "distance"),
    [
        (1_500, "INSIDE", 0),
        (2_100, "INSIDE", 100),
        (2_900, "FAR", 100),
        (2_450, "INSIDE", 450),
        (2_500, "FAR", 500),  # a tie goes to the shorter gene
        (60_000, "NESTED", 0),  # inside two: the shorter
    ],
)
def test_nearest_gene(position: int, gene: str, distance: int, tmp_path: Path) -> None:
    genes = pl.DataFrame(
        {
            "gene": ["INSIDE", "FAR", "LONG", "NESTED", "OTHER"],
            "chromosome": ["1", "1", "1", "1", "2"],
            "start": [1_000, 3_000, 50_000, 59_000, position],
            "end": [2_000, 3_500, 90_000, 61_000, position],
        }
    )
    generator = np.random.default_rng(7)
    counts = random_counts(generator, 3, PEOPLE, maf=(0.3, 0.5))
    y = 0.6 * counts[1] + generator.normal(size=PEOPLE)
    made = scanned(tmp_path, counts, np.array([1, position, 900_000]), {"y": y})
    found = loci_of(made, genes=genes).loci
    assert found.select("nearest_gene", "gene_distance").rows() == [(gene, distance)]
    nowhere = loci_of(made, genes=genes.with_columns(chromosome=pl.lit("7"))).loci
    assert nowhere.select("nearest_gene", "gene_distance").rows() == [(None, None)]


def test_a_scan_without_a_hit_has_tables_without_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    made = scanned(tmp_path, random_counts(generator, 20, 300), np.arange(1, 21), {"y": generator.normal(size=300)})
    found = loci_of(made)
    assert [frame.height for frame in found] == [0, 0, 0]
    save_loci(found, tmp_path)
    assert pl.read_parquet(tmp_path / "loci.parquet").height == 0


@pytest.mark.parametrize("traits", [1, 2])
def test_a_trait_that_a_variant_decides_wholly_is_a_locus_with_a_finite_p(traits: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    counts = random_counts(generator, 40, PEOPLE, maf=(0.3, 0.5))
    given = {"coat": counts[7].astype(float), "noise": generator.normal(size=PEOPLE)}
    made = scanned(tmp_path, counts, np.arange(1, 41) * 1_000_000, dict(list(given.items())[:traits]))
    assert np.isfinite(made.results.trait("coat")["neg_log_10_p_value"].to_numpy()).all()
    assert loci_of(made).loci["variant_id"].to_list() == ["v7"]


def test_a_scan_without_a_single_estimate_says_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no variant has an estimate for any trait") as said:
        scanned(tmp_path, np.ones((3, PEOPLE), np.int8), np.arange(1, 4), {"y": np.arange(PEOPLE, dtype=float)})
    assert "3 variants: no variation" in str(said.value)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"alpha": 0.0}, {"alpha": 1.0}, {"r2": 1.5}, {"radius": -1}, {"merge": -1}):
        with pytest.raises(StudyError, match=f"the clumping setting {next(iter(wrong))} is out of range"):
            Clumping(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_thousands_of_hits_are_clumped_in_seconds_reading_each_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    blocks, width = 250, 20  # 250 causal blocks, 2 Mb apart, of 20 variants in LD
    counts = np.concatenate([haplotypes(generator, width, copied=0.995)[:, :400] for _ in range(blocks)])
    causal = counts[width // 2 :: width].astype(float)
    y = (causal - causal.mean(axis=1, keepdims=True)).sum(axis=0)
    positions = (np.arange(blocks)[:, None] * 2_000_000 + np.arange(1, width + 1) * 1_000).ravel()
    # Every variant reaches a threshold this loose; what is timed is the clumping of 5,000 hits.
    made = scanned(tmp_path, counts, positions, {"y": y})
    evidence = pl.read_parquet(tmp_path / "manhattan.parquet").with_columns(
        study_wide=pl.Series(9 + generator.random(blocks * width))
    )
    evidence.write_parquet(tmp_path / "manhattan.parquet")
    read = []
    part = Results._read
    monkeypatch.setattr(Results, "_read", lambda self, number, *rest: read.append(number) or part(self, number, *rest))
    start = time.perf_counter()
    found = loci_of(made)
    assert time.perf_counter() - start < 30
    assert found.loci.height == blocks
    assert found.loci["n_variants"].to_list() == [width] * blocks
    assert len(read) <= 2 * (blocks * width // 64 + 1)  # once for the regions, once for the evidence of the leads
