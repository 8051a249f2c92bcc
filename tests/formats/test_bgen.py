"""BGEN: exact dosages of every layout the format allows (an encoder of ours, cbgen and PLINK 2 agree), indexes, sample files."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from toolkit.plink2 import run

from clinome.core.errors import CohortError, FormatError
from clinome.formats.bgen import BgenGenotypes
from clinome.formats.pgen import PgenGenotypes
from clinome.formats.plink import PlinkGenotypes

Person = tuple[int, Sequence[int], bool]  # ploidy, the integers that are stored, missing


def text(value: str, length: str = "<H") -> bytes:
    return struct.pack(length, len(value.encode())) + value.encode()


def packed(values: Sequence[int], bits: int) -> bytes:
    """Pack integers, lowest bits first, one after the other."""
    joint = sum(value << (bits * i) for i, value in enumerate(values))
    return joint.to_bytes((len(values) * bits + 7) // 8, "little")


def variant(
    people: Sequence[Person],
    *,
    bits: int = 8,
    phased: bool = False,
    compression: int = 1,
    alleles: Sequence[str] = ("A", "G"),
    name: str = "rs1",
) -> bytes:
    ploidies = [ploidy for ploidy, _, _ in people]
    body = struct.pack("<IHBB", len(people), len(alleles), min(ploidies), max(ploidies))
    body += bytes(ploidy | missing << 7 for ploidy, _, missing in people) + bytes([phased, bits])
    body += packed([value for _, values, _ in people for value in values], bits)
    head = text("id_" + name) + text(name) + text("01") + struct.pack("<IH", 77, len(alleles))
    head += b"".join(text(allele, "<I") for allele in alleles)
    if compression == 0:
        return head + struct.pack("<I", len(body)) + body
    squeezed = zlib.compress(body) if compression == 1 else zstandard.ZstdCompressor().compress(body)
    return head + struct.pack("<II", len(squeezed) + 4, len(body)) + squeezed


def bgen(
    path: Path, variants: Sequence[bytes], n: int, *, compression: int = 1, ids: Sequence[str] | None = None, layout: int = 2
) -> Path:
    names = b"" if ids is None else b"".join(map(text, ids))
    block = b"" if ids is None else struct.pack("<II", len(names) + 8, len(ids)) + names
    flags = compression | layout << 2 | (ids is not None) << 31
    path.write_bytes(struct.pack("<IIII4sI", 20 + len(block), 20, len(variants), n, b"bgen", flags) + block + b"".join(variants))
    return path


def named(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def n_stored(ploidy: int, n_alleles: int, phased: bool) -> int:
    return ploidy * (n_alleles - 1) if phased else len(list(combinations_with_replacement(range(n_alleles), ploidy))) - 1


@settings(max_examples=120)
@given(st.data())
def test_any_layout_gives_the_exact_expected_count(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Against the sum over genotypes of copies × probability, written out from the specification in whole numbers."""
    bits = data.draw(st.sampled_from([1, 2, 3, 7, 8, 9, 12, 15, 16]))
    n_alleles = data.draw(st.integers(2, 4))
    phased = data.draw(st.booleans())
    compression = data.draw(st.integers(0, 2))
    ploidies = data.draw(st.lists(st.sampled_from(data.draw(st.sampled_from([[2], [1], [1, 2]]))), min_size=1, max_size=6))
    top = 2**bits - 1
    people: list[Person] = []
    expected = np.zeros((n_alleles - 1, len(ploidies)), np.int64)
    for i, ploidy in enumerate(ploidies):
        if phased:
            copies = [[int(k == allele) for allele in range(n_alleles)] for k in range(n_alleles)]
            draws = ploidy
        else:
            genotypes = sorted(combinations_with_replacement(range(n_alleles), ploidy), key=lambda genotype: genotype[::-1])
            copies = [[genotype.count(allele) for allele in range(n_alleles)] for genotype in genotypes]
            draws = 1
        stored: list[int] = []
        for _ in range(draws):
            cuts = sorted(data.draw(st.lists(st.integers(0, top), min_size=len(copies) - 1, max_size=len(copies) - 1)))
            probabilities = np.diff([0, *cuts, top])
            stored.extend(probabilities[:-1].tolist())
            expected[:, i] += probabilities @ np.array(copies)[:, 1:] * (2 // ploidy)
        missing = data.draw(st.booleans()) and data.draw(st.booleans())
        if missing:
            expected[:, i] = -1
        people.append((ploidy, stored, missing))
    alleles = ["A", "C", "G", "TTT"][:n_alleles]
    site = variant(people, bits=bits, phased=phased, compression=compression, alleles=alleles)
    path = bgen(tmp_path_factory.mktemp("x") / "a.bgen", [site], len(people), compression=compression, ids=named(len(people)))
    with closing(BgenGenotypes(path)) as source:
        assert source.scale == top
        assert source.variants["effect_allele"].to_list() == alleles[1:]
        assert set(source.variants["other_allele"]) == {"A"}
        assert source.variants["chromosome"][0] == "1"
        np.testing.assert_array_equal(source.read(np.arange(n_alleles - 1)).counts, expected)


def test_more_than_16_bits_are_rounded(tmp_path: Path) -> None:
    people = [(2, [2**24 - 1, 0], False), (2, [0, 2**24 - 1], False), (2, [0, 0], False), (2, [2**23, 0], False), (2, [0, 0], True)]
    path = bgen(tmp_path / "a.bgen", [variant(people, bits=24)], 5, ids=named(5))
    with closing(BgenGenotypes(path)) as source:
        assert source.scale == 65535
        np.testing.assert_array_equal(source.read(np.array([0])).counts, [[0, 65535, 131070, 65535, -1]])


def test_nobody_without_copies_is_called(tmp_path: Path) -> None:
    """Ploidy 0 (women on Y) is missing, however it is flagged."""
    path = bgen(tmp_path / "a.bgen", [variant([(0, [], False), (1, [255], False), (1, [0], False)])], 3, ids=named(3))
    with closing(BgenGenotypes(path)) as source:
        np.testing.assert_array_equal(source.read(np.array([0])).counts, [[-1, 0, 510]])


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (variant([(3, [1, 2, 3], False)] * 2), "more than two copies"),
        (variant([(2, [200, 200], False)] * 2), "add up to more than one"),
        (variant([(2, [1, 2], False)] * 3), "contradict its header"),
        (variant([(2, [1, 2, 3], False)] * 2), "of another length"),
        (variant([(2, [1, 2], False)] * 2, compression=0), "cannot be decoded"),
    ],
    ids=["ploidy 3", "sum above one", "other number of people", "too many probabilities", "not compressed"],
)
def test_genotypes_that_cannot_be(tmp_path: Path, site: bytes, says: str) -> None:
    path = bgen(tmp_path / "a.bgen", [site], 2, ids=named(2))
    with pytest.raises(FormatError, match=says) as error, closing(BgenGenotypes(path)) as source:
        source.read(np.array([0]))
    assert f"{path}, variant 1" in str(error.value)


