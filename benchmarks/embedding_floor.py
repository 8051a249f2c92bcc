"""What an encoder's axes say of the simulated anatomy beyond the floor's, in the same people, whom neither has seen.

    .venv/bin/clinome demo --out demo && .venv/bin/python benchmarks/embedding_floor.py demo

For each latent that drives the photographs: R² of a linear regression on the axes, each fifth of the people predicted from
the other four, for the encoder and for plain pixels; the difference with an interval by resampling people. The record goes to
benchmarks/results/embedding_floor.json with date, code version and machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import write_json
from clinome.core.provenance import provenance

RECORD = Path(__file__).parent / "results" / "embedding_floor.json"
Floats = NDArray[np.float64]


def residuals(axes: Floats, latent: Floats, *, folds: int = 5) -> Floats:
    """Return what the axes leave of a latent, each fold predicted from the others."""
    fold = np.random.default_rng(0).permutation(len(latent)) % folds
    design = np.column_stack([np.ones(len(axes)), axes])
    left = np.empty(len(latent))
    for k in range(folds):
        solved = np.linalg.lstsq(design[fold != k], latent[fold != k], rcond=None)[0]
        left[fold == k] = latent[fold == k] - design[fold == k] @ solved
    return left


def main() -> None:
    """Compare and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="what `clinome demo` wrote")
    demo = parser.parse_args().demo
    latents = pl.read_parquet(demo / "biobank" / "true_latents.parquet")
    people = pl.read_parquet(demo / "study" / "traits" / "traits.parquet").select("participant_id")
    tables = {
        "encoder": pl.read_parquet(demo / "study" / "phenotypes" / "phenotypes.parquet"),
        "floor": pl.read_parquet(demo / "study" / "phenotypes" / "floor" / "phenotypes.parquet"),
    }
    axes = {
        k: people.join(t, on="participant_id", maintain_order="left").drop("participant_id").to_numpy() for k, t in tables.items()
    }
    truth = people.join(latents, on="participant_id", maintain_order="left")
    generator = np.random.default_rng(1)
    rows = []
    for name in latents.columns[1:]:
        latent = truth[name].to_numpy()
        left = {k: residuals(a, latent) for k, a in axes.items()}
        r2 = {k: float(1 - np.sum(r**2) / np.sum((latent - latent.mean()) ** 2)) for k, r in left.items()}
        draws = []
        for _ in range(1_000):
            drawn = generator.integers(0, len(latent), len(latent))
            total = np.sum((latent[drawn] - latent[drawn].mean()) ** 2)
            draws.append((np.sum(left["floor"][drawn] ** 2) - np.sum(left["encoder"][drawn] ** 2)) / total)
        low, high = np.quantile(draws, [0.025, 0.975])
        rows.append({"latent": name, **r2, "gain": r2["encoder"] - r2["floor"], "gain_interval_95": [float(low), float(high)]})
        beside = f"encoder {r2['encoder']:.3f}  floor {r2['floor']:.3f}"
        print(f"{name:16} {beside}  gain {rows[-1]['gain']:+.3f} [{low:+.3f}, {high:+.3f}]")
    write_json(RECORD, {"people": people.height, "latents": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
