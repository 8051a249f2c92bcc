"""Do predictions mean what they say, and for whom: reliability curves, and the measures in groups of people.

Only what was measured at the training is drawn; groups of fewer than ten people are named there and not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinome.core.schema import METRICS, RELIABILITY
from clinome.report.drawing import Axis, Chart, axis
from clinome.report.numbers import decimals
from clinome.report.reading import table
from clinome.report.results import Estimate, in_words

_SAID = {
    "calibration_slope": "slope (1: as extreme as they should be; below: too extreme)",
    "calibration_in_the_large": "in the large (0: right on average; above: too low)",
    "ece": "expected calibration error (never 0 by chance alone)",
}


@dataclass(frozen=True)
class Curve:
    """A reliability curve: whose, what it is in numbers, and drawn."""

    name: str
    of_number: bool
    facts: tuple[tuple[str, str], ...]
    chart: str
    examples: int


@dataclass(frozen=True)
class Reliability:
    """Every curve."""

    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Group:
    """A group of people: its size (None: too small to show), and the measures in it."""

    name: str
    people: int | None
    cells: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class Groups:
    """A target's measures in groups, and the largest gaps in words."""

    target: str
    measures: tuple[str, ...]
    groups: tuple[Group, ...]
    gaps: tuple[str, ...]


def reliability(folder: Path) -> Reliability | None:
    """Read ``reliability.parquet`` and what ``metrics.parquet`` says of calibration; ``None`` where there is no curve."""
    bins = table(folder, "reliability.parquet", RELIABILITY)
    if bins is None or bins.is_empty():
        return None
    metrics = table(folder, "metrics.parquet", METRICS)
    curves = []
    for (target, of_class), rows in bins.group_by("target", "class", maintain_order=True):
        name = str(target) if of_class is None else f"{target}: {of_class}"
        facts = () if metrics is None or "target" not in metrics.columns else _facts(metrics, str(target))
        curves.append(Curve(name, of_class is None, facts, _drawn(rows, name, of_class is None), int(rows["n"].sum())))
    return Reliability(tuple(curves))


def _facts(metrics: pl.DataFrame, target: str) -> tuple[tuple[str, str], ...]:
    own = metrics.filter((pl.col("target") == target) & pl.col("name").is_in(list(_SAID)) & (pl.col("subgroup") == "all"))
    return tuple((_SAID[row["name"]], _estimate(row).words()) for row in own.iter_rows(named=True))


def _estimate(row: dict[str, Any]) -> Estimate:
    return Estimate(row["value"], row["lower"], row["upper"], row["interval"])


def _drawn(rows: pl.DataFrame, name: str, of_number: bool) -> str:
    """Draw what was true against what was predicted, with the line on which both are alike."""
    ends = [*rows["predicted"], *rows["observed"], *rows["lower"], *rows["upper"]]
    shown = axis(ends) if of_number else Axis(0.0, 1.0)
    words = ("predicted, mean of the bin", "true, mean of the bin") if of_number else ("predicted probability", "share that was so")
    chart = Chart(
        shown._replace(title=words[0]), shown._replace(title=words[1]), label=f"Reliability of {name}", width=380, height=340
    )
    chart.line([(shown.low, shown.low), (shown.high, shown.high)], "even")
    for row in rows.iter_rows(named=True):
        chart.whisker(row["predicted"], row["lower"], row["upper"], "s0 faint")
    chart.line(list(zip(rows["predicted"], rows["observed"], strict=True)), "s0")
    for row in rows.iter_rows(named=True):
        title = f"predicted {decimals(row['predicted'], 3)}, true {decimals(row['observed'], 3)}, {row['n']:,} examples"
        chart.dot(row["predicted"], row["observed"], "s0", title=title)
    return chart.svg()


def groups(folder: Path) -> tuple[Groups, ...]:
    """Read ``subgroups.parquet``: one table a target; none where it is absent or empty."""
    found = table(folder, "subgroups.parquet", METRICS)
    if found is None or found.is_empty():
        return ()
    return tuple(_groups(str(target), rows) for (target,), rows in found.group_by("target", maintain_order=True))


def _groups(target: str, rows: pl.DataFrame) -> Groups:
    own = rows.filter(~pl.col("name").str.starts_with("gap:"))
    measures = own["name"].unique(maintain_order=True).to_list()
    cells = {(row["name"], row["subgroup"]): _estimate(row) for row in own.iter_rows(named=True)}
    people = dict(own.select("subgroup", "n").rows())
    made = [
        Group(_group_name(name), people[name], tuple(cells.get((measure, name)) for measure in measures))
        for name in own["subgroup"].unique(maintain_order=True)
    ]
    return Groups(target, tuple(in_words(one) for one in measures), tuple(made), tuple(_gaps(rows)))


def _group_name(name: str) -> str:
    column, _, group = name.partition("=")
    return "everybody" if name == "all" else f"{column}: {group}"


def _gaps(rows: pl.DataFrame) -> list[str]:
    """Say which gaps between groups are more than chance would make of two groups."""
    said = []
    for row in rows.filter(pl.col("name").str.starts_with("gap:")).iter_rows(named=True):
        if row["lower"] is not None and row["lower"] > 0:
            between = row["interval"].rpartition("; ")[2]
            measure = in_words(row["name"].removeprefix("gap:"))
            said.append(f"{measure} differs by {_estimate(row).words()} between the groups of “{row['subgroup']}” ({between})")
    return said
