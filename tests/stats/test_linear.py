from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from clinome.stats import layout, linear
from clinome.stats.distributions import neg_log10_f, neg_log10_t
from clinome.stats.exact import Engine
from clinome.stats.layout import digitise
from clinome.stats.omnibus import omnibus, whiten
from clinome.stats.residuals import prepare, span


def example(seed: int, *, n: int = 60, variants: int = 12, traits: int = 4, ragged: bool = True, gaps: bool = True, scale: int = 1):
    g = np.random.default_rng(seed)
    frequency = g.uniform(0.1, 0.5, (variants, 1))
    counts = g.binomial(2, frequency, (variants, n)).astype(np.int32) * scale
    if scale > 1:
        counts = np.clip(counts + g.integers(-scale // 3, scale // 3, counts.shape), 0, 2 * scale)
    if gaps:
        counts[g.random(counts.shape) < 0.08] = -1
    covariates = np.column_stack([g.normal(1950, 8, n), g.integers(0, 2, n), 1e6 * g.normal(size=n)])
    outcomes = g.normal(size=(n, traits)) + 0.1 * covariates[:, :1] + 0.3 * np.maximum(counts[0], 0)[:, None] / scale
    if ragged:
        outcomes[g.random(outcomes.shape) < 0.1] = np.nan
    return counts if scale > 1 else counts.astype(np.int8), outcomes, covariates


def run(counts, outcomes, covariates, *, scale=1, **how):
    prepared = digitise(prepare(outcomes, span(covariates, scale=scale)))
    result = linear.scan(counts, prepared, **how)
    n = np.empty(result.beta.shape)
    n[prepared.order] = result.n[prepared.group_of]
    return result.beta.T, result.standard_error.T, n.T


@pytest.mark.parametrize("missing", ["mean", "drop"])
@pytest.mark.parametrize("scale", [1, 255, 16384])
def test_every_variant_and_trait_equals_statsmodels(missing: str, scale: int) -> None:
    counts, outcomes, covariates = example(1, scale=scale)
    beta, error, n = run(counts, outcomes, covariates, scale=scale, missing=missing)
    for v in range(len(counts)):
        for p in range(outcomes.shape[1]):
            people = np.isfinite(outcomes[:, p])
            if missing == "drop":
                people &= counts[v] >= 0
            g = np.where(counts[v] >= 0, counts[v] / scale, np.nan)[people]
            g = np.where(np.isnan(g), np.nanmean(g), g)
            standardised = (covariates - covariates.mean(0)) / covariates.std(0)
            fit = sm.OLS(outcomes[people, p], np.column_stack([g, np.ones(people.sum()), standardised[people]])).fit()
            assert abs(beta[v, p] - fit.params[0]) < 1e-6 * fit.bse[0]
            assert error[v, p] == pytest.approx(fit.bse[0], rel=1e-6)
            assert n[v, p] == people.sum()


def test_score_statistic_is_the_square_of_a_partial_correlation() -> None:
    counts, outcomes, covariates = example(2, ragged=False, gaps=False)
    beta, error, _ = run(counts, outcomes, covariates, statistic="score")
    design = np.column_stack([np.ones(len(covariates)), (covariates - covariates.mean(0)) / covariates.std(0)])
    project = np.eye(len(design)) - design @ np.linalg.pinv(design)
    g, y = project @ counts[3], project @ outcomes[:, 1]
    assert (beta[3, 1] / error[3, 1]) ** 2 == pytest.approx((len(g) - 4) * (g @ y) ** 2 / (g @ g) / (y @ y), rel=1e-7)


def test_score_statistic_of_the_observed_people_when_missing_genotypes_are_left_out() -> None:
    counts, outcomes, covariates = example(5)
    beta, error, _ = run(counts, outcomes, covariates, statistic="score", missing="drop")
    for v, p in np.ndindex(beta.shape):
        people = np.isfinite(outcomes[:, p]) & (counts[v] >= 0)
        design = np.column_stack([np.ones(people.sum()), ((covariates - covariates.mean(0)) / covariates.std(0))[people]])
        project = np.eye(len(design)) - design @ np.linalg.pinv(design)
        g, y = project @ counts[v, people], project @ outcomes[people, p]
        score = np.sqrt(len(g) - 4) * (g @ y) / np.sqrt((g @ g) * (y @ y))
        assert beta[v, p] / error[v, p] == pytest.approx(score, abs=1e-7)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from(["mean", "drop"]), scale=st.sampled_from([1, 16384]))
def test_results_do_not_depend_on_block_order_or_companions_to_the_last_bit(seed: int, missing: str, scale: int) -> None:
    counts, outcomes, covariates = example(seed, scale=scale)
    whole = run(counts, outcomes, covariates, scale=scale, missing=missing)
    order = np.random.default_rng(seed).permutation(len(counts))
    cut = 1 + seed % (len(counts) - 1)
    for part in (order[:cut], order[cut:]):
        for p in range(outcomes.shape[1]):
            alone = run(counts[part], outcomes[:, [p]], covariates, scale=scale, missing=missing)
            for a, b in zip(alone, whole, strict=True):
                np.testing.assert_array_equal(a[:, 0], b[part, p])


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from(["mean", "drop"]))
def test_order_of_people_changes_nothing_beyond_rounding(seed: int, missing: str) -> None:
    counts, outcomes, covariates = example(seed)
    beta, error, _ = run(counts, outcomes, covariates, missing=missing)
    order = np.random.default_rng(seed).permutation(len(outcomes))
    again, error_again, _ = run(counts[:, order], outcomes[order], covariates[order], missing=missing)
    assert np.nanmax(np.abs(again - beta) / error) < 1e-6
    np.testing.assert_allclose(error_again, error, rtol=1e-6)


