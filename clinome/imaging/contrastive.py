"""Train an encoder on the spot, from nothing but who is on which picture, and apply it.

Two pictures of one person (the other eye, another visit) are pulled together, pictures of different people pushed apart. What
a person's pictures share is kept: anatomy and pigmentation; what changes between them is not: camera, light, focus.

Training saves everything it needs after each epoch. Killed and started again it goes on from there and ends with the same
bytes, on the same machine with the same number of threads.

References
----------
Chen T, Kornblith S, Norouzi M, Hinton G. A simple framework for contrastive learning of visual representations. ICML (2020),
arXiv:2002.05709; two eyes as positives: Xie Z et al. iGWAS. PLOS Genetics 20:e1011273 (2024), doi:10.1371/journal.pgen.1011273
(there by classifying identities). Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR (2019), arXiv:1711.05101.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import CohortError, NotConverged, need
from clinome.core.files import replacing
from clinome.core.progress import track
from clinome.imaging.features import DRAWS, Views, augment, draw_pairs, to_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import AdamW

_MODEL = "clinome.imaging.models.small_encoder"
_FEWEST = 8  # people; fewer give no negatives to speak of


@dataclass(frozen=True)
class Training:
    """How an encoder is trained.

    ``batch_size`` counts people (two pictures each); ``learning_rate`` is the peak of a warm-up over the first twentieth of the
    steps and a cosine down to zero; ``threads`` is part of the result, because sums over threads round differently.
    """

    epochs: int = 16
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.1
    seed: int = 1
    threads: int = 2


def train_encoder(
    pixels: NDArray[np.uint8], seen: Views, people: NDArray[np.int64], *, checkpoint: Path, key: str, settings: Training
) -> tuple[nn.Module, list[float]]:
    """Train on all pictures of ``people``; return the network and the mean loss of each epoch.

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

    Raises
    ------
    CohortError
        For fewer than eight people.
    NotConverged
        When the loss stops being finite.
    """
    torch = need("torch", "imaging")
    if len(people) < _FEWEST:
        raise CohortError(
            "too few people to train an encoder", got=len(people), expected=f"at least {_FEWEST}", do="use --encoder pixels"
        )
    small_encoder = importlib.import_module(_MODEL)
    with reproducible(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = small_encoder.Model(small_encoder.Config(size=pixels.shape[1])).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        losses = _resume(checkpoint, key, model, optimiser)
        for epoch in track(range(len(losses), settings.epochs), "training the encoder"):
            losses.append(_epoch(model, optimiser, pixels, seen, people, epoch=epoch, settings=settings))
            _checkpoint(checkpoint, key, model, optimiser, losses)
    return model.eval(), losses


def _epoch(
    model: nn.Module,
    optimiser: AdamW,
    pixels: NDArray[np.uint8],
    seen: Views,
    people: NDArray[np.int64],
    *,
    epoch: int,
    settings: Training,
) -> float:
    """Show each person once, as a pair of pictures; return the mean loss. Depends on (seed, epoch) and the state alone."""
    import torch

    from clinome.nn.losses import nt_xent

    generator = np.random.default_rng([settings.seed, epoch])
    pairs = draw_pairs(seen, people, generator)
    draws = generator.random((len(people), 2, DRAWS))
    batches = np.array_split(generator.permutation(len(people)), max(1, round(len(people) / settings.batch_size)))
    losses = []
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * schedule((epoch + step / len(batches)) / settings.epochs)
        pictures = augment(pixels[pairs[batch].ravel()], draws[batch].reshape(-1, DRAWS))
        loss = nt_xent(model(pictures), torch.arange(len(batch)).repeat_interleave(2), temperature=settings.temperature)
        if not math.isfinite(loss.item()):
            raise NotConverged(
                "the encoder's loss is no longer finite",
                where=f"epoch {epoch + 1}, batch {step + 1} of {len(batches)}",
                got=loss.item(),
                do=f"use a smaller learning rate than {settings.learning_rate:g}",
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def schedule(done: float) -> float:
    """Return the share of the peak learning rate after ``done`` (0–1) of the training.

    >>> [round(schedule(done), 2) for done in (0.0, 0.05, 0.525, 1.0)]
    [0.1, 1.0, 0.5, 0.0]
    """
    warm = 0.05
    return 0.1 + 0.9 * done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


def save_encoder(model: nn.Module, path: Path) -> None:
    """Write the network's weights as safetensors, with the import path and the configuration that make it again."""
    _save(model.state_dict(), path, {"model": type(model).__module__, "config": asdict(model.config)})  # type: ignore[call-overload]


def load_encoder(path: Path) -> nn.Module:
    """Return the network saved at ``path`` by :func:`save_encoder`, ready to apply."""
    with need("safetensors", "imaging").safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["clinome"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    module = importlib.import_module(about["model"])
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in about["config"].items()}
    model: nn.Module = module.Model(module.Config(**config))
    model.load_state_dict(tensors)
    return model.eval()


def features_of(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the network says of pictures, shape (n, size, size, 3): float32, shape (n, n_features)."""
    import torch

    with torch.inference_mode():
        found: NDArray[np.float32] = model.features(to_tensor(pixels)).numpy()  # type: ignore[operator]
    return found


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Within the block torch uses ``threads`` threads and only algorithms that give the same bytes each time."""
    torch = need("torch", "imaging")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def _checkpoint(path: Path, key: str, model: nn.Module, optimiser: AdamW, losses: list[float]) -> None:
    """Write network, optimiser state and losses as one file, so that they are of one moment whenever the process dies."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    with replacing(path) as temporary:
        _save(tensors, temporary, {"key": key, "losses": losses})


def _resume(path: Path, key: str, model: nn.Module, optimiser: AdamW) -> list[float]:
    """Put back what :func:`_checkpoint` saved for ``key``; return the losses so far ([] when there is nothing to go on from)."""
    if not path.exists():
        return []
    safetensors = need("safetensors", "imaging")
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["clinome"])
        if about["key"] != key:
            return []
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, what = name.split(".")
            like = parameters[int(index)]
            state.setdefault(int(index), {})[what] = value if value.ndim == 0 else like.detach().clone().copy_(value)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    losses: list[float] = about["losses"]
    return losses


def _save(tensors: dict[str, Tensor], path: Path, about: dict[str, Any]) -> None:
    """Write ``tensors`` as safetensors; ``about`` becomes the only metadata entry (the order of several is not fixed)."""
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    metadata = {"clinome": json.dumps(about, sort_keys=True)}
    path.write_bytes(need("safetensors.torch", "imaging").save(contiguous, metadata=metadata))
