"""Pooling by soft attention: a network says where it looks, and what it sees there is what it predicts from.

Two 1 × 1 convolutions give each place of the last maps a score; a softmax over all places of a picture makes the scores weights
that sum to one; the maps are averaged with those weights. The map of weights belongs to one picture and is part of the prediction,
not an explanation made afterwards. It starts close to the plain average, so that pretrained weights keep their meaning.

    maps (n, channels, …)  ──score──→  (n, 1, …)  ──softmax over places──→  weights  ──weighted average──→  (n, channels)

The published networks put this on the maps of Inception-v3; the paper does not print the widths of the scoring layers, so the one
here (an eighth of the channels) is ours.

Reference
---------
Poplin R, Varadarajan AV, Blumer K, et al. Prediction of cardiovascular risk factors from retinal fundus photographs via deep
learning. Nat Biomed Eng 2, 158–164 (2018), doi:10.1038/s41551-018-0195-0.

>>> pool = SoftAttention(16, dims=2)
>>> maps = torch.ones(2, 16, 7, 7)
>>> pool(maps).shape, pool.weights(maps).sum(dim=(1, 2)).tolist()
(torch.Size([2, 16]), [1.0, 1.0])
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pool = Literal["average", "attention"]

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}


class SoftAttention(nn.Module):
    """Average maps (n, channels, …) over their places with learned weights: (n, channels)."""

    def __init__(self, channels: int, *, dims: int = 2) -> None:
        super().__init__()
        hidden = max(4, channels // 8)
        self.look = _CONVOLUTION[dims](channels, hidden, 1)
        self.score = _CONVOLUTION[dims](hidden, 1, 1, bias=False)  # a constant would be the same everywhere: softmax drops it
        nn.init.normal_(self.score.weight, std=0.01)

    def weights(self, maps: Tensor) -> Tensor:
        """Return how much each place counts: maps (n, channels, …) to (n, …), not negative, summing to one for each picture."""
        scores: Tensor = self.score(F.relu(self.look(maps)))
        return scores.float().flatten(1).softmax(dim=1).reshape(scores.shape[0], *scores.shape[2:])

    def forward(self, maps: Tensor) -> Tensor:
        """Return the weighted average of the maps: (n, channels, …) to (n, channels)."""
        return (maps * self.weights(maps).to(maps.dtype).unsqueeze(1)).flatten(2).sum(dim=2)


class Average(nn.Module):
    """The plain average of maps (n, channels, …) over their places: (n, channels)."""

    def weights(self, maps: Tensor) -> Tensor:
        """Return the same weight for every place, shape (n, …)."""
        shape = (maps.shape[0], *maps.shape[2:])
        return torch.full(shape, 1 / maps[0, 0].numel(), device=maps.device)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the average: (n, channels, …) to (n, channels)."""
        return maps.flatten(2).mean(dim=2)


def pooling(kind: Pool, channels: int, *, dims: int = 2) -> Average | SoftAttention:
    """Return what turns the last maps of a network into features: ``average`` or ``attention``."""
    return SoftAttention(channels, dims=dims) if kind == "attention" else Average()
