"""The rules that are written once: chromosomes, ids, people, genome builds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.plink2 import run

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.core.schema import VARIANTS, check
from clinome.formats.bgen import BgenGenotypes
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.genotypes import (
    agreed_build,
    build_name,
    chromosome_names,
    file_chromosomes,
    samples_table,
    stated_build,
    variants_table,
)

HERE = Path("x.bed")


@pytest.mark.parametrize(
    ("raw", "names", "n_notes"),
    [
        (["1", "22", "X", "Y", "MT", "0"], ["1", "22", "X", "Y", "MT", "0"], 0),
        (["chr1", "Chr2", "chrx", "chrM", "m"], ["1", "2", "X", "MT", "MT"], 0),
        (["01", "09", "0X"], ["1", "9", "0X"], 0),
        (["23", "24", "26"], ["X", "Y", "MT"], 1),
        (["25", "XY", "PAR1", "par2"], ["X", "X", "X", "X"], 1),
        (["23", "25", "29", "X"], ["23", "25", "29", "X"], 0),
        (["2L", "chrUn_KI270742v1", "LG5"], ["2L", "Un_KI270742v1", "LG5"], 0),
    ],
    ids=["plain", "prefixed", "zeros", "plink codes", "pseudo-autosomal", "cattle", "other species"],
)
def test_chromosomes(raw: list[str], names: list[str], n_notes: int) -> None:
    found, notes = chromosome_names(pl.Series(raw))
    assert found.to_list() == names
    assert len(notes) == n_notes


def test_the_files_own_codes_of_the_pseudo_autosomal_part_are_kept() -> None:
    found, notes = table(chromosome=["chrX", "PAR1", "25"])
    assert found["chromosome"].to_list() == ["X", "X", "X"]
    assert found["pseudo_autosomal"].to_list() == [False, True, True]
    assert notes[-1] == "1 variants repeat the id of another one; all are kept"
    assert "2 variants of XY, PAR1 or PAR2 are named X and marked as pseudo-autosomal" in notes
    assert file_chromosomes(found).to_list() == ["X", "XY", "XY"]
    check(found, VARIANTS)
    for names in (["1", "X", "Y"], ["25", "29", "X"]):  # no codes; cattle, where 25 is an autosome
        plain, _ = table(chromosome=names)
        assert "pseudo_autosomal" not in plain.columns
        assert file_chromosomes(plain).to_list() == names


def table(**changes: list[object]) -> tuple[pl.DataFrame, list[str]]:
    columns: dict[str, list[object]] = {
        "variant_id": ["rs1", "rs2", "rs1"],
        "chromosome": ["1", "1", "chr2"],
        "position": [5, 0, 7],
        "effect_allele": ["A", "C", "AT"],
        "other_allele": ["G", "T", "A"],
    }
    return variants_table({name: pl.Series(name, values) for name, values in {**columns, **changes}.items()}, HERE)


def test_ids_that_lack_are_made_and_those_that_repeat_are_kept() -> None:
    variants, notes = table(variant_id=[".", None, ""])
    assert variants["variant_id"].to_list() == ["1:5:G:A", "1:0:T:C", "2:7:A:AT"]
    assert notes == ["3 variants without id were named chromosome:position:other:effect"]
    variants, notes = table()
    assert variants["variant_id"].to_list() == ["rs1", "rs2", "rs1"]
    assert notes == ["1 variants repeat the id of another one; all are kept"]


@pytest.mark.parametrize("column", ["chromosome", "effect_allele", "other_allele", "position"])
def test_a_variant_without_something(column: str) -> None:
    values = [1, None, 2] if column == "position" else ["1", None, "2"]
    with pytest.raises(FormatError, match=f"no {column.replace('_', ' ')}") as error:
        table(**{column: values})
    assert "x.bed, variant 2" in str(error.value)


def test_people() -> None:
    ids = pl.Series(["007", "b", "c", "d"])
    people = samples_table(HERE, ids, family_id=pl.Series(["0", "f", "", "f"]), sex=pl.Series(["1", "F", "0", "NA"]))
    assert people["participant_id"].to_list() == ["007", "b", "c", "d"]
    assert people["family_id"].to_list() == [None, "f", None, "f"]
    assert people["sex"].to_list() == ["male", "female", None, None]
    with pytest.raises(CohortError, match="the same participant id") as error:
        samples_table(HERE, pl.Series(["a", "b", "a"]), family_id=pl.Series(["1", "2", "3"]))
    assert "'a' more than once" in str(error.value)
    assert "x.bed" in str(error.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hg19", "GRCh37"),
        ("b37", "GRCh37"),
        ("hs37d5", "GRCh37"),
        ("GRCh38.p13", "GRCh38"),
        ("hg38", "GRCh38"),
        ("hg18", "NCBI36"),
        ("GRCm39", "GRCm39"),
        ("some text", None),
        (None, None),
    ],
)
def test_builds(text: str | None, name: str | None) -> None:
    assert build_name(text) == name


def test_the_build_of_a_header() -> None:
    assert stated_build("##contig=<ID=1,length=9,assembly=b37>") == "GRCh37"
    assert stated_build('##contig=<ID=1,assembly="GRCh38">\n##reference=file:///hg19.fa') == "GRCh38"
    assert stated_build("##reference=ftp://ftp.ncbi.nlm.nih.gov/refs/hs37d5.fa.gz") == "GRCh37"
    assert stated_build("##reference=file:///ref/genome.fa\n##contig=<ID=1,length=9>") is None


def test_the_build_that_was_asked_for() -> None:
    assert agreed_build("hg19", "GRCh37", HERE) == "GRCh37"
    assert agreed_build("hg38", None, HERE) == "GRCh38"
    assert agreed_build(None, "b37", HERE) == "GRCh37"
    with pytest.raises(StudyError, match="not the one the file states") as error:
        agreed_build("hg38", "b37", HERE)
    assert "GRCh38" in str(error.value)
    assert "GRCh37" in str(error.value)


HAPLOID = {  # of each site: chromosome and position, the calls of four men and four women, copies of ALT
    ("X", 5_000_000): ("0 1 1 . 0|0 0|1 1|1 .|.", [0, 2, 2, -1, 0, 1, 2, -1]),
    ("X", 5_000_010): ("1 0 . 1 1|0 1|0 0|0 1|1", [2, 0, -1, 2, 1, 1, 0, 2]),
    ("Y", 5_000_000): ("0 1 1 0 . . . .", [0, 2, 2, 0, -1, -1, -1, -1]),
    ("MT", 100): ("0 1 0 . 1 1 0 .", [0, 2, 0, -1, 2, 2, 0, -1]),
}


@pytest.mark.parametrize(
    "written",
    [
        "h.vcf",
        "h.bcf --export bcf",
        "h.vcf.gz --export vcf bgz vcf-dosage=DS-force",
        "h.bed --make-bed",
        "h.pgen --make-pgen",
        "h.bgen --export bgen-1.2 ref-first",
        "h.bgen --export bgen-1.2 ref-first bits=1",
        "h.bgen --export bgen-1.3 ref-first bits=16",
        "unphased.bgen --export bgen-1.2 ref-first bits=8",
    ],
)
def test_a_haploid_carrier_counts_as_two_copies_in_every_format(
    program: Callable[[str], str], tmp_path: Path, written: str
) -> None:
    """Men beside women in one variant, phased and not; every file but the first is written by PLINK 2."""
    name, *how = written.split()
    head = ["##fileformat=VCFv4.3", *(f"##contig=<ID={c}>" for c in ("X", "Y", "MT"))]
    head += ['##FORMAT=<ID=GT,Number=1,Type=String,Description="called">']
    head += ["\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *(f"s{i}" for i in range(8))])]
    sites = [f"{c}\t{p}\t{c}{p}\tA\tG\t.\t.\t.\tGT\t" + "\t".join(calls.split()) for (c, p), (calls, _) in HAPLOID.items()]
    text = "\n".join([*head, *sites]) + "\n"
    phased = not name.startswith("unphased")
    (tmp_path / "h.vcf").write_text(text if phased else text.replace("|", "/"))
    (tmp_path / "sex.txt").write_text("#IID SEX\n" + "".join(f"s{i} {1 + i // 4}\n" for i in range(8)))
    stem = tmp_path / name.split(".")[0]
    if how:
        inputs = ("--vcf", tmp_path / "h.vcf", "--psam", tmp_path / "sex.txt")
        run(program("plink2"), *inputs, *how, "--out", stem)
    with closing(open_genotypes(tmp_path / name)) as source:
        block = source.read(np.arange(4))
        assert set(source.variants["effect_allele"]) == {"G"}
        if isinstance(source, BgenGenotypes):
            packed = [source._packed(row) for row in range(4)]
            assert [p.phased for p in packed] == [phased, phased, False, False]
            assert sorted(set(packed[0].ploidy & 63)) == [1, 2]
    expected = np.array([copies for _, copies in HAPLOID.values()])
    np.testing.assert_array_equal(block.counts, np.where(expected < 0, -1, expected * block.scale))
