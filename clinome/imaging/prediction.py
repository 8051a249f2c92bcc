"""Predict classes and numbers from pictures, several views, or volumes: train, cross-fit, measure beside floors, predict anew.

    images + examples (split, targets) ──leakage?──→ train one network a part and member ──→ predictor folder
                                                              └──→ predictions of everybody not trained on ──→ metrics beside floors

The split decides what is done:

    train, validation, test    networks learn on train; thresholds, of the floors too, are chosen on validation; all but train are
                               predicted; without test, validation is judged and thresholds stay at 1/2
    fold_1 … fold_k            k times, networks learn on all other folds and predict this one: nobody is predicted by a network
                               that saw them, and thresholds stay at 1/2, for nothing is left to choose them on

A part may have several members, networks that differ in their seed; their predictions are averaged, as are those of several turned
copies of a picture. The folder holds networks (safetensors), predictor.json (preparation, targets, thresholds, settings), the
tables predictions, metrics, leakage and splits, and provenance. Killed and called again, training goes on where it was and ends
with the same bytes.

References
----------
Lakshminarayanan B, Pritzel A, Blundell C. Simple and scalable predictive uncertainty estimation using deep ensembles. NeurIPS
(2017), arXiv:1612.01474. Zhang H, Cisse M, Dauphin YN, Lopez-Paz D. mixup: beyond empirical risk minimization. ICLR (2018),
arXiv:1710.09412. Varoquaux G, Cheplygina V. Machine learning for medical imaging: methodological failures and recommendations for
the future. npj Digit Med 5, 48 (2022), doi:10.1038/s41746-022-00592-y.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.leakage import leakage, refuse_leaking
from clinome.core.errors import CohortError, FormatError, SchemaError
from clinome.core.files import replacing, usable_folder, write_json
from clinome.core.progress import say
from clinome.core.provenance import fingerprint, write_provenance
from clinome.core.schema import PREDICTIONS, check
from clinome.evaluate.floors import compare_with_floors
from clinome.evaluate.outcomes import outcome
from clinome.evaluate.thresholds import threshold_of
from clinome.imaging.fingerprint import content_of
from clinome.imaging.intensity import Change
from clinome.imaging.pictures import Images, Preparation
from clinome.imaging.pixel_floors import pixel_floors
from clinome.imaging.resample import Spread
from clinome.imaging.targets import Coded, Target, code, encode

if TYPE_CHECKING:
    from torch import nn

_FOLD = "fold_"


@dataclass(frozen=True)
class Recipe:
    """How networks are trained and asked.

    Attributes
    ----------
    drops
        Shares of the training after which the learning rate falls to a tenth; none: a warm start and half a cosine.
    average
        Decay of the moving average of the weights that is used and saved; None: the last weights.
    keep
        The ``last`` weights, or those of the ``best`` validation after an epoch: highest mean AUROC, least error without classes.
    mixup
        Both parameters of the Beta distribution that pairs of examples are mixed by; 0: not at all.
    smoothing, balance
        See :func:`clinome.imaging.targets.loss`; probabilities are of the training rows' frequencies in either case.
    spread, change
        Augmentation: how far pictures are moved and their values changed.
    turns, turn_share
        Copies of a picture that are asked about and averaged, moved within this share of ``spread``; 1: the picture as it is.
    members
        Networks a part, which differ in their seed.
    """

    epochs: int = 30
    batch: int = 32
    learning_rate: float = 2e-3
    optimiser: Literal["adamw", "adam"] = "adamw"
    weight_decay: float = 0.05
    drops: tuple[float, ...] = ()
    average: float | None = 0.99
    keep: Literal["last", "best"] = "last"
    mixup: float = 0.0
    smoothing: float = 0.0
    balance: bool = True
    spread: Spread = field(default_factory=Spread)
    change: Change = field(default_factory=Change)
    turns: int = 1
    turn_share: float = 0.3
    members: int = 1
    precision: Literal["float32", "bfloat16", "measure"] = "float32"


class Trained(NamedTuple):
    """What a training left: its folder, the predictions of everybody not trained on, metrics of all predictors, and the leakage."""

    folder: Path
    predictions: pl.DataFrame
    metrics: pl.DataFrame
    leakage: pl.DataFrame


class _Part(NamedTuple):
    name: str
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    answer: NDArray[np.int64]


def train_predictor(
    images: Images,
    examples: pl.DataFrame,
    targets: Sequence[Target],
    *,
    network: Any,
    preparation: Preparation,
    out: Path,
    recipe: Recipe | None = None,
    weights: Path | None = None,
    floors: bool = True,
    allow: Collection[str] = (),
    seed: int = 0,
) -> Trained:
    """Train a predictor of ``targets`` and measure it on people it never saw, beside floors on the same people.

    Parameters
    ----------
    images
        One for each row of ``examples``: (channels, *spatial), or (views, channels, *spatial). A network whose ``Config`` has
        ``views`` takes the views of a row together; any other sees one at a time, one of a row's an epoch in training, and its
        predictions of a row's views are averaged.
    examples
        example_id, participant_id, split and the targets (null unknown); family_id, site, date, fingerprint are checked for leakage
        where they are there. The pictures' content is compared in any case.
    network
        The ``Config`` of a file in ``imaging/models``; its ``outputs`` and ``channels_in`` are set here.
    weights
        A file of weights that every network begins with; random ones otherwise.
    floors
        Whether the floors of :mod:`clinome.imaging.pixel_floors` are computed beside.
    allow
        Checks of :mod:`clinome.cohort.leakage` that may fail: the explicit word.

    Raises
    ------
    CohortError
        When the split leaks, or lacks what is needed.
    SchemaError, TraitError
        When a column is missing or a target cannot be learnt.
    NotConverged
        When a loss stops being finite.
    """
    from clinome.imaging.supervised import answers

    recipe, out = recipe or Recipe(), usable_folder(out)
    if len(images) != examples.height:
        raise SchemaError("every example has one image", got=f"{len(images)} images", expected=f"{examples.height} rows")
    contents = [content_of(np.asarray(images[row])) for row in range(len(images))]
    found = _see_leakage(contents, examples, targets, allow)
    parts = _parts(examples)
    settings = {"network": _named(network), "preparation": asdict(preparation), "recipe": asdict(recipe)}
    key = fingerprint(contents, examples.write_csv(), [asdict(one) for one in targets], settings, weights, seed)
    coded = {part.name: code(targets, examples, part.train) for part in parts}
    said: dict[str, NDArray[np.float64]] = {}
    for part in parts:
        truth = encode(coded[part.name], examples)
        for member in range(recipe.members):
            _train(out, part, member, images, truth, coded[part.name], network, preparation, recipe, key, seed, weights)
        models = _members(out, part.name, recipe)
        for name, values in answers(models, images, part.answer, coded[part.name], preparation, recipe).items():
            said.setdefault(name, np.full((examples.height, values.shape[1]), np.nan))[part.answer] = values
    of = coded[parts[0].name]
    rows = np.sort(np.concatenate([part.answer for part in parts]))
    columns = {column: said[one.name][rows, j] for one in of if not one.helps for j, column in enumerate(one.columns)}
    names = ["example_id", "participant_id", "split", *(one.name for one in of if not one.helps)]
    predictions = check(examples[rows].select(names).with_columns(pl.Series(n, v) for n, v in columns.items()), PREDICTIONS)
    thresholds = _thresholds(predictions, of)
    metrics = _measured(images, examples, predictions, of, thresholds, len(preparation.shape), floors, seed)
    described = {part.name: [one._asdict() for one in coded[part.name]] for part in parts}
    write_json(out / "predictor.json", {"key": key, "targets": described, "thresholds": thresholds, "seed": seed, **settings})
    split = examples.select("participant_id", "split").unique(maintain_order=True)
    for name, table in {"predictions": predictions, "metrics": metrics, "leakage": found, "splits": split}.items():
        with replacing(out / f"{name}.parquet") as temporary:
            table.write_parquet(temporary)
    write_provenance(out, settings=settings, seed=seed)
    return Trained(out, predictions, metrics, found)


def _train(
    out: Path,
    part: _Part,
    member: int,
    images: Images,
    truth: NDArray[np.float32],
    coded: tuple[Coded, ...],
    network: Any,
    preparation: Preparation,
    recipe: Recipe,
    key: str,
    seed: int,
    weights: Path | None,
) -> None:
    """Train a member of a part and save it, unless it is there."""
    from clinome.imaging.supervised import fit_network
    from clinome.nn.saving import about_model, save_model

    path = out / f"{part.name}_{member}.safetensors"
    if path.exists() and about_model(path).get("key") == key:
        return
    say(f"{part.name}, member {member + 1} of {recipe.members}")
    model = fit_network(
        images,
        truth,
        coded,
        part.train,
        part.validation,
        network=network,
        preparation=preparation,
        recipe=recipe,
        checkpoint=path.with_suffix(".state"),
        key=key,
        seed=seed + 1000 * member,
        weights=weights,
    )
    save_model(model, path, about={"key": key})
    path.with_suffix(".state").unlink(missing_ok=True)


def _members(folder: Path, part: str, recipe: Recipe) -> list[nn.Module]:
    from clinome.nn.saving import load_model

    return [load_model(folder / f"{part}_{member}.safetensors") for member in range(recipe.members)]


def predict(
    folder: Path,
    images: Images,
    *,
    example_ids: Sequence[str] | None = None,
    participant_ids: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Predict pictures with a trained predictor; return ``core.schema.PREDICTIONS`` with the split 'new'.

    A person of the training is found by ``participant_id`` and has the split of then; in a predictor of folds only the networks
    that did not see that person are asked.

    Raises
    ------
    FormatError
        When ``folder`` holds no predictor.
    """
    from clinome.imaging.supervised import answers

    path = Path(folder) / "predictor.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        splits = dict(pl.read_parquet(Path(folder) / "splits.parquet").rows())
    except (OSError, json.JSONDecodeError) as error:
        raise FormatError("this folder holds no predictor", where=path, got=error, do="name the folder of a training") from error
    examples = [str(one) for one in (example_ids if example_ids is not None else range(len(images)))]
    people = [str(one) for one in (participant_ids if participant_ids is not None else examples)]
    if not len(examples) == len(people) == len(images):
        raise SchemaError("every image has one name", got=f"{len(images)} images, {len(examples)} and {len(people)} names")
    preparation, recipe = preparation_from(about["preparation"]), recipe_from(about["recipe"])
    split = np.array([splits.get(person, "new") for person in people])
    total: dict[str, NDArray[np.float64]] = {}
    count = np.zeros(len(images))
    coded: tuple[Coded, ...] = ()
    for part, described in about["targets"].items():
        coded = tuple(Coded(**{**one, "classes": tuple(one["classes"]), "shares": tuple(one["shares"])}) for one in described)
        rows = np.flatnonzero(~np.isin(split, [name for name in about["targets"] if name != part]))
        if not len(rows):
            continue
        count[rows] += 1
        for name, values in answers(_members(Path(folder), part, recipe), images, rows, coded, preparation, recipe).items():
            total.setdefault(name, np.zeros((len(images), values.shape[1])))[rows] += values
    frame = pl.DataFrame({"example_id": examples, "participant_id": people, "split": split})
    columns = {column: total[one.name][:, j] / count for one in coded if not one.helps for j, column in enumerate(one.columns)}
    return check(frame.with_columns(pl.Series(name, values) for name, values in columns.items()), PREDICTIONS)


