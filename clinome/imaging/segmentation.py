"""Train a segmentation network on labelled images, in 2-D or 3-D, until it can be applied to new ones.

    cases ─PatchPreparation→ prepared ─SegmenterRecipe→ patches ─train.fit→ network ─held-out cases→ threshold, Dice ─→ a folder

The folder is all that :func:`clinome.imaging.segmenter.segment` needs. Weights are averaged over steps. With one structure the
threshold on its probability is the one with the best Dice over the held-out images' pixels, which must not be those the network is
judged on later; with several, the likeliest class wins.

Killed and started again with the same arguments, :func:`train_segmenter` goes on from its last saved state and ends with the same
bytes, on the same machine with the same number of threads; of another version of Clinome, it begins anew. What is decided by the
clock (the precision that is quickest, the number of steps that fit into a time) is decided once and written down at once.

References
----------
Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation. Nature Methods 18:203–211 (2021), doi:10.1038/s41592-020-01008-z: foreground patches, Dice and cross entropy.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

import clinome
from clinome.cohort.leakage import leakage, refuse_leaking
from clinome.core.errors import CohortError, StudyError
from clinome.core.progress import say
from clinome.core.provenance import fingerprint
from clinome.evaluate.thresholds import choose_threshold
from clinome.imaging.fingerprint import Fingerprint
from clinome.imaging.pace import Pace, decide, measure
from clinome.imaging.parts import print_of
from clinome.imaging.patches import UNKNOWN, Case, Patches, PatchPreparation, case_digest, prepare
from clinome.imaging.segmenter import SegmenterRecipe, finished, labels_of, predict, save_segmenter
from clinome.nn.segmentation_losses import border_weights, over_levels
from clinome.train.batches import Draw, Drawn, Fetch, example_generator, permutation
from clinome.train.devices import Mode, reproducible
from clinome.train.hooks import Clock
from clinome.train.loop import Objective, Settings, fit
from clinome.train.muon import Muon
from clinome.train.schedules import warm_cosine
from clinome.train.state import State, new_state

Loss = Callable[..., Tensor]
"""From an output, classes (n, *space) with unknowns and, where the recipe has a ``border``, pixels' weights to a number."""

_AVERAGED, _DECAY = 0.1, 0.999  # the share of the steps that is averaged over, and the largest decay


class Trained(NamedTuple):
    """A trained segmenter: its folder, and what its held-out images say.

    Attributes
    ----------
    threshold
        From which probability a pixel is the structure; None with several structures.
    held_out_dice
        Of each structure, over the held-out images' pixels together (of as many as there is time for, where the recipe names one).
    history
        One record a validation.
    steps, reason
        How many were made and, where the recipe names a time, what that number rests on.
    leakage
        What each check of :mod:`clinome.cohort.leakage` found.
    cpu_seconds
        That the training took, all its pieces together.
    """

    folder: Path
    threshold: float | None
    held_out_dice: dict[str, float]
    history: list[dict[str, float]]
    steps: int
    reason: str | None
    leakage: dict[str, str]
    cpu_seconds: float


