"""Covariates of a simulated cohort: age, sex, centre and three that depend on them; some values missing.

The centre depends on the deme, as recruitment does in real biobanks, so that anything a centre does to a picture is confounded
with ancestry until principal components or the centre itself are adjusted for.

>>> import numpy as np
>>> draw_covariates(np.array(["A", "B"]), np.array(["male", "female"]), np.random.default_rng(1)).columns
['age', 'sex', 'centre', 'smoking', 'bmi', 'systolic_pressure']
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

CENTRES = ("Harbour", "Hill", "Valley")
_CENTRE_OF_DEME = {"A": (0.50, 0.35, 0.15), "B": (0.20, 0.60, 0.20), "C": (0.15, 0.25, 0.60)}
_SMOKING = ("never", "former", "current")


def draw_covariates(deme: NDArray[np.str_], sex: NDArray[np.str_], generator: np.random.Generator) -> pl.DataFrame:
    """Draw the covariates of ``n`` people, given their demes and sexes, shape (n,).

    Returns
    -------
    pl.DataFrame
        age (years at the first visit, 40–75), sex, centre, smoking ('never', 'former', 'current'), bmi (kg/m²),
        systolic_pressure (mmHg).
    """
    n = len(deme)
    male = sex == "male"
    age = 40 + 35 * generator.beta(1.6, 1.4, n)
    centre = _choose(np.array([_CENTRE_OF_DEME[d] for d in deme]), generator)
    older = (age - 57) / 9
    current = 0.13 - 0.03 * older + 0.04 * male
    former = 0.28 + 0.07 * older + 0.05 * male
    smoking = _choose(np.column_stack([1 - current - former, former, current]), generator)
    bmi = 26.4 + 0.6 * older - 0.5 * older**2 + 0.5 * male + 4.0 * (generator.gamma(5, 0.2, n) - 1) * 5**0.5 / 2
    pressure = 122 + 6 * older + 3 * np.maximum(older, 0) + 4 * male * (1 - 0.5 * older) + 0.9 * (bmi - 26.4)
    pressure = pressure + 13 * generator.standard_normal(n)
    return pl.DataFrame(
        {
            "age": np.round(age, 1),
            "sex": sex,
            "centre": np.array(CENTRES)[centre],
            "smoking": np.array(_SMOKING)[smoking],
            "bmi": np.round(bmi, 1),
            "systolic_pressure": np.round(pressure, 0),
        }
    )


def lose_some(covariates: pl.DataFrame, share: float, generator: np.random.Generator) -> pl.DataFrame:
    """Empty ``share`` of the values of smoking, bmi and systolic_pressure, at random; age, sex and centre are always known."""
    lost = {
        name: pl.when(pl.Series(generator.random(covariates.height) >= share)).then(pl.col(name)).alias(name)
        for name in ("smoking", "bmi", "systolic_pressure")
    }
    return covariates.with_columns(**lost)


def _choose(probabilities: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw one category a row, shape (n, n_categories)."""
    upper = np.cumsum(probabilities, axis=1)
    chosen: NDArray[np.int64] = (generator.random((len(upper), 1)) * upper[:, -1:] >= upper).sum(axis=1)
    return chosen
