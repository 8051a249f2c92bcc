"""Pictures of single examples: typical ones, the worst, the least certain. They show people, and can be left out.

The page numbers them by their rows in ``examples.parquet`` and names nobody.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinome.core.schema import EXAMPLES
from clinome.report.numbers import NOTHING, plain
from clinome.report.reading import table

_TITLES = {
    "worst": (
        "the worst",
        "The examples that are furthest from the truth: look whether the picture, the truth or the network is to blame.",
    ),
    "least certain": ("the least certain", "The examples of which the network is the least certain: look at these first."),
    "typical": ("typical ones", "Neither the best nor the worst."),
}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One example: its row in the table from 1 up, its picture as a data address, and what there is to say."""

    number: int
    source: str
    truth: str | None
    prediction: str | None
    value: str | None


@dataclass(frozen=True)
class Group:
    """The examples of one target that are shown for one reason."""

    target: str
    kind: str
    title: str
    why: str
    measure: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Examples:
    """Every group; or none, and how many pictures are left out; pictures that are not in the folder are counted."""

    groups: tuple[Group, ...]
    left_out: int
    lost: int

    @property
    def shown(self) -> bool:
        """Whether the page holds pictures of people."""
        return bool(self.groups)


def examples(folder: Path, *, pictures: bool = True) -> Examples | None:
    """Read ``examples.parquet`` and the pictures that it names; ``None`` where it is absent or empty.

    Parameters
    ----------
    pictures
        Whether to show them.
    """
    found = table(folder, "examples.parquet", EXAMPLES)
    if found is None or found.is_empty():
        return None
    if not pictures:
        return Examples((), found.height, 0)
    rows = found.with_row_index("number", offset=1)
    order = pl.col("kind").replace_strict(list(_TITLES), range(len(_TITLES)), default=len(_TITLES))
    groups, lost = [], 0
    for (target, kind, measure), some in rows.sort(pl.col("number").min().over("target"), order, "number").group_by(
        "target", "kind", "measure", maintain_order=True
    ):
        made = []
        for row in some.iter_rows(named=True):
            source = _embedded(folder, row["path"])
            if source is None:
                lost += 1
                continue
            value = plain(row["value"])
            made.append(Picture(row["number"], source, row["truth"], row["prediction"], None if value == NOTHING else value))
        if made:
            title, why = _TITLES.get(str(kind), (str(kind), ""))
            groups.append(Group(str(target), str(kind), title, why, str(measure), tuple(made)))
    return Examples(tuple(groups), 0 if groups else found.height, lost)


def _embedded(folder: Path, name: str) -> str | None:
    """Return a PNG file of the folder as a data address; None for a file that is elsewhere, no PNG, or not there."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}" if content.startswith(_PNG) else None
