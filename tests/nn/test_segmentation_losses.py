from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.nn import functional as F

from clinome.core.errors import StudyError
from clinome.nn.segmentation_losses import (
    UNKNOWN,
    border_weights,
    cross_entropy,
    dice_cross_entropy,
    focal_loss,
    over_levels,
    shares,
    soft_dice,
)

ALL = [cross_entropy, focal_loss, soft_dice, dice_cross_entropy]


def drawn(*space: int, classes: int = 3, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, classes, *space, generator=generator), torch.randint(0, classes, (2, *space), generator=generator)


@pytest.mark.parametrize("space", [(7, 5), (4, 5, 3)])
def test_cross_entropy_equals_torchs(space: tuple[int, ...]) -> None:
    scores, target = drawn(*space)
    torch.testing.assert_close(cross_entropy(scores, target), F.cross_entropy(scores, target))
    weights = torch.tensor([0.2, 1.0, 3.0])
    torch.testing.assert_close(
        cross_entropy(scores, target, class_weights=weights), F.cross_entropy(scores, target, weight=weights)
    )
    target[:, 0] = UNKNOWN
    torch.testing.assert_close(cross_entropy(scores, target), F.cross_entropy(scores, target, ignore_index=UNKNOWN))
    soft = torch.rand(scores.shape, generator=torch.Generator().manual_seed(3)).softmax(dim=1)
    torch.testing.assert_close(cross_entropy(scores, soft), F.cross_entropy(scores, soft))
    torch.testing.assert_close(focal_loss(scores, target, gamma=0.0), cross_entropy(scores, target))


@pytest.mark.parametrize("over_batch", [True, False])
@pytest.mark.parametrize("background", [True, False])
def test_dice_equals_monais(over_batch: bool, background: bool) -> None:
    losses = pytest.importorskip("monai.losses")
    scores, target = drawn(6, 5, 4)
    theirs = losses.DiceLoss(
        include_background=background, to_onehot_y=True, softmax=True, batch=over_batch, smooth_nr=1e-5, smooth_dr=1e-5
    )(scores, target[:, None])
    torch.testing.assert_close(soft_dice(scores, target, over_batch=over_batch, background=background), theirs)


def test_focal_equals_its_formula() -> None:
    scores, target = drawn(4, 4)
    p = scores.softmax(dim=1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(focal_loss(scores, target, gamma=2.0), (-((1 - p) ** 2) * p.log()).mean())


@pytest.mark.parametrize("loss", ALL)
def test_unknown_pixels_have_no_say(loss) -> None:  # type: ignore[no-untyped-def]
    scores, target = drawn(6, 6)
    target[:, 2:] = UNKNOWN
    other = scores.clone()
    other[:, :, 2:] = torch.randn(other[:, :, 2:].shape) * 9
    torch.testing.assert_close(loss(scores, target), loss(other, target))
    torch.testing.assert_close(loss(scores, target), loss(scores[:, :, :2], target[:, :2]))
    scores.requires_grad_()
    loss(scores, target).backward()
    assert scores.grad is not None
    assert float(scores.grad[:, :, 2:].abs().max()) == 0
    assert float(scores.grad[:, :, :2].abs().min()) > 0
    nobody = loss(scores, torch.full_like(target, UNKNOWN))
    assert torch.isfinite(nobody)


@pytest.mark.parametrize("loss", ALL)
def test_a_weight_of_two_is_the_pixel_twice(loss) -> None:  # type: ignore[no-untyped-def]
    scores, target = drawn(1, 8)
    weight = torch.ones(2, 1, 8)
    weight[..., :3] = 2
    twice = torch.cat([scores, scores[..., :3]], dim=-1), torch.cat([target, target[..., :3]], dim=-1)
    torch.testing.assert_close(loss(scores, target, weight), loss(*twice))


@given(st.integers(0, 99))
def test_dice_is_zero_for_the_truth_and_one_for_its_opposite(seed: int) -> None:
    scores, target = drawn(5, 5, seed=seed)
    sure = 40.0 * (2 * shares(scores, target).classes - 1)
    assert float(soft_dice(sure, target)) < 1e-4
    assert float(soft_dice(sure, (target + 1) % 3)) > 1 - 1e-4


def test_labels_of_another_shape() -> None:
    scores, target = drawn(4, 4)
    with pytest.raises(StudyError, match="do not fit the network's output"):
        cross_entropy(scores, target[:, :3])


def test_border_weights_are_the_papers() -> None:
    instances = np.zeros((40, 60), int)
    instances[10:30, 5:20], instances[12:28, 24:40], instances[2:6, 50:58] = 1, 2, 7
    weight = border_weights(instances)
    assert (weight[instances > 0] == 1).all()
    assert weight[20, 21] == pytest.approx(1 + 10 * np.exp(-((2 + 3) ** 2) / 50), rel=1e-5)
    by_hand = np.ones(instances.shape)
    points = [np.argwhere(instances == k) for k in (1, 2, 7)]
    for y, x in np.argwhere(instances == 0):
        d = sorted(float(np.sqrt(((p - (y, x)) ** 2).sum(axis=1)).min()) for p in points)
        by_hand[y, x] += 10 * np.exp(-((d[0] + d[1]) ** 2) / 50)
    assert_allclose(weight, by_hand, atol=0.004)
    assert (border_weights(np.zeros((5, 5), int)) == 1).all()
    assert (border_weights((instances == 1).astype(int)) == 1).all()  # one object has nothing to be kept apart from


def test_levels_count_half_as_much_each() -> None:
    scores, target = drawn(8, 8)
    coarse, _ = drawn(4, 4, seed=2)
    found = over_levels((scores, coarse), target, dice=0.5)
    at_coarse = target[:, 1::2, 1::2]  # of two pixels the nearer to the middle is a tie: the second
    expected = dice_cross_entropy(scores, target, dice=0.5) + dice_cross_entropy(coarse, at_coarse, dice=0.5) / 2
    torch.testing.assert_close(found, expected / 1.5)
    torch.testing.assert_close(over_levels(scores, target), dice_cross_entropy(scores, target))
