"""Do predicted probabilities mean what they say? The curve, its slope and error, and recalibration learnt on validation data.

``calibration_slope`` is that of a logistic regression of the truth on the logit of the prediction: below 1 predictions are too
extreme. ``calibration_in_the_large`` is the intercept when the slope is held at 1: above 0 predictions are too low. ``ece`` is the
expected calibration error over bins of equal width; it is above 0 by chance alone (about 0.07 of 200 perfectly calibrated
examples), which its interval makes up for in part. Of several classes it is that of the most probable one (Guo 2017).

Recalibration maps probabilities to better ones. It keeps the order of examples (isotonic regression: but for ties), and is never
learnt on test predictions.

References
----------
Cox DR. Two further applications of a model for binary regression. Biometrika 45:562–565 (1958), doi:10.1093/biomet/45.3-4.562.
Van Calster B et al. Calibration: the Achilles heel of predictive analytics. BMC Medicine 17:230 (2019),
doi:10.1186/s12916-019-1466-7.
Guo C, Pleiss G, Sun Y, Weinberger KQ. On calibration of modern neural networks. ICML, PMLR 70:1321–1330 (2017) (ECE, temperature).
Platt J. Probabilistic outputs for support vector machines. Advances in Large Margin Classifiers 61–74 (1999).
Zadrozny B, Elkan C. Transforming classifier scores into accurate multiclass probability estimates. KDD (2002),
doi:10.1145/775047.775151 (isotonic).

>>> generator = np.random.default_rng(1)
>>> fair = generator.random(4000)
>>> truth = (generator.random(4000) < fair).astype(int)
>>> extreme = expit(2 * logit(fair))  # as of an overconfident network
>>> found = fit_recalibration(truth, extreme, split="validation", method="temperature")
>>> bool(abs(found.scale - 0.5) < 0.05)
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Unpack, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize_scalar
from scipy.special import expit, log_softmax, logit

from clinome.core.errors import CohortError, SchemaError
from clinome.core.schema import CALIBRATION, check
from clinome.evaluate.discrimination import BRIER, LOG_LOSS
from clinome.evaluate.measuring import RESAMPLES, Array, Asked, Metric, Prepared, additive, estimate, measure, usable
from clinome.evaluate.outcomes import outcome
from clinome.evaluate.thresholds import refuse_test
from clinome.stats.resampling import bootstrap

Method = Literal["temperature", "platt", "isotonic"]
Sums = NDArray[np.float64]
_SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1, whose logits are infinite
_AT_ONCE = 1 << 22
_STEEPEST = 1e3  # on the standardised logit: a larger slope is a perfect separation, which has none
_FARTHEST = 60.0  # an intercept beyond it makes every probability 0 or 1


def calibration(
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    bins: int = 15,
    **asked: Unpack[Asked],
) -> pl.DataFrame:
    """Measure calibration: ``calibration_slope``, ``calibration_in_the_large``, ``ece``, ``brier`` and ``log_loss`` as METRICS.

    Parameters
    ----------
    truth, probability
        0 or 1 and the probability of 1, both (n,); or the number of the class and a probability a class (n, n_classes), of
        which only ``ece`` is measured.
    bins
        Of equal width, for ``ece``.
    asked
        See :class:`clinome.evaluate.measuring.Asked`.
    """
    given = np.asarray(probability, dtype=np.float64)
    alone = (ece(bins),) if given.ndim == 2 else (SLOPE, IN_THE_LARGE, ece(bins), BRIER, LOG_LOSS)
    return measure(
        alone,
        np.asarray(truth, dtype=np.float64),
        given,
        **asked,
    )


def ece(bins: int = 15) -> Metric:
    """Return the expected calibration error: mean over examples of |share of positives − mean probability| in their bin."""

    def terms(truth: Array, probability: Array) -> Sums:
        if probability.ndim == 2:
            confidence, right = probability.max(axis=1), probability.argmax(axis=1) == truth
        else:
            confidence, right = probability, truth == 1
        place = np.minimum((confidence * bins).astype(np.intp), bins - 1)
        return np.asarray((place[:, None] == np.arange(bins)) * (right - confidence)[:, None], dtype=np.float64)

    name = f"ece_{bins}" if bins != 15 else "ece"
    return Metric(name, additive(terms, lambda s, n: np.abs(s).sum(axis=1) / n), higher_is_better=False, rises=True)


def _regress(x: Sums, y: Sums, weights: Sums, start: Sums) -> Sums:
    """Return intercepts and slopes of the logistic regression of y on x for rows of weights (b, n): (b, 2), NaN where none is.

    Newton's method from ``start`` (2,); where that runs away, from no slope at all, from where steps are too short rather than too
    long: from a slope of 1 it never comes down to the 0.3 of an overconfident network.
    """
    centre, spread = float(x.mean()), float(x.std())
    if not spread > 0:
        return np.full((len(weights), 2), np.nan)
    z = (x - centre) / spread
    found = _newton(z, y, weights, np.array([start[0] + start[1] * centre, start[1] * spread]))
    lost = ~np.isfinite(found[:, 0])
    if lost.any():
        share = np.clip(y.mean(), _SMALLEST, 1 - _SMALLEST)
        found[lost] = _newton(z, y, weights[lost], np.array([logit(share), 0.0]))
    slope = found[:, 1] / spread
    return np.column_stack([found[:, 0] - slope * centre, slope])


def _newton(z: Sums, y: Sums, weights: Sums, start: Sums) -> Sums:
    """Return intercepts and slopes on z, whose standard deviation is about 1; NaN where Newton's method does not settle."""
    found = np.tile(start, (len(weights), 1))
    step = found
    for _ in range(50):
        p = expit(found[:, :1] + found[:, 1:] * z)
        rest, spread = weights * (y - p), weights * p * (1 - p)
        g0, h00, g1, h01, h11 = rest.sum(axis=1), spread.sum(axis=1), rest @ z, spread @ z, spread @ (z * z)
        det = h00 * h11 - h01 * h01
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.column_stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0]) / det[:, None]
        step = np.where(np.abs(det)[:, None] > 1e-300, step, np.nan)
        found = found + np.clip(step, -4.0, 4.0)
        if not (np.abs(step) > 1e-9).any():
            break
    settled = np.all((np.abs(step) <= 1e-6) & (np.abs(found) < _STEEPEST), axis=1, keepdims=True)
    return np.where(settled, found, np.nan)


