"""Normalisation layers by name, so that one network can be trained plainly, in small batches, or in private.

``batch`` shares statistics between the examples of a batch and keeps running ones for prediction. ``group`` and ``instance`` look
at one example at a time: per-example gradients exist (differential privacy needs them), and a batch of one or two is enough.

References
----------
Ioffe S, Szegedy C. Batch normalization. ICML (2015), arXiv:1502.03167. Wu Y, He K. Group normalization. ECCV (2018),
doi:10.1007/978-3-030-01261-8_1. Ulyanov D, Vedaldi A, Lempitsky V. Instance normalization (2016), arXiv:1607.08022.

>>> norm("group", 48, 2).num_groups
8
"""

from __future__ import annotations

from math import gcd
from typing import Literal

from torch import nn

from clinome.core.errors import StudyError

Norm = Literal["batch", "group", "instance"]

_BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def norm(kind: Norm, channels: int, dims: int, *, eps: float = 1e-5) -> nn.Module:
    """Return a normalisation layer with a learned scale and shift per channel, for maps of shape (n, channels, …).

    Parameters
    ----------
    kind
        ``batch``, ``group`` (up to 32 groups of two channels or more, so that a map of one pixel does not vanish) or ``instance``.
    channels
        Channels of the maps.
    dims
        1, 2 or 3 axes of space.
    eps
        Added to the variance before it divides.

    Raises
    ------
    StudyError
        For another ``kind`` or another number of axes.
    """
    if dims not in _BATCH:
        raise StudyError("maps have one, two or three axes of space", got=dims)
    if kind == "batch":
        return _BATCH[dims](channels, eps=eps)
    if kind == "instance":
        return _INSTANCE[dims](channels, eps=eps, affine=True)
    if kind == "group":
        return nn.GroupNorm(gcd(32, channels // 2) if channels % 2 == 0 else 1, channels, eps=eps)
    raise StudyError("a network's normalisation is not one of those there are", got=kind, expected="batch, group or instance")
