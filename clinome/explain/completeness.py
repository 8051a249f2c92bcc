"""Do attributions add up? Their sum must be what they claim to explain: f(input) − f(baseline).

The check is the axiom of completeness (Sundararajan 2017, proposition 1) turned into a test that fails loudly. It catches too
few steps, a model in the wrong mode, a gradient that is cut off inside the model (``detach``, ``argmax``, rounding), and maps
that were normalised and then taken for attributions. Saliency, SmoothGrad, Grad-CAM, occlusion and attention do not claim
completeness; asked of them, the check says by how much they miss.

References
----------
Sundararajan M, Taly A, Yan Q. Axiomatic attribution for deep networks. ICML (2017), arXiv:1703.01365.

>>> add_up(torch.tensor([[1.0, 2.0]]), explained=torch.tensor([3.0])).holds.tolist()
[True]
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinome.core.errors import NotConverged
from clinome.explain.asking import Target, answers
from clinome.explain.baselines import Baseline


class Completeness(NamedTuple):
    """How well attributions add up; every tensor has shape (n,), float64 (``holds`` bool).

    Attributes
    ----------
    explained
        f(input) − f(baseline), averaged over baselines.
    total
        The sum of the attributions.
    allowed
        How far the two may be apart.
    holds
        Whether they are not further apart than that; never for numbers that are not finite.
    """

    explained: Tensor
    total: Tensor
    allowed: Tensor
    holds: Tensor


def add_up(attributions: Tensor, *, explained: Tensor, tolerance: float = 0.01, scale: Tensor | None = None) -> Completeness:
    """Compare the sum of each example's attributions, shape (n, …), with ``explained``, shape (n,).

    They may differ by :func:`allowance`. ``scale`` (n,) is the size of the outputs themselves.
    """
    explained = explained.double()
    flat = attributions.double().flatten(1) if attributions.ndim > 1 else attributions.double()[:, None]
    total = flat.sum(dim=1)
    allowed = allowance(explained, size=flat.abs().sum(dim=1), tolerance=tolerance, scale=scale)
    return Completeness(explained, total, allowed, (total - explained).abs() <= allowed)


def allowance(explained: Tensor, *, size: Tensor, tolerance: float, scale: Tensor | None = None) -> Tensor:
    """Return how far sums of attributions may be from the ``explained`` differences, float64, shape (n,).

    That is ``tolerance`` times the difference and a hundredth of ``scale`` (the outputs: between nearly equal ones there is next to
    nothing to explain), or times a tenth of ``size``, the sum of the attributions' sizes, if that is more: where what speaks for
    and what speaks against nearly cancel, the sum is small and says little of how exact its parts are.
    """
    floor = torch.zeros_like(explained) if scale is None else scale.double()
    return tolerance * torch.maximum(explained.abs() + 0.01 * floor, 0.1 * size.to(explained)) + 1e-12


def check(
    model: nn.Module,
    inputs: Tensor,
    attributions: Tensor,
    *,
    baseline: Baseline,
    target: Target = None,
    others: tuple[Tensor, ...] = (),
    tolerance: float = 0.01,
    batch_size: int = 32,
) -> Completeness:
    """Ask ``model`` for the outputs that ``attributions`` (shape of ``inputs``) claim to explain, and compare.

    Raises
    ------
    NotConverged
        When an example's attributions do not add up; the message names the worst.
    """
    output = answers(model, inputs, target=target, others=others, batch_size=batch_size)
    started, starts = torch.zeros_like(output), baseline(inputs)
    size = output.abs()
    for start in starts:
        from_here = answers(model, start.expand_as(inputs), target=target, others=others, batch_size=batch_size)
        started += from_here / len(starts)
        size += from_here.abs() / len(starts)
    result = add_up(attributions, explained=output - started, tolerance=tolerance, scale=size)
    require(result)
    return result


def require(result: Completeness, *, do: str = "these are not attributions that add up; do not read them as shares") -> None:
    """Raise NotConverged, naming the worst example, unless attributions of all examples add up."""
    if bool(result.holds.all()):
        return
    miss = (result.total - result.explained).abs() / result.allowed
    worst = int(torch.where(result.holds, -1.0, miss.nan_to_num(torch.inf)).argmax())
    raise NotConverged(
        "the attributions do not add up to the difference that they explain",
        where=f"example {worst}; {int((~result.holds).sum())} of {len(result.holds)} examples miss",
        got=f"a sum of {float(result.total[worst]):.6g}",
        expected=f"{float(result.explained[worst]):.6g} ± {float(result.allowed[worst]):.2g}",
        do=do,
    )
