from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy import stats

from clinome.core.errors import CohortError, TraitError
from clinome.core.schema import METRICS, check
from clinome.genetics.deepnull import Config, predict_out_of_fold

Floats = NDArray[np.float64]
QUICK = Config(widths=(16, 8), epochs=5)


class Simulated(NamedTuple):
    covariates: Floats  # age, sex, array, three noise columns
    trait: Floats
    expected: Floats  # the covariates' part of the trait, what an oracle predicts
    ids: list[str]


def simulate(n: int, *, seed: int, share: float = 0.3) -> Simulated:
    """Simulate a trait whose variance is, to ``share``, a curve in age and an interaction with sex."""
    g = np.random.default_rng(seed)
    age, sex, array = g.uniform(40, 70, n), g.integers(0, 2, n), g.random(n) < 0.1
    a = (age - 55) / 8.66
    curve = a**2 + 0.6 * a * (2 * sex - 1) + 0.5 * np.sin(2.5 * a) + 0.4 * a
    expected = np.sqrt(share) * (curve - curve.mean()) / curve.std()
    trait = expected + np.sqrt(1 - share) * g.normal(size=n)
    covariates = np.column_stack([age, sex, array, g.normal(size=(n, 3))]).astype(np.float64)
    return Simulated(covariates, trait, expected, [f"p{i:05d}" for i in range(n)])


