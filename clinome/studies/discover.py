"""From a biobank's files to loci: people → phenotypes → traits → scan → loci → report, each stage saved and resumable.

    people/       who is in all sources, relatives, the participant flow
    phenotypes/   pictures → encoder → axes with their quality, or a table of traits
    traits/       what is scanned: transformed traits, covariates with principal components, DeepNull's predictions
    gwas/         the result store, Manhattan, QQ, λ
    loci/         loci, regional LD, evidence, average pictures of each genotype, truth when it is known
    floor/        the same with the floor's phenotypes (plain pixels, nobody left out), beside which the encoder stands
    report.html   reads the tables above and summary.json

`clinome run`, `clinome gwas` and `clinome demo` are this one flow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import polars as pl

import clinome
from clinome.core.errors import StudyError, need
from clinome.core.files import replacing, usable_folder, write_json
from clinome.core.machine import Machine, free_disk
from clinome.core.provenance import fingerprint, write_provenance
from clinome.core.schema import GENES, IMAGES, TRUE_LOCI
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.genotypes import Genotypes
from clinome.formats.sumstats import LAYOUTS, Layout
from clinome.formats.table import LoadedTable, read_checked, read_table
from clinome.genetics.association import associate, plan
from clinome.genetics.clumping import find_loci, save_loci
from clinome.genetics.export import RANKED, export, remove_export
from clinome.genetics.hits import hit_notes
from clinome.genetics.interaction import save_interactions
from clinome.genetics.planner import Plan, export_of, refuse_full_disk, size
from clinome.genetics.results import Results
from clinome.genetics.selection import Selected, select
from clinome.genetics.studywide import inflation_warnings, summarise, thresholds
from clinome.imaging.convert import content_key
from clinome.imaging.embedding import UNREADABLE, embed
from clinome.studies.genotype_pictures import average_pictures
from clinome.studies.methods import headline, methods
from clinome.studies.people import People, gather, load_people, read_covariates, rows_of, save_people
from clinome.studies.stages import Stages
from clinome.studies.study_file import Study
from clinome.studies.traits import (
    Analysed,
    analyse,
    conditioning_ids,
    imbalance_warnings,
    load_analysed,
    modifier_name,
    save_analysed,
)
from clinome.studies.truth import Compared, compare

_START = 0.3  # seconds until the interpreter is there
_PAGE = 6_000_000  # bytes of the report


def run_study(study: Study, out: str | Path, *, report: bool = True) -> dict[str, Any]:
    """Run ``study`` into the folder ``out`` and return its summary (also ``summary.json``).

    A stage whose inputs, settings and code version have not changed is skipped; a killed run goes on where it was.

    Raises
    ------
    ClinomeError
        Of the part that fails, with what to do; stages that were finished stay.
    """
    out = Path(out)
    fresh = not out.exists()
    out = usable_folder(out)
    try:
        return _run_stages(study, out, report=report)
    finally:
        if fresh and not any(out.iterdir()):  # nothing came of it: leave no empty folder behind
            out.rmdir()


def _run_stages(study: Study, out: Path, *, report: bool) -> dict[str, Any]:
    if report:  # said before hours of work, not after
        need("jinja2", "report")
        need("plotly.offline", "report")
    stages = Stages(out)
    with _begun(study, stages) as (run, keys, table):
        found = _associate(run, "", keys.traits, run.phenotypes)
        floor = None
        if (run.phenotypes / "floor").is_dir():
            floor = _associate(run, "floor/", keys.traits, run.phenotypes / "floor")
        else:
            stages.forget("floor")  # of a study that had one before
        for layout in LAYOUTS:
            _export(run, found.results, layout, keys.gwas)
    summary = _summary(run, found, floor, table)
    write_json(out / "summary.json", summary)
    flow = found.analysed.flow
    for name, frame in (("flow", flow.table()), ("exclusions", flow.exclusions())):
        with replacing(out / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary)
    inputs = [*run.genotypes.paths, *_named_files(study)]
    write_provenance(out, inputs=inputs, settings=summary["settings"], seed=study.study.seed)
    if report:
        from clinome.report.page import write_report

        write_report(out)
    return summary


def plan_study(study: Study, out: str | Path, *, machine: Machine | None = None) -> Plan:
    """Say what :func:`run_study` would take for a table of traits: time, memory and disk, here or on a described ``machine``.

    What comes before the scan is done, in a folder of ``out`` that goes again; of the scan some blocks are timed. Loci depend on
    what is found and are not in it.

    Raises
    ------
    ClinomeError
        As :func:`run_study`, when it would refuse.
    """
    out, start = Path(out), perf_counter()
    fresh = not out.exists()
    out = usable_folder(out)
    try:
        with TemporaryDirectory(dir=out, prefix=".plan.") as folder:
            with _begun(study, Stages(Path(folder))) as (run, keys, _):
                analysed = _analysed(run, "", keys.traits, run.phenotypes)
                before = perf_counter() - start + _START
                found = plan(**_what_is_scanned(run, analysed), out=folder, machine=machine, exports=study.gwas.export)
            stages = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    finally:
        if fresh and not any(out.iterdir()):
            out.rmdir()
    preparing = found.seconds["preparing"] + before
    found = found._replace(seconds=found.seconds | {"preparing": preparing}, disk=found.disk + stages + _PAGE)
    if machine is None and found.disk > (free := free_disk(out)):
        found = found._replace(notes=(*found.notes, f"only {size(free)} are free in {out}: the scan would be refused"))
    return found


@contextmanager
def _begun(study: Study, stages: Stages) -> Iterator[tuple[_Run, _Keys, LoadedTable | None]]:
    """Open the files, and run the stages before the scan: who is analysed, and their phenotypes."""
    genotypes = open_genotypes(study.genotypes.path, build=study.genotypes.build, sample_file=study.genotypes.sample)
    try:
        scanned = select(genotypes.variants, study.genotypes.scanned)
        conditioning_ids(study, genotypes.variants)  # a wrong list is said now, not after an encoder was trained
        covariates = read_covariates(study.covariates)
        modifier_name(study, covariates)
        table, images, trait_ids = _sources(study)
        keys = _Keys(study, genotypes, images)
        folder = stages.run("people", keys.people, lambda d: save_people(gather(study, genotypes, trait_ids, covariates), d))
        people = load_people(folder)
        folder = stages.run("phenotypes", keys.phenotypes, lambda d: _phenotypes(study, people, table, images, d))
        yield _Run(study, genotypes, scanned, people, covariates, folder, stages), keys, table
    finally:
        genotypes.close()


class _Run(NamedTuple):
    """What the stages of one study share; ``phenotypes`` is the folder of that stage."""

    study: Study
    genotypes: Genotypes
    scanned: Selected
    people: People
    covariates: LoadedTable | None
    phenotypes: Path
    stages: Stages


class _Found(NamedTuple):
    """What came of one set of phenotypes."""

    analysed: Analysed
    results: Results
    loci: pl.DataFrame
    truth: Compared | None


def _associate(run: _Run, where: str, key: str, source: Path) -> _Found:
    """Take the phenotypes in ``source`` to loci, in the stages ``<where>traits``, ``<where>gwas`` and ``<where>loci``."""
    study, analysed = run.study, _analysed(run, where, key, source)
    options = study.gwas.options.of_results()
    key = fingerprint(key, options, study.gwas.omnibus, study.loci.clumping.alpha, study.genotypes.scanned)
    results = Results(run.stages.run(f"{where}gwas", key, lambda d: _scan(run, analysed, d)))
    key = fingerprint(key, study.loci, study.truth)
    folder = run.stages.run(f"{where}loci", key, lambda d: _loci(run, analysed, results, d, pictures=not where))
    loci = pl.read_parquet(folder / "loci.parquet")
    return _Found(analysed, results, loci, _compared(study, loci) if study.truth else None)


def _analysed(run: _Run, where: str, key: str, source: Path) -> Analysed:
    """Take the phenotypes in ``source`` to what is scanned, in the stage ``<where>traits``."""
    phenotypes, taught = pl.read_parquet(source / "phenotypes.parquet"), _taught(source)
    people = _seen(run.people, source)
    folder = run.stages.run(
        f"{where}traits",
        key,
        lambda d: save_analysed(analyse(run.study, people, run.genotypes, phenotypes, run.covariates, taught), d),
    )
    return load_analysed(folder)


class _Keys:
    """The key of each stage: everything that its tables depend on, the stages before it included."""

    def __init__(self, study: Study, genotypes: Genotypes, images: pl.DataFrame | None) -> None:
        about = study.genotypes
        files = {"path": about.path, "build": about.build, "sample": about.sample, "files": list(genotypes.paths)}
        source = study.phenotypes.path or (study.images.path if study.images else None)
        cohort = (study.cohort.keep, study.cohort.remove, study.cohort.kinship)
        self.people = fingerprint(clinome.__version__, files, study.covariates, cohort, source, study.phenotypes.id_column)
        shown = content_key(images, study.images.path.parent) if images is not None and study.images else None
        wanted = (study.phenotypes.columns, study.phenotypes.missing)
        shows = study.images and (study.images.embedding, study.images.targets)
        self.phenotypes = fingerprint(self.people, shows, wanted, shown)
        analysis = (study.cohort.principal_components, study.phenotypes.transform, study.phenotypes.adjust, study.study.seed)
        conditioned = (study.gwas.condition, study.gwas.condition_list)
        gaps = study.gwas.options.missing_genotypes if any(conditioned) else None
        self.traits = fingerprint(self.phenotypes, analysis, conditioned, gaps, study.gwas.interaction)
        self.gwas = fingerprint(self.traits, study.gwas.options.of_results(), about.scanned)


def _sources(study: Study) -> tuple[LoadedTable | None, pl.DataFrame | None, list[str]]:
    """Read the table of traits or of images, and name the people in it."""
    if study.images is not None:
        images = read_checked(study.images.path, IMAGES)
        return None, images, images["participant_id"].unique(maintain_order=True).to_list()
    about = study.phenotypes
    assert about.path is not None
    table = read_table(
        about.path, missing=about.missing, id_column=about.id_column, columns=about.columns or None, numbers_only=True
    )
    table = LoadedTable(table.frame.drop("family_id", strict=False), table.notes)
    if table.frame.width < 2:
        raise StudyError("the table of traits holds no trait", where=about.path, got=", ".join(table.frame.columns))
    return table, None, table.frame["participant_id"].to_list()


def _phenotypes(study: Study, people: People, table: LoadedTable | None, images: pl.DataFrame | None, folder: Path) -> None:
    """Fill ``phenotypes/``: embed the pictures of the people in the flow, or keep the table's traits."""
    if study.images is not None and images is not None:
        mine = images.filter(pl.col("participant_id").is_in(list(people.flow.ids)))
        known = pl.DataFrame({"participant_id": people.flow.ids, "family_id": [people.family[p] for p in people.flow.ids]})
        root, config = study.images.path.parent, study.images.embedding
        targets = None if study.images.targets is None else read_table(study.images.targets).frame
        embed(mine, root=root, out=folder, config=config, participants=known, targets=targets)
        if config.encoder != "pixels":  # the floor: same pictures, no training, nobody left out
            plain = replace(config, encoder="pixels")
            embed(mine, root=root, out=folder / "floor", config=plain, participants=known, pictures_in=folder)
        with replacing(folder / "owners.parquet") as temporary:
            mine.select("participant_id").write_parquet(temporary)
        return
    assert table is not None
    with replacing(folder / "phenotypes.parquet") as temporary:
        table.frame.write_parquet(temporary, compression="lz4")


