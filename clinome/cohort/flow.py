"""The participant flow: who was dropped at each step and why, so that the counts always add up.

>>> flow = Flow.start(["a", "b", "c"], stage="genotypes", reason="read")
>>> flow = flow.drop("relatedness", "related to somebody kept", ["b", "nobody"])
>>> flow.ids
('a', 'c')
>>> flow.table().select("stage", "dropped", "remaining").rows()
[('genotypes', 0, 3), ('relatedness', 1, 2)]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from clinome.core.errors import CohortError
from clinome.core.schema import EXCLUSIONS, FLOW, check


@dataclass(frozen=True)
class Step:
    """One step: its stage, the reason, and the people who left."""

    stage: str
    reason: str
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Flow:
    """The people who remain, in their first order, and the steps so far. Never changed: every step gives a new one."""

    ids: tuple[str, ...]
    steps: tuple[Step, ...]

    @classmethod
    def start(cls, ids: Iterable[str], *, stage: str = "start", reason: str = "everybody") -> Flow:
        """Begin with ``ids``.

        Raises
        ------
        CohortError
            When a person is named twice.
        """
        people = tuple(ids)
        if len(set(people)) < len(people):
            raise CohortError("the participant flow begins with people named more than once")
        return cls(people, (Step(stage, reason, ()),))

    def drop(self, stage: str, reason: str, ids: Iterable[str]) -> Flow:
        """Drop ``ids``; those who have left before or were never there do not count again."""
        leaving = set(ids)
        dropped = tuple(person for person in self.ids if person in leaving)
        remaining = tuple(person for person in self.ids if person not in leaving)
        return Flow(remaining, (*self.steps, Step(stage, reason, dropped)))

    def keep_only(self, stage: str, reason: str, ids: Iterable[str]) -> Flow:
        """Drop everybody who is not in ``ids``; ``reason`` says why they leave."""
        staying = set(ids)
        return self.drop(stage, reason, [person for person in self.ids if person not in staying])

    def require(self, at_least: int = 1) -> Flow:
        """Return the flow when enough people remain, or say where they were lost.

        Raises
        ------
        CohortError
            When fewer than ``at_least`` people remain.
        """
        if len(self.ids) >= at_least:
            return self
        worst = max(self.steps, key=lambda step: len(step.dropped))
        lost = "; ".join(f"{step.stage}: {len(step.dropped)} ({step.reason})" for step in self.steps if step.dropped)
        raise CohortError(
            "nobody is left to analyse" if not self.ids else "too few people are left to analyse",
            got=f"{len(self.ids)} people; dropped at {lost or 'no step'}",
            expected=f"at least {at_least}",
            do=f"look at {worst.stage!r} first, where most were lost" if worst.dropped else None,
        )

    def table(self) -> pl.DataFrame:
        """Return the flow as ``core.schema.FLOW``: one row a step, dropped and remaining people."""
        remaining = len(self.ids) + sum(len(step.dropped) for step in self.steps)
        rows = []
        for step in self.steps:
            remaining -= len(step.dropped)
            rows.append((step.stage, step.reason, len(step.dropped), remaining))
        return check(_frame(rows, ["stage", "reason", "dropped", "remaining"]), FLOW)

    def exclusions(self) -> pl.DataFrame:
        """Return who left where and why as ``core.schema.EXCLUSIONS``: one row a person."""
        rows = [(person, step.stage, step.reason) for step in self.steps for person in step.dropped]
        return check(_frame(rows, ["participant_id", "stage", "reason"]), EXCLUSIONS)


def _frame(rows: Sequence[tuple[str | int, ...]], names: list[str]) -> pl.DataFrame:
    text = {"stage", "reason", "participant_id"}
    return pl.DataFrame(rows, schema={name: pl.String if name in text else pl.Int64 for name in names}, orient="row")
