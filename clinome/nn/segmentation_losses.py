"""Losses of pixelwise classification, in 2-D and 3-D: cross entropy, soft Dice, both, focal; sparse labels; border weights.

Scores before softmax have shape (n, classes, *spatial). The target is either classes, integers of shape (n, *spatial) in which
:data:`UNKNOWN` (−1) marks pixels nobody labelled, or shares of the classes, shape (n, classes, *spatial), as an interpolated label
map has them. ``weight``, shape (n, *spatial), says how much each pixel counts; unknown pixels count nothing in any loss. With few
slices of a volume labelled and all else unknown this is the sparse annotation of the 3-D U-Net.

References
----------
Cross entropy with border weights: Ronneberger O, Fischer P, Brox T. U-Net. MICCAI (2015), equations 1–2,
doi:10.1007/978-3-319-24574-4_28. Unlabelled voxels of weight 0: Çiçek Ö et al. 3D U-Net. MICCAI (2016),
doi:10.1007/978-3-319-46723-8_49. Soft Dice: Milletari F, Navab N, Ahmadi SA. V-Net. 3DV (2016), doi:10.1109/3DV.2016.79; over the
batch, and its sum with cross entropy: Isensee F et al. nnU-Net. Nature Methods 18:203–211 (2021), doi:10.1038/s41592-020-01008-z.
Focal: Lin TY et al. Focal loss for dense object detection. ICCV (2017), doi:10.1109/ICCV.2017.324.

>>> scores = torch.tensor([[[4.0, 0.0], [0.0, 4.0]]])
>>> right, wrong = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
>>> bool(soft_dice(scores, right) < 0.05 < 0.9 < soft_dice(scores, wrong))
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clinome.core.errors import StudyError

UNKNOWN = -1


class Shares(NamedTuple):
    """Shares of the classes, (n, classes, *spatial), and how much each pixel counts, (n, 1, *spatial)."""

    classes: Tensor
    weight: Tensor


def shares(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Shares:
    """Return ``target`` (classes with unknowns, or shares) and ``weight`` in the form that all losses share.

    Raises
    ------
    StudyError
        When the shapes do not fit those of ``scores``.
    """
    n, classes, *spatial = scores.shape
    counts = scores.new_ones((n, 1, *spatial)) if weight is None else weight.to(scores.dtype).reshape(n, 1, *spatial)
    if target.shape == scores.shape:
        return Shares(target.to(scores.dtype), counts)
    if target.shape != (n, *spatial):
        raise StudyError(
            "the labels do not fit the network's output",
            got=tuple(target.shape),
            expected=f"{(n, *spatial)} of classes, or {tuple(scores.shape)} of their shares",
        )
    known = target != UNKNOWN
    one_hot = F.one_hot(target.clamp(min=0).long(), classes).movedim(-1, 1).to(scores.dtype)
    return Shares(one_hot * known[:, None], counts * known[:, None])


def cross_entropy(scores: Tensor, target: Tensor, weight: Tensor | None = None, *, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean over known pixels of −Σ share · log probability, each pixel by its weight; 0 when none is known.

    Parameters
    ----------
    class_weights
        Shape (classes,): multiplies a pixel's weight by that of its class. The mean is over the weights, so that only their ratio
        matters.
    """
    classes, counts = shares(scores, target, weight)
    if class_weights is not None:
        counts = counts * torch.einsum("nc...,c->n...", classes, class_weights.to(scores))[:, None]
    each = -(classes * F.log_softmax(scores, dim=1)).sum(dim=1, keepdim=True)
    return (each * counts).sum() / counts.sum().clamp(min=1e-8)


def focal_loss(scores: Tensor, target: Tensor, weight: Tensor | None = None, *, gamma: float = 2.0) -> Tensor:
    """Return cross entropy with the term of each class times (1 − its probability) ^ ``gamma``: easy pixels count little."""
    classes, counts = shares(scores, target, weight)
    log_probability = F.log_softmax(scores, dim=1)
    missing = (1 - log_probability.exp()).clamp(min=1e-8)  # the power's slope at 0 is not finite for small gamma
    each = -(classes * missing**gamma * log_probability).sum(dim=1, keepdim=True)
    return (each * counts).sum() / counts.sum().clamp(min=1e-8)


