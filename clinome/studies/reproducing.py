"""Published results made again: which there are, running one, and its claims beside what was found.

A folder of ``clinome/studies/published`` holds ``study.py`` (with ``run(data, out, …)``, a script where it has options of its own:
:func:`script`), ``results/figures.json`` (what the recorded run found, where there is one) and ``claims.toml``:

    title, paper    what it is about, and the paper with its DOI
    data            the data set, or "none: simulated"
    files           what the folder of the data set must hold; absent without data
    [[claim]]
    name            of the figure in figures.json
    published       the number, or words where the paper has none
    source, mark    where the number stands; "checked" there, or "recalled"
    evidence        "same data", "other data" or "protocol, simulated"
    bar, floor      what this package set itself, and what a trivial method reaches; either may be absent
    tolerance, why  how far from the published number still agrees with it, and why so far
    lower_is_better, bar_of_longer_run, figure, file    absent but for errors, longer runs, figures of another name, or in a file
                                                        that the study leaves beside figures.json

A longer run leaves ``figures_of_<n>.json`` beside: each of its figures with a ``bar_of_longer_run`` is a claim of its own.

A figure is a number or has a ``value``; one that has several of these (a gain for each target) makes a claim of each. Where there
is none of the name, it is the metric so called, of everybody and of the predictor ``model``; ``figure = {name, predictor}`` says
another.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import numpy as np

from clinome.core.errors import ClinomeError, StudyError
from clinome.core.files import own_folder

FOLDER = Path(__file__).parent / "published"


class Claim(NamedTuple):
    """One published number: ``published`` (a number, or words where there is none), the ``bar`` set here, what was ``found``.

    ``evidence`` is 'same data', 'other data' or 'protocol, simulated'. ``mark`` says whether the number was 'checked' in its
    source or is 'recalled'. ``floor`` is what a trivial method reaches, ``tolerance`` how far from ``published`` still agrees, and
    ``why``. ``lower_is_better`` tells errors from scores.
    """

    name: str
    published: float | str
    source: str
    mark: str
    evidence: str
    bar: float | None
    floor: float | None
    tolerance: float
    why: str
    found: float | None
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """Say how what was found stands to the bar: 'met', 'missed', 'no bar' or 'not yet run'."""
        if self.found is None or self.bar is None:
            return "not yet run" if self.found is None else "no bar"
        return "met" if (self.found <= self.bar if self.lower_is_better else self.found >= self.bar) else "missed"

    @property
    def reproduced(self) -> bool | None:
        """Tell whether the published number was reached within the tolerance; None where that cannot be said.

        It can be said of the paper's own data alone: another data set or a simulation reproduces nothing, whatever it finds.
        """
        if self.evidence != "same data" or self.found is None or isinstance(self.published, str):
            return None
        short = self.found - self.published if self.lower_is_better else self.published - self.found
        return bool(short <= self.tolerance)


def names() -> list[str]:
    """Return the published results there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/claims.toml"))


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
    """Return the claims of a result beside the figures of a run (None: those that are recorded, where there are any).

    Figures of longer runs that lie beside come below those of the run, against the bars that were set for them.
    """
    path = figures or FOLDER / name / "results" / "figures.json"
    made = []
    for run in (path, *sorted(path.parent.glob("figures_of_*.json"))):
        of, bar = ("", "bar") if run == path else (f", longer run of {run.stem.removeprefix('figures_of_')}", "bar_of_longer_run")
        for claim in about(name)["claim"]:
            if run != path and bar not in claim:
                continue
            rest = {key: claim[key] for key in ("published", "source", "mark", "evidence", "tolerance", "why")}
            rest |= {"bar": claim.get(bar), "floor": claim.get("floor"), "lower_is_better": claim.get("lower_is_better", False)}
            found = _read(run.with_name(claim["file"]) if "file" in claim else run)
            for part, value in _figures(found, **{"name": claim["name"], **claim.get("figure", {})}).items():
                made.append(Claim(name=f"{claim['name']}{part and f', {part}'}{of}", found=value, **rest))
    return made


def _read(figures: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    return found


def _figures(figures: dict[str, Any], name: str, predictor: str = "model") -> dict[str, float | None]:
    """Return the figure called ``name`` under the empty name, or those of its parts under theirs."""
    value = figures.get(name)
    if value is None:
        rows = [row for row in figures.get("metrics", []) if isinstance(row, dict) and row.get("name") == name]
        rows = [row for row in rows if row.get("predictor") == predictor and row.get("subgroup", "all") == "all"]
        return {"": _number(rows[0]["value"]) if rows else None}
    if isinstance(value, dict) and "value" not in value:
        return {part: _number(one) for part, one in value.items()}
    return {"": _number(value)}


def _number(value: Any) -> float | None:
    value = value.get("value") if isinstance(value, dict) else value
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else None


def reproduce(name: str, *, data: Path | None, out: Path, small: bool = False, threads: int = 1) -> list[Claim]:
    """Run a published result into ``out`` and return its claims beside what was found; a killed run goes on.

    Parameters
    ----------
    data
        The folder of the data set, or the one above it.
    small
        Make the version of a minute, which shows that all works and reproduces nothing.

    Raises
    ------
    StudyError
        For a name that is none, or data that are needed and not there.
    OutputError
        When ``out`` holds another result, or the same of another size: their parts would be mixed.
    """
    folder = _data(about(name), data)
    run = importlib.import_module(f"clinome.studies.published.{name}.study").run
    known = inspect.signature(run).parameters
    given = {key: value for key, value in {"small": small, "threads": threads}.items() if key in known}
    out = _own(name, out, {"small": small})
    run(folder, out, **given)
    return claims(name, out / "figures.json")


def script(run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Call the ``run`` of a study with what the command line says, its parameters as options, and return what it returns.

    The folder is one that ``clinome reproduce`` would take, and no other: --small and other switches have folders of their own.
    """
    name, kinds = Path(inspect.getfile(run)).parent.name, get_type_hints(run)
    words = f"python -m clinome.studies.published.{name}.study"
    parser = argparse.ArgumentParser(words, description=about(name)["title"])
    for key, one in inspect.signature(run).parameters.items():
        kind = next((kind for kind in get_args(kinds[key]) if kind is not type(None)), kinds[key])
        how: dict[str, Any] = {"choices": get_args(kind)} if get_args(kind) else {"type": kind}
        how = {"action": "store_true"} if kind is bool else how
        parser.add_argument(f"--{key}", required=key == "out", default=None if one.default is one.empty else one.default, **how)
    given = vars(parser.parse_args())
    try:
        folder = _data(about(name), given.pop("data"))
        out = _own(name, given.pop("out"), given)
        return run(folder, out, **given)
    except ClinomeError as error:
        raise SystemExit(f"error: {error}") from error


def _own(name: str, out: Path, given: Mapping[str, Any]) -> Path:
    """Make ``out`` the folder of a result with the switches that are ``given``: parts of different ones are never mixed."""
    return own_folder(out, " ".join([f"clinome reproduce {name}", *(f"--{key}" for key, value in given.items() if value is True)]))


def _data(told: dict[str, Any], data: Path | None) -> Path | None:
    """Return the folder that holds the files which a result needs, or None when it needs none."""
    if not told.get("files"):
        return None
    if data is None:
        raise StudyError(f"this result needs the data set {told['data']!r}", do="name the folder that holds it with --data")
    for folder in (data, data / told["data"]):
        if all((folder / file).exists() for file in told["files"]):
            return folder
    raise StudyError(f"the folder does not hold the data set {told['data']!r}", where=data, expected=", ".join(told["files"]))
