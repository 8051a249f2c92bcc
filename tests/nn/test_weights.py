"""Files of weights: where they are looked for, what is refused of them, what is noticed, and what a small network takes of them."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clinome.core.errors import FormatError, OutputError, SchemaError, StudyError
from clinome.nn import weight_files
from clinome.nn.weight_files import LOCK, check_lock, find_weights, read_weights, sha256
from clinome.nn.weight_keys import adapt_channels
from clinome.nn.weights import Preprocessing, load_weights


def network(channels: int = 3) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {
        key: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor.clone()
        for key, tensor in network().state_dict().items()
    }


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights: no folder, empty caches."""
    monkeypatch.delenv("CLINOME_WEIGHTS", raising=False)
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestFinding:
    def test_every_place_is_named_when_there_is_nothing_and_nothing_is_fetched(self, nowhere: Path) -> None:
        with pytest.raises(FormatError) as error:
            find_weights("timm/resnet50", files=["resnet50-*.pth"], folder=nowhere / "weights")
        said = str(error.value)
        for place in ("weights/timm/resnet50", "models--timm--resnet50", "checkpoints/resnet50-*.pth", "CLINOME_WEIGHTS"):
            assert place in said
        assert "downloads none" in said

    def test_a_path_comes_first_and_an_absent_one_is_not_taken_for_a_name(self, nowhere: Path) -> None:
        path = nowhere / "mine.pth"
        with pytest.raises(FormatError, match="no such file"):
            find_weights(path)
        with pytest.raises(FormatError, match="no such file"):
            find_weights("../resnet50")
        torch.save(weights(), path)
        assert find_weights(path) == (path, None)

    def test_the_weights_folder_the_hub_cache_and_torchs_in_this_order(
        self, nowhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torchs = nowhere / "TORCH_HOME" / "hub" / "checkpoints" / "net-1234.pth"
        snapshot = nowhere / "HF_HOME" / "hub" / "models--org--net" / "snapshots" / "abc"
        own = nowhere / "weights" / "org" / "net" / "model.safetensors"
        torchs.parent.mkdir(parents=True)
        torch.save(weights(), torchs)
        assert find_weights("org/net", files=["net-*.pth"]) == (torchs, None)
        snapshot.mkdir(parents=True)
        save_file(weights(), snapshot / "model.safetensors")
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
        assert find_weights("org/net", files=["net-*.pth"]) == (snapshot / "model.safetensors", None)
        assert find_weights("another", hub="org/net").path == snapshot / "model.safetensors"
        own.parent.mkdir(parents=True)
        save_file(weights(), own)
        monkeypatch.setenv("CLINOME_WEIGHTS", str(nowhere / "weights"))
        assert find_weights("org/net", files=["net-*.pth"]) == (own, own.parent)

    def test_safetensors_before_pickles_and_several_are_not_guessed_among(self, nowhere: Path) -> None:
        folder = nowhere / "many"
        folder.mkdir()
        with pytest.raises(FormatError, match="no weights in this folder"):
            find_weights(folder)
        for name in ("a.pth", "b.pth"):
            torch.save(weights(), folder / name)
        with pytest.raises(FormatError, match=r"several files(.|\n)*a\.pth, b\.pth"):
            find_weights(folder)
        assert find_weights(folder, files=["b*"]).path.name == "b.pth"
        save_file(weights(), folder / "model.safetensors")
        assert find_weights(folder).path.name == "model.safetensors"


class Malicious:
    """Reading this pickle would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


class TestReading:
    def test_checkpoints_of_the_usual_forms_hold_the_same(self, tmp_path: Path) -> None:
        forms: dict[str, object] = {
            "plain.pth": weights(),
            "lightning.ckpt": {"state_dict": weights(), "epoch": 3},
            "mae.pth": {"model": weights(), "args": argparse.Namespace(lr=0.1), "optimizer": {}},
            "nested.pt": {"model": {"state_dict": weights()}},
        }
        for name, content in forms.items():
            torch.save(content, tmp_path / name)
            read = read_weights(tmp_path / name)
            assert read.tensors.keys() == weights().keys()
            assert all(torch.equal(read.tensors[key], value) for key, value in weights().items())
            assert read.sha256 == sha256(tmp_path / name)
        torch.save(weights(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        assert read_weights(tmp_path / "old.pth").tensors.keys() == weights().keys()

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.pth", b"", "is empty"),
            ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
            ("page.pth", b"\n<!DOCTYPE html><html>", "web page"),
            ("noise.pth", b"\x07" * 400, "cannot be read"),
            ("text.png", b"hello, I am a text\n", r"cannot be read(.|\n)*not those of a pickle"),
            ("text.bin", b"weights of the network", "cannot be read"),
            ("noise.safetensors", b"\x07" * 400, "safetensors file cannot be read"),
        ],
    )
    def test_what_is_not_weights_is_named(self, name: str, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FormatError, match=message) as told:
            read_weights(path)
        assert name in str(told.value)

    @pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.98])
    @pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
    def test_a_file_cut_off_anywhere_is_one_error(self, name: str, kept: float, tmp_path: Path) -> None:
        path = tmp_path / name
        save_file(weights(), path) if path.suffix == ".safetensors" else torch.save(weights(), path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(FormatError, match="cannot be read"):
            read_weights(path)

    def test_a_pickle_that_would_run_code_is_refused_with_the_way_to_convert_it(self, tmp_path: Path) -> None:
        torch.save({"model": weights(), "extra": Malicious(tmp_path / "ran")}, tmp_path / "bad.pth")
        with pytest.raises(
            FormatError, match=r"more than tensors(.|\n)*clinome convert --weights \S+bad\.pth --out bad\.safetensors --trust"
        ):
            read_weights(tmp_path / "bad.pth")
        assert not (tmp_path / "ran").exists()

    def test_no_tensors_and_numbers_that_are_not_finite(self, tmp_path: Path) -> None:
        torch.save({"epoch": 3}, tmp_path / "none.pth")
        with pytest.raises(FormatError, match="holds no weights"):
            read_weights(tmp_path / "none.pth")
        save_file({"a.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.safetensors")
        with pytest.raises(FormatError, match=r"not a finite number(.|\n)*a\.weight"):
            read_weights(tmp_path / "nan.safetensors")


class TestTheLock:
    def test_a_file_of_the_weights_folder_is_entered_once_and_another_content_refused(self, nowhere: Path) -> None:
        path = nowhere / "weights" / "net" / "model.safetensors"
        path.parent.mkdir(parents=True)
        save_file(weights(1), path)
        first = load_weights(network(), "net", folder=nowhere / "weights")
        assert json.loads((path.parent / LOCK).read_text()) == {"model.safetensors": first.sha256}
        assert load_weights(network(), "net", folder=nowhere / "weights").sha256 == first.sha256
        save_file(weights(2), path)
        with pytest.raises(FormatError, match=rf"not the weights that were used before(.|\n)*expected: sha256 {first.sha256}"):
            load_weights(network(), "net", folder=nowhere / "weights")
        with pytest.raises(FormatError, match="used before"):  # by its path as well
            load_weights(network(), path)

    def test_a_path_given_outright_and_a_cache_are_not_written_beside(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "mine.safetensors")
        load_weights(network(), tmp_path / "mine.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]

    def test_a_shared_folder_that_cannot_be_written_serves_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OutputError("the result cannot be written")

        save_file(weights(), tmp_path / "model.safetensors")
        monkeypatch.setattr(weight_files, "write_json", refuse)
        check_lock(weight_files.Found(tmp_path / "model.safetensors", tmp_path), "0")
        assert not (tmp_path / LOCK).exists()


class TestLoading:
    @pytest.mark.parametrize("around", ["module.", "model.", "module.model.", "encoder.", "module.encoder.backbone."])
    def test_wrappings_are_taken_off(self, around: str, tmp_path: Path) -> None:
        save_file({around + key: value for key, value in weights().items()}, tmp_path / "w.safetensors")
        model = network()
        report = load_weights(model, tmp_path / "w.safetensors")
        assert len(report.matched) == 9
        assert all(torch.equal(value, weights()[key]) for key, value in model.state_dict().items())

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_a_grey_picture_shown_in_all_channels_gives_what_it_gave(self, channels: int, tmp_path: Path) -> None:
        three, other = network(), network(channels)
        save_file({key: value.clone() for key, value in three.state_dict().items()}, tmp_path / "w.safetensors")
        report = load_weights(other, tmp_path / "w.safetensors")
        assert report.reshaped == {"0.weight": f"3 channels to {channels}"}
        # three channels alike, so that repeating them in turn and rescaling is exact for any number
        three[0].weight.data[:] = three[0].weight.data[:, :1]
        adapted = adapt_channels(three[0].weight.data, channels)
        grey = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        there = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), three[0].weight)
        here = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), adapted)
        torch.testing.assert_close(there, here if channels > 1 else nn.functional.conv2d(grey, adapted))

    def test_only_the_first_convolution_is_adapted(self, tmp_path: Path) -> None:
        wide = weights()
        wide["2.weight"] = torch.ones(2, 8, 1, 1)
        save_file(wide, tmp_path / "w.safetensors")
        with pytest.raises(FormatError, match=r"8 of 9 matched(.|\n)*2\.weight \(2, 8, 1, 1\), here \(2, 4, 1, 1\)"):
            load_weights(network(), tmp_path / "w.safetensors")
        assert load_weights(network(), tmp_path / "w.safetensors", minimum_match=0.8).missing == ("2.weight",)

    def test_preprocessing_comes_from_the_word_given_or_timms_settings_and_fits_the_channels(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "model.safetensors")
        assert load_weights(network(), tmp_path).preprocessing is None
        assert "how the pictures were scaled is not known" in str(load_weights(network(), tmp_path))
        settings = {"pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "input_size": [3, 288, 288]}}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        read = load_weights(network(), tmp_path).preprocessing
        assert read == Preprocessing((0.4, 0.5, 0.6), (0.2, 0.2, 0.2), 288)
        assert read.for_channels(1) == Preprocessing((pytest.approx(0.5),), (pytest.approx(0.2),), 288)  # type: ignore[arg-type]
        given = Preprocessing((0.0,) * 3, (1.0,) * 3)
        assert load_weights(network(), tmp_path, preprocessing=given).preprocessing == given
        with pytest.raises(SchemaError, match="other channels"):
            read.apply(torch.zeros(2, 1, 4, 4))

    def test_the_report_is_json_and_an_unknown_layout_an_error(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "w.safetensors")
        report = load_weights(network(), tmp_path / "w.safetensors")
        assert json.loads(json.dumps(report.as_dict()))["sha256"] == sha256(tmp_path / "w.safetensors")
        assert str(report).startswith("9 of 9 weights from ")
        with pytest.raises(StudyError, match=r"got:\s+keras"):
            load_weights(network(), tmp_path / "w.safetensors", layout="keras")

    def test_a_copy_under_another_name_is_the_same_weights(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "a.safetensors")
        shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
        assert (
            load_weights(network(), tmp_path / "a.safetensors").sha256 == load_weights(network(), tmp_path / "b.safetensors").sha256
        )
