"""Result stores made of given numbers, for tests of what reads them without a scan in between."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.genetics.results import Results, Shard, shard_frame


def store(
    folder: Path,
    t: NDArray[Any],
    *,
    names: Sequence[str] | None = None,
    n: NDArray[Any] | None = None,
    groups: Sequence[int] | None = None,
    rank: int = 2,
    omnibus: NDArray[Any] | None = None,
    more: NDArray[Any] | None = None,
    statistic: str = "t",
    frequency: NDArray[Any] | None = None,
    chromosomes: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    shard_size: int = 1_000,
) -> Results:
    """Write a store of ``t`` (P, V) with standard errors of 0.5; ``n`` and ``more`` (G, V) people and
    covariates beyond ``rank``, ``omnibus`` (S, V) −log10 p.
    """
    p, v = t.shape
    names = [f"trait{i}" for i in range(p)] if names is None else list(names)
    groups = [0] * p if groups is None else list(groups)
    n = np.full((max(groups) + 1, v), 1_000) if n is None else n
    omnibus = np.zeros((0, v)) if omnibus is None else omnibus
    frequency = np.linspace(0.001, 0.999, v) if frequency is None else frequency
    variants = pl.DataFrame(
        {
            "variant_id": [f"v{i}" for i in range(v)],
            "chromosome": ["1"] * v if chromosomes is None else list(chromosomes),
            "position": pl.Series(range(1, v + 1) if positions is None else positions, dtype=pl.Int64),
            "effect_allele": ["A"] * v,
            "other_allele": ["G"] * v,
            "source_row": np.arange(v),
            "effect_allele_frequency": pl.Series(frequency).fill_nan(None),
            "missing_share": np.zeros(v),
            "reason": pl.Series([None] * v, dtype=pl.String),
        }
    )
    (folder / "shards").mkdir(parents=True)
    variants.write_parquet(folder / "variants.parquet")
    pl.DataFrame({"trait": names, "group": groups, "n": [int(n[g].max()) for g in groups], "rank": [rank] * p}).write_parquet(
        folder / "traits.parquet"
    )
    sets = [f"set{i}" for i in range(len(omnibus))]
    error = np.full((p, v), 0.5)
    for number, start in enumerate(range(0, v, shard_size)):
        cut = slice(start, min(start + shard_size, v))
        every = np.repeat(frequency[None, cut], len(n), axis=0)
        rest = (n[:, cut], every, omnibus[:, cut], np.zeros((0, 0)) if more is None else more[:, cut])
        shard = Shard(np.arange(v)[cut], t[:, cut] * error[:, cut], error[:, cut], *rest)
        frame = shard_frame(shard, traits=names, omnibus_sets=sets, ranks_change=more is not None)
        frame.write_ipc(folder / "shards" / f"{number:06d}.arrow")
    run = {
        "statistic": statistic,
        "build": None,
        "covariates": [],
        "interaction": None,
        "omnibus_sets": sets,
        "ranks_change": more is not None,
        "omnibus_people": [500] * len(sets),
        "not_estimated": {"no variation": 3},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return Results(folder)
