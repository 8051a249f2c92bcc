"""Predict classes and numbers from pictures, several views, or volumes: train, cross-fit, measure beside floors, predict anew.

    images + examples (split, targets) ──leakage?──→ train one network a part and member ──→ predictor folder
                                                              └──→ predictions of everybody not trained on ──→ metrics beside floors

The split decides what is done:

    train, validation, test    networks learn on train; thresholds, of the floors too, are chosen on validation; all but train are
                               predicted; without test, validation is judged and thresholds stay at 1/2
    fold_1 … fold_k            k times, networks learn on all other folds and predict this one: nobody is predicted by a network
                               that saw them, and thresholds stay at 1/2, for nothing is left to choose them on

A part may have several members, networks that differ in their seed; their predictions are averaged, as are those of several turned
copies of a picture. The folder holds

    predictor.json             preparation, targets, thresholds, settings, and the key of the training
    networks/<key>/            its networks (safetensors), how each was trained, and whose split was which
    predictions, metrics, reliability, subgroups, counts, leakage, splits (.parquet), history.json, provenance.json

Whenever it is killed, a folder is the old predictor or the new one, and shows nothing of the other: when all is trained and judged,
the old tables go, predictor.json is replaced, and the new tables follow. Killed and called again, training goes on where it was and
ends with the same bytes; of another version of Clinome, it begins anew.

References
----------
Lakshminarayanan B, Pritzel A, Blundell C. Simple and scalable predictive uncertainty estimation using deep ensembles. NeurIPS
(2017), arXiv:1612.01474. Zhang H, Cisse M, Dauphin YN, Lopez-Paz D. mixup: beyond empirical risk minimization. ICLR (2018),
arXiv:1710.09412. Varoquaux G, Cheplygina V. Machine learning for medical imaging: methodological failures and recommendations for
the future. npj Digit Med 5, 48 (2022), doi:10.1038/s41746-022-00592-y.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

import clinome
from clinome.core.errors import FormatError, SchemaError
from clinome.core.files import replacing, usable_folder, write_json
from clinome.core.progress import say
from clinome.core.provenance import fingerprint, write_provenance
from clinome.core.schema import PREDICTIONS, check
from clinome.imaging.geometry import Spread
from clinome.imaging.intensity import Change
from clinome.imaging.judging import by_group, counts, measured, reliability, see_judged, threshold
from clinome.imaging.parts import Part, parts_of, print_of, see_leakage
from clinome.imaging.pictures import Images, Preparation
from clinome.imaging.targets import Coded, Target, code, encode

if TYPE_CHECKING:
    from torch import nn


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
    threads: int = 1,
    clear: Callable[[], None] | None = None,
) -> Trained:
    """Train a predictor of ``targets`` and measure it on people it never saw, beside floors on the same people.

    Parameters
    ----------
    images
        One for each row of ``examples``: (channels, *spatial), or (views, channels, *spatial). A network whose ``Config`` has
        ``views`` takes the views of a row together; any other sees one at a time, one of a row's an epoch in training, and its
        predictions of a row's views are averaged.
    examples
        example_id, participant_id, split and the targets (null unknown); what is checked for leakage is said at
        :func:`clinome.imaging.parts.see_leakage`, and columns that subgroups are made of at :data:`clinome.imaging.judging.GROUPS`.
    network
        The ``Config`` of a file in ``imaging/models``; its ``outputs`` and ``channels_in`` are set here.
    weights
        A file of weights that every network begins with; random ones otherwise.
    floors
        Whether the floors of :mod:`clinome.imaging.pixel_floors` are computed beside.
    allow
        Checks of :mod:`clinome.cohort.leakage` that may fail: the explicit word.
    threads
        Of torch; a part of the result, because sums over threads round differently.
    clear
        Called before anything of this training shows in ``out``: takes away what the caller left there beside one before it.

    Raises
    ------
    CohortError
        When the split leaks, or lacks what is needed.
    SchemaError, TraitError
        When a column is missing or a target cannot be learnt.
    NotConverged
        When a loss stops being finite.
    """
    recipe, out = recipe or Recipe(), usable_folder(out)
    if len(images) != examples.height:
        raise SchemaError("every example has one image", got=f"{len(images)} images", expected=f"{examples.height} rows")
    looks = "fingerprint" not in examples.columns  # otherwise known of the pictures as they were read
    prints = [print_of(np.asarray(images[row]), len(preparation.shape), looks=looks) for row in range(len(images))]
    found = see_leakage(prints, examples, targets, allow)
    parts = parts_of(examples)
    settings = {"network": _named(network), "preparation": asdict(preparation), "recipe": asdict(recipe)}
    contents = [one.content_sha256 for one in prints]
    given = (examples.write_csv(), [asdict(one) for one in targets], settings, weights, seed, threads)
    key = fingerprint(clinome.__version__, contents, *given)
    coded = {part.name: code(targets, examples, part.train) for part in parts}
    see_judged(examples, targets)
    training = _Training(images, network, preparation, recipe, weights, key, seed, threads, out / "networks" / key)
    training.begin()
    said: dict[str, NDArray[np.float64]] = {}
    for part in parts:
        for name, values in training.answers(part, examples, coded[part.name]).items():
            said.setdefault(name, np.full((examples.height, values.shape[1]), np.nan))[part.answer] = values
    predictions = _predictions(examples, parts, coded[parts[0].name], said)
    told = [one for one in coded[parts[0].name] if not one.helps]
    cuts = {one.name: threshold(predictions, one.name) for one in told if len(one.classes) == 2}
    tables = {
        "predictions": predictions,
        "metrics": measured(images, examples, predictions, coded, cuts, dims=len(preparation.shape), floors=floors, seed=seed),
        "reliability": reliability(predictions, [one.name for one in told], seed=seed),
        "subgroups": by_group(predictions, examples, [one.name for one in told], cuts, seed=seed),
        "counts": counts(examples, targets),
        "leakage": found,
        "splits": examples.select("participant_id", "split").unique(maintain_order=True),
    }
    about = {
        "targets": {part: [one._asdict() for one in of] for part, of in coded.items()},
        "thresholds": {name: cut.value for name, cut in cuts.items()},
        "thresholds_from": {name: cut.why for name, cut in cuts.items()},
        "seed": seed,
        **settings,
    }
    training.replace_before(out, tables, about, clear)
    training.leave(out, tables, settings, [part.name for part in parts])
    return Trained(out, predictions, tables["metrics"], found)


@dataclass(frozen=True)
class _Training:
    """What the networks of all parts have in common; they are kept in ``folder``, which is named by the key."""

    images: Images
    network: Any
    preparation: Preparation
    recipe: Recipe
    weights: Path | None
    key: str
    seed: int
    threads: int
    folder: Path

    def begin(self) -> None:
        """Say so where another training was begun or ended in the folder, and this one was not."""
        if self.folder.parent.is_dir() and not self.folder.exists() and any(self.folder.parent.iterdir()):
            say(
                f"the networks in {self.folder.parent} are of other pictures, targets, settings or another version of Clinome: "
                "training begins anew, and replaces them when it is done"
            )

    def answers(self, part: Part, examples: pl.DataFrame, coded: tuple[Coded, ...]) -> dict[str, NDArray[np.float64]]:
        """Train the members of a part that are not there yet, and return what they say of its rows."""
        from clinome.imaging.supervised import answers
        from clinome.nn.saving import load_model

        truth = encode(coded, examples)
        networks = [load_model(self._train(part, member, truth, coded)) for member in range(self.recipe.members)]
        return answers(networks, self.images, part.answer, coded, self.preparation, self.recipe, threads=self.threads)

    def _train(self, part: Part, member: int, truth: NDArray[np.float32], coded: tuple[Coded, ...]) -> Path:
        """Train a member unless it is there; return its file."""
        from clinome.imaging.supervised import fit_network
        from clinome.nn.saving import save_model

        path = self.folder / f"{part.name}_{member}.safetensors"
        if path.exists():
            path.with_suffix(".state").unlink(missing_ok=True)
            return path
        say(f"{part.name}, member {member + 1} of {self.recipe.members}")
        fitted = fit_network(
            self.images,
            truth,
            coded,
            part.train,
            part.validation,
            network=self.network,
            preparation=self.preparation,
            recipe=self.recipe,
            checkpoint=path.with_suffix(".state"),
            key=self.key,
            seed=self.seed + 1000 * member,
            weights=self.weights,
            threads=self.threads,
        )
        write_json(path.with_suffix(".json"), fitted.about)
        save_model(fitted.network, path, about={"key": self.key})
        path.with_suffix(".state").unlink(missing_ok=True)
        return path

    def replace_before(
        self, out: Path, tables: dict[str, pl.DataFrame], about: dict[str, Any], clear: Callable[[], None] | None
    ) -> None:
        """Make ``out`` the predictor of this training; all that it shows of one before it goes first, its networks last."""
        with replacing(self.folder / "splits.parquet") as temporary:
            tables["splits"].write_parquet(temporary)
        if clear is not None:
            clear()
        for name in ("provenance.json", "history.json", *(f"{name}.parquet" for name in tables)):
            (out / name).unlink(missing_ok=True)
        write_json(out / "predictor.json", {"key": self.key, **about})
        for other in self.folder.parent.iterdir():
            if other.name != self.key and other.is_dir():
                shutil.rmtree(other)

    def leave(self, out: Path, tables: dict[str, pl.DataFrame], settings: dict[str, Any], parts: Sequence[str]) -> None:
        """Write tables and how the networks were trained into ``out``."""
        members = [(part, member) for part in parts for member in range(self.recipe.members)]
        each = [json.loads((self.folder / f"{part}_{member}.json").read_text(encoding="utf-8")) for part, member in members]
        for name, table in tables.items():
            with replacing(out / f"{name}.parquet") as temporary:
                table.write_parquet(temporary)
        curves = [
            {"part": part, "member": member + 1, **{name: one[name] for name in ("records", "kept", "steps", "watched")}}
            for (part, member), one in zip(members, each, strict=True)
        ]
        write_json(out / "history.json", {"by": "epoch", "curves": curves})
        training = {name: each[0][name] for name in ("parameters", "device", "weights")}
        training |= {
            "network": settings["network"]["module"].rpartition(".")[2],
            "networks": len(each),
            "precision": "; ".join(dict.fromkeys(one["precision"] for one in each)),
            "cpu_seconds": round(sum(one["cpu_seconds"] for one in each), 1),
        }
        write_provenance(out, settings={**settings, "training": training}, seed=self.seed)


def _predictions(
    examples: pl.DataFrame, parts: Sequence[Part], coded: Sequence[Coded], said: dict[str, NDArray[np.float64]]
) -> pl.DataFrame:
    """Return ``core.schema.PREDICTIONS`` of everybody who was not trained on."""
    rows = np.sort(np.concatenate([part.answer for part in parts]))
    columns = {column: said[one.name][rows, j] for one in coded if not one.helps for j, column in enumerate(one.columns)}
    names = ["example_id", "participant_id", "split", *(one.name for one in coded if not one.helps)]
    return check(examples[rows].select(names).with_columns(pl.Series(n, v) for n, v in columns.items()), PREDICTIONS)


class Predictor(NamedTuple):
    """A trained predictor as its folder holds it.

    Attributes
    ----------
    coded
        The targets as the networks of each part know them, by the part's name: 'all', or a fold each.
    splits
        The split of every person of the training.
    thresholds
        Of the targets of two classes: from which probability of the class that sorts last on a row is of it.
    folder
        Where its networks are.
    """

    coded: dict[str, tuple[Coded, ...]]
    preparation: Preparation
    recipe: Recipe
    splits: dict[str, str]
    thresholds: dict[str, float]
    folder: Path

    def files(self, part: str) -> list[Path]:
        """Return the files of a part's networks."""
        return [self.folder / f"{part}_{member}.safetensors" for member in range(self.recipe.members)]

    def networks(self, part: str) -> list[nn.Module]:
        """Return the networks of a part, in evaluation mode; their answers are averaged."""
        from clinome.nn.saving import load_model

        return [load_model(path) for path in self.files(part)]


