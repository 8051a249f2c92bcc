"""What groups of people the examples of a task fall in: sex, age, site … from whatever table of the task has it."""

from __future__ import annotations

import polars as pl

from clinome.core.progress import say
from clinome.core.schema import TARGETS
from clinome.formats.table import read_checked, read_table
from clinome.imaging.judging import GROUPS
from clinome.studies.task_file import Task


def with_groups(examples: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Add the columns of :data:`clinome.imaging.judging.GROUPS` that ``examples`` lack and the tables of targets or people hold.

    A table counts when it has image_id or participant_id; nothing that is known is replaced. A column of which somebody has several
    values makes no groups, which is said.
    """
    targets, people = task.images.targets, task.split.participants
    tables = [] if targets is None else [(targets, read_checked(targets, TARGETS))]
    tables += [] if people is None else [(people, read_table(people).frame)]
    for path, table in tables:
        key = next((name for name in ("image_id", "participant_id") if name in table.columns), None)
        names = [name for name in GROUPS if name in table.columns and name not in examples.columns]
        if key is None:
            continue
        for name in names:
            known = table.select(pl.col(key).cast(pl.String), name).drop_nulls().unique(maintain_order=True)
            if known[key].is_duplicated().any():
                say(f"no groups are made of {name!r}: {path} has several values of one {key}")
                continue
            on = "example_id" if key == "image_id" else key
            examples = examples.join(known.rename({key: on}), on=on, how="left", maintain_order="left")
    return examples
