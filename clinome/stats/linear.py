r"""Ordinary least squares of many outcomes on one count at a time, covariates projected out: the array core of a scan.

Letters: N people, V variants of a block, P outcomes, K columns of an orthonormal covariate basis (the intercept among them).

For an outcome y and covariates with orthonormal basis Q over the people analysed, the Frisch–Waugh–Lovell theorem gives
the coefficient of a count g in the joint regression from residuals alone::

    g̃'ỹ = g'ỹ                     (ỹ = y − QQ'y is orthogonal to Q)
    g̃'g̃ = g'g − Σ_k (q_k'g)²
    β = g̃'ỹ / g̃'g̃,   t: SE² = (ỹ'ỹ − β·g̃'ỹ) / (N − K − 1) / g̃'g̃,   score: SE² = ỹ'ỹ / (N − K) / g̃'g̃

All sums over people are exact integers (:mod:`clinome.stats.exact`); what follows is elementwise float64 in a fixed order.
So a result does not depend on block size, threads, order of variants, or which outcomes run beside it, to the last bit.

References: Frisch & Waugh 1933, doi:10.2307/1907330; Lovell 1963, doi:10.1080/01621459.1963.10480682.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import FixedPoint, fixed_point

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Statistic = Literal["t", "score"]
Missing = Literal["mean", "drop"]
COLLINEAR = 1e-6  # a count of whose variance the covariates leave less than this share has no beta
_RESOLVED = 2.0**-50  # share of a sum of squares below which a remainder is rounding
_PRODUCTS = 16_000_000  # people × columns of products held at once where people are left out variant by variant


class Group(NamedTuple):
    """Outcomes that share the same people, prepared once.

    ``mask`` (N,) of the people analysed; ``basis`` (N, K−1): orthonormal columns for the covariates beyond the intercept,
    each of mean zero over the mask and zero outside it; ``residuals`` (N, P): outcomes with intercept and covariates
    projected out, zero outside the mask; ``sum_of_squares`` (P,) of them; ``outcomes`` (P,): column numbers in the caller's
    table; ``n`` people; ``rank`` K, the intercept included.
    """

    mask: NDArray[np.bool_]
    basis: Floats
    residuals: Floats
    sum_of_squares: Floats
    outcomes: NDArray[np.int64]
    n: int
    rank: int


class Scan(NamedTuple):
    """Statistics of a block for one group: each (V, P), ``n`` and ``frequency`` (V,); NaN where there is no estimate.

    ``frequency`` is that of the counted allele among the observed; ``reason`` (V,) is 0 for an estimate, 1 for a count
    without variation, 2 for one collinear with the covariates, 3 for too few people.
    """

    beta: Floats
    standard_error: Floats
    n: NDArray[np.int64]
    frequency: Floats
    reason: NDArray[np.int8]


def orthonormal(columns: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Return an orthonormal basis (N, r) of ``columns`` (N, C) centred over ``mask``, rank found by a pivoted QR.

    Columns are scaled to unit length first, so that units do not decide the rank; a remainder below 1e-9 is dropped.
    """
    from scipy.linalg import qr

    inside = columns[mask]
    if not len(inside):
        return np.zeros((len(mask), 0))
    inside = inside - inside.mean(axis=0)
    length = np.sqrt((inside**2).sum(axis=0))
    scale = np.abs(columns[mask]).max(axis=0, initial=0.0) * np.sqrt(max(len(inside), 1))
    inside = inside[:, length > 1e-12 * scale] / length[length > 1e-12 * scale]
    basis = np.zeros((len(mask), 0))
    if inside.shape[1]:
        q, r, _ = qr(inside, mode="economic", pivoting=True)
        rank = int((np.abs(np.diag(r)) > 1e-9).sum())
        q = q[:, :rank] - q[:, :rank].mean(axis=0)
        basis = np.zeros((len(mask), rank))
        basis[mask] = q
    return basis


