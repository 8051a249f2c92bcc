"""Optic disc and cup: ratios and areas from outlines, and a classical detector that draws the outlines and says how sure it is.

The detector looks for the round patch of the size of a disc that stands out most from the ring around it, with vessels closed
over (grey closing), and then takes, all round, the radius at which brightness falls most, by dynamic programming on a closed
contour; the cup is the same inside the disc, near the radius that best cuts its brightness into two levels. Each contour is drawn
in two colours separately, and how far they lie apart is the certainty: two colours see the same edge where there is one. The
detector knows nothing of disease; it is a floor for trained segmenters and serves where none is at hand.

References
----------
Lalonde M, Beaulieu M, Gagnon L. Fast and robust optic disc detection using pyramidal decomposition and Hausdorff-based template
matching. IEEE Transactions on Medical Imaging 20:1193–1200 (2001), doi:10.1109/42.963823 (bright round templates).
Garway-Heath DF, Ruben ST, Viswanathan A, Hitchings RA. Vertical cup/disc ratio in relation to optic disc size: its value in the
assessment of the glaucoma suspect. British Journal of Ophthalmology 82:1118–1124 (1998), doi:10.1136/bjo.82.10.1118.

>>> rows, columns = np.mgrid[:100, :100]
>>> disc, cup = (np.hypot(rows - 50, columns - 50) < radius for radius in (30, 15))
>>> {t.name: round(t.value, 2) for t in measure_disc(disc, cup)}["vertical_cup_disc_ratio"]
0.49
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_erosion,
    binary_fill_holes,
    distance_transform_edt,
    gaussian_filter,
    gaussian_filter1d,
    grey_closing,
    label,
    map_coordinates,
    zoom,
)
from scipy.signal import fftconvolve

from clinome.core.errors import FormatError
from clinome.imaging.measure.trait import Trait, trait

Plane = NDArray[np.float64]

_FIELD = 128.0  # pixels that the field's radius is brought to
_RADII = (0.10, 0.12, 0.145, 0.175, 0.21)  # of discs looked for, field radii
_ANGLES = 96
_STEPS = 64  # radii of a ray
_LARGER = 0.75  # power of the radius by which a larger patch is preferred to a brighter part of it
_RIM = 0.82  # share of the disc's radius beyond which its own edge begins to darken it
_CONTRAST = 3.0  # below which no patch is taken for a disc
_CERTAIN = 0.7  # certainty below which what was measured is flagged


class Circle(NamedTuple):
    """The middle (row, column) and mean radius of an optic disc, in pixels."""

    row: float
    column: float
    radius: float


class FoundDisc(NamedTuple):
    """What the detector drew.

    Attributes
    ----------
    disc, cup
        Outlines, shape (height, width), bool.
    circle
        The disc's middle and mean radius.
    contrast
        How much brighter than the ring around it the patch is, in standard deviations of that over the field; below about 3 there
        may be no disc in the picture.
    disc_certainty, cup_certainty
        1 less the mean distance of the contours of two colours, as a share of the mean radius; 0 to 1.
    """

    disc: NDArray[np.bool_]
    cup: NDArray[np.bool_]
    circle: Circle
    contrast: float
    disc_certainty: float
    cup_certainty: float

    @property
    def stands_out(self) -> bool:
        """Whether the patch stands out enough to be taken for a disc."""
        return self.contrast >= _CONTRAST


def measure_disc(
    disc: NDArray[np.bool_],
    cup: NDArray[np.bool_] | None = None,
    *,
    pixel_mm: float | None = None,
    certainty: float | None = None,
    cup_certainty: float | None = None,
) -> list[Trait]:
    """Measure outlines of an optic disc and its cup, shape (height, width), in an upright picture (rows run downwards).

    Returns
    -------
    ``disc_height``, ``disc_width`` (px or mm), ``disc_area``, and with a cup ``vertical_cup_disc_ratio``,
    ``horizontal_cup_disc_ratio``, ``cup_disc_area_ratio`` and ``rim_area``. Flagged: a disc that is absent or touches the edge of
    the picture, a cup that reaches out of the disc by more than a tenth of itself, and a certainty below 0.7.
    """
    disc = np.asarray(disc, dtype=bool)
    unit, scale = ("px", 1.0) if pixel_mm is None else ("mm", pixel_mm)
    flag = None
    if not disc.any():
        flag = "no disc"
    elif disc[0].any() or disc[-1].any() or disc[:, 0].any() or disc[:, -1].any():
        flag = "the disc is cut by the edge of the picture"
    elif certainty is not None and certainty < _CERTAIN:
        flag = f"certainty {certainty:.2f} of the disc's edge"
    height, width, area = _extent(disc, 1) * scale, _extent(disc, 0) * scale, float(disc.sum()) * scale**2
    found = [
        trait("disc_height", height, unit, flag),
        trait("disc_width", width, unit, flag),
        trait("disc_area", area, f"{unit}²", flag),
    ]
    if cup is None:
        return found
    cup = np.asarray(cup, dtype=bool)
    if flag is None and (cup & ~disc).sum() > 0.1 * cup.sum():
        flag = "the cup reaches out of the disc"
    if flag is None and cup_certainty is not None and cup_certainty < _CERTAIN:
        flag = f"certainty {cup_certainty:.2f} of the cup's edge"
    inside = cup & disc
    ratios = {
        "vertical_cup_disc_ratio": (_extent(inside, 1) * scale, height),
        "horizontal_cup_disc_ratio": (_extent(inside, 0) * scale, width),
        "cup_disc_area_ratio": (float(inside.sum()) * scale**2, area),
    }
    found += [trait(name, part / whole if whole else np.nan, "ratio", flag) for name, (part, whole) in ratios.items()]
    return [*found, trait("rim_area", area - float(inside.sum()) * scale**2, f"{unit}²", flag)]


def measure_found(found: FoundDisc, *, pixel_mm: float | None = None) -> list[Trait]:
    """Measure what :func:`find_disc` drew; also flagged where no patch stands out enough to be taken for a disc."""
    certainty = found.disc_certainty if found.stands_out else 0.0
    return measure_disc(
        found.disc, found.cup, pixel_mm=pixel_mm, certainty=certainty, cup_certainty=min(found.cup_certainty, certainty)
    )


def _extent(outline: NDArray[np.bool_], axis: int) -> float:
    """Return how many rows (axis 1) or columns (axis 0) an outline reaches over."""
    reached = np.flatnonzero(outline.any(axis=axis))
    return float(reached[-1] - reached[0] + 1) if len(reached) else 0.0


def field_of_view(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the lit field of a photograph, shape (height, width, 3): its largest bright part, holes filled."""
    bright = gaussian_filter(picture.max(axis=2).astype(np.float64), 1.0)
    parts, count = label(bright > 0.25 * np.percentile(bright, 75) + 5)
    if not count:
        return np.zeros(picture.shape[:2], dtype=bool)
    return np.asarray(binary_fill_holes(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])))


