"""Networks on disk: weights as safetensors with the import path and configuration that make the network again. Never pickle.

>>> import tempfile
>>> from clinome.imaging.models import small_encoder  # doctest: +SKIP
>>> save_model(small_encoder.Model(small_encoder.Config()), Path("encoder.safetensors"))  # doctest: +SKIP
>>> load_model(Path("encoder.safetensors")).training  # doctest: +SKIP
False
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from clinome.core.errors import FormatError
from clinome.core.files import replacing

_NETWORK = re.compile(r"clinome\.\w+\.models\.\w+")  # all that a file may name: importing runs code


def save_model(model: nn.Module, path: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
    """Write ``model``, of a ``models/<name>.py`` with a frozen ``config``, to ``path``; ``about`` is any JSON to keep with it."""
    config = getattr(model, "config", None)
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"{type(model).__name__} has no dataclass `config` to be saved with")
    made = {"model": type(model).__module__, "config": asdict(config), "about": dict(about or {})}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"clinome": json.dumps(made, sort_keys=True)}))


def load_model(path: str | Path) -> nn.Module:
    """Return the network saved at ``path``, in evaluation mode.

    Raises
    ------
    FormatError
        When the file is absent, truncated, not one of Clinome's, or names a network that this version does not have.
    """
    about, tensors = _read(Path(path))
    if not _NETWORK.fullmatch(str(about["model"])):
        raise FormatError("the file names a network that is not Clinome's", where=path, got=about.get("model"))
    try:
        module = importlib.import_module(about["model"])
        config = {name: tuple(value) if isinstance(value, list) else value for name, value in about["config"].items()}
        model: nn.Module = module.Model(module.Config(**config))
        model.load_state_dict(tensors)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise FormatError(
            "the saved network does not fit this version of Clinome", where=path, got=str(error), do="train it again"
        ) from error
    return model.eval()


def is_saved_model(path: str | Path) -> bool:
    """Tell whether the file at ``path`` is a network that :func:`save_model` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return "clinome" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def about_model(path: str | Path) -> dict[str, Any]:
    """Return what :func:`save_model` was given as ``about`` with the network at ``path``."""
    about: dict[str, Any] = _read(Path(path), weights=False)[0]["about"]
    return about


def config_of(path: str | Path) -> dict[str, Any]:
    """Return the configuration of the network at ``path``, without its weights."""
    config: dict[str, Any] = _read(Path(path), weights=False)[0]["config"]
    return config


def _read(path: Path, *, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["clinome"])
            if not (isinstance(about, dict) and isinstance(about.get("config"), dict) and {"model", "about"} <= about.keys()):
                raise KeyError("model, config and about")
            tensors = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise FormatError(
            "this is no network that Clinome saved",
            where=path,
            got=str(error) or type(error).__name__,
            expected="a .safetensors file that `clinome train` wrote",
            do="to start from weights of another program, name them with --weights",
        ) from error
    return about, tensors
