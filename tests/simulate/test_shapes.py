"""Procedural pictures: the same for the same generator, and the numbers can be seen in them."""

from __future__ import annotations

import numpy as np

from clinome.simulate.shapes import draw_shapes


def test_the_same_generator_draws_the_same() -> None:
    one, numbers = draw_shapes(4, size=40, generator=np.random.default_rng(1))
    again, same = draw_shapes(4, size=40, generator=np.random.default_rng(1))
    assert np.array_equal(one, again)
    assert numbers.equals(same)
    assert not np.array_equal(one, draw_shapes(4, size=40, generator=np.random.default_rng(2))[0])


def test_the_numbers_can_be_seen() -> None:
    pictures, numbers = draw_shapes(300, size=32, generator=np.random.default_rng(3))
    mean = pictures.reshape(300, -1, 3).mean(axis=1)
    for channel, name in enumerate(("red", "green", "blue")):
        assert np.corrcoef(mean[:, channel], numbers[name])[0, 1] > 0.8
    assert np.corrcoef(numbers.to_numpy().T)[np.triu_indices(numbers.width, 1)].max() < 0.25
    dark = (pictures.max(axis=3) < 0.7 * mean.max(axis=1)[:, None, None]).mean(axis=(1, 2))
    assert np.corrcoef(dark, numbers["count"] + numbers["width"])[0, 1] > 0.4
