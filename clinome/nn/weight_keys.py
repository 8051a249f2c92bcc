"""How the weights of a file become those of a network: what the keys are called there, and shapes that can be adapted.

The same network is saved under other names by every program (:class:`Layout`), wrapped in other modules, for other channels. Here
each key of a file is led to the key of the network, tensor by tensor; what is left over on either side is kept to be told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.core.errors import FormatError
from clinome.nn.weight_files import Weights


@dataclass(frozen=True)
class Layout:
    """How another program names the same weights: rules (pattern, name here), the first that fits counts; and what to leave out."""

    name: str
    rules: tuple[tuple[str, str], ...] = ()
    leave: tuple[str, ...] = ()

    def rename(self, key: str) -> str:
        """Return the key under which the network keeps the weight."""
        for pattern, name in self.rules:
            renamed, fits = re.subn(pattern, name, key)
            if fits:
                return renamed
        return key

    def leaves(self, key: str) -> bool:
        """Tell whether a weight is part of the file and not of the network."""
        return any(re.match(pattern, key) for pattern in self.leave)


OWN = Layout("as the network's own")


def numbered(name: str, parts: Sequence[str | None], *, inside: str = "backbone") -> Layout:
    """Return the layout of a network that was saved as a list of its parts: ``backbone.0.weight`` is the first part's weight.

    >>> numbered("a list", ["conv1", "bn1", None, "layer1"]).rename("backbone.3.0.conv2.weight")
    'layer1.0.conv2.weight'
    """
    return Layout(name, tuple((rf"^{inside}\.{at}\.", f"{part}.") for at, part in enumerate(parts) if part))


@dataclass
class Match:
    """Which of a file's weights go where under one layout."""

    layout: Layout
    tensors: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)
    shapes: list[str] = field(default_factory=list)  # same name, another shape


def match(model: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, *, heads: Sequence[str], head: bool) -> Match:
    """Lead the tensors of a file to the keys of ``model`` under one layout; the network is not touched.

    Keys that begin with one of ``heads`` belong to a task: they are left out, unless ``head`` and the network has them.
    """
    wanted = model.state_dict()
    first = next((f"{name}.weight" for name, part in model.named_modules() if isinstance(part, _CONVOLUTIONS)), None)
    match = Match(layout)
    for key, tensor in tensors.items():
        name = _bare(layout.rename(re.sub(r"^(module\.)+", "", key)), wanted)
        if layout.leaves(name) or (name.startswith(tuple(heads)) and not (head and name in wanted)):
            match.left.append(key)
            continue
        like = wanted.get(name)
        if like is None:
            match.unexpected.append(key)
            continue
        adapted, how = _adapted(tensor, like, channels=name == first, positions=name.endswith("pos_embed"))
        if adapted is None:
            match.shapes.append(f"{name} {tuple(tensor.shape)}, here {tuple(like.shape)}")
            match.unexpected.append(key)
            continue
        match.tensors[name] = adapted
        if how:
            match.reshaped[name] = how
    counters = any(key.endswith(_COUNTER) for key in tensors)  # files from before torch 0.4.1 have none
    needed = [name for name in wanted if counters or not name.endswith(_COUNTER)]
    not_theirs = _ADDED if head else (*_ADDED, *heads)
    match.missing = [name for name in needed if name not in match.tensors and not name.startswith(not_theirs)]
    return match


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ADDED = ("pool.", "features.pool.")  # soft attention: taken where the file has it, not missed where it has not
_COUNTER = "num_batches_tracked"
_AROUND = ("model.", "encoder.", "backbone.", "net.", "network.", "visual.")


def _bare(key: str, wanted: Mapping[str, Tensor]) -> str:
    """Take away the names of whatever the network was wrapped in when it was saved."""
    while key not in wanted:
        around = next((prefix for prefix in _AROUND if key.startswith(prefix)), None)
        if around is None:
            break
        key = key.removeprefix(around)
    return key


def _adapted(tensor: Tensor, like: Tensor, *, channels: bool, positions: bool) -> tuple[Tensor | None, str]:
    """Return the tensor in the shape of ``like`` and in words what was done; None where it cannot be."""
    done = []
    if positions and tensor.ndim == like.ndim == 3 and tensor.shape[1] != like.shape[1] and tensor.shape[2] == like.shape[2]:
        return _positions(tensor, like.shape[1])
    if tensor.ndim == 4 and like.ndim == 5:
        depth = like.shape[2]
        tensor = tensor.unsqueeze(2).expand(-1, -1, depth, -1, -1) / depth
        done.append("2-D to 3-D") if depth > 1 else None
    if channels and tensor.ndim == like.ndim and tensor.shape[1] != like.shape[1]:
        done.append(f"{tensor.shape[1]} channels to {like.shape[1]}")
        tensor = adapt_channels(tensor, like.shape[1])
    return (tensor, ", ".join(done)) if tensor.shape == like.shape else (None, "")


