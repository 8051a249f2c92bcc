"""Small versions of published results, each made once for all tests that look at it, whichever worker comes first."""

from __future__ import annotations

import fcntl
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clinome.studies.reproducing import about, reproduce


class Small(NamedTuple):
    """Its folder, its figures and the processor seconds that it took."""

    folder: Path
    figures: dict[str, Any]
    seconds: float


def small(name: str, real_data: Callable[[str], Path], factory: pytest.TempPathFactory) -> Small:
    """Make the small version of ``name`` unless another test of this session has; skip where its data are not there."""
    needed = about(name)["data"]
    data = None if needed.startswith("none") else real_data(needed)
    base = factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base  # workers of pytest-xdist share the folder above theirs
    folder = base / f"small_{name}"
    folder.mkdir(exist_ok=True)
    with (base / f"small_{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        took = base / f"small_{name}.seconds"
        if not took.exists():
            importlib.import_module(f"clinome.studies.published.{name}.study")
            start = time.process_time()
            reproduce(name, data=data, out=folder, small=True)
            took.write_text(str(time.process_time() - start))
    return Small(folder, json.loads((folder / "figures.json").read_text()), float(took.read_text()))
