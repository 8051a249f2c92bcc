from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from toolkit.genotypes import array_genotypes
from toolkit.store import store

from clinome.core.errors import StudyError
from clinome.core.schema import SUMMARY_STATISTICS, check
from clinome.genetics import hits as hits_module
from clinome.genetics.association import associate
from clinome.genetics.hits import hit_notes
from clinome.genetics.results import Results
from clinome.genetics.studywide import inflation_warnings, summarise

BINS = {"all": (0.0, 1.0), "below 0.01": (0.0, 0.01), "0.01 to 0.05": (0.01, 0.05), "above 0.05": (0.05, 1.0)}


def strengths(results: Results) -> dict[str, np.ndarray]:
    """Exact −log10 p of every trait over all variants."""
    return {name: results.trait(name)["neg_log_10_p_value"].fill_null(np.nan).to_numpy() for name in results.traits["trait"]}


def exact_lambda(strength: np.ndarray) -> float:
    return float(stats.chi2.isf(10 ** -np.nanmedian(strength), 1) / stats.chi2.median(1))


def read(results: Results, name: str) -> pl.DataFrame:
    return pl.read_parquet(results.folder / f"{name}.parquet")


def drawn(generator: np.random.Generator, n: np.ndarray, groups: list[int], variants: int) -> np.ndarray:
    """Student's t with the degrees of freedom of each trait's people at each variant (rank 2), inflated by 10 %."""
    return 1.05 * generator.standard_t(np.maximum(n[groups] - 3, 1), size=(len(groups), variants))


