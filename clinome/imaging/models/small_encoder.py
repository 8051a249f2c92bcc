"""A small residual network that turns a picture into a vector: about a millisecond a picture on one processor core.

Made to be trained on the spot, on a laptop, for a few thousand pictures of about 90 × 90 pixels. Nothing in it takes away the
overall colour or brightness (batch normalisation, not instance or group normalisation), because pigmentation is a phenotype;
average and maximum pooling together keep both how much of a thing there is and whether there is any; a few channels keep
where it is, because organs are photographed in a standard pose.

    picture (n, 3, size, size) in 0–1  ──stages──→  maps  ──pool, place──→  features (n, n_features)

What it is taught with (a projection and a contrastive loss, identities, targets) stands on top, in ``imaging/learning.py``.

References
----------
He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. CVPR (2016), doi:10.1109/CVPR.2016.90.

>>> config = Config.tiny()
>>> model = Model(config).eval()
>>> pictures = example(config, 2).inputs[0]
>>> model(pictures).shape, model.features(pictures).shape
(torch.Size([2, 104]), torch.Size([2, 104]))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.nn.example import Example
from clinome.nn.losses import nt_xent


@dataclass(frozen=True)
class Config:
    """Widths of the stages (each halves height and width), channels that keep their place, side of the pictures."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    places: int = 8
    size: int = 88

    @property
    def n_features(self) -> int:
        """Length of the feature vector: average and maximum of each channel of the last stage, and the channels with a place."""
        side = self.size
        for _ in self.widths:
            side = (side + 1) // 2
        return 2 * self.widths[-1] + self.places * side**2

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(widths=(8, 16), places=2, size=24)


def example(config: Config, batch: int = 2) -> Example:
    """Return ``batch`` pictures of seeded noise in 0–1, shape (batch, 3, size, size), two and two of a person."""
    pictures = torch.rand((batch, 3, config.size, config.size), generator=torch.Generator().manual_seed(batch))
    return Example((pictures,), torch.arange(batch) // 2)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the contrastive loss of features (n, n_features) whose rows belong to the people ``target`` (n,)."""
    return nt_xent(output, target)


class Block(nn.Module):
    """Two 3 × 3 convolutions with a way around them: (n, c, h, w) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions find to what came in."""
        found = F.relu(self.first_norm(self.first(x)), inplace=True)
        return F.relu(x + self.second_norm(self.second(found)))


class Model(nn.Module):
    """The encoder; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = 3
        for stage, width in enumerate(config.widths):
            layers += [nn.Conv2d(before, width, 5 if stage == 0 else 3, stride=2, padding=2 if stage == 0 else 1, bias=False)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if stage > 0:
                layers += [Block(width)]
            before = width
        self.stages = nn.Sequential(*layers)
        self.place = nn.Conv2d(before, config.places, 1)
        self.n_features = config.n_features
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, pictures: Tensor) -> Tensor:
        """Return the vector to make phenotypes from: (n, 3, size, size) in 0–1 to (n, n_features)."""
        maps = self.stages((pictures - 0.5).contiguous(memory_format=torch.channels_last))
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3)), self.place(maps).flatten(1)], dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return :meth:`features`."""
        return self.features(pictures)
