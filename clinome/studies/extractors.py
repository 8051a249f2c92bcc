"""Which network makes features: of Clinome's by name, with weights from elsewhere; or one that Clinome taught, with its own ways.

>>> extractor("resnet18", None).said
'resnet18 with random weights (seed 1): what it gives is a floor; name trained weights with --weights'
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from clinome.core.errors import FormatError, StudyError
from clinome.core.provenance import checksum
from clinome.imaging.learning import Encoder
from clinome.imaging.models import densenet, inception_v3, resnet, vit
from clinome.imaging.networks import Network, encoder, preprocessing
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Predictor, read_predictor
from clinome.nn.saving import about_model, is_saved_model, load_model
from clinome.nn.weights import Preprocessing, Source, load_weights

_SIZE = 224  # pixels a side, where nothing says otherwise
_PUBLISHED: dict[str, tuple[Any, Source]] = {
    source.name: (module, source) for module in (resnet, densenet, inception_v3, vit) for source in module.WEIGHTS
}


class Extractor(NamedTuple):
    """A network with ``features``, how pictures are prepared for it, and what is to be said of it.

    Attributes
    ----------
    size
        Pixels a side of the pictures.
    preprocessing
        Of squares in 0–1; None: as they are.
    preparation
        How a predictor prepares pictures, instead of squares; None for other networks.
    channels
        That a predictor's pictures have.
    mirror
        Whether it was taught with left eyes flipped.
    said, about
        What it is, for a reader and for weights.json.
    """

    network: nn.Module
    size: int
    preprocessing: Preprocessing | None
    preparation: Preparation | None
    channels: int
    mirror: bool
    said: str
    about: dict[str, Any]


def extractor(network: str | None, weights: str | None, *, size: int | None = None, seed: int = 1) -> Extractor:
    """Return the network that is meant.

    Parameters
    ----------
    network
        'small', 'resnet18', 'resnet50', 'inception_v3', 'densenet121', or a name of published weights ('retfound/cfp'), for the
        network they are of; resnet50 without it, or the one that ``weights`` are of.
    weights
        A file or folder of weights, or their name (docs/weights.md); what `clinome phenotype` or `clinome train` wrote, or one
        network in it. Without them weights are random, from ``seed``.
    size
        Pixels a side; without it those that the weights say, or 224.

    Raises
    ------
    FormatError
        When there are no such weights, or they do not fit.
    StudyError
        For a network that there is not, one that is named beside weights that say theirs, or weights of several networks.
    """
    path = None if weights is None or weights in _PUBLISHED else Path(weights)
    if path is not None and (own := _own(path)) is not None:
        if network is not None:
            raise StudyError("these weights say which network they are of", got=f"network {network}", do="leave the network out")
        file, known = own
        return _of_encoder(file, size) if known is None else _of_predictor(file, known, size)
    name = network or (weights if weights in _PUBLISHED else "resnet50")
    assert name is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, scaled = _built(name, size)
    if weights is None:
        said = f"{name} with random weights (seed {seed}): what it gives is a floor; name trained weights with --weights"
        about: dict[str, Any] = {"network": name, "weights": "random", "seed": seed}
        return Extractor(model.eval(), size or _SIZE, scaled, None, 3, False, said, about)
    report = load_weights(model, weights)
    chosen = report.preprocessing or scaled
    guessed = "" if report.preprocessing else "\n  pictures are scaled by ImageNet's mean and deviation"
    about = {"network": name, "weights": {**report.as_dict(), "path": report.path.name}}
    return Extractor(
        model.eval(), size or (chosen and chosen.size) or _SIZE, chosen, None, 3, False, f"{name}: {report}{guessed}", about
    )


def _built(name: str, size: int | None) -> tuple[nn.Module, Preprocessing | None]:
    """Return the network called ``name`` without its head, as it starts, and how pictures are scaled for it."""
    if name in get_args(Network):
        return encoder(name, size=size or _SIZE), preprocessing(name)
    if name not in _PUBLISHED:
        expected = ", ".join((*get_args(Network), *_PUBLISHED))
        raise StudyError("there is no such network", got=name, expected=expected)
    module, source = _PUBLISHED[name]
    config = replace(source.config, outputs=0, **({"channels_in": 3} if hasattr(source.config, "channels_in") else {}))
    if hasattr(config, "patch"):
        config = replace(config, size=size or _SIZE)
    return module.Model(config), source.preprocessing


def _own(path: Path) -> tuple[Path, Predictor | None] | None:
    """Return the network that Clinome taught and that ``path`` means, and the predictor it belongs to; None for other weights."""
    if (path / "predictor.json").is_file():
        known = read_predictor(path)
        return _only(sorted(known.folder.glob("*.safetensors")), path), known
    if (path / "embedding.json").is_file():
        return _only(sorted(path.glob("encoder*.safetensors")), path), None
    if (path / "segmenter.json").is_file() or (path / "segmenter" / "segmenter.json").is_file():
        do = "name a predictor, an encoder, or weights of another program"
        raise StudyError("a segmenter has no features of whole pictures", got=path, do=do)
    if path.suffix != ".safetensors" or not is_saved_model(path):
        return None
    folder = path.resolve().parent.parent.parent  # <predictor>/networks/<key>/<network>
    return path, (read_predictor(folder) if (folder / "predictor.json").is_file() else None)


def _only(files: list[Path], where: Path) -> Path:
    if len(files) != 1:
        what = "there are several networks, whose features have nothing to do with each other" if files else "there is no network"
        raise StudyError(what, where=where, got=", ".join(str(one.relative_to(where)) for one in files), do="name one of its files")
    return files[0]


def _of_predictor(path: Path, known: Predictor, size: int | None) -> Extractor:
    shape = known.preparation.shape
    if size is not None and size != max(shape):
        raise StudyError("a predictor reads pictures of one size", got=size, expected=max(shape), do="leave the size out")
    model = _with_features(load_model(path), path)
    config: Any = model.config
    if hasattr(config, "views"):
        raise StudyError("this predictor looks at several views together", where=path, got=f"{config.views} views")
    targets = [one.name for one in next(iter(known.coded.values()))]
    said = f"the network {path.name} of a predictor of {', '.join(targets)}"
    about = {"network": type(model).__module__, "weights": {"path": path.name, "sha256": checksum(path), "taught": targets}}
    mirrored = known.preparation.mirrored
    return Extractor(model, max(shape), None, known.preparation, int(config.channels_in), mirrored, said, about)


def _of_encoder(path: Path, size: int | None) -> Extractor:
    if "preprocessing" not in about_model(path):
        do = "name it where it lies, inside the folder of `clinome train` or `clinome phenotype`"
        raise FormatError("the file does not say how pictures were prepared for its network", where=path, do=do)
    made = Encoder.load(path)
    model, config = _with_features(made.network, path), _embedding(path.parent)
    kept = config.get("size") or getattr(getattr(model, "config", None), "size", None)
    taught = (made.about.get("settings") or {}).get("objective", "nobody here")
    said = f"the network {path.name}, taught by {taught}"
    about = {"network": type(model).__module__, "weights": {"path": path.name, "sha256": checksum(path), "taught": taught}}
    mirror = bool(config.get("mirror", False))
    return Extractor(model, size or kept or _SIZE, made.preprocessing, None, 3, mirror, said, about)


def _with_features(model: nn.Module, path: Path) -> nn.Module:
    if not callable(getattr(model, "features", None)):
        raise StudyError("this network has no features of whole pictures", where=path, got=type(model).__module__)
    return model


def _embedding(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "embedding.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError):
        return {}
    return config
