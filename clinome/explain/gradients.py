"""Integrated gradients and SmoothGrad: how much each pixel, voxel or number contributes to an output.

Integrated gradients (Sundararajan 2017) average the gradient along the straight line from a baseline to the input and multiply
it by the way; they add up to the difference of the outputs, and that is checked here before anything is returned. The average
is a midpoint rule whose number of steps is tripled (every earlier point is one of the new points, so no gradient is wasted)
for those examples that do not add up yet. SmoothGrad (Smilkov 2017) averages plain gradients over noisy copies of the input.

References
----------
Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. ICML (2017), arXiv:1703.01365.
Smilkov D, Thorat N, Kim B, Viégas F, Wattenberg M. SmoothGrad: removing noise by adding noise (2017), arXiv:1706.03825.

>>> model = torch.nn.Linear(3, 1, bias=False)
>>> x = torch.tensor([[1.0, 2.0, 3.0]])
>>> bool(torch.allclose(integrated_gradients(model, x).values, model.weight * x))
True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from clinome.explain.asking import Target, answers, batches, borrowed, device_of, gradient, moved, rows_of
from clinome.explain.baselines import Baseline, constant
from clinome.explain.completeness import Completeness, add_up, allowance, require


class Attributions(NamedTuple):
    """Integrated gradients.

    Attributes
    ----------
    values
        Shape of the inputs; an example's values add up to ``completeness.explained``.
    completeness
        The check of that.
    steps
        Points on the way from each baseline that an example took, int64, shape (n,).
    """

    values: Tensor
    completeness: Completeness
    steps: Tensor


def integrated_gradients(
    model: nn.Module,
    inputs: Tensor,
    *,
    target: Target = None,
    baseline: Baseline | None = None,
    others: tuple[Tensor, ...] = (),
    tolerance: float = 0.01,
    steps: int = 9,
    max_steps: int = 2187,
    when_missed: Literal["raise", "mark"] = "raise",
    batch_size: int = 32,
) -> Attributions:
    """Attribute outputs to ``inputs``, shape (n, …), float.

    Parameters
    ----------
    target
        Which number of the output is explained (:data:`clinome.explain.asking.Target`).
    baseline
        Where the way starts (:mod:`clinome.explain.baselines`); None is zero everywhere. With several baselines of an input the
        attributions are averaged.
    others
        Further inputs (n, …), held fixed.
    tolerance
        By what share of the explained difference the sum may miss it (:func:`clinome.explain.completeness.add_up`).
    steps, max_steps
        Steps at first, tripled for examples that do not add up while there are at most ``max_steps`` and it helps.
    when_missed
        'raise', or 'mark': return what there is, with ``completeness.holds`` False for the examples that do not add up.
    batch_size
        Points (examples × steps) that go through the model at once. Besides them, memory holds one sum of gradients in float64
        for each example and baseline of ``batch_size`` examples, and the result.

    Raises
    ------
    NotConverged
        When examples do not add up after ``max_steps``: the model jumps on the way (with an instance norm at a flat baseline, whose
        spread is zero), or its gradient is cut off inside.
    ValueError
        For inputs that are not floating point, or a target that does not fit the output.
    """
    starts = [start.expand_as(inputs) for start in (baseline or constant(0.0))(inputs)]
    ends = answers(model, inputs, target=target, others=others, batch_size=batch_size).cpu()
    begins = torch.stack([answers(model, s, target=target, others=others, batch_size=batch_size).cpu() for s in starts])
    explained, scale = ends - begins.mean(dim=0), ends.abs() + begins.abs().mean(dim=0)
    home, values, taken = device_of(model, inputs), torch.empty_like(inputs), torch.zeros(len(inputs), dtype=torch.int64)

    def slopes(points: Tensor, rows: Tensor) -> Tensor:
        more = moved(others, rows, home)
        return gradient(model, points.to(home), target=rows_of(target, rows), others=more).cpu()

    with borrowed(model):
        for rows in batches(len(inputs), batch_size):
            here = rows.to(inputs.device)
            total = torch.zeros(inputs[here].shape, dtype=torch.float64)
            for start, begin in zip(starts, begins, strict=True):
                claim = _Claim(ends[rows] - begin[rows], scale[rows], 0.9 * tolerance)
                way = _Way(start[here].cpu(), inputs[here].cpu(), rows, claim)
                part, needed = _along(slopes, way, steps=steps, max_steps=max_steps, batch_size=batch_size)
                total += part / len(starts)
                taken[rows] = torch.maximum(taken[rows], needed)
            values[here] = total.to(inputs)
    result = add_up(values.cpu(), explained=explained, scale=scale, tolerance=tolerance)
    if when_missed == "raise":
        require(
            result,
            do=f"take another baseline, raise max_steps above {max_steps}, or look for steps without a gradient in the model",
        )
    return Attributions(values, result, taken)


class _Claim(NamedTuple):
    """What attributions of m examples must add up to (:func:`clinome.explain.completeness.allowance`)."""

    explained: Tensor
    scale: Tensor
    tolerance: float

    def missed(self, attributions: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much the examples ``left`` miss it and what they may, (len(left),); ``attributions`` are theirs."""
        flat, explained = attributions.flatten(1), self.explained[left]
        size = flat.abs().sum(dim=1)
        allowed = allowance(explained, size=size, tolerance=self.tolerance, scale=self.scale[left])
        return (flat.sum(dim=1) - explained).abs(), allowed


