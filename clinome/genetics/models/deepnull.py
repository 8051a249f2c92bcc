"""DeepNull's network: a trait from covariates, as a multilayer perceptron beside a linear path.

The linear path keeps what a linear model knows; the perceptron adds curves and interactions. Genotypes never enter.

    covariates (n, n_covariates) ─┬─ 64 ─ 64 ─ 32 ─ 16 ─ 1 ─┐
                                  └───────── linear ────────┴─ sum → prediction (n,)

Weights start as in the published code (Glorot's uniform, biases 0). Inputs are standardised by the caller.

Reference
---------
McCaw ZR, Colthurst T, Yun T, et al. DeepNull models non-linear covariate effects to improve phenotypic prediction and
association power. Nat Commun 13, 241 (2022), doi:10.1038/s41467-021-27930-0.

>>> config = Config.tiny()
>>> Model(config)(*example(config, 3).inputs).shape
torch.Size([3])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.nn.example import Example


@dataclass(frozen=True)
class Config:
    """How many covariates come in, and the widths of the perceptron's hidden layers."""

    n_covariates: int = 3
    widths: tuple[int, ...] = (64, 64, 32, 16)

    @classmethod
    def tiny(cls) -> Config:
        """Return the smallest network that still has every part, for tests."""
        return cls(n_covariates=3, widths=(16, 8))


def example(config: Config, batch: int = 2) -> Example:
    """Return ``batch`` people's standardised covariates and traits: seeded noise, shapes (batch, n_covariates) and (batch,)."""
    generator = torch.Generator().manual_seed(batch)
    covariates = torch.randn((batch, config.n_covariates), generator=generator)
    return Example((covariates,), torch.randn(batch, generator=generator))


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of predicted traits (n,)."""
    return F.mse_loss(output, target)


class Model(nn.Module):
    """The perceptron and the linear path; see the module's drawing for shapes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.n_covariates
        for width in config.widths:
            layers += [nn.Linear(before, width), nn.ReLU()]
            before = width
        self.perceptron = nn.Sequential(*layers, nn.Linear(before, 1))
        self.linear = nn.Linear(config.n_covariates, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def at_zero(self) -> Model:
        """Set both output layers to zero, so that training starts from predicting 0, and return the network."""
        for layer in (self.perceptron[-1], self.linear):
            for values in layer.parameters():
                nn.init.zeros_(values)
        return self

    def forward(self, covariates: Tensor) -> Tensor:
        """Return the predicted trait: (n, n_covariates) to (n,)."""
        predicted: Tensor = self.perceptron(covariates) + self.linear(covariates)
        return predicted.squeeze(-1)
