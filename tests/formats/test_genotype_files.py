"""Opening by name and pattern, the errors for names that cannot be opened, and writing in another format."""

from __future__ import annotations

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import array_genotypes

from clinome.core.errors import ClinomeError, CohortError, FormatError, OutputError, StudyError
from clinome.formats.genotype_files import GenotypeSet, convert_genotypes, open_genotypes
from clinome.formats.genotypes import blocks
from clinome.formats.pgen import write_pgen
from clinome.formats.plink import write_plink


def people(names: str = "abcde") -> pl.DataFrame:
    return pl.DataFrame({"participant_id": list(names)})


def variants(chromosome: str, n: int) -> pl.DataFrame:
    names = {"variant_id": [f"{chromosome}_{i}" for i in range(n)], "chromosome": [chromosome] * n, "position": list(range(n))}
    return pl.DataFrame({**names, "effect_allele": ["A"] * n, "other_allele": ["G"] * n})


def calls(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 3, (n, 5)).astype(np.int8)


@pytest.fixture
def chromosomes(tmp_path: Path) -> tuple[str, np.ndarray]:
    """Chromosomes 1, 2 and 10 of the same people; the pattern, and the joint counts in natural order."""
    for name, n in (("10", 4), ("2", 3), ("1", 6)):
        path = tmp_path / f"c{name}.bed"
        write_plink(path, samples=people(), variants=variants(name, n), blocks=[calls(int(name), n)])
    return str(tmp_path / "c*.bed"), np.concatenate([calls(1, 6), calls(2, 3), calls(10, 4)])


def test_a_pattern_is_one_source_in_natural_order(chromosomes: tuple[str, np.ndarray]) -> None:
    pattern, counts = chromosomes
    with closing(open_genotypes(pattern, build="hg19")) as source:
        assert source.variants["chromosome"].to_list() == ["1"] * 6 + ["2"] * 3 + ["10"] * 4
        assert [path.name for path in source.paths if path.suffix == ".bed"] == ["c1.bed", "c2.bed", "c10.bed"]
        assert source.build == "GRCh37"
        np.testing.assert_array_equal(source.read(np.arange(13)).counts, counts)
        for rows in ([5, 6, 12], [6, 7], [], [0, 12]):
            chosen, columns = np.array(rows, np.int64), np.array([4, 0])
            block = source.read(chosen, columns)
            np.testing.assert_array_equal(block.counts, counts[chosen][:, columns])
            np.testing.assert_array_equal(block.variants, chosen)
        np.testing.assert_array_equal(np.concatenate([block.counts for block in blocks(source, size=4)]), counts)
        with closing(pickle.loads(pickle.dumps(source))) as copy:
            np.testing.assert_array_equal(copy.read(np.arange(13)).counts, counts)


def test_hard_calls_beside_dosages_are_brought_to_one_scale(tmp_path: Path) -> None:
    dosages = np.array([[0, 8192, -1, 32768, 1]], np.int32)
    write_pgen(tmp_path / "c1.pgen", samples=people(), variants=variants("1", 1), blocks=[np.array([[0, 1, 2, -1, 1]], np.int8)])
    write_pgen(tmp_path / "c2.pgen", samples=people(), variants=variants("2", 1), blocks=[dosages], scale=16384)
    with closing(open_genotypes(tmp_path / "c*.pgen")) as source:
        block = source.read(np.arange(2))
        assert block.scale == 16384
        np.testing.assert_array_equal(block.counts, [[0, 16384, 32768, -1, 16384], dosages[0]])
        np.testing.assert_array_equal(source.read(np.array([0])).counts, block.counts[:1])


@pytest.mark.parametrize(
    ("names", "says"),
    [("abcd", "5 and 4 people"), ("abxed", "sample 3 is 'c' in one and is not in the other")],
    ids=["fewer", "another person"],
)
def test_a_pattern_over_different_people(tmp_path: Path, names: str, says: str) -> None:
    for number, ids in (("1", "abcde"), ("2", names)):
        block = np.zeros((1, len(ids)), np.int8)
        write_plink(tmp_path / f"c{number}.bed", samples=people(ids), variants=variants(number, 1), blocks=[block])
    with pytest.raises(CohortError, match=says) as error:
        open_genotypes(tmp_path / "c*.bed")
    assert "c1.bed" in str(error.value)
    assert "c2.bed" in str(error.value)


def test_people_in_another_order_are_found_by_name(chromosomes: tuple[str, np.ndarray], tmp_path: Path) -> None:
    pattern, counts = chromosomes
    turned = [3, 0, 4, 1, 2]
    write_plink(tmp_path / "c2.bed", samples=people("daebc"), variants=variants("2", 3), blocks=[calls(2, 3)[:, turned]])
    with closing(open_genotypes(pattern)) as source:
        assert source.samples["participant_id"].to_list() == list("abcde")
        np.testing.assert_array_equal(source.read(np.arange(13)).counts, counts)
        np.testing.assert_array_equal(source.read(np.arange(13), np.array([4, 1])).counts, counts[:, [4, 1]])
        assert source.notes == ("c2.bed: the people are in another order than in the first file; each was found by name",)
        with closing(pickle.loads(pickle.dumps(source))) as copy:
            np.testing.assert_array_equal(copy.read(np.arange(13)).counts, counts)


