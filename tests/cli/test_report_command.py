from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from toolkit.result_folder import result_folder
from typer.testing import CliRunner

from clinome.cli._print import print_report
from clinome.cli.report import report
from clinome.core.errors import StudyError

app = typer.Typer()
app.command()(report)


def test_writes_the_page_beside_the_results_or_where_asked(tmp_path: Path) -> None:
    folder = result_folder(tmp_path / "results", n_variants=300)
    done = CliRunner().invoke(app, [str(folder)])
    assert (done.exit_code, done.stdout.strip()) == (0, str(folder / "report.html"))
    done = CliRunner().invoke(app, [str(folder), "--out", str(tmp_path / "there" / "page.html")])
    assert done.exit_code == 0
    assert (tmp_path / "there" / "page.html").read_bytes() == (folder / "report.html").read_bytes()


def test_a_folder_without_results_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no results to report"):
        CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False)


def test_results_without_the_packages_of_the_page_are_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = result_folder(tmp_path / "results", n_variants=300)
    monkeypatch.setitem(sys.modules, "jinja2", None)  # as where it is not installed
    print_report(folder, pictures=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no report: this step needs the Python package 'jinja2'" in shown.err
    assert f"do:       pip install 'clinome[report]', then clinome report {folder}" in shown.err
    assert not (folder / "report.html").exists()
