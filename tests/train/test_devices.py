"""Precision, layout and devices: the forward pass alone changes, the caller's network is left as it was."""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from clinome.core.errors import StudyError
from clinome.train import devices
from clinome.train.devices import (
    Mode,
    arrange,
    choose_device,
    fixed,
    join_processes,
    low_precision,
    may_be_last,
    moved,
    quickest,
    reproducible,
)


class Pair(NamedTuple):
    a: Tensor
    b: dict[str, Tensor]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Pair:
        y = self.norm(self.convolution(x))
        return Pair(y, {"sum": y.sum()})


def test_outputs_of_low_precision_are_float32_and_near() -> None:
    model, x = Two().eval(), torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    exact = model(x)
    with low_precision(model):
        near = model(x)
    assert isinstance(near, Pair)
    assert near.a.dtype == near.b["sum"].dtype == torch.float32
    assert not torch.equal(near.a, exact.a)
    torch.testing.assert_close(near.a, exact.a, rtol=0.02, atol=0.02)
    assert torch.equal(model(x).a, exact.a)


@pytest.mark.parametrize(
    ("dims", "side", "kernel", "stride"),
    [(3, 2, 3, 1), (3, 1, 3, 2), (3, 1, 5, 1), (2, 1, 3, 2), (2, 1, 5, 2), (1, 1, 5, 2), (3, 2, 5, 1), (2, 4, 3, 1), (3, 4, 3, 2)],
)
def test_gradients_in_low_precision_are_near_where_little_is_left_of_a_picture(
    dims: int, side: int, kernel: int, stride: int
) -> None:
    """Deep in a network a few pixels are left; torch's own bfloat16 gives any number there (1e30, NaN), or ends the process."""
    generator = torch.Generator().manual_seed(dims)
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    model = nn.Sequential(kind(16, 32, kernel, stride=stride, padding=kernel // 2))
    before = set(vars(model[0]))
    x = torch.randn(4, 16, *(side,) * dims, generator=generator)
    found = []
    for low in (False, True, True, True):
        used = [torch.full((100_000,), 1e30) for _ in range(8)]  # memory that holds something else than zeros
        del used
        model.zero_grad()
        with low_precision(model, low):
            y = model(x)
            (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        found.append(model[0].weight.grad.clone())
    for gradient in found[1:]:
        assert float((gradient - found[0]).abs().max() / found[0].abs().max()) < 0.02
    assert set(vars(model[0])) == before


def test_the_quickest_mode_leaves_weights_statistics_and_layout() -> None:
    model, x = Two().train(), torch.randn(4, 3, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    passes = 0

    def run() -> None:
        nonlocal passes
        passes += 1
        model(x).a.sum().backward()

    found = quickest(model, run)
    assert passes >= 4
    assert found in {Mode(a, b) for a in (False, True) for b in (False, True)}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.convolution.weight.is_contiguous()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("second", [1.0, 1 / 64])  # of a long pass, timed once, and of a short one
@pytest.mark.parametrize("costs", [(4.0, 3.0, 1.5), (4.0, 100.0, 1.5), (1.5, 3.0, 4.0)])
def test_the_quickest_is_chosen(second: float, costs: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    model, clock = Two(), [0.0]
    modes = [Mode(), Mode(channels_last=True), Mode(bfloat16=True, channels_last=True)]
    cost = dict(zip(modes, costs, strict=True))
    monkeypatch.setattr(devices, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])

    def run() -> None:
        last = model.convolution.weight.is_contiguous(memory_format=torch.channels_last)
        clock[0] += second * cost[Mode("forward" in vars(model), last)]

    assert cost[quickest(model, run)] == min(costs)
    often = 1 if second == 1 else 3
    assert clock[0] / second == sum(one * (1 if one == 100 else often) for one in costs)  # what is far slower is not timed again


def test_loading_kernels_of_a_gpu_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass of each mode loads its kernels, seconds for milliseconds (here: torch's device without numbers)."""
    model, clock, loaded = Two().to("meta"), [0.0], set[bool]()
    monkeypatch.setattr(devices, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])

    def run() -> None:
        low = "forward" in vars(model)
        clock[0] += (0.001 if low else 0.004) + (0.0 if low in loaded else 2.0)
        loaded.add(low)

    assert quickest(model, run).bfloat16


def test_float32_is_float32_on_a_gpu() -> None:
    before = torch.backends.cudnn.allow_tf32
    with reproducible(1):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("ratio", [1.0, 70.0])
def test_bfloat16_is_not_tried_where_a_small_product_is_far_slower(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AVX-512 one pass in bfloat16 may take as long as seventy in float32."""
    tried, clock = [], [0.0]
    model = Two()
    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])
    product = torch.Tensor.__matmul__

    def timed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        clock[0] += ratio if x.dtype == torch.bfloat16 else 1.0
        return product(x, y)

    monkeypatch.setattr(torch.Tensor, "__matmul__", timed)
    quickest(model, lambda: tried.append("forward" in vars(model)))
    assert any(tried) == (ratio == 1)


def test_narrow_strided_convolutions_keep_their_channels_first_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """With channels last they write beyond their memory (oneDNN on AVX2), which ends the process now and then."""
    wide, narrow = (nn.Conv2d(channels, 16, 1, stride=2) for channels in (16, 4))
    assert may_be_last(nn.Sequential(nn.Conv2d(4, 16, 3, stride=2), nn.Conv2d(4, 16, 1), wide))
    assert not may_be_last(nn.Sequential(wide, narrow))
    assert not may_be_last(nn.Conv3d(1, 1, 3))
    monkeypatch.setattr(devices, "_has_bfloat16", lambda device: False)
    tried: list[bool] = []
    monkeypatch.setattr(devices, "arrange", lambda model, mode: tried.append(mode.channels_last))
    quickest(wide, lambda: None)
    assert any(tried)
    tried.clear()
    quickest(narrow, lambda: None)
    assert tried
    assert not any(tried)


def test_bfloat16_that_is_not_measured_has_the_channels_of_pictures_last() -> None:
    assert fixed(Two(), "bfloat16") == Mode(bfloat16=True, channels_last=True)
    assert fixed(nn.Conv3d(1, 1, 3), "bfloat16") == Mode(bfloat16=True)
    assert fixed(Two(), "float32") == Mode()


def test_arranging_is_undone() -> None:
    model = Two()
    arrange(model, Mode(channels_last=True))
    assert model.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    arrange(model, Mode())
    assert model.convolution.weight.is_contiguous()


def test_batches_of_every_shape_move() -> None:
    batch = Pair(torch.zeros(2), {"x": torch.ones(1)})
    there = moved((batch, [torch.zeros(1)], "text"), torch.device("cpu"))
    assert isinstance(there[0], Pair)
    assert there[2] == "text"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(StudyError, match=r"(?s)no GPU.*--device auto"):
        choose_device("gpu")
    assert choose_device("auto").type == "cpu"


def test_what_is_no_device() -> None:
    with pytest.raises(StudyError, match=r"(?s)no device.*tpu"):
        choose_device("tpu")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Torch as it looks on a machine with GPUs, of which this process has the second; what it is told is kept."""
    told: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: told.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: told.append("left"))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    return told


def test_every_process_has_a_gpu_of_its_own(two_gpus: list[object]) -> None:
    assert choose_device() == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    with join_processes():
        assert two_gpus == [torch.device("cuda", 1), "cpu:gloo,cuda:nccl"]  # trainings on processors go by gloo there, too
    assert two_gpus[2:] == ["left"]


@pytest.mark.usefixtures("two_gpus")
def test_processes_that_are_shown_one_gpu_each_and_those_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as SLURM binds them
    assert choose_device() == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(StudyError, match=r"(?s)more processes than GPUs.*process 3 of this machine and 2 GPUs"):
        choose_device()
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_on_a_gpu_products_are_repeatable_and_what_is_not_only_warns() -> None:
    with reproducible(1):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with join_processes() as mine:
        assert mine == (0, 1)


def test_variables_of_slurm() -> None:
    known = {
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_NODELIST": "gpu[03-06]",
        "SLURM_JOB_ID": "77",
    }
    assert devices._from_slurm(known) == {
        "RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "20077",
    }
    assert devices._from_slurm({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == {}
