"""What a scan promises, through ``associate`` on files: bits that do not move, calibrated p-values, kills survived, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, ortho_group
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.core.errors import CohortError, OutputError, SchemaError, StudyError, TraitError
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.plink import write_plink
from clinome.genetics.association import Options, associate
from clinome.genetics.filters import Filters
from clinome.genetics.results import Results
from clinome.genetics.studywide import inflation_warnings, summarise, thresholds


def cohort(
    seed: int, *, people: int = 240, variants: int = 90, traits: int = 4, missing: float = 0.03
) -> tuple[ArrayGenotypes, pl.DataFrame, pl.DataFrame]:
    generator = np.random.default_rng(seed)
    counts = random_counts(generator, variants, people, missing=missing)
    ids = [f"p{i}" for i in range(people)]
    values = generator.normal(size=(people, traits)) + 0.4 * np.maximum(counts[3], 0)[:, None]
    values[generator.random(values.shape) < 0.05] = np.nan
    frame = pl.DataFrame(values, schema=[f"trait{p}" for p in range(traits)]).fill_nan(None)
    covariates = pl.DataFrame(
        {"participant_id": ids, "age": generator.normal(1950, 8, people), "sex": generator.integers(0, 2, people)}
    )
    return array_genotypes(counts), pl.DataFrame({"participant_id": ids}).hstack(frame), covariates.cast({"sex": pl.Float64})


def numbers(results: Results, trait: str) -> pl.DataFrame:
    return results.trait(trait).select("variant_id", "effect_allele_frequency", "n", "beta", "standard_error", "neg_log_10_p_value")


def assert_same_bits(a: Results, b: Results, traits: list[str]) -> None:
    for trait in traits:
        left, right = numbers(a, trait).sort("variant_id"), numbers(b, trait).sort("variant_id")
        assert left["beta"].is_not_null().sum() > 50
        assert left.equals(right)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- bits that do not move --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("how", [{"block_size": 1}, {"block_size": 7, "shard_size": 13}, {"shard_size": 1},
                                 {"block_size": 5, "shard_size": 11, "threads": 7, "device": "cpu"}])  # fmt: skip
def test_blocks_shards_threads_and_device_change_no_bit(missing: str, how: dict[str, Any], tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(1)
    whole = associate(genotypes, traits, covariates=covariates, out=tmp_path / "a", options=Options(missing_genotypes=missing))  # type: ignore[arg-type]
    cut = associate(genotypes, traits, covariates=covariates, out=tmp_path / "b", options=Options(missing_genotypes=missing, **how))  # type: ignore[arg-type]
    assert_same_bits(whole, cut, whole.traits["trait"].to_list())


@pytest.mark.parametrize("how", [{"threads": 1}, {"threads": 5, "block_size": 7}, {"processes": 2, "shard_size": 40}])
def test_threads_and_processes_change_no_byte(how: dict[str, int], tmp_path: Path) -> None:
    written(tmp_path, 23, people=300, variants=120)
    genotypes = open_genotypes(tmp_path / "g.bed")
    traits, covariates = pl.read_parquet(tmp_path / "traits.parquet"), pl.read_parquet(tmp_path / "covariates.parquet")
    size = how.get("shard_size", 16_384)
    for name, options in (
        ("a", Options(missing_genotypes="drop", shard_size=size)),
        ("b", Options(missing_genotypes="drop", **how)),
    ):  # type: ignore[arg-type]
        associate(genotypes, traits, covariates=covariates, omnibus_sets={"all": traits}, out=tmp_path / name, options=options)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_order_of_variants_and_companions_change_no_bit(missing: str, tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(2)
    options = Options(missing_genotypes=missing)  # type: ignore[arg-type]
    whole = associate(genotypes, traits, covariates=covariates, out=tmp_path / "a", options=options)
    order = np.random.default_rng(1).permutation(genotypes.variants.height)
    turned = ArrayGenotypes(genotypes.samples, genotypes.variants[order], genotypes.counts[order])
    everybody = pl.Series([f"p{i}" for i in range(240)])
    for trait in ("trait0", "trait3"):
        alone = traits.select("participant_id", trait)
        here = associate(turned, alone, covariates=covariates, out=tmp_path / trait, options=options)
        # Frequencies and n are those of the trait's own people, so they too are free of companions.
        assert_same_bits(whole, here, [trait])
        assert here.run["n_people"] == alone[trait].is_not_null().sum() < len(everybody)


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_order_of_people_changes_less_than_a_millionth_of_a_standard_error(missing: str, tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(3)
    options = Options(missing_genotypes=missing)  # type: ignore[arg-type]
    a = associate(genotypes, traits, covariates=covariates, out=tmp_path / "a", options=options)
    order = np.random.default_rng(2).permutation(genotypes.samples.height)
    turned = ArrayGenotypes(genotypes.samples[order], genotypes.variants, genotypes.counts[:, order])
    b = associate(
        turned, traits.sample(fraction=1.0, shuffle=True, seed=3), covariates=covariates, out=tmp_path / "b", options=options
    )
    for trait in a.traits["trait"]:
        one, two = numbers(a, trait), numbers(b, trait)
        assert float(((one["beta"] - two["beta"]).abs() / one["standard_error"]).max()) < 1e-6  # type: ignore[arg-type]
        assert float((one["standard_error"] / two["standard_error"] - 1).abs().max()) < 1e-6  # type: ignore[arg-type]


SCAN = """
import sys
from pathlib import Path
import polars as pl
from clinome.formats.genotype_files import open_genotypes
from clinome.genetics.association import Options, associate
folder, out, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
genotypes = open_genotypes(folder / "g.bed")
if pause:
    import time
    read = genotypes.read
    def slow(*arguments):
        time.sleep(pause)
        return read(*arguments)
    genotypes.read = slow
