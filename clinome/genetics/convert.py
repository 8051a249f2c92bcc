"""Genotypes to .bed or .pgen, summary statistics to another layout: the same content in a file of another kind.

What is read is never changed; a file appears under its name when it is whole.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, StudyError
from clinome.formats.genotype_files import convert_genotypes, open_genotypes
from clinome.formats.gwas_ssf import Metadata
from clinome.formats.sumstats import Layout, read_sumstats, write_sumstats
from clinome.formats.table import existing, read_id_list
from clinome.genetics.export import RANKED, WHOLE, Part, export, metadata_of
from clinome.genetics.results import Results

_OF_FILES = (".tsv", ".csv", ".txt", ".gz")
_BESIDE = {".bed": (".bim", ".fam"), ".pgen": (".pvar", ".psam")}


class Written(NamedTuple):
    """How many variants and people a genotype file got, and what there is to say about it."""

    n_variants: int
    n_people: int
    notes: tuple[str, ...]


def genotype_file(
    source: str | Path,
    out: str | Path,
    *,
    keep: str | Path | None = None,
    extract: str | Path | None = None,
    sample_file: str | Path | None = None,
    build: str | None = None,
) -> Written:
    """Write genotypes of any format that can be read as a .bed or a .pgen with the two files beside it.

    Parameters
    ----------
    source
        A file, or a pattern with ``*`` over chromosomes, which become one file.
    out
        The new .bed (hard calls) or .pgen (hard calls or dosages).
    keep
        List of people to keep (IID, or FID IID); they stay in the order of ``source``.
    extract
        List of the ids of variants to keep, one a line.

    Raises
    ------
    StudyError
        When ``out`` is one of the files that are read, has another suffix, or dosages are to become a .bed.
    CohortError
        When nobody of ``keep`` is in the file.
    """
    out = Path(out)
    with closing(open_genotypes(source, build=build, sample_file=sample_file)) as genotypes:
        made = [out, *(out.with_suffix(suffix) for suffix in _BESIDE.get(out.suffix, ()))]
        _refuse_same(made, genotypes.paths)
        notes: list[str] = list(genotypes.notes)
        people = variants = None
        if keep is not None:
            wanted = read_id_list(keep)
            people = _rows(genotypes.samples["participant_id"], wanted, where=keep, what="people", notes=notes)
        if extract is not None:
            wanted = existing(extract).read_text(encoding="utf-8").split()
            variants = _rows(genotypes.variants["variant_id"], wanted, where=extract, what="variants", notes=notes)
        convert_genotypes(genotypes, out, variants=variants, samples=people)
        n_variants = genotypes.variants.height if variants is None else len(variants)
        return Written(n_variants, genotypes.samples.height if people is None else len(people), tuple(notes))


def statistics_file(source: str | Path, out: str | Path, *, layout: Layout, trait: str | None = None) -> int:
    """Write a file of summary statistics (GWAS-SSF, REGENIE or PLINK 2) in another layout; return the number of variants.

    ``trait`` names it (by default the file's name does); it goes into the metadata of GWAS-SSF. What a layout cannot hold is
    left out: PLINK 2 has no INFO.
    """
    source, out = existing(source), Path(out)
    _refuse_same([out], [source])
    frame = read_sumstats(source, trait=trait)
    about = Metadata(trait_description=frame["trait"][0] if frame.height else trait)
    write_sumstats(out, [frame], layout=layout, metadata=about)
    return frame.height


def result_files(folder: str | Path, out: str | Path, *, layout: Layout, part: Part = WHOLE) -> list[Path]:
    """Write ``part`` of the summary statistics of a finished scan: one trait to the file ``out``, several into the folder ``out``.

    ``folder`` is what `clinome run` or `clinome gwas` wrote to. With several traits the table ``traits.tsv`` says which file is
    whose. A trait may also be 'omnibus' (no beta).

    Raises
    ------
    StudyError
        When the folder holds no finished scan, or the scan no such trait.
    """
    folder, out = Path(folder), Path(out)
    results, (source, note) = Results(folder), _said_of(folder)
    known = results.traits["trait"].to_list()
    for trait in part.traits:
        if trait not in known and trait.split(":")[0] != "omnibus":
            near = difflib.get_close_matches(trait, known, 3) or known[:8]
            raise StudyError("the scan has no such trait", where=folder, got=repr(trait), expected=", ".join(near))
    if len(part.traits) != 1:
        if out.suffix in _OF_FILES and not out.is_dir():
            raise StudyError(
                "several traits are written into a folder, a file each, and this is the name of a file",
                where=out,
                do="name a folder, or one trait with --trait",
            )
        return [out / file for file in export(results, out, layout=layout, source=source, note=note, part=part)["file"]]
    (trait,) = part.traits
    if out.is_dir():
        raise StudyError("one trait is written to a file, not into a folder", where=out, do="name a file, e.g. trait.tsv.gz")
    about = metadata_of(results, trait, source=source, note=note)
    return [write_sumstats(out, part.frames(results, trait), layout=layout, metadata=about)]


def _said_of(folder: Path) -> tuple[str, str | None]:
    """Return the name of a study's genotype file ('' where the folder does not say) and the note on the unit of its traits."""
    try:
        said = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        ranked = said["settings"]["phenotypes"]["transform"] == "rank-normal"
        return str(said["settings"]["genotypes"]["path"]), RANKED if ranked else None
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return "", None


def _refuse_same(made: Sequence[Path], read: Sequence[Path]) -> None:
    """Raise when a file would be written over what it is made from."""
    same = [path for path in made if path.exists() and any(path.samefile(other) for other in read)]
    if same:
        raise StudyError(
            "the result would be written over what it is made from", where=same[0], do="choose another name with --out"
        )


def _rows(ids: pl.Series, wanted: list[str], *, where: str | Path, what: str, notes: list[str]) -> NDArray[np.int64]:
    """Return the rows of ``ids`` that are ``wanted``, ascending; note how many of the list are not there."""
    rows = ids.is_in(list(set(wanted))).arg_true().to_numpy().astype(np.int64)
    if not len(rows):
        got = f"{len(set(wanted)):,} ids, e.g. {wanted[0]!r}" if wanted else "an empty list"
        raise CohortError(
            f"none of the {what} of the list is in the genotypes", where=where, got=got, expected=f"ids like {ids[0]!r}"
        )
    absent = len(set(wanted) - set(ids))
    if absent:
        notes.append(f"{absent:,} of the {len(set(wanted)):,} {what} of {Path(where).name} are not in the genotypes")
    return rows
