"""What became of the planted loci, where the truth is known: recovered, missed, and loci that are none (false)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinome.core.schema import LOCI, TRUTH
from clinome.report.reading import table


@dataclass(frozen=True)
class Truth:
    """Planted loci in the order of the genome, and the found loci that no planted one explains."""

    planted: tuple[dict[str, Any], ...]
    false: tuple[dict[str, Any], ...]
    counted: int
    recovered: int
    distance: int

    @property
    def missed(self) -> int:
        """Counted planted loci that were not found."""
        return self.counted - self.recovered


def truth(folder: Path, distance: int) -> Truth | None:
    """Read ``loci/truth.parquet`` (and ``loci/loci.parquet`` for the false ones); ``None`` where the truth is not known.

    A found locus is false when its window, widened by ``distance`` base pairs, holds no planted variant, counted or not.
    """
    planted = table(folder, "loci/truth.parquet", TRUTH)
    if planted is None:
        return None
    loci = table(folder, "loci/loci.parquet", LOCI)
    found = [] if loci is None else loci.to_dicts()
    rows = planted.to_dicts()
    false = tuple(locus for locus in found if not any(_explains(row, locus, distance) for row in rows))
    counted = [row for row in rows if row["counted"]]
    return Truth(tuple(rows), false, len(counted), sum(row["found"] for row in counted), distance)


def _explains(planted: dict[str, Any], locus: dict[str, Any], distance: int) -> bool:
    near = locus["start"] - distance <= planted["position"] <= locus["end"] + distance
    return bool(near and locus["chromosome"] == planted["chromosome"])
