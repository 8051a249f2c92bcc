from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toolkit.published import small

from clinome.imaging.models.unet3d import Model
from clinome.imaging.patches import UNKNOWN, Case
from clinome.imaging.planner import Budget, Facts, plan_network
from clinome.studies.published.cicek_2016 import study

PLAN = plan_network(Facts(np.full((208, 3), (36, 50, 35)), np.ones((208, 3)), 1, 3), Budget(seconds=240, flops_per_second=1.3e11))


def test_every_fourth_slice_keeps_its_labels(generator: np.random.Generator) -> None:
    labels = generator.integers(0, 3, (13, 6, 5)).astype(np.int16)
    hidden = study.sparse(Case("a", labels[None].astype(np.float32), labels)).labels
    assert hidden is not None
    kept = [k for k in range(13) if (hidden[k] != UNKNOWN).any()]
    assert kept == [2, 6, 10]
    assert all((hidden[k] == labels[k]).all() for k in kept)
    assert (labels >= 0).all()  # the case that was given is left as it was


def test_the_network_of_slices_has_as_many_parameters_and_sees_one_slice() -> None:
    torch = pytest.importorskip("torch")
    flat, full = Model(study.within_slices(PLAN)), Model(study.planned_network(PLAN))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (flat, full)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.05
    volume = torch.randn(1, 1, 8, 48, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    convolutions = torch.nn.Sequential(*(part[0] for part in flat.down[0]))  # without norms, which average over the volume
    convolutions(volume)[0, :, 3].sum().backward()
    touched = volume.grad.abs().sum(dim=(0, 1, 3, 4)) > 0
    assert touched.tolist() == [k == 3 for k in range(8)]


@pytest.mark.slow
def test_moments_of_training_run_through(real_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    _, figures, _ = small("cicek_2016", real_data, tmp_path_factory)
    assert figures["labelled_share"] == pytest.approx(0.25, abs=0.02)
    for name in ("dense_over_sparse", "volumes_over_slices"):
        assert {gain["n"] for gain in figures[name].values()} == {3}
        assert all(gain["lower"] <= gain["value"] <= gain["upper"] for gain in figures[name].values())
