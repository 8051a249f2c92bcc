"""Pooling by attention: what it does with scores that are known."""

from __future__ import annotations

import pytest
import torch

from clinome.nn.soft_attention import Average, SoftAttention, pooling


def maps(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dims", [2, 3])
def test_equal_scores_are_the_plain_average(dims: int) -> None:
    pool, given = pooling("attention", 8, dims=dims), maps(3, 8, *(5,) * dims)
    assert isinstance(pool, SoftAttention)
    torch.nn.init.zeros_(pool.score.weight)
    torch.testing.assert_close(pool(given), Average()(given))
    torch.testing.assert_close(pool.weights(given), Average().weights(given))


def test_a_place_that_scores_far_above_the_others_is_all_that_counts() -> None:
    pool, given = SoftAttention(4), maps(1, 4, 6, 7)
    given[0, 2] = 0
    given[0, 2, 3, 5] = 1  # only here does channel 2 see anything
    for layer, weight in ((pool.look, 100.0), (pool.score, 1.0)):
        torch.nn.init.zeros_(layer.weight)
        layer.weight.data[0, 2 if layer is pool.look else 0] = weight
    torch.nn.init.zeros_(pool.look.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(pool(given), given[:, :, 3, 5])
    assert pool.weights(given)[0].argmax() == 3 * 7 + 5


def test_learns_where_to_look() -> None:
    """The answer stands in channel 0 where channel 1 is lit; everywhere else channel 0 is noise."""
    generator = torch.Generator().manual_seed(0)
    given, answer = torch.randn(64, 2, 6, 6, generator=generator), torch.randn(64, generator=generator)
    given[:, 1] = 0
    rows, columns = torch.randint(6, (2, 64), generator=generator)
    given[torch.arange(64), 1, rows, columns] = 4
    given[torch.arange(64), 0, rows, columns] = answer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pool = SoftAttention(2)
    optimiser = torch.optim.Adam(pool.parameters(), lr=0.05)
    for _ in range(150):
        error = (pool(given)[:, 0] - answer).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    where = pool.weights(given).detach()[torch.arange(64), rows, columns]
    assert float(error.detach()) < 0.02
    assert float(where.min()) > 0.8
