"""iGWAS: a backbone and three narrowing layers that turn a picture of an eye into 128 numbers that tell who it is.

    picture (n, 3, side, side)  ──backbone──→  (n, n)  ──1024──→ ──512──→  (n, dimensions)      PReLU between

The paper trains Inception-v3 with a large-margin cosine loss over people, left and right eye of a person as one class, and reads
the 128 numbers as phenotypes. ``backbone="small"`` puts Clinome's small encoder in its place, for pictures of about 90 pixels and
training on a laptop.

References
----------
Xie Z, Zhang T, Kim S, et al. iGWAS: image-based genome-wide association of self-supervised deep phenotyping of retina fundus
images. PLOS Genetics 20:e1011273 (2024), doi:10.1371/journal.pgen.1011273; the layers are those of its published code.

>>> config = Config.tiny()
>>> Model(config).eval()(*example(config, 2).inputs).shape
torch.Size([2, 8])
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from clinome.imaging.models import inception_v3, small_encoder
from clinome.nn.example import Example
from clinome.nn.losses import nt_xent


@dataclass(frozen=True)
class Config:
    """Backbone, widths of the layers after it, length of the embedding, and side of the pictures (the small backbone's)."""

    backbone: Literal["inception_v3", "small"] = "inception_v3"
    hidden: tuple[int, ...] = (1024, 512)
    dimensions: int = 128
    size: int = 299

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(backbone="small", hidden=(16, 12), dimensions=8, size=24)


def example(config: Config, batch: int = 2) -> Example:
    """Return ``batch`` pictures of seeded noise in 0–1, shape (batch, 3, size, size), two and two of a person."""
    pictures = torch.rand((batch, 3, config.size, config.size), generator=torch.Generator().manual_seed(batch))
    return Example((pictures,), torch.arange(batch) // 2)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the contrastive loss of rows that belong to the people ``target`` (n,); the margin loss needs a direction a person."""
    return nt_xent(output, target)


class Model(nn.Module):
    """See the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.backbone == "small":
            self.backbone: nn.Module = small_encoder.Model(small_encoder.Config(size=config.size))
        else:
            self.backbone = inception_v3.Model(inception_v3.Config(outputs=0))
        widths = (int(self.backbone.n_features), *config.hidden, config.dimensions)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.PReLU()]
        self.head = nn.Sequential(*layers[:-1])
        self.n_features = config.dimensions

    def features(self, pictures: Tensor) -> Tensor:
        """Return the embedding, not scaled: (n, 3, size, size) in 0–1 to (n, dimensions)."""
        embedded: Tensor = self.head(self.backbone.features(pictures))  # type: ignore[operator]
        return embedded

    def forward(self, pictures: Tensor) -> Tensor:
        """Return :meth:`features`."""
        return self.features(pictures)
