from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.cohort.flow import Flow
from clinome.core.errors import CohortError


def test_flow_and_exclusions() -> None:
    start = Flow.start("abcdef", stage="genotypes", reason="in the file")
    flow = start.keep_only("phenotypes", "no trait", "abcdx").drop("covariates", "age is missing", "fa").drop("related", "none", "")
    assert flow.table().rows() == [
        ("genotypes", "in the file", 0, 6),
        ("phenotypes", "no trait", 2, 4),
        ("covariates", "age is missing", 1, 3),
        ("related", "none", 0, 3),
    ]
    assert flow.exclusions().rows() == [
        ("e", "phenotypes", "no trait"),
        ("f", "phenotypes", "no trait"),
        ("a", "covariates", "age is missing"),
    ]
    assert start.ids == tuple("abcdef"), "a flow is never changed"
    assert Flow.start([]).exclusions().schema["participant_id"] == pl.String


@given(st.integers(0, 30), st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 40))), max_size=6))
def test_counts_always_add_up(n: int, steps: list[tuple[bool, set[int]]]) -> None:
    flow = Flow.start(map(str, range(n)))
    for i, (keep, people) in enumerate(steps):
        ids = [str(p) for p in people]
        flow = flow.keep_only(f"s{i}", "not kept", ids) if keep else flow.drop(f"s{i}", "dropped", ids)
    table, gone = flow.table(), flow.exclusions()
    assert table["dropped"].sum() + len(flow.ids) == n == len({*flow.ids, *gone["participant_id"]})
    assert table["remaining"].to_list()[-1] == len(flow.ids)
    assert (table["remaining"].shift(1, fill_value=n) - table["dropped"] == table["remaining"]).all()


def test_too_few_people_are_told_where_they_went() -> None:
    flow = Flow.start("abc").drop("covariates", "age is missing", "ab")
    assert flow.require(1) is flow
    with pytest.raises(
        CohortError, match=r"(?s)too few.*1 people; dropped at covariates: 2 \(age is missing\).*'covariates' first"
    ):
        flow.require(2)
    with pytest.raises(CohortError, match="nobody is left"):
        flow.drop("x", "y", "c").require()
    with pytest.raises(CohortError, match="more than once"):
        Flow.start("aa")
