"""The words of a study's report: its headline numbers and its methods paragraph, made from the settings that were used."""

from __future__ import annotations

from typing import Any

from clinome.genetics.studywide import Thresholds
from clinome.imaging.embedding import Config as Embedding
from clinome.studies.study_file import Study
from clinome.studies.traits import Analysed


def headline(analysed: Analysed, run: dict[str, Any], n_loci: int, truth: str | None) -> list[list[str]]:
    """Return the numbers that stand first on the page, as pairs of label and value."""
    rows = [
        ["participants analysed", f"{len(analysed.flow.ids):,}"],
        ["variants scanned", f"{run['n_variants']:,}"],
        ["traits", f"{analysed.traits.width - 1} (effective {analysed.effective_tests:.1f})"],
        ["loci", f"{n_loci}"],
    ]
    return [*rows, ["truth", truth]] if truth else rows


def _encoder(e: Embedding) -> str:
    """Say how pictures became features."""
    of = "Clinome's small encoder" if e.network == "small" else e.network
    begun = f", beginning with the weights {e.weights.name}" if e.weights is not None else ""
    if e.encoder == "pixels":
        return "plain pixels and colour statistics, without training"
    if e.encoder == "transfer":
        seen = f"{e.views} views of each picture averaged" if e.views > 1 else "one view of each picture"
        return f"{of} with " + (f"the weights {e.weights.name}" if e.weights else "random weights") + f", not trained here ({seen})"
    taught = {
        "simclr": "with both eyes and all visits of a person as positives (NT-Xent, temperature "
        f"{e.temperature:g}; Chen et al. 2020)",
        "identity": f"to tell people apart with a margin of {e.margin:g}, both eyes and all visits of a person as one class "
        f"({e.embedding} dimensions; CosFace, Wang et al. 2018; iGWAS, Xie et al. 2024)",
        "supervised": "to predict the people's targets",
    }[e.encoder]
    return f"{of}{begun}, trained for {e.epochs} epochs {taught}"


def methods(study: Study, analysed: Analysed, run: dict[str, Any], limits: Thresholds) -> list[str]:
    """Return the sentences of the methods paragraph."""
    said = []
    if study.images is not None:
        e = study.images.embedding
        how = _encoder(e)
        who = (
            {
                "outside": f" on {e.outside_fraction:.0%} of the families, who are left out of the association",
                "cross-fit": f" in {e.folds} folds of families, each phenotyped by the encoder that did not see it; "
                "traits of two folds are never pooled, their tests are combined",
            }[e.training]
            if e.is_taught
            else ""
        )
        said.append(
            f"Pictures (central square scaled to {e.size} pixels{', left eyes mirrored' if e.mirror else ''}) were turned into "
            f"features by {how}{who}. Features were averaged over the pictures of a person, whitened by their covariance between "
            f"pictures of one person, and reduced to {e.dimensions} principal axes."
        )
        if e.encoder != "pixels" and e.beside_pixels:
            said.append(
                "The encoder's features stand beside plain pixels and colour statistics. The floor is these alone, without "
                "training and so with nobody left out."
            )
    if any(step.stage == "relatives" for step in analysed.flow.steps):
        said.append(f"Of people with a KING-robust kinship of {study.cohort.kinship:g} or more, one was kept.")
    covariates = ", ".join(run["covariates"]) or "none"
    said.append(f"Covariates: {covariates}; an intercept is always included.")
    if study.cohort.principal_components:
        said.append(
            f"{study.cohort.principal_components} genetic principal components came from LD-pruned autosomal variants, outside "
            "long-range LD regions where the genome build is known."
        )
    if study.gwas.condition or study.gwas.condition_list:
        gaps = {"mean": "missing ones took the mean", "drop": "people who lack one were left out"}[run["missing_genotypes"]]
        said.append(f"The scan is conditional on chosen variants, whose genotypes are among the covariates; {gaps}.")
    if study.phenotypes.adjust == "deepnull":
        said.append(
            "An out-of-fold prediction of each trait from the covariates by neural networks joined its covariates "
            "(DeepNull; McCaw et al. 2022); the omnibus took the predictions of all its traits."
        )
    if study.phenotypes.transform == "rank-normal":
        said.append(
            "Each trait's residuals on its covariates were rank-inverse-normal transformed (Blom) before its test; "
            "the omnibus took the untransformed traits, people's distances from their centre ranked to those of a normal."
        )
    missing = {
        "mean": "missing genotypes took the variant's mean in the people analysed",
        "drop": "people with a missing genotype were left out of that variant's test",
    }[run["missing_genotypes"]]
    test = {"t": "Student's t of the full model", "score": "a score test (χ², one degree of freedom)"}[run["statistic"]]
    said.append(f"Every variant was tested against every trait by linear regression on allele counts, by {test}; {missing}.")
    if run["ragged_traits"] == "regenie":
        said.append(
            "Traits that not everybody has, and the genotypes, were residualised over everybody and then masked, as REGENIE "
            "approximates it (Mbatchou et al. 2021)."
        )
    if run["interaction"]:
        said.append(
            f"For every trait the interaction of the variant with {run['interaction']} was tested as well, by Student's t of a "
            "model with both; a joint test of two degrees of freedom asks for an effect at any value of it (Kraft et al. 2007)."
        )
    if run["omnibus_sets"]:
        who = " and ".join(f"{n:,}" for n in run["omnibus_people"])
        said.append(
            f"All traits{' of a fold' if len(run['omnibus_sets']) > 1 else ''} were also tested together, in the {who} people who "
            "have all of them, by Wilks' Λ (exact F), which no rotation of the axes changes"
            + (", combined over folds by Fisher's method." if len(run["omnibus_sets"]) > 1 else ".")
        )
    if study.genotypes.scanned:
        said.append(f"Of all variants, {run['n_read']:,} were chosen by lists or regions for the scan.")
    filters = ", ".join(f"{k} {v:g}" for k, v in run["filters"].items() if v is not None)
    said.append(f"Variant filters: {filters}." if filters else "No variant filters were applied.")
    c = study.loci.clumping
    two = " and for the omnibus being a second kind of test" if limits.omnibus is not None else ""
    said.append(
        f"Study-wide significance is {c.alpha:g}, corrected for {analysed.effective_tests:.1f} effective traits "
        f"(Worsley 1982){two}. Loci: LD clumping (r² ≥ {c.r2:g} within {c.radius / 1000:,.0f} kb), "
        f"windows within {c.merge / 1000:,.0f} kb merged."
    )
    return said
