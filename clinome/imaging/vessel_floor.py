"""The floor of vessel segmentation: dark lines by the Laplacian of a Gaussian at several widths, without any training.

A vessel is darker than what is beside it, most of all in green, where blood absorbs and the retina does not. The Laplacian of a
Gaussian of standard deviation σ, times σ² so that widths can be compared, is largest on the axis of a dark line 2σ wide;
the largest over widths is the score. Whatever a network is said to find of vessels must be more than this finds.

References
----------
Lindeberg T. Feature detection with automatic scale selection. International Journal of Computer Vision 30:79–116 (1998),
doi:10.1023/A:1008045108935.

>>> picture = np.ones((1, 40, 40)); picture[0, :, 19:22] = 0.5
>>> score = vessel_floor(picture)
>>> bool(score[20, 20] > 5 * score[20, 30])
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FAR = 10.0  # pixels over which the field of view's edge is filled from inside


def vessel_floor(
    image: NDArray[Any], inside: NDArray[np.bool_] | None = None, *, sigmas: Sequence[float] = (1.0, 1.5, 2.0, 3.0, 4.0)
) -> NDArray[np.float32]:
    """Return how much each pixel looks like the axis of a dark line, shape (height, width); larger is more.

    Parameters
    ----------
    image
        Shape (channels, height, width): red, green, blue (green is looked at), or one channel.
    inside
        The field of view, shape (height, width). What lies outside is filled by the mean of what is near inside, so that its edge
        is no line, and scores 0.
    sigmas
        Of the Gaussians, in pixels.
    """
    from scipy.ndimage import gaussian_filter, gaussian_laplace

    green = np.asarray(image[1 if len(image) > 1 else 0], np.float32)
    if inside is not None:
        near = gaussian_filter(inside.astype(np.float32), _FAR)
        mean = gaussian_filter(np.where(inside, green, 0), _FAR) / np.maximum(near, 1e-6)
        green = np.where(inside, green, np.where(near > 1e-6, mean, green[inside].mean()))
    score = np.max([sigma**2 * gaussian_laplace(green, sigma) for sigma in sigmas], axis=0)
    return np.asarray(score if inside is None else score * inside, np.float32)
