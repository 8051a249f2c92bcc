"""The 3-D U-Net: each voxel of a volume gets a score per class, learned from volumes of which every voxel is labelled or only some.

A way down halves space and widens channels, a way up brings the resolution back, and each level on the way up sees the maps of the
same size from the way down. The published network has 19,069,955 parameters, takes 132 × 132 × 116 voxels of three channels and
scores the inner 44 × 44 × 28; it was trained on a few labelled slices of a volume, all other voxels having weight 0:

    >>> paper = Config()
    >>> sum(p.numel() for p in Model(paper).parameters()) - Model(paper).scales  # it counts one number a channel of a norm
    19069955

Its successor of the same shape, nnU-Net, pads its convolutions, strides instead of pooling, widens after halving, divides by each
volume's own mean and spread, and is also scored on its coarser levels while it learns (:meth:`Config.nnunet`). Both are this file.

References
----------
Çiçek Ö, Abdulkadir A, Lienkamp SS, Brox T, Ronneberger O. 3D U-Net: learning dense volumetric segmentation from sparse annotation.
MICCAI (2016), figure 2 and section 2, doi:10.1007/978-3-319-46723-8_49.
Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation. Nature Methods 18:203–211 (2021), doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clinome.core.errors import StudyError
from clinome.nn.example import Example
from clinome.nn.norms import Norm, norm
from clinome.nn.segmentation_losses import cross_entropy

Steps = tuple[int, int, int]


@dataclass(frozen=True)
class Config:
    """The published network; every level's two convolutions, the finest first.

    Attributes
    ----------
    channels_in, outputs
        Channels of a volume, and classes (background is class 0).
    widths
        Channels that a level gives, on the way down and up.
    halvings
        By how much depth, height and width shrink from each level to the next, one fewer than ``widths``; None: 2 each.
    kernels
        Sides of the convolutions of each level; None: 3 each. An axis of 1 keeps thick slices apart.
    norm, slope
        Normalisation, and what is left of negative values after it (0 is the ReLU of the paper).
    down
        A level is entered by the largest of each 2 × 2 × 2 ("max") or by a convolution with stride ("stride").
    early
        Channels double before a halving and stay in up-convolutions (the paper's way to avoid bottlenecks), or after it.
    padded
        Whether the scores have the size of the volume; without (the paper), the rim that convolutions use up is lost.
    supervised
        How many coarser levels on the way up are scored too while the network is in training mode.
    """

    channels_in: int = 3
    outputs: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    halvings: tuple[Steps, ...] | None = None
    kernels: tuple[Steps, ...] | None = None
    norm: Norm = "batch"
    slope: float = 0.0
    down: Literal["max", "stride"] = "max"
    early: bool = True
    padded: bool = False
    supervised: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        levels = len(self.widths)
        if levels < 2 or len(self.steps) != levels - 1 or len(self.sides) != levels:
            raise StudyError(
                "a U-Net has two levels or more", got=f"{levels} widths, {len(self.steps)} halvings, {len(self.sides)} kernels"
            )
        if self.supervised and (not self.padded or self.supervised > levels - 2):
            raise StudyError("coarser levels are scored where convolutions are padded, and above the bottom", got=self)
        if not self.padded and (self.halvings or self.kernels):
            raise StudyError("without padding every axis is halved and convolved alike", got=self, do="set padded")

    @property
    def steps(self) -> tuple[Steps, ...]:
        """The halvings between levels, spelled out."""
        return self.halvings if self.halvings is not None else ((2, 2, 2),) * (len(self.widths) - 1)

    @property
    def sides(self) -> tuple[Steps, ...]:
        """The kernels of levels, spelled out."""
        return self.kernels if self.kernels is not None else ((3, 3, 3),) * len(self.widths)

    @property
    def divisor(self) -> Steps:
        """What depth, height and width of a volume must be multiples of (with padded convolutions)."""
        total = [1, 1, 1]
        for step in self.steps:
            total = [a * b for a, b in zip(total, step, strict=True)]
        return total[0], total[1], total[2]

    @property
    def margin(self) -> int:
        """By how many voxels the scores are smaller than the volume on each side: 44 in the paper."""
        levels = len(self.widths)
        return 0 if self.padded else sum(4 * 2**level for level in range(levels - 1)) + 2 * 2 ** (levels - 1)

    @classmethod
    def nnunet(
        cls,
        channels_in: int,
        outputs: int,
        widths: tuple[int, ...],
        *,
        halvings: Sequence[Sequence[int]] | None = None,
        kernels: Sequence[Sequence[int]] | None = None,
        supervised: int = 1,
    ) -> Config:
        """Return nnU-Net's plain network (Isensee et al. 2021), whose shape :mod:`clinome.imaging.planner` chooses.

        ``supervised`` levels below the finest are scored, as far as there are so many above the bottom.
        """
        steps, sides = (None if each is None else tuple((d, h, w) for d, h, w in each) for each in (halvings, kernels))
        return cls(
            channels_in,
            outputs,
            widths,
            steps,
            sides,
            norm="instance",
            slope=0.01,
            down="stride",
            early=False,
            padded=True,
            supervised=max(min(supervised, len(widths) - 2), 0),
        )

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(channels_in=1, outputs=3, widths=(6, 12, 24), norm="group", padded=True, supervised=1)


def example(config: Config, batch: int) -> Example:
    """Return ``batch`` volumes of noise, (batch, channels, depth, height, width), and the class that says how bright a voxel is."""
    side = [2 * step if config.padded else 92 for step in config.divisor]
    volumes = torch.randn((batch, config.channels_in, *side), generator=torch.Generator().manual_seed(batch))
    cuts = torch.linspace(-0.5, 0.5, config.outputs - 1) if config.outputs > 2 else torch.zeros(1)
    return Example((volumes,), torch.bucketize(volumes[:, 0], cuts))


def loss(output: Tensor | Sequence[Tensor], target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Return the weighted softmax cross-entropy over labelled voxels, a scalar (section 2 of the paper).

    Parameters
    ----------
    output
        Scores, (n, classes, depth, height, width), or those of several levels, finest first, each counting half as much as the
        finer one before it.
    target
        Classes, integers of shape (n, depth, height, width); :data:`clinome.nn.segmentation_losses.UNKNOWN` (−1), a voxel without a
        label, has weight 0. Where the scores lack the rim of the volume, so will the target; a coarser level takes every second
        voxel of it.
    weight
        Of the classes (the paper lowers background's), shape (classes,).
    """
    levels = [output] if isinstance(output, Tensor) else list(output)
    finest = target[:, *_inner(target.shape[1:], levels[0].shape[2:])]
    total = levels[0].new_zeros(())
    for k, scores in enumerate(levels):
        thin = (slice(None, None, have // want) for have, want in zip(finest.shape[1:], scores.shape[2:], strict=True))
        total = total + 0.5**k * cross_entropy(scores.float(), finest[:, *thin], class_weights=weight)
    return total / sum(0.5**k for k in range(len(levels)))


def _inner(have: Sequence[int], want: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of the middle ``want`` of ``have``."""
    return tuple(slice((h - w) // 2, (h - w) // 2 + w) for h, w in zip(have, want, strict=True))


class Convolution(nn.Sequential):
    """Convolution, normalisation, rectifier: (n, before, d, h, w) to (n, after, …)."""

    def __init__(self, config: Config, before: int, after: int, kernel: Steps, stride: Steps = (1, 1, 1)) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if config.padded else 0
        super().__init__(
            nn.Conv3d(before, after, kernel, stride, padding, bias=False),  # a bias would vanish in the normalisation
            norm(config.norm, after, 3),
            nn.LeakyReLU(config.slope, inplace=True),
        )


class Model(nn.Module):
    """Way down, way up, and a score per class and voxel: (n, channels_in, d, h, w) to (n, outputs, d, h, w).

    With ``supervised`` levels, training mode gives a tuple of scores, finest first.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths, steps, sides = config.widths, config.steps, config.sides
        self.down = nn.ModuleList()
        before = config.channels_in
        for level, (width, kernel) in enumerate(zip(widths, sides, strict=True)):
            first = width // 2 if config.early else width
            step = steps[level - 1] if level and config.down == "stride" else (1, 1, 1)
            pool = [nn.MaxPool3d(steps[level - 1])] if level and config.down == "max" else []
            self.down.append(
                nn.Sequential(*pool, Convolution(config, before, first, kernel, step), Convolution(config, first, width, kernel))
            )
            before = width
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths) - 1)):
            width, below = widths[level], before if config.early else widths[level]
            self.up.append(nn.ConvTranspose3d(before, below, steps[level], steps[level], bias=False))
            first_merge = Convolution(config, below + width, width, sides[level])
            self.merge.append(nn.Sequential(first_merge, Convolution(config, width, width, sides[level])))
            before = width
        self.heads = nn.ModuleList(nn.Conv3d(width, config.outputs, 1) for width in widths[: config.supervised + 1])
        for part in self.modules():
            if isinstance(part, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(part.weight, a=config.slope)

    @property
    def scales(self) -> int:
        """Parameters that only scale what a normalisation gives (the paper's count of parameters leaves them out)."""
        return sum(len(weight) for name, weight in self.named_parameters() if weight.ndim == 1 and name.endswith(".weight"))

    def forward(self, volume: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Score every voxel; see the class.

        Raises
        ------
        StudyError
            When the network's halvings do not divide a size.
        """
        kept: list[Tensor] = []
        for level, down in enumerate(self.down):
            if level and any(size % step for size, step in zip(kept[-1].shape[2:], self.config.steps[level - 1], strict=True)):
                raise StudyError(
                    f"the network cannot halve maps of {tuple(kept[-1].shape[2:])} voxels on level {level}",
                    got=f"a volume of {tuple(volume.shape[2:])}",
                    expected=f"sides that are multiples of {self.config.divisor}" if self.config.padded else "e.g. 132 × 132 × 116",
                    do="pad the volume",
                )
            kept.append(down(kept[-1] if level else volume))
        risen = [kept.pop()]
        for up, merge in zip(self.up, self.merge, strict=True):
            rough, across = up(risen[-1]), kept.pop()
            risen.append(merge(torch.cat([rough, across[:, :, *_inner(across.shape[2:], rough.shape[2:])]], dim=1)))
        if self.training and self.config.supervised:
            return tuple(head(maps) for head, maps in zip(self.heads, reversed(risen[1:]), strict=False))
        scores: Tensor = self.heads[0](risen[-1])
        return scores