def test_a_pattern_over_different_builds(tmp_path: Path) -> None:
    for number, build in (("1", "GRCh37"), ("2", "GRCh38")):
        block = np.zeros((1, 5), np.int8)
        write_pgen(tmp_path / f"c{number}.pgen", samples=people(), variants=variants(number, 1), blocks=[block], build=build)
    with pytest.raises(StudyError, match="different genome builds"):
        open_genotypes(tmp_path / "c*.pgen")


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("c1", StudyError, r"a prefix is not enough: name the file(.|\n)*c1\.bed"),
        ("c1.bim", StudyError, r"name the file of the genotypes(.|\n)*c1\.bed"),
        ("c1.fam", StudyError, r"name the file of the genotypes(.|\n)*c1\.bed"),
        ("c11.bed", StudyError, r"there is no such file(.|\n)*names there: .*c1\.bed"),
        ("c3*.bed", StudyError, r"no file matches the pattern(.|\n)*names there: .*c\d+\.bed"),
        ("none/c1.bed", StudyError, "there is no such folder"),
        ("c1.txt", FormatError, "no genotype file that can be read"),
        ("c1.bed.gz", FormatError, "cannot be compressed"),
    ],
)
def test_names_that_cannot_be_opened(
    tmp_path: Path, chromosomes: tuple[str, np.ndarray], name: str, kind: type[ClinomeError], says: str
) -> None:
    for text in ("c1.txt", "c1.bed.gz"):
        (tmp_path / text).write_text("nothing of genotypes")
    with pytest.raises(kind, match=says):
        open_genotypes(tmp_path / name)


def test_a_folder_without_genotypes(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="the folder holds no genotypes"):
        open_genotypes(tmp_path / "a.bed")


def test_the_first_bytes_stand_in_for_a_suffix(tmp_path: Path) -> None:
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\n"
    (tmp_path / "calls.txt").write_text(header + "1\t5\tx\tA\tG\t.\t.\t.\tGT\t0/1\n")
    with closing(open_genotypes(tmp_path / "calls.txt")) as source:
        np.testing.assert_array_equal(source.read(np.array([0])).counts, [[1]])
    (tmp_path / "calls.txt").rename(tmp_path / "calls.bgen")
    with pytest.raises(FormatError, match="not what its name says"):
        open_genotypes(tmp_path / "calls.bgen")


def test_a_sample_file_goes_with_a_bgen(tmp_path: Path, chromosomes: tuple[str, np.ndarray]) -> None:
    with pytest.raises(StudyError, match=r"goes with a \.bgen only"):
        open_genotypes(tmp_path / "c1.bed", sample_file=tmp_path / "x.sample")


def test_joint_chromosomes_become_one_file(tmp_path: Path, chromosomes: tuple[str, np.ndarray]) -> None:
    pattern, counts = chromosomes
    with closing(open_genotypes(pattern)) as source:
        for suffix in (".bed", ".pgen"):
            path = tmp_path / "new" / f"all{suffix}"
            convert_genotypes(source, path)
            with closing(open_genotypes(path)) as again:
                np.testing.assert_array_equal(again.read(np.arange(13)).counts, counts)
                assert again.variants.equals(source.variants)
        with pytest.raises(StudyError, match=r"\.bed or \.pgen"):
            convert_genotypes(source, tmp_path / "all.bgen")
        with pytest.raises(StudyError, match="nothing to write"):
            convert_genotypes(source, tmp_path / "none.bed", variants=np.array([], np.int64))
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="cannot be written"):
            convert_genotypes(source, tmp_path / "file" / "all.bed")
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name or path.name.startswith("none")]


def test_files_in_units_without_a_common_one_are_rounded_to_plinks(tmp_path: Path) -> None:
    """Units of 1/16384 and 1/255 have only 1/4177920 in common, whose sums would not stay exact."""
    generator = np.random.default_rng(4)
    fine, coarse = generator.integers(0, 32_769, (3, 8)), generator.integers(-1, 511, (2, 8))
    parts = [array_genotypes(fine, scale=16_384), array_genotypes(coarse, scale=255, chromosomes=["2", "2"])]
    parts = [replace(part, paths=(tmp_path / f"chr{k}.x",)) for k, part in enumerate(parts)]
    both = GenotypeSet(parts)
    block = both.read(np.arange(5))
    assert block.scale == both.scale == 16_384
    np.testing.assert_array_equal(block.counts[:3], fine)
    np.testing.assert_array_equal(block.counts[3:], np.where(coarse < 0, -1, np.rint(coarse * 16_384 / 255)))
    assert both.notes[-1] == "dosages of files in units of 1/255 and 1/16384 are rounded to 1/16384"
