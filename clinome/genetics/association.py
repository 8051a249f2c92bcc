"""Associate many traits with every variant of a genotype source: the linear scan, streamed, resumable, exact.

A trait's numbers depend on its own people and values alone: not on block size, threads, processes, the order of variants, or on
which other traits run beside it. Traits coded 0/1 are analysed by the same linear model (a linear probability model): p-values are
those of a score-like test and hold for common variants and balanced traits; betas are risk differences per allele, not log
odds ratios. Men's one X counts as two copies, Y is analysed in men, heterozygous calls of haploids are missing
(:mod:`clinome.genetics.sex_chromosomes`).

References: REGENIE's and PLINK 2's treatments of missing genotypes are both offered (Mbatchou et al. 2021,
doi:10.1038/s41588-021-00870-7; Chang et al. 2015, doi:10.1186/s13742-015-0047-8).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import clinome
from clinome.core.errors import OutputError, StudyError
from clinome.core.files import remove_half_written, replacing, usable_folder, write_json
from clinome.core.machine import Machine
from clinome.core.provenance import fingerprint
from clinome.formats.genotypes import Genotypes
from clinome.formats.sumstats import Layout
from clinome.genetics.filters import Filters
from clinome.genetics.planner import Plan, planned, settle
from clinome.genetics.results import Results
from clinome.genetics.scan_inputs import Inputs, gather, refuse_explained
from clinome.genetics.scan_job import Job, Model, run_shards, shard_rows, shards_left
from clinome.genetics.sex_chromosomes import Kind, analysed, kinds, sex_covariate, sexes
from clinome.stats import onednn
from clinome.stats.exact import FLOAT64, Columns, Device, Engine, best_engine
from clinome.stats.interaction import digitise_interaction
from clinome.stats.layout import digitise
from clinome.stats.linear import Missing
from clinome.stats.modifier import Modifier, modifier_of
from clinome.stats.moments import Statistic
from clinome.stats.omnibus import whiten
from clinome.stats.residuals import Outcomes, Ragged, prepare, span

Floats = NDArray[np.float64]
_WORDS = {
    "missing_genotypes": ("mean", "drop"),
    "statistic": ("t", "score"),
    "ragged_traits": ("exact", "regenie"),
    "device": ("auto", "cpu", "gpu"),
}
_SMALL = 2e10  # variants × people × columns that float64 multiplies in the second or so that loading torch takes
_WHOLE = 0.5  # of the samples analysed, above which all are read: choosing people out of a block costs more than the zeros


@dataclass(frozen=True)
class Options:
    """How a scan is done.

    ``missing_genotypes``: 'mean' (the mean of the trait's observed people, as REGENIE) or 'drop' (that person is left out of
    that variant, as PLINK 2). ``statistic``: 't' (SE from the residuals of the full model) or 'score' (from the model without
    the variant, χ² with one degree of freedom, as REGENIE). ``ragged_traits``: 'exact' (every trait over its own people), or
    'regenie' (traits and genotypes residualised over everybody, then masked: REGENIE's approximation, for comparison with it).
    ``radial_omnibus``: before the omnibus, people's distances from the centre take the lengths of normal ones, directions
    kept (:func:`clinome.stats.omnibus.whiten`); studies that rank-normalise their traits do so anyway. ``shard_size``:
    variants between two safe points of a run, at most.

    These change the time that a scan takes and nothing of what it finds: ``block_size`` (variants multiplied at once),
    ``threads`` (None: one a processor) and ``processes``, each with its threads, for formats whose decoding keeps Python busy;
    ``device`` of the matrix products: 'cpu', 'gpu', or 'auto' (a GPU when there is one).
    """

    missing_genotypes: Missing = "mean"
    statistic: Statistic = "t"
    ragged_traits: Ragged = "exact"
    radial_omnibus: bool = False
    filters: Filters = field(default_factory=Filters)
    shard_size: int = 16_384
    block_size: int | None = None
    threads: int | None = None
    processes: int = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Refuse words and sizes that mean nothing."""
        for name, words in _WORDS.items():
            if (value := getattr(self, name)) not in words:
                raise StudyError(f"{name} cannot be {value!r}", expected=" or ".join(repr(w) for w in words))
        for name in ("shard_size", "block_size", "threads", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise StudyError(f"{name} is out of range", got=value, expected="at least one")
        if self.ragged_traits == "regenie" and self.missing_genotypes == "drop":
            raise StudyError(
                "REGENIE's approximation puts the mean in place of a missing genotype", do="take missing_genotypes = 'mean'"
            )

    def of_results(self) -> Options:
        """Return the options without those that change only the time: what results are identified by."""
        return replace(self, block_size=None, threads=None, processes=1, device="auto")


def associate(
    genotypes: Genotypes,
    traits: pl.DataFrame,
    *,
    out: str | Path,
    covariates: pl.DataFrame | None = None,
    trait_covariates: pl.DataFrame | None = None,
    omnibus_sets: Mapping[str, pl.DataFrame] | None = None,
    options: Options | None = None,
    interaction: pl.DataFrame | None = None,
    variants: NDArray[np.int64] | None = None,
) -> Results:
    """Scan every variant against every trait and write the result store into ``out``.

    Parameters
    ----------
    traits
        PHENOTYPES: ``participant_id`` and one float column a trait; null or NaN is missing, trait by trait.
    covariates
        ``participant_id`` and float columns without missing values; the intercept is added. People who are not in it are
        left out. Sex is added by itself for variants of chromosome X, where it is known and not among them.
    trait_covariates
        One further covariate for each trait: ``participant_id`` and a column named as each trait (predictions of DeepNull).
        A trait is missing where its covariate is. An omnibus set takes those of its traits together.
    omnibus_sets
        Named PHENOTYPES tables (raw traits, before any transform), each tested as a whole by Wilks' test on the people who
        have all of its traits. Sets must not share people when they are to be combined. Missing genotypes take their mean.
        A set with no more people than traits and covariates cannot be tested: it is left out, and ``run.json`` says so.
    interaction
        ``participant_id`` and one float column x without missing values, in its own units; it joins the covariates. Beside every
        trait the results then hold ``trait×x``: by how much a copy's effect changes per unit of x
        (:mod:`clinome.stats.interaction`).
    variants
        Rows of ``genotypes.variants`` to scan, ascending and none twice; None is all.

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
    StudyError
        When ``variants`` are no rows, options contradict the genotypes, or the filters leave no variant.
    OutputError
        When ``out`` cannot be written or holds another run's results, finished or begun. A run that ends by an error before it
        finished a shard, or of which the filters leave nothing, takes back its claim to the folder.

    Warnings
    --------
    Relatives and population strata are not modelled: give principal components as covariates and leave relatives out.
    """
    options = options or Options()
    out = usable_folder(out)
    given, rows = _asked(genotypes, traits, covariates, trait_covariates, omnibus_sets, options, interaction, variants)
    run = _described(genotypes, given, rows, options, covariates)
    if _finished(out, run):
        return Results(out)
    regressed, job, notes = _laid_out(genotypes, given, rows, options)
    base = regressed[Kind.AUTOSOME]
    tested = {name: s.groups[0] for name, s in base.sets.items() if name in job.set_names}
    run["omnibus_sets"] = job.set_names
    run["omnibus_people"] = [g.n for g in tested.values()]
    run["omnibus_dimensions"] = [len(g.outcomes) for g in tested.values()]
    run["omnibus_left_out"] = {name: s.groups[0].n for name, s in base.sets.items() if name not in job.set_names}
    run["ranks_change"] = job.ranks_change
    run["notes"] = notes
    with _begun(out, run):
        if left := shards_left(shard_rows(rows, options.shard_size, len(given.tests)), out):
            processes = min(options.processes, len(left))
            job, threads = settle(job, left, out, threads=options.threads, processes=processes)
            run_shards(job, left, out, threads=threads, processes=processes)
        _finish(out, run, given.tests, base.outcomes, genotypes)
    return Results(out)


def plan(
    genotypes: Genotypes,
    traits: pl.DataFrame,
    *,
    out: str | Path,
    covariates: pl.DataFrame | None = None,
    trait_covariates: pl.DataFrame | None = None,
    omnibus_sets: Mapping[str, pl.DataFrame] | None = None,
    options: Options | None = None,
    interaction: pl.DataFrame | None = None,
    variants: NDArray[np.int64] | None = None,
    machine: Machine | None = None,
    exports: Sequence[Layout] = (),
) -> Plan:
    """Say what :func:`associate` with these arguments would take, its summary and ``exports`` included; nothing is kept in ``out``.

    ``machine``: another than this one, whose cores are taken to be as fast as those here (:mod:`clinome.genetics.planner`).

    Raises
    ------
    ClinomeError
        As :func:`associate`, when it would refuse.
    """
    options = options or Options()
    if machine is not None:
        options = replace(options, device="cpu", threads=None)
    start = perf_counter()
    given, rows = _asked(genotypes, traits, covariates, trait_covariates, omnibus_sets, options, interaction, variants)
    _, job, _ = _laid_out(genotypes, given, rows, options)
    shards = shard_rows(rows, options.shard_size, len(given.tests))
    prepared = perf_counter() - start
    found = planned(job, shards, usable_folder(out), machine, threads=options.threads, processes=options.processes, exports=exports)
    return found._replace(seconds={"preparing": prepared} | found.seconds)


def _asked(
    genotypes: Genotypes,
    traits: pl.DataFrame,
    covariates: pl.DataFrame | None,
    trait_covariates: pl.DataFrame | None,
    omnibus_sets: Mapping[str, pl.DataFrame] | None,
    options: Options,
    interaction: pl.DataFrame | None,
    variants: NDArray[np.int64] | None,
) -> tuple[Inputs, NDArray[np.int64]]:
    """Return the arrays of a scan and the rows of its variants, or say what cannot be scanned."""
    given = gather(genotypes, traits, covariates, trait_covariates, omnibus_sets or {}, interaction)
    if given.modifier is not None and (options.statistic, options.ragged_traits) != ("t", "exact"):
        raise StudyError(
            "an interaction is tested by Student's t over each trait's own people",
            got=f"statistic {options.statistic!r}, ragged traits {options.ragged_traits!r}",
            do="leave both at their defaults",
        )
    if given.own is not None and options.ragged_traits == "regenie":
        raise StudyError("REGENIE's approximation takes no covariates of single traits", do="take ragged_traits = 'exact'")
    rows = np.arange(genotypes.variants.height, dtype=np.int64) if variants is None else _rows_of(genotypes, variants)
    if not len(rows):
        raise StudyError("there are no variants to scan", where=", ".join(p.name for p in genotypes.paths) or None)
    return given, rows


def _rows_of(genotypes: Genotypes, variants: NDArray[Any]) -> NDArray[np.int64]:
    """Return the ``variants`` of a caller when they are rows of the table, ascending and none twice."""
    given, height = np.asarray(variants), genotypes.variants.height
    whole = given.ndim == 1 and (given.dtype.kind in "iu" or not given.size)
    rows = given.astype(np.int64) if whole else np.zeros(0, np.int64)
    wrong = np.flatnonzero((np.diff(rows, prepend=-1) <= 0) | (rows < 0) | (rows >= height))
    if not whole or len(wrong):
        raise StudyError(
            "variants must be rows of the table of variants, ascending and none twice",
            got=f"{rows[wrong[0]]} at place {wrong[0]}" if whole else f"{given.dtype} of shape {given.shape}",
            expected=f"whole numbers from 0 to {height - 1:,}",
            do="np.unique sorts rows and takes each once; np.flatnonzero makes rows of a mask",
        )
    return rows


class _Regressed(NamedTuple):
    """What is regressed on one kind of chromosome: the traits, the omnibus sets by name, and among whom of the people analysed."""

    outcomes: Outcomes
    sets: dict[str, Outcomes]
    among: NDArray[np.bool_]
    modifier: Modifier | None


def _laid_out(
    genotypes: Genotypes, given: Inputs, rows: NDArray[np.int64], options: Options
) -> tuple[dict[Kind, _Regressed], Job, list[str]]:
    """Prepare everything that the blocks need; and sentences for the log."""
    scale = genotypes.read(rows[:1], given.people[:1]).scale
    if options.filters.hwe is not None and scale != 1:
        raise StudyError(
            "the Hardy–Weinberg filter needs hard calls; these genotypes are dosages",
            where=", ".join(p.name for p in genotypes.paths) or None,
            do="leave --hwe out, or use --info",
        )
    regressed, notes = _regressed(genotypes, given, rows, scale, options)
    refuse_explained(given.names, regressed[Kind.AUTOSOME].outcomes.groups)
    return regressed, _job(genotypes, given, rows, regressed, options), notes


def _regressed(
    genotypes: Genotypes, given: Inputs, rows: NDArray[np.int64], scale: int, options: Options
) -> tuple[dict[Kind, _Regressed], list[str]]:
    """Prepare the traits for autosomes, and for X and Y where these are scanned and differ; and sentences for the log."""
    kind, notes = kinds(genotypes.variants, genotypes.build)
    scanned = {Kind(k) for k in np.unique(kind[rows])}
    cohort = sexes(genotypes.samples[given.cohort])
    sex, said = sex_covariate(kind[rows], cohort, given.covariates)

    def over(covariates: Floats, among: NDArray[np.bool_]) -> _Regressed:
        table = covariates if given.modifier is None else np.column_stack([covariates, given.modifier[1]])
        basis = span(table, scale=scale)
        mine, here = basis.among(given.analysed), among[given.analysed]
        within = None if here.all() else here
        outcomes = prepare(given.outcomes, mine, given.own, among=within, ragged=options.ragged_traits)
        sets = {}
        for name, (values, extra) in given.sets.items():
            both = mine if not extra.shape[1] else span(np.column_stack([mine.columns()[1:].T, extra]), scale=scale)
            sets[name] = whiten(np.where(here[:, None], values, np.nan), both, radial=options.radial_omnibus)
        modifier = None if given.modifier is None else modifier_of(given.modifier[1], basis).among(given.analysed)
        return _Regressed(outcomes, sets, here, modifier)

    everybody = np.ones(len(given.cohort), dtype=np.bool_)
    found = {Kind.AUTOSOME: over(given.covariates, everybody)}
    found[Kind.MT] = found[Kind.AUTOSOME]
    on_x = analysed(Kind.X, cohort)
    if Kind.X in scanned and (sex is not None or not on_x.all()):
        found[Kind.X] = over(given.covariates if sex is None else np.column_stack([given.covariates, sex]), on_x)
    else:
        found[Kind.X] = found[Kind.AUTOSOME]
    if Kind.Y in scanned:
        found[Kind.Y] = over(given.covariates, analysed(Kind.Y, cohort))
    return found, [*(notes if Kind.X in scanned else []), *said]


def _engine(device: Device, operations: float) -> Engine:
    """Choose the product: a small scan does not wait a second for torch, and finds the same."""
    if device == "auto" and operations < _SMALL and "torch" not in sys.modules and onednn.library() is None:
        return FLOAT64
    try:
        return best_engine(device)
    except RuntimeError as error:
        raise StudyError(str(error), got=f"device {device!r}", do="take 'auto'; a GPU needs the CUDA build of torch") from error


def _ranks(outcomes: Outcomes) -> NDArray[np.int64]:
    """Return the rank of every group that has outcomes: these come first, and are the same on every chromosome."""
    return np.array([group.rank for group in outcomes.groups if len(group.outcomes)], dtype=np.int64)


def _testable(whitened: Outcomes) -> bool:
    (group,) = whitened.groups
    return len(group.outcomes) > 0 and group.n > group.rank + len(group.outcomes)


def _job(genotypes: Genotypes, given: Inputs, rows: NDArray[np.int64], regressed: dict[Kind, _Regressed], options: Options) -> Job:
    """Lay everything out for the columns of the counts that will be read."""
    kind = kinds(genotypes.variants, genotypes.build)[0]
    samples = genotypes.samples
    whole = len(given.people) >= _WHOLE * samples.height
    width = samples.height if whole else len(given.people)
    places = given.people if whole else np.arange(width)
    people = sexes(samples if whole else samples[given.people])
    base = regressed[Kind.AUTOSOME]
    engine = _engine(options.device, float(len(rows)) * width * (len(given.tests) + given.covariates.shape[1]))
    names = [name for name, whitened in base.sets.items() if _testable(whitened)]
    ranks = _ranks(base.outcomes)

    def model(one: _Regressed, women: bool) -> Model:
        masks = np.zeros((width, 1 + women), np.int32)
        masks[places, 0] = one.among & np.any([g.mask for g in one.outcomes.groups], axis=0)
        if women:
            masks[:, 1] = masks[:, 0] * people.female
        sets = [
            (digitise(s, places=places, width=width, engine=engine), s.groups[0]) if _testable(s) else None
            for s in map(one.sets.get, names)
            if s
        ]
        more = _ranks(one.outcomes) - ranks
        interaction = None
        if one.modifier is not None:
            interaction = digitise_interaction(one.outcomes, one.modifier, places=places, width=width, engine=engine)
        prepared = digitise(one.outcomes, places=places, width=width, engine=engine)
        return Model(prepared, interaction, sets, Columns(masks, engine), more.astype(np.int8))

    models = {Kind.AUTOSOME: model(base, False)}
    for k in sorted({Kind(k) for k in np.unique(kind[rows])} - {Kind.AUTOSOME}):
        same = regressed[k] is base and k != Kind.X
        models[k] = models[Kind.AUTOSOME] if same else model(regressed[k], k == Kind.X)
    return Job(
        source=genotypes,
        read=None if whole else given.people,
        names=given.tests,
        set_names=names,
        models=models,
        kinds=kind,
        people=people,
        n_groups=len(ranks),
        info=genotypes.variants["info"].to_numpy() if "info" in genotypes.variants.columns else None,
        filters=options.filters,
        statistic=options.statistic,
        missing=options.missing_genotypes,
        block_size=options.block_size,
    )


def _described(
    genotypes: Genotypes, given: Inputs, rows: NDArray[np.int64], options: Options, covariates: pl.DataFrame | None
) -> dict[str, Any]:
    """Return what ``run.json`` says of a scan, with the fingerprint of everything that its numbers depend on."""
    run: dict[str, Any] = {
        "statistic": options.statistic,
        "missing_genotypes": options.missing_genotypes,
        "ragged_traits": options.ragged_traits,
        "radial_omnibus": options.radial_omnibus,
        "filters": asdict(options.filters),
        "shard_size": options.shard_size,
        "n_people": len(given.people),
        "n_read": len(rows),
        "build": genotypes.build,
        "covariates": [] if covariates is None else [c for c in covariates.columns if c != "participant_id"],
        "trait_covariates": given.own is not None,
        "interaction": None if given.modifier is None else given.modifier[0],
        "omnibus_sets": list(given.sets),
    }
    kind, people = kinds(genotypes.variants, genotypes.build)[0][rows], sexes(genotypes.samples)
    arrays = [
        given.cohort,
        given.analysed,
        rows,
        given.outcomes,
        given.covariates,
        *(a for pair in given.sets.values() for a in pair),
    ]
    arrays += [] if given.own is None else [given.own]
    arrays += [] if given.modifier is None else [given.modifier[1]]
    arrays += [kind, people.male, people.female] if kind.any() else []
    digests = [_digest(array) for array in arrays]
    return run | {"fingerprint": fingerprint(clinome.__version__, *genotypes.paths, digests, given.names, run)}


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _finished(out: Path, run: dict[str, Any]) -> bool:
    """Say whether this very run is already there; refuse a folder that holds another's."""
    begun, done = out / "begun.json", out / "run.json"
    for path, of in ((done, "the results of another scan"), (begun, "a part of another scan, unfinished or still running")):
        if path.exists() and json.loads(path.read_text()).get("fingerprint") != run["fingerprint"]:
            raise OutputError(
                f"this folder holds {of} (other files, traits, covariates or settings)",
                where=out,
                do="choose another --out, or delete the folder",
            )
    if not done.exists() and not begun.exists() and (out / "shards").exists():
        raise OutputError(
            "a folder named 'shards' is there that no scan has made", where=out, do="choose another --out, or move it away"
        )
    return done.exists()


@contextmanager
def _begun(out: Path, run: dict[str, Any]) -> Iterator[None]:
    """Mark the folder as this run's, clear what a killed one left half-written; an error before any shard takes the mark back."""
    remove_half_written(out)
    write_json(out / "begun.json", {"fingerprint": run["fingerprint"]})
    try:
        yield
    except BaseException:
        if not any((shards := out / "shards").glob("*")):
            if shards.is_dir():
                shards.rmdir()
            (out / "begun.json").unlink(missing_ok=True)
        raise


def _finish(out: Path, run: dict[str, Any], names: list[str], outcomes: Outcomes, genotypes: Genotypes) -> None:
    """Write the tables of variants and traits, number the shards' rows by them, and mark the run as finished."""
    seen = pl.concat([pl.read_parquet(p) for p in sorted((out / "shards").glob("[0-9]*.variants.parquet"))])
    dropped = seen.filter(pl.col("reason").str.starts_with("filter:").fill_null(False))
    kept = seen.filter(~pl.col("reason").str.starts_with("filter:").fill_null(False))
    if not kept.height:
        for shard in (out / "shards").glob("[0-9]*"):
            shard.unlink()
        raise StudyError(
            "the filters leave no variant",
            got="; ".join(f"{n:,} left out by {name}" for name, n in _tally(dropped, "reason").items()),
            do="relax --maf, --mac, --missing, --hwe or --info",
        )
    variants = genotypes.variants[kept["source_row"].to_numpy()].hstack(kept)
    with replacing(out / "variants.parquet") as temporary:
        variants.write_parquet(temporary)
    rows: dict[str, list[Any]] = {"trait": names, "group": [0] * len(names), "n": [0] * len(names), "rank": [0] * len(names)}
    n_traits = sum(len(group.outcomes) for group in outcomes.groups)
    for i, group in enumerate(outcomes.groups):
        for p, rank in zip(group.outcomes, group.ranks(), strict=True):
            for more, q in enumerate(range(int(p), len(names), n_traits)):  # the trait; its interaction, which has a column more
                rows["group"][q], rows["n"][q], rows["rank"][q] = i, group.n, int(rank) + more
    with replacing(out / "traits.parquet") as temporary:
        pl.DataFrame(rows).write_parquet(temporary)
    if "heterozygous_haploids" in seen.columns and (lost := int(seen["heterozygous_haploids"].sum())):
        run["notes"].append(f"{lost:,} heterozygous calls of people with one copy (men on X and Y, anybody on MT) were set missing")
    about = {
        "n_variants": variants.height,
        "filtered": _tally(dropped, "reason"),
        "not_estimated": _tally(variants.drop_nulls("reason"), "reason"),
    }
    write_json(out / "run.json", run | about)


def _tally(frame: pl.DataFrame, column: str) -> dict[str, int]:
    counted = frame.group_by(column).len().sort(column)
    return {str(name).removeprefix("filter:"): int(n) for name, n in counted.iter_rows()}
