"""Pickled networks to safetensors: without their class, without running anything of theirs, on an explicit word."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clinome.core.errors import FormatError, StudyError
from clinome.imaging.models import densenet
from clinome.nn.weight_convert import convert_weights
from clinome.nn.weight_files import read_weights, sha256
from clinome.nn.weights import load_weights


class Touch:
    """Calls what a pickle may call when it is read."""

    def __init__(self, function: Any, *given: object) -> None:
        self.call = function, given

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def pickled(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A DenseNet as TorchXRayVision publishes it: the object itself, of a class that is not installed where it is read."""
    module: Any = types.ModuleType("torchxrayvision_of_a_test")
    network = densenet.Model(densenet.Config(blocks=(2, 2), growth=4, width=8, channels_in=1, outputs=18))
    holder = type("DenseNet", (nn.Module,), {"__module__": module.__name__})
    module.DenseNet = holder
    sys.modules[module.__name__] = module
    try:
        saved = holder()
        saved.features, saved.classifier = network.features, network.classifier
        saved.register_buffer("op_threshs", torch.rand(18))
        saved.register_buffer("scratch", torch.rand(2), persistent=False)
        saved.pathologies = ["Atelectasis", "Edema"]
        path = tmp_path / "nih-pc-densenet121-d121-tw-lr001-best.pt"
        torch.save(saved, path)
        return path, {key: value.clone() for key, value in saved.state_dict().items()}
    finally:
        del sys.modules[module.__name__]


def test_a_network_of_a_class_that_is_not_here_gives_its_state_dict(
    pickled: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, state = pickled
    with pytest.raises(FormatError, match=r"more than tensors(.|\n)*--trust"):
        load_weights(densenet.Model(densenet.Config.tiny()), path)
    out = tmp_path / "xrv.safetensors"
    done = convert_weights(path, out, trust=True)
    assert done == (len(state), sha256(path))
    read = read_weights(out)
    assert read.tensors.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in read.tensors.items())
    assert read.original == path.name
    network = densenet.Model(densenet.Config(blocks=(2, 2), growth=4, width=8, channels_in=1, outputs=18))
    report = load_weights(network, out, head=True)
    assert report.source == "torchxrayvision/densenet121"
    assert (report.missing, report.unexpected, report.left) == ((), (), ("op_threshs",))
    assert report.preprocessing is not None
    assert report.preprocessing.apply(torch.tensor([[[[0.0, 0.5, 1.0]]]])).flatten().tolist() == [-1024.0, 0.0, 1024.0]


def test_what_the_pickle_would_call_is_not_called(tmp_path: Path) -> None:
    marks = [tmp_path / f"ran{at}" for at in range(3)]
    bad = {
        "a": Touch(os.system, f"touch {marks[0]}"),
        "b": Touch(eval, f"open({str(marks[1])!r}, 'w')"),
        "c": Touch(getattr, Path(marks[2]), "touch"),
        "state_dict": {"w": torch.arange(3.0), "half": torch.ones(2, dtype=torch.bfloat16)},
    }
    torch.save(bad, tmp_path / "bad.ckpt")
    done = convert_weights(tmp_path / "bad.ckpt", tmp_path / "good.safetensors", trust=True)
    assert done.tensors == 2
    assert torch.equal(read_weights(tmp_path / "good.safetensors").tensors["w"], torch.arange(3.0))
    assert not any(mark.exists() for mark in marks)


def test_without_the_word_the_hash_to_compare_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(StudyError, match=rf"explicit word only(.|\n)*{sha256(tmp_path / 'a.pth')}"):
        convert_weights(tmp_path / "a.pth", tmp_path / "a.safetensors")
    with pytest.raises(StudyError, match=r"ends in \.safetensors"):
        convert_weights(tmp_path / "a.pth", tmp_path / "b.pth", trust=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize(("content", "message"), [(b"no pickle at all", "cannot be converted"), (None, "no such file")])
def test_what_cannot_be_converted_is_one_error_and_leaves_nothing(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        convert_weights(tmp_path / "a.pth", tmp_path / "a.safetensors", trust=True)
    assert not list(tmp_path.glob("*safetensors"))


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(FormatError, match="holds no tensors"):
        convert_weights(tmp_path / "a.pth", tmp_path / "a.safetensors", trust=True)