def find_disc(picture: NDArray[np.uint8], *, field: NDArray[np.bool_] | None = None) -> FoundDisc:
    """Draw the outlines of disc and cup in a colour photograph of the fundus, shape (height, width, 3), 0–255.

    Raises
    ------
    FormatError
        When the picture has no lit field.
    """
    field = field_of_view(picture) if field is None else np.asarray(field, dtype=bool)
    if not field.any():
        raise FormatError("the photograph has no lit field to look for a disc in", expected="a colour picture of the fundus")
    radius = max(float(np.ptp(np.flatnonzero(field.any(axis=axis))) + 1) / 2 for axis in (0, 1))
    factor = _FIELD / radius
    inside = binary_erosion(field, iterations=max(round(0.03 * radius), 1), border_value=0)
    nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    filled = picture[tuple(nearest)]  # the dark surround would be the steepest edge of all
    colours = [_closed(filled[..., channel], factor) for channel in (0, 1, 2)]
    small = zoom(field.astype(np.float64), factor, order=1) > 0.5
    place, contrast = _brightest(colours[1] + 0.5 * colours[0], small)
    middle, mean = np.array(place[:2]), place[2]
    for _ in range(2):
        rays = [_rays(colour, middle, np.full(_ANGLES, 1.9 * mean)) for colour in colours[:2]]
        drawn = [_contour(ray, (0.5 / 1.9, 1.6 / 1.9)) * 1.9 * mean for ray in (*rays, rays[0] + rays[1])]
        middle, mean, edge = _recentred(middle, drawn[2])
    disc_certainty = 1 - float(np.abs(drawn[0] - drawn[1]).mean() / drawn[2].mean())
    inner = [_rays(colour, middle, edge) for colour in colours[1:]]
    shares = [_cup(ray) for ray in (*inner, inner[0] + inner[1])]
    cup_certainty = 1 - float(np.abs(shares[0] - shares[1]).mean() / shares[2].mean())
    outlines = [_filled(middle / factor, radii / factor, picture.shape[:2]) for radii in (edge, edge * shares[2])]
    circle = Circle(float(middle[0] / factor), float(middle[1] / factor), float(edge.mean() / factor))
    return FoundDisc(outlines[0], outlines[1] & outlines[0], circle, contrast, max(disc_certainty, 0.0), max(cup_certainty, 0.0))


