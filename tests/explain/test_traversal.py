"""Averages along an axis: people weigh the same, few are withheld, covariates leave, and the network's own direction is found."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch import nn

from clinome.explain.response import direction, response
from clinome.explain.traversal import slope_weights, traverse, weighted_means


def test_a_person_counts_once_and_few_people_are_withheld() -> None:
    score = np.array([0.0] * 6 + [1.0] * 5 + [2.0] * 4)
    person = np.array([0, 0, 0, *range(15), -1])
    grey = np.array([90, 90, 90, *np.where(score == 0, 10, np.where(score == 1, 20, 30)), 255], dtype=np.uint8)
    grey[3] = 10 + 80  # person 0: four pictures of 90
    pictures = np.repeat(grey, 4).reshape(-1, 2, 2)
    along = traverse(pictures, person, score)
    assert along.people.tolist() == [6, 5, 4]
    assert_allclose(along.means[0], (5 * 10 + 90) / 6, rtol=1e-6)
    assert_allclose(along.means[1], 20)
    assert np.isnan(along.means[2]).all()
    assert along.lower.tolist() == along.upper.tolist() == [0, 1, 2]
    few = traverse(pictures[3:10], np.arange(7), score[:7], fewest=5)
    assert np.isnan(few.difference).all()


def test_groups_are_quantiles_and_people_without_score_or_picture_stay_out() -> None:
    generator = np.random.default_rng(0)
    score = generator.normal(size=100)
    score[:10] = np.nan
    along = traverse(np.zeros((90, 2, 2)), np.arange(5, 95), score, groups=4)
    assert along.people.sum() == 85
    assert np.ptp(along.people) <= 1
    assert (along.upper[:-1] <= along.lower[1:]).all()


def test_the_difference_is_a_regression_slope_without_covariates(generator: np.random.Generator) -> None:
    n = 400
    camera = generator.integers(0, 2, n).astype(float)
    score = generator.normal(size=n) + 2 * camera
    pictures = np.zeros((n, 1, 3))
    pictures[:, 0, 0], pictures[:, 0, 1] = 3 * score, 7 * camera
    raw = traverse(pictures, np.arange(n), score).difference
    clean = traverse(pictures, np.arange(n), score, covariates=camera[:, None]).difference
    assert_allclose(raw[0, 0], 3 * score.std(), rtol=1e-5)
    assert raw[0, 1] > 1
    assert_allclose(clean[0], [3 * score.std(), 0, 0], atol=1e-4)
    design = np.column_stack([np.ones(n), score, camera])
    values = generator.normal(size=n)
    slope = np.linalg.lstsq(design, values, rcond=None)[0][1]
    assert_allclose(slope_weights(score, camera[:, None]) @ values, slope * score.std())
    assert not slope_weights(camera, camera[:, None]).any()
    assert not slope_weights(np.ones(5)).any()


def test_weighted_means_over_many_chunks(generator: np.random.Generator) -> None:
    pictures = generator.integers(0, 255, size=(1300, 3, 4)).astype(np.uint8)
    person = generator.integers(0, 200, size=1300)
    weights = generator.normal(size=(2, 200))
    means = np.array([pictures[person == k].mean(axis=0) if (person == k).any() else np.zeros((3, 4)) for k in range(200)])
    assert_allclose(weighted_means(weights, person, pictures), np.einsum("wk,kij->wij", weights, means), atol=0.05)


def test_an_alleles_direction_and_where_it_responds(generator: np.random.Generator) -> None:
    torch.manual_seed(0)
    copies = generator.integers(0, 3, size=300).astype(float)
    x = torch.from_numpy(generator.normal(size=(300, 1, 4, 4))).float()
    x[:, 0, 1, 2] += torch.from_numpy(copies).float()  # the allele changes one pixel
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16, bias=False))
    nn.init.orthogonal_(model[1].weight)
    features = model(x).detach().numpy().astype(np.float64)
    along = direction(features, copies)
    assert_allclose(np.linalg.norm(along), 1, rtol=1e-6)
    found = response(model, x, along=along, batch_size=37)
    assert int(found.size.argmax()) == int(found.mean.argmax()) == 6
    torch.testing.assert_close(found.mean, (along @ model[1].weight.detach()).reshape(1, 4, 4))
    assert not direction(features, np.ones(300)).any()


def test_the_standard_error_is_that_of_regression_and_chance_is_told_from_change(generator: np.random.Generator) -> None:
    n = 60
    score, camera = generator.normal(size=n), generator.integers(0, 2, n).astype(float)
    own = np.repeat(np.arange(n), 2)  # two pictures a person: their average is the person's
    grain = generator.normal(size=(n, 6, 5))
    grain[:, 0, 0] += 2 * score
    pictures = np.repeat(grain, 2, axis=0) + np.tile([1.0, -1.0], n)[:, None, None]
    along = traverse(pictures, own, score, covariates=camera[:, None])
    design = np.column_stack([np.ones(n), score, camera])
    inverse = np.linalg.inv(design.T @ design)
    for place in ((0, 0), (3, 2)):
        values = grain[(slice(None), *place)]
        beta, left, *_ = np.linalg.lstsq(design, values, rcond=None)
        assert_allclose(along.difference[place], beta[1] * score.std(), rtol=1e-6)
        assert_allclose(along.standard_error[place], np.sqrt(left[0] / (n - 3) * inverse[1, 1]) * score.std(), rtol=1e-6)
    assert along.freedom == n - 3
    clear = along.clear_of_chance()
    assert clear[0, 0]
    assert clear.sum() <= 2


def test_people_are_grouped_by_whole_copies_and_regressed_on_dosages() -> None:
    dosage = np.array([0.1, 0.0, 0.2, 0.1, 0.0, 0.9, 1.0, 1.1, 1.0, 0.9, 2.0, 1.9, 2.0, 1.8, 2.0])
    pictures = np.repeat(10 * dosage[:, None], 4, axis=1).reshape(-1, 2, 2)
    along = traverse(pictures, np.arange(15), dosage, alike=np.rint(dosage))
    assert along.people.tolist() == [5, 5, 5]
    assert_allclose(along.means[:, 0, 0], [0.8, 9.8, 19.4])
    assert_allclose(along.difference / dosage.std(), 10)
    assert_allclose(along.upper, [0.2, 1.1, 2.0])
