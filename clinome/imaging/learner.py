"""The network that is trained to make an encoder: the encoder with what teaches it on top. See :mod:`clinome.imaging.learning`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.imaging.learning import Targets, Training
from clinome.imaging.models import igwas
from clinome.imaging.networks import encoder, preprocessing
from clinome.nn.losses import cos_face, nt_xent

_PROJECTION = 64  # width of what the contrastive loss sees (Chen et al. 2020, section 4.2: the features before it are used)


class Learner(nn.Module):
    """An encoder, which stays, and the heads that teach it: a projection, a direction a person, targets.

    Parameters
    ----------
    size
        Side of the pictures in pixels.
    n_people
        Identities to tell apart.
    """

    def __init__(self, settings: Training, *, size: int, n_people: int, targets: Targets | None) -> None:
        super().__init__()
        self.settings, self.preprocessing = settings, preprocessing(settings.network)
        if settings.objective == "identity" and settings.network in ("small", "inception_v3"):
            backbone: Any = settings.network  # one of the two
            self.encoder: nn.Module = igwas.Model(igwas.Config(backbone, dimensions=settings.embedding, size=size))
        else:
            self.encoder = encoder(settings.network, size=size)
        width = int(self.encoder.n_features)  # type: ignore[arg-type]
        if settings.objective == "simclr":
            self.projection = nn.Sequential(nn.Linear(width, 4 * _PROJECTION), nn.ReLU(), nn.Linear(4 * _PROJECTION, _PROJECTION))
        if settings.objective == "identity":
            self.identities = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_people, width)))
        count = 0 if targets is None else targets.numbers.shape[1]
        self.numbers = nn.Linear(width, count) if count else None
        self.classes = nn.ModuleList(nn.Linear(width, levels) for levels in (targets.levels if targets is not None else ()))

    @property
    def backbone(self) -> nn.Module:
        """The published network inside the encoder, which weights of other programs fit."""
        found: nn.Module = getattr(self.encoder, "backbone", self.encoder)
        return found

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return features (n, n_features) and what each head makes of them."""
        scaled = pictures if self.preprocessing is None else self.preprocessing.apply(pictures)
        features = self.encoder.features(scaled)  # type: ignore[operator]
        found = {"features": features}
        if self.settings.objective == "simclr":
            found["projection"] = self.projection(features)
        if self.numbers is not None:
            found["numbers"] = self.numbers(features)
        found |= {f"class {k}": head(features) for k, head in enumerate(self.classes)}
        return found

    def objective(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch of :mod:`clinome.imaging.learning`; ``model`` is this learner, as the loop runs it."""
        settings = self.settings
        if settings.objective == "simclr":
            pictures = batch["pictures"]
            found = model(pictures.flatten(0, 1))
            groups = torch.arange(len(pictures), device=pictures.device).repeat_interleave(2)
            return nt_xent(found["projection"], groups, temperature=settings.temperature), {}
        found = model(batch["pictures"])
        parts: dict[str, Tensor] = {}
        if settings.objective == "identity":
            margin, scale = settings.margin, settings.scale
            parts["identity"] = cos_face(found["features"], self.identities, batch["who"], scale=scale, margin=margin)
        if self.numbers is not None or len(self.classes):
            parts["targets"] = self._of_targets(found, batch)
        weight = settings.target_weight if settings.objective == "identity" else 1.0
        total = sum(part * (weight if name == "targets" else 1.0) for name, part in parts.items())
        assert isinstance(total, torch.Tensor)
        return total, {name: part.item() for name, part in parts.items()}

    def _of_targets(self, found: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Return the mean squared error of known numbers plus the cross entropy of each category where it is known."""
        total, weight = found["features"].new_zeros(()), batch["weight"][0]
        known = torch.isfinite(batch["numbers"])
        if self.numbers is not None and known.any():
            missed = (found["numbers"] - torch.nan_to_num(batch["numbers"])) ** 2
            total = total + weight[0] * missed[known].mean()
        for k in range(batch["classes"].shape[1]):
            if (batch["classes"][:, k] >= 0).any():
                missed = F.cross_entropy(found[f"class {k}"], batch["classes"][:, k], ignore_index=-1)
                total = total + weight[k + 1] * missed
        return total
