"""Occlusion: how much the output falls when a part of the input is covered.

A window (Zeiler & Fergus 2014) is slid over the picture or scan and filled with what the baseline has there; or a structure is
covered whole, which answers the clinical question ('does the score rest on the optic disc?') more directly than a map of
pixels. A fall is a difference of two outputs of the model, so it needs no gradient, and it does not add up: parts that stand in
for each other each seem to matter little.

References
----------
Zeiler MD, Fergus R. Visualizing and understanding convolutional networks. ECCV (2014), doi:10.1007/978-3-319-10590-1_53.

>>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
>>> bool(torch.equal(occlusion(torch.nn.Flatten(), x, window=1, target=lambda out: out.sum(1))[0], x[0, 0]))
True
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from clinome.explain.asking import Target, answers, batches, borrowed, device_of, moved, rows_of, scores
from clinome.explain.baselines import Baseline, constant


def occlusion(
    model: nn.Module,
    inputs: Tensor,
    *,
    window: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    target: Target = None,
    baseline: Baseline | None = None,
    others: tuple[Tensor, ...] = (),
    batch_size: int = 32,
) -> Tensor:
    """Cover each window of ``inputs``, shape (n, channels, *spatial), in all channels; return maps (n, *spatial).

    Parameters
    ----------
    window, stride
        Pixels along each spatial axis, or one number for all; a stride of None is the window (no overlap). The last window along
        an axis is moved in to end at the edge.
    baseline
        What a covered window is filled with (:mod:`clinome.explain.baselines`, averaged over several); None is zero.

    Returns
    -------
    The fall of the output when a pixel is covered, averaged over the windows that cover it, in the unit of the output; NaN for
    pixels that no window covers (a stride above the window).

    Raises
    ------
    ValueError
        For a window larger than the input, or a target that does not fit the output.
    """
    space = inputs.shape[2:]
    sides, steps = _each(window, space, "window"), _each(stride or window, space, "stride")
    if any(side > length for side, length in zip(sides, space, strict=True)):
        raise ValueError(f"a window of {sides} does not fit into inputs of {tuple(space)}")
    corners = list(product(*[_starts(length, side, step) for length, side, step in zip(space, sides, steps, strict=True)]))
    boxes = [tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True)) for corner in corners]

    def mask(k: int) -> Tensor:
        covered = torch.zeros(space, dtype=torch.bool)
        covered[boxes[k]] = True
        return covered.expand(1, *space)

    falls = _falls(model, inputs, mask, len(boxes), target, baseline or constant(0.0), others, batch_size)
    total, count = torch.zeros(len(inputs), *space, dtype=torch.float64), torch.zeros(space)
    for k, box in enumerate(boxes):
        total[(slice(None), *box)] += falls[:, k].reshape(-1, *[1] * len(space))
        count[box] += 1
    return (total / torch.where(count > 0, count, torch.nan)).to(inputs)


def occlude_regions(
    model: nn.Module,
    inputs: Tensor,
    regions: Tensor,
    *,
    target: Target = None,
    baseline: Baseline | None = None,
    others: tuple[Tensor, ...] = (),
    batch_size: int = 32,
) -> Tensor:
    """Cover each structure whole; return the falls of the output, shape (n, largest label), NaN where it is absent.

    ``regions`` holds labels 0 (nothing) … k, integers, shape (n, *spatial) or (*spatial) for all examples alike.
    """
    labels = regions if regions.ndim == inputs.ndim - 1 else regions[None]
    if labels.shape[1:] != inputs.shape[2:] or len(labels) not in (1, len(inputs)):
        raise ValueError(f"regions must be (n, *spatial) or (*spatial) of inputs {tuple(inputs.shape)}, got {tuple(regions.shape)}")
    count = int(labels.max())
    falls = _falls(model, inputs, lambda k: labels.cpu() == k + 1, count, target, baseline or constant(0.0), others, batch_size)
    there = torch.stack([(labels == k + 1).flatten(1).any(dim=1) for k in range(count)], dim=1).cpu()
    return torch.where(there.expand_as(falls), falls, torch.nan).to(inputs)


def _falls(
    model: nn.Module,
    inputs: Tensor,
    mask: Callable[[int], Tensor],
    count: int,
    target: Target,
    baseline: Baseline,
    others: tuple[Tensor, ...],
    batch_size: int,
) -> Tensor:
    """Return how far the output falls for each of ``count`` masks (1 or n, *spatial), float64 on the CPU, shape (n, count)."""
    home = device_of(model, inputs)
    whole = answers(model, inputs, target=target, others=others, batch_size=batch_size).cpu()
    starts = baseline(inputs)
    falls = torch.zeros(len(inputs), count, dtype=torch.float64)
    with borrowed(model), torch.no_grad():
        for start in starts:
            fill = start.expand_as(inputs)
            for pairs in batches(len(inputs) * count, batch_size):
                rows, which = pairs // count, pairs % count
                here = rows.to(inputs.device)
                masks = [mask(int(k)) for k in which]
                covered = torch.stack([m[int(row) if len(m) > 1 else 0] for m, row in zip(masks, rows, strict=True)])
                hidden = torch.where(covered[:, None].to(inputs.device), fill[here], inputs[here]).to(home)
                score = scores(model, hidden, target=rows_of(target, rows), others=moved(others, rows, home))
                falls[rows, which] += (whole[rows] - score.double().cpu()) / len(starts)
    return falls


def _starts(length: int, side: int, step: int) -> list[int]:
    """Return where windows of ``side`` start along an axis of ``length``; the last ends at the edge."""
    starts = list(range(0, length - side + 1, step))
    return starts if starts[-1] == length - side else [*starts, length - side]


def _each(value: int | tuple[int, ...], space: torch.Size, name: str) -> tuple[int, ...]:
    """Give one number for every spatial axis."""
    each = (value,) * len(space) if isinstance(value, int) else tuple(value)
    if len(each) != len(space) or min(each) < 1:
        raise ValueError(f"{name} must hold one positive number, or one for each of {len(space)} axes; got {value}")
    return each
