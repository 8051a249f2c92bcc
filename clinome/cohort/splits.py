"""Splits of people into sets that share no family: shares and folds, the same whatever the order of the rows.

Families are ordered by a keyed hash of their members (the seed is the key) and laid end to end; a family goes where its
middle lies between the asked boundaries. So no family straddles, each set has the asked size to within one family, and
the same people with the same seed give the same split on every machine and in any row order.

>>> table = split(["a", "b", "c", "d"], ["f", "f", None, None], fractions={"train": 0.5, "test": 0.5}, seed=1)
>>> table.filter(table["participant_id"].is_in(["a", "b"]))["split"].n_unique()
1
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from clinome.core.errors import CohortError
from clinome.core.schema import SPLITS, check


def split(
    participant_ids: Sequence[str], family_ids: Sequence[str | None] | None = None, *, fractions: Mapping[str, float], seed: int
) -> pl.DataFrame:
    """Split people into named sets of the given shares, whole families together.

    Parameters
    ----------
    family_ids
        People who share one stay together; null, empty or '0' (PLINK's none) is a family of one. From :func:`families` when
        relatives are known from genotypes.
    fractions
        Set → share of the people; the shares add up to 1.

    Returns
    -------
    pl.DataFrame
        ``core.schema.SPLITS``, in the order of ``participant_ids``.

    Raises
    ------
    CohortError
        When a person is named twice, the shares do not add up to 1, or a set stays empty because families are too large.
    """
    if any(share <= 0 for share in fractions.values()) or not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-9):
        raise CohortError("the shares of a split are above 0 and add up to 1", got=dict(fractions))
    keys = families(participant_ids, family_ids)
    members: dict[str, int] = defaultdict(int)
    for key in keys:
        members[key] += 1
    names = list(fractions)
    ends = [sum(list(fractions.values())[: i + 1]) * len(keys) for i in range(len(names))]
    chosen: dict[str, str] = {}
    position = 0
    for key in sorted(members, key=lambda key: _rank(key, seed)):
        middle = position + members[key] / 2
        chosen[key] = next((name for name, end in zip(names, ends, strict=True) if middle < end), names[-1])
        position += members[key]
    empty = [name for name in names if name not in chosen.values()]
    if empty:
        raise CohortError(
            f"the set {empty[0]!r} of the split stays empty",
            got=f"{len(keys)} people in {len(members)} families, the largest of {max(members.values(), default=0)}",
            expected=f"families small enough for shares of {', '.join(f'{share:.3g}' for share in fractions.values())}",
            do="ask for fewer or larger sets, or see whether family_id is a constant",
        )
    frame = pl.DataFrame({"participant_id": list(participant_ids), "split": [chosen[key] for key in keys]})
    return check(frame, SPLITS)


def folds(participant_ids: Sequence[str], family_ids: Sequence[str | None] | None = None, *, k: int, seed: int) -> pl.DataFrame:
    """Split people into ``k`` equal folds ``fold_1`` … ``fold_k``, whole families together; see :func:`split`.

    Raises
    ------
    CohortError
        When ``k`` is below 2 or there are fewer families than folds.
    """
    if k < 2:
        raise CohortError("folds are at least two", got=k)
    return split(participant_ids, family_ids, fractions={f"fold_{i + 1}": 1 / k for i in range(k)}, seed=seed)


def families(
    participant_ids: Sequence[str],
    family_ids: Sequence[str | None] | None = None,
    pairs: Iterable[tuple[str, str]] = (),
) -> list[str]:
    """Join people who share a ``family_id`` or are linked by related ``pairs`` (directly or through others) into families.

    Returns
    -------
    list[str]
        One key a person, in the order of ``participant_ids``: the first identifier (in text order) of the family's members.
        Pairs that name somebody else are left out.

    Raises
    ------
    CohortError
        When a person is named twice.

    Example
    -------
    >>> families(["d", "c", "b", "a"], ["f", None, "f", None], [("c", "b")])
    ['b', 'b', 'b', 'a']
    """
    people = list(participant_ids)
    place = {person: i for i, person in enumerate(people)}
    if len(place) < len(people):
        raise CohortError("a split names people more than once", got=f"{len(people) - len(place)} repeated identifiers")
    parent = list(range(len(people)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        i, j = root(i), root(j)
        if people[i] > people[j]:
            i, j = j, i
        parent[j] = i

    first: dict[str, int] = {}
    for i, family in enumerate(family_ids if family_ids is not None else ()):
        if family not in (None, "", "0"):
            join(first.setdefault(str(family), i), i)
    for a, b in pairs:
        if a in place and b in place:
            join(place[a], place[b])
    return [people[root(i)] for i in range(len(people))]


def _rank(key: str, seed: int) -> bytes:
    """Order families at random but the same everywhere: a hash of the key, with the seed as salt."""
    return hashlib.blake2b(key.encode(), digest_size=16, salt=(seed % 2**64).to_bytes(8, "big")).digest()
