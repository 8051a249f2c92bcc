"""Where a result comes from: code version, inputs with checksums, settings, seed, machine and time, written beside it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import clinome
from clinome.core.files import write_json

_LIBRARIES = ("numpy", "scipy", "polars", "torch", "Pgenlib", "cyvcf2", "zstandard", "msprime", "pillow", "plotly")
_WHOLE = 64 << 20  # files up to 64 MiB are hashed whole


def checksum(path: str | Path) -> str:
    """Return a SHA-256 of a file: of all bytes up to 64 MiB, else of its size and 64 spread windows of 1 MiB.

    The second form is prefixed ``sampled-``: a checksum that took an hour over a biobank's files would be switched off.
    """
    path = Path(path)
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= _WHOLE:
            while piece := file.read(1 << 20):
                digest.update(piece)
            return digest.hexdigest()
        digest.update(str(size).encode())
        for k in range(64):
            file.seek(k * (size - (1 << 20)) // 63)
            digest.update(file.read(1 << 20))
    return "sampled-" + digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any of ``parts`` (JSON-like values, dataclasses, paths to read) changes.

    A :class:`~pathlib.Path` stands for the file's content, a folder for its files' names and contents.

    >>> fingerprint({"a": 1}) == fingerprint({"a": 1}) != fingerprint({"a": 2})
    True
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            if value.is_dir():
                return {str(p.relative_to(value)): checksum(p) for p in sorted(value.rglob("*")) if p.is_file()}
            return checksum(value) if value.exists() else "absent"
        if is_dataclass(value) and not isinstance(value, type):
            return plain(asdict(value))
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return value

    text = json.dumps([plain(p) for p in parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_version() -> str:
    """Return the package version, with the commit (and '+changes') when it runs from a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return clinome.__version__

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return clinome.__version__
    return f"{clinome.__version__}+{commit}" + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge a time: cores, memory, processor, system. No host or user name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1) if memory else None,
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def libraries() -> dict[str, str]:
    """Return the versions of the installed libraries that results may depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(*, inputs: Iterable[str | Path] = (), settings: Any = None, seed: int | None = None) -> dict[str, Any]:
    """Return everything a reader needs to make a result again. File names are kept, folders above them are not."""
    return {
        "clinome": code_version(),
        "command": _command(),
        "inputs": [{"name": Path(p).name, "bytes": Path(p).stat().st_size, "sha256": checksum(p)} for p in inputs],
        "settings": asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings,
        "seed": seed,
        "machine": machine(),
        "libraries": libraries(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command() -> str | None:
    """Return the command as it was typed, without the folders above its files (they may name people or projects)."""
    if not Path(sys.argv[0]).name.startswith(("clinome", "__main__")):
        return None
    return shlex.join(["clinome", *(re.sub(r"^(--?[\w-]+=)?.*/(?=.)", r"\1", word.rstrip("/")) for word in sys.argv[1:])])


def write_provenance(folder: str | Path, **about: Any) -> Path:
    """Write :func:`provenance` as ``provenance.json`` in ``folder`` and return its path."""
    path = Path(folder) / "provenance.json"
    write_json(path, provenance(**about))
    return path
