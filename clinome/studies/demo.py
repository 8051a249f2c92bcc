"""The demonstration: a simulated biobank, the study file that a user would write for it, and the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clinome.core.files import replacing
from clinome.simulate.biobank import simulate_biobank
from clinome.studies.discover import run_study
from clinome.studies.study_file import read_study

STUDY = """\
# From photographs to loci: the study of `clinome demo`. docs/reference/study_file.md describes every key.
[study]
title = "Fundus photographs to loci"
subtitle = "a simulated biobank of {participants:,} people whose truth is known"
seed = {seed}

[genotypes]
path = "genotypes.bed"

[covariates]
path = "covariates.tsv"
columns = ["age", "sex", "centre"]

[cohort]
kinship = 0.0884               # second-degree relatives and closer: one of two is kept
principal_components = 6

[images]
path = "images.parquet"
encoder = "simclr"
training = "outside"           # people who teach the encoder are left out of the association
outside_fraction = 0.3
dimensions = 16

[phenotypes]
transform = "rank-normal"

[gwas]
maf = 0.01

[loci]
alpha = 5e-8
radius = 1000000
merge = 500000
genes = "genes.tsv"

[truth]
loci = "true_loci.parquet"
"""


def write_study(biobank: Path, *, participants: int, seed: int) -> Path:
    """Write the study file of a simulated biobank into its folder and return its path."""
    path = biobank / "study.toml"
    with replacing(path) as temporary:
        temporary.write_text(STUDY.format(participants=participants, seed=seed), encoding="utf-8")
    return path


def run_demo(out: str | Path, *, participants: int = 4_000, variants: int = 30_000, seed: int = 1) -> dict[str, Any]:
    """Simulate a biobank with its study file into ``out/biobank`` and run it into ``out/study``; return the summary."""
    biobank = Path(out) / "biobank"
    simulate_biobank(biobank, participants=participants, variants=variants, seed=seed)
    return run_study(read_study(write_study(biobank, participants=participants, seed=seed)), Path(out) / "study")
