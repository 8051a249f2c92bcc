"""Files of pretrained weights: where they may lie, what is read of them, and how a changed one is noticed. Nothing is downloaded.

A name such as ``torchvision/resnet50`` is looked for in the folder given or in ``$CLINOME_WEIGHTS``, then in the caches that
huggingface_hub and torch.hub keep on this machine, which are only read. A file read from a weights folder is entered with its
sha256 in ``weights.lock`` beside it (trust on first use); another content under the same name is refused from then on.

``.safetensors`` holds tensors and nothing else. ``.pt``, ``.pth``, ``.bin`` and ``.ckpt`` are pickles, which can run code: they are
read by torch's restricted reader alone, and what that refuses is left to an explicit conversion (``nn/weight_convert.py``).
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinome.core.errors import FormatError, OutputError, StudyError, need
from clinome.core.files import write_json

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
LOCK = "weights.lock"
VARIABLE = "CLINOME_WEIGHTS"
_INSIDE = ("state_dict", "model_state_dict", "model", "net", "weights")  # where checkpoints keep the weights, outermost first


class Found(NamedTuple):
    """A file of weights, and the weights folder that it lies in (None for a path given outright, and for a cache)."""

    path: Path
    folder: Path | None


class Weights(NamedTuple):
    """What a file holds: tensors by key, its sha256, the file it was converted from, and settings that lie beside it."""

    tensors: dict[str, Tensor]
    sha256: str
    original: str
    settings: dict[str, Any]


def find_weights(
    source: str | Path, *, files: Sequence[str] = (), hub: str | None = None, folder: str | Path | None = None
) -> Found:
    """Return the file that ``source`` means: a path of a file or folder, or else a name.

    Parameters
    ----------
    source
        Path, or a name: of a folder in the weights folder, or of a repository of the Hugging Face hub.
    files
        Patterns of file names that hold these weights (``resnet50-*.pth``), for the cache of torch.hub and for folders of several.
    hub
        Repository of the Hugging Face hub that holds the weights, when ``source`` is another name.
    folder
        The weights folder; ``$CLINOME_WEIGHTS`` without it.

    Raises
    ------
    FormatError
        When nothing is there, with every place that was looked at; or several files are and none is meant more than the others.
    """
    path = Path(source)
    if path.is_file():
        return Found(path, None)
    if path.is_dir():
        return Found(_only(path, files), None)
    name = str(source)
    if path.is_absolute() or name.startswith(".") or path.suffix in SUFFIXES or ".." in path.parts:
        raise FormatError("there is no such file of weights", where=path)
    given = folder if folder is not None else os.environ.get(VARIABLE)
    looked = []
    if given is not None:
        inside = Path(given) / name
        looked.append(str(inside))
        if inside.is_dir():
            return Found(_only(inside, files), inside)
    for cached in _hub_snapshots(hub or name):
        looked.append(str(cached))
        if cached.is_dir():
            return Found(_only(cached, files), None)
    checkpoints = Path(os.environ.get("TORCH_HOME", _cache() / "torch")) / "hub" / "checkpoints"
    looked.append(str(checkpoints / (files[0] if files else name)))
    hits = [one for pattern in files for one in sorted(checkpoints.glob(pattern))]
    if hits:
        return Found(hits[0], None)
    raise FormatError(
        f"the weights {name} are not on this machine, and Clinome downloads none",
        where="\n            ".join(looked),
        do=f"give the path of a file, or put it into {name}/ in a weights folder and name that folder in ${VARIABLE}",
    )


def read_weights(path: Path) -> Weights:
    """Return the tensors of ``path`` by key, mapped from disk where the format allows it.

    Raises
    ------
    FormatError
        When the file is empty, truncated, not one of weights, or a pickle of more than tensors.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise FormatError("the file of weights is empty", where=path, do="fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise FormatError("this is a Git LFS pointer, not the file it points to", where=path, do="run 'git lfs pull' in its folder")
    if start.lstrip()[:1] == b"<":
        raise FormatError("this is a web page, not weights", where=path, do="fetch it again: the address needs a login, or moved")
    tensors, about = _safetensors(path) if path.suffix == ".safetensors" else (_pickled(path), {})
    if not tensors:
        raise FormatError("the file holds no weights", where=path)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FormatError("a weight is not a finite number", where=f"{path}, {key}", do="fetch the file again")
    return Weights(tensors, sha256(path), str(about.get("original", path.name)), _settings(path))


def sha256(path: Path) -> str:
    """Return the sha256 of all of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path, digest: str) -> None:
    """See that a name such as ``resnet50-11ad3fa6.pth`` ends in the first digits of the file's sha256, as torch.hub names files.

    Raises
    ------
    FormatError
        When it ends in other digits.
    """
    stated = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    if stated and not digest.startswith(stated[1]):
        raise FormatError(
            "the file is not the one that its name says",
            where=path,
            got=f"sha256 {digest[: len(stated[1])]}…",
            expected=f"{stated[1]}…",
            do="fetch it again",
        )


def check_lock(found: Found, digest: str) -> None:
    """See that the file is the one used before, by the lock beside it; enter it when it is new in a weights folder.

    Raises
    ------
    FormatError
        When it is another file than before.
    """
    lock = found.path.with_name(LOCK)
    try:
        known: dict[str, str] = json.loads(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    except json.JSONDecodeError as error:
        raise FormatError("the lock of the weights is not JSON", where=lock, got=error, do="remove it, if you know why") from error
    before = known.get(found.path.name)
    if before is not None and before != digest:
        raise FormatError(
            "these are not the weights that were used before under this name",
            where=found.path,
            got=f"sha256 {digest}",
            expected=f"sha256 {before}, as {LOCK} says",
            do=f"put the former file back; or take its line out of {lock} if the change is meant",
        )
    if before is None and found.folder is not None:
        try:
            write_json(lock, known | {found.path.name: digest})
        except OutputError:
            return  # a weights folder that is shared may be read-only; the report holds the hash


def _only(folder: Path, patterns: Sequence[str]) -> Path:
    """Return the file of weights in a folder: a safetensors file before pickles, one that fits the patterns before others."""
    there = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.is_file()]
    fitting = [path for path in there if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)]
    for some in (fitting, there):
        safe = [path for path in some if path.suffix == ".safetensors"]
        for group in (safe, some):
            if len(group) == 1:
                return group[0]
    if not there:
        raise FormatError("there are no weights in this folder", where=folder, expected="a file " + ", ".join(SUFFIXES))
    names = ", ".join(path.name for path in there[:6]) + (", …" if len(there) > 6 else "")
    raise FormatError("several files of weights lie in this folder", where=folder, got=names, do="give the path of one of them")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


def _hub_snapshots(repository: str) -> list[Path]:
    """Return the folder in which huggingface_hub keeps a repository's current files, as far as a name can be one."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        return []
    home = Path(os.environ.get("HF_HOME", _cache() / "huggingface"))
    kept = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{repository.replace('/', '--')}"
    reference = kept / "refs" / "main"
    if reference.is_file():
        return [kept / "snapshots" / reference.read_text(encoding="utf-8").strip()]
    snapshots = sorted((kept / "snapshots").glob("*"))
    return snapshots[-1:] or [kept / "snapshots"]


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    library = need("safetensors", "imaging")
    try:
        with library.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("clinome", "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118 (it is not a dict)
    except library.SafetensorError as error:
        raise FormatError("the safetensors file cannot be read", where=path, got=error, do="fetch it again") from error


def _pickled(path: Path) -> dict[str, Tensor]:
    """Read a pickle by torch's restricted reader; a Namespace of settings, which runs nothing, is let through."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None and ("Unsupported operand" in str(error) or "WeightsUnpickler" not in str(error)):
            raise _broken(path, "the bytes are not those of a pickle") from error
        raise FormatError(
            "the file is a pickle that holds more than tensors, and reading those can run code",
            where=path,
            got=refused[1] if refused else "a call that rebuilds no tensor",
            expected="tensors by name",
            do=f"if you trust where it comes from: clinome convert --weights {path} --out {path.stem}.safetensors --trust",
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise _broken(path, error) from error
    except (ValueError, LookupError, AttributeError) as error:  # of bytes that were taken for a pickle's; what it says is no reason
        raise _broken(path, "the bytes are not those of a pickle") from error
    return tensors_inside(loaded)


def _broken(path: Path, error: Exception | str) -> FormatError:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return FormatError("the file of weights cannot be read", where=path, got=said, do="fetch it again")


def tensors_inside(loaded: object) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by key: it may be a mapping of them, or keep it under one of the usual names."""
    while isinstance(loaded, Mapping):
        for name in _INSIDE:
            if isinstance(loaded.get(name), Mapping):
                loaded = loaded[name]
                break
        else:
            return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    return {}


def _settings(path: Path) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` from the config.json beside a file, empty where there is none."""
    beside = path.with_name("config.json")
    if not beside.is_file():
        return {}
    try:
        settings = json.loads(beside.read_text(encoding="utf-8")).get("pretrained_cfg", {})
    except (json.JSONDecodeError, AttributeError) as error:
        raise FormatError("the settings beside the weights are not JSON", where=beside, got=error) from error
    if not isinstance(settings, dict):
        raise StudyError("pretrained_cfg beside the weights is not a table", where=beside)
    return settings
