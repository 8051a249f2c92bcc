"""The floor of a segmentation in a standard pose: the mean shape of the training labels, whatever the image shows.

Training labels are stretched to one grid and averaged class by class; a new image gets, at each place, the class that was there
most often, stretched to its size. Nothing of the image is looked at, so a network is worth what it adds to this.

>>> ball = np.hypot(*(np.indices((20, 20)) - 9.5)) < 6
>>> labels = [ball.astype(int), np.roll(ball, 1, axis=0).astype(int), np.roll(ball, -1, axis=0).astype(int)]
>>> prior = mean_shape(labels, classes=2)
>>> bool((likeliest(prior, (20, 20)) == ball).all())
True
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import CohortError
from clinome.imaging.resample import resample


def mean_shape(labels: Iterable[NDArray[np.integer]], *, classes: int, shape: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Return how often each class was at each place: shares, shape (classes, *shape).

    Parameters
    ----------
    labels
        Classes 0 … ``classes`` − 1 of training images, each of any size, (*spatial); negative where nobody labelled. Read one at a
        time.
    shape
        Of the common grid; None takes the first image's.

    Raises
    ------
    CohortError
        When there are no labels, or a class beyond ``classes``.
    """
    total: NDArray[np.float32] | None = None
    for number, one in enumerate(labels):
        if one.max(initial=0) >= classes:
            raise CohortError(
                "a label belongs to no class", where=f"image {number}", got=int(one.max()), expected=f"0 … {classes - 1}"
            )
        shares = stretched((one == np.arange(classes).reshape(-1, *(1,) * one.ndim)).astype(np.float32), shape or one.shape)
        shape = shares.shape[1:]
        total = shares if total is None else total + shares
    if total is None:
        raise CohortError("a mean shape needs labels of at least one image", got="none")
    known = total.sum(axis=0)
    return np.asarray(total / np.maximum(known, 1e-9), dtype=np.float32)


def likeliest(prior: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.int64]:
    """Return the likeliest class at each place of an image of ``shape``, by :func:`mean_shape`; the lower of equals."""
    return np.asarray(stretched(prior, shape).argmax(axis=0), dtype=np.int64)


def stretched(values: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """Stretch ``values``, (channels, *spatial), edge to edge to another spatial ``shape``, linearly.

    >>> stretched(np.array([[[0.0, 1.0]]]), (1, 4)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    width = [have / want for have, want in zip(values.shape[1:], shape, strict=True)]
    return np.asarray(resample(values, shape=shape, out_spacing=width, fill="edge"), dtype=np.float32)
