"""Train one network on pictures with targets, and ask networks: the part of :mod:`clinome.imaging.prediction` that needs torch.

A picture of an epoch is augmented from (seed, epoch, row), so a training that was killed ends with the same weights as one that was
not.

References
----------
Zhang H, Cisse M, Dauphin YN, Lopez-Paz D. mixup: beyond empirical risk minimization. ICLR (2018), arXiv:1710.09412.
Lakshminarayanan B, Pritzel A, Blundell C. Simple and scalable predictive uncertainty estimation using deep ensembles. NeurIPS
(2017), arXiv:1612.01474.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.evaluate.ranking import auroc
from clinome.imaging.geometry import draw_geometry
from clinome.imaging.pictures import Images, Preparation, augmented, prepared
from clinome.imaging.prediction import Recipe
from clinome.imaging.targets import Coded, decode, loss
from clinome.nn.weights import Report, load_weights
from clinome.train.batches import Drawn, example_generator, permutation, steps_an_epoch
from clinome.train.devices import Mode, choose_device, reproducible
from clinome.train.hooks import Clock
from clinome.train.loop import Settings, Validate, fit
from clinome.train.schedules import steps_down, warm_cosine
from clinome.train.state import State, new_state

_AT_ONCE = 128  # pictures asked about at a time


class Fitted(NamedTuple):
    """A trained network, and in JSON values how it was trained.

    Attributes
    ----------
    about
        ``records`` of the history (one an epoch), the step ``kept`` of ``steps``, the metric ``watched`` (None: the last step is
        kept), ``precision``, ``device``, ``parameters``, ``cpu_seconds``, and of the ``weights`` it began with (None: random ones)
        name, sha256, layout, source, and how many of the network's were ``matched``.
    """

    network: nn.Module
    about: dict[str, Any]


def fit_network(
    images: Images,
    truth: NDArray[np.float32],
    coded: Sequence[Coded],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    *,
    network: Any,
    preparation: Preparation,
    recipe: Recipe,
    checkpoint: Path | None,
    key: str,
    seed: int,
    weights: Path | None = None,
    threads: int = 1,
) -> Fitted:
    """Train one network on the rows ``train``; validate after each epoch on the rows ``validation``, if any.

    Parameters
    ----------
    truth
        As :func:`clinome.imaging.targets.encode`, shape (n_images, n_targets).
    network
        The ``Config`` of a file in ``imaging/models``.
    checkpoint, key
        Where the training is saved after each epoch, and what it depends on.
    weights
        A file of weights to begin with (:func:`clinome.nn.weights.load_weights`; heads are left out).
    """
    draw = permutation(len(train), recipe.batch, seed=seed)
    each = steps_an_epoch(len(train), recipe.batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = built(network, coded, np.asarray(images[int(train[0])]), preparation)
        loaded = None if weights is None else load_weights(model, weights)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    optimiser = kinds[recipe.optimiser](model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    total = each * recipe.epochs
    schedule = steps_down([round(share * total) for share in recipe.drops]) if recipe.drops else warm_cosine(total, warm=0.1)
    together = _takes_views(model)

    known = np.isfinite(truth[train])

    def fetch(drawn: Drawn) -> tuple[Tensor, Tensor, Tensor]:
        rows = train[drawn.rows]
        pictures = [_shown(images, int(row), drawn.epoch, together, preparation, recipe, seed) for row in rows]
        return torch.from_numpy(np.stack(pictures)), torch.from_numpy(truth[rows]), torch.from_numpy(drawn.weight(known))

    def objective(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        pictures, wanted, weight = batch

        def of(outputs: Tensor, wanted: Tensor) -> Tensor:
            return loss(outputs, wanted, coded, weight=weight, smoothing=recipe.smoothing, balance=recipe.balance)

        if not recipe.mixup:
            return of(model(pictures), wanted), {}
        drawn = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        share, order = float(drawn.beta(recipe.mixup, recipe.mixup)), torch.from_numpy(drawn.permutation(len(pictures)))
        outputs = model(pictures.lerp(pictures[order], 1 - share))
        return share * of(outputs, wanted) + (1 - share) * of(outputs, wanted[order]), {}

    watched = recipe.keep == "best" and len(validation) > 0
    ranks = any(one.classes and not one.helps for one in coded)
    settings = Settings(
        seed=seed,
        validate_every=each,
        watch=("auroc" if ranks else "error") if watched else None,
        higher_is_better=ranks,
        checkpoint=checkpoint,
        key=key,
        threads=threads,
        precision=recipe.precision,
        clip=5.0,
    )
    state = new_state(model, optimiser, schedule, average=recipe.average, hooks=(Clock(),))
    validate = _validation(images, truth, coded, validation, preparation, recipe) if len(validation) else None
    fit(state, until=total, draw=draw, fetch=fetch, objective=objective, validate=validate, settings=settings)
    return Fitted(state.take_best(), _told(state, settings.watch, loaded))


def _told(state: State, watched: str | None, loaded: Report | None) -> dict[str, Any]:
    """Return what :class:`Fitted` holds of a training."""
    return {
        "records": state.history,
        "kept": state.best.step if state.best is not None else state.step,
        "steps": state.step,
        "watched": watched,
        "precision": (state.mode or Mode()).words,
        "device": next(state.model.parameters()).device.type,
        "parameters": sum(one.numel() for one in state.model.parameters()),
        "weights": None
        if loaded is None
        else {
            "name": loaded.path.name,
            "sha256": loaded.sha256,
            "layout": loaded.layout,
            "source": loaded.source,
            "matched": len(loaded.matched),
            "missing": len(loaded.missing),
        },
        **state.hooks[0].saved(),
    }


def built(network: Any, coded: Sequence[Coded], image: NDArray[Any], preparation: Preparation) -> nn.Module:
    """Return the network of a ``Config`` with inputs and outputs that fit, first weights from torch's generator."""
    channels = image.shape[-len(preparation.shape) - 1]
    config = replace(network, outputs=sum(one.outputs for one in coded), channels_in=channels)
    model: nn.Module = importlib.import_module(type(network).__module__).Model(config)
    return model


