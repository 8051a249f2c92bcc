"""Who or what stands on both sides of a split: found before training, printed with the result.

A *leak* is what lets a model know a test example beforehand: the same person, family, example, file or picture on two sides. A
*warning* wants a look: pictures that may be one picture, or copies that disagree in their label. *Information* is how the split is
made: sites and dates. A check without its column, or whose column is known of
one side only or of nobody, is ``not checked``, which is not the same as ``clean``.

Near duplicates are pictures whose 64-bit fingerprints differ in few bits (:mod:`clinome.cohort.copies`). Scans of one organ in one
pose can be as alike, so such a pair is a warning; where a longer fingerprint (``fingerprint_detail``) agrees, it is a leak.

References
----------
Kaufman S, Rosset S, Perlich C, Stitelman O. Leakage in data mining: formulation, detection, and avoidance. ACM Transactions on
Knowledge Discovery from Data 6:15 (2012), doi:10.1145/2382577.2382579.

>>> examples = pl.DataFrame({"example_id": ["a", "b", "c"], "participant_id": ["1", "1", "2"], "split": ["train", "test", "test"]})
>>> report = leakage(examples)
>>> report.filter(pl.col("severity") == "leak").select("check", "splits", "n", "examples").rows()
[('participants', 'test, train', 1, 'b')]
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.copies import looks_of
from clinome.core.errors import CohortError, SchemaError
from clinome.core.schema import LEAKAGE, check

_SHOWN = 10  # example ids named in a row of the report
_TRAINING = ("train", "training", "fit")
Row = tuple[str, str, int | None, str, str, str]


def leakage(
    examples: pl.DataFrame,
    splits: pl.DataFrame | None = None,
    *,
    participants: pl.DataFrame | None = None,
    targets: Sequence[str] = (),
    max_distance: int = 6,
    max_detail: float = 0.06,
) -> pl.DataFrame:
    """Check a split; return ``core.schema.LEAKAGE``: a row a check and pair of splits in which something was found.

    Parameters
    ----------
    examples
        example_id, participant_id and what there is of split, ``content_sha256`` (of the file or the pixels), ``fingerprint``
        (a 64-bit perceptual hash as 16 hexadecimal digits), ``fingerprint_detail`` (a longer one), site, date, family_id and the
        ``targets``. Pictures have them from :func:`clinome.imaging.fingerprint.fingerprint_of`.
    splits
        split by example_id or by participant_id; None: ``examples`` have it. Examples without a split are left out.
    participants
        ``core.schema.PARTICIPANTS``, for family_id and site where ``examples`` have none.
    targets
        Columns of labels, to see whether copies agree.
    max_distance
        Bits in which the fingerprints of near duplicates differ at most.
    max_detail
        Share of the bits in which their ``fingerprint_detail`` differ at most.

    Returns
    -------
    pl.DataFrame
        ``n`` counts examples (people, for ``participants`` and ``families``), ``examples`` names ten of them.

    Raises
    ------
    SchemaError
        When a needed column is missing or a fingerprint is not of 64 bits.
    CohortError
        When no example has a split.
    """
    table = _with_split(examples, splits, participants)
    rows = [*_examples(table), *_groups(table, "participants", "participant_id"), *_groups(table, "families", "family_id")]
    rows += [*_exact(table), *_near(table, max_distance, max_detail), *_labels(table, targets, max_distance, max_detail)]
    rows += [*_sites(table), *_time(table)]
    schema = {column.name: column.dtype for column in LEAKAGE.columns}
    return check(pl.DataFrame(rows, schema=schema, orient="row"), LEAKAGE)


def refuse_leaking(report: pl.DataFrame, *, allow: Collection[str] = ()) -> pl.DataFrame:
    """Return the report when it has no leak but those of the checks named in ``allow``.

    Raises
    ------
    CohortError
        For any other leak; it names the checks and the word that allows them.
    ValueError
        When ``allow`` names an unknown check.
    """
    if unknown := set(allow) - set(CHECKS):
        raise ValueError(f"unknown check {min(unknown)!r}; expected of {', '.join(CHECKS)}")
    leaks = report.filter((pl.col("severity") == "leak") & ~pl.col("check").is_in(list(allow)))
    if not leaks.height:
        return report
    names = leaks["check"].unique(maintain_order=True).to_list()
    raise CohortError(
        "the split leaks: what is learnt on one side is known on the other",
        got="; ".join(f"{name}: {n:,} in {splits} (e.g. {some})" for name, splits, n, some, *_ in leaks.iter_rows()),
        expected="no person, family, example or file in two splits",
        do=f"split again by person and family, without copies; or allow it by name: {', '.join(names)}",
    )


CHECKS = ("examples", "participants", "families", "exact_duplicates", "near_duplicates", "conflicting_labels", "sites", "time")


def in_words(report: pl.DataFrame) -> str:
    """Return the report as lines of text, what matters most first."""
    order = {"leak": 0, "warning": 1, "information": 2, "not checked": 3, "clean": 4}
    rows = sorted(report.iter_rows(named=True), key=lambda row: order[row["severity"]])
    lines = []
    for row in rows:
        count = "" if row["n"] is None else f"{row['n']:,} "
        where = f"in {row['splits']}: " if row["splits"] else ""
        lines.append(f"{row['severity']:<11}  {row['check']:<18}  {where}{count}{row['note']}".rstrip())
    return "\n".join(lines)


def _with_split(examples: pl.DataFrame, splits: pl.DataFrame | None, participants: pl.DataFrame | None) -> pl.DataFrame:
    """Return examples with text ids and a split, family and site where known."""
    for name in ("example_id", "participant_id"):
        if name not in examples.columns:
            raise SchemaError(f"column {name!r} is missing", where="the examples", got=", ".join(examples.columns))
    table = examples.with_columns(pl.col("example_id", "participant_id").cast(pl.String))
    if splits is not None:
        key = "example_id" if "example_id" in splits.columns else "participant_id"
        if "split" not in splits.columns or key not in splits.columns:
            raise SchemaError("the splits lack a column", got=", ".join(splits.columns), expected="split, and an id")
        named = splits.select(pl.col(key).cast(pl.String), pl.col("split")).unique(maintain_order=True)
        table = table.drop("split", strict=False).join(named, on=key, how="left", maintain_order="left")
    if "split" not in table.columns:
        raise SchemaError("column 'split' is missing", where="the examples", do="add it, or give a table of splits")
    if participants is not None:
        more = [name for name in ("family_id", "site") if name in participants.columns and name not in table.columns]
        known = participants.select(pl.col("participant_id").cast(pl.String), *more)
        table = table.join(known, on="participant_id", how="left", maintain_order="left")
    table = table.filter(pl.col("split").is_not_null()).with_columns(pl.col("split").cast(pl.String))
    if not table.height:
        raise CohortError("no example has a split", got=f"{examples.height:,} examples")
    return table


def _not_checked(name: str, column: str) -> Iterator[Row]:
    yield (name, "", None, "", "not checked", f"there is no column {column!r}")


def _one_sided(name: str, column: str, table: pl.DataFrame, known: pl.DataFrame) -> list[Row]:
    """Return the row that says so when ``column`` is known of fewer than two of the splits, so that none can be compared."""
    sides = known["split"].unique().sort().to_list()
    if len(sides) >= min(2, table["split"].n_unique()):
        return []
    note = f"column {column!r} is known " + (f"in {sides[0]} only" if sides else "of nobody")
    return [(name, "", None, "", "not checked", note)]


def _pairs(name: str, held: pl.DataFrame, severity: str, note: str, *, count: str = "example_id") -> Iterator[Row]:
    """Yield a row for every pair of splits that share a ``key``: ``held`` has key, split, example_id and the column to count."""
    sides = held.group_by("key").agg(pl.col("split").unique())
    shared = held.join(sides.filter(pl.col("split").list.len() > 1).drop("split"), on="key", how="semi")
    if not shared.height:
        yield (name, "", 0, "", "clean", "")
        return
    for one, other in combinations(sorted(shared["split"].unique()), 2):
        here = shared.filter(pl.col("split").is_in([one, other]))
        both = here.filter(pl.col("split").n_unique().over("key") == 2)
        if both.height:
            first = _trained_on(one, other)
            shown = both.filter(pl.col("split") != first)
            n = (both if count == "key" else shown)[count].n_unique()
            yield (name, ", ".join((one, other)), n, _some(shown["example_id"]), severity, note)


def _trained_on(one: str, other: str) -> str:
    """Return which of two splits is learnt from; its examples are not the ones to name."""
    return one if one.lower() in _TRAINING or other.lower().startswith("test") else other


def _some(ids: pl.Series) -> str:
    return ", ".join(ids.unique(maintain_order=True).head(_SHOWN))


def _examples(table: pl.DataFrame) -> Iterator[Row]:
    """The same example in two splits."""
    yield from _pairs(
        "examples", table.select(pl.col("example_id").alias("key"), "split", "example_id"), "leak", "examples in two splits"
    )


def _groups(table: pl.DataFrame, name: str, column: str) -> Iterator[Row]:
    """The same person or family in two splits."""
    if column not in table.columns:
        yield from _not_checked(name, column)
        return
    key = pl.col(column).cast(pl.String)
    nobody = ["", "0"] if name == "families" else [""]  # family 0 is none, as in PLINK's files; a person may well be called 0
    held = table.select(key.alias("key"), "split", "example_id").filter(pl.col("key").is_not_null() & ~pl.col("key").is_in(nobody))
    what = "people" if name == "participants" else "families"
    yield from _one_sided(name, column, table, held) or _pairs(name, held, "leak", f"{what} in both", count="key")


def _exact(table: pl.DataFrame) -> Iterator[Row]:
    """Files of the same content in two splits."""
    if "content_sha256" not in table.columns:
        yield from _not_checked("exact_duplicates", "content_sha256")
        return
    held = table.select(pl.col("content_sha256").alias("key"), "split", "example_id").filter(pl.col("key").is_not_null())
    note = "examples whose very content is in the other split too"
    lacking = _one_sided("exact_duplicates", "content_sha256", table, held)
    yield from lacking or _pairs("exact_duplicates", held, "leak", note)


def _near(table: pl.DataFrame, max_distance: int, max_detail: float) -> Iterator[Row]:
    """Pictures that look the same, in two splits."""
    if "fingerprint" not in table.columns:
        yield from _not_checked("near_duplicates", "fingerprint")
        return
    looks = looks_of(table)
    if lacking := _one_sided("near_duplicates", "fingerprint", table, table[looks.rows]):
        yield from lacking
        return
    splits, side = np.unique(table["split"].to_numpy().astype(str)[looks.rows], return_inverse=True)
    names = [str(name) for name in splits]
    on = np.zeros((len(looks.codes), len(names)), dtype=bool)  # splits in which a picture, or one that looks the same, occurs
    on[looks.which, side] = True
    near = on.copy()
    try:
        for a, b in looks.pairs(max_distance, max_detail):
            np.logical_or.at(near, a, on[b])
            np.logical_or.at(near, b, on[a])
    except CohortError as error:
        yield ("near_duplicates", "", None, "", "not checked", error.what)
        return
    sure = looks.details is not None
    note = f"examples whose fingerprint is within {max_distance} bits of one in the other split"
    if sure:
        note += f", and the detail within {max_detail:.0%}"
    found = False
    for one, other in combinations(range(len(names)), 2):
        trained = one if _trained_on(names[one], names[other]) == names[one] else other
        rows = looks.rows[(side == one + other - trained) & near[looks.which, trained]]
        if len(rows):
            found = True
            some = _some(table["example_id"].gather(rows))
            yield ("near_duplicates", f"{names[one]}, {names[other]}", len(rows), some, "leak" if sure else "warning", note)
    if not found:
        yield ("near_duplicates", "", 0, "", "clean", "")


def _labels(table: pl.DataFrame, targets: Sequence[str], max_distance: int, max_detail: float) -> Iterator[Row]:
    """Copies whose labels differ, in whatever split."""
    copies = [
        name for name in ("content_sha256", "fingerprint") if name in table.columns and table[name].null_count() < table.height
    ]
    if not targets or not copies:
        yield ("conflicting_labels", "", None, "", "not checked", "there are no targets, or no content_sha256 and no fingerprint")
        return
    found = False
    for target in targets:
        known = table.filter(pl.col(target).is_not_null())
        label = np.unique(known[target].cast(pl.String).to_numpy().astype(str), return_inverse=True)[1]
        wrong = np.zeros(known.height, dtype=bool)
        if "content_sha256" in known.columns:
            rows = np.flatnonzero(known["content_sha256"].is_not_null().to_numpy())
            which = np.unique(known["content_sha256"].gather(rows).to_numpy().astype(str), return_inverse=True)[1]
            wrong[rows] |= _differ(label[rows], which, ())
        if "fingerprint" in known.columns:
            looks = looks_of(known)
            with suppress(CohortError):  # fingerprints that tell nothing are the matter of the check of near duplicates
                wrong[looks.rows] |= _differ(label[looks.rows], looks.which, looks.pairs(max_distance, max_detail))
        if wrong.any():
            found = True
            of_wrong = known.filter(wrong)
            splits = ", ".join(of_wrong["split"].unique().sort())
            note = f"examples whose copy has another {target!r}"
            yield ("conflicting_labels", splits, of_wrong.height, _some(of_wrong["example_id"]), "warning", note)
    if not found:
        yield ("conflicting_labels", "", 0, "", "clean", "")


def _differ(
    label: NDArray[np.intp], which: NDArray[np.intp], pairs: Iterable[tuple[NDArray[np.intp], NDArray[np.intp]]]
) -> NDArray[np.bool_]:
    """Tell for each row whether a row of the same thing, or of one paired with it, has another label."""
    n = int(which.max(initial=-1)) + 1
    low, high = np.full(n, np.iinfo(np.intp).max), np.full(n, -1)
    np.minimum.at(low, which, label)
    np.maximum.at(high, which, label)
    differs = low != high
    for a, b in pairs:
        apart = (low[a] != low[b]) | (high[a] != high[b])
        differs[a[apart]] = True
        differs[b[apart]] = True
    return np.asarray(differs[which])


def _sites(table: pl.DataFrame) -> Iterator[Row]:
    """Which sites are on one side only: it says what the split tests, and is no fault."""
    if "site" not in table.columns:
        yield from _not_checked("sites", "site")
        return
    known = table.filter(pl.col("site").is_not_null())
    yield from _one_sided("sites", "site", table, known)
    for one, other in combinations(sorted(known["split"].unique()), 2):
        here, there = (set(known.filter(pl.col("split") == side)["site"].cast(pl.String)) for side in (one, other))
        note = f"sites in both; {len(here - there)} only in {one}, {len(there - here)} only in {other}"
        yield ("sites", f"{one}, {other}", len(here & there), "", "information", note)


def _time(table: pl.DataFrame) -> Iterator[Row]:
    """How many examples are earlier than the last that was learnt from."""
    if "date" not in table.columns:
        yield from _not_checked("time", "date")
        return
    known = table.filter(pl.col("date").is_not_null())
    if lacking := _one_sided("time", "date", table, known):
        yield from lacking
        return
    trained = [name for name in sorted(known["split"].unique()) if name.lower() in _TRAINING]
    for side in trained:
        last = known.filter(pl.col("split") == side)["date"].max()
        for other in sorted(known["split"].unique()):
            if other != side:
                early = known.filter((pl.col("split") == other) & (pl.col("date") < last))
                note = f"examples of {other} are earlier than the last of {side} ({last!s})"
                yield ("time", f"{other}, {side}", early.height, _some(early["example_id"]), "information", note)
    if not trained:
        yield ("time", "", None, "", "not checked", "no split is named 'train'")
