"""Apply a network to a picture or volume of any size, patch by patch, with memory that does not depend on the network.

Patches overlap; where they do, their predictions are averaged with weights that fall off from the middle of a patch (a Gaussian),
because a network knows least about what lies at its edge. A picture smaller than a patch is laid on zeros. A network without
padding, whose output is smaller than its input by a margin, sees the picture continued by reflection beyond its edges: the
overlap-tile strategy of the U-Net.

What :func:`sliding_window` averages is what ``predict`` returns: give it probabilities. Test-time augmentation is a function around
``predict`` (:func:`mirrored`), so each patch is turned, predicted and turned back while it is at hand.

References
----------
Ronneberger O, Fischer P, Brox T. U-Net. MICCAI (2015), figure 2, doi:10.1007/978-3-319-24574-4_28. Gaussian weights: Isensee F
et al. nnU-Net. Nature Methods 18:203–211 (2021), doi:10.1038/s41592-020-01008-z.

>>> picture = np.arange(70.0, dtype=np.float32).reshape(1, 7, 10)
>>> bool(np.allclose(sliding_window(lambda patches: patches + 1, picture, patch=(4, 4)), picture + 1))
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinome.core.errors import StudyError

Predict = Callable[[Tensor], Tensor]
Weights = Literal["gaussian", "uniform"]

_SIGMA = 1 / 8  # of the patch's side
_LEAST = 1e-3  # weight of a corner, relative to the middle's 1


def sliding_window(
    predict: Predict,
    image: NDArray[np.floating],
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    weights: Weights = "gaussian",
    margin: int = 0,
    batch: int = 4,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the average of ``predict`` over overlapping patches of ``image``: (channels, [depth,] height, width) to (k, …).

    Parameters
    ----------
    predict
        From patches, (n, channels, *patch), to (n, k, *patch), each side ``2 · margin`` shorter.
    image
        May be mapped from disk: only patches of it are copied.
    patch
        Sides of what ``predict`` sees, one for each axis of space.
    overlap
        Share of a patch (of its output) that the next one repeats, 0 up to but not including 1.
    weights
        ``gaussian`` (standard deviation an eighth of the side) or ``uniform``.
    margin
        By how much the output of ``predict`` is smaller at every side.
    batch
        Patches predicted together; memory beside the result is that of one batch and of one number per pixel.
    out
        Where to put the result, shape (k, *spatial), for instance mapped from disk.

    Raises
    ------
    StudyError
        When the patch does not fit the image's axes, the overlap is not in [0, 1), or ``predict`` returns another shape.
    """
    space = image.shape[1:]
    sides = tuple(side - 2 * margin for side in patch)
    if len(sides) != len(space) or min(sides) < 1 or not 0 <= overlap < 1:
        raise StudyError(
            "a picture cannot be cut into such patches",
            got=f"patch {tuple(patch)}, margin {margin}, overlap {overlap:g} for space {space}",
            expected=f"{len(space)} sides above twice the margin, and an overlap from 0 to below 1",
        )
    weight = window(sides, weights)
    total = np.zeros(space, np.float32)
    places = list(starts(space, sides, overlap))
    for begin in range(0, len(places), batch):
        some = places[begin : begin + batch]
        seen = torch.from_numpy(np.stack([cut(image, [s - margin for s in start], patch, reflect=margin > 0) for start in some]))
        with torch.inference_mode():
            said = predict(seen).float().cpu().numpy()
        if said.shape[0] != len(some) or said.shape[2:] != sides:
            raise StudyError(
                "a network's output is not of the size of its patch",
                got=said.shape,
                expected=(len(some), "k", *sides),
                do="set margin",
            )
        if out is None:
            out = np.zeros((said.shape[1], *space), np.float32)
        elif begin == 0:
            out[...] = 0
        for start, one in zip(some, said, strict=True):
            here, there = _common(start, sides, space)
            out[(slice(None), *here)] += one[(slice(None), *there)] * weight[there]
            total[here] += weight[there]
    assert out is not None  # there is always a patch
    for row in out:
        row /= total
    return out


