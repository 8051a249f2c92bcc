from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from sklearn import metrics as sk

from clinome.evaluate.pixels import pixels, pool
from clinome.evaluate.segmentation import dice


def images(n: int, side: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    truths = [generator.random((side, side)) < 0.15 for _ in range(n)]
    scores = [(t + generator.normal(generator.normal(0, 0.3), 0.6, t.shape)).astype(np.float32) for t in truths]
    inside = [np.hypot(*(np.indices((side, side)) - side / 2)) < side / 2 for _ in range(n)]
    return truths, scores, inside


def test_pooled_pixels_equal_scikit_learn_inside_the_field_of_view() -> None:
    truths, scores, inside = images(5, 60, 1)
    table = pixels(truths, scores, inside=inside, threshold=0.5, split="test", predictor="unet")
    truth, score, image = pool(truths, scores, inside=inside)
    found = dict(table.select("name", "value").rows())
    assert_allclose(found["auroc"], sk.roc_auc_score(truth, score))
    assert_allclose(found["average_precision"], sk.average_precision_score(truth, score))
    assert_allclose(found["dice"], dice(truth, score >= 0.5))
    assert_allclose(found["accuracy"], (truth == (score >= 0.5)).mean())
    assert_allclose(found["sensitivity"], sk.recall_score(truth, score >= 0.5))
    assert np.bincount(image).tolist() == [int(mask.sum()) for mask in inside]
    assert table["n"].to_list() == [5] * 6
    assert table.filter(pl.col("lower").is_null()).height == 0


def test_the_interval_is_as_wide_as_images_differ_not_as_pixels_do() -> None:
    truths, scores, _ = images(20, 50, 2)
    each = [sk.roc_auc_score(t.ravel(), s.ravel()) for t, s in zip(truths, scores, strict=True)]
    row = pixels(truths, scores).filter(name="auroc").row(0, named=True)
    pooled = sk.roc_auc_score(np.concatenate([t.ravel() for t in truths]), np.concatenate([s.ravel() for s in scores]))
    assert row["value"] == pytest.approx(pooled)
    assert row["value"] < np.mean(each)  # images of different brightness, pooled
    halved = pixels(truths, scores, participants=[str(i // 2) for i in range(20)]).filter(name="auroc").row(0, named=True)
    assert halved["n"] == 10
    assert halved["upper"] - halved["lower"] > 0.6 * (row["upper"] - row["lower"]) > 0.003


def test_refusals() -> None:
    truths, scores, inside = images(2, 10, 3)
    with pytest.raises(ValueError, match="2 images have 1 maps"):
        pixels(truths, scores[:1])
    with pytest.raises(ValueError, match="image 1: the truth has the shape"):
        pixels(truths, [scores[0], scores[1][:5]])
    scores[0][5, 5] = np.nan
    with pytest.raises(ValueError, match="1 pixels have a score that is not finite"):
        pixels(truths, scores, inside=inside)
