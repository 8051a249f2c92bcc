"""The small version of the study: each eye is scanned alone, and no null variant is found in both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toolkit.published import small


@pytest.mark.slow
def test_each_eye_alone_and_both_together(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    _, figures, _ = small("xie_2024", real_data, tmp_path_factory)
    rows = {row["encoder"]: row for row in figures["eyes"]}
    assert set(rows) == {"identity margin", "SimCLR", "plain pixels"}
    for row in rows.values():
        assert row["n"] > 300
        assert row["null both"] == 0
        assert row["causal both"] <= min(row["causal left"], row["causal right"])
    assert rows["plain pixels"]["causal both"] >= 1