def test_variants_of_different_bits(tmp_path: Path) -> None:
    sites = [variant([(2, [1, 2], False)]), variant([(2, [1, 2], False)], bits=16)]
    with closing(BgenGenotypes(bgen(tmp_path / "a.bgen", sites, 1, ids=["p"]))) as source:
        with pytest.raises(FormatError, match="different numbers of bits") as error:
            source.read(np.array([0, 1]))
        assert "variant 2" in str(error.value)


def test_an_older_layout(tmp_path: Path) -> None:
    path = bgen(tmp_path / "a.bgen", [], 1, ids=["p"], layout=1)
    with pytest.raises(FormatError, match="layout 1") as error:
        BgenGenotypes(path)
    assert "plink2" in str(error.value)


@pytest.mark.parametrize(("kinds", "bits"), [((), 8), (("phase-freq=0.5",), 16)], ids=["unphased", "phased"])
def test_the_probabilities_are_those_that_cbgen_reads(
    program: Callable[[str], str], tmp_path: Path, kinds: tuple[str, ...], bits: int
) -> None:
    cbgen = pytest.importorskip("cbgen")
    run(program("plink2"), "--dummy", 23, 200, 0.1, "dosage-freq=0.5", *kinds, "--seed", 9, "--make-pgen", "--out", tmp_path / "d")
    run(program("plink2"), "--pfile", tmp_path / "d", "--export", "bgen-1.3", f"bits={bits}", "--out", tmp_path / "d")
    path = tmp_path / "d.bgen"
    theirs = []
    with cbgen.bgen_file(path) as file:
        file.create_metafile(tmp_path / "meta")
        with cbgen.bgen_metafile(tmp_path / "meta") as index:
            for part in range(index.npartitions):
                for offset in index.read_partition(part).variants.offset:
                    genotype = file.read_genotype(int(offset))
                    p = genotype.probability
                    copies = p[:, 1] + p[:, 3] if genotype.phased else p[:, 1] + 2 * p[:, 2]
                    theirs.append(np.where(genotype.missing, -1, np.rint(copies * (2**bits - 1))))
    with closing(BgenGenotypes(path)) as source:
        np.testing.assert_array_equal(source.read(np.arange(200)).counts, theirs)


