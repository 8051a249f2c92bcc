"""Inception-v3, in torchvision's layout and to its last digit; with soft attention it is the network that read fundus photographs.

    pictures (n, channels_in, ≥ 75, ≥ 75) → stem → 3 A cells → B → 4 C cells → D → 2 E cells → maps → pool → features → fc
                                                                  └→ auxiliary head (training only)

A cell looks at its maps along several paths at once (1 × 1, 3 × 3, 1 × 7 then 7 × 1, …) and joins what they find; the table
``CELLS`` is the whole architecture. With ``auxiliary=True`` a training network returns the outputs of both heads, and ``loss`` adds
0.4 of the auxiliary one's; an evaluating network returns one tensor always. At 299 pixels the last maps are 8 × 8.

References
----------
Szegedy C, Vanhoucke V, Ioffe S, Shlens J, Wojna Z. Rethinking the Inception architecture for computer vision. CVPR (2016),
doi:10.1109/CVPR.2016.308. Poplin R et al. Nat Biomed Eng 2, 158–164 (2018), doi:10.1038/s41551-018-0195-0 (``pool="attention"``).

>>> config = Config.tiny()
>>> model, (inputs, target) = Model(config).eval(), example(config, 2)
>>> model(*inputs).shape, model.features(*inputs).shape
(torch.Size([2, 3]), torch.Size([2, 128]))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.nn.example import Example, supervised_example
from clinome.nn.losses import supervised
from clinome.nn.norms import Norm, norm
from clinome.nn.soft_attention import Pool, pooling
from clinome.nn.weight_keys import numbered
from clinome.nn.weights import RADIMAGENET, TORCHVISION, Preprocessing, Source

Kernel = int | tuple[int, int]


class Step(NamedTuple):
    """A convolution of a path: its name, its channels, its kernel. One with stride 2 has no padding, the others keep the sides."""

    name: str
    channels: int
    kernel: Kernel
    stride: int = 1


Fork = tuple[Step, ...]  # convolutions of the same maps, joined: how two of E's paths end
Path = tuple[Step | Fork, ...]


def _double_three(name: str, narrow: int, wide: int, *, stride: int = 1) -> Path:
    return (Step(f"{name}_1", narrow, 1), Step(f"{name}_2", wide, 3), Step(f"{name}_3", wide, 3, stride))


def _a(pooled: int) -> tuple[Path, ...]:
    return (
        (Step("branch1x1", 64, 1),),
        (Step("branch5x5_1", 48, 1), Step("branch5x5_2", 64, 5)),
        _double_three("branch3x3dbl", 64, 96),
        (Step("branch_pool", pooled, 1),),
    )


def _c(narrow: int) -> tuple[Path, ...]:
    row, column = (1, 7), (7, 1)
    double: list[tuple[int, Kernel]] = [(narrow, 1), (narrow, column), (narrow, row), (narrow, column), (192, row)]
    return (
        (Step("branch1x1", 192, 1),),
        (Step("branch7x7_1", narrow, 1), Step("branch7x7_2", narrow, row), Step("branch7x7_3", 192, column)),
        tuple(Step(f"branch7x7dbl_{at}", channels, kernel) for at, (channels, kernel) in enumerate(double, start=1)),
        (Step("branch_pool", 192, 1),),
    )


_B: tuple[Path, ...] = ((Step("branch3x3", 384, 3, 2),), _double_three("branch3x3dbl", 64, 96, stride=2))
_D: tuple[Path, ...] = (
    (Step("branch3x3_1", 192, 1), Step("branch3x3_2", 320, 3, 2)),
    (
        Step("branch7x7x3_1", 192, 1),
        Step("branch7x7x3_2", 192, (1, 7)),
        Step("branch7x7x3_3", 192, (7, 1)),
        Step("branch7x7x3_4", 192, 3, 2),
    ),
)
_E: tuple[Path, ...] = (
    (Step("branch1x1", 320, 1),),
    (Step("branch3x3_1", 384, 1), (Step("branch3x3_2a", 384, (1, 3)), Step("branch3x3_2b", 384, (3, 1)))),
    (
        Step("branch3x3dbl_1", 448, 1),
        Step("branch3x3dbl_2", 384, 3),
        (Step("branch3x3dbl_3a", 384, (1, 3)), Step("branch3x3dbl_3b", 384, (3, 1))),
    ),
    (Step("branch_pool", 192, 1),),
)

CELLS: dict[str, tuple[Path, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _B,
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),  # the auxiliary head looks at this one
    "Mixed_7a": _D,
    "Mixed_7b": _E,
    "Mixed_7c": _E,
}


@dataclass(frozen=True)
class Config:
    """What comes in and goes out, the auxiliary head, dropout before the head; ``width`` scales every layer's channels."""

    channels_in: int = 3
    outputs: int = 1000
    auxiliary: bool = False
    dropout: float = 0.5
    width: float = 1.0
    norm: Norm = "batch"
    pool: Pool = "average"

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(outputs=3, auxiliary=True, dropout=0.1, width=1 / 16, pool="attention")


