"""Every table that passes between rooms: its columns, their types and units, one sentence each.

A table is a Polars frame in memory and Parquet on disk. Rooms hand tables to each other, never objects. ``check`` is
called where a table enters a room. Domains that do not exist yet add their tables here when they come.

>>> import polars as pl
>>> check(pl.DataFrame({"participant_id": ["a"], "split": ["train"]}), SPLITS).shape
(1, 2)
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from clinome.core.errors import SchemaError


@dataclass(frozen=True)
class Column:
    """One column of a table: name, Polars type, meaning with unit, and whether a table may lack it or leave it empty."""

    name: str
    dtype: type[pl.DataType]
    meaning: str
    required: bool = True
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """The specification of a table.

    ``a_row_is`` says what one row stands for; ``key`` names the columns that together identify a row; ``others`` is the
    type of any further column (``None``: none are allowed).
    """

    name: str
    a_row_is: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    others: str | None = None


_ID = Column(
    "participant_id", pl.String, "the person, as text; identifiers are never numbers (leading zeros matter)", nullable=False
)

PARTICIPANTS = Table(
    "participants",
    "a person",
    (
        _ID,
        Column("sex", pl.String, "'male' or 'female'; null when unknown", required=False),
        Column("birth_date", pl.Date, "date of birth", required=False),
        Column("family_id", pl.String, "people sharing it stay on one side of every split", required=False),
        Column("site", pl.String, "recruitment or imaging centre", required=False),
        Column("ancestry", pl.String, "genetic-ancestry group", required=False),
    ),
    key=("participant_id",),
)
PHENOTYPES = Table("phenotypes", "a person", (_ID,), key=("participant_id",), others="one float column a trait; null is missing")
COVARIATES = Table(
    "covariates", "a person", (_ID,), key=("participant_id",), others="numeric or text (categorical) columns; null is missing"
)
IMAGES = Table(
    "images",
    "a picture or an image series",
    (
        Column("image_id", pl.String, "unique name of the picture", nullable=False),
        _ID,
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
    "a picture or series that could not be read",
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
VARIANTS = Table(
    "variants",
    "a variant with one effect allele (multiallelic sites are split)",
    (
        Column(
            "variant_id", pl.String, "identifier in the file; '.' or empty become chromosome:position:other:effect", nullable=False
        ),
        Column(
            "chromosome", pl.String, "'1' … '22', 'X', 'Y', 'MT', without 'chr'; other species: their own names", nullable=False
        ),
        Column("position", pl.Int64, "base pair, 1-based; 0 is allowed and means unknown", nullable=False),
        Column("effect_allele", pl.String, "the counted allele; beta is per copy of it", nullable=False),
        Column("other_allele", pl.String, "the allele that is not counted", nullable=False),
        Column("info", pl.Float64, "imputation INFO when the file states one", required=False),
        Column(
            "pseudo_autosomal",
            pl.Boolean,
            "on X, and the file's own code says that men have two copies (XY, PAR1, PAR2, 25)",
            required=False,
        ),
    ),
    key=(),
)
SUMMARY_STATISTICS = Table(
    "summary_statistics",
    "a variant × trait",
    (
        *VARIANTS.columns,
        Column("trait", pl.String, "the trait's name as given", nullable=False),
        Column("effect_allele_frequency", pl.Float64, "in the people analysed for this trait"),
        Column("n", pl.Int64, "people analysed"),
        Column("beta", pl.Float64, "change in the trait per copy of the effect allele; null when it cannot be estimated"),
        Column("standard_error", pl.Float64, "of beta"),
        Column("neg_log_10_p_value", pl.Float64, "−log10 p (p itself underflows)"),
    ),
    key=(),
)
INTERACTIONS = Table(
    "interactions",
    "a variant × trait whose effect changes with the modifier, or that has an effect at any value of it",
    (
        *SUMMARY_STATISTICS.columns,
        Column("interaction_beta", pl.Float64, "change of beta per unit of the modifier"),
        Column("interaction_standard_error", pl.Float64, "of interaction_beta"),
        Column("interaction_neg_log_10_p_value", pl.Float64, "−log10 p of interaction_beta = 0"),
        Column(
            "joint_neg_log_10_p_value", pl.Float64, "−log10 p of no effect at any value of the modifier (two degrees of freedom)"
        ),
    ),
    key=(),
)

LOCI = Table(
    "loci",
    "an independent signal",
    (
        Column("locus", pl.Int64, "1, 2, … along the genome", nullable=False),
        Column("variant_id", pl.String, "the lead variant", nullable=False),
        Column("chromosome", pl.String, "of the lead", nullable=False),
        Column("position", pl.Int64, "of the lead, base pair, 1-based", nullable=False),
        Column("effect_allele", pl.String, "of the lead", nullable=False),
        Column("other_allele", pl.String, "of the lead", nullable=False),
        Column("effect_allele_frequency", pl.Float64, "of the lead"),
        Column("start", pl.Int64, "first base pair of the merged window", nullable=False),
        Column("end", pl.Int64, "last base pair of the merged window", nullable=False),
        Column("traits", pl.String, "traits significant at the lead, joined by ','; 'omnibus' where that alone is", nullable=False),
        Column(
            "best_trait",
            pl.String,
            "the trait of the lead's smallest p; 'omnibus' where that is smaller or alone significant",
            nullable=False,
        ),
        Column("neg_log_10_p_value", pl.Float64, "of the lead for best_trait", nullable=False),
        Column("n_variants", pl.Int64, "variants in the window that reach significance", nullable=False),
        Column("nearest_gene", pl.String, "when a gene table was given", required=False),
        Column("gene_distance", pl.Int64, "base pairs from the lead to the gene, 0 inside", required=False),
    ),
    key=("locus",),
)
GENES = Table(
    "genes",
    "a gene",
    (
        Column("gene", pl.String, "symbol", nullable=False),
        Column("chromosome", pl.String, "as in variants", nullable=False),
        Column("start", pl.Int64, "first base pair, 1-based inclusive", nullable=False),
        Column("end", pl.Int64, "last base pair, inclusive", nullable=False),
    ),
    key=(),
    others="anything",
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
SPLITS = Table(
    "splits",
    "a person",
    (_ID, Column("split", pl.String, "e.g. 'train', 'validation', 'test', or a fold", nullable=False)),
    key=("participant_id",),
)
EXCLUSIONS = Table(
    "exclusions",
    "a person dropped at a stage",
    (_ID, Column("stage", pl.String, "the step of the flow", nullable=False), Column("reason", pl.String, "why", nullable=False)),
    key=("participant_id",),
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
METRICS = Table(
    "metrics",
    "a number",
    (
        Column("name", pl.String, "what is measured", nullable=False),
        Column("value", pl.Float64, "the estimate"),
        Column("lower", pl.Float64, "lower end of the 95 % interval"),
        Column("upper", pl.Float64, "upper end of the 95 % interval"),
        Column("interval", pl.String, "how the interval was made", nullable=False),
        Column("subgroup", pl.String, "the people (or thing) it is measured in; 'all' otherwise", nullable=False),
        Column("predictor", pl.String, "what made the predictions: 'model', or a floor's name", required=False),
        Column("split", pl.String, "the split it is measured on", required=False),
        Column("n", pl.Int64, "people it rests on", required=False),
        Column("target", pl.String, "what is predicted", required=False),
    ),
    key=(),
)
PREDICTIONS = Table(
    "predictions",
    "an example that was predicted",
    (
        Column("example_id", pl.String, "the picture, scan or case", nullable=False),
        _ID,
        Column("split", pl.String, "the split it was predicted in", nullable=False),
    ),
    key=("example_id",),
    others="'<target>', the truth where known, and 'predicted:<target>' (a number) or 'predicted:<target>:<class>' (a probability)",
)
OVERLAPS = Table(
    "overlaps",
    "a structure of an image, segmented twice",
    (
        Column("example_id", pl.String, "the image", nullable=False),
        _ID,
        Column("structure", pl.String, "its name", nullable=False),
        Column(
            "state",
            pl.String,
            "'both', or 'missed' (only in the truth), 'invented' (only in the prediction), 'absent' (in neither)",
            nullable=False,
        ),
        Column("dice", pl.Float64, "2·|both| / (|truth| + |prediction|); null when absent"),
        Column("jaccard", pl.Float64, "|both| / |either|; null when absent"),
        Column("volume", pl.Float64, "of the truth, mm³ (mm² in 2-D; voxels where no spacing is known)", nullable=False),
        Column("predicted_volume", pl.Float64, "of the prediction, likewise", nullable=False),
        Column("volume_error", pl.Float64, "(prediction − truth) / truth; null where the truth is empty"),
        Column(
            "hausdorff_95", pl.Float64, "mm (pixels), the larger 95 % quantile of the two; the image's diagonal when one is empty"
        ),
        Column("surface_distance", pl.Float64, "mm (pixels), mean of both surfaces' distances; likewise"),
        Column("surface_dice", pl.Float64, "share of both surfaces within the tolerance of the other; 0 when one is empty"),
    ),
    key=(),
)
CALIBRATION = Table(
    "calibration",
    "a bin of predicted probabilities",
    (
        Column("from", pl.Float64, "smallest probability in the bin", nullable=False),
        Column("to", pl.Float64, "largest probability in the bin", nullable=False),
        Column("predicted", pl.Float64, "mean of the probabilities", nullable=False),
        Column("observed", pl.Float64, "share of positives", nullable=False),
        Column("lower", pl.Float64, "lower end of its 95 % interval, by resampling participants"),
        Column("upper", pl.Float64, "upper end of its 95 % interval"),
        Column("n", pl.Int64, "examples in the bin", nullable=False),
    ),
    key=(),
)
EXPLANATIONS = Table(
    "explanations",
    "an image, what a network says of it, and a method that was asked why",
    (
        Column("image_id", pl.String, "as in images", nullable=False),
        _ID,
        Column("split", pl.String, "of the person in the training; 'new' otherwise", required=False),
        Column("target", pl.String, "what is explained: a target, or a structure of a segmenter", nullable=False),
        Column("class", pl.String, "of the target; null of a number and a structure"),
        Column("method", pl.String, "'integrated-gradients', 'occlusion', 'grad-cam' or 'attention'", nullable=False),
        Column("unit", pl.String, "of said, explained, attributed, allowed", nullable=False),
        Column("said", pl.Float64, "what the network says; null where there was nothing to ask about"),
        Column("explained", pl.Float64, "said less what is said of the baseline (integrated gradients)"),
        Column("attributed", pl.Float64, "the sum of the attributions"),
        Column("allowed", pl.Float64, "how far the two may be apart"),
        Column("adds_up", pl.Boolean, "whether they are not further apart; null for methods that do not claim it"),
        Column("steps", pl.Int64, "points on the way from the baseline"),
        Column("note", pl.String, "why there is no map; empty otherwise", nullable=False),
        Column("map_path", pl.String, "the map (.npy, on the grid of the network's picture), relative to the folder of this table"),
        Column("picture_path", pl.String, "the map over the picture (.png), likewise"),
    ),
    key=("image_id", "target", "class", "method"),
)
SANITY = Table(
    "sanity",
    "a method, and a depth to which the network was randomised",
    (
        Column("method", pl.String, "as in explanations", nullable=False),
        Column("target", pl.String, "as in explanations", nullable=False),
        Column("down_to", pl.String, "the layer down to which weights were randomised, from the output", nullable=False),
        Column("similarity", pl.Float64, "rank correlation of the maps' sizes with the trained network's; null of flat maps"),
        Column("n", pl.Int64, "images it rests on", nullable=False),
    ),
    key=("method", "target", "down_to"),
)
TRAVERSAL = Table(
    "traversal",
    "people who are alike in a number, and their average picture",
    (
        Column("group", pl.Int64, "1, 2, … from the lowest number", nullable=False),
        Column("label", pl.String, "of the group: a genotype, or a range of the number", nullable=False),
        Column("people", pl.Int64, "who are in it", nullable=False),
        Column("lower", pl.Float64, "their lowest number"),
        Column("upper", pl.Float64, "their highest number"),
        Column("picture_path", pl.String, "their average, relative to the folder of this table; null where withheld"),
    ),
    key=("group",),
)
RELIABILITY = Table(
    "reliability",
    "a bin of predictions of a target",
    (
        Column("target", pl.String, "what is predicted", nullable=False),
        Column("class", pl.String, "the class whose probability it is; null of a number"),
        Column("from", pl.Float64, "smallest prediction in the bin", nullable=False),
        Column("to", pl.Float64, "largest prediction in the bin", nullable=False),
        Column("predicted", pl.Float64, "mean of the predictions", nullable=False),
        Column("observed", pl.Float64, "share of the class, or mean of the number", nullable=False),
        Column("lower", pl.Float64, "lower end of its 95 % interval, by resampling participants"),
        Column("upper", pl.Float64, "upper end of its 95 % interval"),
        Column("n", pl.Int64, "examples in the bin", nullable=False),
    ),
    key=(),
)
COUNTS = Table(
    "counts",
    "examples of a split, all or those of which a target is known",
    (
        Column("split", pl.String, "as in splits", nullable=False),
        Column("target", pl.String, "what is known; null in the row of all examples"),
        Column("class", pl.String, "of the target; null of a number, and of all examples"),
        Column("examples", pl.Int64, "pictures, scans or cases", nullable=False),
        Column("people", pl.Int64, "whose they are", nullable=False),
        Column("mean", pl.Float64, "of a number"),
        Column("deviation", pl.Float64, "standard deviation of a number"),
    ),
    key=(),
)
EXAMPLES = Table(
    "examples",
    "an example to look at",
    (
        Column("example_id", pl.String, "as in predictions", nullable=False),
        Column("kind", pl.String, "why it is shown: 'typical', 'worst' or 'least certain'", nullable=False),
        Column("target", pl.String, "what is predicted, or the structures drawn", nullable=False),
        Column("truth", pl.String, "in words; null where it is not known"),
        Column("prediction", pl.String, "in words"),
        Column("measure", pl.String, "what it was chosen by, e.g. 'absolute error', 'Dice', 'certainty'", nullable=False),
        Column("value", pl.Float64, "of that; null where nobody knows"),
        Column("path", pl.String, "its small picture, relative to the folder of this table", nullable=False),
    ),
    key=(),
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
        _ID,
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
MANHATTAN = Table(
    "manhattan",
    "a variant, with its strongest evidence over all traits",
    (
        *VARIANTS.columns,
        Column("effect_allele_frequency", pl.Float64, "over everybody in the scan"),
        Column("best", pl.Float64, "largest −log10 p over the traits, uncorrected"),
        Column("best_trait", pl.String, "the trait it belongs to"),
        Column("omnibus", pl.Float64, "−log10 p of the rotation-invariant omnibus over the traits; null where there is none"),
        Column("study_wide", pl.Float64, "−log10 of the variant's p corrected over traits and over the two kinds of test"),
    ),
    key=(),
)
QQ = Table(
    "qq",
    "a quantile of observed against expected −log10 p",
    (
        Column("test", pl.String, "a trait's name, 'omnibus', or 'all traits'", nullable=False),
        Column("frequency_bin", pl.String, "minor-allele-frequency bin, or 'all'", nullable=False),
        Column("expected", pl.Float64, "−log10 p expected without association", nullable=False),
        Column("observed", pl.Float64, "−log10 p observed", nullable=False),
    ),
    key=(),
)
LAMBDAS = Table(
    "lambdas",
    "a genomic-control factor",
    (
        Column("test", pl.String, "a trait's name, 'omnibus', or 'all traits'", nullable=False),
        Column("frequency_bin", pl.String, "minor-allele-frequency bin, or 'all'", nullable=False),
        Column("lambda_gc", pl.Float64, "median χ² over its expectation"),
        Column("n_variants", pl.Int64, "variants it rests on", nullable=False),
        Column("flag", pl.String, "'high' (above 1.1) or 'low' (below 0.9) and beyond chance for so many variants; else null"),
    ),
    key=("test", "frequency_bin"),
)
REGIONS = Table(
    "regions",
    "a variant in the window of a locus",
    (
        Column("locus", pl.Int64, "as in loci", nullable=False),
        Column("variant_id", pl.String, "the variant", nullable=False),
        Column("chromosome", pl.String, "as in variants", nullable=False),
        Column("position", pl.Int64, "base pair, 1-based", nullable=False),
        Column("neg_log_10_p_value", pl.Float64, "for the locus's best_trait"),
        Column("r2", pl.Float64, "squared correlation of the allele counts with the lead's"),
    ),
    key=(),
)
EVIDENCE = Table(
    "evidence",
    "the lead of a locus × trait",
    (
        Column("locus", pl.Int64, "as in loci", nullable=False),
        Column("trait", pl.String, "the trait's name as given", nullable=False),
        Column("neg_log_10_p_value", pl.Float64, "of the lead for this trait"),
        Column("beta", pl.Float64, "change in the trait per copy of the lead's effect allele"),
        Column("standard_error", pl.Float64, "of beta"),
    ),
    key=("locus", "trait"),
)
GENOTYPE_PICTURES = Table(
    "genotype_pictures",
    "an average picture",
    (
        Column("locus", pl.Int64, "as in loci", nullable=False),
        Column("variant_id", pl.String, "the lead variant", nullable=False),
        Column(
            "kind",
            pl.String,
            "'mean' of a genotype's people, or 'difference' of two copies and none, without covariates",
            nullable=False,
        ),
        Column("genotype", pl.String, "e.g. 'A/A'; empty for a difference", nullable=False),
        Column("copies", pl.Int64, "copies of the effect allele; null for a difference"),
        Column("n", pl.Int64, "people averaged", nullable=False),
        Column("path", pl.String, "PNG file beside this table; null where it would show too few people"),
    ),
    key=(),
)
TRUE_LOCI = Table(
    "true_loci",
    "a locus planted by a simulation",
    (
        Column("variant_id", pl.String, "the causal variant", nullable=False),
        Column("chromosome", pl.String, "as in variants", nullable=False),
        Column("position", pl.Int64, "base pair, 1-based", nullable=False),
        Column("effect_allele", pl.String, "the allele that raises the latent", nullable=False),
        Column("latent", pl.String, "the anatomical latent it drives", nullable=False),
        Column("variance_explained", pl.Float64, "share of the latent's variance", nullable=False),
        Column("counted", pl.Boolean, "whether it counts in the demo's 'planted loci found' line", nullable=False),
    ),
    key=(),
)

TRUTH = Table(
    "truth",
    "a planted locus and what became of it",
    (
        *TRUE_LOCI.columns,
        Column("found", pl.Boolean, "a locus was found within the stated distance", nullable=False),
        Column("locus", pl.Int64, "the nearest found locus within the distance"),
        Column("distance", pl.Int64, "base pairs between its lead and the causal variant"),
    ),
    key=(),
)

TABLES: tuple[Table, ...] = (
    PARTICIPANTS,
    PHENOTYPES,
    COVARIATES,
    IMAGES,
    SET_ASIDE,
    MASKS,
    DUPLICATES,
    VARIANTS,
    SUMMARY_STATISTICS,
    INTERACTIONS,
    LOCI,
    GENES,
    TARGETS,
    SPLITS,
    EXCLUSIONS,
    LEAKAGE,
    FLOW,
    METRICS,
    PREDICTIONS,
    OVERLAPS,
    CALIBRATION,
    EXPLANATIONS,
    SANITY,
    TRAVERSAL,
    RELIABILITY,
    COUNTS,
    EXAMPLES,
    QUALITY,
    MEASUREMENTS,
    MEASURED_TRAITS,
    MANHATTAN,
    QQ,
    LAMBDAS,
    REGIONS,
    EVIDENCE,
    GENOTYPE_PICTURES,
    TRUE_LOCI,
    TRUTH,
)


def check(frame: pl.DataFrame, table: Table, *, where: str | None = None) -> pl.DataFrame:
    """Return ``frame`` with its columns cast to the types of ``table``, or raise what is wrong with it.

    Lossless casts (an integer column where floats are wanted) are made; everything else is an error.

    Raises
    ------
    SchemaError
        For a missing column, a type that cannot be cast, a null where none may be, a repeated key, or a column that the
        table does not know.
    """
    where = where or f"table {table.name!r}"
    known = {column.name for column in table.columns}
    casts = []
    for column in table.columns:
        if column.name not in frame.columns:
            if not column.required:
                continue
            raise SchemaError(
                f"column {column.name!r} is missing ({column.meaning})",
                where=where,
                got=", ".join(frame.columns) or "no columns",
                expected=", ".join(c.name for c in table.columns if c.required),
            )
        if column.nullable is False and frame[column.name].null_count():
            row = frame[column.name].is_null().arg_true()[0]
            raise SchemaError(
                f"column {column.name!r} has an empty value", where=f"{where}, row {row + 1}", expected=column.meaning
            )
        casts.append(pl.col(column.name).cast(column.dtype))
    extra = [name for name in frame.columns if name not in known]
    if extra and table.others is None:
        raise SchemaError(f"column {extra[0]!r} is not part of {table.name!r}", where=where, expected=", ".join(sorted(known)))
    try:
        frame = frame.with_columns(casts)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"a column of {table.name!r} has the wrong type: {str(error).splitlines()[0]}", where=where) from error
    if table.key and frame.select(table.key).is_duplicated().any():
        twice = frame.filter(frame.select(table.key).is_duplicated()).row(0, named=True)
        raise SchemaError(
            f"{' + '.join(table.key)} must be unique",
            where=where,
            got=" ".join(str(twice[k]) for k in table.key) + " more than once",
        )
    return frame
