"""The small version of the study: each eye is scanned alone, and no null variant is found in both."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinome.studies.published.xie_2024.study import run


@pytest.mark.slow
def test_each_eye_alone_and_both_together(tmp_path: Path) -> None:
    rows = {row["encoder"]: row for row in run(None, tmp_path, small=True)["eyes"]}
    assert set(rows) == {"identity margin", "SimCLR", "plain pixels"}
    for row in rows.values():
        assert row["n"] > 300
        assert row["null both"] == 0
        assert row["causal both"] <= min(row["causal left"], row["causal right"])
    assert rows["plain pixels"]["causal both"] >= 1
