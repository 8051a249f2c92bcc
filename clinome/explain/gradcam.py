"""Grad-CAM: where a convolution's features that speak for an output are found (Selvaraju 2017).

The channels of a layer are weighted by the average gradient of the output with respect to them and summed; what is negative
speaks against and is cut off by default. The map has the layer's resolution, a few cells a side in a deep layer, and is spread
over the picture by straight interpolation: its edges are those of cells, not of anatomy.

References
----------
Selvaraju RR et al. Grad-CAM: visual explanations from deep networks via gradient-based localization. ICCV (2017), equations 1–2,
doi:10.1109/ICCV.2017.74.

>>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
>>> grad_cam(model, torch.rand(3, 1, 8, 8), target=1).shape
torch.Size([3, 8, 8])
>>> last_convolution(model, torch.rand(1, 1, 8, 8))
'0'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.explain.asking import Target, batches, borrowed, device_of, moved, rows_of, scores

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_STRAIGHT = {1: "linear", 2: "bilinear", 3: "trilinear"}


def last_convolution(model: nn.Module, inputs: Tensor, *, others: tuple[Tensor, ...] = ()) -> str:
    """Return the name of the last convolution that runs on ``inputs`` and still has a picture (more than one place) to show.

    The order is that of running, which need not be that of definition. One example is run.

    Raises
    ------
    ValueError
        When there is none.
    """
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: ran.append(name) if output[0, 0].numel() > 1 else None

    handles = [m.register_forward_hook(note(name)) for name, m in model.named_modules() if isinstance(m, _CONVOLUTIONS)]
    home = device_of(model, inputs)
    try:
        with borrowed(model), torch.no_grad():
            model(inputs[:1].to(home), *(other[:1].to(home) for other in others))
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise ValueError("no convolution with a picture to show runs in this model; name a layer with layer=")
    return ran[-1]


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    *,
    target: Target = None,
    layer: str | None = None,
    others: tuple[Tensor, ...] = (),
    signed: bool = False,
    spread: bool = True,
    batch_size: int = 32,
) -> Tensor:
    """Return a map for each example of ``inputs``, shape (n, channels, *spatial).

    Parameters
    ----------
    layer
        Name of the module (as in ``model.named_modules()``) whose output (n, features, *cells) is shown; None is
        :func:`last_convolution`. Of a module that runs several times the last run is shown.
    signed
        Keep what speaks against the output as negative values.
    spread
        Interpolate to the inputs' size; else the map keeps the layer's.

    Returns
    -------
    Shape (n, *spatial), or (n, *cells); the unit is that of the output times a feature's, only the pattern is meant.

    Raises
    ------
    ValueError
        For a layer that is not there, does not run, has no cells, or does not bear on the target.
    """
    name = last_convolution(model, inputs, others=others) if layer is None else layer
    modules = dict(model.named_modules())
    if name not in modules:
        raise ValueError(f"the model has no module {name!r}; it has {', '.join(n for n in modules if n)}")
    home, maps = device_of(model, inputs), []
    with borrowed(model):
        for rows in batches(len(inputs), batch_size):
            x = inputs[rows.to(inputs.device)].detach().to(home)
            more = moved(others, rows, home)
            features, slope = _features_and_slope(model, modules[name], name, x, rows_of(target, rows), more)
            shown = (slope.flatten(2).mean(dim=2)[(...,) + (None,) * (features.ndim - 2)] * features).sum(dim=1)
            shown = shown if signed else shown.clamp(min=0)
            if spread:
                mode = _STRAIGHT[inputs.ndim - 2]
                shown = F.interpolate(shown[:, None], size=inputs.shape[2:], mode=mode, align_corners=False)[:, 0]
            maps.append(shown.to(inputs.device))
    return torch.cat(maps)


def _features_and_slope(
    model: nn.Module, module: nn.Module, name: str, inputs: Tensor, target: Target, others: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return a module's output and the gradient of the target with respect to it, both (n, features, *cells)."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim != inputs.ndim or output[0, 0].numel() < 2:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"module {name!r} gives no map (n, features, *cells) with {inputs.ndim - 2} spatial axes, but {shape}")
        caught.append(output)
        return output.clone()  # what follows may work in place

    handle = module.register_forward_hook(catch)
    try:
        with torch.enable_grad():
            score = scores(model, inputs.clone().requires_grad_(True), target=target, others=others)
            if not caught:
                raise ValueError(f"module {name!r} does not run when the model is asked")
            slope = torch.autograd.grad(score.sum(), caught[-1], allow_unused=True)[0] if score.requires_grad else None
    finally:
        handle.remove()
    if slope is None:
        raise ValueError(f"the target does not depend on module {name!r}")
    return caught[-1].detach(), slope
