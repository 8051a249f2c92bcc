"""nnU-Net's way on the Decathlon's hippocampus: five folds of a planned 3-D U-Net, mean shape beside it, volumes as phenotypes.

    clinome reproduce isensee_2021 --data ../shared/data --out run                                   # all, one after another
    python -m clinome.studies.published.isensee_2021.study --data ../shared/data --out run --only 3  # one fold; then again without
    python -m clinome.studies.published.isensee_2021.study --data ../shared/data --out run --networks 2  # the longer run

A run that is killed goes on when the command is given again. Every image is segmented once, by the network of the fold it was kept
out of; in the longer run by two, of different seeds, whose probabilities are averaged. Four images of each fold's training part are
held out to draw its curve; nothing is chosen on them.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.files import write_json
from clinome.core.provenance import fingerprint, provenance
from clinome.core.schema import MEASUREMENTS, check
from clinome.evaluate.agreement import agreement
from clinome.evaluate.compare import compare
from clinome.evaluate.measuring import Metric, additive
from clinome.evaluate.segmentation import compare_masks, segmentation
from clinome.imaging.geometry import Spread
from clinome.imaging.intensity import Change
from clinome.imaging.measure.fold import fold, write_folded
from clinome.imaging.measure.table import rows_of
from clinome.imaging.measure.trait import trait
from clinome.imaging.models import unet3d
from clinome.imaging.patches import Case, PatchPreparation, case_digest
from clinome.imaging.planner import Budget, Plan, describe, plan_network
from clinome.imaging.scan import Scan, read_scan
from clinome.imaging.segmentation import train_segmenter
from clinome.imaging.segmenter import SegmenterRecipe, segment
from clinome.imaging.shape_floor import likeliest, mean_shape
from clinome.imaging.stages import Stages
from clinome.studies.reproducing import script

STRUCTURES = {"anterior": 1, "posterior": 2}
FOLDS, SEED, HELD_OUT = 5, 20261125, 4
BUDGET = Budget(seconds=240, flops_per_second=1.3e11)  # a fold, on one core
MEAN = Metric("dice", additive(lambda _, dice: dice[:, None].astype(np.float64), lambda sums, n: sums[:, 0] / n))


def read(data: Path, *, only: int | None = None) -> list[Case]:
    """Read the images of ``hippocampus.tar`` (the first ``only``) with their labels, in the order of their numbers."""
    archive = next(path for path in (data / "hippocampus.tar", data / "msd-hippocampus" / "hippocampus.tar") if path.exists())
    cases = []
    with tarfile.open(archive) as tar, tempfile.TemporaryDirectory() as folder:
        tar.extractall(folder, filter="data")
        for path in sorted(Path(folder, "images").glob("*.nii.gz"))[:only]:
            scan, labels = read_scan(path), read_scan(Path(folder, "labels", path.name))
            name = path.name.split(".")[0]
            image = np.ascontiguousarray(scan.values, np.float32)
            cases.append(Case(name, image, labels.values[0].astype(np.int16), None, scan.spacing_mm, participant_id=name))
    return cases


def recipe_of(plan: Plan, **changes: Any) -> SegmenterRecipe:
    """Return how to train what is planned: Muon, and the turns, bends and greys that scans of other people and scanners show.

    Images are segmented in windows of the training's size: larger ones with a padded rim cost 0.005 and 0.008 of Dice, because
    instance normalisation divides by the rim too.
    """
    recipe = SegmenterRecipe(
        patch=plan.patch,
        batch=plan.batch,
        steps=plan.steps,
        foreground=0.0,  # structures fill a tenth of every patch
        optimiser="muon",
        learning_rate=0.02,
        weight_decay=0.05,
        clip=12.0,
        average=0.995,
        spread=Spread(rotation_degrees=15, scale=0.15, elastic_mm=0.8, elastic_grid_mm=12),
        change=Change(brightness=0.1, contrast=0.15, gamma=0.4, noise=0.15, chance=0.5),
        precision="measure",
        validations=4,
    )
    return replace(recipe, **changes)


def overlaps(cases: list[Case], predicted: list[Any]) -> pl.DataFrame:
    """Return OVERLAPS of cases with their segmentations, distances in mm, volumes in mm³."""
    return pl.concat(
        compare_masks(
            np.asarray(case.labels), labels, STRUCTURES, spacing=case.spacing_mm, example_id=case.example_id,
            participant_id=case.participant_id,
        )
        for case, labels in zip(cases, predicted, strict=True)
    )  # fmt: skip


def learn(
    training: list[Case], test: list[Case], folders: list[Path], plan: Plan, recipe: SegmenterRecipe, config: Any = None
) -> pl.DataFrame:
    """Train a network in each of ``folders``, on all but the first few of ``training``; return the overlaps of ``test`` with the
    mean of their probabilities, kept for these networks and images.
    """
    config = config or unet3d.Config.nnunet(plan.channels, plan.classes, plan.widths, halvings=plan.halvings, kernels=plan.kernels)
    for seed, folder in enumerate(folders, start=1):
        train_segmenter(
            training[HELD_OUT:], training[:HELD_OUT], network=unet3d, config=config, recipe=replace(recipe, seed=seed),
            folder=folder, structures=list(STRUCTURES),
            preparation=PatchPreparation(plan.spacing_mm, plan.intensity, plan.labelled),
        )  # fmt: skip
    stages, kept = Stages(folders[-1]), "overlaps.parquet"
    key = fingerprint([folder / "segmenter.json" for folder in folders], [case_digest(case) for case in test])
    if not stages.has(kept, key):
        said = zip(*(segment(folder, test) for folder in folders), strict=True)
        made = overlaps(test, [sum(one.probability for one in each).argmax(axis=0) for each in said])
        with stages.making(kept, key) as temporary:
            made.write_parquet(temporary)
    return pl.read_parquet(stages.folder / kept)


def planned(training: list[Case], budget: Budget) -> Plan:
    """Plan the network from its training images."""
    scans = [Scan(case.image, case.spacing_mm) for case in training]
    return plan_network(describe(scans, [np.asarray(case.labels) for case in training], classes=len(STRUCTURES) + 1), budget)


def run(data: Path, out: Path, *, small: bool = False, only: int | None = None, networks: int = 1) -> dict[str, Any]:
    """Train ``networks`` for each fold (or for ``only`` one), judge them, and write the figures into ``out``."""
    cases = read(data, only=30 if small else None)
    budget, changes = (replace(BUDGET, seconds=7), {"average": 0.85, "validations": 1}) if small else (BUDGET, {})
    found, of_mean, seconds = [], [], []
    for k, rows in enumerate(np.array_split(np.random.default_rng(SEED).permutation(len(cases)), FOLDS)):
        if only not in (None, k) or (small and k):
            continue
        training, test = [case for i, case in enumerate(cases) if i not in rows], [cases[i] for i in rows]
        plan, folder = planned(training, budget), out / f"fold_{k}"
        plan.save(folder / "plan.json")
        folders = [folder, *(folder / f"seed_{seed}" for seed in range(2, networks + 1))]
        found.append(learn(training, test, folders, plan, recipe_of(plan, **changes)))
        seconds.append(sum(json.loads((one / "time.json").read_text())["cpu_seconds"] for one in folders))
        prior = mean_shape((np.asarray(case.labels) for case in training), classes=3, shape=plan.shape)
        of_mean.append(overlaps(test, [likeliest(prior, case.image.shape[1:]) for case in test]))
    model, floor = pl.concat(found), pl.concat(of_mean)
    name = "figures" if networks == 1 else f"figures_of_{networks}"
    metrics = pl.concat([segmentation(model), segmentation(floor, predictor="mean shape"), *volumes(model)])
    figures = {
        **{f"dice_{name}": _value(metrics, "dice", f"structure={name}") for name in STRUCTURES},
        **{f"volume_r_{name}": _value(metrics, "pearson_r", f"volume={name}") for name in ("whole", *STRUCTURES)},
        "dice_of_folds": [dict(_dice(table).rows()) for table in found],
        "gain_over_mean_shape": {name: gain(model, floor, name) for name in STRUCTURES},
        "metrics": metrics.to_dicts(),
        "cpu_seconds_of_folds": seconds,
        "reasons": plan.reasons,
        "provenance": provenance(settings={"budget": budget, "plan": asdict(plan), "recipe": asdict(recipe_of(plan))}, seed=SEED),
    }
    write_json(out / f"{name}.json", figures)
    measured = measurements(model)
    measured.write_parquet(out / "measurements.parquet")
    write_folded(fold(measured, source="3-D U-Nets of isensee_2021, each image by one that did not learn from it"), out)
    return figures


def measurements(table: pl.DataFrame) -> pl.DataFrame:
    """Return the measured volumes as MEASUREMENTS, of the whole and of each part; an empty structure is flagged."""
    rows: list[Any] = []
    for (image, person), part in table.group_by("example_id", "participant_id", maintain_order=True):
        sizes = dict(part.select("structure", "predicted_volume").rows()) | {"whole": part["predicted_volume"].sum()}
        traits = {name: [trait("volume", size, "mm³", None if size else "absent")] for name, size in sizes.items()}
        rows += rows_of({"image_id": image, "participant_id": person}, traits)
    return check(pl.DataFrame(rows, schema={c.name: c.dtype for c in MEASUREMENTS.columns}, orient="row"), MEASUREMENTS)


def volumes(table: pl.DataFrame) -> list[pl.DataFrame]:
    """Return how well measured volumes agree with the labels', in mm³: of the whole and of each part."""
    whole = table.group_by("participant_id", maintain_order=True).agg(pl.sum("volume", "predicted_volume"))
    parts = {"whole": whole} | {name: table.filter(structure=name) for name in STRUCTURES}
    return [
        agreement(part["volume"], part["predicted_volume"], participants=part["participant_id"], subgroup=f"volume={name}")
        for name, part in parts.items()
    ]


def gain(first: pl.DataFrame, second: pl.DataFrame, structure: str) -> dict[str, Any]:
    """Return by how much the mean Dice of ``first`` is above that of ``second``, paired over people."""
    one, two = (table.filter(structure=structure).sort("example_id") for table in (first, second))
    found = compare(MEAN, np.zeros(one.height), one["dice"], two["dice"], participants=one["participant_id"])
    return {"first": found.first.value, "second": found.second.value, **found.gain._asdict(), "p": found.p}


def _value(metrics: pl.DataFrame, name: str, subgroup: str) -> float:
    return float(metrics.filter(name=name, subgroup=subgroup, predictor="model")["value"][0])


def _dice(table: pl.DataFrame) -> pl.DataFrame:
    return table.group_by("structure", maintain_order=True).agg(pl.mean("dice"))


if __name__ == "__main__":
    print({name: value for name, value in script(run).items() if "dice" in name or "gain" in name})
