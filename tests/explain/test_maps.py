"""Occlusion, Grad-CAM and attention against closed forms, and the randomisation test."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clinome.core.errors import NotConverged
from clinome.explain import baselines
from clinome.explain.asking import gradients
from clinome.explain.attention import flow, rollout, soft_attention
from clinome.explain.gradcam import grad_cam, last_convolution
from clinome.explain.occlusion import occlude_regions, occlusion
from clinome.explain.sanity import randomise_model
from clinome.imaging.models import vit
from clinome.nn.soft_attention import SoftAttention

SUM = nn.Flatten()


def total(out: Tensor) -> Tensor:
    return out.sum(dim=1)


@pytest.mark.parametrize("space", [(6, 8), (4, 6, 6)])
def test_covering_a_window_of_a_sum_loses_what_is_in_it(space: tuple[int, ...]) -> None:
    x = torch.rand(3, 2, *space, dtype=torch.float64)
    found = occlusion(SUM, x, window=2, target=total, batch_size=5)
    pooled = nn.functional.avg_pool2d if len(space) == 2 else nn.functional.avg_pool3d
    expected = pooled(x.sum(dim=1, keepdim=True), 2)[:, 0] * 2 ** len(space)  # type: ignore[operator]
    for axis in range(1, x.ndim - 1):
        expected = expected.repeat_interleave(2, dim=axis)
    torch.testing.assert_close(found, expected)


def test_overlapping_windows_are_averaged_and_the_last_ends_at_the_edge() -> None:
    x = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    found = occlusion(SUM, x, window=3, stride=2, target=total)  # windows 0–2 and 1–3
    torch.testing.assert_close(found, torch.tensor([[7.0, 10.5, 10.5, 14.0]]))
    gaps = occlusion(SUM, x, window=1, stride=3, target=total)
    assert gaps.isnan().tolist() == [[False, True, True, False]]
    filled = occlusion(SUM, x, window=1, target=total, baseline=baselines.constant(1.0))
    torch.testing.assert_close(filled, x[:, 0] - 1)


def test_covering_structures() -> None:
    x = torch.rand(2, 3, 4, 4)
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    labels[0, :2], labels[1, 0, 0], labels[:, 3, 3] = 1, 1, 2
    falls = occlude_regions(SUM, x, labels, target=total)
    torch.testing.assert_close(falls[:, 0], torch.stack([x[0, :, :2].sum(), x[1, :, 0, 0].sum()]))
    assert occlude_regions(SUM, x, labels[1], target=total).shape == (2, 2)
    labels[0, 3, 3] = 3
    assert occlude_regions(SUM, x, labels, target=total).isnan().tolist() == [[False, True, False], [False, False, True]]
    with pytest.raises(ValueError, match="regions must be"):
        occlude_regions(SUM, x, labels[:, :2], target=total)
    with pytest.raises(ValueError, match="does not fit"):
        occlusion(SUM, x, window=5, target=total)
    with pytest.raises(ValueError, match="stride must hold"):
        occlusion(SUM, x, window=2, stride=(1, 1, 1), target=total)


def convolutional(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def test_grad_cam_over_an_average_pool_is_the_class_activation_map() -> None:
    model, x = convolutional(), torch.rand(3, 1, 8, 8)
    features = model[:4](x)
    expected = torch.einsum("nkhw,k->nhw", features, model[6].weight[1]).detach() / 64  # Zhou 2016
    torch.testing.assert_close(grad_cam(model, x, target=1, layer="3", signed=True, batch_size=2), expected)
    torch.testing.assert_close(grad_cam(model, x, target=1, layer="3"), expected.clamp(min=0))


def test_grad_cam_of_a_known_convolution_points_at_the_spot() -> None:
    finder = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    nn.init.ones_(finder.weight)
    model = nn.Sequential(finder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.zeros(1, 1, 16, 16)
    x[0, 0, 4, 12] = 1
    cells = grad_cam(model, x, spread=False)
    assert cells.shape == (1, 8, 8)
    assert cells[0].nonzero().tolist() == [[2, 6]]
    assert float(cells[0, 2, 6]) == pytest.approx(1 / 64)
    assert divmod(int(grad_cam(model, x)[0].argmax()), 16) in [(4, 12), (5, 12), (4, 13), (5, 13)]


def test_grad_cam_does_not_mind_in_place_layers_and_leaves_no_hook() -> None:
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(
        grad_cam(convolutional(), x, target=0, signed=True), grad_cam(convolutional(inplace=True), x, target=0, signed=True)
    )
    model = convolutional()
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        grad_cam(model, x, target=0, layer="nowhere")
    with pytest.raises(ValueError, match="gives no map"):
        grad_cam(model, x, target=0, layer="6")
    with pytest.raises(ValueError, match="gives no map"):
        grad_cam(model, x, target=0, layer="4")  # pooled to one cell
    assert not any(m._forward_hooks for m in model.modules())
    assert model.training


def test_the_last_convolution_is_the_last_that_runs() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early, self.gate = nn.Conv3d(2, 3, 1), nn.Conv3d(1, 2, 1), nn.Conv3d(3, 3, 1)
            self.never = nn.Conv3d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.late(self.early(x))
            return (self.gate(x.mean(dim=(2, 3, 4), keepdim=True)) * x).mean(dim=(2, 3, 4))

    x = torch.rand(2, 1, 4, 4, 4)
    assert last_convolution(Odd(), x) == "late"
    assert grad_cam(Odd(), x, target=0).shape == (2, 4, 4, 4)
    with pytest.raises(ValueError, match="does not run"):
        grad_cam(Odd(), x, target=0, layer="never")
    with pytest.raises(ValueError, match="no convolution"):
        last_convolution(nn.Linear(4, 4), x)


def test_soft_attention_is_what_the_pool_weighs_with() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), SoftAttention(16)), torch.rand(5, 1, 12, 12)
    shown = soft_attention(model, x, batch_size=2)
    torch.testing.assert_close(shown, model[1].weights(model[0](x)).detach())
    wide = soft_attention(model, x, spread=True)
    assert wide.shape == (5, 12, 12)
    torch.testing.assert_close(wide.sum(dim=(1, 2)), torch.ones(5))
    with pytest.raises(ValueError, match="0 modules"):
        soft_attention(nn.Conv2d(1, 1, 1), x)
    with pytest.raises(ValueError, match="2 modules"):
        soft_attention(nn.Sequential(model[0], nn.Sequential(SoftAttention(16)), SoftAttention(16)), x)
    with pytest.raises(ValueError, match="no module 'x'"):
        soft_attention(model, x, layer="x")
    assert not any(m._forward_pre_hooks for m in model.modules())


class Transformer(nn.Module):
    """A class token and 2 × 3 patches of one pixel through two of torch's encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.lift = nn.Linear(1, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.lift(x.flatten(2).movedim(1, 2))
        return self.encoder(torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1))[:, 0]


