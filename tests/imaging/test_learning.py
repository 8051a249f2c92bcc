from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from clinome.core.errors import CohortError, NotConverged, TraitError
from clinome.imaging.features import Views, views
from clinome.imaging.learning import Encoder, Training, features_of, targets_of, train_encoder, transferred

SETTINGS = Training(epochs=4, batch_size=8, threads=1)


def small(n_people: int = 16) -> tuple[np.ndarray, Views]:
    pixels = np.random.default_rng(1).integers(0, 256, (2 * n_people, 16, 16, 3), dtype=np.uint8)
    table = pl.DataFrame({"participant_id": [f"p{k // 2:02d}" for k in range(2 * n_people)], "visit": [0, 1] * n_people})
    return pixels, views(table)


def encoder_bytes(folder: Path, settings: Training = SETTINGS, people: int = 12) -> bytes:
    folder.mkdir(exist_ok=True)
    pixels, seen = small()
    made = train_encoder(pixels, seen, np.arange(people), checkpoint=folder / "c.safetensors", key="k", settings=settings)
    made.save(folder / "e.safetensors")
    return (folder / "e.safetensors").read_bytes()


def test_same_seed_same_bytes_and_other_people_are_not_looked_at(tmp_path: Path) -> None:
    first = encoder_bytes(tmp_path / "a")
    assert encoder_bytes(tmp_path / "b") == first
    assert encoder_bytes(tmp_path / "c", Training(epochs=4, batch_size=8, threads=1, seed=2)) != first
    pixels, seen = small()
    pixels[24:] = 255 - pixels[24:]  # people 12 to 15 do not teach
    made = train_encoder(pixels, seen, np.arange(12), checkpoint=tmp_path / "d.safetensors", key="k", settings=SETTINGS)
    made.save(tmp_path / "d.enc")
    assert (tmp_path / "d.enc").read_bytes() == first


def test_the_callers_torch_is_left_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    encoder_bytes(tmp_path / "a", Training(epochs=1, batch_size=8, threads=1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loaded_encoder_gives_the_same_features(tmp_path: Path) -> None:
    pixels, seen = small()
    made = train_encoder(pixels, seen, np.arange(16), checkpoint=tmp_path / "c.safetensors", key="k", settings=SETTINGS)
    made.save(tmp_path / "e.safetensors")
    again = features_of(Encoder.load(tmp_path / "e.safetensors"), pixels[3:9])
    np.testing.assert_allclose(again, features_of(made, pixels)[3:9], rtol=1e-4, atol=1e-5)
    losses = made.about["losses"]
    assert len(losses) == 4
    assert np.isfinite(losses).all()


KILLED = """
import sys, time
from pathlib import Path
from tests.imaging.test_learning import encoder_bytes
import clinome.train.loop as c
save = c.save_state
def slowly(state, path, *, key):
    save(state, path, key=key)
    if len(state.history) == 2:
        (path.parent / "reached").touch()
        time.sleep(60)  # the test kills this process here
c.save_state = slowly
encoder_bytes(Path(sys.argv[1]))
"""


def test_killed_in_training_and_started_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], cwd=root, env=environment)
    for _ in range(1200):
        if (folder / "reached").exists():
            break
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "c.safetensors").exists()
    assert not (folder / "e.safetensors").exists()
    assert encoder_bytes(folder) == encoder_bytes(tmp_path / "whole")


def test_a_checkpoint_of_other_inputs_is_not_used(tmp_path: Path) -> None:
    pixels, seen = small()
    path = tmp_path / "c.safetensors"
    train_encoder(pixels, seen, np.arange(12), checkpoint=path, key="other", settings=Training(epochs=1, batch_size=8, threads=1))
    assert encoder_bytes(tmp_path) == encoder_bytes(tmp_path / "fresh")


def test_too_few_people_and_a_loss_that_explodes(tmp_path: Path) -> None:
    pixels, seen = small()
    with pytest.raises(CohortError, match=r"too few people(.|\n)*at least 8"):
        train_encoder(pixels, seen, np.arange(7), checkpoint=tmp_path / "c", key="k", settings=SETTINGS)
    wild = Training(epochs=4, batch_size=8, threads=1, learning_rate=1e30)
    with pytest.raises(NotConverged, match=r"no longer finite(.|\n)*epoch(.|\n)*smaller learning rate"):
        train_encoder(pixels, seen, np.arange(12), checkpoint=tmp_path / "c", key="k", settings=wild)


def people_who_differ(n_people: int = 24) -> tuple[np.ndarray, Views, pl.DataFrame]:
    """Two pictures a person, of the person's own brightness and with or without a square; noise on top."""
    generator = np.random.default_rng(3)
    light, square = generator.uniform(40, 200, n_people), generator.random(n_people) < 0.5
    pixels = np.repeat(light, 2)[:, None, None, None] + generator.normal(0, 6, (2 * n_people, 16, 16, 3))
    pixels[np.repeat(square, 2), 5:11, 5:11] += 50
    names = [f"p{k:02d}" for k in range(n_people)]
    table = pl.DataFrame({"participant_id": np.repeat(names, 2), "visit": [0, 1] * n_people})
    known = pl.DataFrame({"participant_id": names, "light": light, "shape": np.where(square, "square", "plain")})
    return np.clip(pixels, 0, 255).astype(np.uint8), views(table), known


