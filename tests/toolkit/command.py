"""The command line as a user types it, without a new process: its exit code and what it printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from clinome.__main__ import main


class Said(NamedTuple):
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


def say(words: Sequence[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run ``clinome <words>`` through its entry point."""
    monkeypatch.setattr(sys, "argv", ["clinome", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return Said(code, printed.out, printed.err)
