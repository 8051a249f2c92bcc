"""A multi-view network: several pictures of one thing, each through a plain convolutional encoder, fused into one prediction.

    views (n, views, channels_in, side, side) ──encoders──→ maps ──pool──→ (n, views, width) ──fuse──→ features ──→ outputs

The published network sends views in any number and order through one shared encoder and takes the maximum over them
(``fuse="max"``). Where views are fixed, as the planes of a scan or the projections of a mammogram, each may have an encoder of its
own (``share=False``) and all are kept side by side (``fuse="beside"``).

Encoders are stages of convolution, norm, ReLU and a maximum over 2 × 2, as the VGG-M of the paper but a hundredth of its size, for
some hundreds of people. ``pool`` turns the last maps into a vector: their average, soft attention over places (Poplin 2018), or
``places``, which keeps where things are in ``width`` learned sums over all places, for organs that were registered to each other.

References
----------
Su H, Maji S, Kalogerakis E, Learned-Miller E. Multi-view convolutional neural networks for 3D shape recognition. ICCV (2015),
doi:10.1109/ICCV.2015.114. Poplin R et al. Prediction of cardiovascular risk factors from retinal fundus photographs via deep
learning. Nat Biomed Eng 2, 158–164 (2018), doi:10.1038/s41551-018-0195-0.

>>> config = Config.tiny()
>>> model, (inputs, target) = Model(config).eval(), example(config, 2)
>>> inputs[0].shape, model(*inputs).shape, model.features(*inputs).shape
(torch.Size([2, 3, 1, 16, 16]), torch.Size([2, 3]), torch.Size([2, 24]))
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.nn.example import Example, supervised_example
from clinome.nn.losses import supervised
from clinome.nn.norms import Norm, norm
from clinome.nn.soft_attention import pooling


@dataclass(frozen=True)
class Config:
    """Views and their side in pixels (``places`` needs it), channels of the stages, how views are pooled and fused."""

    views: int = 3
    channels_in: int = 1
    outputs: int = 2
    widths: tuple[int, ...] = (16, 32, 64, 64)
    size: int = 96
    share: bool = True
    pool: Literal["average", "attention", "places"] = "average"
    fuse: Literal["max", "average", "beside"] = "max"
    dropout: float = 0.0
    norm: Norm = "batch"

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(outputs=3, widths=(4, 8), size=16, share=False, pool="places", fuse="beside")


def example(config: Config, batch: int = 2) -> Example:
    """Return seeded noise of shape (batch, views, channels_in, size, size) and a target that fits."""
    return supervised_example(batch, (config.views, config.channels_in, config.size, config.size), config.outputs)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of numbers."""
    return supervised(output, target)


class Encoder(nn.Module):
    """Stages and pooling of one view: (n, channels_in, size, size) to (n, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((config.channels_in, *config.widths)):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers += [convolution, norm(config.norm, after, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.stages = nn.Sequential(*layers)
        width, places = config.widths[-1], (config.size // 2 ** len(config.widths)) ** 2
        self.pool: nn.Module
        if config.pool == "places":
            self.pool = nn.Sequential(
                nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(width * places, width), nn.ReLU(inplace=True)
            )
        else:
            self.pool = pooling(config.pool, width)

    def forward(self, view: Tensor) -> Tensor:
        """Return the pooled maps."""
        pooled: Tensor = self.pool(self.stages(view))
        return pooled


class Model(nn.Module):
    """Encoders, fusion and a linear head; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(Encoder(config) for _ in range(1 if config.share else config.views))
        self.n_features = config.widths[-1] * (config.views if config.fuse == "beside" else 1)
        self.head = nn.Linear(self.n_features, config.outputs) if config.outputs else nn.Identity()

    def features(self, views: Tensor) -> Tensor:
        """Return the fused vector: (n, views, channels_in, height, width) to (n, n_features)."""
        if len(self.encoders) == 1:
            each = self.encoders[0](views.flatten(0, 1)).unflatten(0, views.shape[:2])
        else:
            each = torch.stack([encoder(views[:, k]) for k, encoder in enumerate(self.encoders)], dim=1)
        if self.config.fuse == "beside":
            return torch.flatten(each, 1)
        fused: Tensor = each.amax(dim=1) if self.config.fuse == "max" else each.mean(dim=1)
        return fused

    def forward(self, views: Tensor) -> Tensor:
        """Return class scores or numbers: (n, views, channels_in, height, width) to (n, outputs)."""
        predicted: Tensor = self.head(F.dropout(self.features(views), self.config.dropout, self.training))
        return predicted
