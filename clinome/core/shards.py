"""Mapping a function over independent pieces of work: in this process or over several.

Shards are the unit of restart: a shard's function writes its result once, atomically, and finds it there the next time.

>>> list(map_shards(abs, [-1, 2, -3]))
[1, 2, 3]
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from clinome.core.progress import track

Shard = TypeVar("Shard")
Result = TypeVar("Result")
_function: Callable[[Any], Any]  # of a worker process: what it was started for


def map_shards(
    function: Callable[[Shard], Result], shards: Sequence[Shard], *, processes: int = 1, title: str = "shards"
) -> Iterator[Result]:
    """Yield ``function(shard)`` for every shard, in the order of ``shards``.

    Parameters
    ----------
    function
        A pure function of its shard; with several processes it and the shards must pickle (a module-level function or a
        ``functools.partial`` of one). It travels to each process once, so that it may carry large arrays.
    processes
        1 runs here; more start fresh interpreters (``spawn``), so nothing is inherited but what is passed.

    Raises
    ------
    Exception
        The first one a shard raises; work not yet begun is cancelled.
    """
    if processes <= 1 or len(shards) <= 1:
        yield from track(map(function, shards), title, total=len(shards))
        return
    context = multiprocessing.get_context("spawn")
    count = min(processes, len(shards))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(function,)) as pool:
        try:
            yield from track(pool.map(_call, shards), title, total=len(shards))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call(shard: Any) -> Any:
    return _function(shard)
