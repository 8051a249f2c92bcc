"""Muon: momentum whose matrices are made orthogonal before each step, so that rare directions move as far as frequent ones.

The momentum of a weight, seen as a matrix (outputs, inputs × kernel), usually has a few large singular values; most directions
would hardly move. Five Newton–Schulz iterations bring all singular values near 1. Vectors (norms, biases) and weights with few
inputs or outputs (the first layer, the heads) take Adam's step.

References
----------
Jordan K, Jin Y, Boza V, You J, Cesista F, Newhouse L, Bernstein J. Muon: an optimizer for hidden layers in neural networks (2024),
kellerjordan.github.io/posts/muon. Liu J et al. Muon is scalable for LLM training (2025), arXiv:2502.16982 (weight decay).
Kingma DP, Ba J. Adam. ICLR (2015), arXiv:1412.6980.

>>> diagonal = orthogonalised(torch.diag(torch.tensor([100.0, 20.0, 4.0]))).diagonal()
>>> bool(((diagonal > 0.6) & (diagonal < 1.25)).all())
True
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration's odd polynomial, chosen for its slope at 0 (Jordan 2024)
_LEAST = 8  # inputs and outputs of a weight that is treated as a matrix


def orthogonalised(matrix: Tensor, *, iterations: int = 5) -> Tensor:
    """Return the matrix of the same singular vectors whose singular values are all near 1 (0.7–1.2, unless they are tiny).

    ``matrix`` has the shape (rows, columns); computed in float32.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: Tensor = x.T if tall else x
    return result


class Muon(Optimizer):
    """Muon for the matrices among ``parameters``, Adam for the others.

    Parameters
    ----------
    parameters
        Of a network.
    lr
        Of matrices: the spectral norm of one step.
    lr_others
        Of the others: Adam's.
    momentum
        Nesterov's, of matrices.
    weight_decay
        Of matrices, times ``lr`` a step.
    betas
        Of Adam.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float = 0.02,
        lr_others: float = 3e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        every = list(parameters)
        matrices = [p for p in every if is_matrix(p)]
        others = [p for p in every if not is_matrix(p)]
        groups = [{"params": matrices, "lr": lr, "matrices": True}, {"params": others, "lr": lr_others, "matrices": False}]
        defaults = {"momentum": momentum, "weight_decay": weight_decay, "betas": betas}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step along the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self._matrix if group["matrices"] else self._adam)(parameter, group)

    def _matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalised(ahead.flatten(1)).view_as(parameter), alpha=-group["lr"])

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state |= {"steps": 0, "first": torch.zeros_like(parameter), "second": torch.zeros_like(parameter)}
        state["steps"] += 1
        for name, value, beta in zip(("first", "second"), (gradient, gradient.square()), group["betas"], strict=True):
            state[name].lerp_(value, 1 - beta)
        first, second = (
            state[name] / (1 - beta ** state["steps"]) for name, beta in zip(("first", "second"), group["betas"], strict=True)
        )
        parameter.sub_(group["lr"] * first / (second.sqrt() + 1e-8))


def is_matrix(parameter: Tensor) -> bool:
    """Tell whether a parameter is a weight with at least eight outputs and inputs (of a convolution: (outputs, inputs, …))."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) >= _LEAST
