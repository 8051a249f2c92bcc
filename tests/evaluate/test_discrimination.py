from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from sklearn import metrics as sk

from clinome.core.errors import CohortError
from clinome.core.schema import METRICS, check
from clinome.evaluate.discrimination import classification
from clinome.evaluate.measuring import measure
from clinome.evaluate.ranking import AUROC


def values(table: pl.DataFrame) -> dict[str, float]:
    return dict(table.select("name", "value").rows())


def test_two_classes_equal_scikit_learn(generator: np.random.Generator) -> None:
    truth = (generator.random(300) < 0.3).astype(int)
    p = np.clip(0.3 * truth + 0.5 * generator.random(300), 0.01, 0.99).round(2)
    called = p >= 0.4
    found = values(classification(truth, p, threshold=0.4, resamples=0))
    expected = {
        "auroc": sk.roc_auc_score(truth, p),
        "average_precision": sk.average_precision_score(truth, p),
        "accuracy": sk.accuracy_score(truth, called),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, called),
        "sensitivity": sk.recall_score(truth, called),
        "specificity": sk.recall_score(truth, called, pos_label=0),
        "ppv": sk.precision_score(truth, called),
        "npv": sk.precision_score(truth, called, pos_label=0),
        "f1": sk.f1_score(truth, called),
        "brier": sk.brier_score_loss(truth, p),
        "log_loss": sk.log_loss(truth, p),
    }
    assert expected.keys() == found.keys() - {"sensitivity_at_specificity_0.9"}
    for name, value in expected.items():
        assert_allclose(found[name], value, atol=1e-12, err_msg=name)


def test_several_classes_equal_scikit_learn(generator: np.random.Generator) -> None:
    truth = generator.integers(0, 4, 400)
    p = generator.dirichlet(np.ones(4), 400)
    p[np.arange(400), truth] += 0.4
    p /= p.sum(axis=1, keepdims=True)
    found = values(classification(truth, p, classes=["a", "b", "c", "d"], resamples=0))
    assert_allclose(found["auroc"], sk.roc_auc_score(truth, p, multi_class="ovr"), atol=1e-12)
    assert_allclose(found["average_precision"], sk.average_precision_score(np.eye(4)[truth], p), atol=1e-12)
    assert_allclose(found["accuracy"], sk.accuracy_score(truth, p.argmax(axis=1)))
    assert_allclose(found["balanced_accuracy"], sk.balanced_accuracy_score(truth, p.argmax(axis=1)))
    assert_allclose(found["log_loss"], sk.log_loss(truth, p))
    assert_allclose(found["brier"], ((p - np.eye(4)[truth]) ** 2).sum(axis=1).mean())
    assert_allclose(found["auroc:c"], sk.roc_auc_score(truth == 2, p[:, 2]))
    without = values(classification(truth[truth != 3], p[truth != 3], resamples=0))  # a class that does not occur is left out
    assert_allclose(without["auroc"], np.mean([sk.roc_auc_score(truth[truth != 3] == k, p[truth != 3, k]) for k in range(3)]))
    assert np.isnan(without["auroc:3"] or np.nan)


def test_several_labels_are_each_measured_where_their_truth_is_known(generator: np.random.Generator) -> None:
    truth = (generator.random((200, 3)) < 0.4).astype(float)
    p = np.clip(0.4 * truth + 0.6 * generator.random((200, 3)), 0, 1)
    truth[::7, 1] = np.nan
    found = values(classification(truth, p, labels=["edema", "effusion", "mass"], resamples=0))
    known = np.isfinite(truth[:, 1])
    each = [sk.roc_auc_score(truth[known, 1], p[known, 1]) if k == 1 else sk.roc_auc_score(truth[:, k], p[:, k]) for k in range(3)]
    assert_allclose([found[f"auroc:{name}"] for name in ("edema", "effusion", "mass")], each)
    assert_allclose(found["auroc"], np.mean(each))
    assert_allclose(found["f1:effusion"], sk.f1_score(truth[known, 1], p[known, 1] >= 0.5))
    people = dict(classification(truth, p, labels=["edema", "effusion", "mass"], resamples=0).select("name", "n").rows())
    assert (people["auroc:edema"], people["auroc:effusion"], people["f1:effusion"]) == (200, known.sum(), known.sum())


def test_a_table_of_metrics_says_for_whom_and_how() -> None:
    truth = np.random.default_rng(1).integers(0, 2, 80)
    p = np.clip(0.2 * truth + 0.8 * np.random.default_rng(2).random(80), 0, 1)
    tables = [classification(truth, p, participants=np.arange(80) // 2, predictor="net", split="test", seed=s) for s in (1, 1, 2)]
    check(tables[0], METRICS)
    row = tables[0].filter(pl.col("name") == "auroc").row(0, named=True)
    assert (row["predictor"], row["split"], row["n"], row["subgroup"]) == ("net", "test", 40, "all")
    assert row["interval"] == "95 % expanded percentile, 1,000 resamples of participants"
    assert row["lower"] < row["value"] < row["upper"]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_ratios_of_nothing_are_undefined_not_zero() -> None:
    found = values(classification([0, 0, 1], [0.1, 0.2, 0.3], resamples=0))
    assert found["ppv"] is None
    assert found["sensitivity"] == 0.0


def test_rare_classes_leave_resamples_out_and_say_so_or_have_no_interval() -> None:
    truth, score = np.zeros(30), np.linspace(0, 1, 30)
    truth[25] = 1
    row = measure([AUROC], truth, score).row(0, named=True)
    assert row["value"] is not None
    assert row["lower"] is None
    assert row["interval"].startswith("none: undefined in 3")  # (29/30)³⁰ = 36 % of resamples have no positive
    truth[[3, 12, 20]] = 1
    row = measure([AUROC], truth, score).row(0, named=True)
    assert row["lower"] is not None
    assert row["interval"].endswith("undefined")
    row = measure([AUROC], [0, 1], [0.2, 0.7], participants=["a", "a"]).row(0, named=True)
    assert (row["value"], row["lower"], row["interval"]) == (1.0, None, "none: one person")
    row = measure([AUROC], [0] * 5 + [1] * 5, np.arange(10)).row(0, named=True)  # ten people do not make it certain
    assert (row["value"], row["lower"], row["interval"]) == (1.0, None, "none: the same in every resample of participants")


def test_refusals() -> None:
    with pytest.raises(CohortError, match="some examples have no prediction"):
        classification([0, 1], [0.2, np.nan])
    with pytest.raises(CohortError, match="nobody whose truth is known"):
        classification([np.nan, np.nan], [0.2, 0.3])
    with pytest.raises(ValueError, match="0 or 1"):
        classification([0, 2], [0.2, 0.3])
    with pytest.raises(ValueError, match="2 classes need truth"):
        classification([[0], [1]], [[0.2, 0.8], [0.3, 0.7]])
    with pytest.raises(ValueError, match="rows of the same examples"):
        classification([0, 1, 1], [0.2, 0.3])
    with pytest.raises(ValueError, match=r"shape \(n, 1\)"):
        classification([0, 1], [0.2, 0.3], labels=["a"])