def test_rollout_follows_the_layers() -> None:
    model, x = Transformer().eval(), torch.rand(5, 1, 2, 3)
    caught = []
    tokens = torch.cat([model.first.expand(5, -1, -1), model.lift(x.flatten(2).movedim(1, 2))], dim=1)
    for layer in model.encoder.layers:
        caught.append(layer.self_attn(tokens, tokens, tokens, average_attn_weights=False)[1])
        tokens = layer(tokens)
    first, second = (0.5 * weights.mean(dim=1).double() + 0.5 * torch.eye(7) for weights in caught)
    row = (second @ first)[:, 0, 1:]
    expected = (row / row.sum(dim=1, keepdim=True)).reshape(5, 2, 3)
    torch.testing.assert_close(rollout(model, x, grid=(2, 3), batch_size=2), expected.detach(), rtol=1e-4, atol=1e-6)
    assert rollout(model, x, grid=(2, 3), spread=True).shape == (5, 2, 3)
    with pytest.raises(ValueError, match="7 tokens are not 1 and a grid of"):
        rollout(model, x, grid=(2, 2))
    with pytest.raises(ValueError, match="says its attention"):
        rollout(nn.Sequential(nn.Conv2d(1, 16, 1), SoftAttention(16)), x, grid=(2, 3))


