"""From tables of images to trained networks and what they say: the wiring behind `clinome train`, `predict` and `segment`.

    images table ─read, bad files set aside─→ decoded once ─split, leakage─→ train ─→ network, predictions, metrics beside floors

Every function leaves a folder of tables with provenance, and what could not be read in ``set_aside.parquet``. Killed and called
again, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.leakage import leakage, refuse_leaking
from clinome.core.errors import CohortError, FormatError, SchemaError, StudyError
from clinome.core.files import file_name, own_folder, write_json
from clinome.core.progress import track
from clinome.core.provenance import fingerprint, write_provenance
from clinome.imaging.fingerprint import content_of
from clinome.imaging.geometry import Spread
from clinome.imaging.judging import counts, gains_of_masks
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Recipe, predict, read_predictor, train_predictor
from clinome.imaging.reading import fault_of, set_aside_table
from clinome.imaging.scan import Scan
from clinome.imaging.targets import Target
from clinome.studies.example_pictures import LeastCertain, Shown, disagreeing, leave_examples, of_overlaps, of_predictions
from clinome.studies.journal import Journal
from clinome.studies.picture_examples import examples_of, flow_of
from clinome.studies.picture_files import (
    Kind,
    Rows,
    all_aside,
    decoded,
    fitting,
    leave,
    listed,
    plain,
    read_image,
    read_mask,
    usual,
    write_mask,
)
from clinome.studies.picture_groups import with_groups
from clinome.studies.task_file import Pictures, Predict, Task

_PLANNED_ON = 100  # cases that a segmenter's plan looks at


def train(task: Task, out: Path, *, pictures: bool = True) -> pl.DataFrame:
    """Train what ``task`` says into ``out``; return the metrics, model and floors, of people it never saw.

    ``pictures``: whether small pictures of single examples are left for the page (:mod:`clinome.studies.example_pictures`).

    Raises
    ------
    ClinomeError
        Of the part that fails, with what to do.
    """
    out = own_folder(out, f"clinome train, {'structures' if task.segment else 'classes and numbers'}")
    if task.predict is not None:
        metrics = _train_predictor(task, task.predict, out, pictures)
    else:
        metrics = _train_segmenter(task, out, pictures)
    title = task.task.title or f"{'Structures' if task.segment else 'Predictions'} from {task.images.path.name}"
    about = {"kind": "train", "title": title, "subtitle": task.task.subtitle, "allowed": list(task.split.allow)}
    write_json(out / "summary.json", {**about, "settings": plain(task.segment or task.predict)})
    return metrics


def predict_images(model: Path, pictures: Pictures, out: Path, *, show: bool = True) -> pl.DataFrame:
    """Predict every image with the predictor in ``model``; return and leave ``predictions`` (``core.schema.PREDICTIONS``).

    ``show``: whether small pictures of those it is the least certain of are left for the page.
    """
    taken, mirrored = _taken_by(model)
    out, found = own_folder(out, "clinome predict"), listed(pictures)
    kept = decoded(found, replace(pictures, mirror=mirrored), out, **taken)
    images = found.images[kept.decoded.rows]
    names = {"example_ids": images["image_id"].to_list(), "participant_ids": images["participant_id"].to_list()}
    predictions = predict(model, kept, **names)
    leave(out, predictions=predictions, set_aside=all_aside(found, kept.decoded))
    places = {name: k for k, name in enumerate(images["image_id"])}
    dims = np.asarray(kept[0]).ndim - 1 if len(kept) else 2
    leave_examples(out, of_predictions(predictions, kept, places, dims=dims) if show and len(kept) else ())
    write_json(out / "summary.json", {"kind": "predict", "title": f"Predictions of {pictures.path.name}"})
    write_provenance(out, inputs=[model / "predictor.json"], settings={"model": model.name})
    return predictions


def segment_images(model: Path, pictures: Pictures, out: Path, *, dicom_seg: bool = False, show: bool = True) -> pl.DataFrame:
    """Segment every image with the segmenter in ``model``: masks beside a table ``segmentations`` of them.

    Volumes become NIfTI on the grid of their file, pictures PNG (0, 1, 2 … as in ``structures``); with ``dicom_seg`` each DICOM
    series gets a DICOM-SEG file that refers to it, and what is none is set aside. Returns the images table with a
    column ``mask_path`` and ``certainty``, the mean probability of the chosen class along the contours. ``show``: whether small
    pictures of the least certain contours are left for the page.
    """
    from clinome.imaging.dicom_seg import grid_of_series
    from clinome.imaging.segmenter import read_about, segmenter
    from clinome.nn.saving import config_of

    about, apply = read_about(model), segmenter(model)
    kind = Kind(len(about["recipe"]["patch"]), int(config_of(model / about["network"]).get("channels_in", 1)))
    segments = about["structures"] if dicom_seg else ()
    out, found = own_folder(out, "clinome segment"), listed(pictures)
    (out / "segmentations.parquet").unlink(missing_ok=True)  # of a run before this one: masks are replaced one by one
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

    rows = []
    with Journal(out / "segmented.jsonl", fingerprint(about, dicom_seg)) as journal:
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
    leave(out, segmentations=made, set_aside=aside)
    journal.finish()
    leave_examples(out, least.shown("outlines"))
    write_json(out / "summary.json", {"kind": "segment", "title": f"Structures in {pictures.path.name}"})
    write_provenance(out, inputs=[model / "segmenter.json"], settings={"model": model.name})
    return made


# --------------------------------------------------------------------------------------------------------------------- predictors


def _train_predictor(task: Task, about: Predict, out: Path, pictures: bool) -> pl.DataFrame:
    found = listed(task.images, fingerprints=True)
    kept = decoded(found, task.images, out, size=about.size)
    images = found.images[kept.decoded.rows]
    chosen = examples_of(images, task, classes=about.classes, numbers=about.numbers)
    examples = with_groups(chosen.table, task)
    order = {name: k for k, name in enumerate(images["image_id"])}
    shown = Rows(kept, [order[name] for name in examples["example_id"]])
    dims = np.asarray(shown[0]).ndim - 1
    targets = [Target(name, "classes", helps=name in about.helps) for name in about.classes]
    targets += [Target(name, "number", helps=name in about.helps) for name in about.numbers]
    unreadable = all_aside(found, kept.decoded)
    flow = flow_of(found, unreadable, chosen)
    leave(out, set_aside=pl.concat([unreadable, chosen.left_out], how="diagonal_relaxed"), flow=flow.table())
    trained = train_predictor(
        shown,
        examples,
        targets,
        network=_network(about, dims),
        preparation=Preparation((about.size,) * dims, mirrored=task.images.mirror),
        out=out,
        recipe=Recipe(
            epochs=about.epochs,
            batch=about.batch,
            learning_rate=about.learning_rate,
            members=about.members,
            turns=about.turns,
            spread=Spread(rotation_degrees=10, scale=0.1, shift=0.05),
            precision="measure",
        ),
        weights=about.weights,
        floors=about.floors,
        allow=task.split.allow,
        seed=task.task.seed,
    )
    places = {name: k for k, name in enumerate(examples["example_id"])}
    leave_examples(out, of_predictions(trained.predictions, shown, places, dims=dims) if pictures else ())
    return trained.metrics


def _network(about: Predict, dims: int) -> Any:
    """Return the ``Config`` of the network that is asked for; small pictures take the small stem."""
    from clinome.imaging.models import densenet, inception_v3, resnet

    if about.network in ("resnet18", "resnet50"):
        layers: Any = int(about.network[6:])
        stem: Any = "small" if about.size <= 64 else "large"
        return resnet.Config(layers=layers, dims=3 if dims == 3 else 2, stem=stem, pool=about.pool)
    if about.network == "densenet121":
        return densenet.Config(dims=3 if dims == 3 else 2, pool=about.pool)
    if dims == 3 or about.size < 75:
        raise StudyError("inception_v3 takes pictures of 75 pixels and more", got=f"size {about.size}", do="choose resnet18")
    return inception_v3.Config(pool=about.pool)


def _taken_by(model: Path) -> tuple[dict[str, Any], bool]:
    """Return what pictures the predictor in ``model`` takes: their ``size`` and ``kind``, and whether left sides are mirrored."""
    from clinome.nn.saving import config_of

    known = read_predictor(model)
    shape = known.preparation.shape
    config = config_of(known.files(next(iter(known.coded)))[0])
    if "views" in config:
        do = "ask it in Python: clinome.imaging.prediction.predict takes images of (views, channels, height, width)"
        raise FormatError("this predictor takes several views of a person together", where=model, got=config["views"], do=do)
    taken = {"size": int(max(shape)), "kind": Kind(len(shape), int(config.get("channels_in", 1)))}
    return taken, known.preparation.mirrored


# --------------------------------------------------------------------------------------------------------------------- segmenters


def _train_segmenter(task: Task, out: Path, pictures: bool) -> pl.DataFrame:
    from clinome.imaging.models import unet, unet3d
    from clinome.imaging.patches import PatchPreparation
    from clinome.imaging.planner import Budget, describe, plan_network, speed_here
    from clinome.imaging.segmentation import train_segmenter
    from clinome.imaging.segmenter import SegmenterRecipe

    about = task.segment
    assert about is not None
    found = listed(task.images, fingerprints=True)
    if about.masks not in found.images.columns:
        raise SchemaError(
            f"the images table has no column {about.masks!r}", where=task.images.path, expected="the path of each image's mask"
        )
    chosen = examples_of(found.images, task, masks=[about.masks])
    table = chosen.table
    report = refuse_leaking(leakage(table), allow=task.split.allow)
    sides = {name: table.filter(pl.col("split") == name) for name in ("train", "validation", "test")}
    for name, side in sides.items():
        if not side.height:
            raise CohortError(f"nobody is in the split {name!r}", expected="'train', 'validation' and 'test'")
    faults: dict[str, tuple[str, str]] = {}
    kind = usual(found, task.images)

    def cases(side: pl.DataFrame) -> Iterator[Any]:
        for row in side.iter_rows(named=True):
            try:
                scan = fitting(read_image(found.root, row, task.images), kind, where=row["path"])
                yield _case(row, scan, read_mask(found.root / row[about.masks], len(about.structures), on=scan))
            except FormatError as error:
                faults[row["example_id"]] = fault_of(error)

    for name, side in sides.items():  # before hours of training
        if next(cases(side), None) is None:
            why = next(fault for key, (_, fault) in faults.items() if key in set(side["example_id"]))
            raise CohortError(f"no image of the split {name!r} can be read with its mask", got=why)
    step = max(1, -(-sides["train"].height // _PLANNED_ON))
    some = list(cases(sides["train"][::step]))
    unscaled = any(case.spacing_mm is None for case in some)  # photographs are taken as they are
    facts = describe(
        [Scan(c.image, c.spacing_mm) for c in some], [np.asarray(c.labels) for c in some], classes=len(about.structures) + 1
    )
    seconds = 60 * about.minutes
    plan = plan_network(facts, Budget(seconds=seconds, flops_per_second=speed_here(task.task.threads), orthogonal=True))
    plan.save(out / "plan.json")
    network: Any = unet3d if plan.dims == 3 else unet
    config = (
        unet3d.Config.nnunet(plan.channels, plan.classes, plan.widths, halvings=plan.halvings, kernels=plan.kernels)
        if plan.dims == 3
        else unet.Config(channels_in=plan.channels, outputs=plan.classes, widths=plan.widths)
    )
    recipe = SegmenterRecipe(
        patch=plan.patch,
        batch=plan.batch,
        seconds=seconds,
        optimiser="muon",
        learning_rate=0.02,
        weight_decay=0.05,
        clip=12.0,
        spread=Spread(rotation_degrees=15, scale=0.15, elastic_mm=0.8, elastic_grid_mm=12),
        precision="measure",
        seed=task.task.seed,
    )
    trained = train_segmenter(
        cases(sides["train"]),
        list(cases(sides["validation"])),
        network=network,
        config=config,
        recipe=recipe,
        folder=out / "segmenter",
        structures=list(about.structures),
        preparation=PatchPreparation(None if unscaled else plan.spacing_mm, plan.intensity, plan.labelled),
        allow=task.split.allow,
        threads=task.task.threads,
    )
    plan = plan.for_steps(trained.steps, str(trained.reason))
    plan.save(out / "plan.json")
    metrics, overlaps, shown = _judged(out, cases, sides, about.structures, pictures)
    ids = {name: k for k, name in enumerate(found.images["image_id"])}
    aside = set_aside_table(found.images, {ids[name]: fault for name, fault in faults.items()})
    splits = table.select("participant_id", "split").unique(maintain_order=True)
    unreadable = pl.concat([found.set_aside, aside], how="diagonal_relaxed")
    flow = flow_of(found, unreadable, chosen)
    aside = pl.concat([unreadable, chosen.left_out], how="diagonal_relaxed")
    read = table.filter(~pl.col("example_id").is_in(list(faults)))
    tables = {
        "metrics": metrics,
        "overlaps": overlaps,
        "leakage": report,
        "splits": splits,
        "set_aside": aside,
        "flow": flow.table(),
    }
    leave(out, counts=counts(read, ()), **tables)
    leave_examples(out, shown)
    write_json(out / "history.json", trained.history)
    settings = {"plan": asdict(plan), "recipe": asdict(recipe), "training": _training(out / "segmenter", network, trained)}
    write_provenance(out, settings=settings, seed=task.task.seed)
    return metrics


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


def _judged(
    out: Path, cases: Any, sides: dict[str, pl.DataFrame], structures: Sequence[str], pictures: bool
) -> tuple[pl.DataFrame, pl.DataFrame, list[Shown]]:
    """Segment the test images and compare with their masks; the mean shape of the training masks stands beside.

    Returns metrics, the overlaps of the segmenter, and the examples to show, if ``pictures`` may be.
    """
    from clinome.evaluate.segmentation import compare_masks, segmentation
    from clinome.imaging.segmenter import segmenter
    from clinome.imaging.shape_floor import likeliest, mean_shape

    labels = {name: k + 1 for k, name in enumerate(structures)}
    prior = mean_shape((np.asarray(case.labels) for case in cases(sides["train"])), classes=len(structures) + 1)
    rows: dict[str, list[pl.DataFrame]] = {"model": [], "mean shape": []}
    drawn, certainty = dict[str, bytes](), dict[str, float | None]()
    apply = segmenter(out / "segmenter")
    for case in cases(sides["test"]):
        truth = np.asarray(case.labels)
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
