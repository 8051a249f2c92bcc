"""From a picture or volume to what a network takes: one size, one interpolation, one normalisation, the same when it predicts.

>>> preparation = Preparation((8, 8))
>>> picture = np.arange(144.0).reshape(1, 12, 12)
>>> prepared(picture, preparation).shape, round(float(prepared(picture, preparation).mean()), 6)
((1, 8, 8), 0.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.imaging.geometry import Geometry, Spread, draw_geometry
from clinome.imaging.intensity import Change, local_contrast, standardise, vary, z_score
from clinome.imaging.resample import resample

Images = Sequence[NDArray[Any]] | NDArray[Any]


@dataclass(frozen=True)
class Preparation:
    """How pictures are prepared; it is saved with the weights.

    Attributes
    ----------
    shape
        ([depth,] height, width) that the network takes. Pictures of another shape are scaled to it, sides independently.
    normalise
        ``picture``: each picture (each view) gets mean 0 and deviation 1, so that brightness and contrast of the device do not
        count. ``local``: each pixel is compared with those around it (:func:`~clinome.imaging.intensity.local_contrast`, a Gaussian
        of a seventh of the shortest side), so that slow shading and the device's curve do not count either. Two numbers: a fixed
        mean and deviation.
    outside
        What lies outside of a picture that was turned or shifted: its border goes on (``edge``), or a number.
    mirrored
        Whether left eyes and limbs come in mirrored, so that right and left look alike. Who reads the files does it, of training
        pictures and of new ones; nothing here does.
    """

    shape: tuple[int, ...]
    normalise: Literal["picture", "local"] | tuple[float, float] = "picture"
    outside: Literal["edge"] | float = "edge"
    mirrored: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise StudyError("a network takes pictures of two or three axes", got=self.shape)


def prepared(values: NDArray[Any], preparation: Preparation, geometry: Geometry | None = None) -> NDArray[np.float32]:
    """Return ``values``, (channels, *spatial) or (views, channels, *spatial), as the network takes them."""
    dims = len(preparation.shape)
    if values.ndim == dims + 2:
        return np.stack([prepared(view, preparation, geometry) for view in values])
    return _normalised(_scaled(values, preparation, geometry), preparation)


def augmented(
    values: NDArray[Any], preparation: Preparation, spread: Spread, change: Change, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return :func:`prepared` values moved within ``spread`` and changed within ``change``; every view by itself."""
    dims = len(preparation.shape)
    if values.ndim == dims + 2:
        return np.stack([augmented(view, preparation, spread, change, generator) for view in values])
    moved = _scaled(values, preparation, draw_geometry(generator, spread, dims))
    return _normalised(vary(moved, change, generator), preparation)


def _scaled(values: NDArray[Any], preparation: Preparation, geometry: Geometry | None) -> NDArray[np.float32]:
    shape = preparation.shape
    if values.ndim != len(shape) + 1:
        raise StudyError(
            "a picture does not have the axes that the network takes",
            got=values.shape,
            expected=f"(channels, {len(shape)} axes of space), or several views of that",
        )
    step = [n / m for n, m in zip(values.shape[1:], shape, strict=True)]
    # In units of the output's pixels, so that a turn stays one whatever the input's shape was.
    spacing = [1 / s for s in step]
    out = resample(values, geometry, shape=shape, spacing=spacing, out_spacing=(1.0,) * len(shape), fill=preparation.outside)
    return np.asarray(out, dtype=np.float32)


def _normalised(values: NDArray[np.float32], preparation: Preparation) -> NDArray[np.float32]:
    if preparation.normalise == "picture":
        return z_score(values)
    if preparation.normalise == "local":
        return local_contrast(values, sigma=min(preparation.shape) / 7)
    return standardise(values, *preparation.normalise)
