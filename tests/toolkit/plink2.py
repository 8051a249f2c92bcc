"""PLINK 2 as the other program: make genotype files of every format, and say what it reads from them.

run(program("plink2"), "--dummy", 20, 50, 0.1, "--make-pgen", "--out", tmp_path / "a")
theirs = copies(program("plink2"), ("--pfile", tmp_path / "a"), source.variants["effect_allele"], tmp_path)
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray


def run(program: str, *arguments: object) -> None:
    """Run a program; what it printed comes with the failure."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{program} {' '.join(map(str, arguments))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def copies(plink2: str, inputs: Iterable[object], alleles: Iterable[str], folder: Path) -> NDArray[np.float64]:
    """Return the copies of ``alleles`` (one a variant, of two) that PLINK 2 reads, (n_variants, n_samples), NaN missing."""
    out = folder / "as_plink2_reads"
    run(plink2, *inputs, "--export", "A", "--out", out)
    raw = pl.read_csv(out.with_suffix(".raw"), separator="\t", null_values="NA", infer_schema=False)
    counts = []
    for name, allele in zip(raw.columns[6:], alleles, strict=True):
        column = raw[name].cast(pl.Float64).to_numpy()
        counts.append(column if name.rsplit("_", 1)[1] == allele else 2 - column)
    return np.array(counts)
