"""A GPU that is not there: torch computes on the processor, but knows which tensors would lie on it, and refuses what it refuses.

Where a tensor lies is a property of its memory. A tensor that is moved to "cuda", or made there, is copied and its memory is
marked; what is computed from marked tensors is marked. Refused are operations on tensors of both places (but for single numbers,
indices and copies), generators of the other place, and NumPy arrays of the GPU's tensors. The numbers are the processor's, so a
training on the pretended GPU ends with the bytes of one on the processor. Work in other threads is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_DEVICE, _IS_CUDA, _IS_CPU = (getattr(torch.Tensor, name).__get__ for name in ("device", "is_cuda", "is_cpu"))
_INDEXING = ("aten::index.", "aten::index_put", "aten::_index_put_impl_", "aten::_unsafe_index")


class PretendedGPU:
    """Which memory is the GPU's; how many operations ran there. A mark keeps its address from being used anew.

    ``home``: whether what is made without tensors now is made there, by a call of torch on its tensors.
    """

    def __init__(self) -> None:
        self.marks: dict[int, StorageWeakRef] = {}
        self.operations = 0
        self.home = False

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.marks

    def mark(self, *values: Any) -> None:
        for one in _tensors(values):
            if not self.holds(one):
                reference = StorageWeakRef(one.untyped_storage())
                self.marks[reference.cdata] = reference


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """Pretend for the length of the block that torch sees one GPU."""
    gpu = PretendedGPU()
    autocast = torch.autocast

    def states(*_: Any) -> torch.Tensor:
        return torch.zeros(0, dtype=torch.uint8)

    with pytest.MonkeyPatch.context() as patch, _Operations(gpu), _Calls(gpu):
        for name, stand_in in {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "synchronize": lambda *_: None,
            "set_device": lambda *_: None,
            "manual_seed_all": lambda *_: None,
            "get_rng_state": states,
            "set_rng_state": states,
        }.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "autocast", lambda kind, **named: autocast("cpu", **named))
        patch.delenv("LOCAL_RANK", raising=False)
        yield gpu


class _Generator(torch.Generator):
    """A generator of the processor that says where it was asked for."""

    def __new__(cls, device: Any = _CPU) -> _Generator:
        return super().__new__(cls, _CPU)

    def __init__(self, device: Any = _CPU) -> None:
        self.where = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.where


class _Calls(TorchFunctionMode):
    """What is asked of torch in Python: moves, devices, tensors made on a device, arrays."""

    def __init__(self, gpu: PretendedGPU) -> None:
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        own = bool(args) and isinstance(args[0], torch.Tensor) and self.gpu.holds(args[0])
        if func == _DEVICE:
            return GPU if own else func(*args)
        if func in (_IS_CUDA, _IS_CPU):
            return own == (func == _IS_CUDA)
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self._moved(func, own, *args, **kwargs)
        if own and func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        there = own if kwargs.get("device") is None else _is_gpu(kwargs["device"])
        generator = kwargs.get("generator")
        if generator is not None and _is_gpu(generator.device) != there:
            raise RuntimeError(f"a generator on {generator.device} for {func.__name__} elsewhere")
        if kwargs.get("device") is not None:
            kwargs["device"] = _CPU
        before, self.gpu.home = self.gpu.home, there
        try:
            found = func(*args, **kwargs)
        finally:
            self.gpu.home = before
        if there and func in (torch.Tensor.new_tensor, torch.Tensor.__deepcopy__, torch.tensor):  # no operations
            self.gpu.mark(found)
        return found

    def _moved(self, func: Any, own: bool, tensor: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        there, dtype = func == torch.Tensor.to and own, tensor.dtype
        for one in (*rest, named.get("device"), named.get("dtype")):
            if isinstance(one, torch.Tensor):
                there, dtype = self.gpu.holds(one), one.dtype
            elif isinstance(one, (str, torch.device)):
                there = _is_gpu(one)
            elif isinstance(one, torch.dtype):
                dtype = one
        found = tensor.to(dtype, memory_format=named.get("memory_format", torch.preserve_format))
        if there != own:
            with _Unseen():
                found = found.clone()
            if there:
                self.gpu.mark(found)
        return found


class _Unseen:
    """Within the block operations leave no marks."""

    depth = 0

    def __enter__(self) -> None:
        _Unseen.depth += 1

    def __exit__(self, *_: object) -> None:
        _Unseen.depth -= 1


class _Operations(TorchDispatchMode):
    """What torch computes, backward passes too."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, *kwargs.values())))
        there = [self.gpu.holds(one) for one in tensors]
        found = func(*args, **kwargs)
        name = func.name()
        if not tensors and self.gpu.home:
            self.gpu.mark(found)
        if _Unseen.depth or not any(there) or name.startswith("aten::copy_"):
            return found
        self.gpu.operations += 1
        seen = list(zip(tensors, there, strict=True))
        if name.startswith(_INDEXING):
            seen = seen[:1] + ([] if name.startswith(("aten::index.", "aten::_unsafe")) else seen[-1:])
        written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments[:1]]
        if any(not on and (one.ndim or (k == 0 and written == [True])) for k, (one, on) in enumerate(seen)):
            places = ", ".join(f"{tuple(one.shape)} on {'cuda' if on else 'cpu'}" for one, on in seen)
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {places}")
        self.gpu.mark(found)
        return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type == "cuda"
