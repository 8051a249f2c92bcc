"""How much of each pixel is which tissue, from brightness alone: for T1-weighted MR of a head without its skull.

The brightness of a scanner has no unit, but grey matter lies between fluid and white matter in all of them. Three means (k-means
over all pixels of a person) are the person's own scale; a pixel between two of them is part one tissue and part the other. What
lies inside of the head but is as dark as the ground (fluid) counts as fluid.

Reference
---------
Ashburner J, Friston KJ. Voxel-based morphometry: the methods. NeuroImage 11:805–821 (2000), doi:10.1006/nimg.2000.0582: smoothed
maps of tissue, compared between people after registration.

>>> picture = np.zeros((1, 1, 40, 40))
>>> picture[..., 4:36, 4:36] = 60.0
>>> picture[..., 8:32, 8:32] = 110.0
>>> picture[..., 14:26, 14:26] = 160.0
>>> maps = tissue_maps(picture)
>>> maps.shape, [round(float(m)) for m in maps[0].sum(axis=(1, 2))]
((1, 3, 40, 40), [448, 432, 144])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import TraitError

TISSUES = ("fluid", "grey", "white")
_ROUNDS = 30
_SAMPLE = 3  # every so many-th pixel finds the means


def tissue_means(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the brightness of fluid, grey and white matter: k-means of ``pixels``, (n,), from their 10, 50 and 90 % quantiles.

    Raises
    ------
    TraitError
        When the pixels do not have three levels.
    """
    values = np.asarray(pixels, dtype=np.float64)
    if not len(values) or np.ptp(values) == 0:
        raise TraitError("a picture has no three tissues", got="pixels that are all alike" if len(values) else "no pixel")
    means = np.quantile(values, (0.1, 0.5, 0.9))
    for _ in range(_ROUNDS):
        of = np.abs(values[:, None] - means).argmin(axis=1)
        count = np.bincount(of, minlength=3)
        moved = np.where(count > 0, np.bincount(of, weights=values, minlength=3) / np.maximum(count, 1), means)
        if np.array_equal(moved, means):
            break
        means = moved
    if not (np.diff(means) > 0).all():
        raise TraitError("a picture has no three tissues", got=f"levels at {', '.join(f'{m:.4g}' for m in means)}")
    return means


def tissue_scale(views: NDArray[Any], *, ground: float = 0.0) -> NDArray[np.float32]:
    """Return brightness as 1 (fluid), 2 (grey) and 3 (white matter) and all between; the ground is 0 and the brightest 4.

    Parameters
    ----------
    views
        Views of one person, (views, channels, height, width); the means are of all of them together.
    ground
        Pixels up to this are outside of the head.
    """
    inside = views[views > ground]
    fluid, grey, white = tissue_means(inside[::_SAMPLE])
    top = max(float(inside.max()), white + (white - grey))
    return np.asarray(np.interp(views, [ground, fluid, grey, white, top], [0, 1, 2, 3, 4]), dtype=np.float32)


def tissue_maps(views: NDArray[Any], *, ground: float = 0.0) -> NDArray[np.float32]:
    """Return the shares of fluid, grey and white matter in each pixel: (views, 1, height, width) to (views, 3, height, width)."""
    from scipy.ndimage import binary_closing, binary_fill_holes

    scale = tissue_scale(views, ground=ground)[:, 0]
    head = np.stack([binary_fill_holes(binary_closing(view[0] > ground, iterations=2)) for view in views])
    fluid = np.clip(2 - scale, 0, 1)
    grey = np.clip(1 - np.abs(scale - 2), 0, 1)
    white = np.clip(scale - 2, 0, 1)
    return np.asarray(np.stack([fluid, grey, white], axis=1) * head[:, None], dtype=np.float32)


def smoothed(maps: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    """Return maps (views, channels, height, width) blurred by a Gaussian of ``sigma`` pixels as a row of every σ/2-th pixel (at
    least every second is left out).
    """
    from scipy.ndimage import gaussian_filter

    step = max(2, int(sigma) // 2)
    blurred = gaussian_filter(np.asarray(maps, dtype=np.float32), (0, 0, sigma, sigma))
    return np.asarray(blurred[..., ::step, ::step].ravel())


def edges(views: NDArray[Any], *, ground: float = 0.0, sigma: float = 1.0) -> NDArray[np.float32]:
    """Return how steeply the tissue scale changes at each pixel, (views, channels, height, width): where tissues meet, how sharply.

    ``sigma`` is that of the Gaussian whose derivative is taken, in pixels.
    """
    from scipy.ndimage import gaussian_gradient_magnitude

    scale = tissue_scale(views, ground=ground)
    steep = [[gaussian_gradient_magnitude(channel, sigma) for channel in view] for view in scale]
    return np.asarray(steep, dtype=np.float32)


def local_histograms(
    values: NDArray[np.floating], low: float, high: float, *, levels: int = 10, cell: int = 12, sigma: float = 8.0
) -> NDArray[np.float32]:
    """Return, around every ``cell``-th pixel, how much of a picture has each of ``levels`` brightnesses, as one row.

    Parameters
    ----------
    values
        Shape (views, channels, height, width); 0 is the ground and counts nowhere.
    low, high
        The first and last level; a value between two levels counts for both in part.
    sigma
        Of the Gaussian that says how near counts as around, in pixels.
    """
    from scipy.ndimage import gaussian_filter

    step = (high - low) / (levels - 1)
    near = [np.clip(1 - np.abs(values - level) / step, 0, 1) * (values > 0) for level in np.linspace(low, high, levels)]
    around = gaussian_filter(np.stack(near).astype(np.float32), (0, 0, 0, sigma, sigma))
    return np.asarray(around[..., cell // 3 :: cell, cell // 3 :: cell].ravel())
