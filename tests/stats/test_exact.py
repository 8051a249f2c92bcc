from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clinome.stats.exact import fixed_point


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 510, 32_768]), st.floats(1e-30, 1e30))
def test_a_product_is_the_exact_sum_in_any_order_and_split(seed: int, largest: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    columns = generator.standard_cauchy((300, 3)) * size
    counts = generator.integers(0, largest + 1, (4, 300)).astype(float)
    fixed = fixed_point(columns, largest_count=largest)
    product = counts @ fixed.integers
    order = generator.permutation(300)
    np.testing.assert_array_equal(counts[:, order] @ fixed.integers[order], product)
    np.testing.assert_array_equal(counts[:, :100] @ fixed.integers[:100] + counts[:, 100:] @ fixed.integers[100:], product)
    exact = counts.astype(np.int64).astype(object) @ fixed.integers.astype(np.int64).astype(object)  # Python's own integers
    assert (product.astype(np.int64).astype(object) == exact).all()
    assert (np.abs(fixed.integers * fixed.unit - columns) <= fixed.unit / 2).all()
    by_sum, by_entry = np.abs(columns).sum(axis=0) * largest * 2.0**-50, np.abs(columns).max(axis=0) * 2.0**-43
    assert (fixed.unit <= np.maximum(by_sum, by_entry)).all()


def test_a_column_is_treated_by_itself_and_zeros_stay_zeros() -> None:
    columns = np.array([[1.0, 0.0, 1e9], [0.3, 0.0, -2e-9]])
    together = fixed_point(columns, largest_count=2)
    for k in range(3):
        alone = fixed_point(columns[:, [k]], largest_count=2)
        np.testing.assert_array_equal(together.integers[:, [k]], alone.integers)
        assert together.unit[k] == alone.unit[0]
    assert together.integers[:, 1].tolist() == [0, 0]
