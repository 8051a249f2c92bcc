from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinome.stats import onednn
from clinome.stats.exact import Columns, Engine, best_engine, fixed_point, self_check

ENGINES = [
    Engine("int8", 256, "cpu"),
    Engine("int8", 128, "cpu"),
    Engine("float64", 0, "cpu"),
    Engine("int8", 256, "cpu", "onednn"),
    Engine("int8", 128, "cpu", "onednn"),
]
HERE = [engine for engine in ENGINES if self_check(engine)]  # base 256 saturates on processors without VNNI


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([1, 2, 510, 32_768]), st.floats(1e-30, 1e30), st.sampled_from([20, 30]))
def test_a_product_is_the_exact_sum_in_any_order_and_split(seed: int, largest: int, size: float, bits: int) -> None:
    generator = np.random.default_rng(seed)
    columns = generator.standard_cauchy((300, 3)) * size
    counts = generator.integers(0, largest + 1, (4, 300)).astype(float)
    fixed = fixed_point(columns, largest_count=largest, bits=bits)
    product = counts @ fixed.integers
    order = generator.permutation(300)
    np.testing.assert_array_equal(counts[:, order] @ fixed.integers[order], product)
    np.testing.assert_array_equal(counts[:, :100] @ fixed.integers[:100] + counts[:, 100:] @ fixed.integers[100:], product)
    exact = counts.astype(np.int64).astype(object) @ fixed.integers.astype(np.int64).astype(object)  # Python's own integers
    assert (product.astype(np.int64).astype(object) == exact).all()
    assert (np.abs(fixed.integers * fixed.unit - columns) <= fixed.unit * 0.5000001).all()
    by_size = np.sqrt((columns**2).mean(axis=0)) * 2.0**-bits
    by_sum, by_entry = np.abs(columns).sum(axis=0) * largest * 2.0**-51, np.abs(columns).max(axis=0) * 2.0**-30
    assert (fixed.unit <= np.maximum(np.maximum(by_sum, by_entry), by_size * 1.0000001)).all()


def test_a_column_is_treated_by_itself_and_zeros_stay_zeros_and_change_nothing() -> None:
    columns = np.array([[1.0, 0.0, 1e9], [0.3, 0.0, -2e-9], [0.0, 0.0, 0.0], [0.1, 0.0, 5.0]])
    together = fixed_point(columns, largest_count=2)
    for k in range(3):
        alone = fixed_point(columns[[0, 1, 3]][:, [k]], largest_count=2)
        np.testing.assert_array_equal(together.integers[[0, 1, 3]][:, [k]], alone.integers)
        assert together.unit[k] == alone.unit[0]
        assert together.bits[k] == alone.bits[0]
    assert not together.integers[:, 1].any()
    assert not together.integers[2].any()


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 70), st.integers(1, 40), st.integers(1, 300))
def test_every_engine_gives_the_same_integers_both_ways(seed: int, variants: int, width: int, people: int) -> None:
    generator = np.random.default_rng(seed)
    columns = generator.standard_cauchy((people, width)) ** 3  # so that columns need different numbers of digits
    integers = fixed_point(columns, largest_count=2, bits=int(generator.integers(2, 31))).integers
    counts = generator.integers(-1, 3, (variants, people)).astype(np.int8)
    expected = counts.astype(np.int64) @ integers.astype(np.int64)
    for engine in HERE:
        loaded = Columns(integers, engine)
        np.testing.assert_array_equal(loaded.product(counts), expected)
        np.testing.assert_array_equal(loaded.transposed_product(np.ascontiguousarray(counts.T)).T, expected)


@pytest.mark.parametrize("edge", [2**31 - 2, -(2**31) + 2, 2**23 - 1, 2**23, -(2**23) - 1, 127, 128, -128, -129, 0])
def test_digits_hold_at_the_ends_of_their_range(edge: int) -> None:
    integers = np.full((33, 17), edge, np.int32)
    counts = np.full((17, 33), 2, np.int8)
    for engine in HERE:
        assert (Columns(integers, engine).product(counts) == 66 * edge).all()


def test_the_engine_of_this_machine_has_been_checked_and_a_wrong_one_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert {ENGINES[k] for k in (1, 2, 4)} <= set(HERE)
    ends = np.full((33, 17), 2**31 - 2, np.int32)
    for engine in set(ENGINES) - set(HERE):
        assert (Columns(ends, engine).product(np.full((17, 33), 2, np.int8)) != 66 * (2**31 - 2)).any()
    assert best_engine() in HERE
    right = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: right(a, b).clamp(-32_768, 32_767))  # sums in 16 bits, saturated
    assert not self_check(ENGINES[0])
    assert best_engine.__wrapped__() == (ENGINES[3] if ENGINES[3] in HERE else ENGINES[4])
    multiply = onednn.multiply
    monkeypatch.setattr(onednn, "multiply", lambda a, b: multiply(a, b).clip(-32_768, 32_767))
    assert best_engine.__wrapped__() == ENGINES[2]
    monkeypatch.setattr(onednn, "library", lambda: None)
    assert not self_check(ENGINES[3])


def test_asking_for_a_gpu_where_there_is_none_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeError, match="no GPU here"):
        best_engine("gpu")


@pytest.mark.parametrize("library", ["onednn", "torch"])
@pytest.mark.parametrize("first", ["", "import torch\n"])
def test_choosing_an_engine_leaves_torch_its_threads(first: str, library: str) -> None:
    """Whoever trains an encoder after a scan, in the same process, has all processors again."""
    torch_alone = "import torch\nprint(torch.get_num_threads())"
    without = "onednn.library = lambda: None\n" if library == "torch" else ""
    chosen = "exact.best_engine()\nbefore = exact.one_thread()\nexact.one_thread(before)\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    said = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for code in (torch_alone, f"{first}from clinome.stats import exact, onednn\n{without}{chosen}{torch_alone}")
    ]
    assert said[0] == said[1]