traits, covariates = pl.read_parquet(folder / "traits.parquet"), pl.read_parquet(folder / "covariates.parquet")
associate(genotypes, traits, covariates=covariates, omnibus_sets={"all": traits}, out=out,
          options=Options(missing_genotypes="drop", shard_size=5))
"""


def written(folder: Path, seed: int, **size: int) -> None:
    genotypes, traits, covariates = cohort(seed, **size)  # type: ignore[arg-type]
    write_plink(folder / "g.bed", samples=genotypes.samples, variants=genotypes.variants, blocks=[genotypes.counts])
    traits.write_parquet(folder / "traits.parquet")
    covariates.write_parquet(folder / "covariates.parquet")


def start(folder: Path, out: str, *, pause: float = 0.0, threads: int = 1) -> subprocess.Popen[bytes]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    return subprocess.Popen([sys.executable, "-c", SCAN, str(folder), str(folder / out), str(pause)], env=environment)


@pytest.mark.slow
def test_threads_change_no_bit(tmp_path: Path) -> None:
    written(tmp_path, 4, people=700, variants=160)
    for threads in (1, 2):
        assert start(tmp_path, f"threads{threads}", threads=threads).wait(60) == 0
    assert content(tmp_path / "threads1") == content(tmp_path / "threads2")


@pytest.mark.slow
def test_killed_and_started_again_it_writes_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path, 5, variants=100)
    assert start(tmp_path, "undisturbed").wait(60) == 0
    process = start(tmp_path, "killed", pause=0.15)
    shards = tmp_path / "killed" / "shards"
    for _ in range(600):
        if len(list(shards.glob("0*.arrow"))) >= 4:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    finished = {p.name: p.stat().st_mtime_ns for p in shards.glob("0*.arrow")}
    assert 4 <= len(finished) < 20
    assert not (tmp_path / "killed" / "run.json").exists()
    with pytest.raises(StudyError, match="no finished scan here"):
        _ = Results(tmp_path / "killed").run
    assert start(tmp_path, "killed").wait(60) == 0
    assert {name: (shards / name).stat().st_mtime_ns for name in finished} == finished  # what was whole was not done again
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")


def test_what_a_killed_process_left_half_written_is_not_read_and_goes(tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(5)
    associate(genotypes, traits, covariates=covariates, out=tmp_path)
    whole = numbers(Results(tmp_path), traits.columns[1])
    shards = tmp_path / "shards"
    for name in ("000000.arrow", "000000.variants.parquet"):
        (shards / f".99999999.partial.{name}").write_bytes((shards / name).read_bytes()[:100])
    assert numbers(Results(tmp_path), traits.columns[1]).equals(whole)
    (tmp_path / "run.json").unlink()  # as if the kill had come before the end
    assert numbers(associate(genotypes, traits, covariates=covariates, out=tmp_path), traits.columns[1]).equals(whole)
    assert not list(tmp_path.rglob(".*"))


def test_a_folder_of_somebody_else_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.txt").write_text("mine")
    genotypes, traits, _ = cohort(5)
    with pytest.raises(OutputError, match="that no scan has made"):
        associate(genotypes, traits, out=tmp_path)
    assert (tmp_path / "shards" / "mine.txt").read_text() == "mine"


def test_the_same_call_reads_nothing_again_and_another_is_refused(tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(6)
    associate(genotypes, traits, covariates=covariates, out=tmp_path)
    n = len(genotypes.reads)
    associate(genotypes, traits, covariates=covariates, out=tmp_path)
    assert len(genotypes.reads) == n
    with pytest.raises(OutputError, match="results of another scan"):
        associate(genotypes, traits, out=tmp_path)


# --- the omnibus ------------------------------------------------------------------------------------------------------------


def test_omnibus_ignores_the_rotation_of_the_axes_end_to_end(tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(7, traits=6)
    names = [c for c in traits.columns if c != "participant_id"]
    rotation = ortho_group.rvs(6, random_state=8)
    values = traits.select(names).to_numpy() @ rotation  # a person who lacks one trait lacks every rotated one
    values = np.where(np.isfinite(traits.select(names).fill_null(float("nan")).to_numpy()).all(axis=1)[:, None], values, np.nan)
    turned = traits.select("participant_id").hstack(pl.DataFrame(values, schema=names).fill_nan(None))
    a = associate(genotypes, traits, covariates=covariates, omnibus_sets={"all": traits}, out=tmp_path / "a").trait("omnibus")
    b = associate(genotypes, traits, covariates=covariates, omnibus_sets={"all": turned}, out=tmp_path / "b").trait("omnibus")
    difference = (a["neg_log_10_p_value"] - b["neg_log_10_p_value"]).abs() / a["neg_log_10_p_value"].clip(1)
    assert float(difference.max()) < 1e-5  # type: ignore[arg-type]
    assert a.sort("neg_log_10_p_value")["variant_id"][-1] == "v3"


def test_omnibus_of_folds_is_fishers_combination_and_no_set_sees_another(tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(9)
    half = [traits[:120], traits[120:]]
    both = associate(genotypes, traits, covariates=covariates, omnibus_sets={"f1": half[0], "f2": half[1]}, out=tmp_path / "both")
    alone = associate(genotypes, traits, covariates=covariates, omnibus_sets={"f2": half[1]}, out=tmp_path / "alone")
    assert both.trait("omnibus:f2")["neg_log_10_p_value"].equals(alone.trait("omnibus")["neg_log_10_p_value"])
    p = 10 ** -np.stack([both.trait(f"omnibus:{f}")["neg_log_10_p_value"].to_numpy() for f in ("f1", "f2")])
    product = p.prod(axis=0)
    fisher = -np.log10(product * (1 - np.log(product)))  # closed form for two p-values
    np.testing.assert_allclose(both.trait("omnibus")["neg_log_10_p_value"].to_numpy(), fisher, rtol=1e-9)


# --- calibration ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_type_one_error_of_traits_omnibus_and_study_wide_p(tmp_path: Path) -> None:
    """Under the null, correlated traits: each test rejects as often as it says (binomial intervals at 1 in 100,000)."""
    generator = np.random.default_rng(10)
    people, variants = 800, 12_000
    counts = random_counts(generator, variants, people)
    mixing = generator.normal(size=(5, 5))
    values = generator.normal(size=(people, 5)) @ mixing
    traits = pl.DataFrame({"participant_id": [f"p{i}" for i in range(people)]}).hstack(pl.DataFrame(values))
    results = associate(array_genotypes(counts), traits, omnibus_sets={"all": traits}, out=tmp_path)
    summarise(results, tests=5.0)
    every = [results.trait(name)["neg_log_10_p_value"].to_numpy() for name in results.traits["trait"]]
    joint = results.trait("omnibus")["neg_log_10_p_value"].to_numpy()
    study = pl.read_parquet(tmp_path / "manhattan.parquet")["study_wide"].to_numpy()
    for level in (5e-2, 1e-2, 1e-3):
        low, high = binom.interval(1 - 1e-5, variants, level)
        for strength in (*every, joint):
            assert low <= (strength >= -np.log10(level)).sum() <= high
        corrected = (study >= -np.log10(level)).sum()
        assert level / 20 * variants <= corrected + 3 * (level < 0.01)  # correlated tests: conservative, not absurdly so
        assert corrected <= high
    lambdas = pl.read_parquet(tmp_path / "lambdas.parquet").filter(pl.col("frequency_bin") == "all")
    assert lambdas["lambda_gc"].is_between(0.9, 1.1).all()
    assert lambdas.height == 5 + 2
    assert inflation_warnings(results, covariates=0) == []


def test_strata_are_warned_about_and_components_cure_them(tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    people, variants = 400, 1_500
    stratum = np.repeat([0, 1], people // 2)
    base = generator.uniform(0.2, 0.8, (variants, 1))
    drift = generator.normal(0, 0.08, (variants, 1))
    frequency = np.clip(base + drift * (2 * stratum - 1), 0.02, 0.98)
    counts = generator.binomial(2, frequency).astype(np.int8)
    ids = [f"p{i}" for i in range(people)]
    traits = pl.DataFrame({"participant_id": ids, "height": generator.normal(size=people) + 1.0 * stratum})
    genotypes = array_genotypes(counts)
    plain = associate(genotypes, traits, out=tmp_path / "plain")
    summarise(plain, tests=1.0)
    (warning,) = inflation_warnings(plain, covariates=0)
    assert warning.startswith("λ of height is ")
    assert "Add genetic principal components to the covariates (this scan had no covariates)" in warning
    centred = counts - counts.mean(axis=1, keepdims=True)
    component = np.linalg.svd(centred, full_matrices=False)[2][0]
    covariates = pl.DataFrame({"participant_id": ids, "PC1": component})
    cured = associate(genotypes, traits, covariates=covariates, out=tmp_path / "cured")
    summarise(cured, tests=1.0)
    assert inflation_warnings(cured, covariates=1) == []


def test_pooled_lambda_alone_does_not_warn(tmp_path: Path) -> None:
    """Twenty copies of one trait: the pooled curve is long enough, each trait's own is not."""
    generator = np.random.default_rng(12)
    genotypes = array_genotypes(np.repeat(random_counts(generator, 1, 200), 3, axis=0))
    y = generator.normal(size=200) + 0.3 * genotypes.counts[0]
    traits = pl.DataFrame({"participant_id": [f"p{i}" for i in range(200)], **{f"t{k}": y for k in range(20)}})
    results = associate(genotypes, traits, out=tmp_path)
    summarise(results, tests=1.0)
    assert pl.read_parquet(tmp_path / "lambdas.parquet").filter(test="all traits", frequency_bin="all")["lambda_gc"][0] > 1.1
    assert inflation_warnings(results, covariates=0) == []


