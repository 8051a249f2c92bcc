"""Integrated gradients against closed forms, their completeness, and models left as they were found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clinome.core.errors import NotConverged
from clinome.explain import baselines
from clinome.explain.asking import answers, borrowed, gradients
from clinome.explain.completeness import add_up, allowance, check
from clinome.explain.gradients import integrated_gradients, smoothgrad


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)  # type: ignore[no-any-return,operator]


def picture_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def test_a_linear_model_is_weight_times_the_way() -> None:
    model = nn.Linear(5, 3).double()
    x, start = torch.randn(4, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    found = integrated_gradients(model, x, target=2, baseline=baselines.examples(start))
    torch.testing.assert_close(found.values, model.weight[2].detach() * (x - start))
    assert found.steps.tolist() == [9] * 4


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x[:, 0] * x[:, 1], lambda x: torch.stack([x[:, 0] * x[:, 1] / 2] * 2, dim=1)),  # ∫ α x₁ x₀ dα
        (lambda x: (x**2).sum(dim=1), lambda x: x**2),
        (lambda x: torch.exp(x).sum(dim=1), lambda x: torch.exp(x) - 1),
    ],
)
def test_nonlinear_closed_forms(function: object, expected: object) -> None:
    x = torch.randn(6, 2, dtype=torch.float64)
    found = integrated_gradients(Of(function), x, tolerance=1e-5)
    torch.testing.assert_close(found.values, expected(x), rtol=1e-3, atol=1e-5)  # type: ignore[operator]


def test_symmetric_inputs_get_equal_shares_and_unused_ones_nothing() -> None:
    x = torch.tensor([[2.0, 2.0, 7.0]])
    values = integrated_gradients(Of(lambda x: torch.relu(x[:, 0] + x[:, 1] - 1)), x).values
    assert values[0, 0] == values[0, 1]
    assert values[0, 2] == 0


def test_a_network_adds_up_and_hard_examples_take_more_steps() -> None:
    model, x = picture_network(), torch.randn(5, 2, 8, 8)
    found = integrated_gradients(model, x, target=torch.tensor([0, 1, 2, 0, 1]), baseline=baselines.blurred(2.0))
    assert found.completeness.holds.all()
    assert set(found.steps.tolist()) <= {9, 27, 81, 243, 729, 2187}
    difference = answers(model, x, target=1)[1] - answers(model, baselines.blurred(2.0)(x)[0], target=1)[1]
    assert abs(float(found.values[1].sum()) - float(difference)) <= 0.01 * abs(float(difference)) + 1e-4


def test_batches_do_not_matter() -> None:
    model, x = picture_network(), torch.randn(5, 2, 8, 8)
    target, start = torch.tensor([0, 1, 2, 0, 1]), baselines.examples(torch.randn(3, 2, 8, 8))
    few = integrated_gradients(model, x, target=target, baseline=start, batch_size=2)
    many = integrated_gradients(model, x, target=target, baseline=start, batch_size=64)
    torch.testing.assert_close(few.values, many.values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(few.steps, many.steps)


def test_several_baselines_are_averaged() -> None:
    model, x, starts = nn.Linear(4, 1).double(), torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    values = integrated_gradients(model, x, baseline=baselines.examples(starts)).values
    torch.testing.assert_close(values, model.weight.detach() * (x - starts.mean(dim=0)))


def test_a_jump_is_reported_and_can_be_marked() -> None:
    jump = Of(lambda x: x[:, 0] + torch.floor(x[:, 1]).detach())
    x = torch.tensor([[1.0, 0.5], [1.0, 3.5]])
    with pytest.raises(NotConverged, match=r"(?s)do not add up.*example 1; 1 of 2.*a sum of 1.*expected: 4"):
        integrated_gradients(jump, x)
    marked = integrated_gradients(jump, x, when_missed="mark")
    assert marked.completeness.holds.tolist() == [True, False]
    assert marked.steps.tolist() == [9, 81]  # more steps do not bring it nearer


def test_a_flat_baseline_under_an_instance_norm_is_a_jump_and_a_blurred_one_is_not() -> None:
    torch.manual_seed(3)
    norm = nn.InstanceNorm2d(4, eps=1e-12)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(4 * 14 * 14, 1))
    x = torch.randn(2, 1, 16, 16)
    with pytest.raises(NotConverged, match="take another baseline"):
        integrated_gradients(model, x)
    assert integrated_gradients(model, x, baseline=baselines.blurred(1.0)).completeness.holds.all()


def test_completeness_refuses_what_is_no_attribution() -> None:
    model, x = picture_network(), 3 * torch.randn(3, 2, 8, 8)
    zero = baselines.constant()
    good = integrated_gradients(model, x, target=0).values
    assert check(model, x, good, target=0, baseline=zero).holds.all()
    for bad in (gradients(model, x, target=0), good / good.abs().max(), good * torch.nan):
        with pytest.raises(NotConverged, match="do not add up"):
            check(model, x, bad, target=0, baseline=zero)
    with pytest.raises(NotConverged, match="do not add up"):
        check(model, x, good, target=1, baseline=zero)  # the wrong class


def test_nothing_to_explain_holds_only_for_nothing() -> None:
    assert add_up(torch.zeros(1, 4), explained=torch.zeros(1)).holds.all()
    assert not add_up(torch.full((1, 4), 1e-3), explained=torch.zeros(1)).holds.any()


def test_where_for_and_against_cancel_the_parts_say_how_exact_they_must_be() -> None:
    parts = torch.tensor([[50.0, -49.0], [1.0, 0.0], [0.0, 0.0]])
    explained = torch.tensor([1.0, 1.0, 0.0])
    allowed = allowance(explained, size=parts.abs().sum(dim=1), tolerance=0.01, scale=torch.tensor([0.0, 0.0, 5.0]))
    assert allowed.tolist() == pytest.approx([0.01 * 9.9, 0.01, 0.01 * 0.05], rel=1e-6)
    off = parts + torch.tensor([[0.09, 0.0], [0.011, 0.0], [0.001, 0.0]])
    assert add_up(off, explained=explained, scale=torch.tensor([0.0, 0.0, 5.0])).holds.tolist() == [True, False, False]


def test_the_model_is_left_as_it_was() -> None:
    model, x = picture_network(), torch.randn(2, 2, 8, 8)
    model[0].weight.requires_grad_(False)
    model[1].eval()
    model.train()
    model[1].eval()
    model[6].bias.grad = torch.ones(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    integrated_gradients(model, x, target=0)
    smoothgrad(model, x, target=0, generator=generator)
    with pytest.raises(ValueError, match="one number an example"):
        gradients(model, x)
    assert [m.training for m in model] == [True, False, True, True, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert model[6].bias.grad.tolist() == [1, 1, 1]
    assert [p.grad is None for p in model.parameters()] == [True] * 5 + [False]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert x.grad is None
    assert not x.requires_grad


def test_other_inputs_are_held_fixed() -> None:
    model = Of(lambda x, age: (x.sum(dim=1) * age)[:, None])
    x, age = torch.rand(5, 3), torch.arange(1.0, 6.0)
    values = integrated_gradients(model, x, others=(age,), batch_size=2).values
    torch.testing.assert_close(values, x * age[:, None])


def test_smoothgrad_of_a_quadratic_and_its_seed() -> None:
    model, x = Of(lambda x: (x**2).sum(dim=1)), torch.rand(3, 50)

    def smooth(batch_size: int, **more: object) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        return smoothgrad(model, x, generator=generator, samples=400, noise=0.1, batch_size=batch_size, **more)  # type: ignore[arg-type]

    torch.testing.assert_close(smooth(7), smooth(64))
    error = smooth(64) - 2 * x  # the mean of 2(x + noise)
    assert error.abs().max() < 5 * 2 * 0.1 / 400**0.5
    assert (smooth(64, squared=True) >= 4 * x**2 - 0.2).all()


def test_baselines() -> None:
    x = torch.rand(2, 1, 9, 9, 9)
    assert baselines.constant(0.3)(x).unique().tolist() == pytest.approx([0.3])
    flat = torch.full((1, 1, 9, 9), 0.7)
    torch.testing.assert_close(baselines.blurred(1.5)(flat)[0], flat)
    spot = torch.zeros(1, 1, 31, 31)
    spot[0, 0, 15, 15] = 1
    assert float(baselines.blurred(2.0)(spot)[0, 0, 0, 15, 15]) == pytest.approx(1 / (2 * torch.pi * 4), rel=0.02)
    assert baselines.blurred(1.0)(x).shape == (1, 2, 1, 9, 9, 9)
    own = torch.rand(2, 1, 9, 9, 9)
    assert torch.equal(baselines.own(own)(x)[0], own)
    with pytest.raises(ValueError, match="own baselines"):
        baselines.own(own[:1])(x)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        gradients(nn.Embedding(3, 2), torch.zeros(2, dtype=torch.int64), target=0)
    with pytest.raises(ValueError, match="does not depend"):
        gradients(Of(lambda x: x.detach()), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="as a function of it"):
        gradients(nn.Conv2d(1, 2, 1), torch.zeros(2, 1, 3, 3), target=1)
    with pytest.raises(ValueError, match="not a tensor"):
        answers(Of(lambda x: {"out": x}), torch.zeros(2, 1), target=1)
    assert answers(nn.Conv2d(1, 2, 1), torch.zeros(0, 1, 3, 3)).shape == (0,)


def test_borrowed_gives_back_after_an_error() -> None:
    model = picture_network()
    with pytest.raises(RuntimeError), borrowed(model):
        raise RuntimeError
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