def test_what_cannot_be_estimated_has_no_beta_and_a_reason() -> None:
    counts, outcomes, covariates = example(3, ragged=False, gaps=False)
    counts[0] = 1
    counts[1] = -1
    counts[2] = (covariates[:, 1] > 0) * 2
    outcomes[:, 0] = 7.0
    for missing in ("mean", "drop"):
        result = linear.scan(counts, digitise(prepare(outcomes, span(covariates))), missing=missing)
        assert result.reason[0, :4].tolist() in ([1, 1, 2, 0], [1, 3, 2, 0])
        assert np.isnan(result.beta[:, :3]).all()
        assert np.isnan(result.standard_error[0, 3])
        assert np.isfinite(result.beta[1:, 3]).all()


def test_omnibus_is_the_f_test_of_the_reversed_regression_and_ignores_rotation() -> None:
    counts, outcomes, covariates = example(4, n=90, gaps=False, traits=5)
    complete = np.isfinite(outcomes).all(axis=1)

    def test(y):
        whitened = whiten(y, span(covariates))
        result = linear.scan(counts, digitise(whitened))
        return omnibus(result, whitened.groups[0])

    ours = test(outcomes)
    standardised = (covariates - covariates.mean(0)) / covariates.std(0)
    base = np.column_stack([np.ones(complete.sum()), standardised[complete]])
    for v in range(len(counts)):
        full = sm.OLS(counts[v, complete], np.column_stack([base, outcomes[complete]])).fit()
        reduced = sm.OLS(counts[v, complete], base).fit()
        f, p, _ = full.compare_f_test(reduced)
        assert ours[v] == pytest.approx(neg_log10_f(f, 5, complete.sum() - 9), rel=1e-6)
        assert ours[v] == pytest.approx(-np.log10(p), rel=1e-6)
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(5, 5)))
    np.testing.assert_allclose(test(outcomes @ rotation), ours, atol=1e-7, rtol=1e-7)
    np.testing.assert_allclose(test(outcomes * [1, 1e6, 1e-6, 3, 1] + 100), ours, atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_outcomes_that_nobody_has_together_are_no_outcome() -> None:
    outcomes = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, 3.0], [np.nan, 4.0]])
    (group,) = whiten(outcomes, span(np.arange(8.0).reshape(4, 2))).groups
    assert (group.n, len(group.outcomes)) == (0, 0)


def test_one_outcome_omnibus_is_its_t_test() -> None:
    counts, outcomes, covariates = example(6, gaps=False, traits=1)
    beta, error, n = run(counts, outcomes, covariates)
    whitened = whiten(outcomes, span(covariates))
    result = linear.scan(counts, digitise(whitened))
    np.testing.assert_allclose(omnibus(result, whitened.groups[0]), neg_log10_t((beta / error)[:, 0], n[0, 0] - 5), rtol=1e-9)


