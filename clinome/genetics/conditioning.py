"""Conditioning on variants: their counts as covariates, so that a scan shows what is left beside known signals.

A person without a call at a conditioning variant either takes the mean of the others, as the scan's own missing genotypes do, or
is left out of the whole analysis, as PLINK 2's --condition does. A variant that does not vary among the people analysed, or
repeats another one, is left out with a sentence. A conditioning variant itself is collinear with the covariates in the scan,
and so has no estimate there.

Reference: Yang et al. 2012 (conditional analysis), doi:10.1038/ng.2213.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.covariates import design
from clinome.core.errors import CohortError
from clinome.formats.genotypes import Genotypes
from clinome.genetics.selection import rows_of_ids
from clinome.stats.linear import Missing


class Conditioned(NamedTuple):
    """What to condition on.

    ``covariates``: ``participant_id`` and a float column for each variant, named by its id and effect allele (``rs123_A``), of the
    people who are analysed, without missing values. ``left_out`` are the people who lack a genotype; ``notes`` go to the log.
    """

    covariates: pl.DataFrame
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def condition_on(
    genotypes: Genotypes,
    ids: Sequence[str],
    *,
    people: NDArray[np.int64],
    where: str | Path,
    missing: Missing = "mean",
    taken: Sequence[str] = (),
) -> Conditioned:
    """Read the counts of the variants named ``ids`` as covariates of ``people`` (rows of the samples).

    Parameters
    ----------
    where
        Where the ids were named, for errors and notes.
    missing
        'mean': a missing genotype takes the mean of the people who have one; 'drop': a person who lacks one is left out.
    taken
        Names that columns must not have: those of other covariates.

    Raises
    ------
    StudyError
        When no id names a variant.
    CohortError
        When everybody would be left out.
    """
    found = rows_of_ids(genotypes.variants, ids, where=where)
    block = genotypes.read(found.rows, people)
    copies = np.where(block.counts < 0, np.nan, block.counts / block.scale)
    named = _names(genotypes.variants[found.rows], taken)
    gaps = np.isnan(copies)
    notes = list(found.notes)
    who = genotypes.samples["participant_id"].gather(people)
    stays: NDArray[np.bool_] = np.ones(len(people), dtype=np.bool_)
    if missing == "drop":
        stays = np.logical_not(gaps.any(axis=0))
        if not stays.any():
            raise CohortError("nobody has a genotype at all variants conditioned on", where=where, got=f"{len(people):,} people")
    elif gaps.any():
        some = "; ".join(f"{name} {int(n):,}" for name, n in zip(named, gaps.sum(axis=1), strict=True) if n)
        notes.append(f"missing genotypes of variants that are conditioned on take the mean of the other people ({some})")
        observed = np.maximum((~gaps).sum(axis=1), 1)
        copies = np.where(gaps, (np.nansum(copies, axis=1) / observed)[:, None], copies)
    columns = dict(zip(named, copies[:, stays], strict=True))
    made = design(pl.DataFrame({"participant_id": who.filter(pl.Series(stays)), **columns}))
    covariates = pl.DataFrame({"participant_id": who.filter(pl.Series(stays))})
    covariates = covariates.hstack([pl.Series(name, made.matrix[:, j]) for j, name in enumerate(made.names)])
    return Conditioned(covariates, tuple(who.filter(pl.Series(~stays))), (*notes, *made.notes))


def _names(variants: pl.DataFrame, taken: Sequence[str]) -> list[str]:
    """Name a column for each variant, rs123_A, with a number behind a name that is there already."""
    names: list[str] = []
    for variant, allele in variants.select("variant_id", "effect_allele").iter_rows():
        name = plain = f"{variant}_{allele}"
        number = 1
        while name in names or name in taken:
            number += 1
            name = f"{plain}.{number}"
        names.append(name)
    return names