def soft_dice(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    over_batch: bool = True,
    background: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    """Return 1 − the mean over classes of 2 Σ pq / (Σ p + Σ q), with p the probability and q the share of a class.

    Parameters
    ----------
    over_batch
        Sum over the batch's pixels ("batch Dice": steadier where a patch may hold nothing of a class), or over each example's
        and then take the mean.
    background
        Whether class 0 takes part.
    smooth
        Added above and below; a class that is absent and not predicted then has a Dice of 1.
    """
    classes, counts = shares(scores, target, weight)
    probability = scores.softmax(dim=1) * counts
    classes = classes * counts
    if not background:
        probability, classes = probability[:, 1:], classes[:, 1:]
    pixels = tuple(range(2, scores.ndim))
    axes = (0, *pixels) if over_batch else pixels
    # p · q of a pixel must count once, not squared, when its weight is not 0 or 1
    common = (probability * classes / counts.clamp(min=1e-8)).sum(axes)
    dice = (2 * common + smooth) / (probability.sum(axes) + classes.sum(axes) + smooth)
    return 1 - dice.mean()


def dice_cross_entropy(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    dice: float = 1.0,
    focal: float = 0.0,
    over_batch: bool = True,
) -> Tensor:
    """Return cross entropy plus ``dice`` times soft Dice of the classes other than background: the loss of nnU-Net.

    Instead of cross entropy, :func:`focal_loss` of exponent ``focal`` where that is above 0.
    """
    loss = focal_loss(scores, target, weight, gamma=focal) if focal else cross_entropy(scores, target, weight)
    return loss + dice * soft_dice(scores, target, weight, over_batch=over_batch) if dice else loss


def over_levels(
    output: Tensor | Sequence[Tensor], target: Tensor, weight: Tensor | None = None, *, dice: float = 1.0, focal: float = 0.0
) -> Tensor:
    """Return :func:`dice_cross_entropy` of a network that may score several levels of resolution, finest first.

    Each level counts half as much as the one before; labels and weights of a coarser one are those nearest to its pixels' middles.
    (Deep supervision: Lee CY et al. Deeply-supervised nets. AISTATS (2015), arXiv:1409.5185.)

    Parameters
    ----------
    output
        Scores (n, classes, *spatial), or of each level.
    target, weight
        Classes with unknowns at the finest level, shape (n, *spatial); how much each pixel counts, of that shape.
    """
    levels = [output] if isinstance(output, Tensor) else list(output)
    total = levels[0].new_zeros(())
    for k, scores in enumerate(levels):
        size = scores.shape[2:]
        known = weight if weight is None else _nearest(weight, size)
        total = total + 0.5**k * dice_cross_entropy(scores, _nearest(target, size), known, dice=dice, focal=focal)
    return total / sum(0.5**k for k in range(len(levels)))


def _nearest(values: Tensor, size: Sequence[int]) -> Tensor:
    """Return a map, (n, *spatial), at another size: the values nearest to the new pixels' middles, of the same type."""
    if values.shape[1:] == tuple(size):
        return values
    return F.interpolate(values[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].to(values.dtype)


def border_weights(instances: NDArray[np.integer], *, height: float = 10.0, sigma: float = 5.0) -> NDArray[np.float32]:
    """Return how much each pixel counts so that touching objects are kept apart: shape and axes of ``instances``.

    Background pixels get ``1 + height · exp(−(d1 + d2)² / 2 sigma²)`` with d1 and d2 the distances in pixels to the nearest and to
    the second nearest object, all others 1. (The paper adds a weight that balances the classes; give that as ``class_weights``.)

    Parameters
    ----------
    instances
        Numbers of the objects, 0 for background, shape (*spatial).
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    weight = np.ones(instances.shape, np.float32)
    reach = int(np.ceil(4 * sigma))  # beyond which the exponential is below 0.0004
    nearest, next_one = (np.full(instances.shape, np.inf, np.float32) for _ in range(2))
    for number, box in enumerate(find_objects(np.asarray(instances, np.int64)), start=1):
        if box is None:
            continue
        sides = zip(box, instances.shape, strict=True)
        around = tuple(slice(max(s.start - reach, 0), min(s.stop + reach, length)) for s, length in sides)
        away = distance_transform_edt(instances[around] != number).astype(np.float32)
        next_one[around] = np.minimum(next_one[around], np.maximum(nearest[around], away))
        nearest[around] = np.minimum(nearest[around], away)
    outside = instances == 0
    total = (nearest + next_one)[outside]
    weight[outside] += (height * np.exp(-(total**2) / (2 * sigma**2))).astype(np.float32)
    return weight
