"""What the 3-D U-Net claims, asked of the hippocampus: few labelled slices suffice, and three dimensions beat slices.

    python -m clinome.studies.published.cicek_2016.study --data ../shared/data --out run [--only dense|sparse|slices]

Three short trainings on the same people, judged on the same fifth of them (fold 1 of ``isensee_2021``), in pairs:

    dense    every voxel labelled
    sparse   of each image every fourth slice, the other voxels unknown and of weight 0
    slices   dense, but convolutions and halvings within slices only: a network of as many parameters that sees no neighbour slice

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from clinome.core.files import write_json
from clinome.core.provenance import provenance
from clinome.evaluate.segmentation import segmentation
from clinome.imaging.models import unet3d
from clinome.imaging.patches import UNKNOWN, Case
from clinome.imaging.planner import Plan
from clinome.studies.published.isensee_2021.study import BUDGET, FOLDS, SEED, STRUCTURES, gain, learn, planned, read, recipe_of
from clinome.studies.reproducing import script

Arm = Literal["dense", "sparse", "slices"]
EVERY = 4  # slices, of which one keeps its labels
SECONDS = 50  # of a training, on one core
WIDER = 3**0.5  # a convolution of 1 × 3 × 3 has a third of the weights


def sparse(case: Case, *, every: int = EVERY) -> Case:
    """Hide the labels of all slices across the depth but each ``every``-th, from the middle out."""
    labels = np.full_like(case.labels, UNKNOWN)
    kept = slice(len(labels) // 2 % every, None, every)
    labels[kept] = np.asarray(case.labels)[kept]
    return case._replace(labels=labels)


def within_slices(plan: Plan) -> unet3d.Config:
    """Return the planned network with nothing reaching across slices, and wider, so that it has as many parameters."""
    widths = tuple(round(width * WIDER) for width in plan.widths)
    halvings, kernels = ([(1, *each[1:]) for each in some] for some in (plan.halvings, plan.kernels))
    return unet3d.Config.nnunet(plan.channels, plan.classes, widths, halvings=halvings, kernels=kernels)


def planned_network(plan: Plan) -> unet3d.Config:
    """Return the network as planned."""
    return unet3d.Config.nnunet(plan.channels, plan.classes, plan.widths, halvings=plan.halvings, kernels=plan.kernels)


def run(data: Path, out: Path, *, small: bool = False, only: Arm | None = None) -> dict[str, Any]:
    """Train the three (or ``only`` one) and compare them; write ``figures.json`` and tables into ``out``."""
    cases = read(data, only=12 if small else None)
    rows = np.array_split(np.random.default_rng(SEED).permutation(len(cases)), FOLDS)[0]
    training, test = [case for i, case in enumerate(cases) if i not in rows], [cases[i] for i in rows]
    plan = planned(training, replace(BUDGET, seconds=0.25 if small else SECONDS))
    recipe = recipe_of(plan, validations=1, average=0.99)
    few = [*training[:4], *(sparse(case) for case in training[4:])]
    asked = {
        "dense": (training, planned_network(plan)),
        "sparse": (few, planned_network(plan)),
        "slices": (training, within_slices(plan)),
    }
    tables = {
        name: learn(images, test, [out / name], plan, recipe, config)
        for name, (images, config) in asked.items()
        if only in (None, name)
    }
    if only is not None:
        return {"metrics": segmentation(tables[only]).to_dicts()}
    metrics = pl.concat(segmentation(table, predictor=name) for name, table in tables.items())
    metrics.write_parquet(out / "metrics.parquet")
    figures = {
        "dense_over_sparse": {name: gain(tables["dense"], tables["sparse"], name) for name in STRUCTURES},
        "volumes_over_slices": {name: gain(tables["dense"], tables["slices"], name) for name in STRUCTURES},
        "parameters": {name: _parameters(config) for name, (_, config) in asked.items()},
        "labelled_share": float(np.mean([(np.asarray(c.labels) != UNKNOWN).mean() for c in few[4:]])),
        "metrics": metrics.to_dicts(),
        "provenance": provenance(settings={"recipe": recipe, "networks": {name: c for name, (_, c) in asked.items()}}, seed=SEED),
    }
    write_json(out / "figures.json", figures)
    return figures


def _parameters(config: unet3d.Config) -> int:
    return sum(weight.numel() for weight in unet3d.Model(config).parameters())


if __name__ == "__main__":
    print(pl.DataFrame(script(run)["metrics"]))
