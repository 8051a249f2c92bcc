"""Small plots as SVG that stand in the page itself: they need no script, print, and take their colours from the style sheet.

>>> chart = Chart(axis([0.0, 10.0], "epoch"), axis([0.2, 0.9], "loss"), label="Loss by epoch")
>>> chart.line([(0, 0.9), (10, 0.2)], "s0")
>>> chart.svg().count("<polyline")
1
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 44  # margins of a chart, pixels
_STRIP = 190  # pixels of an interval's axis
SERIES = 6  # colours s0 … s5 of the style sheet


class Axis(NamedTuple):
    """From where to where a plot goes, and what that is."""

    low: float
    high: float
    title: str = ""

    def place(self, value: float, length: float) -> float:
        """Return where ``value`` stands on ``length`` pixels; what lies beyond stands at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * length, 1)


def axis(values: Iterable[float | None], title: str = "", *, low: float | None = None, high: float | None = None) -> Axis:
    """Return an axis that holds all ``values`` that are numbers, with a little room, or begins and ends where it is told."""
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    room = 0.05 * (max(known) - min(known)) or 0.05 * abs(known[0]) or 1.0
    return Axis(min(known) - room if low is None else low, max(known) + room if high is None else high, title)


def ticks(shown: Axis, most: int = 6) -> list[float]:
    """Return round numbers along an axis, at most ``most``.

    >>> ticks(Axis(0.0, 1.0)), ticks(Axis(-3.0, 41.0), most=5)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 10.0, 20.0, 30.0, 40.0])
    """
    rough = (shown.high - shown.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (one * power for one in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.ceil(shown.low / step - 1e-9), math.floor(shown.high / step + 1e-9)
        if last - first < most:
            return [round(step * k, 12) for k in range(first, last + 1)]
    return []


def number(value: float) -> str:
    """Write a tick: as short as it can be, with a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.6g}"
    return ("0" if float(text.replace(",", "")) == 0 else text).replace("-", "−")


class Chart:
    """A plot with two axes. Coordinates are those of the axes; ``style`` names classes of the style sheet."""

    def __init__(self, x: Axis, y: Axis, *, label: str, width: int = 460, height: int = 270) -> None:
        self.x, self.y, self.label, self.width, self.height = x, y, label, width, height
        self.across, self.down = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point."""
        return self.x.place(x, self.across), round(self.down - self.y.place(y, self.down), 1)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in (self.at(*point) for point in points))
        self.parts.append(f'<polyline class="line {style}" points="{path}"/>')

    def dot(self, x: float, y: float, style: str, *, title: str = "", radius: float = 3.4) -> None:
        """Draw a point; ``title`` is what it says when it is pointed at."""
        across, down = self.at(x, y)
        said = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<circle class="dot {style}" cx="{across:g}" cy="{down:g}" r="{radius:g}">{said}</circle>')

    def whisker(self, x: float, low: float | None, high: float | None, style: str) -> None:
        """Draw an upright interval, where there is one."""
        if low is not None and high is not None:
            (across, bottom), (_, top) = self.at(x, low), self.at(x, high)
            self.parts.append(f'<line class="line {style}" x1="{across:g}" x2="{across:g}" y1="{top:g}" y2="{bottom:g}"/>')

    def bar(self, start: float, end: float, height: float, style: str, *, title: str = "") -> None:
        """Draw a bar from 0 up."""
        (left, top), (right, bottom) = self.at(start, height), self.at(end, 0.0)
        box = f'x="{left + 0.5:g}" y="{top:g}" width="{max(right - left - 1, 0.5):g}" height="{max(bottom - top, 0):g}"'
        self.parts.append(f'<rect class="bar {style}" {box}><title>{escape(title)}</title></rect>')

    def upright(self, x: float, style: str, *, title: str = "") -> None:
        """Draw a line from bottom to top."""
        across = self.x.place(x, self.across)
        said = f"<title>{escape(title)}</title>"
        self.parts.append(f'<line class="line {style}" x1="{across:g}" x2="{across:g}" y1="0" y2="{self.down}">{said}</line>')

    def svg(self) -> str:
        """Return the plot."""
        made = [
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" style="max-width: {1.15 * self.width:g}px" role="img"',
            f' aria-label="{escape(self.label)}">',
            f'<g transform="translate({_LEFT} {_TOP})">',
        ]
        for value in ticks(self.y, 5):
            down = round(self.down - self.y.place(value, self.down), 1)
            made.append(f'<line class="grid" x1="0" x2="{self.across}" y1="{down:g}" y2="{down:g}"/>')
            made.append(f'<text x="-7" y="{down + 4:g}" text-anchor="end">{number(value)}</text>')
        for value in ticks(self.x, 6):
            across = self.x.place(value, self.across)
            made.append(f'<line class="tick" x1="{across:g}" x2="{across:g}" y1="{self.down}" y2="{self.down + 4}"/>')
            made.append(f'<text x="{across:g}" y="{self.down + 17}" text-anchor="middle">{number(value)}</text>')
        made.append(f'<path class="frame" d="M0 0V{self.down}H{self.across}"/>')
        made += self.parts
        middle = self.across / 2
        made.append(f'<text class="name" x="{middle:g}" y="{self.down + 36}" text-anchor="middle">{escape(self.x.title)}</text>')
        turned = f'transform="translate(-40 {self.down / 2:g}) rotate(-90)"'
        made.append(f'<text class="name" {turned} text-anchor="middle">{escape(self.y.title)}</text>')
        return "".join([*made, "</g></svg>"])


def interval_mark(value: float | None, lower: float | None, upper: float | None, shown: Axis, *, zero: bool = False) -> str:
    """Return an estimate and its interval on an axis: a row of a forest plot. ``zero`` draws where there is no difference."""
    if value is None:
        return ""
    parts = [f'<svg class="forest" viewBox="-4 0 {_STRIP + 8} 18" aria-hidden="true">']
    parts.append(f'<line class="axis" x1="0" x2="{_STRIP}" y1="9" y2="9"/>')
    if zero and shown.low <= 0 <= shown.high:
        at = shown.place(0.0, _STRIP)
        parts.append(f'<line class="zero" x1="{at:g}" x2="{at:g}" y1="0" y2="18"/>')
    if lower is not None and upper is not None:
        low, high = shown.place(lower, _STRIP), shown.place(upper, _STRIP)
        parts.append(f'<line class="interval" x1="{low:g}" x2="{high:g}" y1="9" y2="9"/>')
    parts.append(f'<circle cx="{shown.place(value, _STRIP):g}" cy="9" r="3.6"/></svg>')
    return "".join(parts)


def axis_mark(shown: Axis) -> str:
    """Return the scale of :func:`interval_mark`."""
    parts = [f'<svg class="forest scale" viewBox="-14 0 {_STRIP + 28} 18" aria-hidden="true">']
    parts.append(f'<line class="axis" x1="0" x2="{_STRIP}" y1="17" y2="17"/>')
    for value in ticks(shown, 4):
        at = shown.place(value, _STRIP)
        parts.append(f'<line class="axis" x1="{at:g}" x2="{at:g}" y1="13" y2="17"/>')
        parts.append(f'<text x="{at:g}" y="10" text-anchor="middle">{number(value)}</text>')
    return "".join([*parts, "</svg>"])


def histogram(
    values: Sequence[float], title: str, *, label: str, bins: int = 20, low: float | None = None, high: float | None = None
) -> str:
    """Return how many ``values`` (finite, one or more) lie where, in bars of equal width."""
    first, last = min(values) if low is None else low, max(values) if high is None else high
    width = (last - first) / bins or 1.0
    count = [0] * bins
    for value in values:
        count[min(max(int((value - first) / width), 0), bins - 1)] += 1
    shown = Axis(first, first + bins * width, title)
    chart = Chart(shown, Axis(0.0, max(count) * 1.05, "number"), label=label, height=200)
    for k, found in enumerate(count):
        if found:
            start = first + k * width
            chart.bar(start, start + width, found, "s0", title=f"{start:.4g} to {start + width:.4g}: {found:,}")
    return chart.svg()
