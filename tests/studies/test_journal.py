from __future__ import annotations

from pathlib import Path

import pytest

from clinome.core.errors import OutputError
from clinome.studies.journal import Journal


def test_a_line_that_was_cut_off_is_forgotten_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "done.jsonl"
    with Journal(path, "k") as journal:
        for name in ("a", "b", "c"):
            journal.add(name, value=name * 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with Journal(path, "k") as journal:
        assert journal.done == {"a": {"value": "aa"}, "b": {"value": "bb"}}
        journal.add("c", value="cc")
    assert path.read_bytes() == whole
    journal.finish()
    assert not path.exists()


@pytest.mark.parametrize("damaged", [b"", b"\n", b"no json at all\n", b'{"key": "other"}\n{"name": "a"}\n'])
def test_what_is_no_journal_of_this_run_is_begun_anew(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "done.jsonl").write_bytes(damaged)
    with Journal(tmp_path / "done.jsonl", "k") as journal:
        assert journal.done == {}
        assert journal.before == ({"a": {}} if b"other" in damaged else {})
        journal.add("b")
    with Journal(tmp_path / "done.jsonl", "k") as journal:
        assert journal.done == {"b": {}}


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    with Journal(tmp_path / "done.jsonl", "k") as journal:
        journal.file.close()
        monkeypatch.setattr(journal, "file", Full())
        with pytest.raises(OutputError, match=r"(?s)cannot be written.*No space left on device"):
            journal.add("a")
        assert journal.done == {}
        monkeypatch.undo()
