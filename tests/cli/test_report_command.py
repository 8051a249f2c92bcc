from __future__ import annotations

from pathlib import Path

import pytest
import typer
from toolkit.result_folder import result_folder
from typer.testing import CliRunner

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