def read_predictor(folder: str | Path) -> Predictor:
    """Read what :func:`train_predictor` left in ``folder``.

    Raises
    ------
    FormatError
        When it holds no predictor.
    """
    path = Path(folder) / "predictor.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        networks = Path(folder) / "networks" / about["key"]
        splits = dict(pl.read_parquet(networks / "splits.parquet").rows())
    except (OSError, json.JSONDecodeError, KeyError) as error:
        got = getattr(error, "strerror", None) or error
        do = "name what `clinome train` wrote for classes or numbers; structures are drawn by `clinome segment`"
        raise FormatError("this folder holds no predictor", where=path, got=got, do=do) from error
    coded = {
        part: tuple(Coded(**{**one, "classes": tuple(one["classes"]), "shares": tuple(one["shares"])}) for one in described)
        for part, described in about["targets"].items()
    }
    preparation, recipe = _preparation(about["preparation"]), _recipe(about["recipe"])
    return Predictor(coded, preparation, recipe, splits, about["thresholds"], networks)


def predict(
    folder: Path,
    images: Images,
    *,
    example_ids: Sequence[str] | None = None,
    participant_ids: Sequence[str] | None = None,
    threads: int = 1,
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

    known = read_predictor(folder)
    examples = [str(one) for one in (example_ids if example_ids is not None else range(len(images)))]
    people = [str(one) for one in (participant_ids if participant_ids is not None else examples)]
    if not len(examples) == len(people) == len(images):
        raise SchemaError("every image has one name", got=f"{len(images)} images, {len(examples)} and {len(people)} names")
    split = np.array([known.splits.get(person, "new") for person in people])
    total: dict[str, NDArray[np.float64]] = {}
    count = np.zeros(len(images))
    for part, coded in known.coded.items():
        rows = np.flatnonzero(~np.isin(split, [name for name in known.coded if name != part]))
        if not len(rows):
            continue
        count[rows] += 1
        given = (coded, known.preparation, known.recipe)
        for name, values in answers(known.networks(part), images, rows, *given, threads=threads).items():
            total.setdefault(name, np.zeros((len(images), values.shape[1])))[rows] += values
    frame = pl.DataFrame({"example_id": examples, "participant_id": people, "split": split})
    told = [one for one in next(iter(known.coded.values())) if not one.helps]
    columns = {column: total[one.name][:, j] / count for one in told for j, column in enumerate(one.columns)}
    return check(frame.with_columns(pl.Series(name, values) for name, values in columns.items()), PREDICTIONS)


def _preparation(saved: dict[str, Any]) -> Preparation:
    fixed = saved["normalise"]
    normalise: Any = fixed if isinstance(fixed, str) else (fixed[0], fixed[1])
    return Preparation(tuple(saved["shape"]), normalise, saved["outside"], saved.get("mirrored", False))


def _recipe(saved: dict[str, Any]) -> Recipe:
    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    rest = {name: value for name, value in plain(saved).items() if name not in ("spread", "change")}
    return Recipe(**rest, spread=Spread(**plain(saved["spread"])), change=Change(**plain(saved["change"])))


def _named(network: Any) -> dict[str, Any]:
    return {"module": type(network).__module__, **asdict(network)}