def _closed(channel: NDArray[np.uint8], factor: float) -> Plane:
    """Scale a channel, close vessels over and take the logarithm, so that light and pigment are additive."""
    small = zoom(gaussian_filter(channel.astype(np.float64), max(0.4 / factor, 0.3)), factor, order=1)
    size = int(0.06 * _FIELD)
    ball = np.hypot(*np.mgrid[-size : size + 1, -size : size + 1]) <= size
    return np.asarray(gaussian_filter(np.log(grey_closing(small, footprint=ball) + 8.0), 1.2))


def _brightest(plane: Plane, field: NDArray[np.bool_]) -> tuple[tuple[float, float, float], float]:
    """Return row, column and radius of the round patch that stands out most from its ring, and by how much."""
    shape = tuple(min(a, b) for a, b in zip(plane.shape, field.shape, strict=True))
    plane, field = plane[: shape[0], : shape[1]], field[: shape[0], : shape[1]]
    weight = field.astype(np.float64)
    best = (-np.inf, (0.0, 0.0, 0.0), 0.0)
    for share in _RADII:
        r = share * _FIELD
        half = int(np.ceil(1.7 * r))
        distance = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
        inner, ring = (distance <= 0.9 * r).astype(np.float64), ((distance > 1.15 * r) & (distance <= 1.7 * r)).astype(np.float64)
        means, seen = [], []
        for kernel in (inner, ring):
            count = fftconvolve(weight, kernel, mode="same")
            means.append(fftconvolve(weight * plane, kernel, mode="same") / np.maximum(count, 1.0))
            seen.append(count / kernel.sum())
        valid = (seen[0] > 0.8) & (seen[1] > 0.5) & field
        apart = np.where(valid, (means[0] - means[1]) * share**_LARGER, -np.inf)
        spread = float(np.std(apart[valid])) if valid.any() else 1.0
        top = np.unravel_index(int(apart.argmax()), apart.shape)
        if apart[top] > best[0]:
            best = (float(apart[top]), (float(top[0]), float(top[1]), r), float(apart[top]) / max(spread, 1e-9))
    return best[1], best[2]


def _rays(plane: Plane, middle: NDArray[np.float64], reach: NDArray[np.float64]) -> Plane:
    """Sample ``plane`` from the middle out to ``reach`` (n_angles,): shape (n_angles, n_steps)."""
    angle = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)[:, None]
    out = reach[:, None] * np.linspace(0, 1, _STEPS)
    places = np.stack([middle[0] + out * np.sin(angle), middle[1] + out * np.cos(angle)])
    return np.asarray(map_coordinates(plane, places, order=1, mode="nearest"))


