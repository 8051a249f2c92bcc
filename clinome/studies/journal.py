"""What a run has finished of many things, one line each, so that a killed one goes on with the next.

Lines are appended and given to the system at once; one that was cut off is forgotten. A journal of another key is begun anew; what
it knew is left in ``before``, for whoever has to clear up after that run.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "done.jsonl"
>>> with Journal(path, "masks of model 1") as journal:
...     journal.add("a", certainty=0.75)
>>> with Journal(path, "masks of model 1") as same, Journal(path, "masks of model 2") as other:
...     same.done, other.done, other.before
({'a': {'certainty': 0.75}}, {}, {'a': {'certainty': 0.75}})
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from clinome.core.errors import OutputError
from clinome.core.files import replacing


class Journal:
    """A file of what is ``done``, by name: read when made, written to ``with`` it, and removed by ``finish`` when all is."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.done: dict[str, dict[str, Any]] = {}
        self.before: dict[str, dict[str, Any]] = {}
        whole = path.read_bytes() if path.exists() else b""
        head, *lines = whole[: whole.rfind(b"\n") + 1].splitlines() or [b""]
        if head.startswith(b'{"key": '):
            known = self.done if head == _line({"key": key}).rstrip() else self.before
            for line in lines:
                entry = json.loads(line)
                known[entry.pop("name")] = entry

    def add(self, name: str, **about: Any) -> None:
        """Write down that ``name`` is done.

        Raises
        ------
        OutputError
            When the disk is full.
        """
        try:
            self.file.write(_line({"name": name, **about}))
        except OSError as error:
            raise OutputError("the result cannot be written", where=self.path, got=error.strerror, do="free space") from error
        self.done[name] = about

    def finish(self) -> None:
        """Remove the file: all is done."""
        self.file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        with replacing(self.path) as temporary:
            entries = ({"name": name, **about} for name, about in self.done.items())
            temporary.write_bytes(_line({"key": self.key}) + b"".join(map(_line, entries)))
        self.file = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()


def _line(about: dict[str, Any]) -> bytes:
    return json.dumps(about, sort_keys=True).encode() + b"\n"
