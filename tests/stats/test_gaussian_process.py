from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from clinome.core.errors import TraitError
from clinome.stats.gaussian_process import centred, gaussian_kernel, linear_kernel, log_likelihood, predict

Kernels = list[np.ndarray]


def people(n: int = 80, seed: int = 0) -> tuple[Kernels, np.ndarray]:
    generator = np.random.default_rng(seed)
    one, two = generator.normal(size=(n, 6)), generator.normal(size=(n, 4))
    return [linear_kernel(one), linear_kernel(two)], 50 + one @ np.arange(6.0) + 0.5 * generator.normal(size=n)


def test_equals_ridge_regression_at_the_weights_found() -> None:
    """One linear kernel is ridge regression with the penalty noise / weight."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(60, 5))
    y = x @ np.ones(5) + generator.normal(size=60)
    learn, answer = np.arange(45), np.arange(45, 60)
    found = predict([linear_kernel(x)], y, learn, answer)
    z = x - x[learn].mean(axis=0)
    scale = (z[learn] ** 2).sum(axis=1).mean()
    penalty = (found.noise + 1e-5) * scale / found.weights[0]
    slope = np.linalg.solve(z[learn].T @ z[learn] + penalty * np.eye(5), z[learn].T @ (y[learn] - y[learn].mean()))
    assert_allclose(found.mean, y[learn].mean() + z[answer] @ slope, rtol=1e-6)


def test_equals_scikit_learns_gaussian_process() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    generator = np.random.default_rng(2)
    x = generator.normal(size=(50, 2))
    y = np.sin(x[:, 0]) + 0.1 * generator.normal(size=50)
    learn, answer = np.arange(40), np.arange(40, 50)
    found = predict([linear_kernel(x)], y, learn, answer, gaussian=[True])
    pairs = ((x[learn][:, None] - x[learn]) ** 2).sum(axis=2)[np.triu_indices(40, 1)]
    kernel = ConstantKernel(found.weights[0]) * RBF(np.sqrt(np.median(pairs) / 2)) + WhiteKernel(found.noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = GaussianProcessRegressor(kernel, optimizer=None, alpha=1e-5, normalize_y=True).fit(x[learn], y[learn])
        mean, deviation = other.predict(x[answer], return_std=True)
        refined = GaussianProcessRegressor(kernel, alpha=1e-5, normalize_y=True).fit(x[learn], y[learn])
    assert_allclose(found.mean, mean, rtol=1e-4, atol=1e-5)
    assert_allclose(found.deviation, deviation, rtol=1e-3)
    assert other.log_marginal_likelihood_value_ <= refined.log_marginal_likelihood_value_ + 1e-6


def test_the_gradient_is_that_of_the_likelihood() -> None:
    kernels, y = people(30)
    kernels = [centred(kernel, np.arange(30)) for kernel in kernels] + [np.eye(30)]
    z, at = (y - y.mean()) / y.std(), np.log([0.4, 0.2, 0.3])
    slope = log_likelihood(kernels, z, at)[1]
    for k in range(3):
        step = 1e-5 * np.eye(3)[k]
        assert_allclose(
            (log_likelihood(kernels, z, at + step)[0] - log_likelihood(kernels, z, at - step)[0]) / 2e-5, slope[k], rtol=1e-4
        )


def test_left_out_predictions_are_those_of_a_fit_without_the_person() -> None:
    kernels, y = people()
    everybody = np.arange(len(y))
    found = predict(kernels, y, everybody, everybody[:1])
    inner = [centred(kernel, everybody) for kernel in kernels]
    covariance = sum(w * k for w, k in zip(found.weights, inner, strict=True)) + (found.noise + 1e-5) * np.eye(len(y))
    z = (y - y.mean()) / y.std()
    for person in (0, 7, 79):
        rest = np.delete(everybody, person)
        alone = covariance[person, rest] @ np.linalg.solve(covariance[np.ix_(rest, rest)], z[rest])
        assert_allclose(found.left_out[person], y.mean() + y.std() * alone, rtol=1e-6)


def test_deviations_cover_new_measurements() -> None:
    inside = []
    for seed in range(20):
        kernels, y = people(100, seed)
        answer = np.arange(60, 100)
        found = predict(kernels, y, np.arange(60), answer)
        inside.append(np.abs(found.mean - y[answer]) < 1.96 * found.deviation)
    assert 0.91 < np.mean(inside) < 0.98


def test_units_do_not_matter_and_nonsense_is_refused() -> None:
    kernels, y = people()
    learn, answer = np.arange(60), np.arange(60, 80)
    plain = predict(kernels, y, learn, answer)
    scaled = predict([1e4 * kernels[0], kernels[1] / 50], 3 * y - 7, learn, answer)
    assert_allclose(scaled.mean, 3 * plain.mean - 7, rtol=1e-4)
    assert_allclose(np.diag(gaussian_kernel(kernels[0], learn)), 1.0)
    with pytest.raises(TraitError, match="finite numbers that vary"):
        predict(kernels, np.ones(80), learn, answer)
