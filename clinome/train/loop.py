"""The one training loop. What varies comes in as functions; everything the next step depends on is in the state.

    draw(step) ──rows──→ fetch ──batch──→ gradients(model, objective, batch, generator) ──→ optimiser ──→ average, hooks
                                                                                     every so often: validate, record, save

``fit(state, until=step)`` can be called in pieces: one call to step 100, or ten calls, or a killed call and its repetition, end
with the same bytes on the same machine with the same number of threads. Random numbers of a step (dropout, noise, views) come
from (seed, step), those of an augmented example from (seed, epoch, example).

>>> from clinome.train.batches import permutation
>>> from clinome.train.state import new_state
>>> x = torch.arange(8.0)[:, None]
>>> model = nn.Linear(1, 1)
>>> state = new_state(model, torch.optim.SGD(model.parameters(), lr=0.02))
>>> def squared(model, batch, generator):
...     return (model(batch) - (2 * batch + 1)).square().mean(), {}
>>> state = fit(state, until=600, draw=permutation(8, 8, seed=1), fetch=lambda drawn: x[drawn.rows], objective=squared)
>>> state.step, bool(abs(model.weight - 2) < 0.1)
(600, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clinome.core.errors import NotConverged, StudyError
from clinome.core.progress import track
from clinome.train.batches import Draw, Drawn, Fetch, ahead
from clinome.train.devices import Precision, Processes, arrange, choose_device, fixed, low_precision, moved, quickest, reproducible
from clinome.train.state import Best, State, load_state, save_state

Logs = dict[str, float]
Objective = Callable[[nn.Module, Any, torch.Generator], tuple[Tensor, Logs]]
Gradients = Callable[[nn.Module, Objective, Any, torch.Generator], tuple[float, Logs]]
Validate = Callable[[nn.Module], Logs]


@dataclass(frozen=True)
class Settings:
    """How the loop runs.

    Attributes
    ----------
    seed
        Of the random numbers of each step.
    validate_every
        Steps between validations and records of the history.
    watch, higher_is_better
        The validation metric whose best weights are kept; None keeps none.
    checkpoint, checkpoint_every
        The file of the state and the steps between savings (None: with every validation). A file of the same ``key`` is gone on
        from.
    key
        Names all that the training depends on (data, settings); a checkpoint of another key is ignored and replaced. A checkpoint
        needs one: without, another training would be gone on from.
    threads, workers
        Threads of torch, a part of the result because sums over threads round differently; threads that make batches ahead,
        which are not. None: as many as ``threads`` where the network is on a GPU, which would wait for batches; else none.
    device
        'auto', 'cpu' or 'gpu'.
    precision
        'float32', 'bfloat16' (forward pass alone), or 'measure': the quickest is found on the first batch, kept in the state and
        saved with it at once, so that a training that is killed early goes on as it began.
    clip
        Largest norm of the gradient, or None.
    title
        What the bar of progress says.
    """

    seed: int = 0
    validate_every: int = 100
    watch: str | None = None
    higher_is_better: bool = True
    checkpoint: Path | None = None
    checkpoint_every: int | None = None
    key: str = ""
    threads: int = 1
    workers: int | None = None
    device: str = "auto"
    precision: Precision = "float32"
    clip: float | None = None
    title: str = "training"

    def __post_init__(self) -> None:
        if self.checkpoint is not None and not self.key:
            raise StudyError(
                "a checkpoint needs a key that names what the training depends on", got="key=''", where=self.checkpoint
            )


def fit(
    state: State,
    *,
    until: int,
    draw: Draw,
    fetch: Fetch,
    objective: Objective,
    gradients: Gradients | None = None,
    validate: Validate | None = None,
    settings: Settings | None = None,
) -> State:
    """Train to step ``until`` and return the state (the same object, advanced).

    A checkpoint that is further than ``until`` is returned as it is, so that a killed script of several calls goes on where it was.

    Parameters
    ----------
    draw
        The rows of a step's batch. Of several processes each takes its share of them, in turn; all begin with the weights and
        the precision of process 0.
    fetch
        Makes the batch of a draw: tensors in tuples, lists or dicts, first axis the example. A pure function.
    objective
        Gives a loss (a mean over the batch, computed in float32) and numbers to log, of the same names in every process. A mean
        over some examples alone, those whose truth is known, is multiplied by :meth:`clinome.train.batches.Drawn.weight`.
    gradients
        Fills ``.grad`` and gives the loss and logs; by default :func:`backward`. Privacy replaces it by one of clipped examples.
    validate
        Metrics of the model in evaluation mode with its averaged weights, without gradients; called in process 0.

    Raises
    ------
    NotConverged
        When the loss or its gradient stops being finite; the checkpoint still holds the last saved state.
    StudyError
        When the watched metric is not among those of ``validate``.
    FormatError
        When the checkpoint is damaged.
    """
    settings, processes = settings or Settings(), Processes.joined()
    device = choose_device(settings.device)
    state.model.to(device)
    if state.average is not None:
        state.average = moved(state.average, device)
    if settings.checkpoint is not None:
        load_state(state, settings.checkpoint, key=settings.key)
    processes.share([*state.model.state_dict().values(), *(state.average or {}).values()])
    gradients = gradients or backward()
    mine = _share(draw, processes)
    with _prepared(state, settings, mine, fetch, objective, gradients, device, processes) as generator:
        workers = settings.workers if settings.workers is not None else settings.threads if device.type == "cuda" else 0
        batches = ahead(mine, fetch, state.step, until, workers=workers)
        for drawn, batch in track(batches, settings.title, total=max(until - state.step, 0)):
            if state.stopped is not None:
                break
            logs = _step(state, drawn, moved(batch, device), objective, gradients, generator, processes, settings)
            if state.step % settings.validate_every == 0:
                logs |= _record(state, drawn, validate, settings, processes)
            for hook in state.hooks:
                state.stopped = state.stopped or hook.after_step(state, logs)
            if state.step % (settings.checkpoint_every or settings.validate_every) == 0 or state.step == until or state.stopped:
                _save(state, settings, processes)
    return state


def backward(accumulate: int = 1) -> Gradients:
    """Return the ordinary gradients: of the mean loss of the batch, made in ``accumulate`` parts one after another.

    With parts less memory is needed and, for a loss that is a mean over independent examples, the gradient is the same. Losses
    that compare the examples of a batch (contrastive ones) see only their part.
    """

    def gradients(model: nn.Module, objective: Objective, batch: Any, generator: torch.Generator) -> tuple[float, Logs]:
        value, logs = 0.0, dict[str, float]()
        for share, part in _parts(batch, accumulate):
            loss, said = objective(model, part, generator)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            value += share * loss.item()
            for name, number in said.items():
                logs[name] = logs.get(name, 0.0) + share * float(number)
        return value, logs

    return gradients


def _parts(batch: Any, count: int) -> Iterator[tuple[float, Any]]:
    """Cut a batch along its examples into ``count`` parts, each with its share of the examples."""
    n = _length(batch)
    ends = [n * k // count for k in range(count + 1)] if count > 1 else [0, n]
    for start, end in pairwise(ends):
        if end > start:
            yield (end - start) / n, _rows(batch, start, end) if count > 1 else batch


def _length(batch: Any) -> int:
    while not isinstance(batch, Tensor):
        batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
    return len(batch)


def _rows(batch: Any, start: int, end: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[start:end]
    if isinstance(batch, dict):
        return {name: _rows(value, start, end) for name, value in batch.items()}
    parts = [_rows(value, start, end) for value in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def _share(draw: Draw, processes: Processes) -> Draw:
    """Return the draw of this process: every ``world``-th row of the whole draw."""
    if processes.world == 1:
        return draw

    def mine(step: int) -> Drawn:
        drawn = draw(step)
        if len(drawn.rows) < processes.world:
            raise StudyError("a batch has fewer examples than there are processes", got=f"{len(drawn.rows)} for {processes.world}")
        return Drawn(drawn.epoch, drawn.rows[processes.rank :: processes.world], drawn.rows)

    return mine


@contextmanager
def _prepared(
    state: State,
    settings: Settings,
    draw: Draw,
    fetch: Fetch,
    objective: Objective,
    gradients: Gradients,
    device: torch.device,
    processes: Processes,
) -> Iterator[torch.Generator]:
    """Set threads, precision and training mode for the length of the block; give the generator of the steps."""
    generator = torch.Generator(device)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(reproducible(settings.threads))
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        state.model.train()
        if state.mode is None:
            state.mode = fixed(state.model, settings.precision)
            if settings.precision == "measure":
                batch = moved(fetch(draw(state.step)), device)
                generator.manual_seed(settings.seed)
                state.mode = quickest(state.model, lambda: gradients(state.model, objective, batch, generator))
                state.mode = processes.first(state.mode)
                _save(state, settings, processes)
        arrange(state.model, state.mode)
        stack.enter_context(low_precision(state.model, state.mode.bfloat16))
        yield generator


def _step(
    state: State,
    drawn: Drawn,
    batch: Any,
    objective: Objective,
    gradients: Gradients,
    generator: torch.Generator,
    processes: Processes,
    settings: Settings,
) -> Logs:
    """Make one step; return its logs."""
    for group, peak in zip(state.optimiser.param_groups, state.peaks, strict=True):
        group["lr"] = peak * state.schedule(state.step)
    seed = int(np.random.SeedSequence([settings.seed, state.step, processes.rank]).generate_state(1, np.uint64)[0] >> 1)
    generator.manual_seed(seed)
    torch.manual_seed(seed)  # dropout has no generator of its own; the caller's random numbers are kept apart by fork_rng
    state.optimiser.zero_grad(set_to_none=True)
    loss, logs = gradients(state.model, objective, batch, generator)
    if processes.world > 1:
        loss, logs = _of_all(state, len(drawn.rows), loss, logs, processes)
    _refuse_not_finite("loss", loss, state, drawn)
    parameters = [p for group in state.optimiser.param_groups for p in group["params"] if p.grad is not None]
    if settings.clip is not None:
        norm = logs["gradient_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
    else:
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    _refuse_not_finite("gradient of the loss", norm, state, drawn)
    state.optimiser.step()
    state.step += 1
    state.update_average()
    logs = {"loss": loss, **logs}
    for name, value in [*logs.items(), ("steps", 1.0)]:
        state.sums[name] = state.sums.get(name, 0.0) + value
    return logs


def _refuse_not_finite(what: str, value: float, state: State, drawn: Drawn) -> None:
    if not math.isfinite(value):
        raise NotConverged(
            f"the {what} is no longer finite",
            where=f"step {state.step + 1}, epoch {drawn.epoch + 1}, examples {', '.join(map(str, drawn.rows[:8].tolist()))} …",
            got=value,
            do=f"use a smaller learning rate than {state.peaks[0]:g}, clip gradients, or look at these examples for values that "
            "are not finite; the same command goes on from the last saved state",
        )


def _of_all(state: State, rows: int, loss: float, logs: Logs, processes: Processes) -> tuple[float, Logs]:
    """Make the gradients those of the whole batch, of which this process saw ``rows``; return the whole batch's loss and logs."""
    every = [p for group in state.optimiser.param_groups for p in group["params"]]
    names = sorted(logs)
    numbers = [1.0, loss, *(float(logs[name]) for name in names)]
    shared = torch.tensor([rows * one for one in numbers] + [float(p.grad is not None) for p in every], device=every[0].device)
    torch.distributed.all_reduce(shared)
    total, *means = shared[: len(numbers)].tolist()
    there = [p for p, has in zip(every, shared[len(numbers) :].tolist(), strict=True) if has]
    for parameter in there:  # a head that no example of this process taught
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    processes.mean([p.grad for p in there if p.grad is not None], rows / total)
    return means[0] / total, {name: mean / total for name, mean in zip(names, means[1:], strict=True)}


