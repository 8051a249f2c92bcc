"""Who is learnt from and who is predicted, and whether the one side knows of the other.

>>> examples = pl.DataFrame({"split": ["fold_1", "fold_2", "fold_1"]})
>>> [(part.name, part.train.tolist(), part.answer.tolist()) for part in parts_of(examples)]
[('fold_1', [1], [0, 2]), ('fold_2', [0, 2], [1])]
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.leakage import leakage, refuse_leaking
from clinome.core.errors import CohortError
from clinome.imaging.fingerprint import Fingerprint, content_of, fingerprint_of
from clinome.imaging.judging import FOLD
from clinome.imaging.targets import Target

_LARGE = 64  # pixels a side from which on copies are told by their looks


class Part(NamedTuple):
    """Rows that networks learn from, are watched on (or none), and answer; ``name`` is 'all' or that of the fold they answer."""

    name: str
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    answer: NDArray[np.int64]


def print_of(image: NDArray[Any], dims: int, *, looks: bool = True) -> Fingerprint:
    """Return the hash of a picture's content and, where it is large enough to tell copies, of its looks (of its first view)."""
    if not looks or min(image.shape[-2:]) < _LARGE:
        return Fingerprint(content_of(image), None, None)
    found = fingerprint_of(image[0] if image.ndim == dims + 2 else image)
    return found._replace(content_sha256=content_of(image))


def see_leakage(
    prints: Sequence[Fingerprint], examples: pl.DataFrame, targets: Sequence[Target], allow: Collection[str]
) -> pl.DataFrame:
    """Return ``core.schema.LEAKAGE`` of the split: people and the pictures' content in any case, the rest where it is known.

    Parameters
    ----------
    prints
        Of each picture (:func:`print_of`); content and looks are taken from the columns content_sha256, fingerprint and
        fingerprint_detail of ``examples`` where they are there.
    examples
        example_id, participant_id, split; family_id, site, date.
    allow
        Checks that may fail.

    Raises
    ------
    CohortError
        When the split leaks in a way that was not allowed.
    """
    table = examples
    if "content_sha256" not in table.columns:
        table = table.with_columns(pl.Series("content_sha256", [one.content_sha256 for one in prints], pl.String))
    if "fingerprint" not in table.columns and any(one.fingerprint for one in prints):
        looks = {name: [getattr(one, name) for one in prints] for name in ("fingerprint", "fingerprint_detail")}
        table = table.with_columns(pl.Series(name, values, pl.String) for name, values in looks.items())
    names = [target.name for target in targets if target.name in table.columns]
    return refuse_leaking(leakage(table, targets=names), allow=allow)


def parts_of(examples: pl.DataFrame) -> list[Part]:
    """Return who is learnt from and who is predicted: one part, or one a fold.

    Raises
    ------
    CohortError
        When there is nobody to learn from, or nobody else.
    """
    split = examples["split"].to_numpy().astype(str)
    names = np.unique(split).tolist()
    if all(name.startswith(FOLD) for name in names) and len(names) > 1:
        none = np.empty(0, np.int64)
        return [Part(name, np.flatnonzero(split != name), none, np.flatnonzero(split == name)) for name in names]
    train, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    if not len(train) or not {"validation", "test"} & set(names):
        raise CohortError(
            "the split does not say who is learnt from and who is predicted",
            got=", ".join(names),
            expected="'train' with 'validation' or 'test', or two folds or more: 'fold_1', 'fold_2' …",
        )
    return [Part("all", train, validation, np.flatnonzero(split != "train"))]
