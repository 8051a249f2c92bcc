"""Linking people across sources by identifier: who is in all of them, who is not, and a guess why when few match.

Identifiers match when they are the same text; nothing is rewritten silently. When fewer than half of the smaller source
match, the usual differences between exports are tried (``1001_1001`` for ``1001``, a constant prefix, zero-padding, letter
case, blanks, a trailing ``.0``) and the one that would match most is told, with what to do. Identifiers themselves are shown on
the terminal alone; what goes into logs and reports shows their :func:`shape`.

>>> link({"genotypes": ["1", "2", "3"], "traits": ["3", "1", "9"]}).ids
('1', '3')
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from clinome.core.errors import CohortError

_FEW = 0.5
_EXAMPLES = 3
_SHAPES = 1_000  # identifiers of a source that its commonest shape is taken from


class Linkage(NamedTuple):
    """Who is in all sources.

    ``ids`` are the people in every source, in the order of the first one. ``sources`` has a row a source: ``source``,
    ``people``, ``matched`` (in all sources) and ``unmatched``. Where few match, ``guess`` says why and what to do without naming
    anybody (it goes into logs and reports), and ``difference`` shows identifiers of the two sources that share the fewest which
    the other lacks: for the terminal alone. Both are None elsewhere.
    """

    ids: tuple[str, ...]
    sources: pl.DataFrame
    guess: str | None
    difference: str | None


def link(sources: Mapping[str, Sequence[str]]) -> Linkage:
    """Link the people of ``sources`` (name → identifiers) by identifier.

    Raises
    ------
    CohortError
        When a source is empty, names a person twice, or nobody is in all sources: with how many people each has, examples of
        both sides, and the guess why.
    """
    if not sources:
        raise CohortError("there are no sources to link")
    sets: dict[str, set[str]] = {}
    for name, ids in sources.items():
        sets[name] = set(ids)
        if not sets[name]:
            raise CohortError(f"{name} holds nobody")
        if len(sets[name]) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            n = len(ids) - len(sets[name])
            raise CohortError(f"{name} names people more than once", got=f"{n} repeated identifiers, for example {twice!r}")
    shared = set.intersection(*sets.values())
    first = next(iter(sources.values()))
    ids = tuple(person for person in first if person in shared)
    few = len(ids) < _FEW * min(map(len, sets.values())) and len(sets) > 1
    worst = _worst_pair(sets) if few else None
    if not ids:
        assert worst is not None
        do = (
            guess_mismatch(sets[worst[0]], sets[worst[1]], names=worst)
            or "see that the sources name the same people in the same way"
        )
        raise CohortError("nobody is in all sources", got=_difference(sets, worst), expected="the same identifiers", do=do)
    rows = [
        {"source": name, "people": len(people), "matched": len(ids), "unmatched": len(people) - len(ids)}
        for name, people in sets.items()
    ]
    if worst is None:
        return Linkage(ids, pl.DataFrame(rows), None, None)
    one, other = sets[worst[0]], sets[worst[1]]
    guess = guess_mismatch(one, other, names=worst, examples=False)
    shapes = f"identifiers look like {shape(one)} in the {worst[0]} and like {shape(other)} in the {worst[1]}"
    return Linkage(ids, pl.DataFrame(rows), f"{shapes}; {guess}" if guess else shapes, _difference(sets, worst))


def shape(ids: Iterable[str]) -> str:
    """Return the commonest shape of identifiers, a 9 for each digit and an A or a for each letter, so that nobody is named.

    >>> shape({"UKB1001", "UKB1002", "x"}), shape({"17_17"})
    ('AAA9999', '99_99')
    """
    shapes = Counter(
        re.sub(r"[^\W\d_]", lambda letter: "A" if letter[0].isupper() else "a", re.sub(r"\d", "9", person))
        for person in heapq.nsmallest(_SHAPES, ids)
    )
    return shapes.most_common(1)[0][0]


def _worst_pair(sets: Mapping[str, set[str]]) -> tuple[str, str]:
    """Find the two sources with the smallest overlap."""
    names = list(sets)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return min(pairs, key=lambda pair: len(sets[pair[0]] & sets[pair[1]]) / min(len(sets[pair[0]]), len(sets[pair[1]])))


def _difference(sets: Mapping[str, set[str]], pair: tuple[str, str]) -> str:
    """Say how many people each source has, and show some of a pair of sources whom the other lacks."""
    said = []
    for one, other in (pair, pair[::-1]):
        lacking = sets[one] - sets[other]
        some = ", ".join(map(repr, heapq.nsmallest(_EXAMPLES, lacking)))
        said.append(f"{one}: {len(sets[one]):,} people, {len(lacking):,} not in the {other}" + (f" ({some})" if lacking else ""))
    said += [f"{name}: {len(people):,} people" for name, people in sets.items() if name not in pair]
    return "; ".join(said)


def guess_mismatch(left: set[str], right: set[str], *, names: tuple[str, str], examples: bool = True) -> str | None:
    """Say which rewriting of identifiers would make ``left`` and ``right`` match, or None when none at least doubles it.

    ``examples``: show one identifier rewritten.

    >>> guess_mismatch({"7_7", "8_8"}, {"7", "8"}, names=("traits", "genotypes"))
    "traits seems to join FID and IID ('7_7' for '7'): 2 of 2 would match; keep the part after the '_' in traits"
    """
    now = len(left & right)
    smaller = min(len(left), len(right))
    best, said = max(2 * now, _FEW * smaller - 1), None
    for source, other, name in ((left, right, names[0]), (right, left, names[1])):
        for rewrite, why, cure in _rewritings(source, other):
            rewritten = {rewrite(person): person for person in sorted(source, reverse=True)}
            matched = rewritten.keys() & other
            if len(matched) > best:
                best, example = len(matched), min(matched)
                pair = f" ({rewritten[example]!r} for {example!r})" if examples else ""
                said = f"{name} seems to {why}{pair}: {len(matched)} of {smaller} would match; {cure} in {name}"
    return said


def _rewritings(source: set[str], other: set[str]) -> list[tuple[Callable[[str], str], str, str]]:
    """List the rewritings of ``source`` to try: (function, what the source seems to do, what to do about it)."""
    lower = {person.casefold(): person for person in sorted(other)}
    stripped = {person.lstrip("0"): person for person in sorted(other)}
    prefix = _added(source, other)
    suffix = _added({person[::-1] for person in source}, {person[::-1] for person in other})[::-1]
    rewritings: list[tuple[Callable[[str], str], str, str]] = [
        (str.strip, "have blanks around identifiers", "remove them"),
        (lambda p: p.removesuffix(".0"), "hold numbers as decimals", "remove the '.0'"),
        (lambda p: lower.get(p.casefold(), p), "differ in letter case", "write the other case"),
        (lambda p: stripped.get(p.lstrip("0"), p), "differ in leading zeros", "write the same number of digits"),
        (_half, "join FID and IID", "keep the part after the '_'"),
        (lambda p: p.rpartition("_")[2], "join FID and IID", "keep the part after the last '_'"),
        (lambda p: p.partition("_")[2] or p, "join FID and IID", "keep the part after the first '_'"),
    ]
    if prefix:
        rewritings.append((lambda p: p.removeprefix(prefix), f"have the prefix {prefix!r}", "remove it"))
    if suffix:
        rewritings.append((lambda p: p.removesuffix(suffix), f"have the suffix {suffix!r}", "remove it"))
    return rewritings


def _added(source: set[str], other: set[str]) -> str:
    """Return what most identifiers of ``source`` have in front of one of ``other``, seen on a few of them."""
    seen: Counter[str] = Counter()
    for person in sorted(source - other)[:20]:
        tails = [tail for start in range(1, len(person)) if (tail := person[start:]) in other]
        if tails:
            seen[person.removesuffix(tails[0])] += 1
    return seen.most_common(1)[0][0] if seen else ""


def _half(person: str) -> str:
    """Return the second half of 'x_x', which is how FID and IID are joined when they are equal."""
    middle = len(person) // 2
    return person[middle + 1 :] if person[:middle] == person[middle + 1 :] and person[middle : middle + 1] == "_" else person
