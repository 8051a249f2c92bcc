"""Features of any network for any number of pictures: streamed, resumable, as quick as the network's own forward pass allows.

    rows ──batch──→ worker: decode → network, one core ──→ rows of features.npy, in order

A worker takes a batch from file to features on a core of its own; there are as many as cores. On a processor this leaves no core
waiting for another: a picture costs what its decoding and its forward pass cost, and nothing more, so the share of the bare forward
pass that is reached is forward / (forward + decoding). And what comes out does not depend on the number of workers, for batches are
cut alike and each is computed by one thread. On a GPU the workers decode while it computes, one batch at a time.

>>> import tempfile
>>> from clinome.imaging.loading import Sample
>>> network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
>>> grey = lambda row: Sample(np.full((3, 8, 8), 51 * row, np.uint8))
>>> features = extract(network, grey, 3, out=Path(tempfile.mkdtemp()), key="grey", precision="float32")
>>> [f"{value:.2f}" for value in features.values[:, 0]]
['0.00', '0.20', '0.40']
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.core.errors import FormatError, NotConverged, OutputError, StudyError
from clinome.core.files import usable_folder, write_json
from clinome.core.machine import cores, free_disk
from clinome.core.progress import track
from clinome.core.provenance import fingerprint
from clinome.imaging.loading import Faults, Read, Sample
from clinome.imaging.reading import fault_of
from clinome.nn.weights import Preprocessing
from clinome.train.devices import Mode, Precision, arrange, choose_device, low_precision, may_be_last, quickest, reproducible

_BETWEEN = 20.0  # seconds between two notes of how far the work has come
_TRIED = 4  # pictures on which the precision is measured


class Extracted(NamedTuple):
    """What :func:`extract` gives.

    Attributes
    ----------
    values
        Shape (n, n_features), float32, mapped from ``features.npy``; NaN for rows that were set aside.
    set_aside
        Rows that could not be read: (what, reason), as :func:`clinome.imaging.reading.set_aside_table` takes them.
    mode
        The precision and layout that was used.
    """

    values: NDArray[np.float32]
    set_aside: Faults
    mode: Mode


def extract(
    network: nn.Module,
    read: Read,
    n: int,
    *,
    out: Path,
    key: str,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 16,
    precision: Precision = "measure",
    threads: int | None = None,
    device: str = "auto",
) -> Extracted:
    """Apply ``network`` to pictures 0 … n − 1; a killed call goes on where it was, a finished one is found.

    Parameters
    ----------
    network
        Its ``features`` if it has them, else its forward pass: (b, channels, *spatial) to (b, n_features). A *module* of that name
        counts only beside ``n_features``: in networks of some libraries it gives maps.
    read
        Gives the sample of a row, all of one shape, such as :func:`clinome.imaging.loading.pictures`; 8-bit values become 0–1. A
        :class:`FormatError` sets the row aside, any other error is raised.
    out
        The folder of ``features.npy`` and ``features.json``.
    key
        Names the pictures and all that their reading depends on; weights, preprocessing and batch size are added here.
    precision
        'float32', 'bfloat16', or 'measure': the quickest on the first pictures, kept for the rest.
    threads
        Workers; by default as many as this process has cores.

    Raises
    ------
    NotConverged
        When a feature is not finite.
    FormatError
        When not one picture can be read.
    OutputError
        When the disk has no room for the features.
    """
    if n < 1 or batch_size < 1:
        raise StudyError("there is nothing to extract features from", got=f"{n} pictures, batches of {batch_size}")
    where = choose_device(device)
    folder = usable_folder(out)
    about = None if preprocessing is None else asdict(preprocessing)
    state = _State.of(folder, fingerprint(key, n, batch_size, precision, _content(network), about))
    if state.rows < n:
        with _prepared(network, where) as applied:
            trial = _first_readable(read, n)
            if state.rows == 0:
                few = trial if where.type == "cpu" else (trial * batch_size)[:batch_size]  # a GPU is idle over a few in any mode
                state.mode = _mode(applied, _tensor(few, preprocessing, Mode(), where), precision)
            with _arranged(applied, state.mode):
                turn: AbstractContextManager[Any] = nullcontext() if where.type == "cpu" else Lock()
                job = _Job(applied, read, preprocessing, state.mode, where, turn, _width(applied, trial, preprocessing, where))
                _fill(job, folder, state, n, batch_size, threads or cores())
    return Extracted(np.load(folder / "features.npy", mmap_mode="r"), state.set_aside, state.mode)


@dataclass
class _State:
    """How far ``features.npy`` is filled: what ``features.json`` says once the rows are on the disk."""

    key: str
    rows: int = 0
    mode: Mode = Mode()  # noqa: RUF009 - a NamedTuple
    set_aside: Faults = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, key: str) -> _State:
        """Return what an earlier call with this key left in ``folder``, or a beginning."""
        try:
            about = json.loads((folder / "features.json").read_text(encoding="utf-8"))
            if about["key"] == key and (folder / "features.npy").exists():
                aside = {int(row): (str(what), str(reason)) for row, (what, reason) in about["set_aside"].items()}
                return cls(key, int(about["rows"]), Mode(**about["mode"]), aside)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # absent, or not what this class leaves: begun anew
        return cls(key)

    def save(self, folder: Path) -> None:
        about = {"key": self.key, "rows": self.rows, "mode": self.mode._asdict(), "set_aside": self.set_aside}
        write_json(folder / "features.json", about)


class _Features(nn.Module):
    """A network whose forward pass gives its features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        features = getattr(self.network, "features", None)
        maps = isinstance(features, nn.Module) and not hasattr(self.network, "n_features")  # a part of some libraries' networks
        found: Tensor = self.network(pictures) if features is None or maps else features(pictures)
        return found


