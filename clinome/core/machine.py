"""What this process may use of its machine: processors, memory and disk. A container's limits count, not its host's.

>>> machine = Machine.named("64 cores, 512 GB, gpu 1979 TOPS")
>>> machine.cores, machine.memory // 10**9, machine.gpu_tops
(64, 512, 1979.0)
"""

from __future__ import annotations

import os
import re
import resource
import shutil
from pathlib import Path
from typing import NamedTuple

from clinome.core.errors import StudyError

_MOUNT, _MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # of control groups
_PARTS = {
    "cores": re.compile(r"(\d+) *(?:cores?|cpus?)"),
    "memory": re.compile(r"(\d+(?:\.\d+)?) *([gt])i?b(?: memory| ram)?"),
    "gpu": re.compile(r"gpu *(\d+(?:\.\d+)?) *tops|(\d+(?:\.\d+)?) *tops(?: gpu)?"),
}


class Machine(NamedTuple):
    """``cores`` to use, ``memory`` in bytes that may still be taken (None: not known), ``gpu_tops``: 10¹² 8-bit operations a
    second of its GPU (None: it has none that counts).
    """

    cores: int
    memory: int | None = None
    gpu_tops: float | None = None

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine as it is now."""
        return cls(cores(), free_memory())

    @classmethod
    def named(cls, text: str) -> Machine:
        """Take a description: '64 cores', '64 cores, 512 GB', '16 cores, gpu 1979 TOPS'.

        Raises
        ------
        StudyError
            When it does not say how many cores, or says something else.
        """
        found: dict[str, re.Match[str]] = {}
        for part in text.lower().split(","):
            kinds = {kind: match for kind, pattern in _PARTS.items() if (match := pattern.fullmatch(part.strip()))}
            if not kinds or kinds.keys() & found.keys():
                break
            found |= kinds
        else:
            if "cores" in found and int(found["cores"][1]) > 0:
                size, gpu = found.get("memory"), found.get("gpu")
                memory = int(float(size[1]) * {"g": 10**9, "t": 10**12}[size[2]]) if size else None
                return cls(int(found["cores"][1]), memory, float(gpu[1] or gpu[2]) if gpu else None)
        raise StudyError(
            "that is no machine", got=repr(text), expected="'64 cores', '64 cores, 512 GB' or '16 cores, gpu 1979 TOPS'"
        )


def cores() -> int:
    """Return how many processors this process may keep busy: those of its affinity mask, within its container's quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = _limit("cpu", "cpu.max")
    if quota is None:
        spent, period = _limit("cpu", "cpu.cfs_quota_us"), _limit("cpu", "cpu.cfs_period_us")
        quota = [*(spent or ["max"]), *(period or ["100000"])]
    if quota[0] in ("max", "-1"):
        return allowed
    return max(1, min(allowed, -(-int(quota[0]) // int(quota[1]))))


def free_memory() -> int | None:
    """Return how many bytes may still be taken without swapping: the machine's, within the container's limit."""
    free = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        most, taken = _limit("memory", limit), _limit("memory", used)
        if most is not None and taken is not None and most[0].isdigit():
            free.append(max(int(most[0]) - int(taken[0]), 0))
    return min(free, default=None)


def used_memory() -> int:
    """Return how many bytes this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def most_memory() -> int:
    """Return how many bytes this process has held at once so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_disk(folder: Path) -> int:
    """Return how many bytes may still be written where ``folder`` is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _limit(controller: str, name: str) -> list[str] | None:
    """Read a file of this process's control group (version 2, or the controller's of version 1); None where there is none."""
    try:
        groups = [line.split(":", 2) for line in _MINE.read_text().splitlines()]
    except OSError:
        groups = []
    for _, controllers, path in groups:
        mount = _MOUNT if not controllers else _MOUNT / controller
        if not controllers or controller in controllers.split(","):
            for folder in (mount / path.lstrip("/"), mount):  # inside a container the path may be the host's
                try:
                    return (folder / name).read_text().split()
                except OSError:
                    continue
    return None
