"""A trained segmenter in its folder, and what it says of new images, in 2-D and 3-D.

    image ─PatchPreparation→ sliding window of patches ─network→ probabilities on the image's own grid ─threshold→ labels

The folder holds the network (``network-<hash>.safetensors``: weights, with the import path and the configuration that make it
again), ``segmenter.json`` (which network file, classes, preparation, recipe, threshold, held-out Dice, history) and ``time.json``.
``segmenter.json`` is replaced last: whenever writing is cut off, the folder is the segmenter it was or the new one, never the
network of one with the settings of the other. :func:`clinome.imaging.segmentation.train_segmenter` makes such folders.

>>> for found in segment("model/segmenter", cases):  # doctest: +SKIP
...     print(found.example_id, found.labels.max())

References
----------
Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation. Nature Methods 18:203–211 (2021), doi:10.1038/s41592-020-01008-z: Gaussian sliding window, mirrored predictions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.core.files import write_json
from clinome.core.provenance import checksum
from clinome.imaging.geometry import Spread
from clinome.imaging.intensity import Change
from clinome.imaging.patches import Case, PatchPreparation
from clinome.imaging.resample import resample
from clinome.imaging.sliding_window import mirrored, sliding_window
from clinome.nn.saving import load_model, save_model
from clinome.train.devices import Precision, choose_device

_ABOUT, _TIME = "segmenter.json", "time.json"


@dataclass(frozen=True)
class SegmenterRecipe:
    """How a segmentation network is trained and applied.

    Attributes
    ----------
    patch, batch
        Sides of a patch (multiples of what the network halves them by), patches of a step.
    steps, seconds
        How long: steps, or (when ``seconds`` is given) as many as fit into that time on this machine, of which a few are made first
        to see (:mod:`clinome.imaging.pace`).
    foreground
        Share of patches centred on a structure.
    optimiser
        "adamw", or "muon" (:class:`clinome.train.muon.Muon`), which needs fewer steps.
    learning_rate, weight_decay, clip
        Of the optimiser: the peak of a warm-up and cosine (muon's wants to be about 0.02); largest norm of the gradient.
    average
        Decay of the moving average of the weights; None: 0.999, in a training of under 10,000 steps less (about the last tenth).
    dice, focal, border
        The loss: weight of soft Dice (over the batch) beside cross entropy; exponent of the focal factor by which easy pixels count
        less (0: none); by how much the background between two close objects counts more (0: none, 10 in the U-Net's paper), where
        an object is what hangs together in the labels of a patch
        (:func:`clinome.nn.segmentation_losses.border_weights`).
    spread, change
        How patches are moved and recoloured.
    window, overlap, mirror, quarter_turns
        Of the sliding window (None: sides of a patch), and the views that a prediction is averaged over
        (:func:`clinome.imaging.sliding_window.mirrored`).
    precision
        Of the network in training; predictions are made in float32.
    validations
        How often the held-out images are segmented on the way (with ``seconds`` at most).
    """

    patch: tuple[int, ...]
    batch: int = 8
    steps: int = 1000
    seconds: float | None = None
    foreground: float = 1 / 3
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    average: float | None = None
    dice: float = 1.0
    focal: float = 0.0
    border: float = 0.0
    spread: Spread = field(default_factory=Spread)
    change: Change = field(default_factory=Change)
    window: tuple[int, ...] | None = None
    overlap: float = 0.5
    mirror: tuple[int, ...] = ()
    quarter_turns: bool = False
    precision: Precision = "measure"
    validations: int = 10
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse a training without a step, and a loss that is none."""
        least = {"steps": 1, "batch": 1, "dice": 0, "focal": 0, "border": 0}
        if wrong := [name for name, low in least.items() if getattr(self, name) < low]:
            raise StudyError(
                f"{wrong[0]} of a recipe is out of range", got=getattr(self, wrong[0]), expected=f"{least[wrong[0]]} or more"
            )
        if self.seconds is not None and self.seconds <= 0:
            raise StudyError("seconds of a recipe is out of range", got=self.seconds, expected="above 0")

    @property
    def views(self) -> int:
        """How many views a prediction is averaged over."""
        return int(2 ** len(self.mirror)) * (4 if self.quarter_turns else 1)


class Segmented(NamedTuple):
    """What a segmenter says of an image, on the image's own grid.

    Attributes
    ----------
    probability
        Shape (classes, [depth,] height, width), float32, background first.
    labels
        Classes, shape ([depth,] height, width).
    """

    example_id: str
    probability: NDArray[np.float32]
    labels: NDArray[np.uint8]


def segment(
    folder: str | Path, cases: Iterable[Case], *, device: str = "auto", batch: int | None = None, views: bool = True
) -> Iterator[Segmented]:
    """Segment ``cases`` (their labels are not looked at) with the network in ``folder``, one at a time.

    Parameters
    ----------
    batch
        Patches at once; by default as many as in training.
    views
        Whether to average over mirror images and turns, as the recipe says.

    Raises
    ------
    FormatError
        When the folder holds no segmenter.
    CohortError
        When an image does not have the channels or the axes of the training's, or lacks its spacing.
    """
    yield from map(segmenter(folder, device=device, batch=batch, views=views), cases)


def segmenter(
    folder: str | Path, *, device: str = "auto", batch: int | None = None, views: bool = True
) -> Callable[[Case], Segmented]:
    """Return the segmenter in ``folder``, read once, as a function of a case; arguments and errors are those of :func:`segment`."""
    folder = Path(folder)
    about = read_about(folder)
    try:
        recipe, preparation = _recipe(about["recipe"]), PatchPreparation(**_tuples(about["preparation"]))
        threshold, network = about["threshold"], folder / about["network"]
    except (KeyError, TypeError) as error:
        raise FormatError(
            "the segmenter does not fit this version of Clinome", where=folder / _ABOUT, got=error, do="train it again"
        ) from error
    model = load_model(network).to(choose_device(device))

    def apply(case: Case) -> Segmented:
        probability = predict(model, case, recipe, preparation, batch=batch, views=views)
        return Segmented(case.example_id, probability, labels_of(probability, threshold, case.inside))

    return apply


def structures_of(folder: str | Path) -> tuple[str, ...]:
    """Return the names of the classes from 1 up that the segmenter in ``folder`` tells apart.

    Raises
    ------
    FormatError
        When the folder holds no segmenter.
    """
    return tuple(read_about(Path(folder))["structures"])


def labels_of(
    probability: NDArray[np.float32], threshold: float | None, inside: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return classes from probabilities (classes, *space): class 1 from ``threshold`` on, or without one the likeliest."""
    labels = probability.argmax(axis=0) if threshold is None else probability[1] >= threshold
    return np.asarray(labels if inside is None else labels * inside, np.uint8)


def predict(
    model: nn.Module,
    case: Case,
    recipe: SegmenterRecipe,
    preparation: PatchPreparation,
    *,
    batch: int | None = None,
    views: bool = True,
) -> NDArray[np.float32]:
    """Return probabilities of the classes on the case's own grid, (classes, *space), by a sliding window of prepared patches."""
    wanted, axes = getattr(model.config, "channels_in", len(case.image)), len(recipe.patch)
    if case.image.ndim != axes + 1 or len(case.image) != wanted:
        raise CohortError(
            "an image is not of the kind the network was trained on",
            where=case.example_id,
            got=f"shape {case.image.shape}",
            expected=f"{wanted} channels and {axes} axes of space",
        )
    device = next(model.parameters()).device

    def probabilities(patches: Tensor) -> Tensor:
        scores: Tensor = model(patches.to(device))
        return scores.float().softmax(dim=1)

    found = sliding_window(
        mirrored(probabilities, recipe.mirror, quarter_turns=recipe.quarter_turns) if views else probabilities,
        preparation.image(case),
        patch=recipe.window or recipe.patch,
        overlap=recipe.overlap,
        margin=getattr(model.config, "margin", 0),
        batch=batch or recipe.batch,
    )
    where = preparation.where(case)
    if where:  # back from the network's spacing
        found = resample(found, shape=case.image.shape[1:], spacing=where["out_spacing"], out_spacing=where["spacing"], fill="edge")
    return found


# ----------------------------------------------------------------------------------------------------------------------- the folder


def save_segmenter(folder: Path, model: nn.Module, about: dict[str, Any], *, cpu_seconds: float) -> None:
    """Make ``folder`` the segmenter of ``model`` and ``about`` (JSON: structures, preparation, recipe, threshold, key, …).

    The network is written beside the one that is there, under a name from its content; then ``segmenter.json`` names it.
    """
    new = folder / "network-new.safetensors"
    save_model(model, new)
    name = f"network-{checksum(new)[-16:]}.safetensors"
    new.replace(folder / name)
    write_json(folder / _ABOUT, {**about, "network": name})
    write_json(folder / _TIME, {"cpu_seconds": cpu_seconds, "key": about["key"]})
    for old in folder.glob("network*.safetensors"):
        if old.name != name:
            old.unlink()


def read_about(folder: Path) -> dict[str, Any]:
    """Return what ``segmenter.json`` of a folder says.

    Raises
    ------
    FormatError
        When there is none, or it is broken.
    """
    path = folder / _ABOUT
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        do = "train one with `clinome train` or train_segmenter, and name the folder `segmenter` in what it wrote"
        got = f"{_ABOUT}: {getattr(error, 'strerror', None) or error}"
        raise FormatError("this folder holds no segmenter", where=folder, got=got, do=do) from error
    return about


def finished(folder: Path, key: str) -> tuple[dict[str, Any], float] | None:
    """Return what the folder says of itself and its processor seconds, when a training of this ``key`` ended there."""
    try:
        about, took = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (_ABOUT, _TIME))
        return (about, float(took["cpu_seconds"])) if about["key"] == took["key"] == key else None
    except (OSError, ValueError, KeyError):  # absent, or of another version: it is trained anew
        return None


def _recipe(saved: dict[str, Any]) -> SegmenterRecipe:
    plain = _tuples(saved)
    return SegmenterRecipe(**{**plain, "spread": Spread(**plain["spread"]), "change": Change(**plain["change"])})


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(one) for name, one in value.items()}
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
