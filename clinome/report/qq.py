"""Quantile–quantile curves with their 95 % band, and the genomic-control factors λ of every test and frequency bin.

The band is that of the order statistics of n independent uniform p values (Beta(i, n + 1 − i)); variants in LD are not
independent, so it is narrower than it should be in the middle and right in the tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from clinome.core.schema import LAMBDAS, QQ
from clinome.report.reading import listed, table

FLAGS = {
    "high": "more than chance gives: relatives, strata, or a polygenic trait in a large sample",
    "low": "less than chance gives: the test is too cautious here",
}
MOST_TESTS = 60  # curves of more tests would fill the page; the others stay in the table of λ
FIRST = ("all traits", "omnibus")


@dataclass(frozen=True)
class Lambda:
    """A genomic-control factor and whether the page marks it."""

    value: float | None
    n_variants: int
    flag: str | None


@dataclass(frozen=True)
class Quantiles:
    """The table of λ (a row per test, a column per frequency bin) and ``data``, which the page's script draws."""

    bins: tuple[str, ...]
    lambdas: tuple[tuple[str, tuple[Lambda | None, ...]], ...]
    flagged: int
    left_out: int
    data: dict[str, Any] | None


def quantiles(folder: Path) -> Quantiles | None:
    """Read ``gwas/qq.parquet`` and ``gwas/lambdas.parquet``; ``None`` where both are absent."""
    curves, factors = table(folder, "gwas/qq.parquet", QQ), table(folder, "gwas/lambdas.parquet", LAMBDAS)
    if curves is None and factors is None:
        return None
    found = [] if factors is None else factors.to_dicts()
    by_cell = {(r["test"], r["frequency_bin"]): _lambda(r) for r in found}
    names = [r["frequency_bin"] for r in found] + ([] if curves is None else curves["frequency_bin"].to_list())
    bins = tuple(sorted(dict.fromkeys(names), key=lambda name: name != "all"))
    tests = sorted(dict.fromkeys(r["test"] for r in found), key=lambda t: FIRST.index(t) if t in FIRST else len(FIRST))
    rows = tuple((test, tuple(by_cell.get((test, b)) for b in bins)) for test in tests)
    data, left_out = (None, 0) if curves is None or curves.is_empty() else _curves(curves, by_cell, bins)
    return Quantiles(bins, rows, sum(any(c and c.flag for c in cells) for _, cells in rows), left_out, data)


def _lambda(row: dict[str, Any]) -> Lambda:
    value = row["lambda_gc"] if row["lambda_gc"] is not None and math.isfinite(row["lambda_gc"]) else None
    return Lambda(value, row["n_variants"], FLAGS.get(row["flag"] or ""))


def _curves(curves: pl.DataFrame, by_cell: dict[tuple[str, str], Lambda], bins: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """Gather the curves of at most ``MOST_TESTS`` tests: the joint ones, then those with the largest observed value."""
    largest = curves.group_by("test").agg(pl.col("observed").max())
    joint = pl.col("test").is_in(list(FIRST))
    ranked = largest.sort(~joint, pl.col("observed"), "test", descending=[False, True, False])["test"].to_list()
    shown = set(ranked[:MOST_TESTS])
    order = [t for t in dict.fromkeys([*FIRST, *curves["test"].to_list()]) if t in shown]
    tests = []
    for test in order:
        entry: dict[str, Any] = {"name": test, "curves": []}
        for name in bins:
            one = (
                curves.filter((pl.col("test") == test) & (pl.col("frequency_bin") == name))
                .filter(pl.col("observed").is_finite())
                .sort("expected")
            )
            if one.is_empty():
                continue
            factor = by_cell.get((test, name))
            entry["curves"].append(
                {
                    "bin": name,
                    "lambda": None if factor is None or factor.value is None else round(factor.value, 3),
                    "expected": listed(one["expected"], 3),
                    "observed": listed(one["observed"], 3),
                }
            )
        whole = by_cell.get((test, "all"))
        if whole is not None and whole.n_variants:
            entry["band"] = band(whole.n_variants)
        tests.append(entry)
    return {"tests": tests}, len(ranked) - len(order)


def band(n_tests: int, *, points: int = 60) -> dict[str, list[float]]:
    """Return the 95 % band of −log10 p at ``points`` expected values, for ``n_tests`` independent tests without association.

    >>> b = band(1000); b["expected"][-1], b["lower"][-1] < 3.0 < b["upper"][-1]
    (3.301, True)
    """
    from scipy.special import betaincinv

    rank = np.unique(np.geomspace(1, n_tests, points).round())[::-1]
    low_p, high_p = (betaincinv(rank, n_tests + 1 - rank, tail) for tail in (0.025, 0.975))
    log = [-np.log10(p) for p in ((rank - 0.5) / n_tests, high_p, low_p)]
    return {name: value.round(3).tolist() for name, value in zip(("expected", "lower", "upper"), log, strict=True)}
