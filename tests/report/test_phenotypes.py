from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from toolkit.result_folder import TRAITS, result_folder

from clinome.report.methods import provenance, summary
from clinome.report.numbers import p_value
from clinome.report.phenotypes import phenotypes


def test_measures_are_ordered_and_what_disturbs_a_dimension_is_marked(tmp_path: Path) -> None:
    found = phenotypes(result_folder(tmp_path, n_variants=300))
    assert found is not None
    names = ["Variance share", "Left–right ICC", "Test–retest ICC", "Reliable", "R² illumination", "R² blur"]
    assert [m.name for m in found.measures] == names
    assert [trait for trait, _ in found.rows] == TRAITS
    marked = {
        (trait, m.name) for trait, cells in found.rows for cell, m in zip(cells, found.measures, strict=True) if cell and cell.flag
    }
    assert marked == {("dimension_03", "R² illumination"), ("dimension_08", "Left–right ICC"), ("dimension_08", "Reliable")}
    assert found.flagged == 2
    assert [(name, len(losses)) for name, losses in found.losses] == [("first", 14), ("second", 14)]
    assert dict(found.about)["picture size"] == 80
    for _, cells in found.rows:
        for cell, measure in zip(cells, found.measures, strict=True):
            assert cell is not None
            assert cell.value is not None
            assert cell.value <= measure.top


def test_a_measure_that_some_dimensions_lack_is_left_empty(tmp_path: Path) -> None:
    (tmp_path / "phenotypes").mkdir()
    rows = [
        ("a", "left_right_icc", 0.9, None, None, 10),
        ("a", "skew", float("nan"), None, None, 10),
        ("b", "skew", 3.0, None, None, None),
    ]
    frame = pl.DataFrame(rows, schema=["trait", "measure", "value", "lower", "upper", "n"], orient="row")
    frame.write_parquet(tmp_path / "phenotypes/quality.parquet")
    found = phenotypes(tmp_path)
    assert found is not None
    assert [[cell is None for cell in cells] for _, cells in found.rows] == [[False, True], [True, False]]


def test_losses_of_one_encoder_need_no_name_and_an_untrained_one_has_none(tmp_path: Path) -> None:
    (tmp_path / "phenotypes").mkdir()
    path = tmp_path / "phenotypes/embedding.json"
    path.write_text(json.dumps({"losses": [3, 2, 1]}))
    found = phenotypes(tmp_path)
    assert found is not None
    assert found.losses == (("encoder", (3.0, 2.0, 1.0)),)
    path.write_text(json.dumps({"losses": {"arm": []}, "people": 5}))
    found = phenotypes(tmp_path)
    assert found is not None
    assert found.losses == ()
    assert found.about == (("people", 5),)


def test_every_setting_and_input_is_listed(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps({"settings": {"a": {"b": {"c": 0.05}}, "d": [1, 2], "e": {}}, "n_participants": 1_234})
    )
    about = summary(tmp_path)
    assert about.settings == (("a.b.c", "0.05"), ("d", "1, 2"), ("e", "–"))
    assert about.headline == (("participants", "1,234"),)
    (tmp_path / "provenance.json").write_text(
        json.dumps(
            {
                "clinome": "1+abc",
                "seed": 7,
                "inputs": [{"name": "x.bed", "bytes": 2_500_000, "sha256": "f" * 64}],
                "libraries": {"numpy": "2.4"},
            }
        )
    )
    found = provenance(tmp_path)
    assert found is not None
    assert ("Seed", "7") in found.lines
    assert ("Libraries", "numpy 2.4") in found.lines
    assert found.inputs == (("x.bed", "2.5 MB", "f" * 64),)


def test_p_values_do_not_underflow_and_never_say_ten_times() -> None:
    assert p_value(0) == "1.00"
    assert p_value(1_234.5) == "3×10⁻¹²³⁵"
    assert p_value(7.0000001) == "1×10⁻⁷"
    assert p_value(6.99999999) == "1×10⁻⁷"
    assert p_value(None) == p_value(float("nan")) == "–"
