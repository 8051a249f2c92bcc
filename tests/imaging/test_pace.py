"""The number of steps that fits: what is planned fits into the time, whatever parts of it take; it is kept as it was decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clinome.core.errors import FormatError
from clinome.imaging.pace import Measured, Pace, decide, measure
from clinome.train.batches import Drawn
from clinome.train.devices import Mode
from clinome.train.hooks import Clock
from clinome.train.loop import Settings
from clinome.train.state import new_state


def test_what_is_planned_fits_into_the_time() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        step, image, saving = 10 ** generator.uniform(-3, 1, 3)
        seconds, held_out, views = 10 ** generator.uniform(0.5, 4), int(generator.integers(1, 60)), int(generator.integers(1, 9))
        spent = seconds * generator.uniform(0, 0.9)
        found = decide(
            Measured(step, image, saving), Mode(), seconds=seconds, spent=spent, validations=10, held_out=held_out, views=views
        )
        assert 1 <= found.validations <= 10
        assert 1 <= found.shown <= held_out
        assert 1 <= found.judged <= held_out
        assert found.steps % found.validations == 0
        planned = found.steps * step + (found.validations * found.shown + found.judged * views) * image
        least = step + (1 + views) * image  # one of each is made in any case
        left = max(seconds - spent, seconds / 4)
        assert planned <= max(left, least + 0.3 * left) + 1e-9
        if left > 20 * (least + saving) and found.steps < 249_000:  # and where there is time, it is used
            assert planned + found.validations * step + left * 0.03 + (saving if found.steps else 0) >= 0.9 * left


def test_looks_become_fewer_before_they_become_small() -> None:
    def of(image: float) -> tuple[int, int, int]:
        found = decide(Measured(0.01, image, 0.01), Mode(), seconds=100, spent=0, validations=10, held_out=40)
        return found.validations, found.shown, found.judged

    assert of(0.001) == (10, 40, 40)
    assert of(0.2) == (10, 7, 40)
    assert of(1.0) == (3, 5, 15)
    assert of(20.0) == (1, 1, 1)


def test_it_is_kept_as_it_was_decided(tmp_path: Path) -> None:
    kept = Pace(40, 2, 9, 3, 4, Mode(bfloat16=True), "why")
    assert Pace.load(tmp_path / "pace.json") is None
    kept.save(tmp_path / "pace.json")
    assert Pace.load(tmp_path / "pace.json") == kept
    (tmp_path / "pace.json").write_text('{"steps": 3}')
    with pytest.raises(FormatError, match="no pace of a training"):
        Pace.load(tmp_path / "pace.json")


def test_a_step_is_timed_with_its_loading_after_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("clinome.imaging.pace.time.perf_counter", lambda: clock[0])

    def fetch(drawn: Drawn) -> Tensor:
        clock[0] += 0.25
        return torch.ones(1, 1)

    def objective(model: nn.Module, batch: Any, _: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        clock[0] += 9.0 if clock[0] < 9 else 0.5  # kernels are planned at first
        return model(batch).square().mean(), {}

    def look(model: nn.Module) -> None:
        assert not model.training
        clock[0] += 2.0

    model = nn.Linear(1, 1)
    state = new_state(model, torch.optim.SGD(model.parameters(), lr=0.1), average=0.9, hooks=(Clock(),))
    found, mode = measure(
        state,
        look,
        seconds=100,
        draw=lambda step: Drawn(0, np.array([0])),
        fetch=fetch,
        objective=objective,
        settings=Settings(key="pilot"),
        scratch=tmp_path / "pilot.safetensors",
    )
    assert found.step == pytest.approx(0.75)
    assert found.image == pytest.approx(2.0)
    assert mode == Mode()
    assert state.step == 1 + 7  # 5 of 100 seconds are for measuring steps
    assert not list(tmp_path.iterdir())
