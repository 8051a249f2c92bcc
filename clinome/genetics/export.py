"""A scan's results in the layouts that other programs read: one file a trait, and the table of names."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from clinome.core.files import file_name, replacing
from clinome.core.progress import track
from clinome.formats.gwas_ssf import Metadata
from clinome.formats.sumstats import Layout, write_sumstats
from clinome.genetics.results import Results

REFERENCE_FIRST = (".pgen", ".bgen", ".vcf", ".vcf.gz", ".bcf")


def export(results: Results, out: str | Path, *, layout: Layout, source: str = "") -> pl.DataFrame:
    """Write ``out/<trait>.<layout>.tsv.gz`` for every trait and return the table ``trait, file``, also written as ``traits.tsv``.

    ``source`` is the name of the genotype file: where its format marks the reference allele (all but PLINK 1), GWAS-SSF files
    state it.
    """
    out = Path(out)
    taken: set[str] = set()
    files = [f"{file_name(trait, taken)}.{layout}.tsv.gz" for trait in results.traits["trait"]]
    for trait, file, n in track(list(zip(results.traits["trait"], files, results.traits["n"], strict=True)), f"export as {layout}"):
        about = Metadata(
            trait_description=trait,
            genome_assembly=results.run["build"],
            sample_size=int(n),
            adjusted_covariates=tuple(results.run["covariates"]),
            other_is_reference=source.endswith(REFERENCE_FIRST),
        )
        write_sumstats(out / file, results.frames(trait), layout=layout, metadata=about)
    names = pl.DataFrame({"trait": results.traits["trait"], "file": files})
    with replacing(out / "traits.tsv") as temporary:
        names.write_csv(temporary, separator="\t")
    return names
