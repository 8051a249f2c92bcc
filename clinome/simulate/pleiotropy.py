"""A cohort in which a hundred variants act on all of the anatomy at once: the synthetic protocol of transferGWAS.

    counts (n × causal) ──W──→ heritable part of every latent ── + environment ──→ latents ──photographed──→ both eyes

Each causal variant has a normal weight on each of the six latents of :mod:`clinome.simulate.anatomy`; the heritable parts make up
``heritability`` of each latent's variance. Null variants are drawn independently of everything. In transferGWAS the latents are
the 512 inputs of a generative network trained on photographs; here they are the anatomy that the renderer draws, and a variant
explains about ``heritability / n_causal`` of the variance of each.

    DIR/genotypes.bed .bim .fam   chromosome 1 holds the causal variants, chromosome 2 the null ones
        images.parquet, images/   core.schema.IMAGES; both eyes, one visit
        true_loci.parquet         core.schema.TRUE_LOCI, a row a causal variant × latent
        true_latents.parquet      participant_id and the six latents, in standard deviations
        cohort.json               the arguments; written last

References
----------
Kirchler M et al. transferGWAS: GWAS of images using deep transfer learning. Bioinformatics 38:3621–3628 (2022),
doi:10.1093/bioinformatics/btac369, section 2.4 and its published code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import OutputError, StudyError
from clinome.core.files import usable_folder, write_json
from clinome.core.schema import IMAGES, TRUE_LOCI, check
from clinome.core.shards import map_shards
from clinome.formats.picture import write_picture
from clinome.formats.plink import write_plink
from clinome.formats.table import write_table
from clinome.simulate.anatomy import LATENTS, photographed
from clinome.simulate.fundus import SCANNERS, render_fundus
from clinome.simulate.loci import true_loci

_PEOPLE_A_SHARD = 64
_APART = 1_000_000  # base pairs between variants: they are not in linkage
_EYES = ("left", "right")


@dataclass(frozen=True)
class Cohort:
    """Everything that a cohort follows from; ``size`` is the side of the photographs in pixels."""

    participants: int = 5_000
    causal: int = 100
    null: int = 10_000
    heritability: float = 0.5
    size: int = 88
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in (("participants", 40), ("causal", 1), ("null", 1), ("size", 32), ("seed", 0)):
            if getattr(self, name) < least:
                raise StudyError(f"{name} is out of range", got=getattr(self, name), expected=f"at least {least}")
        if not 0 <= self.heritability < 1:
            raise StudyError("heritability is out of range", got=self.heritability, expected="a share from 0 to below 1")


class Files(NamedTuple):
    """Where the cohort's files are."""

    folder: Path
    genotypes: Path
    images: Path
    true_loci: Path
    true_latents: Path


def simulate_cohort(out: str | Path, cohort: Cohort, *, processes: int = 1) -> Files:
    """Write ``cohort`` into ``out``, or find it there; a killed run goes on where it was.

    Raises
    ------
    OutputError
        When ``out`` cannot be written or holds another cohort.
    """
    folder = usable_folder(out)
    names = ("genotypes.bed", "images.parquet", "true_loci.parquet", "true_latents.parquet")
    files, done = Files(folder, *(folder / name for name in names)), folder / "cohort.json"
    begun = folder / "begun.json"
    for manifest in (done, begun):
        if manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")) != asdict(cohort):
            raise OutputError("the folder holds another cohort", where=folder, do="choose another folder")
    if done.exists():
        return files
    write_json(begun, asdict(cohort))

    people = [f"P{k:06d}" for k in range(cohort.participants)]
    variants = _variants(cohort)
    causal = _counts(cohort, 0, cohort.causal)
    samples = pl.DataFrame({"participant_id": people, "sex": _sexes(cohort)})
    blocks = (_counts(cohort, start, stop) for start, stop in _pieces(cohort))
    write_plink(files.genotypes, samples=samples, variants=variants, blocks=blocks)
    latents, weights = _latents(cohort, causal)
    write_table(check(_truth(variants, weights, cohort), TRUE_LOCI), files.true_loci)
    write_table(pl.DataFrame({"participant_id": people} | dict(zip(LATENTS, latents.T, strict=True))), files.true_latents)
    shards = [range(start, min(start + _PEOPLE_A_SHARD, len(people))) for start in range(0, len(people), _PEOPLE_A_SHARD)]
    taken = map_shards(partial(_photograph, folder, cohort, latents), shards, processes=processes, title="photographs")
    write_table(check(pl.concat(list(taken)), IMAGES), files.images)
    write_json(done, asdict(cohort))
    begun.unlink()
    return files


