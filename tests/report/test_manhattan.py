from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from toolkit.result_folder import LEADS, loci_table, manhattan_table

from clinome.report.manhattan import COLUMNS, MOST_STRONG, ROWS, STRONG, Manhattan, manhattan
from clinome.report.page import write_report


def save(folder: Path, frame: pl.DataFrame) -> Path:
    (folder / "gwas").mkdir(exist_ok=True)
    frame.write_parquet(folder / "gwas/manhattan.parquet")
    return folder


def drawn(found: Manhattan, view: str) -> pl.DataFrame:
    """The variants that a view draws, as the page's script rebuilds them."""
    data: dict[str, Any] = found.data
    columns, words = data["variants"], data["words"]
    places = np.cumsum(next(v["points"] for v in data["views"] if v["key"] == view))
    chromosome = [words["chromosome"][i] for i in columns["chromosome"]]
    frame = pl.DataFrame(
        {"variant_id": columns["id"], "chromosome": chromosome, "position": columns["position"], "value": columns[view]}
    )
    return frame[places.tolist()]


def test_strong_variants_are_all_kept_and_the_rest_one_a_cell(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(60_000, generator)
    found = manhattan(save(tmp_path, frame), {"dimension": 8.1, "omnibus": 7.6, "study_wide": 7.3})
    assert found is not None
    assert found.n_variants == 60_000
    for view in found.views:
        kept = drawn(found, view.key)
        strong = frame.filter(pl.col(view.key) >= STRONG)
        assert view.every_above == STRONG
        assert set(strong["variant_id"]) <= set(kept["variant_id"])
        assert strong.height < kept.height <= strong.height + (COLUMNS + 1) * (ROWS + 1)
        assert view.drawn == kept.height
        assert view.largest == pytest.approx(frame[view.key].max())
        # Every variant left out lies within a cell of one that is drawn.
        weak = frame.filter(pl.col(view.key) < STRONG).with_columns(
            x=pl.col("position") // 700_000, y=(pl.col(view.key) / STRONG * ROWS).floor()
        )
        near = set(
            kept.with_columns(x=pl.col("position") // 700_000, y=(pl.col("value") / STRONG * ROWS).floor())
            .select("chromosome", "x", "y")
            .rows()
        )
        lonely = [
            r
            for r in weak.select("chromosome", "x", "y").rows()
            if not any((r[0], r[1] + i, r[2] + j) in near for i in (-1, 0, 1) for j in (-1, 0, 1))
        ]
        assert lonely == []


def test_lines_belong_to_their_views(tmp_path: Path, generator: np.random.Generator) -> None:
    found = manhattan(save(tmp_path, manhattan_table(900, generator)), {"dimension": 8.1, "omnibus": 7.6, "study_wide": None})
    assert found is not None
    assert {v.key: v.line for v in found.views} == {"study_wide": None, "best": 8.1, "omnibus": 7.6}


def test_a_scan_of_one_kind_of_test_has_fewer_views(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(900, generator).with_columns(pl.lit(None, dtype=pl.Float64).alias("omnibus"))
    found = manhattan(save(tmp_path, frame), {})
    assert found is not None
    assert [v.key for v in found.views] == ["study_wide", "best"]


def test_without_anything_to_correct_for_the_study_wide_view_is_left_out(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(900, generator).with_columns(pl.lit(None, dtype=pl.Float64).alias("omnibus"), study_wide="best")
    found = manhattan(save(tmp_path, frame), {"dimension": 7.3, "omnibus": None, "study_wide": 7.3})
    assert found is not None
    assert [(v.key, v.name, v.line) for v in found.views] == [("best", "Strongest trait", 7.3)]


def test_crowded_peaks_are_thinned_but_keep_their_shape_and_their_lead(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(40_000, generator).with_columns(best=pl.Series(generator.uniform(0, 50, 40_000)))
    lead = frame.sort("best")[20_000]  # a lead in the middle of the crowd is drawn all the same
    (tmp_path / "loci").mkdir()
    row = (
        loci_table()
        .head(1)
        .with_columns(
            variant_id=pl.lit(lead["variant_id"][0]), chromosome=pl.lit(lead["chromosome"][0]), position=pl.lit(lead["position"][0])
        )
    )
    row.write_parquet(tmp_path / "loci/loci.parquet")
    found = manhattan(save(tmp_path, frame), {})
    assert found is not None
    view = next(v for v in found.views if v.key == "best")
    kept = drawn(found, "best")
    assert STRONG < view.every_above < 50
    assert frame.filter(pl.col("best") >= view.every_above).height <= MOST_STRONG
    assert kept["value"].max() == pytest.approx(frame["best"].max(), abs=0.01)
    assert lead["variant_id"][0] in set(kept["variant_id"])
    assert found.data["labels"][0]["locus"] == 1


def test_chromosomes_stand_in_natural_order_whatever_the_file_s(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(900, generator).reverse()
    found = manhattan(save(tmp_path, frame), {})
    assert found is not None
    assert [c["name"] for c in found.data["chromosomes"]] == ["1", "2", "X"]
    starts = [c["start"] for c in found.data["chromosomes"]]
    ends = [c["start"] + c["length"] for c in found.data["chromosomes"]]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def test_made_up_identifiers_are_left_to_the_script(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(300, generator).with_columns(
        variant_id=pl.concat_str("chromosome", "position", "other_allele", "effect_allele", separator=":")
    )
    found = manhattan(save(tmp_path, frame), {})
    assert found is not None
    assert set(found.data["variants"]["id"]) == {""}


def test_infinite_and_missing_values_are_not_drawn(tmp_path: Path, generator: np.random.Generator) -> None:
    frame = manhattan_table(300, generator)
    values = frame["best"].to_list()
    values[:3] = [float("inf"), float("nan"), None]
    found = manhattan(save(tmp_path, frame.with_columns(best=pl.Series(values))), {})
    assert found is not None
    assert next(v for v in found.views if v.key == "best").drawn <= 297
    write_report(tmp_path)  # and JSON holds none of them


@pytest.mark.slow
def test_a_million_variants_make_a_small_page(tmp_path: Path, generator: np.random.Generator) -> None:
    save(tmp_path, manhattan_table(1_000_000, generator))
    start = time.monotonic()
    path = write_report(tmp_path)
    assert time.monotonic() - start < 30
    assert path.stat().st_size < 12_000_000
    assert "1,000,000 variants on 3 chromosomes" in path.read_text()
    assert all(f"rs{k}" in path.read_text() for k in range(1, len(LEADS) + 1))
