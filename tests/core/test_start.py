"""Importing the package and asking for help load nothing heavy; `benchmarks/start.py` measures what they cost."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "scipy", "polars", "numpy", "PIL", "plotly", "msprime", "cyvcf2", "pgenlib", "pydantic")


def _loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split("\n")[-2].split()}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert _loaded("import clinome") & set(HEAVY) == set()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['clinome', '--help']\ntry:\n    from clinome.__main__ import main; main()\nexcept SystemExit: pass"
    )
    assert _loaded(code) & set(HEAVY) == set()
