"""Learning curves: the training's loss and the metrics of validation by epoch, and the step whose weights are kept.

``history.json`` is a list of records (one network), or an object: ``by`` says what lies between two records ('epoch'), and its
``curves`` have each a part, a member, their records, the steps made, the step kept and the metric that was watched for it (None:
the last step is kept).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinome.core.errors import FormatError
from clinome.report.drawing import SERIES, Axis, Chart, axis
from clinome.report.numbers import plain
from clinome.report.results import in_words

_VALIDATION = "validation."
_IN_LEGEND = SERIES  # curves named one by one; more are drawn alike


@dataclass(frozen=True)
class Curve:
    """One network's training: its records, an ``epoch`` or some steps each, how many steps it made, and the step kept."""

    name: str
    records: tuple[dict[str, float], ...]
    steps: int
    kept: int | None = None
    watched: str | None = None
    by: str = "step"

    def time(self, step: float) -> float:
        """Return when a step was: itself, or how many epochs were done."""
        return step if self.by == "step" else step / self.steps * len(self.records)

    def of(self, name: str) -> list[tuple[float, float]]:
        """Return (time, value) of a number where the records hold it; what is undefined (NaN, null) is a gap."""
        known = ((one["step"], one.get(name)) for one in self.records)
        return [(self.time(step), value) for step, value in known if value is not None and math.isfinite(value)]


@dataclass(frozen=True)
class Learning:
    """Every curve, the plots of them (caption, SVG), whose colour is whose, and the metric by which steps are kept, in words."""

    curves: tuple[Curve, ...]
    plots: tuple[tuple[str, str], ...]
    legend: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]
    heads: tuple[str, ...]
    watched: str | None


def learning(folder: Path) -> Learning | None:
    """Read ``history.json``; ``None`` where it is absent or holds no record.

    Raises
    ------
    FormatError
        When it holds something else.
    """
    curves = _curves(folder / "history.json")
    if not curves:
        return None
    held = dict.fromkeys(name for curve in curves for one in curve.records for name in one if curve.of(name))
    metrics = [name for name in held if name.startswith(_VALIDATION) and name != f"{_VALIDATION}loss"]
    by = curves[0].by
    dashed = ", of validation dashed" if f"{_VALIDATION}loss" in held else ""
    plots = [(f"Loss by {by}: of training the mean since the point before{dashed}", _losses(curves))]
    for name in metrics:
        title = in_words(name.removeprefix(_VALIDATION))
        plots.append((f"{title[0].upper()}{title[1:]} of validation by {by}", _metric(curves, name)))
    legend = tuple((f"s{k}", one.name) for k, one in enumerate(curves)) if 1 < len(curves) <= _IN_LEGEND else ()
    heads, rows = _table(curves, metrics)
    watched = next((in_words(one.watched) for one in curves if one.watched), None)
    return Learning(tuple(curves), tuple(plots), legend, rows, heads, watched)


def _curves(path: Path) -> list[Curve]:
    if not path.is_file():
        return []
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, list):
            return [Curve("network", _records(found), int(found[-1]["step"]))] if found else []
        several = len({one["part"] for one in found["curves"]}) > 1 or any(one["member"] > 1 for one in found["curves"])
        return [
            Curve(
                f"{one['part'].replace('_', ' ')}, member {one['member']}" if several else "network",
                _records(one["records"]),
                int(one["steps"]),
                one["kept"],
                one["watched"],
                str(found.get("by", "step")),
            )
            for one in found["curves"]
            if one["records"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        do = "give the training's command again, or remove the file: the page is made without it"
        raise FormatError("the file is no history of a training", where=path, got=repr(error), do=do) from error


def _records(found: list[dict[str, Any]]) -> tuple[dict[str, float], ...]:
    """Return the numbers of records, each of which says its step, from 1 up."""
    if any(one["step"] < 1 for one in found):
        raise ValueError("a step below 1")
    return tuple({name: value for name, value in one.items() if isinstance(value, (int, float))} for one in found)


def _style(k: int, curves: Sequence[Curve]) -> str:
    return f"s{k}" if len(curves) <= _IN_LEGEND else "s0 faint"


def _losses(curves: Sequence[Curve]) -> str:
    every = [value for curve in curves for name in ("loss", f"{_VALIDATION}loss") for _, value in curve.of(name)]
    return _plot(curves, axis(every, "loss"), "Loss", [("loss", ""), (f"{_VALIDATION}loss", "dashed")])


def _metric(curves: Sequence[Curve], name: str) -> str:
    title = in_words(name.removeprefix(_VALIDATION))
    return _plot(curves, axis([value for curve in curves for _, value in curve.of(name)], title), title, [(name, "")])


def _plot(curves: Sequence[Curve], y: Axis, label: str, names: Sequence[tuple[str, str]]) -> str:
    by = curves[0].by
    chart = Chart(Axis(0.0, max(curve.time(curve.steps) for curve in curves), by), y, label=f"{label} by {by}")
    for k, curve in enumerate(curves):
        for name, more in names:
            points = curve.of(name)
            chart.line(points, f"{_style(k, curves)} {more}".strip())
            if len(points) == 1:
                chart.dot(*points[0], _style(k, curves))
        if curve.kept is not None and curve.watched is not None:
            chart.upright(curve.time(curve.kept), f"{_style(k, curves)} kept", title=f"{curve.name}: step {curve.kept} is kept")
    return chart.svg()


def _table(curves: Sequence[Curve], metrics: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return a row a network: the step kept and what stood there."""
    heads = (
        "Network",
        "Steps",
        "Records" if curves[0].by == "step" else f"{curves[0].by}s",
        "Step kept",
        "Training loss there",
        *(f"{in_words(m.removeprefix(_VALIDATION))} of validation there" for m in metrics),
    )
    rows = []
    for curve in curves:
        kept = curve.steps if curve.kept is None else curve.kept
        there = min(curve.records, key=lambda one: abs(one["step"] - kept))
        of_metrics = (plain(there.get(name)) for name in metrics)
        rows.append((curve.name, f"{curve.steps:,}", f"{len(curve.records):,}", f"{kept:,}", plain(there.get("loss")), *of_metrics))
    return heads, tuple(rows)
