"""Type I error of the scan under population structure: single traits, the omnibus, and the strongest of correlated traits.

    .venv/bin/python benchmarks/type_one_error.py --replicates 40 --work /tmp/type_one_error

Three populations have drifted apart (Balding & Nichols 1995, doi:10.1007/BF01441146) at F_ST 0.01; sixteen traits that share three
factors differ in mean between them, and no variant has an effect. Each replicate draws people, traits and variants anew, writes a
.bed, and scans it three times: with an age alone ('without'), with ten principal components of a panel of other variants beside it
('components'), and with the populations themselves ('populations'), where the test is exact and what the components leave over is
seen apart. Counted is how often p falls below each level:

- per dimension: each trait by itself, with its exact interval (Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404); and all
  traits pooled, the interval from the spread between variants, for the traits of one variant are correlated;
- omnibus: Wilks' test of all traits together;
- min-p: the strongest trait, corrected by the effective number of traits as studies are (``effective_tests`` at its default, far
  out) and by the number at the level itself. It is a bound: kept when the rate is not above the level.

Finished replicates are kept in ``--work``, so the command goes on after a kill. The record goes to
benchmarks/results/type_one_error.json with date, code version and machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from clinome.cohort.ancestry import principal_components
from clinome.core.files import write_json
from clinome.core.provenance import fingerprint, provenance
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.genotypes import Genotypes
from clinome.formats.plink import write_plink
from clinome.genetics.association import associate
from clinome.genetics.results import Results
from clinome.stats.multiple_testing import correlation_of_tests, effective_tests
from clinome.stats.residuals import prepare, span

RECORD = Path(__file__).parent / "results" / "type_one_error.json"
ADJUSTED = ("without", "components", "populations")
LEVELS = (5e-2, 5e-3, 5e-4, 5e-5)
POPULATIONS = 3
FACTORS = 3
_DRAWN = 2_000  # variants that are drawn at once

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """What a replicate is: ``variants`` are tested, ``panel`` others give the components.

    ``shared`` is the share of a trait's variance that is of the factors, so that some traits correlate by nearly as much.
    ``drift`` is F_ST; ``shift`` the standard deviation between populations of means, in those within them.
    """

    people: int = 2_000
    variants: int = 50_000
    traits: int = 16
    panel: int = 10_000
    components: int = 10
    shared: float = 0.95
    drift: float = 0.01
    shift: float = 0.3


def draw_genotypes(folder: Path, design: Design, population: NDArray[np.int64], generator: np.random.Generator) -> Genotypes:
    """Write independent variants of populations that drifted apart, and open them; the panel is chromosome 2."""
    n, total = design.people, design.variants + design.panel

    def blocks() -> Iterator[NDArray[np.int8]]:
        for start in range(0, total, _DRAWN):
            ancestral = generator.uniform(0.1, 0.9, (min(_DRAWN, total - start), 1))
            spread = (1 - design.drift) / design.drift
            here = generator.beta(ancestral * spread, (1 - ancestral) * spread, (len(ancestral), POPULATIONS))
            carried = here.astype(np.float32)[:, population]
            draws = [generator.random((len(here), n), dtype=np.float32) < carried for _ in range(2)]
            yield draws[0].astype(np.int8) + draws[1]

    samples = pl.DataFrame({"participant_id": [f"p{i}" for i in range(n)]})
    chromosome = np.where(np.arange(total) < design.variants, "1", "2")
    variants = pl.DataFrame(
        {
            "variant_id": [f"v{j}" for j in range(total)],
            "chromosome": chromosome,
            "position": np.arange(1, total + 1) * 1_000,
            "effect_allele": ["A"] * total,
            "other_allele": ["G"] * total,
        }
    )
    write_plink(folder / "g.bed", samples=samples, variants=variants, blocks=blocks())
    return open_genotypes(folder / "g.bed")


def draw_traits(design: Design, population: NDArray[np.int64], generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Return traits (N, P) that share factors, and an age (N, 1) that they follow; factors and what is a trait's own shift."""

    def drawn(columns: int) -> Floats:
        shift = design.shift * generator.normal(size=(POPULATIONS, columns))
        return shift[population] + generator.normal(size=(design.people, columns))

    age = generator.uniform(40, 70, (design.people, 1))
    loadings = generator.normal(size=(FACTORS, design.traits))
    loadings *= np.sqrt(design.shared / (loadings**2).sum(axis=0))
    return drawn(FACTORS) @ loadings + np.sqrt(1 - design.shared) * drawn(design.traits) + 0.02 * age, age


def replicate(design: Design, seed: int, levels: tuple[float, ...] = LEVELS) -> dict[str, Any]:
    """Return how often p was below each level in one replicate, for each set of covariates (``ADJUSTED``)."""
    generator = np.random.default_rng(seed)
    population = generator.integers(0, POPULATIONS, design.people)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        genotypes = draw_genotypes(folder, design, population, generator)
        values, age = draw_traits(design, population, generator)
        panel = np.arange(design.variants, design.variants + design.panel)
        components = principal_components(genotypes, n=design.components, variants=panel).scores
        indicators = np.eye(POPULATIONS)[population][:, 1:]
        found = {}
        for name, more in zip(ADJUSTED, (age[:, :0], components, indicators), strict=True):
            covariates = np.hstack([age, more])
            results = _scanned(genotypes, values, covariates, design, folder / name)
            found[name] = _counted(results, _correlation(values, covariates), levels)
        genotypes.close()
    return {"seed": seed, "variants": design.variants, **found}


