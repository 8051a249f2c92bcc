"""One small interface in front of every genotype format: samples, a variants table, blocks of counts on demand.

The rule for alleles, written once and tested for every format: **counts are copies of the effect allele**, which is the
allele that the format marks as the counted or alternative one:

    PLINK 1   A1 (column 5 of the .bim); A2 is the other allele
    PLINK 2   ALT of the .pvar; REF is the other allele
    BGEN      the second allele of the variant block (as REGENIE's default, ref-first); the first is the other allele
    VCF, BCF  ALT; REF is the other allele

Nothing is ever flipped towards the minor allele. Counts are integers, so that sums over people are exact: hard calls are
0, 1, 2 (``scale`` 1); dosages are integers of ``1 / scale`` (255 for 8-bit BGEN, 16384 for PLINK 2 and VCF ``DS``, the
resolution PLINK 2 stores); a missing value is −1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class Block:
    """Counts of the effect allele for consecutive (or chosen) variants.

    Attributes
    ----------
    variants
        Row numbers in the source's ``variants`` table, shape (n_variants,), int64.
    counts
        Copies of the effect allele in units of ``1 / scale``, shape (n_variants, n_samples); int8 for hard calls (scale 1),
        int32 for dosages; −1 is missing. C-contiguous.
    scale
        What one copy of the effect allele counts as.
    """

    variants: NDArray[np.int64]
    counts: NDArray[np.int8] | NDArray[np.int32]
    scale: int


@runtime_checkable
class Genotypes(Protocol):
    """What every genotype file (or set of files over chromosomes) offers. Open one with :func:`open_genotypes`.

    ``samples`` has one row a sample in file order: ``participant_id`` (IID), ``family_id`` (FID or null), ``sex`` ('male',
    'female' or null). ``variants`` follows ``core.schema.VARIANTS``, in file order. ``build`` is 'GRCh37', 'GRCh38', another
    assembly's name, or None when neither the file nor the caller states it. ``paths`` are the files that were opened
    (for checksums). ``notes`` are sentences for the log (ids that were filled in, duplicates, what was assumed).
    """

    samples: pl.DataFrame
    variants: pl.DataFrame
    build: str | None
    paths: tuple[Path, ...]
    notes: tuple[str, ...]

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        """Read the given rows of ``variants`` (ascending) for the given rows of ``samples`` (any order; None is all)."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def blocks(
    source: Genotypes, *, size: int, variants: NDArray[np.int64] | None = None, samples: NDArray[np.int64] | None = None
) -> Iterator[Block]:
    """Stream ``source`` in blocks of at most ``size`` variants; ``variants`` (ascending) and ``samples`` select."""
    rows = np.arange(source.variants.height, dtype=np.int64) if variants is None else variants
    for start in range(0, len(rows), size):
        yield source.read(rows[start : start + size], samples)
