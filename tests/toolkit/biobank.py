"""A tiny study on disk: genotypes with planted effects, traits, covariates; files as a user has them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from toolkit.genotypes import array_genotypes, random_counts

from clinome.formats.plink import write_plink

CAUSAL = 40  # the row of the variant that drives trait 'height'


class Files(NamedTuple):
    """Paths of a tiny study, and the counts of its genotypes."""

    genotypes: Path
    traits: Path
    covariates: Path
    counts: np.ndarray


def write_files(folder: Path, *, n: int = 300, variants: int = 120, seed: int = 1) -> Files:
    """Write genotypes (two chromosomes), two traits of which one has a causal variant, and three covariates."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    counts = random_counts(generator, variants, n, missing=0.01, maf=(0.2, 0.5))
    half = variants // 2
    source = array_genotypes(
        counts,
        chromosomes=["1"] * half + ["2"] * (variants - half),
        positions=np.tile(np.arange(1, half + 1) * 1_000_000, 2)[:variants],
    )
    samples = source.samples.with_columns(pl.Series("participant_id", [f"person{i:04d}" for i in range(n)]))
    write_plink(folder / "cohort.bed", samples=samples, variants=source.variants, blocks=[counts])
    ids = samples["participant_id"]
    age, sex = generator.uniform(40, 70, n), generator.integers(0, 2, n)
    height = 0.7 * np.maximum(counts[CAUSAL], 0) + 0.05 * age + 0.5 * sex + generator.normal(size=n)
    weight = generator.normal(size=n) + 0.02 * (age - 55) ** 2
    traits = pl.DataFrame({"IID": ids, "height": height, "weight": weight})
    traits = traits.with_columns(pl.when(pl.int_range(n) % 17 == 3).then(None).otherwise("weight").alias("weight"))
    traits.write_csv(folder / "traits.tsv", separator="\t", null_value="NA")
    centre = pl.Series(["north", "south", "east"])[generator.integers(0, 3, n)]
    covariates = pl.DataFrame({"IID": ids, "age": age, "sex": sex, "centre": centre})
    covariates.write_csv(folder / "covariates.tsv", separator="\t")
    return Files(folder / "cohort.bed", folder / "traits.tsv", folder / "covariates.tsv", counts)
