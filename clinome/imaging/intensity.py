"""Changes of grey and colour: normalisation, which is part of the measurement, and augmentation, which imitates other devices.

Arrays are (channels, [depth,] height, width) and come back as float32. Each change is a function of the values and of a few
numbers, so that it can be looked at alone; :func:`vary` draws the numbers within a :class:`Change` and applies them in the order
in which a device would: its field, its optics, its noise, its settings, its display. Strengths of what is added are in standard
deviations of the picture, so that they mean the same before and after normalisation.

References
----------
Isensee F et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature Methods 18:203–211
(2021), doi:10.1038/s41592-020-01008-z: which changes serve on scans, and how strong.
Van Leemput K et al. Automated model-based bias field correction of MR images of the brain. IEEE Transactions on Medical Imaging
18:885–896 (1999), doi:10.1109/42.811268: the field of a coil as the exponential of a polynomial.

>>> scan = np.arange(16.0).reshape(1, 4, 4)
>>> contrast(scan, 2.0).ravel()[:3].tolist()  # twice as far from the mean of 7.5
[-7.5, -5.5, -3.5]
>>> vary(scan, Change(brightness=0.2, noise=0.1), np.random.default_rng(1)).shape
(1, 4, 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError

Values = NDArray[np.float32]
_ROUNDING = 1e-6  # of the mean: deviations in which a picture of one value comes out of float32 sums
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green, blue in 0–1
_DEGREE = 3  # of the polynomial of a bias field


def standardise(
    values: NDArray[Any],
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    low: float | Sequence[float] = -np.inf,
    high: float | Sequence[float] = np.inf,
) -> Values:
    """Clip to ``low`` … ``high``, subtract ``mean`` and divide by ``std``: numbers fixed beforehand, one or one for each channel.

    What CT wants (Hounsfield units mean something), and networks trained elsewhere. A ``std`` of 0 counts as 1.
    """
    sides = (-1, *(1,) * (values.ndim - 1))
    bottom, top, middle, spread = (np.asarray(x, dtype=np.float32).reshape(sides) for x in (low, high, mean, std))
    limited = values if np.isneginf(bottom).all() and np.isposinf(top).all() else np.clip(values, bottom, top)
    out: Values = np.subtract(limited, middle, dtype=np.float32)
    out *= 1 / np.where(spread > 0, spread, np.float32(1))
    return out


def window(values: NDArray[Any], low: float, high: float) -> Values:
    """Map ``low`` … ``high`` onto 0–1 and clip what lies beyond: a CT window.

    Raises
    ------
    StudyError
        When ``high`` is not above ``low``.
    """
    if not high > low:
        raise StudyError("a window ends below its start", got=f"{low:g} … {high:g}")
    return standardise(values, low, high - low, low=low, high=high)


def imagenet(pixels: NDArray[np.uint8]) -> Values:
    """Standardise 8-bit red, green and blue, shape (3, height, width), as networks trained on ImageNet expect."""
    mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    return standardise(pixels, mean.tolist(), std.tolist())


def z_score(values: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Values:
    """Give each channel mean 0 and standard deviation 1 within ``mask``, shape of the spatial axes (None: everywhere).

    What MR wants, whose units are arbitrary. A channel that does not vary, but for the rounding of a resample, becomes 0.
    """
    inside = [channel[mask] if mask is not None and mask.any() else channel for channel in values]
    mean = [float(x.mean(dtype=np.float64)) for x in inside]
    std = [float(x.std(dtype=np.float64)) for x in inside]
    flat = np.array([s <= _ROUNDING * abs(m) for s, m in zip(std, mean, strict=True)])
    found = standardise(values, mean, std)
    found[flat] = 0.0
    return found


def local_contrast(values: NDArray[Any], sigma: float) -> Values:
    """Subtract from each pixel the mean around it and divide by the deviation around it; then each channel has mean 0, deviation 1.

    What radiographs of several devices want: exposure, slow shading and the curve of each device fall away, edges stay. Around
    means under a Gaussian of ``sigma`` pixels. A tenth of the channel's mean deviation is added to that of each pixel, so that
    noise of flat regions is not blown up. After Jarrett K, Kavukcuoglu K, Ranzato M, LeCun Y, What is the best multi-stage
    architecture for object recognition?, ICCV 2009, doi:10.1109/ICCV.2009.5459469, §2 (there the mean deviation is the
    least that is divided by).
    """
    x = z_score(values)
    x -= blur(x, sigma)
    deviation = np.sqrt(blur(x * x, sigma))
    typical = deviation.mean(tuple(range(1, values.ndim)), keepdims=True)
    return z_score(x / (deviation + 0.1 * typical + _ROUNDING))


def percentile_window(values: NDArray[Any], low: float = 0.5, high: float = 99.5, mask: NDArray[np.bool_] | None = None) -> Values:
    """Map the ``low`` and ``high`` percentile of each channel, within ``mask``, onto 0 and 1 and clip what lies beyond."""
    inside = [channel[mask] if mask is not None and mask.any() else channel for channel in values]
    bottom, top = np.array([np.percentile(x, (low, high)) for x in inside]).T
    return standardise(values, bottom.tolist(), (top - bottom).tolist(), low=bottom.tolist(), high=top.tolist())


def brightness(values: NDArray[Any], amount: float) -> Values:
    """Add ``amount`` standard deviations of the picture to every value."""
    return np.asarray(values, dtype=np.float32) + np.float32(amount * values.std())


def contrast(values: NDArray[Any], factor: float) -> Values:
    """Move values ``factor`` times as far from their mean."""
    middle = np.float32(values.mean())
    out: Values = np.multiply(values, np.float32(factor), dtype=np.float32)
    out += middle * np.float32(1 - factor)
    return out


def gamma(values: NDArray[Any], exponent: float) -> Values:
    """Raise values, scaled to 0–1 by the picture's own least and greatest, to ``exponent``, and scale back."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.asarray(values, dtype=np.float32)
    out: Values = np.subtract(values, np.float32(low), dtype=np.float32)
    out *= np.float32(1 / (high - low))
    np.power(np.maximum(out, 0, out=out), np.float32(exponent), out=out)
    out *= np.float32(high - low)
    out += np.float32(low)
    return out


