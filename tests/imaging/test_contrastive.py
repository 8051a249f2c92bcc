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

from clinome.core.errors import CohortError, NotConverged
from clinome.imaging.contrastive import (
    Training,
    features_of,
    load_encoder,
    reproducible,
    save_encoder,
    schedule,
    train_encoder,
)
from clinome.imaging.features import Views, views

SETTINGS = Training(epochs=4, batch_size=8, threads=1)


def small(n_people: int = 16) -> tuple[np.ndarray, Views]:
    pixels = np.random.default_rng(1).integers(0, 256, (2 * n_people, 16, 16, 3), dtype=np.uint8)
    table = pl.DataFrame({"participant_id": [f"p{k // 2:02d}" for k in range(2 * n_people)], "visit": [0, 1] * n_people})
    return pixels, views(table)


def encoder_bytes(folder: Path, settings: Training = SETTINGS, people: int = 12) -> bytes:
    folder.mkdir(exist_ok=True)
    pixels, seen = small()
    model, _ = train_encoder(pixels, seen, np.arange(people), checkpoint=folder / "c.safetensors", key="k", settings=settings)
    save_encoder(model, folder / "e.safetensors")
    return (folder / "e.safetensors").read_bytes()


def test_same_seed_same_bytes_and_other_people_are_not_looked_at(tmp_path: Path) -> None:
    first = encoder_bytes(tmp_path / "a")
    assert encoder_bytes(tmp_path / "b") == first
    assert encoder_bytes(tmp_path / "c", Training(epochs=4, batch_size=8, threads=1, seed=2)) != first
    pixels, seen = small()
    pixels[24:] = 255 - pixels[24:]  # people 12 to 15 do not teach
    model, _ = train_encoder(pixels, seen, np.arange(12), checkpoint=tmp_path / "d.safetensors", key="k", settings=SETTINGS)
    save_encoder(model, tmp_path / "d.enc")
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
    with pytest.raises(ZeroDivisionError), reproducible(1):
        1 / 0  # noqa: B018
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loaded_encoder_gives_the_same_features(tmp_path: Path) -> None:
    pixels, seen = small()
    model, losses = train_encoder(pixels, seen, np.arange(16), checkpoint=tmp_path / "c.safetensors", key="k", settings=SETTINGS)
    save_encoder(model, tmp_path / "e.safetensors")
    again = features_of(load_encoder(tmp_path / "e.safetensors"), pixels[3:9])
    np.testing.assert_allclose(again, features_of(model, pixels)[3:9], rtol=1e-4, atol=1e-5)
    assert len(losses) == 4
    assert np.isfinite(losses).all()


KILLED = """
import sys, time
from pathlib import Path
from tests.imaging.test_contrastive import encoder_bytes
import clinome.imaging.contrastive as c
save = c._checkpoint
def slowly(path, key, model, optimiser, losses):
    save(path, key, model, optimiser, losses)
    if len(losses) == 2:
        (path.parent / "reached").touch()
        time.sleep(60)  # the test kills this process here
c._checkpoint = slowly
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
    epochs = []
    original = np.random.default_rng

    def counting(seed: object = None) -> np.random.Generator:
        if isinstance(seed, list):
            epochs.append(seed[1])
        return original(seed)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", counting)
        again = encoder_bytes(folder)
    assert epochs == [2, 3]  # the first two were not run again
    assert again == encoder_bytes(tmp_path / "whole")


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


def test_the_learning_rate_rises_once_and_falls_to_zero() -> None:
    rates = np.array([schedule(x) for x in np.linspace(0, 1, 101)])
    assert rates.argmax() == 5
    assert rates[5] == pytest.approx(1)
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[-1] == pytest.approx(0)
