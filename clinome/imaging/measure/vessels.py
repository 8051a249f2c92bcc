"""Retinal vessels from their outline: calibre, tortuosity, branching, fractal dimension, density.

=======================================  =============================================================================
trait                                    what it is
=======================================  =============================================================================
calibre                                  mean width, every pixel of centre line counting once
calibre_widest                           mean width of the widest tenth of the centre lines
arteriolar_equivalent,                   Knudtson's central retinal equivalents of the six widest arterioles and venules that cross
venular_equivalent, arteriovenous_ratio  zone B, and their ratio; need the disc, and a map of arteries and veins
widest_six_equivalent                    the same rule (venules' constant) for the six widest vessels *whatever they are*: what can
                                         be had with a disc but without a map of arteries and veins; not CRAE and not CRVE
tortuosity                               arc length over chord, less 1, of segments of 10 pixels and more (loops of crossing
                                         vessels, with a chord below half the arc, left out), weighted by length
curvature                                mean curvature along the centre lines
squared_curvature                        mean squared curvature (the total over arc length; Hart 1999, τ₅)
branch_points, crossings                 places where three centre lines meet; four or more
branch_density                           branch points per length of centre line
branching_angle                          mean of the smallest angle between two of the three vessels of a branch point: that of the
                                         branches, which leave forwards
fractal_dimension                        box counting on the centre lines, over the sides stated in the unit
area_density, length_density             outlined area, and length of centre lines, over the area of the field
=======================================  =============================================================================

All depend on resolution and on what was outlined: pictures are brought to one size, and one segmenter, before they are compared.

References
----------
Knudtson MD, Lee KE, Hubbard LD, Wong TY, Klein R, Klein BEK. Revised formulas for summarizing retinal vessel diameters. Current
Eye Research 27:143–149 (2003), doi:10.1076/ceyr.27.3.143.16049.
Hart WE, Goldbaum M, Côté B, Kube P, Nelson MR. Measurement and classification of retinal vascular tortuosity. International
Journal of Medical Informatics 53:239–252 (1999), doi:10.1016/S1386-5056(98)00163-4.

>>> tube = np.zeros((64, 64), bool); tube[30:34, 4:60] = True
>>> found = {t.name: t.value for t in measure_vessels(tube)}
>>> round(found["calibre"], 1), round(found["tortuosity"], 2), found["branch_points"]
(4.0, 0.0, 0.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.imaging.measure.disc import Circle
from clinome.imaging.measure.fractal import box_counting
from clinome.imaging.measure.skeleton import Segment, Tree, trace
from clinome.imaging.measure.trait import Trait, trait

ARTERIOLES, VENULES = 0.88, 0.95  # Knudtson's constants: widths of a parent and of its branches
_SHORTEST = 10.0  # pixels of a centre line whose tortuosity is measured
_LOOP = 0.5  # share of its arc below which a segment's chord says that it runs round a loop of crossing vessels
_TOO_LITTLE = 100.0  # pixels of centre line below which a picture's vessels are not to be used


def measure_vessels(
    outline: NDArray[np.bool_],
    *,
    field: NDArray[np.bool_] | None = None,
    disc: Circle | None = None,
    kind: NDArray[np.integer] | None = None,
    pixel_mm: float | None = None,
    box_sides: Sequence[int] | None = None,
) -> list[Trait]:
    """Measure the vessels of one picture.

    Parameters
    ----------
    outline
        Where vessels are, shape (height, width).
    field
        The field of view, same shape; None is the whole picture.
    disc
        Of the optic disc (:mod:`clinome.imaging.measure.disc`), for what is measured in zone B: from half a disc diameter to a
        whole one off the disc's edge.
    kind
        0 unknown, 1 artery, 2 vein, same shape.
    pixel_mm
        Side of a pixel in mm, if known; lengths are in pixels otherwise.
    box_sides
        Of :func:`clinome.imaging.measure.fractal.box_counting`.

    Returns
    -------
    The traits of the module's table, in its order; those that need what is not given are left out. Flagged where less than 100
    pixels of centre line were found, or fewer than six vessels cross zone B.
    """
    outline = np.asarray(outline, dtype=bool)
    field = np.ones(outline.shape, dtype=bool) if field is None else np.asarray(field, dtype=bool)
    tree = trace(outline & field)
    length = sum(segment.length for segment in tree.segments)
    thin = None if length >= _TOO_LITTLE else f"less than {_TOO_LITTLE:.0f} pixels of centre line"
    unit, scale = ("px", 1.0) if pixel_mm is None else ("mm", pixel_mm)
    found = _calibre(tree, unit, scale, thin)
    if disc is not None:
        found += _equivalents(tree, disc, kind, unit, scale)
    found += _tortuosity(tree, unit, scale, thin)
    found += _branching(tree, length, unit, scale, thin)
    boxes = box_counting(tree.skeleton, sides=box_sides)
    sides = f"boxes of {boxes.sides.min(initial=0)}–{boxes.sides.max(initial=0)} px" if len(boxes.sides) else "no boxes"
    found.append(trait("fractal_dimension", boxes.dimension, sides, thin))
    area = float(field.sum())
    found.append(trait("area_density", (outline & field).sum() / area if area else np.nan, "share of field"))
    found.append(trait("length_density", length / area / scale if area else np.nan, f"1/{unit}"))
    return found


def _calibre(tree: Tree, unit: str, scale: float, thin: str | None) -> list[Trait]:
    widths = np.concatenate([segment.width for segment in tree.segments] or [np.zeros(0)])
    widths = np.sort(widths[np.isfinite(widths)]) * scale
    widest = widths[-max(len(widths) // 10, 1) :]
    return [
        trait("calibre", widths.mean() if len(widths) else np.nan, unit, thin),
        trait("calibre_widest", widest.mean() if len(widths) else np.nan, unit, thin),
    ]


def knudtson(widths: Sequence[float], constant: float) -> float:
    """Return the width of the one vessel that would branch into vessels of these ``widths`` (same unit).

    The widest is paired with the narrowest, the next with the next, an odd one in the middle goes on to the next round, and each
    pair is replaced by ``constant`` · √(w₁² + w₂²), until one is left.

    >>> round(knudtson([100, 100], ARTERIOLES), 2), knudtson([120], VENULES)
    (124.45, 120.0)
    """
    left = sorted(float(width) for width in widths)
    while len(left) > 1:
        pairs = [constant * float(np.hypot(left[k], left[-1 - k])) for k in range(len(left) // 2)]
        left = sorted(pairs + ([left[len(left) // 2]] if len(left) % 2 else []))
    return left[0] if left else float("nan")


class Crossing(NamedTuple):
    """A vessel that crosses the middle of zone B: mean width in the zone in pixels, and 0 unknown, 1 artery, 2 vein."""

    width: float
    kind: int


def zone_b(tree: Tree, disc: Circle, kind: NDArray[np.integer] | None = None) -> list[Crossing]:
    """Return the vessels of zone B: the segments that cross the circle half way, two and a half disc radii from its middle.

    Counting at one circle counts each vessel once, also when it branches within the zone. The width is the mean over the
    segment's part between two and three radii; the kind is what most of that part says.
    """
    found = []
    for segment in tree.segments:
        distance = np.hypot(*(segment.points - [disc.row, disc.column]).T) / disc.radius
        here = (distance >= 2) & (distance <= 3) & np.isfinite(segment.width)
        if not here.any() or not (distance.min() <= 2.5 <= distance.max()):
            continue
        said = 0
        if kind is not None:
            rows, columns = np.rint(segment.points[here]).astype(int).T
            counts = np.bincount(np.clip(kind[rows, columns], 0, 2), minlength=3)
            said = 0 if counts[1] == counts[2] else int(1 + (counts[2] > counts[1]))
        found.append(Crossing(float(segment.width[here].mean()), said))
    return found


def _equivalents(tree: Tree, disc: Circle, kind: NDArray[np.integer] | None, unit: str, scale: float) -> list[Trait]:
    crossings = zone_b(tree, disc, kind)

    def equivalent(name: str, wanted: tuple[int, ...], constant: float) -> Trait:
        widths = sorted((c.width for c in crossings if c.kind in wanted), reverse=True)
        few = None if len(widths) >= 6 else f"{len(widths)} vessels cross zone B, not six"
        return trait(name, knudtson(widths[:6], constant) * scale, unit, few)

    if kind is None:
        return [equivalent("widest_six_equivalent", (0, 1, 2), VENULES)]
    arterioles, venules = equivalent("arteriolar_equivalent", (1,), ARTERIOLES), equivalent("venular_equivalent", (2,), VENULES)
    ratio = trait("arteriovenous_ratio", arterioles.value / venules.value, "ratio", arterioles.flag or venules.flag)
    return [arterioles, venules, ratio]


def _tortuosity(tree: Tree, unit: str, scale: float, thin: str | None) -> list[Trait]:
    long = [segment for segment in tree.segments if segment.length >= _SHORTEST and segment.chord >= _LOOP * segment.length]
    lengths = np.array([segment.length for segment in long])
    excess = np.array([segment.length / segment.chord - 1 for segment in long])
    bends = np.concatenate([segment.curvature for segment in long] or [np.zeros(0)]) / scale
    return [
        trait("tortuosity", excess @ lengths / lengths.sum() if long else np.nan, "arc/chord − 1", thin),
        trait("curvature", bends.mean() if long else np.nan, f"1/{unit}", thin),
        trait("squared_curvature", (bends**2).mean() if long else np.nan, f"1/{unit}²", thin),
    ]


def _branching(tree: Tree, length: float, unit: str, scale: float, thin: str | None) -> list[Trait]:
    meeting: list[list[tuple[Segment, int]]] = [[] for _ in tree.branch_points]
    for segment in tree.segments:
        for end, node in zip((0, -1), segment.ends, strict=True):
            if node >= 0:
                meeting[node].append((segment, end))
    angles = [_angle(three) for three in meeting if len(three) == 3]
    angles = [angle for angle in angles if np.isfinite(angle)]
    branches = sum(len(some) == 3 for some in meeting)
    return [
        trait("branch_points", branches, "count", thin),
        trait("crossings", sum(len(some) > 3 for some in meeting), "count", thin),
        trait("branch_density", branches / length / scale if length else np.nan, f"1/{unit}", thin),
        trait("branching_angle", float(np.mean(angles)) if angles else np.nan, "degree", thin),
    ]


def _angle(three: Sequence[tuple[Segment, int]]) -> float:
    """Return the smallest angle in degrees between two of three vessels that leave a branch point; NaN where one is too short.

    The direction of each is that from one to two and a half of the widest one's widths away, past where they overlap.
    """
    widths = [float(np.nanmedian(s.width)) if np.isfinite(s.width).any() else 0.0 for s, _ in three]
    reach = max(*widths, 3.0)
    directions = []
    for segment, end in three:
        points = segment.points if end == 0 else segment.points[::-1]
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        if along[-1] < 1.5 * reach:
            return float("nan")
        near, far = (np.array([np.interp(at, along, points[:, axis]) for axis in (0, 1)]) for at in (reach, 2.5 * reach))
        directions.append((far - near) / max(float(np.hypot(*(far - near))), 1e-9))
    cosines = [directions[a] @ directions[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    return float(np.degrees(np.arccos(np.clip(max(cosines), -1, 1))))
