"""A contact sheet of the least certain contours, for the person who checks them: outline over picture, certainty, image id.

Certainty is had in one of two ways. From probabilities (:func:`edge_certainty`): one less the mean entropy (bits) in a band along
the contour. From two outlines of the same thing, by two models, observers or augmented views (:func:`boundary_agreement`): the
share of both boundaries that lies within a tolerance of the other (surface Dice; Nikolov 2021). A sheet holds nothing personal
but what is in the pixels: the picture, cropped to the structure, and the id that the images table gives it.

References
----------
Nikolov S et al. Clinically applicable segmentation of head and neck anatomy for radiotherapy. Journal of Medical Internet Research
23:e26151 (2021), doi:10.2196/26151 (surface Dice).

>>> sharp = np.zeros((20, 20)); sharp[5:15, 5:15] = 1.0
>>> edge_certainty(sharp), round(edge_certainty(0.2 + 0.6 * sharp), 2)
(1.0, 0.28)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt

from clinome.core.errors import need
from clinome.core.files import replacing

_BAND = 2  # pixels on each side of a contour
_COLOURS = ((90, 255, 90), (255, 210, 60), (110, 190, 255), (255, 120, 200))  # of outlines 1, 2, …
_CAPTION = 26  # pixels below a tile


class Case(NamedTuple):
    """One contour to look at.

    Attributes
    ----------
    image_id
        Printed under the tile; nothing else that identifies is.
    picture
        Shape (height, width) or (height, width, 3); a slice of a scan is stretched from its 1st to its 99th percentile.
    outlines
        Labels 0 (none), 1, 2, …, shape (height, width).
    certainty
        0 (none) to 1.
    """

    image_id: str
    picture: NDArray[np.generic]
    outlines: NDArray[np.integer]
    certainty: float


def edge_certainty(probability: NDArray[np.floating], *, threshold: float = 0.5) -> float:
    """Return one less the mean entropy (bits) of ``probability`` within two pixels of its contour; any number of axes.

    0 where the model does not decide (one half everywhere), 1 where it goes from no to yes at once. Without a contour it is that of
    the whole picture.
    """
    p = np.clip(np.asarray(probability, dtype=np.float64), 0.0, 1.0)
    inside = p >= threshold
    band = binary_dilation(inside, iterations=_BAND) & ~binary_erosion(inside, iterations=_BAND, border_value=1)
    if not band.any():
        band = np.ones_like(inside)
    q = p[band]
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(q * np.log2(q)) - np.nan_to_num((1 - q) * np.log2(1 - q))
    return float(1 - entropy.mean())


def boundary_agreement(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, tolerance: float = 1.0, spacing: tuple[float, ...] | None = None
) -> float:
    """Return the share of the boundaries of two outlines that lies within ``tolerance`` of the other's, 0 to 1.

    ``tolerance`` is in pixels, or in the unit of ``spacing``. Two empty outlines agree (1), one empty one does not (0).
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    edges = [outline & ~binary_erosion(outline) for outline in (first, second)]
    away = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    near = (away[1][edges[0]] <= tolerance).sum() + (away[0][edges[1]] <= tolerance).sum()
    return float(near / (edges[0].sum() + edges[1].sum()))


def most_uncertain_slice(probability: NDArray[np.floating]) -> int:
    """Return the slice of a scan's ``probability`` (depth, height, width) in which most of the volume is undecided."""
    p = np.asarray(probability, dtype=np.float64)
    return int((p * (1 - p)).sum(axis=(1, 2)).argmax())


def least_certain(cases: Iterable[Case], n: int = 20) -> list[Case]:
    """Return the ``n`` least certain cases, least certain first; only these are held in memory. Ties go by id.

    A certainty that is not a number comes first: nobody knows.
    """
    kept: list[tuple[float, str, int, Case]] = []  # a heap whose top is the most certain of those kept
    for k, case in enumerate(cases):
        certainty = case.certainty if np.isfinite(case.certainty) else -1.0
        heapq.heappush(kept, (-certainty, _backwards(case.image_id), -k, case))
        if len(kept) > n:
            heapq.heappop(kept)
    return [case for *_, case in sorted(kept, key=lambda entry: (-entry[0], entry[3].image_id, -entry[2]))]


