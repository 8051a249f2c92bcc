"""Commands on pictures, killed or out of disk: given again they end as if nothing had been, and nothing is half-written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from toolkit.masked import blocks, squares

from clinome.imaging.models import resnet
from clinome.studies import picture_tasks
from clinome.train import loop
from tests.toolkit.command import say

# What the command does at the controlled point: say that it is there, and wait to be killed.
PRELUDE = """
import sys, time, pathlib
reached = pathlib.Path(sys.argv.pop(1))
def there():
    reached.touch()
    time.sleep(120)
def at_call(module, name, number):
    whole, calls = getattr(module, name), []
    def watched(*given, **named):
        calls.append(0)
        made = whole(*given, **named)
        if len(calls) == number:
            there()
        return made
    setattr(module, name, watched)
"""
IN_TRAINING = """
import clinome.train.loop as loop
from clinome.imaging.models import resnet
from clinome.studies import picture_tasks
picture_tasks._network = lambda *_: resnet.Config(layers=18, width=8, stem="small")  # whose state is saved in a moment
loop.quickest = lambda model, _: loop.fixed(model, "float32")  # by the clock, two runs may find two
at_call(loop, "save_state", {})
"""
AFTER_TWO_MASKS = "import clinome.studies.segmenting as m; at_call(m, 'write_mask', 2)"
BEFORE_PREDICTIONS = "import clinome.studies.picture_tasks as m; at_call(m, 'predict', 1)"
BETWEEN_TABLES = "import clinome.studies.measuring as m; at_call(m, 'leave', 1)"
MAIN = "\nfrom clinome.__main__ import main\nmain()\n"


def killed(where: str, words: list[object], reached: Path) -> None:
    """Run ``clinome <words>`` in a process of its own and kill it at the point that ``where`` names."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PRELUDE + where + MAIN, str(reached), *map(str, words)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    try:
        while not reached.exists():
            assert process.poll() is None, f"it ended before it could be killed: {process.communicate()[1]}"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def results(folder: Path) -> dict[str, bytes]:
    """Return what a folder is made for: tables, networks, masks and pictures."""
    kept = (".parquet", ".safetensors", ".png", ".gz", ".json")
    timed = re.compile(r"decoded/|provenance\.json|time\.json|networks/.*\.json")  # hold times, of files or of the training
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.suffix in kept}
    return {name: path.read_bytes() for name, path in found.items() if not timed.search(name)}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    squares(folder / "squares", 16)
    blocks(folder / "blocks", 10)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    def run(*words: object) -> str:
        shown = say([*words, "--quiet"], monkeypatch, capsys)
        assert shown.code == 0, shown.err
        return shown.out

    return run


