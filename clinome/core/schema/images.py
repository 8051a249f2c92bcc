"""Tables of pictures and scans: where they lie, what is drawn in them, and what is read from them."""

from __future__ import annotations

import polars as pl

from clinome.core.schema.table import PERSON, Column, Table

IMAGES = Table(
    "images",
    "a picture or an image series",
    (
        Column("image_id", pl.String, "unique name of the picture", nullable=False),
        PERSON,
        Column("path", pl.String, "the file, relative to the folder of this table or absolute", nullable=False),
        Column("laterality", pl.String, "'left' or 'right'; null when the organ is single", required=False),
        Column("visit", pl.Int64, "0 for the first visit, then 1, 2, …", required=False),
        Column("date", pl.Date, "acquisition date", required=False),
        Column("modality", pl.String, "e.g. 'fundus photograph'", required=False),
        Column("site", pl.String, "imaging centre", required=False),
        Column("scanner", pl.String, "camera or scanner", required=False),
        Column("series", pl.String, "SeriesInstanceUID, where 'path' is a folder of DICOM series", required=False),
        Column(
            "spacing_mm", pl.String, "between neighbours, '[depth x ]height x width' in mm, e.g. '3 x 0.5 x 0.5'", required=False
        ),
        Column("orientation", pl.String, "where the file's axes run, e.g. 'LPS': to Left, Posterior, Superior", required=False),
        Column("inverted", pl.Boolean, "low values are bright and the file does not say so: mirror them", required=False),
        Column("content_sha256", pl.String, "hash of the decoded values: equal for the very same picture", required=False),
        Column("fingerprint", pl.String, "64-bit hash of the looks, 16 hexadecimal digits: near for copies", required=False),
        Column(
            "fingerprint_detail", pl.String, "512-bit hash of the looks, 128 hexadecimal digits: confirms copies", required=False
        ),
    ),
    key=("image_id",),
    others="numeric nuisance columns (illumination, blur, …)",
)
SET_ASIDE = Table(
    "set_aside",
    "a picture or series that could not be read or used",
    (
        Column("image_id", pl.String, "as in images", nullable=False),
        Column("participant_id", pl.String, "as in images; null where the file does not say", required=False),
        Column("path", pl.String, "as in images", nullable=False),
        Column("what", pl.String, "the kind of fault, alike for alike faults", nullable=False),
        Column("reason", pl.String, "the fault with its place, one line", nullable=False),
    ),
    key=("image_id",),
)
MASKS = Table(
    "masks",
    "an image and what is drawn in it",
    (
        Column("image_id", pl.String, "as in images", nullable=False),
        Column("mask_path", pl.String, "the mask, relative to the folder of this table or absolute; empty where there is none"),
        Column("certainty", pl.Float64, "of the outlines, 0–1", required=False),
    ),
    key=("image_id",),
    others="those of images",
)
DUPLICATES = Table(
    "duplicates",
    "a picture that repeats an earlier one",
    (
        Column("image_id", pl.String, "the picture", nullable=False),
        Column("duplicate_of", pl.String, "the earlier picture", nullable=False),
        Column("kind", pl.String, "'exact' (the same values) or 'near' (the same looks)", nullable=False),
        Column("share_of_bits", pl.Float64, "bits of the looks that differ, 0–1", nullable=False),
    ),
    key=("image_id", "duplicate_of"),
)
TARGETS = Table(
    "targets",
    "what is known of a picture, or of a person",
    (
        Column("image_id", pl.String, "as in images; null or absent where it is known of the person", required=False),
        Column("participant_id", pl.String, "the person", required=False),
    ),
    key=(),
    others="what is known: numbers and classes; null is missing",
)
QUALITY = Table(
    "quality",
    "a number about one trait's quality",
    (
        Column("trait", pl.String, "the phenotype dimension", nullable=False),
        Column(
            "measure",
            pl.String,
            "'variance_share', 'left_right_icc', 'test_retest_icc' (held-out people), 'nuisance_r2:<column>'",
            nullable=False,
        ),
        Column("value", pl.Float64, "the estimate"),
        Column("lower", pl.Float64, "lower end of the 95 % interval"),
        Column("upper", pl.Float64, "upper end of the 95 % interval"),
        Column("n", pl.Int64, "people it rests on"),
    ),
    key=("trait", "measure"),
)
MEASUREMENTS = Table(
    "measurements",
    "a number read from an image",
    (
        Column("image_id", pl.String, "as in images", nullable=False),
        PERSON,
        Column("laterality", pl.String, "'left' or 'right'; null when the organ is single"),
        Column("visit", pl.Int64, "0 for the first visit, then 1, 2, …; null when the images do not say"),
        Column("structure", pl.String, "what was outlined, e.g. 'vessels', 'disc', 'hippocampus'", nullable=False),
        Column("trait", pl.String, "what was measured of it, e.g. 'calibre', 'volume'", nullable=False),
        Column("value", pl.Float64, "the number; null when it could not be had"),
        Column("unit", pl.String, "of the value, e.g. 'px', 'mm³', 'ratio'", nullable=False),
        Column("flag", pl.String, "why the value should not be used; null when it is sound"),
    ),
    key=("image_id", "structure", "trait"),
)
MEASURED_TRAITS = Table(
    "measured_traits",
    "a trait that was folded from images to people, and by which rule",
    (
        Column("trait", pl.String, "column of phenotypes, '<structure>.<trait>'", nullable=False),
        Column("unit", pl.String, "of the values", nullable=False),
        Column("source", pl.String, "what measured it", nullable=False),
        Column("repeats", pl.String, "how several images of one eye at one visit became one", nullable=False),
        Column("visits", pl.String, "how visits became one", nullable=False),
        Column("eyes", pl.String, "how eyes became one", nullable=False),
        Column("measurements", pl.Int64, "rows of measurements of this trait", nullable=False),
        Column("flagged", pl.Int64, "of them flagged or without a value, and left out", nullable=False),
        Column("people", pl.Int64, "people with a value", nullable=False),
        Column("people_without", pl.Int64, "people measured who have no value by this rule", nullable=False),
    ),
    key=("trait",),
)
