from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.core.errors import StudyError, TraitError
from clinome.genetics.association import Options, associate
from clinome.genetics.interaction import interactions, save_interactions
from clinome.genetics.results import Results
from clinome.genetics.studywide import summarise

N = 260


def cohort() -> tuple[ArrayGenotypes, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Genotypes, two ragged traits of which one has an effect of variant 5 that grows with age, covariates, and age."""
    generator = np.random.default_rng(11)
    counts = random_counts(generator, 60, N, missing=0.02, maf=(0.2, 0.5))
    source = array_genotypes(counts)
    ids = source.samples.select("participant_id")
    age = generator.normal(55, 8, N)
    values = generator.normal(size=(N, 2))
    values[:, 0] += 0.12 * (age - 55) * np.maximum(counts[5], 0) + 0.03 * age
    values[generator.random(values.shape) < 0.05] = np.nan
    traits = ids.hstack(pl.DataFrame(values, schema=["a", "b"])).with_columns(pl.col("a", "b").fill_nan(None))
    covariates = ids.with_columns(pl.Series("sex", generator.integers(0, 2, N).astype(float)))
    return source, traits, covariates, ids.with_columns(pl.Series("age", age))


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_the_store_keeps_the_trait_as_it_is_and_its_interaction(missing: str, tmp_path: Path) -> None:
    source, traits, covariates, age = cohort()
    options = Options(missing_genotypes=missing, shard_size=25)
    results = associate(source, traits, covariates=covariates, interaction=age, out=tmp_path / "both", options=options)
    both = covariates.join(age, on="participant_id")
    plain = associate(source, traits, covariates=both, out=tmp_path / "plain", options=options)
    assert results.traits["trait"].to_list() == ["a", "b", "a×age", "b×age"]
    assert results.run["interaction"] == "age"
    assert plain.run["interaction"] is None
    for trait in "ab":
        assert results.trait(trait).equals(plain.trait(trait))  # to the bit
    found, joint = results.trait("a×age"), interactions(results, "a")
    assert joint["variant_id"].to_list() == found["variant_id"].to_list()
    table = traits.join(both, on="participant_id", maintain_order="left")
    for v in (5, 17):
        people = table["a"].is_not_null().to_numpy() & ((source.counts[v] >= 0) | (missing == "mean"))
        g = np.where(source.counts[v] < 0, np.nan, source.counts[v])[people]
        g = np.where(np.isnan(g), np.nanmean(g), g)
        mine = table.filter(pl.Series(people))
        x = mine["age"].to_numpy()
        design = np.column_stack([x * g, g, np.ones(len(g)), x, mine["sex"]])
        fit = sm.OLS(mine["a"].to_numpy(), design).fit()
        row = found.row(v, named=True)
        assert row["beta"] == pytest.approx(fit.params[0], rel=1e-4)
        assert row["standard_error"] == pytest.approx(fit.bse[0], rel=1e-5)
        assert row["neg_log_10_p_value"] == pytest.approx(-np.log10(fit.pvalues[0]), rel=1e-4)
        assert row["n"] == people.sum()
        said = joint.row(v, named=True)
        assert said["joint_neg_log_10_p_value"] == pytest.approx(-np.log10(fit.f_test(np.eye(2, 5)).pvalue), rel=1e-4)
        assert said["interaction_beta"] == row["beta"]
        assert said["beta"] == results.trait("a")["beta"][v]


def test_on_x_sex_is_among_the_covariates_of_both(tmp_path: Path) -> None:
    source, traits, _, age = cohort()
    men = np.arange(N) % 2 == 0
    counts = source.counts.copy()
    counts[:, men] = np.where(counts[:, men] == 1, 2, counts[:, men])
    samples = source.samples.with_columns(sex=pl.Series(np.where(men, "male", "female")))
    mixed = source.variants.with_columns(chromosome=pl.Series(["1"] * 10 + ["X"] * 50))
    on_x = ArrayGenotypes(samples, mixed, counts)
    results = associate(on_x, traits, interaction=age, out=tmp_path)
    joint = interactions(results, "b")
    people = traits["b"].is_not_null().to_numpy()
    x, y = age["age"].to_numpy()[people], traits["b"].to_numpy()[people]
    for v, more in ((4, []), (30, [men[people].astype(float)])):
        g = np.where(counts[v] < 0, np.nan, counts[v])[people]
        g = np.where(np.isnan(g), np.nanmean(g), g)
        fit = sm.OLS(y, np.column_stack([x * g, g, np.ones(len(g)), x, *more])).fit()
        row = joint.row(v, named=True)
        assert row["interaction_beta"] == pytest.approx(fit.params[0], rel=1e-4)
        assert row["interaction_neg_log_10_p_value"] == pytest.approx(-np.log10(fit.pvalues[0]), rel=1e-4)
        assert row["joint_neg_log_10_p_value"] == pytest.approx(-np.log10(fit.f_test(np.eye(2, 4 + len(more))).pvalue), rel=1e-4)


def test_bits_do_not_depend_on_blocks_threads_processes_or_companions(tmp_path: Path) -> None:
    source, traits, covariates, age = cohort()
    how = {"covariates": covariates, "interaction": age}
    one = associate(source, traits, out=tmp_path / "one", options=Options(threads=1), **how)
    many = associate(source, traits, out=tmp_path / "many", options=Options(block_size=7, shard_size=13, threads=3), **how)
    apart = associate(source, traits, out=tmp_path / "apart", options=Options(shard_size=13, processes=2), **how)
    alone = associate(source, traits.select("participant_id", "b"), out=tmp_path / "alone", **how)
    for trait in ("a×age", "b×age"):
        assert one.trait(trait).equals(many.trait(trait))
        assert one.trait(trait).equals(apart.trait(trait))
    assert one.trait("b×age").equals(alone.trait("b×age"))


def test_hits_of_the_interaction_and_the_joint_test_are_saved(tmp_path: Path) -> None:
    source, traits, covariates, age = cohort()
    results = associate(source, traits, covariates=covariates, interaction=age, out=tmp_path)
    summarise(results, tests=4.0)
    save_interactions(results)
    saved = pl.read_parquet(tmp_path / "interactions.parquet")
    assert saved.select("variant_id", "trait").rows() == [("v5", "a")]
    assert saved["joint_neg_log_10_p_value"][0] > 7.3
    for level in (1e-2, 1e-3):
        every, some = interactions(results, "a"), interactions(results, "a", p_value=level)
        reach = pl.max_horizontal("interaction_neg_log_10_p_value", "joint_neg_log_10_p_value") >= -np.log10(level)
        assert some.equals(every.filter(reach))
        assert some.height > 0


def test_what_cannot_interact_is_said(tmp_path: Path) -> None:
    source, traits, covariates, age = cohort()
    with pytest.raises(TraitError, match="'age' is the same for everybody"):
        associate(source, traits, interaction=age.with_columns(age=pl.lit(50.0)), out=tmp_path / "same")
    gaps = age.with_columns(pl.when(pl.int_range(N) > 0).then("age").alias("age"))
    with pytest.raises(TraitError, match="'age' is missing or not finite for 1 people"):
        associate(source, traits, interaction=gaps, out=tmp_path / "gaps")
    for options in (Options(statistic="score"), Options(ragged_traits="regenie")):
        with pytest.raises(StudyError, match="an interaction is tested by Student's t"):
            associate(source, traits, interaction=age, out=tmp_path / "score", options=options)
    with pytest.raises(TraitError, match="two traits, or a trait and an interaction, have the same name"):
        associate(source, traits.rename({"b": "a×age"}), interaction=age, out=tmp_path / "named")
    results = associate(source, traits, covariates=covariates, out=tmp_path / "plain")
    with pytest.raises(StudyError, match="this scan had no interaction"):
        interactions(Results(results.folder), "a")