def _takes_views(model: nn.Module) -> bool:
    """Tell whether a network takes all views of an example together."""
    return hasattr(model.config, "views")


def _shown(
    images: Images, row: int, epoch: int, together: bool, preparation: Preparation, recipe: Recipe, seed: int
) -> NDArray[np.float32]:
    """Return what the network sees of a row in an epoch: its picture, one of its views, or all of them."""
    generator = example_generator(seed, epoch, row)
    image = np.asarray(images[row])
    if not together and image.ndim == len(preparation.shape) + 2:
        image = image[generator.integers(len(image))]
    return augmented(image, preparation, recipe.spread, recipe.change, generator)


def _validation(
    images: Images,
    truth: NDArray[np.float32],
    coded: Sequence[Coded],
    rows: NDArray[np.int64],
    preparation: Preparation,
    recipe: Recipe,
) -> Validate:
    """Return the validation: the loss, the mean AUROC over classes that occur, and the mean absolute error in deviations."""

    def validate(model: nn.Module) -> dict[str, float]:
        outputs = outputs_of(model, images, rows, preparation, Recipe())
        wanted = torch.from_numpy(truth[rows])
        missed = loss(torch.from_numpy(outputs).float(), wanted, coded, smoothing=recipe.smoothing, balance=recipe.balance)
        said = decode(outputs, coded)
        areas, errors = [], []
        for k, one in enumerate(coded):
            known = np.isfinite(truth[rows, k])
            if one.helps or not known.any():
                continue
            wanted = truth[rows, k][known]
            if one.classes:
                areas += [
                    auroc(wanted == c, said[one.name][known, c]) for c in range(len(one.classes)) if 0 < (wanted == c).mean() < 1
                ]
            else:
                errors.append(float(np.abs((said[one.name][known, 0] - one.mean) / one.deviation - wanted).mean()))
        found = {"loss": float(missed)} | ({"auroc": float(np.mean(areas))} if areas else {})
        return found | ({"error": float(np.mean(errors))} if errors else {})

    return validate


def outputs_of(
    model: nn.Module, images: Images, rows: NDArray[np.int64], preparation: Preparation, recipe: Recipe
) -> NDArray[np.float64]:
    """Return what a network, in evaluation mode, puts out for ``rows``: (n_rows, n_outputs), averaged over turns and views.

    The turns are the same for every picture and every network; without one, or beside the others, is the picture as it is.
    """
    dims = len(preparation.shape)
    share = recipe.turn_share
    soft = replace(
        recipe.spread,
        rotation_degrees=tuple(share * a for a in np.atleast_1d(recipe.spread.rotation_degrees).tolist())
        if dims == 3
        else share * float(np.max(recipe.spread.rotation_degrees)),
        scale=share * recipe.spread.scale,
        shear=share * recipe.spread.shear,
        shift=share * recipe.spread.shift,
        shift_mm=share * recipe.spread.shift_mm,
        elastic_mm=0.0,
    )
    geometries = [None, *(draw_geometry(example_generator(0, 0, turn), soft, dims) for turn in range(1, recipe.turns))]
    together = _takes_views(model)
    found = []
    for start in range(0, len(rows), _AT_ONCE):
        some = [np.asarray(images[int(row)]) for row in rows[start : start + _AT_ONCE]]
        lone = not together and some[0].ndim == dims + 2
        of = np.repeat(np.arange(len(some)), [len(image) if lone else 1 for image in some])
        shown = [view for image in some for view in image] if lone else some
        asked = [_ask(model, np.stack([prepared(view, preparation, geometry) for view in shown])) for geometry in geometries]
        outputs = np.mean(asked, axis=0)
        total = np.zeros((len(some), outputs.shape[1]))
        np.add.at(total, of, outputs)
        found.append(total / np.bincount(of)[:, None])
    return np.concatenate(found) if found else np.empty((0, 0))


def _ask(model: nn.Module, pictures: NDArray[np.float32]) -> NDArray[np.float64]:
    with torch.no_grad():
        outputs: Tensor = model(torch.from_numpy(pictures).to(next(model.parameters()).device))
    return outputs.double().cpu().numpy()


def answers(
    models: Sequence[nn.Module],
    images: Images,
    rows: NDArray[np.int64],
    coded: Sequence[Coded],
    preparation: Preparation,
    recipe: Recipe,
    *,
    threads: int = 1,
) -> dict[str, NDArray[np.float64]]:
    """Return what networks say on average of each target that is to be predicted: (n_rows, 1) numbers, (n_rows, n_classes)
    probabilities; on a GPU where there is one.
    """
    device = choose_device()
    with reproducible(threads):
        outputs = (outputs_of(model.to(device), images, rows, preparation, recipe) for model in models)
        said = [decode(one, coded, balanced=recipe.balance) for one in outputs]
    return {one.name: np.mean([each[one.name] for each in said], axis=0) for one in coded if not one.helps}
