from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clinome.core.errors import OutputError
from clinome.studies.stages import Stages


def write(text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner" / "a.txt").write_text(text)

    return make


def test_a_stage_runs_once_a_key_and_starts_anew_with_another(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    for key, text, left in (("1", "one", "one"), ("1", "never", "one"), ("2", "two", "two")):
        folder = stages.run("traits", key, write(text))
        assert (folder / "inner" / "a.txt").read_text() == left


def test_killed_while_it_is_emptied_a_folder_is_still_known_as_a_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(tmp_path)
    stages.run("traits", "1", write("one"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stages.run("traits", "2", write("two"))
    assert (stages.run("traits", "2", write("two")) / "inner" / "a.txt").read_text() == "two"


def test_killed_while_its_mark_is_written_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "traits").mkdir()
    (tmp_path / "traits" / ".99999999.partial.stage.json").write_text("{")
    folder = Stages(tmp_path).run("traits", "1", write("one"))
    assert sorted(p.name for p in folder.iterdir()) == ["inner", "stage.json"]


def test_a_users_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "traits").mkdir()
    (tmp_path / "traits" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="that no study has made"):
        Stages(tmp_path).run("traits", "1", write("one"))
    assert (tmp_path / "traits" / "mine.txt").read_text() == "mine"
