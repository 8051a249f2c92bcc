from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinome.core.errors import ClinomeError, CohortError, FormatError, OutputError, SchemaError, StudyError, TraitError
from clinome.formats.table import read_id_list, read_table, write_table


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str | bytes, name: str = "table.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


EXPECTED = [("007", "f1", 1.5), ("8", None, None)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "#FID IID HDL\nf1 007 1.5\n0 8 NA\n"),
        ("a.pheno", "FID\tIID\tHDL\nf1\t007\t1.5\n0\t8\t\n"),
        ("a.txt", "FID  IID \t HDL\n f1  007  1.5\n\n0 8\tnan\n\n"),
        ("a.csv", "FID,IID,HDL\r\nf1,007,1.5\r\n,8,NaN\r\n"),
        ("a.csv", '\ufeff"FID","IID","HDL"\n"f1","007","1.5"\n"NA","8",""'),
        ("a.csv", "FID;IID;HDL\nf1;007;1.5\n0;8;NA\n"),
        ("a.tsv", "participant_id\tfamily_id\tHDL\n007\tf1\t1.5\n8\t\tNA\n"),
        ("a.txt", "FID IID\tHDL\nf1 007\t1.5\n0 8\tNA\n"),
        ("a.csv", ",FID,IID,HDL,\n1,f1,007,1.5,\n2,,8,NA,\n"),
        ("a.psam", "##a comment\n#FID\tIID\tHDL\nf1\t007\t1.5\n0\t8\tNA\n"),
    ],
)
def test_conventions_of_people_and_delimiters(write, name: str, text: str) -> None:
    loaded = read_table(write(text, name))
    assert loaded.frame.columns == ["participant_id", "family_id", "HDL"]
    assert loaded.frame.rows() == EXPECTED
    assert loaded.frame.schema["HDL"] == pl.Float64
    assert loaded.notes == ()


def test_compressed_files_and_parquet_give_the_same_table(write, tmp_path: Path) -> None:
    import zstandard

    text = b"FID\tIID\tHDL\nf1\t007\t1.5\n0\t8\tNA\n"
    plain = read_table(write(text, "a.tsv")).frame
    assert read_table(write(gzip.compress(text), "a.tsv.gz")).frame.equals(plain)
    pack = zstandard.ZstdCompressor().compress
    assert read_table(write(pack(text), "a.tsv.zst")).frame.equals(plain)
    assert read_table(write(pack(text[:20]) + pack(text[20:]), "b.tsv.zst")).frame.equals(plain)
    plain.write_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").frame.equals(plain)


