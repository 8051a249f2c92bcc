"""From images with labels to the patches a segmentation network learns from, in 2-D and 3-D alike.

Images are prepared once (brought to one spacing, their intensities normalised) and kept as arrays mapped from disk, so that memory
does not grow with their number. A patch is then a pure function of (seed, epoch, row): where it lies, how it is turned, bent and
recoloured. A share of patches is centred on a labelled structure, for a small one would otherwise hardly be met; the others lie
anywhere that is labelled at all.

>>> import tempfile
>>> labels = np.zeros((40, 30), np.int64); labels[10:20, 10:20] = 1
>>> case = Case("a", labels[None] + 0.5, labels)
>>> patches = prepare([case], tempfile.mkdtemp(), PatchPreparation(), classes=2)
>>> image, target = patches.draw(np.random.default_rng(1), 0, (16, 16), foreground=1.0)
>>> image.shape, target.shape, bool((target == 1).any())
((1, 16, 16), (16, 16), True)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import CohortError, StudyError
from clinome.core.files import replacing, write_array
from clinome.imaging.geometry import Spread, draw_geometry
from clinome.imaging.intensity import Change, standardise, vary, z_score
from clinome.imaging.resample import resample, resample_labels, resample_pair

UNKNOWN = -1  # label of a pixel that nobody labelled
_SPOTS = 8192  # places kept of each class of an image


class Case(NamedTuple):
    """An image to learn from or to segment. Arrays may be mapped from disk.

    Attributes
    ----------
    image
        Shape (channels, [depth,] height, width).
    labels
        Classes, shape ([depth,] height, width), :data:`UNKNOWN` where nobody labelled; None where there are none.
    inside
        Where there is anything to see (the field of view of a fundus camera), of the shape of ``labels``; None: everywhere.
    spacing_mm
        Distance between neighbours along each axis of space; None where unknown.
    participant_id, family_id
        Whose it is; empty where nobody says.
    """

    example_id: str
    image: NDArray[Any]
    labels: NDArray[Any] | None = None
    inside: NDArray[np.bool_] | None = None
    spacing_mm: tuple[float, ...] | None = None
    participant_id: str = ""
    family_id: str = ""


@dataclass(frozen=True)
class PatchPreparation:
    """What is done to an image before a network sees it; it travels with the network.

    Attributes
    ----------
    spacing_mm
        To which images are brought; None leaves them as they are.
    intensity
        "image": each channel minus its mean, by its standard deviation, inside; "scale": by the fixed numbers of ``labelled``.
    labelled
        For each channel the least and largest value, mean and standard deviation.
    """

    spacing_mm: tuple[float, ...] | None = None
    intensity: Literal["image", "scale"] = "image"
    labelled: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a scale without its numbers."""
        if self.intensity not in ("image", "scale") or (self.intensity == "scale" and not self.labelled):
            raise StudyError("images cannot be prepared so", got=self, expected="'image', or 'scale' with numbers for each channel")

    def image(self, case: Case) -> NDArray[np.float32]:
        """Return the image as a network sees it: (channels, *space at the new spacing), float32, 0 outside of ``inside``.

        Raises
        ------
        CohortError
            When the spacing is to be changed and not known.
        """
        where = self.where(case)
        values = resample(case.image, **where) if where else np.asarray(case.image, np.float32)
        inside = None if case.inside is None else self._nearest(case.inside, where)
        if self.intensity == "scale":
            low, high, mean, std = np.transpose(np.asarray(self.labelled, dtype=float)).tolist()
            values = standardise(values, mean, std, low=low, high=high)
        else:
            values = z_score(values, inside)
        return values if inside is None else values * inside

    def labels(self, case: Case) -> NDArray[np.int16]:
        """Return the labels where a network is to know them, :data:`UNKNOWN` outside of ``inside``."""
        if case.labels is None:
            raise CohortError("an image to learn from has no labels", where=case.example_id)
        where = self.where(case)
        labels = np.asarray(case.labels, np.int16)
        if where:
            labels = resample_labels(labels[None], **where, fill=UNKNOWN)[0]
        if case.inside is not None:
            labels = np.where(self._nearest(case.inside, where), labels, np.int16(UNKNOWN))
        return labels

    def where(self, case: Case) -> dict[str, Any]:
        """Return the arguments of ``resample`` that change the spacing; {} where it stays."""
        if self.spacing_mm is None or (case.spacing_mm is not None and np.allclose(case.spacing_mm, self.spacing_mm, rtol=1e-4)):
            return {}
        if case.spacing_mm is None:
            raise CohortError(
                "the spacing of an image is not known", where=case.example_id, expected=f"{self.spacing_mm} mm, as in training"
            )
        return {"spacing": case.spacing_mm, "out_spacing": self.spacing_mm}

    @staticmethod
    def _nearest(inside: NDArray[np.bool_], where: dict[str, Any]) -> NDArray[np.bool_]:
        return np.asarray(resample(inside[None], **where, order=0)[0] > 0 if where else inside)


