"""Linking people across sources by identifier: who is in all of them, who is not, and a guess why when few match.

Identifiers match when they are the same text; nothing is rewritten silently. When fewer than half of the smaller source
match, the usual differences between exports are tried (``1001_1001`` for ``1001``, a constant prefix, zero-padding, letter
case, blanks, a trailing ``.0``) and the one that would match most is told, with what to do.

>>> link({"genotypes": ["1", "2", "3"], "traits": ["3", "1", "9"]}).ids
('1', '3')
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from clinome.core.errors import CohortError

_FEW = 0.5
_EXAMPLES = 2


class Linkage(NamedTuple):
    """Who is in all sources.

    ``ids`` are the people in every source, in the order of the first one. ``sources`` has a row a source: ``source``,
    ``people``, ``matched`` (in all sources), ``unmatched``, and ``examples`` (at most two identifiers that did not match).
    ``guess`` says why few match and what to do, without naming anybody (it goes into logs and reports), or is None.
    """

    ids: tuple[str, ...]
    sources: pl.DataFrame
    guess: str | None


def link(sources: Mapping[str, Sequence[str]]) -> Linkage:
    """Link the people of ``sources`` (name → identifiers) by identifier.

    Raises
    ------
    CohortError
        When a source is empty, names a person twice, or nobody is in all sources (with the guess why).
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
    few = len(ids) < _FEW * min(map(len, sets.values()))
    if not ids:
        examples = "; ".join(f"{name} ({len(people)} people) has {min(people)!r}" for name, people in sets.items())
        do = _worst_pair(sets, examples=True) or "see that the sources name the same people in the same way"
        raise CohortError("nobody is in all sources", got=examples, expected="the same identifiers", do=do)
    rows = [
        {
            "source": name,
            "people": len(people),
            "matched": len(ids),
            "unmatched": len(people) - len(ids),
            "examples": ", ".join(sorted(people - shared)[:_EXAMPLES]),
        }
        for name, people in sets.items()
    ]
    return Linkage(ids, pl.DataFrame(rows), _worst_pair(sets, examples=False) if few else None)


def _worst_pair(sets: Mapping[str, set[str]], *, examples: bool) -> str | None:
    """Find the two sources with the smallest overlap and guess why."""
    names = list(sets)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    if not pairs:
        return None
    a, b = min(pairs, key=lambda pair: len(sets[pair[0]] & sets[pair[1]]) / min(len(sets[pair[0]]), len(sets[pair[1]])))
    return guess_mismatch(sets[a], sets[b], names=(a, b), examples=examples)


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
