"""Hooks: what looks on after every step and may stop a training. Each owns the state it needs to go on after a restart.

>>> EarlyStop("auroc", patience=3).saved()
{'best': None, 'waited': 0}
"""

from __future__ import annotations

import math
import time
from typing import Any

from clinome.train.state import State


class EarlyStop:
    """Stop when the validation metric ``watch`` has not become better by more than ``least`` for ``patience`` validations."""

    name = "early_stop"

    def __init__(self, watch: str, *, patience: int, higher_is_better: bool = True, least: float = 0.0) -> None:
        self.watch, self.patience, self.sign, self.least = watch, patience, 1.0 if higher_is_better else -1.0, least
        self.best: float | None = None
        self.waited = 0

    def after_step(self, state: State, logs: dict[str, float]) -> str | None:
        """Count the validations without a gain."""
        if f"validation.{self.watch}" not in logs:
            return None
        value = self.sign * logs[f"validation.{self.watch}"]
        if math.isfinite(value) and (self.best is None or value > self.best + self.least):
            self.best, self.waited = value, 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        return f"{self.watch} did not become better in {self.patience} validations (step {state.step})"

    def saved(self) -> dict[str, Any]:
        """Return the best value so far and the validations waited."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up :meth:`saved` again."""
        self.best, self.waited = saved["best"], saved["waited"]


class Clock:
    """Add up the processor time of all pieces of a training."""

    name = "clock"

    def __init__(self) -> None:
        self.before, self.start = 0.0, time.process_time()

    def after_step(self, state: State, logs: dict[str, float]) -> str | None:
        """Never stop."""
        return None

    def saved(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"cpu_seconds": self.before + time.process_time() - self.start}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from :meth:`saved`."""
        self.before, self.start = saved["cpu_seconds"], time.process_time()
