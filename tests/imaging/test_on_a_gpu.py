"""Everything that would run on a GPU, on a pretended one: nothing lies on the wrong side, and numbers are the processor's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toolkit.pretend_gpu import PretendedGPU, pretended_gpu
from torch import Tensor, nn

from clinome.explain.attention import soft_attention
from clinome.explain.gradcam import grad_cam
from clinome.explain.gradients import integrated_gradients, smoothgrad
from clinome.explain.occlusion import occlusion
from clinome.explain.response import response
from clinome.explain.sanity import randomise_model
from clinome.imaging import extraction
from clinome.imaging.extraction import extract
from clinome.imaging.features import Views, views
from clinome.imaging.geometry import Spread
from clinome.imaging.learning import Training, features_of, targets_of, train_encoder
from clinome.imaging.loading import Sample
from clinome.imaging.models import resnet, unet, unet3d
from clinome.imaging.patches import Case
from clinome.imaging.pictures import Preparation
from clinome.imaging.prediction import Recipe
from clinome.imaging.segmentation import train_segmenter
from clinome.imaging.segmenter import SegmenterRecipe, segment
from clinome.imaging.supervised import answers, fit_network
from clinome.imaging.targets import Target, code, encode
from clinome.studies.questions import Said
from clinome.train.batches import permutation
from clinome.train.loop import Settings, fit
from clinome.train.state import State, new_state

GENERATOR = np.random.default_rng(1)
PICTURES = GENERATOR.normal(size=(16, 1, 12, 12)).astype(np.float32)
PIXELS = GENERATOR.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
PEOPLE = pl.DataFrame({"size": GENERATOR.normal(size=16), "tone": ["light", "dark"] * 8})
CODED = code((Target("size", "number"), Target("tone", "classes")), PEOPLE, np.arange(16))
SMALL = resnet.Config(layers=18, width=8, stem="small", pool="attention")


class AtOnce:
    """A pool of threads without threads: what is pretended is not seen in others."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take what a pool takes."""

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is waited for."""

    def submit(self, work: Callable[..., Any], *given: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*given))
        return future


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with pretended_gpu() as pretended:
        yield pretended


def on_both(make: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what ``make`` gives on the processor and on the GPU, which must have been used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        here = make()
    with pretended_gpu() as gpu:
        there = make()
    assert gpu.operations > 10
    return here, there


def test_what_is_pretended(gpu: PretendedGPU) -> None:
    here, there = torch.ones(3), torch.ones(3).to("cuda")
    assert there.device == torch.device("cuda", 0)
    assert (there * 2 + torch.tensor(1.0))[torch.arange(2)].is_cuda
    assert not there.cpu().is_cuda
    for refused in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: here[there.long()],
        lambda: here.add_(there.sum()),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            refused()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(2, generator=torch.Generator(), device="cuda")


def trained(until: int, folder: Path, optimiser: Callable[..., torch.optim.Optimizer]) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Flatten(), nn.Linear(800, 2))

    def objective(model: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(batch[0].shape, generator=generator, device=generator.device)
        return nn.functional.cross_entropy(model(batch[0] + 0.1 * noise), batch[1]), {}

    def validate(model: nn.Module) -> dict[str, float]:
        return {"mean": float(model(torch.from_numpy(PICTURES).to(next(model.parameters()).device)).mean())}

    state = new_state(model, optimiser(model.parameters()), average=0.9)
    settings = Settings(
        validate_every=2, watch="mean", checkpoint=folder / "s.safetensors", key="k", precision="bfloat16", clip=1.0
    )
    labels = torch.arange(16) % 2
    given: dict[str, Any] = {"draw": permutation(16, 8, seed=1), "objective": objective, "validate": validate, "settings": settings}
    return fit(state, until=until, fetch=lambda drawn: (torch.from_numpy(PICTURES[drawn.rows]), labels[drawn.rows]), **given)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SGD"])
def test_a_training_and_one_that_was_killed(name: str, tmp_path: Path) -> None:
    from clinome.train.muon import Muon

    def optimiser(parameters: Any) -> torch.optim.Optimizer:
        if name == "SGD":
            return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        return Muon(parameters) if name == "Muon" else torch.optim.AdamW(parameters)

    def in_pieces() -> State:
        folder = tmp_path / str(torch.cuda.is_available())
        folder.mkdir()
        trained(3, folder, optimiser)
        return trained(6, folder, optimiser)

    here, there = on_both(in_pieces)
    for part in ("average", "best"):
        assert getattr(here, part) is not None
    for a, b in zip(here.take_best().state_dict().values(), there.take_best().state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert here.history == there.history


@pytest.mark.parametrize("objective", ["simclr", "identity"])
def test_encoders_are_taught_and_applied(objective: Any, tmp_path: Path) -> None:
    table = pl.DataFrame({"participant_id": [f"p{k // 2}" for k in range(16)], "visit": [0, 1] * 8})
    seen: Views = views(table)
    known = pl.DataFrame({"participant_id": seen.people, "age": np.arange(8.0), "sex": ["F", "M"] * 4})
    targets = None if objective == "simclr" else targets_of(known, seen.people, np.arange(8))
    settings = Training(objective, epochs=1, batch_size=8, threads=1)

    def taught() -> np.ndarray:
        made = train_encoder(PIXELS, seen, np.arange(8), checkpoint=tmp_path / "c", key="k", settings=settings, targets=targets)
        (tmp_path / "c").unlink()
        made.network.to("cuda" if torch.cuda.is_available() else "cpu")
        return features_of(made, PIXELS, views=8)

    np.testing.assert_array_equal(*on_both(taught))


def predictor() -> nn.Module:
    rows, recipe = np.arange(16), Recipe(epochs=1, batch=8, mixup=0.4, keep="best", turns=2, spread=Spread(shift=0.05))
    given: dict[str, Any] = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": recipe, "checkpoint": None}
    return fit_network(PICTURES, encode(CODED, PEOPLE), CODED, rows, rows[:6], **given, key="k", seed=0).network


def test_predictors_are_taught_and_asked() -> None:
    def said() -> dict[str, np.ndarray]:
        return answers([predictor().cpu()], PICTURES, np.arange(16), CODED, Preparation((12, 12)), Recipe(turns=2))

    here, there = on_both(said)
    for name in ("size", "tone"):
        np.testing.assert_array_equal(here[name], there[name])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_are_extracted(precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "ThreadPoolExecutor", AtOnce)
    network = resnet.Model(resnet.Config(layers=18, width=8, stem="small", channels_in=3, outputs=0))

    def values() -> np.ndarray:
        out = tmp_path / str(torch.cuda.is_available())
        read = [Sample(np.ascontiguousarray(np.moveaxis(one, -1, 0))) for one in PIXELS].__getitem__
        return np.array(extract(network, read, 16, out=out, key="k", batch_size=5, precision=precision).values)

    here, there = on_both(values)
    np.testing.assert_allclose(there, here, atol=0 if precision == "float32" else 0.05)  # small maps are exact on a processor alone
    assert next(network.parameters()).device.type == "cpu"  # left as it was


@pytest.mark.parametrize("dims", [2, 3])
def test_segmenters_are_taught_and_applied(dims: int, tmp_path: Path) -> None:
    patch = (8, 8, 8)[:dims]
    cases = []
    for k in range(3):
        labels = (np.random.default_rng(k).normal(size=(10, 9, 12)[:dims]) > 1).astype(np.int64)
        cases.append(Case(f"{k}", (labels + 0.1 * np.random.default_rng(k).normal(size=labels.shape))[None], labels))
    network = unet if dims == 2 else unet3d
    config = (
        unet.Config(channels_in=1, outputs=2, widths=(8, 16), norm="batch")
        if dims == 2
        else unet3d.Config.nnunet(1, 2, (8, 8), supervised=1)
    )
    recipe = SegmenterRecipe(
        patch, batch=2, steps=2, optimiser="muon", border=2.0 * (dims == 2), mirror=(0,), validations=1, precision="float32"
    )

    def drawn() -> np.ndarray:
        folder = tmp_path / str(torch.cuda.is_available())
        given: dict[str, Any] = {"network": network, "config": config, "structures": ["thing"], "folder": folder}
        train_segmenter(cases[:2], cases[2:], recipe=recipe, **given)
        return next(segment(folder, cases[2:])).probability

    np.testing.assert_array_equal(*on_both(drawn))


METHODS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "integrated gradients": lambda model, x: integrated_gradients(model, x, target=1, when_missed="mark", max_steps=27).values,
    "SmoothGrad": lambda model, x: smoothgrad(model, x, target=1, samples=3, generator=torch.Generator().manual_seed(1)),
    "occlusion": lambda model, x: occlusion(model, x, target=torch.tensor([0, 1]), window=6),
    "Grad-CAM": lambda model, x: grad_cam(model, x, target=1, layer="network.layer1"),
    "attention": lambda model, x: soft_attention(model, x, spread=True),
    "response": lambda model, x: response(model, x, along=torch.tensor([1.0, 0.0, 2.0])).mean,
    "random networks": lambda model, x: torch.from_numpy(
        randomise_model(
            model,
            x,
            lambda one, y: grad_cam(one, y, target=1, layer="network.layer1", spread=False),
            points=1,
            generator=torch.Generator(),
        ).similarity
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_networks_on_it_are_explained_to_the_processor(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = resnet.Model(resnet.Config(layers=18, width=8, stem="small", pool="attention", channels_in=1, outputs=3))
    model = Said(made, CODED, balanced=True).eval()

    def explained() -> np.ndarray:
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return METHODS[name](model, torch.from_numpy(PICTURES[:2])).numpy()

    np.testing.assert_array_equal(*on_both(explained))


def test_a_real_one_ends_with_the_same_bytes_and_is_near_the_processor(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    whole, cut = (tmp_path / name for name in ("whole", "cut"))
    for folder in (whole, cut):
        folder.mkdir()
    trained(3, cut, torch.optim.AdamW)
    states = [trained(6, folder, torch.optim.AdamW).model.state_dict() for folder in (whole, cut)]
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    network = resnet.Model(resnet.Config(layers=50, channels_in=3, outputs=0))
    read = [Sample(np.ascontiguousarray(np.moveaxis(one, -1, 0))) for one in PIXELS].__getitem__
    given: dict[str, Any] = {"key": "k", "precision": "float32"}
    here, there = (extract(network, read, 16, out=tmp_path / device, device=device, **given).values for device in ("cpu", "gpu"))
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4 * np.abs(here).max())