def preparation_from(saved: dict[str, Any]) -> Preparation:
    """Return the preparation that predictor.json holds."""
    fixed = saved["normalise"]
    return Preparation(tuple(saved["shape"]), "picture" if isinstance(fixed, str) else (fixed[0], fixed[1]), saved["outside"])


def recipe_from(saved: dict[str, Any]) -> Recipe:
    """Return the recipe that predictor.json holds."""

    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    rest = {name: value for name, value in plain(saved).items() if name not in ("spread", "change")}
    return Recipe(**rest, spread=Spread(**plain(saved["spread"])), change=Change(**plain(saved["change"])))


def _see_leakage(contents: list[str], examples: pl.DataFrame, targets: Sequence[Target], allow: Collection[str]) -> pl.DataFrame:
    """Return the report on the split; raise when it leaks in a way that was not allowed."""
    table = examples
    if "content_sha256" not in table.columns:
        table = table.with_columns(pl.Series("content_sha256", contents, pl.String))
    names = [target.name for target in targets if target.name in table.columns]
    return refuse_leaking(leakage(table, targets=names), allow=allow)


def _parts(examples: pl.DataFrame) -> list[_Part]:
    """Return who is learnt from and who is predicted: one part, or one a fold."""
    split = examples["split"].to_numpy().astype(str)
    names = np.unique(split).tolist()
    if all(name.startswith(_FOLD) for name in names) and len(names) > 1:
        none = np.empty(0, np.int64)
        return [_Part(name, np.flatnonzero(split != name), none, np.flatnonzero(split == name)) for name in names]
    train, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    if not len(train) or not {"validation", "test"} & set(names):
        raise CohortError(
            "the split does not say who is learnt from and who is predicted",
            got=", ".join(names),
            expected="'train' with 'validation' or 'test', or two folds or more: 'fold_1', 'fold_2' …",
        )
    return [_Part("all", train, validation, np.flatnonzero(split != "train"))]


