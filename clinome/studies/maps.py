"""The maps of :mod:`clinome.studies.explaining`: one picture after the other asked by a method, averaged over networks, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from clinome.core.errors import StudyError
from clinome.core.files import file_name, write_array
from clinome.core.provenance import fingerprint
from clinome.explain import baselines, overlay
from clinome.explain.asking import Target
from clinome.explain.attention import rollout, soft_attention
from clinome.explain.gradcam import grad_cam, last_convolution
from clinome.explain.gradients import Attributions, integrated_gradients
from clinome.explain.occlusion import occlusion
from clinome.studies.questions import Group, Question

Method = Literal["integrated-gradients", "occlusion", "grad-cam", "attention"]

_USERS: dict[str, tuple[Method, ...]] = {
    "baseline": ("integrated-gradients", "occlusion"),
    "window": ("occlusion",),
    "tolerance": ("integrated-gradients",),
}
_POINTS = 1 << 21  # numbers that go through a network at once, at most


@dataclass(frozen=True)
class How:
    """How maps are made.

    Attributes
    ----------
    methods
        Of 'integrated-gradients', 'occlusion', 'grad-cam' and 'attention'.
    baseline
        What 'nothing' is for integrated gradients and occlusion: the picture's 'mean' everywhere, a 'blurred' copy (by a sixteenth
        of its side), or its 'darkest' value everywhere. None: the mean for a predictor; a blurred copy for a segmenter, whose
        norms are mostly of the picture itself and jump where it is flat.
    window
        Sides of the window that occlusion covers, in pixels; an eighth of the picture's shorter side without it.
    tolerance
        Share of the difference by which integrated gradients may miss it; a hundredth without it.

    Raises
    ------
    StudyError
        For a setting that none of the methods uses, or that is not above 0.
    """

    methods: tuple[Method, ...] = ("integrated-gradients",)
    baseline: Literal["mean", "blurred", "darkest"] | None = None
    window: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would be ignored: a setting of a method that is not asked by."""
        for name, users in _USERS.items():
            value = getattr(self, name)
            if value is not None and not set(users) & set(self.methods):
                got, do = f"{name} {value} and {', '.join(self.methods)}", f"leave --{name} out, or ask by {' or '.join(users)}"
                raise StudyError(f"no method that is asked uses a {name}", got=got, do=do)
            if value is not None and not isinstance(value, str) and not value > 0:
                raise StudyError("a setting is out of range", got=f"{name} {value}", expected="above 0")

    def settled(self, baseline: Literal["mean", "blurred"]) -> How:
        """Return the same with what is left open said, as far as a method uses it."""
        usual = {"baseline": baseline, "tolerance": 0.01}
        left = [name for name in usual if getattr(self, name) is None and set(_USERS[name]) & set(self.methods)]
        return replace(self, **{name: usual[name] for name in left})  # type: ignore[arg-type]

    def start(self, space: Sequence[int]) -> baselines.Baseline:
        """Return the baseline for pictures of these sides."""
        if self.baseline == "blurred":
            return baselines.blurred(max(space) / 16)
        return baselines.darkest() if self.baseline == "darkest" else baselines.constant(0.0)


class Found(NamedTuple):
    """Maps (n, *space) float32 of the pictures of a group, and whether they add up (integrated gradients alone)."""

    maps: NDArray[np.float32]
    sums: Attributions | None


