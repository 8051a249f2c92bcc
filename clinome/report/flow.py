"""The participant flow: how many people entered, who left at which step and why, how many were analysed.

The counts are checked: everybody who entered is either analysed or counted with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clinome.core.errors import SchemaError
from clinome.core.schema import FLOW
from clinome.report.reading import table


@dataclass(frozen=True)
class Step:
    """One step: the people who left, by reason, and those who stayed."""

    stage: str
    reasons: tuple[tuple[str, int], ...]
    dropped: int
    remaining: int


@dataclass(frozen=True)
class Flow:
    """The whole flow, from the people who entered to those analysed."""

    entered: int
    steps: tuple[Step, ...]

    @property
    def losing(self) -> tuple[Step, ...]:
        """The steps at which somebody left; those are drawn."""
        return tuple(step for step in self.steps if step.dropped)

    @property
    def lossless(self) -> tuple[str, ...]:
        """The steps at which nobody left."""
        return tuple(step.stage for step in self.steps if not step.dropped)

    @property
    def analysed(self) -> int:
        """People who are left after the last step."""
        return self.steps[-1].remaining


def flow(folder: Path) -> Flow | None:
    """Read ``flow.parquet`` and see that its sums add up; ``None`` where there is no flow.

    Rows of one stage that follow each other are one step with several reasons; each row's ``remaining`` counts the people
    left after it.

    Raises
    ------
    SchemaError
        When a row's remaining people are not those of the row before less the ones it drops.
    """
    rows = table(folder, "flow.parquet", FLOW)
    if rows is None or rows.is_empty():
        return None
    records = rows.to_dicts()
    entered = left = records[0]["remaining"] + records[0]["dropped"]
    steps: list[Step] = []
    for number, row in enumerate(records, start=1):
        if row["dropped"] < 0 or left - row["dropped"] != row["remaining"]:
            raise SchemaError(
                "the participant flow does not add up",
                where=f"{folder / 'flow.parquet'}, row {number} ({row['stage']}: {row['reason']})",
                got=f"{left} before, {row['dropped']} dropped, {row['remaining']} remaining",
                expected=f"{left - row['dropped']} remaining",
            )
        left = row["remaining"]
        reasons = ((row["reason"], row["dropped"]),) if row["dropped"] else ()
        if steps and steps[-1].stage == row["stage"]:
            before = steps.pop()
            reasons = (*before.reasons, *reasons)
        steps.append(Step(row["stage"], reasons, sum(count for _, count in reasons), left))
    return Flow(entered, tuple(steps))
