"""Volumes and surfaces against ellipsoids, boxes and probabilities."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from clinome.imaging.measure.volumes import measure_volumes, surface_area


def ellipsoid(shape: tuple[int, int, int], spacing: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Distance from the middle in units of the radii (mm)."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm / radius for n, mm, radius in zip(shape, spacing, radii, strict=True)]
    return np.sqrt(sum(np.meshgrid(*[axis**2 for axis in axes], indexing="ij")))


def area_of_ellipsoid(a: float, b: float, c: float) -> float:
    p = 1.6075  # Knud Thomsen's formula, within 1.1 %
    return float(4 * np.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.8, 0.8), (0.5, 1.0, 1.5)])
def test_an_ellipsoid_at_any_spacing(spacing: tuple[float, float, float]) -> None:
    radii = (14.0, 12.0, 17.0)
    shape = tuple(int(44 / mm) for mm in spacing)
    labels = (ellipsoid(shape, spacing, radii) < 1).astype(np.int16)  # type: ignore[arg-type]
    volume, surface = measure_volumes(labels, spacing_mm=spacing, names={1: "body"})["body"]
    assert_allclose(volume.value, 4 / 3 * np.pi * np.prod(radii), rtol=0.01)
    assert_allclose(surface.value, area_of_ellipsoid(*radii), rtol=0.03)
    assert (volume.unit, surface.unit, volume.flag) == ("mm³", "mm²", None)


def test_a_sheared_scan_has_voxels_of_the_size_of_its_determinant() -> None:
    """A ball sampled on axes that are not at right angles keeps its volume and surface; the product of spacings would not."""
    shear = np.array([[1.0, 0.0, 0.6, -9.0], [0.0, 0.8, 0.3, 2.0], [0.0, 0.0, 1.6, 30.0], [0.0, 0.0, 0.0, 1.0]])
    z, y, x = np.mgrid[:40, :70, :90]
    places = np.einsum("ij,j...->i...", shear, np.stack([x, y, z, np.ones_like(x)]))[:3]
    centre = (shear @ (44.5, 34.5, 19.5, 1.0))[:3]
    ball = (np.linalg.norm(places - centre.reshape(3, 1, 1, 1), axis=0) < 15).astype(np.uint8)
    spacing = tuple(float(mm) for mm in np.linalg.norm(shear[:3, :3], axis=0)[::-1])
    volume, surface = measure_volumes(ball, spacing_mm=spacing, names={1: "ball"}, affine=shear)["ball"]
    assert volume.value == pytest.approx(ball.sum() * 1.6 * 0.8)
    assert_allclose(volume.value, 4 / 3 * np.pi * 15**3, rtol=0.01)
    assert_allclose(surface.value, 4 * np.pi * 15**2, rtol=0.03)
    by_sides = measure_volumes(ball, spacing_mm=spacing, names={1: "ball"}, surface=False)["ball"][0]
    assert by_sides.value > 1.08 * volume.value
    with pytest.raises(ValueError, match="places a volume"):
        measure_volumes(ball[0], spacing_mm=spacing[:2], names={1: "ball"}, affine=shear)


def test_probabilities_count_voxels_at_the_edge_in_part() -> None:
    distance = ellipsoid((24, 24, 24), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    errors = []
    for radius in np.linspace(4, 6, 9):  # small balls: labels miss by some per cent, one way or the other
        soft = np.clip(radius - distance + 0.5, 0, 1)
        hard, truth = (soft > 0.5).astype(np.uint8), 4 / 3 * np.pi * radius**3
        by_label, by_share = (
            measure_volumes(hard, spacing_mm=(1, 1, 1), names={1: "a"}, probabilities=p)["a"] for p in (None, soft[None])
        )
        errors.append([by_label[0].value / truth - 1, by_share[0].value / truth - 1])
        assert_allclose(by_share[1].value, 4 * np.pi * radius**2, rtol=0.02)
    label_error, share_error = np.std(errors, axis=0)
    assert share_error < 0.5 * label_error
    assert_allclose(np.array(errors)[:, 1], 0, atol=0.02)


def test_structures_their_total_and_flags() -> None:
    labels = np.zeros((10, 12, 14), dtype=np.uint8)
    labels[2:5, 3:9, 3:9], labels[5:8, 3:9, 3:9], labels[9, 0, 0] = 1, 2, 4
    names = {1: "anterior", 2: "posterior", 3: "amygdala", 4: "cut"}
    found = measure_volumes(labels, spacing_mm=(1.5, 1.0, 1.0), names=names, surface=False, total="all")
    assert {name: traits[0].value for name, traits in found.items()} == {
        "anterior": 162.0,
        "posterior": 162.0,
        "amygdala": 0.0,
        "cut": 1.5,
        "all": 325.5,
    }
    cut = "touches the edge of the scan"
    assert [traits[0].flag for traits in found.values()] == [None, None, "absent", cut, cut]
    (area,) = measure_volumes(labels[3], spacing_mm=(0.5, 0.5), names={1: "slice"})["slice"]
    assert (area.name, area.value, area.unit) == ("area", 9.0, "mm²")


def test_surfaces_of_nothing_and_of_what_is_thin() -> None:
    assert np.isnan(surface_area(np.zeros((5, 5, 5), dtype=bool), (1, 1, 1)))
    thin = np.zeros((9, 9, 9), dtype=bool)
    thin[4, 4, 4] = True
    assert np.isnan(surface_area(thin, (1, 1, 1)))
    with pytest.raises(ValueError, match="positive number for each of 3 axes"):
        measure_volumes(np.zeros((2, 2, 2), np.uint8), spacing_mm=(1.0, 1.0), names={1: "a"})
    with pytest.raises(ValueError, match="probabilities must have"):
        measure_volumes(np.zeros((2, 2, 2), np.uint8), spacing_mm=(1, 1, 1), names={1: "a"}, probabilities=np.zeros((2, 2, 2, 2)))


def test_real_hippocampi(real_data: Callable[[str], Path]) -> None:
    """Volumes of labels at 1 mm are the voxel counts of the data set's own list; both parts, and the whole, of plausible shape."""
    folder = real_data("msd-hippocampus")
    counts = {row["id"]: row for row in pl.read_csv(folder / "volumes.csv").to_dicts()}
    with tarfile.open(folder / "hippocampus.tar") as archive:
        for name in ("hippocampus_001", "hippocampus_003"):
            member = archive.extractfile(f"labels/{name}.nii.gz")
            assert member is not None
            image = nibabel.Nifti1Image.from_bytes(gzip.decompress(member.read()))
            labels, spacing = np.asarray(image.dataobj).astype(np.int16), tuple(float(mm) for mm in image.header.get_zooms())
            found = measure_volumes(labels, spacing_mm=spacing, names={1: "anterior", 2: "posterior"}, total="hippocampus")
            assert found["anterior"][0].value == counts[name]["vox_anterior"]
            assert found["posterior"][0].value == counts[name]["vox_posterior"]
            volume, surface = found["hippocampus"]
            assert volume.flag is None
            sphericity = np.pi ** (1 / 3) * (6 * volume.value) ** (2 / 3) / surface.value
            assert 0.5 < sphericity < 0.85  # a curved sausage
