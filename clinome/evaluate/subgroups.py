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
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import SchemaError
from clinome.evaluate.measuring import RESAMPLES, Metric, metric_row, metrics_table, usable
from clinome.evaluate.outcomes import judged, metrics_of
from clinome.stats.resampling import bootstrap

SMALLEST = 10  # people a group has to have to be measured
_SHOWN = {
    "binary": ("auroc", "sensitivity", "specificity", "brier"),
    "classes": ("auroc", "accuracy", "balanced_accuracy"),
    "number": ("mae", "bias", "pearson_r"),
}
_BANDS = {"age": tuple(range(0, 130, 10))}
_MANY_VALUES = 10  # numbers of more distinct values are cut into bands


class _Cell(NamedTuple):
    """A group: ``<column>=<group>``, its column, and its rows."""

    label: str
    column: str
    inside: NDArray[np.bool_]


class _Found(NamedTuple):
    """A metric in a group, its resampled values, and how many people its interval rests on (of the rarer class)."""

    cell: _Cell
    value: float
    draws: NDArray[np.float64]
    fewest: int


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
    predictions, split, positive, threshold, predictor, resamples, seed
        As :func:`clinome.evaluate.outcomes.evaluate`.
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
    found = judged(predictions, target, split=split, positive=positive)
    truth, predicted, person, n = usable(found.truth, found.predicted, found.participants)
    known = np.isfinite(found.truth)
    chosen = _chosen(metrics_of(found, threshold=threshold), metrics or _SHOWN[found.kind])
    examples = pl.DataFrame({"example_id": found.example_ids, "participant_id": found.participants}).filter(known)
    groups = [(name, groups_of(joined(examples, people, name), (bands or {}).get(name, _BANDS.get(name)))) for name in by]
    cells = [_Cell("all", "", np.ones(len(truth), dtype=bool))]
    cells += [_Cell(f"{name}={label}", name, inside) for name, parts in groups for label, inside in parts.items()]
    sizes = [len(np.unique(person[cell.inside])) for cell in cells]
    shown = [cell for cell, size in zip(cells, sizes, strict=True) if size >= smallest or not cell.column]
    prepared = [metric.prepare(truth[c.inside], predicted[c.inside], person[c.inside], n) for metric in chosen for c in shown]
    draws = bootstrap([one.of for one in prepared], n, resamples=resamples, seed=seed)
    rows: list[dict[str, Any]] = []
    for i, metric in enumerate(chosen):
        first = i * len(shown)
        found_in = {
            cell.label: _Found(cell, one.value, drawn, one.people if one.fewest is None else one.fewest)
            for cell, one, drawn in zip(shown, prepared[first:], draws.T[first:], strict=False)
        }
        for cell, size in zip(cells, sizes, strict=True):
            if one := found_in.get(cell.label):
                rows.append(metric_row(metric.name, one.value, one.draws, size, subgroup=cell.label, fewest=one.fewest))
            else:
                rows.append(hidden_row(metric.name, cell.label, smallest))
        for name in by:
            rows += _gap(metric.name, name, [one for one in found_in.values() if one.cell.column == name], person)
    return metrics_table([row | {"predictor": predictor, "split": found.split, "target": target} for row in rows])


def hidden_row(name: str, subgroup: str, smallest: int) -> dict[str, Any]:
    """Return a row that names a group and tells nothing of it."""
    return {"name": name, "interval": f"not shown: fewer than {smallest} people", "subgroup": subgroup}


def _gap(metric: str, column: str, found: Sequence[_Found], person: NDArray[np.intp]) -> list[dict[str, Any]]:
    """Return a row of the difference between the groups with the largest and the smallest value."""
    found = [one for one in found if np.isfinite(one.value)]
    if len(found) < 2:
        return []
    high, low = max(found, key=lambda one: one.value), min(found, key=lambda one: one.value)
    people = len(np.unique(person[high.cell.inside | low.cell.inside]))
    fewest = min(high.fewest, low.fewest)
    row = metric_row(f"gap:{metric}", high.value - low.value, high.draws - low.draws, people, subgroup=column, fewest=fewest)
    return [row | {"interval": f"{row['interval']}; {high.cell.label} less {low.cell.label}"}]


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
    if column.dtype.is_float():
        column = column.to_frame().select(pl.when(pl.first().is_finite()).then(pl.first())).to_series()
    missing = column.is_null().to_numpy()
    if column.dtype.is_numeric():
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        if edges is None and len(np.unique(values[~missing])) > _MANY_VALUES:
            cuts = np.unique(np.quantile(values[~missing], [0, 0.25, 0.5, 0.75, 1]))
            edges = [*cuts[:-1].tolist(), float(np.nextafter(cuts[-1], np.inf))]
        if edges is not None:
            for (low, high), name in zip(pairwise(edges), _named(edges), strict=True):
                inside = (values >= low) & (values < high)
                if inside.any():
                    groups[name] = inside
            outside = ~missing & ((values < edges[0]) | (values >= edges[-1]))
            if outside.any():
                groups["outside the bands"] = outside
    if not groups:
        text = column.cast(pl.String)
        groups = {
            str(value): (text == value).fill_null(False).to_numpy() for value in column.drop_nulls().unique().sort().cast(pl.String)
        }
    if missing.any():
        groups["unknown"] = missing | groups.get("unknown", False)  # who is called so is not told apart
    return groups


def _named(edges: Sequence[float]) -> list[str]:
    """Return the names of bands, with as many digits, four or more, as tell them apart."""
    every = ([f"{low:.{digits}g} to {high:.{digits}g}" for low, high in pairwise(edges)] for digits in range(4, 18))
    return next(names for names in every if len(set(names)) == len(names))
