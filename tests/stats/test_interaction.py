from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from toolkit.genotypes import array_genotypes
from toolkit.plink2 import run as run_program

from clinome.formats.plink import write_plink
from clinome.stats import interaction, linear
from clinome.stats.distributions import neg_log10_t
from clinome.stats.layout import digitise as linear_layout
from clinome.stats.modifier import modifier_of, variance_ratio
from clinome.stats.residuals import Outcomes, prepare, span


def example(seed: int, *, n: int = 80, variants: int = 10, traits: int = 4, ragged: bool = True, gaps: bool = True, scale: int = 1):
    """Counts, outcomes with an interaction at variant 0, covariates, and a year of birth as the modifier."""
    g = np.random.default_rng(seed)
    counts = g.binomial(2, g.uniform(0.2, 0.5, (variants, 1)), (variants, n)).astype(np.int32) * scale
    if scale > 1:
        counts = np.clip(counts + g.integers(-scale // 3, scale // 3, counts.shape), 0, 2 * scale)
    if gaps:
        counts[g.random(counts.shape) < 0.06] = -1
    year = g.normal(1950, 8, n)
    covariates = np.column_stack([g.integers(0, 2, n), 1e6 * g.normal(size=n)])
    outcomes = g.normal(size=(n, traits)) + 0.1 * year[:, None]
    outcomes += 0.1 * ((year - 1950) * np.maximum(counts[0], 0) / scale)[:, None]
    if ragged:
        outcomes[g.random(outcomes.shape) < 0.05] = np.nan
    return counts if scale > 1 else counts.astype(np.int8), outcomes, covariates, year


def prepared_for(outcomes, covariates, modifier, *, scale: int = 1, own=None) -> Outcomes:
    return prepare(outcomes, span(np.column_stack([covariates, modifier]), scale=scale), own)


def scanned(counts, outcomes, covariates, modifier, *, scale: int = 1, own=None, **how) -> interaction.Interaction:
    prepared = prepared_for(outcomes, covariates, modifier, scale=scale, own=own)
    x = modifier_of(modifier, prepared.basis)
    return interaction.scan_interaction(counts, interaction.digitise_interaction(prepared, x), **how)


@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("scale", [1, 255, 16384, 65535])
@pytest.mark.parametrize("own", [False, True])
def test_every_variant_and_trait_equals_statsmodels(missing: str, scale: int, own: bool) -> None:
    counts, outcomes, covariates, year = example(1, n=60, variants=6, traits=3, scale=scale)
    mine = np.random.default_rng(2).normal(size=outcomes.shape) if own else None
    if mine is not None:
        mine[3, 0] = np.nan
    found = scanned(counts, outcomes, covariates, year, scale=scale, own=mine, missing=missing)
    prepared = prepared_for(outcomes, covariates, year, scale=scale, own=mine)
    marginal = linear.scan(counts, linear_layout(prepared), missing=missing)
    for v in range(len(counts)):
        for p in range(outcomes.shape[1]):
            analysed = np.isfinite(outcomes[:, p])
            others = [covariates[:, 0], covariates[:, 1] / 1e6]
            if mine is not None:
                analysed &= np.isfinite(mine[:, p])
                others.append(mine[:, p])
            x = year - year[analysed].mean()
            people = analysed & (counts[v] >= 0) if missing == "drop" else analysed
            g = np.where(counts[v] >= 0, counts[v] / scale, np.nan)
            g = np.where(np.isnan(g), np.nanmean(g[people]), g)
            design = np.column_stack([g, x * g, np.ones(len(x)), x, *others])[people]
            fit = sm.OLS(outcomes[people, p], design).fit()
            for k, (value, error) in enumerate([(found.main, found.main_error), (found.beta, found.standard_error)]):
                assert abs(value[p, v] - fit.params[k]) < 2e-6 * fit.bse[k]
                assert error[p, v] == pytest.approx(fit.bse[k], rel=2e-6)
            t = marginal.beta[p, v] / marginal.standard_error[p, v], found.beta[p, v] / found.standard_error[p, v]
            joint = interaction.neg_log10_joint(*t, fit.df_resid)
            assert joint == pytest.approx(-np.log10(fit.f_test(np.eye(2, design.shape[1])).pvalue), rel=1e-5)


def test_equals_plink2(program: Callable[[str], str], tmp_path: Path) -> None:
    counts, outcomes, covariates, year = example(2, n=300, variants=40)
    source = array_genotypes(counts)
    write_plink(tmp_path / "a.bed", samples=source.samples, variants=source.variants, blocks=[counts])
    ids = source.samples.select(FID="family_id", IID="participant_id")
    outcomes = outcomes[:, :2]
    outcomes[:, 0] = np.where(np.isnan(outcomes[:, 0]), 195.0, outcomes[:, 0])
    table = ids.with_columns(pl.Series("a", outcomes[:, 0]), pl.Series("b", outcomes[:, 1]).fill_nan(None))
    table.write_csv(tmp_path / "y.tsv", separator="\t", null_value="NA")
    centred = year - year.mean()  # PLINK's main effect is at x = 0: ours for the trait that nobody lacks
    ids.with_columns(pl.Series("year", centred), pl.Series("sex", covariates[:, 0])).write_csv(tmp_path / "x.tsv", separator="\t")
    run_program(
        program("plink2"), "--bfile", tmp_path / "a", "--no-psam-pheno", "--pheno", tmp_path / "y.tsv",
        "--covar", tmp_path / "x.tsv",
        "--glm", "interaction", "--parameters", "1-4", "--tests", "1,4", "--vif", 1000, "--covar-variance-standardize", "sex",
        "--threads", 1, "--out", tmp_path / "theirs",
    )  # fmt: skip
    found = scanned(counts, outcomes, covariates[:, :1], year, missing="drop")
    marginal = linear.scan(counts, linear_layout(prepared_for(outcomes, covariates[:, :1], year)), missing="drop")
    for p, name in enumerate("ab"):
        theirs = pl.read_csv(tmp_path / f"theirs.{name}.glm.linear", separator="\t", null_values="NA")
        of = {term: theirs.filter(pl.col("TEST") == term) for term in ("ADD", "ADDxyear", "USER_2DF")}
        flip = np.where(of["ADD"]["A1"].to_numpy() == "A", 1, -1)  # PLINK counts the minor allele
        terms = [("ADDxyear", found.beta, found.standard_error)] + [("ADD", found.main, found.main_error)] * (name == "a")
        for term, value, ours in terms:
            error = of[term]["SE"].to_numpy()
            np.testing.assert_allclose(ours[p], error, rtol=1e-4)
            assert (np.abs(value[p] - flip * of[term]["BETA"].to_numpy()) < 1e-4 * error).all()
        t = marginal.beta[p] / marginal.standard_error[p], found.beta[p] / found.standard_error[p]
        df = of["ADD"]["OBS_CT"].to_numpy() - 5.0
        joint = stats.f.isf(10 ** -interaction.neg_log10_joint(*t, df), 2, df)  # PLINK 2.00a3.5's own p has n for df
        np.testing.assert_allclose(joint, of["USER_2DF"]["T_OR_F_STAT"].to_numpy(), rtol=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["mean", "drop"]))
def test_a_result_does_not_depend_on_block_or_companions(seed: int, missing: str) -> None:
    counts, outcomes, covariates, year = example(seed, n=50)
    whole = scanned(counts, outcomes, covariates, year, missing=missing)
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(counts), 3, replace=False))
    traits = generator.choice(outcomes.shape[1], 2, replace=False)
    part = scanned(counts[rows], outcomes[:, traits], covariates, year, missing=missing)
    for name, values in part._asdict().items():
        assert np.isfinite(values).any()
        np.testing.assert_array_equal(values, getattr(whole, name)[np.ix_(traits, rows)], err_msg=name)


