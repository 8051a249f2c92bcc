"""Do predictions mean what they say, and for whom: reliability curves, and the measures in groups of people.

Only what was measured at the training is drawn; groups of fewer than ten people are named there and not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinome.core.schema import METRICS, RELIABILITY
from clinome.report.drawing import Axis, Chart, axis
from clinome.report.numbers import decimals
from clinome.report.reading import table
from clinome.report.results import Estimate, estimate_of, estimates_of, in_words, network_of

_SAID = {
    "calibration_slope": "slope (1: as extreme as they should be; below: too extreme)",
    "calibration_in_the_large": "in the large (0: right on average; above: too low)",
    "ece": "expected calibration error (never 0 by chance alone)",
}


@dataclass(frozen=True)
class Curve:
    """A reliability curve: whose, and drawn."""

    name: str
    of_number: bool
    chart: str
    examples: int


@dataclass(frozen=True)
class Reliability:
    """Every curve, and of each target what its calibration is in numbers."""

    curves: tuple[Curve, ...]
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Group:
    """A group of people: its size (None: too small to show), and the measures in it."""

    name: str
    people: int | None
    cells: tuple[Estimate | None, ...]


@dataclass(frozen=True)
class Groups:
    """A target's measures in groups, how many gaps have an interval, and in words those whose interval lies above 0."""

    target: str
    measures: tuple[str, ...]
    groups: tuple[Group, ...]
    measured: int
    gaps: tuple[str, ...]


def reliability(folder: Path) -> Reliability | None:
    """Read ``reliability.parquet`` and what ``metrics.parquet`` says of calibration; ``None`` where there is no curve."""
    bins = table(folder, "reliability.parquet", RELIABILITY)
    if bins is None or bins.is_empty():
        return None
    metrics = table(folder, "metrics.parquet", METRICS)
    curves, several = list[Curve](), dict[str, bool]()
    for (target, of_class), rows in bins.group_by("target", "class", maintain_order=True):
        name = str(target) if of_class is None else f"{target}: {of_class}"
        curves.append(Curve(name, of_class is None, _drawn(rows, name, of_class is None), int(rows["n"].sum())))
        several[str(target)] = str(target) in several
    if metrics is None or not {"target", "predictor"} <= set(metrics.columns):
        return Reliability(tuple(curves), ())
    facts = ((target, _facts(metrics.filter(pl.col("target") == target), many)) for target, many in several.items())
    return Reliability(tuple(curves), tuple((target, known) for target, known in facts if known))


def _facts(metrics: pl.DataFrame, several: bool) -> tuple[tuple[str, str], ...]:
    """Return what is known of the network's own calibration of a target, of ``several`` classes or not."""
    own = metrics.filter(pl.col("name").is_in(list(_SAID)) & (pl.col("subgroup") == "all"))
    own = own.filter(pl.col("predictor") == network_of(metrics)) if own.height else own
    said = _SAID | ({"ece": f"of the likeliest class, {_SAID['ece']}"} if several else {})
    return tuple((said[row["name"]], estimate_of(row).words()) for row in own.iter_rows(named=True))


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
    """Read ``subgroups.parquet``: one table a target; none where it is absent or empty.

    Raises
    ------
    SchemaError
        When a number of a group is there twice.
    """
    found = table(folder, "subgroups.parquet", METRICS)
    if found is None or found.is_empty():
        return ()
    where = folder / "subgroups.parquet"
    return tuple(_groups(str(target), rows, where) for (target,), rows in found.group_by("target", maintain_order=True))


def _groups(target: str, rows: pl.DataFrame, where: Path) -> Groups:
    of_gap = pl.col("name").str.starts_with("gap:")
    own, gaps = rows.filter(~of_gap), rows.filter(of_gap & pl.col("lower").is_not_null())
    measures = own["name"].unique(maintain_order=True).to_list()
    cells = estimates_of(own, "subgroup", where=where)
    people = dict(own.select("subgroup", "n").rows())
    made = [
        Group(_group_name(name), people[name], tuple(cells.get((measure, name)) for measure in measures))
        for name in own["subgroup"].unique(maintain_order=True)
    ]
    return Groups(target, tuple(in_words(one) for one in measures), tuple(made), gaps.height, tuple(_gaps(gaps)))


def _group_name(name: str) -> str:
    column, _, group = name.partition("=")
    return "everybody" if name == "all" else f"{column}: {group}"


def _gaps(rows: pl.DataFrame) -> list[str]:
    """Say of the gaps with an interval which lie above 0."""
    said = []
    for row in rows.filter(pl.col("lower") > 0).iter_rows(named=True):
        between = row["interval"].partition("; ")[2]  # a group's name may hold what parts them too
        measure = in_words(row["name"].removeprefix("gap:"))
        said.append(f"{measure} differs by {estimate_of(row).words()} between the groups of “{row['subgroup']}” ({between})")
    return said
