"""`clinome reproduce`: the list, one small result, and what it refuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from toolkit.published import small

from clinome.core.files import own_folder
from clinome.studies.published.cicek_2016 import study as cicek_2016
from clinome.studies.published.isensee_2021 import study as isensee_2021
from clinome.studies.published.kirchler_2022 import study as kirchler_2022
from clinome.studies.reproducing import claims, names, script
from tests.toolkit.command import say


def test_all_are_listed_with_their_claims(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = say(["reproduce"], monkeypatch, capsys)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == names()
    told = {(claim.name, claim.evidence) for name in names() for claim in claims(name)}
    assert len([line for line in lines if line.startswith("  ")]) == sum(len(claims(name)) for name in names())
    for claim, evidence in told:
        assert any(re.match(rf"  {re.escape(claim)} +found .* {evidence}; published: ", line) for line in lines), claim
    assert not [line for line in lines if "reproduced" in line and " same data;" not in line]
    line = next(line for line in lines if line.startswith("  found_of_100_at_5000_people"))
    assert re.fullmatch(
        r"  found_of_100_at_5000_people +found +\d+  bar +29  (met|missed) +protocol, simulated; published: 29 \(checked\)", line
    )


@pytest.mark.slow
def test_a_small_one(
    real_data: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = small("xie_2024", real_data, tmp_path_factory).folder  # made once for all tests: what is there is not made again
    shown = say(["reproduce", "xie_2024", "--small", "--out", folder, "--threads", 1, "--quiet"], monkeypatch, capsys)
    assert shown.code == 0, shown.err
    first, second, last = shown.out.splitlines()
    assert re.match(r"  loci_in_both_eyes +found +\d+  bar +1 ", first)
    assert re.match(r"  false_in_both_eyes +found +0  bar +0 ", second)
    assert "met" not in shown.out.replace("method", "")  # so small a run meets and misses nothing
    assert last == "(the small version shows that all works; it is too small to be held against bars and published numbers)"

    shown = say(["reproduce", "xie_2024", "--out", folder], monkeypatch, capsys)  # the whole one does not go on from the small one
    assert shown.code == 1
    assert shown.err == (
        "error: the folder holds results of another kind\n"
        f"  where:    {folder}\n"
        "  got:      clinome reproduce xie_2024 --small\n"
        "  expected: clinome reproduce xie_2024\n"
        "  do:       name another folder with --out, or remove this one\n"
    )


def test_what_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = say(["reproduce", "isensee_2020"], monkeypatch, capsys)
    assert shown.code == 1
    assert shown.err == (f"error: there is no such published result\n  got:      isensee_2020\n  expected: {', '.join(names())}\n")
    out = tmp_path / "out"
    shown = say(["reproduce", "isensee_2021", "--out", out], monkeypatch, capsys)
    assert shown.code == 1
    assert shown.err == (
        "error: this result needs the data set 'msd-hippocampus'\n  do:       name the folder that holds it with --data\n"
    )
    (tmp_path / "other").mkdir()
    for data in (tmp_path / "other", tmp_path / "nowhere"):
        shown = say(["reproduce", "poplin_2018", "--data", data, "--out", out], monkeypatch, capsys)
        assert shown.code == 1
        assert shown.err == (
            "error: the folder does not hold the data set 'oasis1-slices'\n"
            f"  where:    {data}\n"
            "  expected: slices.tar, subjects.csv\n"
        )
    assert not out.exists()


def test_a_script_of_a_study_has_its_options_and_goes_on_in_no_folder_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(study: ModuleType, *words: object) -> str:
        """Return what the study's script says before it ends, which it does in each of these."""
        monkeypatch.setattr(sys, "argv", ["study.py", *map(str, words)])
        with pytest.raises(SystemExit) as raised:
            script(study.run)
        printed = capsys.readouterr()
        return printed.out + printed.err + (raised.value.code if isinstance(raised.value.code, str) else "")

    for study, options in (
        (isensee_2021, ("--data DATA", "--out OUT", "--small", "--only ONLY", "--networks NETWORKS")),
        (cicek_2016, ("--only {dense,sparse,slices}",)),
        (kirchler_2022, ("--full", "--weights WEIGHTS", "--threads THREADS")),
    ):
        said = told(study, "--help")
        assert said.startswith(f"usage: python -m {study.__name__}")
        assert [option for option in options if option not in said] == []
    assert "invalid choice: 'all'" in told(cicek_2016, "--out", tmp_path, "--only", "all")
    (tmp_path / "hippocampus.tar").touch()
    for study, words, mark in (
        (isensee_2021, ["--only", 1], "clinome reproduce isensee_2021"),
        (kirchler_2022, ["--full"], "clinome reproduce kirchler_2022 --full"),
    ):
        folder = own_folder(tmp_path / mark, "clinome reproduce isensee_2021 --small")
        (folder / "figures.json").touch()
        said = told(study, "--data", tmp_path, "--out", folder, *words)
        assert said == (
            "error: the folder holds results of another kind\n"
            f"  where:    {folder}\n"
            "  got:      clinome reproduce isensee_2021 --small\n"
            f"  expected: {mark}\n"
            "  do:       name another folder with --out, or remove this one"
        )
    said = told(isensee_2021, "--data", tmp_path / "nowhere", "--out", tmp_path / "new")
    assert "the folder does not hold the data set 'msd-hippocampus'" in said
    assert not (tmp_path / "new").exists()
