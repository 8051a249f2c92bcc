"""Tables of predictions, of how well they do, and of why they were made."""

from __future__ import annotations

import polars as pl

from clinome.core.schema.table import PERSON, Column, Table

PREDICTIONS = Table(
    "predictions",
    "an example that was predicted",
    (
        Column("example_id", pl.String, "the picture, scan or case", nullable=False),
        PERSON,
        Column("split", pl.String, "the split it was predicted in", nullable=False),
    ),
    key=("example_id",),
    others="'<target>', the truth where known, and 'predicted:<target>' (a number) or 'predicted:<target>:<class>' (a probability)",
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
OVERLAPS = Table(
    "overlaps",
    "a structure of an image, segmented twice",
    (
        Column("example_id", pl.String, "the image", nullable=False),
        PERSON,
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
        Column("n", pl.Int64, "examples: pictures, scans or cases", nullable=False),
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
EXPLANATIONS = Table(
    "explanations",
    "an image, what a network says of it, and a method that was asked why",
    (
        Column("image_id", pl.String, "as in images", nullable=False),
        PERSON,
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
        Column("similarity", pl.Float64, "mean rank correlation of the maps with the trained network's; null of flat maps"),
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
