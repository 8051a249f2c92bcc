"""`clinome gwas` as a user types it: what it writes, what it says, and one clear error for each kind of bad input."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.biobank import CAUSAL, Files, write_files
from toolkit.command import Said, say
from toolkit.plink2 import run as run_program

from clinome.formats.genotype_files import open_genotypes
from clinome.formats.plink import write_plink
from clinome.formats.sumstats import read_sumstats
from clinome.genetics.results import Results


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "data")


@pytest.fixture
def gwas(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command on the tiny study, options replaced by those given; None leaves one out."""

    def call(*flags: object, **options: object) -> Said:
        plain = {"genotypes": files.genotypes, "phenotypes": files.traits, "covariates": files.covariates, "out": tmp_path / "out"}
        words = [
            w for name, value in (plain | options).items() if value is not None for w in (f"--{name.replace('_', '-')}", value)
        ]
        return say(["gwas", *words, *flags], monkeypatch, capsys)

    return call


def traits_of(files: Files) -> pl.DataFrame:
    return pl.read_csv(files.traits, separator="\t", null_values="NA")


def covariates_of(files: Files) -> pl.DataFrame:
    return pl.read_csv(files.covariates, separator="\t")


def saved(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_csv(path, separator="\t", null_value="NA")
    return path


def results_in(folder: Path) -> list[str]:
    """Name every file that a reader could take for a result."""
    return sorted(p.name for p in folder.glob("*") if p.name.endswith((".tsv.gz", ".html", ".tsv"))) if folder.is_dir() else []


# --- what it writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "effect_column"), [("gwas-ssf", "effect_allele"), ("regenie", "ALLELE1"), ("plink2", "A1")])
def test_an_export_is_one_file_a_trait_whatever_its_name(
    layout: str, effect_column: str, gwas: Callable[..., Said], files: Files, tmp_path: Path
) -> None:
    plain = traits_of(files)
    awkward = plain.select(
        "IID",
        pl.col("height").alias("a/b"),
        pl.col("height").alias("HDL (mmol/L)"),
        (pl.col("height") + 1).alias("x"),
        (pl.col("weight") - 1).alias("X"),
        pl.col("weight").alias("größe, cm"),
    )
    said = gwas(phenotypes=saved(awkward, tmp_path / "awkward.tsv"), export=layout)
    assert said.code == 0, said.err
    names = pl.read_csv(tmp_path / "out" / "traits.tsv", separator="\t")
    assert names["trait"].to_list() == ["a/b", "HDL (mmol/L)", "x", "X", "größe, cm"]
    stems = [file.removesuffix(f".{layout}.tsv.gz") for file in names["file"]]
    assert stems == ["a_b", "HDL_mmol_L", "x", "X_2", "größe_cm"]
    for file, trait in zip(names["file"], names["trait"], strict=True):
        with gzip.open(tmp_path / "out" / file, "rt") as text:
            assert effect_column in text.readline().split()
        frame = read_sumstats(tmp_path / "out" / file)
        assert frame.height == 120
        if trait in ("a/b", "HDL (mmol/L)", "x"):
            assert frame.sort("neg_log_10_p_value")["variant_id"][-1] == f"v{CAUSAL}"
    assert f"report: {tmp_path / 'out' / 'report.html'}" in said.out
    assert "loci: 1" in said.out


def test_text_of_another_scan_does_not_stay(gwas: Callable[..., Said], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gwas(export="gwas-ssf").code == 0
    assert gwas(export="regenie").code == 0
    assert gwas().code == 0  # the same scan: what was written from it stays
    written = sorted(p.name for p in out.glob("*.tsv.gz*"))
    assert any(name.endswith("-meta.yaml") for name in written)
    assert gwas(export="regenie", covariates=None).code == 0
    assert sorted(p.name for p in out.glob("*.tsv.gz*")) == [name for name in written if "regenie" in name]
    assert set(pl.read_csv(out / "traits.tsv", separator="\t")["file"]) == {name for name in written if "regenie" in name}
    assert gwas(statistic="score").code == 0
    assert not list(out.glob("*.tsv*"))
    assert not list(out.glob("export-*"))


def test_chosen_traits_alone_and_files_of_the_scan_before_are_gone(gwas: Callable[..., Said], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gwas(export="regenie").code == 0
    assert gwas(export="plink2").code == 0
    assert pl.read_csv(out / "traits.tsv", separator="\t").height == 4
    assert gwas(export="regenie", traits="height").code == 0
    assert [name for name in results_in(out) if "regenie" in name] == ["height.regenie.tsv.gz"]
    names = pl.read_csv(out / "traits.tsv", separator="\t")
    assert names.filter(pl.col("file").str.contains("regenie")).rows() == [("height", "height.regenie.tsv.gz")]


def test_a_users_own_traits_table_is_never_written_over(gwas: Callable[..., Said], files: Files) -> None:
    before = files.traits.read_bytes()
    assert files.traits.name == "traits.tsv"
    said = gwas(out=files.traits.parent, export="regenie")
    assert said.code == 1
    assert "a file of another kind has the name of the table of exported traits" in said.err
    assert files.traits.read_bytes() == before
    assert not list(files.traits.parent.glob("*.regenie.tsv.gz"))


def test_a_users_own_folder_is_never_emptied(gwas: Callable[..., Said], files: Files) -> None:
    mine = files.traits.parent / "phenotypes" / "years_of_work.csv"
    mine.parent.mkdir()
    mine.write_text("precious")
    said = gwas(out=files.traits.parent)
    assert said.code == 1
    assert "a folder named 'phenotypes' is there that no study has made" in said.err
    assert mine.read_text() == "precious"


def test_files_over_chromosomes_equal_one_file(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    whole = open_genotypes(files.genotypes)
    for chromosome in ("1", "2"):
        rows = (whole.variants["chromosome"] == chromosome).arg_true().to_numpy().astype(np.int64)
        path = tmp_path / f"chr{chromosome}.bed"
        write_plink(path, samples=whole.samples, variants=whole.variants[rows], blocks=[whole.read(rows).counts.astype(np.int8)])
    assert gwas(export="regenie", out=tmp_path / "one").code == 0
    assert gwas(export="regenie", out=tmp_path / "many", genotypes=tmp_path / "chr*.bed").code == 0
    for name in ("height.regenie.tsv.gz", "weight.regenie.tsv.gz"):
        one, many = (gzip.decompress((tmp_path / folder / name).read_bytes()) for folder in ("one", "many"))
        assert one == many


def test_a_second_run_does_nothing_again_and_writes_the_same(gwas: Callable[..., Said], tmp_path: Path) -> None:
    assert gwas(export="gwas-ssf").code == 0
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.suffix in (".arrow", ".parquet", ".gz")}
    kept = {p: when for p, when in kept.items() if p.name not in ("flow.parquet", "exclusions.parquet")}  # the report's, each time
    assert len(kept) > 12
    assert gwas(export="gwas-ssf").code == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_lists_of_people(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    ids = traits_of(files)["IID"].to_list()
    (tmp_path / "keep.txt").write_text("\n".join(ids[:200]) + "\n")
    (tmp_path / "remove.txt").write_text("\n".join(f"{i} {i}" for i in ids[190:]) + "\n")
    said = gwas(keep=tmp_path / "keep.txt", remove=tmp_path / "remove.txt", export="regenie")
    assert "participants analysed: 190" in said.out
    assert read_sumstats(tmp_path / "out" / "height.regenie.tsv.gz")["n"].unique().to_list() == [190]
    (tmp_path / "remove.txt").write_text("\n".join(f"UKB-{i}" for i in ids[190:]) + "\n")
    said = gwas(remove=tmp_path / "remove.txt")
    assert "110 of 110 people in the remove list are not in the genotypes: remove list seems to have the prefix 'UKB-'" in said.err


def test_people_named_by_their_families_are_told_so(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    fam = files.genotypes.with_suffix(".fam")
    lines = [line.split() for line in fam.read_text().splitlines()]
    fam.write_text("".join(" ".join([f"family{i}", *line[1:]]) + "\n" for i, line in enumerate(lines)))
    named = traits_of(files).with_columns(IID=pl.Series([f"family{i}" for i in range(300)]))
    said = gwas(phenotypes=saved(named, tmp_path / "named.tsv"))
    assert_refused(said, tmp_path / "out", "the phenotypes name people by their families (FID)", "300 of 300 are family ids")


def test_few_matching_people_are_warned_of_without_naming_anybody(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    some = traits_of(files).with_columns(
        IID=pl.when(pl.int_range(300) < 30).then("IID").otherwise(pl.format("{}_{}", "IID", "IID"))
    )
    said = gwas(phenotypes=saved(some, tmp_path / "joined.tsv"))
    assert said.code == 0
    assert "note: identifiers look like aaaaaa9999 in the genotypes and like aaaaaa9999_aaaaaa9999 in the phenotypes" in said.err
    assert "phenotypes seems to join FID and IID: 300 of 300 would match; keep the part after the '_' in phenotypes" in said.err
    for name in ("summary.json", "report.html", "provenance.json"):
        assert "person0200" not in (tmp_path / "out" / name).read_text()


def test_missing_genotypes_are_the_mean_or_left_out(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    missing = (files.counts < 0).sum(axis=1)
    for how in ("mean", "drop"):
        assert gwas(missing_genotypes=how, export="regenie", out=tmp_path / how).code == 0
        n = read_sumstats(tmp_path / how / "height.regenie.tsv.gz")["n"].to_numpy()
        np.testing.assert_array_equal(n, 300 - missing * (how == "drop"))


def test_people_with_a_missing_covariate_are_left_out_and_counted(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    gaps = covariates_of(files).with_columns(age=pl.when(pl.int_range(pl.len()) < 4).then(float("nan")).otherwise("age"))
    said = gwas(covariates=saved(gaps, tmp_path / "gaps.tsv"))
    assert said.code == 0
    assert "participants analysed: 296" in said.out
    assert "note: 4 people lack a covariate and are left out" in said.err


def test_zero_one_traits_are_linear_and_it_is_said(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    binary = traits_of(files).select("IID", (pl.col("height") > pl.col("height").median()).cast(pl.Int8).alias("tall"))
    said = gwas(phenotypes=saved(binary, tmp_path / "binary.tsv"))
    assert said.code == 0
    assert "two values (tall) and is analysed by the linear model: betas are risk differences per allele" in said.err


@pytest.mark.slow
def test_as_a_process_it_is_quiet_and_its_exit_code_tells(files: Files, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "clinome", "gwas", "--genotypes", files.genotypes, "--out", tmp_path / "out"]
    good = subprocess.run([*words, "--phenotypes", files.traits, "--quiet"], capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert good.stderr == ""
    assert good.stdout.startswith("participants analysed: 300\n")
    bad = subprocess.run([*words, "--phenotypes", tmp_path / "none.tsv"], capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: there is no such file\n")
    assert "Traceback" not in bad.stderr
    usage = subprocess.run([*words, "--export", "saige", "--phenotypes", files.traits], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert "'gwas-ssf', 'regenie', 'plink2'" in usage.stderr


def test_chosen_variants_are_scanned_as_in_the_whole_scan(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    (tmp_path / "extract.txt").write_text("\n".join(f"v{i}" for i in range(30, 70)) + "\nv999\n")
    (tmp_path / "exclude.txt").write_text("v45\n")
    (tmp_path / "part.bed").write_text("chr1\t35999999\t46000000\n")
    assert gwas(export="regenie", out=tmp_path / "whole").code == 0
    lists = {"extract": tmp_path / "extract.txt", "exclude": tmp_path / "exclude.txt"}
    said = gwas("--region", "2:1-3000000", intervals=tmp_path / "part.bed", export="regenie", **lists)
    assert said.code == 0, said.err
    assert "variants scanned: 13" in said.out  # v35 … v44 and v60 … v62
    assert "note: 13 of 120 variants are chosen by lists or regions" in said.err
    assert "note: 1 of 41 ids in extract.txt are not in the genotypes (such as 'v999')" in said.err
    whole = read_sumstats(tmp_path / "whole" / "height.regenie.tsv.gz")
    part = read_sumstats(tmp_path / "out" / "height.regenie.tsv.gz")
    assert part["variant_id"].to_list() == [f"v{i}" for i in (*range(35, 45), 60, 61, 62)]
    assert part.equals(whole.filter(pl.col("variant_id").is_in(part["variant_id"].implode())))
    assert "chosen by lists or regions" in (tmp_path / "out" / "report.html").read_text()
    assert gwas("--region", "1", out=tmp_path / "out").code == 0  # another choice of variants is another scan
    assert pl.read_parquet(tmp_path / "out" / "gwas" / "variants.parquet").height == 60


def test_a_conditional_scan_has_no_signal_left_at_its_variant(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    assert "loci: 1" in gwas().out
    said = gwas(condition=f"v{CAUSAL}, v3", export="regenie")
    assert said.code == 0, said.err
    assert "loci: 0" in said.out
    gaps = "; ".join(f"v{i}_A {(files.counts[i] < 0).sum()}" for i in (3, CAUSAL) if (files.counts[i] < 0).any())
    assert f"take the mean of the other people ({gaps})" in said.err
    assert "conditional on chosen variants" in (tmp_path / "out" / "report.html").read_text()
    covariates = pl.read_parquet(tmp_path / "out" / "traits" / "covariates.parquet").columns
    assert covariates[-2:] == ["v3_A", f"v{CAUSAL}_A"]
    by_commas = (tmp_path / "out" / "height.regenie.tsv.gz").read_bytes()
    (tmp_path / "list.txt").write_text(f"ID\nv{CAUSAL}\nv3\n")
    assert gwas(condition_list=tmp_path / "list.txt", export="regenie", out=tmp_path / "list").code == 0
    assert (tmp_path / "list" / "height.regenie.tsv.gz").read_bytes() == by_commas
    said = gwas(condition=f"v{CAUSAL},v3", missing_genotypes="drop", out=tmp_path / "drop")
    lacking = int((files.counts[[3, CAUSAL]] < 0).any(axis=0).sum())
    assert lacking > 0
    assert f"participants analysed: {300 - lacking}" in said.out
    flow = pl.read_parquet(tmp_path / "drop" / "flow.parquet").filter(pl.col("stage") == "conditioning")
    assert flow["dropped"].to_list() == [lacking]


def test_effects_that_change_with_a_covariate(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    age = covariates_of(files)["age"].to_numpy()
    grows = np.maximum(files.counts[7], 0) * (age - 55) * 0.15 + np.random.default_rng(5).normal(size=300) * np.exp(
        0.08 * (age - 55)
    )
    traits = traits_of(files).with_columns(pl.Series("growth", grows))
    phenotypes = saved(traits, tmp_path / "growth.tsv")
    said = gwas(phenotypes=phenotypes, interaction="age", export="regenie")
    assert said.code == 0, said.err
    assert "loci: 2" in said.out
    assert "the variance of 1 trait changes with age" in said.err
    loci = pl.read_parquet(tmp_path / "out" / "loci" / "loci.parquet")
    assert loci.select("variant_id", "best_trait").rows() == [("v7", "growth×age"), (f"v{CAUSAL}", "height")]
    effect = read_sumstats(tmp_path / "out" / "growth_age.regenie.tsv.gz").filter(pl.col("variant_id") == "v7")
    assert effect["beta"][0] == pytest.approx(0.15, abs=3 * effect["standard_error"][0])  # per year, not per standard deviation
    found = pl.read_parquet(tmp_path / "out" / "gwas" / "interactions.parquet")
    assert found.select("variant_id", "trait").rows() == [(f"v{CAUSAL}", "height"), ("v7", "growth")]
    assert "the interaction of the variant with age" in (tmp_path / "out" / "report.html").read_text()
    plain = gwas(phenotypes=phenotypes, export="regenie", out=tmp_path / "plain")
    assert plain.code == 0
    assert all(
        gzip.decompress((tmp_path / out / "growth.regenie.tsv.gz").read_bytes())
        == gzip.decompress((tmp_path / "plain" / "growth.regenie.tsv.gz").read_bytes())
        for out in ("out", "plain")
    )
    two = covariates_of(files).with_columns(pl.col("sex").replace_strict({0: "f", 1: "m"}))
    assert gwas(covariates=saved(two, tmp_path / "words.tsv"), interaction="sex", out=tmp_path / "sex").code == 0
    names = pl.read_parquet(tmp_path / "sex" / "gwas" / "traits.parquet")["trait"].to_list()
    assert names[2:] in (["height×sex=m", "weight×sex=m"], ["height×sex=f", "weight×sex=f"])


def test_traits_that_cannot_be_analysed_are_left_out_and_named(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    """REGENIE ends a run of thousands of traits for one of these; it must cost itself alone, and no other trait a bit."""
    good = traits_of(files)
    spoilt = good.select(
        "IID",
        pl.lit(4.0).alias("same"),
        "height",
        pl.lit(None, pl.Float64).alias("gone"),
        (covariates_of(files)["age"] * 2 + 7).alias("older"),
        "weight",
        pl.when(pl.int_range(300) < 6).then("height").alias("few"),
        *(pl.lit(float(k)).alias(f"more{k}") for k in range(8)),
    )
    assert gwas("--omnibus", export="regenie", out=tmp_path / "plain").code == 0
    said = gwas("--omnibus", phenotypes=saved(spoilt, tmp_path / "spoilt.tsv"), export="regenie")
    assert said.code == 0, said.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (note,) = [note for note in summary["notes"] if "left out and cannot be analysed" in note]
    assert f"note: {note}" in said.err
    assert note.startswith(
        "12 traits are left out and cannot be analysed: same: constant (4); gone: all missing; more0: constant (0); "
    )
    assert note.endswith("; more7: constant (7); …")  # ten are named
    assert summary["n_traits"] == 2
    few = gwas(phenotypes=saved(spoilt.drop("^more.$"), tmp_path / "fewer.tsv"), out=tmp_path / "fewer")
    assert "few: 6 values for 4 covariates; older: an exact linear combination of the covariates" in few.err
    for name in ("height", "weight"):
        text = [gzip.decompress((tmp_path / out / f"{name}.regenie.tsv.gz").read_bytes()) for out in ("out", "plain")]
        assert text[0] == text[1]
    shards = [pl.read_ipc(tmp_path / out / "gwas" / "shards" / "000000.arrow") for out in ("out", "plain")]
    assert shards[0].equals(shards[1])
    assert pl.read_parquet(tmp_path / "out" / "flow.parquet").equals(pl.read_parquet(tmp_path / "plain" / "flow.parquet"))


# --- bad input: one clear error, nothing half-written ---------------------------------------------------------------------------


def assert_refused(said: Said, out: Path, *words: str) -> None:
    assert said.code == 1
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err
    assert results_in(out) == []
    assert not [p for p in out.rglob("*") if ".partial." in p.name]


TRAITS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], tuple[str, ...]]] = {
    "no overlap": (
        lambda t: t.with_columns(IID=pl.lit("UKB") + pl.col("IID")),
        ("nobody is in all sources", "phenotypes seems to have the prefix 'UKB'", "300 of 300 would match"),
    ),
    "joined ids": (lambda t: t.with_columns(IID=pl.format("{}_{}", "IID", "IID")), ("seems to join FID and IID",)),
    "duplicated ids": (lambda t: t.vstack(t[:2]), ("people have more than one row", "bad.tsv", "person000")),
    "all missing alone": (lambda t: t.select("IID", gone=pl.lit(None, pl.Float64)), ("no trait has a value", "gone: all missing")),
    "constant": (lambda t: t.select("IID", same=pl.lit(4.0)), ("a trait cannot be analysed", "same: constant (4)", "--traits")),
    "none that can be analysed": (
        lambda t: t.select("IID", same=pl.lit(4.0), few=pl.when(pl.int_range(300) < 5).then("height")),
        ("2 traits cannot be analysed", "same: constant (4); few: 5 values for 4 covariates"),
    ),
    "infinite": (lambda t: t.with_columns(height=pl.lit(float("inf"))), ("'height' holds a value that is not finite", "line 2")),
    "text": (lambda t: t.with_columns(height=pl.lit("tall")), ("trait 'height' holds text", "'tall'", "line 2")),
    "no trait": (lambda t: t.select("IID"), ("the table of traits holds no trait", "bad.tsv")),
    "no ids": (lambda t: t.drop("IID"), ("bad.tsv", "participant_id")),
    "few people": (lambda t: t[:6], ("height: 6 values for", "more people than covariates")),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAITS)
def test_bad_traits(case: str, gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    change, words = TRAITS[case]
    said = gwas(phenotypes=saved(change(traits_of(files)), tmp_path / "bad.tsv"), export="regenie")
    assert_refused(said, tmp_path / "out", *words)


def test_bad_covariates(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    good = covariates_of(files)
    infinite = saved(
        good.with_columns(age=pl.when(pl.int_range(300) == 5).then(float("inf")).otherwise("age")), tmp_path / "bad.tsv"
    )
    assert_refused(gwas(covariates=infinite), tmp_path / "out", "'age' holds a value that is not finite", "bad.tsv, line 7")
    traits = traits_of(files).select("IID", copy="height")
    same = saved(good.join(traits, on="IID"), tmp_path / "same.tsv")
    said = gwas(covariates=same, traits="height")
    assert_refused(said, tmp_path / "out", "a trait cannot be analysed", "height: an exact linear combination of the covariates")
    assert_refused(gwas("--categorical", "centr"), tmp_path / "out", "there is no covariate 'centr'", "age, sex, centre")


def test_names_that_are_not_there_are_answered_with_near_ones(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", files.traits.parent
    assert_refused(gwas(traits="hieght"), out, "no column 'hieght'", "did you mean height")
    assert_refused(gwas(genotypes=folder / "cohrt.bed"), out, "there is no such file", "names there: cohort.bed")
    assert_refused(gwas(phenotypes=folder), out, "this is a folder, not a file", str(folder), "name a file in it")
    assert_refused(gwas(genotypes=folder / "cohort"), out, "a prefix is not enough", "cohort.bed")
    assert_refused(gwas(genotypes=folder / "chr*.bed"), out, "no file matches the pattern")
    assert_refused(gwas(phenotypes=folder / "trait.tsv"), out, "there is no such file", "names there: traits.tsv")
    assert_refused(gwas(covariates=folder / "covariate.tsv"), out, "names there: covariates.tsv")
    assert_refused(gwas(keep=tmp_path / "nobody.txt"), out, "there is no such file", "nobody.txt")
    assert_refused(gwas(genotypes=files.traits), out, "this is no genotype file that can be read", ".bed, .pgen, .bgen, .vcf")
    (tmp_path / "keep.txt").write_text("somebody\n")
    assert_refused(gwas(keep=tmp_path / "keep.txt"), out, "nobody is in all sources", "keep list: 1 people, 1 not in the genotypes")
    assert_refused(gwas(build="the new one"), out, "this is no name of a genome build", "'the new one'", "GRCh38")
    assert_refused(gwas(region="1:9-5"), out, "one of the regions ends before it starts", "'1:9-5'")
    assert_refused(gwas(region="7:1-9"), out, "no variant lies in the region", "'7:1-9'", "chromosomes of the genotypes (1, 2)")
    assert_refused(gwas(extract=files.traits), out, "no variant has one of these ids", "'person0000'", "'v0'", "traits.tsv")
    assert_refused(gwas(condition="rs1"), out, "no variant has one of these ids", "the variants to condition on", "'rs1'")
    assert_refused(gwas(interaction="aeg"), out, "no covariate 'aeg' to interact with; did you mean 'age'?", "age, sex, centre")
    assert_refused(gwas(interaction="age", covariates=None), out, "no covariate 'age' to interact with", "no covariates")
    assert_refused(gwas(interaction="centre"), out, "the covariate 'centre' cannot interact", "3 levels")
    assert_refused(gwas(intervals=files.genotypes), out, "this is a PLINK .bed of genotypes")
    assert_refused(gwas(hwe=-1), out, "the filter hwe is out of range", "0 to 1")
    assert_refused(gwas(maf=0.7), out, "the filter maf is out of range", "0 to 0.5")


def test_a_folder_that_cannot_be_written(gwas: Callable[..., Said], files: Files) -> None:
    for out in (files.traits / "under", files.traits):
        said = gwas(out=out, export="regenie")
        assert said.code == 1
        assert said.err.startswith("error: the result cannot be written")
        assert str(files.traits) in said.err
    assert traits_of(files).height == 300


@pytest.mark.parametrize("suffix", ["bed", "pgen", "bgen", "vcf.gz"])
@pytest.mark.parametrize("harm", ["truncated", "wrong magic"])
def test_broken_genotypes(
    suffix: str, harm: str, gwas: Callable[..., Said], files: Files, program: Callable[[str], str], tmp_path: Path
) -> None:
    made = files.genotypes.with_suffix(f".{suffix}")
    how = {
        "bed": (),
        "pgen": ("--make-pgen",),
        "bgen": ("--export", "bgen-1.2"),
        "vcf.gz": ("--export", "vcf", "bgz", "id-paste=iid"),
    }
    if how[suffix]:
        prefix = files.genotypes.with_suffix("")
        run_program(program("plink2"), "--bfile", prefix, *how[suffix], "--out", prefix, "--threads", 1)
    assert gwas(genotypes=made, out=tmp_path / "good").code == 0
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) * 2 // 3] if harm == "truncated" else b"XYZW" + whole[4:])
    assert_refused(gwas(genotypes=made, export="regenie"), tmp_path / "out", made.name)


def test_samples_of_another_length(gwas: Callable[..., Said], files: Files, program: Callable[[str], str], tmp_path: Path) -> None:
    prefix = files.genotypes.with_suffix("")
    run_program(program("plink2"), "--bfile", prefix, "--export", "bgen-1.2", "--out", prefix, "--threads", 1)
    for path in (prefix.with_suffix(".sample"), prefix.with_suffix(".fam")):
        path.write_text("\n".join(path.read_text().splitlines()[:-5]) + "\n")
    said = gwas(genotypes=prefix.with_suffix(".bgen"), sample=prefix.with_suffix(".sample"))
    assert_refused(said, tmp_path / "out", "the .sample belongs to another BGEN", "295 people", "300")
    assert_refused(gwas(), tmp_path / "out", "too long for its .bim and .fam", "295 people")


def test_regenies_approximation_is_said_on_the_page_and_differs(gwas: Callable[..., Said], files: Files, tmp_path: Path) -> None:
    gaps = traits_of(files).with_columns(weight=pl.when(pl.int_range(pl.len()) % 9 > 0).then("weight"))
    phenotypes = saved(gaps, tmp_path / "gaps.tsv")
    frames = []
    for word in ("exact", "regenie"):
        said = gwas(phenotypes=phenotypes, ragged_traits=word, out=tmp_path / word)
        assert said.code == 0, said.err
        frames.append(Results(tmp_path / word / "gwas").trait("weight"))
        assert ("as REGENIE approximates it" in (tmp_path / word / "report.html").read_text()) == (word == "regenie")
    difference = ((frames[0]["beta"] - frames[1]["beta"]) / frames[0]["standard_error"]).abs().max()
    assert 1e-4 < difference < 0.5  # type: ignore[operator]
    refused = gwas(phenotypes=phenotypes, ragged_traits="regenie", missing_genotypes="drop", out=tmp_path / "no")
    assert_refused(refused, tmp_path / "no", "REGENIE's approximation puts the mean in place of a missing genotype")
