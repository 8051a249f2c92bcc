"""Every benchmark says how it is used and measures nothing when asked for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = [path for path in sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_given(path: Path) -> None:
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {path.name}")
    assert path.read_text().split('"""')[1].splitlines()[0].split(":")[0] in done.stdout


@pytest.mark.slow
def test_a_part_that_is_none_is_refused() -> None:
    path = next(path for path in SCRIPTS if path.stem == "imaging_throughput")
    done = subprocess.run([sys.executable, path, "speed"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'speed'" in done.stderr
