"""What every published architecture promises, asked of each file in ``clinome/*/models/`` without being told.

A model file has ``Config`` (a frozen dataclass with ``tiny()``), ``Model(config)`` and ``example(config, batch)``: valid
random inputs, one tensor or a tuple of them, first axis the batch.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import clinome

PACKAGE = Path(clinome.__file__).parent
FILES = [path for path in sorted(PACKAGE.glob("*/models/*.py")) if not path.name.startswith("_")]


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(".".join(["clinome", *request.param.relative_to(PACKAGE).with_suffix("").parts]))


def build(module: ModuleType, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = module.Model(module.Config.tiny())
    return model


def inputs(module: ModuleType, batch: int) -> tuple[Tensor, ...]:
    given = module.example(module.Config.tiny(), batch)
    return given if isinstance(given, tuple) else (given,)


def test_models_are_found() -> None:
    assert {"small_encoder", "deepnull"} <= {path.stem for path in FILES}


def test_configuration_is_frozen_and_kept(module: ModuleType) -> None:
    config = module.Config.tiny()
    assert module.Config.__dataclass_params__.frozen
    assert dataclasses.asdict(config) != dataclasses.asdict(module.Config())
    assert build(module).config == config
    assert module.__doc__
    assert "doi" in module.__doc__.lower() or "arxiv" in module.__doc__.lower(), "name the publication"


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_one_finite_row_an_example(module: ModuleType, batch: int) -> None:
    given = inputs(module, batch)
    out = build(module).eval()(*given)
    assert all(len(one) == batch for one in given)
    assert out.shape[0] == batch
    assert torch.isfinite(out).all()


def test_a_gradient_reaches_every_weight(module: ModuleType) -> None:
    model = build(module).train()
    out = model(*inputs(module, 8))
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all(), name
        assert value.grad.abs().max() > 0, f"{name} has no influence on the output"


def test_rows_do_not_depend_on_their_neighbours(module: ModuleType) -> None:
    model, given = build(module).eval(), inputs(module, 5)
    with torch.no_grad():
        together = model(*given)
        alone = torch.cat([model(*(one[i : i + 1] for one in given)) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_it_can_memorise_sixteen_examples(module: ModuleType) -> None:
    model, given = build(module).train(), inputs(module, 16)
    wanted = torch.randn(model(*given).shape, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(400):
        loss = ((model(*given) - wanted) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.01 * wanted.var():
            return
    pytest.fail(f"after 400 steps the error is still {loss.item():.3f} of {wanted.var().item():.3f}")


def test_saved_weights_say_the_same(module: ModuleType, tmp_path: Path) -> None:
    model, given = build(module).eval(), inputs(module, 3)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = build(module, seed=1).eval()
    assert not torch.equal(other(*given), model(*given))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(*given), model(*given))


def test_the_same_seed_is_the_same_network(module: ModuleType) -> None:
    given = inputs(module, 3)
    assert torch.equal(build(module, seed=2).eval()(*given), build(module, seed=2).eval()(*given))
    assert all(torch.equal(one, two) for one, two in zip(inputs(module, 4), inputs(module, 4), strict=True))
