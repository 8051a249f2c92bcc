"""Normalisation by name: which layer, and what each shares between examples."""

from __future__ import annotations

import pytest
import torch

from clinome.core.errors import StudyError
from clinome.nn.norms import Norm, norm


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
def test_every_kind_scales_to_mean_zero_and_unit_spread_and_learns_a_scale_and_shift(kind: Norm, dims: int) -> None:
    layer = norm(kind, 12, dims)
    out = layer(5 + 3 * torch.randn(4, 12, *(6,) * dims, generator=torch.Generator().manual_seed(0))).detach()
    assert abs(float(out.mean())) < 1e-5
    assert abs(float(out.std()) - 1) < 0.02
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize(("kind", "shares"), [("batch", True), ("group", False), ("instance", False)])
def test_only_batch_normalisation_looks_at_the_other_examples(kind: Norm, shares: bool) -> None:
    layer, maps = norm(kind, 4, 2), torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    alone, together = layer(maps[:1]), layer(maps)[:1]
    assert torch.allclose(alone, together, atol=1e-5) is not shares


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 48, 64, 96, 320])
def test_groups_divide_the_channels_and_leave_something_of_a_single_pixel(channels: int) -> None:
    layer = norm("group", channels, 2)
    assert isinstance(layer, torch.nn.GroupNorm)
    assert layer.num_groups <= 32
    if channels > 1:
        assert layer(torch.randn(2, channels, 1, 1, generator=torch.Generator().manual_seed(0))).abs().sum() > 0


def test_other_words_and_axes_are_refused() -> None:
    with pytest.raises(StudyError, match="batch, group or instance"):
        norm("layer", 4, 2)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="one, two or three axes"):
        norm("batch", 4, 4)
