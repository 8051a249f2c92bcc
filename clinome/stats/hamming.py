"""Which of many 64-bit codes differ in a few bits only, without comparing every one with every other.

Two codes that differ in at most d bits, cut into d + 1 blocks of bits, are equal in at least one block (pigeonholes); so only
codes that share a block are compared (Norouzi, Punjani & Fleet. Fast search in Hamming space with multi-index hashing. CVPR
(2012), doi:10.1109/CVPR.2012.6248043). A code that stands at many places is compared once.

>>> pairs = near_pairs(np.array([0b0000, 0b1111 << 40, 0b0011, 0b0000], np.uint64), distance=2)
>>> pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist()
([0, 0], [2, 3], [2, 0])
>>> near_groups(pairs, 4).tolist()
[0, 1, 0, 0]
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 20  # pairs compared at a time


class Pairs(NamedTuple):
    """Rows that are near: ``first`` < ``second`` (int64), bits that differ (uint8); sorted by first, then second.

    Of rows with one and the same code each is paired with the first of them, at distance 0, and that one alone with others.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.uint8]


def near_pairs(codes: NDArray[np.uint64], *, distance: int) -> Pairs:
    """Find all pairs of ``codes``, shape (n,), that differ in at most ``distance`` of their 64 bits.

    Memory grows with n and with the pairs that share a block at one offset; the result, with the pairs that are found.

    Raises
    ------
    ValueError
        For a distance outside 0–16: beyond that, blocks are so short that everything is compared with everything.
    """
    if not 0 <= distance <= 16:
        raise ValueError(f"a distance of {distance} bits is outside 0–16")
    distinct, first_row, code_of = np.unique(codes, return_index=True, return_inverse=True)
    again = np.flatnonzero(first_row[code_of] != np.arange(len(codes)))
    found = [(first_row[code_of[again]], again, np.zeros(len(again), np.uint8))]
    if distance:
        edges = np.linspace(0, 64, distance + 2).astype(np.uint64)
        blocks = [(distinct >> low) & np.uint64((1 << int(high - low)) - 1) for low, high in pairwise(edges)]
        for block in range(len(blocks)):
            found += [(first_row[a], first_row[b], apart) for a, b, apart in _in(blocks, block, distinct, distance)]
    one, two, apart = (np.concatenate(parts) for parts in zip(*found, strict=True))
    first, second = np.minimum(one, two), np.maximum(one, two)
    order = np.lexsort((second, first))
    return Pairs(first[order].astype(np.int64), second[order].astype(np.int64), apart[order].astype(np.uint8))


def near_groups(pairs: Pairs, n: int) -> NDArray[np.int64]:
    """Return the group of each of ``n`` rows, shape (n,): rows joined by a chain of near pairs share one, named by its first."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs.first), bool), (pairs.first, pairs.second)), shape=(n, n))
    _, label = connected_components(links, directed=False)
    _, first_row = np.unique(label, return_index=True)
    groups: NDArray[np.int64] = first_row[label].astype(np.int64)
    return groups


def _in(
    blocks: list[NDArray[np.uint64]], block: int, codes: NDArray[np.uint64], distance: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """Return the near pairs (rows of ``codes``) that are equal in ``block`` and in no block before it."""
    order = np.argsort(blocks[block], kind="stable")
    key = blocks[block][order]
    found = []
    alike = np.arange(len(key) - 1)  # places whose code shares its block with the one `offset` further on
    offset = 1
    while len(alike):
        alike = alike[alike + offset < len(key)]
        alike = alike[key[alike] == key[alike + offset]]
        for start in range(0, len(alike), _CHUNK):
            a, b = order[alike[start : start + _CHUNK]], order[alike[start : start + _CHUNK] + offset]
            apart = np.bitwise_count(codes[a] ^ codes[b])
            near = np.flatnonzero(apart <= distance)
            a, b, apart = a[near], b[near], apart[near]
            fresh = np.ones(len(a), bool)
            for earlier in blocks[:block]:
                fresh &= earlier[a] != earlier[b]
            found.append((a[fresh], b[fresh], apart[fresh]))
        offset += 1
    return found
