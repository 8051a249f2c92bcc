"""A map of scores judged over all pixels of all images together, as vessel segmentation is: AUROC, average precision, Dice.

All pixels inside a field of view are pooled, so large images count more. The interval resamples people with all their pixels;
of twenty photographs it is wide, whatever the number of pixels.

References
----------
Staal J et al. Ridge-based vessel segmentation in color images of the retina. IEEE Transactions on Medical Imaging 23:501–509
(2004), doi:10.1109/TMI.2004.825627 (DRIVE, and pixels inside the field of view).

>>> truth, score = [np.array([[0, 1], [0, 1]])] * 2, [np.array([[0.1, 0.8], [0.4, 0.3]])] * 2
>>> pixels(truth, score, threshold=0.35, resamples=0).select("name", "value").rows()[:3]
[('auroc', 0.75), ('average_precision', 0.8333333333333333), ('dice', 0.5)]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from clinome.evaluate.discrimination import at_threshold
from clinome.evaluate.measuring import RESAMPLES, Array, metric_row, metrics_table
from clinome.evaluate.ranking import auroc_curve, average_precision_curve, rank
from clinome.stats.resampling import bootstrap, participant_codes


def pool(
    truths: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    *,
    inside: Sequence[ArrayLike] | None = None,
) -> tuple[NDArray[np.bool_], Array, NDArray[np.intp]]:
    """Lay the pixels of all images end to end: their truth, their scores and the image each is of, all (n_pixels,).

    Parameters
    ----------
    truths, scores
        A mask and a map of numbers an image, of one shape.
    inside
        The field of view of each image; None: all pixels.

    Raises
    ------
    ValueError
        When numbers of images or shapes differ, or a score is not finite.
    """
    masks = [None] * len(truths) if inside is None else [np.asarray(mask, dtype=bool) for mask in inside]
    if not len(truths) == len(scores) == len(masks):
        raise ValueError(f"{len(truths)} images have {len(scores)} maps and {len(masks)} fields of view")
    labels, values = [], []
    for i, (truth, score, mask) in enumerate(zip(truths, scores, masks, strict=True)):
        label, value = np.asarray(truth).astype(bool), np.asarray(score)
        if label.shape != value.shape or (mask is not None and mask.shape != label.shape):
            raise ValueError(f"image {i}: the truth has the shape {label.shape}, the scores {value.shape}")
        labels.append(label.ravel() if mask is None else label[mask])
        values.append(value.ravel() if mask is None else value[mask])
    score = np.concatenate(values)
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} pixels have a score that is not finite")
    return np.concatenate(labels), score, np.repeat(np.arange(len(labels)), [len(label) for label in labels])


def pixels(
    truths: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    *,
    inside: Sequence[ArrayLike] | None = None,
    participants: Sequence[str] | None = None,
    threshold: float | None = None,
    predictor: str = "model",
    split: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure maps of scores over the pooled pixels of all images; return METRICS.

    ``auroc`` and ``average_precision``; with a ``threshold`` (chosen on other images) also ``dice``, ``accuracy``, ``sensitivity``
    and ``specificity`` of the pixels that reach it. Five million pixels take seconds.

    Parameters
    ----------
    truths, scores, inside
        See :func:`pool`.
    participants
        The person of each image; the rest as :class:`clinome.evaluate.measuring.Asked`.
    """
    truth, score, image = pool(truths, scores, inside=inside)
    of_image, n = participant_codes(None if participants is None else list(participants), len(truths))
    person = of_image[image]
    ranking = rank(truth, score, person, n)
    prepared = {"auroc": ranking.prepared(auroc_curve), "average_precision": ranking.prepared(average_precision_curve)}
    if threshold is not None:
        metrics = {metric.name: metric for metric in at_threshold(threshold)}
        for name, of in {"dice": "f1", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}.items():
            prepared[name] = metrics[of].prepare(truth, score, person, n)
    draws = bootstrap([one.of for one in prepared.values()], n, resamples=resamples, seed=seed)
    return metrics_table(
        [
            metric_row(name, one.value, draws[:, j], one.people, fewest=one.fewest, predictor=predictor, split=split)
            for j, (name, one) in enumerate(prepared.items())
        ]
    )