def _contour(rays: Plane, within: tuple[float, float]) -> NDArray[np.float64]:
    """Return, as shares of the reach, the closed contour (n_angles,) along which brightness falls most, within two shares.

    Neighbouring angles differ by at most one step. The contour is smoothed to its first few harmonics (an ellipse off centre).
    """
    fall = -gaussian_filter1d(rays, 2.5, axis=1, order=1, mode="nearest")
    first, last = int(within[0] * (_STEPS - 1)), int(np.ceil(within[1] * (_STEPS - 1)))
    gain = gaussian_filter1d(fall, 1.5, axis=0, mode="wrap")[:, first : last + 1]
    steps = _closed_path(gain)
    strength = np.maximum(np.take_along_axis(gain, steps[:, None], axis=1)[:, 0], 0) + 1e-6
    angle = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
    design = np.column_stack([np.ones(_ANGLES), *(f(k * angle) for k in (1, 2) for f in (np.cos, np.sin))])
    weights = strength / strength.mean()
    radii = (first + steps) / (_STEPS - 1)
    for _ in range(3):  # pixels far off the ellipse (a vessel's edge) lose their weight
        fit = design @ np.linalg.lstsq(design * weights[:, None], radii * weights, rcond=None)[0]
        weights = strength / strength.mean() / (1 + ((radii - fit) / 0.05) ** 2)
    return np.asarray(np.clip(fit, *within))


def _cup(rays: Plane) -> NDArray[np.float64]:
    """Return the cup's contour as shares of the disc's radius, from rays that end at the disc's edge.

    The brightness of most angles (vessels darken some) is cut into two levels, inner and outer, that leave the least squares by
    area; the contour is looked for near that cut alone, because the fall at the disc's own edge is steeper than the cup's.
    """
    share = np.linspace(0, 1, _STEPS)
    profile, area = np.percentile(rays, 60, axis=0)[share < _RIM], share[share < _RIM]
    sums = [np.concatenate([[0.0], np.cumsum(area * profile**power)]) for power in (0, 1, 2)]
    cuts = np.arange(4, len(area) - 2)

    def left(start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.float64]:
        count, total, squares = (total[stop] - total[start] for total in sums)
        return np.asarray(squares - total**2 / count)

    cut = cuts[np.argmin(left(np.zeros_like(cuts), cuts) + left(cuts, np.full_like(cuts, len(area))))]
    return _contour(rays, (max(float(share[cut]) - 0.15, 0.04), min(float(share[cut]) + 0.15, _RIM + 0.1)))


def _closed_path(gain: Plane) -> NDArray[np.int64]:
    """Return the step at each angle of the closed path of largest total ``gain`` (n_angles, n_steps), by dynamic programming."""
    twice = np.concatenate([gain, gain])  # round twice: the second half of the path has forgotten where it started
    best, came = twice[0], np.zeros(twice.shape, dtype=np.int64)
    for row in range(1, len(twice)):
        padded = np.pad(best, 1, constant_values=-np.inf)
        options = np.stack([padded[:-2], padded[1:-1], padded[2:]])
        choice = options.argmax(axis=0)
        came[row] = np.arange(gain.shape[1]) + choice - 1
        best = options.max(axis=0) + twice[row]
    path = np.empty(len(twice), dtype=np.int64)
    path[-1] = int(best.argmax())
    for row in range(len(twice) - 1, 0, -1):
        path[row - 1] = came[row, path[row]]
    n = len(gain)
    start = n // 2
    return np.concatenate([path[n : n + start], path[start:n]])


def _recentred(middle: NDArray[np.float64], radii: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Return the contour's own middle, its mean radius, and its radii seen from there."""
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    points = middle + np.stack([radii * np.sin(angle), radii * np.cos(angle)], axis=1)
    centre = points.mean(axis=0)
    apart = points - centre
    turn = np.arctan2(apart[:, 0], apart[:, 1]) % (2 * np.pi)
    order = np.argsort(turn)
    seen = np.interp(angle, turn[order], np.hypot(*apart[order].T), period=2 * np.pi)
    return centre, float(seen.mean()), seen


def _filled(middle: NDArray[np.float64], radii: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels inside a contour given by its radii at even angles."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    down, across = rows - middle[0], columns - middle[1]
    angle = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    reach = np.interp(np.arctan2(down, across) % (2 * np.pi), angle, radii, period=2 * np.pi)
    return np.asarray(np.hypot(down, across) <= reach)
