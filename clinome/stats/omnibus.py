"""One count against many outcomes together: Wilks' test, whatever the rotation of their axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinome.stats.moments import Scan
from clinome.stats.projection import Normal, normal_equations, orthonormal, residual
from clinome.stats.residuals import Basis, Group, Outcomes, empty_group

Floats = NDArray[np.float64]
_RESOLVED = 2.0**-50  # share of a variance below which a remainder is rounding


def whiten(outcomes: Floats, basis: Basis, *, radial: bool = False) -> Outcomes:
    """Return complete ``outcomes`` (N, P; people with any NaN are left out) as one group of orthonormal residuals.

    The span of the residuals is what counts: any invertible linear change of the outcomes gives the same omnibus.
    Outcomes of which the others leave less than 1e-9 of their length are dropped.

    ``radial`` gives each person's whitened residuals the length that their rank has among normal ones (χ with D degrees of
    freedom, Blom's offset) and keeps their direction: what ranking is for one outcome, and as blind to rotation as the test.
    A few people far out otherwise make Wilks' test call rare variants by chance: its F is exact for normal outcomes.
    """
    mask: NDArray[np.bool_] = np.asarray(np.isfinite(outcomes).all(axis=1))
    columns = np.ascontiguousarray(basis.columns()[:, mask])
    normal = normal_equations(columns)
    u = _span(outcomes[mask], columns, normal)
    if radial and u.shape[1]:
        u = _span(u * _normal_lengths(u)[:, None], columns, normal)
    whole = np.zeros((len(mask), u.shape[1]))
    whole[mask] = u
    group = empty_group(mask, normal)
    slopes = np.zeros((len(columns), u.shape[1]))
    group = group._replace(residuals=whole, sum_of_squares=np.ones(u.shape[1]), outcomes=np.arange(u.shape[1]), slopes=slopes)
    return Outcomes([group], basis, 0, False)


def _span(outcomes: Floats, columns: Floats, normal: Normal) -> Floats:
    """Return an orthonormal basis (N, D) of what ``columns`` leave of ``outcomes`` (N, P)."""
    return orthonormal(residual(np.ascontiguousarray(outcomes.T), columns, normal).T)


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
        return np.full(result.n.shape[1], np.nan)
    residual_df = group.n - group.rank - 1
    t2 = (result.beta / result.standard_error) ** 2
    share = np.zeros(t2.shape[1])  # (g̃'u)² / g̃'g̃ of each orthonormal outcome u, of sum of squares 1
    for p in range(d):
        share = share + t2[p] / (t2[p] + residual_df)
    share = np.minimum(share, 1 - _RESOLVED)
    with np.errstate(divide="ignore", invalid="ignore"):
        return neg_log10_f(share / (1 - share) * df2 / d, d, df2)
