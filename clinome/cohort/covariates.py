"""Covariates as a matrix that any linear model can take: categories one-hot, redundant columns named and left out.

Numbers are centred and scaled to variance 1, so the matrix does not depend on units (a year of birth near 1950, an income
near 1e6, a concentration near 1e-9) and, with the intercept that the scan adds, spans exactly what the raw columns span.
Categories become one 0/1 column a level except the most frequent one, the reference; a missing category is a level of its
own, named ``missing``. People with a missing *number* are left out (complete cases) and counted: filling numbers in would
change the adjustment silently.

>>> table = pl.DataFrame({"participant_id": list("abcd"), "age": [50.0, 60.0, 70.0, None], "site": ["x", "x", None, "x"]})
>>> made = design(table)
>>> made.names, made.complete.tolist()
(('age', 'site=missing'), [True, True, True, False])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import SchemaError, TraitError
from clinome.core.schema import COVARIATES, check

TOLERANCE = 1e-6
"""A column is collinear when less than this share of its standard deviation is left after the columns before it."""

MISSING_LEVEL = "missing"
_NOT_COVARIATES = ("participant_id", "family_id")


@dataclass(frozen=True)
class Design:
    """Covariates ready for a linear model; the intercept is added by the model.

    Attributes
    ----------
    matrix
        Shape (n_participants, n_columns), float64, rows as in the table. Over the complete rows every numeric column has
        mean 0 and variance 1, a category's column is 0 or 1, and columns and intercept are linearly independent; the rows
        that are not complete are NaN.
    names
        One a column: the covariate's name, or ``name=level``.
    complete
        Shape (n_participants,), bool: people without a missing number.
    incomplete
        Covariate → number of people who lack it; only those that lack somebody.
    notes
        What was left out and why, and each category's reference.
    """

    matrix: NDArray[np.float64]
    names: tuple[str, ...]
    complete: NDArray[np.bool_]
    incomplete: dict[str, int]
    notes: tuple[str, ...]


def design(covariates: pl.DataFrame, *, categorical: Sequence[str] = ()) -> Design:
    """Make the design matrix of a ``covariates`` table.

    Parameters
    ----------
    covariates
        ``participant_id`` and numeric, boolean or text columns (text is categorical); ``family_id`` is passed over.
    categorical
        Numeric columns to take as categories (assessment centre 11010, 11011, …).

    Raises
    ------
    SchemaError
        When ``categorical`` names a column that is not there, or a column is neither number nor text.
    TraitError
        When a value is infinite, a text column has about as many levels as people, or no person is complete.
    """
    covariates = check(covariates, COVARIATES)
    used = [name for name in covariates.columns if name not in _NOT_COVARIATES]
    for name in categorical:
        if name not in used:
            raise SchemaError(f"there is no covariate {name!r} to take as categories", got=", ".join(used) or "no covariates")
    numeric = {name: _numbers(covariates[name]) for name in used if not _is_category(covariates[name], categorical)}
    complete = np.ones(covariates.height, dtype=bool)
    for values in numeric.values():
        complete &= ~np.isnan(values)
    incomplete = {name: n for name, values in numeric.items() if (n := int(np.isnan(values).sum()))}
    if covariates.height and not complete.any():
        worst = max(incomplete, key=lambda name: incomplete[name])
        raise TraitError(
            "nobody has a value for every covariate",
            got=", ".join(f"{name}: {n} of {len(complete)} missing" for name, n in incomplete.items()),
            do=f"leave out {worst!r}, or see that it holds what it should",
        )
    notes: list[str] = []
    if incomplete:
        missing = ", ".join(f"{name} {n}" for name, n in incomplete.items())
        notes.append(f"{int((~complete).sum())} people lack a covariate and are left out ({missing})")
    names: list[str] = []
    columns: list[NDArray[np.float64]] = []
    for name in used:
        if name in numeric:
            made = {name: _standardised(numeric[name][complete])}
        else:
            made = _one_hot(covariates[name].filter(pl.Series(complete)), notes)
        for label, column in made.items():
            if column is None or np.ptp(column) == 0:
                notes.append(f"covariate {label} is constant and left out")
            else:
                names.append(label)
                columns.append(column)
    kept = _independent(columns, names, notes)
    matrix = np.full((covariates.height, len(kept)), np.nan)
    if kept:
        matrix[complete] = np.column_stack([columns[i] for i in kept])
    return Design(matrix, tuple(names[i] for i in kept), complete, incomplete, tuple(notes))


def _is_category(column: pl.Series, categorical: Sequence[str]) -> bool:
    if column.name in categorical or column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return True
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        return False
    raise SchemaError(
        f"covariate {column.name!r} is neither a number nor text",
        got=column.dtype,
        do="give a number, for example the age or the years since the first visit",
    )


def _numbers(column: pl.Series) -> NDArray[np.float64]:
    values = column.cast(pl.Float64).fill_null(np.nan).to_numpy().copy()
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise TraitError(
            f"covariate {column.name!r} holds an infinite value", where=f"row {infinite[0] + 1}", got=f"{len(infinite)} rows"
        )
    return values


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Centre and scale to variance 1, or None for a constant. Twice: the first pass removes a large offset exactly enough."""
    largest = np.abs(values).max(initial=0.0)
    if np.ptp(values) <= 1e-12 * largest:
        return None
    scaled: NDArray[np.float64] = (values - values[0]) / np.ptp(values)
    for _ in range(2):
        scaled = (scaled - scaled.mean()) / scaled.std()
    return scaled


