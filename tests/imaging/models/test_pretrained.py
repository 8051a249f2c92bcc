"""The published families of weights, in files named and built as theirs are, into the networks that take them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from toolkit import checkpoints
from torch import nn

from clinome.core.errors import FormatError
from clinome.imaging.models import densenet, inception_v3, resnet, vit
from clinome.nn.weight_files import sha256
from clinome.nn.weights import IMAGENET, Source, load_weights

RESNET = resnet.Config(layers=50, width=4, outputs=5)
DENSENET = densenet.Config(blocks=(2, 2, 2, 2), growth=4, width=8, outputs=5)
INCEPTION = inception_v3.Config(width=1 / 32, outputs=5)
VIT = replace(vit.Config.tiny(), outputs=5)
FAMILIES = [resnet, densenet, inception_v3, vit]


def holds(network: nn.Module, weights: checkpoints.State, *, but: tuple[str, ...]) -> None:
    """See that the network has the file's weights everywhere but in its head."""
    for key, value in network.state_dict().items():
        if not key.startswith(but) and not key.endswith("num_batches_tracked"):
            assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize(
    ("module", "config", "name"),
    [
        (resnet, RESNET, "resnet50"),
        (densenet, DENSENET, "densenet121"),
        (inception_v3, INCEPTION, "inception_v3_google"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_torchvision(module: ModuleType, config: Any, name: str, tmp_path: Path) -> None:
    network = module.Model(config)
    weights = checkpoints.state(module.Model(replace(config, outputs=1000)))
    head = {key: value.clone() for key, value in network.state_dict().items() if key.startswith(module.HEADS)}
    saved = checkpoints.save(tmp_path / "saved", weights)
    path = saved.rename(tmp_path / f"{name}-{sha256(saved)[:8]}.pth")
    report = load_weights(network, path)
    holds(network, weights, but=module.HEADS)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in head.items())
    assert (report.missing, report.unexpected, report.reshaped) == ((), (), {})
    assert set(report.left) == {key for key in weights if key.startswith(module.HEADS)}
    assert report.source == f"torchvision/{name.removesuffix('_google')}"
    assert report.preprocessing is not None
    assert report.preprocessing.size == (299 if module is inception_v3 else 224)
    assert "ImageNet" in str(report)
    wrong = path.rename(tmp_path / f"{name}-0123abcd.pth")
    with pytest.raises(FormatError, match=r"not the one that its name says(.|\n)*expected: 0123abcd"):
        load_weights(network, wrong)


def test_densenet_under_its_names_of_torch_0_3(tmp_path: Path) -> None:
    network, weights = densenet.Model(DENSENET), checkpoints.state(densenet.Model(DENSENET))
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): value
        for key, value in weights.items()
        if not key.endswith("num_batches_tracked")
    }
    report = load_weights(network, checkpoints.save(tmp_path / "old.pth", old))
    assert report.layout == "torchvision"
    holds(network, weights, but=densenet.HEADS)


def test_densenet_of_monai(tmp_path: Path) -> None:
    config = replace(DENSENET, dims=3, channels_in=1)
    network, weights = densenet.Model(config), checkpoints.state(densenet.Model(config))
    theirs = {
        re.sub(r"(denselayer\d+)\.", r"\1.layers.", key).replace("classifier", "class_layers.out"): v for key, v in weights.items()
    }
    report = load_weights(network, checkpoints.save(tmp_path / "m.pt", theirs), head=True)
    assert report.layout == "MONAI"
    holds(network, weights, but=())


RADIMAGENET = [
    (resnet, RESNET, "ResNet50.pt", ["conv1", "bn1", "-", "-", "layer1", "layer2", "layer3", "layer4"]),
    (densenet, DENSENET, "DenseNet121.pt", ["features"]),
    (
        inception_v3,
        INCEPTION,
        "InceptionV3.pt",
        ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "-", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "--"]
        + [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")],
    ),
]


@pytest.mark.parametrize(("module", "config", "name", "parts"), RADIMAGENET, ids=[name for _, _, name, _ in RADIMAGENET])
def test_radimagenet(module: ModuleType, config: Any, name: str, parts: list[str], tmp_path: Path) -> None:
    network, weights = module.Model(replace(config, channels_in=1)), checkpoints.state(module.Model(config))
    saved = checkpoints.as_a_list(weights, parts)
    report = load_weights(network, checkpoints.save(tmp_path / name, saved))
    first, kernels = next((key, value) for key, value in weights.items() if value.ndim == 4)
    assert report.reshaped == {first: "3 channels to 1"}
    assert (report.layout, report.missing, report.unexpected) == ("RadImageNet", (), ())
    holds(network, weights | {first: kernels.sum(dim=1, keepdim=True)}, but=module.HEADS)
    assert report.preprocessing is not None
    assert report.preprocessing.apply(torch.tensor([[[[0.0, 1.0]]]])).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("pool", ["class", "average"])
