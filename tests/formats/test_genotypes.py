"""The rules that are written once: chromosomes, ids, people, genome builds."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.formats.genotypes import agreed_build, build_name, chromosome_names, samples_table, stated_build, variants_table

HERE = Path("x.bed")


@pytest.mark.parametrize(
    ("raw", "names", "n_notes"),
    [
        (["1", "22", "X", "Y", "MT", "0"], ["1", "22", "X", "Y", "MT", "0"], 0),
        (["chr1", "Chr2", "chrx", "chrM", "m"], ["1", "2", "X", "MT", "MT"], 0),
        (["01", "09", "0X"], ["1", "9", "0X"], 0),
        (["23", "24", "26"], ["X", "Y", "MT"], 1),
        (["25", "XY", "PAR1", "par2"], ["X", "X", "X", "X"], 2),
        (["23", "25", "29", "X"], ["23", "25", "29", "X"], 0),
        (["2L", "chrUn_KI270742v1", "LG5"], ["2L", "Un_KI270742v1", "LG5"], 0),
    ],
    ids=["plain", "prefixed", "zeros", "plink codes", "pseudo-autosomal", "cattle", "other species"],
)
def test_chromosomes(raw: list[str], names: list[str], n_notes: int) -> None:
    found, notes = chromosome_names(pl.Series(raw))
    assert found.to_list() == names
    assert len(notes) == n_notes


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
