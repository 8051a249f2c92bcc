"""VCF and BCF: calls and dosages as bcftools prints them, split sites, streaming forward, headers and broken records."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from toolkit.plink2 import copies, run

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.formats.vcf import VcfGenotypes

HEADER = """##fileformat=VCFv4.3
##reference=file:///refs/hg38.fa
##contig=<ID=1,length=1000>
##contig=<ID=chr1,length=1000>
##INFO=<ID=R2,Number=1,Type=Float,Description="imputation quality">
##FORMAT=<ID=GT,Number=1,Type=String,Description="called">
##FORMAT=<ID=DS,Number=A,Type=Float,Description="dosage">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\tb\tc\td
"""
CALLS = HEADER.replace('##FORMAT=<ID=DS,Number=A,Type=Float,Description="dosage">\n', "")
SITES = [
    "chr1\t0\t.\tA\tG\t.\t.\tR2=0.8\tGT:DS\t0/0:0\t0|1:1.25\t1:1\t./1:.",
    "1\t10\trs2\tA\tG,T\t.\t.\t.\tGT:DS\t0/1:0.9,0.1\t1/2:1,1\t2|2:0,1.5\t.:.,.",
    "1\t20\trs3\tC\t<DEL>,*\t.\t.\tR2=0.5\tGT\t0/1\t1/2\t2/2\t0/0",
    "1\t30\trs4\tC\t.\t.\t.\tR2=0.1\tDS\t0\t0.5\t.\t0",
]


def written(folder: Path, lines: list[str], header: str = HEADER) -> Path:
    path = folder / "a.vcf"
    path.write_text(header + "".join(line + "\n" for line in lines))
    return path


@pytest.fixture(params=["vcf", "vcf.gz", "bcf"])
def path(request: pytest.FixtureRequest, tmp_path: Path, program: Callable[[str], str]) -> Path:
    """The sites above in each of the three ways to write them."""
    plain = written(tmp_path, SITES)
    if request.param == "vcf.gz":
        run(program("bcftools"), "view", "-Oz", "-o", tmp_path / "a.vcf.gz", plain)
    elif request.param == "bcf":
        run(program("bcftools"), "view", "-Ob", "-o", tmp_path / "a.bcf", plain)
    return tmp_path / f"a.{request.param}"


def test_calls(path: Path) -> None:
    with closing(VcfGenotypes(path, field="GT")) as source:
        assert source.build == "GRCh38"
        assert source.variants["variant_id"].to_list() == ["1:0:A:G", "rs2", "rs2", "rs3", "rs3", "rs4"]
        assert source.variants["chromosome"].to_list() == ["1"] * 6
        assert source.variants["effect_allele"].to_list() == ["G", "G", "T", "<DEL>", "*", "."]
        assert source.variants["other_allele"].to_list() == ["A", "A", "A", "C", "C", "C"]
        np.testing.assert_allclose(source.variants["info"].fill_null(-1).to_list(), [0.8, -1, -1, 0.5, 0.5, 0.1], rtol=1e-6)
        calls = [[0, 1, 2, -1], [1, 1, 0, -1], [0, 1, 2, -1], [1, 1, 0, 0], [0, 1, 2, 0], [-1, -1, -1, -1]]
        block = source.read(np.arange(6))
        assert (block.scale, block.counts.dtype) == (1, np.int8)
        np.testing.assert_array_equal(block.counts, calls)
        np.testing.assert_array_equal(source.read(np.array([2, 4]), np.array([2, 0])).counts, np.array(calls)[[2, 4]][:, [2, 0]])


def test_dosages_are_read_where_they_are_declared(path: Path) -> None:
    with closing(VcfGenotypes(path)) as source:
        assert source.notes[0] == "dosages were read from DS, and from GT where DS is missing"
        block = source.read(np.arange(6))
        assert (block.scale, block.counts.dtype) == (16384, np.int32)
        dosages = [[0, 1.25, 2, -1], [0.9, 1, 0, -1], [0.1, 1, 1.5, -1], [1, 1, 0, 0], [0, 1, 2, 0], [0, 0.5, -1, 0]]
        expected = np.array([[-1 if dosage < 0 else round(dosage * 16384) for dosage in row] for row in dosages])
        np.testing.assert_array_equal(block.counts, expected)


@pytest.mark.parametrize("kind", ["v", "b"], ids=["VCF", "BCF"])
def test_dosages_of_haploid_people_are_those_that_plink2_imports(program: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    """DS of a haploid GT lies between 0 and 1 (Minimac, Beagle, PLINK 2) and counts twice; a call stands in for a missing DS."""
    lines = [
        "X\t5000000\ta\tA\tG\t.\t.\t.\tGT:DS\t0:0.25\t1:1\t0/1:1.25\t1/1:2",
        "X\t5000010\tb\tA\tG\t.\t.\t.\tGT:DS\t1:0.75\t1\t0/1\t./.:1.5",
        "X\t5000020\tc\tA\tG\t.\t.\t.\tGT:DS\t.:0.5\t.:.\t1|1:2\t0|0:0",
        "X\t5000030\td\tA\tG\t.\t.\t.\tGT\t0\t1\t0|1\t.",
        "Y\t5000000\te\tA\tG\t.\t.\t.\tGT:DS\t0:0.125\t1:1\t.:.\t.:.",
        "MT\t100\tf\tA\tG\t.\t.\t.\tGT:DS\t0:0\t1:0.5\t1:1\t.:0.25",
    ]
    contigs = "".join(f"##contig=<ID={name}>\n" for name in ("X", "Y", "MT"))
    plain = written(tmp_path, lines, HEADER.replace("#CHROM", contigs + "#CHROM"))
    (tmp_path / "sex.txt").write_text("#IID SEX\na 1\nb 1\nc 2\nd 2\n")
    run(program("plink2"), "--vcf", plain, "dosage=DS", "--psam", tmp_path / "sex.txt", "--make-pgen", "--out", tmp_path / "p")
    theirs = copies(program("plink2"), ("--pfile", tmp_path / "p"), ["G"] * 6, tmp_path)
    path = tmp_path / f"again.{kind}cf"
    run(program("bcftools"), "view", f"-O{kind}", "-o", path, plain)
    with closing(VcfGenotypes(path)) as source:
        counts = source.read(np.arange(6)).counts
    np.testing.assert_array_equal(np.where(counts < 0, np.nan, counts / 16384), theirs)
    np.testing.assert_array_equal(counts[1], np.array([1.5, 2, 1, 1.5]) * 16384)


def test_a_dot_for_a_diploid_genotype_leaves_its_dosage(tmp_path: Path) -> None:
    line = "1\t10\tr\tA\tG\t.\t.\t.\tGT:DS\t.:1.5\t.:0.5\t.:.\t0/1:1"
    with closing(VcfGenotypes(written(tmp_path, [line]))) as source:
        np.testing.assert_array_equal(source.read(np.array([0])).counts, [[24576, 8192, -1, 16384]])


@pytest.mark.parametrize("field", ["GT", "DS"])
def test_the_field_is_the_one_asked_for(tmp_path: Path, field: str) -> None:
    path = written(tmp_path, [SITES[2]], CALLS)
    if field == "DS":
        with pytest.raises(StudyError, match="does not declare it"):
            VcfGenotypes(path, field="DS")
    else:
        with closing(VcfGenotypes(path)) as source:
            assert source.read(np.array([0])).scale == 1
            assert source.notes == (
                "1 sites with several ALT alleles were split into one variant an allele, under the site's id",
                "1 variants repeat the id of another one; all are kept",
            )


def test_reading_goes_forward_through_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"1\t{i + 1}\tv{i}\tA\tG,T\t.\t.\t.\tGT\t0/0\t0/1\t1/2\t{i % 3}/{i % 2}" for i in range(40)]
    opened = []
    import clinome.formats.vcf as module

    real = module._open
    monkeypatch.setattr(module, "_open", lambda *args, **options: opened.append(args) or real(*args, **options))
    with closing(VcfGenotypes(written(tmp_path, lines, CALLS))) as source:
        whole = source.read(np.arange(80)).counts
        opened.clear()
        source.close()
        for start in (0, 7, 14, 15, 60):  # row 15 is the second allele of the site that was read last
            np.testing.assert_array_equal(source.read(np.arange(start, start + 1)).counts, whole[start : start + 1])
        assert len(opened) == 1
        np.testing.assert_array_equal(source.read(np.array([3, 5])).counts, whole[[3, 5]])
        assert len(opened) == 2


def test_glow_1kg_is_what_bcftools_prints(real_data: Callable[[str], Path], program: Callable[[str], str]) -> None:
    path = real_data("glow-1kg-gwas") / "genotypes.vcf.gz"
    query = [program("bcftools"), "query", "-f", r"%CHROM\t%POS\t%ID\t%REF\t%ALT[\t%GT]\n", str(path)]
    rows = [line.split("\t") for line in subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()]
    with closing(VcfGenotypes(path)) as source:
        assert source.build == "GRCh37"
        assert source.samples.height == 2504
        assert source.variants.select("chromosome", "position", "variant_id", "other_allele", "effect_allele").rows() == [
            (chromosome, int(position), name, ref, alt) for chromosome, position, name, ref, alt, *_ in rows
        ]
        theirs = [[call.replace("/", "|").split("|").count("1") for call in row[5:]] for row in rows]
        np.testing.assert_array_equal(source.read(np.arange(len(rows))).counts, theirs)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1\t10\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/1\t1/1", r"a record is not whole(.|\n)*line 9(.|\n)*12 columns"),
        ("1\t10\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/1\t1/1\t0/0\t0/0", "14 columns"),
        ("1\tten\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/1\t1/1\t0/0", "position 'ten'"),
        ("", "1 columns"),
        ("1\t10\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/x\t1/1\t0/0", r"a record cannot be read(.|\n)*variant 1 \(r\)"),
        ("undeclared\t10\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/x\t1/1\t0/0", "a record cannot be read"),
        ("1\t10\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/1/1\t1/1\t0/0", "more than two alleles"),
        ("1\t10\tr\tA\tG\t.\t.\t.\tDS\t0\t2.5\t1\t0", r"a dosage is not between 0 and 2(.|\n)*got:      2.5"),
        ("1\t10\tr\tA\tG,C\t.\t.\t.\tDS\t0\t1\t1\t0", "does not hold one value an ALT"),
        (
            "X\t10\tr\tA\tG\t.\t.\t.\tGT:DS\t0:0\t1:1.5\t1/1:2\t.",
            r"of a haploid genotype is not between 0 and 1(.|\n)*got:      1.5",
        ),
        ("X\t10\tr\tA\tG\t.\t.\t.\tDS\t0\t1\t1\t0", "DS stands without GT"),
        ("a b\t10\tr\tA\tG\t.\t.\t.\tGT\t0/0\t0/1\t1/1\t0/0", "a name that VCF does not allow"),
    ],
)
def test_broken_records(tmp_path: Path, line: str, says: str) -> None:
    path = written(tmp_path, [line])
    with pytest.raises(FormatError, match=says) as error, closing(VcfGenotypes(path)) as source:
        source.read(np.arange(source.variants.height))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER.rsplit("#CHROM")[0], "ends within its header|holds no genotypes"),
        (HEADER.replace("\tFORMAT\ta\tb\tc\td", ""), "holds no genotypes"),
        (HEADER.replace("VCFv4.3", "VCFv4.3").removeprefix("##fileformat"), "neither a VCF nor a BCF"),
        (HEADER + SITES[0], "ends in the middle of a line"),
    ],
)
def test_broken_headers_and_ends(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.vcf"
    path.write_text(text)
    with pytest.raises(FormatError, match=says) as error:
        VcfGenotypes(path)
    assert str(path) in str(error.value)


def test_two_samples_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="the same participant id"):
        VcfGenotypes(written(tmp_path, [], HEADER.replace("\tc\td", "\tc\ta")))


def test_a_plain_gzip_is_read_and_its_loss_is_seen(tmp_path: Path) -> None:
    """gzip, unlike bgzip, has no mark at its end; the cut-off stream is met in the pass over the sites."""
    whole = gzip.compress(written(tmp_path, SITES).read_bytes())
    path = tmp_path / "b.vcf.gz"
    path.write_bytes(whole)
    with closing(VcfGenotypes(path, field="GT")) as source:
        np.testing.assert_array_equal(source.read(np.array([0])).counts, [[0, 1, 2, -1]])
    for size in (15, 60, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError) as error:
            VcfGenotypes(path)
        assert str(path) in str(error.value)


def test_a_file_that_changes_under_the_reader(tmp_path: Path) -> None:
    path = written(tmp_path, SITES[1:3])
    with closing(VcfGenotypes(path, field="GT")) as source:
        written(tmp_path, SITES[2:])
        with pytest.raises(FormatError, match="the file changed after it was opened"):
            source.read(np.array([0]))


def test_a_build_that_contradicts_the_header(path: Path) -> None:
    with pytest.raises(StudyError, match="not the one the file states"):
        VcfGenotypes(path, build="GRCh37")
