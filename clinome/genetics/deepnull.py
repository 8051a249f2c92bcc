"""What covariates say about a trait beyond straight lines, predicted for each person by networks that never saw them.

DeepNull (McCaw et al. 2022): the prediction is added to a scan as *one more covariate* beside the linear ones; nothing is
residualised. Variance that age, sex and their like explain in curves and interactions leaves the noise, so true associations
gain by (1 − R²_linear) / (1 − R²_full) in χ², and null variants keep their level because no person's own trait reaches their
prediction:

    fold            1         2         3         4         5        families whole, the same whatever the order of rows
    network 1   validate  predict    train     train     train
    network 2    train    validate  predict    train     train       … and so on; the kept state of a network is the one with
    network 5   predict    train     train     train    validate     the best validation correlation (Pearson's)

Everybody with complete covariates gets one prediction, also people who lack the trait; nobody else does.

Where this departs from the published training, which is ``Config.published()``: 1,000 epochs at a learning rate of 1e-4 are
for hundreds of thousands of people; in a few thousand they learn the noise. The default takes larger steps that decay to
zero, in smaller batches, with weight decay, and fits 16 traits of 4,000 people in about 40 seconds on one core. In both, the
networks start from the mean, 0/1 traits are fitted by squared error, as the linear scan takes them, and the correlation of
the chosen state is of the validation fold. Beside the networks run two floors on the same folds, a linear and a second-order
ridge (squares and products, as age² and age × sex), so that ``quality`` shows whether the networks were worth it.

Reference: McCaw ZR, Colthurst T, Yun T, et al. Nat Commun 13, 241 (2022), doi:10.1038/s41467-021-27930-0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.splits import families, folds
from clinome.core.errors import CohortError, NotConverged, TraitError, need
from clinome.core.progress import track
from clinome.core.schema import METRICS, check
from clinome.stats.reliability import interval, resampled_sums

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_Metric = tuple[str, float | None, float | None, float | None, str, str]

_RESAMPLES = 1_000
_PENALTIES = np.logspace(-4, 2, 13)  # of the ridge floors, per unit of a standardised column's variance
_MOST_PRODUCTS = 24  # with more covariates than this, the second-order floor has squares but no products


@dataclass(frozen=True)
class Config:
    """How the networks are trained.

    ``decay`` lets the learning rate fall to zero along half a cosine; without it the rate stays. ``weight_decay`` is AdamW's
    (shares of a weight per unit of learning rate). ``folds`` is at least 3: one to validate on, one to predict, the rest to
    train on.
    """

    folds: int = 5
    widths: tuple[int, ...] = (64, 64, 32, 16)
    epochs: int = 30
    batch: int = 256
    learning_rate: float = 5e-3
    betas: tuple[float, float] = (0.9, 0.99)
    decay: bool = True
    weight_decay: float = 2.0

    @classmethod
    def published(cls) -> Config:
        """Return the settings of the paper's code."""
        return cls(epochs=1_000, batch=1_024, learning_rate=1e-4, decay=False, weight_decay=0.0)


class DeepNull(NamedTuple):
    """Out-of-fold predictions and what they are worth.

    Attributes
    ----------
    predictions
        Shape (n_participants, n_traits), in the trait's unit; NaN for people with a missing covariate. The covariate to add.
    second_order
        The same from the ridge on squares and products.
    fold
        Shape (n_participants,): the fold that a person was predicted in, 1 … k; 0 for people with a missing covariate.
    quality
        ``core.schema.METRICS``, one subgroup a trait: ``out_of_fold_r2:linear``, ``:second_order``, ``:deepnull``, their
        differences ``gain:…``, and the ``validation_pearson`` of each network.
    notes
        Sentences for the log: what the published sanity rules have to say about each trait.
    """

    predictions: Floats
    second_order: Floats
    fold: NDArray[np.int64]
    quality: pl.DataFrame
    notes: tuple[str, ...]


