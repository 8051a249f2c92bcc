"""Where a network runs and in what precision: threads, devices, bfloat16 where it pays, several processes.

Losses and metrics are never computed in low precision: :func:`low_precision` covers the forward pass of the network alone and
gives its outputs back in float32.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from clinome.core.errors import StudyError

_LONG = 1.0  # seconds of a pass, beside which planning its kernels does not count: it is timed once
Precision = Literal["float32", "bfloat16", "measure"]


class Mode(NamedTuple):
    """How a network is run: forward pass in bfloat16 or float32, weights of 2-D convolutions with channels last or first."""

    bfloat16: bool = False
    channels_last: bool = False

    @property
    def words(self) -> str:
        """Say it: 'bfloat16, channels last'."""
        return ("bfloat16" if self.bfloat16 else "float32") + (", channels last" if self.channels_last else "")


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Within the block torch uses ``threads`` threads and only algorithms that give the same bytes each time.

    On a GPU matrix products need a workspace of their own for that (cuBLAS reads it from the environment when it is first used),
    and a few operations have no such algorithm; torch then warns instead of stopping. Convolutions in float32 are float32 there:
    torch would otherwise let cuDNN round their inputs to ten bits (TF32).
    """
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warned, rounded = torch.is_deterministic_algorithms_warn_only_enabled(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32 = rounded
        torch.use_deterministic_algorithms(before[1], warn_only=warned)


def choose_device(wanted: str = "auto") -> torch.device:
    """Return the device called ``wanted``: 'cpu', 'gpu', or 'auto' for a GPU where there is one.

    Of several processes on a machine (LOCAL_RANK) each has the GPU of its number; where each is shown one alone, that one.

    Raises
    ------
    StudyError
        When a GPU is asked for and torch sees none, or too few for the processes.
    """
    there = torch.cuda.is_available()
    if wanted == "gpu" and not there:
        raise StudyError("there is no GPU that torch can use", got="--device gpu", do="use --device auto, or install a CUDA build")
    if wanted not in ("auto", "cpu", "gpu"):
        raise StudyError("that is no device", got=wanted, expected="auto, cpu or gpu")
    if not there or wanted == "cpu":
        return torch.device("cpu")
    place, seen = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if place >= seen > 1:
        got = f"process {place + 1} of this machine and {seen} GPUs"
        do = f"start {seen} processes a machine, or hide the GPUs (CUDA_VISIBLE_DEVICES=)"
        raise StudyError("there are more processes than GPUs", got=got, do=do)
    return torch.device("cuda", place if seen > 1 else 0)


def moved(batch: Any, device: torch.device) -> Any:
    """Return ``batch`` (tensors in tuples, lists or dicts) on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [moved(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


@contextmanager
def low_precision(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Within the block ``model(...)`` computes in bfloat16 (autocast) and returns float32; its other methods are untouched.

    On a processor, convolutions of fewer pixels a side than their kernel has stay in float32: there oneDNN (of torch 2.13) leaves
    memory that was never written in the gradient of the weights, or writes beyond it.
    """
    if not on:
        yield
        return
    with ExitStack() as stack:
        for part in model.modules():
            if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                stack.enter_context(_exact_when_small(part))
        stack.enter_context(_autocast(model))
        yield


@contextmanager
def _autocast(model: nn.Module) -> Iterator[None]:
    own, forward = vars(model).get("forward"), model.forward

    def cast(*args: Any, **named: Any) -> Any:
        kind = next((p.device.type for p in model.parameters()), "cpu")
        with torch.autocast(kind, dtype=torch.bfloat16):
            return _float32(forward(*args, **named))

    model.forward = cast
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


@contextmanager
def _exact_when_small(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Iterator[None]:
    """Within the block ``convolution`` is exact, on a processor, where its input has fewer pixels a side than its kernel."""
    plain: Any = convolution._conv_forward
    sides = convolution.kernel_size

    def guarded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        small = x.device.type == "cpu" and any(have < side for have, side in zip(x.shape[-len(sides) :], sides, strict=True))
        with torch.autocast("cpu", enabled=False) if small else nullcontext():
            found: Tensor = plain(x.float() if small else x, weight, bias)
        return found

    convolution._conv_forward = guarded  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del convolution._conv_forward


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, dict):
        return {name: _float32(one) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_float32(one) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def has_plane_convolutions(model: nn.Module) -> bool:
    """Tell whether ``model`` holds 2-D convolutions, for which channels last may pay."""
    return any(isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) for part in model.modules())


def may_be_last(model: nn.Module) -> bool:
    """Tell whether 2-D convolutions of ``model`` may have their channels last in float32.

    Without AVX-512, oneDNN (of torch 2.13) writes beyond its memory in strided 1 × 1 convolutions of fewer channels than a register
    holds numbers; that was seen with fewer than 8, of which AVX2 holds as many, and 16 are kept away from, as AVX-512 holds.
    """
    planes = [part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d))]
    return bool(planes) and not any(
        part.kernel_size == (1, 1) and max(part.stride) > 1 and part.in_channels // part.groups < 16 for part in planes
    )


def arrange(model: nn.Module, mode: Mode) -> None:
    """Lay out the weights of ``model`` as ``mode`` says, in place: 2-D convolutions with channels last or first."""
    wanted = torch.channels_last if mode.channels_last else torch.contiguous_format
    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            part.weight.data = part.weight.data.contiguous(memory_format=wanted)


def fixed(model: nn.Module, precision: Precision) -> Mode:
    """Return the mode of a ``precision`` that is not measured.

    2-D convolutions in bfloat16 have their channels last: with channels first a processor can take 80 times as long.
    """
    low = precision == "bfloat16"
    return Mode(bfloat16=low, channels_last=low and has_plane_convolutions(model))


