"""Quality of each phenotype dimension: what it holds of the pictures, whether it is stable, what disturbs it."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinome.core.schema import QUALITY
from clinome.report.reading import json_object, table

HIGH_NUISANCE = 0.05  # share of a dimension's variance that a nuisance may explain before the page marks it
LOW_RELIABILITY = 0.5  # below it, less than half of a dimension's variance belongs to the person

_NUISANCE = "nuisance_r2:"
_NAMES = {
    "variance_share": ("Variance share", "share of the embedding's variance"),
    "left_right_icc": ("Left–right ICC", "agreement of a person's two sides; intraclass correlation"),
    "test_retest_icc": ("Test–retest ICC", "agreement of a person's visits; intraclass correlation"),
    "reliable": ("Reliable", "whether its intraclass correlations reach what the study asks for"),
}


@dataclass(frozen=True)
class Measure:
    """A column of the quality table: its key, its heading, its meaning, and the upper end of its small axis."""

    key: str
    name: str
    meaning: str
    top: float

    @property
    def is_answer(self) -> bool:
        """Whether the measure is a yes (1) or no (0) rather than an amount."""
        return self.key == "reliable"


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval, as fractions of the small axis, and whether the page marks it."""

    value: float | None
    lower: float | None
    upper: float | None
    n: int | None
    flag: str | None


@dataclass(frozen=True)
class Phenotypes:
    """All that the section shows."""

    measures: tuple[Measure, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    flagged: int
    losses: tuple[tuple[str, tuple[float, ...]], ...]
    about: tuple[tuple[str, Any], ...]


def phenotypes(folder: Path) -> Phenotypes | None:
    """Read the quality table and the account of the embedding's training; ``None`` where both are absent."""
    quality = table(folder, "phenotypes/quality.parquet", QUALITY)
    embedding = json_object(folder, "phenotypes/embedding.json")
    if quality is None and not embedding:
        return None
    measures: tuple[Measure, ...] = ()
    rows: list[tuple[str, tuple[Cell | None, ...]]] = []
    if quality is not None:
        records = quality.to_dicts()
        measures = _measures(records)
        found = {(r["trait"], r["measure"]): r for r in records}
        for trait in dict.fromkeys(r["trait"] for r in records):
            rows.append((trait, tuple(_cell(found.get((trait, m.key)), m) for m in measures)))
    return Phenotypes(
        measures=measures,
        rows=tuple(rows),
        flagged=sum(any(cell and cell.flag for cell in cells) for _, cells in rows),
        losses=_losses(embedding.get("losses") or []),
        about=tuple((k.replace("_", " "), v) for k, v in embedding.items() if k != "losses" and _is_plain(v)),
    )


def _losses(found: Any) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Mean loss by epoch of each encoder by name; a study with one encoder may write its losses without a name."""
    named = found if isinstance(found, dict) else {"encoder": found}
    return tuple((str(name), tuple(float(loss) for loss in losses)) for name, losses in named.items() if len(losses) > 1)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))


def _measures(records: list[dict[str, Any]]) -> tuple[Measure, ...]:
    """Order the measures: variance, reliabilities, nuisances, then any other; each axis ends at 1 or a round number below."""
    keys = list(dict.fromkeys(r["measure"] for r in records))
    ordered = [k for k in _NAMES if k in keys]
    ordered += [k for k in keys if k.startswith(_NUISANCE)] + [k for k in keys if k not in _NAMES and not k.startswith(_NUISANCE)]
    measures = []
    for key in ordered:
        largest = max((r["upper"] or r["value"] or 0.0 for r in records if r["measure"] == key), default=0.0)
        top = (
            1.0
            if key.endswith("_icc") or key == "reliable"
            else next((t for t in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if largest <= t), largest)
        )
        if key.startswith(_NUISANCE):
            nuisance = key.removeprefix(_NUISANCE)
            name, meaning = f"R² {nuisance.replace('_', ' ')}", f"share of the dimension's variance that {nuisance} explains"
        else:
            name, meaning = _NAMES.get(key, (key.replace("_", " "), key.replace("_", " ")))
        measures.append(Measure(key, name, meaning, top))
    return tuple(measures)


def _cell(row: dict[str, Any] | None, measure: Measure) -> Cell | None:
    if row is None or row["value"] is None or not math.isfinite(row["value"]):
        return None
    flag = None
    if measure.key.startswith(_NUISANCE) and row["value"] > HIGH_NUISANCE:
        flag = f"above {HIGH_NUISANCE:g}: the dimension follows a nuisance"
    if measure.key.endswith("_icc") and row["value"] < LOW_RELIABILITY:
        flag = f"below {LOW_RELIABILITY:g}: less than half of the variance belongs to the person"
    if measure.is_answer and row["value"] == 0:
        flag = "an intraclass correlation is below what the study asks for"
    return Cell(row["value"], row["lower"], row["upper"], row["n"], flag)


def picture(path: Path) -> str | None:
    """Return a PNG or JPEG file as a ``data:`` address, so that the page needs no other file; ``None`` where it is absent."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    kind = "jpeg" if content[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
