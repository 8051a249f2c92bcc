"""Associate many traits with every variant of a genotype source: the linear scan, streamed, resumable, exact.

A trait's numbers depend on its own people and values alone: not on block size, threads, the order of variants, or on which
other traits run beside it. Traits coded 0/1 are analysed by the same linear model (a linear probability model): p-values are
those of a score-like test and hold for common variants and balanced traits; betas are risk differences per allele, not log
odds ratios. Sex chromosomes are analysed as they are coded (PLINK codes a man's one X as two copies): give sex as a covariate.

References: REGENIE's and PLINK 2's treatments of missing genotypes are both offered (Mbatchou et al. 2021,
doi:10.1038/s41588-021-00870-7; Chang et al. 2015, doi:10.1186/s13742-015-0047-8).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import clinome
from clinome.core.errors import CohortError, OutputError, StudyError, TraitError
from clinome.core.files import remove_half_written, replacing, usable_folder, write_json
from clinome.core.progress import track
from clinome.core.provenance import fingerprint
from clinome.core.schema import COVARIATES, PHENOTYPES, check
from clinome.formats.genotypes import Genotypes
from clinome.genetics.filters import Filters, count
from clinome.genetics.results import REASONS, RESERVED, Results, Shard, shard_frame
from clinome.stats.linear import Group, Missing, Prepared, Scan, Statistic, digitise, omnibus, prepare, scan, whiten

Floats = NDArray[np.float64]
Counts = NDArray[np.int8] | NDArray[np.int32]
_CELLS = 24_000_000  # people × variants of a block: three float64 copies of it stay near 600 MB
_WIDTH = 4_096  # columns of one matrix product; more traits go in batches


@dataclass(frozen=True)
class Options:
    """How a scan is done.

    ``missing_genotypes``: 'mean' (the mean of the trait's observed people, as REGENIE) or 'drop' (that person is left out of
    that variant, as PLINK 2). ``statistic``: 't' (SE from the residuals of the full model) or 'score' (from the model without
    the variant, χ² with one degree of freedom, as REGENIE). ``radial_omnibus``: before the omnibus, people's distances from
    the centre take the lengths of normal ones, directions kept (:func:`clinome.stats.linear.whiten`); studies that rank-normalise
    their traits do so anyway. ``shard_size``: variants between two safe points of a run.
    """

    missing_genotypes: Missing = "mean"
    statistic: Statistic = "t"
    radial_omnibus: bool = False
    filters: Filters = field(default_factory=Filters)
    shard_size: int = 16_384
    block_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse words and sizes that mean nothing."""
        for name, value, words in (
            ("missing_genotypes", self.missing_genotypes, ("mean", "drop")),
            ("statistic", self.statistic, ("t", "score")),
        ):
            if value not in words:
                raise StudyError(f"{name} cannot be {value!r}", expected=" or ".join(repr(w) for w in words))
        for name in ("shard_size", "block_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StudyError(f"{name} is out of range", got=value, expected="at least one variant")


class _Job(NamedTuple):
    """Everything a shard needs, prepared once."""

    source: Genotypes
    people: NDArray[np.int64]
    batches: list[Prepared]
    sets: dict[str, Prepared]
    names: list[str]
    groups: list[Group]
    options: Options
    info: Floats | None
    autosomal: NDArray[np.bool_]


def associate(
    genotypes: Genotypes,
    traits: pl.DataFrame,
    *,
    out: str | Path,
    covariates: pl.DataFrame | None = None,
    trait_covariates: pl.DataFrame | None = None,
    omnibus_sets: Mapping[str, pl.DataFrame] | None = None,
    options: Options | None = None,
    variants: NDArray[np.int64] | None = None,
) -> Results:
    """Scan every variant against every trait and write the result store into ``out``.

    Parameters
    ----------
    traits
        PHENOTYPES: ``participant_id`` and one float column a trait; null or NaN is missing, trait by trait.
    covariates
        ``participant_id`` and float columns without missing values; the intercept is added. People who are not in it are
        left out.
    trait_covariates
        One further covariate for each trait: ``participant_id`` and a column named as each trait (predictions of DeepNull).
        A trait is missing where its covariate is. An omnibus set takes those of its traits together.
    omnibus_sets
        Named PHENOTYPES tables (raw traits, before any transform), each tested as a whole by Wilks' test on the people who
        have all of its traits. Sets must not share people when they are to be combined. Missing genotypes take their mean.
        A set with no more people than traits and covariates cannot be tested: it is left out, and ``run.json`` says so.
    variants
        Rows of ``genotypes.variants`` to scan, ascending; None is all.

    Returns
    -------
    Results
        Of the finished scan. Running again with the same inputs goes on after the last whole shard.

    Raises
    ------
    CohortError
        When nobody is in all tables.
    TraitError
        When a trait is constant or has too few values, or a covariate is not finite.
    OutputError
        When ``out`` cannot be written or holds another run's results.

    Warnings
    --------
    Relatives and population strata are not modelled: give principal components as covariates and leave relatives out.
    """
    options = options or Options()
    out = usable_folder(out)
    given = _arrays(genotypes, traits, covariates, trait_covariates, omnibus_sets or {})
    rows = np.arange(genotypes.variants.height, dtype=np.int64) if variants is None else variants
    if not len(rows):
        raise StudyError("there are no variants to scan", where=", ".join(p.name for p in genotypes.paths) or None)
    groups = prepare(given.outcomes, given.basis, given.own)
    _refuse_explained(given.names, groups)
    run = _described(genotypes, given, rows, options, covariates)
    finished = _start(out, run)
    if finished is not None:
        return finished

    scale = genotypes.read(rows[:1], given.people[:1]).scale
    whitened = {
        name: whiten(values, np.hstack([given.basis, extra]), radial=options.radial_omnibus)
        for name, (values, extra) in given.sets.items()
    }
    tested = {name: g for name, g in whitened.items() if len(g.outcomes) and g.n > g.rank + len(g.outcomes)}
    job = _Job(
        source=genotypes,
        people=given.people,
        batches=_batches(groups, scale),
        sets={name: digitise([g], scale=scale) for name, g in tested.items()},
        names=given.names,
        groups=groups,
        options=options,
        info=genotypes.variants["info"].to_numpy() if "info" in genotypes.variants.columns else None,
        autosomal=~genotypes.variants["chromosome"].is_in(["X", "Y", "MT"]).to_numpy(),
    )
    shards = [rows[i : i + options.shard_size] for i in range(0, len(rows), options.shard_size)]
    for number, shard in enumerate(track(shards, "association")):
        _scan_shard(job, shard, out, number)
    run["omnibus_sets"] = list(tested)
    run["omnibus_people"] = [g.n for g in tested.values()]
    run["omnibus_dimensions"] = [len(g.outcomes) for g in tested.values()]
    run["omnibus_left_out"] = {name: g.n for name, g in whitened.items() if name not in tested}
    _finish(out, run, given.names, groups, genotypes)
    return Results(out)


class _Arrays(NamedTuple):
    """The tables of a scan as arrays over the same ``people`` (rows of the samples).

    ``basis`` are the covariates; ``own`` (n_people, n_traits) one more for each trait, or None; ``sets`` holds for each omnibus
    set its values and its further covariates.
    """

    names: list[str]
    people: NDArray[np.int64]
    basis: Floats
    outcomes: Floats
    own: Floats | None
    sets: dict[str, tuple[Floats, Floats]]


def _arrays(
    genotypes: Genotypes,
    traits: pl.DataFrame,
    covariates: pl.DataFrame | None,
    trait_covariates: pl.DataFrame | None,
    omnibus_sets: Mapping[str, pl.DataFrame],
) -> _Arrays:
    names = [c for c in traits.columns if c != "participant_id"]
    people, basis = _align(genotypes, traits, covariates)
    order = genotypes.samples[people].select("participant_id")
    outcomes = _matrix(order, traits)
    own = None if trait_covariates is None else _matrix(order, trait_covariates.select("participant_id", *names))
    sets = {name: _omnibus_set(order, table, trait_covariates) for name, table in omnibus_sets.items()}
    _refuse_unusable(names, outcomes, basis.shape[1])
    return _Arrays(names, people, basis, outcomes, own, sets)


def _described(
    genotypes: Genotypes, given: _Arrays, rows: NDArray[np.int64], options: Options, covariates: pl.DataFrame | None
) -> dict[str, Any]:
    """Return what ``run.json`` says of a scan, with the fingerprint of everything that its numbers depend on."""
    run: dict[str, Any] = {
        "statistic": options.statistic,
        "missing_genotypes": options.missing_genotypes,
        "radial_omnibus": options.radial_omnibus,
        "filters": asdict(options.filters),
        "shard_size": options.shard_size,
        "n_people": len(given.people),
        "n_read": len(rows),
        "build": genotypes.build,
        "covariates": [] if covariates is None else [c for c in covariates.columns if c != "participant_id"],
        "trait_covariates": given.own is not None,
        "omnibus_sets": list(given.sets),
    }
    own = [] if given.own is None else [given.own]
    arrays = [given.people, rows, given.outcomes, given.basis, *own, *(a for pair in given.sets.values() for a in pair)]
    digests = [_digest(array) for array in arrays]
    return run | {"fingerprint": fingerprint(clinome.__version__, *genotypes.paths, digests, given.names, run)}


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _align(genotypes: Genotypes, traits: pl.DataFrame, covariates: pl.DataFrame | None) -> tuple[NDArray[np.int64], Floats]:
    """Find the people who are in genotypes, covariates and at least one trait (rows of the samples), and their covariates."""
    check(traits, PHENOTYPES)
    ids = genotypes.samples["participant_id"]
    keep = ids.is_in(_with_values(traits).implode())
    if covariates is not None:
        check(covariates, COVARIATES)
        keep &= ids.is_in(covariates["participant_id"].implode())
    people = keep.arg_true().to_numpy().astype(np.int64)
    if not len(people):
        raise CohortError(
            "no person has genotypes, a trait and covariates",
            got=f"{ids.len()} in the genotypes, {traits.height} in the traits"
            + ("" if covariates is None else f", {covariates.height} in the covariates"),
            do="compare the identifiers of the files (participant_id is the IID of PLINK files)",
        )
    if covariates is None:
        return people, np.zeros((len(people), 0))
    basis = _matrix(ids.gather(people).to_frame(), covariates)
    broken = np.flatnonzero(~np.isfinite(basis).all(axis=0))
    if len(broken):
        name = [c for c in covariates.columns if c != "participant_id"][broken[0]]
        raise TraitError(
            f"covariate {name!r} is missing or not finite for {int((~np.isfinite(basis[:, broken[0]])).sum())} people",
            do="build the covariates with clinome.cohort.covariates.design, or leave those people out",
        )
    return people, basis


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
    numeric = [n for n in names if traits.schema[n].is_numeric()]
    if len(numeric) < len(names):
        name = next(n for n in names if n not in numeric)
        raise TraitError(f"trait {name!r} is not numeric", got=traits.schema[name])
    return traits.filter(pl.any_horizontal(pl.col(n).cast(pl.Float64).is_finite() for n in names))["participant_id"]


def _matrix(order: pl.DataFrame, table: pl.DataFrame) -> Floats:
    """Values of ``table`` for the people of ``order``: (n_people, n_columns) float64, NaN where there is none."""
    names = [c for c in table.columns if c != "participant_id"]
    joined = order.join(
        table.select("participant_id", pl.col(names).cast(pl.Float64)), on="participant_id", how="left", maintain_order="left"
    )
    return np.ascontiguousarray(joined.select(pl.col(names).fill_null(float("nan"))).to_numpy(), dtype=np.float64)


def _refuse_unusable(names: Sequence[str], outcomes: Floats, n_covariates: int) -> None:
    reserved = [name for name in names if name in RESERVED or name.startswith("omnibus:")]
    if reserved:
        raise TraitError(
            "a trait has a name that the results need for themselves",
            got=", ".join(reserved),
            expected="another name than " + ", ".join(repr(name) for name in RESERVED),
            do="rename the column",
        )
    bad = []
    for p, name in enumerate(names):
        values = outcomes[np.isfinite(outcomes[:, p]), p]
        if np.isinf(outcomes[:, p]).any():
            bad.append(f"{name}: infinite values")
        elif not len(values):
            bad.append(f"{name}: all missing")
        elif values.min() == values.max():
            bad.append(f"{name}: constant ({values[0]:g})")
        elif len(values) < n_covariates + 4:
            bad.append(f"{name}: {len(values)} values for {n_covariates} covariates")
    if bad:
        raise TraitError(
            "a trait cannot be analysed" if len(bad) == 1 else f"{len(bad)} traits cannot be analysed",
            got="; ".join(bad[:10]) + ("; …" if len(bad) > 10 else ""),
            expected="at least two different values, and more people than covariates",
            do="leave them out (--traits names the ones to keep), or correct the table",
        )


def _refuse_explained(names: list[str], groups: list[Group]) -> None:
    explained = [names[p] for g in groups for p, left in zip(g.outcomes, g.sum_of_squares, strict=True) if left == 0]
    if explained:
        raise TraitError(
            "a trait is an exact linear combination of the covariates, so nothing of it is left to analyse",
            got=", ".join(sorted(explained)[:10]),
            do="leave the trait out, or the covariate that it was made from",
        )


def _start(out: Path, run: dict[str, Any]) -> Results | None:
    """Return the finished results when this very run is already there; clear nothing that another run made."""
    begun, done = out / "begun.json", out / "run.json"
    for path in (done, begun):
        if path.exists() and json.loads(path.read_text()).get("fingerprint") != run["fingerprint"]:
            raise OutputError(
                "this folder holds the results of another scan (other files, traits, covariates or settings)",
                where=out,
                do="choose another --out, or delete the folder",
            )
    if done.exists():
        return Results(out)
    if not begun.exists() and (out / "shards").exists():
        raise OutputError(
            "a folder named 'shards' is there that no scan has made", where=out, do="choose another --out, or move it away"
        )
    remove_half_written(out)
    write_json(begun, {"fingerprint": run["fingerprint"]})
    return None


def _batches(groups: list[Group], scale: int) -> list[Prepared]:
    """Cut the groups into sets whose columns make one product of bounded width; a wide group is cut between its traits."""
    pieces = []
    for g in groups:
        for i in range(0, len(g.outcomes), _WIDTH):
            cut = slice(i, i + _WIDTH)
            pieces.append(g._replace(residuals=g.residuals[:, cut], sum_of_squares=g.sum_of_squares[cut], outcomes=g.outcomes[cut]))
    batches: list[list[Group]] = [[]]
    width = 0
    for piece in pieces:
        wide = 1 + piece.basis.shape[1] + len(piece.outcomes)
        if batches[-1] and width + wide > _WIDTH:
            batches.append([])
            width = 0
        batches[-1].append(piece)
        width += wide
    return [digitise(batch, scale=scale) for batch in batches]


def _scan_shard(job: _Job, rows: NDArray[np.int64], out: Path, number: int) -> None:
    path, about = out / "shards" / f"{number:06d}.arrow", out / "shards" / f"{number:06d}.variants.parquet"
    if path.exists() and about.exists():
        return
    size = job.options.block_size or int(np.clip(_CELLS // max(len(job.people), 1), 16, 4_096))
    shards, tables = [], []
    for i in range(0, len(rows), size):
        shard, table = _scan_block(job, rows[i : i + size])
        shards.append(shard_frame(shard, traits=job.names, omnibus_sets=list(job.sets)))
        tables.append(table)
    with replacing(about) as temporary:
        pl.concat(tables).write_parquet(temporary)
    with replacing(path) as temporary:
        pl.concat(shards, rechunk=True).write_ipc(temporary)


def _scan_block(job: _Job, rows: NDArray[np.int64]) -> tuple[Shard, pl.DataFrame]:
    block = job.source.read(rows, job.people)
    info = None if job.info is None else job.info[rows]
    seen = count(block.counts, block.scale, info, job.options.filters, autosomal=job.autosomal[rows])
    kept = np.flatnonzero(seen.failed == "")
    counts: Counts = block.counts if len(kept) == len(rows) else block.counts[kept]
    v = len(kept)
    n_groups = len(job.groups)
    beta, error = np.full((len(job.names), v), np.nan, np.float32), np.full((len(job.names), v), np.nan, np.float32)
    n, frequency = np.zeros((n_groups, v), dtype=np.int32), np.full((n_groups, v), np.nan, np.float32)
    reason = np.full(v, 127, dtype=np.int8)  # estimated nowhere until some group says otherwise
    number = {id(g.mask): i for i, g in enumerate(job.groups)}
    for batch in job.batches:
        results = scan(counts, batch, statistic=job.options.statistic, missing=job.options.missing_genotypes)
        for group, result in zip(batch.groups, results, strict=True):
            i = number[id(group.mask)]
            beta[group.outcomes], error[group.outcomes] = result.beta.T, result.standard_error.T
            n[i], frequency[i] = result.n, result.frequency
            reason = np.minimum(reason, result.reason)
    strength = np.zeros((len(job.sets), v))
    for i, prepared in enumerate(job.sets.values()):
        strength[i] = _omnibus_of(counts, prepared)
    row_in_source = pl.Series("source_row", rows)
    table = pl.DataFrame(
        {"source_row": row_in_source, "effect_allele_frequency": seen.frequency, "missing_share": seen.missing_share}
    )
    why = [f"filter:{name}" if name else None for name in seen.failed.tolist()]
    for at, number_of_reason in zip(kept.tolist(), reason.tolist(), strict=True):
        why[at] = REASONS.get(number_of_reason)
    table = table.with_columns(pl.Series("reason", why, dtype=pl.String), pl.col("effect_allele_frequency").fill_nan(None))
    return Shard(rows[kept], beta, error, n, frequency, strength), table


def _omnibus_of(counts: Counts, prepared: Prepared) -> Floats:
    result: Scan = scan(counts, prepared)[0]
    return omnibus(result, prepared.groups[0])


def _finish(
    out: Path,
    run: dict[str, Any],
    names: list[str],
    groups: list[Group],
    genotypes: Genotypes,
) -> None:
    """Write the tables of variants and traits, number the shards' rows by them, and mark the run as finished."""
    seen = pl.concat([pl.read_parquet(p) for p in sorted((out / "shards").glob("[0-9]*.variants.parquet"))])
    dropped = seen.filter(pl.col("reason").str.starts_with("filter:").fill_null(False))
    kept = seen.filter(~pl.col("reason").str.starts_with("filter:").fill_null(False))
    if not kept.height:
        raise StudyError(
            "the filters leave no variant",
            got="; ".join(f"{n:,} left out by {name}" for name, n in _tally(dropped, "reason").items()),
            do="relax --maf, --mac, --missing, --hwe or --info",
        )
    variants = genotypes.variants[kept["source_row"].to_numpy()].hstack(kept)
    with replacing(out / "variants.parquet") as temporary:
        variants.write_parquet(temporary)
    rows: dict[str, list[Any]] = {"trait": names, "group": [0] * len(names), "n": [0] * len(names), "rank": [0] * len(names)}
    for i, group in enumerate(groups):
        for p in group.outcomes:
            rows["group"][p], rows["n"][p], rows["rank"][p] = i, group.n, group.rank
    with replacing(out / "traits.parquet") as temporary:
        pl.DataFrame(rows).write_parquet(temporary)
    about = {
        "n_variants": variants.height,
        "filtered": _tally(dropped, "reason"),
        "not_estimated": _tally(variants.drop_nulls("reason"), "reason"),
    }
    write_json(out / "run.json", run | about)


def _tally(frame: pl.DataFrame, column: str) -> dict[str, int]:
    counted = frame.group_by(column).len().sort(column)
    return {str(name).removeprefix("filter:"): int(n) for name, n in counted.iter_rows()}
