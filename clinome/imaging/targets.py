"""What a network is taught to predict: classes and numbers, one or several at once, some only to help the others.

Numbers are taught in standard deviations of the training rows and given back in their unit; classes by cross entropy; a value that
is not known teaches nothing. A target that only *helps* (a volume, a score that was measured on the training people) shapes what
the network sees and is neither predicted nor measured afterwards.

Reference
---------
Caruana R. Multitask learning. Machine Learning 28:41–75 (1997), doi:10.1023/A:1007379606734.

>>> people = pl.DataFrame({"age": [60.0, 70.0, None], "sex": ["F", "M", "M"]})
>>> coded = code((Target("age", "number"), Target("sex", "classes")), people, np.array([0, 1]))
>>> [one.outputs for one in coded], encode(coded, people).tolist()
([1, 2], [[-1.0, 0.0], [1.0, 1.0], [nan, 1.0]])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import SchemaError, TraitError
from clinome.evaluate.outcomes import class_names

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Target:
    """A column to predict.

    Attributes
    ----------
    kind
        ``classes``: text, truth values or whole numbers; ``number``.
    weight
        Of its loss beside the others.
    helps
        Whether it only helps to learn the others.
    """

    name: str
    kind: Literal["classes", "number"]
    weight: float = 1.0
    helps: bool = False


class Coded(NamedTuple):
    """A target as the network knows it.

    Attributes
    ----------
    classes
        Their names, sorted; empty for a number.
    shares
        Of each class in the training rows.
    mean, deviation
        Of a number in the training rows.
    """

    name: str
    classes: tuple[str, ...]
    shares: tuple[float, ...]
    mean: float
    deviation: float
    weight: float
    helps: bool

    @property
    def outputs(self) -> int:
        """How many outputs of the network belong to it."""
        return len(self.classes) or 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns in a table of predictions."""
        return tuple(f"predicted:{self.name}:{one}" for one in self.classes) or (f"predicted:{self.name}",)


def code(targets: Sequence[Target], examples: pl.DataFrame, learn: NDArray[np.integer]) -> tuple[Coded, ...]:
    """Learn classes, means and deviations from the rows ``learn`` of ``examples``. The classes are those of all rows.

    Raises
    ------
    SchemaError
        When a column is missing, or no target is to be predicted.
    TraitError
        When a target is constant or unknown in all training rows, or a class does not occur there.
    """
    if not any(not target.helps for target in targets) or len({target.name for target in targets}) < len(targets):
        raise SchemaError("the targets are one or more different columns to predict", got=", ".join(t.name for t in targets))
    return tuple(_coded(target, examples, learn) for target in targets)


def _coded(target: Target, examples: pl.DataFrame, learn: NDArray[np.integer]) -> Coded:
    if target.name not in examples.columns:
        raise SchemaError(f"column {target.name!r} is missing", where="the examples", got=", ".join(examples.columns))
    rest = (target.weight, target.helps)
    if target.kind == "number":
        known = examples[target.name].gather(learn).cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
        if len(known) < 2 or not np.isfinite(known).all() or np.ptp(known) == 0:
            raise TraitError(
                f"target {target.name!r} cannot be learnt",
                got=f"{len(known):,} known values, of which {len(np.unique(known)):,} differ",
                expected="finite numbers that vary in the training rows",
            )
        return Coded(target.name, (), (), float(known.mean()), float(known.std()), *rest)
    names = class_names(examples[target.name])
    classes = tuple(names.drop_nulls().unique().sort())
    seen = names.gather(learn).drop_nulls()
    shares = tuple(float((seen == one).sum()) / max(len(seen), 1) for one in classes)
    if len(classes) < 2 or min(shares) == 0:
        lacking = [one for one, share in zip(classes, shares, strict=True) if share == 0]
        raise TraitError(
            f"target {target.name!r} cannot be learnt",
            got=f"no training row of the class {lacking[0]!r}" if lacking else f"{len(classes)} classes",
            expected="two classes or more, each in the training rows",
        )
    return Coded(target.name, classes, shares, 0.0, 1.0, *rest)


def encode(coded: Sequence[Coded], examples: pl.DataFrame) -> NDArray[np.float32]:
    """Return the place of each row's class, or its number in deviations from the mean: (n, n_targets), NaN where unknown."""
    columns = []
    for one in coded:
        if one.classes:
            place = {name: float(k) for k, name in enumerate(one.classes)}
            values = class_names(examples[one.name]).replace_strict(place, default=None, return_dtype=pl.Float64)
            columns.append(values.fill_null(np.nan).to_numpy())
        else:
            columns.append((examples[one.name].cast(pl.Float64).fill_null(np.nan).to_numpy() - one.mean) / one.deviation)
    return np.column_stack(columns).astype(np.float32)


def loss(
    outputs: Tensor,
    truth: Tensor,
    coded: Sequence[Coded],
    *,
    weight: Tensor | None = None,
    smoothing: float = 0.0,
    balance: bool = False,
) -> Tensor:
    """Return the weighted sum over targets of the mean loss of the rows whose truth is known.

    Parameters
    ----------
    outputs
        Of the network, shape (n, sum of the targets' outputs).
    truth
        As :func:`encode`, shape (n, n_targets).
    weight
        Of each target's mean, :meth:`clinome.train.batches.Drawn.weight`; None: 1.
    smoothing
        The share of a class's probability that is spread over all classes (Szegedy 2016, doi:10.1109/CVPR.2016.308).
    balance
        Whether every class counts alike, however many its rows. The outputs are then those of a world in which all classes are
        equally frequent; :func:`decode` leads back from it.

    Numbers have Huber's loss: squared within one deviation, absolute beyond (doi:10.1214/aoms/1177703732).
    """
    import torch
    from torch.nn import functional as F

    total = outputs.new_zeros(())
    start = 0
    for k, one in enumerate(coded):
        mine, wanted = outputs[:, start : start + one.outputs], truth[:, k]
        start += one.outputs
        known = ~torch.isnan(wanted)
        if not known.any():
            continue
        if one.classes:
            shares = torch.tensor(one.shares, dtype=mine.dtype, device=mine.device)
            weights = 1 / (len(one.classes) * shares) if balance else torch.ones_like(shares)
            label = wanted[known].long()
            each = F.cross_entropy(mine[known], label, reduction="none", label_smoothing=smoothing)
            missed = (each * weights[label]).mean()
        else:
            missed = F.smooth_l1_loss(mine[known, 0], wanted[known])
        total = total + one.weight * (missed if weight is None else weight[0, k] * missed)
    return total


def decode(outputs: NDArray[np.floating], coded: Sequence[Coded], *, balanced: bool = False) -> dict[str, NDArray[np.float64]]:
    """Return what the outputs (n, n_outputs) say of each target: numbers in their unit (n, 1), probabilities (n, n_classes).

    ``balanced`` tells that the network was taught with every class counting alike: probabilities are then multiplied by the
    training shares and normalised, so that they are of the frequencies of the training rows (Saerens M, Latinne P, Decaestecker C.
    Neural Computation 14:21–41 (2002), doi:10.1162/089976602753284446). The order of people in two classes stays.
    """
    said, start = {}, 0
    for one in coded:
        mine = outputs[:, start : start + one.outputs].astype(np.float64)
        start += one.outputs
        if one.classes:
            mine = mine + np.log(one.shares) if balanced else mine
            powers = np.exp(mine - mine.max(axis=1, keepdims=True))
            said[one.name] = powers / powers.sum(axis=1, keepdims=True)
        else:
            said[one.name] = mine * one.deviation + one.mean
    return said