def test_regenie_example_is_the_same_in_bgen_pgen_and_bed(real_data: Callable[[str], Path]) -> None:
    """The .bgi is used; each reader says which allele it counts."""
    folder = real_data("regenie-example")
    with closing(BgenGenotypes(folder / "example.bgen")) as source, closing(PlinkGenotypes(folder / "example.bed")) as bed:
        assert source.paths == (folder / "example.bgen", folder / "example.bgen.bgi")
        assert source.notes == ()
        assert source.variants.height == 1000
        ours, theirs = source.read(np.arange(1000)).counts, bed.read(np.arange(1000)).counts
        for column in ("variant_id", "chromosome", "position"):
            assert source.variants[column].to_list() == bed.variants[column].to_list()
        same = (source.variants["effect_allele"] == bed.variants["effect_allele"]).to_numpy()[:, None]
        np.testing.assert_array_equal(ours, np.where(theirs < 0, -1, np.where(same, theirs, 2 - theirs) * np.int32(255)))
    with closing(PgenGenotypes(folder / "example.pgen")) as pgen:
        assert pgen.variants["variant_id"].to_list() == bed.variants["variant_id"].to_list()
        same = (pgen.variants["effect_allele"] == bed.variants["effect_allele"]).to_numpy()[:, None]
        np.testing.assert_array_equal(pgen.read(np.arange(1000)).counts, np.where(same | (theirs < 0), theirs, 2 - theirs))


