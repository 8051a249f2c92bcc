"""Who is in a study: people linked over genotypes, covariates and traits or pictures, lists applied, relatives found."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.covariates import Design, design
from clinome.cohort.flow import Flow, Step
from clinome.cohort.linkage import guess_mismatch, link
from clinome.cohort.pruning import independent_variants
from clinome.cohort.relatedness import related_pairs
from clinome.cohort.splits import families
from clinome.core.errors import CohortError
from clinome.core.files import replacing, write_json
from clinome.core.progress import say
from clinome.formats.genotypes import Genotypes
from clinome.formats.table import LoadedTable, read_id_list, read_table
from clinome.studies.study_file import CovariateTable, Study

_LARGEST_FAMILY = 50  # a PLINK family id that more people share is a batch or a population, not a family
_KINSHIP_VARIANTS = 30_000  # enough for second-degree relatives; time grows with people² × variants
_ENOUGH_PEOPLE = 10_000  # for linkage disequilibrium between common variants
_FEWEST_VARIANTS = 2_000  # kinship from M variants has a standard deviation of about 1/√(2M): 0.016, far below second degree


class People(NamedTuple):
    """Who can be analysed: the flow so far, a family key for each of its people, related pairs, and notes for the log.

    ``related`` is None where relatives were not looked for.
    """

    flow: Flow
    family: dict[str, str]
    related: pl.DataFrame | None
    notes: tuple[str, ...]


def read_covariates(about: CovariateTable | None) -> LoadedTable | None:
    """Read the covariate table of a study, family ids left out."""
    if about is None:
        return None
    loaded = read_table(about.path, missing=about.missing, id_column=about.id_column, columns=about.columns or None)
    return LoadedTable(loaded.frame.drop("family_id", strict=False), loaded.notes)


def gather(study: Study, genotypes: Genotypes, trait_ids: list[str], covariates: LoadedTable | None) -> People:
    """Link the sources of ``study``, apply its lists, and find relatives.

    ``trait_ids`` are the people with a trait or a picture. The flow starts with everybody who is genotyped.
    """
    genotyped = genotypes.samples["participant_id"].to_list()
    sources = {"genotypes": genotyped, "pictures" if study.images else "phenotypes": trait_ids}
    if covariates is not None:
        sources["covariates"] = covariates.frame["participant_id"].to_list()
    _refuse_family_ids(genotypes, sources)
    linkage = link(sources)
    notes = [
        f"{row['unmatched']:,} of {row['people']:,} people in the {row['source']} are not in all sources"
        for row in linkage.sources.iter_rows(named=True)
        if row["unmatched"]
    ]
    notes += [linkage.guess] if linkage.guess else []
    if linkage.difference:
        say(f"few people are in all sources: {linkage.difference}")
    flow = Flow.start(genotyped, stage="genotypes", reason="everybody with genotypes")
    if study.cohort.keep is not None:
        kept = read_id_list(study.cohort.keep)
        if not set(kept) & set(genotyped):
            link({"genotypes": genotyped, "keep list": kept})  # says how the two differ
        notes += _strangers(kept, genotyped, "keep list")
        flow = flow.keep_only("lists", "not in the keep list", kept)
    if study.cohort.remove is not None:
        removed = read_id_list(study.cohort.remove)
        notes += _strangers(removed, genotyped, "remove list")
        flow = flow.drop("lists", "in the remove list", removed)
    flow = flow.keep_only("linkage", "no picture" if study.images else "no phenotypes", trait_ids)
    if covariates is not None:
        flow = flow.keep_only("linkage", "no covariates", sources["covariates"])
        made = design(covariates.frame, categorical=study.covariates.categorical if study.covariates else ())
        incomplete = covariates.frame.filter(pl.Series(~made.complete))["participant_id"].to_list()
        before = len(flow.ids)
        flow = flow.drop("covariates", "a covariate is missing", incomplete)
        if len(flow.ids) < before:
            notes.append(f"{before - len(flow.ids):,} people lack a covariate and are left out")
    flow.require(3)
    family, said = _families(genotypes, flow.ids)
    pairs = None
    if study.cohort.kinship is not None:
        rows = _thinned(genotypes)
        if len(rows) < _FEWEST_VARIANTS:
            said.append(
                f"relatives were not looked for: only {len(rows):,} independent common variants, at least {_FEWEST_VARIANTS:,} "
                "are needed to tell relatives from chance; families are those of the family ids"
            )
        else:
            pairs = related_pairs(genotypes, cutoff=study.cohort.kinship, variants=rows, samples=rows_of(genotypes, flow.ids))
            linked = zip(pairs["participant_id_1"], pairs["participant_id_2"], strict=True)
            family = dict(zip(flow.ids, families(list(flow.ids), [family[p] for p in flow.ids], linked), strict=True))
    return People(flow, family, pairs, (*genotypes.notes, *notes, *said))


def _refuse_family_ids(genotypes: Genotypes, sources: dict[str, list[str]]) -> None:
    """Refuse a source that names nobody by IID and most people by FID."""
    ids, by_family = (set(genotypes.samples[name].drop_nulls()) for name in ("participant_id", "family_id"))
    for name, people in sources.items():
        n = len(by_family & set(people))
        if not ids & set(people) and n > len(set(people)) / 2:
            raise CohortError(
                f"the {name} name people by their families (FID)",
                got=f"{n:,} of {len(set(people)):,} are family ids of the genotypes, none a person's",
                expected="the id of the person (IID)",
                do=f"write the IID into the column that names people in the {name}, or let id_column name the one that holds it",
            )


def _strangers(listed: list[str], genotyped: list[str], name: str) -> list[str]:
    """Say how many of a list are not genotyped and, where nobody is, a guess why: who withdrew must not stay for a prefix."""
    n = len(set(listed) - set(genotyped))
    if not n:
        return []
    guess = guess_mismatch(set(genotyped), set(listed), names=("genotypes", name), examples=False) if n == len(listed) else None
    return [f"{n:,} of {len(listed):,} people in the {name} are not in the genotypes" + (f": {guess}" if guess else "")]


def _families(genotypes: Genotypes, ids: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """Return a family key for each person: the FID, unless it is shared by too many to be a family."""
    stated = dict(zip(genotypes.samples["participant_id"], genotypes.samples["family_id"], strict=True))
    sizes = Counter(stated[p] for p in ids)
    large = {f for f, n in sizes.items() if f is not None and n > _LARGEST_FAMILY}
    notes = (
        [f"{len(large)} family ids are shared by more than {_LARGEST_FAMILY} people and are not taken for families"]
        if large
        else []
    )
    own = [None if stated[p] in large else stated[p] for p in ids]
    return dict(zip(ids, families(list(ids), own), strict=True)), notes


def _thinned(genotypes: Genotypes) -> NDArray[np.int64]:
    """Return evenly spread independent variants for kinship."""
    rows = independent_variants(genotypes, maf=0.05, samples=some_of(np.arange(genotypes.samples.height))).variants
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _KINSHIP_VARIANTS)).astype(np.int64))] if len(rows) else rows


def some_of(people: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return at most 10,000 of ``people``, evenly spread: enough to prune variants by, in a biobank of any size."""
    return people[np.unique(np.linspace(0, len(people) - 1, min(len(people), _ENOUGH_PEOPLE)).astype(np.int64))]