def test_alpha_is_split_over_the_two_kinds_of_test_and_over_traits() -> None:
    both = thresholds(5e-8, 4.0, has_traits=True, has_omnibus=True)
    assert 10**-both.dimension == pytest.approx(5e-8 / 8)
    assert both.omnibus is not None
    assert 10**-both.omnibus == pytest.approx(2.5e-8)
    one = thresholds(5e-8, 1.0, has_traits=True, has_omnibus=False)
    assert 10**-one.dimension == pytest.approx(5e-8)
    assert one.omnibus is None


# --- variants without an estimate, filters, sex chromosomes -------------------------------------------------------------------


def test_filters_leave_out_and_count_what_they_say(tmp_path: Path) -> None:
    generator = np.random.default_rng(13)
    counts = random_counts(generator, 8, 200, maf=(0.3, 0.5))
    counts[0] = 0  # monomorphic: fails maf
    counts[1, :3] = 1
    counts[1, 3:] = 0  # three copies in 400
    counts[2, :60] = -1  # 30 % missing
    counts[3] = 1  # everybody heterozygous
    counts[4, :40] = -1  # exactly 20 % missing: kept
    counts[5] = 2 * (generator.random(200) < 0.5)  # a man's X: no heterozygotes
    genotypes = array_genotypes(counts, chromosomes=["1", "1", "1", "1", "1", "X", "1", "1"])
    traits = pl.DataFrame({"participant_id": genotypes.samples["participant_id"], "t": generator.normal(size=200)})
    strict = Options(filters=Filters(maf=0.01, missing=0.2, hwe=1e-6))
    results = associate(genotypes, traits, out=tmp_path / "strict", options=strict)
    assert results.run["filtered"] == {"hwe": 1, "maf": 2, "missing": 1}
    assert results.variants["variant_id"].to_list() == ["v4", "v5", "v6", "v7"]
    assert results.variants["source_row"].to_list() == [4, 5, 6, 7]
    by_count = associate(genotypes, traits, out=tmp_path / "mac", options=Options(filters=Filters(mac=4)))
    assert by_count.run["filtered"] == {"mac": 2}
    edge = associate(genotypes, traits, out=tmp_path / "edge", options=Options(filters=Filters(mac=3)))
    assert edge.run["filtered"] == {"mac": 1}
    with pytest.raises(StudyError, match="the filters leave no variant"):
        associate(genotypes, traits, out=tmp_path / "none", options=Options(filters=Filters(mac=1_000)))
    assert not list((tmp_path / "none").rglob("*"))
    again = associate(genotypes, traits, out=tmp_path / "none", options=strict)  # the folder is free for the corrected call
    assert again.run["n_variants"] == 4


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_variants_without_an_estimate_stay_with_a_reason_and_are_counted(missing: str, tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(14)
    counts = genotypes.counts.copy()
    counts[0], counts[1], counts[2] = 2, -1, (covariates["sex"].to_numpy() * 2).astype(np.int8)
    genotypes = ArrayGenotypes(genotypes.samples, genotypes.variants, counts)
    options = Options(missing_genotypes=missing)  # type: ignore[arg-type]
    results = associate(genotypes, traits, covariates=covariates, out=tmp_path, options=options)
    assert sum(results.run["not_estimated"].values()) == 3
    assert results.run["not_estimated"]["collinear with the covariates"] == 1
    assert results.variants["reason"].drop_nulls().len() == 3
    frame = results.trait("trait0")
    assert frame.height == genotypes.variants.height
    assert frame[:3].select("beta", "standard_error", "neg_log_10_p_value").null_count().row(0) == (3, 3, 3)
    assert frame[3:]["beta"].null_count() == 0


def test_a_singleton_has_the_same_answer_whichever_allele_is_counted(tmp_path: Path) -> None:
    """One carrier among many: what counts as collinear must not depend on the side that is counted."""
    generator = np.random.default_rng(15)
    people = 3_000
    counts = np.zeros((2, people), dtype=np.int8)
    counts[0, 7] = 1
    counts[1] = 2 - counts[0]
    genotypes = array_genotypes(counts)
    traits = pl.DataFrame({"participant_id": genotypes.samples["participant_id"], "t": generator.normal(size=people)})
    frame = associate(genotypes, traits, out=tmp_path).trait("t")
    assert frame["beta"][0] == pytest.approx(-frame["beta"][1], rel=1e-6)
    assert frame["standard_error"][0] == pytest.approx(frame["standard_error"][1], rel=1e-6)
    assert frame["effect_allele_frequency"].to_list() == pytest.approx([1 / 6000, 1 - 1 / 6000])


# --- memory -----------------------------------------------------------------------------------------------------------------


def test_it_reads_in_blocks_and_only_the_people_analysed(tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(16)
    options = Options(shard_size=40, block_size=16, threads=1)
    results = associate(genotypes, traits[:100], covariates=covariates, out=tmp_path, options=options)
    assert {people for _, people in genotypes.reads[1:]} == {100}  # the first read asks for the scale
    assert [rows for rows, _ in genotypes.reads[1:]] == [16, 16, 8, 16, 16, 8, 10]
    assert len(list((tmp_path / "shards").glob("*.arrow"))) == 3
    assert [len(shard.rows) for shard in results.shards()] == [40, 40, 10]
    assert [frame.height for frame in results.frames("trait1")] == [40, 40, 10]


def test_wide_drop_equals_its_traits_alone_though_it_goes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clinome.stats import moments

    genotypes, traits, covariates = cohort(17, traits=9, missing=0.06)
    traits = traits.fill_null(0.5)  # one group
    options = Options(missing_genotypes="drop")
    whole = associate(genotypes, traits, covariates=covariates, out=tmp_path / "whole", options=options)
    monkeypatch.setattr(moments, "_PRODUCTS", 240 * 4 * 2)
    pieces = associate(genotypes, traits, covariates=covariates, out=tmp_path / "pieces", options=options)
    assert_same_bits(whole, pieces, whole.traits["trait"].to_list())


# --- rows of chosen traits --------------------------------------------------------------------------------------------------


def test_strengths_at_rows_are_those_of_the_whole_trait(tmp_path: Path) -> None:
    genotypes, traits, _ = cohort(18)
    results = associate(genotypes, traits, omnibus_sets={"all": traits}, out=tmp_path, options=Options(shard_size=11))
    rows = {"trait2": np.array([0, 10, 11, 55, 89]), "omnibus": np.array([33, 34]), "trait0": np.zeros(0, np.int64)}
    found = results.strengths(rows)
    for trait, at in rows.items():
        np.testing.assert_array_equal(found[trait], results.trait(trait)["neg_log_10_p_value"].to_numpy()[at])
    with pytest.raises(StudyError, match=r"no trait 'triat2' in this scan; did you mean 'trait2'"):
        results.trait("triat2")
    with pytest.raises(StudyError, match="no trait 'omnibus:fold9'"):
        list(results.frames("omnibus:fold9"))


# --- covariates of single traits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_traits_own_covariate_is_its_alone(missing: str, tmp_path: Path) -> None:
    genotypes, traits, covariates = cohort(19)
    generator = np.random.default_rng(20)
    names = [c for c in traits.columns if c != "participant_id"]
    own = traits.select("participant_id").hstack(pl.DataFrame(generator.normal(size=(240, 4)), schema=names))
    options = Options(missing_genotypes=missing)  # type: ignore[arg-type]
    both = associate(genotypes, traits, covariates=covariates, trait_covariates=own, out=tmp_path / "both", options=options)
    for name in names:
        mine = traits.select("participant_id", name)
        alone = associate(
            genotypes, mine, covariates=covariates, trait_covariates=own, out=tmp_path / "alone" / name, options=options
        )
        assert_same_bits(both, alone, [name])
        joined = covariates.join(own.select("participant_id", pl.col(name).alias("own")), on="participant_id")
        one, two = (
            numbers(alone, name),
            numbers(associate(genotypes, mine, covariates=joined, out=tmp_path / name, options=options), name),
        )
        assert one.select("n", "effect_allele_frequency").equals(two.select("n", "effect_allele_frequency"))
        assert float(((one["beta"] - two["beta"]).abs() / one["standard_error"]).max()) < 1e-6  # type: ignore[arg-type]
        assert float((one["standard_error"] / two["standard_error"] - 1).abs().max()) < 1e-6  # type: ignore[arg-type]
    assert both.traits["rank"].to_list() == [4] * 4


# --- refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda t, c: (t.with_columns(trait0=pl.lit(3.0)), c), TraitError, r"trait0: constant \(3\)"),
        (lambda t, c: (t.with_columns(trait0=pl.lit(None, pl.Float64)), c), TraitError, "trait0: all missing"),
        (lambda t, c: (t.with_columns(trait0=pl.lit(float("inf"))), c), TraitError, "trait0: infinite values"),
        (lambda t, c: (t.rename({"trait0": "omnibus"}), c), TraitError, "the results need for themselves"),
        (lambda t, c: (t.with_columns(trait1=2 * c["age"] - c["sex"]), c), TraitError, "exact linear combination of"),
        (lambda t, c: (t, c.with_columns(age=pl.lit(float("nan")))), TraitError, "'age' is missing or not finite for 240"),
        (lambda t, c: (t, c.with_columns(age=pl.lit(float("inf")))), TraitError, "'age' is missing or not finite for 240"),
        (lambda t, c: (t.with_columns(pl.col("participant_id") + "x"), c), CohortError, "no person has genotypes"),
        (lambda t, c: (t.select("participant_id"), c), TraitError, "the table of traits has no trait"),
        (lambda t, c: (t.vstack(t[:1]), c), SchemaError, "p0"),
    ],
)  # fmt: skip
def test_what_cannot_be_analysed_is_refused_before_anything_is_written(
    change: Callable[[pl.DataFrame, pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]],
    kind: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    genotypes, traits, covariates = cohort(21)
    traits, covariates = change(traits, covariates)
    with pytest.raises(kind, match=message):
        associate(genotypes, traits, covariates=covariates, out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(
    ("variants", "got"),
    [
        (np.array([0, 5, 5]), "5 at place 2"),
        (np.array([7, 3], np.uint8), "3 at place 1"),
        (np.array([-1, 3]), "-1 at place 0"),
        (np.array([3, 90]), "90 at place 1"),
        (np.ones(90, np.bool_), r"bool of shape \(90,\)"),
        (np.array([1.0]), r"float64 of shape \(1,\)"),
    ],
)
def test_variants_that_are_no_ascending_rows_are_refused(variants: Any, got: str, tmp_path: Path) -> None:
    genotypes, traits, _ = cohort(21)
    with pytest.raises(StudyError, match=rf"must be rows of the table of variants[\s\S]*got: *{got}\n *expected: .* 0 to 89"):
        associate(genotypes, traits, out=tmp_path / "out", variants=variants)
    assert not list((tmp_path / "out").rglob("*"))


def test_rows_of_any_whole_type_are_taken(tmp_path: Path) -> None:
    genotypes, traits, _ = cohort(21)
    results = associate(genotypes, traits, out=tmp_path / "out", variants=np.array([3, 8, 80], np.uint8))
    assert results.variants["variant_id"].to_list() == ["v3", "v8", "v80"]
    with pytest.raises(StudyError, match="there are no variants to scan"):
        associate(genotypes, traits, out=tmp_path / "none", variants=np.array([]))


def test_an_infinite_value_of_a_person_without_another_is_refused(tmp_path: Path) -> None:
    genotypes, traits, _ = cohort(21)
    alone = pl.int_range(pl.len()) == 7
    traits = traits.with_columns(pl.when(alone).then(None).otherwise(pl.exclude("participant_id", "trait0")).name.keep())
    traits = traits.with_columns(pl.when(alone).then(float("-inf")).otherwise("trait0").alias("trait0"))
    with pytest.raises(TraitError, match="trait0: infinite values"):
        associate(genotypes, traits, out=tmp_path)


def test_a_filter_that_needs_hard_calls_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    genotypes, traits, _ = cohort(21)
    dosages = array_genotypes(genotypes.counts.astype(np.int32) * 100, scale=100)
    with pytest.raises(StudyError, match=r"needs hard calls; these genotypes are dosages[\s\S]*leave --hwe out"):
        associate(dosages, traits, out=tmp_path / "out", options=Options(filters=Filters(hwe=1e-6)))
    assert not list((tmp_path / "out").rglob("*"))


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    genotypes, traits, covariates = cohort(21)
    with pytest.raises(StudyError, match=r"there is no GPU here(.|\n)*got: *device 'gpu'(.|\n)*take 'auto'"):
        associate(genotypes, traits, covariates=covariates, out=tmp_path / "out", options=Options(device="gpu"))
    assert not list((tmp_path / "out").rglob("*"))


def test_a_file_that_breaks_in_the_middle_leaves_no_finished_scan(tmp_path: Path) -> None:
    genotypes, traits, _ = cohort(22)
    write_plink(tmp_path / "g.bed", samples=genotypes.samples, variants=genotypes.variants, blocks=[genotypes.counts])
    source = open_genotypes(tmp_path / "g.bed")
    whole = (tmp_path / "g.bed").read_bytes()
    (tmp_path / "g.bed").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Exception, match=r"g\.bed"):
        associate(source, traits, out=tmp_path / "out", options=Options(shard_size=10))
    assert not (tmp_path / "out" / "run.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial.*"))
    with pytest.raises(OutputError, match="a part of another scan, unfinished"):
        associate(genotypes, traits, out=tmp_path / "out")
    (tmp_path / "g.bed").write_bytes(whole[:20])
    with pytest.raises(Exception, match=r"g\.bed"):
        associate(source, traits, out=tmp_path / "at once", options=Options(shard_size=10))
    associate(genotypes, traits, out=tmp_path / "at once")  # nothing was finished there, so it is free for another scan
