"""What a trained predictor or segmenter is asked when it is explained: its networks, the pictures as they see them, the targets.

A predictor is asked for a number in its unit, or for the log odds of a class; people of its training are explained by the networks
that answer for them in `clinome predict`. A segmenter is asked for the mean log odds of a structure where it drew it, in the patch
around that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.explain.asking import Target, answers
from clinome.imaging.pictures import prepared
from clinome.imaging.prediction import Predictor
from clinome.imaging.reading import fault_of
from clinome.imaging.resample import resample_labels
from clinome.imaging.targets import Coded
from clinome.nn.saving import config_of, load_model
from clinome.studies.picture_files import Kept, Kind, Listed, read_image
from clinome.studies.task_file import Pictures
from clinome.train.devices import choose_device

LOG_ODDS = "log odds"


class Question(NamedTuple):
    """Which number of the networks' output is explained: its target, the class of each picture (None of a number), its unit."""

    target: str
    classes: tuple[str | None, ...]
    unit: str
    of: Target


class Group(NamedTuple):
    """Pictures, (n, channels, *space) and ``rows`` of the images table, that the same networks are asked about."""

    rows: list[int]
    networks: list[nn.Module]
    inputs: Tensor
    questions: list[Question]
    note: str = ""


class Asked(NamedTuple):
    """A trained model as it is asked.

    Attributes
    ----------
    images
        One row a picture that can be asked about.
    groups
        From rows of ``images`` to groups of them; what cannot be read then is noted in ``faults``.
    files
        What the model was read from.
    network
        The first of its networks.
    mirrored
        Whether it sees a picture with left and right exchanged, (n_images,).
    """

    images: pl.DataFrame
    groups: Callable[[Sequence[int]], Iterator[Group]]
    files: list[Path]
    network: nn.Module
    faults: dict[int, tuple[str, str]]
    mirrored: NDArray[np.bool_]


