"""Weights and inputs that any program can be given alike, so that its outputs can be stored and compared with ours.

The numbers depend on names and shapes alone: each tensor is drawn from its own generator, seeded by its key. Normalisation layers
get running statistics and scales that are not 0 and 1, so that nothing cancels.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seeded(key: str, shape: tuple[int, ...], *, low: float, high: float) -> Tensor:
    """Return float32 numbers, uniform in ``low`` … ``high``, that depend on ``key`` and ``shape`` alone."""
    uniform = np.random.default_rng(zlib.crc32(key.encode())).random(math.prod(shape), dtype=np.float32)
    return torch.from_numpy(low + (high - low) * uniform).reshape(shape)


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for every key of ``state``: kernels and matrices scaled to their inputs, the rest near what it usually is."""
    return {key: _one(key, value) for key, value in state.items()}


def _one(key: str, like: Tensor) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros_like(like)
    shape = tuple(like.shape)
    if key.endswith("running_var") or (key.endswith("weight") and like.ndim == 1):
        return seeded(key, shape, low=0.6, high=1.4)
    if like.ndim == 1 or key in ("cls_token", "pos_embed"):
        return seeded(key, shape, low=-0.1, high=0.1)
    reach = math.sqrt(3 / math.prod(shape[1:]))
    return seeded(key, shape, low=-reach, high=reach)


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the bytes of all weights, in the order of their keys."""
    summed = hashlib.sha256()
    for key in sorted(state):
        summed.update(key.encode())
        summed.update(np.ascontiguousarray(state[key].detach().numpy()).tobytes())
    return summed.hexdigest()