def test_people_who_are_not_in_the_counts_in_that_order_are_placed() -> None:
    counts, outcomes, covariates, year = example(7)
    places = np.random.default_rng(7).permutation(100)[: counts.shape[1]]
    wide = np.full((len(counts), 100), 2, np.int8)
    wide[:, places] = counts
    wide[:, np.setdiff1d(np.arange(100), places)] = -1  # strangers, whose counts are missing too
    prepared = prepared_for(outcomes, covariates, year)
    for missing in ("mean", "drop"):
        x = modifier_of(year, prepared.basis)
        placed = interaction.digitise_interaction(prepared, x, places=places, width=100)
        for one, other in zip(
            interaction.scan_interaction(wide, placed, missing=missing),
            scanned(counts, outcomes, covariates, year, missing=missing),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_units_and_origin_of_the_modifier_change_the_units_of_the_interaction_alone() -> None:
    counts, outcomes, covariates, year = example(3, n=200)
    once = scanned(counts, outcomes, covariates, year)
    other = scanned(counts, outcomes, covariates, 365.25 * (year - 1900))
    np.testing.assert_allclose(other.main, once.main, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.main_error, once.main_error, rtol=1e-6)
    np.testing.assert_allclose(other.beta * 365.25, once.beta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.standard_error * 365.25, once.standard_error, rtol=1e-6)
    assert (np.abs(once.beta / once.standard_error).argmax(axis=1) == 0).all()  # the variant that was planted


def test_what_cannot_be_told_apart_has_no_estimate() -> None:
    generator = np.random.default_rng(4)
    n = 60
    sex = np.repeat([0.0, 1.0], n // 2)
    counts = generator.binomial(2, 0.4, (5, n)).astype(np.int8)
    counts[1, n // 2 :] = 0  # carriers in one sex alone: g and x·g are one column
    counts[2] = 1
    counts[3, : n - 3] = -1
    outcomes = generator.normal(size=(n, 2))
    outcomes[: n // 2, 1] = np.nan  # a trait of one sex alone: x does not vary
    for missing in ("mean", "drop"):
        for values in scanned(counts, outcomes, np.zeros((n, 0)), sex, missing=missing):
            assert np.isfinite(values).tolist() == [[True, False, False, False, True], [False] * 5]
    few = scanned(counts[:1, 26:31], outcomes[26:31, :1], generator.normal(size=(5, 1)), sex[26:31])
    assert np.isnan(few.beta).all()  # five people, five columns


def test_a_variance_that_follows_the_modifier_inflates_the_test_by_the_ratio_that_is_told() -> None:
    generator = np.random.default_rng(6)
    n, variants = 5_000, 1_000
    counts = generator.binomial(2, 0.3, (variants, n)).astype(np.int8)
    x = generator.normal(size=n)
    outcomes = np.column_stack([np.exp(x / 5) * generator.normal(size=n), generator.normal(size=n)])
    ratio = variance_ratio(prepared_for(outcomes, np.zeros((n, 0)), x), x)
    result = scanned(counts, outcomes, np.zeros((n, 0)), x)
    t = result.beta / result.standard_error
    assert ratio[0] == pytest.approx(1.16, abs=0.1)  # E[x²·exp(2x/5)] / E[exp(2x/5)] = 1 + 4/25
    assert ratio[1] == pytest.approx(1.0, abs=6 / np.sqrt(n))
    np.testing.assert_allclose(np.mean(t * t, axis=1), ratio, atol=4 * np.sqrt(2 / variants) * ratio.max())
    assert (neg_log10_t(t[1], n - 4) > 2).mean() == pytest.approx(0.01, abs=4 * np.sqrt(0.01 / variants))
