"""Sizes of the published networks, their variants, and what attention pooling adds to them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from clinome.core.errors import SchemaError
from clinome.imaging.models import densenet, inception_v3, resnet, vit


@pytest.mark.parametrize(
    ("module", "config", "published"),
    [
        (vit, vit.Config.base(), 86_567_656),
        (vit, vit.Config.large(), 304_326_632),
        (inception_v3, inception_v3.Config(), 23_834_568),
        (inception_v3, inception_v3.Config(auxiliary=True), 27_161_264),
        (densenet, densenet.Config(blocks=(6, 12, 32, 32)), 14_149_480),  # DenseNet-169
        (densenet, densenet.Config(channels_in=1, outputs=18), 6_966_034),  # TorchXRayVision's
        (resnet, resnet.Config(layers=18, outputs=10, stem="small"), 11_173_962),  # the one for CIFAR-10 that MedMNIST took over
    ],
)
def test_parameters_of_the_published_networks(module: Any, config: Any, published: int) -> None:
    with torch.device("meta"):
        network = module.Model(config)
    assert sum(value.numel() for value in network.parameters()) == published


POOLED = [
    (resnet, resnet.Config(layers=18, width=8, outputs=2)),
    (resnet, resnet.Config(layers=18, width=8, outputs=2, dims=3, channels_in=1, stem="small")),
    (densenet, densenet.Config(blocks=(2, 2), growth=4, width=8, outputs=2)),
    (densenet, densenet.Config(blocks=(2, 2), growth=4, width=8, outputs=2, dims=3, channels_in=1)),
    (inception_v3, inception_v3.Config(width=1 / 16, outputs=2)),
]
IDS = [f"{module.__name__.rsplit('.')[-1]} {getattr(config, 'dims', 2)}-D" for module, config in POOLED]


def made(module: Any, config: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = module.Model(config)
    return network.eval()


@pytest.mark.parametrize(("module", "config"), POOLED, ids=IDS)
def test_attention_pooling_adds_to_the_same_network_and_starts_near_the_average(module: Any, config: Any) -> None:
    plain, looking = made(module, config), made(module, replace(config, pool="attention"))
    inputs = module.example(config, 2).inputs
    missing = looking.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert {re.sub(r"^features\.", "", key) for key in missing.missing_keys} == {
        "pool.look.weight",
        "pool.look.bias",
        "pool.score.weight",
    }
    with torch.no_grad():
        where, even = looking.attention(*inputs), plain.attention(*inputs)
        torch.testing.assert_close(looking.features(*inputs), plain.features(*inputs), rtol=0.1, atol=0.05)
    assert where.shape == even.shape == (2, *plain.maps(*inputs).shape[2:])
    torch.testing.assert_close(where.flatten(1).sum(1), torch.ones(2))
    torch.testing.assert_close(even.flatten(1).sum(1), torch.ones(2))


@pytest.mark.parametrize(("module", "config"), [*POOLED, (vit, vit.Config.tiny())], ids=[*IDS, "vit"])
def test_without_outputs_the_features_come_out(module: Any, config: Any) -> None:
    network = made(module, replace(config, outputs=0))
    inputs = module.example(config, 2).inputs
    with torch.no_grad():
        assert torch.equal(network(*inputs), network.features(*inputs))
    assert network(*inputs).shape == (2, network.n_features)


@pytest.mark.parametrize("kind", ["group", "instance"])
@pytest.mark.parametrize(("module", "config"), POOLED, ids=IDS)
def test_with_other_norms_a_training_network_treats_each_example_alone(module: Any, config: Any, kind: str) -> None:
    network = made(module, replace(config, norm=kind, **({"dropout": 0.0} if module is inception_v3 else {}))).train()
    inputs = module.example(config, 3).inputs[0]
    if kind == "instance":  # one pixel has no spread: nothing is left of it
        inputs = torch.nn.functional.interpolate(inputs, scale_factor=2)
    with torch.no_grad():
        torch.testing.assert_close(network(inputs)[:1], network(inputs[:1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("module", "config"), POOLED[::2], ids=IDS[::2])
def test_with_group_norm_every_example_has_a_gradient_of_its_own(module: Any, config: Any) -> None:
    """Differential privacy clips each of them; their mean is the gradient of the batch."""
    network = made(module, replace(config, norm="group", **({"dropout": 0.0} if module is inception_v3 else {}))).train()
    (inputs,), target = module.example(network.config, 3)
    weights = {name: value.detach() for name, value in network.named_parameters()}

    def one(weights: dict[str, torch.Tensor], row: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = module.loss(torch.func.functional_call(network, weights, (row[None],)), answer[None])
        return value

    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(weights, inputs, target)
    module.loss(network(inputs), target).backward()
    for name, value in network.named_parameters():
        torch.testing.assert_close(each[name].mean(dim=0), value.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("stem", "sides"), [("large", [16, 8, 4, 2]), ("small", [64, 32, 16, 8])])
def test_the_stages_of_a_resnet_halve_the_sides(stem: Any, sides: list[int]) -> None:
    network = made(resnet, resnet.Config(layers=18, width=8, stem=stem))
    stages = network.stages(torch.zeros(1, 3, 64, 64))
    assert [tuple(maps.shape) for maps in stages] == [(1, 8 * 2**i, side, side) for i, side in enumerate(sides)]
    assert torch.equal(network.maps(torch.zeros(1, 3, 64, 64)), stages[-1])


@pytest.mark.parametrize("pool", ["class", "average"])
def test_what_a_vit_looks_at_is_the_attention_it_computes_with(pool: Any) -> None:
    network = made(vit, replace(vit.Config.tiny(), pool=pool))
    tokens = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    attention = network.blocks[0].attn
    with torch.no_grad():
        _, _, value = attention._split(tokens)
        by_hand = attention.proj((attention.weights(tokens) @ value).transpose(1, 2).reshape(tokens.shape))
        torch.testing.assert_close(attention(tokens), by_hand)
        where = network.attention(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    assert where.shape == (2, 4, 4)
    torch.testing.assert_close(where.sum(dim=(1, 2)), torch.ones(2))


def test_a_vit_refuses_pictures_of_another_side_and_patches_that_do_not_fit() -> None:
    with pytest.raises(SchemaError, match=r"64 × 48(.|\n)*32 × 32"):
        made(vit, vit.Config.tiny())(torch.zeros(1, 3, 64, 48))
    with pytest.raises(SchemaError, match="whole patches"):
        vit.Model(replace(vit.Config.tiny(), size=33))


@pytest.mark.parametrize("layers", [18, 50])
def test_a_plain_network_is_the_residual_one_without_its_ways_around(layers: Any) -> None:
    with_, without = (
        made(resnet, resnet.Config(layers=layers, width=8, outputs=2, stem="small", shortcuts=around)) for around in (True, False)
    )
    assert sum(1 for name, _ in with_.named_parameters() if "downsample" in name) > 0
    kept = {name: tuple(value.shape) for name, value in with_.named_parameters() if "downsample" not in name}
    assert {name: tuple(value.shape) for name, value in without.named_parameters()} == kept
    block: Any = without.layer1[1]  # type: ignore[index]
    x = torch.randn(2, block.conv1.in_channels, 6, 6)
    torch.nn.init.zeros_((block.bn2 if layers == 18 else block.bn3).weight)
    assert block.eval()(x).abs().max() == 0  # nothing goes around it
