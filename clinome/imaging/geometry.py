"""What is done to the content of a picture: mirroring, rotation, scaling, shear, moves and elastic bends, drawn at random.

A geometry is in millimetres about the centre, so that a rotation stays one where voxels are not cubes; without a spacing a pixel
counts as 1 mm. :mod:`clinome.imaging.resample` reads pictures where it says.

References
----------
Rueckert D et al. Nonrigid registration using free-form deformations. IEEE Transactions on Medical Imaging 18:712–721 (1999),
doi:10.1109/42.796284: displacements as cubic B-splines on a coarse lattice.

>>> turned = draw_geometry(np.random.default_rng(1), Spread(rotation_degrees=15, mirror=(1,)), 2)
>>> turned.mirrored, bool(np.linalg.det(turned.matrix) < 0)
((False, True), True)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError

_NODES = 16  # a side of the lattice of displacements; beyond it the displacements repeat
_B_SPLINE_SQUARE = 151 / 315  # ∫B² of the cubic B-spline: the variance of u, per axis, from coefficients of variance 1


@dataclass(frozen=True)
class Spread:
    """How far augmentation may go; every default is "not at all".

    Attributes
    ----------
    rotation_degrees
        Largest angle either way. In 3-D one for all three axes, or one for each axis that is turned about (depth, height, width).
    scale
        Content is enlarged by a factor between 1 / (1 + scale) and 1 + scale, even on a log scale, the same on every axis.
    shear
        Largest shift per distance (tangent of the angle) between any two axes.
    shift_mm, shift
        Largest move along each axis, in mm and as a share of the output's side.
    elastic_mm, elastic_grid_mm
        Root mean square of the displacement along each axis, and the distance of the lattice points it is drawn at. At most a
        quarter of the distance, beyond which the map would fold.
    mirror
        Spatial axes (0 is the first after channels) that are each flipped in half of the draws.
    chance
        The share of draws in which rotation, scale, shear, shift and bend, each by itself, is done at all.

    Raises
    ------
    StudyError
        For a setting out of range.
    """

    rotation_degrees: float | tuple[float, ...] = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift_mm: float = 0.0
    shift: float = 0.0
    elastic_mm: float = 0.0
    elastic_grid_mm: float = 32.0
    mirror: tuple[int, ...] = ()
    chance: float = 1.0

    def __post_init__(self) -> None:
        numbers = (*np.atleast_1d(self.rotation_degrees), self.scale, self.shear, self.shift_mm, self.shift, self.elastic_mm)
        if not all(np.isfinite(n) and n >= 0 for n in numbers) or not 0 <= self.chance <= 1:
            raise StudyError("a spread of augmentation is out of range", got=self, expected="numbers of 0 or more; chance in 0–1")
        if self.elastic_mm > self.elastic_grid_mm / 4:
            raise StudyError(
                "elastic displacements would fold the picture onto itself",
                got=f"elastic_mm {self.elastic_mm:g} on a lattice of {self.elastic_grid_mm:g} mm",
                expected=f"at most {self.elastic_grid_mm / 4:g} mm",
                do="widen elastic_grid_mm or bend less",
            )


class Geometry(NamedTuple):
    """What is done to the content of a picture, in mm about the output's centre.

    Attributes
    ----------
    matrix
        A: places of the content before to places after, shape (ndim, ndim), mirroring included.
    shift_mm, shift
        Then it moves by this: mm and shares of the output's side, shape (ndim,) each.
    mirrored
        For each spatial axis, whether ``matrix`` flips it.
    lattice
        B-spline coefficients of the displacement in mm, shape (ndim, 16, … 16); None where nothing bends.
    lattice_mm
        The distance of its points; its middle lies on the output's centre.
    """

    matrix: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    shift: NDArray[np.float64]
    mirrored: tuple[bool, ...]
    lattice: NDArray[np.float64] | None = None
    lattice_mm: float = 1.0


def still(ndim: int) -> Geometry:
    """Return the geometry that leaves everything where it is."""
    return Geometry(np.eye(ndim), np.zeros(ndim), np.zeros(ndim), (False,) * ndim)


def draw_geometry(generator: np.random.Generator, spread: Spread, ndim: int) -> Geometry:
    """Draw one geometry for pictures of ``ndim`` (2 or 3) spatial axes; the same state of ``generator`` gives the same one.

    Raises
    ------
    StudyError
        When ``spread`` names an axis that is not there.
    """
    if any(axis not in range(ndim) for axis in spread.mirror) or np.size(spread.rotation_degrees) not in (1, ndim):
        raise StudyError("the spread of augmentation does not fit the picture", got=spread, expected=f"{ndim} spatial axes")
    turns, bends, *does = generator.random(5) < spread.chance  # rotation, elastic; scale, shear, shift

    def uniform(size: int, on: bool = True) -> NDArray[np.float64]:
        return generator.uniform(-1, 1, size) * on

    planes = list(combinations(range(ndim), 2))[::-1]  # of 3 axes: the one opposite to the axis turned about
    angles = np.deg2rad(spread.rotation_degrees) * uniform(len(planes), bool(turns))
    matrix = np.eye(ndim)
    for (a, b), angle in zip(planes, angles, strict=True):
        matrix = matrix @ rotation(angle, a, b, ndim)
    sheared = np.eye(ndim)
    sheared[tuple(np.transpose(planes))] = spread.shear * uniform(len(planes), bool(does[1]))
    factor = np.exp(np.log1p(spread.scale) * uniform(1, bool(does[0])))
    flips = generator.random(ndim) < 0.5
    mirrored = tuple(bool(flips[axis]) and axis in spread.mirror for axis in range(ndim))
    move = uniform(ndim, bool(does[2]))
    lattice = None
    if spread.elastic_mm > 0 and bends:
        size = spread.elastic_mm / _B_SPLINE_SQUARE ** (ndim / 2)
        lattice = size * generator.standard_normal((ndim, *(_NODES,) * ndim))
    signs = np.where(mirrored, -1.0, 1.0)
    return Geometry(
        matrix @ sheared * factor * signs, spread.shift_mm * move, spread.shift * move, mirrored, lattice, spread.elastic_grid_mm
    )


def rotation(radians: float, a: int, b: int, ndim: int) -> NDArray[np.float64]:
    """Return the matrix, (ndim, ndim), that turns axis ``a`` towards axis ``b``; by a quarter it does what ``np.rot90`` does
    with ``axes=(a, b)``.
    """
    matrix = np.eye(ndim)
    matrix[[a, b, a, b], [a, b, b, a]] = np.cos(radians), np.cos(radians), -np.sin(radians), np.sin(radians)
    return matrix


def b_spline(at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the weight of each lattice point at places ``at``, counted in its distances from its middle: (len(at), 16)."""
    at = at + _NODES / 2
    cell = np.floor(at)
    t = at - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    matrix = np.zeros((len(at), _NODES), dtype=np.float32)
    for k in range(4):
        matrix[np.arange(len(at)), (cell.astype(int) + k - 1) % _NODES] = weights[:, k]
    return matrix
