"""`clinome convert` as a user types it: genotypes as PLINK 2 would write them, statistics that survive the way there and back."""

from __future__ import annotations

import filecmp
import gzip
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toolkit.biobank import Files, write_files
from toolkit.command import Said, say
from toolkit.plink2 import copies
from toolkit.plink2 import run as run_program
from toolkit.store import store

from clinome.formats.genotype_files import open_genotypes
from clinome.formats.sumstats import LAYOUTS, Layout, read_sumstats
from clinome.genetics.association import associate
from clinome.genetics.results import Results


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "data", n=60, variants=50)


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command with the given options; a list repeats one."""

    def call(**options: object) -> Said:
        given = [(name, value) for name, some in options.items() for value in (some if isinstance(some, list) else [some])]
        words = [word for name, value in given for word in (f"--{name.replace('_', '-')}", value)]
        return say(["convert", *words], monkeypatch, capsys)

    return call


@pytest.fixture
def scan(files: Files, tmp_path: Path) -> Path:
    """A finished scan of two traits, as a study keeps it."""
    traits = pl.read_csv(files.traits, separator="\t", null_values="NA").rename({"IID": "participant_id"})
    with closing(open_genotypes(files.genotypes, build="GRCh38")) as source:
        associate(source, traits, out=tmp_path / "study" / "gwas")
    return tmp_path / "study"


def refused(said: Said, *parts: str) -> None:
    """Assert one clear error without a traceback and without a result."""
    assert said.code == 1
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err


# --- genotypes ------------------------------------------------------------------------------------------------------------------


def test_bed_to_pgen_and_back_is_the_same_file(files: Files, tmp_path: Path, convert: Callable[..., Said]) -> None:
    said = convert(genotypes=files.genotypes, out=tmp_path / "a.pgen")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"50 variants of 60 people: {tmp_path / 'a.pgen'}\n"
    assert convert(genotypes=tmp_path / "a.pgen", out=tmp_path / "b.bed").code == 0
    for suffix in (".bed", ".bim", ".fam"):
        assert filecmp.cmp(files.genotypes.with_suffix(suffix), tmp_path / f"b{suffix}", shallow=False), suffix


@pytest.mark.parametrize("suffix", [".bed", ".pgen"])
def test_what_is_kept_is_what_plink2_keeps(
    files: Files, tmp_path: Path, convert: Callable[..., Said], program: Callable[[str], str], suffix: str
) -> None:
    plink2 = program("plink2")
    (tmp_path / "keep").write_text("p50 person0050\np7 person0007\np8 person0008\nx nobody\n")
    (tmp_path / "extract").write_text("v33\nv4\nv5\n")
    said = convert(genotypes=files.genotypes, out=tmp_path / f"ours{suffix}", keep=tmp_path / "keep", extract=tmp_path / "extract")
    assert said.code == 0
    assert said.err == "note: 1 of the 4 people of keep are not in the genotypes\n"
    assert said.out.startswith("3 variants of 3 people")
    kind, flag = ("--make-bed", "--bfile") if suffix == ".bed" else ("--make-pgen", "--pfile")
    lists = ("--keep", tmp_path / "keep", "--extract", tmp_path / "extract")
    run_program(plink2, "--bfile", files.genotypes.with_suffix(""), *lists, kind, "--out", tmp_path / "theirs")
    if suffix == ".bed":
        assert filecmp.cmp(tmp_path / "ours.bed", tmp_path / "theirs.bed", shallow=False)
    with closing(open_genotypes(tmp_path / f"ours{suffix}")) as ours:
        assert ours.samples["participant_id"].to_list() == ["person0007", "person0008", "person0050"]
        assert ours.variants["variant_id"].to_list() == ["v4", "v5", "v33"]
        theirs = copies(plink2, (flag, tmp_path / "theirs"), ours.variants["effect_allele"], tmp_path)
        counts = ours.read(np.arange(3)).counts
        np.testing.assert_array_equal(np.where(counts < 0, np.nan, counts), theirs)
        np.testing.assert_array_equal(counts, files.counts[[4, 5, 33]][:, [7, 8, 50]])


def test_dosages_go_to_pgen_and_not_to_bed(real_data: Callable[[str], Path], tmp_path: Path, convert: Callable[..., Said]) -> None:
    bgen = real_data("regenie-example") / "example.bgen"
    assert convert(genotypes=bgen, out=tmp_path / "x.pgen").code == 0
    with closing(open_genotypes(bgen)) as source, closing(open_genotypes(tmp_path / "x.pgen")) as made:
        rows = np.arange(0, source.variants.height, 97)
        a, b = source.read(rows), made.read(rows)
        np.testing.assert_array_equal(a.counts < 0, b.counts < 0)
        assert np.abs(np.maximum(a.counts, 0) / a.scale - np.maximum(b.counts, 0) / b.scale).max() <= 1 / 16384
        assert source.variants["variant_id"].to_list() == made.variants["variant_id"].to_list()
    refused(convert(genotypes=bgen, out=tmp_path / "x.bed"), "a .bed holds hard calls only", "write a .pgen")
    assert not (tmp_path / "x.bed").exists()


def test_a_list_without_anybody_and_a_file_written_over_itself(files: Files, tmp_path: Path, convert: Callable[..., Said]) -> None:
    (tmp_path / "keep").write_text("0007\n")
    refused(convert(genotypes=files.genotypes, out=tmp_path / "x.bed", keep=tmp_path / "keep"), "'0007'", "ids like 'person0000'")
    before = files.genotypes.read_bytes()
    refused(convert(genotypes=files.genotypes, out=files.genotypes), "written over what it is made from")
    refused(convert(genotypes=files.genotypes, out=tmp_path / "x.vcf"), "cannot be written", ".bed or .pgen")
    assert files.genotypes.read_bytes() == before
    assert not list(tmp_path.glob("x.*"))


# --- summary statistics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("by_way_of", LAYOUTS)
def test_statistics_come_back_from_every_layout(
    scan: Path, tmp_path: Path, convert: Callable[..., Said], layout: Layout, by_way_of: Layout
) -> None:
    assert convert(results=scan, trait="height", layout=layout, out=tmp_path / "height.tsv.gz").code == 0
    said = convert(sumstats=tmp_path / "height.tsv.gz", layout=by_way_of, trait="height", out=tmp_path / "other.tsv.gz")
    assert said.out == f"50 variants: {tmp_path / 'other.tsv.gz'}\n"
    assert convert(sumstats=tmp_path / "other.tsv.gz", layout=layout, out=tmp_path / "again" / "height.tsv.gz").code == 0
    again = read_sumstats(tmp_path / "again" / "height.tsv.gz")
    # p is written with nine digits, so that a −log10 p near 0 comes back to 1e-9
    assert_frame_equal(again, Results(scan / "gwas").trait("height"), rel_tol=1e-7, abs_tol=1e-9)


def test_all_traits_of_a_folder_with_their_metadata(scan: Path, tmp_path: Path, convert: Callable[..., Said]) -> None:
    said = convert(results=scan, layout="gwas-ssf", out=tmp_path / "ssf")
    assert said.out.split() == [str(tmp_path / "ssf" / f"{t}.gwas-ssf.tsv.gz") for t in ("height", "weight")]
    assert pl.read_csv(tmp_path / "ssf" / "traits.tsv", separator="\t")["trait"].to_list() == ["height", "weight"]
    meta = (tmp_path / "ssf" / "weight.gwas-ssf.tsv.gz-meta.yaml").read_text()
    assert "GRCh38" in meta
    assert convert(results=scan / "gwas", trait="weight", layout="gwas-ssf", out=tmp_path / "one.tsv.gz").code == 0
    assert filecmp.cmp(tmp_path / "one.tsv.gz", tmp_path / "ssf" / "weight.gwas-ssf.tsv.gz", shallow=False)


def test_a_region_of_some_traits_up_to_a_p_value(tmp_path: Path, convert: Callable[..., Said]) -> None:
    """Trait names as people give them: with commas, blanks and slashes, and alike in capitals."""
    names = ["HDL, fasting", "HDL/LDL", "hdl ldl", "height"]
    t = np.random.default_rng(3).normal(size=(4, 600))
    results = store(tmp_path / "scan", t, names=names, chromosomes=["1"] * 300 + ["X"] * 300, shard_size=250)
    wanted = names[:3]
    given = {"results": tmp_path / "scan", "layout": "plink2", "trait": wanted, "p_value": 0.05}
    assert convert(**given, region=["chr1:200-280", "X:301-320"], out=tmp_path / "out").code == 0
    table = pl.read_csv(tmp_path / "out" / "traits.tsv", separator="\t")
    assert table["trait"].to_list() == wanted
    assert table["file"].str.to_lowercase().n_unique() == 3
    inside = pl.col("position").is_between(200, 280) | pl.col("position").is_between(301, 320)
    for name, file in table.iter_rows():
        expected = results.trait(name).filter(inside, pl.col("neg_log_10_p_value") >= -np.log10(0.05))
        assert expected.height > 0
        assert_frame_equal(read_sumstats(tmp_path / "out" / file, trait=name), expected, rel_tol=1e-7, abs_tol=1e-9)
    one = convert(results=tmp_path / "scan", layout="regenie", trait="height", p_value=1e-300, out=tmp_path / "none.tsv")
    assert one.code == 0
    assert read_sumstats(tmp_path / "none.tsv").height == 0
    refused(convert(**given | {"p_value": 0}, out=tmp_path / "x"), "largest p-value", "more than 0, at most 1")
    refused(convert(**given, region="2:1-10", out=tmp_path / "x"), "no variant lies in the region")


def test_the_programs_own_files_become_gwas_ssf(
    real_data: Callable[[str], Path], tmp_path: Path, convert: Callable[..., Said]
) -> None:
    theirs = real_data("hs-mice") / "expected-plink2" / "mice_q.Biochem.HDL.glm.linear.gz"
    assert convert(sumstats=theirs, layout="gwas-ssf", trait="HDL", out=tmp_path / "hdl.tsv.gz").code == 0
    with gzip.open(tmp_path / "hdl.tsv.gz", "rt") as file:
        assert file.readline().startswith("chromosome\tbase_pair_location\teffect_allele")
    assert_frame_equal(read_sumstats(tmp_path / "hdl.tsv.gz", trait="HDL"), read_sumstats(theirs, trait="HDL"), rel_tol=1e-8)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ("one source is converted at a time", "none")),
        ({"genotypes": "a.bed", "sumstats": "b.tsv"}, ("--genotypes and --sumstats",)),
        ({"genotypes": "a.bed", "layout": "regenie"}, ("--layout does not go with --genotypes",)),
        ({"results": "r", "layout": "regenie", "keep": "k"}, ("--keep does not go with --results",)),
        ({"genotypes": "a.bed", "region": "1:1-9"}, ("--region does not go with --genotypes",)),
        ({"sumstats": "b.tsv", "layout": "regenie", "p_value": 0.1}, ("--p-value does not go with --sumstats",)),
        ({"sumstats": "b.tsv", "layout": "regenie", "trait": ["a", "b"]}, ("holds one trait", "a, b")),
        ({"results": "r"}, ("--results needs a layout", "--layout gwas-ssf")),
        ({"sumstats": "nowhere.tsv", "layout": "regenie"}, ("nowhere.tsv",)),
        ({"results": "nowhere", "layout": "regenie"}, ("there is no finished scan here", "nowhere")),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path, convert: Callable[..., Said], options: dict[str, str], parts: tuple[str, ...]
) -> None:
    refused(convert(**options, out=tmp_path / "x"), *parts)
    assert not (tmp_path / "x").exists()


def test_a_trait_that_is_not_there_and_a_name_that_is_taken(scan: Path, tmp_path: Path, convert: Callable[..., Said]) -> None:
    out = tmp_path / "out.tsv.gz"
    refused(convert(results=scan, trait="heigth", layout="regenie", out=out), "no such trait", "expected: height")
    refused(convert(results=scan, trait="height", layout="regenie", out=scan), "not into a folder")
    refused(convert(results=scan, layout="regenie", out=out), "into a folder", "the name of a file", "one trait with --trait")
    assert not out.exists()
    assert convert(results=scan, trait="height", layout="regenie", out=out).code == 0
    before = out.read_bytes()
    refused(convert(sumstats=out, layout="plink2", out=out), "written over what it is made from")
    assert out.read_bytes() == before
