from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import array_genotypes, random_counts

import clinome
from clinome.genetics.association import associate
from clinome.genetics.export import export
from clinome.genetics.results import Results


@pytest.fixture
def results(tmp_path: Path) -> Results:
    generator = np.random.default_rng(1)
    genotypes = array_genotypes(random_counts(generator, 10, 60))
    traits = pl.DataFrame({"participant_id": genotypes.samples["participant_id"], "y": generator.normal(size=60)})
    return associate(genotypes, traits, out=tmp_path / "gwas")


@pytest.mark.parametrize(
    ("source", "said"), [("a.vcf.gz", "OA"), ("a.bcf", "OA"), ("chr*.pgen", "OA"), ("a.bed", None), ("a.bgen", None)]
)
def test_the_reference_is_stated_only_where_the_format_marks_it(
    results: Results, tmp_path: Path, source: str, said: str | None
) -> None:
    """PLINK 2 writes a BGEN with the reference last, UK Biobank's have it first, and the file does not say."""
    export(results, tmp_path / "out", layout="gwas-ssf", source=source)
    table = pl.read_csv(tmp_path / "out" / "y.gwas-ssf.tsv.gz", separator="\t", null_values="#NA")
    assert table["ref_allele"].unique().to_list() == [said]
    assert table["variant_id"].is_null().all() == (said is None)
    metadata = (tmp_path / "out" / "y.gwas-ssf.tsv.gz-meta.yaml").read_text()
    assert f'analysis_software: "Clinome {clinome.__version__}"' in metadata
