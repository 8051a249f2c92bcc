from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.imaging.models.unet3d import Config, Model
from clinome.imaging.planner import Budget, Facts, Plan, describe, halving, network, plan_network, speed_here, target_spacing
from clinome.imaging.scan import Scan
from clinome.train.muon import is_matrix, orthogonalised


def alike(n: int, shape: tuple[int, ...], spacing: tuple[float, ...], *, channels: int = 1, classes: int = 3) -> Facts:
    return Facts(np.full((n, len(shape)), shape), np.full((n, len(shape)), spacing), channels, classes)


# Patches of nnU-Net's 3d_fullres plans of 2019–2021 (for 8 GB of GPU memory) for the Decathlon, with the median shapes and spacings
# they rest on: recalled, not looked up.
RECALLED = {
    "brain tumour": (484, (138, 170, 138), (1.0, 1.0, 1.0), 4, (128, 128, 128)),
    "heart": (20, (115, 320, 232), (1.37, 1.25, 1.25), 1, (80, 192, 160)),
    "liver": (131, (482, 512, 512), (1.0, 0.77, 0.77), 1, (128, 128, 128)),
    "prostate": (32, (20, 320, 319), (3.6, 0.62, 0.62), 2, (20, 320, 256)),
    "lung": (63, (252, 512, 512), (1.24, 0.79, 0.79), 1, (80, 192, 160)),
    "pancreas": (281, (96, 512, 512), (2.5, 0.8, 0.8), 1, (40, 224, 224)),
    "hepatic vessel": (303, (150, 494, 494), (1.5, 0.8, 0.8), 1, (64, 192, 192)),
    "spleen": (41, (187, 512, 512), (1.6, 0.79, 0.79), 1, (64, 192, 160)),
    "colon": (126, (150, 512, 512), (3.0, 0.78, 0.78), 1, (56, 192, 160)),
}


@pytest.mark.parametrize("task", RECALLED)
def test_patches_are_those_nnunet_chose(task: str) -> None:
    n, shape, spacing, channels, patch = RECALLED[task]
    plan = plan_network(alike(n, shape, spacing, channels=channels))
    assert plan.patch == patch
    assert plan.batch == 2
    assert 6 < plan.memory_gib <= 8


def test_real_hippocampus_is_planned_as_nnunet_did(real_data: Callable[[str], Path]) -> None:
    table = pl.read_csv(real_data("msd-hippocampus") / "volumes.csv")
    shapes = table.select("nz", "ny", "nx").to_numpy()
    facts = Facts(shapes, np.ones(shapes.shape), channels=1, classes=3)
    plan = plan_network(facts)
    assert (plan.spacing_mm, plan.patch, plan.batch) == ((1, 1, 1), (40, 56, 40), 9)  # 3d_fullres, recalled
    assert plan.halvings == ((2, 2, 2),) * 3
    assert plan.intensity == "image"
    slices = plan_network(facts, dims=2)
    assert (slices.slice_axis, slices.patch, slices.batch) == (0, (56, 40), 366)  # 2d, recalled


def test_thick_slices_wait_to_be_halved_and_convolved_across() -> None:
    halvings, kernels = halving((20, 320, 256), (3.6, 0.62, 0.62))
    assert np.prod(halvings, axis=0).tolist() == [4, 64, 64]  # nnU-Net's pools of prostate: 2, 6 and 6, recalled
    assert kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))
    assert halving((6, 7), (1.0, 1.0)) == ((), ((3, 3),))


def test_spacing_is_the_median_unless_slices_are_thick() -> None:
    facts = Facts(np.array([[100, 200, 200]] * 3), np.array([[1.0, 0.5, 0.5], [2.0, 0.5, 0.5], [3.0, 1.0, 1.0]]), 1, 2)
    spacing, shape = target_spacing(facts)
    assert spacing.tolist() == [2.0, 0.5, 0.5]
    assert shape.tolist() == [100, 200, 200]
    thick = Facts(np.array([[20, 256, 256]] * 11), np.column_stack([np.linspace(3, 13, 11), np.ones(11), np.ones(11)]), 1, 2)
    why: dict[str, str] = {}
    spacing, _ = target_spacing(thick, why)
    assert spacing.tolist() == [4.0, 1.0, 1.0]  # the 10 % quantile of 3, 4, … 13
    assert "thick" in why["spacing_mm"]


def test_operations_are_those_that_torch_counts_and_the_network_can_be_built() -> None:
    net = network((20, 44, 36), (3.0, 1.0, 1.0), 8, 2, 3)
    config = Config.nnunet(2, 3, net.widths, halvings=net.halvings, kernels=net.kernels, supervised=0)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        scores = Model(config)(torch.empty(1, 2, *net.patch))
    assert scores.shape == (1, 3, *net.patch)
    assert counter.get_total_flops() * 3 == pytest.approx(net.flops)


def test_operations_of_the_optimiser_are_those_that_torch_counts() -> None:
    net = network((20, 44, 36), (3.0, 1.0, 1.0), 8, 2, 3)
    model = Model(Config.nnunet(2, 3, net.widths, halvings=net.halvings, kernels=net.kernels, supervised=0))
    with FlopCounterMode(display=False) as counter:
        for weight in filter(is_matrix, model.parameters()):
            orthogonalised(weight.detach().flatten(1))
    assert counter.get_total_flops() == pytest.approx(net.orthogonal)


