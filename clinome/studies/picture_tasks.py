"""From tables of images to trained networks and what they say: the wiring behind `clinome train` and `clinome predict`.

    images table ─read, bad files set aside─→ decoded once ─split, leakage─→ train ─→ network, predictions, metrics beside floors

Every function leaves a folder of tables with provenance, and what could not be read in ``set_aside.parquet``. Killed and called
again, it goes on where it was; a folder never shows parts of two runs, for what the one before left goes first.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.errors import FormatError, StudyError
from clinome.core.files import own_folder, write_json
from clinome.core.provenance import write_provenance
from clinome.imaging.geometry import Spread
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Predictor, Recipe, predict, read_predictor, train_predictor
from clinome.imaging.targets import Target
from clinome.studies.example_pictures import leave_examples, of_predictions
from clinome.studies.picture_examples import examples_of, flow_of
from clinome.studies.picture_files import (
    SHOWN,
    Kind,
    Rows,
    all_aside,
    decoded,
    leave,
    listed,
    plain,
    withdraw,
)
from clinome.studies.picture_groups import with_groups
from clinome.studies.segmenting import train_on_masks
from clinome.studies.task_file import Pictures, Predict, Task


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
        metrics = train_on_masks(task, out, pictures=pictures)
    title = task.task.title or f"A network that {'draws structures' if task.segment else 'predicts'}"
    about = {"kind": "train", "title": title, "subtitle": task.task.subtitle, "allowed": list(task.split.allow)}
    write_json(out / "summary.json", {**about, "settings": plain(task.segment or task.predict)})
    return metrics


def predict_images(model: Path, pictures: Pictures, out: Path, *, show: bool = True, threads: int = 1) -> pl.DataFrame:
    """Predict every image with the predictor in ``model``; return and leave ``predictions`` (``core.schema.PREDICTIONS``).

    ``show``: whether small pictures of those it is the least certain of are left for the page.
    """
    taken, known = _taken_by(model)
    out, found = own_folder(out, "clinome predict"), listed(pictures)
    kept = decoded(found, replace(pictures, mirror=known.preparation.mirrored), out, **taken)
    images = kept.images
    names = {"example_ids": images["image_id"].to_list(), "participant_ids": images["participant_id"].to_list()}
    predictions = predict(model, kept, **names, threads=threads)
    withdraw(out, "predictions.parquet", "set_aside.parquet", *SHOWN)
    leave(out, predictions=predictions, set_aside=all_aside(found, kept.decoded))
    places = {name: k for k, name in enumerate(images["image_id"])}
    dims = np.asarray(kept[0]).ndim - 1 if len(kept) else 2
    given: dict[str, Any] = {"dims": dims, "thresholds": known.thresholds}
    leave_examples(out, of_predictions(predictions, kept, places, **given) if show and len(kept) else ())
    write_json(
        out / "summary.json", {"kind": "predict", "title": "Predictions of new images"}
    )  # a name of a file may be a person's
    write_provenance(out, inputs=[model / "predictor.json"], settings={"model": model.name})
    return predictions


# --------------------------------------------------------------------------------------------------------------------- predictors


def _train_predictor(task: Task, about: Predict, out: Path, pictures: bool) -> pl.DataFrame:
    found = listed(task.images)
    if task.images.mirror and ("laterality" not in found.images.columns or not found.images["laterality"].count()):
        do = "give the images table a column 'laterality' of 'left' and 'right', or leave mirror out"
        raise StudyError("no image says which side it is of, so that mirror would not be used", where=task.images.path, do=do)
    kept = decoded(found, task.images, out, size=about.size, fingerprints=True)
    images = kept.images
    chosen = examples_of(images, task, classes=about.classes, numbers=about.numbers)
    examples = with_groups(chosen.table, task)
    order = {name: k for k, name in enumerate(images["image_id"])}
    shown = Rows(kept, [order[name] for name in examples["example_id"]])
    dims = np.asarray(shown[0]).ndim - 1
    targets = [Target(name, "classes", helps=name in about.helps) for name in about.classes]
    targets += [Target(name, "number", helps=name in about.helps) for name in about.numbers]
    unreadable = all_aside(found, kept.decoded)
    flow = flow_of(found, unreadable, chosen)
    trained = train_predictor(
        shown,
        examples,
        targets,
        network=_network(about, dims),
        preparation=Preparation((about.size,) * dims, about.normalise, mirrored=task.images.mirror),
        out=out,
        recipe=Recipe(
            epochs=about.epochs,
            batch=about.batch,
            learning_rate=about.learning_rate,
            members=about.members,
            turns=about.turns,
            spread=Spread(rotation_degrees=10, scale=0.1, shift=0.05),
            precision=about.precision,
        ),
        weights=about.weights,
        floors=about.floors,
        allow=task.split.allow,
        seed=task.task.seed,
        threads=task.task.threads,
        clear=lambda: withdraw(out, "set_aside.parquet", "flow.parquet", *SHOWN),
    )
    leave(out, set_aside=pl.concat([unreadable, chosen.left_out], how="diagonal_relaxed"), flow=flow.table())
    places = {name: k for k, name in enumerate(examples["example_id"])}
    given: dict[str, Any] = {"dims": dims, "thresholds": read_predictor(out).thresholds}
    leave_examples(out, of_predictions(trained.predictions, shown, places, **given) if pictures else ())
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


def _taken_by(model: Path) -> tuple[dict[str, Any], Predictor]:
    """Return what pictures the predictor in ``model`` takes, their ``size`` and ``kind``, and the predictor."""
    from clinome.nn.saving import config_of

    known = read_predictor(model)
    shape = known.preparation.shape
    config = config_of(known.files(next(iter(known.coded)))[0])
    if "views" in config:
        do = "ask it in Python: clinome.imaging.prediction.predict takes images of (views, channels, height, width)"
        raise FormatError("this predictor takes several views of a person together", where=model, got=config["views"], do=do)
    taken = {"size": int(max(shape)), "kind": Kind(len(shape), int(config.get("channels_in", 1)))}
    return taken, known
