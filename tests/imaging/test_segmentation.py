from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.imaging import segmentation
from clinome.imaging.intensity import Change
from clinome.imaging.models import unet
from clinome.imaging.patches import UNKNOWN, Case, Preparation, prepare
from clinome.imaging.resample import Spread
from clinome.imaging.segmentation import Recipe, labels_of, predict, segment, train_segmenter

CONFIG = unet.Config(channels_in=1, outputs=2, widths=(8, 16), norm="batch")
RECIPE = Recipe(
    (16, 16), batch=4, steps=60, learning_rate=1e-2, average=0.9, precision="float32", validations=3, spread=Spread(mirror=(0, 1))
)


def discs(n: int, *, side: int = 40, seed: int = 1) -> list[Case]:
    """Pictures of bright discs in noise, with their true place."""
    generator = np.random.default_rng(seed)
    cases = []
    for k in range(n):
        y, x = np.mgrid[:side, :side] - generator.integers(10, side - 10, (2, 1, 1))
        labels = (y**2 + x**2 < generator.integers(5, 9) ** 2).astype(np.int64)
        cases.append(Case(f"{seed}-{k}", (3 * labels + generator.normal(size=labels.shape))[None], labels))
    return cases


def train(folder: Path, recipe: Recipe = RECIPE, **more: object) -> segmentation.Trained:
    given = {"training": discs(6), "held_out": discs(2, seed=2), "network": unet, "config": CONFIG, "structures": ["disc"]}
    return train_segmenter(folder=folder, recipe=recipe, **(given | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> segmentation.Trained:
    return train(tmp_path_factory.mktemp("segmenter"))


def test_learns_discs_and_says_so_of_held_out_ones(trained: segmentation.Trained) -> None:
    assert trained.held_out_dice["disc"] > 0.9
    assert trained.threshold is not None
    assert [record["step"] for record in trained.history] == [20, 40, 60]
    new = discs(3, side=53, seed=3)
    for case, found in zip(new, segment(trained.folder, new), strict=True):
        assert found.probability.shape == (2, 53, 53)
        np.testing.assert_allclose(found.probability.sum(axis=0), 1, atol=1e-5)
        assert np.array_equal(found.labels, found.probability[1] >= trained.threshold)
        assert case.labels is not None
        assert 2 * (found.labels & case.labels).sum() / (found.labels.sum() + case.labels.sum()) > 0.85


def test_the_folder_is_all_that_is_needed_and_nothing_is_left_over(trained: segmentation.Trained) -> None:
    assert sorted(path.name for path in trained.folder.iterdir()) == ["network.safetensors", "segmenter.json", "time.json"]
    about = json.loads((trained.folder / "segmenter.json").read_text())
    assert about["structures"] == ["disc"]
    assert about["recipe"]["patch"] == [16, 16]
    before = (trained.folder / "network.safetensors").stat().st_mtime_ns
    again = train(trained.folder)
    assert again == trained
    assert (trained.folder / "network.safetensors").stat().st_mtime_ns == before


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    trained: segmentation.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segmentation.fit

    class Killed(Exception):
        pass

    def killed(state: object, *, until: int, **given: object) -> object:
        whole(state, until=until // 2, **given)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr(segmentation, "fit", killed)
    with pytest.raises(Killed):
        train(tmp_path)
    monkeypatch.setattr(segmentation, "fit", whole)
    assert 0 < train(tmp_path).cpu_seconds < 60
    for name in ("network.safetensors", "segmenter.json"):
        assert (tmp_path / name).read_bytes() == (trained.folder / name).read_bytes()


class Shell(nn.Module):
    """Scores of a 3-D 'network' that knows the answer: two structures by their brightness."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, volume: Tensor) -> Tensor:
        scores = torch.cat([-((volume - level) ** 2) for level in (0.0, 3.0, 6.0)], dim=1)
        return scores * self.scale.reshape(1, 3, 1, 1, 1)


def test_volumes_of_another_spacing_come_back_on_their_own_grid() -> None:
    labels = np.zeros((12, 20, 20), np.int64)
    labels[3:9, 4:14, 4:14], labels[4:8, 6:12, 6:12] = 1, 2
    case = Case("v", 3.0 * labels[None], labels, spacing_mm=(2.0, 1.0, 1.0))
    scale = Preparation((1.0, 1.0, 1.0), "scale", ((-100.0, 100.0, 0.0, 1.0),))
    recipe = Recipe((8, 8, 8), mirror=(0, 1, 2))
    found = labels_of(predict(Shell(unet.Config(channels_in=1)), case, recipe, scale), None)
    assert found.shape == labels.shape
    for label in (1, 2):
        assert 2 * ((found == label) & (labels == label)).sum() / ((found == label).sum() + (labels == label).sum()) > 0.9
    assert scale.image(case).shape == (1, 24, 20, 20)
    with pytest.raises(CohortError, match="spacing of an image is not known"):
        predict(Shell(unet.Config(channels_in=1)), case._replace(spacing_mm=None), recipe, scale)


def test_patches_keep_image_and_labels_together_whatever_is_done_to_them(tmp_path: Path) -> None:
    labels = np.zeros((50, 60), np.int64)
    labels[20:28, 5:11], labels[40:45, 50:58] = 1, 2
    inside = np.ones(labels.shape, bool)
    inside[:, :3] = False
    case = Case("a", labels[None].astype(np.float32), labels, inside)
    patches = prepare([case], tmp_path, Preparation(None, "scale", ((-9.0, 9.0, 0.0, 1.0),)), classes=3)
    spread = Spread(rotation_degrees=180, scale=0.3, shear=0.2, elastic_mm=1, elastic_grid_mm=12, mirror=(0, 1))
    seen = set()
    for seed in range(40):
        image, target = patches.draw(np.random.default_rng(seed), 0, (24, 24), foreground=1.0, spread=spread)
        again, _ = patches.draw(np.random.default_rng(seed), 0, (24, 24), foreground=1.0, spread=spread)
        assert np.array_equal(image, again)
        known = target != UNKNOWN
        assert np.abs(image[0] - target)[known].mean() < 0.1  # the picture is its own label, blurred by the interpolation
        seen |= set(np.unique(target).tolist())
        assert (target > 0).any()
    assert seen == {UNKNOWN, 0, 1, 2}
    changed, target = patches.draw(np.random.default_rng(1), 0, (24, 24), foreground=1.0, change=Change(brightness=1.0))
    assert set(np.unique(target)) <= {UNKNOWN, 0, 1, 2}
    assert np.ptp(changed - patches.draw(np.random.default_rng(1), 0, (24, 24), foreground=1.0)[0]) < 1e-5


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    some = discs(1)
    with pytest.raises(CohortError, match="must be held out"):
        train(tmp_path, held_out=[])
    with pytest.raises(CohortError, match="both trained on and held out"):
        train(tmp_path, training=some, held_out=some)
    with pytest.raises(CohortError, match="split by person"):
        train(
            tmp_path, training=[some[0]._replace(participant_id="p")], held_out=[discs(1, seed=4)[0]._replace(participant_id="p")]
        )
    with pytest.raises(StudyError, match="does not score each class"):
        train(tmp_path, structures=["disc", "cup"])
    with pytest.raises(CohortError, match="labels that no class has"):
        train(tmp_path, training=[some[0]._replace(labels=3 * np.asarray(some[0].labels))])
    with pytest.raises(CohortError, match="do not cover their image"):
        train(tmp_path, training=[some[0]._replace(labels=np.zeros((3, 3), int))])
    with pytest.raises(FormatError, match="holds no segmenter"):
        next(segment(tmp_path, some))


def test_images_of_another_kind_are_refused(trained: segmentation.Trained) -> None:
    case = discs(1)[0]
    for image in (np.zeros((3, 40, 40)), np.zeros((1, 4, 40, 40))):
        with pytest.raises(CohortError, match="not of the kind"):
            next(segment(trained.folder, [case._replace(image=image)]))


def test_sparse_labels_are_enough(tmp_path: Path) -> None:
    sparse = []
    for case in discs(6):
        labels = np.full((40, 40), UNKNOWN)
        labels[::3] = np.asarray(case.labels)[::3]
        sparse.append(case._replace(labels=labels))
    trained = train(tmp_path, replace(RECIPE, steps=80), training=sparse)
    assert trained.held_out_dice["disc"] > 0.9