def prepare(outcomes: Floats, covariates: Floats, own: Floats | None = None) -> list[Group]:
    """Group the columns of ``outcomes`` (N, P; NaN is missing) by who is missing and project ``covariates`` (N, C) out.

    ``own`` (N, P) holds one more covariate for each outcome; where it is NaN the outcome counts as missing. Every outcome is
    treated by itself: its residuals depend on its own people and values alone, whatever stands beside it.
    An outcome that is constant, or has no more people than covariates, ends in a group with zero ``sum_of_squares``.
    """
    present = np.isfinite(outcomes) if own is None else np.isfinite(outcomes) & np.isfinite(own)
    packed = np.packbits(present, axis=0)
    members: dict[tuple[bytes, int], list[int]] = {}
    for p in range(outcomes.shape[1]):
        members.setdefault((packed[:, p].tobytes(), -1 if own is None else p), []).append(p)
    groups = []
    for columns in members.values():
        mask = present[:, columns[0]]
        n = int(mask.sum())
        mine = covariates if own is None else np.column_stack([covariates, own[:, columns[0]]])
        basis = orthonormal(mine, mask) if n else np.zeros((len(mask), 0))
        residuals = np.zeros((len(mask), len(columns)))
        for j, p in enumerate(columns):  # one at a time: a matrix product's rounding could depend on its width
            residuals[mask, j] = _residual(outcomes[mask, p], basis[mask])
        squares = np.array([float(np.sum(r * r)) for r in np.ascontiguousarray(residuals.T)])
        groups.append(Group(mask, basis, residuals, squares, np.array(columns), n, basis.shape[1] + 1))
    return groups


def _residual(y: Floats, basis: Floats) -> Floats:
    """Project the intercept and ``basis`` out of ``y``, twice, so that nothing above rounding is left; constants give zeros."""
    if not len(y):
        return y
    centred = y - y.mean()
    size = np.abs(y).max()
    result = centred
    for _ in range(2):
        for k in range(basis.shape[1]):
            result = result - basis[:, k] * float(np.sum(basis[:, k] * result))
        result = result - result.mean()
    return np.zeros_like(y) if np.abs(result).max() <= 1e-12 * size else result


class Prepared(NamedTuple):
    """Groups with their fixed-point columns laid side by side for one matrix product.

    ``columns.integers`` (N, W) holds for each group its mask, basis and residuals; ``starts[i]`` is where group i begins.
    ``masks`` (N, n_groups) serves Σg².
    """

    groups: list[Group]
    columns: FixedPoint
    starts: list[int]
    masks: Floats
    scale: int


def digitise(groups: list[Group], *, scale: int) -> Prepared:
    """Write the groups' columns as integers whose products with counts up to 2 × ``scale`` sum exactly."""
    integers, units, starts, width = [], [], [], 0
    for group in groups:
        starts.append(width)
        mask = group.mask.astype(np.float64)[:, None]
        fixed = fixed_point(np.hstack([group.basis, group.residuals]), largest_count=2 * scale)
        integers.append(np.hstack([mask, fixed.integers]))
        units.append(np.concatenate([[1.0], fixed.unit]))
        width += integers[-1].shape[1]
    masks = np.stack([g.mask.astype(np.float64) for g in groups], axis=1)
    return Prepared(groups, FixedPoint(np.hstack(integers), np.concatenate(units)), starts, masks, scale)


