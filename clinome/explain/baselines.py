"""Where an attribution starts from: the input in which 'nothing is there'.

An attribution explains the *difference* between the output for an input and for its baseline, so the baseline is part of the
question and is stated with the answer. Black is a poor 'nothing' where black means something (air, background); a blurred copy
keeps brightness and removes detail; examples of other people average the choice away (Sturmfels 2020). A baseline is a
function from inputs (m, …) to k baselines of each, shape (k, m, …) or (k, 1, …).

References
----------
Sturmfels P, Lundberg S, Lee S-I. Visualizing the impact of feature attribution baselines. Distill (2020),
doi:10.23915/distill.00022.
Erion G et al. Improving performance of deep learning models with axiomatic attribution priors and expected gradients. Nature
Machine Intelligence 3:620–631 (2021), doi:10.1038/s42256-021-00343-w.

>>> constant(0.5)(torch.zeros(4, 1, 8, 8)).shape
torch.Size([1, 4, 1, 8, 8])
>>> examples(torch.rand(3, 1, 8, 8))(torch.zeros(4, 1, 8, 8)).shape
torch.Size([3, 1, 1, 8, 8])
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Baseline = Callable[[Tensor], Tensor]


def constant(value: float = 0.0) -> Baseline:
    """Return the baseline that has ``value`` everywhere: black is 0 before normalisation, but seldom 0 after it."""
    return lambda inputs: torch.full_like(inputs, value)[None]


def blurred(sigma: float) -> Baseline:
    """Return the baseline that blurs an input (n, channels, *spatial) by a Gaussian of ``sigma`` pixels, edges repeated."""
    half = max(1, math.ceil(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=torch.float64) / sigma) ** 2)
    weights /= weights.sum()

    def blur(inputs: Tensor) -> Tensor:
        for axis in range(2, inputs.ndim):
            line = inputs.movedim(axis, -1)
            flat = F.pad(line.reshape(-1, 1, line.shape[-1]), (half, half), mode="replicate")
            inputs = F.conv1d(flat, weights.to(flat)[None, None]).reshape(line.shape).movedim(-1, axis)
        return inputs[None]

    return blur


def examples(pictures: Tensor) -> Baseline:
    """Return the baselines that are ``pictures``, shape (k, …), for every input: attributions are averaged over them."""
    return lambda inputs: pictures[:, None].to(inputs)


def own(baselines: Tensor) -> Baseline:
    """Return the baselines given one by one for the inputs that are explained, shape (n, …), in one batch of inputs."""

    def each(inputs: Tensor) -> Tensor:
        if baselines.shape != inputs.shape:
            raise ValueError(f"own baselines must have the inputs' shape {tuple(inputs.shape)}, got {tuple(baselines.shape)}")
        return baselines[None].to(inputs)

    return each


def darkest() -> Baseline:
    """Return the baseline that is, in each channel of an input (n, channels, *spatial), its own least value everywhere."""
    return lambda inputs: inputs.flatten(2).amin(dim=2)[(..., *(None,) * (inputs.ndim - 2))].expand_as(inputs)[None]
