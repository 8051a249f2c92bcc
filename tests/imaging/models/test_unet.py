from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clinome.core.errors import StudyError
from clinome.imaging.models import unet


def counted(widths: tuple[int, ...], channels_in: int, outputs: int) -> int:
    """Weights and biases, added up from the paper's figure 1."""
    before, total = channels_in, 0
    for width in widths:
        total += 9 * before * width + width + 9 * width * width + width
        before = width
    for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
        total += 4 * below * width + width + 9 * 2 * width * width + width + 9 * width * width + width
    return total + widths[0] * outputs + outputs


def test_the_published_network_has_31_million_parameters_and_loses_92_pixels_a_side() -> None:
    config = unet.Config.published()
    with torch.device("meta"):
        model = unet.Model(config)
        assert model(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    n = sum(p.numel() for p in model.parameters())
    assert n == counted(config.widths, 1, 2) == 31_030_658
    assert config.margin == (572 - 388) / 2


def test_without_skips_it_is_no_smaller() -> None:
    with_skips, without = (sum(p.numel() for p in unet.Model(unet.Config(skips=skips)).parameters()) for skips in (True, False))
    assert with_skips <= without < 1.1 * with_skips


def test_equals_monais() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    ours = unet.Model(unet.Config(channels_in=2, outputs=3, widths=(8, 8, 16, 32, 64), norm="instance")).eval()
    theirs = nets.BasicUNet(
        spatial_dims=2,
        in_channels=2,
        out_channels=3,
        features=(8, 8, 16, 32, 64, 8),
        act="relu",
        norm=("instance", {"affine": True}),
        bias=False,
    ).eval()
    generator = torch.Generator().manual_seed(1)
    in_order: list[Tensor] = [*ours.down.state_dict().values()]
    for rise, up in zip(ours.rise, ours.up, strict=True):
        in_order += [*rise.state_dict().values(), *up.state_dict().values()]
    in_order += ours.head.state_dict().values()
    for value in in_order:
        value.copy_(torch.randn(value.shape, generator=generator) * 0.2 + (value.ndim == 1))
    names = theirs.state_dict().keys()
    theirs.load_state_dict(dict(zip(names, in_order, strict=True)))
    picture = torch.randn(2, 2, 48, 32, generator=generator)
    with torch.inference_mode():
        torch.testing.assert_close(ours(picture), theirs(picture), rtol=1e-4, atol=1e-4)


def test_what_the_skips_carry_is_the_middle_of_the_encoders_maps() -> None:
    maps = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert unet.cropped(maps, torch.empty(1, 1, 2, 4)).tolist() == maps[..., 2:4, 1:5].tolist()
    volume = torch.zeros(1, 1, 6, 7, 8)
    assert unet.cropped(volume, torch.empty(1, 1, 4, 3, 2)).shape == (1, 1, 4, 3, 2)


@pytest.mark.parametrize(("padded", "norm"), [(True, "batch"), (False, None), (False, "group")])
def test_example_fits_every_kind(padded: bool, norm: str | None) -> None:
    config = unet.Config(channels_in=1, widths=(4, 4, 8), padded=padded, norm=norm, dropout=0.1)  # type: ignore[arg-type]
    model = unet.Model(config)
    inputs, target = unet.example(config, 3)
    found = unet.loss(model(*inputs), target)
    assert torch.isfinite(found)
    assert inputs[0].shape[2] - target.shape[1] == 2 * config.margin


def test_a_side_that_cannot_be_halved() -> None:
    with pytest.raises(StudyError, match="halved as often"):
        unet.Model(unet.Config(widths=(4, 4, 4)))(torch.zeros(1, 3, 16, 18))
