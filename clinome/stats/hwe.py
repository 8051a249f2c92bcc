"""The exact test of Hardy–Weinberg equilibrium.

Reference: Wigginton, Cutler & Abecasis 2005, doi:10.1086/429864.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def hardy_weinberg(homozygotes_a: ArrayLike, heterozygotes: ArrayLike, homozygotes_b: ArrayLike) -> NDArray[np.float64]:
    """Return the exact two-sided p-value for each triple of genotype counts, shape (n_variants,).

    The p-value sums the probabilities, given the allele counts, of all heterozygote counts that are no likelier than the
    observed one. Variants without genotypes give 1.

    >>> [float(round(p, 4)) for p in hardy_weinberg([10, 57], [0, 14], [10, 50])]
    [0.0, 0.0]
    >>> float(round(hardy_weinberg([1], [2], [1])[0], 4))
    1.0
    """
    aa, ab, bb = (np.atleast_1d(np.asarray(v, dtype=np.int64)) for v in (homozygotes_a, heterozygotes, homozygotes_b))
    return np.array([_one(int(a), int(h), int(b)) for a, h, b in zip(aa, ab, bb, strict=True)])


def _one(aa: int, ab: int, bb: int) -> float:
    n, rare = aa + ab + bb, 2 * min(aa, bb) + ab
    if n == 0 or rare == 0:
        return 1.0
    low, high = _reach(n, rare, ab)
    het = np.arange(low, high + 1, 2, dtype=np.float64)
    # P(h + 2) / P(h) = 4 · homozygotes of each kind / ((h + 2)(h + 1)), summed as logarithms from the first
    h = het[:-1]
    ratio = (rare - h) * (2 * n - rare - h) / ((h + 2) * (h + 1))
    log = np.concatenate([[0.0], np.cumsum(np.log(ratio))])
    probability = np.exp(log - log.max())
    observed = probability[(ab - low) // 2]
    return float(min(1.0, probability[probability <= observed * (1 + 1e-9)].sum() / probability.sum()))


def _reach(n: int, rare: int, observed: int) -> tuple[int, int]:
    """Return the first and last heterozygote count that matter (of the parity of ``rare``).

    Beyond the observed distance from the mean plus nine standard deviations lies less than 1e-15 of the p-value.
    """
    mean = rare * (2 * n - rare) / (2 * n - 1)
    spread = np.sqrt(2 * rare * (rare - 1) * (2 * n - rare) * (2 * n - rare - 1) / ((2 * n - 1) ** 2 * max(2 * n - 3, 1)))
    far = abs(observed - mean) + 9 * spread + 40
    parity = rare % 2
    low = max(parity, int(mean - far) // 2 * 2 + parity)
    high = min(rare, int(mean + far) // 2 * 2 + parity)
    return low, high
