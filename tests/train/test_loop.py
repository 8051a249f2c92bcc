"""The training loop: pieces, kills and workers change nothing; parts and processes give the gradient of the whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinome.core.errors import FormatError, NotConverged, StudyError
from clinome.train.batches import Drawn, example_generator, permutation
from clinome.train.devices import Mode
from clinome.train.hooks import EarlyStop
from clinome.train.loop import Settings, backward, fit
from clinome.train.schedules import warm_cosine
from clinome.train.state import State, load_state, new_state, save_state

ROOT = Path(__file__).parents[2]
N = 50
X = torch.randn(N, 3, 12, 12, generator=torch.Generator().manual_seed(1))
Y = (X.mean(dim=(1, 2, 3)) > 0).long()


def network(seed: int = 0, *, norm: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(0.3 if norm else 0.0)]
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def fetch(drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Return noisy pictures, the noise by (seed, epoch, example), and their classes."""
    noise = [example_generator(7, drawn.epoch, int(row)).normal(size=(3, 12, 12)) for row in drawn.rows]
    return X[drawn.rows] + 0.1 * torch.from_numpy(np.stack(noise)).float(), Y[drawn.rows]


def objective(model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    x, y = batch
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    logits = model(x)
    return F.cross_entropy(logits, y), {"accuracy": float((logits.argmax(1) == y).float().mean())}


def validate(model: nn.Module) -> dict[str, float]:
    assert not model.training
    return {"accuracy": float((model(X).argmax(1) == Y).float().mean())}


def begin(**more: Any) -> State:
    model = network()
    mode = more.pop("mode", None)
    state = new_state(model, torch.optim.AdamW(model.parameters(), lr=1e-2), warm_cosine(40), average=0.9, **more)
    state.mode = mode
    return state


def run(state: State, until: int, **settings: Any) -> State:
    about = Settings(**{"validate_every": 7, "watch": "accuracy", "key": "k", **settings})
    draw = permutation(N, 8, seed=3)
    return fit(state, until=until, draw=draw, fetch=fetch, objective=objective, validate=validate, settings=about)


def assert_same(a: State, b: State) -> None:
    for (name, one), other in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert a.average is not None
    assert b.average is not None
    for name, one in a.average.items():
        assert torch.equal(one, b.average[name]), name
    assert a.history == b.history
    assert a.best is not None
    assert b.best is not None
    assert (a.best.value, a.best.step) == (b.best.value, b.best.step)
    for name, one in a.best.weights.items():
        assert torch.equal(one, b.best.weights[name]), name


def test_pieces_make_the_same_training_as_the_whole() -> None:
    whole, pieces = run(begin(), 40), begin()
    for until in (1, 7, 19, 40):
        pieces = run(pieces, until)
    assert_same(whole, pieces)
    assert [record["step"] for record in whole.history] == [7, 14, 21, 28, 35]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_restart_in_a_new_state_goes_on_to_the_same_bytes(tmp_path: Path, precision: str) -> None:
    whole = run(begin(), 40, checkpoint=tmp_path / "whole.safetensors", precision=precision)
    run(begin(), 23, checkpoint=tmp_path / "cut.safetensors", precision=precision)
    again = run(begin(), 40, checkpoint=tmp_path / "cut.safetensors", precision=precision)
    assert_same(whole, again)
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "cut.safetensors").read_bytes()


def test_a_checkpoint_of_other_inputs_is_not_gone_on_from(tmp_path: Path) -> None:
    run(begin(), 14, checkpoint=tmp_path / "c.safetensors", key="other")
    assert_same(run(begin(), 21, checkpoint=tmp_path / "c.safetensors"), run(begin(), 21))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers: int) -> None:
    assert_same(run(begin(), 21), run(begin(), 21, workers=workers))


def test_what_fetch_raises_in_a_worker_is_raised() -> None:
    def broken(drawn: Drawn) -> Any:
        raise ValueError("picture 7 is broken")

    with pytest.raises(ValueError, match="picture 7 is broken"):
        fit(begin(), until=3, draw=permutation(N, 8, seed=3), fetch=broken, objective=objective, settings=Settings(workers=2))


def test_random_numbers_and_settings_of_the_caller_are_left_alone() -> None:
    torch.manual_seed(5)
    threads, wanted = torch.get_num_threads(), torch.rand(3)
    torch.manual_seed(5)
    state = run(begin(), 5)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert "forward" not in vars(state.model)


