from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import comb
from scipy.stats import norm
from toolkit.genotypes import array_genotypes, random_counts
from toolkit.plink2 import run

from clinome.formats.plink import write_plink
from clinome.stats.hwe import _reach, hardy_weinberg


def test_every_p_equals_plink2(program: Callable[[str], str], tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    counts = random_counts(generator, 300, 250, missing=0.05, maf=(0.01, 0.5))
    counts[:60][(counts[:60] == 1) & (generator.random((60, 250)) < 0.4)] = 0  # too few heterozygotes
    counts[60:90] = np.where(generator.random((30, 250)) < 0.7, 1, counts[60:90])  # too many
    counts[299] = 2
    source = array_genotypes(counts)
    write_plink(tmp_path / "g.bed", samples=source.samples, variants=source.variants, blocks=[counts])
    run(program("plink2"), "--bfile", tmp_path / "g", "--hardy", "--nonfounders", "--out", tmp_path / "g", "--threads", 1)
    theirs = pl.read_csv(tmp_path / "g.hardy", separator="\t", infer_schema_length=None)["P"].to_numpy()
    ours = hardy_weinberg(*((counts == k).sum(axis=1) for k in (2, 1, 0)))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    assert ours.min() < 1e-20
    assert ours[299] == 1


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_it_is_the_sum_over_tables_no_likelier_and_does_not_care_which_allele_is_which(aa: int, ab: int, bb: int) -> None:
    n, rare = aa + ab + bb, 2 * min(aa, bb) + ab
    ways = {
        het: comb(n, het, exact=True) * comb(n - het, (rare - het) // 2, exact=True) * 2**het
        for het in range(rare % 2, rare + 1, 2)
    }
    expected = sum(w for w in ways.values() if w <= ways[ab]) / sum(ways.values())
    assert hardy_weinberg(aa, ab, bb)[0] == pytest.approx(expected, rel=1e-8)
    assert hardy_weinberg(bb, ab, aa)[0] == hardy_weinberg(aa, ab, bb)[0]


def test_of_a_biobank_s_counts_only_those_are_summed_that_matter() -> None:
    n = 500_000
    low, high = _reach(n, n, n // 2)
    assert high - low < n / 50
    # 1,000 heterozygotes too few, in steps of two, against the normal limit
    p = hardy_weinberg([125_500], [249_000], [125_500])[0]
    assert p == pytest.approx(2 * norm.sf(999 / np.sqrt(n / 4)), rel=0.01)
