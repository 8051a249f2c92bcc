"""What a retinal vessel tree looks like: centre lines grown from the optic disc, and the light they take away.

A vessel is a centre line whose heading is integrated along its length: arcades leave the disc steeply and bend around the
macula, a sum of sines on the heading makes them tortuous, branches leave at 30°–60° and split the parent's flow by Murray's
rule (the cube of the radius is shared; Murray 1926, doi:10.1073/pnas.12.3.207). Light that crosses a round vessel loses
optical depth in proportion to its chord, so a piece of vessel of width w adds a spot with mass ∝ w² · length; pictures are sums
of such spots, which is exact below the size of a pixel and makes the width measurable at any resolution.

Coordinates are those of a right eye, in radii of the field of view: x to the right (nasal), y down (inferior), origin in the
middle of the field. Left eyes are mirrored by the caller.

>>> import numpy as np
>>> geometry = draw_geometry(2, np.random.default_rng(1))
>>> geometry.shape == (2, N_GEOMETRY)
True
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

DISC = (0.42, -0.03)
FOVEA = (-0.30, 0.03)

# The mains in the frame (temporal, away from the midline): quadrant signs, first heading, last heading, how fast it bends,
# length, relative radius, vein or not. Headings are in degrees from the temporal axis.
_MAINS = np.array(
    [
        # temporal away  first  last  bend  length radius vein
        (1, -1, 104, -16, 0.62, 1.75, 1.00, 0),
        (1, +1, 104, -16, 0.62, 1.75, 1.00, 0),
        (1, -1, 88, -10, 0.72, 1.75, 1.00, 1),
        (1, +1, 88, -10, 0.72, 1.75, 1.00, 1),
        (-1, -1, 66, 40, 0.60, 0.95, 0.72, 0),
        (-1, +1, 62, 38, 0.60, 0.95, 0.72, 0),
        (-1, -1, 50, 24, 0.60, 0.95, 0.76, 1),
        (-1, +1, 46, 26, 0.60, 0.95, 0.76, 1),
        (1, -1, 34, -6, 0.30, 0.62, 0.38, 0),
        (1, +1, 30, -6, 0.30, 0.62, 0.38, 1),
        (-1, -1, 14, 4, 0.40, 0.80, 0.40, 0),
        (-1, +1, 10, 2, 0.40, 0.80, 0.40, 1),
    ],
    dtype=np.float32,
)
N_MAIN, N_BRANCH, N_TWIG = len(_MAINS), 6, 3  # branches a main, twigs a branch
_POINTS = (64, 18, 8)  # along a main, a branch, a twig
_WAVES = 3
_N_LINES = (N_MAIN, N_MAIN * N_BRANCH, N_MAIN * N_BRANCH * N_TWIG)
_PER_LINE = 5 + _WAVES  # heading, bend, place, length, order of appearance, phases of the waves
N_GEOMETRY = sum(_N_LINES) * _PER_LINE

_RADIUS = (0.0135, 0.0175)  # of an artery and a vein at the disc, before calibre
_SHARE = np.float32(0.32)  # of its parent's cubed radius that a branch takes


class Lines(NamedTuple):
    """Centre lines of one generation of vessels.

    ``x, y, heading, radius`` have shape (n_eyes, n_lines, n_points), in field radii and radians; ``step`` is the distance of
    two points, shape (n_eyes, n_lines); ``vein`` is 0 or 1, shape (n_lines,); ``present`` in [0, 1] is how far a line has
    grown, shape (n_eyes, n_lines).
    """

    x: Array
    y: Array
    heading: Array
    radius: Array
    step: Array
    vein: NDArray[np.intp]
    present: Array


def draw_geometry(n: int, generator: np.random.Generator) -> Array:
    """Draw what is individual in ``n`` vessel trees: standard normals, shape (n, N_GEOMETRY).

    Eyes of one person are made alike by mixing two draws: ``sqrt(a) * person + sqrt(1 - a) * eye`` is standard normal again.
    """
    return generator.standard_normal((n, N_GEOMETRY), dtype=np.float32)


def grow(geometry: Array, *, calibre: Array, tortuosity: Array, branching: Array) -> tuple[Lines, Lines, Lines]:
    """Grow the trees of ``n`` eyes: mains, branches and twigs.

    Parameters
    ----------
    geometry
        From :func:`draw_geometry`, shape (n, N_GEOMETRY).
    calibre
        Width of all vessels relative to the average, shape (n,).
    tortuosity
        Amplitude of the sway of the heading in radians, shape (n,).
    branching
        Share of the possible branches and twigs that are there, in [0, 1], shape (n,).
    """
    n = len(geometry)
    pieces = np.split(geometry, np.cumsum([k * _PER_LINE for k in _N_LINES])[:-1], axis=1)
    normals = [piece.reshape(n, lines, _PER_LINE) for piece, lines in zip(pieces, _N_LINES, strict=True)]
    mains = _mains(normals[0], calibre, tortuosity)
    mains, branches = _branch(mains, normals[1], tortuosity, branching, points=_POINTS[1], length=(0.22, 0.42))
    branches, twigs = _branch(branches, normals[2], tortuosity, branching, points=_POINTS[2], length=(0.08, 0.17))
    return mains, branches, twigs


def _mains(normals: Array, calibre: Array, tortuosity: Array) -> Lines:
    temporal, away, first, last, bend, length, radius, vein = _MAINS.T
    s = np.linspace(0, 1, _POINTS[0], dtype=np.float32)
    first_heading = np.deg2rad(first)[None, :] + 0.10 * normals[..., 0]
    last_heading = np.deg2rad(last)[None, :] + 0.12 * normals[..., 1]
    reach = bend[None, :] * np.exp(0.16 * normals[..., 2])
    size = length[None, :] * np.exp(0.05 * normals[..., 3])
    angle = last_heading[..., None] + (first_heading - last_heading)[..., None] * np.exp(-s * (size / reach)[..., None])
    angle += _sway(normals, tortuosity, s * size[..., None])
    # From (temporal, away from the midline) to picture axes: temporal of a right eye is −x, superior is −y.
    heading = np.arctan2(away[None, :, None] * np.sin(angle), -temporal[None, :, None] * np.cos(angle))
    start_x = np.broadcast_to(np.float32(DISC[0] + 0.012), size.shape)
    start_y = np.broadcast_to(np.float32(DISC[1]) + 0.01 * away[None, :], size.shape)
    kind = vein.astype(np.intp)
    at_disc = np.array(_RADIUS, np.float32)[kind] * radius * np.exp(0.08 * normals[..., 4]) * calibre[:, None]
    # Over the disc the vessels rise out of the cup and are seen only in part.
    risen = 0.45 + 0.55 * np.minimum(s * size[..., None] / np.float32(0.13), 1)
    widths = at_disc[..., None] * (1 - 0.10 * s) * risen
    return _integrate(start_x, start_y, heading, widths, size, kind, np.ones_like(size))


def _branch(
    parents: Lines, normals: Array, tortuosity: Array, branching: Array, *, points: int, length: tuple[float, float]
) -> tuple[Lines, Lines]:
    """Grow lines from each parent, on alternating sides; ``length`` is (shortest, longest) in field radii.

    Returns the parents, thinned beyond each branch by what has left, and the branches.
    """
    n, lines, n_points = parents.x.shape
    normals = normals.reshape(n, lines, -1, _PER_LINE)
    order = np.arange(normals.shape[2], dtype=np.float32)
    count = len(order)
    place = (0.14 + 0.78 * (order + 0.5) / count) + 0.25 / count * np.clip(normals[..., 2], -1.5, 1.5)
    index = np.clip(np.rint(place * (n_points - 1)), 1, n_points - 2).astype(np.intp)

    def at(values: Array) -> Array:
        return np.take_along_axis(values, index, axis=2)

    side = np.where((np.arange(lines)[:, None] + np.arange(count)) % 2, 1.0, -1.0).astype(np.float32)
    s = np.linspace(0, 1, points, dtype=np.float32)
    size = (length[0] + (length[1] - length[0]) * (1 - place)) * np.exp(0.18 * normals[..., 3])
    leave = side * (0.80 + 0.14 * normals[..., 0])
    # Branches turn back towards the course of their parent, as vessels that drain one sector do.
    heading = at(parents.heading)[..., None] + leave[..., None] * (1 - 0.35 * s) + 0.25 * normals[..., 1, None] * s
    heading += _sway(normals, tortuosity, s * size[..., None])
    # A branch appears when the eye's branching passes its own threshold, and grows over a short range: counts change smoothly.
    threshold = 0.5 + 0.5 * np.tanh(0.8 * normals[..., 4])
    present = np.clip((branching[:, None, None] - threshold) / 0.15 + 0.5, 0, 1) * parents.present[..., None]
    # Murray: cubed radii add up at each branching, so each takes its share of the cube that earlier ones have left.
    left = 1 - _SHARE * present
    after = np.cumprod(left, axis=2)
    radius = at(parents.radius) * (_SHARE * after / left) ** np.float32(1 / 3)
    beyond = np.arange(n_points) > index[..., None]
    thinner = np.prod(np.where(beyond, left[..., None], np.float32(1)), axis=2) ** np.float32(1 / 3)
    widths = radius[..., None] * (1 - 0.40 * s)
    grown = _integrate(at(parents.x), at(parents.y), heading, widths, size, np.repeat(parents.vein, count), present)

    def flat(values: Array) -> Array:
        return values.reshape(n, lines * count, *values.shape[3:])

    children = (flat(grown.x), flat(grown.y), flat(grown.heading), flat(grown.radius), flat(grown.step), grown.vein, flat(present))
    return parents._replace(radius=parents.radius * thinner), Lines(*children)


def _sway(normals: Array, tortuosity: Array, distance: Array) -> Array:
    """Sum sines of three wavelengths along the line, with individual phases; tapering in from the start of the line."""
    total = np.zeros(distance.shape, np.float32)
    amplitude = tortuosity.reshape(-1, *[1] * (distance.ndim - 1))
    for k, (wavelength, weight) in enumerate(((0.34, 0.75), (0.21, 0.55), (0.13, 0.40))):
        total += np.float32(weight) * np.sin(distance * np.float32(2 * np.pi / wavelength) + 2.2 * normals[..., 5 + k, None])
    total *= amplitude * np.minimum(distance / np.float32(0.08), 1)
    return total


def _integrate(x: Array, y: Array, heading: Array, radius: Array, length: Array, vein: NDArray[np.intp], present: Array) -> Lines:
    step = length / (heading.shape[-1] - 1)
    along_x = np.cumsum(np.cos(heading), axis=-1) * step[..., None]
    along_y = np.cumsum(np.sin(heading), axis=-1) * step[..., None]
    return Lines(
        (x[..., None] + along_x).astype(np.float32),
        (y[..., None] + along_y).astype(np.float32),
        heading.astype(np.float32),
        radius.astype(np.float32),
        step.astype(np.float32),
        vein,
        present.astype(np.float32),
    )


class View(NamedTuple):
    """How the retina of each picture lies on the pixels: ``pixel = matrix @ retina + middle``.

    ``matrix`` has shape (n, 2, 2) and holds scale (pixels a field radius), rotation, and the mirror of left eyes; ``middle``
    has shape (n, 2), pixel coordinates (x, y); ``scale`` has shape (n,).
    """

    matrix: Array
    middle: Array
    scale: Array


def optical_depth(tree: tuple[Lines, ...], *, size: int, view: View, blur: Array) -> Array:
    """Draw the light that a tree takes away, per picture and kind of vessel.

    Parameters
    ----------
    tree
        From :func:`grow`.
    size
        Pixels of a side.
    view
        Where the retina lies on the pixels.
    blur
        Standard deviation of the optics in pixels, shape (n,).

    Returns
    -------
    Array
        Chord length through vessels in field radii, averaged over each pixel, shape (n, 2, size, size): arteries, veins.
    """
    n = len(blur)
    pixels, masses = [], []
    for lines in tree:
        dots = _dots(lines, view, times=max(1, int(np.ceil(float(np.max(lines.step * view.scale[:, None])) / 2.1))))
        strands = max(1, int(np.ceil(2 * float(np.max(dots.radius, initial=0)) / 1.1)))
        places = (2 * np.arange(strands) + 1) / strands - 1
        chords = np.sqrt(1 - places**2)
        for across, share in zip(places, chords / chords.sum(), strict=True):
            corner, spot = _strand(dots, size=size, across=float(across), share=float(share))
            pixels.append(corner)
            masses.append(spot)
    corner, spot = np.concatenate(pixels), np.concatenate(masses, axis=1)
    around = (0, 1, size + 2, size + 3)
    total = np.zeros(n * 2 * (size + 2) ** 2)
    for offset, weights in zip(around, spot, strict=True):
        total += np.bincount(corner + offset, weights=weights, minlength=len(total))
    canvas = total.reshape(n, 2, size + 2, size + 2)[..., 1:-1, 1:-1].astype(np.float32)
    return _blurred(canvas, np.sqrt(blur**2 + np.float32(0.3**2)))


class _Dots(NamedTuple):
    """Points of vessels on the pixels, flat: place, unit normal, radius (all in pixels), mass, and layer (eye × 2 + vein)."""

    x: Array
    y: Array
    normal_x: Array
    normal_y: Array
    radius: Array
    mass: Array
    layer: NDArray[np.intp]


def _dots(lines: Lines, view: View, *, times: int) -> _Dots:
    """Put the points of ``lines`` that can be seen on the pixels, ``times`` as many, by straight interpolation."""
    points = lines.x.shape[-1]
    radius = _refine(lines.radius, times)
    seen = (radius * radius * lines.present[..., None] > 5e-6) & (_refine(lines.x**2 + lines.y**2, times) < 1.1)
    eye, line, point = np.nonzero(seen)
    x, y, radius = _refine(lines.x, times)[seen], _refine(lines.y, times)[seen], radius[seen]
    heading = lines.heading[eye, line, point // times]
    step = (lines.step * lines.present)[eye, line] * np.float32((points - 1) / (points * times - 1))
    from_fovea = (x - np.float32(FOVEA[0])) ** 2 + (y - np.float32(FOVEA[1])) ** 2
    scale = view.scale[eye]
    # Over the cross-section a chord integrates to π r²; the middle of the macula has no vessels.
    mass = np.float32(np.pi) * (radius * scale) ** 2 * step * (1 - np.exp(from_fovea * np.float32(-1 / 0.13**2)))
    (xx, xy), (yx, yy) = view.matrix.transpose(1, 2, 0)[..., eye]
    cosine, sine = np.cos(heading) / scale, np.sin(heading) / scale
    return _Dots(
        xx * x + xy * y + view.middle[eye, 0],
        yx * x + yy * y + view.middle[eye, 1],
        xy * cosine - xx * sine,
        yy * cosine - yx * sine,
        radius * scale,
        mass,
        eye * 2 + lines.vein[line],
    )


def _refine(values: Array, times: int) -> Array:
    if times == 1:
        return values
    points = values.shape[-1]
    place = np.linspace(0, points - 1, points * times, dtype=np.float32)
    low = np.minimum(place.astype(np.intp), points - 2)
    weight = place - low
    between: Array = values[..., low] * (1 - weight) + values[..., low + 1] * weight
    return between


def _strand(dots: _Dots, *, size: int, across: float, share: float) -> tuple[NDArray[np.intp], Array]:
    """Return one strand of every vessel: the points at ``across`` (−1 … 1) of the width, with ``share`` of the chords.

    A point's mass falls on the four pixels around it in proportion to nearness. Returned are the upper left of them, counted
    through (eye, kind, row, column) with one pixel of margin all round, and the four masses, shape (4, n_points): upper left,
    upper right, lower left, lower right.
    """
    px, py = dots.x + 1, dots.y + 1
    if across:
        px += np.float32(across) * dots.radius * dots.normal_x
        py += np.float32(across) * dots.radius * dots.normal_y
    inside = (px >= 0) & (px < size + 1) & (py >= 0) & (py < size + 1)
    px, py, mass = px[inside], py[inside], np.float32(share) * dots.mass[inside]
    column, row = px.astype(np.intp), py.astype(np.intp)
    right, down = px - column.astype(np.float32), py - row.astype(np.float32)
    corner = (dots.layer[inside] * (size + 2) + row) * (size + 2) + column
    spot = np.empty((4, len(px)), np.float32)
    spot[3] = mass * down * right
    spot[2] = mass * down - spot[3]
    spot[1] = mass * right - spot[3]
    spot[0] = mass - mass * down - spot[1]
    return corner, spot


def _blurred(pictures: Array, spread: Array) -> Array:
    """Blur ``pictures`` (n, kinds, size, size) by a Gaussian of ``spread`` pixels (n,), one axis after the other."""
    half = int(np.ceil(3 * float(np.max(spread))))
    size = pictures.shape[-1]
    weights = np.exp(-0.5 * (np.arange(half + 1, dtype=np.float32) / spread[:, None]) ** 2)
    weights /= weights[:, :1] + 2 * weights[:, 1:].sum(axis=1, keepdims=True)
    for axis in (2, 3):
        margin = [(0, 0)] * 4
        margin[axis] = (half, half)
        padded = np.moveaxis(np.pad(pictures, margin), axis, 2)
        blurred = weights[:, :1, None, None] * padded[:, :, half : half + size]
        for k in range(1, half + 1):
            both = padded[:, :, half - k : half - k + size] + padded[:, :, half + k : half + k + size]
            both *= weights[:, k, None, None, None]
            blurred += both
        pictures = np.moveaxis(blurred, 2, axis)
    return pictures