def test_an_index_tells_what_the_walk_tells(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real_data("regenie-example")
    for name in ("example_3chr.bgen", "example_3chr.sample"):
        shutil.copy(folder / name, tmp_path)
    with (
        closing(BgenGenotypes(tmp_path / "example_3chr.bgen")) as walked,
        closing(BgenGenotypes(folder / "example_3chr.bgen")) as indexed,
    ):
        assert len(indexed.paths) == len(walked.paths) + 1
        assert walked.variants.equals(indexed.variants)
        rows = np.arange(0, walked.variants.height, 7)
        np.testing.assert_array_equal(walked.read(rows).counts, indexed.read(rows).counts)


def test_an_index_of_another_file_is_not_used(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real_data("regenie-example")
    path = Path(shutil.copy(folder / "example.bgen", tmp_path))
    shutil.copy(folder / "example_3chr.bgen.bgi", tmp_path / "example.bgen.bgi")
    for spoil in (None, b"no database", b""):
        if spoil is not None:
            (tmp_path / "example.bgen.bgi").write_bytes(spoil)
        with closing(BgenGenotypes(path)) as source:
            assert source.paths == (path,)
            assert source.notes[0].startswith("example.bgen.bgi was not used: ")
            assert source.variants.height == 1000


def test_an_index_without_metadata_and_three_alleles(tmp_path: Path) -> None:
    """Old bgenix writes no Metadata table, and only two alleles of a site."""
    sites = [variant([(2, [10, 20], False)]), variant([(2, [1, 2, 3, 4, 5], False)], alleles=["A", "C", "G"], name="rs2")]
    path = bgen(tmp_path / "a.bgen", sites, 1, ids=["p"])
    with closing(BgenGenotypes(path)) as source:
        walked = source.variants, source.read(np.arange(3)).counts
    start = path.stat().st_size - sum(map(len, sites))
    with closing(sqlite3.connect(tmp_path / "a.bgen.bgi")) as index:
        index.execute(
            "CREATE TABLE Variant (chromosome TEXT, position INT, rsid TEXT, number_of_alleles INT, allele1 TEXT, allele2 TEXT,"
            " file_start_position INT, size_in_bytes INT)"
        )
        for number, (name, site) in enumerate(zip(("rs1", "rs2"), sites, strict=True)):
            row = ("01", 77, name, 2 + number, "A", "GC"[number], start, len(site))
            index.execute("INSERT INTO Variant VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            start += len(site)
        index.commit()
    with closing(BgenGenotypes(path)) as source:
        assert len(source.paths) == 2
        assert source.variants.equals(walked[0])
        np.testing.assert_array_equal(source.read(np.arange(3)).counts, walked[1])
        assert source.notes[0] == "1 sites with several alleles were split into one variant an allele, under the site's id"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A BGEN of two people that it does not name."""
    return bgen(tmp_path / "a.bgen", [variant([(2, [255, 0], False), (2, [0, 0], False)])], 2)


def test_sample_files(two: Path, tmp_path: Path) -> None:
    beside, given_one = two.with_suffix(".sample"), tmp_path / "other.sample"
    beside.write_text("ID_1 ID_2 missing sex\n0 0 0 D\nf1 a 0 1\n0 b 0 2\n")
    given_one.write_text("ID\n0\nx\ny\n")
    with closing(BgenGenotypes(two)) as source:
        assert source.samples.rows() == [("a", "f1", "male"), ("b", None, "female")]
        assert source.paths == (two, beside)
    with closing(BgenGenotypes(two, sample_file=given_one)) as source:
        assert source.samples["participant_id"].to_list() == ["x", "y"]


@pytest.mark.parametrize(
    ("lines", "kind", "says"),
    [
        ("ID_1 ID_2 missing\n0 0 0\na a 0\n", FormatError, r"got:      1 people(.|\n)*expected: 2"),
        ("ID_1 ID_2 missing\n0 0 0\na a 0\nb b 0\nc c 0\n", FormatError, r"got:      3 people(.|\n)*expected: 2"),
        ("ID_1 ID_2 missing\n0 0 0\na a 0\nb a 0\n", CohortError, "same participant id"),
        ("ID_1 ID_2 missing\n0 0 0\na a 0\nb b\n", FormatError, "line 4"),
        ("a a 0\nb b 0\n", FormatError, "not a .sample file"),
        ("", FormatError, "not a .sample file"),
    ],
)
def test_sample_files_that_do_not_fit(two: Path, lines: str, kind: type[Exception], says: str) -> None:
    two.with_suffix(".sample").write_text(lines)
    with pytest.raises(kind, match=says) as error:
        BgenGenotypes(two)
    assert str(two.with_suffix(".sample")) in str(error.value)


def test_people_without_names(two: Path) -> None:
    with pytest.raises(FormatError, match="does not name its samples"):
        BgenGenotypes(two)
    with pytest.raises(FormatError, match=r"the \.sample file is not there"):
        BgenGenotypes(two, sample_file=two.with_name("none.sample"))


def test_a_sample_file_beside_that_names_others(tmp_path: Path) -> None:
    path = bgen(tmp_path / "a.bgen", [variant([(2, [255, 0], False), (2, [0, 0], False)])], 2, ids=["f1_a", "f2_b"])
    path.with_suffix(".sample").write_text("ID_1 ID_2 missing\n0 0 0\nf1 a 0\nf2 b 0\n")
    with closing(BgenGenotypes(path)) as source:
        assert source.samples["participant_id"].to_list() == ["a", "b"]
    path.with_suffix(".sample").write_text("ID_1 ID_2 missing sex\n0 0 0 D\nf2 b 0 2\nf1 a 0 1\n")
    for chosen in (None, path.with_suffix(".sample")):  # position would give each the genotypes of the other
        with closing(BgenGenotypes(path, sample_file=chosen)) as source:
            assert source.samples.rows() == [("a", "f1", "male"), ("b", "f2", "female")]
            assert source.notes == (
                "a.sample lists the people in another order than the BGEN, which names them itself; each was found by name",
            )
    path.with_suffix(".sample").write_text("ID_1 ID_2 missing\n0 0 0\nf1 a 0\nf2 c 0\n")
    with pytest.raises(FormatError, match="names other people than the BGEN itself"):
        BgenGenotypes(path)
    with closing(BgenGenotypes(path, sample_file=path.with_suffix(".sample"))) as source:
        assert source.samples["participant_id"].to_list() == ["a", "c"]
