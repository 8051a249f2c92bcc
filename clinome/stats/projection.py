"""Projecting covariates out by sums in a fixed order and elementwise steps, so that no thread and no neighbour changes a bit.

Libraries' factorisations give other last bits with other numbers of threads; these are small enough to be written out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SINGULAR = 1e-9  # share of a column's sum of squares below which the columns before it explain it
_CACHED = 2**15  # values of a strip of rows: 256 KiB


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
    """Return the normal equations of ``columns`` (K, n; contiguous), the intercept first."""
    k = len(columns)
    gram = np.zeros((k, k))
    for i, column in enumerate(columns):
        gram[i, : i + 1] = gram[: i + 1, i] = (columns[: i + 1] * column).sum(axis=1)
    return Normal(gram, cholesky(gram, np.zeros(k, dtype=np.bool_))[0])


def residual(rows: Floats, columns: Floats, normal: Normal) -> Floats:
    """Project ``columns`` (K, n) out of ``rows`` (P, n), twice, so that nothing above rounding is left; constants give zeros.

    Both are contiguous, so that every row is summed by itself in one order: what is left of it does not depend on the others.
    """
    if not rows.size:
        return rows
    left: Floats = rows - rows.mean(axis=1, keepdims=True)
    constant = _largest(left) <= 1e-12 * _largest(rows)
    total = squares(left)
    for _ in range(2):
        _project_out(left, columns, normal)
    # The columns are rounded: what they explain to within a millionth is explained.
    left[constant | (squares(left) <= 1e-12 * total)] = 0.0
    return left


def residual_of_filled(rows: Floats, mask: NDArray[np.bool_], columns: Floats, normal: Normal) -> Floats:
    """Residualise ``rows`` (P, n), their mean in place of what is missing, and mask them: REGENIE's treatment of ragged traits."""
    left = np.zeros_like(rows)
    if mask.any():
        there = np.compress(mask, rows, axis=1)  # contiguous, which indexing by a mask is not
        left[:, mask] = there - there.mean(axis=1, keepdims=True)
    _project_out(left, columns, normal)
    left[:, ~mask] = 0.0
    return left


def squares(rows: Floats) -> Floats:
    """Return the sum of squares of each of ``rows`` (P, n; contiguous), shape (P,)."""
    found = np.empty(len(rows))
    for some in _strips(rows):
        found[some] = (rows[some] * rows[some]).sum(axis=1)
    return found


def _largest(rows: Floats) -> Floats:
    """Return the largest size of an entry in each row, without a copy of all."""
    largest: Floats = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return largest


def _strips(rows: Floats) -> list[slice]:
    """Cut ``rows`` (P, n) into strips that stay in the cache while columns pass over them."""
    height = max(1, _CACHED // max(rows.shape[1], 1))
    return [slice(start, start + height) for start in range(0, len(rows), height)]


def _project_out(rows: Floats, columns: Floats, normal: Normal) -> None:
    """Take the least squares on ``columns`` (K, n) off ``rows`` (P, n), once and in place."""
    sums = np.empty((len(columns), len(rows)))
    for some in _strips(rows):
        strip, term = rows[some], np.empty_like(rows[some])
        for k, column in enumerate(columns):
            sums[k, some] = np.multiply(strip, column, out=term).sum(axis=1)
    factor = normal.factor[:, :, None]
    weights = backward(factor, forward(factor, sums))
    for some in _strips(rows):
        strip, term = rows[some], np.empty_like(rows[some])
        for k, column in enumerate(columns):
            strip -= np.multiply(column, weights[k, some, None], out=term)


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
