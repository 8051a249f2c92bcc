from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from clinome.train.batches import permutation
from clinome.train.loop import Settings, fit
from clinome.train.muon import Muon, is_matrix, orthogonalised
from clinome.train.state import new_state


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_singular_vectors_stay_and_values_come_near_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    given = u @ torch.diag(torch.logspace(0, -2, min(shape))) @ v
    inner = u.T @ orthogonalised(given) @ v.T
    values = inner.diagonal()
    assert (values > 0.6).all()
    assert (values < 1.25).all()
    assert (inner - torch.diag(values)).abs().max() < 1e-4
    torch.testing.assert_close(orthogonalised(1000 * given), orthogonalised(given), rtol=1e-3, atol=1e-4)


def test_weights_with_few_inputs_or_outputs_and_vectors_take_adams_step() -> None:
    model = nn.Sequential(nn.Conv3d(1, 16, 3), nn.BatchNorm3d(16), nn.Conv3d(16, 8, 3), nn.Conv3d(8, 3, 1))
    assert [name for name, p in model.named_parameters() if is_matrix(p)] == ["2.weight"]
    few = nn.Linear(3, 4)
    twin = nn.Linear(3, 4)
    twin.load_state_dict(few.state_dict())
    ours, torchs = Muon(few.parameters(), lr_others=0.01), torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.9, 0.99))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    for _ in range(5):
        for each, optimiser in ((few, ours), (twin, torchs)):
            optimiser.zero_grad()
            each(x).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(few.weight, twin.weight, rtol=1e-5, atol=1e-6)


def test_equals_torchs_where_torch_has_it() -> None:
    peer = getattr(torch.optim, "Muon", None)
    if peer is None:
        pytest.skip("this torch has no Muon")
    ours, theirs = nn.Linear(24, 16, bias=False), nn.Linear(24, 16, bias=False)
    theirs.load_state_dict(ours.state_dict())
    one = Muon(ours.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05)
    two = peer(theirs.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05, nesterov=True)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        gradient = torch.randn(16, 24, generator=generator)
        for each, optimiser in ((ours, one), (theirs, two)):
            each.weight.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0.02, atol=0.01)  # torch iterates in bfloat16


def test_a_step_of_a_matrix_has_the_length_of_the_learning_rate() -> None:
    layer = nn.Linear(32, 20, bias=False)
    before = layer.weight.detach().clone()
    optimiser = Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
    layer.weight.grad = torch.randn(20, 32, generator=torch.Generator().manual_seed(1)) * 1e-5
    optimiser.step()
    assert 0.06 < torch.linalg.matrix_norm(layer.weight - before, 2).item() < 0.125


def test_a_saved_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(4))

    def trained(stops: list[int], folder: Path) -> torch.Tensor:
        for stop in stops:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
            state = new_state(model, Muon(model.parameters()))
            settings = Settings(checkpoint=folder / "state.safetensors", key="k", checkpoint_every=5)
            fit(state, until=stop, draw=permutation(32, 8, seed=1), fetch=lambda drawn: x[drawn.rows],
                objective=lambda m, batch, _: ((m(batch) - batch.flip(1)).square().mean(), {}), settings=settings)  # fmt: skip
        return model[0].weight.detach()

    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    assert torch.equal(trained([20], tmp_path / "whole"), trained([5, 10, 20], tmp_path / "pieces"))
