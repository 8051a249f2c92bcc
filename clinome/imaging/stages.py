"""Which files of a result folder are finished, and from what: the memory that lets a killed command go on where it was.

A file counts as finished only when ``stages.json`` holds the key it was made with. The key is taken out before the file is
replaced and put back after, so whatever moment a process dies at, a file is never mistaken for one made from other inputs.

>>> import tempfile
>>> stages = Stages(Path(tempfile.mkdtemp()))
>>> with stages.making("a.txt", "key 1") as temporary:
...     _ = temporary.write_text("whole")
>>> stages.has("a.txt", "key 1"), stages.has("a.txt", "key 2")
(True, False)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clinome.core.files import replacing, write_json


@dataclass(frozen=True)
class Stages:
    """The finished files of ``folder``. One process at a time works in a folder."""

    folder: Path

    def has(self, name: str, key: str) -> bool:
        """Tell whether the file ``name`` is there and was made with ``key``."""
        return self._keys().get(name) == key and (self.folder / name).exists()

    @contextmanager
    def making(self, name: str, key: str) -> Iterator[Path]:
        """Give a temporary path to write; when the block ends well it becomes ``name``, finished with ``key``."""
        keys = self._keys()
        if keys.pop(name, None) is not None:
            write_json(self.folder / "stages.json", keys)
        with replacing(self.folder / name) as temporary:
            yield temporary
        write_json(self.folder / "stages.json", {**self._keys(), name: key})

    def _keys(self) -> dict[str, str]:
        try:
            keys: dict[str, str] = json.loads((self.folder / "stages.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return keys
