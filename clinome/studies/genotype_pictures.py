"""What a locus looks like: the average picture of the people of each genotype at its lead variant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import replacing
from clinome.core.schema import GENOTYPE_PICTURES, check
from clinome.explain.traversal import weighted_means
from clinome.formats.genotypes import Genotypes
from clinome.formats.picture import write_picture
from clinome.report.loci import FEWEST
from clinome.stats.residuals import prepare, span

_STRETCH = 100.0  # grey levels that the largest difference is stretched to


def average_pictures(
    loci: pl.DataFrame,
    genotypes: Genotypes,
    variant_rows: NDArray[np.int64],
    *,
    pixels: NDArray[np.uint8],
    owners: list[str],
    people: NDArray[np.int64],
    covariates: NDArray[np.float64],
    out: Path,
) -> pl.DataFrame:
    """Average the pictures of each genotype at each lead and write them as PNG; return GENOTYPE_PICTURES.

    Every person weighs the same however many pictures they have. The difference of the two homozygotes is twice the
    regression coefficient of each pixel on the copies, with ``covariates`` projected out (so that cameras and strata that go
    with a genotype do not show), drawn around mid-grey and stretched so that its largest value is 100 grey levels. An average of
    fewer than ``FEWEST`` people would show people rather than a genotype: it is counted and not written.

    Parameters
    ----------
    loci
        Rows of LOCI to draw; ``variant_rows`` (n_loci,) are their leads in ``genotypes.variants``.
    pixels
        All decoded pictures, shape (n_pictures, height, width, 3), uint8 (mapped from disk); ``owners`` names the person in
        each.
    people
        Rows of ``genotypes.samples`` who were analysed; ``covariates`` (n_people, n_columns) are theirs.
    """
    ids = genotypes.samples["participant_id"].gather(people).to_list()
    column = {person: i for i, person in enumerate(ids)}
    of = np.array([column.get(owner, -1) for owner in owners])
    seen = np.bincount(of[of >= 0], minlength=len(ids)) > 0
    weights, members = [], []
    for row in variant_rows:
        block = genotypes.read(np.array([row]), people)
        copies = np.where(block.counts[0] < 0, np.nan, block.counts[0] / block.scale)
        for k in range(3):
            chosen = seen & (np.rint(copies) == k)
            members.append(int(chosen.sum()))
            weights.append(chosen / max(members[-1], 1))
        (group,) = prepare(np.where(seen, copies, np.nan)[:, None], span(covariates)).groups
        weights.append(2 * group.residuals[:, 0] / max(float(group.sum_of_squares[0]), 1e-9))
    means = weighted_means(np.array(weights), of, pixels)
    rows = []
    for i, locus in enumerate(loci.iter_rows(named=True)):
        effect, other = locus["effect_allele"], locus["other_allele"]
        named = {0: f"{other}/{other}", 1: f"{effect}/{other}", 2: f"{effect}/{effect}"}
        for k in range(3):
            if members[3 * i + k]:
                shown = means[4 * i + k] if members[3 * i + k] >= FEWEST else None
                rows.append(_save(out, locus, "mean", named[k], k, members[3 * i + k], shown))
        if members[3 * i] and members[3 * i + 2]:
            difference = means[4 * i + 3]
            stretched = 128 + difference * (_STRETCH / max(float(np.abs(difference).max()), 1e-9))
            few = min(members[3 * i], members[3 * i + 2]) < FEWEST
            rows.append(_save(out, locus, "difference", "", None, members[3 * i] + members[3 * i + 2], None if few else stretched))
    schema = {c.name: c.dtype for c in GENOTYPE_PICTURES.columns}
    table = check(pl.DataFrame(rows, schema=schema, orient="row"), GENOTYPE_PICTURES)
    with replacing(out / "genotype_pictures.parquet") as temporary:
        table.write_parquet(temporary)
    return table


def _save(
    out: Path, locus: dict[str, object], kind: str, genotype: str, copies: int | None, n: int, pixels: NDArray[np.float64] | None
) -> tuple[object, ...]:
    """Write a picture and return its row; None is not written."""
    name = None if pixels is None else f"locus{locus['locus']:03d}_{'difference' if copies is None else copies}.png"
    if pixels is not None and name is not None:
        write_picture(out / name, np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return (locus["locus"], locus["variant_id"], kind, genotype, copies, n, name)
