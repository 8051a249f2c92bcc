"""One self-contained HTML page from a result folder: ``write_report(folder)``.

Everything the page needs is inside it (script, styles, data, pictures), and a content-security policy in its head forbids
the browser to load anything else, so that it can be mailed, archived and opened from a disk years later. The page holds
no time of its own: the same folder gives the same bytes.

A section appears where its tables are there; ``docs/report.md`` lists which section reads which table.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import clinome
from clinome.core.errors import StudyError, need
from clinome.core.files import replacing
from clinome.report import numbers
from clinome.report.examples import examples
from clinome.report.flow import flow
from clinome.report.learning import learning
from clinome.report.loci import FEWEST, loci
from clinome.report.manhattan import manhattan
from clinome.report.methods import Summary, provenance, summary
from clinome.report.phenotypes import phenotypes
from clinome.report.qq import quantiles
from clinome.report.quantities import quantities
from clinome.report.reading import PARTS
from clinome.report.reliability import groups, reliability
from clinome.report.results import results
from clinome.report.splits import images, leaks
from clinome.report.truth import truth

_HERE = Path(__file__).parent


def write_report(folder: str | Path, *, out: str | Path | None = None, pictures: bool = True) -> Path:
    """Write the page of a result folder as ``folder/report.html`` (or ``out``), whole or not at all, and return its path.

    Parameters
    ----------
    pictures
        Whether it may hold pictures of single people (``examples.parquet``); averages of many are not meant.

    Raises
    ------
    StudyError
        When ``folder`` holds none of the tables that a section is made of.
    SchemaError, FormatError
        When one of them is not what it should be.
    OutputError
        When the page cannot be written.

    Example
    -------
    >>> import json, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "summary.json").write_text(json.dumps({"title": "A scan", "n_participants": 1814}))
    >>> write_report(folder).name
    'report.html'
    """
    folder = Path(folder)
    if not any((folder / part).is_file() for part in PARTS):
        raise StudyError(
            "the folder holds no results to report" if folder.is_dir() else "there is no such folder",
            where=folder,
            expected=f"at least one of {', '.join(PARTS)}",
            do="give the folder that a command such as 'clinome run', 'clinome gwas' or 'clinome train' wrote (its --out)",
        )
    path = folder / "report.html" if out is None else Path(out)
    page = render(folder, pictures=pictures)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(folder: Path, *, pictures: bool = True) -> str:
    """Return the page of a result folder as text."""
    about = summary(folder)
    parts: dict[str, Any] = {
        "results": results(folder),
        "reliability": reliability(folder),
        "groups": groups(folder),
        "quantities": quantities(folder),
        "examples": examples(folder, pictures=pictures),
        "learning": learning(folder),
        "leaks": leaks(folder),
        "images": images(folder),
        "flow": flow(folder),
        "phenotypes": phenotypes(folder),
        "manhattan": manhattan(folder, about.thresholds, trait=about.trait),
        "quantiles": quantiles(folder),
        "loci": loci(folder, about.thresholds),
        "truth": truth(folder, about.truth_distance),
        "provenance": provenance(folder),
    }
    found = [part for part in (parts["leaks"], parts["results"], parts["quantities"]) if part]
    about = replace(
        about,
        headline=about.headline or (parts["results"].headline if parts["results"] else ()),
        warnings=(*about.warnings, *(line for part in found for line in part.warnings)),
    )
    data = _data(parts)
    jinja2 = need("jinja2", "report")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {
        "whole": numbers.whole,
        "p": numbers.p_value,
        "span": numbers.base_pairs,
        "plain": numbers.plain,
        "capitalised": lambda text: text[:1].upper() + text[1:],
        **{f"d{digits}": partial(numbers.decimals, digits=digits) for digits in (1, 2, 3, 4)},
    }
    text = templates.get_template("page.jinja").render(
        **parts,
        about=about,
        sections=_sections(about, parts),
        cards={locus.number for locus in parts["loci"].cards} if parts["loci"] else set(),
        data=_embedded(data),
        style=_inside("page.css"),
        script=_inside("page.js") + _inside("plots.js"),
        plotly=_plotly() if data else "",
        version=clinome.__version__,
        fewest=FEWEST,
    )
    return str(text)


def _sections(about: Summary, parts: dict[str, Any]) -> list[tuple[str, str]]:
    """The navigation: (anchor, heading) of every section that is there."""
    named = (
        ("results", "Results", parts["results"]),
        ("reliability", "Reliability", parts["reliability"]),
        ("groups", "Groups of people", parts["groups"]),
        ("quantities", parts["quantities"].title if parts["quantities"] else "", parts["quantities"]),
        ("examples", "Examples", parts["examples"]),
        ("learning", "Learning curves", parts["learning"]),
        ("images", "Images and splits" if parts["images"] and parts["images"].rows else "Images", parts["images"]),
        ("leakage", "Leakage", parts["leaks"]),
        ("participants", "Participants", parts["flow"]),
        ("phenotypes", "Phenotypes", parts["phenotypes"]),
        ("association", "Association", parts["manhattan"]),
        ("calibration", "Calibration", parts["quantiles"]),
        ("loci", "Loci", parts["loci"]),
        ("truth", "Truth", parts["truth"]),
        ("methods", "Methods", about.sentences or about.settings or about.notes),
        ("provenance", "Provenance", parts["provenance"]),
    )
    return [(anchor, name) for anchor, name, part in named if part]


def _data(parts: dict[str, Any]) -> dict[str, Any]:
    """What the script draws; parts that are absent are left out."""
    data: dict[str, Any] = {}
    if parts["phenotypes"] and parts["phenotypes"].losses:
        data["losses"] = [
            {"name": name, "values": [round(loss, 5) for loss in losses]} for name, losses in parts["phenotypes"].losses
        ]
    if parts["manhattan"]:
        data["manhattan"] = parts["manhattan"].data
    if parts["quantiles"] and parts["quantiles"].data:
        data["qq"] = parts["quantiles"].data
    if parts["loci"]:
        data["regions"] = [locus.region for locus in parts["loci"].cards if locus.region]
        if parts["loci"].evidence:
            data["evidence"] = parts["loci"].evidence
    return data


def _embedded(data: dict[str, Any]) -> str:
    """JSON that can stand inside a script element whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _inside(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return the plotting library's script, which comes with the Python package."""
    return str(need("plotly.offline", "report").get_plotlyjs())
