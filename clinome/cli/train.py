"""`clinome train`: a network from labelled images, measured beside floors."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from clinome.cli._choices import Precision


def train(
    out: Annotated[Path, typer.Option(help="The folder to write into; made when it is not there.", show_default=False)],
    task: Annotated[
        Path | None, typer.Argument(help="A task file (TOML); or name the images and what to learn by options.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Images table (.parquet, .csv, .tsv), or a folder of DICOM, NIfTI, PNG or JPEG files.")
    ] = None,
    targets: Annotated[Path | None, typer.Option(help="Table with image_id or participant_id and what is known of each.")] = None,
    classes: Annotated[str | None, typer.Option(help="Columns that are classes, by commas.")] = None,
    numbers: Annotated[str | None, typer.Option(help="Columns that are numbers, by commas.")] = None,
    structures: Annotated[
        str | None, typer.Option(help="Segment instead: names of labels 1, 2, … of the masks in the column mask_path, by commas.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="DICOM modality of the files to take, e.g. DX.")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Flip left eyes and limbs, so that left and right look alike.")] = False,
    network: Annotated[str, typer.Option(help="resnet18, resnet50, inception_v3 or densenet121.")] = "resnet18",
    weights: Annotated[Path | None, typer.Option(help="File of weights to begin with.")] = None,
    size: Annotated[int, typer.Option(help="Pixels a side that the network reads.")] = 112,
    epochs: Annotated[int, typer.Option(help="How often every picture is shown.")] = 30,
    minutes: Annotated[float, typer.Option(help="Time that a segmenter may train.")] = 30.0,
    members: Annotated[int, typer.Option(help="Networks that differ in their seed and are averaged.")] = 1,
    splits: Annotated[
        Path | None, typer.Option(help="Table of participant_id and split; people are split at random without.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Cross-fit in so many folds of people instead.")] = 0,
    participants: Annotated[Path | None, typer.Option(help="Table of people whose family_id keeps families on one side.")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="A check of leakage that may fail; may be repeated.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the network in training; measure: the quickest, found on the first batch and kept.")
    ] = Precision.measure,
    seed: Annotated[int, typer.Option(help="Of all that is drawn; the clock alone decides precision and a segmenter's steps.")] = 1,
    threads: Annotated[int, typer.Option(help="Processor cores to use.")] = 2,
    pictures: Annotated[
        bool, typer.Option(help="Leave small pictures of single examples for the report, which then shows people.")
    ] = True,
) -> None:
    """Train a network to predict or to segment, with floors, intervals and a leakage report beside it.

    Example:

        clinome train --images scans.csv --targets people.csv --classes sex --numbers age --folds 5 --out model
    """
    given = dict(locals())
    from clinome.cli._print import print_metrics, print_report, print_set_aside
    from clinome.studies.picture_tasks import train as run
    from clinome.studies.task_file import About, Pictures, Predict, Segment, Split, Task, read_task

    if (task is None) == (images is None):
        raise typer.BadParameter("name either a task file or --images")
    _refuse_unused(given, ignored=_BY_FILE if task else _OF_CLASSES if structures else ("minutes",), task=task)
    if images is None:
        assert task is not None
        wanted = read_task(task)
    else:
        of_images = Pictures(images, targets, modality, mirror)
        split = Split(splits, folds, participants=participants, allow=tuple(allow or ()))
        about = About(seed=seed, threads=threads)
        if structures is not None:
            wanted = Task(of_images, about, split, segment=Segment(_listed(structures), minutes=minutes, precision=precision.value))
        else:
            how = {"weights": weights, "size": size, "epochs": epochs, "members": members, "precision": precision.value}
            learned = Predict(_listed(classes), _listed(numbers), network=network, **how)  # type: ignore[arg-type]
            wanted = Task(of_images, about, split, predict=learned)
    print_metrics(run(wanted, out, pictures=pictures))
    print_set_aside(out)
    print_report(out, pictures=pictures)


_OF_CLASSES = ("targets", "classes", "numbers", "mirror", "network", "weights", "size", "epochs", "members")
_OF_BOTH = ("structures", "modality", "minutes", "splits", "folds", "participants", "allow", "precision", "seed", "threads")
_BY_FILE = (*_OF_CLASSES, *_OF_BOTH)


def _refuse_unused(given: dict[str, Any], *, ignored: tuple[str, ...], task: Path | None) -> None:
    """Refuse options that would not be used: beside a task file, or of the other kind of task."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    if unused := [f"--{name}" for name in ignored if given[name] != defaults[name]]:
        where = "a task file says it" if task else "it is of the other kind of task"
        raise typer.BadParameter(f"{', '.join(unused)} would not be used: {where}")


def _listed(words: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip()) if words else ()
