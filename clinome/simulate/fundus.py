"""Photographs of the back of the eye, drawn from anatomy: optic disc and cup, macula, pigment, choroid and vessels.

Light that comes back from the retina is base colour × what every layer lets through, so layers add in the logarithm: a picture
is ``exp(Σ layer × coefficient per colour channel)``, one matrix product a batch. Blur acts on each layer in closed form (edges
widen, textures fade, vessels spread), which keeps a picture of 88 pixels below a millisecond. Lengths are in radii of the field
of view: a field of 45° is about 13 mm wide, a disc of 1.8 mm has a radius of 0.14.

>>> import numpy as np
>>> eyes = average_eyes(2, np.random.default_rng(1))
>>> render_fundus(eyes, size=64, generator=np.random.default_rng(2)).shape
(2, 64, 64, 3)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from clinome.simulate import vessels
from clinome.simulate.vessels import DISC, FOVEA, Array, View

SCANNERS = ("Aster 45", "Borealis NM", "Corona R2")
# Per scanner: colour cast (red, green, blue), half height of the visible field (radii; 1 is a full circle), sensor noise.
_CAST = np.array([[1.00, 1.00, 1.00], [1.06, 0.97, 0.86], [0.95, 1.03, 1.14]], np.float32)
_HALF_HEIGHT = np.array([1.0, 0.84, 0.93], np.float32)
_NOISE = np.array([0.016, 0.020, 0.013], np.float32)
_N_WAVES = 28
N_TEXTURE = 3 * _N_WAVES
_BATCH = 8


@dataclass(frozen=True)
class Eyes:
    """What a batch of photographs shows, one entry a picture along the first axis.

    Attributes
    ----------
    left
        Whether it is a left eye (mirrored: its disc lies on the left), bool, shape (n,).
    disc_radius
        Mean radius of the optic disc, field radii; about 0.14.
    cup_ratio
        Radius of the cup over that of the disc; about 0.45, below 0.95.
    pigmentation
        Melanin of the fundus, 0 (very light, choroid shines through) to 1 (very dark).
    calibre
        Vessel width relative to the average.
    tortuosity
        Sway of the vessels' heading, radians; about 0.3.
    branching
        Share of the possible vessel branches that are there, 0 to 1.
    geometry, texture
        What is individual in the vessel tree and the choroid: standard normals, shape (n, vessels.N_GEOMETRY) and
        (n, N_TEXTURE).
    scanner
        Row of ``SCANNERS``, int.
    illumination
        Exposure relative to the scanner's normal.
    blur
        Standard deviation of the optics, field radii; about 0.012.
    shift, turn
        How the eye was placed: offset of the retina in field radii, shape (n, 2), and rotation in radians.
    """

    left: NDArray[np.bool_]
    disc_radius: Array
    cup_ratio: Array
    pigmentation: Array
    calibre: Array
    tortuosity: Array
    branching: Array
    geometry: Array
    texture: Array
    scanner: NDArray[np.intp]
    illumination: Array
    blur: Array
    shift: Array
    turn: Array

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: NDArray[np.intp] | slice) -> Eyes:
        """Return the chosen pictures."""
        return Eyes(*(getattr(self, field.name)[rows] for field in fields(self)))


def average_eyes(n: int, generator: np.random.Generator) -> Eyes:
    """Return ``n`` right eyes of average anatomy, each with its own vessel tree and choroid, perfectly taken."""

    def all_of(value: float) -> Array:
        return np.full(n, value, np.float32)

    return Eyes(
        left=np.zeros(n, bool),
        disc_radius=all_of(0.14),
        cup_ratio=all_of(0.45),
        pigmentation=all_of(0.5),
        calibre=all_of(1),
        tortuosity=all_of(0.3),
        branching=all_of(0.55),
        geometry=vessels.draw_geometry(n, generator),
        texture=generator.standard_normal((n, N_TEXTURE), dtype=np.float32),
        scanner=np.zeros(n, np.intp),
        illumination=all_of(1),
        blur=all_of(0.01),
        shift=np.zeros((n, 2), np.float32),
        turn=all_of(0),
    )


def render_fundus(eyes: Eyes, *, size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Photograph ``eyes``.

    Parameters
    ----------
    size
        Pixels of a side, at least 32; 80–96 for small encoders, 256 and more for people.
    generator
        Draws the sensor noise; nothing else is random here.

    Returns
    -------
    NDArray[np.uint8]
        Red, green, blue, shape (n, size, size, 3).
    """
    pictures = np.empty((len(eyes), size, size, 3), np.uint8)
    for start in range(0, len(eyes), _BATCH):
        rows = slice(start, min(start + _BATCH, len(eyes)))
        pictures[rows] = _render(eyes.take(rows), size, generator)
    return pictures