class Said(nn.Module):
    """A predictor's network with its outputs as they are read: numbers in their unit, the log odds of each class: (n, n_columns).

    ``columns`` says of each what it is: (target, class or None).
    """

    def __init__(self, network: nn.Module, coded: Sequence[Coded], *, balanced: bool) -> None:
        super().__init__()
        self.network, self.coded, self.balanced = network, tuple(coded), balanced
        self.config = network.config
        self.columns = [(one.name, label) for one in coded if not one.helps for label in (one.classes or (None,))]

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (n, n_columns)."""
        outputs, found, start = self.network(pictures), [], 0
        for one in self.coded:
            mine = outputs[:, start : start + one.outputs]
            start += one.outputs
            if one.helps:
                continue
            if not one.classes:
                found.append(mine * one.deviation + one.mean)
                continue
            if self.balanced:  # probabilities of the training rows' frequencies, as they are predicted
                mine = mine + mine.new_tensor(one.shares).log()
            for k in range(one.outputs):
                others = torch.cat([mine[:, :k], mine[:, k + 1 :]], dim=1)
                found.append((mine[:, k] - others.logsumexp(dim=1))[:, None])
        return torch.cat(found, dim=1)


def kind_taken(known: Predictor) -> Kind:
    """Return the kind of pictures that a predictor takes.

    Raises
    ------
    StudyError
        For a predictor of several views.
    """
    config = config_of(known.files(next(iter(known.coded)))[0])
    if "views" in config:
        do = "explain its network with the functions of clinome.explain"
        raise StudyError("this predictor looks at several views together", got=f"{config['views']} views", do=do)
    return Kind(len(known.preparation.shape), int(config.get("channels_in", 1)))


def said_by(known: Predictor) -> dict[str, list[Said]]:
    """Return the networks of each part of a predictor, as they are read; on a GPU where there is one."""
    device = choose_device()
    return {
        part: [Said(network, coded, balanced=known.recipe.balance).eval().to(device) for network in known.networks(part)]
        for part, coded in known.coded.items()
    }


def of_predictor(
    model: Path,
    known: Predictor,
    networks: dict[str, list[Said]],
    chosen: Sequence[tuple[Coded, str | None]],
    kept: Kept,
    images: pl.DataFrame,
) -> Asked:
    """Return a predictor as it is asked about ``chosen`` targets (:func:`chosen_targets`) of the ``kept`` pictures."""
    split = [known.splits.get(person, "new") for person in images["participant_id"]]

    def groups(rows: Sequence[int]) -> Iterator[Group]:
        for parts in dict.fromkeys(_parts(split[row], known.coded) for row in rows):
            mine = [row for row in rows if _parts(split[row], known.coded) == parts]
            inputs = torch.from_numpy(np.stack([prepared(kept[row], known.preparation) for row in mine]))
            asked = [network for part in parts for network in networks[part]]
            yield Group(mine, list(asked), inputs, [_question(asked, inputs, *one) for one in chosen])

    table = images.with_columns(split=pl.Series(split, dtype=pl.String))
    flips = known.preparation.mirrored
    mirrored = np.array([flips and row.get("laterality") == "left" for row in images.iter_rows(named=True)], dtype=bool)
    files = [model / "predictor.json", *sorted(known.folder.glob("*.safetensors"))]
    return Asked(table, groups, files, next(iter(networks.values()))[0], {}, mirrored)


def _parts(split: str, coded: dict[str, Any]) -> tuple[str, ...]:
    """Return the parts that answer for people of ``split``: in a predictor of folds, of a fold the one that did not see it."""
    return (split,) if split in coded else tuple(coded)


def chosen_targets(words: Sequence[str], predictor: Predictor) -> list[tuple[Coded, str | None]]:
    """Return the targets that are meant, each with the class that is meant, if one is.

    Parameters
    ----------
    words
        'age', 'kind' (the likeliest class of each picture) or 'kind:light'; none: every target.

    Raises
    ------
    StudyError
        For a target or class that there is not.
    """
    known = {one.name: one for one in next(iter(predictor.coded.values())) if not one.helps}
    found: list[tuple[Coded, str | None]] = []
    for word in words or list(known):
        if word in known:
            found.append((known[word], None))
            continue
        name = next((name for name in known if word.startswith(f"{name}:")), None)
        if name is None:
            raise StudyError("the predictor has no such target", got=word, expected=", ".join(known))
        label = word.removeprefix(f"{name}:")
        if label not in known[name].classes:
            expected = ", ".join(f"{name}:{one}" for one in known[name].classes) or f"{name}, a number"
            raise StudyError("the target has no such class", got=word, expected=expected)
        found.append((known[name], label))
    return found


def _question(networks: Sequence[nn.Module], inputs: Tensor, one: Coded, label: str | None) -> Question:
    columns: Any = networks[0].columns
    if not one.classes:
        return Question(one.name, (None,) * len(inputs), f"unit of {one.name}", columns.index((one.name, None)))
    if label is not None:
        return Question(one.name, (label,) * len(inputs), LOG_ODDS, columns.index((one.name, label)))
    of = [columns.index((one.name, name)) for name in one.classes]
    said = np.stack([sum(answers(network, inputs, target=k) for network in networks).numpy() for k in of])  # type: ignore[union-attr]
    best = said.argmax(axis=0)
    return Question(one.name, tuple(one.classes[k] for k in best), LOG_ODDS, torch.from_numpy(np.asarray(of)[best]))


# --------------------------------------------------------------------------------------------------------------------- segmenters


def of_segmenter(model: Path, found: Listed, pictures: Pictures, targets: Sequence[str]) -> Asked:
    """Return a segmenter as it is asked about structures; of each picture the patch around the structure is looked at.

    Raises
    ------
    FormatError
        When the folder holds no segmenter.
    StudyError
        For a structure that it does not draw.
    """
    from clinome.imaging.patches import Case, PatchPreparation
    from clinome.imaging.segmenter import read_about, segmenter

    about, apply = read_about(model), segmenter(model)
    structures: list[str] = about["structures"]
    taken = about["preparation"]
    scale = None if taken["labelled"] is None else tuple(tuple(numbers) for numbers in taken["labelled"])
    preparation = PatchPreparation(taken["spacing_mm"] and tuple(taken["spacing_mm"]), taken["intensity"], scale)
    network = load_model(model / about["network"]).to(choose_device())
    if unknown := [name for name in targets if name not in structures]:
        raise StudyError("the segmenter draws no such structure", got=unknown[0], expected=", ".join(structures))
    patch, margin = tuple(about["recipe"]["window"] or about["recipe"]["patch"]), int(getattr(network.config, "margin", 0))
    rows_of, faults = found.images.to_dicts(), dict[int, tuple[str, str]]()

    def groups(rows: Sequence[int]) -> Iterator[Group]:
        for row in rows:
            try:
                scan = read_image(found.root, rows_of[row], pictures)
                case = Case(rows_of[row]["image_id"], scan.values, spacing_mm=scan.spacing_mm)
                labels, values = apply(case).labels, preparation.image(case)
            except (FormatError, CohortError) as error:
                faults[row] = fault_of(error)
                continue
            where = preparation.where(case)
            labels = resample_labels(labels[None], **where)[0] if where else labels
            for name in targets or structures:
                label = structures.index(name) + 1
                yield _around(row, network, values, labels == label, name, label, patch, margin)

    return Asked(
        found.images,
        groups,
        [model / "segmenter.json", model / about["network"]],
        network,
        faults,
        np.zeros(found.images.height, bool),
    )


def _around(
    row: int,
    network: nn.Module,
    values: NDArray[np.float32],
    drawn: NDArray[np.bool_],
    name: str,
    label: int,
    patch: tuple[int, ...],
    margin: int,
) -> Group:
    """Return the patch around a structure, zeros beyond the picture's edges, and the question for its mean log odds."""
    short = [max(side - length, 0) for side, length in zip(patch, drawn.shape, strict=True)]
    values = np.pad(values, [(0, 0), *((0, less) for less in short)])
    drawn = np.pad(drawn, [(0, less) for less in short])
    places = np.argwhere(drawn)
    middle = np.median(places, axis=0) if len(places) else np.array(drawn.shape) / 2
    start = np.clip(np.rint(middle - np.array(patch) / 2).astype(int), 0, np.array(drawn.shape) - patch)
    box = tuple(slice(at, at + side) for at, side in zip(start, patch, strict=True))
    inner = tuple(slice(margin, side - margin) for side in patch)
    inside = torch.from_numpy(np.ascontiguousarray(drawn[box][inner]))
    inputs = torch.from_numpy(np.ascontiguousarray(values[(slice(None), *box)]))[None]
    at = int(label)

    def of(scores: Tensor) -> Tensor:
        others = torch.cat([scores[:, :at], scores[:, at + 1 :]], dim=1)
        return (scores[:, at] - others.logsumexp(dim=1))[:, inside].mean(dim=1)

    note = "" if inside.any() else "the structure was not found"
    return Group([row], [network], inputs, [Question(name, (None,), f"{LOG_ODDS} (mean where drawn)", of)], note)
