"""Reads the saved parts of a result folder, each of which may be absent.

A report is made from files alone: the folder can be years old, and the code that made it need not exist any more.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl

from clinome.core.errors import FormatError
from clinome.core.schema import Table, check

PARTS = (
    "summary.json",
    "flow.parquet",
    "phenotypes/quality.parquet",
    "phenotypes/embedding.json",
    "gwas/manhattan.parquet",
    "gwas/qq.parquet",
    "gwas/lambdas.parquet",
    "loci/loci.parquet",
    "loci/truth.parquet",
    "metrics.parquet",
    "predictions.parquet",
    "segmentations.parquet",
    "measured_traits.parquet",
    "history.json",
    "leakage.parquet",
    "set_aside.parquet",
    "counts.parquet",
    "examples.parquet",
)
"""The files that each bring a section of their own; a folder with none of them is not a result folder."""


def table(folder: Path, name: str, schema: Table) -> pl.DataFrame | None:
    """Return the table ``folder/name`` checked against ``schema``, or ``None`` where the file is absent.

    Raises
    ------
    FormatError
        When the file is not a readable Parquet file.
    SchemaError
        When a column is missing or has a wrong type or value.
    """
    path = folder / name
    if not path.is_file():
        return None
    return check(_parquet(path).collect(), schema, where=str(path))


def lazy_table(folder: Path, name: str, schema: Table) -> pl.LazyFrame | None:
    """Return a table too large to hold as a lazy frame; its columns and their types are checked on its first row."""
    path = folder / name
    if not path.is_file():
        return None
    lazy = _parquet(path)
    check(lazy.head(1).collect(), schema, where=str(path))
    return lazy


def _parquet(path: Path) -> pl.LazyFrame:
    try:
        lazy = pl.scan_parquet(path)
        lazy.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FormatError(
            "the table cannot be read as Parquet",
            where=path,
            got=str(error).splitlines()[0],
            do="run the step that writes it again",
        ) from error
    return lazy


def json_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in ``folder/name``, or an empty one where the file is absent.

    Raises
    ------
    FormatError
        When the file does not hold a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError("the file is not JSON", where=path, got=str(error)) from error
    if not isinstance(value, dict):
        raise FormatError("the file does not hold a JSON object", where=path, got=type(value).__name__, expected="{…}")
    return value


def natural(name: str) -> tuple[int, int, str]:
    """Sort key of chromosomes: numbers by size, then X, Y, XY and MT, then other names by letter.

    >>> sorted(["MT", "10", "X", "2", "scaffold"], key=natural)
    ['2', '10', 'X', 'MT', 'scaffold']
    """
    if name.isdigit():
        return 0, int(name), name
    sex = ("X", "Y", "XY", "MT", "M")
    return (1, sex.index(name), name) if name in sex else (2, 0, name)


def listed(values: pl.Series, digits: int) -> list[float | None]:
    """Return a column as a short list for JSON: rounded, with ``None`` for what JSON cannot hold (NaN, infinity).

    >>> listed(pl.Series([1.23456, float("inf"), None]), 2)
    [1.23, None, None]
    """
    return [value if value is not None and math.isfinite(value) else None for value in values.round(digits).to_list()]