class _Job(NamedTuple):
    """What a worker needs besides the rows; on a GPU workers take ``turn``, so that it holds one batch at a time."""

    network: nn.Module
    read: Read
    preprocessing: Preprocessing | None
    mode: Mode
    device: torch.device
    turn: AbstractContextManager[Any]
    width: int


def _fill(job: _Job, folder: Path, state: _State, n: int, batch_size: int, workers: int) -> None:
    """Write the features of all rows from ``state.rows`` on; what is done when it ends, however it ends, is noted."""
    path = folder / "features.npy"
    if state.rows == 0:
        for old in (folder / "features.json", path):  # a new file: someone may still look at the old one
            old.unlink(missing_ok=True)
        if (free := free_disk(folder)) < (needed := 4 * n * job.width):
            got, expected = f"{free >> 20:,} MiB free", f"{needed >> 20:,} MiB for {n:,} pictures"
            raise OutputError("the disk is too full for the features", where=folder, got=got, expected=expected)
        open_memmap(path, mode="w+", dtype=np.float32, shape=(n, job.width)).flush()
    batches = [range(start, min(start + batch_size, n)) for start in range(state.rows, n, batch_size)]
    with path.open("r+b") as file:  # not mapped: pages written to would count as memory

        def note() -> None:
            file.flush()
            state.save(folder)

        file.seek(path.stat().st_size - 4 * job.width * (n - state.rows))
        noted = time.monotonic()
        try:
            made = _in_order(lambda rows: _batch(job, rows), batches, workers)
            for rows, (values, faults) in zip(batches, track(made, "extracting features", total=len(batches)), strict=True):
                file.write(values.tobytes())
                state.rows = rows.stop
                state.set_aside |= faults
                if time.monotonic() - noted > _BETWEEN:
                    note()
                    noted = time.monotonic()
        finally:
            note()


def _batch(job: _Job, rows: range) -> tuple[NDArray[np.float32], Faults]:
    """Return the features of ``rows``, NaN for those that cannot be read, and why these cannot."""
    samples, faults = {}, {}
    for row in rows:
        try:
            samples[row] = job.read(row)
        except FormatError as error:
            faults[row] = fault_of(error)
    values = np.full((len(rows), job.width), np.nan, dtype=np.float32)
    if samples:
        with torch.inference_mode():
            batch = _tensor(list(samples.values()), job.preprocessing, job.mode, job.device)
            with job.turn:
                found = job.network(batch).flatten(1).float().cpu().numpy()
        if not np.isfinite(found).all():
            first = list(samples)[int(np.argmin(np.isfinite(found).all(axis=1)))]
            raise NotConverged("a feature is not finite", where=f"picture {first}", do="look at its values and at the network")
        values[np.array(list(samples)) - rows.start] = found
    return values, faults