@pytest.mark.parametrize("pool", ["class", "average"])
def test_rollout_of_one_layer_is_the_vits_own_attention(pool: Literal["class", "average"]) -> None:
    model, x = vit.Model(replace(vit.Config.tiny(), layers=1, pool=pool)), torch.rand(3, 3, 32, 32)
    shown = rollout(model, x, grid=(4, 4), pool=pool)
    assert shown.shape == (3, 4, 4)
    if pool == "class":  # the identity of the way around says nothing about other tokens
        torch.testing.assert_close(shown.float(), model.attention(x).detach())


def test_uniform_and_identity_attention_flow_as_they_should() -> None:
    same = torch.eye(4).expand(1, 2, 4, 4)
    torch.testing.assert_close(flow([same, same]), torch.eye(4, dtype=torch.float64)[None])
    uniform = torch.full((1, 2, 4, 4), 0.25)
    torch.testing.assert_close(flow([uniform] * 2, heads="max").sum(dim=2), torch.ones(1, 4, dtype=torch.float64))
    torch.testing.assert_close(flow([uniform] * 60)[0], torch.full((4, 4), 0.25, dtype=torch.float64))
    with pytest.raises(ValueError, match="no layers"):
        flow([])


def trained() -> tuple[nn.Module, Tensor]:
    """A network that tells whether the left or the right half is brighter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(512, 16), nn.Tanh(), nn.Linear(16, 1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.randn(128, 1, 8, 8)
    wanted = (x[..., :4].mean(dim=(1, 2, 3)) > x[..., 4:].mean(dim=(1, 2, 3))).float()[:, None]
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x), wanted).backward()
        optimiser.step()
    return model, x[:6]


def test_signs_tell_what_sizes_do_not() -> None:
    model, x = trained()

    def contrast(model: nn.Module, x: Tensor) -> Tensor:
        return x * model(x)[:, :, None, None]  # its size is the picture's, its sign the network's

    sizes = randomise_model(model, x, contrast, generator=torch.Generator().manual_seed(0))
    signs = randomise_model(model, x, contrast, generator=torch.Generator().manual_seed(0), signed=True)
    assert (sizes.similarity > 0.99).all()
    assert set(np.unique(signs.similarity.round(6))) == {-1.0, 1.0}


def test_gradients_pass_the_randomisation_test_and_an_edge_detector_fails() -> None:
    model, x = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    passes = randomise_model(model, x, gradients, generator=torch.Generator().manual_seed(0))
    assert passes.layers == ["5", "3", "0"]
    assert passes.similarity.shape == (3, 6)
    passes.require(at_most=0.5)
    edges = randomise_model(
        model, x, lambda model, x: x.diff(dim=3).abs(), generator=torch.Generator().manual_seed(0), order="each"
    )
    assert (edges.similarity > 0.999).all()
    with pytest.raises(NotConverged, match="hardly depend on what the model has learned"):
        edges.require()
    some = randomise_model(model, x, gradients, generator=torch.Generator().manual_seed(0), points=2)
    assert some.layers == ["5", "0"]
    np.testing.assert_array_equal(some.similarity, passes.similarity[[0, 2]])
    known = {"before": gradients(model, x), "generator": torch.Generator().manual_seed(0)}
    np.testing.assert_array_equal(randomise_model(model, x, gradients, **known).similarity, passes.similarity)  # type: ignore[arg-type]
    nothing = randomise_model(model, x, lambda model, x: torch.zeros(6, 4), generator=torch.Generator())
    with pytest.raises(NotConverged, match="correlation of nan"):
        nothing.require()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
