"""Power against the number of people, drawn as SVG: what was found with its interval, beside the curve of what could be found.

points, bars   share of planted variants found, 95 % interval
line           expected from what the axes tell of the latents (non-central χ²)
dashes         the ceiling: the latents themselves
"""

from __future__ import annotations

from html import escape

import polars as pl

_WIDTH, _HEIGHT, _LEFT, _TOP = 250, 190, 48, 34  # of a panel and its margins, pixels
_COLOUR = {"omnibus": "#1f6f8b", "corrected": "#c8553d"}
_NAMED = {"omnibus": "omnibus", "corrected": "axes × smallest p"}


def draw_power(table: pl.DataFrame) -> str:
    """Return an SVG with a panel an encoder.

    Parameters
    ----------
    table
        Columns encoder, n, test ('corrected', 'omnibus'), power, lower, upper, expected, ceiling; a row a point.
    """
    encoders = table["encoder"].unique(maintain_order=True).to_list()
    across = min(3, len(encoders))
    down = -(-len(encoders) // across)
    width, height = across * (_WIDTH + _LEFT) + 20, down * (_HEIGHT + _TOP + 40) + 30
    most = float(table["n"].max())  # type: ignore[arg-type]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for k, encoder in enumerate(encoders):
        left, top = _LEFT + (k % across) * (_WIDTH + _LEFT), _TOP + (k // across) * (_HEIGHT + _TOP + 40)
        parts += [f'<g transform="translate({left} {top})">', *_panel(table.filter(pl.col("encoder") == encoder), most)]
        parts += [f'<text x="0" y="-10" font-weight="bold">{escape(str(encoder))}</text></g>']
    for k, (test, colour) in enumerate(_COLOUR.items()):
        parts.append(f'<text x="{_LEFT + 190 * k}" y="{height - 10}" fill="{colour}">● {escape(_NAMED[test])}</text>')
    parts.append(f'<text x="{_LEFT + 380}" y="{height - 10}">— expected of what the axes tell   - - ceiling: the latents</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(rows: pl.DataFrame, most: float) -> list[str]:
    """Return the axes, curves and points of one encoder."""

    def place(n: float, power: float) -> tuple[float, float]:
        return round(n / most * (_WIDTH - 20), 1), round(_HEIGHT * (1 - power), 1)

    parts = [f'<path d="M0 0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="#444"/>']
    for level in (0, 0.5, 1):
        parts.append(f'<text x="-6" y="{place(0, level)[1] + 4}" text-anchor="end">{level:g}</text>')
    for n in rows["n"].unique().sort():
        parts.append(f'<text x="{place(n, 0)[0]}" y="{_HEIGHT + 15}" text-anchor="middle">{n:,}</text>')
    first = rows.filter(pl.col("test") == "omnibus").sort("n")
    for name, dash in (("expected", ""), ("ceiling", ' stroke-dasharray="4 3"')):
        points = " ".join(f"{x},{y}" for x, y in (place(n, p) for n, p in first.select("n", name).iter_rows()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#777"{dash}/>')
    for k, (test, colour) in enumerate(_COLOUR.items()):
        for row in rows.filter(pl.col("test") == test).iter_rows(named=True):
            x, y = place(row["n"], row["power"])
            x += 5 * k - 2
            low, high = place(0, row["lower"])[1], place(0, row["upper"])[1]
            parts.append(f'<path d="M{x} {low}V{high}" stroke="{colour}"/><circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
    return parts
