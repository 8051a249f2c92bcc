"""Latent anatomy: six traits of the eye, what drives them, and what a photograph shows of them.

A latent is a sum of standardised parts whose shares of variance add up to one: planted loci, a polygenic background, a curved
effect of age, sex, their interaction, deme, blood pressure (both ends), smoking, and the environment. Eyes and visits differ a
little from the person's latent, so that left and right, and first and second visit, correlate at about 0.86 and 0.96.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.simulate import vessels
from clinome.simulate.fundus import N_TEXTURE, SCANNERS, Eyes

Values = NDArray[np.float64]

LATENTS = ("disc_size", "cup_ratio", "pigmentation", "vessel_calibre", "tortuosity", "branching")

# Curved effects of age, in decades from 57; each is standardised before use.
_AGE: dict[str, Callable[[Values], Values]] = {
    "disc_size": lambda a: -(a**2),
    "cup_ratio": lambda a: np.log1p(np.exp(2.5 * (a - 0.3))),
    "pigmentation": lambda a: -np.log(2.4 + a),
    "vessel_calibre": lambda a: -a - 0.5 * a**2,
    "tortuosity": lambda a: (a - 0.2) ** 2 + 0.4 * a,
    "branching": lambda a: -np.exp(0.8 * a),
}
#                    age   sex   age×sex deme  pressure smoking polygenic background
_SHARES = {
    "disc_size": (0.02, 0.02, 0.01, 0.02, 0.00, 0.00, 0.10),
    "cup_ratio": (0.10, 0.01, 0.03, 0.01, 0.01, 0.00, 0.10),
    "pigmentation": (0.05, 0.02, 0.01, 0.06, 0.00, 0.01, 0.10),
    "vessel_calibre": (0.10, 0.02, 0.02, 0.01, 0.06, 0.02, 0.10),
    "tortuosity": (0.10, 0.01, 0.02, 0.01, 0.06, 0.01, 0.10),
    "branching": (0.08, 0.01, 0.01, 0.01, 0.02, 0.00, 0.10),
}
_DEME = {"A": 0.0, "B": 0.6, "C": 1.5}
_OF_EYE, _OF_VISIT = 0.33, 0.22  # standard deviations around the person's latent
_ALIKE = 0.5  # share of the vessel tree's and choroid's individuality that both eyes have in common
_HOME_SCANNER = 0.6  # share of the pictures taken with the centre's own camera


def draw_latents(
    people: pl.DataFrame, planted: Values, background: Values, planted_share: Values, generator: np.random.Generator
) -> Values:
    """Draw each person's latents.

    Parameters
    ----------
    people
        Columns age, sex, smoking, systolic_pressure (no missing values) and deme, n rows.
    planted
        Sum of the planted loci's effects on each latent, already in standard deviations of it, shape (n, 6).
    background
        Polygenic scores in any unit, shape (n, 6); zeros leave the background out.
    planted_share
        Share of each latent's variance that was planted, shape (6,).

    Returns
    -------
    Values
        Standardised latents, columns in the order of ``LATENTS``, shape (n, 6).
    """
    n = people.height
    age = (people["age"].to_numpy() - 57) / 10
    male = (people["sex"] == "male").to_numpy().astype(float)
    deme = np.array([_DEME[d] for d in people["deme"]])
    pressure = (people["systolic_pressure"].to_numpy() - 125) / 15
    smoking = people["smoking"].replace_strict({"never": 0.0, "former": 0.4, "current": 1.0}).to_numpy()
    latents = np.empty((n, len(LATENTS)))
    for k, name in enumerate(LATENTS):
        curve = _standard(_AGE[name](age))
        parts = (curve, male, curve * (male - male.mean()), deme, pressure**2 + 0.5 * pressure, smoking, background[:, k])
        shares = np.array(_SHARES[name]) * [bool(np.ptp(part) > 0) for part in parts]
        rest = 1 - shares.sum() - planted_share[k]
        latents[:, k] = planted[:, k] + np.sqrt(rest) * generator.standard_normal(n)
        for part, share in zip(parts, shares, strict=True):
            latents[:, k] += np.sqrt(share) * _standard(part)
    return latents


def _standard(values: Values) -> Values:
    deviation = values.std()
    standard: Values = (values - values.mean()) / (deviation if deviation > 0 else 1)
    return standard


def photographed(latents: Values, centre: NDArray[np.int64], generator: np.random.Generator) -> Eyes:
    """Put people before the camera: both eyes at two visits each.

    Parameters
    ----------
    latents
        Shape (n, 6), order of ``LATENTS``.
    centre
        The centre of each person, which has a camera of its own but not only that one, shape (n,).

    Returns
    -------
    Eyes
        4 n pictures: person by person; left at visit 0 and 1, right at visit 0 and 1.
    """
    n = len(latents)
    shape = (n, 2, 2)  # person, eye, visit
    seen = latents[:, None, None, :] + _OF_EYE * generator.standard_normal((n, 2, 1, len(LATENTS)))
    seen = seen + _OF_VISIT * generator.standard_normal((*shape, len(LATENTS)))
    disc, cup, pigment, calibre, tortuosity, branching = np.moveaxis(seen.reshape(-1, len(LATENTS)), 1, 0)

    def individual(width: int) -> vessels.Array:
        person = generator.standard_normal((n, 1, 1, width), dtype=np.float32)
        eye = generator.standard_normal((n, 2, 1, width), dtype=np.float32)
        mixed = np.float32(np.sqrt(_ALIKE)) * person + np.float32(np.sqrt(1 - _ALIKE)) * eye
        return np.repeat(mixed, 2, axis=2).reshape(-1, width)

    visits = generator.random((n, 1, 2)) < _HOME_SCANNER
    scanner = np.where(visits, centre[:, None, None], generator.integers(0, len(SCANNERS), (n, 1, 2)))

    def normal(*more: int) -> Values:
        return generator.standard_normal((4 * n, *more))

    return Eyes(
        left=np.tile([True, True, False, False], n),
        disc_radius=_single(0.148 * np.exp(0.13 * disc)),
        cup_ratio=_single(np.clip(0.45 + 0.14 * cup, 0.05, 0.92)),
        pigmentation=_single(1 / (1 + np.exp(-1.1 * pigment))),
        calibre=_single(np.exp(0.15 * calibre)),
        tortuosity=_single(0.28 * np.exp(0.4 * tortuosity)),
        branching=_single(1 / (1 + np.exp(-0.1 - 0.7 * branching))),
        geometry=individual(vessels.N_GEOMETRY),
        texture=individual(N_TEXTURE),
        scanner=np.broadcast_to(scanner, shape).reshape(-1).astype(np.intp),
        illumination=_single(np.exp(0.10 * normal())),
        blur=_single(np.clip(0.011 * np.exp(0.30 * normal()), 0.004, 0.03)),
        shift=_single(0.028 * normal(2)),
        turn=_single(0.05 * normal()),
    )


def _single(values: Values) -> vessels.Array:
    return values.astype(np.float32)