@pytest.mark.parametrize("pack", ["gz", "zst"])
def test_truncated_and_damaged_compression(write, pack: str) -> None:
    import zstandard

    text = "".join(f"p{i}\t{i * 7919 % 1009}\n" for i in range(5000)).encode()
    whole = gzip.compress(text) if pack == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    for data in (whole[: len(whole) // 2], whole[:-3], whole[:50] + b"\xff" * 50 + whole[100:]):
        with pytest.raises(FormatError, match="truncated or damaged"):
            read_table(write(data, f"a.tsv.{pack}"))


def test_headerless_plink_phenotypes_only_where_asked(write) -> None:
    path = write("f1 007 1.5 2\nf2 8 -9 1\n")
    with pytest.raises(SchemaError, match="header = False"):
        read_table(path)
    frame = read_table(path, header=False, missing=["-9"]).frame
    assert frame.columns == ["participant_id", "family_id", "PHENO1", "PHENO2"]
    assert frame["PHENO1"].to_list() == [1.5, None]


def test_named_id_column_and_known_ones(write) -> None:
    assert read_table(write("eid,x\n0012,1\n", "a.csv")).frame["participant_id"].to_list() == ["0012"]
    assert read_table(write("x,who\n1,a 1\n", "a.csv"), id_column="who").frame.rows() == [("a 1", 1.0)]
    with pytest.raises(SchemaError, match=r"(?s)no column names the people.*who, x.*pass id_column"):
        read_table(write("who,x\na,1\n", "a.csv"))
    with pytest.raises(SchemaError, match=r"(?s)no column 'wo'.*who, x"):
        read_table(write("who,x\na,1\n", "a.csv"), id_column="wo")


def test_missing_codes_are_named_never_guessed(write) -> None:
    rows = "".join(f"p{i} {-9 if i < 3 else i} {-9 if i < 3 else -20 - i} {'.' if i < 3 else i}\n" for i in range(10))
    path = write("IID age score code\n" + rows)
    loaded = read_table(path)
    assert loaded.frame["age"].null_count() == 0
    assert loaded.frame.schema["code"] == pl.String
    assert len(loaded.notes) == 2, "score has other negative values"
    assert (
        "age holds -9 in 3 rows and no other negative value: if it means missing, name it as missing: --missing-code=-9"
        in loaded.notes[0]
    )
    assert "code holds text in 3 of 10 rows ('.' first, line 2)" in loaded.notes[1]
    coded = read_table(path, missing=["-9", "."])
    assert [coded.frame[name].null_count() for name in ("age", "score", "code")] == [3, 3, 3]
    assert coded.frame.schema["code"] == pl.Float64
    assert coded.notes == ()
    assert read_table(write("IID,x\na,-9.0\nb,2\n", "a.csv"), missing=["-9"]).frame["x"].to_list() == [None, 2.0]


def test_text_in_a_trait_names_line_column_value_and_cure(write) -> None:
    path = write("IID HDL sex\na 1.5 M\n\nb low M\nc 2 F\n")
    with pytest.raises(TraitError) as caught:
        read_table(path, columns=["HDL"], numbers_only=True)
    message = str(caught.value)
    assert "trait 'HDL' holds text" in message
    assert f"{path}, line 4, column 'HDL'" in message
    assert "'low' (1 of 3 rows" in message
    assert "missing = ['low']" in message
    covariates = read_table(path).frame
    assert covariates["HDL"].to_list() == ["1.5", "low", "2"]
    assert covariates["sex"].to_list() == ["M", "M", "F"]


@pytest.mark.parametrize("value", ["inf", "-Infinity", "NAN"])
def test_values_that_are_not_finite(write, tmp_path: Path, value: str) -> None:
    with pytest.raises(TraitError, match=rf"(?s)column 'HDL' holds a value that is not finite.*line 3.*{value} \(1 of 2"):
        read_table(write(f"IID,HDL\na,1\nb,{value}\n", "a.csv"))
    pl.DataFrame({"IID": ["a", "b"], "x": [1.0, float("inf")]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(TraitError, match=r"row 2, column 'x'"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("", FormatError, "empty"),
        ("\n \n", FormatError, "empty"),
        ("IID,x\n", FormatError, "a header and no rows"),
        ("IID,x\na,1\nb\nc,2\n", FormatError, r"(?s)line 3.*got:      1 fields between commas\n  expected: 2"),
        ("IID,x\na,1\nb,2,3\n", FormatError, r"(?s)line 3.*3 fields"),
        ('IID,x\n"a,1",1\nb,2,3\n', FormatError, r"(?s)line 3.*3 fields"),
        ("x,y\na,1,2\nb,2,3\n", FormatError, r"(?s)line 2.*row.names = FALSE"),
        ('IID,x\n"a"b,1\nc,2\n', FormatError, "quoted value does not end"),
        ('IID,x\na,"b\nc"\n', FormatError, r"(?s)line 3.*on one line"),
        ("IID,x,x\na,1,2\n", SchemaError, "column 'x' is there twice"),
        ("IID,x\na,1\nb,2\na,3\n", CohortError, r"(?s)more than one row.*1 people.*'a'"),
        ("IID,x\na,1\n,2\n", CohortError, r"(?s)names nobody.*line 3"),
        ("IID,x\na,1\nNA,2\n", CohortError, r"(?s)names nobody.*line 3"),
        (b"IID,x\na,1\n\xe9,2\n", FormatError, r"(?s)not UTF-8.*line 3.*0xe9"),
        ("IID,x\na,1\n".encode("utf-16"), FormatError, "not a text table"),
        (b"\x6c\x1b\x01\x00\x00", FormatError, "not a text table"),
    ],
)
def test_bad_files_give_one_clear_error(write, text: str | bytes, error: type[ClinomeError], match: str) -> None:
    with pytest.raises(error, match=match):
        read_table(write(text, "a.csv"))


def test_columns_parsed_together_or_one_by_one_are_the_same(write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        "IID,age,site,blood,pulse",
        "p1,50,north,-9,7",
        "p2,,south,1,x",
        "p3,52.5,NA,2,8",
        "p4,-9,north,-9,9",
        "p5,1,south,-9,5",
    )
    path = write("\n".join(rows), "a.csv")
    together = read_table(path, missing=["-9"])
    monkeypatch.setattr("clinome.formats.table._CELLS", 1)
    alone = read_table(path, missing=["-9"])
    assert alone.frame.equals(together.frame)
    assert alone.notes == together.notes
    assert together.frame["age"].to_list() == [50.0, None, 52.5, None, 1.0]
    assert together.frame["blood"].to_list() == [None, 1.0, 2.0, None, None]
    assert together.frame["site"].to_list() == ["north", "south", None, "north", "south"]
    assert together.frame["pulse"].dtype == pl.String
    assert len(together.notes) == 1


def test_absent_files_and_columns(write, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(StudyError, match="folder"):
        read_table(tmp_path)
    with pytest.raises(SchemaError, match=r"(?s)no column 'hdl.1'.*did you mean hdl_1"):
        read_table(write("IID,hdl_1,ldl\na,1,2\n", "a.csv"), columns=["hdl.1"])
    with pytest.raises(FormatError, match="Parquet file is truncated"):
        read_table(write(b"PAR1 and nothing", "a.parquet"))


def test_parquet_identifiers_and_types(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"eid": [1001.0, 1002.0], "case": [True, False], "n": [-9, 4], "x": [float("nan"), 1.0], "site": ["a", "NA"]}
    )
    frame.write_parquet(tmp_path / "a.parquet")
    loaded = read_table(tmp_path / "a.parquet", missing=["-9"])
    assert loaded.frame.rows() == [("1001", 1.0, None, None, "a"), ("1002", 0.0, 4.0, 1.0, None)]
    assert "decimal numbers" in loaded.notes[0]


@pytest.mark.parametrize(
    ("text", "people"),
    [
        ("a\nb\na\n", ["a", "b"]),
        ("f1 a\nf2 007\n", ["a", "007"]),
        ("#FID\tIID\nf1\ta\n", ["a"]),
        ("#IID\na\n", ["a"]),
        ("participant_id,reason\na,withdrew\nb,\n", ["a", "b"]),
    ],
)
def test_lists_of_people(write, text: str, people: list[str]) -> None:
    assert read_id_list(write(text)) == people


def test_lists_that_cannot_be_read(write) -> None:
    with pytest.raises(FormatError, match="names nobody"):
        read_id_list(write("#FID IID\n"))
    with pytest.raises(FormatError, match="one column"):
        read_id_list(write("f1 a 1\nf2 b 2\n"))


@pytest.mark.parametrize("name", ["a.parquet", "a.tsv", "a.csv", "a.tsv.gz", "a.csv.gz"])
def test_written_tables_come_back_and_are_equal_bytes(tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame({"participant_id": ["007", "8"], "x": [0.1 + 0.2, None], "site": ["a, b", None]})
    path = tmp_path / "new" / name
    write_table(frame, path)
    assert read_table(path).frame.equals(frame)
    first = path.read_bytes()
    write_table(frame, path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_unknown_suffix_and_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="suffix"):
        write_table(pl.DataFrame({"a": [1]}), tmp_path / "a.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_table(pl.DataFrame({"a": [1]}), tmp_path / "file" / "a.tsv")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=64)), min_size=1, max_size=20),
    st.sampled_from(["a.tsv", "a.csv.gz", "a.parquet"]),
)
def test_every_double_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float | None], name: str) -> None:
    frame = pl.DataFrame({"participant_id": [f"0{i}" for i in range(len(values))], "x": pl.Series(values, dtype=pl.Float64)})
    path = tmp_path_factory.mktemp("doubles") / name
    write_table(frame, path)
    assert read_table(path).frame.equals(frame)
    shutil.rmtree(path.parent)


def test_real_tables(real_data) -> None:
    mice = read_table(real_data("hs-mice") / "hs_mice.pheno.tsv.gz")
    assert mice.frame.height == 1814
    traits = read_table(real_data("hs-mice") / "mice.q.txt.gz", numbers_only=True).frame
    assert traits.columns[2:4] == ["Obesity.BMI", "Obesity.BodyLength"]
    joined = traits.join(mice.frame, on="participant_id")
    assert joined["Biochem.HDL"].equals(joined["Biochem.HDL_right"], null_equal=True)
    glow = read_table(real_data("glow-1kg-gwas") / "covariates.csv.gz").frame
    assert glow.shape == (2504, 7)
    removed = read_id_list(real_data("regenie-example") / "fid_iid_to_remove.txt")
    assert removed[:2] == ["35", "136"]


@pytest.mark.parametrize("cell", ["1.5", " 2", "+4", "1e5", "'1'", '"2"', "-inf", "+nan", "0x10", "1_0", "\u00a01", "1e400"])
def test_a_column_of_numbers_reads_the_same_beside_a_column_of_words(tmp_path: Path, cell: str) -> None:
    """Tables of nothing but numbers are parsed at once, others column by column from their words."""
    plain, mixed = tmp_path / "plain.csv", tmp_path / "mixed.csv"
    plain.write_text(f"IID,x\n-9,2.5\nb,{cell}\nc,NA\nd,-9\n")
    mixed.write_text(f"IID,x,y\n-9,2.5,u\nb,{cell},v\nc,NA,w\nd,-9,u\n")

    def read(path: Path) -> list[object] | str:
        try:
            return read_table(path, missing=["-9"]).frame.select("participant_id", "x").rows()
        except TraitError as error:
            return str(error).replace("mixed", "plain")

    assert read(plain) == read(mixed)
