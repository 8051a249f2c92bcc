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
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clinome.core.errors import SchemaError, StudyError
from clinome.nn.weight_files import Weights, check_lock, check_name, find_weights, read_weights
from clinome.nn.weight_keys import OWN, Layout, few, match, refuse_if_few


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
                lines.append(f"  {name}: {few(keys)}")
        lines += [f"  licence: {self.licence}", f"  cite: {self.citation}"] if self.licence else []
        if self.preprocessing is None:
            lines.append("  how the pictures were scaled is not known")
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
    matches = [match(model, weights.tensors, one, heads=heads, head=head) for one in candidates]
    best = max(matches, key=lambda one: len(one.tensors))
    refuse_if_few(best, weights, found.path, minimum_match)
    with torch.no_grad():
        model.load_state_dict(best.tensors, strict=False)
    channels = _channels(model)
    scaled = preprocessing or _stated(weights) or (about.preprocessing if about else None)
    return Report(
        path=found.path,
        sha256=weights.sha256,
        layout=best.layout.name,
        source=about.name if about else None,
        preprocessing=scaled.for_channels(channels) if scaled and channels else scaled,
        licence=about.licence if about else None,
        citation=about.citation if about else None,
        matched=tuple(best.tensors),
        missing=tuple(best.missing),
        unexpected=tuple(best.unexpected),
        left=tuple(best.left),
        reshaped=best.reshaped,
    )


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
