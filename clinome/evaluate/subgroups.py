"""For whom a predictor works: its metrics by sex, age band, site, device, with the gap between the best and the worst served.

A group's interval, and the gap's, come from the same resamples of all people, so a person who is in two groups (scanned on two
devices) is in both or neither. A gap is between the two groups that were found furthest apart, so of many groups it is too large
by chance, and its interval does not know that: read it as a reason to look.

Groups of fewer than ten people are named but not measured, so that a table does not tell of one person.

References
----------
Seyyed-Kalantari L, Zhang H, McDermott MBA, Chen IY, Ghassemi M. Underdiagnosis bias of artificial intelligence algorithms applied
to chest radiographs in under-served patient populations. Nature Medicine 27:2176–2182 (2021), doi:10.1038/s41591-021-01595-0.

>>> ids = [str(i) for i in range(40)]
>>> table = pl.DataFrame({"example_id": ids, "participant_id": ids, "split": "test", "age": [50.0] * 20 + [70.0] * 20,
...                       "predicted:age": [51.0] * 20 + [67.0] * 20})
>>> people = pl.DataFrame({"participant_id": ids, "sex": ["female"] * 20 + ["male"] * 20})
>>> found = subgroups(table, people, "age", by=["sex"], metrics=["mae"], resamples=0)
>>> found.select("name", "subgroup", "value").rows()
[('mae', 'all', 2.0), ('mae', 'sex=female', 1.0), ('mae', 'sex=male', 3.0), ('gap:mae', 'sex', 2.0)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import SchemaError
from clinome.evaluate.measuring import RESAMPLES, Metric, Prepared, metric_row, metrics_table, usable
from clinome.evaluate.outcomes import metrics_of, outcome
from clinome.stats.resampling import bootstrap

SMALLEST = 10  # people a group has to have to be measured
_SHOWN = {
    "binary": ("auroc", "sensitivity", "specificity", "brier"),
    "classes": ("auroc", "accuracy", "balanced_accuracy"),
    "number": ("mae", "bias", "pearson_r"),
}
_BANDS = {"age": tuple(range(0, 130, 10))}
_MANY_VALUES = 10  # numbers of more distinct values are cut into bands


def subgroups(
    predictions: pl.DataFrame,
    people: pl.DataFrame,
    target: str,
    *,
    by: Sequence[str],
    bands: Mapping[str, Sequence[float]] | None = None,
    metrics: Sequence[str] | None = None,
    split: str | None = None,
    positive: str | None = None,
    threshold: float = 0.5,
    predictor: str = "model",
    smallest: int = SMALLEST,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure ``target`` in everybody, in each group, and the gap between groups; return METRICS.

    Parameters
    ----------
    predictions
        ``core.schema.PREDICTIONS``.
    people
        The columns of ``by``, with participant_id or, where they differ between a person's examples, example_id.
    bands
        Edges for numbers: a value falls in [edge, next edge). By default ages are cut in decades and other numbers of more than
        ten values in quarters.
    metrics
        Names of metrics of :func:`clinome.evaluate.outcomes.evaluate`; None: the main ones of the kind of target.
    smallest
        Groups of fewer people are named with nothing measured.

    Returns
    -------
    pl.DataFrame
        Rows ``<metric>`` with ``subgroup`` 'all' or ``<column>=<group>``, and ``gap:<metric>`` with ``subgroup`` ``<column>``:
        largest less smallest, whose two groups stand in ``interval``.

    Raises
    ------
    SchemaError
        When a column of ``by`` is missing, or a metric is unknown.
    """
    found = outcome(predictions, target, split=split, positive=positive)
    truth, predicted, person, n = usable(found.truth, found.predicted, found.participants)
    known = np.isfinite(found.truth)
    chosen = _chosen(metrics_of(found, threshold=threshold), metrics or _SHOWN[found.kind])
    examples = pl.DataFrame({"example_id": found.example_ids, "participant_id": found.participants}).filter(known)
    groups = [(name, groups_of(joined(examples, people, name), (bands or {}).get(name, _BANDS.get(name)))) for name in by]
    rows: list[dict[str, Any]] = []
    for metric in chosen:
        cells = [("all", np.ones(len(truth), dtype=bool))]
        cells += [(f"{name}={label}", inside) for name, parts in groups for label, inside in parts.items()]
        sizes = [len(np.unique(person[inside])) for _, inside in cells]
        shown = [j for j, size in enumerate(sizes) if size >= smallest or not j]
        prepared = [metric.prepare(truth[cells[j][1]], predicted[cells[j][1]], person[cells[j][1]], n) for j in shown]
        draws = bootstrap([one.of for one in prepared], n, resamples=resamples, seed=seed)
        place = {j: k for k, j in enumerate(shown)}
        for j, (label, _) in enumerate(cells):
            if j in place:
                one, drawn = prepared[place[j]], draws[:, place[j]]
                rows.append(metric_row(metric.name, one.value, drawn, sizes[j], subgroup=label))
            else:
                rows.append(hidden_row(metric.name, label, smallest))
        for name in by:
            inside = [j for j in shown if cells[j][0].startswith(f"{name}=")]
            rows += _gap(metric, name, [(cells[j][0], prepared[place[j]], draws[:, place[j]], sizes[j]) for j in inside])
    return metrics_table([row | {"predictor": predictor, "split": found.split, "target": target} for row in rows])