@pytest.mark.parametrize(
    "people",
    [(5_000, 5_000), (5_000, 5_100), (60, 61), (24, 30), (6, 9)],
    ids=["the same people", "dropped per variant", "few people", "very few", "hardly any"],
)
def test_lambda_of_every_trait_and_frequency_is_the_exact_one_within_a_thousandth(tmp_path: Path, people: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    variants, groups = 60_000, [0, 0, 1]
    n = generator.integers(people[0], people[1] + 1, size=(2, variants))
    frequency = generator.uniform(0, 0.15, variants)
    results = store(tmp_path, drawn(generator, n, groups, variants), n=n, groups=groups, frequency=frequency, shard_size=16_384)
    summarise(results, tests=3.0)
    table = read(results, "lambdas")
    exact = strengths(results)
    assert table.height == 4 * (3 + 1)
    for test, label, found, count, _flag in table.iter_rows():
        low, high = BINS[label]
        chosen = (frequency >= low) & (frequency < high)
        pooled = np.concatenate([exact[name][chosen] for name in (exact if test == "all traits" else [test])])
        assert count == len(pooled)
        assert found == pytest.approx(exact_lambda(pooled), rel=1e-3 if count > 20_000 else 4e-3)


@pytest.mark.parametrize("statistic", ["t", "score"])
def test_quantiles_are_the_exact_ones_to_the_resolution_of_a_bin(tmp_path: Path, statistic: str) -> None:
    generator = np.random.default_rng(2)
    variants = 30_000
    t = generator.normal(size=(2, variants))
    t[0, :300] *= 5  # a tail of true effects
    t[0, 0] = 60.0  # p far below the smallest float
    results = store(tmp_path, t, statistic=statistic, shard_size=7_000)
    summarise(results, tests=2.0)
    curves = read(results, "qq")
    for name, exact in strengths(results).items():
        ordered = np.sort(exact)[::-1]
        curve = curves.filter(test=name, frequency_bin="all")
        expected, observed = curve["expected"].to_numpy(), curve["observed"].to_numpy()
        assert 100 < len(expected) < 250
        assert np.all(np.diff(expected) < 0)
        assert np.all(np.diff(observed) <= 0)
        assert np.array_equal(observed[:60], ordered[:60])
        assert np.allclose(expected[:60], -np.log10((np.arange(60) + 0.5) / variants))
        at = np.round(10 ** -expected[60:] * variants).astype(int)  # so many variants reach the value
        assert np.all(ordered[at - 1] >= observed[60:] * (1 - 2e-3))
        assert np.all(ordered[at] <= observed[60:] * (1 + 2e-3))


def test_the_strongest_trait_of_a_variant_is_the_one_of_the_smallest_p_not_of_the_largest_t(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    variants, groups = 5_000, [0, 1, 2, 0]
    n = np.stack([np.full(variants, 40), np.full(variants, 4_000), generator.integers(90, 110, variants)])
    t = drawn(generator, n, groups, variants)
    t[1, 7] = np.nan
    t[:, 8] = np.nan
    results = store(tmp_path, t, n=n, groups=groups)
    summarise(results, tests=3.5)
    table = read(results, "manhattan")
    exact = np.stack(list(strengths(results).values()))
    best = np.where(np.isnan(exact).all(axis=0), np.nan, np.nanmax(np.nan_to_num(exact, nan=-1.0), axis=0))
    found = table["best"].fill_null(np.nan).to_numpy()
    assert np.allclose(found, best, rtol=2e-3, equal_nan=True)
    named = table["best_trait"].to_list()
    assert named[8] is None
    by_name = strengths(results)
    assert [by_name[name][i] for i, name in enumerate(named) if name] == found[~np.isnan(found)].tolist()
    assert np.mean(found == best) > 0.999
    assert np.any(np.nanargmax(np.abs(np.delete(t, 8, axis=1)), axis=0) != np.nanargmax(np.delete(exact, 8, axis=1), axis=0))
    corrected = np.maximum(found - np.log10(3.5), 0)
    assert np.allclose(table["study_wide"].fill_null(np.nan).to_numpy(), corrected, equal_nan=True)


def test_a_hundred_traits_have_their_own_lambda_and_one_pooled_curve(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    results = store(tmp_path, generator.normal(size=(100, 3_000)), omnibus=generator.exponential(1 / np.log(10), (1, 3_000)))
    summarise(results, tests=100.0)
    table, exact = read(results, "lambdas"), strengths(results)
    assert table.filter(frequency_bin="all").height == 102
    assert table.filter(pl.col("frequency_bin") != "all")["test"].unique().sort().to_list() == ["all traits", "omnibus"]
    for name, strength in exact.items():
        assert table.filter(test=name)["lambda_gc"].item() == pytest.approx(exact_lambda(strength), rel=0.01)
    curves = read(results, "qq")
    assert set(curves["test"]) == {"all traits", "omnibus"}
    top = curves.filter(test="all traits", frequency_bin="all")["observed"].head(60).to_numpy()
    assert np.array_equal(top, np.sort(np.concatenate(list(exact.values())))[::-1][:60])
    rare = results.variants["effect_allele_frequency"].is_between(0.01, 0.99).not_().to_numpy()
    top = curves.filter(test="all traits", frequency_bin="below 0.01")["observed"].head(60).to_numpy()
    assert np.array_equal(top, np.sort(np.concatenate([row[rare] for row in exact.values()]))[::-1][:60])


def test_a_shard_whose_variants_were_all_left_out_by_filters_changes_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    t, joint = generator.normal(size=(3, 900)), generator.exponential(size=(1, 900))
    t[1, 500] = 9.0
    results = store(tmp_path / "a", t, omnibus=joint, shard_size=300)
    holed = store(tmp_path / "b", t, omnibus=joint, shard_size=300)
    shards = holed.folder / "shards"
    for number in (2, 1, 0):
        (shards / f"{number:06d}.arrow").rename(shards / f"{2 * number + 1:06d}.arrow")
    nothing = pl.read_ipc(shards / "000001.arrow").clear()
    for number in (0, 2, 6):
        nothing.write_ipc(shards / f"{number:06d}.arrow")
    for made in (results, holed):
        summarise(made, tests=3.0)
    for name in ("manhattan", "qq", "lambdas", "hits"):
        assert read(holed, name).equals(read(results, name)), name
    assert holed.trait("trait1").equals(results.trait("trait1"))
    assert holed.region("1", 250, 650).equals(results.region("1", 250, 650))


def test_a_scan_without_an_estimate_is_refused_with_the_reasons(tmp_path: Path) -> None:
    results = store(tmp_path, np.full((2, 3), np.nan))
    with pytest.raises(StudyError, match=r"no variant has an estimate for any trait[\s\S]*3 variants: no variation"):
        summarise(results, tests=2.0)


# --- what of a λ is chance ---------------------------------------------------------------------------------------------------


def inbred_strains(generator: np.random.Generator, *, strains: int, markers: int) -> np.ndarray:
    """Genotypes 0 and 2 of recombinant inbred strains, ``markers`` on each of 20 chromosomes of a Morgan: (V, strains).

    Inbreeding maps a Morgan to four (Haldane & Waddington 1931), so that a chromosome holds a few independent pieces.
    """
    switch = generator.random((20, markers, strains)) < 4 / markers / 2
    start = generator.integers(0, 2, (20, 1, strains))
    return (2 * ((start + np.cumsum(switch, axis=1)) % 2)).reshape(-1, strains).astype(np.int8)


def test_shuffled_traits_of_few_strains_are_not_called_inflated(tmp_path: Path) -> None:
    """As in BXD mice: λ of a trait without any effect scatters by a fifth, for a genome of a hundred independent pieces."""
    generator = np.random.default_rng(7)
    counts = inbred_strains(generator, strains=150, markers=300)
    source = array_genotypes(counts, chromosomes=[str(1 + v // 300) for v in range(6_000)])
    values = generator.normal(size=(150, 300))
    traits = source.samples.select("participant_id").hstack(pl.DataFrame(values, schema=[f"t{p}" for p in range(300)]))
    results = associate(source, traits, out=tmp_path)
    summarise(results, tests=300.0)
    lambdas = read(results, "lambdas").filter((pl.col("frequency_bin") == "all") & (pl.col("test") != "all traits"))
    assert np.mean(lambdas["lambda_gc"].to_numpy() > 1.25) > 0.05
    assert lambdas["flag"].eq("high").sum() <= 0.02 * 300


@pytest.mark.parametrize(("run", "chromosomes"), [(1, 1), (1, 22), (30, 1), (30, 4), (30, 40)])
def test_a_lambda_is_flagged_from_four_standard_errors_above_one(run: int, chromosomes: int, tmp_path: Path) -> None:
    """Runs of equal variants: their number is that of the independent ones, of whatever inflation the trait is."""
    generator = np.random.default_rng(8)
    variants = 48_000
    independent = variants // run
    limit = max(0.1, 4 * 2.332 / np.sqrt(independent))
    sizes = np.array([1.0, 1 + 0.6 * limit, 1 + 1.6 * limit, 8.0])
    z = np.repeat(generator.normal(size=(len(sizes), independent)), run, axis=1)
    z /= np.median(np.abs(z), axis=1, keepdims=True) / 0.67449
    names = [str(c + 1) for c in np.arange(variants) * chromosomes // variants]
    people = np.full((1, variants), 100_000)
    results = store(tmp_path, z * np.sqrt(sizes)[:, None], n=people, chromosomes=names, shard_size=20_000)
    summarise(results, tests=4.0)
    flags = read(results, "lambdas").filter(pl.col("frequency_bin") == "all").filter(pl.col("test") != "all traits")
    assert flags["lambda_gc"].to_list() == pytest.approx(sizes.tolist(), rel=1e-2)
    assert flags["flag"].to_list() == [None, None, "high", "high"]


def test_inflation_of_traits_and_of_interactions_have_their_own_causes(tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    results = store(tmp_path, generator.normal(size=(4, 4_000)), names=["a", "b×x", "a×x", "b×x×x"])
    inflated = {"a": 2.0, "a×x": 1.8, "b×x×x": 1.7}

    def said(modifier: str | None, flagged: list[str]) -> list[str]:
        (tmp_path / "run.json").write_text(json.dumps(results.run | {"interaction": modifier}))
        table = pl.DataFrame({"test": flagged, "frequency_bin": "all", "lambda_gc": [inflated[t] for t in flagged], "flag": "high"})
        table.write_parquet(tmp_path / "lambdas.parquet")
        return inflation_warnings(Results(tmp_path), covariates=1)

    traits, interactions = said("x", list(inflated))
    assert traits.startswith("λ of a is 2.00: relatives or population strata are not accounted for")
    assert interactions.startswith("λ of a×x is 1.80, λ of b×x×x is 1.70: most likely the variance of the trait changes with x")
    assert said("x", ["a"]) == [traits]
    assert said("x", ["a×x", "b×x×x"]) == [interactions]
    (named_alike,) = said(None, ["a×x"])
    assert "relatives or population strata" in named_alike
    assert said("x", []) == []


# --- hits -------------------------------------------------------------------------------------------------------------------


def with_hits(folder: Path, *, n: int = 1_000) -> Results:
    generator = np.random.default_rng(5)
    variants = 4_000
    t = generator.normal(size=(3, variants))
    t[0, ::40] = generator.uniform(5.2, 5.8, 100)  # on both sides of 5e-8
    t[2, 10:30] = -50.0
    joint = generator.exponential(1 / np.log(10), (2, variants))
    joint[:, 77] = 9.0
    chromosomes, positions = ["10"] * 2_000 + ["9"] * 2_000, generator.permutation(variants)
    people = np.full((1, variants), n)
    return store(folder, t, n=people, omnibus=joint, chromosomes=chromosomes, positions=positions, shard_size=700)


@pytest.mark.parametrize("people", [30, 1_000])
@pytest.mark.parametrize("p_value", [5e-8, 1e-6, 1e-12])
def test_hits_are_all_that_reach_the_level_in_order_of_place(tmp_path: Path, people: int, p_value: float) -> None:
    results = with_hits(tmp_path, n=people)
    summarise(results, tests=3.0, hits_below=1e-6)
    names = [*results.traits["trait"], "omnibus"]
    every = pl.concat([results.trait(name) for name in names]).filter(pl.col("neg_log_10_p_value") >= -np.log10(p_value))
    order = [pl.col("chromosome").cast(pl.Int64), pl.col("position"), pl.col("trait").replace_strict(names, range(4))]
    expected = every.sort(order)
    found = check(results.hits(p_value), SUMMARY_STATISTICS)
    assert found.height > 15
    assert found.select("variant_id", "trait", "n").equals(expected.select("variant_id", "trait", "n"))
    for name in ("beta", "standard_error", "neg_log_10_p_value"):
        assert found[name].equals(expected[name])
    assert hit_notes(results) == []


def test_larger_p_than_were_gathered_and_scans_not_summarised_are_refused(tmp_path: Path) -> None:
    results = with_hits(tmp_path)
    with pytest.raises(StudyError, match="this scan has not been summarised"):
        results.hits()
    summarise(results, tests=3.0)
    with pytest.raises(StudyError, match=r"gathered at a smaller p[\s\S]*at most 5e-08"):
        results.hits(1e-5)


def test_of_too_many_hits_each_trait_keeps_its_strongest_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = with_hits(tmp_path)
    summarise(results, tests=3.0, hits_below=1e-3)
    every = results.hits(1e-3)
    monkeypatch.setattr(hits_module, "MOST", 60)
    summarise(results, tests=3.0, hits_below=1e-3)
    kept = results.hits(1e-3)
    share = 60 // 4
    for name in (*results.traits["trait"], "omnibus"):
        strongest = every.filter(trait=name)["neg_log_10_p_value"].sort(descending=True).head(share)
        assert kept.filter(trait=name)["neg_log_10_p_value"].sort(descending=True).to_list() == strongest.to_list()
    (note,) = hit_notes(results)
    assert note.startswith(f"{every.height:,} pairs of variant and trait have p ≤ 0.001; hits.parquet holds {kept.height:,}, ")
