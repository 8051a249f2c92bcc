"""Attention shown as attention: where a network with attention looked, which is not how much that contributed.

Weights of a soft attention pool (Poplin 2018) or of the heads of a transformer are read off while the model runs. They say how
information was mixed, not what was made of it: different attention can give the same output (Jain & Wallace 2019), so these
maps are never called attributions here and completeness is not asked of them. For that question use
:mod:`clinome.explain.gradients`.

Attention is caught from every module that can say its own weights: one with a method ``weights`` (as
:class:`clinome.nn.soft_attention.SoftAttention`, or a transformer's self-attention) that takes what ``forward`` takes, and
``torch.nn.MultiheadAttention``.

References
----------
Poplin R et al. Prediction of cardiovascular risk factors from retinal fundus photographs via deep learning. Nature Biomedical
Engineering 2:158–164 (2018), doi:10.1038/s41551-018-0195-0.
Abnar S, Zuidema W. Quantifying attention flow in transformers. ACL (2020), doi:10.18653/v1/2020.acl-main.385.
Jain S, Wallace BC. Attention is not explanation. NAACL (2019), doi:10.18653/v1/N19-1357.

>>> from clinome.nn.soft_attention import SoftAttention
>>> model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), SoftAttention(16))
>>> soft_attention(model, torch.rand(2, 1, 8, 8)).shape
torch.Size([2, 8, 8])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.explain.asking import batches, borrowed, device_of, moved

_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")  # of MultiheadAttention, as it orders them
_STRAIGHT = {1: "linear", 2: "bilinear", 3: "trilinear"}


def soft_attention(
    model: nn.Module,
    inputs: Tensor,
    *,
    layer: str | None = None,
    others: tuple[Tensor, ...] = (),
    spread: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Return the weights of a soft attention pool over the places of its maps, shape (n, *cells), each example summing to one.

    Parameters
    ----------
    layer
        Name of the pooling module; None is the one that there is.
    spread
        Interpolate to the size of ``inputs``, shape (n, channels, *spatial), and let each example sum to one again.

    Raises
    ------
    ValueError
        When there is no such module, or several and none was named.
    """
    found = _speaking(model, layer)
    if len(found) != 1:
        raise ValueError(f"{len(found)} modules say attention weights ({', '.join(found) or 'none'}); name one with layer=")
    maps = torch.cat([weights[0].to(inputs.device) for weights in _caught(model, inputs, found, others, batch_size)])
    if maps.ndim != inputs.ndim - 1:
        raise ValueError(f"module {next(iter(found))!r} says weights of shape {tuple(maps.shape)}: for a transformer use rollout")
    return _spread(maps, inputs) if spread else maps


def rollout(
    model: nn.Module,
    inputs: Tensor,
    *,
    grid: tuple[int, ...],
    prefix: int = 1,
    pool: Literal["class", "average"] = "class",
    heads: Literal["mean", "max", "min"] = "mean",
    others: tuple[Tensor, ...] = (),
    spread: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Follow attention through all layers of a transformer (Abnar & Zuidema 2020): (n, *grid), each example summing to one.

    Parameters
    ----------
    grid
        Patches along each spatial axis, in the order in which tokens are laid out.
    prefix
        Tokens before the patches.
    pool
        What the model predicts from: 'class', its first token, whose row is shown; or 'average', that of the patches.
    heads
        How the heads of a layer are merged.
    spread
        As in :func:`soft_attention`.

    Raises
    ------
    ValueError
        When no module says its attention between tokens, or their number is not ``prefix`` plus the grid's.
    """
    found, maps = _speaking(model, None), []
    for layers in _caught(model, inputs, found, others, batch_size):
        between = [weights for weights in layers if weights.ndim == 4 and weights.shape[2] == weights.shape[3]]
        if not between:
            raise ValueError("no module of this model says its attention between tokens, (n, heads, tokens, tokens)")
        through = flow(between, heads=heads)
        cells = int(torch.tensor(grid).prod())
        if through.shape[1] != prefix + cells:
            raise ValueError(f"{through.shape[1]} tokens are not {prefix} and a grid of {grid} patches")
        row = through[:, 0] if pool == "class" else through[:, prefix:].mean(dim=1)
        patches = row[:, prefix:]
        maps.append((patches / patches.sum(dim=1, keepdim=True)).reshape(-1, *grid).to(inputs.device))
    shown = torch.cat(maps)
    return _spread(shown, inputs) if spread else shown


def flow(layers: list[Tensor], *, heads: Literal["mean", "max", "min"] = "mean") -> Tensor:
    """Multiply the attention of layers, each (n, heads, tokens, tokens), first layer first: (n, tokens, tokens).

    Each layer is averaged with the identity, for the residual connection, and its rows are scaled to sum to one.

    >>> flow([torch.full((1, 2, 3, 3), 1 / 3)]).sum(dim=2).shape
    torch.Size([1, 3])
    """
    through: Tensor | None = None
    for weights in layers:
        merged = {"mean": weights.mean(dim=1), "max": weights.amax(dim=1), "min": weights.amin(dim=1)}[heads].double()
        merged = (merged / merged.sum(dim=2, keepdim=True) + torch.eye(merged.shape[1], device=merged.device)) / 2
        through = merged if through is None else merged @ through
    if through is None:
        raise ValueError("there are no layers of attention to follow")
    return through


def _speaking(model: nn.Module, layer: str | None) -> dict[str, nn.Module]:
    """Return the modules that can say their attention weights, by name."""
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise ValueError(f"the model has no module {layer!r}; it has {', '.join(n for n in modules if n)}")
    found = {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.MultiheadAttention) or callable(getattr(module, "weights", None))
    }
    return found if layer is None else {name: module for name, module in found.items() if name == layer}


def _caught(
    model: nn.Module, inputs: Tensor, modules: dict[str, nn.Module], others: tuple[Tensor, ...], batch_size: int
) -> Iterator[list[Tensor]]:
    """Run the model on batches; give the weights of ``modules`` in the order in which they ran."""
    home = device_of(model, inputs)
    for rows in batches(len(inputs), batch_size):
        with borrowed(model), torch.no_grad(), _listening(modules) as said:
            model(inputs[rows.to(inputs.device)].to(home), *moved(others, rows, home))
        yield said


@contextmanager
def _listening(modules: dict[str, nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what modules say of their weights while the block runs."""
    said: list[Tensor] = []

    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if isinstance(module, nn.MultiheadAttention):
            given = {**dict(zip(_ARGUMENTS, arguments, strict=False)), **keywords}
            _, weights = module.forward(**{**given, "need_weights": True, "average_attn_weights": False})
            assert weights is not None  # they were asked for
            said.append(weights)
        else:
            said.append(module.weights(*arguments, **keywords))

    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules.values()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer would run past its own attention module
    try:
        yield said
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def _spread(maps: Tensor, inputs: Tensor) -> Tensor:
    """Interpolate maps (n, *cells) to the size of ``inputs``, summing to one."""
    wide = F.interpolate(maps[:, None].float(), size=inputs.shape[2:], mode=_STRAIGHT[inputs.ndim - 2], align_corners=False)[:, 0]
    return wide / wide.flatten(1).sum(dim=1).reshape(-1, *[1] * (wide.ndim - 1))
