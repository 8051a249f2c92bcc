"""Tables of people: who they are, how they are split and who is left out."""

from __future__ import annotations

import polars as pl

from clinome.core.schema.table import PERSON, Column, Table

PARTICIPANTS = Table(
    "participants",
    "a person",
    (
        PERSON,
        Column("sex", pl.String, "'male' or 'female'; null when unknown", required=False),
        Column("birth_date", pl.Date, "date of birth", required=False),
        Column("family_id", pl.String, "people sharing it stay on one side of every split", required=False),
        Column("site", pl.String, "recruitment or imaging centre", required=False),
        Column("ancestry", pl.String, "genetic-ancestry group", required=False),
    ),
    key=("participant_id",),
)
PHENOTYPES = Table("phenotypes", "a person", (PERSON,), key=("participant_id",), others="one float column a trait; null is missing")
COVARIATES = Table(
    "covariates", "a person", (PERSON,), key=("participant_id",), others="numeric or text (categorical) columns; null is missing"
)
SPLITS = Table(
    "splits",
    "a person",
    (PERSON, Column("split", pl.String, "e.g. 'train', 'validation', 'test', or a fold", nullable=False)),
    key=("participant_id",),
)
EXCLUSIONS = Table(
    "exclusions",
    "a person dropped at a stage",
    (
        PERSON,
        Column("stage", pl.String, "the step of the flow", nullable=False),
        Column("reason", pl.String, "why", nullable=False),
    ),
    key=("participant_id",),
)
FLOW = Table(
    "flow",
    "a step of the participant flow",
    (
        Column("stage", pl.String, "the step", nullable=False),
        Column("reason", pl.String, "why people left at this step", nullable=False),
        Column("dropped", pl.Int64, "people who left", nullable=False),
        Column("remaining", pl.Int64, "people who stayed", nullable=False),
    ),
    key=(),
)
LEAKAGE = Table(
    "leakage",
    "a check of a split, and the splits in which it found something",
    (
        Column(
            "check",
            pl.String,
            "'examples', 'participants', 'families', 'exact_duplicates', 'near_duplicates', 'conflicting_labels', 'sites', 'time'",
            nullable=False,
        ),
        Column("splits", pl.String, "the two splits; empty when nothing was found", nullable=False),
        Column("n", pl.Int64, "examples, people, families or sites; null when not checked"),
        Column(
            "examples", pl.String, "identifiers of up to ten of the examples, of the split that is not learnt from", nullable=False
        ),
        Column("severity", pl.String, "'leak', 'warning', 'information', 'clean' or 'not checked'", nullable=False),
        Column("note", pl.String, "what n counts, or why it was not checked", nullable=False),
    ),
    key=(),
)