def hidden_row(name: str, subgroup: str, smallest: int) -> dict[str, Any]:
    """Return a row that names a group and tells nothing of it."""
    return {"name": name, "interval": f"not shown: fewer than {smallest} people", "subgroup": subgroup}


def _gap(metric: Metric, column: str, cells: Sequence[tuple[str, Prepared, NDArray[np.float64], int]]) -> list[dict[str, Any]]:
    """Return a row of the difference between the groups with the largest and the smallest value."""
    cells = [cell for cell in cells if np.isfinite(cell[1].value)]
    if len(cells) < 2:
        return []
    high, low = max(cells, key=lambda cell: cell[1].value), min(cells, key=lambda cell: cell[1].value)
    row = metric_row(f"gap:{metric.name}", high[1].value - low[1].value, high[2] - low[2], high[3] + low[3], subgroup=column)
    return [row | {"interval": f"{row['interval']}; {high[0]} less {low[0]}"}]


def _chosen(metrics: Sequence[Metric], names: Sequence[str]) -> list[Metric]:
    by_name = {metric.name: metric for metric in metrics}
    if absent := [name for name in names if name not in by_name]:
        raise SchemaError(f"there is no metric {absent[0]!r} of this target", expected=", ".join(by_name))
    return [by_name[name] for name in names]


def joined(examples: pl.DataFrame, people: pl.DataFrame, name: str) -> pl.Series:
    """Return a column of ``people`` in the order of the examples."""
    key = "example_id" if "example_id" in people.columns else "participant_id"
    for column in (key, name):
        if column not in people.columns:
            raise SchemaError(f"column {column!r} is missing", where="the table of people", got=", ".join(people.columns))
    named = people.select(pl.col(key).cast(pl.String), pl.col(name)).unique(maintain_order=True)
    if named[key].is_duplicated().any():
        twice = named.filter(named[key].is_duplicated())[key][0]
        raise SchemaError(f"{key} {twice!r} has two values of {name!r}", do="give the table by example_id")
    return examples.with_columns(pl.col(key).cast(pl.String)).join(named, on=key, how="left", maintain_order="left")[name]


def groups_of(column: pl.Series, edges: Sequence[float] | None = None) -> dict[str, NDArray[np.bool_]]:
    """Return the groups of a column, in order, and the rows of each; missing values are a group, 'unknown', where there are any.

    Numbers with ``edges`` are cut there; others of more than ten values in quarters; all else groups by value.
    """
    groups: dict[str, NDArray[np.bool_]] = {}
    missing = column.is_null().to_numpy()
    if column.dtype.is_numeric():
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        missing = ~np.isfinite(values)
        if edges is None and len(np.unique(values[~missing])) > _MANY_VALUES:
            cuts = np.unique(np.quantile(values[~missing], [0, 0.25, 0.5, 0.75, 1]))
            edges = [*cuts[:-1].tolist(), float(np.nextafter(cuts[-1], np.inf))]
        if edges is not None:
            for low, high in pairwise(edges):
                inside = (values >= low) & (values < high)
                if inside.any():
                    groups[f"{low:.4g} to {high:.4g}"] = inside
            outside = ~missing & ((values < edges[0]) | (values >= edges[-1]))
            if outside.any():
                groups["outside the bands"] = outside
    if not groups:
        text = column.cast(pl.String)
        groups = {
            str(value): (text == value).fill_null(False).to_numpy() for value in column.drop_nulls().unique().sort().cast(pl.String)
        }
    if missing.any():
        groups["unknown"] = missing
    return groups
