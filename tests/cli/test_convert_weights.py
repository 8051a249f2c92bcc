from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from clinome.cli import app
from clinome.core.errors import StudyError


def run(*words: object) -> str:
    shown = CliRunner().invoke(app, ["convert", *map(str, words)], catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.output


def test_pickled_weights_become_safetensors_on_the_word(tmp_path: Path) -> None:
    weights, out = tmp_path / "w.pth", tmp_path / "w.safetensors"
    torch.save({"layer.weight": torch.arange(6.0).reshape(2, 3)}, weights)
    digest = sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(StudyError, match=digest):
        run("--weights", weights, "--out", out)
    assert not out.exists()
    assert run("--weights", weights, "--trust", "--out", out) == f"1 tensors of a file with sha256 {digest}: {out}\n"
    torch.testing.assert_close(load_file(out), {"layer.weight": torch.arange(6.0).reshape(2, 3)})


def test_options_of_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--layout does not go with --weights"):
        run("--weights", "w.pth", "--layout", "plink2", "--out", tmp_path / "w.safetensors")
    with pytest.raises(StudyError, match="--trust does not go with --sumstats"):
        run("--sumstats", "s.gz", "--trust", "--layout", "plink2", "--out", tmp_path / "w.tsv")
