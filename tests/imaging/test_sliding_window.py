from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import Tensor

from clinome.core.errors import StudyError
from clinome.imaging.models import unet
from clinome.imaging.sliding_window import cut, mirrored, sliding_window, starts


def by_place(patches: Tensor) -> Tensor:
    """A 'network' whose answer depends on where in the patch a pixel lies, with two outputs a pixel."""
    ramp = torch.linspace(0.5, 2.0, patches.shape[-1]) + torch.linspace(0, 1, patches.shape[-2])[:, None]
    return torch.cat([patches * ramp, patches.square() - ramp], dim=1)


@pytest.mark.parametrize("weights", ["gaussian", "uniform"])
@pytest.mark.parametrize(
    ("space", "patch", "overlap"), [((33, 50), (16, 16), 0.5), ((20, 61), (16, 24), 0.25), ((19, 22, 17), (8, 12, 16), 0.5)]
)
def test_equals_monais(space: tuple[int, ...], patch: tuple[int, ...], overlap: float, weights: str) -> None:
    inferers = pytest.importorskip("monai.inferers")
    image = np.random.default_rng(1).normal(size=(1, *space)).astype(np.float32)
    ours = sliding_window(by_place, image, patch=patch, overlap=overlap, weights=weights, batch=3)  # type: ignore[arg-type]
    theirs = inferers.sliding_window_inference(
        torch.from_numpy(image)[None],
        roi_size=patch,
        sw_batch_size=3,
        predictor=by_place,
        overlap=overlap,
        mode="gaussian" if weights == "gaussian" else "constant",
        sigma_scale=0.125,
    )
    assert_allclose(ours, theirs[0].numpy(), rtol=2e-5, atol=2e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 20), st.floats(0, 0.9), st.integers(0, 999))
def test_what_does_not_depend_on_the_place_is_exact_to_the_edge(h: int, w: int, side: int, overlap: float, seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=(2, h, w)).astype(np.float32)
    found = sliding_window(lambda patches: 3 * patches + 1, image, patch=(side, side), overlap=overlap, batch=5)
    assert_allclose(found, 3 * image + 1, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.95))
def test_patches_cover_and_stay_inside(length: int, side: int, overlap: float) -> None:
    covered = np.zeros(length + 2 * side, bool)
    places = [start for (start,) in starts((length,), (side,), overlap)]
    for start in places:
        covered[side + start : 2 * side + start] = True
    assert covered[side : side + length].all()
    assert len(set(places)) == len(places)
    if length >= side:
        assert min(places) == 0
        assert max(places) == length - side


def test_a_network_without_padding_sees_the_picture_whole() -> None:
    """The overlap-tile strategy: tiles of a network without padding, put together, are the network applied to everything."""
    torch.manual_seed(0)
    model = unet.Model(unet.Config(channels_in=1, widths=(4, 8), norm=None, padded=False)).eval()
    margin = model.config.margin
    image = np.random.default_rng(2).normal(size=(1, 40, 56)).astype(np.float32)
    around = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    with torch.inference_mode():
        whole = model(torch.from_numpy(around)[None])[0].numpy()
    # tiles of even side at even places: maximum pooling then halves the same pairs of pixels
    tiled = sliding_window(model, image, patch=(margin * 2 + 12,) * 2, overlap=1 / 3, margin=margin, batch=4)
    assert_allclose(tiled, whole, rtol=1e-4, atol=1e-5)


def test_reflection_goes_on_over_and_over() -> None:
    line = np.arange(4.0, dtype=np.float32)[None]
    assert cut(line, (-5,), (14,), reflect=True)[0].tolist() == np.pad(line[0], 5, mode="reflect").tolist()
    assert cut(line[:, :1], (-2,), (5,), reflect=True)[0].tolist() == [0.0] * 5
    assert cut(line, (2,), (4,))[0].tolist() == [2.0, 3.0, 0.0, 0.0]


def test_mirrors_and_turns_make_any_network_blind_to_them() -> None:
    picture = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    eight = mirrored(by_place, (0,), quarter_turns=True)
    said = eight(picture)
    for k in range(4):
        torch.testing.assert_close(eight(torch.rot90(picture, k, (-2, -1))), torch.rot90(said, k, (-2, -1)))
    torch.testing.assert_close(eight(picture.flip(3)), said.flip(3))
    calls: list[int] = []
    mirrored(lambda x: (calls.append(1), x)[1], (0, 1, 2))(torch.zeros(1, 1, 4, 4, 4))
    assert len(calls) == 8
    torch.testing.assert_close(mirrored(by_place)(picture), by_place(picture))


def test_large_pictures_are_read_and_written_in_place(tmp_path: Path) -> None:
    image = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.float32, (1, 64, 48))
    image[:] = np.random.default_rng(3).normal(size=image.shape)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (2, 64, 48))
    out[:] = 7
    most: list[int] = []
    found = sliding_window(lambda x: (most.append(len(x)), by_place(x))[1], image, patch=(16, 16), batch=3, out=out)
    assert found is out
    assert max(most) == 3
    assert_allclose(out, sliding_window(by_place, np.array(image), patch=(16, 16)), rtol=1e-5, atol=1e-6)


def test_wrong_patches_and_outputs() -> None:
    image = np.zeros((1, 10, 10), np.float32)
    for patch, overlap, margin in (((4,), 0.5, 0), ((4, 4), 1.0, 0), ((4, 4), 0.5, 2)):
        with pytest.raises(StudyError, match="cannot be cut into such patches"):
            sliding_window(by_place, image, patch=patch, overlap=overlap, margin=margin)
    with pytest.raises(StudyError, match="not of the size of its patch"):
        sliding_window(lambda x: x[..., 1:], image, patch=(4, 4))
