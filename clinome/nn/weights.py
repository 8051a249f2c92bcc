"""Pretrained weights into a network: found on this machine, matched key by key, adapted to its input, and reported.

A model file lists in ``WEIGHTS`` the published weights that fit it (:class:`Source`: name, licence, citation, preprocessing, layout
of the keys) and in ``HEADS`` the beginnings of the keys that belong to a task and not to the network. :func:`load_weights` takes a
path, or such a name, and either fills the network or leaves it untouched and says why: a network that trains from a random start
under the name of a pretrained one is the error that nobody sees. docs/weights.md shows the ways. Nothing is ever downloaded.

>>> import tempfile
>>> from safetensors.torch import save_file
>>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 3))
>>> path = Path(tempfile.mkdtemp()) / "mine.safetensors"
>>> save_file({f"module.{key}": torch.ones(4, 3, 3, 3) if key == "0.weight" else value.clone()
...            for key, value in network.state_dict().items()}, path)
>>> report = load_weights(network, path)
>>> print(len(report.matched), report.reshaped, float(network[0].weight[0, 0, 0, 0].detach()))
4 {'0.weight': '3 channels to 1'} 3.0
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.core.errors import FormatError, SchemaError, StudyError
from clinome.nn.weight_files import Weights, check_lock, check_name, find_weights, read_weights


@dataclass(frozen=True)
class Preprocessing:
    """What pictures went through before the network saw them: (value in 0–1 − ``mean``) / ``std`` by channel, at ``size`` pixels.

    >>> grey = Preprocessing((0.5,), (0.25,), 224)
    >>> grey.apply(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)).flatten().tolist()
    [-2.0, 2.0]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None

    def for_channels(self, channels: int) -> Preprocessing:
        """Return the same for pictures of another number of channels: the averages over the channels there were."""
        if channels == len(self.mean):
            return self
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)

    def apply(self, pictures: Tensor) -> Tensor:
        """Scale pictures (n, channels, …) in 0–1; their sides are left as they are.

        Raises
        ------
        SchemaError
            When the pictures have another number of channels.
        """
        if pictures.shape[1] != len(self.mean):
            raise SchemaError("the preprocessing is for other channels", got=pictures.shape[1], expected=len(self.mean))
        mean, std = (pictures.new_tensor(one).reshape(1, -1, *(1,) * (pictures.ndim - 2)) for one in (self.mean, self.std))
        return (pictures - mean) / std


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)


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
TORCHVISION = "BSD-3-Clause; trained on ImageNet, whose pictures are for research"
RADIMAGENET = (
    Preprocessing((0.5,) * 3, (0.5,) * 3, 224),
    "on request: https://www.radimagenet.com",
    "Mei X et al. RadImageNet. Radiol Artif Intell 4, e210315 (2022), doi:10.1148/ryai.210315",
)


@dataclass(frozen=True)
class Source:
    """Published weights: the name to ask for, the network they are of, the files they come as, what a user must know of them."""

    name: str
    config: Any
    files: tuple[str, ...]
    preprocessing: Preprocessing
    licence: str
    citation: str
    layout: Layout = OWN
    hub: str | None = None
    named_by_hash: bool = False


@dataclass(frozen=True)
class Report:
    """What was loaded from where, key by key; ``preprocessing`` is None where nothing says how the pictures were scaled."""

    path: Path
    sha256: str
    layout: str
    source: str | None
    preprocessing: Preprocessing | None
    licence: str | None
    citation: str | None
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    left: tuple[str, ...]
    reshaped: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say it in a few lines."""
        wanted = len(self.matched) + len(self.missing)
        lines = [f"{len(self.matched)} of {wanted} weights from {self.path} (sha256 {self.sha256[:12]}…, keys {self.layout})"]
        lines += [f"  {key}: {how}" for key, how in self.reshaped.items()]
        for name, keys in (("not in the file", self.missing), ("not in the network", self.unexpected), ("left out", self.left)):
            if keys:
                lines.append(f"  {name}: {_few(keys)}")
        lines += [f"  licence: {self.licence}", f"  cite: {self.citation}"] if self.licence else []
        if self.preprocessing is None:
            lines.append("  how the pictures were scaled is not known: give preprocessing=")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values, for the provenance of a run."""
        return {**asdict(self), "path": str(self.path), "reshaped": dict(self.reshaped)}


