"""Examples that a reader of the page should see, as small pictures: typical ones, the worst, the least certain.

They lie in the folder ``pictures`` with a table ``examples`` (``core.schema.EXAMPLES``) beside it. They show people; a folder made
without them has neither.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import replacing
from clinome.core.schema import EXAMPLES, check
from clinome.evaluate.outcomes import Outcome, outcome
from clinome.imaging.judging import judged_split
from clinome.imaging.measure.contact_sheet import Case as Outlined
from clinome.imaging.thumbnails import SAID, TRUTH, as_png, disagreement, outlined, thumbnail
from clinome.studies.picture_files import SHOWN, leave, remove

TYPICAL, WORST, LEAST = "typical", "worst", "least certain"
_COUNTS = {TYPICAL: 4, WORST: 8, LEAST: 8}
_TARGETS = 4  # of more, the first are shown


class Shown(NamedTuple):
    """An example that is shown: why, what is true and what was said in words, by which measure it was chosen, and its PNG."""

    example_id: str
    kind: str
    target: str
    truth: str | None
    prediction: str | None
    measure: str
    value: float | None
    png: bytes


def leave_examples(out: Path, shown: Iterable[Shown]) -> None:
    """Write ``pictures`` and ``examples`` into ``out`` in place of those that are there; nothing where nothing is shown."""
    remove(out, *SHOWN)
    rows = []
    for number, one in enumerate(shown, start=1):
        name = f"pictures/{number:03d}.png"
        with replacing(out / name) as temporary:
            temporary.write_bytes(one.png)
        rows.append({**one._asdict(), "path": name})
    if rows:
        table = pl.DataFrame(rows, infer_schema_length=None).drop("png")
        leave(
            out,
            examples=check(table.cast({"value": pl.Float64}).with_columns(pl.col("truth", "prediction").cast(pl.String)), EXAMPLES),
        )


# ---------------------------------------------------------------------------------------------------------------------- predictions


def of_predictions(
    predictions: pl.DataFrame,
    images: Sequence[NDArray[Any]],
    places: Mapping[str, int],
    *,
    dims: int,
    thresholds: Mapping[str, float] | None = None,
) -> Iterable[Shown]:
    """Yield what to show of each target, of the rows that are judged; of images without a truth the least certain.

    Parameters
    ----------
    predictions
        ``core.schema.PREDICTIONS``.
    images, places
        The pictures, (channels, *spatial) with ``dims`` axes of space, and the place of each example among them.
    thresholds
        Of targets of two classes: from which probability of the second on a row is of it. What is said and how certain it is goes
        by them, as the measures do.
    """
    cuts = thresholds or {}
    names = dict.fromkeys(name.split(":")[1] for name in predictions.columns if name.startswith("predicted:"))
    for target in list(names)[:_TARGETS]:
        if target in predictions.columns:
            found = outcome(predictions, target, split=judged_split(predictions["split"]))
        else:  # new images
            found = outcome(predictions.with_columns(pl.lit(None).alias(target)), target)
        cut = cuts.get(target) if len(found.classes) == 2 else None
        for kind, measure, row, value in _chosen(found, cut):
            name = found.example_ids[row]
            png = as_png(thumbnail(np.asarray(images[places[name]]), dims=dims))
            yield Shown(name, kind, target, *_words(found, row, cut), measure, value, png)


def _chosen(found: Outcome, cut: float | None) -> Iterable[tuple[str, str, int, float]]:
    """Yield kind, measure, row and value of what is to be shown of a target."""
    known = np.flatnonzero(np.isfinite(found.truth))
    if found.kind == "number":
        error = np.abs(found.predicted - found.truth)
        yield from _named(WORST, "absolute error", known, error, error, found)
        if len(known):
            yield from _named(TYPICAL, "absolute error", known, -np.abs(error - np.median(error[known])), error, found)
        return
    probability = found.predicted if found.kind == "classes" else np.column_stack([1 - found.predicted, found.predicted])
    if len(known):
        of_truth = np.full(len(probability), np.nan)
        of_truth[known] = probability[known, found.truth[known].astype(int)]
        middle = -np.abs(of_truth - np.median(of_truth[known]))
        yield from _named(WORST, "probability of the truth", known, -of_truth, of_truth, found)
        yield from _named(TYPICAL, "probability of the truth", known, middle, of_truth, found)
    if cut is not None:
        away = np.abs(probability[:, 1] - cut)
        yield from _named(LEAST, "distance from the threshold", np.arange(len(away)), -away, away, found)
        return
    certainty = probability.max(axis=1)
    yield from _named(LEAST, "certainty", np.arange(len(certainty)), -certainty, certainty, found)


def _named(
    kind: str, measure: str, rows: NDArray[np.intp], rank: NDArray[np.float64], value: NDArray[np.float64], found: Outcome
) -> Iterable[tuple[str, str, int, float]]:
    """Yield the rows of the highest rank, a person once."""
    people = set[Any]()
    for row in rows[np.argsort(-rank[rows], kind="stable")]:
        if len(people) < _COUNTS[kind] and found.participants[row] not in people:
            people.add(found.participants[row])
            yield kind, measure, int(row), float(value[row])


def _words(found: Outcome, row: int, cut: float | None) -> tuple[str | None, str]:
    """Return what is true, where it is known, and what was said."""
    known = np.isfinite(found.truth[row])
    if found.kind == "number":
        return f"{found.truth[row]:.4g}" if known else None, f"{found.predicted[row]:.4g}"
    truth = found.classes[int(found.truth[row])] if known else None
    probability = found.predicted[row] if found.kind == "classes" else np.array([1 - found.predicted[row], found.predicted[row]])
    if cut is not None:
        said = found.classes[int(probability[1] >= cut)]
        return truth, f"{said} ({found.classes[1]} {probability[1]:.2f}, from {cut:.2f})"
    best = int(np.argmax(probability))
    return truth, f"{found.classes[best]} ({probability[best]:.2f})"


# ------------------------------------------------------------------------------------------------------------------------- outlines


def disagreeing(image: NDArray[Any], truth: NDArray[np.integer], said: NDArray[np.integer]) -> bytes:
    """Return a picture of truth (green) and what was said (orange), of a volume in the slice in which they differ most."""
    if truth.ndim == 3:
        most = disagreement(truth, said)
        image, truth, said = image[:, most], truth[most], said[most]
    return as_png(outlined(image, [(truth, TRUTH), (said, SAID)]))


def of_overlaps(
    overlaps: pl.DataFrame, pictures: Mapping[str, bytes], certainty: Mapping[str, float | None], structures: Sequence[str]
) -> Iterable[Shown]:
    """Yield the test images with the worst mean Dice, with a typical one, and the least certain: for each reason a person once.

    ``pictures`` and ``certainty`` are by example_id; pictures are those of :func:`disagreeing`.
    """
    mean = overlaps.group_by("example_id", "participant_id", maintain_order=True).agg(pl.col("dice").mean())
    sure = pl.Series("certainty", [certainty.get(name) for name in mean["example_id"]], pl.Float64)
    every, names = mean.with_columns(sure), ", ".join(structures)
    middle = (pl.col("dice") - pl.col("dice").median()).abs()
    reasons = ((WORST, "mean Dice", "dice", pl.col("dice")), (TYPICAL, "mean Dice", "dice", middle))
    for kind, measure, column, order in (*reasons, (LEAST, "certainty", "certainty", pl.col("certainty"))):
        some = every.drop_nulls(column).sort(order, maintain_order=True).unique("participant_id", keep="first", maintain_order=True)
        for name, value in some.select("example_id", column).head(_COUNTS[kind]).iter_rows():
            yield Shown(name, kind, names, "green", "orange", measure, value, pictures[name])


class LeastCertain:
    """Keeps the images whose outlines are the least certain, of any number; only these are drawn and held."""

    def __init__(self) -> None:
        self.kept: list[tuple[float, str, bytes]] = []  # a heap whose top is the most certain of those kept

    def see(self, name: str, image: NDArray[Any], said: NDArray[np.integer], certainty: float | None) -> None:
        """Look at an image (channels, *spatial) with what was drawn in it; one in which nothing was has no certainty."""
        if certainty is None or (len(self.kept) == 2 * _COUNTS[LEAST] and -certainty <= self.kept[0][0]):
            return
        if said.ndim == 3:
            most = int(np.count_nonzero(said, axis=(1, 2)).argmax())
            image, said = image[:, most], said[most]
        put = heapq.heappushpop if len(self.kept) == 2 * _COUNTS[LEAST] else heapq.heappush
        put(self.kept, (-certainty, name, as_png(outlined(image, [(said, SAID)]))))

    def shown(self, structures: str) -> Iterable[Shown]:
        """Yield them, the least certain first."""
        for certainty, name, png in sorted(self.kept, reverse=True):
            yield Shown(name, LEAST, structures, None, None, "certainty", -certainty, png)


def of_contours(cases: Iterable[Outlined], structure: str) -> Iterable[Shown]:
    """Yield the outlines that were measured and are the least certain, as on the contact sheet but without their names."""
    for case in cases:
        picture = np.asarray(case.picture)
        values = picture[None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)
        sure = float(case.certainty) if np.isfinite(case.certainty) else None
        yield Shown(
            case.image_id, LEAST, structure, None, None, "certainty", sure, as_png(outlined(values, [(case.outlines, SAID)]))
        )
