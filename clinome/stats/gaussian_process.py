"""Gaussian process regression on several kernels, each of a weight learnt by the marginal likelihood: for some hundreds of people.

    y ~ N(mean, s² (w₁ K₁ + … + w_k K_k + w₀ I))        w maximises the probability of y, on the people learnt from alone

A kernel is a table of how alike any two people are: products of their features. Kernels of different kinds (where tissue is, how
bright it is) are summed, and the likelihood sets the weight of one that says nothing to about zero, which cross-validation of a
few hundred people cannot do for more than one or two. What the others predict of a person learnt from comes in closed form.

References
----------
Rasmussen CE, Williams CKI. Gaussian Processes for Machine Learning. MIT Press (2006), equations 2.23–2.24, 5.8–5.9 (marginal
likelihood and its gradient) and 5.10–5.12 (leaving one out). Sonnenburg S et al. Large scale multiple kernel learning. JMLR
7:1531–1565 (2006).

>>> generator = np.random.default_rng(0)
>>> telling, silent = generator.normal(size=(2, 120, 5))
>>> y = telling @ np.ones(5) + 0.1 * generator.normal(size=120)
>>> found = predict([linear_kernel(telling), linear_kernel(silent)], y, np.arange(100), np.arange(100, 120))
>>> bool(np.corrcoef(found.mean, y[100:])[0, 1] > 0.98), bool(found.weights[1] < 0.02 * found.weights[0])
(True, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import NotConverged, TraitError

Floats = NDArray[np.float64]
_NUGGET = 1e-5  # of the variance; keeps the covariance invertible
_START = 0.3  # first weight of every kernel and of the noise
_LEAST, _MOST = np.log(1e-6), np.log(1e3)  # of a logarithm of a weight


class Predicted(NamedTuple):
    """What a Gaussian process says.

    Attributes
    ----------
    mean, deviation
        Of the people to answer, (n_answer,): the expected value, and the standard deviation of a new measurement around it.
    left_out
        Of each person learnt from, the mean predicted from all others, (n_learn,), at the weights found with everybody.
    weights, noise
        Of each kernel and of what none explains, in units of the variance of y.
    """

    mean: Floats
    deviation: Floats
    left_out: Floats
    weights: Floats
    noise: float


def linear_kernel(features: NDArray[np.floating]) -> Floats:
    """Return the products of all pairs of rows of ``features``, (n, n_features) to (n, n)."""
    rows = features.astype(np.float64)
    rows = rows - rows.mean(axis=0)
    return np.asarray(rows @ rows.T)


def centred(kernel: Floats, learn: NDArray[np.integer]) -> Floats:
    """Return ``kernel``, (n, n), as if features were centred on the people ``learn``, scaled to a mean diagonal of one there."""
    towards = kernel[:, learn].mean(axis=1)
    moved = kernel - towards[:, None] - towards[None] + kernel[np.ix_(learn, learn)].mean()
    scale = float(np.diag(moved)[learn].mean())
    return np.asarray(moved / scale if scale > 0 else moved)


def gaussian_kernel(kernel: Floats, learn: NDArray[np.integer]) -> Floats:
    """Return exp(−d² / median d²) from products ``kernel``, (n, n): the median is over pairs of different people of ``learn``."""
    size = np.diag(kernel)
    distance = np.maximum(size[:, None] + size[None] - 2 * kernel, 0.0)
    pairs = distance[np.ix_(learn, learn)][np.triu_indices(len(learn), 1)]
    middle = float(np.median(pairs)) if len(pairs) else 1.0
    return np.asarray(np.exp(-distance / (middle or 1.0)))


def predict(
    kernels: Sequence[Floats],
    y: NDArray[np.floating],
    learn: NDArray[np.integer],
    answer: NDArray[np.integer],
    *,
    gaussian: Sequence[bool] | None = None,
) -> Predicted:
    """Learn from the people ``learn`` and predict the people ``answer``.

    Parameters
    ----------
    kernels
        Products of features of all people, (n, n) each. They are centred and scaled on ``learn``.
    y
        Shape (n,); only ``y[learn]`` is looked at.
    gaussian
        Which kernels are turned into Gaussian ones (None: none).

    Raises
    ------
    TraitError
        When y is constant or not finite among the people learnt from.
    NotConverged
        When no weights can be found.
    """
    truth = np.asarray(y, dtype=np.float64)[learn]
    if len(truth) < 3 or not np.isfinite(truth).all() or np.ptp(truth) == 0:
        raise TraitError("a Gaussian process needs finite numbers that vary to learn from", got=f"{len(truth)} people")
    mean, scale = float(truth.mean()), float(truth.std())
    whole = [centred(kernel, learn) for kernel in kernels]
    turned = gaussian or [False] * len(whole)
    whole = [gaussian_kernel(kernel, learn) if turn else kernel for kernel, turn in zip(whole, turned, strict=True)]
    inner = [kernel[np.ix_(learn, learn)] for kernel in whole]
    weights = _weights([*inner, np.eye(len(truth))], (truth - mean) / scale)
    covariance = sum(w * kernel for w, kernel in zip(weights, inner, strict=False)) + (weights[-1] + _NUGGET) * np.eye(len(truth))
    inverse = np.linalg.inv(covariance)
    solved = inverse @ ((truth - mean) / scale)
    across = sum(w * kernel[np.ix_(answer, learn)] for w, kernel in zip(weights, whole, strict=False))
    own = sum(w * np.diag(kernel)[answer] for w, kernel in zip(weights, whole, strict=False)) + weights[-1]
    variance = np.maximum(own - np.einsum("ij,jk,ik->i", across, inverse, across), _NUGGET)
    left_out = truth - scale * solved / np.diag(inverse)
    return Predicted(mean + scale * (across @ solved), scale * np.sqrt(variance), left_out, weights[:-1], float(weights[-1]))


def log_likelihood(kernels: Sequence[Floats], y: Floats, logarithms: Floats) -> tuple[float, Floats]:
    """Return the log marginal likelihood of standardised ``y`` (up to a constant) and its gradient by the weights' logarithms.

    ``kernels``, (n, n) each, hold the noise's as the last.
    """
    weights = np.exp(logarithms)
    covariance = sum(w * kernel for w, kernel in zip(weights, kernels, strict=True)) + _NUGGET * np.eye(len(y))
    lower = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(covariance)
    solved = inverse @ y
    value = -0.5 * float(y @ solved) - float(np.log(np.diag(lower)).sum())
    slope = [
        0.5 * w * (float(solved @ kernel @ solved) - float((inverse * kernel).sum()))
        for w, kernel in zip(weights, kernels, strict=True)
    ]
    return value, np.array(slope)


def _weights(kernels: Sequence[Floats], y: Floats) -> Floats:
    """Return the weights of greatest likelihood."""
    from scipy.optimize import minimize

    def loss(logarithms: Floats) -> tuple[float, Floats]:
        value, slope = log_likelihood(kernels, y, logarithms)
        return -value, -slope

    start = np.full(len(kernels), np.log(_START))
    try:
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(_LEAST, _MOST)] * len(start), options={"maxiter": 100})
    except np.linalg.LinAlgError as error:
        raise NotConverged("the kernels are no covariance", got=error, do="look for features that are not finite") from error
    return np.asarray(np.exp(found.x))