def test_identities_lie_apart_and_pictures_of_one_person_together(tmp_path: Path) -> None:
    pixels, seen, _ = people_who_differ()
    settings = Training(objective="identity", epochs=30, batch_size=16, learning_rate=5e-3, embedding=8, threads=1)
    made = train_encoder(pixels, seen, np.arange(24), checkpoint=tmp_path / "c", key="k", settings=settings)
    losses = made.about["losses"]
    assert losses[-1] < losses[0] / 2
    found = features_of(made, pixels)
    assert found.shape == (48, 8)  # the embedding, as iGWAS reads it
    unit = (found - found.mean(axis=0)) / np.linalg.norm(found - found.mean(axis=0), axis=1, keepdims=True)
    cosine = unit @ unit.T
    own = cosine[np.arange(0, 48, 2), np.arange(1, 48, 2)]
    nearer = (cosine[::2] > own[:, None]).mean(axis=1)  # share of pictures nearer than the person's own other one
    assert np.median(nearer) < 0.1


def test_targets_of_both_kinds_are_learned_at_once_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    pixels, seen, known = people_who_differ(60)
    gaps = known.with_columns(
        light=pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise("light"),
        shape=pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise("shape"),
    )
    taught = np.arange(40)
    targets = targets_of(gaps, seen.people, taught)
    settings = Training(objective="supervised", epochs=40, batch_size=20, learning_rate=3e-3, threads=1)
    made = train_encoder(pixels, seen, taught, checkpoint=tmp_path / "c", key="k", settings=settings, targets=targets)
    losses = made.about["losses"]
    assert losses[-1] < losses[0] / 3
    found, new = features_of(made, pixels), seen.person >= 40
    light = known["light"].to_numpy()[seen.person]
    design = np.column_stack([np.ones(len(found)), found])
    solved = np.linalg.lstsq(design[~new], light[~new], rcond=1e-3)[0]
    assert np.corrcoef(design[new] @ solved, light[new])[0, 1] > 0.9


def test_targets_take_their_scale_and_levels_from_those_who_teach() -> None:
    people = ["a", "b", "c", "d"]
    table = pl.DataFrame({"participant_id": ["d", "a", "b"], "bmi": [99.0, 20.0, 30.0], "grade": ["new", "none", "mild"]})
    targets = targets_of(table, people, np.array([0, 1]))
    np.testing.assert_allclose(targets.numbers[:, 0], [-1, 1, np.nan, 14.8], rtol=1e-6)
    assert targets.classes[:, 0].tolist() == [1, 0, -1, -1]  # d's level is one that nobody taught
    assert targets.levels == (2,)
    with pytest.raises(TraitError, match="'grade' does not vary"):
        targets_of(table.select("participant_id", "grade"), people, np.array([0]))
    with pytest.raises(TraitError, match="no target to learn from"):
        targets_of(table.select("participant_id"), people, np.array([0]))


def test_targets_beside_identities_change_what_is_learned(tmp_path: Path) -> None:
    pixels, seen, known = people_who_differ()
    targets = targets_of(known.select("participant_id", "shape"), seen.people, np.arange(24))
    settings = Training(objective="identity", epochs=2, batch_size=16, embedding=8, threads=1)
    made = [
        train_encoder(pixels, seen, np.arange(24), checkpoint=tmp_path / f"c{k}", key="k", settings=settings, targets=some)
        for k, some in enumerate((None, targets))
    ]
    assert made[1].about["losses"][0] > made[0].about["losses"][0]


def test_a_network_that_nobody_here_teaches() -> None:
    pixels, _ = small()
    one = transferred("resnet18", None, size=16, seed=1)
    assert one.about == {"weights": "random"}
    again = transferred("resnet18", None, size=16, seed=1)
    np.testing.assert_array_equal(features_of(one, pixels[:2]), features_of(again, pixels[:2]))
    assert not np.allclose(features_of(transferred("resnet18", None, size=16, seed=2), pixels[:2]), features_of(one, pixels[:2]))


def test_eight_views_do_not_change_when_the_picture_is_turned_or_mirrored() -> None:
    pixels, _ = small()
    model = transferred("resnet18", None, size=16, seed=1)
    wanted = features_of(model, pixels[:3], views=8)
    for other in (np.rot90(pixels[:3], axes=(1, 2)), pixels[:3, :, ::-1]):
        np.testing.assert_allclose(features_of(model, np.ascontiguousarray(other), views=8), wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(features_of(model, pixels[:3]), wanted, rtol=1e-3)


def test_weights_of_another_program_are_applied_with_their_scaling(tmp_path: Path) -> None:
    pixels, _ = small()
    random = transferred("resnet18", None, size=16, seed=7)
    file = tmp_path / "resnet18.safetensors"
    save_file({f"module.{name}": value.clone() for name, value in random.network.state_dict().items()}, file)
    applied = transferred("resnet18", file, size=16, seed=1)
    np.testing.assert_array_equal(features_of(applied, pixels[:2]), features_of(random, pixels[:2]))
    assert applied.about["weights"] == "resnet18.safetensors"
    applied.save(tmp_path / "kept.safetensors")
    again = transferred("small", tmp_path / "kept.safetensors", size=16, seed=1)  # a saved network says itself what it is
    np.testing.assert_allclose(features_of(again, pixels[:2]), features_of(random, pixels[:2]), rtol=1e-5)


def test_training_may_begin_with_weights(tmp_path: Path) -> None:
    pixels, seen = small()
    begun = transferred("resnet18", None, size=16, seed=7)
    save_file({name: value.clone() for name, value in begun.network.state_dict().items()}, tmp_path / "w.safetensors")
    settings = Training(objective="identity", network="resnet18", epochs=1, batch_size=16, learning_rate=1e-9, threads=1)
    given = {"checkpoint": tmp_path / "c", "key": "k", "settings": settings}
    made = train_encoder(pixels, seen, np.arange(16), weights=tmp_path / "w.safetensors", **given)
    for (name, value), start in zip(made.network.named_parameters(), begun.network.parameters(), strict=True):
        torch.testing.assert_close(value, start, atol=1e-6, rtol=0, msg=name)
