"""Average pictures of a genotype: each person weighs the same, and few people are never shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from toolkit.genotypes import array_genotypes

from clinome.formats.picture import read_picture
from clinome.studies.genotype_pictures import average_pictures

COPIES = np.array([0] * 8 + [1] * 7 + [2] * 6, dtype=np.int8)


def drawn(out: Path, copies: np.ndarray, grey: np.ndarray, *, pictures_of_first: int = 1) -> pl.DataFrame:
    """Give every person one picture of one grey, the first person several."""
    genotypes = array_genotypes(copies[None])
    ids = genotypes.samples["participant_id"].to_list()
    owners = [ids[0]] * (pictures_of_first - 1) + ids
    pixels = np.repeat(np.concatenate([np.full(pictures_of_first - 1, grey[0]), grey]).astype(np.uint8), 4 * 4 * 3)
    loci = pl.DataFrame({"locus": [1], "variant_id": ["v0"], "effect_allele": ["A"], "other_allele": ["G"]})
    return average_pictures(
        loci,
        genotypes,
        np.array([0]),
        pixels=pixels.reshape(-1, 4, 4, 3),
        owners=owners,
        people=np.arange(len(ids)),
        covariates=np.zeros((len(ids), 0)),
        out=out,
    )


def test_a_mean_is_over_people_however_many_pictures_each_has(tmp_path: Path) -> None:
    grey = np.where(COPIES == 0, 100, np.where(COPIES == 1, 120, 140))
    grey[0] = 180  # one of eight, with five pictures
    table = drawn(tmp_path, COPIES, grey, pictures_of_first=5)
    assert table["genotype"].to_list() == ["G/G", "A/G", "A/A", ""]
    assert table["n"].to_list() == [8, 7, 6, 14]
    means = [int(read_picture(tmp_path / name)[0, 0, 0]) for name in table["path"][:3]]
    assert means == [110, 120, 140]


def test_fewer_than_five_people_are_counted_and_not_written(tmp_path: Path) -> None:
    table = drawn(tmp_path, COPIES[:-2], np.full(len(COPIES) - 2, 90))
    assert table["n"].to_list() == [8, 7, 4, 12]
    assert [name is None for name in table["path"]] == [False, False, True, True]  # the difference would show them too
    assert sorted(p.name for p in tmp_path.glob("*.png")) == sorted(table["path"].drop_nulls())
