"""PLINK 1 files: values equal PLINK 2's, round trips, and one clear error for every way a triple can be broken."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.formats.genotypes import blocks
from clinome.formats.plink import PlinkGenotypes, write_plink


def people(n: int) -> pl.DataFrame:
    sex = [("male", "female", None)[i % 3] for i in range(n)]
    return pl.DataFrame({"participant_id": [f"p{i}" for i in range(n)], "family_id": [f"f{i // 2}" for i in range(n)], "sex": sex})


def variants(n: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "variant_id": [f"rs{i}" for i in range(n)],
            "chromosome": ["1", "X"] * (n // 2) + ["MT"] * (n % 2),
            "position": list(range(n)),
            "effect_allele": ["A"] * n,
            "other_allele": ["CTG"] * n,
        },
        schema_overrides={"position": pl.Int64},
    )


def small(folder: Path, counts: np.ndarray | None = None) -> Path:
    counts = np.array([[0, 1, 2, -1, 2], [2, 2, 2, 2, 2], [-1, 0, 0, 0, 1]], np.int8) if counts is None else counts
    path = folder / "a.bed"
    write_plink(path, samples=people(counts.shape[1]), variants=variants(len(counts)), blocks=iter([counts]))
    return path


@pytest.fixture
def opened() -> Iterator[Callable[..., PlinkGenotypes]]:
    """Open a .bed that is closed when the test is over."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(closing(PlinkGenotypes(*args, **options)))


@settings(max_examples=60)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 13)))
    counts = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 2)))
    source = PlinkGenotypes(small(tmp_path_factory.mktemp("x"), counts))
    assert source.samples.equals(people(shape[1]))
    assert source.variants.equals(variants(shape[0]))
    whole = source.read(np.arange(shape[0]))
    assert whole.scale == 1
    assert whole.counts.dtype == np.int8
    np.testing.assert_array_equal(whole.counts, counts)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, shape[0] - 1)))), np.int64)
    columns = np.array(data.draw(st.lists(st.integers(0, shape[1] - 1), max_size=9)), np.int64)
    np.testing.assert_array_equal(source.read(rows, columns).counts, counts[rows][:, columns])
    source.close()


def test_the_bytes_are_those_of_plink2(
    opened: Callable[..., PlinkGenotypes], program: Callable[[str], str], tmp_path: Path
) -> None:
    run = [program("plink2"), "--dummy", "7", "23", "0.1", "--seed", "3", "--make-bed", "--out", str(tmp_path / "p")]
    subprocess.run(run, check=True, capture_output=True)
    source = opened(tmp_path / "p.bed")
    stream = (block.counts for block in blocks(source, size=5))
    write_plink(tmp_path / "q.bed", samples=source.samples, variants=source.variants, blocks=stream)
    assert (tmp_path / "q.bed").read_bytes() == (tmp_path / "p.bed").read_bytes()
    again = opened(tmp_path / "q.bed")
    assert again.samples.equals(source.samples)
    assert again.variants.equals(source.variants)


def test_the_effect_allele_is_a1(opened: Callable[..., PlinkGenotypes], program: Callable[[str], str], tmp_path: Path) -> None:
    """PLINK 2 takes A1 of a .bim as ALT: its ALT frequencies are those of our counts."""
    path = small(tmp_path)
    run = [program("plink2"), "--bfile", str(path.with_suffix("")), "--freq", "--export", "A", "--out", str(tmp_path / "o")]
    subprocess.run(run, check=True, capture_output=True)
    source = opened(path)
    frequency = pl.read_csv(tmp_path / "o.afreq", separator="\t", null_values="nan").sort("#CHROM", "ID")
    assert set(frequency["ALT"]) == {"A"}
    raw = pl.read_csv(tmp_path / "o.raw", separator="\t", null_values="NA")
    counted = {name.rsplit("_", 1)[0]: (name.rsplit("_", 1)[1], raw[name]) for name in raw.columns[6:]}
    for row, name in enumerate(source.variants["variant_id"]):
        allele, theirs = counted[name]
        ours = source.read(np.array([row])).counts[0]
        copies = theirs.fill_null(-1).to_numpy()
        np.testing.assert_array_equal(ours, copies if allele == "A" else np.where(copies < 0, -1, 2 - copies))


def test_spaces_blank_ends_and_sex_codes(opened: Callable[..., PlinkGenotypes], tmp_path: Path) -> None:
    path = small(tmp_path)
    path.with_suffix(".fam").write_text("0 a 0 0 1 -9\r\n0 b 0 0 2 -9\r\n0\tc 0 0 0 -9\r\n  0 d 0 0 1 1.5\r\n0 e 0 0 x -9\r\n\n")
    path.with_suffix(".bim").write_text("chr1 . 0.5 0 A G\n 23  r 0 5 A G\n01 r 0 9 0 G")
    source = opened(path, build="hg19")
    assert source.build == "GRCh37"
    assert source.samples["sex"].to_list() == ["male", "female", None, "male", None]
    assert source.samples["family_id"].null_count() == 5
    assert source.variants["variant_id"].to_list() == ["1:0:G:A", "r", "r"]
    assert source.variants["chromosome"].to_list() == ["1", "X", "1"]
    assert "1 variants without id were named chromosome:position:other:effect" in source.notes
    assert "1 variants repeat the id of another one; all are kept" in source.notes


