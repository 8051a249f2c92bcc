"""Loci found against loci planted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from clinome.core.schema import TRUE_LOCI, TRUTH, check


class Compared(NamedTuple):
    """TRUTH, how many of the counted planted loci were found of how many, and found loci with no planted one near."""

    table: pl.DataFrame
    found: int
    counted: int
    false: int

    @property
    def line(self) -> str:
        """The line that `clinome demo` ends with."""
        return f"planted loci found {self.found}/{self.counted}, false loci {self.false}"


def compare(loci: pl.DataFrame, planted: pl.DataFrame, *, distance: int) -> Compared:
    """Match found loci with planted ones: found when a locus's lead lies within ``distance`` of the causal variant.

    A found locus is false when its window, widened by ``distance``, holds no planted variant at all (counted or not).
    """
    planted = check(planted, TRUE_LOCI)
    rows = []
    for truth in planted.iter_rows(named=True):
        here = loci.filter(pl.col("chromosome") == truth["chromosome"])
        away = (here["position"] - truth["position"]).abs().to_numpy()
        nearest = int(np.argmin(away)) if len(away) else -1
        found = nearest >= 0 and away[nearest] <= distance
        rows.append(
            {"found": found, "locus": here["locus"][nearest] if found else None, "distance": int(away[nearest]) if found else None}
        )
    schema = {"found": pl.Boolean, "locus": pl.Int64, "distance": pl.Int64}
    table = check(planted.hstack(pl.DataFrame(rows, schema=schema)), TRUTH)
    near = planted.select(pl.col("chromosome"), pl.col("position").alias("planted"))
    explained = (
        loci.join(near, on="chromosome")
        .filter(pl.col("planted").is_between(pl.col("start") - distance, pl.col("end") + distance))["locus"]
        .unique()
    )
    counted = table.filter("counted")
    return Compared(table, int(counted["found"].sum()), counted.height, loci.height - len(explained))
