r"""Does the effect of a count differ with a covariate? Least squares of many outcomes on g and x·g: the array core of a scan.

For an outcome y, covariates C (intercept and x among them), a count g and a modifier x the model is::

    y = C·γ + β·g + δ·(x − x̄)·g + ε

x̄ is the mean of x over the outcome's people, so β is the effect at that mean (not at x = 0: nobody was born in the year 0) and
δ its change per unit of x. δ does not depend on the centring.

With h = (x − x̄)·g and residuals ỹ, bases q_k and Gram matrices as in :mod:`clinome.stats.linear`, the theorem of Frisch, Waugh and
Lovell leaves two equations in g̃ and h̃, solved in closed form. All that people enter by are sums of counts, and of squared counts,
times columns that do not change from variant to variant::

    g'ỹ, q_k'g  from ỹ, q_k          h'ỹ, q_k'h  from x∘ỹ, x∘q_k          g'g, g'h, h'h  from squared counts with 1, x, x²

They are exact integers (:mod:`clinome.stats.exact`); what follows is elementwise float64 in a fixed order. So, as in the main
scan, a result does not depend on block size, threads, or which outcomes run beside it, to the last bit.

Warnings
--------
A trait whose variance changes with x has a δ whose error these formulas get wrong, at every variant alike: where genotypes do not
depend on x its squared t is too large by the factor that :func:`clinome.stats.modifier.variance_ratio` returns. Errors that are
robust to it (HC3) need each person's residual at each variant, no product of counts with fixed columns, and are not offered.

References: Kraft et al. 2007 (the joint test), doi:10.1159/000099183; Voorman et al. 2011, doi:10.1371/journal.pone.0019416
(what a variance that changes with x does).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.stats.exact import Columns, Counts, Engine, FixedPoint, fixed_point
from clinome.stats.linear import Missing
from clinome.stats.modifier import Modifier, bits_of, coarse
from clinome.stats.moments import COLLINEAR, Cells, gathered, over, pieces, ratio
from clinome.stats.projection import cholesky, forward
from clinome.stats.residuals import Group, Outcomes

Floats = NDArray[np.float64]
_RESOLVED = 2.0**-50  # share of a sum of squares below which a remainder is rounding


class Interaction(NamedTuple):
    """Estimates of a block, each (P, V), outcomes in the caller's order; NaN where there is none.

    ``beta``, ``standard_error``: δ, the change of a copy's effect per unit of x. ``main``, ``main_error``: β, the effect of a copy
    at the mean of x. t of both has n − K − 2 degrees of freedom, K the columns of the covariates (x and the intercept among them).
    There is no estimate where g and x·g cannot be told apart (a level of x without carriers) or x does not vary.
    """

    beta: Floats
    standard_error: Floats
    main: Floats
    main_error: Floats


class _Pairs(NamedTuple):
    """Columns c and x∘c, side by side as integers, and what a unit of each is worth."""

    columns: Columns
    unit: Floats

    @classmethod
    def of(cls, columns: Floats, x: Floats, scale: int, bits: int, engine: Engine | None) -> _Pairs:
        """Write ``columns`` (N, C) and their products with ``x`` as integers."""
        fixed = fixed_point(np.hstack([columns, x[:, None] * columns]), largest_count=2 * scale, bits=bits)
        return cls(Columns(fixed.integers, engine), fixed.unit)

    def sums(self, counts: Counts) -> Floats:
        """Multiply ``counts`` (V, N): those of c, and of x∘c (2, C, V)."""
        return self._apart(self.columns.product(counts).T)

    def sums_over(self, cells: Cells) -> Floats:
        """Sum over the people of missing counts: (2, C, v)."""
        return self._apart(cells.summed(self.columns.floats))

    def _apart(self, sums: Floats) -> Floats:
        return np.asarray((sums * self.unit[:, None]).reshape(2, len(self.unit) // 2, sums.shape[1]))


class _Lacking(NamedTuple):
    """The ``people`` whom a group lacks, and their ``columns`` of the basis: its sums are those of all less theirs."""

    people: NDArray[np.int64]
    columns: Columns

    @classmethod
    def of(cls, lacking: NDArray[np.bool_], basis: NDArray[np.int32], engine: Engine | None) -> _Lacking | None:
        """Take the rows of ``basis`` of the people who are lacking; None where nobody is."""
        people = np.flatnonzero(lacking)
        return cls(people, Columns(basis[people], engine)) if len(people) and basis.shape[1] else None


class _Part(NamedTuple):
    """Outcomes that share people and covariates.

    ``at``: where they are among all outcomes; ``outcomes``: the caller's numbers; ``group``: number of their people's mask, ``n``
    of them; ``mean``: that of the standardised x over them; ``varies``: whether x does. ``own``: the column of the one outcome's
    own covariate, which then follows the basis, or None. ``gram`` (K, K) of the basis over the people, its Cholesky ``factor``,
    and which of its columns add nothing (``dropped``).
    """

    at: slice
    outcomes: NDArray[np.int64]
    group: int
    n: int
    mean: float
    varies: bool
    own: int | None
    gram: Floats
    factor: Floats
    dropped: NDArray[np.bool_]
    sum_of_squares: Floats

    @property
    def rank(self) -> int:
        return len(self.gram) - int(self.dropped.sum())


class PreparedInteraction(NamedTuple):
    """Outcomes in parts, and what counts are multiplied with, a row for each of their columns; x is standardised (by ``unit``).

    ``basis``: columns that all share; ``masks`` of the groups; ``residuals`` and ``own`` of the outcomes; ``squares``: mask, x and
    x² of each group, for squared counts; ``lacking``: whom each group lacks of all; ``coarse``: basis (the intercept included),
    residuals and own for sums over people left out.
    """

    parts: list[_Part]
    basis: _Pairs
    masks: _Pairs
    residuals: _Pairs
    own: _Pairs | None
    squares: Columns
    squares_unit: Floats
    lacking: list[_Lacking | None]
    coarse: tuple[FixedPoint, FixedPoint, FixedPoint | None]
    unit: float
    scale: int


def digitise_interaction(
    outcomes: Outcomes,
    modifier: Modifier,
    *,
    places: NDArray[np.int64] | None = None,
    width: int | None = None,
    engine: Engine | None = None,
) -> PreparedInteraction:
    """Lay out prepared ``outcomes`` and the ``modifier`` of the same people for :func:`scan_interaction`.

    ``places`` (N,) says which of the ``width`` columns of the counts each person is (−1: none); None: the people are the columns.
    ``engine`` multiplies (None: the fastest of this machine).
    """
    places = np.arange(len(modifier.values)) if places is None else places
    width = len(places) if width is None else width
    scale, groups = outcomes.basis.scale, [g for g in outcomes.groups if len(g.outcomes)]
    anybody = np.any([g.mask for g in groups], axis=0)
    rows = (places >= 0) & anybody

    def placed(values: NDArray[Any]) -> NDArray[Any]:
        result = np.zeros((width, *values.shape[1:]), values.dtype)
        result[places[rows]] = values[rows]
        return result

    def placed_coarse(columns: FixedPoint) -> FixedPoint:
        return columns._replace(integers=placed(columns.integers))

    masks = np.stack([g.mask for g in groups], axis=1).astype(np.float64)
    residuals = np.hstack([g.residuals for g in groups])
    owns = [g.own for g in groups if g.own is not None]
    own = np.hstack(owns) if owns else None
    x, bits = placed(modifier.values), bits_of(outcomes.basis.cohort)
    squares = fixed_point(
        placed(np.hstack([masks * modifier.values[:, None] ** power for power in range(3)])),
        largest_count=max(2 * scale, 4),  # a hard call's square, or a digit of a dosage's
        bits=bits,
    )
    basis = placed(modifier.columns.integers)
    return PreparedInteraction(
        parts=_parts(groups, modifier.values),
        basis=_Pairs(Columns(basis, engine), modifier.columns.unit),
        masks=_Pairs.of(placed(masks), x, scale, bits, engine),
        residuals=_Pairs.of(placed(residuals), x, scale, bits, engine),
        own=None if own is None else _Pairs.of(placed(own), x, scale, bits, engine),
        squares=Columns(squares.integers, engine),
        squares_unit=squares.unit,
        lacking=[_Lacking.of(placed(anybody & ~g.mask), basis, engine) for g in groups],
        coarse=(
            placed_coarse(modifier.coarse),
            placed_coarse(coarse(residuals, outcomes.basis.cohort)),
            None if own is None else placed_coarse(coarse(own, outcomes.basis.cohort)),
        ),
        unit=modifier.unit,
        scale=scale,
    )


def _parts(groups: list[Group], x: Floats) -> list[_Part]:
    parts: list[_Part] = []
    start = 0
    for i, group in enumerate(groups):
        gram, factor = group.normal
        each = [slice(None)] if group.own is None else [slice(j, j + 1) for j in range(len(group.outcomes))]
        for some in each:
            at = slice(start, start + len(group.outcomes[some]))
            start = at.stop
            if group.own is not None:
                gram, factor = _bordered(group.normal.gram, 1.0), _bordered(group.normal.factor, 1.0)
                factor[-1, -1] = 1.0 if group.own[:, some].any() else np.inf
            squares = group.sum_of_squares[some, None]
            part = _Part(
                at=at,
                outcomes=group.outcomes[some],
                group=i,
                n=group.n,
                mean=float(np.sum(x[group.mask])) / max(group.n, 1),
                varies=float(np.ptp(x[group.mask])) > 1e-9 if group.n else False,
                own=None if group.own is None else at.start,
                gram=gram,
                factor=factor,
                dropped=np.isinf(np.diag(factor)),
                sum_of_squares=np.where(squares > 0, squares, np.nan),
            )
            parts.append(part)
    return parts


def _bordered(matrix: Floats, corner: float) -> Floats:
    """Add a row and a column of zeros, and ``corner`` where they meet."""
    result = np.zeros((len(matrix) + 1, len(matrix) + 1))
    result[:-1, :-1], result[-1, -1] = matrix, corner
    return result


def neg_log10_joint(t_marginal: Floats, t_interaction: Floats, df: Floats) -> Floats:
    """Return −log10 p of β = δ = 0 (does the count have an effect at any x?), F with 2 and ``df`` = n − K − 2 degrees of freedom.

    ``t_marginal`` is that of g in the model without x·g, ``t_interaction`` that of δ in the full one. Each says by which factor its
    column lessens the sum of squares, 1 + 2F / df is the product of both, and P(F ≥ f) = (1 + 2f / df)^(−df / 2).
    """
    marginal, interaction = t_marginal * t_marginal / (df + 1), t_interaction * t_interaction / df
    return np.asarray(df / 2 * (np.log1p(marginal) + np.log1p(interaction)) / np.log(10.0))


def scan_interaction(counts: Counts, prepared: PreparedInteraction, *, missing: Missing = "mean") -> Interaction:
    """Regress every outcome on every row g of ``counts`` (V, N; units of 1 / scale, −1 missing) and on x·g.

    ``missing="mean"`` puts the mean of the outcome's observed people in place of a missing count, in x·g as well; ``"drop"`` leaves
    the person out of that variant's regression (as PLINK 2 does). Both are exact.
    """
    cells = Cells.of(counts)
    observed: Counts = np.maximum(counts, 0)
    sums = _sums_of(observed, prepared)
    lost = _lost(cells, prepared)
    shape = sum(len(part.outcomes) for part in prepared.parts), len(counts)
    result = Interaction(*(np.full(shape, np.nan) for _ in Interaction._fields))
    for part in prepared.parts:
        mine, gone = sums.of(part), lost.of(part)
        n = np.full(len(counts), float(part.n))
        n[cells.rows] -= gone.z[0, 0]
        if missing == "mean" and len(cells.rows):
            mean = ratio(mine.z[0, 0], n)[cells.rows]
            for values, more, weight in zip(mine, gone, (mean, mean, mean * mean), strict=True):
                values[..., cells.rows] += weight * more
            n[:] = part.n
        u = forward(part.factor[:, :, None, None], mine.z.transpose(1, 0, 2))
        _estimate(result, slice(None), _moments(mine, u, mine.y, part.sum_of_squares, n, part), n, part, prepared)
        if missing == "drop":
            _leave_out(result, mine, n, cells, part, prepared)
    return result


class _Sums(NamedTuple):
    """Sums of g and of x·g over the people of one part, in the first axis.

    ``z`` (2, K, V): with the basis, the intercept first; ``y`` (2, P, V): with the residuals; ``squares`` (3, V): g'g, g'h, h'h.
    """

    z: Floats
    y: Floats
    squares: Floats


class _AllSums(NamedTuple):
    """Sums of all parts: masks (2, G, V), the basis by groups (2, K − 1, G, V), outcomes and own (2, P, V), squares (3, G, V)."""

    masks: Floats
    basis: Floats
    outcomes: Floats
    own: Floats | None
    squares: Floats

    def of(self, part: _Part) -> _Sums:
        """Take out those of one part: copies."""
        i = part.group
        z = [self.masks[:, i, None], self.basis[:, :, i]]
        if self.own is not None and part.own is not None:
            z.append(self.own[:, part.own, None])
        return _Sums(np.concatenate(z, axis=1), self.outcomes[:, part.at].copy(), self.squares[:, i].copy())


def _sums_of(observed: Counts, prepared: PreparedInteraction) -> _AllSums:
    """Multiply a block, in which missing counts are 0, with all columns."""
    squares = _products_of_squares(observed, prepared).T * prepared.squares_unit[:, None]
    whole = prepared.basis.columns.product(observed).T
    basis = np.repeat(whole[:, None], len(prepared.lacking), axis=1)
    lying: Any = observed.T.copy() if any(prepared.lacking) else observed
    for i, lacking in enumerate(prepared.lacking):
        if lacking is not None:
            basis[:, i] -= lacking.columns.transposed_product(lying[lacking.people])
    basis *= prepared.basis.unit[:, None, None]
    return _AllSums(
        prepared.masks.sums(observed),
        basis.reshape(2, len(basis) // 2, *basis.shape[1:]),
        prepared.residuals.sums(observed),
        None if prepared.own is None else prepared.own.sums(observed),
        squares.reshape(3, len(prepared.lacking), len(observed)),
    )


def _products_of_squares(observed: Counts, prepared: PreparedInteraction) -> Floats:
    """Multiply squared counts, which the type of counts holds; those of dosages in two digits, which keep the sums exact."""
    if prepared.scale == 1:
        return prepared.squares.product(observed * observed)
    base = 2 * prepared.scale
    high, low = np.divmod(observed.astype(np.int64) ** 2, base)
    return base * prepared.squares.product(high) + prepared.squares.product(low)


def _lost(cells: Cells, prepared: PreparedInteraction) -> _AllSums:
    """Sum all columns over the people of missing counts."""
    masks, basis = prepared.squares.integers[:, : len(prepared.lacking)], prepared.basis.columns.floats
    there_masks = (masks > 0).astype(np.float64)
    by_groups = np.empty((basis.shape[1], there_masks.shape[1], len(cells.rows)))
    for some in pieces(cells, basis.shape[1] + there_masks.shape[1]):
        people, there = gathered(cells.piece(some))
        by_groups[:, :, some] = over(basis[people] * there[..., None], there_masks[people])
    by_groups *= prepared.basis.unit[:, None, None]
    squares = cells.summed(prepared.squares.floats) * prepared.squares_unit[:, None]
    return _AllSums(
        prepared.masks.sums_over(cells),
        by_groups.reshape(2, len(basis.T) // 2, *by_groups.shape[1:]),
        prepared.residuals.sums_over(cells),
        None if prepared.own is None else prepared.own.sums_over(cells),
        squares.reshape(3, len(prepared.lacking), len(cells.rows)),
    )


class _Moments(NamedTuple):
    """g̃'g̃, g̃'h̃, h̃'h̃ (V,), g̃'ỹ, h̃'ỹ, ỹ'ỹ (P, V), and g'g and h'h about their means (V,), which what is left is judged against."""

    gg: Floats
    gh: Floats
    hh: Floats
    gy: Floats
    hy: Floats
    yy: Floats
    g_varies: Floats
    h_varies: Floats


def _moments(sums: _Sums, u: Floats, y: Floats, yy: Floats, n: Floats, part: _Part) -> _Moments:
    """Take the coordinates ``u`` (K, 2, V) of g and x·g out, and x's mean over the part's people out of x; ``y`` is (2, P, V)."""
    gg, gh, hh = sums.squares
    mean = part.mean
    total, total_x = sums.z[0, 0], sums.z[1, 0] - mean * sums.z[0, 0]
    g_varies = gg - ratio(total * total, n)
    h_varies = hh - 2 * mean * gh + mean * mean * gg - ratio(total_x * total_x, n)
    g_varies = np.where(g_varies > 1e-12 * gg, g_varies, np.nan)
    for a, b in u:
        gg, gh, hh = gg - a * a, gh - a * b, hh - b * b
    gh, hh = gh - mean * gg, hh - 2 * mean * gh + mean * mean * gg
    return _Moments(gg, gh, hh, y[0], y[1] - mean * y[0], yy, g_varies, h_varies)


def _estimate(
    result: Interaction, rows: NDArray[np.int64] | slice, m: _Moments, n: Floats, part: _Part, prepared: PreparedInteraction
) -> None:
    """Solve the two equations elementwise, and write the estimates of a part into ``rows`` (variants) of ``result``."""
    df = np.where(n - part.rank > 2, n - part.rank - 2, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        g_left, h_left = m.gg - m.gh * m.gh / m.hh, m.hh - m.gh * m.gh / m.gg
        told = (g_left > COLLINEAR * m.g_varies) & (h_left > COLLINEAR * np.maximum(m.h_varies, m.g_varies)) & part.varies
        g_left, h_left = np.where(told, g_left, np.nan), np.where(told, h_left, np.nan)
        beta, delta = (m.gy - m.gh / m.hh * m.hy) / g_left, (m.hy - m.gh / m.gg * m.gy) / h_left
        left = m.yy - beta * m.gy - delta * m.hy
        variance = np.maximum(left, m.yy * _RESOLVED) / df  # a perfect fit keeps a finite p
        scale = prepared.scale
        per_unit = scale / prepared.unit if prepared.unit > 0 else np.nan
        found = delta * per_unit, np.sqrt(variance / h_left) * per_unit, beta * scale, np.sqrt(variance / g_left) * scale
    none = np.isnan(found[1])
    for values, to in zip(found, result, strict=True):
        to[part.outcomes[:, None], np.arange(to.shape[1])[rows]] = np.where(none, np.nan, values)


def _leave_out(result: Interaction, sums: _Sums, n: Floats, cells: Cells, part: _Part, prepared: PreparedInteraction) -> None:
    """Put into ``result``, for the rows with missing counts, the regressions on the ``n`` (V,) people observed.

    Over the observed people O = M − S the Gram matrix is A − Q_S'Q_S and Q_O'ỹ_O = −Q_S'ỹ_S. The sums over S are small products of
    gathered whole numbers; a Cholesky factor, by elementwise steps over variants, restores the projection.
    """
    basis, residuals, own = prepared.coarse
    mask = prepared.squares.integers[:, part.group] > 0
    unit, y_unit = basis.unit, residuals.unit[part.at, None]
    for some in pieces(cells, (len(part.gram) + 1) * (len(part.gram) + len(part.outcomes))):
        people, there = gathered(cells.piece(some))
        rows = cells.rows[some]
        here = there & mask[people]
        q = basis.integers[people].astype(np.float64)
        if own is not None and part.own is not None:
            q = np.concatenate([q, own.integers[people, part.own, None]], axis=2)
            unit = np.append(basis.unit, own.unit[part.own])
        q, y = q * here[..., None], residuals.integers[:, part.at][people].astype(np.float64) * here[..., None]
        lost = over(q, q) * (unit[:, None] * unit)[..., None]
        dropped = np.repeat(part.dropped[:, None], len(rows), axis=1)
        factor, singular = cholesky(part.gram[..., None] - lost, dropped)
        u = forward(factor[:, :, None], sums.z[:, :, rows].transpose(1, 0, 2))
        steps = forward(factor[:, :, None], -over(q, y) * unit[:, None, None] * y_unit)
        covariance = sums.y[:, :, rows].copy()
        yy = part.sum_of_squares - np.sum(y * y, axis=1).T * (y_unit * y_unit)
        for (a, b), w in zip(u, steps, strict=True):
            covariance[0] -= a * w
            covariance[1] -= b * w
            yy = yy - w * w
        yy = np.where((yy > 1e-9 * part.sum_of_squares) & ~singular, yy, np.nan)
        here_sums = _Sums(sums.z[:, :, rows], covariance, sums.squares[:, rows])
        _estimate(result, rows, _moments(here_sums, u, covariance, yy, n[rows], part), n[rows], part, prepared)
