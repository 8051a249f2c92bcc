from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from clinome.core.errors import SchemaError
from clinome.nn.losses import nt_xent, supervised


def by_hand(z: torch.Tensor, groups: list[int], temperature: float) -> float:
    """Equation 1 of SimCLR (averaged over positives), one term at a time."""
    z = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(z)):
        positives = [j for j in range(len(z)) if j != i and groups[j] == groups[i]]
        below = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(len(z)) if k != i)
        if positives:
            terms.append(sum(-math.log(math.exp(float(z[i] @ z[j]) / temperature) / below) for j in positives) / len(positives))
    return sum(terms) / len(terms)


@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=4, max_size=10).filter(lambda g: len(set(g)) < len(g)))
def test_equals_the_definition(seed: int, groups: list[int]) -> None:
    z = torch.randn(len(groups), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(nt_xent(z, torch.tensor(groups), temperature=0.3)) == pytest.approx(by_hand(z, groups, 0.3), rel=1e-9)


def test_alike_rows_give_the_logarithm_of_the_others_and_length_does_not_count() -> None:
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    assert_close(nt_xent(torch.ones(6, 3), groups), torch.tensor(math.log(5)))
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert_close(nt_xent(z * torch.arange(1, 7)[:, None], groups), nt_xent(z, groups))


def test_groups_of_one_add_no_term_and_gradients_are_finite() -> None:
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    alone = nt_xent(z, torch.tensor([0, 1, 2]))
    assert alone.item() == 0.0
    nt_xent(z, torch.tensor([0, 0, 1])).backward()
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().sum() > 0


def test_supervised_takes_classes_and_numbers_and_refuses_to_broadcast() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert_close(supervised(scores, torch.tensor([0, 0])), torch.tensor(by_hand))
    assert_close(supervised(scores, torch.tensor([[2.0, 0.0], [0.0, 3.0]])), torch.tensor(1.0))
    with pytest.raises(SchemaError, match=r"\(2,\)(.|\n)*\(2, 2\)"):
        supervised(scores, torch.tensor([0.5, 1.0]))
