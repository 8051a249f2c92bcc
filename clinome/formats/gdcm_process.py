"""gdcm in a process of its own: on some broken JPEG files the library ends the process it runs in.

The child is started at the first file that needs gdcm (lossless JPEG, some JPEG 2000) and kept; when it dies over a frame, a new
one is asked, and when that dies too, the frame is an error. It speaks over pipes: a line of JSON for a frame wanted, then one
letter, eight bytes of length, and an array in NumPy's format ('A') or a message ('X').
"""

from __future__ import annotations

import atexit
import io
import json
import os
import select
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_PATIENCE = 300.0  # seconds for one frame
_lock = threading.Lock()
_child: tuple[int, subprocess.Popen[bytes]] | None = None  # the process it belongs to, and the child


def frame_by_gdcm(path: Path, frame: int, syntax: str) -> NDArray[Any]:
    """Decode one frame (from 0) of a DICOM file.

    Raises
    ------
    ValueError
        When gdcm cannot decode it, or dies of it.
    """
    request = json.dumps([str(path.absolute()), frame, syntax]).encode() + b"\n"
    with _lock:
        answer = _asked(request) or _asked(request)  # it may have been killed from outside; over one frame it dies twice
    if answer is None:
        raise ValueError("the decoder gdcm broke down over it")
    kind, content = answer
    if kind == b"X":
        raise ValueError(content.decode())
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _asked(request: bytes) -> tuple[bytes, bytes] | None:
    """Return the child's answer; None when it died or was silent for too long, and is gone."""
    global _child
    if _child is None or _child[0] != os.getpid():
        atexit.unregister(_stop)
        atexit.register(_stop)
        _child = (os.getpid(), _start())
    child = _child[1]
    assert child.stdin, "a pipe"
    assert child.stdout, "a pipe"
    try:
        child.stdin.write(request)
        child.stdin.flush()
        if select.select([child.stdout], [], [], _PATIENCE)[0]:
            return _received(child.stdout)
    except (EOFError, OSError):
        pass
    _stop()
    return None


def _stop() -> None:
    """End the child with the process it belongs to."""
    global _child
    if _child is not None and _child[0] == os.getpid():
        child, _child = _child[1], None
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()


def _start() -> subprocess.Popen[bytes]:
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
    return subprocess.Popen(
        [sys.executable, "-m", "clinome.formats.gdcm_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _received(pipe: Any) -> tuple[bytes, bytes]:
    head = _exactly(pipe, 9)
    return head[:1], _exactly(pipe, int.from_bytes(head[1:], "big"))


def _exactly(pipe: Any, size: int) -> bytes:
    parts = []
    while size:
        part = pipe.read(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the parent closes the pipe; one file stays open between its frames."""
    import warnings

    import pydicom
    from pydicom.pixels.utils import pixel_array

    warnings.simplefilter("ignore")
    kept: tuple[tuple[str, int], Any] | None = None
    for line in requests:
        path, frame, syntax = json.loads(line)
        try:
            mark = (path, Path(path).stat().st_mtime_ns)
            if kept is None or kept[0] != mark:
                dataset = pydicom.dcmread(path, force=True)
                if "TransferSyntaxUID" not in getattr(dataset, "file_meta", ()):
                    dataset.file_meta = pydicom.dataset.FileMetaDataset()
                    dataset.file_meta.TransferSyntaxUID = syntax
                kept = (mark, dataset)
            frames = int(kept[1].get("NumberOfFrames") or 1)
            buffer = io.BytesIO()
            np.save(buffer, pixel_array(kept[1], index=frame if frames > 1 else None, decoding_plugin="gdcm"), allow_pickle=False)
            kind, content = b"A", buffer.getvalue()
        except Exception as error:  # whatever it is, the parent says it of the file
            kind, content = b"X", (str(error).splitlines() or [type(error).__name__])[-1].strip().encode()
        answers.write(kind + len(content).to_bytes(8, "big") + content)
        answers.flush()


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what C libraries print must not stand between answers
    _serve(sys.stdin.buffer, own)
