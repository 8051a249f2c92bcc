from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core import schema
from clinome.core.errors import FormatError, MissingExtra, OutputError, SchemaError, need
from clinome.core.files import file_name, own_folder, remove_half_written, replacing, usable_folder, write_json
from clinome.core.progress import track
from clinome.core.provenance import checksum, fingerprint, provenance
from clinome.core.shards import map_shards


def test_a_message_says_what_where_got_expected_and_what_to_do_and_travels_between_processes() -> None:
    error = FormatError("the file ends early", where="a.bed", got="10 bytes", expected="30 bytes", do="copy it again")
    assert str(error).splitlines() == [
        "the file ends early",
        "  where:    a.bed",
        "  got:      10 bytes",
        "  expected: 30 bytes",
        "  do:       copy it again",
    ]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is FormatError
    assert str(again) == str(error)


def test_a_missing_library_is_answered_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'clinome\[genetics\]'"):
        need("no_such_library_at_all", "genetics")


def _stop_while_writing(path: Path, text: str) -> None:
    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text(text)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()


def test_what_is_written_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    _stop_while_writing(path, "half")
    assert list(path.parent.iterdir()) == []
    with replacing(path) as temporary:
        temporary.write_text("one")
    _stop_while_writing(path, "two")
    assert path.read_text() == "one"


def test_what_the_killed_left_goes_and_what_the_living_write_stays(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    dead, living, other = ".99999999.partial.a.txt", f".{os.getppid()}.partial.a.txt", ".name.partial.txt"
    for name in (dead, living, other):
        (tmp_path / "inner" / name).touch()
    remove_half_written(tmp_path)
    assert {p.name for p in (tmp_path / "inner").iterdir()} == {living, other}


def test_a_full_disk_is_one_clear_error_whoever_writes(tmp_path: Path) -> None:
    """Polars has an error class of its own; Arrow's OSError has no strerror."""
    said, path = "underlying IO error: No space left on device (os error 28)", tmp_path / "a.parquet"
    for error in (pl.exceptions.ComputeError(said), OSError(said)):
        with (
            pytest.raises(OutputError, match=r"cannot be written(.|\n)*No space left on device"),
            replacing(path),
        ):
            raise error
    with pytest.raises(pl.exceptions.ComputeError), replacing(path):
        raise pl.exceptions.ComputeError("something else")


def test_an_error_of_reading_inside_the_block_is_not_taken_for_one_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        (tmp_path / "elsewhere" / "input.txt").read_text()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        usable_folder(tmp_path / "file" / "inside")
    assert usable_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_holds_the_results_of_one_kind_and_is_free_while_it_holds_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert own_folder(out, "clinome segment") == own_folder(out, "clinome measure") == out  # nothing was written yet
    (out / "volumes.parquet").touch()
    (out / ".99999999.partial.volumes.parquet").touch()
    with pytest.raises(OutputError) as refused:
        own_folder(out, "clinome segment")
    assert str(refused.value) == (
        f"the folder holds results of another kind\n  where:    {out}\n  got:      clinome measure\n  expected: clinome segment\n"
        "  do:       name another folder with --out, or remove this one"
    )
    own_folder(out, "clinome measure")
    assert {path.name for path in out.iterdir()} == {"made_by.json", "volumes.parquet"}
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "table.parquet").touch()
    assert own_folder(tmp_path / "older", "clinome predict")  # of a version that left no mark


def test_names_of_files_are_distinct_on_every_file_system() -> None:
    taken: set[str] = set()
    names = [file_name(name, taken) for name in ("HDL", "hdl", "a/b", "a b", "…", "x" * 300)]
    assert len({n.lower() for n in names}) == len(names)
    assert all(0 < len(n) <= 130 and "/" not in n for n in names)


def test_a_fingerprint_follows_contents_not_names_or_times(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"same")
    b.write_bytes(b"same")
    assert fingerprint(a) == fingerprint(b)
    b.write_bytes(b"other")
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint(1) != fingerprint("1")