@pytest.fixture(scope="module")
def structures(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of structures, killed at its first saved state."""
    out = tmp_path_factory.mktemp("structures") / "killed"
    words = ["train", "--images", scans / "blocks/images.parquet", "--structures", "front,back", "--minutes", "0.03"]
    killed(IN_TRAINING.format(1), [*words, "--threads", 1, "--out", out], out.with_name("reached"))
    return out


TASK = """
[images]
path = "{images}"
targets = "{targets}"
[task]
threads = 1
[split]
folds = 2
[predict]
classes = ["bright"]
size = 16
epochs = 2
floors = false
"""


@pytest.mark.slow
def test_train_classes_and_predict(scans: Path, tmp_path: Path, command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"images": scans / "squares/images.parquet", "targets": scans / "squares/targets.csv"}
    (tmp_path / "task.toml").write_text(TASK.format(**about))
    words = ["train", tmp_path / "task.toml"]
    monkeypatch.setattr(loop, "quickest", lambda model, _: loop.fixed(model, "float32"))
    monkeypatch.setattr(picture_tasks, "_network", lambda *_: resnet.Config(layers=18, width=8, stem="small"))
    killed(IN_TRAINING.format(3), [*words, "--out", tmp_path / "killed"], tmp_path / "reached")  # in the second network
    assert list((tmp_path / "killed").rglob("*.state"))
    assert not (tmp_path / "killed" / "predictor.json").exists()
    (tmp_path / "killed" / ".99999999.partial.metrics.parquet").write_bytes(b"half a table")
    for name in ("killed", "whole"):
        command(*words, "--out", tmp_path / name)  # type: ignore[operator]
    whole = results(tmp_path / "whole")
    assert results(tmp_path / "killed") == whole
    assert {"predictions.parquet", "metrics.parquet", "predictor.json", "leakage.parquet"} <= whole.keys()
    assert len([name for name in whole if name.endswith(".safetensors")]) == 2
    assert not [path for path in (tmp_path / "killed").rglob("*") if ".partial." in path.name or path.suffix == ".state"]

    words = ["predict", "--model", tmp_path / "whole", "--images", scans / "squares/images.parquet"]
    killed(BEFORE_PREDICTIONS, [*words, "--out", tmp_path / "cut"], tmp_path / "predict")
    assert not (tmp_path / "cut" / "predictions.parquet").exists()
    for name in ("cut", "uncut"):
        command(*words, "--out", tmp_path / name)  # type: ignore[operator]
    assert results(tmp_path / "cut") == results(tmp_path / "uncut")
    assert pl.read_parquet(tmp_path / "cut" / "predictions.parquet").height == 16


@pytest.mark.slow
def test_train_structures_and_segment(structures: Path, scans: Path, tmp_path: Path, command: object) -> None:
    words = ["train", "--images", scans / "blocks/images.parquet", "--structures", "front,back", "--minutes", "0.03"]
    killed_in, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed_in, whole):
        shutil.copytree(structures, folder)
    states = list(whole.rglob("state.safetensors"))
    assert states, "it was to be killed in training"
    for path in states:
        path.unlink()  # from its first step, at the pace that was decided: a training that nobody killed
    for folder in (killed_in, whole):
        command(*words, "--threads", 1, "--out", folder)  # type: ignore[operator]
    assert results(killed_in) == results(whole)
    assert not list(killed_in.rglob("state.safetensors"))

    words = ["segment", "--model", whole / "segmenter", "--images", scans / "blocks/images.parquet"]
    killed(AFTER_TWO_MASKS, [*words, "--out", tmp_path / "cut"], tmp_path / "segment")
    assert len(list((tmp_path / "cut" / "masks").iterdir())) == 2
    first = min((tmp_path / "cut" / "masks").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    written = first.stat().st_mtime_ns
    assert not (tmp_path / "cut" / "segmentations.parquet").exists()
    for name in ("cut", "uncut"):
        command(*words, "--out", tmp_path / name)  # type: ignore[operator]
    assert results(tmp_path / "cut") == results(tmp_path / "uncut")
    assert len(list((tmp_path / "cut" / "masks").iterdir())) == 10
    assert first.stat().st_mtime_ns == written  # not drawn again
    assert not list((tmp_path / "cut").glob("*.jsonl"))


@pytest.mark.slow
def test_measure(scans: Path, tmp_path: Path, command: object) -> None:
    words = ["measure", "--images", scans / "blocks/images.parquet", "--structure", "volumes", "--names", "front,back"]
    killed(BETWEEN_TABLES, [*words, "--out", tmp_path / "cut"], tmp_path / "reached")
    assert not (tmp_path / "cut" / "phenotypes.parquet").exists()
    for name in ("cut", "uncut"):
        command(*words, "--out", tmp_path / name)  # type: ignore[operator]
    assert results(tmp_path / "cut") == results(tmp_path / "uncut")
    assert pl.read_parquet(tmp_path / "cut" / "phenotypes.parquet").height == 10


# ----------------------------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 KiB, where root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    scans: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--images", scans / "squares/images.parquet", "--targets", scans / "squares/targets.csv"]
    shown = say([*words, "--classes", "bright", "--size", 16, "--out", tiny_disk / "model"], monkeypatch, capsys)
    assert shown.code == 1
    assert shown.err.startswith("error: the disk is too full for the decoded pictures\n  where: ")
    assert "do:       free space, name another folder, or choose a smaller size" in shown.err
    with (tiny_disk / "filler").open("wb") as file, pytest.raises(OSError, match="No space left"):
        file.write(bytes(1 << 20))  # not a byte is left
    shown = say([*words, "--classes", "bright", "--out", tiny_disk / "new"], monkeypatch, capsys)
    assert shown.code == 1
    assert shown.err.startswith("error: the result cannot be written\n"), shown.err
    (tiny_disk / "filler").write_bytes(bytes(72 << 10))
    words = ["measure", "--images", scans / "blocks/images.parquet", "--structure", "volumes", "--names", "front,back"]
    shown = say([*words, "--out", tiny_disk / "volumes"], monkeypatch, capsys)
    assert shown.code == 1
    assert shown.err.startswith("error: the result cannot be written\n  where: "), shown.err
    assert "No space left on device" in shown.err
    assert not [path for path in (tiny_disk / "volumes").rglob("*") if ".partial." in path.name]
    whole = [path for path in (tiny_disk / "volumes").glob("*.parquet") if pl.read_parquet(path).width]
    assert whole == list((tiny_disk / "volumes").glob("*.parquet"))
