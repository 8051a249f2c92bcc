"""Maps drawn over the picture that they belong to, for a person who looks: strong places coloured, the rest left to be seen.

Signed maps are red where a place speaks for the answer and blue where it speaks against it; maps without a sign are yellow to
red. Attention has a colour of its own, green, so that it is not taken for an attribution, and shows where there is more of it than
evenly. Colour is as opaque as the map is strong; where it is full stands below, for a map without its scale says nothing. Of a
volume the three slices are shown (one along each axis) that hold most of the map, with the head above.

>>> picture = np.zeros((1, 4, 4)); values = np.zeros((4, 4)); values[1, 2] = 2.0
>>> drawn = overlay(picture, values, kind="signed", scale=2.0)
>>> drawn.shape, drawn[1, 2].tolist(), drawn[0, 0].tolist()
((4, 4, 3), [214, 39, 40], [0, 0, 0])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import need
from clinome.core.files import replacing

Kind = Literal["signed", "positive", "attention"]

_FOR, _AGAINST = np.array([214, 39, 40]), np.array([31, 119, 210])
_WEAK, _STRONG = np.array([255, 220, 60]), np.array([214, 39, 40])
_LOOKED = np.array([40, 220, 120])
_TILE = 224  # least pixels of a tile's longer side
_LINE = 14  # pixels of a line of caption


def strength(values: NDArray[np.floating]) -> float:
    """Return the size at which a map is drawn in full colour: the 99.5th percentile of its size (its largest where that is 0)."""
    size = np.abs(values[np.isfinite(values)])
    return float(np.percentile(size, 99.5) or size.max()) if size.size else 0.0


def above_even(attention: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """Return attention, of any shape and summing to one, in even shares above the first, and where it is drawn in full colour.

    Full colour is at least at twice an even share, so that attention that is spread evenly looks so.

    >>> above_even(np.full((2, 2), 0.25))
    (array([[0., 0.],
           [0., 0.]]), 1.0)
    """
    above = np.maximum(attention * float(attention.size) - 1.0, 0.0)
    return above, max(strength(above), 1.0)


def overlay(picture: NDArray[Any], values: NDArray[np.floating], *, kind: Kind, scale: float | None = None) -> NDArray[np.uint8]:
    """Lay a map (height, width) over its picture (channels, height, width): colours (height, width, 3).

    ``scale`` is the size drawn in full colour, :func:`strength` by default; attention is given as :func:`above_even`. Pixels
    without a value stay as they are.
    """
    full = strength(values) if scale is None else scale
    share = np.nan_to_num(np.asarray(values, np.float64)) / (full or 1.0)
    opaque = np.clip(np.abs(share), 0, 1)[..., None]
    if kind == "signed":
        colour = np.where(share[..., None] >= 0, _FOR, _AGAINST)
    elif kind == "positive":
        colour = _WEAK + (_STRONG - _WEAK) * opaque
    else:
        colour = np.broadcast_to(_LOOKED, (*share.shape, 3))
    mixed = np.rint(as_seen(picture) * (1 - opaque) + colour * opaque)
    return np.asarray(mixed, np.uint8)


def as_seen(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a network's picture, (1 or 3 … channels, height, width) in any unit, as colours stretched over its middle 98 %."""
    wide = np.asarray(picture, np.float64)
    shown = wide[:3] if len(wide) >= 3 else np.repeat(wide[:1], 3, axis=0)
    low, high = np.percentile(shown, [1, 99])
    return np.asarray(np.clip(255 * (shown - low) / max(float(high - low), 1e-12), 0, 255).transpose(1, 2, 0), np.uint8)


def draw(path: str | Path, picture: NDArray[Any], values: NDArray[np.floating], *, kind: Kind, caption: Sequence[str]) -> None:
    """Write a PNG file: the picture (channels, [depth,] height, width), beside it the map over it, below them lines of caption.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    values, scale = above_even(values) if kind == "attention" else (values, strength(values))
    pairs = [(seen, some) for seen, some in _slices(picture, values)]
    rows = [np.hstack([as_seen(seen), overlay(seen, some, kind=kind, scale=scale)]) for seen, some in pairs]
    write_sheet(path, rows, caption)


def write_sheet(path: str | Path, rows: Sequence[NDArray[np.uint8]], caption: Sequence[str]) -> None:
    """Write ``rows`` of pixels (height, width, 3) below each other, small ones enlarged by a whole factor, and a caption."""
    image_module, draw_module = need("PIL.Image", "imaging"), need("PIL.ImageDraw", "imaging")
    factor = max(1, -(-_TILE // max(row.shape[0] for row in rows)))
    large = [row.repeat(factor, axis=0).repeat(factor, axis=1) for row in rows]
    pen = draw_module.Draw(image_module.new("RGB", (1, 1)))
    width = max(*(row.shape[1] for row in large), *(int(pen.textlength(line)) + 12 for line in caption), 0)
    height = sum(row.shape[0] for row in large)
    sheet = image_module.new("RGB", (width, height + _LINE * len(caption) + 8), (20, 20, 20))
    top = 0
    for row in large:
        sheet.paste(image_module.fromarray(row), (0, top))
        top += row.shape[0]
    pen = draw_module.Draw(sheet)
    for k, line in enumerate(caption):
        pen.text((6, height + 4 + _LINE * k), line, fill=(235, 235, 235))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def _slices(picture: NDArray[Any], values: NDArray[np.floating]) -> list[tuple[NDArray[Any], NDArray[np.floating]]]:
    """Return what is shown of a picture, or of a volume along each axis: (channels, height, width) with the map there."""
    if values.ndim == 2:
        return [(picture, values)]
    size = np.abs(np.nan_to_num(values))
    most = [int(size.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3)]
    cut = [(picture.take(at, axis=axis + 1), np.asarray(values.take(at, axis=axis))) for axis, at in enumerate(most)]
    return [cut[0], *((seen[:, ::-1], some[::-1]) for seen, some in cut[1:])]  # depth runs from feet to head: the head above
