"""Residual networks of 18, 34, 50 or 101 layers, for pictures and for volumes, in torchvision's layout and to its last digit.

    pictures (n, channels_in, height, width)  ──stem──→ ──layer1 … layer4──→  maps  ──pool──→  features  ──fc──→  (n, outputs)

The four stages have 64, 128, 256, 512 channels (four times that from 50 layers on); each after the first halves the sides. The
network of 50 and 101 layers has its stride in the 3 × 3 convolution ("v1.5", as torchvision), where the paper had it in the first
1 × 1. With ``stem="small"`` the first convolution is 3 × 3 with stride 1 and no pooling, for pictures of about 28 pixels, as in
MedMNIST's ResNet-18. ``shortcuts=False`` leaves the ways around away: the paper's plain networks, which deeper designs are compared
with. With ``dims=3`` every kernel has a third axis, and the layout is MONAI's (with ``conv1_t_stride=2``,
``bias_downsample=False``).

References
----------
He K, Zhang X, Ren S, Sun J. Deep residual learning for image recognition. CVPR (2016), doi:10.1109/CVPR.2016.90.
Yang J, Shi R, Wei D, et al. MedMNIST v2. Sci Data 10, 41 (2023), doi:10.1038/s41597-022-01721-8 (the small stem).

>>> config = Config.tiny()
>>> model, (inputs, target) = Model(config).eval(), example(config, 2)
>>> model(*inputs).shape, model.features(*inputs).shape
(torch.Size([2, 3]), torch.Size([2, 64]))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from clinome.nn.example import Example, supervised_example
from clinome.nn.losses import supervised
from clinome.nn.norms import Norm, norm
from clinome.nn.soft_attention import Pool, pooling
from clinome.nn.weight_keys import numbered
from clinome.nn.weights import IMAGENET, RADIMAGENET, TORCHVISION, Source

_LAYERS: tuple[Literal[18, 34, 50, 101], ...] = (18, 34, 50, 101)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


@dataclass(frozen=True)
class Config:
    """Which of the published networks, what comes in and what goes out; ``outputs=0`` leaves the head away."""

    layers: Literal[18, 34, 50, 101] = 50
    dims: Literal[2, 3] = 2
    channels_in: int = 3
    outputs: int = 1000
    width: int = 64
    stem: Literal["large", "small"] = "large"
    norm: Norm = "batch"
    pool: Pool = "average"
    shortcuts: bool = True

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(layers=18, outputs=3, width=8, stem="small", pool="attention")


HEADS = ("fc.",)
WEIGHTS = (
    *(
        Source(
            f"torchvision/resnet{layers}",
            Config(layers=layers),
            (f"resnet{layers}-*.pth",),
            IMAGENET,
            TORCHVISION,
            "He K et al. CVPR (2016), doi:10.1109/CVPR.2016.90",
            named_by_hash=True,
        )
        for layers in _LAYERS
    ),
    Source(
        "radimagenet/resnet50",
        Config(layers=50),
        ("ResNet50.pt", "RadImageNet*ResNet50*.pt"),
        *RADIMAGENET,
        layout=numbered("RadImageNet", ["conv1", "bn1", None, None, "layer1", "layer2", "layer3", "layer4"]),
    ),
)


def example(config: Config, batch: int = 2) -> Example:
    """Return seeded noise of shape (batch, channels_in, 16, …), or 64 a side for the large stem, and a target that fits."""
    side = 16 if config.stem == "small" else 64
    return supervised_example(batch, (config.channels_in, *(side,) * config.dims), config.outputs)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of numbers."""
    return supervised(output, target)