def _backwards(name: str) -> str:
    """Return a text that sorts the other way round."""
    return "".join(chr(0x10FFFF - ord(letter)) for letter in name) + chr(0x10FFFF)


def contact_sheet(
    cases: Iterable[Case], path: Path, *, n: int = 20, columns: int = 5, tile: int = 240, margin: float = 0.35
) -> int:
    """Draw the ``n`` least certain contours of ``cases`` into a PNG file; return how many there are.

    Parameters
    ----------
    columns, tile
        Tiles a row, and pixels of a tile's side.
    margin
        What is shown around the outlines, as a share of their size.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    chosen = least_certain(cases, n)
    rows = max(-(-len(chosen) // columns), 1)
    image_module, draw_module = need("PIL.Image", "imaging"), need("PIL.ImageDraw", "imaging")
    sheet = image_module.new("RGB", (columns * tile, rows * (tile + _CAPTION)), (20, 20, 20))
    pen = draw_module.Draw(sheet)
    for k, case in enumerate(chosen):
        left, top = k % columns * tile, k // columns * (tile + _CAPTION)
        sheet.paste(image_module.fromarray(_tile(case, tile, margin)), (left, top))
        said = f"{case.certainty:.2f}" if np.isfinite(case.certainty) else "unknown"
        pen.text((left + 6, top + tile + 6), _shortened(f"{said}  {case.image_id}", pen, tile - 12), fill=(235, 235, 235))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
    return len(chosen)


def _shortened(text: str, pen: Any, width: int) -> str:
    """Cut a text from its middle until it fits."""
    if pen.textlength(text) <= width:
        return text
    for keep in range(len(text), 4, -1):
        cut = text[: keep // 2] + "…" + text[-(keep // 2) :]
        if pen.textlength(cut) <= width:
            return cut
    return text[:4]


def _tile(case: Case, tile: int, margin: float) -> NDArray[np.uint8]:
    """Crop to the outlines, scale to ``tile`` pixels a side, and draw each label's contour one pixel wide."""
    picture, outlines = _grey_or_colour(case.picture), np.asarray(case.outlines)
    rows, columns = np.nonzero(outlines)
    if len(rows):
        centre = [(int(at.min()) + int(at.max()) + 1) / 2 for at in (rows, columns)]
        side = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
        half = max(side * (0.5 + margin), 8.0)
    else:
        centre, half = [length / 2 for length in outlines.shape], max(outlines.shape) / 2
    at = [np.clip(np.floor(middle - half + (np.arange(tile) + 0.5) * 2 * half / tile), -1, None).astype(int) for middle in centre]
    there = (at[0][:, None] >= 0) & (at[0][:, None] < outlines.shape[0]) & (at[1] >= 0) & (at[1] < outlines.shape[1])
    pick = np.ix_(np.clip(at[0], 0, outlines.shape[0] - 1), np.clip(at[1], 0, outlines.shape[1] - 1))
    shown = np.where(there[..., None], picture[pick], 0).astype(np.uint8)
    labels = np.where(there, outlines[pick], 0)
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        shown[inside & ~binary_erosion(inside, border_value=1)] = _COLOURS[(int(label) - 1) % len(_COLOURS)]
    return shown


def _grey_or_colour(picture: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return (height, width, 3), 0–255."""
    values = np.asarray(picture)
    if values.dtype != np.uint8:
        wide = values.astype(np.float64)
        low, high = np.percentile(wide[np.isfinite(wide)], [1, 99]) if np.isfinite(wide).any() else (0.0, 1.0)
        values = np.clip(255 * np.nan_to_num(wide - low) / max(float(high - low), 1e-12), 0, 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=2) if values.ndim == 2 else values
