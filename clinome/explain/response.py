"""Where in a picture a network responds along an axis of its embedding, or along the direction of an allele.

The difference map of an axis is its average gradient with respect to the picture: what would have to be made brighter or darker
to move along it. It is the network's view, beside the averages of :mod:`clinome.explain.traversal`, which are the people's; where
the two disagree the network uses something that averages do not show (texture, or parts that do not lie on each other).

>>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
>>> response(model, torch.rand(8, 1, 2, 2), along=torch.tensor([0.0, 1.0])).mean.shape
torch.Size([1, 2, 2])
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.explain.asking import Target, batches, gradients
from clinome.explain.traversal import slope_weights


def direction(features: NDArray[np.float64], score: NDArray[np.float64], covariates: NDArray[np.float64] | None = None) -> Tensor:
    """Return how an embedding changes with a number of people, as a direction of length one, float32, shape (n_features,).

    For copies of an allele (n_people,) this is the allele's direction in ``features`` (n_people, n_features), with
    ``covariates`` projected out; give it to :func:`response`. Zero where features do not change with it.
    """
    along = slope_weights(score, covariates) @ features
    length = float(np.linalg.norm(along))
    return torch.from_numpy(along / length if length > 0 else along).float()


class Response(NamedTuple):
    """Where an axis responds: the ``mean`` gradient (signed) and its mean ``size``, each of the shape of one input."""

    mean: Tensor
    size: Tensor


def response(
    model: nn.Module, inputs: Tensor, *, along: Tensor | None = None, target: Target = None, batch_size: int = 32
) -> Response:
    """Average, over ``inputs`` (n, …) aligned to each other, the gradient of an axis with respect to the picture.

    Parameters
    ----------
    model
        Gives the embedding, shape (n, n_features).
    along
        Direction in the embedding, shape (n_features,): an axis' loadings or :func:`direction`. Without it, ``target`` says
        which number the axis is.
    """
    chosen: Target = target if along is None else (lambda embedding: embedding @ along.to(embedding))
    mean, size = torch.zeros(inputs.shape[1:], dtype=torch.float64), torch.zeros(inputs.shape[1:], dtype=torch.float64)
    for rows in batches(len(inputs), batch_size):
        some = inputs[rows.to(inputs.device)]
        slope = gradients(model, some, target=chosen, batch_size=batch_size).double().cpu()
        mean += slope.sum(dim=0) / len(inputs)
        size += slope.abs().sum(dim=0) / len(inputs)
    return Response(mean.to(inputs), size.to(inputs))