def test_parts_give_the_gradient_of_the_whole() -> None:
    def plain(model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return F.cross_entropy(model(batch[0]), batch[1]), {"n": float(len(batch[0]))}

    found = []
    for parts in (1, 3, 8):
        model = network(norm=False)
        loss, logs = backward(parts)(model, plain, (X[:8], Y[:8]), torch.Generator())
        found.append((loss, [p.grad for p in model.parameters()]))
        assert 8 / parts / 1.5 < logs["n"] <= 8
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for a, b in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_average_is_the_one_written_down() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    state = new_state(model, torch.optim.SGD(model.parameters(), lr=1.0), average=0.5)
    expected, weight = 0.0, 0.0

    def pull(model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return -model.weight.sum(), {}

    for step in range(1, 12):
        state = fit(state, until=step, draw=permutation(1, 1, seed=0), fetch=lambda drawn: torch.zeros(1), objective=pull)
        weight, decay = weight + 1.0, min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert state.average is not None
        assert float(state.average["weight"]) == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_is_not_finite_stops_with_the_examples(tmp_path: Path) -> None:
    def fails(model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss, logs = objective(model, batch, generator)
        return (loss * float("nan") if state.step == 9 else loss), logs

    state, file = begin(), tmp_path / "c.safetensors"
    about = Settings(validate_every=7, checkpoint=file, key="k")
    with pytest.raises(NotConverged, match=r"(?s)no longer finite.*step 10, epoch 2, examples \d+") as caught:
        fit(state, until=40, draw=permutation(N, 8, seed=3), fetch=fetch, objective=fails, settings=about)
    assert "0.01" in str(caught.value)
    kept = begin()
    assert load_state(kept, file, key="k")
    assert kept.step == 7


def test_a_metric_that_is_watched_but_not_there() -> None:
    with pytest.raises(StudyError, match=r"(?s)no metric 'dice'.*expected: accuracy"):
        run(begin(), 7, watch="dice")


def test_the_best_weights_are_those_of_the_best_validation() -> None:
    values = iter([0.1, 0.9, 0.5])
    state = begin()
    seen: list[Tensor] = []

    def scripted(model: nn.Module) -> dict[str, float]:
        seen.append(model[0].weight.detach().clone())
        return {"accuracy": next(values)}

    about = Settings(validate_every=5, watch="accuracy")
    draw = permutation(N, 8, seed=3)
    fit(state, until=15, draw=draw, fetch=fetch, objective=objective, validate=scripted, settings=about)
    assert state.best is not None
    assert (state.best.value, state.best.step) == (0.9, 10)
    assert torch.equal(state.take_best()[0].weight, seen[1])  # type: ignore[index]


def test_early_stopping_survives_a_restart(tmp_path: Path) -> None:
    def stop() -> State:
        return begin(hooks=(EarlyStop("accuracy", patience=2, least=1.0),))

    whole = run(stop(), 40)
    assert whole.step == 21
    assert whole.stopped == "accuracy did not become better in 2 validations (step 21)"
    run(stop(), 16, checkpoint=tmp_path / "c.safetensors")
    again = run(stop(), 40, checkpoint=tmp_path / "c.safetensors")
    assert again.stopped == whole.stopped
    assert_same(whole, again)
    assert run(stop(), 40, checkpoint=tmp_path / "c.safetensors").step == 21  # a stopped training stays stopped


def test_weights_can_be_trained_in_bfloat16_with_losses_in_float32() -> None:
    kinds = set()

    def looks(model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        logits = model(batch[0])
        kinds.add(logits.dtype)
        return F.cross_entropy(logits, batch[1]), {}

    state, draw = begin(), permutation(N, 25, seed=3)
    state = fit(state, until=30, draw=draw, fetch=fetch, objective=looks, settings=Settings(precision="bfloat16"))
    assert kinds == {torch.float32}
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    assert state.mode is not None
    assert state.mode.bfloat16


def test_measuring_precision_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    state = begin()
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    state = run(state, 0, precision="measure")
    assert state.mode is not None
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    state.step = 1
    save_state(state, tmp_path / "c.safetensors", key="k")
    again = begin()
    assert load_state(again, tmp_path / "c.safetensors", key="k")
    assert again.mode == state.mode


def test_a_precision_that_was_measured_holds_when_killed_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = iter([Mode(bfloat16=True, channels_last=True), Mode()])  # the clock says another one each time
    monkeypatch.setattr("clinome.train.loop.quickest", lambda *_: next(chosen))
    about: dict[str, Any] = {"precision": "measure", "checkpoint": tmp_path / "c.safetensors", "checkpoint_every": 10}

    class Killed:
        name = "killed"

        def after_step(self, state: State, logs: dict[str, float]) -> str | None:
            if state.step == 3:
                raise KeyboardInterrupt
            return None

        def saved(self) -> dict[str, Any]:
            return {}

        def restore(self, saved: dict[str, Any]) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        run(begin(hooks=(Killed(),)), 21, **about)
    again = run(begin(), 21, **about)
    assert again.mode == Mode(bfloat16=True, channels_last=True)
    assert_same(again, run(begin(mode=Mode(bfloat16=True, channels_last=True)), 21))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_memory_of_the_optimiser_keeps_its_layout(tmp_path: Path, bfloat16: bool) -> None:
    def laid_out() -> State:
        return begin(mode=Mode(bfloat16, channels_last=True))

    whole = run(laid_out(), 40)
    state = run(laid_out(), 8, checkpoint=tmp_path / "c.safetensors")
    again = begin()
    assert load_state(again, tmp_path / "c.safetensors", key="k")
    for a, b in zip(state.optimiser.state.values(), again.optimiser.state.values(), strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
        assert a["exp_avg"].stride() == b["exp_avg"].stride()
    assert_same(run(again, 40), whole)


def test_a_validation_that_is_not_finite_is_not_the_best() -> None:
    values = iter([float("nan"), 0.2, 0.9, float("nan")])
    state = begin(hooks=(EarlyStop("accuracy", patience=3),))
    about = Settings(validate_every=5, watch="accuracy")
    draw = permutation(N, 8, seed=3)
    fit(
        state,
        until=20,
        draw=draw,
        fetch=fetch,
        objective=objective,
        validate=lambda _: {"accuracy": next(values)},
        settings=about,
    )
    assert state.best is not None
    assert (state.best.value, state.best.step, state.stopped) == (0.9, 15, None)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path: Path, clip: float | None) -> None:
    def fails(model: nn.Module, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        logits = model(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        return (loss + (0 * logits).sum().sqrt() if state.step == 6 else loss), {}  # finite, but its gradient is 0 / 0

    state, file = begin(), tmp_path / "c.safetensors"
    about = Settings(validate_every=7, checkpoint=file, checkpoint_every=1, key="k", clip=clip)
    with pytest.raises(NotConverged, match=r"(?s)the gradient of the loss is no longer finite.*step 7"):
        fit(state, until=40, draw=permutation(N, 8, seed=3), fetch=fetch, objective=fails, settings=about)
    kept = begin()
    assert load_state(kept, file, key="k")
    assert kept.step == 6
    assert all(torch.isfinite(one).all() for one in kept.model.state_dict().values())


def test_a_checkpoint_needs_a_key_and_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="a checkpoint needs a key"):
        Settings(checkpoint=tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"damaged")
    with pytest.raises(FormatError, match="no saved training"):
        run(begin(), 7, checkpoint=tmp_path / "c.safetensors")


def test_a_hook_that_was_not_there_before_begins_anew(tmp_path: Path) -> None:
    run(begin(), 7, checkpoint=tmp_path / "c.safetensors")
    state = run(begin(hooks=(EarlyStop("accuracy", patience=2, least=1.0),)), 40, checkpoint=tmp_path / "c.safetensors")
    assert state.step == 28


KILLED = """
import sys
sys.path.insert(0, "tests/train")
import test_loop as t
from pathlib import Path
state = t.begin()
def slow(drawn):
    import time
    time.sleep(0.02)
    return t.fetch(drawn)
about = t.Settings(validate_every=7, watch="accuracy", key="k", checkpoint=Path(sys.argv[1]))
t.fit(state, until=40, draw=t.permutation(t.N, 8, seed=3), fetch=slow, objective=t.objective, validate=t.validate, settings=about)
"""


@pytest.mark.slow
def test_a_process_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    run(begin(), 40, checkpoint=whole)
    command = [sys.executable, "-c", KILLED, str(cut)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while not cut.exists():
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=ROOT, check=True)
    assert cut.read_bytes() == whole.read_bytes()


TOGETHER = """
import sys
sys.path.insert(0, "tests/train")
import test_loop as t
import torch
from pathlib import Path
from clinome.train.devices import join_processes
model = t.network(norm=False)
state = t.new_state(model, torch.optim.SGD(model.parameters(), lr=0.1))
known = t.np.arange(t.N)[:, None] % 5 < 2  # of most examples the class is not known, in some batches of all in a process
def some(drawn):
    x, y = t.fetch(drawn)
    return x, torch.where(torch.from_numpy(known[drawn.rows, 0]), y, -1), torch.from_numpy(drawn.weight(known))
def plain(model, batch, generator):
    x, y, weight = batch
    logits = model(x)
    missed = t.F.cross_entropy(logits, y, ignore_index=-1) if (y >= 0).any() else 0 * logits.sum()
    return weight[0, 0] * missed, {}
with join_processes() as mine:
    about = t.Settings(validate_every=5, watch="accuracy", checkpoint=Path(sys.argv[1]), key="k")
    draw = t.permutation(t.N, 7, seed=3)
    t.fit(state, until=10, draw=draw, fetch=some, objective=plain, validate=t.validate, settings=about)
"""


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "slurm"])
def test_two_processes_train_the_network_that_one_trains(tmp_path: Path, starter: str) -> None:
    port = str(29500 + os.getpid() % 2000 + (starter == "slurm"))
    files = [tmp_path / "two.safetensors", tmp_path / "one.safetensors"]
    running = []
    for rank in range(2):
        if starter == "torchrun":
            place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        else:
            place = {"SLURM_PROCID": str(rank), "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": port}
        words = [sys.executable, "-c", TOGETHER, str(files[0])]
        running.append(subprocess.Popen(words, cwd=ROOT, env=os.environ | place))
    assert [process.wait(60) for process in running] == [0, 0]
    subprocess.run([sys.executable, "-c", TOGETHER, str(files[1])], cwd=ROOT, check=True)
    states = []
    for file in files:
        model = network(norm=False)
        state = new_state(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert load_state(state, file, key="k")
        states.append(state)
    for (name, a), b in zip(states[0].model.state_dict().items(), states[1].model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(states[0].history[-1]["loss"], states[1].history[-1]["loss"], rtol=1e-4, atol=1e-6)
    assert [record["validation.accuracy"] for record in states[0].history] == [
        record["validation.accuracy"] for record in states[1].history
    ]


APART = """
import sys
sys.path.insert(0, "tests/train")
import test_loop as t
import torch
from pathlib import Path
from clinome.train.devices import join_processes
class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = t.network(seed=int(sys.argv[2])), torch.nn.Linear(2, 1)
    def forward(self, x):
        return self.body(x)
with join_processes() as mine:
    model = Two()  # of other first weights in each process
    state = t.new_state(model, torch.optim.SGD(model.parameters(), lr=0.1), average=0.9)
    def objective(model, batch, generator):
        logits = model(batch[0])
        loss = t.F.cross_entropy(logits, batch[1])
        if mine.rank == 0 and state.step % 2:  # a head that only one process teaches
            loss = loss + 0.1 * model.head(logits).square().mean()
        return (loss * float("nan") if mine.rank == 1 and state.step == 8 else loss), {"rank": float(mine.rank)}
    about = t.Settings(validate_every=5, watch="accuracy", checkpoint=Path(sys.argv[1]), checkpoint_every=7, key="k")
    draw = t.permutation(t.N, 8, seed=3)
    try:
        t.fit(state, until=20, draw=draw, fetch=t.fetch, objective=objective, validate=t.validate, settings=about)
    except t.NotConverged:
        assert state.step == 8
    else:
        raise SystemExit("the loss of another process was not seen")
    weights = torch.cat([one.flatten().float() for one in model.parameters()])
    torch.save({"weights": weights, "best": state.best.weights, "history": state.history}, sys.argv[1] + str(mine.rank))
"""


@pytest.mark.slow
def test_processes_stay_alike_and_stop_together(tmp_path: Path) -> None:
    port = str(31500 + os.getpid() % 2000)
    running = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = [sys.executable, "-c", APART, str(tmp_path / "c"), str(rank)]
        running.append(subprocess.Popen(words, cwd=ROOT, env=os.environ | place))
    assert [process.wait(60) for process in running] == [0, 0]
    one, other = (torch.load(tmp_path / f"c{rank}", weights_only=True) for rank in range(2))
    assert torch.equal(one["weights"], other["weights"])
    assert one["history"] == other["history"]
    assert one["history"][0]["rank"] == pytest.approx(0.5, abs=0.07)  # of all examples, not those of one process
    for name, value in one["best"].items():
        assert torch.equal(value, other["best"][name]), name


TOGETHER_AGREE = """
import torch
from clinome.core.errors import StudyError
from clinome.train.devices import join_processes
from clinome.train.loop import _agree
from clinome.train.state import new_state
with join_processes() as mine:
    norm = torch.nn.BatchNorm1d(1)
    norm.running_mean.fill_(2.0 if mine.rank else -2.0)
    state = new_state(norm, torch.optim.SGD(norm.parameters(), lr=0.1))
    for _ in range(2):  # the second time they agree already
        _agree(state, mine)
        assert abs(norm.running_mean.item()) < 1e-6, norm.running_mean
        assert abs(norm.running_var.item() - 5.0) < 1e-5, norm.running_var  # 1 within each, 4 between their means
    def fails():
        raise ZeroDivisionError("no examples")
    try:
        mine.from_first(fails)
    except ZeroDivisionError:
        assert mine.rank == 0
    except StudyError as error:
        assert mine.rank == 1 and "ZeroDivisionError: no examples" in str(error)
    else:
        raise AssertionError
    assert mine.from_first(lambda: mine.rank + 5) == 5
"""


@pytest.mark.slow
def test_two_processes_agree_on_statistics_and_on_what_fails() -> None:
    port, running = str(31500 + os.getpid() % 2000), []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        running.append(subprocess.Popen([sys.executable, "-c", TOGETHER_AGREE], cwd=ROOT, env=os.environ | place))
    assert [process.wait(60) for process in running] == [0, 0]