def _agree(state: State, processes: Processes) -> None:
    """Give all processes the batch statistics of all their examples, and the averages of them.

    A running variance becomes the mean of the variances and the variance of the means, as if the batch had not been shared out.
    """
    if processes.world > 1:
        own = {name: buffer for name, buffer in state.model.named_buffers() if buffer.is_floating_point()}
        kept = [own, {name: value for name, value in (state.average or {}).items() if name in own}]
        spread = [
            (some[name], some[name[: -len("var")] + "mean"]) for some in kept for name in some if name.endswith("running_var")
        ]
        for variance, mean in spread:
            variance += mean**2
        processes.mean([value for some in kept for value in some.values()], 1 / processes.world)
        for variance, mean in spread:
            variance -= mean**2


def _record(state: State, drawn: Drawn, validate: Validate | None, settings: Settings, processes: Processes) -> Logs:
    """Validate, keep the best weights, and add a record to the history; return the metrics, named 'validation.<metric>'."""
    found: Logs = {}
    _agree(state, processes)
    if validate is not None:
        found = processes.from_first(lambda: _validated(state, validate))
    if settings.watch is not None and validate is not None:
        if settings.watch not in found:
            raise StudyError(f"the validation has no metric {settings.watch!r} to watch", expected=", ".join(found))
        value, sign = found[settings.watch], 1.0 if settings.higher_is_better else -1.0
        if math.isfinite(value) and (state.best is None or sign * value > sign * state.best.value):
            state.best = Best(value, state.step, {name: one.cpu() for name, one in state.weights().items()})
    steps = state.sums.pop("steps")
    means = {name: total / steps for name, total in state.sums.items()}
    rate = state.peaks[0] * state.schedule(state.step - 1)
    found = {f"validation.{name}": value for name, value in found.items()}
    state.history.append({"step": state.step, "epoch": drawn.epoch, "learning_rate": rate, **means, **found})
    state.sums = {}
    return found


def _validated(state: State, validate: Validate) -> Logs:
    with state.evaluating() as model:
        return validate(model)


def _save(state: State, settings: Settings, processes: Processes) -> None:
    """Write the checkpoint in process 0; the others wait for it."""
    _agree(state, processes)
    if settings.checkpoint is not None and processes.rank == 0:
        save_state(state, settings.checkpoint, key=settings.key)
    if processes.world > 1:
        torch.distributed.barrier()
