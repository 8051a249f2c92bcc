"""Pickled checkpoints and pickled networks to safetensors, once, on an explicit word.

A pickle names functions and classes, and reading it calls them: that is how a file of weights can run anything. This reader calls
those that rebuild tensors and no others. Every other class becomes an empty shell that takes what the pickle puts into it, so a
network is read without its class, its library or any of its code, and the tensors are collected from the shells. It works in a
process of its own, which ends with the file.

    python -m clinome.nn.weight_convert IN OUT
"""

from __future__ import annotations

import collections
import json
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinome.core.errors import FormatError, StudyError
from clinome.core.files import replacing
from clinome.nn.weight_files import sha256, tensors_inside

# What may be called: it makes tensors, numbers or containers from the data beside it and does nothing else.
_CALLED = {
    "collections": {"OrderedDict", "defaultdict"},
    "builtins": {"set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "complex", "bytearray", "slice", "range"},
    "torch": {"Size", "device", "float16", "float32", "float64", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool"},
    "torch._utils": {
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    },
    "torch.nn.parameter": {"Parameter"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
    "torch.serialization": {"_get_layout"},
}

_OLD_NAMES = {"__builtin__": "builtins"}  # torch writes pickles that Python 2 could read


class Converted(NamedTuple):
    """How many tensors were written, and the sha256 of the file they came from."""

    tensors: int
    sha256: str


def convert_weights(path: str | Path, out: str | Path, *, trust: bool = False) -> Converted:
    """Write the tensors of a pickled checkpoint or network to ``out`` as safetensors, with the name and sha256 of the source.

    Keys are those of the network's ``state_dict``. The class of a pickled network need not be installed.

    Parameters
    ----------
    path
        A .pt, .pth, .bin or .ckpt that :func:`clinome.nn.weights.load_weights` refused.
    out
        The .safetensors file to write.
    trust
        The word that the file comes from where you think it does.

    Raises
    ------
    StudyError
        Without ``trust``, or when ``out`` is not named .safetensors.
    FormatError
        When the file cannot be read or holds no tensors.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".safetensors":
        raise StudyError("weights are converted to safetensors", got=out.name, expected="a name that ends in .safetensors")
    if not trust:
        raise StudyError(
            "a pickled file is converted on an explicit word only",
            where=path,
            got=f"sha256 {sha256(path)}" if path.is_file() else "no such file",
            do="compare the sha256 with the one its makers publish, then say --trust (in Python: trust=True)",
        )
    if not path.is_file():
        raise FormatError("there is no such file of weights", where=path)
    with replacing(out) as temporary:
        command = [sys.executable, "-I", "-c", _RUN, json.dumps(sys.path), str(path), str(temporary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["the reader ended without a word"])[-1]
            raise FormatError("the pickled file cannot be converted", where=path, got=last)
    return Converted(**json.loads(done.stdout))


_RUN = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from clinome.nn import weight_convert; weight_convert.main()"


def main() -> None:
    """Convert the file of the first argument into that of the second and print what was done as JSON."""
    from safetensors.torch import save_file

    source, out = map(Path, sys.argv[1:3])
    reader: Any = types.SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="clinome's restricted pickle")
    loaded = torch.load(source, map_location="cpu", weights_only=False, pickle_module=reader)
    tensors = tensors_inside(loaded) or dict(_collected(loaded))
    if not tensors:
        sys.exit("it holds no tensors under names")
    digest = sha256(source)
    about = json.dumps({"original": source.name, "sha256": digest}, sort_keys=True)
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, out, metadata={"clinome": about})
    print(json.dumps({"tensors": len(tensors), "sha256": digest}))


class _Shell:
    """Stands for an object of any class: takes any arguments and any state, and does nothing with them."""

    def __new__(cls, *_: object, **__: object) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}

    def append(self, _: object) -> None:
        """Take an item of a list."""

    def __setitem__(self, key: object, value: object) -> None:
        """Take an item of a mapping."""


class _Unpickler(pickle.Unpickler):
    """Gives out what rebuilds tensors, and shells for all else."""

    def find_class(self, module: str, name: str) -> Any:
        module = _OLD_NAMES.get(module, module)
        if name in _CALLED.get(module, ()) or (module == "torch" and name.endswith("Storage")):
            return getattr(sys.modules.get(module) or collections, name)
        return type(name, (_Shell,), {})


def _load(file: Any, **settings: Any) -> Any:
    return _Unpickler(file, **settings).load()


def _collected(network: object, prefix: str = "", *, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of a shell that was a network, under the keys of its ``state_dict``."""
    state = getattr(network, "state", {})
    if depth > 64 or not isinstance(state, dict):
        return
    unsaved = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, Tensor) and name not in unsaved:
                yield prefix + name, value
    for name, part in (state.get("_modules") or {}).items():
        yield from _collected(part, f"{prefix}{name}.", depth=depth + 1)


if __name__ == "__main__":
    main()
