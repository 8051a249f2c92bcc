"""The tables of a scan as arrays over the same people, or a sentence on why they cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, TraitError
from clinome.core.schema import COVARIATES, PHENOTYPES, check
from clinome.formats.genotypes import Genotypes
from clinome.genetics.results import RESERVED
from clinome.stats.residuals import Group

Floats = NDArray[np.float64]


class Inputs(NamedTuple):
    """What a scan takes.

    ``cohort`` (C,) are the rows of the samples who have covariates, and ``covariates`` (C, K) theirs: the basis of the covariates
    is that of the cohort, so that it does not change with the traits at hand. ``analysed`` (C,) says who of them has a trait;
    the other arrays are over these alone: ``outcomes`` (N, P), ``own`` (N, P) one more covariate for each trait, or None, ``sets``
    for each omnibus set its values (N, D) and its further covariates (N, E). ``modifier``: name and values (C,) of what the
    effects interact with, or None.
    """

    names: list[str]
    cohort: NDArray[np.int64]
    covariates: Floats
    analysed: NDArray[np.bool_]
    outcomes: Floats
    own: Floats | None
    sets: dict[str, tuple[Floats, Floats]]
    modifier: tuple[str, Floats] | None

    @property
    def tests(self) -> list[str]:
        """Return the names that results are kept by: those of the traits and, with a modifier x, ``trait×x`` for each."""
        return self.names if self.modifier is None else self.names + [f"{name}×{self.modifier[0]}" for name in self.names]

    @property
    def people(self) -> NDArray[np.int64]:
        """Return the rows of the samples who are analysed (N,)."""
        return self.cohort[self.analysed]


def gather(
    genotypes: Genotypes,
    traits: pl.DataFrame,
    covariates: pl.DataFrame | None,
    trait_covariates: pl.DataFrame | None,
    omnibus_sets: Mapping[str, pl.DataFrame],
    interaction: pl.DataFrame | None,
) -> Inputs:
    """Bring the tables of a scan to the same people.

    Raises
    ------
    CohortError
        When nobody is in all tables.
    TraitError
        When a trait cannot be analysed, or a covariate is not finite.
    """
    check(traits, PHENOTYPES)
    names = [c for c in traits.columns if c != "participant_id"]
    ids = genotypes.samples["participant_id"]
    valued = ids.is_in(_with_values(traits).implode())
    cohort = np.arange(ids.len())
    if covariates is not None:
        check(covariates, COVARIATES)
        cohort = ids.is_in(covariates["participant_id"].implode()).arg_true().to_numpy().astype(np.int64)
    analysed = valued.to_numpy()[cohort]
    if not analysed.any():
        raise CohortError(
            "no person has genotypes, a trait and covariates",
            got=f"{ids.len()} in the genotypes, {traits.height} in the traits"
            + ("" if covariates is None else f", {covariates.height} in the covariates"),
            do="compare the identifiers of the files (participant_id is the IID of PLINK files)",
        )
    table = np.zeros((len(cohort), 0)) if covariates is None else _covariates(ids.gather(cohort).to_frame(), covariates)
    order = genotypes.samples[cohort[analysed]].select("participant_id")
    outcomes = _matrix(order, traits)
    own = None if trait_covariates is None else _matrix(order, trait_covariates.select("participant_id", *names))
    sets = {name: _omnibus_set(order, frame, trait_covariates) for name, frame in omnibus_sets.items()}
    _refuse_reserved(names)
    infinite = {name: "infinite values" for name, values in zip(names, outcomes.T, strict=True) if np.isinf(values).any()}
    refuse(unusable(names, outcomes, table.shape[1]) | infinite)
    modifier = None if interaction is None else _modifier(ids.gather(cohort).to_frame(), interaction)
    inputs = Inputs(names, cohort, table, analysed, outcomes, own, sets, modifier)
    if len(set(inputs.tests)) < len(inputs.tests):
        raise TraitError(
            "two traits, or a trait and an interaction, have the same name", got=", ".join(inputs.tests[:20]), do="rename one"
        )
    return inputs


def _covariates(order: pl.DataFrame, covariates: pl.DataFrame) -> Floats:
    table = _matrix(order, covariates)
    broken = np.flatnonzero(~np.isfinite(table).all(axis=0))
    if len(broken):
        name = [c for c in covariates.columns if c != "participant_id"][broken[0]]
        raise TraitError(
            f"covariate {name!r} is missing or not finite for {int((~np.isfinite(table[:, broken[0]])).sum())} people",
            do="build the covariates with clinome.cohort.covariates.design, or leave those people out",
        )
    return table


def _modifier(order: pl.DataFrame, table: pl.DataFrame) -> tuple[str, Floats]:
    """Return name and values (C,) of the one column of a table of what effects interact with."""
    (name,) = [c for c in table.columns if c != "participant_id"]
    values = _covariates(order, table)[:, 0]
    if values.min() == values.max():
        raise TraitError(f"{name!r} is the same for everybody, so no effect can change with it", got=f"{values[0]:g}")
    return name, values


def _omnibus_set(order: pl.DataFrame, table: pl.DataFrame, trait_covariates: pl.DataFrame | None) -> tuple[Floats, Floats]:
    """Return the values (n_people, D) of an omnibus set and its further covariates; people who lack one lack all values."""
    values = _matrix(order, table)
    names = [c for c in table.columns if trait_covariates is not None and c != "participant_id" and c in trait_covariates.columns]
    if trait_covariates is None or not names:
        return values, np.zeros((len(values), 0))
    extra = _matrix(order, trait_covariates.select("participant_id", *names))
    values[~np.isfinite(extra).all(axis=1)] = np.nan
    return values, np.where(np.isfinite(extra), extra, 0.0)


def _with_values(traits: pl.DataFrame) -> pl.Series:
    names = [c for c in traits.columns if c != "participant_id"]
    if not names:
        raise TraitError("the table of traits has no trait", got=", ".join(traits.columns))
    types = traits.schema
    for name in names:
        if not types[name].is_numeric():
            raise TraitError(f"trait {name!r} is not numeric", got=types[name])
    there = [pl.col(n).cast(pl.Float64).is_not_nan() for n in names]  # an infinite value is there, to be refused
    return traits.filter(pl.any_horizontal(there))["participant_id"]


def _matrix(order: pl.DataFrame, table: pl.DataFrame) -> Floats:
    """Values of ``table`` for the people of ``order``: (n_people, n_columns) float64, NaN where there is none."""
    names = [c for c in table.columns if c != "participant_id"]
    joined = order.join(
        table.select("participant_id", pl.col(names).cast(pl.Float64)), on="participant_id", how="left", maintain_order="left"
    )
    return np.ascontiguousarray(joined.select(pl.col(names).fill_null(float("nan"))).to_numpy(), dtype=np.float64)


def _refuse_reserved(names: Sequence[str]) -> None:
    reserved = [name for name in names if name in RESERVED or name.startswith("omnibus:")]
    if reserved:
        raise TraitError(
            "a trait has a name that the results need for themselves",
            got=", ".join(reserved),
            expected="another name than " + ", ".join(repr(name) for name in RESERVED),
            do="rename the column",
        )


def unusable(names: Sequence[str], outcomes: Floats, n_covariates: int | None = None) -> dict[str, str]:
    """Return why traits, the columns of ``outcomes`` (N, P; not finite is missing), hold too little to be analysed, by name.

    Before the covariates are known, None, a trait is not called short of people.
    """
    found = {}
    for name, column in zip(names, outcomes.T, strict=True):
        values = column[np.isfinite(column)]
        if not len(values):
            found[name] = "all missing"
        elif values.min() == values.max():
            found[name] = f"constant ({values[0]:g})"
        elif n_covariates is not None and len(values) < n_covariates + 4:
            found[name] = f"{len(values)} values for {n_covariates} covariates"
    return found


def explained(names: Sequence[str], groups: Sequence[Group]) -> dict[str, str]:
    """Return the traits of which the covariates leave nothing, with that sentence."""
    gone = sorted(int(p) for g in groups for p, left in zip(g.outcomes, g.sum_of_squares, strict=True) if left == 0)
    return dict.fromkeys(
        (names[p] for p in gone), "an exact linear combination of the covariates, so nothing of it is left to analyse"
    )


def listed(why: Mapping[str, str]) -> str:
    """Return the first ten traits, each with why it cannot be analysed."""
    return "; ".join(f"{name}: {reason}" for name, reason in list(why.items())[:10]) + ("; …" if len(why) > 10 else "")


def refuse(why: Mapping[str, str]) -> None:
    """Refuse traits for the reasons of :func:`unusable` or :func:`explained`, when there are any.

    Raises
    ------
    TraitError
        With the traits and the reasons.
    """
    if why:
        raise TraitError(
            "a trait cannot be analysed" if len(why) == 1 else f"{len(why)} traits cannot be analysed",
            got=listed(why),
            expected="at least two different values, more people than covariates, and something that these do not explain",
            do="leave them out (--traits names the ones to keep), or correct the table",
        )


def refuse_explained(names: Sequence[str], groups: Sequence[Group]) -> None:
    """Refuse traits of which the covariates leave nothing."""
    refuse(explained(names, groups))