class Patches:
    """Prepared images in a folder, and patches drawn from them."""

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n = folder, n

    def __len__(self) -> int:
        return self.n

    def image(self, number: int) -> NDArray[np.float32]:
        """Return a prepared image, mapped from disk."""
        return np.load(self.folder / f"{number}.image.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def labels(self, number: int) -> NDArray[np.int16]:
        """Return its labels, mapped from disk."""
        return np.load(self.folder / f"{number}.labels.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def draw(
        self,
        generator: np.random.Generator,
        number: int,
        patch: Sequence[int],
        *,
        foreground: float = 1 / 3,
        spread: Spread | None = None,
        change: Change | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Draw a patch of image ``number``: (channels, *patch) and its labels (*patch), unknown beyond the image's edges.

        Its centre is, in a share ``foreground`` of draws, a place of one of the image's structures, each as likely; else any
        labelled place. It is moved so far that the patch lies in the image, where the image is large enough.
        """
        image, labels = self.image(number), self.labels(number)
        spots = np.load(self.folder / f"{number}.spots.npz")
        structures = [name for name in spots.files if name != "any"]
        on_structure = structures and generator.random() < foreground
        places = spots[structures[generator.integers(len(structures))] if on_structure else "any"]
        centre = places[generator.integers(len(places))] if len(places) else 0.0
        least = (np.array(patch) - 1) / 2
        most = np.array(labels.shape) - 1 - least
        middle = (np.array(labels.shape) - 1) / 2
        at: list[float] = np.where(most < least, middle, np.clip(centre, least, np.maximum(most, least))).tolist()
        geometry = None if spread is None else draw_geometry(generator, spread, labels.ndim)
        seen, target = resample_pair(image, labels[None], geometry, shape=patch, centre=at, fill_label=UNKNOWN)
        return (seen if change is None else vary(seen, change, generator)), target[0]


def prepare(cases: Iterable[Case], folder: str | Path, preparation: PatchPreparation, *, classes: int) -> Patches:
    """Prepare labelled ``cases``, one at a time, into ``folder``; those already there and unchanged are taken as they are.

    Raises
    ------
    CohortError
        When an image has no labels, or labels of another shape or beyond ``classes``.
    """
    folder, n = Path(folder), 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        n += 1
        of_case, digest = folder / f"{number}.case.txt", case_digest(case)
        if of_case.exists() and of_case.read_text(encoding="utf-8") == digest:  # written last
            continue
        of_case.unlink(missing_ok=True)
        _check(case, classes)
        image, labels = preparation.image(case), preparation.labels(case)
        for name, values in (("image", image), ("labels", labels)):
            write_array(folder / f"{number}.{name}.npy", values)
        with replacing(folder / f"{number}.spots.npz") as temporary:
            np.savez(temporary, **_spots(labels, number))  # type: ignore[arg-type]
        with replacing(of_case) as temporary:
            temporary.write_text(digest, encoding="utf-8")
    return Patches(folder, n)


def case_digest(case: Case) -> str:
    """Return a SHA-256 of all that a case holds."""
    digest = hashlib.sha256(repr((case.example_id, case.participant_id, case.spacing_mm)).encode())
    for values in (case.image, case.labels, case.inside):
        if values is not None:
            digest.update(f"{values.dtype.str}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _check(case: Case, classes: int) -> None:
    labels = case.labels
    if labels is None:
        raise CohortError("an image to learn from has no labels", where=case.example_id)
    if labels.shape != case.image.shape[1:]:
        raise CohortError("labels do not cover their image", where=case.example_id, got=labels.shape, expected=case.image.shape[1:])
    if labels.size and (labels.max() >= classes or labels.min() < UNKNOWN):
        raise CohortError(
            "an image holds labels that no class has",
            where=case.example_id,
            got=f"{labels.min()} … {labels.max()}",
            expected=f"0 … {classes - 1}, or {UNKNOWN} where unknown",
        )


def _spots(labels: NDArray[np.int16], seed: int) -> dict[str, NDArray[np.int32]]:
    """Return up to 8,192 places of each class but the background, and of anything labelled under 'any': (n, ndim)."""
    generator = np.random.default_rng(seed)
    flat = labels.ravel()
    found = {str(label): np.flatnonzero(flat == label) for label in np.unique(flat) if label > 0}
    found["any"] = np.flatnonzero(flat != UNKNOWN)
    kept = {}
    for name, index in found.items():
        some = index if len(index) <= _SPOTS else np.sort(generator.choice(index, _SPOTS, replace=False))
        kept[name] = np.stack(np.unravel_index(some, labels.shape), axis=1).astype(np.int32)
    return kept