class Block(nn.Module):
    """Two 3 × 3 convolutions and a way around them: (n, before, …) to (n, width, … / stride)."""

    expansion = 1

    def __init__(
        self, before: int, width: int, stride: int, *, dims: int, kind: Norm, around: nn.Module | None, shortcut: bool
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        convolution = _CONVOLUTION[dims]
        self.conv1 = convolution(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(kind, width, dims)
        self.conv2 = convolution(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(kind, width, dims)
        self.downsample = around

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions find to what came in."""
        found = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return _with(self.bn2(self.conv2(found)), x, self)


class Bottleneck(nn.Module):
    """Narrow, 3 × 3, widen, and a way around: (n, before, …) to (n, 4 · width, … / stride)."""

    expansion = 4

    def __init__(
        self, before: int, width: int, stride: int, *, dims: int, kind: Norm, around: nn.Module | None, shortcut: bool
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        convolution = _CONVOLUTION[dims]
        self.conv1 = convolution(before, width, 1, bias=False)
        self.bn1 = norm(kind, width, dims)
        self.conv2 = convolution(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(kind, width, dims)
        self.conv3 = convolution(width, 4 * width, 1, bias=False)
        self.bn3 = norm(kind, 4 * width, dims)
        self.downsample = around

    def forward(self, x: Tensor) -> Tensor:
        """Add what the convolutions find to what came in."""
        found = F.relu(self.bn1(self.conv1(x)), inplace=True)
        found = F.relu(self.bn2(self.conv2(found)), inplace=True)
        return _with(self.bn3(self.conv3(found)), x, self)


def _with(found: Tensor, x: Tensor, block: Block | Bottleneck) -> Tensor:
    """Add the way around a block, where it has one, to what its convolutions found."""
    if block.shortcut:
        found = found + (x if block.downsample is None else block.downsample(x))
    return F.relu(found, inplace=True)


class Model(nn.Module):
    """Stem, four stages, pooling and head; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        small = config.stem == "small"
        self.conv1 = _CONVOLUTION[config.dims](
            config.channels_in, config.width, 3 if small else 7, stride=1 if small else 2, padding=1 if small else 3, bias=False
        )
        self.bn1 = norm(config.norm, config.width, config.dims)
        self.maxpool = nn.Identity() if small else _MAX_POOL[config.dims](3, stride=2, padding=1)
        kind = Bottleneck if config.layers >= 50 else Block
        widths = [config.width * 2**stage for stage in range(4)]
        before = [config.width, *(kind.expansion * width for width in widths)]
        self.layer1 = _stage(config, kind, before[0], widths[0], BLOCKS[config.layers][0], stride=1)
        self.layer2 = _stage(config, kind, before[1], widths[1], BLOCKS[config.layers][1], stride=2)
        self.layer3 = _stage(config, kind, before[2], widths[2], BLOCKS[config.layers][2], stride=2)
        self.layer4 = _stage(config, kind, before[3], widths[3], BLOCKS[config.layers][3], stride=2)
        self.n_features = before[4]
        self.fc = nn.Linear(self.n_features, config.outputs) if config.outputs else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.pool = pooling(config.pool, self.n_features, dims=config.dims)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the maps after each of the four stages, finest first: (n, channels, …) each."""
        maps = [self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return maps[1:]

    def maps(self, x: Tensor) -> Tensor:
        """Return the last maps, before pooling: (n, n_features, …), for Grad-CAM."""
        return self.stages(x)[-1]

    def attention(self, x: Tensor) -> Tensor:
        """Return how much each place of the last maps counts: (n, …), summing to one (all alike with average pooling)."""
        return self.pool.weights(self.maps(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the vector before the head: (n, channels_in, …) to (n, n_features)."""
        pooled: Tensor = self.pool(self.maps(x))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores or numbers: (n, channels_in, …) to (n, outputs); the features where there is no head."""
        predicted: Tensor = self.fc(self.features(x))
        return predicted


def _stage(
    config: Config, kind: type[Block] | type[Bottleneck], before: int, width: int, blocks: int, *, stride: int
) -> nn.Sequential:
    """Return a stage: the first block changes sides and channels, the others keep them."""
    after = kind.expansion * width
    around: nn.Module | None = None
    if config.shortcuts and (stride != 1 or before != after):
        around = nn.Sequential(
            _CONVOLUTION[config.dims](before, after, 1, stride=stride, bias=False), norm(config.norm, after, config.dims)
        )
    given: dict[str, Any] = {"dims": config.dims, "kind": config.norm, "shortcut": config.shortcuts}
    made = [kind(before, width, stride, around=around, **given)]
    made += [kind(after, width, 1, around=None, **given) for _ in range(blocks - 1)]
    return nn.Sequential(*made)
