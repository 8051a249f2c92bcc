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
    from scipy.special import gammaln

    n, rare = aa + ab + bb, 2 * min(aa, bb) + ab
    if n == 0 or rare == 0:
        return 1.0
    het = np.arange(rare % 2, rare + 1, 2)
    rare_homozygotes, common_homozygotes = (rare - het) // 2, n - (rare + het) // 2
    log = het * np.log(2.0) - gammaln(het + 1) - gammaln(rare_homozygotes + 1) - gammaln(common_homozygotes + 1)
    probability = np.exp(log - log.max())
    observed = probability[het == ab][0]
    return float(min(1.0, probability[probability <= observed * (1 + 1e-10)].sum() / probability.sum()))
