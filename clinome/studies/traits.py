"""The tables that a scan takes: analysed traits, covariates with principal components, DeepNull's predictions."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from clinome.cohort.ancestry import principal_components
from clinome.cohort.covariates import design
from clinome.cohort.flow import Flow
from clinome.cohort.pruning import independent_variants
from clinome.cohort.relatedness import unrelated
from clinome.core.errors import StudyError, TraitError
from clinome.core.files import replacing, write_json
from clinome.core.schema import METRICS, check
from clinome.formats.genotypes import Genotypes
from clinome.formats.table import LoadedTable
from clinome.genetics.conditioning import Conditioned, condition_on
from clinome.genetics.scan_inputs import explained, listed, refuse, unusable
from clinome.genetics.selection import read_ids, rows_of_ids
from clinome.stats.modifier import variance_ratio
from clinome.stats.multiple_testing import correlation_of_tests, effective_tests
from clinome.stats.residuals import Basis, Outcomes, prepare, span
from clinome.stats.transform import rank_inverse_normal
from clinome.studies.people import People, covariate_frame, load_flow, rows_of, save_flow, some_of
from clinome.studies.study_file import Study

_CONDITION = "the variants to condition on"


@dataclass(frozen=True)
class Analysed:
    """What is scanned: tables keyed by participant, the finished flow, and what the stage has to say.

    ``traits`` after the transform; ``raw`` before it (the omnibus takes those); ``own``: one covariate a trait, or None;
    ``modifier``: what effects interact with, in its own units, or None.
    """

    traits: pl.DataFrame
    raw: pl.DataFrame
    covariates: pl.DataFrame | None
    own: pl.DataFrame | None
    modifier: pl.DataFrame | None
    metrics: pl.DataFrame
    flow: Flow
    effective_tests: float
    notes: tuple[str, ...]


class _Cohort(NamedTuple):
    """Who is analysed, and what all traits are adjusted for: nothing here depends on the values of a trait.

    ``everybody`` could be analysed, and has ``covariates`` (None: no covariates) and the ``clinical`` ones among them; ``order``
    has a trait as well. ``basis`` spans the covariates of everybody, and has the rows of ``order``.
    """

    flow: Flow
    everybody: pl.DataFrame
    order: pl.DataFrame
    covariates: pl.DataFrame | None
    clinical: pl.DataFrame | None
    basis: Basis
    notes: list[str]

    @property
    def n_covariates(self) -> int:
        """Return the number of columns of the covariates."""
        return 0 if self.covariates is None else self.covariates.width - 1


class _Adjusted(NamedTuple):
    """Traits of the people of a cohort with the covariates projected out, as ``outcomes``.

    ``raw`` is their table, ``values`` the same as an array (N, P; NaN is missing); ``own``: one more covariate a trait (N, P), or
    None; ``metrics`` and ``notes`` are of these.
    """

    names: list[str]
    raw: pl.DataFrame
    values: np.ndarray
    outcomes: Outcomes
    own: np.ndarray | None
    metrics: pl.DataFrame
    notes: list[str]


def analyse(
    study: Study, people: People, genotypes: Genotypes, phenotypes: pl.DataFrame, covariates: LoadedTable | None, taught: list[str]
) -> Analysed:
    """Leave relatives out, add principal components, transform and adjust.

    ``taught`` are the people whom the encoder has seen: they have no phenotype. A trait that cannot be analysed is left out with a
    note, and everything is as if the table had never held it.

    Raises
    ------
    TraitError
        When no trait is left, with the reasons.
    """
    cohort, adjusted, left_out = _usable(study, people, genotypes, phenotypes, covariates, taught)
    names, values = adjusted.names, adjusted.values
    residuals, tests = _residuals(adjusted.outcomes, values.shape)
    analysed = rank_inverse_normal(residuals) if study.phenotypes.transform == "rank-normal" else values
    modifier, said = _interaction(study, cohort, covariates, names, analysed, adjusted.own)
    if modifier is not None:
        tests *= 2  # of each trait, its own and that of its interaction, which are nearly independent
    return Analysed(
        traits=_keyed(cohort.order, analysed, names),
        raw=adjusted.raw,
        covariates=cohort.covariates,
        own=None if adjusted.own is None else _keyed(cohort.order, adjusted.own, names),
        modifier=modifier,
        metrics=adjusted.metrics,
        flow=cohort.flow,
        effective_tests=tests,
        notes=(*_left_out_notes(left_out), *cohort.notes, *adjusted.notes, *said, *_binary_notes(names, values)),
    )


def _usable(
    study: Study, people: People, genotypes: Genotypes, phenotypes: pl.DataFrame, covariates: LoadedTable | None, taught: list[str]
) -> tuple[_Cohort, _Adjusted, dict[str, str]]:
    """Adjust the traits that can be analysed, and say of the others why not.

    A trait may show only within the cohort that it cannot be analysed, when it has already had a voice in which relatives stay:
    the cohort is found again without it.
    """
    left_out = _hopeless(phenotypes, people)
    phenotypes = phenotypes.drop(left_out)
    while True:
        cohort = _cohort(study, people, genotypes, phenotypes, covariates, taught)
        raw = cohort.order.join(phenotypes, on="participant_id", how="left", maintain_order="left")
        names, values = _names(raw), _values(raw)
        spoilt = unusable(names, values, cohort.n_covariates)
        if not spoilt:
            adjusted = _adjusted(study, people, cohort, raw)
            spoilt = explained(names, adjusted.outcomes.groups)
            if not spoilt:
                return cohort, adjusted, left_out
        left_out |= spoilt
        if len(spoilt) == len(names):
            refuse(left_out)
        phenotypes = phenotypes.drop(spoilt)


def _names(phenotypes: pl.DataFrame) -> list[str]:
    return [c for c in phenotypes.columns if c != "participant_id"]


def _values(phenotypes: pl.DataFrame) -> np.ndarray:
    """Return the traits of a table as (N, P) float64, NaN where there is none."""
    numbers = phenotypes.select(pl.col(_names(phenotypes)).cast(pl.Float64).fill_null(float("nan")))
    return np.asarray(numbers.to_numpy(), dtype=np.float64)


def _hopeless(phenotypes: pl.DataFrame, people: People) -> dict[str, str]:
    """Return the traits that are constant or missing whoever stays, and why; none when that is all of them, which is an error.

    What :func:`analyse` finds once relatives have left and covariates are known costs it the covariates again; these do not.
    """
    mine = phenotypes.filter(pl.col("participant_id").is_in(list(people.flow.ids)))
    found = unusable(_names(mine), _values(mine))
    return found if len(found) < mine.width - 1 else {}


def _left_out_notes(left_out: dict[str, str]) -> list[str]:
    if not left_out:
        return []
    count = "1 trait is" if len(left_out) == 1 else f"{len(left_out):,} traits are"
    return [f"{count} left out and cannot be analysed: {listed(left_out)}"]


def _cohort(
    study: Study, people: People, genotypes: Genotypes, phenotypes: pl.DataFrame, covariates: LoadedTable | None, taught: list[str]
) -> _Cohort:
    """Find who is analysed, and build the covariates.

    These are of everybody who could be analysed, so that no trait's results change with the traits beside it.
    """
    names = _names(phenotypes)
    valued = phenotypes.filter(pl.any_horizontal(pl.col(n).is_not_null() & pl.col(n).is_not_nan() for n in names))
    if not valued.height:
        raise TraitError("no trait has a value", where=study.phenotypes.path, got=f"{', '.join(names[:10])}: all missing")
    flow = _unrelated(study, people, valued, taught)
    conditioned = _conditioned(study, genotypes, flow, covariates)
    if conditioned is not None and conditioned.left_out:
        flow = flow.drop("conditioning", "a genotype conditioned on is missing", conditioned.left_out)
    everybody = genotypes.samples[rows_of(genotypes, flow.ids)].select("participant_id")
    table, clinical, notes = _covariates(study, genotypes, flow, everybody, covariates)
    if conditioned is not None:
        notes = [*conditioned.notes, *notes]
        counts = everybody.join(conditioned.covariates, on="participant_id", how="left", maintain_order="left")
        table = counts if table is None else table.hstack(counts.drop("participant_id"))
    flow = flow.keep_only("phenotypes", "no usable phenotype", valued["participant_id"].to_list())
    flow.require(len(names) + 5 if study.images else 5)
    order = genotypes.samples[rows_of(genotypes, flow.ids)].select("participant_id")
    matrix = np.zeros((everybody.height, 0)) if table is None else table.drop("participant_id").to_numpy()
    basis = span(matrix).among(everybody["participant_id"].is_in(order["participant_id"].implode()).to_numpy())
    return _Cohort(flow, everybody, order, table, clinical, basis, notes)


def _unrelated(study: Study, people: People, valued: pl.DataFrame, taught: list[str]) -> Flow:
    """Drop the people who taught the encoder and, of relatives, those with fewer traits."""
    flow = people.flow
    if taught:
        flow = flow.drop("encoder", "taught the encoder, so it must not phenotype them", taught)
    if people.related is None:
        return flow
    worth = dict.fromkeys(flow.ids, 0)
    worth |= dict(valued.select("participant_id", pl.sum_horizontal(pl.col(n).is_not_null() for n in _names(valued))).iter_rows())
    return flow.keep_only(
        "relatives",
        f"kinship ≥ {study.cohort.kinship:g} with somebody who stays",
        unrelated(flow.ids, people.related, prefer=worth),
    )


def _adjusted(study: Study, people: People, cohort: _Cohort, raw: pl.DataFrame) -> _Adjusted:
    """Project the covariates out of the traits, and DeepNull's predictions where the study wants them."""
    names, values = _names(raw), _values(raw)
    own, metrics = None, pl.DataFrame(schema={c.name: c.dtype for c in METRICS.columns})
    notes: list[str] = []
    if study.phenotypes.adjust == "deepnull":
        clinical = cohort.clinical
        mine = None if clinical is None else cohort.order.join(clinical, on="participant_id", maintain_order="left")
        own, metrics, notes = _deepnull(study, mine, values, names, cohort.order["participant_id"].to_list(), people)
    return _Adjusted(names, raw, values, prepare(values, cohort.basis, own), own, metrics, notes)