def scan(
    counts: NDArray[np.int8] | NDArray[np.int32], prepared: Prepared, *, statistic: Statistic = "t", missing: Missing = "mean"
) -> list[Scan]:
    """Regress every outcome on every row of ``counts`` (V, N; units of 1 / scale, −1 missing); one :class:`Scan` a group.

    ``missing="mean"`` puts the mean of the group's observed people in place of a missing count (as REGENIE does);
    ``"drop"`` leaves the person out of that variant's regression (as PLINK 2 does). Both are exact.
    """
    from scipy.sparse import csr_array

    gaps = counts < 0
    some = np.flatnonzero(gaps.any(axis=1))
    observed = np.where(gaps, 0, counts).astype(np.float64)
    products = observed @ prepared.columns.integers
    squares = (observed * observed) @ prepared.masks
    lost = gaps[some].astype(np.float64)
    lost_products = lost @ prepared.columns.integers
    sparse = csr_array(lost) if missing == "drop" else None
    results = []
    for i, (group, start) in enumerate(zip(prepared.groups, prepared.starts, strict=True)):
        stop = start + 1 + group.basis.shape[1] + len(group.outcomes)
        unit = prepared.columns.unit[start:stop]
        sums = _Sums(
            total=products[:, start],
            squares=squares[:, i],
            missing=np.zeros(len(counts)),
            basis=products[:, start + 1 : start + group.rank] * unit[1 : group.rank],
            outcome=products[:, start + group.rank : stop] * unit[group.rank :],
        )
        sums.missing[some] = lost_products[:, start]
        if missing == "mean":
            mean = _ratio(sums.total, group.n - sums.missing)[some, None]
            sums.basis[some] += mean * (lost_products[:, start + 1 : start + group.rank] * unit[1 : group.rank])
            sums.outcome[some] += mean * (lost_products[:, start + group.rank : stop] * unit[group.rank :])
            result = _with_means(sums, group, prepared.scale, statistic)
        else:
            result = _with_means(sums, group, prepared.scale, statistic)
            touched = lost_products[:, start] > 0
            if sparse is not None and touched.any():
                _without_missing(result, some[touched], sparse[touched], sums, group, prepared.scale, statistic)
        results.append(result)
    return results


class _Sums(NamedTuple):
    """Sums over the group's people: Σg, Σg², how many are missing (V,); q'g (V, K−1) and ỹ'g (V, P), in counts."""

    total: Floats
    squares: Floats
    missing: Floats
    basis: Floats
    outcome: Floats


def _ratio(top: Floats, bottom: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(bottom > 0, top / bottom, 0.0))


def _estimate(gg: Floats, gy: Floats, yy: Floats, residual_df: Floats, statistic: Statistic, scale: int) -> tuple[Floats, Floats]:
    """Turn g̃'g̃ (V, 1), g̃'ỹ (V, P) and ỹ'ỹ into beta and standard error per copy of the allele."""
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = gy / gg
        if statistic == "t":
            variance = np.maximum(yy - beta * gy, yy * _RESOLVED) / (residual_df - 1)  # a perfect fit keeps a finite p
        else:
            variance = yy / residual_df
        return beta * scale, np.sqrt(variance / gg) * scale


def _reason(sums: _Sums, observed: Floats, gg: Floats, residual_df: Floats) -> NDArray[np.int8]:
    constant = sums.squares * observed == sums.total * sums.total  # integers below 2⁵³ compare exactly for hard calls
    centred = sums.squares - _ratio(sums.total * sums.total, observed)
    constant |= centred <= 1e-12 * sums.squares
    reason = np.zeros(len(gg), dtype=np.int8)
    reason[gg <= COLLINEAR * centred] = 2
    reason[constant] = 1
    reason[residual_df < 2] = 3
    return reason


def _with_means(sums: _Sums, group: Group, scale: int, statistic: Statistic) -> Scan:
    observed = group.n - sums.missing
    gg = sums.squares - _ratio(sums.total * sums.total, observed)
    for k in range(sums.basis.shape[1]):
        gg = gg - sums.basis[:, k] * sums.basis[:, k]
    df = np.full(len(gg), float(group.n - group.rank))
    reason = _reason(sums, observed, gg, df)
    gg = np.where(reason == 0, gg, np.nan)
    yy = np.where(group.sum_of_squares > 0, group.sum_of_squares, np.nan)
    beta, error = _estimate(gg[:, None], sums.outcome, yy[None, :], df[:, None], statistic, scale)
    n = np.full(len(gg), group.n, dtype=np.int64)
    frequency = np.where(observed > 0, _ratio(sums.total, 2 * scale * observed), np.nan)
    return Scan(beta, error, n, frequency, reason)


