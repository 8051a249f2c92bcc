"""Train a segmentation network on labelled images, in 2-D or 3-D, and apply it to new ones.

    cases ─Preparation→ prepared images ─Recipe→ patches ─train.fit→ network ─held-out cases→ threshold, Dice ─→ a folder

The folder holds ``network.safetensors`` (weights, with the import path and the configuration that make the network again) and
``segmenter.json`` (classes, preparation, recipe, threshold, held-out Dice, history): all that :func:`segment` needs. Weights are
averaged over steps. With one structure the threshold on its probability is the one with the best Dice over the held-out images'
pixels, which must not be those the network is judged on later; with several, the likeliest class wins.

Killed and started again with the same arguments, :func:`train_segmenter` goes on from its last saved state and ends with the same
bytes, on the same machine with the same number of threads.

References
----------
Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation. Nature Methods 18:203–211 (2021), doi:10.1038/s41592-020-01008-z: foreground patches, Dice and cross entropy,
Gaussian sliding window, mirrored predictions.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.core.files import write_json
from clinome.core.provenance import fingerprint
from clinome.evaluate.thresholds import choose_threshold
from clinome.imaging.intensity import Change
from clinome.imaging.patches import UNKNOWN, Case, Patches, Preparation, case_digest, prepare
from clinome.imaging.resample import Spread, resample
from clinome.imaging.sliding_window import mirrored, sliding_window
from clinome.nn.saving import load_model, save_model
from clinome.nn.segmentation_losses import over_levels
from clinome.train.batches import Drawn, example_generator, permutation
from clinome.train.devices import Precision, choose_device, reproducible
from clinome.train.loop import Settings, fit
from clinome.train.muon import Muon
from clinome.train.schedules import warm_cosine
from clinome.train.state import State, new_state

Loss = Callable[[Any, Tensor], Tensor]  # (the network's output, classes (n, *space) with unknowns) → a scalar


@dataclass(frozen=True)
class Recipe:
    """How a segmentation network is trained and applied.

    Attributes
    ----------
    patch, batch, steps
        Sides of a patch (multiples of what the network halves them by), patches of a step, steps.
    foreground
        Share of patches centred on a structure.
    optimiser
        "adamw", or "muon" (:class:`clinome.train.muon.Muon`), which needs fewer steps.
    learning_rate, weight_decay, clip
        Of the optimiser: the peak of a warm-up and cosine (muon's wants to be about 0.02); largest norm of the gradient.
    average
        Decay of the moving average of the weights.
    dice
        Weight of soft Dice (over the batch) beside cross entropy.
    spread, change
        How patches are moved and recoloured.
    window, overlap, mirror, quarter_turns
        Of the sliding window (None: sides of a patch), and the views that a prediction is averaged over
        (:func:`clinome.imaging.sliding_window.mirrored`).
    precision
        Of the network in training; predictions are made in float32.
    validations
        How often the held-out images are segmented on the way.
    """

    patch: tuple[int, ...]
    batch: int = 8
    steps: int = 1000
    foreground: float = 1 / 3
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    average: float = 0.999
    dice: float = 1.0
    spread: Spread = field(default_factory=Spread)
    change: Change = field(default_factory=Change)
    window: tuple[int, ...] | None = None
    overlap: float = 0.5
    mirror: tuple[int, ...] = ()
    quarter_turns: bool = False
    precision: Precision = "measure"
    validations: int = 10
    seed: int = 1


class Trained(NamedTuple):
    """A trained segmenter: its folder, and what its held-out images say.

    Attributes
    ----------
    threshold
        From which probability a pixel is the structure; None with several structures.
    held_out_dice
        Of each structure, over all held-out images' pixels together.
    history
        One record a validation.
    cpu_seconds
        That the training took, all its pieces together (``time.json``).
    """

    folder: Path
    threshold: float | None
    held_out_dice: dict[str, float]
    history: list[dict[str, float]]
    cpu_seconds: float


class Segmentation(NamedTuple):
    """What a segmenter says of an image, on the image's own grid.

    Attributes
    ----------
    probability
        Shape (classes, [depth,] height, width), float32, background first.
    labels
        Classes, shape ([depth,] height, width).
    """

    example_id: str
    probability: NDArray[np.float32]
    labels: NDArray[np.uint8]


def train_segmenter(
    training: Iterable[Case],
    held_out: Sequence[Case],
    *,
    network: ModuleType,
    config: Any,
    recipe: Recipe,
    folder: str | Path,
    structures: Sequence[str],
    preparation: Preparation | None = None,
    loss: Loss | None = None,
    threads: int = 1,
    workers: int = 0,
    device: str = "auto",
) -> Trained:
    """Train ``network.Model(config)`` on ``training`` and keep it in ``folder``; a folder that is finished is taken as it is.

    Parameters
    ----------
    training
        Labelled images, read one at a time.
    held_out
        Labelled images of other people: the threshold and the curve of the training come from them.
    structures
        Names of the classes from 1 up; 0 is the background.
    loss
        From the network's output in training and the labels to a scalar; by default
        :func:`clinome.nn.segmentation_losses.over_levels` with the recipe's ``dice``.
    threads, workers, device
        As in :class:`clinome.train.loop.Settings`.

    Raises
    ------
    CohortError
        When there is nothing to learn from or to hold out, labels do not fit, or a person is on both sides.
    StudyError
        When the network does not fit the classes, or the patch does not fit the network.
    NotConverged
        When the loss stops being finite.
    """
    folder, preparation = Path(folder), preparation or Preparation()
    classes = len(structures) + 1
    if config.outputs != classes:
        raise StudyError(
            "the network does not score each class", got=f"outputs={config.outputs}", expected=f"{classes} with background"
        )
    _check_held_out(held_out)
    key = fingerprint(
        network.__name__,
        config,
        recipe,
        preparation,
        list(structures),
        threads,
        device,
        [case_digest(c) for c in held_out],
        repr(loss),
    )
    work = folder / "work" / key
    patches = prepare(_apart(training, held_out), work, preparation, classes=classes)
    if not len(patches):
        raise CohortError("there are no images to learn from")
    key = fingerprint(key, *(work / f"{number}.{name}.npy" for number in range(len(patches)) for name in ("image", "labels")))
    if (finished := _finished(folder, key)) is not None:
        shutil.rmtree(folder / "work")
        return finished
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = network.Model(config)
    settings = Settings(
        seed=recipe.seed,
        validate_every=max(recipe.steps // max(recipe.validations, 1), 1),
        checkpoint=work / "state.safetensors",
        checkpoint_every=max(recipe.steps // 50, 1),
        key=key,
        threads=threads,
        workers=workers,
        device=device,
        precision=recipe.precision,
        clip=recipe.clip,
    )
    truth = [_truth(case) for case in held_out]

    def validate(model: nn.Module) -> dict[str, float]:
        found = (predict(model, case, recipe, preparation, views=False).argmax(axis=0) for case in held_out)
        overlap = _pooled_dice(zip(truth, found, strict=True), structures)
        return {"dice": float(np.mean(list(overlap.values())))}

    state = fit(
        _beginning(model, recipe),
        until=recipe.steps,
        draw=permutation(len(patches) * recipe.batch, recipe.batch, seed=recipe.seed),  # each image `batch` times an epoch
        fetch=_fetch(patches, recipe, getattr(config, "margin", 0)),
        objective=_objective(loss or partial(over_levels, dice=recipe.dice)),
        validate=validate,
        settings=settings,
    )
    trained = _finish(state, held_out, truth, recipe, preparation, structures, folder, key=key, threads=threads)
    shutil.rmtree(folder / "work")
    return trained


def segment(
    folder: str | Path, cases: Iterable[Case], *, device: str = "auto", batch: int | None = None, views: bool = True
) -> Iterator[Segmentation]:
    """Segment ``cases`` (their labels are not looked at) with the network in ``folder``, one at a time.

    Parameters
    ----------
    batch
        Patches at once; by default as many as in training.
    views
        Whether to average over mirror images and turns, as the recipe says.

    Raises
    ------
    FormatError
        When the folder holds no segmenter.
    CohortError
        When an image does not have the channels or the axes of the training's, or lacks its spacing.
    """
    yield from map(segmenter(folder, device=device, batch=batch, views=views), cases)


def segmenter(
    folder: str | Path, *, device: str = "auto", batch: int | None = None, views: bool = True
) -> Callable[[Case], Segmentation]:
    """Return the segmenter in ``folder``, read once, as a function of a case; arguments and errors are those of :func:`segment`."""
    about = _about(Path(folder))
    recipe, preparation = _recipe(about["recipe"]), Preparation(**_tuples(about["preparation"]))
    model = load_model(Path(folder) / "network.safetensors").to(choose_device(device))

    def apply(case: Case) -> Segmentation:
        probability = predict(model, case, recipe, preparation, batch=batch, views=views)
        return Segmentation(case.example_id, probability, labels_of(probability, about["threshold"], case.inside))

    return apply


def labels_of(
    probability: NDArray[np.float32], threshold: float | None, inside: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return classes from probabilities (classes, *space): class 1 from ``threshold`` on, or without one the likeliest."""
    labels = probability.argmax(axis=0) if threshold is None else probability[1] >= threshold
    return np.asarray(labels if inside is None else labels * inside, np.uint8)


def predict(
    model: nn.Module, case: Case, recipe: Recipe, preparation: Preparation, *, batch: int | None = None, views: bool = True
) -> NDArray[np.float32]:
    """Return probabilities of the classes on the case's own grid, (classes, *space), by a sliding window of prepared patches."""
    wanted, axes = getattr(model.config, "channels_in", len(case.image)), len(recipe.patch)
    if case.image.ndim != axes + 1 or len(case.image) != wanted:
        raise CohortError(
            "an image is not of the kind the network was trained on",
            where=case.example_id,
            got=f"shape {case.image.shape}",
            expected=f"{wanted} channels and {axes} axes of space",
        )
    device = next(model.parameters()).device

    def probabilities(patches: Tensor) -> Tensor:
        scores: Tensor = model(patches.to(device))
        return scores.float().softmax(dim=1)

    found = sliding_window(
        mirrored(probabilities, recipe.mirror, quarter_turns=recipe.quarter_turns) if views else probabilities,
        preparation.image(case),
        patch=recipe.window or recipe.patch,
        overlap=recipe.overlap,
        margin=getattr(model.config, "margin", 0),
        batch=batch or recipe.batch,
    )
    where = preparation.where(case)
    if where:  # back from the network's spacing
        found = resample(found, shape=case.image.shape[1:], spacing=where["out_spacing"], out_spacing=where["spacing"], fill="edge")
    return found


# ------------------------------------------------------------------------------------------------------------------ parts


def _beginning(model: nn.Module, recipe: Recipe) -> State:
    if recipe.optimiser == "muon":
        optimiser: Optimizer = Muon(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    else:
        optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return new_state(model, optimiser, warm_cosine(recipe.steps), average=recipe.average, hooks=(Clock(),))


class Clock:
    """A hook that adds up the processor time of all pieces of a training."""

    name = "clock"

    def __init__(self) -> None:
        self.before, self.start = 0.0, time.process_time()

    def after_step(self, state: State, logs: dict[str, float]) -> str | None:
        """Never stop."""
        return None

    def saved(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"cpu_seconds": self.before + time.process_time() - self.start}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from :meth:`saved`."""
        self.before, self.start = saved.get("cpu_seconds", 0.0), time.process_time()


def _fetch(patches: Patches, recipe: Recipe, margin: int) -> Callable[[Drawn], tuple[Tensor, Tensor]]:
    """Return what makes the batch of a draw: patches and, where the network has an output, their labels."""

    def fetch(drawn: Drawn) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for row in drawn.rows.tolist():
            generator = example_generator(recipe.seed, drawn.epoch, row)
            image, target = patches.draw(
                generator,
                row % len(patches),
                recipe.patch,
                foreground=recipe.foreground,
                spread=recipe.spread,
                change=recipe.change,
            )
            images.append(image)
            labels.append(target[tuple(slice(margin, side - margin) for side in target.shape)])
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels).astype(np.int64))

    return fetch


def _objective(loss: Loss) -> Callable[[nn.Module, Any, torch.Generator], tuple[Tensor, dict[str, float]]]:
    def objective(model: nn.Module, batch: tuple[Tensor, Tensor], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return loss(model(batch[0]), batch[1]), {}

    return objective


def _truth(case: Case) -> NDArray[np.int16]:
    """Return the labels, unknown outside."""
    labels = np.asarray(case.labels, np.int16)
    return labels if case.inside is None else np.where(case.inside, labels, np.int16(UNKNOWN))


def _pooled_dice(pairs: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]], structures: Sequence[str]) -> dict[str, float]:
    """Return the Dice of each structure over the known pixels of all images (truth, found) together."""
    both, either = np.zeros(len(structures)), np.zeros(len(structures))
    for truth, found in pairs:
        known = truth != UNKNOWN
        for k in range(len(structures)):
            a, b = truth == k + 1, (found == k + 1) & known
            both[k] += np.count_nonzero(a & b)
            either[k] += np.count_nonzero(a) + np.count_nonzero(b)
    return {name: float(2 * both[k] / either[k]) if either[k] else float("nan") for k, name in enumerate(structures)}


def _finish(
    state: State,
    held_out: Sequence[Case],
    truth: Sequence[NDArray[np.int16]],
    recipe: Recipe,
    preparation: Preparation,
    structures: Sequence[str],
    folder: Path,
    *,
    key: str,
    threads: int,
) -> Trained:
    """Choose the threshold on the held-out images, measure them, and write the folder."""
    model = state.take_best()
    threshold = None
    with reproducible(threads):
        found = [predict(model, case, recipe, preparation) for case in held_out]
    if len(structures) == 1:
        known = [labels != UNKNOWN for labels in truth]
        positive = np.concatenate([labels[k] == 1 for labels, k in zip(truth, known, strict=True)])
        probability = np.concatenate([p[1][k] for p, k in zip(found, known, strict=True)])
        threshold = choose_threshold(positive, probability, split="held out", rule="f1").value
    dice = _pooled_dice(((t, labels_of(p, threshold)) for t, p in zip(truth, found, strict=True)), structures)
    about = {
        "structures": list(structures),
        "preparation": asdict(preparation),
        "recipe": asdict(recipe),
        "threshold": threshold,
        "held_out_dice": dice,
        "history": state.history,
        "key": key,
    }
    save_model(model, folder / "network.safetensors")
    seconds = state.hooks[0].saved()
    write_json(folder / "time.json", seconds)
    write_json(folder / "segmenter.json", about)
    return Trained(folder, threshold, dice, state.history, **seconds)


def _finished(folder: Path, key: str) -> Trained | None:
    """Return what a training of this ``key`` left, if it is there."""
    if not (folder / "segmenter.json").exists():
        return None
    about = _about(folder)
    if about["key"] != key:
        return None
    seconds = json.loads((folder / "time.json").read_text(encoding="utf-8"))
    return Trained(folder, about["threshold"], about["held_out_dice"], about["history"], **seconds)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "segmenter.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError("this folder holds no segmenter", where=path, got=error, do="train one with train_segmenter") from error
    return about


def _recipe(saved: dict[str, Any]) -> Recipe:
    plain = _tuples(saved)
    return Recipe(**{**plain, "spread": Spread(**plain["spread"]), "change": Change(**plain["change"])})


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _check_held_out(held_out: Sequence[Case]) -> None:
    if not held_out or any(case.labels is None for case in held_out):
        raise CohortError(
            "labelled images must be held out from training",
            got=f"{len(held_out)} images",
            do="they give the threshold and the curve",
        )


def _apart(training: Iterable[Case], held_out: Sequence[Case]) -> Iterator[Case]:
    """Yield the training cases; refuse one whose image or person is held out."""
    images, people = {case.example_id for case in held_out}, {case.participant_id for case in held_out} - {""}
    for case in training:
        if case.example_id in images or case.participant_id in people:
            raise CohortError(
                "an image or a person is both trained on and held out",
                got=case.example_id if case.example_id in images else case.participant_id,
                do="split by person",
            )
        yield case
