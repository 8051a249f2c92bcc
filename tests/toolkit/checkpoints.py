"""Files of weights as other programs write them, around small networks of ours: names of the keys, and what lies beside them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def state(network: nn.Module, seed: int = 1) -> State:
    """Return weights for a network that differ from its own: seeded noise, in the order of its keys."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) + 0.1 if value.is_floating_point() else value.clone()
        for key, value in network.state_dict().items()
    }


def as_a_list(weights: State, parts: list[str]) -> State:
    """Name weights as RadImageNet does: ``backbone.4.0.conv1.weight`` for the network's fifth part; what is no part is left."""
    return {
        f"backbone.{parts.index(part)}.{rest}": value
        for key, value in weights.items()
        for part, rest in [key.split(".", 1)]
        if part in parts
    }


def as_masked_autoencoder(weights: State, width: int) -> dict[str, object]:
    """Return what RETFound's file holds: encoder and decoder under ``model``, the optimiser, and a Namespace of settings."""
    encoder = {re.sub(r"^fc_norm\.", "norm.", key): value for key, value in weights.items() if not key.startswith("head.")}
    decoder = {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_pos_embed": torch.zeros(1, 17, 16),
        "decoder_embed.weight": torch.zeros(16, width),
        "decoder_blocks.0.attn.qkv.weight": torch.zeros(48, 16),
        "decoder_norm.weight": torch.zeros(16),
        "decoder_pred.weight": torch.zeros(192, 16),
    }
    return {
        "model": encoder | decoder,
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 799,
        "args": argparse.Namespace(batch_size=64, model="mae_vit_large_patch16"),
    }


def as_torchvision_transformer(weights: State) -> State:
    """Name a ViT's weights as torchvision does."""
    rules = {
        r"^blocks\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
        r"\.norm([12])\.": r".ln_\1.",
        r"\.attn\.proj\.": ".self_attention.out_proj.",
        r"\.attn\.qkv\.": ".self_attention.in_proj_",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.3.",
        r"^cls_token$": "class_token",
        r"^pos_embed$": "encoder.pos_embedding",
        r"^patch_embed\.proj\.": "conv_proj.",
        r"^norm\.": "encoder.ln.",
        r"^head\.": "heads.head.",
    }
    named = {}
    for key, value in weights.items():
        for pattern, name in rules.items():
            key = re.sub(pattern, name, key)
        named[key] = value
    return named


def save(path: Path, content: object) -> Path:
    """Write a pickle, as ``torch.save`` does, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
