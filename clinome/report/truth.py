"""What became of the planted loci, where the truth is known: recovered, missed, and loci that are none (false)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinome.core.schema import LOCI, TRUTH
from clinome.report.reading import table

FALSE_BEYOND = 1_000_000  # base pairs; a locus with no planted one this near is false


@dataclass(frozen=True)
class Truth:
    """Planted loci in the order of the genome, and the found loci that no planted one explains."""

    planted: tuple[dict[str, Any], ...]
    false: tuple[dict[str, Any], ...]
    counted: int
    recovered: int

    @property
    def missed(self) -> int:
        """Counted planted loci that were not found."""
        return self.counted - self.recovered


def truth(folder: Path) -> Truth | None:
    """Read ``loci/truth.parquet`` (and ``loci/loci.parquet`` for the false ones); ``None`` where the truth is not known."""
    planted = table(folder, "loci/truth.parquet", TRUTH)
    if planted is None:
        return None
    loci = table(folder, "loci/loci.parquet", LOCI)
    found = [] if loci is None else loci.to_dicts()
    rows = planted.to_dicts()
    false = tuple(locus for locus in found if not any(_near(locus, row) for row in rows))
    counted = [row for row in rows if row["counted"]]
    return Truth(tuple(rows), false, len(counted), sum(row["found"] for row in counted))


def _near(locus: dict[str, Any], planted: dict[str, Any]) -> bool:
    return bool(locus["chromosome"] == planted["chromosome"] and abs(locus["position"] - planted["position"]) <= FALSE_BEYOND)