_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", None, "Conv2d_3b_1x1", "Conv2d_4a_3x3", None)  # None: max pooling

HEADS = ("fc.", "AuxLogits.")
WEIGHTS = (
    Source(
        "torchvision/inception_v3",
        Config(auxiliary=True),
        ("inception_v3_google-*.pth",),
        Preprocessing((0.5,) * 3, (0.5,) * 3, 299),  # what torchvision's transform_input makes of ImageNet's mean and spread
        TORCHVISION,
        "Szegedy C et al. CVPR (2016), doi:10.1109/CVPR.2016.308",
        named_by_hash=True,
    ),
    Source(
        "radimagenet/inception_v3",
        Config(),
        ("InceptionV3.pt", "RadImageNet*InceptionV3*.pt"),
        *RADIMAGENET,
        layout=numbered("RadImageNet", [*_STEM, *CELLS]),  # its file has no auxiliary head among the parts
    ),
)


def example(config: Config, batch: int = 2) -> Example:
    """Return seeded noise of shape (batch, channels_in, 112, 112) and a target that fits."""
    return supervised_example(batch, (config.channels_in, 112, 112), config.outputs)


def loss(output: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of numbers, and 0.4 of the same for the auxiliary head."""
    if isinstance(output, tuple):
        return supervised(output[0], target) + 0.4 * supervised(output[1], target)
    return supervised(output, target)


class Convolution(nn.Module):
    """Convolution, normalisation, ReLU. Names of its parts are torchvision's."""

    def __init__(self, before: int, after: int, kernel: Kernel, *, kind: Norm, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, bias=False)
        self.bn = norm(kind, after, 2, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps that are not negative."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Cell(nn.Module):
    """Several paths over the same maps, joined: (n, before, height, width) to (n, ``after``, …)."""

    def __init__(self, before: int, paths: Sequence[Path], config: Config) -> None:
        super().__init__()
        self._paths = tuple(paths)
        self.after = 0
        for path in self._paths:
            channels = before
            for step in path:
                fork = (step,) if isinstance(step, Step) else step
                for one in fork:
                    self.add_module(one.name, self._convolution(channels, one, config))
                channels = sum(_scaled(one.channels, config) for one in fork)
            self.after += channels
        self._shrinks = any(isinstance(step, Step) and step.stride == 2 for path in self._paths for step in path)
        if self._shrinks:
            self.after += before

    @staticmethod
    def _convolution(before: int, step: Step, config: Config) -> Convolution:
        height, width = (step.kernel, step.kernel) if isinstance(step.kernel, int) else step.kernel
        padding = (height // 2, width // 2) if step.stride == 1 else (0, 0)
        after = _scaled(step.channels, config)
        return Convolution(before, after, step.kernel, kind=config.norm, stride=step.stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return the paths' maps one behind the other; a cell that shrinks has the maximum of its input as a last path."""
        found = [self._walk(x, path) for path in self._paths]
        if self._shrinks:
            found.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(found, dim=1)

    def _walk(self, x: Tensor, path: Path) -> Tensor:
        if isinstance(path[0], Step) and path[0].name == "branch_pool":
            x = F.avg_pool2d(x, 3, stride=1, padding=1)
        for step in path:
            fork = (step,) if isinstance(step, Step) else step
            x = torch.cat([self.get_submodule(one.name)(x) for one in fork], dim=1)
        return x


class AuxiliaryHead(nn.Module):
    """A second opinion from halfway: (n, before, height, width) to (n, outputs)."""

    def __init__(self, before: int, config: Config) -> None:
        super().__init__()
        narrow, wide = _scaled(128, config), _scaled(768, config)
        self.conv0 = Convolution(before, narrow, 1, kind=config.norm)
        self.conv1 = Convolution(narrow, wide, 5, kind=config.norm)
        self.fc = nn.Linear(wide, config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs. Maps of less than 17 × 17 (pictures of less than 299) are averaged to the same 5 × 5."""
        small = min(x.shape[2:]) < 17
        x = F.adaptive_avg_pool2d(x, 5) if small else F.avg_pool2d(x, 5, stride=3)
        predicted: Tensor = self.fc(self.conv1(self.conv0(x)).mean(dim=(2, 3)))
        return predicted


class Model(nn.Module):
    """Stem, eleven cells, pooling, dropout and head; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        kind, widths = config.norm, [_scaled(channels, config) for channels in (32, 32, 64, 80, 192)]
        self.Conv2d_1a_3x3 = Convolution(config.channels_in, widths[0], 3, kind=kind, stride=2)
        self.Conv2d_2a_3x3 = Convolution(widths[0], widths[1], 3, kind=kind)
        self.Conv2d_2b_3x3 = Convolution(widths[1], widths[2], 3, kind=kind, padding=1)
        self.Conv2d_3b_1x1 = Convolution(widths[2], widths[3], 1, kind=kind)
        self.Conv2d_4a_3x3 = Convolution(widths[3], widths[4], 3, kind=kind)
        channels = widths[4]
        for name, paths in CELLS.items():
            cell = Cell(channels, paths, config)
            self.add_module(name, cell)
            channels = cell.after
            if name == "Mixed_6e" and config.auxiliary and config.outputs:
                self.AuxLogits = AuxiliaryHead(channels, config)
        self.n_features = channels
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(channels, config.outputs) if config.outputs else nn.Identity()
        self._start()
        self.pool = pooling(config.pool, channels)

    def _start(self) -> None:
        """Draw initial weights as torchvision does: normal, cut at 2, with spread 0.1 (0.001 in the auxiliary head's fc)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.001 if name == "AuxLogits.fc" else 0.1, a=-2, b=2)

    def _cells(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the last maps and the auxiliary output, which only a training network with that head has."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x, auxiliary = F.max_pool2d(x, 3, stride=2), None
        for name in CELLS:
            x = self.get_submodule(name)(x)
            if name == "Mixed_6e" and self.training and hasattr(self, "AuxLogits"):
                auxiliary = self.AuxLogits(x)
        return x, auxiliary

    def maps(self, x: Tensor) -> Tensor:
        """Return the last maps, before pooling: (n, n_features, rows, columns), for Grad-CAM."""
        return self._cells(x)[0]

    def attention(self, x: Tensor) -> Tensor:
        """Return how much each place of the last maps counts: (n, rows, columns), summing to one (alike with average pooling)."""
        return self.pool.weights(self.maps(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the vector before the head: (n, channels_in, height, width) to (n, n_features)."""
        pooled: Tensor = self.pool(self.maps(x))
        return pooled

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return class scores or numbers (n, outputs), the features where there is no head; in training also the auxiliary ones."""
        maps, auxiliary = self._cells(x)
        predicted: Tensor = self.fc(self.dropout(self.pool(maps)))
        return predicted if auxiliary is None else (predicted, auxiliary)


def _scaled(channels: int, config: Config) -> int:
    return max(2, round(channels * config.width))
