"""Every table that passes between rooms: its columns, their types and units, one sentence each.

A table is a Polars frame in memory and Parquet on disk. Rooms hand tables to each other, never objects. ``check`` is
called where a table enters a room. A new table is written into the file of its subject and nowhere else: what is written there
can be imported from here and stands in ``TABLES``.

>>> import polars as pl
>>> check(pl.DataFrame({"participant_id": ["a"], "split": ["train"]}), SPLITS).shape
(1, 2)
"""

from __future__ import annotations

from clinome.core.schema import evaluation, genetics, images, people
from clinome.core.schema.evaluation import *  # noqa: F403 - one place to add a table
from clinome.core.schema.genetics import *  # noqa: F403
from clinome.core.schema.images import *  # noqa: F403
from clinome.core.schema.people import *  # noqa: F403
from clinome.core.schema.table import Column as Column
from clinome.core.schema.table import Table as Table
from clinome.core.schema.table import check as check

TABLES: tuple[Table, ...] = tuple(
    one for subject in (people, images, evaluation, genetics) for one in vars(subject).values() if isinstance(one, Table)
)
