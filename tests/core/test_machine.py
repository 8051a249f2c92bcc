"""What the machine offers: descriptions read and refused, and a container's limits found in either version of control groups."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from clinome.core import machine
from clinome.core.errors import StudyError
from clinome.core.machine import Machine, cores, free_disk, free_memory, most_memory, used_memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64 cores", Machine(64)),
        ("1 core,16GB", Machine(1, 16 * 10**9)),
        ("96 CPUs, 1.5 TB memory", Machine(96, 1_500 * 10**9)),
        ("gpu 1979 TOPS, 16 cores", Machine(16, None, 1979.0)),
        ("16 cores, 624.5 tops gpu", Machine(16, None, 624.5)),
    ],
)
def test_a_machine_is_described_in_words(text: str, expected: Machine) -> None:
    assert Machine.named(text) == expected


@pytest.mark.parametrize("text", ["", "fast", "0 cores", "16 GB", "gpu 1979 TOPS", "64 cores, 32 cores", "64 cores, gpu"])
def test_what_is_no_machine_is_refused_with_examples(text: str) -> None:
    with pytest.raises(StudyError, match=r"no machine(.|\n)*expected: '64 cores', '64 cores, 512 GB'"):
        Machine.named(text)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the mount of control groups, of which this process is in ``/mine``."""
    monkeypatch.setattr(machine, "_MOUNT", tmp_path)
    monkeypatch.setattr(machine, "_MINE", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_limits_of_version_2_count(groups: Path) -> None:
    write(groups, cgroup="0::/mine")
    write(groups / "mine", cpu__max="250000 100000", memory__max="3000000", memory__current="1000000")
    assert cores() == 3  # two and a half
    assert free_memory() == 2_000_000


def test_limits_of_version_1_count_also_where_the_path_is_the_hosts(groups: Path) -> None:
    write(groups, cgroup="5:cpu,cpuacct:/mine\n4:memory:/docker/0123")
    write(groups / "cpu" / "mine", cpu__cfs_quota_us="100000", cpu__cfs_period_us="50000")
    write(groups / "memory", memory__limit_in_bytes="5000", memory__usage_in_bytes="6000")
    assert cores() == 2
    assert free_memory() == 0


def test_without_limits_the_machine_counts(groups: Path) -> None:
    write(groups, cgroup="0::/mine")
    write(groups / "mine", cpu__max="max 100000", memory__max="max", memory__current="1")
    assert cores() == 8
    free = free_memory()
    assert free is not None
    assert 10**6 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_memory_in_use_grows_with_what_is_held(tmp_path: Path) -> None:
    before = used_memory()
    with mmap.mmap(-1, 50_000_000) as held:  # not from what the process has freed before
        held.write(b"x" * len(held))
        assert used_memory() - before > 0.8 * len(held)
    assert most_memory() >= 0.9 * used_memory()  # the two are counted at different moments
    assert free_disk(tmp_path / "not" / "there") == free_disk(tmp_path) > 0