def _named(network: Any) -> dict[str, Any]:
    return {"module": type(network).__module__, **asdict(network)}


def _thresholds(predictions: pl.DataFrame, coded: Sequence[Coded]) -> dict[str, float]:
    """Return a threshold for each target of two classes."""
    return {one.name: _threshold(predictions, one.name) for one in coded if len(one.classes) == 2 and not one.helps}


def _threshold(predictions: pl.DataFrame, target: str) -> float:
    """Return the best threshold (Youden) on validation predictions.

    It is 1/2 where validation is what is judged, has not both classes, or is told the same of everybody (classes' shares).
    """
    if not {"validation", "test"} <= set(predictions["split"]):
        return 0.5
    found = outcome(predictions, target, split="validation")
    known = np.isfinite(found.truth)
    if len(np.unique(found.truth[known])) < 2:
        say(f"the threshold of {target!r} is 1/2: the validation examples are not of both classes")
        return 0.5
    return threshold_of(predictions, target, split="validation").value if np.ptp(found.predicted[known]) else 0.5


def _measured(
    images: Images,
    examples: pl.DataFrame,
    predictions: pl.DataFrame,
    coded: Sequence[Coded],
    thresholds: dict[str, float],
    dims: int,
    floors: bool,
    seed: int,
) -> pl.DataFrame:
    """Measure every target on the test split (else on validation; folds: on all), beside floors on the same people."""
    split = predictions["split"].to_list()
    folded = split[0].startswith(_FOLD)
    judged = None if folded else "test" if "test" in split else "validation"
    tables = []
    for one in coded:
        if one.helps:
            continue
        beside = (
            pixel_floors(
                images,
                examples,
                one.name,
                classes=bool(one.classes),
                dims=3 if dims == 3 else 2,
                fit_on=None if folded else ("train",),
                seed=seed,
            )
            if floors
            else {}
        )
        cuts = {"model": thresholds[one.name]} if one.name in thresholds else {}
        if cuts:
            cuts |= {name: _threshold(floor, one.name) for name, floor in beside.items()}
        tables.append(
            compare_with_floors(
                predictions,
                beside,
                one.name,
                split=judged,
                threshold=cuts,
                training_mean=None if one.classes else one.mean,
                seed=seed,
            )
        )
    return pl.concat(tables)
