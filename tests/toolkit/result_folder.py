"""A small result folder as the studies write it: a made-up scan of three chromosomes with four planted loci, one of them missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.provenance import write_provenance

TRAITS = [f"dimension_{i:02d}" for i in range(1, 9)]
LINE = 8.1
LEADS = (  # chromosome, position, strongest trait, −log10 p, gene
    ("1", 24_310_500, "dimension_02", 31.7, "SIX6"),
    ("2", 8_127_003, "dimension_01", 12.4, "CDKN2B"),
    ("2", 55_400_112, "dimension_05", 9.3, "<i>TMCO1</i>"),
    ("X", 30_000_900, "dimension_03", 18.2, "CAV1"),
)
LENGTHS = {"1": 60_000_000, "2": 70_000_000, "X": 50_000_000}


def result_folder(folder: Path, *, n_variants: int = 12_000, seed: int = 1) -> Path:
    """Write every table of a result into ``folder`` and return it. A gene's and a warning's text try to be HTML."""
    generator = np.random.default_rng(seed)
    for name in ("phenotypes", "gwas", "loci/pictures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(_summary(n_variants)))
    write_provenance(folder, settings={"maf": 0.01}, seed=seed)
    _flow().write_parquet(folder / "flow.parquet")
    _quality(generator).write_parquet(folder / "phenotypes/quality.parquet")
    losses = (6.1 * np.exp(-np.arange(14) / 4) + 2.2).round(4).tolist()
    (folder / "phenotypes/embedding.json").write_text(
        json.dumps({"losses": {"first": losses, "second": [x * 0.9 for x in losses]}, "epochs": 14, "picture_size": 80})
    )
    scan = manhattan_table(n_variants, generator)
    scan.write_parquet(folder / "gwas/manhattan.parquet")
    curves, factors = _calibration(generator, n_variants)
    curves.write_parquet(folder / "gwas/qq.parquet")
    factors.write_parquet(folder / "gwas/lambdas.parquet")
    loci = loci_table()
    loci.write_parquet(folder / "loci/loci.parquet")
    _regions(loci, generator).write_parquet(folder / "loci/regions.parquet")
    _genes().write_parquet(folder / "loci/genes.parquet")
    _evidence(loci, generator).write_parquet(folder / "loci/evidence.parquet")
    _genotype_pictures(loci, folder / "loci", generator).write_parquet(folder / "loci/genotype_pictures.parquet")
    _truth().write_parquet(folder / "loci/truth.parquet")
    return folder


def _summary(n_variants: int) -> dict[str, Any]:
    return {
        "title": "Fundus photographs to loci",
        "subtitle": "4,000 simulated people, both eyes at two visits, eight dimensions of an encoder that saw none of the scan.",
        "kind": "discover",
        "headline": [
            ["participants", 3_412],
            ["variants", n_variants],
            ["dimensions", 8],
            ["loci", 4],
            ["planted loci found", "3 of 4"],
        ],
        "warnings": ["λ of <b>dimension_03</b> is 1.21: relatives or strata are not accounted for; add principal components."],
        "notes": ["Traits that are 0/1 were analysed linearly."],
        "methods": [
            "Pictures were embedded by a convolutional encoder trained with pairs of eyes and visits as positives.",
            "Each dimension was rank-inverse-normal transformed after covariates, and tested by linear regression.",
            "Loci were clumped at r² 0.1 within 1 Mb.",
        ],
        "settings": {
            "gwas": {"maf": 0.01, "statistic": "t", "missing_genotypes": "mean"},
            "clump": {"r2": 0.1, "window": 1_000_000},
            "seed": 20,
        },
        "thresholds": {"dimension": LINE, "omnibus": 7.6, "study_wide": 7.3},
        "effective_tests": 6.7,
        "n_participants": 3_412,
        "n_variants": n_variants,
        "n_traits": 8,
        "build": "GRCh38",
        "truth_line": "planted loci found 3/4, false loci 1",
    }


def _flow() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "stage": ["link", "link", "pictures", "covariates"],
            "reason": ["no genotypes", "no pictures", "all pictures too dark", "age is missing"],
            "dropped": [212, 301, 55, 20],
            "remaining": [3_788, 3_487, 3_432, 3_412],
        }
    )


def _quality(generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for i, trait in enumerate(TRAITS):
        share = 0.34 * 0.7**i
        values = {
            "variance_share": (share, 0.0),
            "left_right_icc": (0.93 - 0.07 * i, 0.02 + 0.004 * i),
            "test_retest_icc": (0.96 - 0.05 * i, 0.015 + 0.003 * i),
            "nuisance_r2:illumination": (0.01 if i != 2 else 0.19, 0.008),
            "reliable": (0.0 if i == 7 else 1.0, 0.0),
            "nuisance_r2:blur": (float(generator.uniform(0.001, 0.03)), 0.006),
        }
        for measure, (value, half) in values.items():
            interval = (None, None) if half == 0 else (max(0.0, value - half), min(1.0, value + half))
            rows.append((trait, measure, value, *interval, 3_412))
    return pl.DataFrame(rows, schema=["trait", "measure", "value", "lower", "upper", "n"], orient="row")


def manhattan_table(n_variants: int, generator: np.random.Generator) -> pl.DataFrame:
    """A scan without association but for towers around the leads (a lead's own value is that of the loci table)."""
    chromosome = np.repeat(list(LENGTHS), np.diff(np.linspace(0, n_variants, 4).astype(int)))
    n = len(chromosome)
    position = (generator.random(n) * np.array([LENGTHS[c] for c in chromosome])).astype(np.int64) + 1
    identifier = np.array([f"rs{i + 1000}" for i in range(n)], dtype=object)
    best = -np.log10(1 - generator.random(n) ** (1 / 6.7))
    omnibus = -np.log10(generator.random(n))
    trait = generator.choice(TRAITS, n)
    for k, (where, at, name, value, _) in enumerate(LEADS):
        here = np.flatnonzero(chromosome == where)
        nearest = here[np.argsort(np.abs(position[here] - at))][: max(12, n // 600)]
        decay = np.exp(-np.abs(position[nearest] - at) / 250_000) * generator.uniform(0.2, 0.9, len(nearest))
        best[nearest] = np.maximum(best[nearest], value * decay)
        lead = nearest[0]
        position[lead], identifier[lead], best[lead], trait[lead] = at, f"rs{k + 1}", value, name
        omnibus[nearest] = np.maximum(omnibus[nearest], best[nearest] * 0.93)
    frame = pl.DataFrame(
        {
            "variant_id": identifier,
            "chromosome": chromosome,
            "position": position,
            "effect_allele": generator.choice(["A", "C"], n),
            "other_allele": generator.choice(["G", "T"], n),
            "effect_allele_frequency": generator.uniform(0.01, 0.99, n),
            "best": best,
            "best_trait": trait,
            "omnibus": omnibus,
            "study_wide": np.maximum(np.maximum(best - np.log10(6.7), omnibus) - np.log10(2), 0),
        },
        schema_overrides={"variant_id": pl.String},
    )
    order = pl.col("chromosome").replace_strict({c: i for i, c in enumerate(LENGTHS)}, return_dtype=pl.Int64)
    return frame.sort(order, "position")


def _calibration(generator: np.random.Generator, n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    curves, factors = [], []
    for i, test in enumerate(["all traits", "omnibus", *TRAITS]):
        for j, name in enumerate(["all", "0.01–0.05", "0.05–0.2", "0.2–0.5"]):
            inflation = 1.21 if test == "dimension_03" else 1 + 0.02 * generator.standard_normal()
            expected = np.linspace(0.001, np.log10(n) - (0 if j == 0 else 0.6), 120)
            observed = expected * inflation + np.where(expected > 3, (expected - 3) * 3, 0) * (i < 4)
            curves.append(pl.DataFrame({"test": test, "frequency_bin": name, "expected": expected, "observed": observed}))
            factors.append((test, name, inflation, n if j == 0 else n // 3, "high" if inflation > 1.1 else None))
    names = ["test", "frequency_bin", "lambda_gc", "n_variants", "flag"]
    return pl.concat(curves), pl.DataFrame(factors, schema=names, schema_overrides={"flag": pl.String}, orient="row")


def loci_table() -> pl.DataFrame:
    rows = [
        (
            k,
            f"rs{k}",
            chromosome,
            at,
            "A",
            "G",
            0.21 + 0.07 * k,
            at - 500_000,
            at + 480_000,
            f"{trait},dimension_08",
            trait,
            value,
            14 + k,
            gene,
            1_250 * (k - 1),
        )
        for k, (chromosome, at, trait, value, gene) in enumerate(LEADS, start=1)
    ]
    names = [
        "locus",
        "variant_id",
        "chromosome",
        "position",
        "effect_allele",
        "other_allele",
        "effect_allele_frequency",
        "start",
        "end",
    ]
    names += ["traits", "best_trait", "neg_log_10_p_value", "n_variants", "nearest_gene", "gene_distance"]
    return pl.DataFrame(rows, schema=names, orient="row")


def _regions(loci: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    parts = []
    for row in loci.iter_rows(named=True):
        position = np.sort(generator.integers(row["start"], row["end"], 260))
        position[130] = row["position"]
        r2 = np.exp(-np.abs(position - row["position"]) / 90_000) * generator.uniform(0.3, 1, 260)
        r2[130] = 1
        value = row["neg_log_10_p_value"] * r2 + generator.exponential(0.4, 260)
        value[130] = row["neg_log_10_p_value"]
        names = [f"rs{row['locus']}{i:04d}" if i != 130 else row["variant_id"] for i in range(260)]
        parts.append(
            pl.DataFrame(
                {
                    "locus": row["locus"],
                    "variant_id": names,
                    "chromosome": row["chromosome"],
                    "position": position,
                    "neg_log_10_p_value": value,
                    "r2": r2,
                }
            )
        )
    return pl.concat(parts)


def _genes() -> pl.DataFrame:
    rows = []
    for k, (chromosome, at, _, _, gene) in enumerate(LEADS):
        rows += [(gene, chromosome, at - 1_250 * k - 9_000, at - 1_250 * k if k else at + 4_000, "+")]
        rows += [(f"GENE{k}{i}", chromosome, at - 450_000 + i * 140_000, at - 360_000 + i * 150_000, "-") for i in range(6)]
    return pl.DataFrame(rows, schema=["gene", "chromosome", "start", "end", "strand"], orient="row")


def _evidence(loci: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    rows = []
    for row in loci.iter_rows(named=True):
        for trait in TRAITS:
            value = (
                row["neg_log_10_p_value"]
                if trait == row["best_trait"]
                else 8.5
                if trait == "dimension_08"
                else float(generator.exponential(0.8))
            )
            rows.append((row["locus"], trait, value, float(generator.normal(0, 0.1)), 0.02))
    return pl.DataFrame(rows, schema=["locus", "trait", "neg_log_10_p_value", "beta", "standard_error"], orient="row")


def _genotype_pictures(loci: pl.DataFrame, folder: Path, generator: np.random.Generator) -> pl.DataFrame:
    """The last locus has only three people with two copies, whose average must not be shown."""
    rows: list[tuple[Any, ...]] = []
    for row in loci.iter_rows(named=True):
        rare = 3 if row["locus"] == loci.height else 301
        for copies, (genotype, n) in enumerate((("G/G", 1_702), ("G/A", 1_409), ("A/A", rare))):
            name = f"pictures/locus_{row['locus']}_{copies}.png"
            _picture(generator, 0.34 + 0.05 * copies, folder / name)
            rows.append((row["locus"], row["variant_id"], "mean", genotype, copies, n, name))
        name = f"pictures/locus_{row['locus']}_difference.png"
        _picture(generator, 0.5, folder / name)
        rows.append((row["locus"], row["variant_id"], "difference", "", None, 1_702 + rare, name))
    return pl.DataFrame(rows, schema=["locus", "variant_id", "kind", "genotype", "copies", "n", "path"], orient="row")


def _picture(generator: np.random.Generator, cup: float, path: Path, *, side: int = 80) -> None:
    """An orange disc with a bright optic disc in it."""
    from PIL import Image

    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    retina = (np.hypot(x, y) < 0.95)[..., None] * np.array([190, 84, 38])
    disc = np.exp(-((((x - 0.35) ** 2 + y**2) / (0.3 * cup) ** 2) ** 2))[..., None] * np.array([50, 120, 90])
    noise = generator.normal(0, 3, (side, side, 3))
    Image.fromarray(np.clip(retina + disc + noise * (retina > 0), 0, 255).astype(np.uint8)).save(path)


def _truth() -> pl.DataFrame:
    rows = [
        ("rs901", "1", 24_310_100, "A", "disc", 0.041, True, True, 1, 400),
        ("rs902", "2", 8_127_003, "C", "cup", 0.035, True, True, 2, 0),
        ("rs903", "2", 31_000_000, "A", "pigment", 0.031, True, False, None, None),
        ("rs904", "X", 30_420_000, "C", "calibre", 0.038, True, True, 4, 419_100),
        ("rs905", "1", 51_000_000, "C", "tortuosity", 0.009, False, False, None, None),
    ]
    names = [
        "variant_id",
        "chromosome",
        "position",
        "effect_allele",
        "latent",
        "variance_explained",
        "counted",
        "found",
        "locus",
        "distance",
    ]
    return pl.DataFrame(rows, schema=names, orient="row")
