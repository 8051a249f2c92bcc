"""Genotypes held in memory, for tests of what reads the ``Genotypes`` protocol without a file in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.formats.genotypes import Block


@dataclass(frozen=True)
class ArrayGenotypes:
    """The whole cohort as one array of counts, shape (n_variants, n_samples), −1 missing, in units of ``1 / scale``.

    ``reads`` records the number of variants and samples of every call, so that tests can see that something streams.
    """

    samples: pl.DataFrame
    variants: pl.DataFrame
    counts: NDArray[np.int8] | NDArray[np.int32]
    scale: int = 1
    build: str | None = None
    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    concurrent: bool = True
    reads: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.counts.shape == (self.variants.height, self.samples.height)
        assert self.counts.dtype == (np.int8 if self.scale == 1 else np.int32)

    def read(self, variants: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Block:
        variants = np.asarray(variants, np.int64)
        assert np.all(np.diff(variants) > 0), "rows must ascend"
        counts = self.counts[variants]
        if samples is not None:
            counts = counts[:, samples]
        self.reads.append(counts.shape)
        return Block(variants, np.ascontiguousarray(counts), self.scale)

    def close(self) -> None:
        pass


def array_genotypes(
    counts: NDArray[np.generic],
    *,
    scale: int = 1,
    positions: NDArray[np.int64] | None = None,
    chromosomes: list[str] | None = None,
    build: str | None = None,
) -> ArrayGenotypes:
    """Wrap ``counts`` with plain names: p0, p1, …; v0, v1, … every 10 kb on chromosome 1; alleles A (effect) and G."""
    m, n = counts.shape
    samples = pl.DataFrame(
        {"participant_id": [f"p{i}" for i in range(n)], "family_id": [f"p{i}" for i in range(n)], "sex": [None] * n},
        schema={"participant_id": pl.String, "family_id": pl.String, "sex": pl.String},
    )
    variants = pl.DataFrame(
        {
            "variant_id": [f"v{j}" for j in range(m)],
            "chromosome": chromosomes or ["1"] * m,
            "position": np.arange(1, m + 1, dtype=np.int64) * 10_000 if positions is None else positions,
            "effect_allele": ["A"] * m,
            "other_allele": ["G"] * m,
        },
        schema={
            "variant_id": pl.String,
            "chromosome": pl.String,
            "position": pl.Int64,
            "effect_allele": pl.String,
            "other_allele": pl.String,
        },
    )
    return ArrayGenotypes(samples, variants, counts.astype(np.int8 if scale == 1 else np.int32), scale, build)


def random_counts(
    generator: np.random.Generator, n_variants: int, n_samples: int, *, missing: float = 0.0, maf: tuple[float, float] = (0.05, 0.5)
) -> NDArray[np.int8]:
    """Draw unlinked genotypes in Hardy–Weinberg proportions, shape (n_variants, n_samples)."""
    frequency = generator.uniform(*maf, size=(n_variants, 1))
    counts = generator.binomial(2, np.broadcast_to(frequency, (n_variants, n_samples))).astype(np.int8)
    counts[generator.random(counts.shape) < missing] = -1
    return counts
