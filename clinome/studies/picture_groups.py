"""What groups of people the examples of a task fall in: sex, age, site … from whatever table of the task has it."""

from __future__ import annotations

import polars as pl

from clinome.core.schema import TARGETS
from clinome.formats.table import read_checked, read_table
from clinome.imaging.judging import GROUPS
from clinome.studies.task_file import Task


def with_groups(examples: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Add the columns of :data:`clinome.imaging.judging.GROUPS` that ``examples`` lack and the tables of targets or people hold.

    A table counts when it has image_id or participant_id, and no such key twice; nothing that is known is replaced.
    """
    targets, people = task.images.targets, task.split.participants
    tables = [] if targets is None else [read_checked(targets, TARGETS)]
    tables += [] if people is None else [read_table(people).frame]
    for table in tables:
        key = next((name for name in ("image_id", "participant_id") if name in table.columns), None)
        names = [name for name in GROUPS if name in table.columns and name not in examples.columns]
        if key is None or not names:
            continue
        known = table.select(pl.col(key).cast(pl.String), *names).drop_nulls(key)
        if known[key].is_duplicated().any():
            continue
        on = "example_id" if key == "image_id" else key
        examples = examples.join(known.rename({key: on}), on=on, how="left", maintain_order="left")
    return examples