def map_of(method: str, network: nn.Module, inputs: Tensor, of: Target, how: How, *, quick: bool = False) -> Found:
    """Make the maps of one network (``how`` is settled); ``quick`` maps are those of the sanity check: the same in fewer steps."""
    space = inputs.shape[2:]
    batch = max(1, min(32, _POINTS // inputs[0].numel()))
    if method == "integrated-gradients":
        steps: dict[str, Any] = {"steps": 27, "max_steps": 27} if quick else {}
        given: dict[str, Any] = {"baseline": how.start(space), "tolerance": how.tolerance, "when_missed": "mark", **steps}
        sums = integrated_gradients(network, inputs, target=of, batch_size=batch, **given)
        return Found(sums.values.sum(dim=1).numpy(), sums)
    if method == "occlusion":
        window = how.window or -(-min(space) // 8)
        if window > min(space):
            got, expected = f"window {window}", f"at most {min(space)}, the shorter side"
            raise StudyError("the window does not fit into the network's picture", got=got, expected=expected)
        stride = window if quick or len(space) == 3 else max(1, window // 2)
        covered: dict[str, Any] = {"window": window, "stride": stride, "baseline": how.start(space)}
        return Found(occlusion(network, inputs, target=of, batch_size=batch, **covered).numpy(), None)
    if method == "grad-cam":
        return Found(grad_cam(network, inputs, target=of, batch_size=batch).numpy(), None)
    config: Any = network.config
    if hasattr(config, "patch"):
        grid = (config.size // config.patch,) * 2
        return Found(rollout(network, inputs, grid=grid, pool=config.pool, spread=True, batch_size=batch).numpy(), None)
    return Found(soft_attention(network, inputs, spread=True, batch_size=batch).numpy(), None)


def averaged(method: str, group: Group, question: Question, how: How) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Return the maps (n, *space) of a group's networks on average, and with integrated gradients the figures of completeness.

    The maps of every network must add up. Where one's do not, the figures are those of the network that misses by most: there is no
    map, and the average of the others' could hide the miss.
    """
    each = [map_of(method, network, group.inputs, question.of, how) for network in group.networks]
    maps = np.mean([one.maps for one in each], axis=0)
    sums = [one.sums for one in each if one.sums is not None]
    if not sums:
        return maps, {}
    said = np.stack([np.stack([part.numpy() for part in one.completeness[:3]]) for one in sums])  # (networks, 3, n)
    holds = np.stack([one.completeness.holds.numpy() for one in sums])
    missed = np.nan_to_num(np.abs(said[:, 1] - said[:, 0]) / said[:, 2], nan=np.inf)
    worst = np.where(holds, -1.0, missed).argmax(axis=0)
    shown = np.where(holds.all(axis=0), said.mean(axis=0), np.take_along_axis(said, worst[None, None], axis=0)[0])
    steps = np.max([one.steps.numpy() for one in sums], axis=0)
    figures = dict(zip(("explained", "attributed", "allowed"), shown, strict=True))
    return maps, {**figures, "adds_up": holds.all(axis=0), "steps": steps}


def kind_of(method: str) -> overlay.Kind:
    """Return how the maps of a method are read and drawn."""
    return {"integrated-gradients": "signed", "occlusion": "signed", "grad-cam": "positive"}.get(method, "attention")  # type: ignore[return-value]


def refuse(method: str, network: nn.Module, one: Tensor) -> None:
    """Raise StudyError for a method that the network, which takes such as ``one`` (1, channels, *space), cannot be asked by."""
    config: Any = network.config
    segments = not hasattr(network, "columns")
    if method == "attention" and not hasattr(config, "patch") and getattr(config, "pool", "none") != "attention":
        got = f"{type(config).__module__.rpartition('.')[2]} with pool = {getattr(config, 'pool', 'none')!r}"
        do = "take integrated-gradients, occlusion or grad-cam; or train a network with pool='attention'"
        raise StudyError("this network has no attention to show", got=got, do=do)
    if method == "grad-cam" and (segments or hasattr(config, "patch")):
        got = "a segmenter, whose last features are its answer" if segments else "a transformer"
        do = "take integrated-gradients or occlusion"
        raise StudyError("Grad-CAM is for networks that pool the maps of convolutions", got=got, do=do)
    if method == "grad-cam":
        try:
            last_convolution(network, one)
        except ValueError as error:
            raise StudyError("Grad-CAM has no map to show in this network", got=str(error)) from error


def files_of(name: str, one: dict[str, Any]) -> dict[str, str]:
    """Return the columns that name a map and its picture, of the image whose files begin with ``name``."""
    label = _label(one)
    safe = file_name(label)
    stem = f"{name}.{safe if safe == label else f'{safe}-{fingerprint(label)[:6]}'}.{one['method']}"
    return {"map_path": f"maps/{stem}.npy", "picture_path": f"pictures/{stem}.png"}


def _label(one: dict[str, Any]) -> str:
    return str(one["target"] if one["class"] is None else f"{one['target']}={one['class']}")


def written(out: Path, name: str, one: dict[str, Any], picture: NDArray[Any], values: NDArray[np.float32]) -> dict[str, str]:
    """Write a map and its picture; return the columns that name them."""
    label, files = _label(one), files_of(name, one)
    write_array(out / files["map_path"], values.astype(np.float32))
    kind = kind_of(one["method"])
    meaning = {
        "signed": f"red speaks for, blue against; full colour at {overlay.strength(values):.2g} {one['unit']} a pixel",
        "positive": "where features that speak for it lie; only the pattern is meant",
        "attention": f"attention, not an explanation; full colour at {1 + overlay.above_even(values)[1]:.2g} times an even share",
    }[kind]
    if not overlay.strength(values):
        meaning = "the map is empty: nothing speaks for it" if kind == "positive" else "the map is empty"
    elif one["method"] == "occlusion":
        meaning = f"red: falls when covered, blue: rises; full colour at {overlay.strength(values):.2g} {one['unit']}"
    caption = [f"{one['image_id']}   {label}: {one['said']:.3g} {one['unit']}", f"{one['method']}: {meaning}"]
    overlay.draw(out / files["picture_path"], picture, values, kind=kind, caption=caption)
    return files
