"""Projecting covariates out by sums in a fixed order and elementwise steps, so that no thread and no neighbour changes a bit.

Libraries' factorisations give other last bits with other numbers of threads; these are small enough to be written out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SINGULAR = 1e-9  # share of a column's sum of squares below which the columns before it explain it


def orthonormal(columns: Floats) -> Floats:
    """Return an orthonormal basis (N, r) of ``columns`` (N, C) less their means: Gram–Schmidt, twice, the largest remainder first.

    Columns are scaled to unit length first, so that units do not decide the rank; a remainder below 1e-9 is dropped. Sums run in a
    fixed order, whatever the number of threads.
    """
    rest = np.ascontiguousarray(columns.T, dtype=np.float64)
    scale = np.abs(rest).max(axis=1, initial=0.0) * np.sqrt(max(rest.shape[1], 1))
    rest = rest - rest.mean(axis=1, keepdims=True) if rest.shape[1] else rest
    length = np.sqrt((rest * rest).sum(axis=1))
    varies = length > 1e-12 * scale
    rest = rest[varies] / length[varies, None]
    found: list[Floats] = []
    while len(rest):
        length = np.sqrt((rest * rest).sum(axis=1))
        k = int(length.argmax())
        if length[k] <= 1e-9:
            break
        q = rest[k] / length[k]
        for earlier in found:
            q = q - earlier * float(np.sum(earlier * q))
        q = q - q.mean()
        q = q / np.sqrt(float(np.sum(q * q)))
        found.append(q)
        rest = np.delete(rest, k, axis=0)
        rest = rest - (rest * q).sum(axis=1)[:, None] * q
    return np.stack(found, axis=1) if found else np.zeros((len(columns), 0))


class Normal(NamedTuple):
    """Normal equations of K columns over some people: their ``gram`` matrix (K, K) and its lower Cholesky ``factor``.

    The factor's diagonal is infinite where a column adds nothing to those before it.
    """

    gram: Floats
    factor: Floats

    @property
    def rank(self) -> int:
        """How many columns add something."""
        return int(np.isfinite(np.diag(self.factor)).sum())


def normal_equations(columns: Floats) -> Normal:
    """Return the normal equations of ``columns`` (K, n), the intercept first."""
    k = len(columns)
    gram = np.zeros((k, k))
    for i in range(k):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = float(np.sum(columns[i] * columns[j]))
    return Normal(gram, cholesky(gram, np.zeros(k, dtype=np.bool_))[0])


def residual(y: Floats, columns: Floats, normal: Normal) -> Floats:
    """Project ``columns`` (K, n) out of ``y`` (n,), twice, so that nothing above rounding is left; constants give zeros."""
    if not len(y):
        return y
    centred = y - y.mean()
    if np.abs(centred).max() <= 1e-12 * np.abs(y).max():
        return np.zeros_like(y)
    left = _once(_once(centred, columns, normal), columns, normal)
    # The columns are rounded: what they explain to within a millionth is explained.
    return np.zeros_like(y) if float(np.sum(left * left)) <= 1e-12 * float(np.sum(centred * centred)) else left


def residual_of_filled(y: Floats, mask: NDArray[np.bool_], columns: Floats, normal: Normal) -> Floats:
    """Residualise ``y`` with its mean in place of what is missing, and mask it: REGENIE's treatment of ragged traits."""
    filled = np.where(mask, y - y[mask].mean(), 0.0) if mask.any() else np.zeros_like(y)
    return np.where(mask, _once(filled, columns, normal), 0.0)


def _once(y: Floats, columns: Floats, normal: Normal) -> Floats:
    sums = np.array([float(np.sum(column * y)) for column in columns])
    for column, b in zip(columns, backward(normal.factor, forward(normal.factor, sums)), strict=True):
        y = y - column * b
    return y


def forward(factor: Floats, z: Floats) -> Floats:
    """Solve L u = z elementwise: ``factor`` (K, K, …), ``z`` (K, …)."""
    solved = np.empty(np.broadcast_shapes(factor.shape[1:], z.shape))
    for j in range(len(z)):
        u = z[j]
        for k in range(j):
            u = u - factor[j, k] * solved[k]
        solved[j] = u / factor[j, j]
    return solved


def backward(factor: Floats, u: Floats) -> Floats:
    """Solve L' x = u elementwise."""
    solved = np.empty(np.broadcast_shapes(factor.shape[1:], u.shape))
    for j in reversed(range(len(u))):
        x = u[j]
        for k in range(j + 1, len(u)):
            x = x - factor[k, j] * solved[k]
        solved[j] = x / factor[j, j]
    return solved


def cholesky(gram: Floats, dropped: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Factor many small symmetric matrices ``gram`` (K, K, …) at once; say which have columns (but ``dropped``) that add nothing.

    Such a column and the ``dropped`` ones (K, …) get an infinite diagonal, so that they take no part in what is solved.
    """
    size = len(gram)
    factor = np.zeros_like(gram)
    singular = np.zeros(gram.shape[2:], dtype=np.bool_)
    for j in range(size):
        for k in range(j + 1):
            value = gram[j, k]
            for m in range(k):
                value = value - factor[j, m] * factor[k, m]
            if k < j:
                factor[j, k] = value / factor[k, k]
                continue
            bad = dropped[j] | (value <= SINGULAR * gram[j, j])
            singular |= bad & ~dropped[j]
            factor[j, j] = np.where(bad, np.inf, np.sqrt(np.where(bad, 1.0, value)))
            factor[j, :j] = np.where(bad, 0.0, factor[j, :j])
    return factor, singular
