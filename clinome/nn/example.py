"""What a model file's ``example`` gives back: inputs that the model takes, and a target that its loss takes.

>>> import torch
>>> example = Example((torch.zeros(2, 3),), torch.tensor([0, 1]))
>>> len(example.inputs), example.target.shape
(1, torch.Size([2]))
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Example(NamedTuple):
    """A batch of seeded noise for one model: ``loss(model(*inputs), target)`` is a scalar."""

    inputs: tuple[Tensor, ...]
    target: Any
