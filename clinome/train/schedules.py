"""Learning-rate schedules: functions from the step to the share of the peak learning rate. They keep no state.

>>> schedule = warm_cosine(100, warm=0.1)
>>> [round(schedule(step), 2) for step in (0, 5, 10, 55, 100)]
[0.1, 0.55, 1.0, 0.5, 0.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Return the schedule that stays at the peak."""
    return lambda step: 1.0


def warm_cosine(total: int, *, warm: float = 0.05, start: float = 0.1, end: float = 0.0) -> Schedule:
    """Return a straight rise from ``start`` to 1 over the first ``warm`` of ``total`` steps, then half a cosine to ``end``.

    References
    ----------
    Loshchilov I, Hutter F. SGDR: stochastic gradient descent with warm restarts. ICLR (2017), equation 5, arXiv:1608.03983.
    """

    def share(step: int) -> float:
        done = min(step / max(total, 1), 1.0)
        if done < warm:
            return start + (1 - start) * done / warm
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))

    return share


def polynomial(total: int, *, power: float = 0.9) -> Schedule:
    """Return (1 − step / total) ^ power, as nnU-Net trains (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z)."""
    return lambda step: float(max(1 - step / max(total, 1), 0.0) ** power)


def steps_down(at: Sequence[int], *, factor: float = 0.1) -> Schedule:
    """Return 1, multiplied by ``factor`` at each of the steps ``at``."""
    return lambda step: float(factor ** sum(step >= one for one in at))
