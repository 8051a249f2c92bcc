"""What age, sex, site and device alone predict, and how much of them is in a prediction.

A network that reads the scanner from an image predicts a disease that one hospital has more of. Two tables speak to that: the
confounders as a floor (:func:`confounder_floors`, to be set beside the model by
:func:`clinome.evaluate.floors.compare_with_floors`), and how well the prediction tells each confounder (:func:`confounding`),
beside how well the truth itself does: a prediction that tells more of the device than the truth does has learnt the device.

References
----------
Zech JR et al. Variable generalization performance of a deep learning model to detect pneumonia in chest radiographs: a
cross-sectional study. PLOS Medicine 15:e1002683 (2018), doi:10.1371/journal.pmed.1002683.

>>> ids = [str(i) for i in range(12)]
>>> table = pl.DataFrame({"example_id": ids, "participant_id": ids, "split": "test", "y": [0, 1] * 6,
...                       "predicted:y:1": [0.1, 0.2] * 3 + [0.8, 0.9] * 3})
>>> people = pl.DataFrame({"participant_id": ids, "site": ["A"] * 6 + ["B"] * 6})
>>> confounding(table, people, "y", by=["site"], resamples=0).select("name", "predictor", "value").rows()
[('auroc:site=B', 'model', 1.0), ('auroc:site=B', 'truth', 0.5)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.evaluate.explained import between_groups
from clinome.evaluate.floors import linear
from clinome.evaluate.measuring import RESAMPLES, Metric, metric_row, metrics_table, usable
from clinome.evaluate.outcomes import judged
from clinome.evaluate.ranking import AUROC
from clinome.evaluate.regression import PEARSON
from clinome.evaluate.subgroups import SMALLEST, hidden_row, joined
from clinome.stats.resampling import bootstrap, participant_codes


def confounder_floors(
    examples: pl.DataFrame,
    target: str,
    names: Sequence[str],
    *,
    kind: str | None = None,
    fit_on: Sequence[str] | None = ("train",),
    seed: int = 0,
) -> dict[str, pl.DataFrame]:
    """Return floors that know nothing but confounders: each alone, and all together (named by their columns, joined by '+').

    ``examples`` hold example_id, participant_id, split, ``target`` and the columns ``names``; the rest is as
    :func:`clinome.evaluate.floors.linear`.
    """
    chosen = [[name] for name in names] + ([list(names)] if len(names) > 1 else [])
    return {"+".join(some): linear(examples, target, some, kind=kind, fit_on=fit_on, seed=seed) for some in chosen}


def confounding(
    predictions: pl.DataFrame,
    people: pl.DataFrame,
    target: str,
    *,
    by: Sequence[str],
    split: str | None = None,
    positive: str | None = None,
    predictor: str = "model",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure how well the prediction of ``target``, and its truth, tell each column of ``by``; return METRICS.

    Of numbers ``pearson_r:<column>``; of two groups ``auroc:<column>=<group>``, the last by name; of more
    ``eta_squared:<column>``, the share of the variance of the prediction that lies between groups. ``predictor`` is the model's
    name or 'truth'. Of several classes each probability is a predictor of its own, ``<model>:<class>``.

    Parameters
    ----------
    people
        As :func:`clinome.evaluate.subgroups.subgroups`; the rest as :func:`clinome.evaluate.outcomes.evaluate`.

    Raises
    ------
    SchemaError
        When a column is missing.
    """
    found = judged(predictions, target, split=split, positive=positive)
    usable(found.truth, found.predicted, found.participants)
    known = np.isfinite(found.truth)
    truth, predicted = found.truth[known], found.predicted[known]
    columns = {predictor: predicted, "truth": truth}
    if found.kind == "classes":
        columns = {}
        for j, name in enumerate(found.classes):
            columns |= {f"{predictor}:{name}": predicted[:, j], f"truth:{name}": (truth == j).astype(np.float64)}
    examples = pl.DataFrame({"example_id": found.example_ids, "participant_id": found.participants}).filter(known)
    rows: list[dict[str, Any]] = []
    for name in by:
        metric, known, code = _question(name, joined(examples, people, name))
        person, n = participant_codes(examples["participant_id"].to_numpy()[known], int(known.sum()))
        if n < SMALLEST:
            rows += [hidden_row(metric.name, "all", SMALLEST) | {"predictor": who, "split": found.split} for who in columns]
            continue
        prepared = [metric.prepare(code[known], column[known], person, n) for column in columns.values()]
        draws = bootstrap([one.of for one in prepared], n, resamples=resamples, seed=seed)
        for (who, one), drawn in zip(zip(columns, prepared, strict=True), draws.T, strict=True):
            row = metric_row(metric.name, one.value, drawn, one.people, fewest=one.fewest, rises=metric.rises)
            rows.append(row | {"predictor": who, "split": found.split})
    return metrics_table(rows).with_columns(target=pl.lit(target))


def _question(name: str, column: pl.Series) -> tuple[Metric, NDArray[np.bool_], NDArray[np.float64]]:
    """Return the metric that fits a confounder, the rows in which it is known, and the confounder in numbers."""
    if column.dtype.is_numeric() and column.drop_nulls().n_unique() > 2:
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return Metric(f"pearson_r:{name}", PEARSON.prepare), np.isfinite(values), values
    text = column.cast(pl.String)
    levels = text.drop_nulls().unique().sort().to_list()
    code = text.replace_strict(levels, range(len(levels)), default=None, return_dtype=pl.Float64).fill_null(np.nan).to_numpy()
    if len(levels) <= 2:
        return Metric(f"auroc:{name}={levels[-1] if levels else None}", AUROC.prepare), np.isfinite(code), code
    return between_groups(f"eta_squared:{name}", len(levels)), np.isfinite(code), code
