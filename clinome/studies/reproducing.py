"""Published results made again: which there are, running one, and its claims beside what was found.

A folder of ``clinome/studies/published`` holds ``claims.toml`` (each published number, its source, the bar that was set here),
``study.py`` (a script with ``run(data, out, …)``) and ``results/figures.json`` (what the recorded run found). A claim's name is a
key of the figures, or the name of a metric of the model in them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clinome.core.errors import StudyError
from clinome.core.files import usable_folder

FOLDER = Path(__file__).parent / "published"


class Claim(NamedTuple):
    """One published number: ``published`` (a number, or words where there is none), the ``bar`` set here, what was ``found``.

    ``evidence`` is 'same data', 'other data' or 'protocol, simulated'; the last never counts as reproduced. ``mark`` says whether
    the number was 'checked' in its source or is 'recalled'. ``lower_is_better`` tells errors from scores.
    """

    name: str
    published: float | str
    source: str
    mark: str
    evidence: str
    bar: float | None
    found: float | None
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """Say 'met', 'missed' or 'not yet run'."""
        if self.found is None or self.bar is None:
            return "not yet run" if self.found is None else "no bar"
        return "met" if (self.found <= self.bar if self.lower_is_better else self.found >= self.bar) else "missed"


def names() -> list[str]:
    """Return the published results there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/study.py"))


def about(name: str) -> dict[str, Any]:
    """Return ``claims.toml`` of a result.

    Raises
    ------
    StudyError
        For a name that is none.
    """
    if name not in names():
        raise StudyError("there is no such published result", got=name, expected=", ".join(names()))
    return tomllib.loads((FOLDER / name / "claims.toml").read_text(encoding="utf-8"))


def claims(name: str, figures: Path | None = None) -> list[Claim]:
    """Return the claims of a result beside the figures of a run (None: those that are recorded, where there are any)."""
    path = figures or FOLDER / name / "results" / "figures.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made = []
    for claim in about(name)["claim"]:
        bar = claim.get("bar")
        made.append(
            Claim(
                claim["name"],
                claim["published"],
                claim["source"],
                claim["mark"],
                claim["evidence"],
                float(bar) if isinstance(bar, (int, float)) else None,
                _figure(found, claim["name"]),
                bool(claim.get("lower_is_better", "mae" in claim["name"] or claim["name"].startswith("false"))),
            )
        )
    return made


def _figure(figures: dict[str, Any], name: str) -> float | None:
    """Return the figure called ``name``: a key, a paired gain, or the model's metric over everybody."""
    value = figures.get(name)
    if isinstance(value, dict):
        value = value.get("value")
    if value is None and isinstance(gain := figures.get("gains", {}).get(name), dict):
        value = gain.get("value")
    if value is None:
        rows = [row for row in figures.get("metrics", []) if isinstance(row, dict) and row.get("name") == name]
        rows = [row for row in rows if row.get("predictor") == "model" and row.get("subgroup", "all") == "all"]
        value = rows[0]["value"] if rows else None
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def reproduce(name: str, *, data: Path | None, out: Path, small: bool = False, threads: int = 1) -> list[Claim]:
    """Run a published result into ``out`` and return its claims beside what was found; a killed run goes on.

    Raises
    ------
    StudyError
        For a name that is none, or data that are needed and not there.
    """
    needed = about(name)["data"]
    if not str(needed).startswith("none") and (data is None or not data.is_dir()):
        raise StudyError(
            f"this result needs the data set {needed!r}", got=str(data), do="name the folder that holds it with --data"
        )
    run = importlib.import_module(f"clinome.studies.published.{name}.study").run
    known = inspect.signature(run).parameters
    given: dict[str, Any] = {"small": small, "threads": threads}
    run(data, usable_folder(out), **{key: value for key, value in given.items() if key in known})
    return claims(name, out / "figures.json")
