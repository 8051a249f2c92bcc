"""Vision transformers (small at the defaults; ``Config.large()`` is ViT-L/16), in the layout of timm and of masked autoencoders.

    pictures (n, channels_in, size, size) → patches → tokens (n, 1 + places, width) → blocks → tokens → pool → features → head

Each block is attention among the tokens and a perceptron on each, both beside a way around (layer normalisation first). Features
are the class token after the last normalisation, or with ``pool="average"`` the normalised average of the others, as masked
autoencoders and RETFound are fine-tuned. Nothing looks at the batch, so differential privacy needs no change.

References
----------
Dosovitskiy A et al. An image is worth 16×16 words. ICLR (2021), arXiv:2010.11929. Touvron H et al. ICML (2021), arXiv:2012.12877
(the small one). He K et al. Masked autoencoders are scalable vision learners. CVPR (2022), doi:10.1109/CVPR52688.2022.01553.
Zhou Y et al. A foundation model for generalizable disease detection from retinal images. Nature 622, 156–163 (2023),
doi:10.1038/s41586-023-06555-x (RETFound).

>>> config = Config.tiny()
>>> model, (inputs, target) = Model(config).eval(), example(config, 2)
>>> model(*inputs).shape, model.features(*inputs).shape
(torch.Size([2, 3]), torch.Size([2, 32]))
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.core.errors import SchemaError
from clinome.nn.example import Example, supervised_example
from clinome.nn.losses import supervised
from clinome.nn.weight_keys import Layout
from clinome.nn.weights import IMAGENET, TORCHVISION, Source


@dataclass(frozen=True)
class Config:
    """Side of the pictures and of a patch, width, depth and heads; ``outputs=0`` leaves the head away."""

    size: int = 224
    patch: int = 16
    channels_in: int = 3
    outputs: int = 1000
    width: int = 384
    layers: int = 12
    heads: int = 6
    pool: Literal["class", "average"] = "class"

    @classmethod
    def base(cls, *, pool: Literal["class", "average"] = "class") -> Config:
        """Return ViT-B/16."""
        return cls(width=768, layers=12, heads=12, pool=pool)

    @classmethod
    def large(cls, *, pool: Literal["class", "average"] = "class") -> Config:
        """Return ViT-L/16."""
        return cls(width=1024, layers=24, heads=16, pool=pool)

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(size=32, patch=8, outputs=3, width=32, layers=2, heads=4)


_AUTOENCODER = Layout("masked autoencoder", leave=("decoder_", "mask_token"))
_IN_BLOCK = {"ln_1": "norm1", "ln_2": "norm2", "self_attention.out_proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
_TORCHVISION = Layout(
    "torchvision",
    (
        ("^class_token$", "cls_token"),
        ("^encoder.pos_embedding$", "pos_embed"),
        ("^conv_proj.", "patch_embed.proj."),
        ("^encoder.ln.", "norm."),
        ("^heads.head.", "head."),
        (r"^encoder.layers.encoder_layer_(\d+).self_attention.in_proj_", r"blocks.\1.attn.qkv."),
        *(
            (rf"^encoder.layers.encoder_layer_(\d+).{re.escape(theirs)}.", rf"blocks.\1.{ours}.")
            for theirs, ours in _IN_BLOCK.items()
        ),
    ),
)

HEADS = ("head.",)
WEIGHTS = (
    *(
        Source(
            f"torchvision/vit_{letter}_16",
            config,
            (f"vit_{letter}_16-*.pth",),
            IMAGENET,
            TORCHVISION,
            "Dosovitskiy A et al. ICLR (2021), arXiv:2010.11929",
            layout=_TORCHVISION,
            named_by_hash=True,
        )
        for letter, config in (("b", Config.base()), ("l", Config.large()))
    ),
    *(
        Source(
            f"retfound/{kind}",
            Config.large(pool="average"),
            files,
            IMAGENET,
            "CC BY-NC 4.0, on request from its authors",
            "Zhou Y et al. Nature 622, 156–163 (2023), doi:10.1038/s41586-023-06555-x",
            layout=_AUTOENCODER,
            hub=hub,
        )
        for kind, hub, files in (
            ("cfp", "YukunZhou/RETFound_mae_natureCFP", ("RETFound_cfp_weights.pth", "RETFound_mae_natureCFP.pth")),
            ("oct", "YukunZhou/RETFound_mae_natureOCT", ("RETFound_oct_weights.pth", "RETFound_mae_natureOCT.pth")),
        )
    ),
    *(
        Source(
            f"mae/vit_{name}",
            config,
            (f"mae_pretrain_vit_{name}.pth",),
            IMAGENET,
            "CC BY-NC 4.0",
            "He K et al. CVPR (2022), doi:10.1109/CVPR52688.2022.01553",
            layout=_AUTOENCODER,
        )
        for name, config in (("base", Config.base(pool="average")), ("large", Config.large(pool="average")))
    ),
)


def example(config: Config, batch: int = 2) -> Example:
    """Return seeded noise of shape (batch, channels_in, size, size) and a target that fits."""
    return supervised_example(batch, (config.channels_in, config.size, config.size), config.outputs)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of classes, or the mean squared error of numbers."""
    return supervised(output, target)


