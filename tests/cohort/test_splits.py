from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.cohort.splits import families, folds, split
from clinome.core.errors import CohortError

COHORTS = st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh0")), min_size=40, max_size=120)


@given(COHORTS, st.integers(-5, 2**40), st.integers(2, 4))
def test_families_stay_together_and_sizes_are_within_one_family(family_ids: list[str | None], seed: int, k: int) -> None:
    people = [f"p{i}" for i in range(len(family_ids))]
    keys = families(people, family_ids)
    sizes = {key: keys.count(key) for key in keys}
    try:
        table = folds(people, family_ids, k=k, seed=seed)
    except CohortError:
        assert max(sizes.values()) > len(people) / k / 2, "only large families may leave a fold empty"
        return
    assert table["participant_id"].to_list() == people
    home: dict[str, set[str]] = {}
    for key, name in zip(keys, table["split"], strict=True):
        home.setdefault(key, set()).add(name)
    assert all(len(sets) == 1 for sets in home.values())
    for name in table["split"].unique():
        assert abs((table["split"] == name).sum() - len(people) / k) <= max(sizes.values())


@given(COHORTS, st.integers(0, 99), st.randoms(use_true_random=False))
def test_row_order_does_not_matter_and_the_seed_does(family_ids: list[str | None], seed: int, random) -> None:
    people = [f"p{i}" for i in range(len(family_ids))]
    fractions = {"train": 0.7, "test": 0.3}
    try:
        first = dict(split(people, family_ids, fractions=fractions, seed=seed).iter_rows())
    except CohortError:
        return
    order = list(range(len(people)))
    random.shuffle(order)
    shuffled = split([people[i] for i in order], [family_ids[i] for i in order], fractions=fractions, seed=seed)
    assert dict(shuffled.iter_rows()) == first


def test_seeds_differ_and_shares_are_met() -> None:
    people = [f"p{i}" for i in range(1000)]
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    tables = [split(people, fractions=fractions, seed=seed) for seed in (1, 2)]
    for table in tables:
        counts = dict(table["split"].value_counts().iter_rows())
        assert counts == {"train": 800, "validation": 100, "test": 100}
    test = [set(t.filter(t["split"] == "test")["participant_id"]) for t in tables]
    assert len(test[0] & test[1]) < 30, "about 10 people by chance"


def test_a_split_is_the_same_bytes_everywhere() -> None:
    table = folds([f"p{i}" for i in range(12)], k=3, seed=20261120)
    assert "".join(name[-1] for name in table["split"]) == "131323132212"


def test_splits_that_cannot_be_made() -> None:
    with pytest.raises(CohortError, match=r"(?s)stays empty.*4 people in 1 families, the largest of 4.*constant"):
        folds(["a", "b", "c", "d"], ["f"] * 4, k=2, seed=0)
    with pytest.raises(CohortError, match="add up to 1"):
        split(["a", "b"], fractions={"train": 0.8, "test": 0.3}, seed=0)
    with pytest.raises(CohortError, match="more than once"):
        split(["a", "a"], fractions={"train": 0.5, "test": 0.5}, seed=0)
    with pytest.raises(CohortError, match="at least two"):
        folds(["a", "b"], k=1, seed=0)


def test_families_follow_chains_of_relatives(generator: np.random.Generator) -> None:
    people = [str(i) for i in range(300)]
    parts = generator.integers(0, 40, size=300)
    pairs = []
    for part in range(40):
        chain = generator.permutation(np.flatnonzero(parts == part))
        pairs += [(str(a), str(b)) for a, b in pairwise(chain)]
    keys = families(people, None, [*pairs, ("0", "somebody else")])
    for part in range(40):
        members = [str(i) for i in np.flatnonzero(parts == part)]
        assert {keys[int(m)] for m in members} == {min(members)}
    assert families(["a", "b"], ["0", "0"]) == ["a", "b"], "PLINK's family 0 is no family"
