"""What every network in a ``models`` folder keeps: it is found by walking, nobody has to list it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load, save

ROOT = Path(__file__).parents[2] / "clinome"
NAMES = sorted(
    ".".join(("clinome", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.glob("*/models/*.py")
    if path.name != "__init__.py"
)


@pytest.fixture(params=NAMES)
def found(request: pytest.FixtureRequest) -> ModuleType:
    module = importlib.import_module(request.param)
    assert "Config" in vars(module), f"{request.param} has no Config"
    return module


def make(module: ModuleType, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module.Model(module.Config.tiny())


def outputs(model: torch.nn.Module, inputs: object) -> list[torch.Tensor]:
    given = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return list(given) if isinstance(given, tuple) else [given]


def test_there_are_models() -> None:
    assert "clinome.imaging.models.small_encoder" in NAMES


def test_says_where_it_is_published(found: ModuleType) -> None:
    assert re.search(r"doi|arXiv", found.__doc__ or ""), "the module docstring names no publication"


def test_a_row_for_each_example_and_all_finite(found: ModuleType) -> None:
    model = make(found).eval()
    for batch in (1, 5):
        for output in outputs(model, found.example(found.Config.tiny(), batch)):
            assert output.shape[0] == batch
            assert torch.isfinite(output).all()


def test_a_gradient_reaches_every_parameter(found: ModuleType) -> None:
    model = make(found).train()
    weight = torch.Generator().manual_seed(1)
    loss = sum((o * torch.randn(o.shape, generator=weight)).sum() for o in outputs(model, found.example(found.Config.tiny(), 8)))
    loss.backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_rows_do_not_depend_on_their_batch_mates(found: ModuleType) -> None:
    model, inputs = make(found).eval(), found.example(found.Config.tiny(), 6)
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    for some in (slice(0, 1), slice(2, 5)):
        few = tuple(part[some] for part in parts)
        for alone, together in zip(
            outputs(model, few if isinstance(inputs, tuple) else few[0]), outputs(model, inputs), strict=True
        ):
            torch.testing.assert_close(alone, together[some], rtol=1e-4, atol=1e-5)


def test_save_and_load_gives_the_same_outputs(found: ModuleType) -> None:
    model, other, inputs = make(found).eval(), make(found, seed=1).eval(), found.example(found.Config.tiny(), 3)
    other.load_state_dict(load(save({name: value.contiguous() for name, value in model.state_dict().items()})))
    for a, b in zip(outputs(model, inputs), outputs(other, inputs), strict=True):
        assert torch.equal(a, b)


def test_same_seed_same_network_and_same_examples(found: ModuleType) -> None:
    config = found.Config.tiny()
    for (name, a), b in zip(make(found).state_dict().items(), make(found).state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    first, again = found.example(config, 4), found.example(config, 4)
    for a, b in zip(first if isinstance(first, tuple) else (first,), again if isinstance(again, tuple) else (again,), strict=True):
        assert torch.equal(a, b)
