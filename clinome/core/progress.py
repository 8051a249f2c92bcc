"""Progress of long work on the terminal: what is done, what is left. Silent with ``--quiet`` and when no one watches.

Library functions call :func:`track` or :func:`say`; they print to standard error only when the command line has switched
them on with :func:`show`. In a script or a notebook nothing is printed unless asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")
_watched = False


def show(on: bool) -> None:
    """Switch progress on (when standard error is a terminal) or off, for this process."""
    global _watched
    _watched = on and sys.stderr.isatty()


def track(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """Yield ``items``, showing ``title``, how many are done, and the time that is left.

    >>> list(track([1, 2], "counting"))
    [1, 2]
    """
    if not _watched:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=title)


def say(message: str) -> None:
    """Print one line about the work to standard error, when someone watches."""
    if _watched:
        print(message, file=sys.stderr, flush=True)