def adapt_channels(kernels: Tensor, channels: int) -> Tensor:
    """Return kernels (out, in, …) of a first convolution for ``channels`` channels.

    For one channel they are summed over the old ones: a grey picture then gives what it gave when shown in every channel. For
    others the old ones are repeated in turn and rescaled by old / new, so that what comes out keeps its size.

    >>> adapt_channels(torch.tensor([[[1.0], [2.0], [3.0]]]), 1).flatten().tolist()
    [6.0]
    >>> adapt_channels(torch.tensor([[[1.0], [2.0], [3.0]]]), 6).flatten().tolist()
    [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    """
    before = kernels.shape[1]
    if channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    return kernels[:, torch.arange(channels) % before] * (before / channels)


def _positions(tensor: Tensor, count: int) -> tuple[Tensor | None, str]:
    """Interpolate position embeddings (1, 1 + places, width) to another square grid; the class token's is kept."""
    old, new = round((tensor.shape[1] - 1) ** 0.5), round((count - 1) ** 0.5)
    if old**2 + 1 != tensor.shape[1] or new**2 + 1 != count:
        return None, ""
    grid = tensor[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    places = grid.permute(0, 2, 3, 1).reshape(1, new**2, -1).to(tensor.dtype)
    return torch.cat([tensor[:, :1], places], dim=1), f"{old} × {old} positions to {new} × {new}"


# Keys by which a file says whose it is, for the sentence of a refusal.
_LOOKS_LIKE = (
    (r"(^|\.)backbone\.\d+\.", "RadImageNet (numbered parts under 'backbone.')"),
    (r"(^|\.)decoder_blocks\.\d", "a masked autoencoder (a ViT with its decoder; RETFound is one)"),
    (r"encoder\.layers\.encoder_layer_\d", "a vision transformer of torchvision"),
    (r"(layers?\.\d+\.attention\.(attention\.query|q_proj))", "a vision transformer of transformers"),
    (r"blocks\.\d+\.ls1\.gamma", "DINOv2 (a ViT with layer scale)"),
    (r"blocks\.\d+\.attn\.qkv", "a vision transformer of timm"),
    (r"denselayer\d+\.layers\.", "a DenseNet of MONAI"),
    (r"features\.denseblock\d+\.denselayer", "a DenseNet of torchvision, timm or TorchXRayVision"),
    (r"Mixed_\d[a-e]\.branch", "Inception-v3 of torchvision or timm"),
    (r"(^|\.)layer\d\.\d+\.conv3\.", "a ResNet of 50 layers or more"),
    (r"(^|\.)layer\d\.\d+\.conv2\.", "a ResNet of 18 or 34 layers"),
    (r"(stages|stem)\.\d+\.", "ConvNeXt or another network in stages"),
)


def refuse_if_few(match: Match, weights: Weights, path: Path, minimum: float) -> None:
    """Raise when too few keys matched.

    Raises
    ------
    FormatError
        When less than the share ``minimum`` of the network's weights was found, or of the file's was used; it says what the keys
        look like.
    """
    used = len(match.tensors)
    wanted, offered = used + len(match.missing), used + len(match.unexpected)
    if wanted and used >= minimum * wanted and used >= minimum * offered:
        return
    keys = list(weights.tensors)
    likely = next((name for pattern, name in _LOOKS_LIKE if any(re.search(pattern, key) for key in keys)), None)
    looks = f"; they look like those of {likely}" if likely else ""
    if match.shapes:
        got = f"{len(match.shapes)} of another shape: {few(match.shapes, 2)}"
    elif match.missing:
        got = f"keys such as {few(keys, 2)}"
    else:
        got = f"{len(match.unexpected)} of {offered} that this network has not: {few(match.unexpected, 2)}"
    raise FormatError(
        f"{used} of {wanted} matched: these weights are not of this network, which is left as it was",
        where=path,
        got=got + looks,
        expected=f"keys such as {few(match.missing, 2)}" if match.missing else f"no more than the network's {wanted}",
        do="make the network that the weights are of (its depth, dims and width), or give another file",
    )


def few(names: Sequence[str], count: int = 4) -> str:
    """Name the first of many, and how many there are."""
    more = f", … ({len(names)})" if len(names) > count else ""
    return ", ".join(names[:count]) + more
