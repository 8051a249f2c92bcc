"""Words that options of more than one command take. They repeat what the library knows, because importing it would slow --help."""

from __future__ import annotations

from enum import StrEnum


class Layout(StrEnum):
    """Text layouts of summary statistics."""

    gwas_ssf = "gwas-ssf"
    regenie = "regenie"
    plink2 = "plink2"
