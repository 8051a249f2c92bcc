from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.stats.hamming import near_groups, near_pairs


def every_pair(codes: np.ndarray, distance: int) -> set[tuple[int, int, int]]:
    """Compare all with all; of equal codes only the first is paired with others."""
    pairs = set()
    first = {int(code): k for k, code in reversed(list(enumerate(codes)))}
    for j, code in enumerate(codes):
        for i in range(j):
            apart = (int(codes[i]) ^ int(code)).bit_count()
            leads = first[int(codes[i])] == i and (first[int(code)] == j or apart == 0)
            if apart <= distance and leads:
                pairs.add((i, j, apart))
    return pairs


@given(st.integers(0, 16), st.integers(0, 9999))
def test_finds_what_comparing_all_with_all_finds(distance: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    seeds = generator.integers(0, 1 << 63, 4, dtype=np.uint64)
    flips = [sum({1 << int(bit) for bit in generator.integers(0, 64, generator.integers(0, 12))}) for _ in range(40)]
    codes = seeds[generator.integers(0, 4, 40)] ^ np.array(flips, np.uint64)
    pairs = near_pairs(codes, distance=distance)
    assert set(zip(*(part.tolist() for part in pairs), strict=True)) == every_pair(codes, distance)
    assert len(pairs.first) == len(every_pair(codes, distance))


def test_chains_make_groups() -> None:
    codes = np.array([0b111, 0b1111 << 60, 0b001, 0b000, 0b1111 << 60], np.uint64)
    assert near_groups(near_pairs(codes, distance=2), 5).tolist() == [0, 1, 0, 0, 1]
    assert near_groups(near_pairs(codes, distance=1), 5).tolist() == [0, 1, 2, 2, 1]


def test_none_and_one() -> None:
    assert near_pairs(np.array([], np.uint64), distance=3).first.tolist() == []
    assert near_pairs(np.array([7], np.uint64), distance=3).first.tolist() == []
    assert near_groups(near_pairs(np.array([], np.uint64), distance=3), 0).tolist() == []


def test_distances_that_would_compare_everything() -> None:
    with pytest.raises(ValueError, match="0–16"):
        near_pairs(np.zeros(2, np.uint64), distance=17)


def test_two_hundred_thousand_codes_take_seconds_and_repeats_no_square() -> None:
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 1 << 63, 200_000, dtype=np.uint64)
    codes[::2] = 5  # a hundred thousand empty pictures
    codes[1] = codes[100_001] ^ np.uint64(0b1011)
    start = time.perf_counter()
    pairs = near_pairs(codes, distance=4)
    assert time.perf_counter() - start < 20
    assert len(pairs.first) == 99_999 + 1
    assert (1, 100_001, 3) in zip(*(part.tolist() for part in pairs), strict=True)