def predict_out_of_fold(
    covariates: Floats,
    traits: Floats,
    *,
    participant_ids: Sequence[str],
    trait_names: Sequence[str],
    family_ids: Sequence[str | None] | None = None,
    config: Config | None = None,
    seed: int = 0,
) -> DeepNull:
    """Predict each trait of each person from covariates, by networks trained on other families.

    A trait's answer depends on its own values, its name, the covariates and the seed alone: not on the order of people, nor on
    which other traits run beside it.

    Parameters
    ----------
    covariates
        Shape (n_participants, n_covariates), float64; NaN is missing. Raw columns (age, sex, array, …), not their squares.
    traits
        Shape (n_participants, n_traits), float64; NaN is missing.
    family_ids
        People who share one stay in one fold, as in :func:`clinome.cohort.splits.folds`.

    Raises
    ------
    TraitError
        When a trait is constant, missing in (nearly) everybody, or infinite, or a covariate is infinite.
    CohortError
        When shapes disagree, a person is named twice, or there are too few families.
    NotConverged
        When a network's loss stops being finite.

    Example
    -------
    >>> g = np.random.default_rng(0)
    >>> age = g.uniform(40, 70, (300, 1))
    >>> found = predict_out_of_fold(age, age**2 / 100, participant_ids=[f"p{i}" for i in range(300)], trait_names=["height"],
    ...                             config=Config(epochs=10))
    >>> found.predictions.shape, sorted(set(found.fold.tolist()))
    ((300, 1), [1, 2, 3, 4, 5])
    """
    config = config or Config()
    covariates, traits = np.asarray(covariates, dtype=np.float64), np.asarray(traits, dtype=np.float64)
    complete = _checked(covariates, traits, participant_ids, trait_names, config)
    # people in the order of their ids, so that sums and batches do not depend on the order of rows
    rows = np.array(sorted(np.flatnonzero(complete).tolist(), key=lambda i: participant_ids[i]), dtype=np.int64)
    ids = [participant_ids[i] for i in rows]
    relatives = None if family_ids is None else [family_ids[i] for i in rows]
    split = folds(ids, relatives, k=config.folds, seed=seed)["split"]
    fold = split.str.strip_prefix("fold_").cast(pl.Int64).to_numpy() - 1
    family = np.unique(families(ids, relatives), return_inverse=True)[1]
    x = _standardised(covariates[rows], np.ones(len(rows), dtype=bool))

    predictions = np.full(traits.shape, np.nan)
    second_order = np.full(traits.shape, np.nan)
    quality: list[_Metric] = []
    notes: list[str] = []
    for j, name in track(list(enumerate(trait_names)), "DeepNull"):
        y = traits[rows, j]
        _see_enough(y, fold, name, config)
        fitted, pearson = _networks(x, y, fold, config=config, seed=_seed(seed, name))
        linear, second = (_ridge(x, y, fold, config.folds, order=order) for order in (1, 2))
        predictions[rows, j], second_order[rows, j] = fitted, second
        quality += _quality(y, {"linear": linear, "second_order": second, "deepnull": fitted}, family, name, seed)
        quality += [(f"validation_pearson:fold_{i + 1}", r, None, None, "none", name) for i, r in enumerate(pearson.tolist())]
        notes += _sanity(pearson, name)
    placed = np.zeros(len(covariates), dtype=np.int64)
    placed[rows] = fold + 1
    table = pl.DataFrame(quality, schema={c.name: c.dtype for c in METRICS.columns if c.required}, orient="row")
    return DeepNull(predictions, second_order, placed, check(table, METRICS), tuple(notes))


def _checked(covariates: Floats, traits: Floats, ids: Sequence[str], names: Sequence[str], config: Config) -> Bools:
    """Return who has every covariate, after seeing that the arguments fit together."""
    if not (len(covariates) == len(traits) == len(ids)) or traits.shape[1] != len(names) or len(set(names)) != len(names):
        raise CohortError(
            "covariates, traits, people and names do not fit together",
            got=f"covariates {covariates.shape}, traits {traits.shape}, {len(ids)} people, {len(set(names))} different trait names",
        )
    if config.folds < 3:
        raise CohortError(
            "DeepNull needs a fold to validate on, one to predict and one to train on", got=config.folds, expected="3 or more"
        )
    if covariates.shape[1] == 0:
        raise TraitError("DeepNull has no covariates to predict from", do='name covariates, or leave out adjust = "deepnull"')
    if np.isinf(covariates).any():
        column = int(np.isinf(covariates).any(axis=0).argmax())
        raise TraitError("a covariate is infinite", where=f"column {column + 1} of the covariates")
    if np.isinf(traits).any():
        raise TraitError("a trait is infinite", where=f"trait {names[int(np.isinf(traits).any(axis=0).argmax())]!r}")
    known: Bools = np.asarray(np.isfinite(covariates).all(axis=1))
    return known


