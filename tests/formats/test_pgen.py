"""PLINK 2 files: headers of every kind, split sites, companions that do not fit, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toolkit.plink2 import copies, run

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.formats.pgen import DOSAGE_SCALE, PgenGenotypes, read_header, write_pgen

SITES = """##fileformat=VCFv4.2
##contig=<ID=1,length=1000,assembly=GRCh38>
##FORMAT=<ID=GT,Number=1,Type=String,Description="called">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\ts2\ts3\ts4\ts5\ts6
1\t10\ta\tA\tG\t.\t.\t.\tGT\t0/0\t0/1\t1/1\t./.\t0|1\t1|0
1\t20\tb\tA\tG,T\t.\t.\t.\tGT\t0/1\t0/2\t1/2\t2/2\t./.\t1/1
1\t30\tc\tA\tG,T,C\t.\t.\t.\tGT\t0/1\t3/2\t1/3\t2/2\t./.\t3/3
1\t40\td\tA\t.\t.\t.\t.\tGT\t0/0\t0/0\t0/0\t0/0\t./.\t0/0
1\t50\t.\tA\t<DEL>\t.\t.\t.\tGT\t0/0\t0/0\t0/1\t0/0\t./.\t0/0
"""
SPLIT = [
    [0, 1, 2, -1, 1, 1],
    [1, 0, 1, 0, -1, 2],
    [0, 1, 1, 2, -1, 0],
    [1, 0, 1, 0, -1, 0],
    [0, 1, 0, 2, -1, 0],
    [0, 1, 1, 0, -1, 2],
    [0, 0, 0, 0, -1, 0],
    [0, 0, 1, 0, -1, 0],
]


def dummy(plink2: str, folder: Path, *kinds: str, n_samples: int = 11, n_variants: int = 40) -> Path:
    run(plink2, "--dummy", n_samples, n_variants, 0.1, *kinds, "--seed", 4, "--make-pgen", "--out", folder / "d")
    return folder / "d.pgen"


def test_sites_with_several_alleles_are_split(program: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "m.vcf").write_text(SITES)
    run(program("plink2"), "--vcf", tmp_path / "m.vcf", "--make-pgen", "--out", tmp_path / "m")
    with closing(PgenGenotypes(tmp_path / "m.pgen")) as source:
        assert source.build == "GRCh38"
        assert source.variants["variant_id"].to_list() == ["a", "b", "b", "c", "c", "c", "d", "1:50:A:<DEL>"]
        assert source.variants["effect_allele"].to_list() == ["G", "G", "T", "G", "T", "C", ".", "<DEL>"]
        np.testing.assert_array_equal(source.read(np.arange(8)).counts, SPLIT)
        rows, people = np.array([2, 4, 5, 7]), np.array([3, 0, 2])
        np.testing.assert_array_equal(source.read(rows, people).counts, np.array(SPLIT)[rows][:, people])
        assert source.notes[0].startswith("2 sites with several ALT alleles were split")
    with pytest.raises(StudyError, match="genome build"):
        PgenGenotypes(tmp_path / "m.pgen", build="hg19")


@pytest.mark.parametrize(
    "kinds", [(), ("dosage-freq=0.2",), ("dosage-freq=0.2", "phase-freq=0.3")], ids=["calls", "dosages", "phased"]
)
@pytest.mark.parametrize("n_samples", [1, 4, 3000])
def test_headers(program: Callable[[str], str], tmp_path: Path, kinds: tuple[str, ...], n_samples: int) -> None:
    """Record lengths of one and of several bytes, types of four and of eight bits; 70,000 variants take two groups."""
    header = read_header(dummy(program("plink2"), tmp_path, *kinds, n_samples=n_samples, n_variants=50))
    assert (header.n_variants, header.n_samples, header.dosages) == (50, n_samples, bool(kinds))


def test_more_variants_than_one_group_of_the_header(program: Callable[[str], str], tmp_path: Path) -> None:
    path = dummy(program("plink2"), tmp_path, "dosage-freq=0.01", n_samples=3, n_variants=70_000)
    with closing(PgenGenotypes(path)) as source:
        assert source.scale == DOSAGE_SCALE
        run(program("plink2"), "--pfile", path.with_suffix(""), "--freq", "--out", tmp_path / "f")
        theirs = pl.read_csv(tmp_path / "f.afreq", separator="\t", null_values="nan", schema_overrides={"ALT_FREQS": pl.Float64})
        rows = np.arange(65_000, 70_000)
        counts = source.read(rows).counts.astype(float)
        with np.errstate(invalid="ignore"):
            ours = np.where(counts < 0, 0, counts).sum(axis=1) / (counts >= 0).sum(axis=1) / 2 / DOSAGE_SCALE
        np.testing.assert_allclose(ours, theirs["ALT_FREQS"].to_numpy()[rows], atol=2e-6)
    whole = path.read_bytes()
    for size in (12 + 2 * 8 - 1, 12 + 2 * 8 + 65_536 + 5, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match="cut off"):
            read_header(path)


def test_haploid_calls_count_as_plink2_counts_them(program: Callable[[str], str], tmp_path: Path) -> None:
    lines = [*SITES.splitlines()[:4], "X\t50000000\tx\tA\tG\t.\t.\t.\tGT\t0/0\t1\t0\t./.\t.\t1|0"]
    (tmp_path / "x.vcf").write_text("\n".join(lines).replace("ID=1", "ID=X") + "\n")
    (tmp_path / "x.psam.in").write_text("#IID SEX\ns1 2\ns2 1\ns3 1\ns4 2\ns5 1\ns6 2\n")
    inputs = ("--vcf", tmp_path / "x.vcf", "--psam", tmp_path / "x.psam.in")
    run(program("plink2"), *inputs, "--make-pgen", "--out", tmp_path / "x")
    with closing(PgenGenotypes(tmp_path / "x.pgen")) as source:
        assert source.samples["sex"].to_list() == ["female", "male", "male", "female", "male", "female"]
        ours = source.read(np.array([0])).counts
    np.testing.assert_array_equal(ours, [[0, 2, 0, -1, -1, 1]])
    theirs = copies(program("plink2"), ("--pfile", tmp_path / "x"), ["G"], tmp_path)
    np.testing.assert_array_equal(np.nan_to_num(theirs, nan=-1), ours)


@settings(max_examples=40)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    n_variants, n_samples = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    scale = data.draw(st.sampled_from([1, DOSAGE_SCALE]))
    kind = np.int8 if scale == 1 else np.int32
    counts = data.draw(hnp.arrays(kind, (n_variants, n_samples), elements=st.integers(-1, 2 * scale)))
    path = tmp_path_factory.mktemp("x") / "a.pgen"
    write_pgen(path, samples=people(n_samples), variants=variants(n_variants), blocks=[counts], scale=scale, build="GRCh38")
    with closing(PgenGenotypes(path)) as source:
        assert source.build == "GRCh38"
        assert source.samples.equals(people(n_samples))
        assert source.variants.equals(variants(n_variants))
        read = source.read(np.arange(n_variants))
        copies = read.counts.astype(np.int32)
        # A file in which no dosage lies between two calls comes back as hard calls.
        np.testing.assert_array_equal(np.where(copies < 0, -1, copies * (scale // read.scale)), counts)


def people(n: int) -> pl.DataFrame:
    return pl.DataFrame({"participant_id": [f"p{i}" for i in range(n)], "family_id": ["f"] * n, "sex": ["female"] * n})


def variants(n: int) -> pl.DataFrame:
    names = {"variant_id": [f"rs{i}" for i in range(n)], "chromosome": ["X"] * n, "position": list(range(n))}
    return pl.DataFrame({**names, "effect_allele": ["AC"] * n, "other_allele": ["A"] * n})


@pytest.mark.parametrize(
    ("rows", "counts", "scale", "says"),
    [
        (3, np.full((3, 5), 3, np.int8), 1, "a count is −1"),
        (3, np.full((3, 5), 600, np.int32), 255, "0 to 510"),
        (3, np.zeros((2, 5), np.int8), 1, "do not fit the variants table"),
        (3, np.zeros((4, 5), np.int8), 1, "do not fit the variants table"),
        (3, np.zeros((3, 4), np.int8), 1, "does not fit 5 samples"),
    ],
)
def test_nothing_half_written(tmp_path: Path, rows: int, counts: np.ndarray, scale: int, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        write_pgen(tmp_path / "b.pgen", samples=people(5), variants=variants(rows), blocks=[counts], scale=scale)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "text", "says"),
    [
        (".pvar", "", "the file is empty"),
        (".pvar", "#CHROM\tPOS\tID\tREF\n1\t1\ta\tA\n", "lacks ALT"),
        (".pvar", "#CHROM\tPOS\tID\tREF\tALT\n1\tx\ta\tA\tC\n", "not a whole number"),
        (".pvar", "##a\n#CHROM\tPOS\tID\tREF\tALT\n1\t1\ta\tA\tC\n1\t2\n", "line 4"),
        (".pvar", "#CHROM\tPOS\tID\tREF\tALT\n1\t1\ta\tA\tC\n", "the number of variants is not that of the .pgen"),
        (".psam", "#IID\tSEX\na\t1\nb\t2\n", "the number of samples is not that of the .pgen"),
        (".psam", "#FID\tSEX\na\t1\nb\t2\n", "lacks IID"),
        (".psam", "", "the file is empty"),
    ],
)
def test_companions_that_do_not_fit(program: Callable[[str], str], tmp_path: Path, suffix: str, text: str, says: str) -> None:
    path = dummy(program("plink2"), tmp_path)
    path.with_suffix(suffix).write_text(text)
    with pytest.raises(FormatError, match=says) as error:
        PgenGenotypes(path)
    assert str(path.with_suffix(suffix)) in str(error.value)


def test_a_pvar_and_psam_without_header(program: Callable[[str], str], tmp_path: Path) -> None:
    path = dummy(program("plink2"), tmp_path, n_samples=2, n_variants=3)
    path.with_suffix(".pvar").write_text("1\tv1\t5\tA\tG\n1\tv2\t-3\tA\tG\n1\tv3\t9\tT\tC\n")
    path.with_suffix(".psam").write_text("f1 a 0 0 1 -9\nf2 b 0 0 2 -9\n")
    with closing(PgenGenotypes(path)) as source:
        assert source.variants.rows() == [("v1", "1", 5, "A", "G"), ("v3", "1", 9, "T", "C")]
        assert source.samples.rows() == [("a", "f1", "male"), ("b", "f2", "female")]
        assert source.notes == ("1 variants with a negative position were left out, as PLINK does",)
        assert source.read(np.array([0, 1])).counts.shape == (2, 2)
    path.with_suffix(".psam").write_text("f1 a 0 0 1 -9\nf2 a 0 0 2 -9\n")
    with pytest.raises(CohortError, match="same participant id"):
        PgenGenotypes(path)


def test_the_imputation_quality_of_a_pvar(program: Callable[[str], str], tmp_path: Path) -> None:
    path = dummy(program("plink2"), tmp_path, n_samples=2, n_variants=3)
    header = '##INFO=<ID=R2,Number=1,Type=Float,Description="quality">\n#CHROM\tPOS\tID\tREF\tALT\tINFO\n'
    path.with_suffix(".pvar").write_text(header + "1\t1\ta\tA\tG\tER2=0.1;R2=0.75\n1\t2\tb\tA\tG\t.\n1\t3\tc\tA\tG\tR2=1\n")
    with closing(PgenGenotypes(path)) as source:
        assert source.variants["info"].to_list() == [0.75, None, 1.0]


def test_a_cut_off_pvar_zst(program: Callable[[str], str], tmp_path: Path) -> None:
    run(program("plink2"), "--dummy", 5, 3000, "--make-pgen", "vzs", "--out", tmp_path / "z")
    path = tmp_path / "z.pvar.zst"
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError) as error:
            PgenGenotypes(tmp_path / "z.pgen")
        assert str(path) in str(error.value)


def test_kinds_that_are_not_read(program: Callable[[str], str], tmp_path: Path) -> None:
    path = dummy(program("plink2"), tmp_path)
    whole = bytearray(path.read_bytes())
    for mode, says in ((0x01, r"PLINK 1 \.bed"), (0x20, "pgi"), (0x33, "0x33")):
        whole[2] = mode
        path.write_bytes(whole)
        with pytest.raises(FormatError, match=says):
            PgenGenotypes(path)


def test_a_companion_that_is_not_there(program: Callable[[str], str], tmp_path: Path) -> None:
    path = dummy(program("plink2"), tmp_path)
    path.with_suffix(".psam").unlink()
    with pytest.raises(FormatError, match=r"the \.psam that belongs to the genotypes is not there"):
        PgenGenotypes(path)
