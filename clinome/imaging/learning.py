"""Teach an encoder from pictures of people, on the one training loop, and apply it. What it learns from is an objective:

    simclr       two pictures of a person (the other eye, another visit) are pulled together, other people pushed apart; what a
                 person's pictures share is kept (anatomy, pigmentation), what changes between them is not (camera, light, focus)
    identity     every person is a class, both eyes and all visits alike, told apart with a margin (iGWAS); targets beside it
                 weigh a tenth, as the grade of retinopathy does there
    supervised   targets of people: numbers by squared error, categories by cross entropy, all at once

Training saves everything it needs after each epoch. Killed and started again it goes on from there and ends with the same
bytes, on the same machine with the same number of threads.

References
----------
Chen T, Kornblith S, Norouzi M, Hinton G. A simple framework for contrastive learning of visual representations. ICML (2020),
arXiv:2002.05709. Xie Z et al. iGWAS. PLOS Genetics 20:e1011273 (2024), doi:10.1371/journal.pgen.1011273. Loshchilov I, Hutter F.
Decoupled weight decay regularization. ICLR (2019), arXiv:1711.05101.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, TraitError
from clinome.imaging.features import DRAWS, Views, augment, draw_pairs, to_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clinome.nn.weights import Preprocessing
    from clinome.train.batches import Drawn, Fetch

Objective = Literal["simclr", "identity", "supervised"]
_FEWEST = 8  # people; fewer give no negatives to speak of


@dataclass(frozen=True)
class Training:
    """How an encoder is trained.

    ``batch_size`` counts people for 'simclr' (two pictures each), else pictures; ``learning_rate`` is the peak of a warm-up over
    the first twentieth of the steps and a cosine down to zero; ``temperature`` is simclr's, ``margin`` and ``scale`` identity's,
    ``target_weight`` that of targets beside an identity; ``threads`` is part of the result, because sums over threads round
    differently, as is ``precision``.
    """

    objective: Objective = "simclr"
    network: str = "small"
    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.1
    margin: float = 0.4
    scale: float = 30.0
    embedding: int = 128
    target_weight: float = 0.1
    precision: Literal["float32", "bfloat16", "measure"] = "float32"
    seed: int = 1
    threads: int = 2


class Targets(NamedTuple):
    """What people are known to be, in the order of ``Views.people``.

    Attributes
    ----------
    numbers
        Standardised by their mean and deviation in the people taught, shape (n_people, n_numbers); NaN where unknown.
    classes
        Whole numbers, shape (n_people, n_categories); −1 where unknown or of a level that none of the people taught has.
    levels
        Number of classes of each category.
    """

    numbers: NDArray[np.float32]
    classes: NDArray[np.int64]
    levels: tuple[int, ...]


class Encoder(NamedTuple):
    """A network with ``features``, how pictures in 0–1 are scaled for it (None: not at all), and what to say of it."""

    network: nn.Module
    preprocessing: Preprocessing | None
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the network with all that is said of it."""
        from clinome.nn.saving import save_model

        scaled = None if self.preprocessing is None else {"mean": self.preprocessing.mean, "std": self.preprocessing.std}
        save_model(self.network, path, about={**self.about, "preprocessing": scaled})

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Return the network that :meth:`save` wrote, or another that Clinome saved.

        Raises
        ------
        FormatError
            When the file is none.
        """
        from clinome.nn.saving import about_model, load_model
        from clinome.nn.weights import Preprocessing

        about = about_model(path)
        scaled = about.get("preprocessing")
        return cls(load_model(path), Preprocessing(tuple(scaled["mean"]), tuple(scaled["std"])) if scaled else None, about)


def targets_of(table: pl.DataFrame, people: list[str], taught: NDArray[np.int64]) -> Targets:
    """Read targets from a table of people: numeric columns as numbers, text and true/false as categories.

    Parameters
    ----------
    table
        ``participant_id`` and one column a target.
    people, taught
        All people, and the rows of those whose targets may be looked at (scales and levels are theirs).

    Raises
    ------
    TraitError
        When a target does not vary in the people taught, or there is none.
    """
    joined = pl.DataFrame({"participant_id": people}).join(table, on="participant_id", how="left", maintain_order="left")
    numbers, classes, levels = [], [], []
    for name in (column for column in joined.columns if column not in ("participant_id", "family_id")):
        column = joined[name]
        if column.dtype.is_numeric():
            values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
            known = values[taught][np.isfinite(values[taught])]
            if len(known) < 2 or known.std() == 0:
                raise TraitError(
                    f"the target {name!r} does not vary in the people the encoder learns from", got=f"{len(known)} known"
                )
            numbers.append((values - known.mean()) / known.std())
        else:
            text = column.cast(pl.String).to_list()
            known_levels = sorted({value for row in taught if (value := text[row]) is not None})
            if len(known_levels) < 2:
                raise TraitError(f"the target {name!r} does not vary in the people the encoder learns from", got=known_levels)
            place = {level: k for k, level in enumerate(known_levels)}
            classes.append([-1 if value is None else place.get(value, -1) for value in text])
            levels.append(len(known_levels))
    if not numbers and not classes:
        raise TraitError(
            "there is no target to learn from", got=", ".join(table.columns), expected="a column beside participant_id"
        )
    n = len(people)
    return Targets(
        np.column_stack(numbers).astype(np.float32) if numbers else np.empty((n, 0), np.float32),
        np.column_stack(classes).astype(np.int64) if classes else np.empty((n, 0), np.int64),
        tuple(levels),
    )


def train_encoder(
    pixels: NDArray[np.uint8],
    seen: Views,
    people: NDArray[np.int64],
    *,
    checkpoint: Path,
    key: str,
    settings: Training,
    targets: Targets | None = None,
    weights: Path | None = None,
) -> Encoder:
    """Train on all pictures of ``people``; ``about`` of what is returned holds the mean loss of each epoch as ``losses``.

    Parameters
    ----------
    pixels
        All pictures, shape (n_images, size, size, 3); only rows of ``people`` are touched.
    people
        Rows of ``seen.people`` that the encoder may see, ascending, each with a picture.
    checkpoint
        A ``.safetensors`` file for the state after the last whole epoch; the caller deletes it once the network is saved.
    key
        Names the inputs; a checkpoint of another key is ignored.
    targets
        What 'supervised' learns, and what 'identity' learns beside identities.
    weights
        A file of weights that the network begins with; random ones otherwise.

    Raises
    ------
    CohortError
        For fewer than eight people.
    NotConverged
        When the loss stops being finite.
    """
    import torch

    from clinome.imaging.learner import Learner
    from clinome.train.batches import permutation, steps_an_epoch
    from clinome.train.devices import reproducible
    from clinome.train.loop import Settings, fit
    from clinome.train.schedules import warm_cosine
    from clinome.train.state import new_state

    if len(people) < _FEWEST:
        raise CohortError(
            "too few people to train an encoder", got=len(people), expected=f"at least {_FEWEST}", do="use --encoder pixels"
        )
    if settings.objective == "simclr":
        n, fetch = len(people), _pairs(pixels, seen, people, settings.seed)
    else:
        rows = np.flatnonzero(np.isin(seen.person, people))
        n, fetch = len(rows), _pictures(pixels, seen, people, rows, settings.seed, targets)
    with reproducible(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        learner = Learner(settings, size=pixels.shape[1], n_people=len(people), targets=targets)
        if weights is not None:
            from clinome.nn.weights import load_weights

            found = load_weights(learner.backbone, weights)
            learner.preprocessing = found.preprocessing or learner.preprocessing
    steps = steps_an_epoch(n, settings.batch_size)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state = fit(
        new_state(learner, optimiser, warm_cosine(settings.epochs * steps)),
        until=settings.epochs * steps,
        draw=permutation(n, settings.batch_size, seed=settings.seed),
        fetch=fetch,
        objective=learner.objective,
        settings=Settings(
            seed=settings.seed,
            validate_every=steps,
            checkpoint=checkpoint,
            key=key,
            threads=settings.threads,
            precision=settings.precision,
        ),
    )
    about = {"settings": asdict(settings), "people": len(people), "losses": [record["loss"] for record in state.history]}
    return Encoder(learner.encoder.cpu().eval(), learner.preprocessing, about)


def transferred(network: str, weights: Path | None, *, size: int, seed: int) -> Encoder:
    """Return a network that nobody here teaches, ready to apply.

    Parameters
    ----------
    weights
        A network that Clinome saved (``network`` is then the file's own), or weights of another program for ``network``; None
        gives random weights from ``seed``.

    Raises
    ------
    FormatError
        When the file is neither, or its weights do not fit.
    """
    import torch

    from clinome.imaging.networks import encoder, preprocessing
    from clinome.nn.saving import is_saved_model
    from clinome.nn.weights import load_weights

    if weights is not None and is_saved_model(weights):
        return Encoder.load(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = encoder(network, size=size)
    if weights is None:
        return Encoder(model.eval(), preprocessing(network), {"weights": "random"})
    found = load_weights(model, weights)
    return Encoder(model.eval(), found.preprocessing or preprocessing(network), {"weights": weights.name, "sha256": found.sha256})


def features_of(encoder: Encoder, pixels: NDArray[np.uint8], *, views: int = 1) -> NDArray[np.float32]:
    """Return what the network says of pictures, shape (n, size, size, 3), where it lies: float32, shape (n, n_features).

    With 8 ``views`` the features of the four rotations of the picture and of its mirror image are averaged (transferGWAS puts
    them side by side, which axes of people's averages cannot tell from noise below a few thousand people).
    """
    import torch

    pictures = to_tensor(pixels).to(next(encoder.network.parameters()).device)
    if encoder.preprocessing is not None:
        pictures = encoder.preprocessing.apply(pictures)
    features = encoder.network.features
    with torch.inference_mode():
        if views == 1:
            found: NDArray[np.float32] = features(pictures).cpu().numpy()  # type: ignore[operator]
            return found
        total = pictures.new_zeros(())
        for turn in range(4):
            view = torch.rot90(pictures, turn, dims=(2, 3))
            total = total + features(view) + features(view.flip(3))  # type: ignore[operator]
        averaged: NDArray[np.float32] = (total / 8).cpu().numpy()
        return averaged


# ------------------------------------------------------------------------------------------------------------------------ batches


def _pairs(pixels: NDArray[np.uint8], seen: Views, people: NDArray[np.int64], seed: int) -> Fetch:
    """Two augmented pictures of each drawn person: shape (b, 2, 3, size, size)."""
    epoch_of = _Epochs(seed, lambda g: (draw_pairs(seen, people, g), g.random((len(people), 2, DRAWS))))

    def fetch(drawn: Drawn) -> dict[str, Tensor]:
        pairs, draws = epoch_of(drawn.epoch)
        made = augment(pixels[pairs[drawn.rows].ravel()], draws[drawn.rows].reshape(-1, DRAWS))
        return {"pictures": made.reshape(len(drawn.rows), 2, *made.shape[1:])}

    return fetch


def _pictures(
    pixels: NDArray[np.uint8],
    seen: Views,
    people: NDArray[np.int64],
    rows: NDArray[np.int64],
    seed: int,
    targets: Targets | None,
) -> Fetch:
    """Augmented pictures with the place of their person among ``people``, and the person's targets."""
    import torch

    person = seen.person[rows]
    who = np.searchsorted(people, person)
    epoch_of = _Epochs(seed, lambda g: (g.random((len(rows), DRAWS)),))
    known = None
    if targets is not None:  # of the numbers, and of each category
        numbers = np.isfinite(targets.numbers).sum(axis=1, keepdims=True)
        known = np.hstack([numbers, targets.classes >= 0])[person]

    def fetch(drawn: Drawn) -> dict[str, Tensor]:
        (draws,) = epoch_of(drawn.epoch)
        batch = {
            "pictures": augment(pixels[rows[drawn.rows]], draws[drawn.rows]),
            "who": torch.from_numpy(who[drawn.rows]),
        }
        if targets is not None and known is not None:
            batch["numbers"] = torch.from_numpy(targets.numbers[person[drawn.rows]])
            batch["classes"] = torch.from_numpy(targets.classes[person[drawn.rows]])
            batch["weight"] = torch.from_numpy(drawn.weight(known))
        return batch

    return fetch


class _Epochs:
    """Random numbers of an epoch, a function of (seed, epoch) alone; those of the last one asked for are kept."""

    def __init__(self, seed: int, make: Any) -> None:
        self.seed, self.make = seed, make
        self.last: tuple[int, Any] = (-1, None)

    def __call__(self, epoch: int) -> Any:
        known, numbers = self.last
        if known != epoch:
            numbers = self.make(np.random.default_rng([self.seed, epoch, 2]))  # [seed, epoch] is the epoch's order
            self.last = epoch, numbers
        return numbers
