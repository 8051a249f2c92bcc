"""The stages of a study: each has a folder, is skipped when nothing it depends on has changed, and goes on after a kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clinome.core.errors import OutputError
from clinome.core.files import remove_half_written, write_json
from clinome.core.progress import say


@dataclass(frozen=True)
class Stages:
    """The stages under ``out``. ``seconds`` gathers what those that ran took, by name."""

    out: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def other(self, name: str, key: str) -> bool:
        """Tell whether a stage ``name`` is there that was made, or begun, with another key."""
        return _state(self.out / name).get("key", key) != key

    def run(self, name: str, key: str, make: Callable[[Path], object]) -> Path:
        """Have ``make`` fill the folder ``name`` unless it was filled with the same ``key``; return the folder.

        A folder that was begun with another key is emptied first; one begun with the same key is left to ``make``, which
        finds what it had finished.

        Raises
        ------
        OutputError
            When a folder of that name is there that no stage has made: somebody's files are never removed.
        """
        folder = self.out / name
        mark = folder / "stage.json"
        state = _state(folder)
        if state == {"key": key, "finished": True}:
            say(f"{name}: nothing has changed")
            return folder
        if folder.exists():
            remove_half_written(folder)
        if folder.exists() and not state and any(".partial." not in entry.name for entry in folder.iterdir()):
            raise OutputError(
                f"a folder named {name!r} is there that no study has made", where=folder, do="choose another --out, or move it away"
            )
        if folder.exists() and state.get("key") != key:
            _empty(folder, but=mark)  # the mark goes last: a kill in between leaves a folder that is known as a stage's
        write_json(mark, {"key": key, "finished": False})
        for stale in ("report.html", "summary.json"):  # of what the stages held before
            (self.out / stale).unlink(missing_ok=True)
        say(f"{name} …")
        start = time.perf_counter()
        make(folder)
        self.seconds[name] = round(time.perf_counter() - start, 1)
        write_json(mark, {"key": key, "finished": True})
        return folder

    def forget(self, name: str) -> None:
        """Remove the folder ``name`` when all in it are stages."""
        folder = self.out / name
        if folder.is_dir() and all(_state(inner) for inner in folder.iterdir()):
            shutil.rmtree(folder)


def _state(folder: Path) -> dict[str, object]:
    """Return what the mark of a stage's folder says, nothing where there is none."""
    mark = folder / "stage.json"
    return dict(json.loads(mark.read_text())) if mark.exists() else {}


def _empty(folder: Path, *, but: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != but:
            entry.unlink()