def mirrored(predict: Predict, axes: Sequence[int] = (), *, quarter_turns: bool = False) -> Predict:
    """Return a function that averages ``predict`` over mirror images (and turns) of its patches, each turned back.

    Parameters
    ----------
    axes
        Axes of space to mirror, 0 for the first after the channels; all their combinations are taken.
    quarter_turns
        Also turn by 0, 90, 180 and 270 degrees in the last two axes, whose patch must be square. Together with one of these two in
        ``axes`` these are the eight symmetries of a square.
    """
    flips = [tuple(axis + 2 for axis in some) for n in range(len(axes) + 1) for some in combinations(axes, n)]
    views = [(flip, turn) for flip in flips for turn in (range(4) if quarter_turns else range(1))]

    def averaged(patches: Tensor) -> Tensor:
        total: Tensor | None = None
        for flip, turn in views:
            seen = torch.rot90(patches.flip(flip), turn, (-2, -1))
            said = torch.rot90(predict(seen).float(), -turn, (-2, -1)).flip(flip)
            total = said if total is None else total + said
        assert total is not None
        return total / len(views)

    return averaged


def window(sides: Sequence[int], weights: Weights) -> NDArray[np.float32]:
    """Return how much each pixel of a patch counts, shape ``sides``: 1 at most and 0.001 at least."""
    if weights == "uniform":
        return np.ones(sides, np.float32)
    weight = np.ones((), np.float32)
    for side in sides:
        place = np.arange(side) - (side - 1) / 2
        weight = weight[..., None] * np.exp(-(place**2) / (2 * (_SIGMA * side) ** 2)).astype(np.float32)
    return np.maximum(weight, _LEAST).astype(np.float32)


def starts(space: Sequence[int], sides: Sequence[int], overlap: float) -> Iterator[tuple[int, ...]]:
    """Yield where patches begin: at every step of (1 − overlap) sides, the last one moved back to end at the edge.

    On an axis shorter than the patch there is one, which begins before the image so that the image lies in its middle.

    >>> list(starts((10,), (4,), 0.5)), list(starts((9,), (4,), 0.0)), list(starts((3,), (6,), 0.5))
    ([(0,), (2,), (4,), (6,)], [(0,), (4,), (5,)], [(-1,)])
    """
    axes = []
    for length, side in zip(space, sides, strict=True):
        if length <= side:
            axes.append([-((side - length) // 2)])
            continue
        step = max(int(side * (1 - overlap)), 1)
        axes.append(list(dict.fromkeys(min(start, length - side) for start in range(0, length - side + step, step))))
    yield from product(*axes)


def cut(image: NDArray[np.floating], start: Sequence[int], patch: Sequence[int], *, reflect: bool = False) -> NDArray[np.float32]:
    """Return the patch of ``image`` that begins at ``start``, shape (channels, *patch), float32.

    Beyond the image's edges lie zeros, or with ``reflect`` its mirror image (without repeating the edge, over and over).
    """
    space = image.shape[1:]
    if not reflect:
        here, there = _common(start, patch, space)
        whole = np.zeros((image.shape[0], *patch), np.float32)
        whole[(slice(None), *there)] = image[(slice(None), *here)]
        return whole
    for axis, (first, side, length) in enumerate(zip(start, patch, space, strict=True), start=1):
        place = np.abs(np.arange(first, first + side)) % max(2 * (length - 1), 1)
        image = np.take(image, np.minimum(place, 2 * (length - 1) - place), axis=axis)
    return np.ascontiguousarray(image, np.float32)


def _common(start: Sequence[int], sides: Sequence[int], space: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return what a patch and the image share, as slices of the image and of the patch."""
    here = tuple(slice(max(s, 0), min(s + side, length)) for s, side, length in zip(start, sides, space, strict=True))
    there = tuple(slice(h.start - s, h.stop - s) for h, s in zip(here, start, strict=True))
    return here, there
