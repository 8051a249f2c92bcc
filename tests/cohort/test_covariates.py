from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinome.cohort.covariates import design
from clinome.core.errors import SchemaError, TraitError


def people(n: int, **columns) -> pl.DataFrame:
    return pl.DataFrame({"participant_id": [f"p{i}" for i in range(n)], **columns})


def residual(matrix: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What is left of y after the intercept and the matrix, by a route of its own (SVD)."""
    full = np.column_stack([np.ones(len(y)), matrix])
    full = full / np.linalg.norm(full, axis=0)
    return y - full @ np.linalg.lstsq(full, y, rcond=None)[0]


def test_same_fit_as_statsmodels_with_categories_and_a_missing_level(generator: np.random.Generator) -> None:
    import pandas as pd
    import statsmodels.formula.api as smf

    n = 300
    site = generator.choice(["Leeds", "Oxford", "Stockport"], n, p=[0.2, 0.5, 0.3]).astype(object)
    site[generator.random(n) < 0.1] = None
    frame = people(
        n,
        year=1950 + generator.integers(0, 30, n),
        income=generator.lognormal(13, 1, n),
        tiny=1e-9 * generator.normal(size=n),
        site=pl.Series(list(site), dtype=pl.String),
        batch=generator.integers(1, 4, n),
    )
    made = design(frame, categorical=["batch"])
    assert set(made.names) >= {"year", "income", "tiny", "site=Leeds", "site=Stockport", "site=missing"}
    assert "covariate site is categorical with 4 levels; the reference is Oxford" in made.notes
    y = generator.normal(size=n) + 0.1 * frame["year"].to_numpy() + 1e9 * frame["tiny"].to_numpy()
    filled = frame.with_columns(pl.col("site").fill_null("missing"), (pl.col("tiny") * 1e9), (pl.col("income") / 1e6))
    table = pd.DataFrame(filled.to_dict(as_series=False))
    fit = smf.ols("y ~ year + income + tiny + C(site) + C(batch)", table.assign(y=y)).fit()
    np.testing.assert_allclose(residual(made.matrix, y), fit.resid, atol=1e-9)
    assert made.matrix.shape[1] == fit.df_model


def test_columns_are_standardised_over_complete_people() -> None:
    made = design(people(5, age=[1.0, 2.0, 3.0, 4.0, None], bmi=[5.0, 1.0, None, 0.0, 2.0]))
    assert made.complete.tolist() == [True, True, False, True, False]
    assert np.isnan(made.matrix[~made.complete]).all()
    np.testing.assert_allclose(made.matrix[made.complete].mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(made.matrix[made.complete].std(axis=0), 1)
    assert made.incomplete == {"age": 1, "bmi": 1}
    assert made.notes[0] == "2 people lack a covariate and are left out (age 1, bmi 1)"


def test_constant_and_collinear_columns_are_named_and_left_out(generator: np.random.Generator) -> None:
    n = 200
    age, height = generator.uniform(40, 70, n), generator.normal(170, 10, n)
    sex = generator.choice(["F", "M"], n)
    frame = people(
        n,
        age=age,
        batch=np.full(n, 7.0),
        birth_year=2010 - age,
        height=height,
        mix=3 * age - 2 * height,
        sex=sex,
        sex_code=(sex == "M").astype(int),
        country=["UK"] * n,
        almost=age + 0.01 * generator.normal(size=n),
    )
    made = design(frame)
    assert made.names == ("age", "height", "sex=M", "almost") or made.names == ("age", "height", "sex=F", "almost")
    notes = "\n".join(made.notes)
    assert "covariate batch is constant" in notes
    assert "covariate country is constant" in notes
    assert "covariate birth_year is a linear combination of age and left out" in notes
    assert "covariate mix is a linear combination of age, height and left out" in notes
    assert f"covariate sex_code is a linear combination of {made.names[2]} and left out" in notes


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(-6, 6)), min_size=4, max_size=4),
    st.permutations(range(5)),
    st.integers(0, 2**32),
)
def test_units_and_order_do_not_change_what_is_adjusted_for(units, order, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4))
    x = np.column_stack([x, x @ [1, -1, 0, 0.5]])
    y = rng.normal(size=60)
    plain = design(people(60, **{f"c{j}": x[:, j] for j in range(5)}))
    scaled = {f"c{j}": x[:, j] * (10.0 ** units[j][0] if j < 4 else 1) for j in range(5)}
    shifted = {
        name: column + 10 * abs(column).max() * (units[int(name[1])][1] if name != "c4" else 0) for name, column in scaled.items()
    }
    other = design(people(60, **{f"c{j}": shifted[f"c{j}"] for j in order}))
    assert plain.matrix.shape == other.matrix.shape == (60, 4)
    np.testing.assert_allclose(residual(plain.matrix, y), residual(other.matrix, y), atol=1e-6)


def test_a_large_offset_does_not_hide_a_column(generator: np.random.Generator) -> None:
    seconds = 1.7e9 + np.arange(100.0)
    made = design(people(100, time=seconds, noise=generator.normal(size=100)))
    assert made.names == ("time", "noise")
    np.testing.assert_allclose(np.diff(made.matrix[:, 0]), np.diff(made.matrix[:, 0])[0], rtol=1e-6)


def test_booleans_integers_and_named_categories() -> None:
    frame = people(6, smoker=[True, False, True, None, False, True], centre=[11010.0, 11011.0, 11010.0, 11012.0, 11010.0, None])
    made = design(frame, categorical=["centre"])
    assert made.names == ("smoker", "centre=11011", "centre=missing"), "the person of centre 11012 is not complete"
    assert design(people(3)).matrix.shape == (3, 0)


def test_covariates_that_cannot_be_used() -> None:
    with pytest.raises(TraitError, match=r"(?s)'age' holds an infinite value.*row 2"):
        design(people(3, age=[1.0, float("inf"), 2.0]))
    with pytest.raises(TraitError, match=r"(?s)nobody has a value.*age: 2 of 2 missing"):
        design(people(2, age=[None, None], bmi=[1.0, 2.0]))
    with pytest.raises(TraitError, match=r"(?s)'date' has about as many levels as people.*30 levels in 30"):
        design(people(30, date=[f"2020-01-{i:02d}" for i in range(30)]))
    with pytest.raises(SchemaError, match="no covariate 'centre'"):
        design(people(2, age=[1.0, 2.0]), categorical=["centre"])
    with pytest.raises(SchemaError, match="neither a number nor text"):
        design(people(1, born=pl.Series(["2000-01-01"]).str.to_date()))
