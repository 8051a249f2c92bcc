"""A model as it is asked to be explained: one number an example, the gradient of it, and the model given back as it was.

Every explanation here takes any ``nn.Module`` whose first input is a floating-point tensor (n, …), and a ``target`` that says
which number of the output is explained. The model is put into evaluation mode while it is asked and is left as it was found:
mode of every module, ``requires_grad`` and ``grad`` of every parameter, hooks. Batches travel to the model's device, answers to
that of the inputs.

>>> model = torch.nn.Linear(3, 2, bias=False)
>>> x = torch.ones(4, 3)
>>> bool(torch.allclose(gradients(model, x, target=1), model.weight[1].expand(4, 3)))
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Target: TypeAlias = "int | Tensor | Callable[[Any], Tensor] | None"
"""Which number of an output is explained.

An integer is a column of an output (n, k); a tensor of integers (n,) is a column for each example; a function takes the whole
output to (n,) (the mean of a segmentation inside a structure, a direction in an embedding); None takes an output (n,) or (n, 1).
"""


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode with its parameters frozen, and put both back afterwards, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in frozen:
            parameter.requires_grad_(needed)


def device_of(model: nn.Module, inputs: Tensor) -> torch.device:
    """Return where the model's first parameter lies; a model without parameters works where ``inputs`` are."""
    first = next(model.parameters(), None)
    return inputs.device if first is None else first.device


def rows_of(target: Target, rows: Tensor) -> Target:
    """Return the target of some examples only."""
    return target[rows.to(target.device)] if isinstance(target, Tensor) else target


def batches(n: int, size: int) -> Iterator[Tensor]:
    """Give the numbers 0 … n − 1 in runs of at most ``size``."""
    for start in range(0, n, size):
        yield torch.arange(start, min(start + size, n))


def moved(others: tuple[Tensor, ...], rows: Tensor, home: torch.device) -> tuple[Tensor, ...]:
    """Return the chosen rows of further inputs on the model's device."""
    return tuple(other[rows.to(other.device)].to(home) for other in others)


def scores(model: nn.Module, inputs: Tensor, *, target: Target, others: tuple[Tensor, ...] = ()) -> Tensor:
    """Ask the model once; return one number an example, shape (n,). Gradients flow when they are enabled.

    ``others`` are further inputs, passed on unchanged.

    Raises
    ------
    ValueError
        When the target does not give one number an example.
    """
    output = model(inputs, *others)
    if callable(target):
        score = target(output)
    elif not isinstance(output, Tensor):
        raise ValueError(f"the model gives a {type(output).__name__}, not a tensor; give target= as a function of it")
    elif target is None:
        score = output.reshape(len(output)) if output.numel() == len(output) else output
    elif output.ndim != 2:
        raise ValueError(f"target={target!r} needs an output (n, k), got {tuple(output.shape)}; give target= as a function of it")
    elif isinstance(target, Tensor):
        score = output.gather(1, target.to(output.device, torch.int64).reshape(-1, 1))[:, 0]
    else:
        score = output[:, target]
    if score.shape != (len(inputs),):
        raise ValueError(f"the target must give one number an example, shape ({len(inputs)},), got {tuple(score.shape)}")
    return score


def answers(
    model: nn.Module, inputs: Tensor, *, target: Target = None, others: tuple[Tensor, ...] = (), batch_size: int = 32
) -> Tensor:
    """Return what :func:`scores` gives, in batches and without gradients, as float64, shape (n,)."""
    home, parts = device_of(model, inputs), []
    with borrowed(model), torch.no_grad():
        for rows in batches(len(inputs), batch_size):
            some = inputs[rows.to(inputs.device)].to(home)
            score = scores(model, some, target=rows_of(target, rows), others=moved(others, rows, home))
            parts.append(score.to(inputs.device, torch.float64))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def gradients(
    model: nn.Module, inputs: Tensor, *, target: Target = None, others: tuple[Tensor, ...] = (), batch_size: int = 32
) -> Tensor:
    """Return the gradient of each example's number with respect to its input: saliency (Simonyan 2014), shape of ``inputs``.

    Memory is that of ``batch_size`` examples going forward and back, and the result.

    Raises
    ------
    ValueError
        For inputs that are not floating point (explain the embedding of a token instead), a target that does not fit the
        output, or an output that does not depend on the inputs.

    References
    ----------
    Simonyan K, Vedaldi A, Zisserman A. Deep inside convolutional networks: visualising image classification models and saliency
    maps. ICLR workshop (2014), arXiv:1312.6034.
    """
    home, result = device_of(model, inputs), torch.empty_like(inputs)
    with borrowed(model):
        for rows in batches(len(inputs), batch_size):
            here = rows.to(inputs.device)
            more = moved(others, rows, home)
            result[here] = gradient(model, inputs[here].to(home), target=rows_of(target, rows), others=more).to(inputs.device)
    return result


def gradient(model: nn.Module, inputs: Tensor, *, target: Target, others: tuple[Tensor, ...]) -> Tensor:
    """Return the gradient for one batch on the model's device, inside :func:`borrowed`; errors are those of :func:`gradients`."""
    if not inputs.is_floating_point():
        raise ValueError(f"gradients need floating-point inputs, got {inputs.dtype}; explain an embedding of them instead")
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_(True)
        score = scores(model, leaf, target=target, others=others)
        if not score.requires_grad:
            raise ValueError("the model's output does not depend on its inputs through differentiable steps")
        (slope,) = torch.autograd.grad(score.sum(), leaf)
    return slope.detach()
