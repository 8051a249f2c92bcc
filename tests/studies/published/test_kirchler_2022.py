"""The small version of the study: planted variants are found, null ones are not; a second call makes nothing again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from toolkit.published import small

from clinome.studies.published.kirchler_2022.study import run


@pytest.mark.slow
def test_planted_variants_are_found_by_what_pictures_show(
    real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, figures, _ = small("kirchler_2022", real_data, tmp_path_factory)
    found = pl.DataFrame(figures["power"])
    named = {"SimCLR", "identity margin", "identity margin from random weights", "plain pixels"}
    assert set(found["encoder"]) == named | {"random weights", "procedural shapes"}
    most = found.filter((pl.col("n") == 320) & (pl.col("test") == "omnibus"))
    assert most.filter(pl.col("encoder") == "SimCLR")["found"].item() >= 3  # of 20; 5 when this was written
    assert (found["power"] <= found["ceiling"] + 0.25).all()
    # of 300 null variants five or more have p < .001 by chance with probability 2e-5, a three-thousandth over these 24 tests
    assert (found["false_0.001"] * 300 < 4.5).all()
    assert 0.03 < found["false_0.05"].mean() < 0.08
    start = time.process_time()
    again = pl.DataFrame(run(None, folder, small=True)["power"])
    assert again.select(found.columns).equals(found)
    assert time.process_time() - start < 5
