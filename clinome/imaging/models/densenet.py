"""Densely connected networks (DenseNet-121 at the defaults), for pictures and for volumes, in torchvision's layout.

    pictures (n, channels_in, height, width) → stem → block → transition → block → transition → block → transition → block → maps
    maps → pool → features (n, n_features) → classifier → (n, outputs)

In a block every layer sees the maps of all layers before it and adds ``growth`` channels; a transition halves the channels and the
sides. The networks that read chest films are this one: CheXNet, and TorchXRayVision's, which take one channel.

References
----------
Huang G, Liu Z, van der Maaten L, Weinberger KQ. Densely connected convolutional networks. CVPR (2017),
doi:10.1109/CVPR.2017.243. Rajpurkar P et al. CheXNet (2017), arXiv:1711.05225. Cohen JP et al. TorchXRayVision. MIDL (2022),
arXiv:2111.00595.

>>> config = Config.tiny()
>>> model, (inputs, target) = Model(config).eval(), example(config, 2)
>>> model(*inputs).shape, model.features(*inputs).shape
(torch.Size([2, 3]), torch.Size([2, 24]))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.nn.example import Example, supervised_example
from clinome.nn.losses import supervised
from clinome.nn.norms import Norm, norm
from clinome.nn.soft_attention import Pool, pooling
from clinome.nn.weight_keys import Layout, numbered
from clinome.nn.weights import IMAGENET, RADIMAGENET, TORCHVISION, Preprocessing, Source

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


@dataclass(frozen=True)
class Config:
    """Layers of each block, channels that a layer adds, what comes in and goes out; ``outputs=0`` leaves the head away."""

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    width: int = 64
    dims: Literal[2, 3] = 2
    channels_in: int = 3
    outputs: int = 1000
    norm: Norm = "batch"
    pool: Pool = "average"

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(blocks=(2, 2), growth=6, width=12, outputs=3, pool="attention")


HEADS = ("classifier.",)
LAYOUTS = (Layout("MONAI", ((r"^(.*denselayer\d+)\.layers\.", r"\1."), (r"^class_layers\.out\.", "classifier."))),)
WEIGHTS = (
    Source(
        "torchvision/densenet121",
        Config(),
        ("densenet121-*.pth",),
        IMAGENET,
        TORCHVISION,
        "Huang G et al. CVPR (2017), doi:10.1109/CVPR.2017.243",
        layout=Layout("torchvision", ((r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),)),  # names of torch 0.3
        named_by_hash=True,
    ),
    Source(
        "torchxrayvision/densenet121",
        Config(channels_in=1, outputs=18),
        ("*densenet121-d121-*best.pt", "densenet121-res224-*"),
        Preprocessing((0.5,), (1 / 2048,), 224),  # −1024 … 1024
        "Apache-2.0",
        "Cohen JP et al. TorchXRayVision. MIDL (2022), arXiv:2111.00595",
        layout=Layout("TorchXRayVision", leave=("op_threshs$",)),
    ),
    Source(
        "radimagenet/densenet121",
        Config(),
        ("DenseNet121.pt", "RadImageNet*DenseNet121*.pt"),
        *RADIMAGENET,
        layout=numbered("RadImageNet", ["features"]),
    ),
)


def example(config: Config, batch: int = 2) -> Example:
    """Return seeded noise of shape (batch, channels_in, 32, …) and a target that fits."""
    return supervised_example(batch, (config.channels_in, *(32,) * config.dims), config.outputs)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of numbers."""
    return supervised(output, target)


class Layer(nn.Module):
    """Norm, 1 × 1, norm, 3 × 3: all maps so far (n, before, …) to these and ``growth`` new ones."""

    def __init__(self, before: int, config: Config) -> None:
        super().__init__()
        convolution, narrow = _CONVOLUTION[config.dims], 4 * config.growth
        self.norm1 = norm(config.norm, before, config.dims)
        self.conv1 = convolution(before, narrow, 1, bias=False)
        self.norm2 = norm(config.norm, narrow, config.dims)
        self.conv2 = convolution(narrow, config.growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps with the new ones behind them."""
        new = self.conv1(F.relu(self.norm1(maps), inplace=True))
        new = self.conv2(F.relu(self.norm2(new), inplace=True))
        return torch.cat([maps, new], dim=1)


class Transition(nn.Module):
    """Norm, 1 × 1 to half of the channels, average of 2 × 2: (n, before, …) to (n, before / 2, … / 2)."""

    def __init__(self, before: int, config: Config) -> None:
        super().__init__()
        self.norm = norm(config.norm, before, config.dims)
        self.conv = _CONVOLUTION[config.dims](before, before // 2, 1, bias=False)
        self.pool = _AVERAGE_POOL[config.dims](2, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """Return fewer and smaller maps."""
        halved: Tensor = self.pool(self.conv(F.relu(self.norm(maps), inplace=True)))
        return halved


class Features(nn.Module):
    """Stem, dense blocks with transitions between them, and pooling: (n, channels_in, …) to (n, n_features)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.conv0 = _CONVOLUTION[config.dims](config.channels_in, config.width, 7, stride=2, padding=3, bias=False)
        self.norm0 = norm(config.norm, config.width, config.dims)
        self.pool0 = _MAX_POOL[config.dims](3, stride=2, padding=1)
        self._later: list[str] = []  # the names of what follows, in order
        channels = config.width
        for at, depth in enumerate(config.blocks, start=1):
            block = nn.Sequential()
            for layer in range(1, depth + 1):
                block.add_module(f"denselayer{layer}", Layer(channels, config))
                channels += config.growth
            self._then(f"denseblock{at}", block)
            if at < len(config.blocks):
                self._then(f"transition{at}", Transition(channels, config))
                channels //= 2
        self._then(f"norm{len(config.blocks) + 1}", norm(config.norm, channels, config.dims))
        self.n_features = channels
        self.pool = pooling(config.pool, channels, dims=config.dims)

    def _then(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self._later.append(name)

    def maps(self, x: Tensor) -> Tensor:
        """Return the last maps, before pooling: (n, n_features, …), not negative."""
        maps: Tensor = self.pool0(F.relu(self.norm0(self.conv0(x)), inplace=True))
        for name in self._later:
            maps = self.get_submodule(name)(maps)
        return F.relu(maps, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps."""
        pooled: Tensor = self.pool(self.maps(x))
        return pooled


class Model(nn.Module):
    """``features`` (a module, as in torchvision) and a linear head; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.features = Features(config)
        self.n_features = self.features.n_features
        self.classifier = nn.Linear(self.n_features, config.outputs) if config.outputs else nn.Identity()
        if isinstance(self.classifier, nn.Linear):
            nn.init.zeros_(self.classifier.bias)
        for name, module in self.features.named_modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and not name.startswith("pool."):
                nn.init.kaiming_normal_(module.weight)

    def maps(self, x: Tensor) -> Tensor:
        """Return the last maps, before pooling: (n, n_features, …), for Grad-CAM."""
        return self.features.maps(x)

    def attention(self, x: Tensor) -> Tensor:
        """Return how much each place of the last maps counts: (n, …), summing to one (all alike with average pooling)."""
        return self.features.pool.weights(self.maps(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores or numbers: (n, channels_in, …) to (n, outputs); the features where there is no head."""
        predicted: Tensor = self.classifier(self.features(x))
        return predicted
