"""Search over settings with Optuna: reproducible, resumable, every trial kept in a table.

>>> space = {"learning_rate": Range(1e-4, 1e-1, log=True), "width": Choice((8, 16))}
>>> def run(settings):  # doctest: +SKIP
...     return train_and_validate(**settings)
>>> trials = sweep(run, space, trials=20, out=Path("sweep"), seed=1)  # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from clinome.core.errors import NotConverged, StudyError, need
from clinome.core.files import replacing, usable_folder
from clinome.core.progress import track
from clinome.core.provenance import fingerprint


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``; ``log`` searches their logarithm, ``whole`` gives integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


class Choice(NamedTuple):
    """One of ``values``, all of one kind: text, numbers, or true and false."""

    values: tuple[str | int | float | bool, ...]


Space = Mapping[str, Range | Choice]


def sweep(
    run: Callable[[dict[str, Any]], float],
    space: Space,
    *,
    trials: int,
    out: Path,
    seed: int = 0,
    higher_is_better: bool = True,
) -> pl.DataFrame:
    """Try ``trials`` settings, chosen by what came of those before, and return them all, the best first.

    The same seed gives the same trials. Killed and called again it goes on after the last whole trial, as if it had not stopped.

    Parameters
    ----------
    run
        Trains with the settings it is given and returns the validation metric. A training that does not converge
        (:class:`NotConverged`), or whose metric is not finite, is kept as a failed trial.
    out
        Folder for ``trials.parquet`` and ``trials.jsonl``, a line a trial.

    Returns
    -------
    pl.DataFrame
        A row a trial: trial, value (null when it failed), failure, then a column a setting.

    Raises
    ------
    StudyError
        For an empty space, a choice between values of different kinds, or a folder that holds trials of another space, seed or
        direction.

    References
    ----------
    Akiba T et al. Optuna: a next-generation hyperparameter optimization framework. KDD (2019), doi:10.1145/3292500.3330701; the
    tree-structured Parzen estimator: Bergstra J et al. NeurIPS (2011).
    """
    if not space or trials < 1:
        raise StudyError("a sweep needs settings to vary and at least one trial", got=f"{len(space)} settings, {trials} trials")
    for name, one in space.items():
        if isinstance(one, Choice) and len({_kind(value) for value in one.values}) != 1:
            raise StudyError(f"the choices of {name!r} are not of one kind", got=list(one.values), expected="a column of one type")
    optuna = need("optuna", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log = usable_folder(out) / "trials.jsonl"
    key = fingerprint({name: list(one) for name, one in space.items()}, seed, higher_is_better)
    done = _read(log, key)
    # Each trial has a sampler of its own, seeded by (seed, trial): what it proposes depends on the trials before it alone.
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize")
    for number in track(range(trials), "trials"):
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + number, n_startup_trials=min(10, max(trials // 2, 1)))
        if number < len(done):  # as it was tried: with more ``trials`` than then, the sampler would propose another
            study.enqueue_trial({name: done[number][name] for name in space})
        trial = study.ask()
        settings = {name: _suggest(trial, name, one) for name, one in space.items()}
        if number < len(done):
            value, failure = done[number]["value"], done[number]["failure"]
        else:
            value, failure = _try(run, settings)
            done.append({"key": key, "trial": number, "value": value, "failure": failure, **settings})
            _write(log, done)
        study.tell(trial, value, state=optuna.trial.TrialState.COMPLETE if failure is None else optuna.trial.TrialState.FAIL)
    table = pl.DataFrame([{k: v for k, v in one.items() if k != "key"} for one in done[:trials]], infer_schema_length=None)
    table = table.with_columns(pl.col("value").cast(pl.Float64), pl.col("failure").cast(pl.String))
    table = table.sort("value", descending=higher_is_better, nulls_last=True, maintain_order=True)
    with replacing(out / "trials.parquet") as temporary:
        table.write_parquet(temporary)
    return table


def _kind(value: object) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _suggest(trial: Any, name: str, one: Range | Choice) -> Any:
    if isinstance(one, Choice):
        return trial.suggest_categorical(name, list(one.values))
    if one.whole:
        return trial.suggest_int(name, int(one.low), int(one.high), log=one.log)
    return trial.suggest_float(name, one.low, one.high, log=one.log)


def _try(run: Callable[[dict[str, Any]], float], settings: dict[str, Any]) -> tuple[float | None, str | None]:
    try:
        value = float(run(dict(settings)))
    except NotConverged as error:
        return None, error.what
    return (value, None) if math.isfinite(value) else (None, f"the metric is {value}")


def _read(log: Path, key: str) -> list[dict[str, Any]]:
    """Return the trials done so far in this folder."""
    if not log.exists():
        return []
    done = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if any(one["key"] != key for one in done):
        raise StudyError(
            "the folder holds trials of another space, seed or direction", where=log, do="choose another folder, or delete this one"
        )
    return done


def _write(log: Path, done: list[dict[str, Any]]) -> None:
    with replacing(log) as temporary:
        temporary.write_text("".join(json.dumps(one) + "\n" for one in done), encoding="utf-8")
