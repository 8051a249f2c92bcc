"""`clinome gwas --plan` as a user types it: a line and its parts, nothing scanned, nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from toolkit.biobank import Files, write_files
from toolkit.command import Said, say


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "data", n=60, variants=50)


@pytest.fixture
def gwas(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command on tiny files with more words behind."""

    def call(*words: object) -> Said:
        given = ["--genotypes", files.genotypes, "--phenotypes", files.traits, "--covariates", files.covariates]
        return say(["gwas", *given, "--out", tmp_path / "out", *words], monkeypatch, capsys)

    return call


def test_a_plan_says_time_memory_and_disk_and_leaves_nothing(gwas: Callable[..., Said], tmp_path: Path) -> None:
    said = gwas("--plan", "--export", "regenie", "--threads", 1)
    assert said.code == 0, said.err
    first, *parts = said.out.splitlines()
    assert re.fullmatch(r"about \d+ s, [\d.]+ [MG]B memory, \d+ MB disk; 1 thread, blocks of 64 variants", first)
    assert [part.split(":")[0] for part in parts] == ["preparing", "scan", "summary and report", "export as regenie"]
    assert not (tmp_path / "out").exists()


def test_a_plan_beside_results_leaves_them_as_they_are(gwas: Callable[..., Said], tmp_path: Path) -> None:
    assert gwas("--device", "cpu", "--threads", 2).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert gwas("--plan").code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_plan_for_another_machine(gwas: Callable[..., Said], tmp_path: Path) -> None:
    assert "; 64 threads, " in gwas("--plan-on", "64 cores, 512 GB, gpu 1979 TOPS").out
    assert "4 processes of 16 threads, " in gwas("--plan-on", "64 cores", "--processes", 4).out
    said = gwas("--plan-on", "a fast one")
    assert said.code == 1
    assert "that is no machine" in said.err
    assert "expected: '64 cores'" in said.err
    assert not (tmp_path / "out").exists()


def test_what_the_scan_would_refuse_the_plan_refuses(gwas: Callable[..., Said], tmp_path: Path) -> None:
    said = gwas("--plan", "--traits", "hight")
    assert said.code == 1
    assert "height" in said.err
    assert not (tmp_path / "out").exists()
