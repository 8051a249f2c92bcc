"""What a model file's ``example`` gives back: inputs that the model takes, and a target that its loss takes.

>>> example = supervised_example(2, (1, 8, 8), outputs=3)
>>> example.inputs[0].shape, example.target.shape
(torch.Size([2, 1, 8, 8]), torch.Size([2]))
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Example(NamedTuple):
    """A batch of seeded noise for one model: ``loss(model(*inputs), target)`` is a scalar."""

    inputs: tuple[Tensor, ...]
    target: Any


def supervised_example(batch: int, shape: tuple[int, ...], outputs: int) -> Example:
    """Return normal noise of ``shape`` for each of ``batch`` examples, with classes in 0 … outputs − 1 as target.

    For one output or none the targets are standard normal numbers, shape (batch, 1). The same call gives the same example, and
    torch's own generator is left alone.
    """
    generator = torch.Generator().manual_seed(batch)
    inputs = torch.randn((batch, *shape), generator=generator)
    if outputs > 1:
        return Example((inputs,), torch.randint(outputs, (batch,), generator=generator))
    return Example((inputs,), torch.randn((batch, 1), generator=generator))