def rows_of(genotypes: Genotypes, ids: tuple[str, ...] | list[str]) -> NDArray[np.int64]:
    """Return the rows of ``genotypes.samples`` of ``ids``, in file order."""
    return genotypes.samples["participant_id"].is_in(list(ids)).arg_true().to_numpy().astype(np.int64)


def covariate_frame(made: Design, ids: pl.Series) -> pl.DataFrame:
    """Lay a design out as a table of its complete people."""
    frame = pl.DataFrame(made.matrix, schema=list(made.names), orient="row") if made.names else pl.DataFrame()
    return pl.concat([ids.to_frame(), frame], how="horizontal").filter(pl.Series(made.complete))


def save_flow(flow: Flow, path: Path) -> None:
    """Write a flow so that a later stage goes on with it."""
    write_json(path, {"ids": flow.ids, "steps": [[s.stage, s.reason, list(s.dropped)] for s in flow.steps]})


def load_flow(path: Path) -> Flow:
    """Read a flow that :func:`save_flow` wrote."""
    said = json.loads(path.read_text())
    return Flow(tuple(said["ids"]), tuple(Step(stage, reason, tuple(dropped)) for stage, reason, dropped in said["steps"]))


def save_people(people: People, folder: Path) -> None:
    """Write the cohort stage's tables."""
    save_flow(people.flow, folder / "flow.json")
    write_json(folder / "notes.json", list(people.notes))
    frame = pl.DataFrame({"participant_id": people.flow.ids, "family_id": [people.family[p] for p in people.flow.ids]})
    for name, table in (("people", frame), ("related", people.related)):
        if table is not None:
            with replacing(folder / f"{name}.parquet") as temporary:
                table.write_parquet(temporary)


def load_people(folder: Path) -> People:
    """Read what :func:`save_people` wrote."""
    frame = pl.read_parquet(folder / "people.parquet")
    return People(
        load_flow(folder / "flow.json"),
        dict(frame.iter_rows()),
        pl.read_parquet(folder / "related.parquet") if (folder / "related.parquet").exists() else None,
        tuple(json.loads((folder / "notes.json").read_text())),
    )
