"""transferGWAS on pictures whose truth is known: power against the number of people, by what a network was taught.

A hundred variants act on all of the drawn anatomy at once (half of each latent's variance together), ten thousand on nothing. Ten
axes of each encoder's features are scanned in 1,250 to 5,000 people whom no encoder has seen. Beside the encoders that were taught
on other people of the cohort stand the two that a user without weights would have: a ResNet-50 with random weights, and one that
was taught on procedural shapes. Neither has seen ImageNet: --weights puts a file of weights that a user has beside them.

iGWAS's identity margin begins from weights that were learned before, there ImageNet's. Here it begins from SimCLR's, taught on the
same people; the same from random weights stands beside it, which 500 epochs of the paper would move further than 24 do. That it
should begin so, and the number of epochs, was chosen on a cohort of another seed.

    clinome reproduce kirchler_2022 --out results
    python -m clinome.studies.published.kirchler_2022.study --out full --full

``--full`` makes the paper's 46,731 people instead, once, with the small encoders and plain pixels.

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.files import replacing, write_json
from clinome.core.provenance import fingerprint, provenance
from clinome.imaging.embedding import Config
from clinome.imaging.features import views
from clinome.imaging.learning import Training, targets_of, train_encoder
from clinome.imaging.stages import Stages
from clinome.report.power import draw_power
from clinome.simulate.anatomy import LATENTS
from clinome.simulate.pleiotropy import Cohort, simulate_cohort
from clinome.simulate.shapes import draw_shapes
from clinome.studies.picture_power import measure, more_found, phenotypes, sides, told
from clinome.studies.reproducing import script

COHORT = Cohort(participants=6_500, causal=100, null=10_000)
TAUGHT, SIZES = 1_500, (1_250, 2_500, 5_000)
FULL = replace(COHORT, participants=46_731 + TAUGHT, seed=COHORT.seed + 1)
SMALL = Cohort(participants=620, causal=20, null=300, size=32, heritability=0.8)
BASE = Config(dimensions=10, beside_pixels=False, epochs=24, precision="measure", threads=1)
UNTAUGHT, PIXELS = ("random weights", "procedural shapes"), "plain pixels"


def encoders(out: Path, *, weights: Path | None, small: bool, full: bool = False, threads: int) -> dict[str, Config]:
    """Return the settings of each encoder by its name; SimCLR first, because the identity margin begins from it."""
    base = replace(BASE, threads=threads, size=32, epochs=3) if small else replace(BASE, threads=threads)
    begun = out / "encoders" / "SimCLR" / "encoder.safetensors"
    found = {"SimCLR": replace(base, encoder="simclr"), "identity margin": replace(base, encoder="identity", weights=begun)}
    found[PIXELS] = replace(base, encoder="pixels")
    if full:
        return found
    applied = replace(base, encoder="transfer", network="resnet18" if small else "resnet50")
    found["identity margin from random weights"] = replace(base, encoder="identity")
    found["random weights"] = applied
    found["procedural shapes"] = replace(applied, weights=shapes_network(out, applied, small=small))
    if weights is not None:
        found[weights.name] = replace(applied, weights=weights)
    return found


def shapes_network(out: Path, config: Config, *, small: bool) -> Path:
    """Teach a network to read the numbers that procedural pictures were drawn from, once; return its file."""
    n = 64 if small else 2_000
    length: dict[str, Any] = {"epochs": 1} if small else {"epochs": 4, "precision": "measure"}
    settings = Training("supervised", config.network, batch_size=32, threads=config.threads, **length)
    stages, path, key = Stages(out), out / "shapes.safetensors", fingerprint(n, config.size, config.seed, settings)
    if stages.has(path.name, key):
        return path
    pictures, numbers = draw_shapes(n, size=config.size, generator=np.random.default_rng([config.seed, 31]))
    names = [f"S{k:05d}" for k in range(n)]
    seen = views(pl.DataFrame({"participant_id": names}))
    targets = targets_of(numbers.insert_column(0, pl.Series("participant_id", names)), seen.people, np.arange(n))
    given: dict[str, Any] = {"checkpoint": out / "shapes.checkpoint.safetensors", "key": key, "settings": settings}
    made = train_encoder(pictures, seen, np.arange(n), targets=targets, **given)
    with stages.making(path.name, key) as temporary:
        made.save(temporary)
    return path


def run(
    data: Path | None, out: Path, *, small: bool = False, full: bool = False, threads: int = 1, weights: Path | None = None
) -> dict[str, Any]:
    """Simulate, embed, scan and count; write figures, ``power.parquet`` and ``power.svg`` into ``out``."""
    start = time.process_time()
    cohort = SMALL if small else FULL if full else COHORT
    files = simulate_cohort(out / "cohort", cohort, processes=threads)
    who = sides(files, taught=300 if small else TAUGHT, seed=cohort.seed)
    chosen = encoders(out, weights=weights, small=small, full=full, threads=threads)
    tables = {name: phenotypes(files, who, config, out / "encoders" / name) for name, config in chosen.items()}
    sizes = (160, 320) if small else (len(who.associated),) if full else SIZES
    power = measure(files, who, tables, sizes, out / "scans")
    power.write_parquet(out / "power.parquet")
    with replacing(out / "power.svg") as temporary:
        temporary.write_text(draw_power(power), encoding="utf-8")
    figures = {
        **against_claims(power),
        "power": power.drop("which").to_dicts(),
        "told": {name: dict(zip(LATENTS, told(files, table).round(4).tolist(), strict=True)) for name, table in tables.items()},
        "cpu_seconds": time.process_time() - start,
        "provenance": provenance(settings={"cohort": cohort, "taught": len(who.taught), "base": str(BASE)}, seed=cohort.seed),
    }
    write_json(out / "figures.json", figures)
    return figures


def against_claims(power: pl.DataFrame) -> dict[str, Any]:
    """Return the figures that the claims are about, of the most people, and taught against untaught encoders variant by variant."""
    most = power.filter(pl.col("n") == pl.col("n").max())
    found = {(row["encoder"], row["test"]): row["found"] for row in most.iter_rows(named=True)}
    pairs = power.pivot("test", index=["encoder", "n"], values="found")
    figures: dict[str, Any] = {
        "found_of_100_at_5000_people": found["SimCLR", "corrected"],
        "false_positives_at_0.05": float(power["false_0.05"].mean()),  # type: ignore[arg-type]
        "omnibus_against_smallest_p": float((pairs["omnibus"] - pairs["corrected"]).min()),  # type: ignore[arg-type]
    }
    if all((name, "omnibus") in found for name in UNTAUGHT):
        taught = ("SimCLR", "identity margin")
        best = max(found[name, "omnibus"] for name in UNTAUGHT)
        figures["taught_encoders_find_more"] = min(found[name, "omnibus"] for name in taught) - best
        figures["paired"] = {f"{one} against {two}": more_found(power, one, two) for one in taught for two in (*UNTAUGHT, PIXELS)}
    return figures


if __name__ == "__main__":
    print(pl.DataFrame(script(run)["power"]))