def test_a_large_file_is_sampled_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    first = checksum(path)
    assert first.startswith("sampled-")
    with path.open("r+b") as file:
        file.write(b"x")
    assert checksum(path) != first


def test_provenance_names_files_without_the_folders_above_them(tmp_path: Path) -> None:
    path = tmp_path / "someone" / "input.txt"
    path.parent.mkdir()
    path.write_text("1")
    said = provenance(inputs=[path], settings={"alpha": 1}, seed=3)
    assert said["inputs"][0]["name"] == "input.txt"
    assert "someone" not in json.dumps(said)
    assert said["seed"] == 3
    assert "numpy" in said["libraries"]


def test_provenance_has_the_command_without_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--genotypes", "/home/jane/chr *.bed", "--out=/home/jane/results/", "--maf", "0.01", "traits.tsv"]
    monkeypatch.setattr(sys, "argv", ["/home/jane/.venv/bin/clinome", "gwas", *words])
    assert provenance()["command"] == "clinome gwas --genotypes 'chr *.bed' --out=results --maf 0.01 traits.tsv"


def test_json_of_equal_values_is_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": [Path("p")]})
    write_json(tmp_path / "b", {"y": [Path("p")], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _fail_at(limit: int, number: int) -> int:
    if number == limit:
        raise FormatError("shard is broken", where=f"shard {number}")
    return number * number


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_come_back_in_order_and_errors_come_through(processes: int) -> None:
    assert list(map_shards(partial(_fail_at, -1), range(6), processes=processes)) == [0, 1, 4, 9, 16, 25]
    with pytest.raises(FormatError, match="shard is broken"):
        list(map_shards(partial(_fail_at, 2), range(6), processes=processes))


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_schemas_agree_with_each_other() -> None:
    meaning: dict[str, set[type]] = {}
    for table in schema.TABLES:
        assert len({c.name for c in table.columns}) == len(table.columns)
        assert set(table.key) <= {c.name for c in table.columns}
        for column in table.columns:
            meaning.setdefault(column.name, set()).add(column.dtype)
    assert {name: kinds for name, kinds in meaning.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ["a"]}, "column 'participant_id' is missing"),
        ({"participant_id": ["a", None], "split": ["x", "y"]}, "row 2"),
        ({"participant_id": ["a", "a"], "split": ["x", "y"]}, "must be unique"),
        ({"participant_id": ["a"], "split": ["x"], "extra": [1]}, "'extra' is not part of"),
    ],
)
def test_a_table_that_breaks_its_schema_is_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema.check(pl.DataFrame(columns), schema.SPLITS)


def test_a_lossless_cast_is_made_and_a_lossy_one_refused() -> None:
    frame = pl.DataFrame({"name": ["auc"], "value": [1], "lower": [0], "upper": [1], "interval": ["x"], "subgroup": ["all"]})
    assert schema.check(frame, schema.METRICS)["value"].dtype == pl.Float64
    with pytest.raises(SchemaError, match="wrong type"):
        schema.check(frame.with_columns(pl.lit("high").alias("value")), schema.METRICS)


def test_an_array_on_a_disk_that_takes_no_more_is_an_error_not_a_shorter_array(tmp_path: Path) -> None:
    """A limit of 3,000 bytes a file cuts the last bytes of 3,200, which NumPy's own writing loses without a word."""
    code = """
import resource, numpy as np
from clinome.core.files import write_array, write_json
from clinome.core.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for write in (lambda: write_array("a.npy", np.ones(3072, np.uint8)), lambda: write_json("a.json", "x" * 4000)):
    try:
        write()
    except OutputError as error:
        print(error.what, "File too large" in str(error))
write_array("b.npy", np.arange(300.0).reshape(3, 100)[:, ::2])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "the result cannot be written True\n" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["b.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.arange(300.0).reshape(3, 100)[:, ::2])
