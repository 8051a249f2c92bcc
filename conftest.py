"""For the examples in docstrings, which pytest collects from the package: what they write goes where pytest cleans up."""

from __future__ import annotations

import tempfile

import pytest


@pytest.fixture(autouse=True)
def examples_leave_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point ``tempfile`` of a docstring's example at a folder of pytest's."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.setattr(tempfile, "tempdir", str(request.getfixturevalue("tmp_path")))
