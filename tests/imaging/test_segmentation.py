from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clinome
from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.core.files import write_json
from clinome.imaging import segmentation
from clinome.imaging import segmenter as segmenter_file
from clinome.imaging.geometry import Spread
from clinome.imaging.intensity import Change
from clinome.imaging.models import unet
from clinome.imaging.pace import Measured, Pace
from clinome.imaging.patches import UNKNOWN, Case, PatchPreparation, prepare
from clinome.imaging.segmentation import train_segmenter
from clinome.imaging.segmenter import SegmenterRecipe, labels_of, predict, segment, structures_of
from clinome.nn.segmentation_losses import over_levels
from clinome.train.devices import Mode
from clinome.train.loop import fit

CONFIG = unet.Config(channels_in=1, outputs=2, widths=(8, 16), norm="batch")
RECIPE = SegmenterRecipe(
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


def train(folder: Path, recipe: SegmenterRecipe = RECIPE, **more: object) -> segmentation.Trained:
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
    about = json.loads((trained.folder / "segmenter.json").read_text())
    assert sorted(path.name for path in trained.folder.iterdir()) == [about["network"], "segmenter.json", "time.json"]
    assert structures_of(trained.folder) == ("disc",)
    assert about["recipe"]["patch"] == [16, 16]
    assert about["leakage"]["exact_duplicates"] == "clean"
    before = (trained.folder / about["network"]).stat().st_mtime_ns
    again = train(trained.folder)
    assert again == trained
    assert (trained.folder / about["network"]).stat().st_mtime_ns == before


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    trained: segmentation.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(state: object, *, until: int, **given: object) -> object:
        fit(state, until=until // 2, **given)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr(segmentation, "fit", killed)
    with pytest.raises(Killed):
        train(tmp_path)
    monkeypatch.setattr(segmentation, "fit", fit)
    assert 0 < train(tmp_path).cpu_seconds < 60
    same(tmp_path, trained.folder)


def same(one: Path, other: Path) -> None:
    """Two folders hold the same segmenter: the network has its name from its content."""
    assert (one / "segmenter.json").read_bytes() == (other / "segmenter.json").read_bytes()
    network = json.loads((one / "segmenter.json").read_text())["network"]
    assert (one / network).read_bytes() == (other / network).read_bytes()


def test_writing_that_is_cut_off_leaves_the_old_segmenter_and_then_the_new(
    trained: segmentation.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, new = tmp_path / "segmenter", discs(1, seed=3)
    shutil.copytree(trained.folder, folder)
    (before,) = segment(folder, new)

    def cut_off(path: Path, value: object) -> None:
        if path.name == "segmenter.json":
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(segmenter_file, "write_json", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(folder, replace(RECIPE, steps=20))
    assert len(list(folder.glob("network-*.safetensors"))) == 2
    (after,) = segment(folder, new)
    np.testing.assert_array_equal(after.probability, before.probability)
    assert after.labels.tolist() == before.labels.tolist()
    monkeypatch.setattr(segmenter_file, "write_json", write_json)
    (folder / "time.json").write_text('{"cpu_seconds": 3.0}')  # of a version before this one
    train(folder, replace(RECIPE, steps=20))
    assert len(list(folder.glob("network-*.safetensors"))) == 1
    (after,) = segment(folder, new)
    assert not np.array_equal(after.probability, before.probability)


def test_another_version_of_the_code_trains_anew_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, made = list[str](), []
    monkeypatch.setattr(segmentation, "say", said.append)
    for version in ("1", "1", "2"):
        monkeypatch.setattr(clinome, "__version__", version)
        train(tmp_path, replace(RECIPE, steps=2))
        made.append((tmp_path / "segmenter.json").read_bytes())
        assert any("another version of Clinome: training begins anew" in line for line in said) == (version == "2")
    assert made[0] == made[1] != made[2]


TIMED = replace(RECIPE, seconds=2.0, precision="measure", optimiser="muon", learning_rate=0.02, clip=12.0, average=None)


@pytest.mark.slow
def test_a_time_is_kept_to_and_what_was_measured_holds_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "before", TIMED)  # imports are not of the time
    start = time.process_time()
    trained = train(tmp_path / "whole", TIMED)  # by the clock: on a busy machine fewer steps, never more work
    assert time.process_time() - start < 1.3 * 2.0
    about = json.loads((tmp_path / "whole" / "segmenter.json").read_text())
    assert about["recipe"]["steps"] == trained.steps == trained.history[-1]["step"] > 1
    assert trained.reason is not None
    assert "a step takes" in trained.reason
    assert train(tmp_path / "whole", TIMED) == trained

    decided = iter([Pace(40, 2, 9, 1, 2, Mode(bfloat16=True, channels_last=True), "as told")])
    monkeypatch.setattr(segmentation, "measure", lambda *_, **__: (Measured(1, 1, 1), Mode()))
    monkeypatch.setattr(segmentation, "decide", lambda *_, **__: next(decided))  # once, or StopIteration

    def killed(state: object, *, until: int, **given: object) -> object:
        return fit(state, until=until // 2, **given)  # type: ignore[arg-type]

    def ends(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(segmentation, "fit", killed)
        patched.setattr(segmentation, "_finish", ends)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", TIMED)
    again = train(tmp_path / "killed", TIMED)
    assert (again.steps, again.reason) == (40, "as told")
    decided = iter(
        [Pace(40, 2, 7, 1, 2, Mode(bfloat16=True, channels_last=True), "as told")]
    )  # how often it was saved tells nothing
    train(tmp_path / "unbroken", TIMED)
    same(tmp_path / "killed", tmp_path / "unbroken")


def test_loss_that_counts_hard_pixels_and_borders_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recipe says reaches the loss: borders between two close objects weigh as in the U-Net's paper."""
    labels = np.zeros((16, 16), np.int64)
    labels[4:12, 2:7] = labels[4:12, 9:14] = 1  # two objects, two pixels apart
    case = Case("two", np.random.default_rng(1).normal(size=(1, 16, 16)), labels)
    seen: list[tuple[Tensor, Tensor, float]] = []

    def spied(output: Tensor, target: Tensor, weight: Tensor, **how: float) -> Tensor:
        seen.append((target[0], weight[0], how["focal"]))
        return over_levels(output, target, weight, **how)

    monkeypatch.setattr(segmentation, "over_levels", spied)
    recipe = replace(RECIPE, steps=1, batch=1, spread=Spread(), focal=2.0, border=10.0, validations=1)
    train(tmp_path, recipe, training=[case])
    target, weight, focal = seen[0]
    assert focal == 2.0
    np.testing.assert_array_equal(target, labels)
    np.testing.assert_array_equal(weight[target == 1], 1)
    between = 1 + 10 * np.exp(-((1 + 2) ** 2) / (2 * 5**2))  # 1 pixel from one object, 2 from the other
    np.testing.assert_allclose(weight[8, 7:9], between, rtol=1e-5)
    with pytest.raises(StudyError, match="focal of a recipe is out of range"):
        replace(RECIPE, focal=-1.0)
    with pytest.raises(StudyError, match="seconds of a recipe is out of range"):
        replace(RECIPE, seconds=0.0)


def test_a_loss_of_ones_own_is_told_by_its_name_and_arguments_in_any_process() -> None:
    def closure(dice: float) -> object:
        return lambda output, target: dice * over_levels(output, target)

    half, quarter = (segmentation._named(partial(over_levels, dice=dice)) for dice in (0.5, 0.25))
    assert half == ["clinome.nn.segmentation_losses.over_levels", [], {"dice": "0.5"}]
    assert half != quarter
    one, other = closure(0.5), closure(0.25)
    assert segmentation._named(one) != segmentation._named(other)  # nothing tells them apart but where they are
    assert segmentation._named(None) == "None"


def test_families_and_copies_on_both_sides_are_refused_without_the_word(tmp_path: Path) -> None:
    training, held_out = discs(2, side=80), discs(2, side=80, seed=2)
    brighter = held_out[0]._replace(example_id="copy", image=np.asarray(training[1].image) * 1.1 + 3.0, labels=training[1].labels)
    for sides, check in (
        ((training, [training[0]._replace(example_id="again")]), "exact_duplicates"),
        ((training, [brighter]), "near_duplicates"),
        (([training[0]._replace(family_id="f")], [held_out[0]._replace(family_id="f")]), "families"),
    ):
        with pytest.raises(CohortError, match=f"the split leaks(.|\\n)*{check}"):
            train(tmp_path, training=sides[0], held_out=sides[1])
    allowed = train(tmp_path, replace(RECIPE, steps=2), training=training, held_out=[brighter], allow=["near_duplicates"])
    assert allowed.leakage["near_duplicates"].startswith("leak: ")
    assert allowed.leakage["families"].startswith("not checked: ")


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
    scale = PatchPreparation((1.0, 1.0, 1.0), "scale", ((-100.0, 100.0, 0.0, 1.0),))
    recipe = SegmenterRecipe((8, 8, 8), mirror=(0, 1, 2))
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
    patches = prepare([case], tmp_path, PatchPreparation(None, "scale", ((-9.0, 9.0, 0.0, 1.0),)), classes=3)
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
    with pytest.raises(CohortError, match=r"the split leaks(.|\n)*examples: 1 in held out, train"):
        train(tmp_path, training=some, held_out=some)
    with pytest.raises(CohortError, match=r"the split leaks(.|\n)*participants: 1 in held out, train"):
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
