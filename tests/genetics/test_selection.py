from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toolkit.genotypes import array_genotypes, random_counts

from clinome.core.errors import FormatError, StudyError
from clinome.genetics.association import associate
from clinome.genetics.selection import Selection, read_intervals, rows_of_ids, select

VARIANTS = pl.DataFrame(
    {
        "variant_id": [f"rs{i}" for i in range(12)],
        "chromosome": ["1"] * 4 + ["2"] * 4 + ["X"] * 4,
        "position": [100, 300, 300, 900, 50, 60, 70, 80, 1_000, 2_000, 3_000, 4_000],
    }
)


def listed(folder: Path, text: str, name: str = "list.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_lists_and_regions_combine(tmp_path: Path) -> None:
    extract = listed(tmp_path, "variant_id p\nrs1 0.1\nrs2 0.2\nrs5 1\nrs9 1\nrs9 1\n")
    exclude = listed(tmp_path, "# withdrawn\nrs2\n", "out.txt")
    chosen = select(VARIANTS, Selection(extract=extract, exclude=exclude, regions=("chr1:1-1,000", "23:2000")))
    assert chosen.rows.tolist() == [1, 9]
    assert chosen.notes == ("2 of 12 variants are chosen by lists or regions",)
    assert select(VARIANTS, Selection()).rows.tolist() == list(range(12))
    assert select(VARIANTS, Selection()).notes == ()


def test_ids_that_are_not_there_and_ids_of_several_variants_are_said(tmp_path: Path) -> None:
    twice = VARIANTS.with_columns(pl.col("variant_id").replace({"rs3": "rs2"}))
    chosen = select(twice, Selection(extract=listed(tmp_path, "rs1\nrs2\nrs99\n")))
    assert chosen.rows.tolist() == [1, 2, 3]
    assert chosen.notes[0] == "1 of 3 ids in list.txt are not in the genotypes (such as 'rs99')"
    assert chosen.notes[1] == "1 ids in list.txt name more than one variant (such as 'rs2'); all 2 are taken"


@pytest.mark.parametrize(
    ("ids", "theirs", "said"),
    [
        ("1:100:A:G", "chr1:100:A:G", "with the prefix chr 1 of the first 1 would match; add it to the list"),
        ("chr1:100", "1:100", "without the prefix chr 1 of the first 1 would match; remove it from the list"),
        ("rs5_A_G", "rs5", "without the alleles behind them 1 of the first 1 would match; remove them"),
        ("rs5", "rs5:A:G", "the ids of the genotypes have alleles behind them"),
        ("RS5", "rs5", "in another letter case 1 of the first 1 would match"),
        ("chr1:100", "rs5", "the ids name places (chromosome:position), and 1 of the first 1 are those of variants"),
        ("ss7", "rs5", "name variants by the ids of the genotype files"),
    ],
)
def test_ids_that_match_nothing_are_answered_with_both_sides_and_a_guess(ids: str, theirs: str, said: str, tmp_path: Path) -> None:
    variants = pl.DataFrame({"variant_id": [theirs], "chromosome": ["1"], "position": [100]})
    with pytest.raises(StudyError, match="no variant has one of these ids") as caught:
        select(variants, Selection(extract=listed(tmp_path, f"{ids}\n")))
    for word in (repr(ids), repr(theirs), said, "list.txt"):
        assert word in str(caught.value)


def test_a_bed_of_intervals_starts_at_zero_and_leaves_its_end_out(tmp_path: Path) -> None:
    path = listed(tmp_path, "track name=exons\nchr1\t99\t300\tgene\nchr2 49 50\nX 5000 6000\n", "exons.bed")
    chosen = select(VARIANTS, Selection(intervals=path))
    assert chosen.rows.tolist() == [0, 1, 2, 4]
    assert "1 of 3 regions hold no variant (such as 'X:5001-6000')" in chosen.notes[0]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("12"), st.integers(1, 60), st.integers(0, 20)), min_size=1, max_size=8), st.integers(0, 99)
)
def test_regions_are_their_union(regions: list[tuple[str, int, int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    variants = pl.DataFrame(
        {
            "variant_id": [f"v{i}" for i in range(50)],
            "chromosome": generator.choice(["1", "2"], 50),
            "position": generator.integers(1, 70, 50),  # in no order
        }
    )
    expected = [
        i
        for i, (_, chromosome, position) in enumerate(variants.iter_rows())
        if any(c == chromosome and start <= position <= start + length for c, start, length in regions)
    ]
    wanted = Selection(regions=tuple(f"{c}:{start}-{start + length}" for c, start, length in regions))
    if expected:
        assert select(variants, wanted).rows.tolist() == expected
    else:
        with pytest.raises(StudyError, match="no variant lies in the region"):
            select(variants, wanted)


def test_another_species_chromosome_23_is_not_x() -> None:
    fish = pl.DataFrame({"variant_id": ["a", "b"], "chromosome": ["23", "29"], "position": [5, 5]})
    assert select(fish, Selection(regions=("23",))).rows.tolist() == [0]


def test_what_cannot_be_read_or_leaves_nothing_is_one_error(tmp_path: Path) -> None:
    for region in ("1:5-", "1:9-5", "", "1:a-b"):
        with pytest.raises(StudyError, match="one of the regions"):
            Selection(regions=(region,))
    with pytest.raises(StudyError, match=r"(?s)one of the regions is none.*name a \.bed file as intervals"):
        Selection(regions=("exons.bed",))
    with pytest.raises(StudyError, match=r"(?s)no variant lies in the region.*'7:1-5'.*\(1, 2, X\)"):
        select(VARIANTS, Selection(regions=("7:1-5",)))
    with pytest.raises(StudyError, match="leave no variant to scan"):
        select(VARIANTS, Selection(regions=("1",), exclude=listed(tmp_path, "rs0\nrs1\nrs2\nrs3\n")))
    with pytest.raises(FormatError, match=r"this is no interval\n.*line 2"):
        read_intervals(listed(tmp_path, "1 5 9\n1 9 5\n", "bad.bed"))
    (tmp_path / "plink.bed").write_bytes(b"\x6c\x1b\x01\x00")
    with pytest.raises(FormatError, match=r"PLINK \.bed of genotypes"):
        read_intervals(tmp_path / "plink.bed")
    with pytest.raises(FormatError, match="names no variant"):
        select(VARIANTS, Selection(extract=listed(tmp_path, "ID\n")))
    with pytest.raises(StudyError, match="there is no such file"):
        select(VARIANTS, Selection(exclude=tmp_path / "none.txt"))
    with pytest.raises(StudyError, match=r"where: +--condition"):
        rows_of_ids(VARIANTS, ["nothing"], where="--condition")


def test_a_scan_of_chosen_variants_is_the_whole_scan_at_those(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    source = array_genotypes(random_counts(generator, 30, 80, missing=0.02))
    traits = source.samples.select("participant_id").with_columns(pl.Series("t", generator.normal(size=80)))
    rows = select(source.variants, Selection(regions=("1:50,000-120,000",))).rows
    assert rows.tolist() == list(range(4, 12))
    whole = associate(source, traits, out=tmp_path / "whole").trait("t")
    part = associate(source, traits, out=tmp_path / "part", variants=rows).trait("t")
    assert part.equals(whole[rows.tolist()])