def _see_enough(y: Floats, fold: NDArray[np.int64], name: str, config: Config) -> None:
    """Raise when a trait cannot be trained, validated and predicted in every fold."""
    present = ~np.isnan(y)
    if present.sum() < 10 * config.folds:
        raise TraitError(
            "a trait is known in too few people for out-of-fold prediction",
            where=f"trait {name!r}",
            got=f"{present.sum()} people with the trait and every covariate",
            expected=f"{10 * config.folds} or more",
        )
    for i in range(config.folds):
        train, validate, _ = _parts(fold, present, i, config.folds)
        if not validate.any() or not train.any() or np.ptp(y[train]) == 0:
            raise TraitError(
                "a trait is constant where it should be learned, or unknown where it should be checked",
                where=f"trait {name!r}, network {i + 1} of {config.folds}",
                do="leave this trait out, or ask for fewer folds",
            )


def _parts(fold: NDArray[np.int64], present: Bools, i: int, k: int) -> tuple[Bools, Bools, Bools]:
    """Return who trains, validates and is predicted by network ``i``: people without the trait are predicted only."""
    validate, test = fold == i, fold == (i + 1) % k
    return ~validate & ~test & present, validate & present, test


def _seed(seed: int, name: str) -> int:
    """Return a trait's own seed, from its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6, salt=(seed % 2**64).to_bytes(8, "big")).digest(), "big")


def _standardised(x: Floats, train: Bools) -> Floats:
    """Centre and scale columns by the mean and SD of ``train``; a column that is constant there becomes 0."""
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
    flat = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-300)
    scaled: Floats = np.where(flat, 0.0, (x - mean) / np.where(flat, 1.0, deviation))
    return scaled


def _networks(x: Floats, y: Floats, fold: NDArray[np.int64], *, config: Config, seed: int) -> tuple[Floats, Floats]:
    """Train one network a fold, all side by side; return the out-of-fold predictions and each one's validation correlation.

    ``x`` (n, n_covariates) without missing values, ``y`` (n,) with NaN, ``fold`` (n,) from 0.
    """
    torch = need("torch", "imaging")
    k, present = config.folds, ~np.isnan(y)
    parts = [_parts(fold, present, i, k) for i in range(k)]
    mean = np.array([y[train].mean() for train, _, _ in parts])
    deviation = np.array([y[train].std() for train, _, _ in parts])
    inputs = torch.from_numpy(np.stack([_standardised(x, train) for train, _, _ in parts]).astype(np.float32))
    target = torch.from_numpy(((np.where(present, y, 0.0) - mean[:, None]) / deviation[:, None]).astype(np.float32))
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kept, pearson = _train(inputs, target, parts, y, config, seed)
    predicted = np.full(len(y), np.nan)
    for i, (_, _, test) in enumerate(parts):
        predicted[test] = kept[i, test] * deviation[i] + mean[i]
    return predicted, pearson


def _train(
    inputs: torch.Tensor,
    target: torch.Tensor,
    parts: list[tuple[Bools, Bools, Bools]],
    y: Floats,
    config: Config,
    seed: int,
) -> tuple[Floats, Floats]:
    """Train k networks at once; return what each, at its best epoch, says of everybody (k, n), and that epoch's correlation."""
    import torch
    from torch.func import functional_call, stack_module_state, vmap

    from clinome.genetics.models import deepnull

    k, _, n_covariates = inputs.shape
    architecture = deepnull.Config(n_covariates=n_covariates, widths=config.widths)
    networks = [deepnull.Model(architecture).at_zero() for _ in range(k)]
    start, _ = stack_module_state(networks)
    weights = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    forward = vmap(lambda w, rows: functional_call(networks[0], w, (rows,)))

    generators = [np.random.default_rng([seed, i]) for i in range(k)]
    members = [np.flatnonzero(train) for train, _, _ in parts]
    steps = -(-max(map(len, members)) // config.batch)
    optimiser = torch.optim.AdamW(
        list(weights.values()), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, foreach=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs * steps) if config.decay else None
    each = torch.arange(k)[:, None]
    kept, best = np.zeros(inputs.shape[:2]), np.full(k, -np.inf)
    for _ in range(config.epochs):
        for rows, weight in _batches(members, steps, config.batch, generators):
            squares = (forward(weights, inputs[each, rows]) - target[each, rows]) ** 2
            loss = ((squares * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).sum()  # each network's gradient is its own
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if scheduler is not None:
                scheduler.step()
        with torch.no_grad():
            said = forward(weights, inputs).numpy().astype(np.float64)
        if not np.isfinite(said).all():
            raise NotConverged(
                "the networks of DeepNull diverged", got="predictions that are not finite", do="lower Config.learning_rate"
            )
        reached = np.array([_pearson(said[i, validate], y[validate]) for i, (_, validate, _) in enumerate(parts)])
        better = reached > best
        kept[better], best[better] = said[better], reached[better]
    return kept, best


def _batches(
    members: list[NDArray[np.int64]], steps: int, size: int, generators: list[np.random.Generator]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield one epoch's batches: rows (k, size) and their weights, 0 where a network has fewer people than the largest."""
    import torch

    rows = np.zeros((len(members), steps * size), dtype=np.int64)
    weight = np.zeros(rows.shape, dtype=np.float32)
    for i, (own, generator) in enumerate(zip(members, generators, strict=True)):
        rows[i, : len(own)] = generator.permutation(own)
        weight[i, : len(own)] = 1.0
    for step in range(steps):
        part = slice(step * size, (step + 1) * size)
        yield torch.from_numpy(rows[:, part]), torch.from_numpy(weight[:, part])


def _pearson(a: Floats, b: Floats) -> float:
    """Return the correlation, 0 where one side does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the matrices are small, and sums then do not depend on the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ridge(x: Floats, y: Floats, fold: NDArray[np.int64], k: int, *, order: int) -> Floats:
    """Predict out of fold by ridge regression on the covariates (order 1) or also their squares and products (order 2).

    The same folds and roles as the networks; the penalty is the one with the smallest error on the validation fold.
    """
    present = ~np.isnan(y)
    predicted = np.full(len(y), np.nan)
    for i in range(k):
        train, validate, test = _parts(fold, present, i, k)
        z = _standardised(x, train)
        if order == 2:
            z = _standardised(_second_order(z), train)
        mean = y[train].mean()
        values, vectors = np.linalg.eigh(z[train].T @ z[train] / train.sum())
        along = vectors.T @ (z[train].T @ (y[train] - mean)) / train.sum()
        betas = vectors @ (along[:, None] / (np.maximum(values, 0)[:, None] + _PENALTIES))  # (n_columns, n_penalties)
        errors = ((z[validate] @ betas + mean - y[validate, None]) ** 2).mean(axis=0)
        predicted[test] = z[test] @ betas[:, errors.argmin()] + mean
    return predicted


def _second_order(z: Floats) -> Floats:
    """Append squares and, unless there are many columns, the products of two columns."""
    first, second = np.triu_indices(z.shape[1], k=1) if z.shape[1] <= _MOST_PRODUCTS else (np.empty(0, np.int64),) * 2
    return np.concatenate([z, z**2, z[:, first] * z[:, second]], axis=1)


def _quality(y: Floats, predictions: dict[str, Floats], family: NDArray[np.int64], name: str, seed: int) -> list[_Metric]:
    """Return out-of-fold R² of each prediction and the networks' gains, with a bootstrap over families."""
    present = ~np.isnan(y)
    centred = y[present] - y[present].mean()
    errors = [(y - said)[present] ** 2 for said in predictions.values()]
    people = np.stack([np.ones(present.sum()), centred, centred**2, *errors], axis=1)
    summed = np.zeros((family.max() + 1, people.shape[1]))
    np.add.at(summed, family[present], people)
    summed = summed[summed[:, 0] > 0]

    def shares(sums: Floats) -> Floats:
        total = sums[..., 2] - sums[..., 1] ** 2 / sums[..., 0]
        explained: Floats = 1 - sums[..., 3:] / total[..., None]
        return explained

    whole, drawn = shares(summed.sum(axis=0)), shares(resampled_sums(summed, resamples=_RESAMPLES, seed=seed))
    how, last = f"bootstrap over families, {_RESAMPLES} resamples, 2.5 % and 97.5 %", len(predictions) - 1
    rows: list[_Metric] = []
    for i, kind in enumerate(predictions):
        rows.append((f"out_of_fold_r2:{kind}", float(whole[i]), *interval(drawn[:, i]), how, name))
    for i, kind in list(enumerate(predictions))[:last]:
        gain = drawn[:, last] - drawn[:, i]
        rows.append((f"gain:deepnull-{kind}", float(whole[last] - whole[i]), *interval(gain), how, name))
    return rows


def _sanity(pearson: Floats, name: str) -> list[str]:
    """Return the published code's warnings about the validation correlations of the networks."""
    low, high = float(pearson.min()), float(pearson.max())
    if low <= 0:
        said = f"a network does not predict its validation fold (correlation {low:.3f}); the covariates may say nothing about it"
    elif high < 0.05:
        said = f"the best validation correlation is {high:.3f}; the covariates say next to nothing about it"
    elif (high - low) / low > 0.1:
        said = f"validation correlations differ between folds ({low:.3f} to {high:.3f})"
    else:
        return []
    return [f"DeepNull of {name}: {said}"]