def test_on_small_patches_the_optimisers_work_narrows_the_network() -> None:
    small, large = alike(30, (40, 40), (1.0, 1.0), classes=2), alike(208, (36, 50, 35), (1.0, 1.0, 1.0))
    for facts, seconds, widths in ((small, 3, (32, 16)), (large, 1800, (32, 32))):
        plain, muon = (plan_network(facts, Budget(seconds=seconds, orthogonal=orthogonal)) for orthogonal in (False, True))
        assert (plain.widths[0], muon.widths[0]) == widths
        assert muon.steps * muon.flops_per_step / 2e11 == pytest.approx(seconds, rel=0.01)
    told = muon.for_steps(7, "seven were asked for")
    assert (told.steps, told.reasons["steps"], told.patch) == (7, "seven were asked for", muon.patch)


def test_a_short_time_narrows_the_network_and_a_long_one_is_nnunets() -> None:
    facts = alike(208, (36, 50, 35), (1.0, 1.0, 1.0))
    plans = [plan_network(facts, Budget(seconds=seconds)) for seconds in (60, 300, 1800, 1e8)]
    widths = [plan.widths[0] for plan in plans]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (8, 32)
    assert plans[0].batch == 2
    assert plans[-1].steps == 250_000
    for plan, seconds in zip(plans[:-1], (60, 300, 1800), strict=False):
        assert plan.steps * plan.flops_per_step / 2e11 == pytest.approx(seconds, rel=0.01)
    assert plan_network(facts).widths == (32, 64, 128, 256)


def test_a_short_time_on_large_pictures_gives_smaller_patches() -> None:
    photographs = alike(16, (584, 565), (1.0, 1.0), channels=3, classes=2)
    short, long = (plan_network(photographs, Budget(seconds=seconds, orthogonal=True)) for seconds in (60, 3600))
    assert (short.patch, long.patch) == ((128, 128), (512, 512))
    assert short.steps > 1000
    assert "too few steps" in short.reasons["patch"]
    assert plan_network(photographs, Budget(seconds=1e-3)).patch == (128, 128)  # and no smaller


def test_the_speed_to_plan_with_is_that_of_the_cores() -> None:
    assert speed_here(2) == 2 * speed_here(1) > 1e11


def test_less_memory_gives_smaller_patches_until_none_fits() -> None:
    facts = alike(20, (200, 200, 200), (1.0, 1.0, 1.0))
    eight, one = (plan_network(facts, Budget(memory_gib=gib)) for gib in (8, 1))
    assert np.prod(one.patch) < np.prod(eight.patch)
    assert one.memory_gib <= 1
    with pytest.raises(StudyError, match=r"(?s)does not hold two patches.*1e-06 GiB"):
        plan_network(facts, Budget(memory_gib=1e-6))
    with pytest.raises(StudyError, match="more than nothing"):
        Budget(memory_gib=0)


def test_a_plan_is_read_back_as_it_was_and_says_why(tmp_path: Path) -> None:
    plan = plan_network(alike(20, (36, 50, 35), (1.0, 1.0, 1.0)), Budget(seconds=600))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    chosen = {"spacing_mm", "shape", "patch", "batch", "steps", "halvings", "kernels", "widths", "intensity"}
    assert set(plan.reasons) == chosen
    assert "a twentieth of all voxels" in str(plan) or "too short" in str(plan)
    (tmp_path / "plan.json").write_text('{"dims": 3}')
    with pytest.raises(FormatError, match="not a plan"):
        Plan.load(tmp_path / "plan.json")


def test_facts_of_scans_and_the_scale_of_ct(generator: np.random.Generator) -> None:
    scans = [Scan(generator.normal(40, 10, (1, 8, 9, 10 + k)).astype(np.float32), (2.0, 1.0, 1.0), modality="CT") for k in range(3)]
    labels = [np.ones(scan.values.shape[1:], np.uint8) for scan in scans]
    facts = describe(scans, labels, classes=2)
    assert facts.shapes.tolist() == [[8, 9, 10], [8, 9, 11], [8, 9, 12]]
    assert facts.labelled is not None
    everything = np.concatenate([scan.values.ravel() for scan in scans]).astype(float)
    expected = [*np.quantile(everything, [0.005, 0.995]), everything.mean(), everything.std()]
    np.testing.assert_allclose(facts.labelled[0], expected, rtol=1e-6)
    plan = plan_network(facts)
    assert plan.intensity == "scale"
    assert plan.labelled == (tuple(facts.labelled[0]),)
    mixed = describe([replace(scans[0], modality="MR"), *scans[1:]], labels, classes=2)
    assert plan_network(mixed).intensity == "image"
    with pytest.raises(CohortError, match="do not cover"):
        describe(scans, labels[::-1], classes=2)
    with pytest.raises(CohortError, match="equal axes"):
        describe([], [], classes=2)


def test_pictures_have_no_volumes() -> None:
    with pytest.raises(StudyError, match="volumes cannot be planned"):
        plan_network(alike(5, (64, 64), (1.0, 1.0)), dims=3)
    assert plan_network(alike(5, (64, 64), (1.0, 1.0))).slice_axis is None


def test_in_bounded_time_a_patch_lies_within_the_image() -> None:
    plan = plan_network(alike(208, (36, 50, 35), (1.0, 1.0, 1.0)), Budget(seconds=240, flops_per_second=1.3e11))
    assert plan.patch == (32, 48, 32)
    assert "rounded down" in plan.reasons["patch"]
