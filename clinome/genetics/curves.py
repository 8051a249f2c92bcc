"""Distributions of evidence in bounded memory: histograms of |z| beside their largest values, for λ and quantiles.

The bin of a value is the exponent and the first eight bits of its float32: bins are 0.2 to 0.4 % of the value wide everywhere, and
finding one costs a shift. The median is interpolated inside its bin.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clinome.stats.distributions import neg_log10_chi2

Floats = NDArray[np.float64]
Deviates = NDArray[np.float32]
Places = NDArray[np.int64]
TOP = 60  # largest values kept exactly for each curve
_SHIFT = 15  # bits of the mantissa that are left out
_LOWEST, _HIGHEST = -8, 8  # |z| from 2⁻⁸ to 2⁸ have bins of their own
_FIRST = (127 + _LOWEST) << (23 - _SHIFT)
BINS = ((_HIGHEST - _LOWEST) << (23 - _SHIFT)) + 1
_EDGES = np.append(((_FIRST + np.arange(1, BINS)) << _SHIFT).astype(np.int32).view(np.float32).astype(np.float64), 2.0**_HIGHEST)
_LOWER = np.append(0.0, _EDGES[:-1])  # a bin holds |z| from its lower edge to below _EDGES; the last one all that is larger
_STEP = 0.03  # of expected −log10 p between points of a curve below its top: some 200 points at most
_CHI2_MEDIAN = 0.454936423119572


def histogram(z: Deviates, label: NDArray[np.int64], n_labels: int) -> NDArray[np.int64]:
    """Count |z| (V,) by ``label`` (V,) and bin: (n_labels, BINS). NaN is not counted."""
    index = (z.view(np.int32) >> _SHIFT) - np.int32(_FIRST)
    np.clip(index, 0, BINS - 1, out=index)
    counts = np.bincount(index + label * BINS, minlength=n_labels * BINS).reshape(n_labels, BINS)
    nothing = np.isnan(z)
    if nothing.any():  # it stands in the last bin
        counts[:, -1] -= np.bincount(label[nothing], minlength=n_labels)
    return counts


def lambda_gc(counts: NDArray[np.int64]) -> float:
    """Return the genomic-control factor of a histogram (BINS,): its median χ² over that without association (Devlin 1999)."""
    total = counts.sum()
    cumulative = np.cumsum(counts)
    k = int(np.searchsorted(cumulative, total / 2))
    before = cumulative[k] - counts[k]
    median = _LOWER[k] + (_EDGES[k] - _LOWER[k]) * (total / 2 - before) / max(counts[k], 1)
    return float(median**2 / _CHI2_MEDIAN)


def quantiles(counts: NDArray[np.int64], top: Floats) -> tuple[Floats, Floats]:
    """Return expected and observed −log10 p, descending, of a histogram (BINS,) whose largest values are ``top`` (descending)."""
    n = int(counts.sum())
    expected_top = -np.log10((np.arange(1, len(top) + 1) - 0.5) / n)
    above = n - np.cumsum(counts)  # how many reach the upper edge
    use = np.flatnonzero((above > len(top)) & (counts > 0))
    expected = -np.log10(above[use] / n)
    apart = np.unique(np.round(expected / _STEP), return_index=True)[1][::-1]
    observed = neg_log10_chi2(_EDGES[use[apart]] ** 2, 1.0)
    return np.concatenate([expected_top, expected[apart]]), np.concatenate([top, observed])


class Curve:
    """What is gathered of one test: counts of |z| by frequency label and bin, and the ``TOP`` largest values under each label."""

    def __init__(self, n_labels: int) -> None:
        """Hold nothing yet."""
        self.counts = np.zeros((n_labels, BINS), dtype=np.int64)
        self._floors = np.full(n_labels, -1, dtype=np.float32)  # a value under a label is among the largest only from here
        self._top: list[Floats] = []  # (columns, K): z, label, and what the exact p is made from
        self._held = 0

    def add(self, z: Deviates, label: NDArray[np.int64], counts: NDArray[np.int64], exact: Callable[[Places], Floats]) -> None:
        """Add |z| (V,) with their labels and :func:`histogram`; ``exact`` gives columns (·, K) of which p is made at K places."""
        self.counts += counts
        if not self._top:  # without this every one of the first would be a candidate
            enough = (np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] >= TOP).sum(axis=1)
            self._floors = np.where(enough > 0, _LOWER[enough - 1], -1.0).astype(np.float32)
        at = np.flatnonzero(z >= (self._floors.take(label, mode="clip") if len(counts) > 1 else self._floors))
        if not len(at):
            return
        self._top.append(np.vstack([z[at], label[at], exact(at)]))
        self._held += len(at)
        if self._held > 8 * TOP * len(counts):
            self._prune()

    def _prune(self) -> None:
        held = np.hstack(self._top)
        held = held[:, np.lexsort((-held[0], held[1]))]
        z, label = held[0], held[1].astype(np.int64)
        rank = np.arange(len(label)) - np.searchsorted(label, label)
        self._floors[label[rank == TOP - 1]] = z[rank == TOP - 1]
        self._top = [held[:, rank < TOP]]
        self._held = self._top[0].shape[1]

    def of(self, label: int | None) -> tuple[NDArray[np.int64], Floats]:
        """Return of one label, or of all, the counts (BINS,) and the columns (·, ≤ TOP) of its largest values."""
        held = np.hstack(self._top) if self._top else np.zeros((3, 0))
        if label is None:
            return self.counts.sum(axis=0), held[2:, np.argsort(-held[0])[:TOP]]
        held = held[:, held[1] == label]
        return self.counts[label], held[2:, np.argsort(-held[0])[:TOP]]
