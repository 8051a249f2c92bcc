"""Saved networks: what a file may name, and what is said of files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from clinome.core.errors import FormatError
from clinome.imaging.models import small_encoder
from clinome.nn.saving import about_model, is_saved_model, load_model, save_model


def write(path: Path, about: Any) -> Path:
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"clinome": json.dumps(about)}))
    return path


def test_a_network_comes_back_with_what_was_said_of_it(tmp_path: Path) -> None:
    model = small_encoder.Model(small_encoder.Config.tiny())
    save_model(model, tmp_path / "m.safetensors", about={"people": 3})
    again = load_model(tmp_path / "m.safetensors")
    assert not again.training
    assert again.config == model.config
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert about_model(tmp_path / "m.safetensors") == {"people": 3}
    assert is_saved_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "name", ["os", "clinome.cli.run", "clinome.imaging.models.resnet.os", "clinome.models", "clinome..models.x"]
)
def test_a_file_may_name_only_networks(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "m.safetensors", {"model": name, "config": {}, "about": {}})
    with pytest.raises(FormatError, match=r"(?s)not Clinome's.*" + name.replace(".", r"\.")):
        load_model(file)


@pytest.mark.parametrize("about", [[], {"model": "clinome.imaging.models.resnet"}, {"config": {}, "about": {}}, 3])
def test_files_that_are_no_saved_network(tmp_path: Path, about: Any) -> None:
    with pytest.raises(FormatError, match="no network that Clinome saved"):
        load_model(write(tmp_path / "m.safetensors", about))
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    assert not is_saved_model(tmp_path / "x")


@pytest.mark.parametrize("name", ["clinome.imaging.models.not_there", "clinome.imaging.models.__init__"])
def test_a_network_that_this_version_does_not_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"(?s)does not fit this version.*train it again"):
        load_model(write(tmp_path / "m.safetensors", {"model": name, "config": {}, "about": {}}))