class _Way(NamedTuple):
    """Straight lines from ``start`` to ``end``, shape (m, …); their ``rows`` among all examples; what they must add up to."""

    start: Tensor
    end: Tensor
    rows: Tensor
    claim: _Claim


def _along(
    slopes: Callable[[Tensor, Tensor], Tensor], way: _Way, *, steps: int, max_steps: int, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Integrate along every way until it adds up; return attributions, float64, shape (m, …), and the steps taken, (m,).

    A way that misses by ten times what it may, and by hardly less than with a ninth of the steps, is given up: the model jumps.
    """
    apart = (way.end - way.start).double()
    total, needed = torch.zeros_like(apart), torch.full((len(apart),), steps)
    left, new = torch.arange(len(apart)), (torch.arange(steps) + 0.5) / steps
    before = torch.full((2, len(apart)), torch.inf, dtype=torch.float64)  # misses with a third and a ninth of the steps
    while True:
        for pair in batches(len(left) * len(new), batch_size):
            which, share = left[pair // len(new)], new[pair % len(new)].to(way.end).reshape(-1, *[1] * (apart.ndim - 1))
            points = way.start[which] + share * (way.end[which] - way.start[which])
            total.index_add_(0, which, slopes(points, way.rows[which]).double())
        missed, allowed = way.claim.missed(total[left] * apart[left] / needed[left].reshape(-1, *[1] * (apart.ndim - 1)), left)
        jumps = (missed > 10 * allowed) & (missed > 0.9 * before[:, left].amax(dim=0))
        before[:, left] = torch.stack([missed, before[0, left]])
        left = left[~(missed <= allowed) & ~jumps]
        if not len(left) or 3 * int(needed[left[0]]) > max_steps:
            return total * apart / needed.reshape(-1, *[1] * (apart.ndim - 1)), needed
        needed[left] *= 3
        count = int(needed[left[0]])
        new = ((torch.arange(count) + 0.5) / count)[torch.arange(count) % 3 != 1]  # every third point is an old one


def smoothgrad(
    model: nn.Module,
    inputs: Tensor,
    *,
    generator: torch.Generator,
    target: Target = None,
    others: tuple[Tensor, ...] = (),
    noise: float = 0.15,
    samples: int = 25,
    squared: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Average the gradient over noisy copies of each input, shape of ``inputs``; these values do not add up to anything.

    Parameters
    ----------
    generator
        Of the noise, on the CPU; draws go example by example, so that ``batch_size`` does not matter.
    noise
        Standard deviation of the noise as a share of an example's largest less its smallest value.
    samples
        Noisy copies of an example.
    squared
        Average squared gradients instead: how much, not which way (Hooker 2019, arXiv:1806.10758).
    """
    home, result = device_of(model, inputs), torch.zeros_like(inputs)
    with borrowed(model):
        for row in range(len(inputs)):
            one, mine = inputs[row].cpu(), torch.tensor([row])
            spread = noise * (one.max() - one.min())
            total = torch.zeros(one.shape, dtype=torch.float64)
            for count in batches(samples, batch_size):
                draws = torch.stack([torch.randn(one.shape, generator=generator, dtype=one.dtype) for _ in count])
                repeated = mine.expand(len(count))
                more = moved(others, repeated, home)
                slope = gradient(model, (one + spread * draws).to(home), target=rows_of(target, repeated), others=more).cpu()
                total += (slope.double() ** 2 if squared else slope.double()).sum(dim=0)
            result[row] = (total / samples).to(inputs)
    return result