def train_segmenter(
    training: Iterable[Case],
    held_out: Sequence[Case],
    *,
    network: ModuleType,
    config: Any,
    recipe: SegmenterRecipe,
    folder: str | Path,
    structures: Sequence[str],
    preparation: PatchPreparation | None = None,
    loss: Loss | None = None,
    allow: Collection[str] = (),
    threads: int = 1,
    workers: int | None = None,
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
        :func:`clinome.nn.segmentation_losses.over_levels` with what the recipe says of it.
    allow
        Checks of :mod:`clinome.cohort.leakage` (people, families, copies of images) that the two sides may fail: the explicit word.
    threads, workers, device
        As in :class:`clinome.train.loop.Settings`.

    Raises
    ------
    CohortError
        When there is nothing to learn from or to hold out, labels do not fit, or a person, a family or an image is on both sides.
    StudyError
        When the network does not fit the classes, or the patch does not fit the network.
    NotConverged
        When the loss stops being finite.
    """
    folder, preparation, begun = Path(folder), preparation or PatchPreparation(), time.perf_counter()
    _check(held_out, config, structures)
    digests = [case_digest(case) for case in held_out]
    given = (network.__name__, config, recipe, preparation, list(structures), threads, device, digests, _named(loss))
    key = fingerprint(clinome.__version__, *given)
    work = folder / "work" / key
    sides: list[dict[str, Any]] = []
    patches = prepare(_noted(training, "train", sides), work, preparation, classes=len(structures) + 1)
    if not len(patches):
        raise CohortError("there are no images to learn from")
    checks = _apart([*sides, *(_side(case, "held out") for case in held_out)], allow)
    key = fingerprint(key, *(work / f"{number}.{name}.npy" for number in range(len(patches)) for name in ("image", "labels")))
    if (trained := _finished(folder, key)) is None:
        if (folder / "segmenter.json").exists():
            say(
                f"the segmenter in {folder} is of other images, settings or another version of Clinome: "
                "training begins anew, and replaces it when it is done"
            )
        job = _Job(network, config, recipe, preparation, tuple(structures), loss, patches, held_out, work, key)
        settings = Settings(seed=recipe.seed, key=key, threads=threads, workers=workers, device=device)
        _learn(job, replace(settings, precision=recipe.precision, clip=recipe.clip), folder, checks, begun)
        trained = _finished(folder, key)
        assert trained is not None
    shutil.rmtree(folder / "work")
    return trained


class _Job(NamedTuple):
    """What a training is made of; ``work`` is the folder of what is kept while it runs."""

    network: ModuleType
    config: Any
    recipe: SegmenterRecipe
    preparation: PatchPreparation
    structures: tuple[str, ...]
    loss: Loss | None
    patches: Patches
    held_out: Sequence[Case]
    work: Path
    key: str


# ------------------------------------------------------------------------------------------------------------------------ learning


def _learn(job: _Job, settings: Settings, folder: Path, checks: dict[str, str], begun: float) -> None:
    """Decide how long, train, choose the threshold, and write the folder."""
    clock, recipe = Clock(), job.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: nn.Module = job.network.Model(job.config)
    pace = None
    if recipe.seconds is not None:
        pace = _paced(job, model, settings, begun)
        recipe = replace(recipe, steps=pace.steps, validations=pace.validations)
    state = _beginning(model, recipe, clock)
    state.mode = None if pace is None else pace.mode
    shown, judged = (job.held_out, job.held_out) if pace is None else (_some(job.held_out, n) for n in (pace.shown, pace.judged))
    truth = [_truth(case) for case in shown]

    def validate(model: nn.Module) -> dict[str, float]:
        found = (predict(model, case, recipe, job.preparation, views=False).argmax(axis=0) for case in shown)
        overlap = _pooled_dice(zip(truth, found, strict=True), job.structures)
        return {"dice": float(np.mean(list(overlap.values())))}

    fit(
        state,
        until=recipe.steps,
        draw=_draw(job),
        fetch=_fetch(job),
        objective=_objective(job),
        validate=validate,
        settings=replace(
            settings,
            validate_every=max(recipe.steps // max(recipe.validations, 1), 1),
            checkpoint=job.work / "state.safetensors",
            checkpoint_every=max(recipe.steps // 50, 1) if pace is None else pace.checkpoint_every,
        ),
    )
    about = {
        "recipe": asdict(recipe),
        "pace": None if pace is None else pace.reason,
        "leakage": checks,
        "key": job.key,
    }
    _finish(state, job, judged, folder, about, settings.threads)


def _paced(job: _Job, model: nn.Module, settings: Settings, begun: float) -> Pace:
    """Return how many steps fit into the recipe's seconds, as it was decided before, or measure and write it down."""
    path, recipe = job.work / "pace.json", job.recipe
    assert recipe.seconds is not None
    if (kept := Pace.load(path)) is not None:
        return kept
    sizes = [np.prod(case.image.shape[1:]) for case in job.held_out]
    middle = job.held_out[int(np.argsort(sizes)[len(sizes) // 2])]
    measured, mode = measure(
        _beginning(copy.deepcopy(model), recipe, Clock()),
        lambda model: predict(model, middle, recipe, job.preparation, views=False),
        seconds=recipe.seconds,
        draw=_draw(job),
        fetch=_fetch(job),
        objective=_objective(job),
        settings=replace(settings, title="measuring"),
        scratch=job.work / "pilot.safetensors",
    )
    about = {"validations": recipe.validations, "held_out": len(job.held_out), "views": recipe.views}
    pace = decide(measured, mode, seconds=recipe.seconds, spent=time.perf_counter() - begun, **about)
    pace.save(path)
    return pace


def _some(cases: Sequence[Case], n: int) -> list[Case]:
    """Return ``n`` of the cases, spread over all."""
    return [cases[int(k)] for k in np.linspace(0, len(cases) - 1, n)]


def _beginning(model: nn.Module, recipe: SegmenterRecipe, clock: Clock) -> State:
    if recipe.optimiser == "muon":
        optimiser: Optimizer = Muon(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    else:
        optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    average = recipe.average
    if average is None:
        average = min(_DECAY, max(1 - 1 / (_AVERAGED * recipe.steps), 0.0))
    return new_state(model, optimiser, warm_cosine(recipe.steps), average=average, hooks=(clock,))


def _draw(job: _Job) -> Draw:
    """Return the draw that shows each image ``batch`` times an epoch."""
    return permutation(len(job.patches) * job.recipe.batch, job.recipe.batch, seed=job.recipe.seed)


def _fetch(job: _Job) -> Fetch:
    """Return what makes the batch of a draw: patches and, where the network has an output, their labels and weights."""
    recipe, patches, margin = job.recipe, job.patches, getattr(job.config, "margin", 0)

    def fetch(drawn: Drawn) -> tuple[Tensor, ...]:
        images, labels, weights = [], [], []
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
            seen = tuple(slice(margin, side - margin) for side in target.shape)
            images.append(image)
            labels.append(target[seen])
            if recipe.border:
                weights.append(_border(target, recipe.border)[seen])
        batch = [np.stack(images), np.stack(labels).astype(np.int64), *([np.stack(weights)] if weights else [])]
        return tuple(torch.from_numpy(part) for part in batch)

    return fetch


def _border(target: NDArray[np.int16], height: float) -> NDArray[np.float32]:
    """Return how much each pixel of a patch counts: what hangs together in a class is an object."""
    from scipy.ndimage import label

    objects, n = np.zeros(target.shape, np.int32), 0
    for k in np.unique(target[target > 0]):
        of_class, more = label(target == k)
        objects += np.where(of_class > 0, of_class + n, 0)
        n += more
    return border_weights(objects, height=height)


def _objective(job: _Job) -> Objective:
    recipe = job.recipe
    loss = job.loss or partial(over_levels, dice=recipe.dice, focal=recipe.focal)

    def objective(model: nn.Module, batch: tuple[Tensor, ...], _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return loss(model(batch[0]), *batch[1:]), {}

    return objective


# ------------------------------------------------------------------------------------------------------------------------- the end


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


def _finish(state: State, job: _Job, judged: Sequence[Case], folder: Path, about: dict[str, Any], threads: int) -> None:
    """Choose the threshold on held-out images, measure them, and write the folder."""
    model, truth = state.take_best(), [_truth(case) for case in judged]
    threshold = None
    with reproducible(threads):
        found = [predict(model, case, job.recipe, job.preparation) for case in judged]
    if len(job.structures) == 1:
        known = [labels != UNKNOWN for labels in truth]
        positive = np.concatenate([labels[k] == 1 for labels, k in zip(truth, known, strict=True)])
        probability = np.concatenate([p[1][k] for p, k in zip(found, known, strict=True)])
        threshold = choose_threshold(positive, probability, split="held out", rule="f1").value
    dice = _pooled_dice(((t, labels_of(p, threshold)) for t, p in zip(truth, found, strict=True)), job.structures)
    about |= {
        "structures": list(job.structures),
        "preparation": asdict(job.preparation),
        "threshold": threshold,
        "held_out_dice": dice,
        "history": state.history,
        "precision": (state.mode or Mode()).words,
    }
    save_segmenter(folder, model, about, **state.hooks[0].saved())


def _finished(folder: Path, key: str) -> Trained | None:
    """Return what a training of this ``key`` left, if it is there."""
    if (found := finished(folder, key)) is None:
        return None
    about, seconds = found
    threshold, dice, history = (about[name] for name in ("threshold", "held_out_dice", "history"))
    return Trained(folder, threshold, dice, history, int(about["recipe"]["steps"]), about["pace"], about["leakage"], seconds)


# --------------------------------------------------------------------------------------------------------------------------- checks


def _check(held_out: Sequence[Case], config: Any, structures: Sequence[str]) -> None:
    classes = len(structures) + 1
    if config.outputs != classes:
        raise StudyError(
            "the network does not score each class", got=f"outputs={config.outputs}", expected=f"{classes} with background"
        )
    if not held_out or any(case.labels is None for case in held_out):
        raise CohortError(
            "labelled images must be held out from training",
            got=f"{len(held_out)} images",
            do="they give the threshold and the curve",
        )


def _named(loss: Any) -> Any:
    """Return what tells a loss from another: of a module's function its name, the same in any process; of a closure its address."""
    if isinstance(loss, partial):
        return [_named(loss.func), [repr(one) for one in loss.args], {name: repr(one) for name, one in loss.keywords.items()}]
    name = getattr(loss, "__qualname__", "<")
    return repr(loss) if "<" in name else f"{loss.__module__}.{name}"


def _noted(cases: Iterable[Case], split: str, sides: list[dict[str, Any]]) -> Iterator[Case]:
    """Yield the cases; add to ``sides`` who and what each is."""
    for case in cases:
        sides.append(_side(case, split))
        yield case


def _side(case: Case, split: str) -> dict[str, Any]:
    about = {"example_id": case.example_id, "participant_id": case.participant_id, "family_id": case.family_id, "split": split}
    return about | print_of(np.asarray(case.image), case.image.ndim - 1)._asdict()


def _apart(sides: list[dict[str, Any]], allow: Collection[str]) -> dict[str, str]:
    """Return what each check says of the two sides; refuse people, families or images on both."""
    names = ("example_id", "participant_id", "family_id", "split", *Fingerprint._fields)
    report = refuse_leaking(leakage(pl.DataFrame(sides, schema=dict.fromkeys(names, pl.String))), allow=allow)
    return {row["check"]: f"{row['severity']}: {row['note']}".rstrip(": ") for row in report.iter_rows(named=True)}
