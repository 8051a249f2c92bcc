"""Which folder may import which. One line per layer, lowest first; folders on one line are strangers to each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "clinome"
LAYERS = """
core
formats stats
cohort report nn simulate
train evaluate explain privacy
imaging records genetics sequence drugs survival
studies
cli
"""
LEVEL = {name: i for i, line in enumerate(LAYERS.split("\n")) for name in line.split()}
OUTSIDE = {"__init__.py", "__main__.py"}
FILES = sorted(p for p in ROOT.rglob("*.py") if str(p.relative_to(ROOT)) not in OUTSIDE)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (folder of the package that is imported, line); imports inside functions count too."""
    package = ["clinome", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = start + (node.module.split(".") if node.module else [])
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "clinome" and len(name) > 1 and name[1] != "__version__":
                yield name[1], node.lineno


def test_every_folder_has_a_layer() -> None:
    assert {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} <= set(LEVEL)


def test_no_room_is_empty() -> None:
    for folder in LEVEL:
        if (ROOT / folder).exists():
            assert len(list((ROOT / folder).rglob("*.py"))) > 1, f"{folder} holds nothing yet"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    for there, line in imports(path):
        assert there == here or LEVEL[there] < LEVEL[here], f"line {line}: {here} may not import {there}"
