from __future__ import annotations

import pytest

from clinome.cohort.linkage import guess_mismatch, link
from clinome.core.errors import CohortError

PEOPLE = [f"{1001 + 7 * i}" for i in range(50)]


def test_people_in_all_sources_in_the_order_of_the_first() -> None:
    linkage = link({"genotypes": ["c", "a", "x", "b"], "traits": ["b", "c", "y", "a", "z"], "covariates": ["a", "c", "w"]})
    assert linkage.ids == ("c", "a")
    assert linkage.sources.rows() == [
        ("genotypes", 4, 2, 2),
        ("traits", 5, 2, 3),
        ("covariates", 3, 2, 1),
    ]
    assert (linkage.guess, linkage.difference) == (None, None)


@pytest.mark.parametrize(
    ("rewrite", "said"),
    [
        (
            lambda p: f"{p}_{p}",
            "join FID and IID ('1001_1001' for '1001'): 50 of 50 would match; keep the part after the '_' in traits",
        ),
        (lambda p: f"F{p[-1]}_{p}", "join FID and IID"),
        (lambda p: f"UKB{p}", "have the prefix 'UKB' ('UKB1001' for '1001'): 50 of 50 would match; remove it in traits"),
        (lambda p: f"{p}-A", "have the suffix '-A'"),
        (
            lambda p: p.zfill(8),
            "differ in leading zeros ('1001' for '00001001'): 50 of 50 would match; write the same number of digits",
        ),
        (lambda p: f"{p}.0", "hold numbers as decimals"),
        (lambda p: f" {p} ", "have blanks around identifiers"),
    ],
)
def test_a_guess_names_source_example_and_cure_and_changes_nothing(rewrite, said: str) -> None:
    exported = [rewrite(p) for p in PEOPLE]
    with pytest.raises(CohortError) as caught:
        link({"genotypes": PEOPLE, "traits": exported})
    assert "nobody is in all sources" in str(caught.value)
    assert said in str(caught.value)
    few = link({"genotypes": PEOPLE, "traits": [*PEOPLE[:3], *exported[3:]]})
    assert few.ids == tuple(PEOPLE[:3])
    assert few.guess is not None
    assert not any(p.strip() in few.guess for p in (*PEOPLE, *exported))  # it goes into reports
    assert few.difference is not None  # and this to the terminal
    assert "genotypes: 50 people, 47 not in the traits ('1022', '1029', '1036')" in few.difference
    assert f"traits: 50 people, 47 not in the genotypes ({min(exported[3:])!r}" in few.difference


def test_letter_case_is_guessed() -> None:
    upper, lower = [f"HG{i}" for i in range(20)], [f"hg{i}" for i in range(20)]
    assert "letter case ('HG0' for 'hg0')" in (guess_mismatch(set(upper), set(lower), names=("a", "b")) or "")


def test_no_guess_without_a_reason() -> None:
    assert guess_mismatch({"a", "b", "c"}, {"x", "y", "z"}, names=("left", "right")) is None
    with pytest.raises(
        CohortError, match=r"(?s)nobody is in all sources.*left: 1 people, 1 not in the right \('a'\); right"
    ) as caught:
        link({"left": ["a"], "right": ["x"], "third": ["a", "b"]})
    assert "third: 2 people" in str(caught.value)
    few = link({"left": ["a1", "b2", "c3", "d4"], "right": ["d4", "q17", "r18", "s19"]})
    assert few.guess == "identifiers look like a9 in the left and like a99 in the right"


def test_bad_sources() -> None:
    with pytest.raises(CohortError, match=r"(?s)traits names people more than once.*1 repeated identifiers, for example 'b'"):
        link({"genotypes": ["a"], "traits": ["a", "b", "b"]})
    with pytest.raises(CohortError, match="traits holds nobody"):
        link({"genotypes": ["a"], "traits": []})


def test_a_table_of_half_a_million_is_linked_at_once() -> None:
    people = [str(i) for i in range(300_000)]
    assert len(link({"a": people, "b": people[::-1][:299_999]}).ids) == 299_999
