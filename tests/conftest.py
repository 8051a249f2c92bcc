"""Fixtures for every test: the real data (skipped, and named, where it is absent) and a seeded generator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("no clock", deadline=None)  # a machine that is busy with something else fails no test
hypothesis.settings.load_profile("no clock")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return the folder of a real data set by name, or skip the test and name what lacks."""

    def folder(name: str) -> Path:
        path = Path(os.environ.get("CLINOME_DATA", ROOT / ".." / "shared" / "data")).resolve() / name
        if not path.is_dir():
            pytest.skip(f"data set {name} is not at {path} (set CLINOME_DATA)")
        return path

    return folder


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(20261120)


@pytest.fixture
def program() -> Callable[[str], str]:
    """Return the path of an outside program by name, or skip the test and name what lacks (CI installs them all)."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            if os.environ.get("CLINOME_CI"):
                pytest.fail(f"{name} is not installed; CI lets no test skip")
            pytest.skip(f"{name} is not installed (make setup installs it where it may)")
        return path

    return find