def _without_missing(
    result: Scan, rows: NDArray[np.int64], gaps: csr_array, sums: _Sums, group: Group, scale: int, statistic: Statistic
) -> None:
    """Replace ``rows`` of ``result`` by the exact regressions on the people observed at each variant.

    ``gaps`` (n_rows, N) is 1 where a count is missing. Over the observed people O = group − S the basis is no longer
    orthonormal: Q_O'Q_O = I − Q_S'Q_S, Q_O'ỹ_O = −Q_S'ỹ_S. The sums over S are sparse (people outside the group have zeros);
    a Cholesky factor of Q_O'Q_O, by elementwise steps over the block, restores the projection.
    """
    q = np.hstack([np.where(group.mask, 1 / np.sqrt(group.n), 0.0)[:, None], group.basis])
    pairs = [(j, k) for j in range(group.rank) for k in range(j + 1)]
    size = max(1, _PRODUCTS // len(q))
    some_pairs = (pairs[i : i + size] for i in range(0, len(pairs), size))
    lost = np.hstack([_summed(gaps, np.stack([q[:, j] * q[:, k] for j, k in some], axis=1)) for some in some_pairs])
    gram = {pair: float(pair[0] == pair[1]) - lost[:, i] for i, pair in enumerate(pairs)}
    factor, singular = _cholesky(gram, group.rank)
    sums = _Sums(*(a[rows] for a in sums))
    qg = np.hstack([sums.total[:, None] / np.sqrt(group.n), sums.basis])
    solved: list[Floats] = []
    gg = sums.squares
    for j in range(group.rank):
        u = qg[:, j]
        for k in range(j):
            u = u - factor[j, k] * solved[k]
        solved.append(u / factor[j, j])
        gg = gg - solved[j] * solved[j]
    observed = group.n - sums.missing
    df = observed - group.rank
    reason = np.where(singular & (df >= 2), np.int8(2), _reason(sums, observed, gg, df))
    gg = np.where(reason == 0, gg, np.nan)[:, None]
    result.n[rows], result.reason[rows] = observed.astype(np.int64), reason
    size = max(1, _PRODUCTS // (len(q) * (group.rank + 1)))
    for start in range(0, len(group.outcomes), size):
        some = slice(start, start + size)
        gy, yy = _outcomes_without_missing(gaps, group, q, factor, solved, sums.outcome[:, some], some)
        beta, error = _estimate(gg, gy, yy, df[:, None], statistic, scale)
        result.beta[rows, some], result.standard_error[rows, some] = beta, error


def _outcomes_without_missing(
    gaps: csr_array,
    group: Group,
    q: Floats,
    factor: dict[tuple[int, int], Floats],
    solved: list[Floats],
    gy: Floats,
    some: slice,
) -> tuple[Floats, Floats]:
    """Return g̃'ỹ and ỹ'ỹ (n_rows, n_some) of ``some`` outcomes over the people observed; NaN where nothing is left of ỹ."""
    residuals, whole = group.residuals[:, some], group.sum_of_squares[some]
    columns = [q[:, [j]] * residuals for j in range(group.rank)]
    lost = np.split(_summed(gaps, np.hstack([*columns, residuals**2])), group.rank + 1, axis=1)
    yy = whole - lost[-1]
    steps: list[Floats] = []
    for j in range(group.rank):
        w = -lost[j]
        for k in range(j):
            w = w - factor[j, k][:, None] * steps[k]
        steps.append(w / factor[j, j][:, None])
        gy = gy - solved[j][:, None] * steps[j]
        yy = yy - steps[j] * steps[j]
    return gy, np.where(yy > 1e-9 * whole, yy, np.nan)


def _summed(gaps: csr_array, columns: Floats) -> Floats:
    """Sum ``columns`` (N, C) over the people of each row of ``gaps`` (n_rows, N), exactly."""
    fixed = fixed_point(columns, largest_count=1)
    return np.asarray(gaps @ fixed.integers * fixed.unit)


def _cholesky(gram: dict[tuple[int, int], Floats], size: int) -> tuple[dict[tuple[int, int], Floats], NDArray[np.bool_]]:
    """Factor many small symmetric matrices at once, elementwise; say which are singular (their factors are then unit)."""
    factor: dict[tuple[int, int], Floats] = {}
    singular = np.zeros(len(gram[0, 0]), dtype=np.bool_)
    for j in range(size):
        for k in range(j + 1):
            value = gram[j, k]
            for m in range(k):
                value = value - factor[j, m] * factor[k, m]
            if j == k:
                bad = value < 1e-9
                singular |= bad
                factor[j, j] = np.sqrt(np.where(bad, 1.0, value))
            else:
                factor[j, k] = value / factor[k, k]
    return factor, singular


def whiten(outcomes: Floats, covariates: Floats, *, radial: bool = False) -> Group:
    """Return complete ``outcomes`` (N, P; people with any NaN are left out) as orthonormal residuals for :func:`omnibus`.

    The span of the residuals is what counts: any invertible linear change of the outcomes gives the same omnibus.
    Directions below 1e-8 of the largest singular value (after scaling outcomes to unit length) are dropped.

    ``radial`` gives each person's whitened residuals the length that their rank has among normal ones (χ with D degrees of
    freedom, Blom's offset) and keeps their direction: what ranking is for one outcome, and as blind to rotation as the test.
    A few people far out otherwise make Wilks' test call rare variants by chance: its F is exact for normal outcomes.
    """
    mask: NDArray[np.bool_] = np.asarray(np.isfinite(outcomes).all(axis=1))
    basis = orthonormal(covariates, mask)
    u = _span(outcomes[mask], basis[mask])
    if radial and u.shape[1]:
        u = _span(u * _normal_lengths(u)[:, None], basis[mask])
    whole = np.zeros((len(mask), u.shape[1]))
    whole[mask] = u
    kept = u.shape[1]
    return Group(mask, basis, whole, np.ones(kept), np.arange(kept), int(mask.sum()), basis.shape[1] + 1)


def _span(outcomes: Floats, basis: Floats) -> Floats:
    """Return an orthonormal basis (N, D) of what ``basis`` and an intercept leave of ``outcomes`` (N, P)."""
    residuals = np.stack([_residual(outcomes[:, p], basis) for p in range(outcomes.shape[1])], axis=1)
    length = np.sqrt((residuals**2).sum(axis=0))
    residuals = residuals[:, length > 0] / length[length > 0]
    u, s, _ = np.linalg.svd(residuals, full_matrices=False)
    return np.asarray(u[:, : int((s > 1e-8 * s[0]).sum()) if len(s) else 0])


def _normal_lengths(u: Floats) -> Floats:
    """Return by what to multiply each row of ``u`` (N, D) so that the lengths of rows are those of D normal numbers."""
    from scipy.special import chdtri
    from scipy.stats import rankdata

    n, d = u.shape
    length = np.sqrt((u**2).sum(axis=1))
    wanted = np.sqrt(chdtri(d, 1 - (rankdata(length) - 3 / 8) / (n + 1 / 4)))
    return np.asarray(wanted / np.where(length > 0, length, 1.0))


def omnibus(result: Scan, group: Group) -> Floats:
    """Return −log10 p (V,) of Wilks' test of one count against all outcomes of a whitened ``group``.

    With one tested column Wilks' Λ is 1 − R², R² the share of the count's residual variance that the D outcomes explain, and
    F = R²/(1 − R²) · (N − K − D)/D has exactly D and N − K − D degrees of freedom (Hotelling 1931; Anderson 2003, §8.4).
    ``result`` comes from :func:`scan` with ``statistic="t"`` on the whitened group.
    """
    from clinome.stats.distributions import neg_log10_f

    d = len(group.outcomes)
    df2 = group.n - group.rank - d
    if d == 0 or df2 < 1:
        return np.full(len(result.n), np.nan)
    residual_df = group.n - group.rank - 1
    t2 = (result.beta / result.standard_error) ** 2
    share = np.zeros(len(t2))  # (g̃'u)² / g̃'g̃ of each orthonormal outcome u, of sum of squares 1
    for p in range(d):
        share = share + t2[:, p] / (t2[:, p] + residual_df)
    share = np.minimum(share, 1 - _RESOLVED)
    with np.errstate(divide="ignore", invalid="ignore"):
        return neg_log10_f(share / (1 - share) * df2 / d, d, df2)