def r_squared(y: Floats, said: Floats) -> float:
    return 1 - float(((y - said) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def chi_squared(trait: Floats, columns: Floats, genotypes: Floats) -> Floats:
    """Return each variant's squared t statistic from least squares on the variant, an intercept and ``columns``."""
    basis = np.linalg.qr(np.column_stack([np.ones(len(trait)), columns]))[0]
    y = trait - basis @ (basis.T @ trait)
    g = genotypes - basis @ (basis.T @ genotypes)
    gg, gy = (g * g).sum(axis=0), g.T @ y
    return gy**2 / gg / ((y @ y - gy**2 / gg) / (len(y) - basis.shape[1] - 1))


@pytest.mark.slow
def test_it_learns_curves_gains_what_the_closed_form_says_and_keeps_the_level_of_null_variants() -> None:
    n, n_causal, n_null = 4_000, 60, 4_000
    people = simulate(n, seed=1)
    g = np.random.default_rng(2)
    genotypes = g.binomial(2, g.uniform(0.1, 0.5, n_causal + n_null), size=(n, n_causal + n_null)).astype(np.float64)
    causal = genotypes[:, :n_causal]
    trait = people.trait + (causal - causal.mean(axis=0)) / causal.std(axis=0) @ np.full(n_causal, np.sqrt(0.004))

    found = predict_out_of_fold(people.covariates, trait[:, None], participant_ids=people.ids, trait_names=["t"], seed=3)
    said = found.predictions[:, 0]
    reached = dict(found.quality.select("name", "value").iter_rows())
    oracle = r_squared(trait, people.expected)
    assert reached["out_of_fold_r2:linear"] < 0.2 * oracle
    assert reached["out_of_fold_r2:deepnull"] > 0.85 * oracle
    low = found.quality.filter(pl.col("name") == "gain:deepnull-linear")["lower"].item()
    assert low > 0.1

    linear = chi_squared(trait, people.covariates, genotypes)
    adjusted = chi_squared(trait, np.column_stack([people.covariates, said]), genotypes)
    residual = [trait - x @ np.linalg.lstsq(x, trait, rcond=None)[0] for x in _designs(people.covariates, said)]
    expected = float(residual[0] @ residual[0] / (residual[1] @ residual[1]))  # (1 − R²_linear) / (1 − R²_full)
    drawn = np.random.default_rng(4).integers(0, n_causal, size=(2_000, n_causal))
    ratios = adjusted[:n_causal][drawn].sum(axis=1) / linear[:n_causal][drawn].sum(axis=1)
    lower, upper = np.quantile(ratios, [0.005, 0.995])
    assert expected > 1.2
    assert lower < expected < upper
    assert upper - lower < 0.25

    for level in (0.05, 0.01):
        hits = int((adjusted[n_causal:] > stats.chi2.isf(level, 1)).sum())
        assert stats.binomtest(hits, n_null, level).pvalue > 1e-3


def _designs(covariates: Floats, said: Floats) -> tuple[Floats, Floats]:
    ones = np.ones(len(said))
    return np.column_stack([ones, covariates]), np.column_stack([ones, covariates, said])


@pytest.fixture(scope="module")
def people() -> Simulated:
    return simulate(600, seed=5)


def test_nobody_reaches_their_own_prediction(people: Simulated) -> None:
    names = ["t"]
    before = predict_out_of_fold(
        people.covariates, people.trait[:, None], participant_ids=people.ids, trait_names=names, config=QUICK
    )
    mine = before.fold == 2
    changed = np.where(mine, -7 * people.trait + 3, people.trait)
    after = predict_out_of_fold(people.covariates, changed[:, None], participant_ids=people.ids, trait_names=names, config=QUICK)
    for said in ("predictions", "second_order"):
        one, two = getattr(before, said)[:, 0], getattr(after, said)[:, 0]
        assert np.array_equal(one[mine], two[mine])
        assert (one[~mine] != two[~mine]).mean() > 0.99
    lacking = np.where(mine, np.nan, people.trait)
    without = predict_out_of_fold(
        people.covariates,
        np.where(np.arange(600) % 7 == 0, lacking, people.trait)[:, None],
        participant_ids=people.ids,
        trait_names=names,
        config=QUICK,
    )
    assert np.array_equal(without.predictions[mine], before.predictions[mine])  # who lacks the trait is predicted all the same


def test_relatives_across_folds_leak_and_families_stop_it() -> None:
    """Copies of people under other ids make pure noise look predictable, unless families stay together."""
    g = np.random.default_rng(6)
    once = g.normal(size=(250, 6))
    noise = g.normal(size=250)
    covariates, trait = np.repeat(once, 4, axis=0), np.repeat(noise, 4)[:, None]
    ids = [f"p{i:04d}" for i in range(1_000)]
    families = [f"f{i // 4}" for i in range(1_000)]
    config = Config(epochs=60, weight_decay=0.0)

    def reached(family_ids: list[str] | None) -> tuple[float, list[set[int]]]:
        found = predict_out_of_fold(covariates, trait, participant_ids=ids, trait_names=["t"], family_ids=family_ids, config=config)
        together = [set(found.fold[4 * i : 4 * i + 4].tolist()) for i in range(250)]
        return found.quality.filter(pl.col("name") == "out_of_fold_r2:deepnull")["value"].item(), together

    leaked, split = reached(None)
    honest, kept = reached(families)
    assert leaked > 0.3
    assert honest < 0.02
    assert max(map(len, split)) > 1
    assert set(map(len, kept)) == {1}


def test_rows_in_another_order_and_other_traits_change_no_bit(people: Simulated) -> None:
    g = np.random.default_rng(7)
    traits = np.column_stack([people.trait, g.normal(size=600), people.expected])
    families = [f"f{i // 2}" for i in range(600)]
    order = g.permutation(600)

    def run(rows: NDArray[np.int64], columns: list[int], seed: int = 0) -> tuple[Floats, NDArray[np.int64], pl.DataFrame]:
        found = predict_out_of_fold(
            people.covariates[rows],
            traits[rows][:, columns],
            participant_ids=[people.ids[i] for i in rows],
            family_ids=[families[i] for i in rows],
            trait_names=[f"trait {j}" for j in columns],
            config=QUICK,
            seed=seed,
        )
        return found.predictions, found.fold, found.quality

    whole, fold, quality = run(np.arange(600), [0, 1, 2])
    turned, turned_fold, _ = run(order, [0, 1, 2])
    alone, _, alone_quality = run(np.arange(600), [1])
    assert np.array_equal(turned, whole[order])
    assert np.array_equal(turned_fold, fold[order])
    assert np.array_equal(alone[:, 0], whole[:, 1])
    assert alone_quality.equals(quality.filter(pl.col("subgroup") == "trait 1"))
    assert not np.array_equal(run(np.arange(600), [1], seed=1)[0][:, 0], whole[:, 1])


def test_missing_values(people: Simulated) -> None:
    covariates, traits = people.covariates.copy(), np.column_stack([people.trait, people.trait])
    covariates[:40, 1] = np.nan
    traits[30:300, 1] = np.nan
    found = predict_out_of_fold(covariates, traits, participant_ids=people.ids, trait_names=["whole", "half"], config=QUICK)
    for values in (found.predictions, found.second_order):
        assert np.isnan(values[:40]).all()
        assert np.isfinite(values[40:]).all()
    assert (found.fold[:40] == 0).all()
    assert sorted(set(found.fold[40:].tolist())) == [1, 2, 3, 4, 5]
    # the rows that are not complete might as well not be there
    rest = predict_out_of_fold(
        covariates[40:], traits[40:], participant_ids=people.ids[40:], trait_names=["whole", "half"], config=QUICK
    )
    assert np.array_equal(rest.predictions, found.predictions[40:])


def test_quality_is_the_predictions_own_and_its_interval_covers_it(people: Simulated) -> None:
    trait = people.trait.copy()
    trait[::5] = np.nan
    found = predict_out_of_fold(people.covariates, trait[:, None], participant_ids=people.ids, trait_names=["t"], config=QUICK)
    check(found.quality, METRICS)
    rows = {row["name"]: row for row in found.quality.iter_rows(named=True)}
    present = ~np.isnan(trait)
    for kind, said in (("deepnull", found.predictions), ("second_order", found.second_order)):
        row = rows[f"out_of_fold_r2:{kind}"]
        assert row["value"] == pytest.approx(r_squared(trait[present], said[present, 0]), abs=1e-12)
        assert row["lower"] < row["value"] < row["upper"]
    assert rows["gain:deepnull-linear"]["value"] == pytest.approx(
        rows["out_of_fold_r2:deepnull"]["value"] - rows["out_of_fold_r2:linear"]["value"], abs=1e-12
    )
    assert [name for name in rows if name.startswith("validation")] == [f"validation_pearson:fold_{i}" for i in range(1, 6)]


def test_floors_equal_ordinary_least_squares_when_nothing_needs_shrinking() -> None:
    """Without noise, the second-order floor finds age² and age × sex exactly, and the linear one its own best line."""
    people = simulate(500, seed=8)
    age, sex = people.covariates[:, 0], people.covariates[:, 1]
    trait = (0.01 * age**2 + age * sex)[:, None]
    found = predict_out_of_fold(people.covariates[:, :2], trait, participant_ids=people.ids, trait_names=["t"], config=QUICK)
    reached = dict(found.quality.select("name", "value").iter_rows())
    assert reached["out_of_fold_r2:second_order"] > 0.99999
    assert 0.9 < reached["out_of_fold_r2:linear"] < 0.999


def test_units_and_constant_columns_do_not_matter(people: Simulated) -> None:
    scaled = np.column_stack([people.covariates * [1e6, 1, 1, 1e-9, 1, 1] + 1e3, np.full(600, 4.0)])
    one = predict_out_of_fold(people.covariates, people.trait[:, None], participant_ids=people.ids, trait_names=["t"])
    two = predict_out_of_fold(scaled, 1e6 * people.trait[:, None] - 5, participant_ids=people.ids, trait_names=["t"])
    quality = [found.quality.filter(pl.col("name") == "out_of_fold_r2:deepnull")["value"].item() for found in (one, two)]
    assert quality[0] > 0.1
    assert quality[1] == pytest.approx(quality[0], abs=0.05)  # another column, so other starting weights


def test_a_rare_binary_trait_is_predicted_as_a_number() -> None:
    people = simulate(2_000, seed=9, share=0.6)
    trait = (people.trait > 1.2).astype(np.float64)[:, None]
    found = predict_out_of_fold(people.covariates, trait, participant_ids=people.ids, trait_names=["case"])
    cases = trait[:, 0] == 1
    assert found.predictions[cases].mean() > 2 * found.predictions[~cases].mean()


def test_notes_warn_when_covariates_say_nothing(people: Simulated) -> None:
    noise = np.random.default_rng(10).normal(size=(600, 1))
    found = predict_out_of_fold(people.covariates, noise, participant_ids=people.ids, trait_names=["noise"], config=QUICK)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("DeepNull of noise: ")
    clear = predict_out_of_fold(
        people.covariates, people.covariates[:, :1], participant_ids=people.ids, trait_names=["age"], config=Config(epochs=20)
    )
    assert clear.notes == ()


def test_global_state_is_left_alone(people: Simulated) -> None:
    import torch

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    predict_out_of_fold(people.covariates, people.trait[:, None], participant_ids=people.ids, trait_names=["t"], config=QUICK)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_published_settings() -> None:
    published = Config.published()
    assert (published.folds, published.widths, published.epochs, published.batch) == (5, (64, 64, 32, 16), 1_000, 1_024)
    assert (published.learning_rate, published.betas, published.decay, published.weight_decay) == (1e-4, (0.9, 0.99), False, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, np.full_like(y, np.nan)), "known in too few people.*\n.*trait 't'.*\n.*0 people"),
        (lambda x, y: (x, np.full_like(y, 2.0)), "constant where it should be learned"),
        (lambda x, y: (x, np.where(np.arange(600)[:, None] == 3, np.inf, y)), "a trait is infinite.*\n.*'t'"),
        (lambda x, y: (np.where(np.arange(6) == 3, np.inf, x), y), "a covariate is infinite.*\n.*column 4"),
        (lambda x, y: (x[:, :0], y), "no covariates to predict from"),
    ],
)
def test_traits_and_covariates_that_cannot_be_used(people: Simulated, change: object, message: str) -> None:
    covariates, traits = change(people.covariates, people.trait[:, None])  # type: ignore[operator]
    with pytest.raises(TraitError, match=message):
        predict_out_of_fold(covariates, traits, participant_ids=people.ids, trait_names=["t"], config=QUICK)


def test_arguments_that_do_not_fit_together(people: Simulated) -> None:
    with pytest.raises(CohortError, match=r"do not fit together.*\n.*599 people"):
        predict_out_of_fold(people.covariates, people.trait[:, None], participant_ids=people.ids[1:], trait_names=["t"])
    with pytest.raises(CohortError, match="one to predict and one to train on"):
        predict_out_of_fold(
            people.covariates, people.trait[:, None], participant_ids=people.ids, trait_names=["t"], config=Config(folds=2)
        )
    with pytest.raises(CohortError, match="names people more than once"):
        predict_out_of_fold(people.covariates, people.trait[:, None], participant_ids=["p"] * 600, trait_names=["t"])
