"""Segmenters from images and masks, masks from segmenters: the wiring behind `clinome train --structures` and `clinome segment`.

    images and masks ─one by one, bad ones set aside─→ split, leakage ─→ plan ─→ network, overlaps, metrics beside the mean shape

Images are read when they are needed and never all held at once, but for those that are held out while it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import clinome
from clinome.cohort.leakage import leakage, refuse_leaking
from clinome.core.errors import CohortError, FormatError, SchemaError
from clinome.core.files import file_name, own_folder, write_json
from clinome.core.progress import track
from clinome.core.provenance import fingerprint, write_provenance
from clinome.imaging.fingerprint import content_of
from clinome.imaging.geometry import Spread
from clinome.imaging.judging import counts, gains_of_masks
from clinome.imaging.reading import fault_of, set_aside_table
from clinome.imaging.scan import Scan
from clinome.studies.example_pictures import LeastCertain, Shown, disagreeing, leave_examples, of_overlaps
from clinome.studies.journal import Journal
from clinome.studies.picture_examples import Examples, examples_of, flow_of
from clinome.studies.picture_files import (
    SHOWN,
    Kind,
    Listed,
    fitting,
    leave,
    listed,
    read_image,
    read_mask,
    usual,
    withdraw,
    write_mask,
)
from clinome.studies.task_file import Pictures, Segment, Task

_PLANNED_ON = 100  # cases that a segmenter's plan looks at
_TABLES = ("metrics", "overlaps", "leakage", "splits", "set_aside", "flow", "counts")  # of a training


def segment_images(
    model: Path, pictures: Pictures, out: Path, *, dicom_seg: bool = False, show: bool = True, threads: int = 1
) -> pl.DataFrame:
    """Segment every image with the segmenter in ``model``: masks beside a table ``segmentations`` of them.

    Volumes become NIfTI on the grid of their file, pictures PNG (0, 1, 2 … as in ``structures``); with ``dicom_seg`` each DICOM
    series gets a DICOM-SEG file that refers to it, and what is none is set aside. Returns the images table with a
    column ``mask_path`` and ``certainty``, the mean probability of the chosen class along the contours. ``show``: whether small
    pictures of the least certain contours are left for the page.
    """
    from clinome.imaging.dicom_seg import grid_of_series
    from clinome.imaging.segmenter import read_about, segmenter
    from clinome.nn.saving import config_of
    from clinome.train.devices import reproducible

    about, apply = read_about(model), segmenter(model)
    kind = Kind(len(about["recipe"]["patch"]), int(config_of(model / about["network"]).get("channels_in", 1)))
    segments = about["structures"] if dicom_seg else ()
    out, found = own_folder(out, "clinome segment"), listed(pictures)
    faults, taken, least = dict[int, tuple[str, str]](), set[str](), LeastCertain()

    def one(row: dict[str, Any], journal: Journal) -> dict[str, Any]:
        """Segment an image, unless it is done and as it was."""
        stem, scan = file_name(row["image_id"], taken), read_image(found.root, row, pictures)
        if dicom_seg:
            grid_of_series(scan)  # or refused, before the work
        shown = fitting(scan, kind, where=row["path"])
        content, done = content_of(shown.values), journal.done.get(row["image_id"], {})
        labels: NDArray[np.integer[Any]] | None = None
        if done.get("content") == content:
            labels = _drawn(out, done, scan, len(about["structures"]))
        if labels is None:
            said = apply(_case(row, shown))
            labels, path = said.labels, write_mask(out, stem, said.labels, scan, segments=segments)
            done = {"content": content, "mask_path": str(path.relative_to(out)), "certainty": _certainty(said)}
            journal.add(row["image_id"], **done)
        if show:
            least.see(row["image_id"], scan.values, labels, done["certainty"])
        return {"image_id": row["image_id"], "mask_path": done["mask_path"], "certainty": done["certainty"]}

    rows, key = [], fingerprint(clinome.__version__, about, dicom_seg, threads)
    journal = Journal(out / "segmented.jsonl", key)
    _withdraw(out, journal)  # before the journal of another run is replaced, which names its masks
    with reproducible(threads), journal:
        for k, row in enumerate(track(found.images.iter_rows(named=True), "segmenting", total=found.images.height)):
            try:
                rows.append(one(row, journal))
            except (FormatError, CohortError) as error:  # of another kind than the network was taught
                faults[k] = fault_of(error)
    if not rows:
        raise FormatError("no image can be segmented", where=pictures.path, got=next(iter(faults.values()))[1])
    schema = {"image_id": pl.String, "mask_path": pl.String, "certainty": pl.Float64}
    made = found.images.drop("mask_path", "certainty", strict=False)  # drawn by others
    made = made.join(pl.DataFrame(rows, schema=schema), on="image_id", maintain_order="left")
    made = made.with_columns(path=pl.Series([str((found.root / path).resolve()) for path in made["path"]], dtype=pl.String))
    aside = pl.concat([found.set_aside, set_aside_table(found.images, faults)], how="diagonal_relaxed")
    _remove_masks(out, {one["mask_path"] for one in journal.done.values()} - set(made["mask_path"]))  # of images that are gone
    leave(out, segmentations=made, set_aside=aside)
    journal.finish()
    leave_examples(out, least.shown("outlines"))
    write_json(out / "summary.json", {"kind": "segment", "title": "Structures in new images"})
    write_provenance(out, inputs=[model / "segmenter.json"], settings={"model": model.name})
    return made


def _withdraw(out: Path, journal: Journal) -> None:
    """Take away what a run before this one left: its tables and page, and its masks, but for those that this run goes on from."""
    table = out / "segmentations.parquet"
    drawn = set(pl.read_parquet(table, columns=["mask_path"])["mask_path"].drop_nulls()) if table.exists() else set[str]()
    drawn |= {one["mask_path"] for one in journal.before.values()}
    _remove_masks(out, drawn - {one["mask_path"] for one in journal.done.values()})
    withdraw(out, "segmentations.parquet", "set_aside.parquet", *SHOWN)


def _remove_masks(out: Path, paths: set[str]) -> None:
    for path in paths:
        if Path(path).parent == Path("masks"):
            (out / path).unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class _Masked:
    """The images of a task that have a mask, by split, and what was found wrong with those that were read so far."""

    task: Task
    about: Segment
    found: Listed
    chosen: Examples
    kind: Kind
    faults: dict[str, tuple[str, str]] = field(default_factory=dict)

    def side(self, name: str) -> pl.DataFrame:
        """Return the rows of a split."""
        return self.chosen.table.filter(pl.col("split") == name)

    def cases(self, side: pl.DataFrame) -> Iterator[Any]:
        """Read the images of ``side`` with their masks, one by one; those that cannot be are left out and noted."""
        for row in side.iter_rows(named=True):
            try:
                scan = fitting(read_image(self.found.root, row, self.task.images), self.kind, where=row["path"])
                mask = read_mask(self.found.root / row[self.about.masks], len(self.about.structures), on=scan)
                yield _case(row, scan, mask)
            except FormatError as error:
                self.faults[row["example_id"]] = fault_of(error)


def train_on_masks(task: Task, out: Path, *, pictures: bool = True) -> pl.DataFrame:
    """Train a segmenter of ``task.segment`` into ``out``; return the metrics of the test images beside the mean shape's.

    ``pictures``: whether small pictures of the images of most disagreement are left for the page.
    """
    from clinome.imaging.segmentation import train_segmenter

    masked = _masked(task)
    report = refuse_leaking(leakage(masked.chosen.table), allow=task.split.allow)
    _see_sides(masked)
    plan, preparation = _planned(masked)
    network, config = _network(plan)
    recipe = _recipe(plan, masked.about, task.task.seed)
    withdraw(out, "plan.json", "history.json", *SHOWN, *(f"{name}.parquet" for name in _TABLES))
    trained = train_segmenter(
        masked.cases(masked.side("train")),
        list(masked.cases(masked.side("validation"))),
        network=network,
        config=config,
        recipe=recipe,
        folder=out / "segmenter",
        structures=list(masked.about.structures),
        preparation=preparation,
        allow=task.split.allow,
        threads=task.task.threads,
    )
    plan = plan.for_steps(trained.steps, str(trained.reason))
    plan.save(out / "plan.json")
    metrics, overlaps, shown = _judged(out, masked, pictures)
    leave(out, metrics=metrics, overlaps=overlaps, leakage=report, **_who(masked))
    leave_examples(out, shown)
    write_json(out / "history.json", trained.history)
    settings = {"plan": asdict(plan), "recipe": asdict(recipe), "training": _training(out / "segmenter", network, trained)}
    write_provenance(out, settings=settings, seed=task.task.seed)
    return metrics


def _masked(task: Task) -> _Masked:
    """List the images of the task and their splits; refuse a table without masks, or with nobody on a side."""
    about = task.segment
    assert about is not None
    found = listed(task.images, fingerprints=True)
    if about.masks not in found.images.columns:
        raise SchemaError(
            f"the images table has no column {about.masks!r}", where=task.images.path, expected="the path of each image's mask"
        )
    masked = _Masked(task, about, found, examples_of(found.images, task, masks=[about.masks]), usual(found, task.images))
    for name in ("train", "validation", "test"):
        if not masked.side(name).height:
            raise CohortError(f"nobody is in the split {name!r}", expected="'train', 'validation' and 'test'")
    return masked


def _see_sides(masked: _Masked) -> None:
    """Refuse a split of which not one image can be read with its mask, before hours of training."""
    for name in ("train", "validation", "test"):
        side = masked.side(name)
        if next(masked.cases(side), None) is None:
            why = next(fault for key, (_, fault) in masked.faults.items() if key in set(side["example_id"]))
            raise CohortError(f"no image of the split {name!r} can be read with its mask", got=why)


def _planned(masked: _Masked) -> tuple[Any, Any]:
    """Plan the network from some of the training images; return the plan, and how patches are prepared."""
    from clinome.imaging.patches import PatchPreparation
    from clinome.imaging.planner import Budget, describe, plan_network, speed_here

    side = masked.side("train")
    some = list(masked.cases(side[:: max(1, -(-side.height // _PLANNED_ON))]))
    classes = len(masked.about.structures) + 1
    scans, masks = [Scan(case.image, case.spacing_mm) for case in some], [np.asarray(case.labels) for case in some]
    facts = describe(scans, masks, classes=classes)
    speed = speed_here(masked.task.task.threads)
    plan = plan_network(facts, Budget(seconds=60 * masked.about.minutes, flops_per_second=speed, orthogonal=True))
    unscaled = any(case.spacing_mm is None for case in some)  # photographs are taken as they are
    return plan, PatchPreparation(None if unscaled else plan.spacing_mm, plan.intensity, plan.labelled)


def _network(plan: Any) -> tuple[Any, Any]:
    """Return the module of the planned network and its ``Config``."""
    from clinome.imaging.models import unet, unet3d

    if plan.dims == 3:
        shape = {"halvings": plan.halvings, "kernels": plan.kernels}
        return unet3d, unet3d.Config.nnunet(plan.channels, plan.classes, plan.widths, **shape)
    return unet, unet.Config(channels_in=plan.channels, outputs=plan.classes, widths=plan.widths)


def _recipe(plan: Any, about: Segment, seed: int) -> Any:
    """Return how what is planned is trained."""
    from clinome.imaging.segmenter import SegmenterRecipe

    return SegmenterRecipe(
        patch=plan.patch,
        batch=plan.batch,
        seconds=60 * about.minutes,
        optimiser="muon",
        learning_rate=0.02,
        weight_decay=0.05,
        clip=12.0,
        spread=Spread(rotation_degrees=15, scale=0.15, elastic_mm=0.8, elastic_grid_mm=12),
        precision=about.precision,
        seed=seed,
    )


def _who(masked: _Masked) -> dict[str, pl.DataFrame]:
    """Return the tables of who is on which side, who was left out and why."""
    table, ids = masked.chosen.table, {name: k for k, name in enumerate(masked.found.images["image_id"])}
    aside = set_aside_table(masked.found.images, {ids[name]: fault for name, fault in masked.faults.items()})
    unreadable = pl.concat([masked.found.set_aside, aside], how="diagonal_relaxed")
    return {
        "splits": table.select("participant_id", "split").unique(maintain_order=True),
        "set_aside": pl.concat([unreadable, masked.chosen.left_out], how="diagonal_relaxed"),
        "flow": flow_of(masked.found, unreadable, masked.chosen).table(),
        "counts": counts(table.filter(~pl.col("example_id").is_in(list(masked.faults))), ()),
    }


def _training(folder: Path, network: Any, trained: Any) -> dict[str, Any]:
    """Return what the page says of how a segmenter was trained."""
    from clinome.imaging.segmenter import read_about
    from clinome.nn.saving import load_model
    from clinome.train.devices import choose_device

    about = read_about(folder)
    parameters = sum(one.numel() for one in load_model(folder / about["network"]).parameters())
    name = network.__name__.rpartition(".")[2]
    how = {"precision": about.get("precision"), "device": choose_device().type, "cpu_seconds": trained.cpu_seconds}
    return {"network": name, "networks": 1, "parameters": parameters, "weights": None, **how}


def _judged(out: Path, masked: _Masked, pictures: bool) -> tuple[pl.DataFrame, pl.DataFrame, list[Shown]]:
    """Segment the test images and compare with their masks; the mean shape of the training masks stands beside.

    Returns metrics, the overlaps of the segmenter, and the examples to show, if ``pictures`` may be.
    """
    from clinome.evaluate.segmentation import compare_masks, segmentation
    from clinome.imaging.segmenter import segmenter
    from clinome.imaging.shape_floor import likeliest, mean_shape
    from clinome.train.devices import reproducible

    structures: Sequence[str] = masked.about.structures
    labels = {name: k + 1 for k, name in enumerate(structures)}
    training = masked.cases(masked.side("train"))
    prior = mean_shape((np.asarray(case.labels) for case in training), classes=len(structures) + 1)
    rows: dict[str, list[pl.DataFrame]] = {"model": [], "mean shape": []}
    drawn, certainty = dict[str, bytes](), dict[str, float | None]()
    apply = segmenter(out / "segmenter")
    for case in masked.cases(masked.side("test")):
        truth = np.asarray(case.labels)
        with reproducible(masked.task.task.threads):
            found = apply(case)
        for name, said in (("model", found.labels), ("mean shape", likeliest(prior, truth.shape))):
            about: dict[str, Any] = {"example_id": case.example_id, "participant_id": case.participant_id}
            rows[name].append(compare_masks(truth, said, labels, spacing=case.spacing_mm, **about))
        if pictures:
            drawn[case.example_id] = disagreeing(case.image, truth, found.labels)
            certainty[case.example_id] = _certainty(found)
    tables = {name: pl.concat(some) for name, some in rows.items()}
    measured = [segmentation(table, predictor=name, split="test") for name, table in tables.items()]
    gains = gains_of_masks(tables["model"], tables["mean shape"], floor_name="mean shape", split="test")
    shown = list(of_overlaps(tables["model"], drawn, certainty, structures)) if pictures else []
    return pl.concat([*measured, gains]), tables["model"], shown


def _case(row: dict[str, Any], scan: Scan, labels: NDArray[np.int16] | None = None) -> Any:
    from clinome.imaging.patches import Case

    name = row.get("example_id") or row["image_id"]
    family = row.get("family_id") or ""
    return Case(name, scan.values, labels, None, scan.spacing_mm, participant_id=row["participant_id"], family_id=family)


def _drawn(out: Path, done: dict[str, Any], scan: Scan, structures: int) -> NDArray[np.int16] | None:
    """Return the labels that a run which was killed drew into ``scan``; None where they are not there or not whole."""
    try:
        return read_mask(out / done["mask_path"], structures, on=scan)
    except FormatError:
        return None


def _certainty(one: Any) -> float | None:
    """Return the mean probability of the chosen class on the border of what was found; None where nothing was."""
    found = one.labels > 0
    edge = np.zeros_like(found)
    for axis in range(found.ndim):
        beside = np.roll(found, 1, axis=axis) != found
        beside[(slice(None),) * axis + (0,)] = False
        edge |= beside
    return float(one.probability.max(axis=0)[edge].mean()) if edge.any() else None
