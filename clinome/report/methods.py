"""The top and the end of the page: what was found and what to beware of, every setting, and where the result comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinome.report.numbers import file_size, plain, whole
from clinome.report.reading import json_object

_FALSE_BEYOND = 1_000_000  # base pairs, where the study does not say from where on a locus is false
_COUNTS = (("n_participants", "participants"), ("n_variants", "variants"), ("n_traits", "traits"))


@dataclass(frozen=True)
class Summary:
    """``summary.json``, with every part that it lacks left empty."""

    title: str
    subtitle: str
    kind: str
    headline: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    sentences: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    thresholds: dict[str, float | None]
    effective_tests: float | None
    build: str | None
    truth_line: str | None
    truth_distance: int
    seconds: tuple[tuple[str, float], ...]

    @property
    def trait(self) -> str:
        """The word for one of the traits: an embedding has dimensions."""
        return "dimension" if self.kind == "discover" else "trait"


def summary(folder: Path) -> Summary:
    """Read ``summary.json``. Without a headline, the counts it holds are the headline; without a title, the folder's name is."""
    found = json_object(folder, "summary.json")
    headline = [(str(label), plain(value)) for label, value in found.get("headline") or ()]
    if not headline:
        headline = [(label, whole(found[key])) for key, label in _COUNTS if found.get(key) is not None]
    return Summary(
        title=str(found.get("title") or folder.resolve().name),
        subtitle=str(found.get("subtitle") or ""),
        kind=str(found.get("kind") or ""),
        headline=tuple(headline),
        warnings=tuple(str(line) for line in found.get("warnings") or ()),
        notes=tuple(str(line) for line in found.get("notes") or ()),
        sentences=tuple(str(line) for line in found.get("methods") or ()),
        settings=tuple(_flat(found.get("settings") or {})),
        thresholds={str(k): None if v is None else float(v) for k, v in (found.get("thresholds") or {}).items()},
        effective_tests=found.get("effective_tests"),
        build=found.get("build"),
        truth_line=found.get("truth_line"),
        truth_distance=int(((found.get("settings") or {}).get("truth") or {}).get("distance") or _FALSE_BEYOND),
        seconds=tuple((str(stage), float(time)) for stage, time in (found.get("seconds") or {}).items()),
    )


def _flat(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Write nested settings one a line, as a study file names them: ``gwas.maf``."""
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, plain(value)


@dataclass(frozen=True)
class Provenance:
    """``provenance.json`` as lines to print, and its input files."""

    lines: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str, str], ...]


def provenance(folder: Path) -> Provenance | None:
    """Read ``provenance.json``; ``None`` where it is absent."""
    found = json_object(folder, "provenance.json")
    if not found:
        return None
    machine = found.get("machine") or {}
    libraries = found.get("libraries") or {}
    memory = machine.get("memory_gib")
    parts: list[tuple[str, Any]] = [
        ("Clinome", found.get("clinome")),
        ("Command", found.get("command")),
        ("Seed", None if found.get("seed") is None else str(found["seed"])),
        ("Written", found.get("written")),
        ("Processor", machine.get("processor")),
        ("Cores", machine.get("cores")),
        ("Memory", None if memory is None else f"{memory:g} GiB"),
        ("System", machine.get("system")),
        ("Python", machine.get("python")),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in libraries.items()) or None),
    ]
    settings = found.get("settings")
    parts += _trained((settings.get("training") or {}) if isinstance(settings, dict) else {})
    inputs = tuple((str(i.get("name")), file_size(i.get("bytes") or 0), str(i.get("sha256"))) for i in found.get("inputs") or ())
    return Provenance(tuple((name, plain(value)) for name, value in parts if value is not None), inputs)


def _trained(about: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Say what was trained, from which weights, how precisely, where and how long."""
    if not about:
        return
    count, parameters = about.get("networks"), about.get("parameters")
    name = f"{about['network']}, " if about.get("network") else ""
    many = f"{count} of " if count and count > 1 else ""
    yield "Networks" if many else "Network", f"{name}{many}{whole(parameters)} parameters"
    weights = about.get("weights")
    if weights is None:
        yield "Weights", "begun at random"
    else:
        of = weights["matched"] + weights["missing"]
        source = f" ({weights['source']})" if weights.get("source") else ""
        yield "Weights", f"{weights['name']}{source}, {weights['matched']} of {of} keys matched, sha256 {weights['sha256']}"
    yield "Precision", about.get("precision")
    yield "Device", about.get("device")
    seconds = about.get("cpu_seconds")
    yield "Training", None if seconds is None else f"{plain(float(seconds))} seconds of processor"