def _tensor(samples: list[Sample], preprocessing: Preprocessing | None, mode: Mode, device: torch.device) -> Tensor:
    """Stack the values of ``samples``: (b, channels, *spatial) float32, 8-bit ones in 0–1, scaled as the network wants."""
    first = samples[0].values
    layout = torch.channels_last if mode.channels_last and first.ndim == 3 else torch.contiguous_format
    batch = torch.empty((len(samples), *first.shape), memory_format=layout)
    for k, sample in enumerate(samples):
        if sample.values.shape != first.shape:
            raise StudyError("pictures of one batch differ in shape", got=sample.values.shape, expected=first.shape)
        batch[k].copy_(torch.from_numpy(np.require(sample.values, requirements="W")))
    batch = batch.to(device, non_blocking=True)
    largest = 255.0 if first.dtype == np.uint8 else 1.0
    if preprocessing is None:
        return batch.div_(largest)
    mean, std = (tuple(largest * number for number in numbers) for numbers in (preprocessing.mean, preprocessing.std))
    if layout is torch.contiguous_format or len(mean) != batch.shape[1]:
        return replace(preprocessing, mean=mean, std=std).apply(batch)
    rows = batch.permute(0, 2, 3, 1).flatten(2)  # a view, (b, height, width · channels): torch is slow on axes of three numbers
    rows.sub_(batch.new_tensor(mean).repeat(batch.shape[3])).div_(batch.new_tensor(std).repeat(batch.shape[3]))
    return batch


def _first_readable(read: Read, n: int) -> list[Sample]:
    """Return the samples of the first few rows that can be read."""
    found: list[Sample] = []
    fault = ""
    for row in range(n):
        try:
            found.append(read(row))
        except FormatError as error:
            fault = fault or str(error)
        if len(found) == _TRIED:
            break
    if not found:
        raise FormatError(f"none of {n:,} pictures can be read; the first says: {fault}")
    return found


def _width(applied: nn.Module, trial: list[Sample], preprocessing: Preprocessing | None, device: torch.device) -> int:
    with torch.inference_mode():
        return int(applied(_tensor(trial[:1], preprocessing, Mode(), device)).flatten(1).shape[1])


def _mode(applied: nn.Module, pictures: Tensor, precision: Precision) -> Mode:
    """Return the mode that is asked for, or the quickest on ``pictures``."""
    if precision != "measure":
        low = precision == "bfloat16"
        return Mode(bfloat16=low, channels_last=pictures.ndim == 4 and (low or may_be_last(applied)))

    def run() -> Tensor:
        with torch.inference_mode():
            return applied(pictures)  # type: ignore[no-any-return]

    return quickest(applied, run)


@contextmanager
def _prepared(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Give the network as it is applied: on its device, in evaluation, one thread a worker; it is left as it was."""
    training = [(part, part.training) for part in network.modules()]
    before = next((p.device for p in network.parameters()), device)
    applied = _Features(network).to(device).eval()
    try:
        with reproducible(1):
            yield applied
    finally:
        network.to(before)
        for part, was in training:
            part.training = was


@contextmanager
def _arranged(applied: nn.Module, mode: Mode) -> Iterator[None]:
    arrange(applied, mode)
    try:
        with low_precision(applied, mode.bfloat16):
            yield
    finally:
        arrange(applied, Mode())


def _content(network: nn.Module) -> str:
    """Return a hash of the network's kind and weights."""
    digest = hashlib.sha256(f"{type(network).__module__} {network}".encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


Job = TypeVar("Job")
Result = TypeVar("Result")


def _in_order(work: Callable[[Job], Result], jobs: list[Job], workers: int) -> Iterator[Result]:
    """Yield the results of ``jobs`` in order; at most one more than there are workers is begun ahead."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="features") as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
