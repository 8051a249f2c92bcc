"""Pictures that look the same, told by their fingerprints without comparing everything with everything.

Two pictures are near copies when their 64-bit fingerprints differ in at most k bits. Cut into k + r pieces, such fingerprints agree
in at least r of them, so it is enough to sort by every choice of r pieces and compare neighbours (multi-index hashing); r grows
until neighbours are few.

References
----------
Norouzi M, Punjani A, Fleet DJ. Fast exact search in Hamming space with multi-index hashing. IEEE Transactions on Pattern Analysis
and Machine Intelligence 36:1107–1119 (2014), doi:10.1109/TPAMI.2013.231.

>>> hashes = np.array([0b0000, 0b0111, 0b1000], dtype=np.uint64)
>>> [(a.tolist(), b.tolist()) for a, b in near_pairs(hashes, max_distance=1)][0]
([0], [2])
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import CohortError, SchemaError

_MOST_PAIRS = 100_000_000  # pairs of fingerprints to compare, at most
_FEW_PAIRS = 50  # for each fingerprint: few enough not to look for a finer choice of bits


class Looks(NamedTuple):
    """Distinct pictures by their fingerprints: codes (n,), details (n, words) if any, and which of them each row of a table is."""

    codes: NDArray[np.uint64]
    details: NDArray[np.uint64] | None
    which: NDArray[np.intp]
    rows: NDArray[np.intp]  # of the table, that have a fingerprint

    def pairs(self, max_distance: int, max_detail: float) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield blocks of pairs of distinct pictures that look the same."""
        for a, b in near_pairs(self.codes, max_distance=max_distance):
            if self.details is None:
                yield a, b
            else:
                apart = np.bitwise_count(self.details[a] ^ self.details[b]).sum(axis=1)
                same = apart <= max_detail * 64 * self.details.shape[1]
                yield a[same], b[same]


def looks_of(table: pl.DataFrame) -> Looks:
    """Read the columns ``fingerprint`` and, where it is there, ``fingerprint_detail`` of a table.

    Raises
    ------
    SchemaError
        When a fingerprint is not in hexadecimal digits, or not of 64 bits.
    """
    columns = [name for name in ("fingerprint", "fingerprint_detail") if name in table.columns]
    known = table.select(columns).with_row_index("row").drop_nulls()
    distinct = known.select(columns).unique(maintain_order=True).with_row_index("which")
    which = known.join(distinct, on=columns, how="left", maintain_order="left")["which"]
    words = [_words(distinct[name]) for name in columns]
    if words[0].shape[1] != 1:
        raise SchemaError(
            "a fingerprint is not a hash of 64 bits",
            where="column 'fingerprint'",
            got=distinct["fingerprint"][0],
            expected="16 hexadecimal digits",
        )
    return Looks(
        words[0][:, 0],
        words[1] if len(words) > 1 else None,
        which.to_numpy().astype(np.intp),
        known["row"].to_numpy().astype(np.intp),
    )


def _words(fingerprints: pl.Series) -> NDArray[np.uint64]:
    """Return hexadecimal fingerprints, all of one length, as 64-bit words: (n, n_words)."""
    text = fingerprints.cast(pl.String)
    digits = int(text.str.len_chars().max() or 16) if len(text) else 16  # type: ignore[arg-type]
    wrong = ~text.str.contains(r"^([0-9a-fA-F]{16})+$") | (text.str.len_chars() != digits)
    if wrong.any():
        raise SchemaError(
            "a fingerprint is not a hash in hexadecimal digits",
            where=f"column {fingerprints.name!r}",
            got=text.filter(wrong)[0],
            expected="16 hexadecimal digits for every 64 bits, the same number in all rows",
        )
    return np.frombuffer(bytes.fromhex("".join(text)), dtype=">u8").astype(np.uint64).reshape(len(text), -1 if len(text) else 1)


def near_pairs(hashes: NDArray[np.uint64], *, max_distance: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield pairs of places in ``hashes`` (64-bit numbers, mostly distinct) that differ in at most ``max_distance`` bits.

    Pairs come in blocks of two arrays, and may come more than once.

    Raises
    ------
    ValueError
        When ``max_distance`` is not between 0 and 16 (beyond, unrelated pictures are alike).
    CohortError
        When the numbers are so alike that nearly all pairs would have to be compared: they tell nothing apart.
    """
    if not 0 <= max_distance <= 16:
        raise ValueError(f"the distance of near duplicates is 0 to 16 bits, got {max_distance}")
    if len(hashes) < 2:
        return
    for key_bits in _keys(hashes, max_distance):
        order = np.argsort(hashes & key_bits)
        ordered = hashes[order]
        key = ordered & key_bits
        here, apart = np.arange(len(key)), 1
        while len(here := here[here + apart < len(key)]):
            here = here[key[here] == key[here + apart]]
            near = here[np.bitwise_count(ordered[here] ^ ordered[here + apart]) <= max_distance]
            if len(near):
                yield order[near], order[near + apart]
            apart += 1


def _keys(hashes: NDArray[np.uint64], max_distance: int) -> list[np.uint64]:
    """Return the choices of bits by which near pairs agree in at least one, with as few pairs to compare as can be."""
    best: tuple[int, list[np.uint64]] = (_MOST_PAIRS + 1, [])
    for agree in (1, 2, 3):
        pieces = max_distance + agree
        # Neighbouring bits of a fingerprint go together, so a piece takes every so many-th bit.
        masks = [np.uint64(sum(1 << bit for bit in range(start, 64, pieces))) for start in range(pieces)]
        keys = [np.bitwise_or.reduce(np.array(chosen, dtype=np.uint64)) for chosen in combinations(masks, agree)]
        pairs = 0
        for key in keys:
            size = np.unique(hashes & key, return_counts=True)[1]
            pairs += int((size * (size - 1) // 2).sum())
            if pairs >= best[0]:
                break
        else:
            best = (pairs, keys)
        if best[0] <= _FEW_PAIRS * len(hashes):
            break
    if not best[1]:
        raise CohortError(
            "the fingerprints are so alike that they cannot tell copies from other pictures", got=f"{len(hashes):,} of them"
        )
    return best[1]