def _shift(x: Sums, y: Sums, weights: Sums) -> Sums:
    """Return the intercept of the logistic regression of y on x whose slope is 1, for rows of weights (b, n): (b,)."""
    positives, all_of = weights @ y, weights.sum(axis=1)
    found, low, high = np.zeros(len(weights)), np.full(len(weights), -_FARTHEST), np.full(len(weights), _FARTHEST)
    for _ in range(100):
        p = expit(found[:, None] + x)
        gradient, curvature = (weights * (y - p)).sum(axis=1), (weights * p * (1 - p)).sum(axis=1)
        low, high = np.where(gradient > 0, found, low), np.where(gradient < 0, found, high)
        with np.errstate(invalid="ignore", divide="ignore"):
            newton = np.where(gradient == 0, found, found + gradient / curvature)
        new = np.where((newton >= low) & (newton <= high), newton, (low + high) / 2)  # halved where Newton leaves what is left
        moved, found = np.abs(new - found).max(), new
        if moved < 1e-9:
            break
    return np.where((positives > 0) & (positives < all_of), found, np.nan)


def _prepare_slope(truth: Array, probability: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
    x, y = logit(np.clip(probability, _SMALLEST, 1 - _SMALLEST)), truth.astype(np.float64)
    everybody = _regress(x, y, np.ones((1, len(x))), np.array([0.0, 1.0]))[0]
    start = np.where(np.isfinite(everybody), everybody, [0.0, 1.0])
    return _by_rows(lambda weights: _regress(x, y, weights, start)[:, 1], float(everybody[1]), person)


def _prepare_shift(truth: Array, probability: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
    x, y = logit(np.clip(probability, _SMALLEST, 1 - _SMALLEST)), truth.astype(np.float64)
    return _by_rows(lambda weights: _shift(x, y, weights), float(_shift(x, y, np.ones((1, len(x))))[0]), person)


def _by_rows(of: Callable[[Sums], Sums], value: float, person: NDArray[np.intp]) -> Prepared:
    """Return what is prepared of a number for weights of rows (b, n_rows)."""
    step = max(1, _AT_ONCE // len(person))

    def values(counts: Sums) -> Sums:
        return np.concatenate([of(counts[i : i + step][:, person]) for i in range(0, len(counts), step)])

    return Prepared(value, values, len(np.unique(person)))


SLOPE = Metric("calibration_slope", _prepare_slope, higher_is_better=None)
IN_THE_LARGE = Metric("calibration_in_the_large", _prepare_shift, higher_is_better=None)


def calibration_curve(
    truth: ArrayLike,
    probability: ArrayLike,
    *,
    participants: ArrayLike | None = None,
    bins: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pl.DataFrame:
    """Return the share of positives in ``bins`` of equal numbers of examples (equal predictions stay together): CALIBRATION.

    ``truth`` is 0 or 1, ``probability`` that of 1, both (n,). The bins are held fixed while people are resampled.
    """
    known, given, person, n = usable(truth, probability, participants)
    order = np.argsort(given, kind="stable")
    ascending = given[order]
    first = np.maximum.accumulate(np.where(np.append(True, ascending[1:] != ascending[:-1]), np.arange(len(order)), 0))
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.unique(first * bins // len(order), return_inverse=True)[1]
    rows = []
    means = [_mean(known[place == k], person[place == k], n) for k in range(int(place.max()) + 1)]
    draws = bootstrap([one.of for one in means], n, resamples=resamples, seed=seed)
    for k, one in enumerate(means):
        here = given[place == k]
        found, _ = estimate(one.value, draws[:, k], one.people)
        edges = {"from": float(here.min()), "to": float(here.max()), "predicted": float(here.mean()), "observed": one.value}
        rows.append(edges | {"lower": found.lower, "upper": found.upper, "n": len(here)})
    frame = pl.DataFrame(rows, schema={column.name: column.dtype for column in CALIBRATION.columns}, orient="row")
    return check(frame.with_columns(pl.col("lower", "upper").fill_nan(None)), CALIBRATION)


def _mean(values: Array, person: NDArray[np.intp], n_participants: int) -> Prepared:
    prepare = additive(lambda value, _: value[:, None].astype(np.float64), lambda s, n: s[:, 0] / n)
    return prepare(values, values, person, n_participants)


@dataclass(frozen=True)
class Recalibration:
    """A map from probabilities to better ones, in plain numbers.

    Attributes
    ----------
    method
        ``temperature``: logits times ``scale`` (1 / temperature). ``platt``: times ``scale`` plus ``shift``. ``isotonic``: straight
        lines through ``knots`` (probability before, after), level beyond them.
    split, n
        Where it was learnt, and on how many examples.
    """

    method: Method
    split: str
    n: int
    scale: float = 1.0
    shift: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()


def fit_recalibration(truth: ArrayLike, probability: ArrayLike, *, split: str, method: Method = "temperature") -> Recalibration:
    """Learn to recalibrate, on predictions of a split that is not 'test'.

    Parameters
    ----------
    truth, probability
        0 or 1 and the probability of 1, both (n,); for ``temperature`` also the number of the class (n,) and a probability a
        class (n, n_classes).
    method
        ``temperature`` (one number, the safest with few examples), ``platt`` (two), ``isotonic`` (any rising curve; hundreds of
        examples).

    Raises
    ------
    CohortError
        For test predictions, or examples of one class only.
    ValueError
        For an unknown method, or several classes with another method than ``temperature``.
    """
    refuse_test(split)
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(get_args(Method))}")
    known, given, _, _ = usable(np.asarray(truth, dtype=np.float64), np.asarray(probability, dtype=np.float64), None)
    if len(np.unique(known)) < 2:
        raise CohortError("recalibration needs examples of two classes", got=f"{len(known)} examples of one class")
    if given.ndim == 2 and method != "temperature":
        raise ValueError(f"{method!r} recalibrates a probability of one class; take 'temperature' for several")
    if method == "temperature":
        return Recalibration(method, split, len(known), scale=_temperature(known, given))
    if method == "platt":
        return Recalibration(method, split, len(known), *_platt(known, given))
    return Recalibration(method, split, len(known), knots=_isotonic(known, given))


def _temperature(truth: Sums, probability: Sums) -> float:
    """Return the factor of the logits with the smallest log loss."""
    if probability.ndim == 2:
        logits, rows = np.log(np.clip(probability, _SMALLEST, 1.0)), np.arange(len(truth))

        def loss(log_scale: float) -> float:
            return -float(log_softmax(np.exp(log_scale) * logits, axis=1)[rows, truth.astype(np.intp)].mean())
    else:
        signed = logit(np.clip(probability, _SMALLEST, 1 - _SMALLEST)) * (2 * truth - 1)

        def loss(log_scale: float) -> float:
            return float(np.logaddexp(0.0, -np.exp(log_scale) * signed).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(1e-2), np.log(1e2)), method="bounded", options={"xatol": 1e-8}).x))


def _platt(truth: Sums, probability: Sums) -> tuple[float, float]:
    """Return scale and shift of the logits; targets are drawn in a little, as Platt has it, so that there always is an answer."""
    positives = truth.sum()
    target = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2))
    x = logit(np.clip(probability, _SMALLEST, 1 - _SMALLEST))
    shift, scale = _regress(x, target, np.ones((1, len(x))), np.array([0.0, 1.0]))[0]
    if not np.isfinite(scale):
        raise CohortError("the probabilities do not vary enough to be recalibrated", got=f"{len(np.unique(probability))} values")
    return float(scale), float(shift)