def _render(eyes: Eyes, size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    n = len(eyes)
    layers, colours = _layers(eyes, size, _view(eyes, size))
    light = np.exp(_product(layers.reshape(n, layers.shape[1], -1).transpose(0, 2, 1), colours))  # (n, pixels, 3)
    light *= (_CAST[eyes.scanner] * eyes.illumination[:, None])[:, None]
    brightness, tint = generator.standard_normal((2, n, size * size), dtype=np.float32) * _NOISE[eyes.scanner][:, None]
    light += brightness[..., None]
    light[..., 0] += np.float32(0.4) * tint  # noise after demosaicing: mostly of brightness, some between red and blue
    light[..., 2] -= np.float32(0.4) * tint
    light *= _aperture(eyes, size).reshape(n, -1, 1)
    light += np.float32(0.012)  # the black surround is never quite black
    bright = light > 0.85  # the shoulder of a camera's response: bright discs saturate softly
    light[bright] = 0.85 + 0.15 * np.tanh((light[bright] - 0.85) / 0.15)
    light *= 255
    light += 0.5
    return np.clip(light, 0, 255).astype(np.uint8).reshape(n, size, size, 3)


def _product(left: Array, right: Array) -> Array:
    """Return ``left @ right`` in bands of rows so small that BLAS stays on one thread.

    Several processes draw pictures at once; threads of theirs that wait for each other cost far more than they bring.
    """
    rows = max(1, 2**17 // (right.shape[-2] * right.shape[-1]))
    product = np.empty((*left.shape[:-1], right.shape[-1]), np.float32)
    for start in range(0, left.shape[-2], rows):
        np.matmul(left[:, start : start + rows], right, out=product[:, start : start + rows])
    return product


def _view(eyes: Eyes, size: int) -> View:
    n = len(eyes)
    scale = np.full(n, 0.485 * size, np.float32)
    mirror = np.where(eyes.left, -1, 1).astype(np.float32)
    cosine, sine = np.cos(eyes.turn), np.sin(eyes.turn)
    matrix = scale[:, None, None] * np.stack([np.stack([cosine * mirror, -sine], -1), np.stack([sine * mirror, cosine], -1)], 1)
    middle = np.float32((size - 1) / 2) + scale[:, None] * eyes.shift
    return View(matrix.astype(np.float32), middle.astype(np.float32), scale)


def _aperture(eyes: Eyes, size: int) -> Array:
    """Return the field of view, 1 inside, 0 in the black surround; it belongs to the camera and does not move with the eye."""
    axis = ((np.arange(size) - (size - 1) / 2) / (0.485 * size)).astype(np.float32)
    pixel = 1 / (0.485 * size)
    radius = np.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
    circle = np.clip((0.985 - radius) / (1.5 * pixel) + 0.5, 0, 1)
    band = np.clip((_HALF_HEIGHT[eyes.scanner][:, None] - np.abs(axis)) / (1.5 * pixel) + 0.5, 0, 1)
    field: Array = (circle * band[:, :, None]).astype(np.float32)
    return field


def _layers(eyes: Eyes, size: int, view: View) -> tuple[Array, Array]:
    """Return the layers (n, n_layers, size, size) and what each does to the logarithm of each channel (n, n_layers, 3)."""
    n = len(eyes)
    inverse = np.linalg.inv(view.matrix.astype(np.float64)).astype(np.float32)[..., None, None]
    axis = np.arange(size, dtype=np.float32)
    dx = (axis[None, :] - view.middle[:, :1])[:, None, :]
    dy = (axis[None, :] - view.middle[:, 1:])[:, :, None]
    x = inverse[:, 0, 0] * dx + inverse[:, 0, 1] * dy  # retina, as in a right eye
    y = inverse[:, 1, 0] * dx + inverse[:, 1, 1] * dy
    blur = eyes.blur + np.float32(0.35) / view.scale  # optics and pixel

    from_disc = np.hypot(x - np.float32(DISC[0]), (y - np.float32(DISC[1])) * np.float32(1 / 1.08))
    disc = _inside(from_disc, eyes.disc_radius, 0.008, blur)
    from_cup = np.hypot(x - np.float32(DISC[0] - 0.012), (y - np.float32(DISC[1])) * np.float32(1 / 1.04))
    cup = _inside(from_cup, eyes.disc_radius * eyes.cup_ratio, 0.014, blur)
    rim = np.exp(-(((from_disc - eyes.disc_radius[:, None, None]) * np.float32(1 / 0.055)) ** 2)) * (1 - disc)
    from_fovea = (x - np.float32(FOVEA[0])) ** 2 + ((y - np.float32(FOVEA[1])) * np.float32(1.08)) ** 2
    macula = np.exp(from_fovea * np.float32(-1 / 0.20**2))
    fovea = np.exp(from_fovea * np.float32(-1 / 0.045**2))
    # Nerve fibres leave the disc in two bright bundles, above and below on the temporal side.
    band = np.exp(-(((np.abs(y - np.float32(DISC[1])) - 0.25) * np.float32(1 / 0.16)) ** 2 + ((x - 0.18) / 0.32) ** 2))
    edge = x**2 + y**2
    depth = vessels.optical_depth(
        vessels.grow(eyes.geometry, calibre=eyes.calibre, tortuosity=eyes.tortuosity, branching=eyes.branching),
        size=size,
        view=view,
        blur=(eyes.blur * view.scale).astype(np.float32),
    )
    choroid = _choroid(eyes, view, size, blur) * (1 - disc)
    bare = np.ones_like(disc) - disc
    temporal_disc = disc * np.clip((np.float32(DISC[0]) - x) / eyes.disc_radius[:, None, None], -1, 1)
    stack = (bare, disc, cup, rim, macula, fovea, band * bare, edge, x, temporal_disc, choroid, depth[:, 0], depth[:, 1])
    return np.stack(stack, axis=1).astype(np.float32), _colours(eyes, n)


def _inside(distance: Array, radius: Array, softness: float, blur: Array) -> Array:
    """Return how much of each pixel lies inside ``radius``: a logistic edge as wide as its softness and the blur together."""
    width = np.sqrt(np.float32(softness**2) + blur**2) * np.float32(0.6)
    within: Array = np.float32(0.5) + np.float32(0.5) * np.tanh((radius[:, None, None] - distance) / (2 * width[:, None, None]))
    return within


def _choroid(eyes: Eyes, view: View, size: int, blur: Array) -> Array:
    """Return a choroidal texture: plane waves of random direction, sharpened into a net of bright and dark streaks.

    A plane wave is an outer product of two complex exponentials along the picture's axes, so a sum of waves is a matrix product.
    """
    direction, pace, phase = np.split(eyes.texture, 3, axis=1)
    angle = np.pi * direction
    frequency = np.exp(np.log(2 * np.pi / 0.24) + 0.5 * pace)  # radians a field radius
    wave = np.stack([np.cos(angle), np.sin(angle)], -1) * frequency[..., None]  # in retina coordinates
    inverse = np.linalg.inv(view.matrix.astype(np.float64)).astype(np.float32)
    kx, ky = np.einsum("nkr,nrp->pnk", wave, inverse)  # radians a pixel
    fade = np.exp(-0.5 * (frequency * blur[:, None]) ** 2) * np.sqrt(2 / _N_WAVES)
    axis = np.arange(size, dtype=np.float32)
    across = kx[:, :, None] * (axis - view.middle[:, :1, None])
    down = ky[:, :, None] * (axis - view.middle[:, 1:, None]) + (np.pi * phase)[..., None]
    # cos(a + b) = cos a cos b − sin a sin b, summed over waves.
    left = np.concatenate([np.cos(down), np.sin(down)], axis=1) * np.concatenate([fade, -fade], axis=1)[..., None]
    right = np.concatenate([np.cos(across), np.sin(across)], axis=1)
    field = _product(left.astype(np.float32).transpose(0, 2, 1), right.astype(np.float32))
    streaks: Array = np.float32(0.5) - np.float32(0.9) * np.sqrt(field**2 + np.float32(0.05)) + np.float32(0.45) * field
    return streaks


def _colours(eyes: Eyes, n: int) -> Array:
    """Return what each layer does to the logarithm of red, green and blue, shape (n, n_layers, 3); order as in ``_layers``."""
    light, dark = np.log([0.86, 0.47, 0.25]), np.log([0.50, 0.235, 0.115])
    pigment = eyes.pigmentation[:, None]
    net = 0.62 - 0.42 * pigment  # a light fundus shows its choroid
    one = np.ones((n, 1))
    rows = (
        light + (dark - light) * pigment,  # bare retina
        one * np.log([0.94, 0.60, 0.34]),  # disc
        one * np.array([0.06, 0.44, 0.78]),  # cup
        -(0.25 + 0.5 * pigment) * np.array([0.35, 0.30, 0.20]),  # pigmented rim of the disc
        -(0.62 + 0.5 * pigment) * np.array([0.42, 0.50, 0.35]),  # macula
        one * np.array([-0.10, -0.16, -0.10]),  # fovea
        one * np.array([0.02, 0.14, 0.16]),  # nerve fibres
        one * np.array([-0.42, -0.52, -0.50]),  # fall of light towards the edge
        one * np.array([0.05, 0.07, 0.08]),  # nasal side a little brighter
        one * np.array([0.00, 0.07, 0.08]),  # temporal rim paler
        net * np.array([0.10, 0.14, 0.15]),  # choroid
        one * np.array([-7.0, -30.0, -21.0]),  # arteries, per field radius of blood
        one * np.array([-17.0, -34.0, -21.0]),  # veins
    )
    return np.stack(rows, axis=1).astype(np.float32)
