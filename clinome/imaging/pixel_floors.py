"""Floors of a prediction from pictures: what pixels say without a network, learnt on the same people as the network.

    pixels, logistic      a coarse copy of the picture, in a ridge (numbers) or a logistic regression (classes)
    pixels, svm           the same in a support vector machine with a Gaussian kernel
    histogram, logistic   how many pixels have each brightness, wherever they are
    components, logistic  principal components of the training pictures
    blend                 the average of these

Called 'ridge' instead of 'logistic' for numbers. Beside them stand the floors that know no picture at all, of
:mod:`clinome.evaluate.floors`. Everything is learnt from the rows of ``fit_on``, or of the other folds.

References
----------
Cortes C, Vapnik V. Support-vector networks. Machine Learning 20:273–297 (1995), doi:10.1007/BF00994018. Cole JH et al. Predicting
brain age with deep learning from raw imaging data results in a reliable and heritable biomarker. NeuroImage 163:115–124 (2017),
doi:10.1016/j.neuroimage.2017.07.059: kernel methods on voxels come close to networks.

>>> pictures = np.random.default_rng(0).integers(0, 255, (40, 1, 12, 12)).astype(np.uint8)
>>> coarse_copies(pictures, side=6).shape, histograms(pictures, bins=8).shape
((40, 36), (40, 8))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import need
from clinome.evaluate.floors import linear, shares, training_mean
from clinome.evaluate.outcomes import class_names
from clinome.imaging.resample import resample

Images = Sequence[NDArray[Any]] | NDArray[Any]
_COMPONENTS = 40
_SIDE = 28  # pixels of the longest side of a coarse copy; of a volume, less
_BINS = 64
_ENDS = (0.001, 0.999)  # the darkest and brightest share of all pixels go into the outer bins


def coarse_copies(images: Images, *, dims: Literal[2, 3] = 2, side: int | None = None) -> NDArray[np.float32]:
    """Return each picture scaled down so that its longest side has ``side`` pixels, as a row: (n, n_pixels).

    Parameters
    ----------
    images
        n pictures or volumes (channels, *spatial), or as many views of each, (views, channels, *spatial). Where their sizes differ
        each is scaled, every side by itself, to the shape of a picture of the median sides.
    dims
        Axes of space.
    side
        By default 28 in 2-D (or the picture's own, if that is less), 14 in 3-D.
    """
    sides = [np.asarray(image).shape[-dims:] for image in images]
    spatial = [round(float(n)) for n in np.median(sides, axis=0)]
    longest = min(side or (_SIDE if dims == 2 else _SIDE // 2), max(spatial))
    shape = [max(round(n * longest / max(spatial)), 1) for n in spatial]
    rows = []
    for image, own in zip(images, sides, strict=True):
        step = [n / m for n, m in zip(own, shape, strict=True)]
        rows.append(resample(np.asarray(image).reshape(-1, *own), shape=shape, out_spacing=step, fill="edge").ravel())
    return np.stack(rows).astype(np.float32)


def histograms(images: Images, *, dims: Literal[2, 3] = 2, bins: int = _BINS) -> NDArray[np.float32]:
    """Return the share of each channel's pixels in each of ``bins`` equal steps of brightness: (n, channels · bins).

    Pixels of exactly the least value of all pictures (what lies outside of a masked organ) are left out. The steps run between the
    0.1 % and 99.9 % quantiles of all pictures and are not learnt from any target.
    """
    some = np.concatenate([np.asarray(image).ravel()[:: max(1, np.asarray(image).size // 4096)] for image in images])
    least = some.min()
    inside = some[some > least]
    low, high = np.quantile(inside if len(inside) else some, _ENDS).astype(np.float64)
    width = (high - low) / bins or 1.0
    rows = []
    for image in images:
        values = np.asarray(image)
        channels = values.reshape(-1, int(np.prod(values.shape[-dims:])))
        rows.append(np.concatenate([_shares(channel[channel > least], float(low), width, bins) for channel in channels]))
    return np.stack(rows).astype(np.float32)


def _shares(pixels: NDArray[Any], low: float, width: float, bins: int) -> NDArray[np.float64]:
    place = np.clip((pixels.astype(np.float64) - low) / width, 0, bins - 1).astype(np.intp)
    return np.bincount(place, minlength=bins) / max(len(pixels), 1)


def pixel_floors(
    images: Images,
    examples: pl.DataFrame,
    target: str,
    *,
    classes: bool,
    dims: Literal[2, 3] = 2,
    fit_on: Sequence[str] | None = ("train",),
    side: int | None = None,
    seed: int = 0,
) -> dict[str, pl.DataFrame]:
    """Predict ``target`` by each floor; return a table of ``core.schema.PREDICTIONS`` for each, by its name.

    Parameters
    ----------
    images, dims, side
        As :func:`coarse_copies`, a row of ``examples`` each.
    examples
        example_id, participant_id, split and ``target`` (null where unknown).
    classes
        Whether ``target`` is a class (text, whole numbers) and not a number.
    fit_on
        The splits to learn from; None: splits are folds, and each is predicted from the others.

    Raises
    ------
    SchemaError, CohortError
        As :func:`clinome.evaluate.floors.linear`.
    """
    pixels, brightness = coarse_copies(images, dims=dims, side=side), histograms(images, dims=dims)
    kind, of = ("classes", "logistic") if classes else ("number", "ridge")
    alone = shares if classes else training_mean
    pictures = {
        f"pixels, {of}": linear(examples, target, pixels, kind=kind, fit_on=fit_on, seed=seed),
        "pixels, svm": _fitted(examples, target, pixels, _svm(classes, seed), classes, fit_on),
        f"histogram, {of}": linear(examples, target, brightness, kind=kind, fit_on=fit_on, seed=seed),
        f"components, {of}": _fitted(examples, target, pixels, _on_components(classes, seed), classes, fit_on),
    }
    blend = next(iter(pictures.values()))
    predicted = [name for name in blend.columns if name.startswith("predicted:")]
    means = [np.mean([floor[name].to_numpy() for floor in pictures.values()], axis=0) for name in predicted]
    pictures["blend"] = blend.with_columns(pl.Series(name, mean) for name, mean in zip(predicted, means, strict=True))
    return {"shares" if classes else "mean": alone(examples, target, fit_on=fit_on), **pictures}


def _svm(classes: bool, seed: int) -> Callable[[int, int], Any]:
    names = ("svm", "pipeline", "preprocessing", "compose")
    svm, pipeline, scaling, compose = (need(f"sklearn.{name}", "imaging") for name in names)

    def make(n: int, n_features: int) -> Any:
        if classes:
            machine = svm.SVC(class_weight="balanced", decision_function_shape="ovr", random_state=seed)
        else:  # its penalty and its tube are in standard deviations of the target, whatever the unit
            machine = compose.TransformedTargetRegressor(svm.SVR(), transformer=scaling.StandardScaler())
        return pipeline.make_pipeline(scaling.StandardScaler(), machine)

    return make


def _on_components(classes: bool, seed: int) -> Callable[[int, int], Any]:
    names = ("decomposition", "linear_model", "pipeline", "preprocessing")
    decomposition, linear_model, pipeline, scaling = (need(f"sklearn.{name}", "imaging") for name in names)

    def make(n: int, n_features: int) -> Any:
        n_kept = max(min(_COMPONENTS, n // 2, n_features), 1)
        kept = decomposition.PCA(n_kept, random_state=seed, svd_solver="covariance_eigh" if n > 1000 else "full")
        model = (
            linear_model.LogisticRegression(C=0.1, max_iter=1000)
            if classes
            else linear_model.RidgeCV(alphas=list(10.0 ** np.arange(-2, 5)))
        )
        return pipeline.make_pipeline(scaling.StandardScaler(with_std=False), kept, scaling.StandardScaler(), model)

    return make


def _fitted(
    examples: pl.DataFrame,
    target: str,
    features: NDArray[np.float32],
    make: Callable[[int, int], Any],
    classes: bool,
    fit_on: Sequence[str] | None,
) -> pl.DataFrame:
    """Fit ``make(n_training_rows, n_features)`` on the rows to learn from, predict the others; fold by fold if ``fit_on`` is None.

    A support vector machine has no probabilities: its distance from the border goes through a sigmoid (several classes: a softmax),
    which keeps the order and is not calibrated.
    """
    template = (shares if classes else training_mean)(examples, target, fit_on=fit_on)  # checks the table, names the columns
    columns = [name for name in template.columns if name.startswith("predicted:")]
    split = examples["split"].to_numpy()
    truth = class_names(examples[target]) if classes else examples[target].cast(pl.Float64).fill_nan(None)
    known = truth.is_not_null().to_numpy()
    predicted = np.zeros((examples.height, len(columns)))
    parts = [(known & (split != one), split == one) for one in np.unique(split)] if fit_on is None else []
    for learn, answer in parts or [(known & np.isin(split, list(fit_on or ())), np.ones(len(split), dtype=bool))]:
        label = truth.filter(pl.Series(learn)).to_numpy()
        if classes and len(np.unique(label.astype(str))) < 2:
            predicted[answer, columns.index(f"predicted:{target}:{label[0]}")] = 1.0
            continue
        model = make(int(learn.sum()), features.shape[1]).fit(features[learn], label)
        if not classes:
            predicted[answer, 0] = model.predict(features[answer])
            continue
        places = [columns.index(f"predicted:{target}:{name}") for name in model.classes_]
        predicted[np.ix_(np.flatnonzero(answer), np.array(places))] = _probabilities(model, features[answer])
    return template.with_columns(pl.Series(name, predicted[:, j]) for j, name in enumerate(columns))


def _probabilities(model: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(features), dtype=np.float64)
    scores = np.asarray(model.decision_function(features), dtype=np.float64)
    scores = np.column_stack([np.zeros(len(scores)), scores]) if scores.ndim == 1 else scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
