"""How many steps fit into a time: a few are made and thrown away, with all that belongs to them; decided once, and kept.

Operations say little of how long a step takes: on small pictures the optimiser, loading and validating take longer than the
network. So the training's own loop makes some steps with a copy of the network, one held-out image is segmented, a state is saved;
each by the clock. What is left of the time after that is divided. The number of steps, and the precision that was found quickest,
are written down at once: a training that is killed and started again takes them from there and ends with the same bytes.

What was spent before counts, but a quarter of the time is left for what follows in any case. Held-out images are looked at no
longer than a share of the time allows: less often, then fewer of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from clinome.core.errors import FormatError
from clinome.core.files import write_json
from clinome.train.batches import Draw, Fetch
from clinome.train.devices import Mode, reproducible
from clinome.train.loop import Objective, Settings, fit
from clinome.train.state import State, save_state

_MOST = 250_000  # steps: 1,000 rounds of 250, as nnU-Net trains
_WARMING, _TIMED = 1, 49  # steps before the clock counts (kernels are chosen, files come into memory), and at most after
_MEASURING = 0.05  # of the time, for the timed steps
_LEFT = 0.25  # of the time, at least, after what was spent before
_VALIDATING, _FINISHING, _SAVING = 0.15, 0.15, 0.03  # of the time left, at most
_SAVES, _SHOWN = 50, 4  # saved states, at most; images of a look, below which looks become fewer


class Pace(NamedTuple):
    """What was decided, from what.

    Attributes
    ----------
    steps, validations, checkpoint_every
        Of the training; steps between two saved states.
    shown, judged
        Held-out images of each look on the way, and of the end.
    mode
        Precision and layout that were quickest.
    reason
        In words, with what was measured.
    """

    steps: int
    validations: int
    checkpoint_every: int
    shown: int
    judged: int
    mode: Mode
    reason: str

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, {**self._asdict(), "mode": self.mode._asdict()})

    @classmethod
    def load(cls, path: Path) -> Pace | None:
        """Return what :meth:`save` wrote at ``path``; None where there is nothing.

        Raises
        ------
        FormatError
            When the file is broken.
        """
        if not path.exists():
            return None
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**read, "mode": Mode(**read["mode"])})
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                "this is no pace of a training", where=path, got=error, do="remove it; it is measured again"
            ) from error


class Measured(NamedTuple):
    """Seconds by the clock: of a step with its loading, of segmenting a held-out image in one view, of saving a state."""

    step: float
    image: float
    saving: float


def decide(
    measured: Measured, mode: Mode, *, seconds: float, spent: float, validations: int, held_out: int, views: int = 1
) -> Pace:
    """Divide ``seconds``, of which ``spent`` are gone, among steps, looks at ``held_out`` images, and the end with its ``views``.

    >>> pace = decide(Measured(0.1, 0.05, 0.05), Mode(), seconds=100, spent=8, validations=10, held_out=20)
    >>> pace.steps, pace.validations, pace.shown, pace.judged, pace.checkpoint_every
    (780, 10, 20, 20, 15)
    """
    left = max(seconds - spent, _LEFT * seconds)
    judged = _within(held_out, _FINISHING * left / (measured.image * views))
    images = _VALIDATING * left / measured.image
    looks = _within(validations, images / min(_SHOWN, held_out))
    shown = _within(held_out, images / looks)
    saves = _within(_SAVES, _SAVING * left / measured.saving)
    others = (looks * shown + judged * views) * measured.image + saves * measured.saving
    steps = int((left - others) / measured.step)
    steps = max(1, min(steps, _MOST))
    looks = min(looks, steps)
    steps -= steps % looks  # the last look is the end
    reason = (
        f"{seconds:,.3g} s, {spent:,.3g} s of them gone when measured: a step takes {measured.step:.3g} s with its loading, "
        f"segmenting a held-out image {measured.image:.3g} s ({looks} times {shown} on the way, {judged} of {held_out} in {views} "
        f"{'view' if views == 1 else 'views'} at the end), saving {measured.saving:.2g} s"
    )
    return Pace(steps, looks, max(steps // saves, 1), shown, judged, mode, reason)


def _within(most: int, number: float) -> int:
    return max(1, min(most, int(number)))


def measure(
    pilot: State,
    look: Callable[[nn.Module], object],
    *,
    seconds: float,
    draw: Draw,
    fetch: Fetch,
    objective: Objective,
    settings: Settings,
    scratch: Path,
) -> tuple[Measured, Mode]:
    """Train ``pilot``, which is thrown away, for a few steps, and time what a training of ``seconds`` is made of.

    Parameters
    ----------
    look
        Segments a held-out image of middle size without views.
    scratch
        A file to save to, removed again.
    """
    watch = _Stopwatch(_MEASURING * seconds)
    pilot.hooks = (watch,)
    fit(pilot, until=pilot.step + _WARMING + _TIMED, draw=draw, fetch=fetch, objective=objective, settings=settings)
    with pilot.evaluating() as model, reproducible(settings.threads):
        took = _timed(lambda: look(model))
        if took < _MEASURING * seconds:
            took = min(took, _timed(lambda: look(model)))  # the first time kernels are chosen
    saving = _timed(lambda: save_state(pilot, scratch, key="pilot"))
    scratch.unlink()
    assert pilot.mode is not None
    return Measured(watch.seconds, took, saving), pilot.mode


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return max(time.perf_counter() - start, 1e-6)


class _Stopwatch:
    """A hook that times steps and ends the training when it has seen enough."""

    name = "stopwatch"

    def __init__(self, enough: float) -> None:
        self.enough, self.at = enough, [time.perf_counter()]

    @property
    def seconds(self) -> float:
        """Of a step: the mean after those that warm up."""
        warm = min(_WARMING, len(self.at) - 2)
        return max((self.at[-1] - self.at[warm]) / (len(self.at) - 1 - warm), 1e-6)

    def after_step(self, state: State, logs: dict[str, float]) -> str | None:
        """Stop when the time is over and two steps at least were seen."""
        self.at.append(time.perf_counter())
        warm = min(_WARMING, len(self.at) - 2)
        return "timed" if len(self.at) > 2 and self.at[-1] - self.at[warm] > self.enough else None

    def saved(self) -> dict[str, Any]:
        """Return nothing: a pilot is not gone on with."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Do nothing."""
