from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import array_genotypes, random_counts
from toolkit.store import store

import clinome
from clinome.formats.sumstats import read_sumstats
from clinome.genetics.association import associate
from clinome.genetics.export import export
from clinome.genetics.results import Results


@pytest.fixture
def results(tmp_path: Path) -> Results:
    generator = np.random.default_rng(1)
    genotypes = array_genotypes(random_counts(generator, 10, 60))
    traits = pl.DataFrame({"participant_id": genotypes.samples["participant_id"], "y": generator.normal(size=60)})
    return associate(genotypes, traits, out=tmp_path / "gwas")


def test_every_trait_has_a_file_of_its_own_however_alike_the_names_are(tmp_path: Path) -> None:
    names = ["a/b", "a b", "A,b", "a_b", "a_b_2", "..", "b" * 300]
    t = np.random.default_rng(2).normal(size=(len(names), 40))
    results = store(tmp_path / "gwas", t, names=names)
    table = export(results, tmp_path / "out", layout="regenie")
    assert table["trait"].to_list() == names
    assert table["file"].str.to_lowercase().n_unique() == len(names)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*table["file"], "traits.tsv"])
    assert pl.read_csv(tmp_path / "out" / "traits.tsv", separator="\t").equals(table)
    for name, file in table.iter_rows():
        beta = read_sumstats(tmp_path / "out" / file)["beta"].to_numpy()
        np.testing.assert_allclose(beta, results.trait(name)["beta"].to_numpy(), rtol=1e-8)


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
