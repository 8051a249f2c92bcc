"""Volumes and surfaces of structures in a scan, in cubic and square millimetres, from labels or from probabilities.

A volume of labels is voxels times their size. With probabilities the expected volume, Σ p, counts a voxel at the edge in part
(partial volume), which for small structures matters more than the choice of a threshold. A voxel of a scan whose axes are not at
right angles (a tilted gantry, a sheared affine) is smaller than the product of its sides: there the affine says. A surface is the
mesh of marching cubes (Lorensen & Cline 1987, by scikit-image) at one half, of the probabilities or of the labels smoothed by 0.7
voxels: on bare labels the mesh climbs stairs and is about a tenth too large.

References
----------
Lorensen WE, Cline HE. Marching cubes: a high resolution 3D surface construction algorithm. SIGGRAPH 21:163–169 (1987),
doi:10.1145/37402.37422.
Niessen WJ, Bouma CJ, Vincken KL, Viergever MA. Error metrics for quantitative evaluation of medical image segmentation. In:
Performance Characterization in Computer Vision (2000), doi:10.1007/978-94-015-9538-4_22 (partial volume in volumetry).

>>> labels = np.zeros((8, 8, 8), np.uint8); labels[2:6, 2:6, 2:6] = 1
>>> [(t.name, t.value, t.unit) for t in measure_volumes(labels, spacing_mm=(2.0, 1.0, 1.0), names={1: "block"})["block"]][0]
('volume', 128.0, 'mm³')
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter

from clinome.core.errors import need
from clinome.imaging.measure.trait import Trait, trait

_SMOOTH = 0.7  # voxels
_MARGIN = 4  # voxels kept around a structure


def measure_volumes(
    labels: NDArray[np.integer],
    *,
    spacing_mm: tuple[float, ...],
    names: Mapping[int, str],
    affine: NDArray[np.float64] | None = None,
    probabilities: NDArray[np.floating] | None = None,
    surface: bool = True,
    total: str | None = None,
) -> dict[str, list[Trait]]:
    """Measure each structure of one scan.

    Parameters
    ----------
    labels
        Shape (depth, height, width) or (height, width); 0 is background.
    spacing_mm
        Distance between neighbours along each axis of ``labels``.
    names
        What each label is called, in the order wanted.
    affine
        Of a volume, from the index (x, y, z, 1) of ``labels[z, y, x]`` to mm (``Scan.affine``): a voxel has the volume |det|, and
        surfaces are sheared as the scan is. None: the axes are at right angles.
    probabilities
        Of each label, shape (n_labels, *labels.shape), in the order of ``names``; then volumes and surfaces rest on them, and
        ``labels`` only says where a structure is cut by the scan.
    surface
        Whether to measure surfaces (of volumes; perimeters are not measured).
    total
        Name of one more structure, all named ones together.

    Returns
    -------
    Traits by structure: ``volume`` (mm³, or ``area`` in mm²) and ``surface`` (mm²). A structure that is absent has volume 0 and a
    flag; one that touches the edge of the scan is flagged because part of it may lie outside.

    Raises
    ------
    ValueError
        For shapes that do not fit together.
    """
    labels = np.asarray(labels)
    if len(spacing_mm) != labels.ndim or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must hold a positive number for each of {labels.ndim} axes, got {spacing_mm}")
    if probabilities is not None and probabilities.shape != (len(names), *labels.shape):
        raise ValueError(f"probabilities must have the shape {(len(names), *labels.shape)}, got {probabilities.shape}")
    if affine is not None and (labels.ndim != 3 or np.shape(affine) != (4, 4)):
        raise ValueError(f"an affine of shape (4, 4) places a volume, got {np.shape(affine)} for {labels.ndim} axes")
    steps = np.diag(spacing_mm) if affine is None else np.asarray(affine, np.float64)[2::-1, 2::-1]
    found: dict[str, list[Trait]] = {}
    for k, (label, name) in enumerate(names.items()):
        soft = None if probabilities is None else np.asarray(probabilities[k], dtype=np.float64)
        found[name] = _structure(labels == label, soft, steps, surface)
    if total is not None:
        soft = None if probabilities is None else np.asarray(probabilities, dtype=np.float64).sum(axis=0)
        found[total] = _structure(np.isin(labels, list(names)), soft, steps, surface)
    return found


def _structure(
    outline: NDArray[np.bool_], soft: NDArray[np.float64] | None, steps: NDArray[np.float64], surface: bool
) -> list[Trait]:
    """Measure one structure; column k of ``steps`` leads from a voxel to its neighbour along axis k, in mm."""
    three = outline.ndim == 3
    amount = float((outline if soft is None else soft).sum()) * abs(float(np.linalg.det(steps)))
    flag = None
    if not outline.any():
        flag = "absent"
    elif any(outline.take(end, axis=axis).any() for axis in range(outline.ndim) for end in (0, -1)):
        flag = "touches the edge of the scan"
    found = [trait("volume" if three else "area", amount, "mm³" if three else "mm²", flag)]
    if three and surface:
        found.append(trait("surface", _area(outline if soft is None else soft, steps), "mm²", flag))
    return found


def surface_area(structure: NDArray[np.generic], spacing_mm: tuple[float, ...]) -> float:
    """Return the area in mm² of the surface of ``structure``, shape (depth, height, width): an outline, or probabilities.

    NaN for what is too thin to have an inside at one half. What reaches the edge of the scan is closed there.
    """
    return _area(structure, np.diag(spacing_mm))


def _area(structure: NDArray[np.generic], steps: NDArray[np.float64]) -> float:
    values = np.asarray(structure)
    (box,) = find_objects((values >= 0.5).astype(np.int8)) or (None,)
    if box is None:
        return float("nan")
    wide = tuple(slice(max(part.start - _MARGIN, 0), part.stop + _MARGIN) for part in box)
    inside = np.pad(values[wide].astype(np.float64), _MARGIN)
    if values.dtype == bool:
        inside = gaussian_filter(inside, _SMOOTH)
    if inside.max() <= 0.5:
        return float("nan")
    measure = need("skimage.measure", "imaging")
    corners, faces, _, _ = measure.marching_cubes(inside, level=0.5)
    return float(measure.mesh_surface_area(corners @ steps.T, faces))