def load_weights(
    model: nn.Module,
    source: str | Path,
    *,
    folder: str | Path | None = None,
    layout: str = "auto",
    head: bool = False,
    minimum_match: float = 0.95,
    preprocessing: Preprocessing | None = None,
) -> Report:
    """Fill ``model`` with pretrained weights, or leave it as it is and say why they do not fit.

    The first convolution is adapted to the channels at hand (summed to one; repeated and rescaled to more). The positions of a
    vision transformer are interpolated to its grid (bicubic, class token kept). For a 3-D network, 2-D kernels are repeated along
    depth and divided by it, so that what does not change along depth gives, away from the ends, what the picture gave (Carreira J,
    Zisserman A. CVPR 2017, doi:10.1109/CVPR.2017.502).

    Parameters
    ----------
    model
        A network, best of a model file with ``WEIGHTS``; its weights are replaced in place.
    source
        A path, or a name in that file's ``WEIGHTS`` (``torchvision/resnet50``), or a folder's name in the weights folder.
    folder
        The weights folder; ``$CLINOME_WEIGHTS`` without it.
    layout
        Name of the layout of the keys; ``auto`` takes the one that matches most.
    head
        Load the last layer as well, which then must fit; without it, it stays as it was initialised.
    minimum_match
        Least share of the network's weights that must be found, and of the file's that must be used.
    preprocessing
        How the pictures were scaled, where neither the table nor a config.json beside the file says so.

    Raises
    ------
    FormatError
        When there is no such file, it cannot be read, is not the one its name or the lock says, or does not fit the network.
    StudyError
        For a layout that there is not.
    """
    module = sys.modules[type(model).__module__]
    known: tuple[Source, ...] = getattr(module, "WEIGHTS", ())
    asked = next((one for one in known if one.name == str(source)), None)
    patterns = asked.files if asked else tuple(pattern for one in known for pattern in one.files)
    found = find_weights(source, files=patterns, hub=asked.hub if asked else None, folder=folder)
    weights = read_weights(found.path)
    about = asked or next((one for one in known if _named(one, weights.original)), None)
    if about is not None and about.named_by_hash and weights.original == found.path.name:
        check_name(found.path, weights.sha256)
    check_lock(found, weights.sha256)
    others: tuple[Layout, ...] = getattr(module, "LAYOUTS", ())
    candidates = _layouts((*(one.layout for one in known), *others, OWN), about, layout)
    heads: tuple[str, ...] = getattr(module, "HEADS", ())
    matches = [_match(model, weights.tensors, one, heads=heads, head=head) for one in candidates]
    match = max(matches, key=lambda one: len(one.tensors))
    _refuse_if_few(match, weights, found.path, minimum_match)
    with torch.no_grad():
        model.load_state_dict(match.tensors, strict=False)
    channels = _channels(model)
    scaled = preprocessing or _stated(weights) or (about.preprocessing if about else None)
    return Report(
        path=found.path,
        sha256=weights.sha256,
        layout=match.layout.name,
        source=about.name if about else None,
        preprocessing=scaled.for_channels(channels) if scaled and channels else scaled,
        licence=about.licence if about else None,
        citation=about.citation if about else None,
        matched=tuple(match.tensors),
        missing=tuple(match.missing),
        unexpected=tuple(match.unexpected),
        left=tuple(match.left),
        reshaped=match.reshaped,
    )


@dataclass
class _Match:
    """Which of a file's weights go where under one layout."""

    layout: Layout
    tensors: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)
    shapes: list[str] = field(default_factory=list)  # same name, another shape


def _match(model: nn.Module, tensors: Mapping[str, Tensor], layout: Layout, *, heads: Sequence[str], head: bool) -> _Match:
    wanted = model.state_dict()
    first = next((f"{name}.weight" for name, part in model.named_modules() if isinstance(part, _CONVOLUTIONS)), None)
    match = _Match(layout)
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


def numbered(name: str, parts: Sequence[str | None], *, inside: str = "backbone") -> Layout:
    """Return the layout of a network that was saved as a list of its parts: ``backbone.0.weight`` is the first part's weight.

    >>> numbered("a list", ["conv1", "bn1", None, "layer1"]).rename("backbone.3.0.conv2.weight")
    'layer1.0.conv2.weight'
    """
    return Layout(name, tuple((rf"^{inside}\.{at}\.", f"{part}.") for at, part in enumerate(parts) if part))


def _layouts(known: Iterable[Layout], about: Source | None, asked: str) -> list[Layout]:
    """Return the layouts to try: the one asked for, or all that the model file knows, the source's first."""
    every = {one.name: one for one in known}
    if asked == "auto":
        return list(dict.fromkeys([*([about.layout] if about else []), *every.values()]))
    if asked not in every:
        raise StudyError("there is no such layout of weights for this network", got=asked, expected="auto, " + ", ".join(every))
    return [every[asked]]


def _named(source: Source, name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in source.files)


def _stated(weights: Weights) -> Preprocessing | None:
    """Return the preprocessing that timm's settings beside the file state."""
    mean, std, size = (weights.settings.get(name) for name in ("mean", "std", "input_size"))
    if not mean or not std:
        return None
    return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)), int(size[-1]) if size else None)


def _channels(model: nn.Module) -> int | None:
    given = getattr(getattr(model, "config", None), "channels_in", None)
    return int(given) if given is not None else None


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


def _refuse_if_few(match: _Match, weights: Weights, path: Path, minimum: float) -> None:
    used = len(match.tensors)
    wanted, offered = used + len(match.missing), used + len(match.unexpected)
    if wanted and used >= minimum * wanted and used >= minimum * offered:
        return
    keys = list(weights.tensors)
    likely = next((name for pattern, name in _LOOKS_LIKE if any(re.search(pattern, key) for key in keys)), None)
    looks = f"; they look like those of {likely}" if likely else ""
    if match.shapes:
        got = f"{len(match.shapes)} of another shape: {_few(match.shapes, 2)}"
    elif match.missing:
        got = f"keys such as {_few(keys, 2)}"
    else:
        got = f"{len(match.unexpected)} of {offered} that this network has not: {_few(match.unexpected, 2)}"
    raise FormatError(
        f"{used} of {wanted} matched: these weights are not of this network, which is left as it was",
        where=path,
        got=got + looks,
        expected=f"keys such as {_few(match.missing, 2)}" if match.missing else f"no more than the network's {wanted}",
        do="make the network that the weights are of (its depth, dims and width), or give another file",
    )


def _few(names: Sequence[str], count: int = 4) -> str:
    more = f", … ({len(names)})" if len(names) > count else ""
    return ", ".join(names[:count]) + more