def _scanned(genotypes: Genotypes, values: Floats, covariates: Floats, design: Design, out: Path) -> Results:
    def table(columns: Floats, prefix: str) -> pl.DataFrame:
        names = [f"{prefix}{k}" for k in range(columns.shape[1])]
        return genotypes.samples.select("participant_id").hstack(pl.DataFrame(columns, schema=names))

    traits = table(values, "t")
    tested = np.arange(design.variants)
    return associate(genotypes, traits, out=out, covariates=table(covariates, "c"), omnibus_sets={"all": traits}, variants=tested)


def _correlation(values: Floats, covariates: Floats) -> Floats:
    (group,) = prepare(values, span(covariates)).groups
    return correlation_of_tests(group.residuals, np.ones(values.shape, dtype=np.bool_))


def _counted(results: Results, correlation: Floats, levels: tuple[float, ...]) -> dict[str, Any]:
    """Count, for each level, the variants below it."""
    single, omnibus = [], []
    for (_, pieces), shard in zip(results.walk(), results.shards(("omnibus",)), strict=True):
        single.append(np.stack([results.strength(piece) for piece in pieces]))
        omnibus.append(shard.omnibus[0])
    traits, joint = np.hstack(single), np.concatenate(omnibus)
    numbers = {"far_out": [effective_tests(correlation)] * len(levels)}
    numbers["at_level"] = [effective_tests(correlation, level=level) for level in levels]
    limits = -np.log10(np.array(levels))
    below = [traits >= limit for limit in limits]
    per_variant = [hit.sum(axis=0) for hit in below]
    return {
        "dimensions": [hit.sum(axis=1).tolist() for hit in below],
        "pooled": [int(k.sum()) for k in per_variant],
        "pooled_squares": [int((k * k).sum()) for k in per_variant],
        "omnibus": [int((joint >= limit).sum()) for limit in limits],
        "min_p": {
            name: [int((traits.max(axis=0) >= limit + np.log10(m)).sum()) for limit, m in zip(limits, tests, strict=True)]
            for name, tests in numbers.items()
        },
        "effective_tests": numbers,
    }


def summary(
    rows: list[dict[str, Any]], covariates: str, levels: tuple[float, ...] = LEVELS, *, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Return, a row a level, the rates over replicates with their intervals; ``covariates`` is one of ``ADJUSTED``."""
    n = sum(row["variants"] for row in rows)
    found = [row[covariates] for row in rows]
    table = []
    for i, level in enumerate(levels):
        dimensions = np.sum([f["dimensions"][i] for f in found], axis=0)
        intervals = [_exact(int(k), n, confidence) for k in dimensions]
        table.append(
            {
                "level": level,
                "variants": n,
                "dimensions_pooled": _pooled(
                    [(f["pooled"][i], f["pooled_squares"][i]) for f in found], n, len(dimensions), confidence
                ),
                "dimensions_whose_interval_holds_the_level": sum(low <= level <= high for low, high in intervals),
                "dimensions": [{"rate": int(k) / n, "interval": i} for k, i in zip(dimensions, intervals, strict=True)],
                "omnibus": _rate(sum(f["omnibus"][i] for f in found), n, confidence),
                "min_p": _rate(sum(f["min_p"]["far_out"][i] for f in found), n, confidence),
                "min_p_number_at_the_level": _rate(sum(f["min_p"]["at_level"][i] for f in found), n, confidence),
                "effective_tests": {
                    k: float(np.mean([f["effective_tests"][k][i] for f in found])) for k in ("far_out", "at_level")
                },
            }
        )
    return table


def _exact(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson."""
    interval = binomtest(k, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def _rate(k: int, n: int, confidence: float) -> dict[str, Any]:
    return {"rate": k / n, "interval": _exact(k, n, confidence)}


def _pooled(sums: list[tuple[int, int]], n: int, traits: int, confidence: float) -> dict[str, Any]:
    """Return the rate per variant and trait from sums of traits hit and of their squares; a variant's traits are one draw."""
    total, squares = (sum(part) for part in zip(*sums, strict=True))
    mean = total / n
    half = float(norm.ppf(0.5 + confidence / 2)) * float(np.sqrt((squares / n - mean * mean) / n))
    return {"rate": mean / traits, "interval": ((mean - half) / traits, (mean + half) / traits)}


def main() -> None:
    """Run the replicates and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=40)
    for name, value in asdict(Design()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--work", type=Path, default=Path("/tmp/type_one_error"), help="where finished replicates are kept")
    parser.add_argument("--record", type=Path, default=RECORD)
    given = parser.parse_args()
    design = Design(**{name: getattr(given, name) for name in asdict(Design())})
    rows = []
    for seed in range(1, given.replicates + 1):
        done = given.work / f"{fingerprint(design)}_{seed:03d}.json"
        if not done.exists():
            given.work.mkdir(parents=True, exist_ok=True)
            write_json(done, replicate(design, seed))
        rows.append(json.loads(done.read_text()))
        print(f"replicate {seed} of {given.replicates}", flush=True)
    record: dict[str, Any] = {"design": asdict(design), "replicates": len(rows)}
    for covariates in ADJUSTED:
        table = record[covariates] = summary(rows, covariates)
        print(covariates)
        for row in table:
            rates = {k: row[k] for k in ("dimensions_pooled", "omnibus", "min_p", "min_p_number_at_the_level")}
            said = "; ".join(f"{k} {v['rate']:.3g} [{v['interval'][0]:.3g}, {v['interval'][1]:.3g}]" for k, v in rates.items())
            holds = f"{row['dimensions_whose_interval_holds_the_level']} of {len(row['dimensions'])} dimensions' intervals hold it"
            print(f"  {row['level']:g}: {said}; {holds}")
    write_json(given.record, record | {"provenance": provenance()})


if __name__ == "__main__":
    main()
