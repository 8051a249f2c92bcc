"""A network's shape from its training data: spacing, patch, depth, halvings, width, batch and steps, each with its reason.

The rules are nnU-Net's. Images are brought to the median spacing. The patch is the median image, shrunk where memory does not hold
it. An axis is halved while four voxels are left of it and its voxels are no wider than twice the narrowest; until an axis has come
that near, convolutions do not reach across it. Batches fill what memory is left, up to a twentieth of all voxels. Added here is a
budget of time: on a few cores it buys few steps, so the network is narrowed until it sees the data often enough.

    >>> facts = Facts(shapes=np.full((260, 3), (36, 50, 35)), spacings_mm=np.ones((260, 3)), channels=1, classes=3)
    >>> plan = plan_network(facts)  # the Decathlon's hippocampus: nnU-Net chose the same
    >>> plan.patch, plan.batch, plan.widths
    ((40, 56, 40), 9, (32, 64, 128, 256))

References
----------
Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation. Nature Methods 18:203–211 (2021), figure 2 and supplementary note 2, doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.core.files import write_json
from clinome.imaging.scan import Scan

_LEAST_SIDE = 4  # voxels of an axis on the coarsest level
_THICK = 3.0  # times the other axes' spacing and a third of their voxels: slices are thick
_BYTES = 7.74  # of memory for a number of nnU-Net's estimate: 8 GiB for the 1.11e9 numbers it plans for
_WIDTH, _WIDEST = 32, {2: 512, 3: 320}  # channels of the finest level, and at most
_WIDTHS = (32, 24, 16, 12, 8)  # that a budget of time chooses from
_SHARE = 0.05  # of the training data's voxels in a batch at most
_STEPS = 250_000  # of nnU-Net: 1,000 rounds of 250
_PASSES = 6  # over the training data at least, or the network is narrowed: on hippocampus seven were enough for 16 channels
_LEAST_CHANNELS = 8  # in and out, of weights that Muon takes for matrices
_ENOUGH, _SMALL = 1_000, 128  # steps, below which large patches are halved down to 128 (DRIVE, one minute: Dice .32 to .72)
_CORE, _GPU = 1.3e11, 2e13  # operations a second in bfloat16: of one AMD EPYC core, measured; of a GPU, on the safe side
_FEW = 10_000  # steps, below which batches of two: more steps then teach more than steadier ones


class Facts(NamedTuple):
    """What a plan needs to know of the training images.

    Attributes
    ----------
    shapes, spacings_mm
        Voxels and millimetres along (depth, height, width), shape (n_images, 3), or (height, width), shape (n_images, 2).
    channels, classes
        Channels of an image; classes to tell apart, background among them.
    modality
        DICOM's code where all images share it; of "CT" the numbers mean the same in every image.
    labelled
        Of CT: 0.5 % quantile, 99.5 % quantile, mean and standard deviation of labelled voxels, per channel, shape (channels, 4).
    """

    shapes: NDArray[np.int64]
    spacings_mm: NDArray[np.float64]
    channels: int
    classes: int
    modality: str | None = None
    labelled: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Budget:
    """What training may take.

    Attributes
    ----------
    memory_gib
        For the network's maps while it learns; 8 is the GPU nnU-Net plans for.
    seconds
        For one training; None is as long as nnU-Net takes, 250,000 steps.
    flops_per_second
        That the machine does in such a network, multiplications and additions counted apart: 2e11 measured on one AMD EPYC core in
        bfloat16, 5e13 is usual for a GPU. With ``seconds`` only.
    orthogonal
        Whether the optimiser makes each weight's matrix orthogonal once a step (:class:`clinome.train.muon.Muon`), which for small
        patches is most of the work. With ``seconds`` only.
    """

    memory_gib: float = 8.0
    seconds: float | None = None
    flops_per_second: float = 2e11
    orthogonal: bool = False

    def __post_init__(self) -> None:
        """Refuse nothing and less."""
        if self.memory_gib <= 0 or self.flops_per_second <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise StudyError("a budget is more than nothing", got=self)


@dataclass(frozen=True)
class Plan:
    """How to train a segmentation network on given data.

    Attributes
    ----------
    dims
        2 or 3. In 2-D, volumes are cut across ``slice_axis`` (0 depth, 1 height, 2 width) and the other fields speak of slices.
    spacing_mm, shape
        Spacing to bring images to, and their median voxels then.
    patch, batch, steps
        Voxels of a patch, patches of a step, steps.
    halvings, kernels, widths
        As in :class:`clinome.imaging.models.unet3d.Config`.
    intensity
        "image": each image minus its mean, by its standard deviation; "scale": clipped and scaled by ``labelled`` of the
        training data.
    labelled
        Of each channel: least, largest, mean, standard deviation.
    memory_gib, flops_per_step
        Estimates.
    reasons
        For each choice, why, in words.
    """

    dims: Literal[2, 3]
    slice_axis: int | None
    spacing_mm: tuple[float, ...]
    shape: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    steps: int
    halvings: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    channels: int
    classes: int
    intensity: Literal["image", "scale"]
    labelled: tuple[tuple[float, ...], ...] | None
    memory_gib: float
    flops_per_step: float
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of an image must be multiples of."""
        return tuple(prod(step[axis] for step in self.halvings) for axis in range(self.dims))

    def for_steps(self, steps: int, reason: str) -> Plan:
        """Return the plan for another number of steps, as :mod:`clinome.imaging.pace` measures how many fit into a time."""
        return replace(self, steps=steps, reasons={**self.reasons, "steps": reason})

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that :meth:`save` wrote.

        Raises
        ------
        FormatError
            When the file is not one.
        """
        try:
            read = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{one.name: read[one.name] if one.name == "reasons" else _tuples(read[one.name]) for one in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError("this is not a plan of a network", where=path, got=error, do="plan again") from error

    def __str__(self) -> str:
        """Say the choices and their reasons, a line each."""
        return "\n".join(f"{name:<9} {_short(getattr(self, name, ''))}: {why}" for name, why in self.reasons.items())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    inner = (_short(one) if isinstance(one, tuple) else f"{one:g}" for one in value)
    return " × ".join(inner) if not any(isinstance(one, tuple) for one in value) else ", ".join(f"({one})" for one in inner)


def describe(scans: Sequence[Scan], labels: Sequence[ArrayLike], *, classes: int) -> Facts:
    """Return the facts of training images and their labels (classes per voxel, each of its image's shape without channels).

    Raises
    ------
    CohortError
        When there is none, or images differ in axes or channels, or labels in shape from their image.
    """
    if not scans or len(scans) != len(labels) or len({(scan.values.ndim, len(scan.values)) for scan in scans}) > 1:
        raise CohortError("a plan needs images of equal axes and channels, each with labels", got=f"{len(scans)} images")
    quantiles = []
    modalities = {scan.modality for scan in scans}
    for scan, label in zip(scans, labels, strict=True):
        where = np.asarray(label)
        if where.shape != scan.values.shape[1:]:
            raise CohortError("labels do not cover their image", where=scan.path, got=where.shape, expected=scan.values.shape[1:])
        if modalities == {"CT"} and (where > 0).any():
            inside = scan.values[:, where > 0].astype(np.float64)
            quantiles.append(inside[:, np.linspace(0, inside.shape[1] - 1, min(inside.shape[1], 10_000)).astype(int)])
    labelled = None
    if quantiles:
        inside = np.hstack(quantiles)
        labelled = np.column_stack([*np.quantile(inside, [0.005, 0.995], axis=1), inside.mean(axis=1), inside.std(axis=1)])
    return Facts(
        shapes=np.array([scan.values.shape[1:] for scan in scans]),
        spacings_mm=np.array([scan.spacing_mm or (1.0,) * (scan.values.ndim - 1) for scan in scans]),
        channels=len(scans[0].values),
        classes=classes,
        modality=modalities.pop() if len(modalities) == 1 else None,
        labelled=labelled,
    )


def plan_network(facts: Facts, budget: Budget | None = None, *, dims: Literal[2, 3] | None = None) -> Plan:
    """Plan a segmentation network for images of ``facts`` within ``budget``, on volumes (``dims`` 3) or slices (2).

    None is the budget of nnU-Net, and the axes that images have.

    Raises
    ------
    StudyError
        When volumes are asked of 2-D images, or the memory does not hold a batch of two of the smallest patches.
    """
    budget = budget or Budget()
    of_images = facts.shapes.shape[1]
    dims = dims or (2 if of_images == 2 else 3)
    if dims > of_images:
        raise StudyError("volumes cannot be planned from pictures", got=f"dims={dims}", expected="dims=2")
    why: dict[str, str] = {}
    spacing, shape = target_spacing(facts, why)
    voxels = len(facts.shapes) * float(shape.prod())
    slice_axis = None
    if dims < of_images:
        slice_axis = int(np.argmax(spacing))
        why["slice_axis"] = "slices are cut across the axis of the widest voxels (the first of equals)"
        spacing, shape = np.delete(spacing, slice_axis), np.delete(shape, slice_axis)
    images = _Images(shape, spacing, facts.channels, facts.classes, voxels)
    net = _largest_patch(images, budget, why)
    net, batch, steps = _within_time(images, net, budget, why)
    left = np.array(net.patch) // np.prod(np.array(net.halvings).reshape(-1, len(net.patch)), axis=0)
    why["halvings"] = (
        f"an axis is halved while {_LEAST_SIDE} voxels of it are left and its voxels are under twice as wide as the narrowest; "
        f"{_short(tuple(left.tolist()))} voxels remain"
    )
    why["kernels"] = "3 along an axis once its voxels are under twice as wide as the narrowest, 1 before"
    scaled = facts.modality == "CT" and facts.labelled is not None
    why["intensity"] = (
        "numbers of CT mean the same everywhere: cut to the middle 99 % of labelled voxels and scaled by their mean and deviation"
        if scaled
        else "the numbers have no fixed meaning: each image less its own mean, by its own standard deviation"
    )
    return Plan(
        dims=dims,
        slice_axis=slice_axis,
        spacing_mm=tuple(spacing.tolist()),
        shape=tuple(shape.tolist()),
        patch=net.patch,
        batch=batch,
        steps=steps,
        halvings=net.halvings,
        kernels=net.kernels,
        widths=net.widths,
        channels=facts.channels,
        classes=facts.classes,
        intensity="scale" if scaled else "image",
        labelled=_tuples(np.asarray(facts.labelled).tolist()) if scaled else None,
        memory_gib=round(batch * net.numbers * _BYTES / 2**30, 3),
        flops_per_step=batch * net.flops + _once(net, budget),
        reasons=why,
    )


def speed_here(threads: int) -> float:
    """Return the operations a second to plan with on this machine: of its GPU, or of so many cores."""
    from clinome.train.devices import choose_device

    return _GPU if choose_device().type == "cuda" else _CORE * threads


def target_spacing(facts: Facts, why: dict[str, str] | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the spacing to bring all images to, in mm, and their median shape then; ``why`` gets the reasons.

    The median along each axis, except where slices are thick (three times the other axes' spacing and fewer than a third of their
    voxels): there the 10 % quantile, so that thin slices are not thrown away for the sake of thick ones.
    """
    why = {} if why is None else why
    spacing = np.median(facts.spacings_mm, axis=0)
    why["spacing_mm"] = "the median of the training images along each axis"
    widest = int(np.argmax(spacing))
    others, sides = np.delete(spacing, widest), np.delete(np.median(facts.shapes, axis=0), widest)
    if spacing[widest] > _THICK * others.max() and np.median(facts.shapes[:, widest]) * _THICK < sides.min():
        spacing[widest] = max(float(np.quantile(facts.spacings_mm[:, widest], 0.1)), float(others.max()))
        why["spacing_mm"] += f"; slices along axis {widest} are thick, so the tenth part of the thinnest set theirs"
    shape = np.maximum(np.rint(np.median(facts.shapes * facts.spacings_mm / spacing, axis=0)), 1).astype(np.int64)
    why["shape"] = "the median of the training images at that spacing"
    return spacing, shape


def halving(patch: ArrayLike, spacing: ArrayLike) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Return by how much each axis shrinks from level to level, and the kernels of the levels (one more than halvings).

    >>> halving((20, 320, 256), (3.6, 0.62, 0.62))[0]  # prostate: thick slices wait until the other axes have come near
    ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    """
    side, width = np.array(patch), np.array(spacing, dtype=np.float64)
    reaching = np.ones(len(side), dtype=bool) & (width < 2 * width.min())
    halvings: list[tuple[int, ...]] = []
    kernels = [tuple(np.where(reaching, 3, 1).tolist())]
    while (able := side >= 2 * _LEAST_SIDE).any():
        able &= width < 2 * width[able].min()
        if able.sum() == 1 and side[able][0] < 3 * _LEAST_SIDE:
            break
        halvings.append(tuple(np.where(able, 2, 1).tolist()))
        side, width = np.where(able, (side + 1) // 2, side), np.where(able, 2 * width, width)
        reaching |= width < 2 * width.min()
        kernels.append(tuple(np.where(reaching, 3, 1).tolist()))
    if halvings:
        kernels[-1] = (3,) * len(side)
    return tuple(halvings), tuple(kernels)


class _Images(NamedTuple):
    """Median ``shape`` and ``spacing`` after resampling, channels, classes, voxels of all training images together."""

    shape: NDArray[np.int64]
    spacing: NDArray[np.float64]
    channels: int
    classes: int
    voxels: float


class _Net(NamedTuple):
    """A network on a patch: what it keeps for one patch (``numbers``) and computes for it (``flops``) in a training step.

    ``orthogonal`` is what making the matrices of its weights orthogonal takes, once a step.
    """

    patch: tuple[int, ...]
    halvings: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    numbers: int
    flops: float
    orthogonal: float


def network(patch: Sequence[int], spacing: ArrayLike, width: int, channels: int, classes: int) -> _Net:
    """Return the U-Net for a patch of about that size: sides rounded up to what halvings divide, widths doubling from ``width``.

    ``numbers`` is nnU-Net's estimate: every map of two convolutions a level down and up, and of the up-convolution between them.
    ``flops`` counts a multiplication and an addition each; a training step takes three times the forward pass.
    """
    halvings, kernels = halving(patch, spacing)
    divisor = np.prod(np.array(halvings, dtype=np.int64).reshape(-1, len(patch)), axis=0)
    side = -(-np.array(patch) // divisor) * divisor
    rounded = tuple(side.tolist())
    widths = tuple(min(width * 2**level, _WIDEST[len(patch)] * width // _WIDTH) for level in range(len(kernels)))
    voxels = int(side.prod())
    numbers, products, before = voxels * (channels + classes), voxels * widths[0] * classes, channels
    matrices: list[tuple[int, int]] = []
    for level, (own, kernel) in enumerate(zip(widths, kernels, strict=True)):
        if level:
            voxels //= prod(halvings[level - 1])
        reach = prod(kernel)
        bottom = level == len(widths) - 1
        numbers += voxels * own * (2 if bottom else 5)
        products += voxels * reach * own * (before + own)  # down
        matrices += [(own, before * reach), (own, own * reach)] if before >= _LEAST_CHANNELS else [(own, own * reach)]
        if not bottom:
            products += voxels * (reach * own * 3 * own + own * widths[level + 1])  # merge of both, again, and the way up into it
            matrices += [(own, 2 * own * reach), (own, own * reach), (widths[level + 1], own * prod(halvings[level]))]
        before = own
    return _Net(rounded, halvings, kernels, widths, numbers, 3 * 2.0 * products, sum(_orthogonal(*sides) for sides in matrices))


def _orthogonal(rows: int, columns: int) -> float:
    """Return the operations of Muon's five iterations on a matrix: x xᵀ, its square, and that times x."""
    least, most = sorted((rows, columns))
    return 5 * 2.0 * (2 * least**2 * most + least**3)


def _once(net: _Net, budget: Budget) -> float:
    """Return the operations of a step that do not depend on its batch; they are done in float32, at half the speed."""
    return 2 * net.orthogonal if budget.orthogonal else 0.0


def _largest_patch(images: _Images, budget: Budget, why: dict[str, str]) -> _Net:
    """Shrink the median image, along the axis that is largest against it, until memory holds two patches."""
    room = budget.memory_gib * 2**30 / _BYTES / 2
    patch = tuple(images.shape.tolist())
    net = network(patch, images.spacing, _WIDTH, images.channels, images.classes)
    why["patch"] = "the median image, rounded up to what the halvings divide"
    while net.numbers > room:
        share = np.array(net.patch) / images.shape
        axis = int(np.flatnonzero(share == share.max())[-1])
        step = prod(halved[axis] for halved in net.halvings)
        less = tuple(size - step if a == axis else size for a, size in enumerate(net.patch))
        step = prod(halved[axis] for halved in halving(less, images.spacing)[0])
        if net.patch[axis] - step < _LEAST_SIDE:
            raise StudyError(
                "the memory does not hold two patches of a network",
                got=f"{budget.memory_gib:g} GiB",
                expected=f"{net.numbers * 2 * _BYTES / 2**30:.2g} GiB for patches of {_short(net.patch)}",
            )
        patch = tuple(size - step if a == axis else size for a, size in enumerate(net.patch))
        net = network(patch, images.spacing, _WIDTH, images.channels, images.classes)
        why["patch"] = f"the median image of {_short(tuple(images.shape.tolist()))}, shrunk until memory holds two patches"
    return net


def _within_time(images: _Images, net: _Net, budget: Budget, why: dict[str, str]) -> tuple[_Net, int, int]:
    """Fill the memory with patches; then, where time is bounded, narrow the network until it makes enough passes over the data."""
    held = int(budget.memory_gib * 2**30 / _BYTES / net.numbers)
    twentieth = round(_SHARE * images.voxels / prod(net.patch))
    batch = max(2, min(held, twentieth))
    why["batch"] = f"memory holds {held:,} patches, a twentieth of all voxels is {twentieth:,}; the smaller, and two at least"
    why["widths"] = f"{_WIDTH} channels as nnU-Net, doubling to {_WIDEST[len(net.patch)]} at most"
    if budget.seconds is None:
        why["steps"] = "as nnU-Net: 1,000 rounds of 250"
        return net, batch, _STEPS
    operations = budget.seconds * budget.flops_per_second
    divisor = np.prod(np.array(net.halvings, dtype=np.int64).reshape(-1, len(net.patch)), axis=0)
    inside = np.minimum(net.patch, np.maximum(images.shape // divisor, 1) * divisor)
    if tuple(inside.tolist()) != net.patch and halving(inside, images.spacing)[0] == net.halvings:
        net = network(tuple(inside.tolist()), images.spacing, _WIDTH, images.channels, images.classes)
        why["patch"] = (
            "the median image, rounded down to what the halvings divide: in bounded time, nothing is spent beyond its edges"
        )
    a_pass = images.voxels / prod(net.patch)  # patches
    for width in _WIDTHS:
        net = network(net.patch, images.spacing, width, images.channels, images.classes)
        passes = operations / (net.flops + _once(net, budget) / batch) / a_pass
        if passes >= _PASSES and (max(net.patch) <= _SMALL or _steps_of_two(net, budget, operations) >= _ENOUGH):
            break
    net = _smaller(images, net, budget, operations, why)
    why["widths"] = (
        f"{width} channels on the finest level see the data {passes:.0f} times in the time; wider ones see it under {_PASSES} times"
        + (f" or in under {_ENOUGH:,} steps" if max(images.shape) > _SMALL else "")
    )
    if width == _WIDTH:
        why["widths"] = f"{width} channels as nnU-Net: the time allows {passes:,.0f} passes over the data"
    if operations / net.flops / batch < _FEW and batch > 2:
        batch = 2
        why["batch"] = f"two: the time is too short for {_FEW:,} larger ones"
    a_step = net.flops * batch + _once(net, budget)
    steps = min(max(int(operations / a_step), 1), _STEPS)
    why["steps"] = f"{budget.seconds:,.3g} s at {budget.flops_per_second:.1e} operations a second, {a_step:.1e} a step"
    return net, batch, steps


def _steps_of_two(net: _Net, budget: Budget, operations: float) -> float:
    return operations / (2 * net.flops + _once(net, budget))


def _smaller(images: _Images, net: _Net, budget: Budget, operations: float, why: dict[str, str]) -> _Net:
    """Halve the large sides of the patch while the time allows few steps: many small looks then teach more than few large ones."""
    before = net.patch
    while max(net.patch) > _SMALL and _steps_of_two(net, budget, operations) < _ENOUGH:
        sides = [max(side // 2, _SMALL) if side > _SMALL else side for side in net.patch]
        less = network(sides, images.spacing, net.widths[0], images.channels, images.classes)
        if prod(less.patch) >= prod(net.patch):
            break
        net = less
    if net.patch != before:
        why["patch"] = f"{_short(before)} halved: in the time those would be too few steps"
    return net
