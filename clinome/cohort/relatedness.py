"""Who is related: KING-robust kinship of every pair, and a set of people of whom no two are.

The between-family estimator needs no allele frequencies, so population structure does not bias it for pairs of one ancestry
(Manichaikul et al. 2010, eq. 11). Over the variants that both people have, with x the allele count and H the number of
heterozygous ones, kinship = 1/2 − Σ(x₁ − x₂)² / (4 min(H₁, H₂)): 0.5 for duplicates and twins, 0.25 for first-degree, 0.125
for second-degree relatives, around or below 0 for others. All sums are integers and exact.

References
----------
Manichaikul et al. (2010) Robust relationship inference in genome-wide association studies. Bioinformatics,
doi:10.1093/bioinformatics/btq559
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.pruning import autosomal
from clinome.core.errors import StudyError
from clinome.core.progress import track
from clinome.formats.genotypes import Block, Genotypes, blocks

SECOND_DEGREE = 0.0884
"""2^−3.5, the usual cut between second and third degree; 2^−2.5 = 0.177 is that between first and second."""

_TILE = 2**24
_SCHEMA = {"participant_id_1": pl.String, "participant_id_2": pl.String, "kinship": pl.Float64}


def related_pairs(
    genotypes: Genotypes,
    *,
    cutoff: float = SECOND_DEGREE,
    variants: NDArray[np.int64] | None = None,
    samples: NDArray[np.int64] | None = None,
    pairs_at_a_time: int = _TILE,
) -> pl.DataFrame:
    """Find the pairs of people whose KING-robust kinship is at least ``cutoff``.

    Time grows with pairs × variants, so 10,000–30,000 independent variants
    (:func:`clinome.cohort.pruning.independent_variants`) are what to use; the genotypes are streamed once for every
    ``pairs_at_a_time`` pairs (about 30 bytes each), which bounds the memory.

    Parameters
    ----------
    variants
        Rows of the variants table; None takes all on autosomes.
    samples
        Rows of the people to compare; None is all.

    Returns
    -------
    pl.DataFrame
        ``participant_id_1``, ``participant_id_2`` (the first comes first in the samples) and ``kinship``, in the order of
        the samples. Pairs without a heterozygous variant in common are not estimated and not listed.

    Raises
    ------
    StudyError
        When the genotypes are dosages that are not whole numbers: kinship counts hard calls.
    """
    rows = autosomal(genotypes.variants) if variants is None else np.asarray(variants, np.int64)
    everybody = np.arange(genotypes.samples.height, dtype=np.int64) if samples is None else np.asarray(samples, np.int64)
    names = genotypes.samples["participant_id"].gather(everybody)
    n = len(everybody)
    strip = max(1, min(n, pairs_at_a_time // max(1, n)))
    found = [pl.DataFrame(schema=_SCHEMA)]
    for start in track(range(0, n, strip), "kinship", total=-(-n // strip)):
        left = slice(0, min(strip, n - start))
        kinship = _kinship(genotypes, rows, everybody[start:], left)
        kinship[np.arange(kinship.shape[1]) <= np.arange(kinship.shape[0])[:, None]] = -np.inf
        first, second = np.nonzero(kinship >= cutoff)
        found.append(
            pl.DataFrame(
                {
                    "participant_id_1": names.gather(first + start),
                    "participant_id_2": names.gather(second + start),
                    "kinship": kinship[first, second],
                },
                schema=_SCHEMA,
            )
        )
    return pl.concat(found)


def unrelated(ids: Sequence[str], pairs: pl.DataFrame, *, prefer: Mapping[str, float] | None = None) -> list[str]:
    """Keep people of whom no two are a related pair, dropping as few as a greedy rule finds.

    The person with most relatives is dropped first, until nobody has one left; among equals the one with the smallest
    ``prefer`` (0 when not named), then the later in text order. In the end everybody who was dropped but has no relative
    among the kept comes back, so the set cannot be enlarged.

    Parameters
    ----------
    pairs
        From :func:`related_pairs`; pairs with somebody who is not in ``ids`` do not count.
    prefer
        Person → the worth of keeping them, for example the number of traits they have.

    Returns
    -------
    list[str]
        The kept, in the order of ``ids``; the same whatever the order of ``ids`` or ``pairs``.

    Example
    -------
    >>> trio = pl.DataFrame({"participant_id_1": ["child", "child"], "participant_id_2": ["father", "mother"]})
    >>> unrelated(["child", "father", "mother"], trio)
    ['father', 'mother']
    """
    worth = prefer or {}
    present = set(ids)
    relatives: dict[str, set[str]] = defaultdict(set)
    for a, b in pairs.select("participant_id_1", "participant_id_2").iter_rows():
        if a in present and b in present and a != b:
            relatives[a].add(b)
            relatives[b].add(a)
    order = {person: rank for rank, person in enumerate(sorted(relatives, reverse=True))}
    left = {person: len(others) for person, others in relatives.items()}
    heap = [(-count, worth.get(person, 0.0), order[person], person) for person, count in left.items()]
    heapq.heapify(heap)
    dropped: list[str] = []
    gone: set[str] = set()
    while heap:
        count, _, _, person = heapq.heappop(heap)
        if person in gone or -count != left[person]:
            continue  # an entry from before a relative left
        if count == 0:
            break
        gone.add(person)
        dropped.append(person)
        for other in relatives[person] - gone:
            left[other] -= 1
            heapq.heappush(heap, (-left[other], worth.get(other, 0.0), order[other], other))
    for person in reversed(dropped):
        if relatives[person] <= gone:
            gone.discard(person)
    return [person for person in ids if person not in gone]


def _kinship(genotypes: Genotypes, rows: NDArray[np.int64], people: NDArray[np.int64], left: slice) -> NDArray[np.float64]:
    """Return the kinship of ``people[left]`` (rows) with ``people`` (columns), streaming the variants once.

    With u = x − 1 (0 where missing), s = u² (homozygous) and h (heterozygous), the squared differences over variants that
    both have sum to S₁ + S₂ − s₁·missing₂ − missing₁·s₂ − 2 u₁·u₂ and the first's heterozygous ones to H₁ − h₁·missing₂,
    S and H being each person's counts. Missing calls are few, so products with them are sparse.
    """
    n_left, n = left.stop, len(people)
    product = np.zeros((n_left, n), np.int32)
    homozygous, heterozygous = np.zeros(n, np.int32), np.zeros(n, np.int32)
    lost: _Lost | None = None
    for block in blocks(genotypes, size=max(16, 2**24 // n), variants=rows, samples=people):
        x = _hard_calls(block)
        u = np.where(x >= 0, x - 1, 0).astype(np.float32)
        s, h = np.abs(u), (x == 1).astype(np.float32)
        product += (u[:, left].T @ u).astype(np.int32)
        homozygous += s.sum(axis=0).astype(np.int32)
        heterozygous += h.sum(axis=0).astype(np.int32)
        if (x < 0).any():
            lost = lost or _Lost(*(np.zeros((n_left, n), np.int32) for _ in range(3)))
            lost.add(x < 0, s, h, left)
    squares = homozygous[left, None] + homozygous - 2 * product
    first, second = heterozygous[left, None], heterozygous
    if lost is not None:
        squares -= lost.homozygous
        first, second = first - lost.first, second - lost.second
    smaller = np.minimum(first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        kinship: NDArray[np.float64] = 0.5 - squares / (4.0 * smaller)
    kinship[smaller == 0] = -np.inf
    return kinship


class _Lost(NamedTuple):
    """What the other person's missing calls take from the counts of a pair, each of shape (n_left, n)."""

    homozygous: NDArray[np.int32]
    first: NDArray[np.int32]
    second: NDArray[np.int32]

    def add(self, missing: NDArray[np.bool_], s: NDArray[np.float32], h: NDArray[np.float32], left: slice) -> None:
        from scipy.sparse import csr_array

        everybody = csr_array(missing.T, dtype=np.float32)
        these = everybody[left]
        self.homozygous[:] += (everybody @ s[:, left]).T.astype(np.int32) + (these @ s).astype(np.int32)
        self.first[:] += (everybody @ h[:, left]).T.astype(np.int32)
        self.second[:] += (these @ h).astype(np.int32)


def _hard_calls(block: Block) -> NDArray[np.int8]:
    if block.scale == 1:
        return block.counts.astype(np.int8, copy=False)
    called = block.counts >= 0
    whole, rest = np.divmod(block.counts, block.scale)
    if rest[called].any():
        raise StudyError(
            "kinship counts hard calls, and the genotypes are dosages",
            do="give the genotyped variants (a .bed, or a .pgen of hard calls) for kinship, or leave out the relatedness step",
        )
    return np.where(called, whole, -1).astype(np.int8)
