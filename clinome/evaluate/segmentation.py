"""How well a segmentation fits: overlap, volume and the distances between surfaces, for each structure of each image.

Definitions. A surface is the voxels of a structure that touch something else by a face (or the border of the image); an axis of one
voxel has no faces: a slice is judged by its contours, as the same picture without that axis. Distances run from the centre of a
surface voxel to the nearest one of the other surface, in the units of the spacing. ``hausdorff_95`` is the
larger of the two directions' 95 % quantiles, ``surface_distance`` the mean over both surfaces' voxels (ASSD), ``surface_dice``
the share of both surfaces' voxels within ``tolerance`` of the other.

Empty structures are told apart, never dropped silently (column ``state``): ``absent`` in both, where nothing is to be measured
and overlap and distances are null; ``missed`` (only in the truth) or ``invented`` (only in the prediction), where overlap and
surface Dice are 0 and distances are the diagonal of the image, the worst there is, so that a mean does not gain by failures.

References
----------
Dice LR. Measures of the amount of ecologic association between species. Ecology 26:297–302 (1945), doi:10.2307/1932409.
Huttenlocher DP, Klanderman GA, Rucklidge WJ. Comparing images using the Hausdorff distance. IEEE Transactions on Pattern
Analysis and Machine Intelligence 15:850–863 (1993), doi:10.1109/34.232073.
Nikolov S et al. Clinically applicable segmentation of head and neck anatomy for radiotherapy. Journal of Medical Internet
Research 23:e26151 (2021), doi:10.2196/26151 (surface Dice).
Maier-Hein L et al. Metrics reloaded: recommendations for image analysis validation. Nature Methods 21:195–212 (2024),
doi:10.1038/s41592-023-02151-z (what to do with empty structures).

>>> truth, predicted = np.zeros((8, 8), int), np.zeros((8, 8), int)
>>> truth[2:6, 2:6] = 1
>>> predicted[2:6, 3:7] = 1
>>> compare_masks(truth, predicted, {"disc": 1}).select("structure", "state", "dice", "hausdorff_95").row(0)
('disc', 'both', 0.75, 1.0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from clinome.core.schema import OVERLAPS, check
from clinome.evaluate.measuring import RESAMPLES, Metric, additive, metric_row, metrics_table
from clinome.stats.resampling import bootstrap, participant_codes

Mask = NDArray[np.bool_]
_MEASURES = ("dice", "jaccard", "hausdorff_95", "surface_distance", "surface_dice", "volume_error")


def dice(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Return the Dice coefficient 2·|both| / (|truth| + |predicted|) of two masks; NaN when both are empty."""
    a, b = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def surface_distances(
    truth: Mask, predicted: Mask, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances from the surface of ``truth`` to that of ``predicted``, and back: one a surface voxel.

    Masks have the same shape, 2-D or 3-D, and are not empty; ``spacing`` is one number an axis (None: 1).
    """
    wide = [axis for axis, side in enumerate(truth.shape) if side > 1] or [0]
    thin = tuple(axis for axis in range(truth.ndim) if axis not in wide)
    truth, predicted = truth.squeeze(thin), predicted.squeeze(thin)
    spacing = None if spacing is None else [spacing[axis] for axis in wide]
    near = _around(truth | predicted)
    inside = np.pad(truth[near], 1), np.pad(predicted[near], 1)
    edges = [mask & ~binary_erosion(mask) for mask in inside]
    there, back = (distance_transform_edt(~edges[to], sampling=spacing)[edges[origin]] for origin, to in ((0, 1), (1, 0)))
    return there, back


def _around(mask: Mask) -> tuple[slice, ...]:
    """Return the box around what is set."""
    box = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(box)


def compare_masks(
    truth: ArrayLike,
    predicted: ArrayLike,
    structures: Mapping[str, int],
    *,
    spacing: Sequence[float] | None = None,
    tolerance: float = 1.0,
    example_id: str = "",
    participant_id: str = "",
) -> pl.DataFrame:
    """Compare two label maps; return ``core.schema.OVERLAPS`` with a row a structure.

    Parameters
    ----------
    truth, predicted
        Whole numbers (or booleans), of one shape, 2-D or 3-D.
    structures
        Name → label.
    spacing
        Of the voxels, one number an axis in the order of the array's axes, in mm; None: 1, and all is in pixels. Axes are taken to
        be at right angles, as they are however an oblique scan lies; of a sheared one (a tilted gantry) volumes and distances are
        those of its upright box, overlaps are right.
    tolerance
        Of surface Dice, in the units of ``spacing``.

    Raises
    ------
    ValueError
        When shapes differ or ``spacing`` has not one positive number an axis.
    """
    labels, answers = np.asarray(truth), np.asarray(predicted)
    if labels.shape != answers.shape:
        raise ValueError(f"the two segmentations have different shapes, {labels.shape} and {answers.shape}")
    steps = np.ones(labels.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if steps.shape != (labels.ndim,) or not (steps > 0).all():
        raise ValueError(f"spacing needs {labels.ndim} positive numbers, got {spacing}")
    rows = [
        {"example_id": example_id, "participant_id": participant_id, "structure": name}
        | _compare(labels == label, answers == label, steps, tolerance)
        for name, label in structures.items()
    ]
    return check(pl.DataFrame(rows, schema={c.name: c.dtype for c in OVERLAPS.columns}, orient="row"), OVERLAPS)


def _compare(truth: Mask, predicted: Mask, steps: NDArray[np.float64], tolerance: float) -> dict[str, Any]:
    """Return the numbers of one structure."""
    voxel = float(np.prod(steps))
    n_truth, n_predicted, both = int(truth.sum()), int(predicted.sum()), int((truth & predicted).sum())
    found: dict[str, Any] = {
        "volume": n_truth * voxel,
        "predicted_volume": n_predicted * voxel,
        "volume_error": (n_predicted - n_truth) / n_truth if n_truth else None,
    }
    if not n_truth and not n_predicted:
        return found | {"state": "absent"}
    overlap = {"dice": 2 * both / (n_truth + n_predicted), "jaccard": both / (n_truth + n_predicted - both)}
    if not n_truth or not n_predicted:
        diagonal = float(np.linalg.norm(steps * truth.shape))
        far = {"hausdorff_95": diagonal, "surface_distance": diagonal, "surface_dice": 0.0}
        return found | overlap | far | {"state": "missed" if n_truth else "invented"}
    there, back = surface_distances(truth, predicted, spacing=tuple(steps))
    every = np.concatenate([there, back])
    surface = {
        "hausdorff_95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "surface_distance": float(every.mean()),
        "surface_dice": float((every <= tolerance).mean()),
    }
    return found | overlap | surface | {"state": "both"}


def segmentation(
    cases: pl.DataFrame, *, predictor: str = "model", split: str | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> pl.DataFrame:
    """Average rows of OVERLAPS over images; return METRICS, a row a measure and structure, intervals by resampling people.

    Each measure is the mean over the images in which it is defined; an image counts once, also of people with several. ``n`` are
    the people of these images: where a lesion is in four of fifty, its interval is one of four people.
    ``missed`` and ``invented`` are the shares of the images in which that happened. ``subgroup`` is ``structure=<name>``, and 'all'
    for the mean of the structures' means.
    """
    cases = check(cases, OVERLAPS)
    person, n = participant_codes(cases["participant_id"].to_numpy(), cases.height)
    shares = {state: (cases["state"] == state).cast(pl.Float64) for state in ("missed", "invented")}
    columns = {name: cases[name] for name in _MEASURES} | shares
    structures = cases["structure"].unique(maintain_order=True).to_list()
    rows = []
    for name, column in columns.items():
        values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
        known = np.isfinite(values)
        prepared = []
        for structure in structures:
            here = np.flatnonzero((cases["structure"] == structure).to_numpy() & known)
            prepared.append(_MEAN.prepare(values[here], values[here], person[here], n))
        draws = bootstrap([one.of for one in prepared], n, resamples=resamples, seed=seed)
        means = np.array([one.value for one in prepared])
        about = {"predictor": predictor, "split": split}
        for structure, one, drawn in zip(structures, prepared, draws.T, strict=True):
            rows.append(metric_row(name, one.value, drawn, one.people) | about | {"subgroup": f"structure={structure}"})
        if len(structures) > 1:
            rows.append(metric_row(name, float(means.mean()), draws.mean(axis=1), len(np.unique(person[known]))) | about)
    return metrics_table(rows)


_MEAN = Metric("mean", additive(lambda values, _: values[:, None].astype(np.float64), lambda s, n: s[:, 0] / n))
