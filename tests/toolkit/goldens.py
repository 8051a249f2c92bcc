"""Stored outputs of PLINK 2 and REGENIE as tables, and the comparison of a scan of ours with one of theirs.

    theirs = plink2_linear(real_data("hs-mice") / "expected-plink2" / "mice_q.Biochem.HDL.glm.linear.gz")
    worst = assert_same_scan(ours, theirs)

Both tables are ``core.schema.SUMMARY_STATISTICS``; the readers add the test statistic the program printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from clinome.formats.sumstats import read_sumstats

PRINTED = 5.1e-6  # half a unit of the sixth significant digit, relative, in the worst case (1.00000)


class Worst(NamedTuple):
    """The largest differences of a comparison, each in the unit of its tolerance."""

    n_variants: int
    beta_in_se: float
    standard_error_relative: float
    neg_log_10_p_value: float


def plink2_linear(path: str | Path) -> pl.DataFrame:
    """Read a ``.glm.linear`` file; ``t`` is T_STAT as printed."""
    return _with_statistic(path, "T_STAT", "t", separator="\t")


def regenie(path: str | Path) -> pl.DataFrame:
    """Read a REGENIE step-2 file; ``chisq`` is CHISQ as printed."""
    return _with_statistic(path, "CHISQ", "chisq", separator=" ")


def _with_statistic(path: str | Path, column: str, name: str, *, separator: str) -> pl.DataFrame:
    printed = pl.read_csv(path, separator=separator, null_values="NA", infer_schema=False)
    if "TEST" in printed.columns:
        printed = printed.filter(pl.col("TEST") == "ADD")
    return read_sumstats(path).with_columns(printed[column].cast(pl.Float64).alias(name))


def assert_same_scan(ours: pl.DataFrame, theirs: pl.DataFrame, *, printed: float = PRINTED) -> Worst:
    """Assert that every variant of ``theirs`` has the same answer in ``ours``, and return the worst differences.

    Variants are matched by id; where the effect allele is the other program's other allele, our beta changes its sign and our
    frequency its side. |Δβ| ≤ 1e-4 SE, SE relative 1e-4, |Δ −log10 p| ≤ 1e-3 · max(1, −log10 p), each plus what the other
    program's printing (``printed``, relative) can hide; n equal; nulls in the same rows.
    """
    values = ["effect_allele", "other_allele", "effect_allele_frequency", "n", "beta", "standard_error", "neg_log_10_p_value"]
    for side, frame in (("ours", ours), ("theirs", theirs)):
        twice = frame.filter(frame["variant_id"].is_duplicated())
        assert twice.is_empty(), f"{side}: variant id {twice['variant_id'][0]} stands twice"
    both = theirs.select("variant_id", *values).join(
        ours.select("variant_id", *values), on="variant_id", how="left", suffix="_ours"
    )
    lost = both.filter(pl.col("effect_allele_ours").is_null())
    assert lost.is_empty(), f"{lost.height} variants are not in ours, the first is {lost['variant_id'][0]}"
    assert both.height > 0, "theirs is empty"

    same = (pl.col("effect_allele") == pl.col("effect_allele_ours")) & (pl.col("other_allele") == pl.col("other_allele_ours"))
    flipped = (pl.col("effect_allele") == pl.col("other_allele_ours")) & (pl.col("other_allele") == pl.col("effect_allele_ours"))
    _none(both, ~(same | flipped), "alleles differ")
    both = both.with_columns(
        beta_ours=pl.when(same).then("beta_ours").otherwise(-pl.col("beta_ours")),
        effect_allele_frequency_ours=pl.when(same)
        .then("effect_allele_frequency_ours")
        .otherwise(1 - pl.col("effect_allele_frequency_ours")),
    )
    for name in ("beta", "standard_error", "neg_log_10_p_value"):
        _none(both, pl.col(name).is_null() != pl.col(f"{name}_ours").is_null(), f"{name} is null on one side only")
    _none(both, pl.col("n") != pl.col("n_ours"), "n differs")

    beta, error, log10p = pl.col("beta"), pl.col("standard_error"), pl.col("neg_log_10_p_value")
    off = {
        "effect_allele_frequency": (pl.col("effect_allele_frequency_ours") - pl.col("effect_allele_frequency")).abs(),
        "beta": (pl.col("beta_ours") - beta).abs(),
        "standard_error": (pl.col("standard_error_ours") - error).abs(),
        "neg_log_10_p_value": (pl.col("neg_log_10_p_value_ours") - log10p).abs(),
    }
    allowed = {
        "effect_allele_frequency": pl.lit(1e-5),
        "beta": 1e-4 * error + printed * beta.abs(),
        "standard_error": (1e-4 + printed) * error,
        "neg_log_10_p_value": 1e-3 * pl.max_horizontal(1.0, log10p),
    }
    for name, difference in off.items():
        _none(both, difference > allowed[name], f"{name} differs")
    worst = both.select(
        (off["beta"] / error).max(),
        (off["standard_error"] / error).max(),
        (off["neg_log_10_p_value"] / pl.max_horizontal(1.0, log10p)).max(),
    ).row(0)
    return Worst(both.height, *(value or 0.0 for value in worst))


def _none(both: pl.DataFrame, wrong: pl.Expr, what: str) -> None:
    """Fail with the first rows where ``wrong`` holds."""
    found = both.filter(wrong.fill_null(False))
    with pl.Config(tbl_cols=-1, tbl_width_chars=200):
        assert found.is_empty(), f"{what} in {found.height} of {both.height} variants:\n{found.head(3)}"
