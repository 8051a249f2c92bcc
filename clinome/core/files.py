"""Writing results so that nothing is ever half-written: a temporary name beside the target, then a rename.

>>> import tempfile, pathlib
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> with replacing(folder / "a.txt") as temporary:
...     _ = temporary.write_text("whole")
>>> (folder / "a.txt").read_text()
'whole'
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clinome.core.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTIAL = ".partial."
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # what a disk says that takes nothing more
_SYSTEM = re.compile(r"\(os error (\d+)\)")  # so libraries in Rust (Polars, safetensors) pass on what the system said


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it to ``path`` when the block ends well, delete it otherwise.

    The temporary name keeps the suffixes of ``path`` (writers look at them) and holds the process id, so that two processes
    never share one.

    Raises
    ------
    OutputError
        When the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}{_PARTIAL}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except Exception as error:
        if _about(error, path, temporary):
            number = error.errno if isinstance(error, OSError) else _said(error)
            got = os.strerror(number) if number else error
            do = "choose another folder with --out, or free space"
            raise OutputError("the result cannot be written", where=path, got=got, do=do) from error
        raise
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def remove_half_written(folder: str | Path) -> None:
    """Remove what processes of this machine that were killed inside :func:`replacing` left in ``folder`` and below."""
    for left in Path(folder).rglob(f".*{_PARTIAL}*"):
        process = left.name[1:].split(_PARTIAL)[0]
        if process.isdigit() and not _runs(int(process)):
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Tell whether another process of that number is alive."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _about(error: Exception, path: Path, temporary: Path) -> bool:
    """Tell an error of writing ``path`` from one of reading something else inside the block (Polars has a class of its own)."""
    if not isinstance(error, OSError):
        return _said(error) in _NO_ROOM
    named = [Path(str(name)) for name in (error.filename, error.filename2) if name is not None]
    return not named or any(name in (path, temporary, *path.parents) for name in named)


def _said(error: Exception) -> int | None:
    """Return the number of the system's error that another kind of error passes on, if any."""
    found = _SYSTEM.search(str(error))
    return int(found[1]) if found else None


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically and with sorted keys, so that equal values are equal bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")


def write_array(path: str | Path, values: NDArray[Any]) -> None:
    """Write ``values`` as .npy, whole or not at all.

    NumPy's own way to a file goes through C, where what is said when it is closed, a full disk, is lost with the last bytes.
    """
    import numpy as np

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(SimpleNamespace(write=file.write), values)


def usable_folder(path: str | Path) -> Path:
    """Make the folder ``path`` if it is not there and see that it can be written, before hours of work are spent.

    Raises
    ------
    OutputError
        When it is a file, or cannot be made or written.
    """
    path = Path(path)
    with replacing(path / ".writable") as temporary:
        temporary.touch()
    (path / ".writable").unlink(missing_ok=True)
    return path


def own_folder(path: str | Path, by: str) -> Path:
    """Make ``path`` usable (:func:`usable_folder`) and mark it as that of ``by``, whose results it may hold alone.

    What a killed process left half-written in it is removed.

    >>> import tempfile
    >>> folder = own_folder(tempfile.mkdtemp(), "clinome segment")
    >>> own_folder(folder, "clinome segment") == folder
    True

    Raises
    ------
    OutputError
        When another has marked it: the files of two would be taken for those of one.
    """
    path = usable_folder(path)
    mark = path / "made_by.json"
    held = json.loads(mark.read_text(encoding="utf-8"))["by"] if mark.exists() else by
    if held != by and any(one != mark for one in path.iterdir()):
        do = "name another folder with --out, or remove this one"
        raise OutputError("the folder holds results of another kind", where=path, got=held, expected=by, do=do)
    write_json(mark, {"by": by})
    remove_half_written(path)
    return path


def file_name(name: str, taken: set[str] | None = None) -> str:
    """Turn a trait's name into one that every file system can hold; distinct names stay distinct within ``taken``.

    ``taken`` is compared without case (some file systems fold it) and is updated.

    >>> file_name("HDL / LDL ratio")
    'HDL_LDL_ratio'
    >>> taken = set(); file_name("a/b", taken), file_name("a b", taken)
    ('a_b', 'a_b_2')
    """
    base = re.sub(r"[^\w.+=@-]+", "_", name).strip("_.")[:120] or "trait"
    if taken is None:
        return base
    candidate, count = base, 2
    while candidate.lower() in taken:
        candidate, count = f"{base}_{count}", count + 1
    taken.add(candidate.lower())
    return candidate
