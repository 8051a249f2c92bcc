"""Our networks say what torchvision's, timm's, MONAI's and transformers' say, with the same weights under the same names.

references.json holds the others' outputs and the hashes of their weights; make_references.py made it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit.references import digest, filled, seeded
from torch import Tensor, nn

from clinome.imaging.models import densenet, inception_v3, resnet, vit

STORED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("references.json").read_text())["networks"]
TORCHVISION = {
    "torchvision resnet18": lambda: resnet.Model(resnet.Config(layers=18)),
    "torchvision resnet34": lambda: resnet.Model(resnet.Config(layers=34)),
    "torchvision resnet50": lambda: resnet.Model(resnet.Config(layers=50)),
    "torchvision resnet101": lambda: resnet.Model(resnet.Config(layers=101)),
    "torchvision densenet121": lambda: densenet.Model(densenet.Config()),
    "torchvision inception_v3": lambda: inception_v3.Model(inception_v3.Config(auxiliary=True)),
}
OTHERS = {
    "timm vit_small_patch16_224": lambda: vit.Model(vit.Config()),
    "timm vit_small_patch16_224 average": lambda: vit.Model(vit.Config(pool="average")),
    "monai resnet18 3-D": lambda: resnet.Model(resnet.Config(layers=18, dims=3, channels_in=1, outputs=5)),
    "monai resnet50 3-D": lambda: resnet.Model(resnet.Config(layers=50, dims=3, channels_in=1, outputs=5)),
}


def agrees(said: Tensor, stored: dict[str, Any], within: float = 1e-4) -> None:
    """Compare with the stored numbers: to float32's digits, since another processor may sum in another order."""
    rows, size = said.flatten(1), stored["root mean square"]
    torch.testing.assert_close(rows[:, :8], torch.tensor(stored["first"]), rtol=within, atol=within * size)
    assert float(rows.square().mean().sqrt()) == pytest.approx(size, rel=within)


def with_weights(network: nn.Module, stored: dict[str, Any]) -> nn.Module:
    weights = filled(network.state_dict())
    assert digest(weights) == stored["sha256 of the filled weights"], "names or shapes of the weights differ from the reference's"
    network.load_state_dict(weights)
    return network.eval()


@pytest.mark.parametrize("name", [*TORCHVISION, *OTHERS])
def test_has_the_weights_and_the_outputs_of_the_reference(name: str) -> None:
    stored = STORED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (TORCHVISION | OTHERS)[name]()
    assert sum(value.numel() for value in network.parameters()) == stored["parameters"]
    if name in TORCHVISION:
        assert digest(network.state_dict()) == stored["sha256 of the weights made with seed 0"], "another start than torchvision's"
    network = with_weights(network, stored)
    with torch.no_grad():
        agrees(network(seeded("inputs", tuple(stored["shape"]), low=-2, high=2)), stored["outputs"])


def test_the_auxiliary_head_of_inception_in_training() -> None:
    stored = STORED["torchvision inception_v3"]
    network = with_weights(inception_v3.Model(inception_v3.Config(auxiliary=True)), stored).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _, auxiliary = network(seeded("inputs", tuple(stored["shape"]), low=-2, high=2))
    # Its batch norm is of two numbers a channel, which stretches rounding: in float64 outputs are 2e-4 from the stored float32.
    agrees(auxiliary, stored["auxiliary outputs in training"], within=5e-4)


def test_a_vision_transformer_of_transformers() -> None:
    stored = STORED["transformers ViTModel"]
    network = vit.Model(vit.Config(size=64, outputs=0, width=64, layers=3, heads=4)).eval()
    theirs = filled(under_their_names(network.state_dict()))
    assert digest(theirs) == stored["sha256 of the filled weights"]
    ours = {key: torch.cat([theirs[name] for name in names]) for key, names in names_of_theirs(network.state_dict()).items()}
    network.load_state_dict(ours)
    with torch.no_grad():
        agrees(network.tokens(seeded("inputs", tuple(stored["shape"]), low=-2, high=2)), stored["outputs"])


THEIR_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks.": "layers.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
}


def names_of_theirs(state: dict[str, Tensor]) -> dict[str, list[str]]:
    """Return, for each of our weights, transformers' weights that make it: one, or query, key and value."""
    renamed = {}
    for key in state:
        name = "layer" + key if key.startswith("norm.") else key
        for ours, theirs in THEIR_NAMES.items():
            name = name.replace(ours, theirs)
        renamed[key] = [name.replace("attn.qkv", f"attention.{one}_proj") for one in "qkv"] if "qkv" in name else [name]
    return renamed


def under_their_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}
    for key, names in names_of_theirs(state).items():
        parts |= dict(zip(names, state[key].chunk(len(names)), strict=True))
    return parts
