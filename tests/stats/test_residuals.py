from __future__ import annotations

import numpy as np
import pytest

from clinome.stats.exact import fixed_point
from clinome.stats.residuals import Outcomes, Ragged, prepare, span


def _residuals(outcomes: Outcomes, trait: int) -> tuple[np.ndarray, float]:
    """Return the residuals of a trait and their sum of squares."""
    group, at = next((g, np.flatnonzero(g.outcomes == trait)) for g in outcomes.groups if trait in g.outcomes)
    return group.residuals[:, at[0]], float(group.sum_of_squares[at[0]])


@pytest.mark.parametrize("ragged", ["exact", "regenie"])
@pytest.mark.parametrize("n", [40, 3_001])
def test_a_trait_alone_is_prepared_to_the_same_bits_as_among_others(n: int, ragged: Ragged) -> None:
    """Strips of rows end anywhere among 61 traits: 30 share everybody, 20 lack the same people, the rest lack their own."""
    generator = np.random.default_rng(n)
    values = generator.normal(size=(n, 61)) * 10.0 ** generator.integers(-3, 4, 61)
    values[: n // 4, 30:50] = np.nan
    values[:, 50:][generator.random((n, 11)) < 0.1] = np.nan
    basis = span(generator.normal(size=(n, 5)))
    together = prepare(values, basis, ragged=ragged)
    assert len(together.groups) == 13
    for trait in (0, 7, 29, 30, 49, 60):
        # one complete trait beside it, for REGENIE's approximation residualises over everybody
        alone = prepare(values[:, [trait, 0]], basis, ragged=ragged)
        for ours, theirs in zip(_residuals(together, trait), _residuals(alone, 0), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_residuals_are_those_of_least_squares_over_a_traits_own_people() -> None:
    generator = np.random.default_rng(4)
    covariates, values = generator.normal(size=(200, 3)), generator.normal(size=(200, 12))
    values[:50, ::2] = np.nan
    values[:, 5] = 7.0
    values[:, 7] = covariates @ [1.0, 2.0, 3.0]
    own = generator.normal(size=values.shape)
    found = prepare(values, span(covariates), own)
    for trait in range(12):
        residuals, squares = _residuals(found, trait)
        there = np.isfinite(values[:, trait])
        assert not residuals[~there].any()
        assert squares == pytest.approx(residuals @ residuals)
        if trait in (5, 7):
            assert squares == 0
            continue
        design = np.column_stack([np.ones(there.sum()), covariates[there], own[there, trait]])
        expected = values[there, trait] - design @ np.linalg.lstsq(design, values[there, trait], rcond=None)[0]
        np.testing.assert_allclose(residuals[there], expected, atol=1e-5)  # the covariates are rounded


def test_columns_in_fixed_point_do_not_depend_on_their_layout_or_their_neighbours() -> None:
    generator = np.random.default_rng(6)
    columns = generator.normal(size=(501, 70)) * 10.0 ** generator.integers(-200, 200, 70)
    columns[:100, 20:45] = 0.0
    columns[:, 60:][generator.random((501, 10)) < 0.2] = 0.0
    columns[:, 65] = 0.0
    for made in (fixed_point(columns, largest_count=2), fixed_point(np.asfortranarray(columns), largest_count=2)):
        for k in (0, 16, 19, 20, 44, 59, 61, 65, 69):
            alone = fixed_point(columns[:, [k]], largest_count=2)
            np.testing.assert_array_equal(made.integers[:, k], alone.integers[:, 0])
            assert (made.unit[k], made.bits[k]) == (alone.unit[0], alone.bits[0])
