"""The images behind a result: how many were read, set aside and why, without a target, in which split; and what leaked.

Identifiers and dates stay in the tables: ``leakage.parquet`` and ``set_aside.parquet`` name the images, the page counts them. It
does not tell how many of a class there are in a split where they are fewer than ten people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinome.core.schema import COUNTS, LEAKAGE, SET_ASIDE
from clinome.report.numbers import FEW, NOTHING, parts_of_a_whole, plain, whole
from clinome.report.reading import json_object, table

_DATE = re.compile(r" \([^()]*\)$")  # at the end of what is said of time: of a single examination
_ORDER = {"leak": 0, "warning": 1, "information": 2, "not checked": 3, "clean": 4}


@dataclass(frozen=True)
class Images:
    """How many images were used (None: not known), those set aside by reason, and the table of splits."""

    used: int | None
    aside: tuple[tuple[str, int], ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def left(self) -> int:
        """How many were set aside."""
        return sum(count for _, count in self.aside)


@dataclass(frozen=True)
class Check:
    """A row of the leakage report."""

    name: str
    severity: str
    splits: str
    n: str
    note: str
    allowed: bool


@dataclass(frozen=True)
class Leaks:
    """Every check, what was allowed by name, and the warnings that follow."""

    checks: tuple[Check, ...]
    allowed: tuple[str, ...]
    warnings: tuple[str, ...]


def images(folder: Path) -> Images | None:
    """Read ``set_aside.parquet`` and ``counts.parquet``; ``None`` where both are absent or empty."""
    aside = table(folder, "set_aside.parquet", SET_ASIDE)
    counts = table(folder, "counts.parquet", COUNTS)
    reasons: list[tuple[str, int]] = []
    if aside is not None:
        reasons = aside.group_by("what").len().sort("len", "what", descending=[True, False]).rows()
    counts = None if counts is None or counts.is_empty() else counts
    if not reasons and counts is None:
        return None
    used = None if counts is None else int(counts.filter(pl.col("target").is_null())["n"].sum())
    heads, rows = ((), ()) if counts is None else _by_split(counts)
    return Images(used, tuple(reasons), heads, rows)


def _by_split(counts: pl.DataFrame) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return a column a split, and a row for all examples, for people, and for each class or number."""
    splits = counts["split"].unique(maintain_order=True).to_list()
    every = counts.filter(pl.col("target").is_null())
    rows: list[tuple[str, ...]] = []
    for name, column in (("examples", "n"), ("people", "people")):
        found = dict(every.select("split", column).rows())
        rows.append((name, *(whole(found.get(split)) for split in splits)))
    cells: dict[tuple[str, str | None], dict[str, str]] = {}
    for (target, split), some in counts.drop_nulls("target").group_by("target", "split", maintain_order=True):
        said = parts_of_a_whole(some.select("n", "people").rows())
        for row, count in zip(some.iter_rows(named=True), said, strict=True):
            told = row["mean"] is not None and row["people"] >= FEW
            spread = f"; {plain(row['mean'])} ± {plain(row['deviation'])}" if told else ""
            cells.setdefault((str(target), row["class"]), {})[str(split)] = f"{count}{spread}"
    for (name, of_class), found in cells.items():
        label = f"{name}: {of_class}" if of_class is not None else f"{name} (known; mean ± deviation)"
        rows.append((label, *(found.get(split, NOTHING) for split in splits)))
    return tuple(split.replace("_", " ") for split in splits), tuple(rows)


def leaks(folder: Path) -> Leaks | None:
    """Read ``leakage.parquet``, and what was allowed from ``summary.json``; ``None`` where there is no report."""
    found = table(folder, "leakage.parquet", LEAKAGE)
    if found is None or found.is_empty():
        return None
    allowed = tuple(str(name) for name in json_object(folder, "summary.json").get("allowed") or ())
    checks = [
        Check(
            row["check"].replace("_", " "),
            row["severity"],
            row["splits"].replace("_", " "),
            whole(row["n"]),
            _DATE.sub("", row["note"]) if row["check"] == "time" else row["note"],
            row["severity"] == "leak" and row["check"] in allowed,
        )
        for row in sorted(found.iter_rows(named=True), key=lambda row: _ORDER.get(row["severity"], 5))
    ]
    warnings = [
        f"The split leaks ({one.name}: {one.n} in {one.splits}){' and this was allowed by name' if one.allowed else ''}: "
        "results may flatter."
        for one in checks
        if one.severity == "leak"
    ]
    return Leaks(tuple(checks), allowed, tuple(warnings))
