from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.core.errors import NotConverged
from clinome.imaging.axes import block_scale, held_out_scores, person_means, principal_axes, variance_shares, within_covariance
from clinome.stats.reliability import icc


def pictures(n_people: int = 400, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Three traits of decreasing spread between people, mixed into eight features with unequal noise."""
    generator = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_people), 3)
    traits = generator.normal(size=(n_people, 3)) * [4.0, 2.0, 1.0]
    mix = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    noise = generator.normal(size=(len(person), 8)) * [0.2, 0.2, 0.2, 6.0, 0.2, 0.2, 0.2, 0.2]
    return np.hstack([traits[person], np.zeros((len(person), 5))]) @ mix + noise @ mix, person


def test_means_and_within_covariance_equal_the_textbook() -> None:
    values, person = pictures(20)
    means = person_means(values, person, 21)
    np.testing.assert_allclose(means[4], values[person == 4].mean(axis=0))
    assert np.isnan(means[20]).all()
    pooled = sum(np.cov(values[person == k].T, ddof=1) for k in range(20)) / 20
    reduce = np.random.default_rng(1).normal(size=(8, 3))
    found = within_covariance(values, person, means, reduce)
    assert found is not None
    np.testing.assert_allclose(found[0], reduce.T @ pooled @ reduce)
    assert within_covariance(values[::3], person[::3], means, reduce) is None


def test_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    from sklearn.covariance import ledoit_wolf

    values = np.random.default_rng(1).normal(size=(300, 40)) * np.linspace(0.2, 3, 40)
    values -= values.mean(axis=0)
    person = np.zeros(300, dtype=np.int64)  # one person: within is all there is
    found = within_covariance(values, person, np.zeros((1, 40)), np.eye(40))
    assert found is not None
    assert found[1] == pytest.approx(ledoit_wolf(values, assume_centered=True)[1], rel=0.02)  # 299 free against 300


def test_what_differs_within_people_is_not_taken_for_a_difference_between_them() -> None:
    values, person = pictures()
    axes = principal_axes(values, person, np.arange(400), dimensions=3)
    scores = axes.of(values)
    between = person_means(scores, person, 400).var(axis=0)
    assert (between / (scores - person_means(scores, person, 400)[person]).var(axis=0) > 10).all()
    plain = principal_axes(person_means(values, person, 400), np.arange(400), np.arange(400), dimensions=3)
    noisy = plain.of(values)
    share = person_means(noisy, person, 400).var(axis=0) / (noisy - person_means(noisy, person, 400)[person]).var(axis=0)
    assert share.min() < 1  # plain components would have kept the noise


def test_one_picture_a_person_is_plain_principal_components() -> None:
    values, _ = pictures()
    people = values[::3]
    axes = principal_axes(people, np.arange(400), np.arange(400), dimensions=4)
    _, _, vt = np.linalg.svd(people - people.mean(axis=0), full_matrices=False)
    lengths = np.linalg.norm(axes.loadings, axis=0)  # all alike: one block, one factor
    np.testing.assert_allclose(np.abs((axes.loadings * vt[:4].T).sum(axis=0)), lengths, rtol=1e-8)
    np.testing.assert_allclose(lengths, lengths[0])
    assert (axes.loadings[np.argmax(np.abs(axes.loadings), axis=0), np.arange(4)] > 0).all()


@given(st.integers(0, 100))
def test_the_order_of_pictures_does_not_matter(seed: int) -> None:
    values, person = pictures(60)
    order = np.random.default_rng(seed).permutation(len(values))
    first = principal_axes(values, person, np.arange(60), dimensions=3)
    again = principal_axes(values[order], person[order], np.arange(60), dimensions=3)
    np.testing.assert_allclose(again.of(values), first.of(values), atol=1e-7)


def test_axes_do_not_look_at_people_they_are_not_fitted_on() -> None:
    values, person = pictures(60)
    some = np.arange(30)
    wild = values.copy()
    wild[person == 50] += 1000.0  # shifts a person's mean, not what differs within them
    np.testing.assert_allclose(
        principal_axes(wild, person, some, dimensions=2).loadings,
        principal_axes(values, person, some, dimensions=2).loadings,
        atol=1e-6,
    )


def test_shares_of_variance_add_up_and_lie_in_their_intervals() -> None:
    values, person = pictures()
    axes = principal_axes(values, person, np.arange(400), dimensions=8)
    shares = variance_shares(person_means(values, person, 400), axes, seed=1)
    assert sum(s.value for s in shares) == pytest.approx(1)
    assert all(s.lower <= s.value <= s.upper and s.n == 400 for s in shares)
    assert [s.value for s in shares] == sorted((s.value for s in shares), reverse=True)


def test_blocks_of_other_units_weigh_alike() -> None:
    values, person = pictures()
    other = pictures(seed=2)[0]
    both = np.hstack([values, other])
    first = principal_axes(both, person, np.arange(400), dimensions=3, widths=(8, 8)).of(both)
    both[:, 8:] *= 1e4
    again = principal_axes(both, person, np.arange(400), dimensions=3, widths=(8, 8)).of(both)
    np.testing.assert_allclose(np.abs(again), np.abs(first), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(block_scale(both, (8, 8)) ** 2 @ both.var(axis=0), 2)
    assert block_scale(np.ones((3, 2)), (1, 1)).tolist() == [0, 0]


def test_more_axes_than_there_are() -> None:
    values, _person = pictures()
    flat = values[:, :1] * np.ones(5)
    with pytest.raises(NotConverged, match=r"1 axes(.|\n)*ask for 1 dimensions"):
        principal_axes(flat, np.arange(len(flat)), np.arange(len(flat)), dimensions=3)
    with pytest.raises(NotConverged, match="all alike"):
        principal_axes(np.ones((9, 4)), np.arange(9), np.arange(9), dimensions=1)


def test_reliability_of_held_out_people_is_that_of_new_people_where_noise_looks_reliable_in_its_own() -> None:
    """Three traits among 150 features: eight axes are asked for, so that five are noise."""
    generator = np.random.default_rng(3)
    n, people, person = 300, np.arange(300), np.repeat(np.arange(300), 2)
    mix = generator.normal(size=(3, 150)) / 3

    def drawn() -> np.ndarray:
        traits = generator.normal(size=(n, 3)) * [3.0, 2.0, 1.0]
        return traits[person] @ mix + generator.normal(size=(2 * n, 150))

    def agreement(scores: np.ndarray) -> np.ndarray:
        return np.array([icc(scores[:, j].reshape(n, 2), resamples=2, seed=0).value for j in range(8)])

    features = drawn()
    axes = principal_axes(features, person, people, dimensions=8)
    own, new = agreement(axes.of(features)), agreement(axes.of(drawn()))
    held_out = agreement(held_out_scores(features, person, people, axes, widths=[150], seed=1))
    assert (new[:3] > 0.8).all()
    assert (np.abs(new[3:]) < 0.2).all()
    assert (own[3:] > 0.25).all()  # what the axes say of the people whom they were fitted to
    np.testing.assert_allclose(held_out[:3], new[:3], atol=0.06)
    assert (held_out[3:] < 0.2).all()


def test_too_few_people_to_hold_any_out_have_no_held_out_score() -> None:
    features, person = pictures(5)
    axes = principal_axes(features, person, np.arange(5), dimensions=4)
    assert np.isnan(held_out_scores(features, person, np.arange(5), axes, widths=[8], seed=1)).all()