def _residuals(outcomes: Outcomes, shape: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Return the residuals of all traits (N, P), NaN where there is none, and as how many independent tests they count."""
    residuals, present = np.zeros(shape, order="F"), np.zeros(shape, dtype=np.bool_, order="F")
    for group in outcomes.groups:
        residuals[:, group.outcomes] = group.residuals  # zero where there is none
        present[:, group.outcomes] = group.mask[:, None]
    tests = effective_tests(correlation_of_tests(residuals, present))
    residuals[~present] = np.nan
    return residuals, tests


def _interaction(
    study: Study, cohort: _Cohort, covariates: LoadedTable | None, names: list[str], analysed: np.ndarray, own: np.ndarray | None
) -> tuple[pl.DataFrame | None, list[str]]:
    """Return what effects interact with, if anything, and which of the ``analysed`` traits (N, P) change their variance with it."""
    if study.gwas.interaction is None or covariates is None or cohort.clinical is None:
        return None, []
    modifier = _modifier(study.gwas.interaction, cohort.everybody, covariates.frame, cohort.clinical)
    mine = cohort.order.join(modifier, on="participant_id", maintain_order="left")
    return modifier, _variance_notes(prepare(analysed, cohort.basis, own), names, mine)


class _TwoValues(NamedTuple):
    """The values of traits that have just two, ``lower`` and ``upper`` (P,), and how many people have each; else NaN and 0."""

    lower: np.ndarray
    upper: np.ndarray
    n_lower: np.ndarray
    n_upper: np.ndarray


def _two_values(values: np.ndarray) -> _TwoValues:
    """Find the columns (N, P; NaN is missing) that have two values."""
    lower, upper = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    n_lower, n_upper = (values == lower).sum(axis=0), (values == upper).sum(axis=0)
    two = (lower < upper) & (n_lower + n_upper == np.isfinite(values).sum(axis=0))
    return _TwoValues(np.where(two, lower, np.nan), np.where(two, upper, np.nan), n_lower * two, n_upper * two)


def _binary_notes(names: list[str], values: np.ndarray) -> list[str]:
    """Say what the linear model makes of traits with two values."""
    two = _two_values(values)
    binary = [n for n, lower, upper in zip(names, two.lower, two.upper, strict=True) if (lower, upper) in ((0, 1), (1, 2))]
    if not binary:
        return []
    return [
        f"{'1 trait has' if len(binary) == 1 else f'{len(binary)} traits have'} two values ({', '.join(binary[:3])}"
        f"{', …' if len(binary) > 3 else ''}) and {'is' if len(binary) == 1 else 'are'} analysed "
        "by the linear model: betas are risk differences per allele; trust p-values of common variants in balanced traits"
    ]


def conditioning_ids(study: Study, variants: pl.DataFrame) -> list[str]:
    """Return the ids of the variants to condition on, when at least one of them is among ``variants``.

    Raises
    ------
    StudyError, FormatError
        When none is, or the list cannot be read.
    """
    ids, path = list(study.gwas.condition), study.gwas.condition_list
    if path is not None:
        ids += read_ids(path, variants["variant_id"])
    if ids:
        rows_of_ids(variants, ids, where=_CONDITION)
    return ids


def modifier_name(study: Study, covariates: LoadedTable | None) -> str | None:
    """Return the covariate that effects interact with, when it is there.

    Raises
    ------
    StudyError
        When there is no such covariate, with near names.
    """
    name = study.gwas.interaction
    known = [] if covariates is None else [c for c in covariates.frame.columns if c != "participant_id"]
    if name is not None and name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise StudyError(
            f"there is no covariate {name!r} to interact with" + (f"; did you mean {near[0]!r}?" if near else ""),
            got=", ".join(known) or "no covariates",
            do="name a column of the covariates",
        )
    return name


def _modifier(name: str, cohort: pl.DataFrame, covariates: pl.DataFrame, clinical: pl.DataFrame) -> pl.DataFrame:
    """Return what effects interact with: a number in its own units, or 0 and 1 for a covariate of two levels."""
    if name in clinical.columns:
        return cohort.join(
            covariates.select("participant_id", pl.col(name).cast(pl.Float64)), on="participant_id", maintain_order="left"
        )
    levels = [c for c in clinical.columns if c.startswith(f"{name}=")]
    if len(levels) != 1:
        raise StudyError(
            f"the covariate {name!r} cannot interact",
            got=f"{len(levels) + 1} levels" if levels else "a constant, or a combination of other covariates",
            expected="a number, or two levels",
            do="make a column of two levels" if levels else None,
        )
    return clinical.select("participant_id", levels[0])


_VARIANCE = 0.05  # by how much a test may be off before it is said, and …
_CHANCE = 8.0  # … this over √people: four standard errors of the ratio for a normal trait and modifier


def _variance_notes(outcomes: Outcomes, names: list[str], modifier: pl.DataFrame) -> list[str]:
    """Name the traits whose variance follows the modifier, which makes all tests of the interaction wrong."""
    label = modifier.columns[1]
    ratio = variance_ratio(outcomes, modifier[label].to_numpy())
    people = np.zeros(len(names))
    for group in outcomes.groups:
        people[group.outcomes] = group.n
    off = np.flatnonzero(np.abs(ratio - 1) > np.maximum(_VARIANCE, _CHANCE / np.sqrt(people)))
    if not len(off):
        return []
    worst = off[np.argsort(-np.abs(ratio[off] - 1), kind="stable")]
    some = ", ".join(f"{names[p]} {ratio[p]:.2f}" for p in worst[:5]) + (", …" if len(worst) > 5 else "")
    return [
        f"the variance of {len(off):,} {'trait changes' if len(off) == 1 else 'traits change'} with {label}: "
        f"at variants without interaction its χ² is off by a factor ({some}); divide by it, or transform the trait"
    ]


def _conditioned(study: Study, genotypes: Genotypes, flow: Flow, covariates: LoadedTable | None) -> Conditioned | None:
    """Read the variants that the study conditions on, for the people of ``flow``; None where it names none."""
    ids = conditioning_ids(study, genotypes.variants)
    if not ids:
        return None
    return condition_on(
        genotypes,
        ids,
        people=rows_of(genotypes, flow.ids),
        where=_CONDITION,
        missing=study.gwas.options.missing_genotypes,
        taken=[] if covariates is None else covariates.frame.columns,
    )


_RARE_VALUE = 0.1  # share of people below which a value of a two-valued trait is rare
_EXPECTED_ALLELES = 25  # minor alleles expected among the people of the rarer value, from which a linear model is trusted


def imbalance_warnings(raw: pl.DataFrame, *, maf: float | None) -> list[str]:
    """Name the two-valued traits with so few people of one value that rarer variants than ``maf`` give false loci.

    The rule of 25 expected minor alleles among cases is that of the Neale lab's UK Biobank scans by linear models (2018).
    """
    said = []
    two = _two_values(_values(raw))
    for name, lower, upper in zip(_names(raw), two.n_lower, two.n_upper, strict=True):
        rarer = int(min(lower, upper))
        if not rarer:
            continue
        least = _EXPECTED_ALLELES / (2 * rarer)
        if rarer < _RARE_VALUE * (lower + upper) and (maf or 0.0) < least:
            cure = f"leave out variants rarer than that (maf = {least:.2g})" if least < 0.5 else "leave the trait out"
            where = f"minor-allele frequency below {least:.2g}" if least < 0.5 else "any frequency"
            few = f"{name} has {rarer:,} people of its rarer value"
            said.append(f"{few}: at variants of {where} its p-values are too small. {cure.capitalize()}.")
    return said


def _keyed(order: pl.DataFrame, values: np.ndarray, names: list[str]) -> pl.DataFrame:
    return order.hstack(pl.DataFrame(values, schema=names, orient="row").with_columns(pl.all().fill_nan(None)))


def _covariates(
    study: Study, genotypes: Genotypes, flow: Flow, order: pl.DataFrame, covariates: LoadedTable | None
) -> tuple[pl.DataFrame | None, pl.DataFrame | None, list[str]]:
    """Return all covariates and the clinical ones alone (without principal components), and notes."""
    notes: list[str] = []
    clinical = None
    if covariates is not None and study.covariates is not None:
        mine = order.join(covariates.frame, on="participant_id", how="left", maintain_order="left")
        made = design(mine, categorical=study.covariates.categorical)
        notes += [*covariates.notes, *made.notes]
        clinical = covariate_frame(made, mine["participant_id"])
    table = clinical
    if study.cohort.principal_components:
        rows = rows_of(genotypes, flow.ids)
        pruned = independent_variants(genotypes, samples=some_of(rows))
        found = principal_components(
            genotypes, n=study.cohort.principal_components, variants=pruned.variants, samples=rows, seed=study.study.seed
        )
        notes += [*pruned.notes, *found.notes]
        labels = [f"PC{k + 1}" for k in range(found.scores.shape[1])]
        scores = pl.DataFrame(found.scores * np.sqrt(len(rows)), schema=labels, orient="row")
        table = (order if clinical is None else clinical).hstack(scores)
    return table, clinical, notes


def _deepnull(
    study: Study,
    clinical: pl.DataFrame | None,
    values: np.ndarray,
    names: list[str],
    ids: list[str],
    people: People,
) -> tuple[np.ndarray, pl.DataFrame, list[str]]:
    """Predict each trait out of fold from the clinical covariates."""
    from clinome.genetics.deepnull import predict_out_of_fold

    if clinical is None or clinical.width < 2:
        raise StudyError(
            'adjust = "deepnull" needs covariates to predict from', do="add a section [covariates], or set adjust to 'none'"
        )
    found = predict_out_of_fold(
        clinical.drop("participant_id").to_numpy(),
        values,
        participant_ids=ids,
        trait_names=names,
        family_ids=[people.family[p] for p in ids],
        seed=study.study.seed,
    )
    return found.predictions, found.quality, list(found.notes)


def save_analysed(analysed: Analysed, folder: Path) -> None:
    """Write the stage's tables."""
    tables = {
        "traits": analysed.traits,
        "raw": analysed.raw,
        "covariates": analysed.covariates,
        "own": analysed.own,
        "modifier": analysed.modifier,
        "metrics": check(analysed.metrics, METRICS),
    }
    for name, frame in tables.items():
        if frame is not None:
            with replacing(folder / f"{name}.parquet") as temporary:
                frame.write_parquet(temporary, compression="lz4")  # zstd takes longer than it saves on noise
    save_flow(analysed.flow, folder / "flow.json")
    write_json(folder / "about.json", {"effective_tests": analysed.effective_tests, "notes": list(analysed.notes)})


def load_analysed(folder: Path) -> Analysed:
    """Read what :func:`save_analysed` wrote."""

    def table(name: str) -> pl.DataFrame | None:
        path = folder / f"{name}.parquet"
        return pl.read_parquet(path) if path.exists() else None

    about = json.loads((folder / "about.json").read_text())
    traits, raw, metrics = table("traits"), table("raw"), table("metrics")
    assert traits is not None
    assert raw is not None
    assert metrics is not None
    return Analysed(
        traits,
        raw,
        table("covariates"),
        table("own"),
        table("modifier"),
        metrics,
        load_flow(folder / "flow.json"),
        about["effective_tests"],
        tuple(about["notes"]),
    )