def _pieces(cohort: Cohort, step: int = 1_000) -> list[tuple[int, int]]:
    """Cut the variants into blocks, the causal ones first."""
    total = cohort.causal + cohort.null
    ends = [0, cohort.causal, *range(cohort.causal + step, total, step), total]
    return [(start, stop) for start, stop in pairwise(ends) if stop > start]


def _counts(cohort: Cohort, start: int, stop: int) -> NDArray[np.int8]:
    """Draw the counts of some variants in Hardy–Weinberg equilibrium, frequencies 0.05–0.5: (stop − start, n_participants)."""
    generator = np.random.default_rng([cohort.seed, 1, start])
    frequency = generator.uniform(0.05, 0.5, stop - start)
    return generator.binomial(2, frequency[:, None], (stop - start, cohort.participants)).astype(np.int8)


def _variants(cohort: Cohort) -> pl.DataFrame:
    rows = [(f"causal{k}", "1", (k + 1) * _APART) for k in range(cohort.causal)]
    rows += [(f"null{k}", "2", (k + 1) * 10_000) for k in range(cohort.null)]
    table = pl.DataFrame(rows, schema=["variant_id", "chromosome", "position"], orient="row")
    return table.with_columns(effect_allele=pl.lit("A"), other_allele=pl.lit("G"))


def _sexes(cohort: Cohort) -> list[str]:
    male = np.random.default_rng([cohort.seed, 2]).random(cohort.participants) < 0.5
    return ["male" if one else "female" for one in male]


def _latents(cohort: Cohort, causal: NDArray[np.int8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the latents (n, 6), and the effect of a standardised causal variant on each, (n_causal, 6)."""
    generator = np.random.default_rng([cohort.seed, 3])
    counts = causal.astype(np.float64)
    deviation = counts.std(axis=1, keepdims=True)
    standard = (counts - counts.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    weights = generator.standard_normal((cohort.causal, len(LATENTS)))
    heritable = standard.T @ weights  # (n, 6)
    effects = np.sqrt(cohort.heritability) * weights / heritable.std(axis=0)
    environment = generator.standard_normal((cohort.participants, len(LATENTS)))
    return standard.T @ effects + np.sqrt(1 - cohort.heritability) * environment, effects


def _truth(variants: pl.DataFrame, effects: NDArray[np.float64], cohort: Cohort) -> pl.DataFrame:
    rows = []
    for k, (variant, chromosome, position) in enumerate(variants.head(cohort.causal).select(variants.columns[:3]).iter_rows()):
        for j, latent in enumerate(LATENTS):
            rows.append((variant, chromosome, position, "A" if effects[k, j] > 0 else "G", latent, float(effects[k, j] ** 2), True))
    return true_loci(rows)


def _photograph(folder: Path, cohort: Cohort, latents: NDArray[np.float64], people: range) -> pl.DataFrame:
    """Take and write both eyes of some people at one visit, unless they are there; return their rows of the images table."""
    generator = np.random.default_rng([cohort.seed, 4, people.start])
    number = people.start // _PEOPLE_A_SHARD
    rows, paths = [], []
    eyes = photographed(latents[people], np.zeros(len(people), np.int64), generator)
    first = np.arange(len(eyes)) % 2 == 0  # of the two visits of each eye
    for person in people:
        for side in _EYES:
            path = f"images/{number:04d}/P{person:06d}_{side}.png"
            rows.append((f"P{person:06d}_{side}", f"P{person:06d}", path, side, 0, "fundus photograph"))
            paths.append(folder / path)
    scanner = [SCANNERS[k] for k in eyes.scanner[first]]
    if not all(file.exists() for file in paths):
        pictures = render_fundus(eyes, size=cohort.size, generator=generator)[first]
        for file, picture in zip(paths, pictures, strict=True):
            write_picture(file, picture)
    names = ["image_id", "participant_id", "path", "laterality", "visit", "modality"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(scanner=pl.Series(scanner))
