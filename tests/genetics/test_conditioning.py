from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts
from toolkit.plink2 import run as run_program

from clinome.core.errors import CohortError, StudyError
from clinome.formats.plink import write_plink
from clinome.genetics.association import Options, associate
from clinome.genetics.conditioning import condition_on

EVERYBODY = np.arange(200)


def cohort(*, missing: float = 0.0) -> tuple[ArrayGenotypes, pl.DataFrame, pl.DataFrame]:
    generator = np.random.default_rng(3)
    counts = random_counts(generator, 30, 200, missing=missing, maf=(0.2, 0.5))
    source = array_genotypes(counts)
    ids = source.samples.select("participant_id")
    signal = 0.6 * np.maximum(counts[4], 0) + 0.4 * np.maximum(counts[9], 0)
    traits = ids.with_columns(pl.Series("t", signal + generator.normal(size=200)))
    return source, traits, ids.with_columns(pl.Series("age", generator.normal(50, 9, 200)))


@pytest.mark.parametrize("missing", [0.0, 0.04])
def test_equals_plink2(missing: float, program: Callable[[str], str], tmp_path: Path) -> None:
    """Complete data in the scan's default, missing genotypes as PLINK 2 treats them: their people are left out."""
    source, traits, covariates = cohort(missing=missing)
    how = "drop" if missing else "mean"
    conditioned = condition_on(source, ["v4", "v9"], people=EVERYBODY, where="--condition", missing=how)
    joined = covariates.join(conditioned.covariates, on="participant_id", maintain_order="left")
    ours = associate(source, traits, covariates=joined, out=tmp_path / "ours", options=Options(missing_genotypes=how)).trait("t")

    write_plink(tmp_path / "a.bed", samples=source.samples, variants=source.variants, blocks=[source.counts])
    ids = {"FID": source.samples["family_id"], "IID": source.samples["participant_id"]}
    for name, table in (("y", traits), ("x", covariates)):
        pl.DataFrame(ids | table.drop("participant_id").to_dict()).write_csv(tmp_path / f"{name}.tsv", separator="\t")
    (tmp_path / "list.txt").write_text("v4\nv9\n")
    run_program(
        program("plink2"), "--bfile", tmp_path / "a", "--no-psam-pheno", "--pheno", tmp_path / "y.tsv",
        "--covar", tmp_path / "x.tsv",
        "--condition-list", tmp_path / "list.txt", "--glm", "hide-covar", "--covar-variance-standardize", "--threads", 1,
        "--out", tmp_path / "theirs",
    )  # fmt: skip
    theirs = pl.read_csv(tmp_path / "theirs.t.glm.linear", separator="\t", null_values="NA")
    itself = theirs["ID"].is_in(["v4", "v9"]).to_numpy()
    flip = np.where(theirs["A1"] == "A", 1, -1)[~itself]
    other = theirs.filter(~pl.Series(itself))
    np.testing.assert_allclose(ours["standard_error"].to_numpy()[~itself], other["SE"].to_numpy(), rtol=1e-4)
    assert (np.abs(ours["beta"].to_numpy()[~itself] - flip * other["BETA"]) < 1e-4 * other["SE"].to_numpy()).all()
    assert (ours["n"].to_numpy()[~itself] == other["OBS_CT"].to_numpy()).all()
    assert ours.filter(pl.Series(itself))["beta"].null_count() == 2  # collinear with the covariates: no estimate
    assert theirs.filter(pl.Series(itself))["BETA"].null_count() == 2


def test_missing_genotypes_take_the_mean_or_their_people_leave(tmp_path: Path) -> None:
    source, traits, _ = cohort(missing=0.1)
    gaps = source.counts[4] < 0
    mean = condition_on(source, ["v4"], people=EVERYBODY, where="--condition")
    assert mean.left_out == ()
    assert mean.notes == (
        f"missing genotypes of variants that are conditioned on take the mean of the other people (v4_A {gaps.sum()})",
    )
    column = mean.covariates["v4_A"].to_numpy()
    counts = np.where(gaps, source.counts[4][~gaps].mean(), source.counts[4])
    np.testing.assert_allclose(column, (counts - counts.mean()) / counts.std(), atol=1e-12)
    results = associate(source, traits, covariates=mean.covariates, out=tmp_path / "out")
    assert results.variants["reason"].to_list()[4] == "collinear with the covariates"
    dropped = condition_on(source, ["v4"], people=EVERYBODY, where="--condition", missing="drop")
    assert dropped.left_out == tuple(source.samples["participant_id"].filter(pl.Series(gaps)))
    assert dropped.covariates.height == 200 - gaps.sum()
    nobody = array_genotypes(np.full((1, 5), -1, np.int8))
    with pytest.raises(CohortError, match="nobody has a genotype at all variants conditioned on"):
        condition_on(nobody, ["v0"], people=np.arange(5), where="--condition", missing="drop")


def test_variants_that_repeat_one_another_or_do_not_vary_are_left_out_and_said() -> None:
    source, _, _ = cohort()
    counts = source.counts.copy()
    counts[5], counts[6] = 2 - counts[4], 1
    source = ArrayGenotypes(source.samples, source.variants, counts)
    found = condition_on(source, ["v4", "v5", "v6", "v7"], people=EVERYBODY, where="--condition")
    assert found.covariates.columns == ["participant_id", "v4_A", "v7_A"]
    assert found.notes == (
        "covariate v6_A is constant and left out",
        "covariate v5_A is a linear combination of v4_A and left out",
    )
    for everything in (source, ArrayGenotypes(source.samples, source.variants, np.ones_like(counts))):
        alone = condition_on(everything, ["v6"], people=EVERYBODY, where="--condition")
        assert alone.covariates.columns == ["participant_id"]


def test_names_never_clash_and_unknown_ids_are_said() -> None:
    source, _, _ = cohort()
    twice = ArrayGenotypes(source.samples, source.variants.with_columns(variant_id=pl.lit("rs1")), source.counts)
    found = condition_on(twice, ["rs1"], people=EVERYBODY, where="--condition", taken=("rs1_A",))
    assert found.covariates.columns[1:4] == ["rs1_A.2", "rs1_A.3", "rs1_A.4"]
    assert found.covariates.width == 31
    assert "1 ids in --condition name more than one variant (such as 'rs1'); all 30 are taken" in found.notes
    with pytest.raises(StudyError, match=r"no variant has one of these ids\n.*--condition"):
        condition_on(source, ["rs4"], people=EVERYBODY, where="--condition")
    some = condition_on(source, ["v4", "rs4"], people=EVERYBODY, where="--condition")
    assert some.notes == ("1 of 2 ids in --condition are not in the genotypes (such as 'rs4')",)
