"""Who teaches an encoder and whom it phenotypes: never the same person, never the same family."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.splits import families, split
from clinome.core.errors import CohortError
from clinome.core.schema import PARTICIPANTS, check
from clinome.imaging.features import Views

LEARN, PHENOTYPE = "encoder", "association"  # the splits of training='outside'


class Arm(NamedTuple):
    """One encoder: the file it is kept in, the prefix of its traits, whom it may see, and whom it phenotypes (rows of people)."""

    name: str
    prefix: str
    learners: NDArray[np.int64]
    phenotyped: NDArray[np.int64]


def households(seen: Views, participants: pl.DataFrame | None) -> tuple[list[str], dict[str, str]]:
    """Return everyone who gets a row, in order, and a family key for each of them (their own when none is stated)."""
    if participants is None:
        return seen.people, dict(zip(seen.people, families(seen.people), strict=True))
    participants = check(participants, PARTICIPANTS)
    stated = participants["family_id"].to_list() if "family_id" in participants.columns else [None] * participants.height
    others = sorted(set(seen.people) - set(participants["participant_id"]))
    everyone = participants["participant_id"].to_list() + others
    return everyone, dict(zip(everyone, families(everyone, stated + [None] * len(others)), strict=True))


def assign(seen: Views, family: dict[str, str], *, fractions: dict[str, float], seed: int) -> pl.DataFrame:
    """Put families at random on the sides that ``fractions`` names; return a splits table of everyone with a picture."""
    if len(fractions) == 1:
        return pl.DataFrame({"participant_id": seen.people, "split": list(fractions) * len(seen.people)})
    return split(seen.people, [family[p] for p in seen.people], fractions=fractions, seed=seed)


def arms(seen: Views, table: pl.DataFrame, *, taught: bool, training: str) -> list[Arm]:
    """Turn a splits table into encoders; one that nobody here teaches phenotypes everybody."""
    where = dict(table.select("participant_id", "split").iter_rows())
    label = np.array([where.get(person, "") for person in seen.people])
    nobody = np.array([], dtype=np.int64)
    if not taught:
        return [Arm("encoder", "", nobody, np.flatnonzero((label != "") & (label != LEARN)))]
    if training == "outside":
        if not {LEARN, PHENOTYPE} <= set(label):
            found = ", ".join(sorted(set(label) - {""})) or "nobody"
            raise CohortError("the splits leave a side without pictures", got=found, expected=f"{LEARN} and {PHENOTYPE}")
        return [Arm("encoder", "", np.flatnonzero(label == LEARN), np.flatnonzero(label == PHENOTYPE))]
    names = sorted(set(label) - {""})
    if len(names) < 2:
        raise CohortError("cross-fitting needs at least two folds", got=", ".join(names) or "none")
    return [Arm(f"encoder_{f}", f"{f}.", np.flatnonzero((label != f) & (label != "")), np.flatnonzero(label == f)) for f in names]


def refuse_seen(arm: Arm, seen: Views, family: dict[str, str]) -> None:
    """Raise when ``arm`` would phenotype a person whose family it learned from."""
    taught = {family[seen.people[row]] for row in arm.learners}
    both = [seen.people[row] for row in arm.phenotyped if family[seen.people[row]] in taught]
    if both:
        raise CohortError(
            f"{arm.name} would phenotype people that it, or whose family it, has seen in training",
            got=f"{len(both)} people, e.g. {both[0]}",
            expected="families wholly on one side of the splits",
            do="split by family_id (leave out the splits table and Clinome does)",
        )