def quickest(model: nn.Module, run: Callable[[], object], *, rounds: int = 2) -> Mode:
    """Time ``run`` (a pass of ``model``) in each mode that may pay and return the quickest; the model is left as it was.

    Parameters
    ----------
    run
        Makes one pass; it may leave gradients, which are dropped. Batch statistics that it changes are put back.
    """
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    modes = [Mode(), Mode(channels_last=True)] if may_be_last(model) else [Mode()]
    device = next(model.parameters()).device
    if _has_bfloat16(device):
        modes.append(fixed(model, "bfloat16"))
    best, least = Mode(), float("inf")
    for mode in modes:
        model.zero_grad(set_to_none=True)  # gradients have the layout of the mode they were made in
        arrange(model, mode)
        with low_precision(model, mode.bfloat16):
            if device.type != "cpu":
                run()  # loads the kernels of the mode, which may take a thousand times as long as they do
            first = _seconds(run)  # plans the kernels of the mode
            if first < 8 * least:
                took = first if first > _LONG else min(_seconds(run) for _ in range(rounds))
                if took < 0.95 * least:  # a tie goes to the plainer mode
                    best, least = mode, took
    arrange(model, Mode())
    model.load_state_dict(kept)
    model.zero_grad(set_to_none=True)
    return best


def _has_bfloat16(device: torch.device) -> bool:
    """Tell whether a product in bfloat16 is about as quick as in float32: without AVX-512 it takes a processor 70 times as long."""
    exact = torch.ones(256, 256, device=device)

    def took(x: Tensor) -> float:
        return min(_seconds(lambda: x @ x) for _ in range(3))

    return took(exact.bfloat16()) < 4 * took(exact)


def _seconds(run: Callable[[], object]) -> float:
    _done()
    start = time.perf_counter()
    run()
    _done()
    return time.perf_counter() - start


def _done() -> None:
    """Wait for what a GPU was told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --------------------------------------------------------------------------------------------------------- several processes


class Processes(NamedTuple):
    """This process among those that train one network together."""

    rank: int
    world: int

    @classmethod
    def joined(cls) -> Processes:
        """Return this process's place in the group that :func:`join_processes` made; alone outside of one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls(0, 1)

    def mean(self, tensors: list[Tensor], share: float) -> None:
        """Replace ``tensors`` by their sum over processes, each times its process's ``share``, in one exchange."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors]).float() * share
        torch.distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def first(self, value: Any) -> Any:
        """Return the ``value`` (any that can be pickled) of process 0."""
        if self.world == 1:
            return value
        shared = [value]
        torch.distributed.broadcast_object_list(shared, src=0)
        return shared[0]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Return what ``make`` returns in process 0; where it fails there, all processes raise, and none waits for the others.

        Raises
        ------
        StudyError
            In the other processes, when ``make`` raises in process 0, which raises its own error.
        """
        made, failed = None, None
        if self.rank == 0:
            try:
                made = make()
            except Exception as error:
                failed = error
        made, why = self.first((made, None if failed is None else f"{type(failed).__name__}: {failed}"))
        if failed is not None:
            raise failed
        if why is not None:
            raise StudyError("process 0 failed", got=why, do="look at its own error")
        return made

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give ``tensors`` the values they have in process 0."""
        if self.world > 1:
            for value in tensors:
                torch.distributed.broadcast(value, src=0)


@contextmanager
def join_processes(*, timeout_s: float = 1800) -> Iterator[Processes]:
    """Join the processes that torchrun or SLURM started for one training, for the length of the block; alone without either.

    Reads RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT (torchrun) or SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_JOB_NODELIST.

    Raises
    ------
    StudyError
        When SLURM started several processes and its node list cannot be read.
    """
    variables = _from_slurm(os.environ) if "RANK" not in os.environ else {}
    world = int(os.environ.get("WORLD_SIZE", variables.get("WORLD_SIZE", 1)))
    if world <= 1:
        yield Processes(0, 1)
        return
    os.environ.update(variables)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"  # of a training on processors, and what is not a tensor, goes by gloo all the same
        torch.cuda.set_device(choose_device())
    torch.distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    try:
        yield Processes.joined()
    finally:
        torch.distributed.destroy_process_group()
        gc.collect()  # what of the group lies in a cycle would otherwise go with the interpreter, and abort it now and then


def _from_slurm(known: Any) -> dict[str, str]:
    """Translate SLURM's variables to torchrun's; {} when SLURM started one process or none."""
    if int(known.get("SLURM_NTASKS", 1)) <= 1 or "SLURM_PROCID" not in known:
        return {}
    nodes = known.get("SLURM_STEP_NODELIST") or known.get("SLURM_JOB_NODELIST", "")
    return {
        "RANK": known["SLURM_PROCID"],
        "WORLD_SIZE": known["SLURM_NTASKS"],
        "LOCAL_RANK": known.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": known.get("MASTER_ADDR") or _first_node(nodes),
        "MASTER_PORT": known.get("MASTER_PORT") or str(20000 + int(known.get("SLURM_JOB_ID", 0)) % 20000),
    }


def _first_node(nodes: str) -> str:
    """Return the first host of a SLURM node list such as 'gpu[03-05,9],cpu1'.

    >>> _first_node("gpu[03-05,9],cpu1"), _first_node("gpu7,gpu8")
    ('gpu03', 'gpu7')
    """
    head, bracket, rest = nodes.partition("[")
    if "," in head or not bracket:
        first = head.split(",")[0]
    else:
        first = head + rest.split("]")[0].split(",")[0].split("-")[0]
    if not first:
        try:
            first = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
        except OSError as error:
            raise StudyError("the nodes of this SLURM job are not known", do="set MASTER_ADDR and MASTER_PORT") from error
    return first