def _seen(people: People, folder: Path) -> People:
    """Drop from the flow those none of whose pictures could be read."""
    path = folder / "exclusions.parquet"
    if not path.exists():
        return people
    lost = pl.read_parquet(path).filter(pl.col("reason") == UNREADABLE)["participant_id"].to_list()
    return people._replace(flow=people.flow.drop("pictures", "none of their pictures could be read", lost)) if lost else people


def _taught(folder: Path) -> list[str]:
    """Name the people whom the encoder has seen and who therefore have no phenotype."""
    path = folder / "splits.parquet"
    if not path.exists():
        return []
    return pl.read_parquet(path).filter(pl.col("split") == "encoder")["participant_id"].to_list()


def _sets(raw: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Cut the traits into omnibus sets: one a fold of a cross-fitted embedding (``fold1.dim01``), else all together."""
    names = [c for c in raw.columns if c != "participant_id"]
    folds = sorted({n.split(".")[0] for n in names if n.startswith("fold") and ".dim" in n})
    if folds:
        return {fold: raw.select("participant_id", *(n for n in names if n.startswith(f"{fold}."))) for fold in folds}
    return {"all traits": raw} if len(names) > 1 else {}


def _radial(study: Study) -> bool:
    """Tell whether the omnibus takes people's distances as normal ones: what ranking is to the tests of single traits."""
    return study.gwas.options.radial_omnibus or study.phenotypes.transform == "rank-normal"


def _what_is_scanned(run: _Run, analysed: Analysed) -> dict[str, Any]:
    """Return the arguments of the scan, but for the folder."""
    study = run.study
    return {
        "genotypes": run.genotypes,
        "traits": analysed.traits,
        "covariates": analysed.covariates,
        "trait_covariates": analysed.own,
        "omnibus_sets": _sets(analysed.raw) if study.gwas.omnibus else {},
        "options": replace(study.gwas.options, radial_omnibus=_radial(study)),
        "interaction": analysed.modifier,
        "variants": run.scanned.rows,
    }


def _scan(run: _Run, analysed: Analysed, folder: Path) -> None:
    scanned = _what_is_scanned(run, analysed)
    cells, people = len(run.scanned.rows) * (analysed.traits.width - 1), analysed.traits.height
    text = [export_of(run.genotypes.variants, layout, cells=cells, people=people)[1] for layout in run.study.gwas.export]
    refuse_full_disk(sum(text) + 8 * cells, folder)  # a beta and its error, and the text that comes after hours
    results = associate(**scanned, out=folder)
    summarise(results, tests=analysed.effective_tests, alpha=run.study.loci.clumping.alpha)
    if analysed.modifier is not None:
        save_interactions(results)


def _limits(study: Study, analysed: Analysed, results: Results) -> Any:
    return thresholds(study.loci.clumping.alpha, analysed.effective_tests, has_traits=True, has_omnibus=bool(results.omnibus_sets))


def _loci(run: _Run, analysed: Analysed, results: Results, folder: Path, *, pictures: bool) -> None:
    study, genotypes = run.study, run.genotypes
    genes = read_checked(study.loci.genes, GENES) if study.loci.genes is not None else None
    people = rows_of(genotypes, analysed.flow.ids)
    found = find_loci(
        results,
        genotypes,
        people=people,
        settings=study.loci.clumping,
        genes=genes,
        dimension_threshold=_limits(study, analysed, results).dimension,
    )
    save_loci(found, folder)
    if genes is not None:
        with replacing(folder / "genes.parquet") as temporary:
            genes.write_parquet(temporary)
    if pictures and study.images is not None and study.loci.pictures and found.loci.height:
        shown = found.loci.sort("neg_log_10_p_value", descending=True).head(study.loci.pictures).sort("locus")
        order = genotypes.samples[people].select("participant_id")
        basis = np.zeros((len(people), 0))
        if analysed.covariates is not None:
            basis = order.join(analysed.covariates, on="participant_id", maintain_order="left").drop("participant_id").to_numpy()
        average_pictures(
            shown,
            genotypes,
            _source_rows(results, shown),
            pixels=np.load(run.phenotypes / "pictures.npy", mmap_mode="r"),
            owners=pl.read_parquet(run.phenotypes / "owners.parquet")["participant_id"].to_list(),
            people=people,
            covariates=basis,
            out=folder,
        )
    if study.truth is not None:
        with replacing(folder / "truth.parquet") as temporary:
            _compared(study, found.loci).table.write_parquet(temporary)


def _source_rows(results: Results, loci: pl.DataFrame) -> np.ndarray:
    """Find the leads in the genotype source, by identifier, place and alleles."""
    keys = ["variant_id", "chromosome", "position", "effect_allele", "other_allele"]
    named = results.variants.join(loci.select(keys), on=keys, how="semi", maintain_order="left")
    first = named.unique(keys, keep="first", maintain_order=True).select(*keys, "source_row")
    return loci.join(first, on=keys, how="left", maintain_order="left")["source_row"].to_numpy()


def _compared(study: Study, loci: pl.DataFrame) -> Compared:
    assert study.truth is not None
    return compare(loci, read_checked(study.truth.loci, TRUE_LOCI), distance=study.truth.distance)


def _named_files(study: Study) -> list[Path]:
    """Return the files besides the genotypes that a study names."""
    named = [
        study.phenotypes.path,
        study.images.path if study.images else None,
        study.covariates.path if study.covariates else None,
        study.cohort.keep,
        study.cohort.remove,
        study.genotypes.scanned.extract,
        study.genotypes.scanned.exclude,
        study.genotypes.scanned.intervals,
        study.gwas.condition_list,
        study.loci.genes,
        study.truth.loci if study.truth else None,
    ]
    return [path for path in named if path is not None]


def _export(run: _Run, results: Results, layout: Layout, key: str) -> None:
    """Write the text files of ``layout`` when they are asked for; when not, remove those of another scan."""
    source, name, key = run.study.genotypes.path, f"export-{layout}", fingerprint(key, layout)
    ranked = run.study.phenotypes.transform == "rank-normal"
    note = RANKED if ranked else None
    if layout in run.study.gwas.export:
        run.stages.run(name, key, lambda _: export(results, run.stages.out, layout=layout, source=source, note=note))
    elif run.stages.other(name, key):
        remove_export(run.stages.out, layout)
        shutil.rmtree(run.stages.out / name)


def _summary(run: _Run, found: _Found, floor: _Found | None, table: LoadedTable | None) -> dict[str, Any]:
    study, analysed, results = run.study, found.analysed, found.results
    limits = _limits(study, analysed, results)
    n_covariates = 0 if analysed.covariates is None else analysed.covariates.width - 1
    counted = results.run
    notes = [*run.people.notes, *(table.notes if table else ()), *analysed.notes, *counted["notes"]]
    notes += run.scanned.notes
    notes += [f"{n:,} variants left out by the filter {name}" for name, n in counted["filtered"].items()]
    notes += [f"{n:,} variants have no estimate: {why}" for why, n in counted["not_estimated"].items()]
    notes += [
        f"the omnibus over {name} is left out: {n:,} people have all of its traits, no more than traits and covariates"
        for name, n in counted.get("omnibus_left_out", {}).items()
    ]
    notes += hit_notes(results)
    rows = headline(analysed, counted, found.loci.height, found.truth.line if found.truth else None)
    if floor is not None:
        said = f"{floor.loci.height} loci in {len(floor.analysed.flow.ids):,} people"
        if floor.truth is not None:
            said += f", {floor.truth.found} of {floor.truth.counted} planted, {floor.truth.false} false"
        rows.append(["floor: plain pixels, no training", said])
    return {
        "title": study.study.title,
        "subtitle": study.study.subtitle,
        "kind": "discover" if study.images else "gwas",
        "headline": rows,
        "warnings": inflation_warnings(results, covariates=n_covariates)
        + imbalance_warnings(analysed.raw, maf=study.gwas.options.filters.maf),
        "notes": notes,
        "methods": methods(study, analysed, counted, limits),
        "settings": json.loads(json.dumps(_without_folders(asdict(study)), default=str)),
        "thresholds": {"dimension": limits.dimension, "omnibus": limits.omnibus, "study_wide": limits.study_wide},
        "effective_tests": analysed.effective_tests,
        "n_participants": len(analysed.flow.ids),
        "n_variants": counted["n_variants"],
        "n_traits": results.traits.height,
        "build": run.genotypes.build,
        "truth_line": found.truth.line if found.truth else None,
        "seconds": run.stages.seconds,
    }


def _without_folders(value: Any) -> Any:
    """Keep file names, drop the folders above them (they may name people or projects)."""
    if isinstance(value, dict):
        return {k: (Path(v).name if k == "path" and v is not None else _without_folders(v)) for k, v in value.items()}
    return value.name if isinstance(value, Path) else value
