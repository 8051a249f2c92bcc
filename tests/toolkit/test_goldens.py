"""The comparison itself must be able to fail, once for each thing it compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from toolkit.goldens import assert_same_scan, plink2_linear, regenie


@pytest.fixture
def theirs(real_data: Callable[[str], Path]) -> pl.DataFrame:
    return plink2_linear(real_data("hs-mice") / "expected-plink2" / "mice_q.Biochem.HDL.glm.linear.gz")


def test_readers_give_what_the_programs_printed(theirs: pl.DataFrame, real_data: Callable[[str], Path]) -> None:
    top = theirs.sort("neg_log_10_p_value").row(-1, named=True)
    assert (top["variant_id"], top["effect_allele"], top["other_allele"], top["n"]) == ("rs13476237", "A", "G", 1594)
    assert (top["beta"], top["standard_error"], top["t"]) == (0.230442, 0.0140697, 16.3786)
    assert top["neg_log_10_p_value"] == pytest.approx(55.1113, abs=1e-4)

    other = regenie(real_data("hs-mice") / "expected-regenie-4.1.2" / "mice_s2_Biochem.HDL.regenie.gz")
    first = other.row(0, named=True)
    assert (first["variant_id"], first["effect_allele"], first["other_allele"]) == ("rs3683945", "G", "A")
    assert (first["beta"], first["chisq"], first["neg_log_10_p_value"], first["n"]) == (0.00330653, 0.0478436, 0.0825686, 1594)


def test_a_scan_equals_itself_in_any_order_and_with_the_alleles_turned(theirs: pl.DataFrame) -> None:
    odd = pl.int_range(pl.len()) % 2 == 1
    turned = theirs.with_columns(
        effect_allele=pl.when(odd).then("other_allele").otherwise("effect_allele"),
        other_allele=pl.when(odd).then("effect_allele").otherwise("other_allele"),
        effect_allele_frequency=pl.when(odd).then(1 - pl.col("effect_allele_frequency")).otherwise("effect_allele_frequency"),
        beta=pl.when(odd).then(-pl.col("beta")).otherwise("beta"),
    )
    worst = assert_same_scan(turned.sample(fraction=1.0, shuffle=True, seed=1), theirs)
    assert worst.n_variants == 10_074
    assert max(worst[1:]) == 0.0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("beta", pl.col("beta") + 3e-4 * pl.col("standard_error"), "beta differs in"),
        ("beta", -pl.col("beta"), "beta differs in"),
        ("standard_error", pl.col("standard_error") * 1.0003, "standard_error differs in"),
        ("neg_log_10_p_value", pl.col("neg_log_10_p_value") * 1.002, "neg_log_10_p_value differs in"),
        ("n", pl.col("n") + 1, "n differs in 10074 of 10074"),
        ("effect_allele", pl.lit("T"), "alleles differ in"),
        ("effect_allele_frequency", 1 - pl.col("effect_allele_frequency"), "effect_allele_frequency differs in"),
        ("beta", pl.lit(None, pl.Float64), "beta is null on one side only in 10074"),
        ("variant_id", pl.col("variant_id") + "x", "10074 variants are not in ours, the first is rs3683945"),
        ("variant_id", pl.lit("rs1"), "ours: variant id rs1 stands twice"),
    ],
)
def test_every_kind_of_difference_is_seen(theirs: pl.DataFrame, name: str, change: pl.Expr, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_same_scan(theirs.with_columns(change.alias(name)), theirs)