def test_retfound_on_pictures_of_another_side(pool: Any, tmp_path: Path) -> None:
    config = replace(VIT, pool=pool)
    network, weights = vit.Model(replace(config, size=48)), checkpoints.state(vit.Model(config))
    path = checkpoints.save(tmp_path / "RETFound_cfp_weights.pth", checkpoints.as_masked_autoencoder(weights, VIT.width))
    report = load_weights(network, path, minimum_match=0.9)
    assert report.source == "retfound/cfp"
    assert report.layout == "masked autoencoder"
    assert report.preprocessing == IMAGENET
    assert report.licence is not None
    assert report.licence.startswith("CC BY-NC")
    assert report.reshaped == {"pos_embed": "4 × 4 positions to 6 × 6"}
    assert set(report.left) >= {"mask_token", "decoder_blocks.0.attn.qkv.weight"}
    # with average pooling the last norm is a new one, as in RETFound's own fine-tuning
    assert report.missing == (() if pool == "class" else ("fc_norm.weight", "fc_norm.bias"))
    holds(network, weights, but=(*vit.HEADS, "pos_embed", "fc_norm."))
    assert torch.equal(network.pos_embed[:, :1], weights["pos_embed"][:, :1])


def test_positions_that_rise_evenly_still_do_on_a_finer_grid(tmp_path: Path) -> None:
    config = replace(VIT, size=64)
    weights = checkpoints.state(vit.Model(config))
    weights["pos_embed"][0, 1:] = torch.arange(8.0).repeat_interleave(8)[:, None]  # the row
    network = vit.Model(replace(config, size=128))
    load_weights(network, checkpoints.save(tmp_path / "vit.pth", weights))
    rows = network.pos_embed[0, 1:, 0].detach().reshape(16, 16)
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 16))
    centres = torch.arange(16.0) / 2 - 0.25
    torch.testing.assert_close(rows[4:12, 0], centres[4:12], rtol=0, atol=0.05)  # torch's bicubic is not exact on a slope


def test_a_transformer_of_torchvision(tmp_path: Path) -> None:
    network, weights = vit.Model(VIT), checkpoints.state(vit.Model(VIT))
    report = load_weights(network, checkpoints.save(tmp_path / "v.pth", checkpoints.as_torchvision_transformer(weights)), head=True)
    assert (report.layout, report.missing, report.unexpected) == ("torchvision", (), ())
    holds(network, weights, but=())


def test_a_picture_network_on_a_volume_that_does_not_change_along_depth(tmp_path: Path) -> None:
    """Away from the ends the inflated network sees in every slice what the picture's saw."""
    config = resnet.Config(layers=18, width=4, channels_in=1, outputs=2)
    flat, deep = resnet.Model(config).eval(), resnet.Model(replace(config, dims=3)).eval()
    weights = {key: value / 10 if value.ndim == 4 else value for key, value in checkpoints.state(flat).items()}
    report = load_weights(deep, checkpoints.save(tmp_path / "flat.pth", weights))
    load_weights(flat, tmp_path / "flat.pth")
    assert report.reshaped["conv1.weight"] == "2-D to 3-D"
    assert "layer2.0.downsample.0.weight" not in report.reshaped  # 1 × 1: nothing to spread
    picture = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    volume = picture[:, :, None].expand(-1, -1, 192, -1, -1)
    with torch.no_grad():
        seen, middle = flat.stages(picture)[1], deep.stages(volume)[1][:, :, 12]
    torch.testing.assert_close(middle, seen, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", FAMILIES, ids=lambda module: module.__name__.rsplit(".")[-1])
def test_every_source_is_complete_and_its_network_can_be_made(module: ModuleType) -> None:
    for source in module.WEIGHTS:
        assert isinstance(source, Source)
        assert re.search(r"doi|arXiv", source.citation)
        assert source.licence
        assert len(source.preprocessing.mean) == len(source.preprocessing.std) == source.config.channels_in
        with torch.device("meta"):
            network = module.Model(source.config)
        assert any(key.startswith(module.HEADS) for key in network.state_dict())
    assert len({source.name for source in module.WEIGHTS}) == len(module.WEIGHTS)


WRONG = {
    "densenet": (resnet, RESNET, densenet, DENSENET, r"0 of 318 matched(.|\n)*look like those of a DenseNet of torchvision"),
    "shallow": (resnet, RESNET, resnet, replace(RESNET, layers=18), r"97 of 318 matched(.|\n)*a ResNet of 18 or 34 layers"),
    "deep": (resnet, RESNET, resnet, replace(RESNET, layers=101), r"318 of 318(.|\n)*306 of 624 that this network has not"),
    "inception": (vit, VIT, inception_v3, INCEPTION, r"0 of 30 matched(.|\n)*Inception-v3"),
    "vit": (densenet, DENSENET, vit, VIT, r"0 of (.|\n)*a vision transformer of timm"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_of_another_network_are_refused_and_named_and_nothing_is_changed(kind: str, tmp_path: Path) -> None:
    module, config, other, its_config, message = WRONG[kind]
    network = module.Model(config)
    path = checkpoints.save(tmp_path / "other.pth", checkpoints.state(other.Model(its_config)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(FormatError, match=message):
        load_weights(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