def test_negative_positions_are_left_out(opened: Callable[..., PlinkGenotypes], tmp_path: Path) -> None:
    path = small(tmp_path)
    path.with_suffix(".bim").write_text("1 a 0 5 A G\n1 b 0 -5 A G\n1 c 0 9 A G\n")
    source = opened(path)
    assert source.variants["variant_id"].to_list() == ["a", "c"]
    np.testing.assert_array_equal(source.read(np.array([0, 1])).counts, [[0, 1, 2, -1, 2], [-1, 0, 0, 0, 1]])
    assert source.notes == ("1 variants with a negative position were left out, as PLINK does",)


def test_a_reader_travels_to_another_process(opened: Callable[..., PlinkGenotypes], tmp_path: Path) -> None:
    source = opened(small(tmp_path), build="GRCh38")
    with closing(pickle.loads(pickle.dumps(source))) as copy:
        assert copy.build == "GRCh38"
        np.testing.assert_array_equal(copy.read(np.arange(3)).counts, source.read(np.arange(3)).counts)


@pytest.mark.parametrize("size", [0, 2, 3, 4, 8, 10])
def test_a_bed_of_another_size(tmp_path: Path, size: int) -> None:
    path = small(tmp_path)
    whole = path.read_bytes()
    path.write_bytes((whole + b"\x00" * 9)[:size])
    with pytest.raises(FormatError) as error:
        PlinkGenotypes(path)
    assert str(path) in str(error.value)
    assert ("9 bytes: 3 + 3 variants × 2 bytes for 5 people" if size > 2 else "6c 1b 01") in str(error.value)


def test_a_bed_that_shrinks_under_the_reader(opened: Callable[..., PlinkGenotypes], tmp_path: Path) -> None:
    path = small(tmp_path, np.zeros((10, 9000), np.int8))
    source = opened(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="became shorter") as error:
        source.read(np.arange(10))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.fam", "", "the file is empty"),
        ("a.fam", "f p0 0 0 1\n" * 5, "line 1"),
        ("a.bim", "1 a 0 5 A G\n1 b 0 six A G\n1 c 0 7 A G\n", "line 2"),
        ("a.bim", "1\ta\t0\t5\tA\tG\n1\tb\t0\t6\tA\n1\tc\t0\t7\tA\tG\n", "line 2"),
        ("a.bim", "1\ta\t0\t5\tA\tG\n1\tb\t0\t6\tA\t\n1\tc\t0\t7\tA\tG\n", "line 2"),
        ("a.bim", "1\ta\t0\t5\tA\tG\n1\tb\t0\t6\tA\tG\n", "too long"),
        ("a.bed", "l\x1b\x00......", "one person after the other"),
        ("a.bed", "##fileformat=VCFv4.2", "not a PLINK 1 .bed"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = small(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=says) as error:
        PlinkGenotypes(path)
    assert str(tmp_path / "a.") in str(error.value)


def test_a_companion_that_is_not_there(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.with_suffix(".bim").unlink()
    with pytest.raises(FormatError, match=r"the \.bim that belongs to the genotypes is not there"):
        PlinkGenotypes(path)


def test_two_people_of_one_iid(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.with_suffix(".fam").write_text("".join(f"f{i} {'pp'[: 1 + i % 2]} 0 0 1 -9\n" for i in range(5)))
    with pytest.raises(CohortError, match="two samples have the same participant id"):
        PlinkGenotypes(path)


@pytest.mark.parametrize(
    ("rows", "counts", "says"),
    [
        (3, np.full((3, 5), 3, np.int8), "a hard call is −1"),
        (3, np.zeros((2, 5), np.int8), "do not fit the variants table"),
        (3, np.zeros((3, 4), np.int8), "does not fit 5 samples"),
    ],
)
def test_nothing_half_written(tmp_path: Path, rows: int, counts: np.ndarray, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        write_plink(tmp_path / "b.bed", samples=people(5), variants=variants(rows), blocks=[counts])
    assert list(tmp_path.iterdir()) == []


def test_names_that_plink_cannot_hold(tmp_path: Path) -> None:
    spaced = people(1).with_columns(participant_id=pl.lit("p 0"))
    with pytest.raises(FormatError, match="participant_id with a space"):
        write_plink(tmp_path / "b.bed", samples=spaced, variants=variants(1), blocks=[np.zeros((1, 1), np.int8)])
    with pytest.raises(StudyError, match=r"ends in \.bed"):
        write_plink(tmp_path / "b", samples=people(1), variants=variants(1), blocks=[np.zeros((1, 1), np.int8)])
    assert list(tmp_path.iterdir()) == []


def test_rows_outside_are_an_error_of_the_caller(opened: Callable[..., PlinkGenotypes], tmp_path: Path) -> None:
    source = opened(small(tmp_path))
    for rows in ([3], [-1], [1, 0], [1, 1]):
        with pytest.raises(IndexError):
            source.read(np.array(rows))
    with pytest.raises(IndexError):
        source.read(np.array([0]), np.array([5]))