def invert(values: NDArray[Any]) -> Values:
    """Turn dark and bright around, keeping least and greatest: a film printed the other way."""
    return np.float32(values.max()) + np.float32(values.min()) - np.asarray(values, dtype=np.float32)


def colour(values: NDArray[Any], gains: Sequence[float]) -> Values:
    """Multiply each channel, counted from the picture's least value, by its gain."""
    least = np.float32(values.min())
    factor = np.asarray(gains, dtype=np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    return (np.asarray(values, dtype=np.float32) - least) * factor + least


def blur(values: NDArray[Any], sigma: float) -> Values:
    """Blur every spatial axis by a Gaussian of ``sigma`` voxels, cut at three."""
    from scipy.ndimage import gaussian_filter

    blurred: Values = gaussian_filter(
        np.asarray(values, dtype=np.float32), (0.0, *(sigma,) * (values.ndim - 1)), mode="nearest", truncate=3.0
    )
    return blurred


def noise(values: NDArray[Any], amount: float, seed: int) -> Values:
    """Add independent normal noise of ``amount`` standard deviations of the picture; ``seed`` says which."""
    drawn = np.random.default_rng(seed).standard_normal(values.shape, dtype=np.float32)
    drawn *= np.float32(amount * values.std())
    drawn += values
    return drawn


def bias_field(values: NDArray[Any], coefficients: NDArray[np.floating]) -> Values:
    """Multiply values, counted from the picture's least, by a smooth field, as the coils of an MR scanner do.

    Parameters
    ----------
    coefficients
        Of the logarithm of the field, a polynomial in places that run from −1 to 1 on each axis: shape (4,) × number of spatial
        axes, the entry (i, j, k) of depthⁱ · heightʲ · widthᵏ.
    """
    field = np.asarray(coefficients, dtype=np.float32)
    for n in values.shape[1:]:
        powers = np.vander(np.linspace(-1, 1, n, dtype=np.float32), field.shape[0], increasing=True)
        field = np.tensordot(field, powers, axes=([0], [1]))  # the axis in front is worked off and comes back last
    least = np.float32(values.min())
    return (np.asarray(values, dtype=np.float32) - least) * np.exp(field) + least


def low_resolution(values: NDArray[Any], factor: float) -> Values:
    """Average onto a grid ``factor`` times as coarse along every spatial axis, and interpolate back linearly."""
    import torch
    from torch.nn import functional as F

    sides = values.shape[1:]
    whole = torch.from_numpy(np.require(values, np.float32, ("C", "W")))[None]
    small = F.interpolate(whole, size=[max(round(n / factor), 1) for n in sides], mode="area")
    mode = "bilinear" if len(sides) == 2 else "trilinear"
    return np.asarray(F.interpolate(small, size=sides, mode=mode, align_corners=False)[0].numpy())


@dataclass(frozen=True)
class Change:
    """How strongly augmentation may change values; every default is "not at all".

    Attributes
    ----------
    brightness
        Largest amount added or taken away, in standard deviations of the picture.
    contrast, gamma
        Largest factor and exponent, as 1 + this; the least is its inverse.
    blur
        Largest sigma in voxels.
    noise
        Largest standard deviation, in those of the picture.
    bias_field
        Largest coefficient of the field's logarithm.
    low_resolution
        Largest factor of coarseness, as 1 + this.
    colour
        Largest gain of a channel, as 1 + this; the least is its inverse. Each channel draws its own.
    invert
        The chance that dark and bright trade places.
    chance
        The share of draws in which each of the others, by itself, is done at all.
    by_channel
        Whether channels are changed each by itself (sequences of a scan) and not all alike (colours of a photograph).

    Raises
    ------
    StudyError
        For a setting out of range.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    bias_field: float = 0.0
    low_resolution: float = 0.0
    colour: float = 0.0
    invert: float = 0.0
    chance: float = 1.0
    by_channel: bool = False

    def __post_init__(self) -> None:
        numbers = [float(getattr(self, field.name)) for field in fields(self)]
        if not all(np.isfinite(n) and n >= 0 for n in numbers) or max(self.invert, self.chance) > 1:
            raise StudyError("a change of values is out of range", got=self, expected="numbers of 0 or more; chances in 0–1")


class Amounts(NamedTuple):
    """What one draw does, in the order it is done; None leaves a step out."""

    bias_field: NDArray[np.float64] | None
    blur: float | None
    noise: tuple[float, int] | None
    brightness: float | None
    contrast: float | None
    low_resolution: float | None
    gamma: float | None
    colour: NDArray[np.float64] | None
    invert: bool


def draw_amounts(generator: np.random.Generator, change: Change, channels: int, ndim: int) -> Amounts:
    """Draw how much to change a picture of ``channels`` channels and ``ndim`` spatial axes."""
    does = dict(zip([f.name for f in fields(change)], generator.random(len(fields(change))), strict=True))
    unit = dict(zip(does, generator.uniform(-1, 1, len(does)), strict=True))

    def on(name: str) -> bool:
        return bool(getattr(change, name) > 0 and does[name] < change.chance)

    def factor(name: str) -> float | None:
        return float(np.exp(np.log1p(getattr(change, name)) * unit[name])) if on(name) else None

    degree = np.indices((_DEGREE + 1,) * ndim).sum(axis=0)
    drawn = generator.uniform(-1, 1, degree.shape) * ((degree > 0) & (degree <= _DEGREE))
    gains = np.exp(np.log1p(change.colour) * generator.uniform(-1, 1, channels))
    seed = int(generator.integers(2**63))
    return Amounts(
        bias_field=change.bias_field * drawn if on("bias_field") else None,
        blur=change.blur * abs(unit["blur"]) if on("blur") else None,
        noise=(change.noise * abs(unit["noise"]), seed) if on("noise") else None,
        brightness=change.brightness * unit["brightness"] if on("brightness") else None,
        contrast=factor("contrast"),
        low_resolution=1 + change.low_resolution * abs(unit["low_resolution"]) if on("low_resolution") else None,
        gamma=factor("gamma"),
        colour=gains if on("colour") else None,
        invert=bool(does["invert"] < change.invert),
    )


def apply(values: NDArray[Any], amounts: Amounts) -> Values:
    """Change ``values`` by ``amounts``; the picture that was given stays as it is."""
    out: Values = np.asarray(values, dtype=np.float32)
    if amounts.bias_field is not None:
        out = bias_field(out, amounts.bias_field)
    if amounts.blur is not None:
        out = blur(out, amounts.blur)
    if amounts.noise is not None:
        out = noise(out, *amounts.noise)
    if amounts.brightness is not None:
        out = brightness(out, amounts.brightness)
    if amounts.contrast is not None:
        out = contrast(out, amounts.contrast)
    if amounts.low_resolution is not None:
        out = low_resolution(out, amounts.low_resolution)
    if amounts.gamma is not None:
        out = gamma(out, amounts.gamma)
    if amounts.colour is not None:
        out = colour(out, amounts.colour.tolist())
    if amounts.invert:
        out = invert(out)
    return out.copy() if out is values else out


def vary(values: NDArray[Any], change: Change, generator: np.random.Generator) -> Values:
    """Change ``values``, shape (channels, *spatial), by amounts drawn within ``change``."""
    if change.by_channel and len(values) > 1:
        return np.concatenate([vary(channel[None], change, generator) for channel in values])
    return apply(values, draw_amounts(generator, change, len(values), values.ndim - 1))
