"""The studies of examples/ on real data: the genes that must come back, and the warning that must be said."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from clinome.formats.genotype_files import open_genotypes
from clinome.formats.picture import read_picture
from clinome.genetics.results import Results
from clinome.studies.discover import run_study
from clinome.studies.study_file import Study, read_study

ROOT = Path(__file__).parents[2]
MILLION = 1_000_000  # base pairs of soynam; hs-mice counts millionths of a centimorgan


@pytest.fixture
def prepared(real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Study]:
    """Return the study of an example whose data was prepared in a folder of the test's own."""

    def example(name: str) -> Study:
        monkeypatch.setenv("CLINOME_DATA", str(real_data("hs-mice" if name == "mouse-pictures" else name).parent))
        subprocess.run([sys.executable, ROOT / "examples" / "prepare", name, tmp_path], check=True)
        shutil.copy(ROOT / "examples" / name / "study.toml", tmp_path)
        return read_study(tmp_path / "study.toml")

    return example


def run(study: Study, out: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Run a study and return its summary and its loci, the strongest first."""
    summary = run_study(study, out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert study.study.title in page
    for warning in summary["warnings"]:
        assert warning.split(":")[0].split(",")[0] in page, "the page keeps a warning to itself"
    return summary, pl.read_parquet(out / "loci" / "loci.parquet").sort("neg_log_10_p_value", descending=True)


def strongest(loci: pl.DataFrame, trait: str) -> dict[str, Any]:
    """Return the strongest locus of a trait."""
    return loci.filter(pl.col("best_trait") == trait).row(0, named=True)


def near(loci: pl.DataFrame, gene: str, within: int) -> dict[str, Any]:
    """Return the strongest locus whose nearest gene is ``gene``, which must lie ``within`` it."""
    lead = loci.filter(pl.col("nearest_gene") == gene).row(0, named=True)
    assert lead["gene_distance"] <= within, lead
    return lead


def test_mice_give_back_their_genes_and_the_page_says_that_relatives_inflate(
    prepared: Callable[[str], Study], tmp_path: Path
) -> None:
    summary, loci = run(prepared("hs-mice"), tmp_path / "out")
    assert summary["n_participants"] == 1814
    assert summary["n_variants"] == 10_346
    for trait, gene, chromosome, within, strength in (
        ("albino", "Tyr", "7", 500_000, 262.5),
        ("black", "Tyrp1", "4", 500_000, 160.3),
        ("Biochem.ALP", "Alpl", "4", 500_000, 76.4),
        ("Biochem.HDL", "Apoa2", "1", 3 * MILLION, 55.1),  # the markers around Apoa2 lie 16 cM apart
    ):
        lead = strongest(loci, trait)
        assert (lead["nearest_gene"], lead["chromosome"]) == (gene, chromosome)
        assert lead["gene_distance"] <= within
        assert lead["neg_log_10_p_value"] == pytest.approx(strength, abs=0.1)
    assert near(loci, "a", 500_000)["best_trait"] == "black"  # black is black only without the agouti allele
    said = " ".join(summary["warnings"])
    inflation = re.search(r"λ of Obesity\.EndNormalBW is (\d+\.\d+)", said)
    assert inflation, said
    assert float(inflation[1]) == pytest.approx(10.3, abs=0.1)
    assert "mixed model" in said
    assert f"λ of Obesity.EndNormalBW is {inflation[1]}" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_soybeans_give_back_e2(prepared: Callable[[str], Study], tmp_path: Path) -> None:
    summary, loci = run(prepared("soynam"), tmp_path / "out")
    lead = strongest(loci, "R8")
    assert lead["chromosome"] == "10"
    assert abs(lead["position"] - 44_700_000) < MILLION
    assert lead["neg_log_10_p_value"] == pytest.approx(73.92, abs=0.05)  # PLINK 2: 1.2e-74
    assert "λ of R8 is 18.0" in " ".join(summary["warnings"])
    assert summary["n_participants"] == 5544


# Traits of bxd-mice and where they are known to map: coat colour, what a description itself names, expression of a gene near it.
STRAINS = (
    ("11280", "Tyrp1", "4", 80_830_000),  # coat colour on a scale on which brown weighs most
    ("10678", "Myo5a", "9", 75_070_000),  # and one on which dilute does
    ("13036", "Slc39a8", "3", 135_820_000),  # cadmium's toxicity: every strain is as its genotype says
    ("17439", "Gbp6", "5", 105_270_000),  # Rickettsia: the same
    ("10015", "Entpd8", "2", 25_080_000),  # ecto-ATPase in the brain
    ("17464", "Gabra2", "5", 70_960_000),  # expression
    ("18526", "Hspb8", "5", 116_410_000),
    ("18411", "Hp1bp3", "4", 138_220_000),
)


def test_ragged_traits_of_mouse_strains_find_their_genes_whatever_runs_beside_them(
    prepared: Callable[[str], Study], tmp_path: Path
) -> None:
    study = prepared("bxd-mice")
    table = pl.read_csv(tmp_path / "data" / "traits.tsv", separator="\t", null_values="NA", infer_schema_length=None)
    known = [trait for trait, *_ in STRAINS]
    beside = [name for name in table.columns[1:] if name not in known]
    folders = {}
    for number, columns in enumerate((known, [*beside[:60], *known, *beside[-60:]])):
        chosen = replace(study, phenotypes=replace(study.phenotypes, columns=tuple(columns)))
        summary, loci = run(chosen, tmp_path / f"out{number}")
        assert summary["n_variants"] == 7320
        folders[number] = Results(tmp_path / f"out{number}" / "gwas")
        for gene, chromosome in (("Tyrp1", "4"), ("Myo5a", "9"), ("Slc39a8", "3"), ("Entpd8", "2")):
            assert near(loci, gene, 2 * MILLION)["chromosome"] == chromosome
    for trait, gene, chromosome, position in STRAINS:
        alone, together = (folders[number].trait(trait) for number in (0, 1))
        assert alone.equals(together), f"the numbers of {trait} depend on what runs beside it"
        top = alone.sort("neg_log_10_p_value", descending=True, nulls_last=True).row(0, named=True)
        assert top["n"] == table[trait].count()
        assert top["chromosome"] == chromosome, gene
        assert abs(top["position"] - position) < 2 * MILLION, gene


@pytest.mark.slow
def test_5806_ragged_traits_in_one_run(prepared: Callable[[str], Study], tmp_path: Path) -> None:
    summary, loci = run(prepared("bxd-mice"), tmp_path / "out")
    assert (summary["n_traits"], summary["n_variants"], summary["n_participants"]) == (5803, 7320, 198)
    assert any(note.startswith("3 traits") and "15868" in note and "constant" in note for note in summary["notes"])
    traits = Results(tmp_path / "out" / "gwas").traits
    values = pl.read_csv(tmp_path / "data" / "traits.tsv", separator="\t", null_values="NA", infer_schema_length=None)
    assert traits["n"].to_list() == [values[name].count() for name in traits["trait"]]
    for trait, gene in (("11280", "Tyrp1"), ("10678", "Myo5a"), ("13036", "Slc39a8"), ("10015", "Entpd8")):
        lead = strongest(loci, trait)
        assert lead["nearest_gene"] == gene
        assert lead["gene_distance"] < 2 * MILLION
    lambdas = pl.read_parquet(tmp_path / "out" / "gwas" / "lambdas.parquet").filter(pl.col("frequency_bin") == "all")
    assert lambdas.filter(pl.col("test") != "all traits")["lambda_gc"].median() == pytest.approx(1.13, abs=0.01)


def test_the_stratum_as_covariate_takes_inflation_away(
    prepared: Callable[[str], Study], real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    study = prepared("hapmap-chr10-exercise")
    stored = real_data("hapmap-chr10-exercise") / "expected-plink2"
    for with_stratum, inflation, file in ((True, 1.00, "hap_strat"), (False, 1.71, "hap_nocov")):
        out = tmp_path / file
        summary, _ = run(study if with_stratum else replace(study, covariates=None), out)
        lambdas = pl.read_parquet(out / "gwas" / "lambdas.parquet")
        assert lambdas.row(0, named=True)["lambda_gc"] == pytest.approx(inflation, abs=0.005)
        assert ("λ of cc is 1.71" in " ".join(summary["warnings"])) is not with_stratum
        ours = Results(out / "gwas").trait("cc")
        top = ours.sort("neg_log_10_p_value", descending=True, nulls_last=True)
        assert top["variant_id"][0] == "rs870041"
        # The linear model's z is the logistic one's but for a scale near 1: half of the people are cases.
        theirs = pl.read_csv(stored / f"{file}.CC.glm.logistic.hybrid.gz", separator="\t", null_values="NA")
        both = ours.join(theirs, left_on="variant_id", right_on="ID").filter(
            pl.col("Z_STAT").is_not_null(), pl.col("A1_FREQ") > 0.05
        )
        assert both.height > 26_000
        assert both["n"].to_list() == both["OBS_CT"].to_list()
        turn = pl.when(pl.col("effect_allele") == pl.col("A1")).then(1).otherwise(-1)
        z = both.select(ours=turn * pl.col("beta") / pl.col("standard_error"), theirs="Z_STAT")
        assert z.select(pl.corr("ours", "theirs")).item() > 0.9999
        assert z.select((pl.col("ours") - pl.col("theirs")).abs().max()).item() < 0.2


@pytest.mark.slow
def test_pictures_of_mice_give_back_coat_colour_genes(prepared: Callable[[str], Study], tmp_path: Path) -> None:
    study = prepared("mouse-pictures")
    assert study.images is not None
    assert study.images.embedding.training == "cross-fit"
    small = replace(study.images.embedding, size=32, epochs=4)
    summary, loci = run(replace(study, images=replace(study.images, embedding=small)), tmp_path / "out")
    for gene, chromosome in (("Tyr", "7"), ("Tyrp1", "4"), ("a", "2")):
        lead = near(loci, gene, MILLION)
        assert lead["chromosome"] == chromosome
        assert lead["neg_log_10_p_value"] > 50
    assert summary["n_participants"] == 1814, "cross-fitting loses nobody"
    splits = pl.read_parquet(tmp_path / "out" / "phenotypes" / "splits.parquet")
    fam = [line.split("\t")[:2] for line in (tmp_path / "data" / "hs_mice.fam").read_text().splitlines()]
    families = pl.DataFrame(fam, schema=["family", "participant_id"], orient="row")
    sides = splits.join(families, on="participant_id", validate="1:1").group_by("family").agg(pl.col("split").n_unique())
    assert sides.height == 169
    assert sides["split"].max() == 1, "a family stands on both sides"


@pytest.mark.slow
def test_the_floor_of_plain_pixels_finds_them_too(prepared: Callable[[str], Study], tmp_path: Path) -> None:
    study = prepared("mouse-pictures")
    assert study.images is not None
    floor = replace(study.images.embedding, encoder="pixels", size=32)
    _, loci = run(replace(study, images=replace(study.images, embedding=floor)), tmp_path / "out")
    for gene in ("Tyr", "Tyrp1", "a"):
        assert near(loci, gene, MILLION)["neg_log_10_p_value"] > 50


def test_prepared_tables_hold_what_the_source_holds(prepared: Callable[[str], Study], tmp_path: Path) -> None:
    study = prepared("mouse-pictures")
    traits = pl.read_csv(tmp_path / "data" / "traits.tsv", separator="\t", null_values="NA")
    assert traits.height == 1814
    assert traits["albino"].value_counts().sort("albino").rows() == [(0, 1650), (1, 164)]
    assert traits["black"].value_counts().sort("black").rows() == [(0, 1329), (1, 485)]
    genes = pl.read_csv(tmp_path / "data" / "genes.tsv", separator="\t")
    assert genes.filter(pl.col("gene") == "Tyr").row(0)[1:] == (7, 49_459_426, 49_496_887)
    assert study.images is not None
    images = pl.read_parquet(study.images.path)
    assert images.height == 2 * 1814
    assert read_picture(tmp_path / "data" / images["path"][0]).shape == (64, 64, 3)


def test_prepared_strains_hold_what_the_source_holds(
    prepared: Callable[[str], Study], real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    study = prepared("bxd-mice")
    source = open_genotypes(study.genotypes.path)
    with zipfile.ZipFile(real_data("bxd-mice") / "bxd.zip") as archive:
        called, placed = (
            pl.read_csv(archive.read(f"bxd_{name}.csv"), comment_prefix="#", infer_schema=False) for name in ("geno", "pmap")
        )
    assert source.samples["participant_id"].to_list() == called.columns[1:]
    assert source.variants["variant_id"].to_list() == called["marker"].to_list() == placed["marker"].to_list()
    assert source.variants["position"].to_list() == (placed["pos"].cast(pl.Float64) * 1e6).round().cast(pl.Int64).to_list()
    copies = called.drop("marker").select(pl.all().replace_strict({"B": 0, "H": 1, "D": 2}, return_dtype=pl.Int8)).to_numpy()
    assert (source.read(np.arange(7320)).counts == copies).all()
    traits = pl.read_csv(tmp_path / "data" / "traits.tsv", separator="\t", null_values="NA", infer_schema_length=None)
    assert traits.shape == (198, 1 + 5806)
    known = pl.read_csv(tmp_path / "data" / "descriptions.tsv", separator="\t", infer_schema=False)
    assert set(traits.columns[1:]) <= set(known["trait"])


def test_prepare_names_the_data_that_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINOME_DATA", str(tmp_path / "nowhere"))
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "prepare", "hs-mice", tmp_path / "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the data set hs-mice is not in" in done.stderr
    assert "set CLINOME_DATA" in done.stderr
    assert not (tmp_path / "x").exists()
