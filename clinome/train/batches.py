"""Which examples make up the batch of a step, and getting batches ready ahead of their turn.

A batch depends on (seed, step) alone and an augmented example on (seed, epoch, example) alone, so neither the number of workers
nor a restart changes what a network sees.

>>> draw = permutation(5, 2, seed=1)
>>> sorted(int(row) for step in range(2) for row in draw(step).rows), draw(2).epoch
([0, 1, 2, 3, 4], 1)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError


class Drawn(NamedTuple):
    """The examples of one step: ``rows`` of the data, shape (batch,), and the ``epoch`` they belong to.

    Of several processes ``rows`` are those of this one, and ``whole`` those of all together; None where it is alone.
    """

    epoch: int
    rows: NDArray[np.int64]
    whole: NDArray[np.int64] | None = None

    def weight(self, known: NDArray[Any]) -> NDArray[np.float32]:
        """Return what a mean over this process's known values is to be multiplied by, shape (batch, n), each row the same.

        The mean over processes, each by its share of the rows, is then the mean over the whole batch's known values. Alone it is 1.

        Parameters
        ----------
        known
            Whether each of n values is known (or the share of it that is) of every example of the data, shape (n_examples, n).

        >>> known = np.array([[1], [0], [1], [1]])
        >>> [Drawn(0, np.array(rows), np.arange(4)).weight(known)[0, 0].item() for rows in ([0, 1], [2, 3])]
        [0.6666666865348816, 1.3333333730697632]
        """
        weight = np.ones(known.shape[1])
        if self.whole is not None:
            mine, of_all = known[self.rows].mean(axis=0), known[self.whole].mean(axis=0)
            weight = np.divide(mine, of_all, out=weight, where=of_all > 0)
        return np.tile(weight.astype(np.float32), (len(self.rows), 1))


Draw = Callable[[int], Drawn]
Fetch = Callable[[Drawn], Any]


def steps_an_epoch(n: int, batch_size: int) -> int:
    """Return how many batches show each of ``n`` examples once: nearly of ``batch_size``, none of one example where that can be.

    >>> steps_an_epoch(100, 32), steps_an_epoch(3, 2)
    (3, 1)
    """
    return max(1, min(round(n / batch_size), n // min(batch_size, 2)))


def permutation(n: int, batch_size: int, *, seed: int, drop_last: bool = False) -> Draw:
    """Return a draw that shows each of ``n`` examples once an epoch, in an order from (seed, epoch).

    The batches of an epoch differ by at most one example in size (a last batch of two would unsettle batch normalisation, and one
    of a single example stop it: there is none where ``batch_size`` is above 1 and there are two examples); with ``drop_last`` all
    have ``batch_size`` and up to ``batch_size − 1`` examples, other ones each epoch, sit out.

    Raises
    ------
    StudyError
        When there is no example, or fewer than one batch with ``drop_last``.
    """
    if n < 1 or batch_size < 1 or (drop_last and n < batch_size):
        raise StudyError("there are too few examples for a batch", got=f"{n} examples, batches of {batch_size}")
    steps = n // batch_size if drop_last else steps_an_epoch(n, batch_size)
    last: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def draw(step: int) -> Drawn:
        nonlocal last
        epoch, place = divmod(step, steps)
        known, order = last
        if known != epoch:
            order = np.random.default_rng([seed, epoch]).permutation(n)
            last = epoch, order
        if drop_last:
            return Drawn(epoch, order[place * batch_size : (place + 1) * batch_size])
        return Drawn(epoch, order[place * n // steps : (place + 1) * n // steps])

    return draw


def example_generator(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the generator of one example's augmentation: the same for (seed, epoch, example) wherever it is made."""
    return np.random.default_rng([seed, epoch, row, 1])  # [seed, epoch, 0] without more would be that of the epoch's order


def ahead(draw: Draw, fetch: Fetch, start: int, until: int, *, workers: int = 0) -> Iterator[tuple[Drawn, Any]]:
    """Yield (drawn, batch) of the steps ``start`` … ``until − 1``, in order, up to ``2 × workers`` made ahead by threads.

    With ``workers`` 0 batches are made when asked for. What ``fetch`` raises is raised here, at its step.
    """
    if workers <= 0:
        for step in range(start, until):
            drawn = draw(step)
            yield drawn, fetch(drawn)
        return
    waiting: deque[tuple[Drawn, Future[Any]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        try:
            for step in range(start, until):
                while len(waiting) < 2 * workers and step + len(waiting) < until:
                    drawn = draw(step + len(waiting))
                    waiting.append((drawn, pool.submit(fetch, drawn)))
                drawn, future = waiting.popleft()
                yield drawn, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