class Attention(nn.Module):
    """Attention of every token to every token, in several heads: (n, tokens, width) to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (n, heads, tokens, width / heads)."""
        n, count, width = tokens.shape
        query, key, value = self.qkv(tokens).reshape(n, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return query, key, value

    def weights(self, tokens: Tensor) -> Tensor:
        """Return how much each token attends to each: (n, heads, tokens, tokens), rows summing to one."""
        query, key, _ = self._split(tokens)
        scores: Tensor = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return scores.float().softmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what each token gathers."""
        mixed = F.scaled_dot_product_attention(*self._split(tokens))
        gathered: Tensor = self.proj(mixed.transpose(1, 2).reshape(tokens.shape))
        return gathered


class Perceptron(nn.Module):
    """Four times as wide inside: (n, tokens, width) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return each token's new content."""
        found: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return found


class Block(nn.Module):
    """Attention, then a perceptron, both beside a way around: (n, tokens, width) to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens after both."""
        tokens = tokens + self.attn(self.norm1(tokens))
        after: Tensor = tokens + self.mlp(self.norm2(tokens))
        return after


class Patches(nn.Module):
    """Squares of ``patch`` pixels to tokens: (n, channels_in, size, size) to (n, places, width), row by row."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels_in, config.width, config.patch, stride=config.patch)

    def forward(self, x: Tensor) -> Tensor:
        """Return a token for each square."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class Model(nn.Module):
    """Patches, blocks, pooling and head; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.size % config.patch or config.width % config.heads:
            raise SchemaError(
                "a ViT's picture is cut into whole patches and its width into whole heads",
                got=f"size {config.size} and patch {config.patch}, width {config.width} and heads {config.heads}",
            )
        self.config = config
        self.n_features = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (config.size // config.patch) ** 2, config.width))
        self.patch_embed = Patches(config)
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width, eps=1e-6) if config.pool == "class" else nn.Identity()
        self.fc_norm = nn.LayerNorm(config.width, eps=1e-6) if config.pool == "average" else nn.Identity()
        self.head = nn.Linear(config.width, config.outputs) if config.outputs else nn.Identity()
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def _start(self, x: Tensor) -> Tensor:
        """Return the tokens that enter the first block."""
        if x.shape[2:] != (self.config.size, self.config.size):
            raise SchemaError(
                "a picture is not of the side this ViT was made for",
                got=" × ".join(map(str, x.shape[2:])),
                expected=f"{self.config.size} × {self.config.size}",
                do="resize the pictures, or make the network with another Config.size (load_weights fits the positions to it)",
            )
        return torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1) + self.pos_embed

    def tokens(self, x: Tensor) -> Tensor:
        """Return all tokens after the last block, the class token first: (n, 1 + places, width)."""
        tokens: Tensor = self.norm(self.blocks(self._start(x)))
        return tokens

    def attention(self, x: Tensor) -> Tensor:
        """Return how much the class token looks at each place in the last block: (n, rows, columns), summing to one.

        The mean over heads. With average pooling, in which the class token plays no part, the mean over all places' attention.
        """
        tokens, last = self.blocks[:-1](self._start(x)), self.blocks[-1]
        assert isinstance(last, Block)
        weights = last.attn.weights(last.norm1(tokens)).mean(dim=1)
        looked = (weights[:, 0] if self.config.pool == "class" else weights[:, 1:].mean(dim=1))[:, 1:]
        side = self.config.size // self.config.patch
        return (looked / looked.sum(dim=1, keepdim=True)).reshape(-1, side, side)

    def features(self, x: Tensor) -> Tensor:
        """Return the vector before the head: (n, channels_in, size, size) to (n, n_features)."""
        tokens = self.tokens(x)
        pooled: Tensor = self.fc_norm(tokens[:, 0] if self.config.pool == "class" else tokens[:, 1:].mean(dim=1))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores or numbers: (n, channels_in, size, size) to (n, outputs); the features where there is no head."""
        predicted: Tensor = self.head(self.features(x))
        return predicted
