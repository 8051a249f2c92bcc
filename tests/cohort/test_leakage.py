from __future__ import annotations

import datetime
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.cohort import copies
from clinome.cohort.copies import near_pairs
from clinome.cohort.leakage import CHECKS, in_words, leakage, refuse_leaking
from clinome.core.errors import CohortError, SchemaError
from clinome.core.schema import LEAKAGE, check


def cohort(n: int = 60) -> pl.DataFrame:
    """People with two images each, split by person without any leak."""
    generator = np.random.default_rng(3)
    person = np.arange(n) // 2
    return pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i}" for i in person],
            "family_id": [f"f{i}" for i in person],
            "split": ["train" if i < n // 2 else "validation" if i < 2 * n // 3 else "test" for i in range(n)],
            "content_sha256": [f"{i:064x}" for i in range(n)],
            "fingerprint": [f"{x:016x}" for x in generator.integers(0, 2**63, n, dtype=np.uint64)],
            "site": ["A" if i % 4 else "B" for i in range(n)],
            "date": [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(n)],
            "y": [i % 2 for i in range(n)],
        }
    )


def with_value(table: pl.DataFrame, column: str, row: int, value: object) -> pl.DataFrame:
    values = table[column].to_list()
    values[row] = value
    return table.with_columns(pl.Series(column, values))


def flipped(fingerprint: str, bits: tuple[int, ...]) -> str:
    return f"{int(fingerprint, 16) ^ sum(1 << bit for bit in bits):0{len(fingerprint)}x}"


def found(report: pl.DataFrame, name: str) -> list[tuple[str, int, str, str]]:
    return report.filter(check=name).select("splits", "n", "examples", "severity").rows()


def test_a_split_by_person_is_clean() -> None:
    report = leakage(cohort(), targets=["y"])
    check(report, LEAKAGE)
    assert set(report["check"]) == set(CHECKS)
    assert set(report.filter(pl.col("check").is_in(CHECKS[:6]))["severity"]) == {"clean"}
    assert refuse_leaking(report) is report
    assert "clean" in in_words(report)


