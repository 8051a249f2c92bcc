"""The drawing of power: it is XML, a panel an encoder, points where the numbers say."""

from __future__ import annotations

from xml.etree import ElementTree

import polars as pl
import pytest

from clinome.report.power import _HEIGHT, draw_power

ROWS = [
    (encoder, n, test, power, power - 0.1, min(power + 0.1, 1.0), 0.5, 0.9)
    for encoder in ("SimCLR", "a < b")
    for n in (1_000, 4_000)
    for test, power in (("omnibus", n / 4_000), ("corrected", n / 8_000))
]
TABLE = pl.DataFrame(ROWS, schema=["encoder", "n", "test", "power", "lower", "upper", "expected", "ceiling"], orient="row")


def test_points_lie_where_the_numbers_say() -> None:
    drawn = ElementTree.fromstring(draw_power(TABLE))
    name = "{http://www.w3.org/2000/svg}"
    panels = drawn.findall(f"{name}g")
    assert len(panels) == 2
    assert [panel.findall(f"{name}text")[-1].text for panel in panels] == ["SimCLR", "a < b"]
    heights = sorted(float(circle.attrib["cy"]) for circle in panels[0].findall(f"{name}circle"))
    assert heights == pytest.approx([_HEIGHT * (1 - p) for p in (1.0, 0.5, 0.25, 0.125)], abs=0.1)
    assert len(panels[0].findall(f"{name}polyline")) == 2