def _isotonic(truth: Sums, probability: Sums) -> tuple[tuple[float, float], ...]:
    """Return the corners of the rising curve of least squares."""
    x, which, count = np.unique(probability, return_inverse=True, return_counts=True)
    mean = np.bincount(which, weights=truth) / count
    y = isotonic_regression(mean, weights=count).x
    corner = np.append(True, y[1:] != y[:-1]) | np.append(y[1:] != y[:-1], True)
    return tuple(zip(x[corner].tolist(), y[corner].tolist(), strict=True))


def recalibrate(probability: ArrayLike, recalibration: Recalibration) -> NDArray[np.float64]:
    """Return better probabilities, of the shape of ``probability``: (n,), or (n, n_classes) whose rows add up to 1."""
    given = np.asarray(probability, dtype=np.float64)
    if recalibration.method == "isotonic":
        before, after = zip(*recalibration.knots, strict=True)
        return np.asarray(np.interp(given, before, after))
    if given.ndim == 2:
        return np.asarray(np.exp(log_softmax(recalibration.scale * np.log(np.clip(given, _SMALLEST, 1.0)), axis=1)))
    return np.asarray(expit(recalibration.scale * logit(np.clip(given, _SMALLEST, 1 - _SMALLEST)) + recalibration.shift))


def recalibrate_predictions(
    predictions: pl.DataFrame, target: str, *, fit_on: str = "validation", method: Method = "temperature"
) -> tuple[pl.DataFrame, Recalibration]:
    """Learn on the rows of the split ``fit_on`` and return the table with all probabilities of ``target`` recalibrated.

    Raises
    ------
    CohortError
        For ``fit_on`` 'test', or no rows of it.
    SchemaError
        For a target that is a number.
    """
    refuse_test(fit_on)
    learnt, every = outcome(predictions, target, split=fit_on), outcome(predictions, target)
    if learnt.kind == "number":
        raise SchemaError(f"{target!r} is predicted as a number", expected=f"probabilities 'predicted:{target}:<class>'")
    found = fit_recalibration(learnt.truth, learnt.predicted, split=fit_on, method=method)
    better = recalibrate(every.predicted, found)
    columns = {f"predicted:{target}:{name}": better[:, j] for j, name in enumerate(every.classes)} if better.ndim == 2 else {}
    if better.ndim == 1:
        negative, positive = (f"predicted:{target}:{name}" for name in every.classes)
        columns = {positive: better} | ({negative: 1 - better} if negative in predictions.columns else {})
    return predictions.with_columns(pl.Series(name, values) for name, values in columns.items()), found
