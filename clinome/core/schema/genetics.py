"""Tables of variants: what a scan finds of each, the loci they make, and how that is drawn and judged."""

from __future__ import annotations

import polars as pl

from clinome.core.schema.table import Column, Table

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
