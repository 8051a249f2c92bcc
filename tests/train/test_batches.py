"""Draws: every example once an epoch, batches of equal size; the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.core.errors import StudyError
from clinome.train.batches import example_generator, permutation


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 5))
def test_an_epoch_shows_each_example_once_in_batches_of_nearly_one_size(n: int, size: int, seed: int) -> None:
    draw, step, epochs = permutation(n, size, seed=seed), 0, []
    for epoch in range(2):
        rows = []
        while (drawn := draw(step)).epoch == epoch:
            rows.append(drawn.rows)
            step += 1
        lengths = {len(some) for some in rows}
        assert max(lengths) - min(lengths) <= 1
        assert max(lengths) <= 1.5 * size
        epochs.append(np.concatenate(rows))
        assert sorted(epochs[-1]) == list(range(n))
    assert n < 10 or not np.array_equal(*epochs)


def test_steps_may_be_asked_for_in_any_order() -> None:
    one, other = permutation(30, 7, seed=2), permutation(30, 7, seed=2)
    forward = [one(step).rows for step in range(9)]
    for step in (8, 0, 4, 5, 1):
        assert np.array_equal(other(step).rows, forward[step])


def test_the_last_examples_sit_out_where_all_batches_must_be_whole() -> None:
    draw = permutation(10, 4, seed=1, drop_last=True)
    assert [len(draw(step).rows) for step in range(4)] == [4, 4, 4, 4]
    assert draw(2).epoch == 1


def test_no_batch_is_of_one_example() -> None:
    for n, size in ((3, 2), (5, 3), (2, 2), (7, 2)):
        draw = permutation(n, size, seed=1)
        assert min(len(draw(step).rows) for step in range(n // size)) >= 2


def test_too_few_examples() -> None:
    with pytest.raises(StudyError, match=r"(?s)too few examples.*3 examples, batches of 4"):
        permutation(3, 4, seed=1, drop_last=True)


def test_the_generator_of_an_example_depends_on_all_three() -> None:
    first = {(s, e, r): example_generator(s, e, r).random() for s in range(3) for e in range(3) for r in range(3)}
    assert len(set(first.values())) == 27
    assert first[1, 2, 0] == example_generator(1, 2, 0).random()


def test_the_augmentation_of_an_example_is_not_the_order_of_its_epoch() -> None:
    order = permutation(8, 8, seed=1)(2).rows
    assert not any(np.array_equal(example_generator(1, 2, row).permutation(8), order) for row in range(8))
