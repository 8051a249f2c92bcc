"""What every network in a ``models`` folder keeps: it is found by walking, nobody has to list it.

A model file has ``Config`` (with ``tiny()``), ``Model``, ``example(config, batch)`` and ``loss(output, target)``;
docs/add_a_model.md says how to write one. Each is asked all of this in at most three seconds.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from clinome.nn.example import Example
from clinome.train.devices import reproducible

ROOT = Path(__file__).parents[2] / "clinome"
NAMES = sorted(
    ".".join(("clinome", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.glob("*/models/*.py")
    if path.name != "__init__.py"
)
MEMORISED = 0.5  # of the loss at the start, which 16 examples of noise must fall below …
STEPS = 150  # … within so many steps of Adam on all of them …
SECONDS = 6.0  # … of processor time, twice what it may take on a quiet machine


@pytest.fixture(params=NAMES)
def found(request: pytest.FixtureRequest) -> ModuleType:
    module = importlib.import_module(request.param)
    for name in ("Config", "Model", "example", "loss"):
        assert name in vars(module), f"{request.param} has no {name}"
    return module


@pytest.fixture(autouse=True)
def torch_generator_is_left_alone() -> Iterator[None]:
    """Whatever a model file does with its own seeds, the caller's generator stands where it stood."""
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def make(module: ModuleType, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module.Model(module.Config.tiny())


def tensors(nested: object) -> list[torch.Tensor]:
    """Return the tensors of an output or a target: one, or several in tuples, lists and dicts."""
    if isinstance(nested, torch.Tensor):
        return [nested]
    inside: Any = nested.values() if isinstance(nested, dict) else nested if isinstance(nested, tuple | list) else ()
    return [tensor for one in inside for tensor in tensors(one)]


def copies(example: Example) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in tensors(tuple(example))]


def test_there_are_models() -> None:
    assert {"clinome.imaging.models.small_encoder", "clinome.imaging.models.resnet"} <= set(NAMES)


def test_says_where_it_is_published(found: ModuleType) -> None:
    assert re.search(r"doi|arXiv", found.__doc__ or ""), "the module docstring names no publication"


def test_the_config_is_frozen_and_goes_with_the_model(found: ModuleType) -> None:
    config = found.Config.tiny()
    assert dataclasses.is_dataclass(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
    assert make(found).config == config


def test_a_row_for_each_example_and_all_finite(found: ModuleType) -> None:
    model = make(found).eval()
    for batch in (1, 5):
        example = found.example(found.Config.tiny(), batch)
        for output in tensors(model(*example.inputs)):
            assert output.shape[0] == batch
            assert torch.isfinite(output).all()
        value = found.loss(model(*example.inputs), example.target)
        assert value.shape == ()
        assert torch.isfinite(value)


def test_features_are_a_vector_of_the_length_it_says(found: ModuleType) -> None:
    config, model = found.Config.tiny(), make(found).eval()
    if not hasattr(model, "features"):
        return
    length = model.n_features if hasattr(model, "n_features") else config.n_features
    assert model.features(*found.example(config, 3).inputs).shape == (3, length)


def test_a_gradient_reaches_every_parameter(found: ModuleType) -> None:
    model, example = make(found).train(), found.example(found.Config.tiny(), 8)
    found.loss(model(*example.inputs), example.target).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_memorises_sixteen_examples_of_noise(found: ModuleType) -> None:
    example = found.example(found.Config.tiny(), 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # dropout
        model = make(found).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        values: list[float] = []
        start = 0.0
        while len(values) < STEPS and (not values or values[-1] > MEMORISED * values[0]):
            value = found.loss(model(*example.inputs), example.target)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            start = time.process_time() if not values else start  # the first step imports half of torch
            values.append(float(value.detach()))
    assert time.process_time() - start < SECONDS, "make Config.tiny() or its example() smaller"
    assert values[0] > 0, "the contract compares losses by their ratio: let the least possible loss be 0"
    assert values[-1] <= MEMORISED * values[0], f"the loss went from {values[0]:.3g} to {values[-1]:.3g} in {len(values)} steps"


def test_rows_do_not_depend_on_their_batch_mates(found: ModuleType) -> None:
    model, inputs = make(found).eval(), found.example(found.Config.tiny(), 6).inputs
    together = tensors(model(*inputs))
    for some in (slice(0, 1), slice(2, 5)):
        for alone, all_rows in zip(tensors(model(*(part[some] for part in inputs))), together, strict=True):
            torch.testing.assert_close(alone, all_rows[some], rtol=1e-4, atol=1e-5)


def test_save_and_load_gives_the_same_outputs(found: ModuleType) -> None:
    model, other, inputs = make(found).eval(), make(found, seed=1).eval(), found.example(found.Config.tiny(), 3).inputs
    other.load_state_dict(load(save({name: value.contiguous() for name, value in model.state_dict().items()})))
    for a, b in zip(tensors(model(*inputs)), tensors(other(*inputs)), strict=True):
        assert torch.equal(a, b)


def test_same_seed_same_network_same_examples_and_same_step(found: ModuleType) -> None:
    ends = []
    for _ in range(2):
        example, model = found.example(found.Config.tiny(), 4), make(found).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found.loss(model(*example.inputs), example.target).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        ends.append([*copies(example), *model.state_dict().values(), *gradients])
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False])
def test_what_was_given_is_left_as_it_was(found: ModuleType, training: bool) -> None:
    config = found.Config.tiny()
    state = torch.get_rng_state()
    example = found.example(config, 4)
    assert torch.equal(state, torch.get_rng_state()), "example() draws from torch's own generator"
    before, model = copies(example), make(found).train(training)
    state = torch.get_rng_state()
    found.loss(model(*example.inputs), example.target)
    assert model.training is training
    assert all(part.training is training for part in model.modules())
    for was, now in zip(before, tensors(tuple(example)), strict=True):
        assert torch.equal(was, now), "an input or target was written to"
    assert training or torch.equal(state, torch.get_rng_state()), "prediction draws from torch's own generator"


def test_a_gpu_says_the_same(found: ModuleType) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    model, inputs = make(found).eval(), found.example(found.Config.tiny(), 4).inputs
    here = tensors(model(*inputs))
    with reproducible(torch.get_num_threads()):  # without it torch rounds what convolutions multiply to ten bits
        there = tensors(model.to("cuda")(*(part.to("cuda") for part in inputs)))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-4)