PLANTED = {
    "participants": ("participant_id", 59, "p0", 1, "e59"),
    "families": ("family_id", 59, "f0", 1, "e59"),
    "exact_duplicates": ("content_sha256", 59, f"{3:064x}", 1, "e59"),
    "examples": ("example_id", 59, "e3", 1, "e3"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found_counted_named_and_refused(name: str) -> None:
    column, row, value, n, example = PLANTED[name]
    report = leakage(with_value(cohort(), column, row, value))
    assert found(report, name) == [("test, train", n, example, "leak")]
    assert report.filter(severity="leak")["check"].to_list() == [name]
    with pytest.raises(
        CohortError, match=f"(?s)the split leaks.*{name}: 1 in test, train \\(e.g. {example}\\).*allow it by name: {name}"
    ):
        refuse_leaking(report)
    assert refuse_leaking(report, allow=[name]) is report
    with pytest.raises(ValueError, match="unknown check 'everything'"):
        refuse_leaking(report, allow=["everything"])


def test_counts_are_of_each_pair_of_splits() -> None:
    table = with_value(with_value(cohort(), "participant_id", 35, "p0"), "participant_id", 59, "p0")
    assert found(leakage(table), "participants") == [
        ("test, train", 1, "e59", "leak"),
        ("test, validation", 1, "e59", "leak"),
        ("train, validation", 1, "e35", "leak"),
    ]


def test_missing_families_are_nobodys_relatives() -> None:
    table = cohort()
    for row, value in ((0, None), (59, None), (1, "0"), (58, "0"), (2, ""), (57, "")):
        table = with_value(table, "family_id", row, value)
    assert found(leakage(table), "families") == [("", 0, "", "clean")]


def test_a_person_may_be_called_0() -> None:
    table = cohort()
    for row in (0, 59):
        table = with_value(table, "participant_id", row, "0")
    assert found(leakage(table), "participants") == [("test, train", 1, "e59", "leak")]


WHAT_IS_COMPARED = {
    "families": "family_id",
    "exact_duplicates": "content_sha256",
    "near_duplicates": "fingerprint",
    "sites": "site",
    "time": "date",
}


@pytest.mark.parametrize("name", WHAT_IS_COMPARED)
def test_what_is_known_of_nobody_or_of_one_side_only_is_not_checked(name: str) -> None:
    column, table = WHAT_IS_COMPARED[name], cohort()
    nobody = table.with_columns(pl.lit(None, dtype=table.schema[column]).alias(column))
    one = table.with_columns(pl.when(split="train").then(column).alias(column))
    for lacking, where in ((nobody, "of nobody"), (one, "in train only")):
        rows = leakage(lacking, targets=["y"]).filter(check=name)
        assert rows.select("n", "severity", "note").rows() == [(None, "not checked", f"column {column!r} is known {where}")]


def test_labels_of_copies_are_not_checked_where_no_copy_can_be_known() -> None:
    table = cohort().with_columns(content_sha256=pl.lit(None, dtype=pl.String), fingerprint=pl.lit(None, dtype=pl.String))
    assert found(leakage(table, targets=["y"]), "conflicting_labels")[0][3] == "not checked"


def test_near_duplicates_are_a_warning_and_with_their_detail_a_leak() -> None:
    table = cohort()
    table = with_value(table, "fingerprint", 59, flipped(table["fingerprint"][4], (0, 13, 40, 63)))
    table = with_value(table, "fingerprint", 58, flipped(table["fingerprint"][5], tuple(range(7))))  # a bit too far
    assert found(leakage(table), "near_duplicates") == [("test, train", 1, "e59", "warning")]
    assert found(leakage(table, max_distance=3), "near_duplicates") == [("", 0, "", "clean")]
    assert found(leakage(table, max_distance=7), "near_duplicates") == [("test, train", 2, "e58, e59", "warning")]
    detail = [f"{int.from_bytes(np.random.default_rng(i).bytes(64)):0128x}" for i in range(60)]
    table = table.with_columns(fingerprint_detail=pl.Series(detail))
    assert found(leakage(table), "near_duplicates") == [("", 0, "", "clean")]  # alike at first sight only
    table = with_value(table, "fingerprint_detail", 59, flipped(detail[4], tuple(range(0, 300, 10))))
    assert found(leakage(table), "near_duplicates") == [("test, train", 1, "e59", "leak")]
    assert found(leakage(table, max_detail=0.05), "near_duplicates") == [("", 0, "", "clean")]
    same = with_value(table, "fingerprint", 59, table["fingerprint"][4])  # equal fingerprints still need the detail
    assert found(leakage(same), "near_duplicates") == [("test, train", 1, "e59", "leak")]
    assert found(leakage(same, max_distance=0), "near_duplicates") == [("test, train", 1, "e59", "leak")]
    without = with_value(table, "fingerprint", 59, None)
    assert found(leakage(without), "near_duplicates") == [("", 0, "", "clean")]


def test_copies_that_disagree_in_their_label() -> None:
    table = cohort()
    table = with_value(table, "content_sha256", 1, table["content_sha256"][0])  # y 0 and 1, both in training
    table = with_value(table, "fingerprint", 59, flipped(table["fingerprint"][4], (7, 21)))  # y 1 and 0
    table = with_value(table, "fingerprint", 58, flipped(table["fingerprint"][6], (7, 21)))  # y 0 and 0
    report = leakage(table, targets=["y"])
    assert found(report, "conflicting_labels") == [("test, train", 4, "e0, e1, e4, e59", "warning")]
    assert found(leakage(with_value(table, "y", 1, None), targets=["y"]), "conflicting_labels")[0][1] == 2
    assert found(leakage(table), "conflicting_labels")[0][3] == "not checked"


def test_sites_and_time_are_told() -> None:
    table = with_value(cohort(), "date", 59, datetime.date(2019, 5, 5)).with_columns(
        site=pl.when(split="test").then(pl.lit("C")).otherwise("site")
    )
    report = leakage(table)
    sites = {row["splits"]: (row["n"], row["note"]) for row in report.filter(check="sites").iter_rows(named=True)}
    assert sites["test, train"] == (0, "sites in both; 1 only in test, 2 only in train")
    assert sites["train, validation"][0] == 2
    early = report.filter(check="time", splits="test, train").row(0, named=True)
    assert (early["n"], early["examples"], early["severity"]) == (1, "e59", "information")
    assert "2020-01-30" in early["note"]


def test_columns_that_are_not_there_are_not_checked() -> None:
    report = leakage(cohort().select("example_id", "participant_id", "split"))
    lacking = report.filter(severity="not checked")["check"].to_list()
    assert lacking == ["families", "exact_duplicates", "near_duplicates", "conflicting_labels", "sites", "time"]
    assert "not checked  families            there is no column 'family_id'" in in_words(report)


def test_splits_and_families_may_stand_in_tables_of_their_own() -> None:
    table, people = cohort(), cohort()["participant_id"].unique(maintain_order=True)
    splits = pl.DataFrame({"participant_id": people, "split": ["train"] * 20 + ["test"] * 10})
    participants = pl.DataFrame({"participant_id": people, "family_id": [f"f{i % 29}" for i in range(30)]})
    report = leakage(table.drop("split", "family_id"), splits, participants=participants)
    assert found(report, "families") == [("test, train", 1, "e58, e59", "leak")]
    assert found(report, "participants") == [("", 0, "", "clean")]
    folds = pl.DataFrame({"example_id": table["example_id"], "split": ["fold_1", "fold_2"] * 30})
    assert found(leakage(table, folds), "participants")[0][:2] == ("fold_1, fold_2", 30)
    some = leakage(table, folds.head(10))
    assert found(some, "participants")[0][1] == 5


@given(st.integers(0, 1000), st.integers(0, 8))
def test_no_near_pair_is_missed_and_none_is_made_up(seed: int, distance: int) -> None:
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 2**63, 12, dtype=np.uint64)
    hashes = [base]
    for bits in range(1, 10):
        flips = np.array([sum(1 << int(b) for b in generator.choice(64, bits, replace=False)) for _ in base], dtype=np.uint64)
        hashes.append(base ^ flips)
    every = np.unique(np.concatenate(hashes))
    apart = np.bitwise_count(every[:, None] ^ every)
    expected = {(int(a), int(b)) for a, b in np.argwhere(apart <= distance) if a < b}
    pairs = {
        (min(a, b), max(a, b))
        for one, two in near_pairs(every, max_distance=distance)
        for a, b in zip(one.tolist(), two.tolist(), strict=True)
    }
    assert pairs == expected


def test_a_hundred_thousand_examples_take_seconds_and_alike_ones_end_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    n = 100_000
    codes = generator.integers(0, 2**63, n, dtype=np.uint64)
    codes[n - 50 :] = codes[:50] ^ np.uint64(0b1011 << 30)
    table = pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i // 2}" for i in range(n)],
            "split": ["train"] * (n // 2) + ["test"] * (n // 2),
            "content_sha256": [f"{i:064x}" for i in range(n)],
            "fingerprint": [f"{code:016x}" for code in codes],
        }
    )
    started = time.process_time()
    assert found(leakage(table), "near_duplicates")[0][:2] == ("test, train", 50)
    assert time.process_time() - started < 15
    monkeypatch.setattr(copies, "_MOST_PAIRS", 100_000)
    alike = table.head(5000).with_columns(fingerprint=pl.Series([f"{code:016x}" for code in range(5000)]))
    report = leakage(alike.with_columns(split=pl.Series(["train", "test"] * 2500)))
    row = report.filter(check="near_duplicates").row(0, named=True)
    assert (row["severity"], row["n"]) == ("not checked", None)
    assert row["note"].startswith("the fingerprints are so alike")


def test_refusals() -> None:
    with pytest.raises(SchemaError, match="'participant_id' is missing"):
        leakage(pl.DataFrame({"example_id": ["a"]}))
    with pytest.raises(SchemaError, match="'split' is missing"):
        leakage(cohort().drop("split"))
    with pytest.raises(SchemaError, match="the splits lack a column"):
        leakage(cohort(), pl.DataFrame({"person": ["p0"], "split": ["train"]}))
    with pytest.raises(CohortError, match="no example has a split"):
        leakage(cohort(), pl.DataFrame({"participant_id": ["nobody"], "split": ["train"]}))
    with pytest.raises(SchemaError, match="not a hash in hexadecimal digits"):
        leakage(with_value(cohort(), "fingerprint", 3, "12zz"))
    with pytest.raises(SchemaError, match="not a hash of 64 bits"):
        leakage(cohort().with_columns(fingerprint=pl.col("content_sha256")))
    with pytest.raises(ValueError, match="0 to 16 bits"):
        leakage(cohort(), max_distance=20)
