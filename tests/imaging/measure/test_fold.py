"""Folding by rules that are shown, counts of what is left out, repeatability of a known truth, and tables that fit their schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from clinome.core.errors import FormatError, SchemaError, StudyError
from clinome.core.schema import MEASUREMENTS, check
from clinome.imaging.measure.fold import Folded, Rule, fold, repeatability, write_folded
from clinome.imaging.measure.table import measure
from clinome.imaging.measure.trait import trait

NAMES = ["participant_id", "laterality", "visit", "value", "flag"]


def measurements(rows: list[tuple[Any, ...]], *, name: str = "cup", unit: str = "ratio") -> pl.DataFrame:
    schema = dict(zip(NAMES, (pl.String, pl.String, pl.Int64, pl.Float64, pl.String), strict=True))
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_row_index("image_id")
    constants = {"structure": pl.lit("disc"), "trait": pl.lit(name), "unit": pl.lit(unit)}
    return check(frame.with_columns(pl.col("image_id").cast(pl.String), **constants), MEASUREMENTS)


TABLE = measurements(
    [
        ("a", "left", 0, 1.0, None),
        ("a", "left", 0, 2.0, None),
        ("a", "left", 0, 9.0, None),
        ("a", "right", 0, 8.0, None),
        ("a", "left", 1, 6.0, None),
        ("b", "left", 0, 5.0, "blurred"),
        ("b", "left", 1, 7.0, None),
        ("b", "right", 2, 3.0, None),
        ("c", "right", 0, None, "could not be measured"),
        ("d", None, None, 4.0, None),
    ]
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(), [6.0, 7.0, None, 4.0]),
        (Rule(repeats="median"), [5.0, 7.0, None, 4.0]),
        (Rule(repeats="first"), [4.5, 7.0, None, 4.0]),
        (Rule(eyes="left"), [4.0, 7.0, None, None]),
        (Rule(eyes="right"), [8.0, 3.0, None, None]),
        (Rule(eyes="largest"), [8.0, 7.0, None, 4.0]),
        (Rule(eyes="smallest"), [4.0, 7.0, None, 4.0]),
        (Rule(visits="last"), [6.0, 3.0, None, 4.0]),
        (Rule(visits="mean"), [6.5, 5.0, None, 4.0]),
        (Rule(visits="mean", eyes="largest"), [8.0, 7.0, None, 4.0]),
        (Rule(both_eyes=True), [6.0, None, None, None]),
        (Rule(both_eyes=True, visits="mean"), [6.5, 5.0, None, None]),
        (Rule(both_eyes=True, visits="last"), [6.0, None, None, None]),
    ],
)
def test_rules_by_hand(rule: Rule, expected: list[float | None]) -> None:
    found = fold(TABLE, rule, source="test").phenotypes
    assert found.columns == ["participant_id", "disc.cup"]
    assert found["participant_id"].to_list() == ["a", "b", "c", "d"]
    assert found["disc.cup"].to_list() == expected


def test_what_is_left_out_is_counted_and_the_rule_is_shown() -> None:
    table = pl.concat([TABLE, measurements([("e", None, 0, 3.0, None)], name="rim").with_columns(image_id=pl.lit("x"))])
    folded = fold(table, Rule(both_eyes=True), source="by hand", rules={"disc.rim": Rule(eyes="largest", visits="last")})
    assert folded.rules.to_dicts() == [
        {
            "trait": "disc.cup",
            "unit": "ratio",
            "source": "by hand",
            "repeats": "mean of the images",
            "visits": "first visit with a sound value",
            "eyes": "mean of the eyes, only where both have one",
            "measurements": 10,
            "flagged": 2,
            "people": 1,
            "people_without": 3,
        },
        {
            "trait": "disc.rim",
            "unit": "ratio",
            "source": "by hand",
            "repeats": "mean of the images",
            "visits": "last visit with a sound value",
            "eyes": "the eye with the larger value",
            "measurements": 1,
            "flagged": 0,
            "people": 1,
            "people_without": 0,
        },
    ]
    assert folded.phenotypes.filter(participant_id="e").row(0) == ("e", None, 3.0)


def test_wrong_rules_and_units() -> None:
    with pytest.raises(StudyError, match="no 'eyes' like that"):
        Rule(eyes="both")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="names what was not measured"):
        fold(TABLE, source="", rules={"vessels": Rule()})
    both = pl.concat([TABLE, measurements([("a", None, 0, 3.0, None)], unit="px").with_columns(image_id=pl.lit("x"))])
    with pytest.raises(SchemaError, match=r"(?s)two units.*px and ratio"):
        fold(both, source="")
    with pytest.raises(SchemaError, match="'flag' is missing"):
        fold(TABLE.drop("flag"), source="")


def test_order_of_rows_does_not_matter() -> None:
    for rule in (Rule(), Rule(repeats="first"), Rule(visits="mean", eyes="smallest")):
        shuffled = fold(TABLE.sample(fraction=1.0, shuffle=True, seed=4), rule, source="")
        assert shuffled.phenotypes.equals(fold(TABLE, rule, source="").phenotypes)


def test_repeatability_recovers_the_truth_and_ignores_what_is_flagged() -> None:
    generator = np.random.default_rng(2)
    rows = []
    for person in range(400):
        level = generator.normal()
        for eye in ("left", "right"):
            seen = level + 0.5 * generator.normal()
            for visit in (0, 1):
                rows.append((f"p{person}", eye, visit, seen + 0.3 * generator.normal(), None))
    rows += [(f"p{person}", "left", 0, 100.0, "spoiled") for person in range(50)]
    table = measurements(rows)
    scanner = pl.DataFrame({"image_id": table["image_id"], "scanner": ["A", "B"] * (table.height // 2)})
    found = {row["measure"]: row for row in repeatability(table, scanner, resamples=100).to_dicts()}
    assert_allclose(found["left_right_icc"]["value"], 1 / (1 + 0.25 + 0.045), atol=0.05)
    assert_allclose(found["test_retest_icc"]["value"], (1 + 0.125) / (1 + 0.125 + 0.045), atol=0.02)
    assert found["left_right_icc"]["n"] == 400
    assert found["nuisance_r2:scanner"]["value"] < 0.02


def test_written_tables_carry_units_and_sources(tmp_path: Path) -> None:
    folded = fold(TABLE, source="observer 1")
    write_folded(folded, tmp_path)
    about = json.loads(pl.read_parquet_metadata(tmp_path / "phenotypes.parquet")["clinome.columns"])
    assert about["disc.cup"]["unit"] == "ratio"
    assert about["disc.cup"]["source"] == "observer 1"
    read = Folded(*(pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("phenotypes", "measured_traits")))
    assert read.phenotypes.equals(folded.phenotypes)
    assert read.rules.equals(folded.rules)


def test_measuring_a_table_sets_aside_what_fails() -> None:
    images = pl.DataFrame({"image_id": ["a", "b", "c"], "participant_id": ["p", "p", "q"], "path": ["a", "b", "c"]})

    def function(row: dict[str, Any]) -> dict[str, list[Any]]:
        if row["path"] == "b":
            raise FormatError("the picture is truncated", where="b", got="3 bytes")
        return {"disc": [trait("height", 1.0, "px"), trait("width", np.nan if row["path"] == "c" else 2.0, "px")]}

    found = measure(images, function)
    assert found.measurements.select("image_id", "trait", "value", "flag").rows() == [
        ("a", "height", 1.0, None),
        ("a", "width", 2.0, None),
        ("c", "height", 1.0, None),
        ("c", "width", None, "could not be measured"),
    ]
    assert found.set_aside.select("image_id", "what").rows() == [("b", "the picture is truncated")]
    nothing = measure(images.head(0), function)
    assert (nothing.measurements.height, nothing.set_aside.height) == (0, 0)
    assert fold(nothing.measurements, source="").phenotypes.height == 0