def _one_hot(column: pl.Series, notes: list[str]) -> dict[str, NDArray[np.float64] | None]:
    """Make a 0/1 column of every level but the most frequent one; a missing value is the level 'missing'."""
    name = column.name
    if column.dtype.is_float() and (column.drop_nulls() % 1 == 0).all():
        column = column.cast(pl.Int64)
    levels = column.cast(pl.String).fill_null(MISSING_LEVEL)
    counts = sorted(levels.value_counts().iter_rows(), key=lambda row: (-row[1], row[0]))
    if len(counts) > max(20, len(levels) // 2):
        raise TraitError(
            f"categorical covariate {name!r} has about as many levels as people",
            got=f"{len(counts)} levels in {len(levels)} people, for example {counts[0][0]!r}",
            do="leave it out, group its levels, or name the codes that mean missing if it holds numbers",
        )
    if len(counts) < 2:
        return {name: None}
    reference = next(level for level, _ in counts if level != MISSING_LEVEL)
    notes.append(f"covariate {name} is categorical with {len(counts)} levels; the reference is {reference}")
    others = sorted(level for level, _ in counts if level != reference)
    return {f"{name}={level}": (levels == level).to_numpy().astype(np.float64) for level in others}


def _independent(columns: list[NDArray[np.float64]], names: list[str], notes: list[str]) -> list[int]:
    """Return the columns that are not linear combinations of the intercept and the columns before them; note the others.

    A QR factorisation by Gram-Schmidt, twice, on standardised columns in their order: what is named first stays.
    """
    if not columns:
        return []
    n = len(columns[0])
    basis = np.empty((n, 0))
    standard = np.empty((n, 0))
    kept: list[int] = []
    for i, column in enumerate(columns):
        unit = (column - column.mean()) / (column.std() * np.sqrt(n))
        rest = unit - basis @ (basis.T @ unit)
        rest -= basis @ (basis.T @ rest)
        left = float(np.linalg.norm(rest))
        if left > TOLERANCE:
            basis = np.column_stack([basis, rest / left])
            standard = np.column_stack([standard, unit])
            kept.append(i)
            continue
        weights = np.linalg.lstsq(standard, unit, rcond=None)[0]
        causes = [names[j] for j, weight in zip(kept, weights, strict=True) if abs(weight) > 1e-4]
        notes.append(f"covariate {names[i]} is a linear combination of {', '.join(causes)} and left out")
    return kept
