"""The U-Net (Ronneberger 2015): an encoder that halves the picture, a decoder that doubles it again, and skips between equals.

Every stage is twice a 3 × 3 convolution and a ReLU. Going down, maps are halved by maximum pooling; going up, by a 2 × 2 transposed
convolution, after which the encoder's maps of that size are joined on: the decoder knows what is there from below and where it
is from the side.

    picture (n, channels_in, height, width) ──→ scores before softmax (n, outputs, height, width)

The paper's network (``Config.published()``: 1 channel in, 2 classes out, 64–1,024 channels, no normalisation, convolutions without
padding, so that a 572 × 572 tile gives 388 × 388 classes) has 31,030,658 parameters. The default is padded and normalised, as
nearly every later use of it is.

References
----------
Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. MICCAI (2015),
doi:10.1007/978-3-319-24574-4_28.

>>> config = Config.tiny()
>>> Model(config)(*example(config, 2).inputs).shape
torch.Size([2, 2, 16, 16])
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.core.errors import StudyError
from clinome.nn.example import Example
from clinome.nn.norms import Norm, norm


@dataclass(frozen=True)
class Config:
    """Channels in, classes, channels of each stage from the picture down, and what the stages are made of.

    ``padded`` keeps height and width (which must be multiples of :attr:`multiple`); without it each 3 × 3 convolution loses a pixel
    at every side. ``dropout`` is the share of maps left out between the two convolutions of a stage. Without ``skips`` nothing is
    joined on from the encoder, and the upward convolution makes twice the channels instead, so that the network is no smaller:
    the plain encoder–decoder to compare with.
    """

    channels_in: int = 3
    outputs: int = 2
    widths: tuple[int, ...] = (32, 64, 128, 256)
    norm: Norm | None = "batch"
    padded: bool = True
    dropout: float = 0.0
    skips: bool = True

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(widths=(8, 12), norm="group")

    @classmethod
    def published(cls) -> Config:
        """Return the network of the paper's figure 1."""
        return cls(channels_in=1, outputs=2, widths=(64, 128, 256, 512, 1024), norm=None, padded=False)

    @property
    def multiple(self) -> int:
        """What height and width must be multiples of (of the padded network)."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def margin(self) -> int:
        """Pixels that the output lacks at every side: 0 if padded, 92 for the paper's network."""
        if self.padded:
            return 0
        lost = 4  # by the two convolutions of the lowest stage
        for _ in self.widths[1:]:
            lost = 2 * lost + 8
        return lost // 2


class Model(nn.Module):
    """The network; :class:`Config` says of what."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(_stage(*pair, config) for pair in pairwise((config.channels_in, *widths)))
        self.rise = nn.ModuleList()
        self.up = nn.ModuleList()
        for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.rise.append(nn.ConvTranspose2d(below, width if config.skips else 2 * width, kernel_size=2, stride=2))
            self.up.append(_stage(2 * width, width, config))
        self.head = nn.Conv2d(widths[0], config.outputs, kernel_size=1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # the paper's initialisation: a standard deviation of √(2 / incoming connections)
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the classes' scores before softmax: (n, channels_in, height, width) to (n, outputs, height − 2 margin, …).

        Raises
        ------
        StudyError
            When a side cannot be halved as often as the network does.
        """
        maps, passed = pictures, []
        for depth, stage in enumerate(self.down):
            maps = stage(_halved(maps) if depth else maps)
            passed.append(maps)
        for rise, stage, aside in zip(self.rise, self.up, passed[-2::-1], strict=True):
            maps = rise(maps)
            maps = stage(torch.cat([cropped(aside, maps), maps], dim=1) if self.config.skips else maps)
        scores: Tensor = self.head(maps)
        return scores


def _stage(before: int, width: int, config: Config) -> nn.Sequential:
    """Twice convolution, normalisation and ReLU, with dropout between."""
    layers: list[nn.Module] = []
    for channels in (before, width):
        if layers and config.dropout:
            layers.append(nn.Dropout2d(config.dropout))
        layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=int(config.padded), bias=config.norm is None))
        if config.norm is not None:
            layers.append(norm(config.norm, width, 2))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _halved(maps: Tensor) -> Tensor:
    if any(side % 2 for side in maps.shape[2:]):
        raise StudyError(
            "the picture's sides cannot be halved as often as the U-Net does",
            got=f"maps of {maps.shape[2]} × {maps.shape[3]} pixels where an even number is needed",
            do="pad the picture to a multiple of Config.multiple, or tile it with imaging.sliding_window",
        )
    return F.max_pool2d(maps, 2)


def cropped(maps: Tensor, like: Tensor) -> Tensor:
    """Return the middle of ``maps`` of the height and width (and depth) of ``like``."""
    for axis in range(2, maps.ndim):
        length = like.shape[axis]
        maps = maps.narrow(axis, (maps.shape[axis] - length) // 2, length)
    return maps


def example(config: Config, batch: int) -> Example:
    """Return ``batch`` pictures of seeded noise, and for each pixel of the output the class that its first channel's sign says."""
    side = 8 * config.multiple + (0 if config.padded else 4 * (config.multiple - 1))  # 8 pixels enter the lowest stage
    pictures = torch.randn((batch, config.channels_in, side, side), generator=torch.Generator().manual_seed(batch))
    inner = pictures[:, 0, config.margin : side - config.margin, config.margin : side - config.margin]
    return Example((pictures,), (inner > 0).long())


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy over pixels: scores (n, outputs, height, width), classes (n, height, width)."""
    return F.cross_entropy(output, target)
