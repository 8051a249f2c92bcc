"""The state of a training: everything that the next step depends on, as plain tensors and JSON in one safetensors file.

A state saved after step s and loaded again goes on as if nothing had happened: on the same machine, to the same bytes.

>>> model = nn.Linear(2, 1)
>>> state = new_state(model, torch.optim.SGD(model.parameters(), lr=0.1), average=0.9)
>>> state.step, state.peaks, sorted(state.average)
(0, [0.1], ['bias', 'weight'])
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from clinome.core.errors import FormatError
from clinome.core.files import replacing
from clinome.train.devices import Mode, arrange
from clinome.train.schedules import Schedule, constant


class Best(NamedTuple):
    """The best validation so far: its value, its step, and the weights that reached it."""

    value: float
    step: int
    weights: dict[str, Tensor]


class Hook(Protocol):
    """Something that looks on after every step and keeps a state of its own, saved and loaded with the training's."""

    name: str

    def after_step(self, state: State, logs: dict[str, float]) -> str | None:
        """Look at the state and the step's logs (with 'validation.<metric>' when there was one); a reason stops the training."""

    def saved(self) -> dict[str, Any]:
        """Return what the hook needs to go on, as JSON values."""

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up again what :meth:`saved` returned."""


@dataclass
class State:
    """A training between two steps. ``fit`` advances the model and the optimiser in place.

    Attributes
    ----------
    model, optimiser
        As given; the optimiser's learning rates are set before every step.
    schedule
        Share of the peak learning rates ``peaks`` (one a parameter group) at a step.
    step
        Steps done.
    average
        Moving average of the weights (and of floating buffers such as batch statistics) by name; None without averaging.
    decay
        Of the moving average; less in the first steps, so that it forgets the random start.
    best
        The best validation, None before the first.
    mode
        Precision and layout that were chosen; None before the first step.
    history
        One record a validation: step, epoch, learning_rate, means of the logs since the last record, 'validation.<metric>'.
    sums
        Sums of the logs since the last record, and how many steps they cover under 'steps'.
    stopped
        Why a hook ended the training; None otherwise.
    """

    model: nn.Module
    optimiser: Optimizer
    schedule: Schedule = field(default_factory=constant)
    step: int = 0
    average: dict[str, Tensor] | None = None
    decay: float = 0.0
    best: Best | None = None
    mode: Mode | None = None
    hooks: tuple[Hook, ...] = ()
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    stopped: str | None = None
    peaks: list[float] = field(default_factory=list)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights to use: the averaged ones where they are averaged, else the model's."""
        return {name: value.detach().clone() for name, value in (self.average or self.model.state_dict()).items()}

    def update_average(self) -> None:
        """Move the average towards the model's weights; whole-number buffers are taken over."""
        if self.average is None:
            return
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    @contextmanager
    def evaluating(self, weights: dict[str, Tensor] | None = None) -> Iterator[nn.Module]:
        """Give the model in evaluation mode with ``weights`` (by default those of :meth:`weights`); put it back afterwards."""
        modes = {name: part.training for name, part in self.model.named_modules()}
        borrowed = weights if weights is not None else self.average
        own = None if borrowed is None else {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        if borrowed is not None:
            self.model.load_state_dict(borrowed)
        try:
            with torch.no_grad():
                yield self.model.eval()
        finally:
            if own is not None:
                self.model.load_state_dict(own)
            for name, part in self.model.named_modules():
                part.training = modes[name]

    def take_best(self) -> nn.Module:
        """Put the weights of the best validation (without one: the averaged, else the last) into the model and return it."""
        chosen = self.best.weights if self.best is not None else self.average
        if chosen is not None:
            self.model.load_state_dict(chosen)
        return self.model.eval()


def new_state(
    model: nn.Module,
    optimiser: Optimizer,
    schedule: Schedule | None = None,
    *,
    average: float | None = None,
    hooks: tuple[Hook, ...] = (),
) -> State:
    """Begin a training at step 0.

    Parameters
    ----------
    optimiser
        Over the model's parameters; the learning rates of its groups are the peaks that ``schedule`` scales.
    average
        Decay of a moving average of the weights, e.g. 0.999 (Polyak & Juditsky 1992, doi:10.1137/0330046); None for none.
    """
    kept = None if average is None else {name: value.detach().clone() for name, value in model.state_dict().items()}
    peaks = [float(group["lr"]) for group in optimiser.param_groups]
    return State(model, optimiser, schedule or constant(), average=kept, decay=average or 0.0, hooks=hooks, peaks=peaks)


def save_state(state: State, path: Path, *, key: str) -> None:
    """Write ``state`` as one safetensors file, under a temporary name first. ``key`` names the inputs and settings."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in (state.average or {}).items()}
    tensors |= {f"best.{name}": value for name, value in (state.best.weights if state.best else {}).items()}
    plain: dict[str, dict[str, Any]] = {}
    for index, slots in state.optimiser.state_dict()["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimiser.{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    about = {
        "key": key,
        "step": state.step,
        "best": None if state.best is None else [state.best.value, state.best.step],
        "mode": state.mode,
        "hooks": {hook.name: hook.saved() for hook in state.hooks},
        "history": state.history,
        "sums": state.sums,
        "stopped": state.stopped,
        "optimiser": plain,
    }
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata={"clinome": json.dumps(about, sort_keys=True)}))


def load_state(state: State, path: Path, *, key: str) -> bool:
    """Take up the training saved at ``path``, in place; tell whether there was one of this ``key`` beyond the state's step.

    Of one that is no further than the state only the mode is taken, where the state has none: it was measured before any step.
    A hook that the saved training did not have begins anew.

    Raises
    ------
    FormatError
        When the file is damaged, or not a saved training.
    """
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["clinome"])
            if about["key"] != key or about["step"] <= state.step:
                if about["key"] == key and about["step"] == state.step and state.mode is None and about["mode"] is not None:
                    state.mode = Mode(*about["mode"])
                return False
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise FormatError("this is no saved training", where=path, got=error, do="remove it; the training begins anew") from error
    state.model.load_state_dict(_under("model.", tensors))
    if state.average is not None:
        for name, value in _under("average.", tensors).items():
            state.average[name].copy_(value)
    best_value, best_step = about["best"] or (None, 0)
    state.best = None if best_value is None else Best(best_value, best_step, _under("best.", tensors))
    state.mode = None if about["mode"] is None else Mode(*about["mode"])
    if state.mode is not None:
        arrange(state.model, state.mode)  # before the optimiser, whose slots have the layout of the weights
    _load_optimiser(state.optimiser, _under("optimiser.", tensors), about["optimiser"])
    for hook in state.hooks:
        if hook.name in about["hooks"]:
            hook.restore(about["hooks"][hook.name])
    state.step, state.history, state.sums, state.stopped = (about[name] for name in ("step", "history", "sums", "stopped"))
    return True


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _load_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor], plain: dict[str, dict[str, Any]]) -> None:
    """Put back the optimiser's slots, in the memory layout of their parameters, so that sums run in the same order."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain.items()}
    for name, value in tensors.items():
        index, what = name.split(".", 1)
        like = parameters[int(index)]
        slots.setdefault(int(index), {})[what] = value if value.shape != like.shape else torch.empty_like(like).copy_(value)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
