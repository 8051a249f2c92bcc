from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from toolkit.result_folder import result_folder

from clinome.core.errors import SchemaError
from clinome.report.flow import flow
from clinome.report.page import write_report


def save(folder: Path, rows: list[tuple[str, str, int, int]]) -> Path:
    pl.DataFrame(rows, schema=["stage", "reason", "dropped", "remaining"], orient="row").write_parquet(folder / "flow.parquet")
    return folder


def test_counts_add_up_and_reasons_of_a_stage_are_one_step(tmp_path: Path) -> None:
    found = flow(
        save(
            tmp_path,
            [("link", "no genotypes", 5, 95), ("link", "no pictures", 10, 85), ("kin", "related", 0, 85), ("age", "", 1, 84)],
        )
    )
    assert found is not None
    assert (found.entered, found.analysed) == (100, 84)
    assert [(s.stage, s.dropped, s.remaining) for s in found.steps] == [("link", 15, 85), ("kin", 0, 85), ("age", 1, 84)]
    assert found.steps[0].reasons == (("no genotypes", 5), ("no pictures", 10))
    assert [s.stage for s in found.losing] == ["link", "age"]
    assert found.lossless == ("kin",)
    assert found.entered - sum(s.dropped for s in found.steps) == found.analysed


@pytest.mark.parametrize("rows", [[("a", "x", 5, 95), ("b", "y", 10, 86)], [("a", "x", 5, 95), ("b", "y", -1, 96)]])
def test_a_flow_that_does_not_add_up_is_an_error(tmp_path: Path, rows: list[tuple[str, str, int, int]]) -> None:
    with pytest.raises(SchemaError, match=r"does not add up[\s\S]*row 2"):
        flow(save(tmp_path, rows))


def test_when_nobody_left_the_page_says_so(tmp_path: Path) -> None:
    page = write_report(save(tmp_path, [("link", "no genotypes", 0, 70), ("kin", "related", 0, 70)])).read_text()
    assert "All 70 participants who entered were analysed." in page
    assert "Nobody left at link, kin." in page


def test_the_page_shows_every_count(tmp_path: Path) -> None:
    page = write_report(result_folder(tmp_path)).read_text()
    for text in (
        "Of 4,000 participants, 3,412 were analysed (85.3 %)",
        "−513",
        "no genotypes: 212",
        "no pictures: 301",
        "3,487",
        "age is missing",
    ):
        assert text in page