def _heavy(generator: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Outcomes of which one person in fifty lies five times as far out as the others, in axes that are mixed."""
    far = np.where(generator.random(n) < 0.02, 5.0, 1.0)[:, None]
    return generator.normal(size=(n, d)) * far @ generator.normal(size=(d, d))


def test_the_radial_omnibus_ignores_rotation_and_scale() -> None:
    generator = np.random.default_rng(8)
    counts = generator.binomial(2, 0.2, (40, 300)).astype(np.int8)
    outcomes, covariates = _heavy(generator, 300, 6), generator.normal(size=(300, 2))

    def test(y: np.ndarray) -> np.ndarray:
        whitened = whiten(y, span(covariates), radial=True)
        result = linear.scan(counts, digitise(whitened))
        return omnibus(result, whitened.groups[0])

    rotation, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    np.testing.assert_allclose(test(outcomes @ rotation), test(outcomes), atol=1e-7)
    np.testing.assert_allclose(test(outcomes * [1, 10, 1e-3, 4, 1e5, 2] + 7), test(outcomes), atol=1e-6)


def test_people_far_out_make_the_plain_omnibus_call_rare_variants_and_not_the_radial_one() -> None:
    generator = np.random.default_rng(9)
    n, variants = 1_000, 12_000
    counts = generator.binomial(2, 0.01, (variants, n)).astype(np.int8)
    outcomes = _heavy(generator, n, 16)
    called = {}
    for radial in (False, True):
        whitened = whiten(outcomes, span(np.zeros((n, 0))), radial=radial)
        result = linear.scan(counts, digitise(whitened))
        called[radial] = int(np.sum(omnibus(result, whitened.groups[0]) >= 3))
    assert called[False] >= 3 * 12  # expected by chance: 12
    assert called[True] <= 25  # beyond 3.5 standard deviations of chance would be 25


def test_the_radial_omnibus_of_normal_outcomes_is_nearly_the_plain_one() -> None:
    generator = np.random.default_rng(10)
    counts = generator.binomial(2, 0.3, (60, 2_000)).astype(np.int8)
    outcomes = generator.normal(size=(2_000, 5)) + 0.15 * counts[0][:, None]

    def test(radial: bool) -> np.ndarray:
        whitened = whiten(outcomes, span(np.zeros((2_000, 0))), radial=radial)
        result = linear.scan(counts, digitise(whitened))
        return omnibus(result, whitened.groups[0])

    np.testing.assert_allclose(test(True), test(False), rtol=0.05, atol=0.05)


def test_simple_regression_of_five_people_by_hand() -> None:
    """Counts 0 0 1 1 2, outcomes 1 2 2 4 6: Sxx = 14/5, Sxy = 6, Syy = 16, so β = 15/7, SE² = (16 − 90/7) / 3 / (14/5)."""
    outcomes = np.array([[1.0], [2.0], [2.0], [4.0], [6.0]])
    counts = np.array([[0, 0, 1, 1, 2], [2, 2, 1, 1, 0], [0, 0, 1, 1, -1]], np.int8)
    prepared = digitise(prepare(outcomes, span(np.zeros((5, 0)))))
    result = linear.scan(counts, prepared, missing="drop")
    error = np.sqrt((16 - 90 / 7) / 3 / (14 / 5))
    np.testing.assert_allclose(result.beta[0], [15 / 7, -15 / 7, 3 / 2], rtol=1e-7)  # without the last: Sxx = 1, Sxy = 3/2
    np.testing.assert_allclose(result.standard_error[0], [error, error, np.sqrt((4.75 - 2.25) / 2)], rtol=1e-7)
    assert result.n.tolist() == [[5, 5, 4]]
    np.testing.assert_allclose(result.frequency_of_all, [0.4, 0.6, 0.25])
    mean = linear.scan(counts, prepared, missing="mean")  # the fifth count becomes 1/2: Sxx = 1, Sxy = 3/2
    np.testing.assert_allclose(mean.beta[0, 2], 3 / 2, rtol=1e-7)
    np.testing.assert_allclose(mean.standard_error[0, 2], np.sqrt((16 - 2.25) / 3), rtol=1e-7)
    np.testing.assert_allclose(mean.missing_share, [0, 0, 0.2])


@pytest.mark.parametrize("gaps", [False, True])
def test_the_approximation_of_regenie_is_masked_residuals_over_everybody(gaps: bool) -> None:
    """Mbatchou et al. 2021: traits (missing at their mean) and counts are residualised over everybody, then masked per trait."""
    counts, outcomes, covariates = example(7, n=200, gaps=gaps)
    result = linear.scan(counts, digitise(prepare(outcomes, span(covariates), ragged="regenie")), statistic="score")
    standardised = (covariates - covariates.mean(0)) / covariates.std(0)
    design = np.column_stack([np.ones(len(outcomes)), standardised])
    project = np.eye(len(design)) - design @ np.linalg.pinv(design)
    differences = []
    exact = linear.scan(counts, digitise(prepare(outcomes, span(covariates))), statistic="score")
    for p in range(outcomes.shape[1]):
        mask = np.isfinite(outcomes[:, p])
        y = np.where(mask, project @ np.where(mask, outcomes[:, p] - outcomes[mask, p].mean(), 0.0), 0.0)
        for v in range(len(counts)):
            g = np.where(counts[v] >= 0, counts[v], counts[v][counts[v] >= 0].mean())
            g = np.where(mask, project @ g, 0.0)
            beta, variance = (g @ y) / (g @ g), (y @ y) / (mask.sum() - 4) / (g @ g)
            assert result.beta[p, v] == pytest.approx(beta, abs=1e-6 * np.sqrt(variance))
            assert result.standard_error[p, v] == pytest.approx(np.sqrt(variance), rel=1e-6)
            differences.append((result.beta[p, v] - exact.beta[p, v]) / exact.standard_error[p, v])
    assert 1e-3 < np.abs(differences).max() < 0.5  # what the approximation costs: here up to a tenth of a standard error or so


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from(["mean", "drop"]), width=st.sampled_from([1, 2, 3]))
def test_engines_and_batches_of_outcomes_change_no_bit(seed: int, missing: str, width: int) -> None:
    counts, outcomes, covariates = example(seed)
    own = np.random.default_rng(seed).normal(size=outcomes.shape) if seed % 2 else None
    basis = span(covariates)
    whole = linear.scan(counts, digitise(prepare(outcomes, basis, own)), missing=missing)
    for engine in (Engine("int8", 256, "cpu"), Engine("int8", 128, "cpu"), Engine("float64", 0, "cpu")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout, "_WIDTH", width)
            other = linear.scan(counts, digitise(prepare(outcomes, basis, own), engine=engine), missing=missing)
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_people_who_are_read_and_not_analysed_change_no_bit() -> None:
    counts, outcomes, covariates = example(9)
    outcomes[::3] = np.nan
    basis = span(covariates)
    analysed = np.isfinite(outcomes).any(axis=1)
    alone = digitise(prepare(outcomes[analysed], basis.among(analysed)))
    among = digitise(prepare(outcomes[analysed], basis.among(analysed)), places=np.flatnonzero(analysed), width=len(outcomes))
    for missing in ("mean", "drop"):
        one = linear.scan(np.ascontiguousarray(counts[:, analysed]), alone, missing=missing)  # type: ignore[arg-type]
        two = linear.scan(counts, among, missing=missing)  # type: ignore[arg-type]
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("share", "outlier"), [(0.95, 0.0), (0.01, 1e3)])
def test_what_is_left_when_most_people_or_an_outlier_are_left_out_is_exact(share: float, outlier: float) -> None:
    generator = np.random.default_rng(31)
    n = 5_000  # a cohort with the coarser rounding
    covariates = generator.normal(size=(n, 3))
    outcomes = generator.normal(size=(n, 2)) + covariates @ generator.normal(size=(3, 2))
    outcomes[17] += outlier
    counts = generator.binomial(2, [[0.3], [0.02], [0.99]], (3, n)).astype(np.int8)
    counts[generator.random(counts.shape) < share] = -1
    counts[:, 17] = -1  # the outlier has no genotype
    result = linear.scan(counts, digitise(prepare(outcomes, span(covariates))), missing="drop")
    for v, p in np.ndindex(3, 2):
        there = counts[v] >= 0
        fit = sm.OLS(outcomes[there, p], np.column_stack([counts[v, there], np.ones(there.sum()), covariates[there]])).fit()
        scale = 1 + outlier / np.sqrt(n)  # rounding is relative to the whole of a trait, the outlier included
        assert abs(result.beta[p, v] - fit.params[0]) < 3e-6 * scale * fit.bse[0]
        assert result.standard_error[p, v] == pytest.approx(fit.bse[0], rel=3e-6 * scale)


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_groups_that_do_not_differ_where_they_are_scanned_and_no_covariates(missing: str) -> None:
    """On Y two traits that lack different women have the same men; without covariates there is no basis to sum over."""
    generator = np.random.default_rng(32)
    counts, _, _ = example(32, n=80)
    outcomes = generator.normal(size=(80, 3))
    outcomes[0, 0] = outcomes[2, 1] = outcomes[5, 2] = np.nan
    men = np.arange(80) % 2 == 1
    result = linear.scan(counts, digitise(prepare(outcomes, span(np.zeros((80, 0))), among=men)), missing=missing)  # type: ignore[arg-type]
    for v, p in np.ndindex(len(counts), 3):
        people = men & np.isfinite(outcomes[:, p])
        g = np.where(counts[v] >= 0, counts[v], np.nan)[people]
        y, there = outcomes[people, p], np.isfinite(g)
        if missing == "drop":
            g, y = g[there], y[there]
        g = np.where(np.isnan(g), np.nanmean(g), g)
        fit = sm.OLS(y, np.column_stack([g, np.ones(len(g))])).fit()
        assert abs(result.beta[p, v] - fit.params[0]) < 1e-6 * fit.bse[0]
        assert result.standard_error[p, v] == pytest.approx(fit.bse[0], rel=1e-6)
