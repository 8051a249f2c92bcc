"""A whole biobank on disk: the truth in it, equal bytes, restart, and the errors of wrong arguments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import OutputError, StudyError
from clinome.core.schema import GENES, IMAGES, PARTICIPANTS, TRUE_LOCI, check
from clinome.formats.genotypes import Genotypes
from clinome.formats.picture import read_picture
from clinome.formats.plink import PlinkGenotypes
from clinome.formats.table import read_table
from clinome.simulate.anatomy import LATENTS
from clinome.simulate.biobank import Biobank, Options, biobank_paths, simulate_biobank

SMALL = {"participants": 90, "variants": 1_000, "size": 48, "seed": 2}


@pytest.fixture(scope="module")
def biobank(tmp_path_factory: pytest.TempPathFactory) -> Biobank:
    return simulate_biobank(tmp_path_factory.mktemp("biobank") / "b", **SMALL)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Biobank:
    """Many people with pictures as small as they may be, for what is read from genotypes and latents."""
    folder = tmp_path_factory.mktemp("large") / "b"
    return simulate_biobank(folder, participants=1_000, variants=1_000, size=32, seed=5, options=Options(missing=0.01))


def counts_of(biobank: Biobank) -> tuple[Genotypes, np.ndarray]:
    source = PlinkGenotypes(biobank.genotypes)
    return source, source.read(np.arange(source.variants.height)).counts


def tree(folder: Path) -> dict[str, bytes]:
    names = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "provenance.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in names}


def test_every_table_follows_its_schema_and_ids_agree(biobank: Biobank) -> None:
    participants = check(pl.read_parquet(biobank.participants), PARTICIPANTS)
    images = check(pl.read_parquet(biobank.images), IMAGES)
    check(pl.read_csv(biobank.genes, separator="\t", schema_overrides={"chromosome": pl.String}), GENES)
    loci = check(pl.read_parquet(biobank.true_loci), TRUE_LOCI)
    source, counts = counts_of(biobank)
    ids = participants["participant_id"].to_list()
    assert source.samples["participant_id"].to_list() == ids
    assert source.samples["sex"].to_list() == participants["sex"].to_list()
    assert read_table(biobank.covariates).frame["participant_id"].to_list() == ids
    assert pl.read_parquet(biobank.true_latents).columns == ["participant_id", *LATENTS]
    assert set(images["participant_id"]) <= set(ids)
    assert counts.shape == (1_000, 90)
    assert loci.height == 10
    assert loci["counted"].sum() == 9
    assert set(loci["variant_id"]) <= set(source.variants["variant_id"])
    assert json.loads(biobank.manifest.read_text())["build"] == "simulated"


def test_pictures_are_where_the_table_says_and_of_the_size_asked_for(biobank: Biobank) -> None:
    images = pl.read_parquet(biobank.images)
    assert images.select("participant_id", "laterality", "visit").is_duplicated().sum() == 0
    assert 0.97 * 360 <= images.height <= 360
    for row in images.sample(5, seed=1).iter_rows(named=True):
        assert row["image_id"] == f"{row['participant_id']}_{row['laterality']}_{row['visit']}"
        picture = read_picture(biobank.folder / row["path"])
        assert picture.shape == (48, 48, 3)
        disc_side = picture[:, :20, 1].max() > picture[:, -20:, 1].max()
        assert disc_side == (row["laterality"] == "left")
    assert not list(biobank.folder.rglob("*partial*"))
    assert not (biobank.folder / ".simulating").exists()


def test_loci_are_far_apart_common_and_named_by_a_gene(large: Biobank) -> None:
    loci = pl.read_parquet(large.true_loci)
    source, counts = counts_of(large)
    for (_,), found in loci.group_by("chromosome"):
        assert found["position"].sort().diff().drop_nulls().min() or 10**9 >= 5_000_000
    rows = [source.variants["variant_id"].to_list().index(v) for v in loci["variant_id"]]
    frequency = np.where(counts[rows] < 0, np.nan, counts[rows]).T
    frequency = np.nanmean(frequency, axis=0) / 2
    assert np.all((frequency > 0.19) & (frequency < 0.81))
    genes = pl.read_csv(large.genes, separator="\t", schema_overrides={"chromosome": pl.String})
    for locus in loci.iter_rows(named=True):
        around = genes.filter(
            (pl.col("chromosome") == locus["chromosome"])
            & (pl.col("start") <= locus["position"])
            & (pl.col("end") >= locus["position"])
        )
        assert around.height == 1
        assert around["gene"][0].startswith({"d": "DSC", "c": "CUP", "p": "PIG", "v": "VSC"}[locus["latent"][0]])


def test_planted_loci_explain_their_share_of_the_latent_in_the_stated_direction(large: Biobank) -> None:
    loci, latents = pl.read_parquet(large.true_loci), pl.read_parquet(large.true_latents)
    source, counts = counts_of(large)
    shares = []
    for locus in loci.iter_rows(named=True):
        row = source.variants["variant_id"].to_list().index(locus["variant_id"])
        genotype = counts[row].astype(float)
        if source.variants["effect_allele"][row] != locus["effect_allele"]:
            genotype = np.where(genotype < 0, -1, 2 - genotype)
        known = genotype >= 0
        r = np.corrcoef(genotype[known], latents[locus["latent"]].to_numpy()[known])[0, 1]
        assert r > 0, "the effect allele raises the latent"
        # The standard error of a correlation is about 1 / sqrt(n); 3.5 of them.
        assert abs(r - np.sqrt(locus["variance_explained"])) < 3.5 / np.sqrt(1_000)
        shares.append(r**2)
    assert np.mean(shares) == pytest.approx(loci["variance_explained"].mean(), rel=0.25)
    values = latents.select(LATENTS).to_numpy()
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.1)


def test_a_null_biobank_has_the_same_genotypes_and_nothing_heritable(biobank: Biobank, tmp_path: Path) -> None:
    null = simulate_biobank(tmp_path / "b", **SMALL, heritable=False)  # type: ignore[arg-type]
    assert null.genotypes.read_bytes() == biobank.genotypes.read_bytes()
    assert null.covariates.read_bytes() == biobank.covariates.read_bytes()
    assert pl.read_parquet(null.true_loci).height == 0
    assert check(pl.read_parquet(null.true_loci), TRUE_LOCI).columns == [c.name for c in TRUE_LOCI.columns]
    assert not any(name.startswith(("DSC", "CUP")) for name in pl.read_csv(null.genes, separator="\t")["gene"])
    assert not pl.read_parquet(null.true_latents).equals(pl.read_parquet(biobank.true_latents))


def test_covariates_act_non_linearly_and_ancestry_confounds(large: Biobank) -> None:
    latents, people = pl.read_parquet(large.true_latents), pl.read_parquet(large.participants)
    covariates = read_table(large.covariates).frame
    age = covariates["age"].to_numpy()
    design = np.column_stack([np.ones_like(age), age])

    def rest(y: np.ndarray, x: np.ndarray) -> float:
        return float(np.linalg.lstsq(x, y, rcond=None)[1][0])

    y = latents["tortuosity"].to_numpy()
    gain = 1 - rest(y, np.column_stack([design, age**2])) / rest(y, design)
    assert gain > 0.03, "the effect of age on tortuosity is curved"
    pigment = latents["pigmentation"].to_numpy()
    means = {d: pigment[(people["ancestry"] == d).to_numpy()].mean() for d in "ABC"}
    assert means["C"] - means["A"] > 0.4
    table = people.group_by("ancestry", "site").len().pivot("site", index="ancestry", values="len").sort("ancestry")
    shares = table.select("Harbour", "Hill", "Valley").to_numpy()
    shares = shares / shares.sum(axis=1, keepdims=True)
    assert np.argmax(shares, axis=1).tolist() == [0, 1, 2]


def test_the_asked_share_is_missing(large: Biobank) -> None:
    _, counts = counts_of(large)
    assert np.mean(counts < 0) == pytest.approx(0.01, rel=0.1)
    covariates = read_table(large.covariates).frame
    lost = covariates.select(pl.col("smoking", "bmi", "systolic_pressure").null_count()).row(0)
    assert 10 < sum(lost) < 60
    assert covariates.select(pl.col("age", "sex", "centre").null_count()).row(0) == (0, 0, 0)
    assert 4_000 - pl.read_parquet(large.images).height == pytest.approx(40, abs=25)


@pytest.mark.slow
def test_equal_arguments_give_equal_bytes_over_processes_and_after_a_kill(biobank: Biobank, tmp_path: Path) -> None:
    expected = tree(biobank.folder)
    several = simulate_biobank(tmp_path / "several", **SMALL, processes=2)  # type: ignore[arg-type]
    assert tree(several.folder) == expected

    # Killed while it draws: everything but the manifest and some of the pictures is there.
    script = (
        "import os, clinome.simulate.biobank as b\n"
        "whole, calls = b._photograph, []\n"
        "def dies(shard):\n"
        "    if calls: os._exit(9)\n"
        "    calls.append(whole(shard))\n"
        "b._photograph = dies\n"
        f"b.simulate_biobank({str(tmp_path / 'killed')!r}, participants=90, variants=1000, size=48, seed=2, processes=1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == 9
    folder = tmp_path / "killed"
    assert not biobank_paths(folder).manifest.exists()
    pieces = {p.name: p.stat().st_mtime_ns for p in (folder / ".simulating").glob("piece_*")}
    assert len(pieces) > 50
    with pytest.raises(OutputError, match="other arguments"):
        simulate_biobank(folder, **{**SMALL, "seed": 3})  # type: ignore[arg-type]
    (folder / "images" / "0000" / ".99999999.partial.P000001_left_0.jpg").write_bytes(b"half")
    simulate_biobank(folder, **SMALL)  # type: ignore[arg-type]
    assert tree(folder) == expected

    (folder / ".simulating").mkdir()  # killed between the manifest and the last cleaning up
    simulate_biobank(folder, **SMALL)  # type: ignore[arg-type]
    assert tree(folder) == expected
    assert not (folder / ".simulating").exists()


def test_a_complete_biobank_is_found_and_not_made_again(biobank: Biobank) -> None:
    before = biobank.genotypes.stat().st_mtime_ns
    assert simulate_biobank(biobank.folder, **SMALL) == biobank  # type: ignore[arg-type]
    assert biobank.genotypes.stat().st_mtime_ns == before


def test_another_biobank_in_the_folder_is_left_alone(biobank: Biobank) -> None:
    before = tree(biobank.folder)
    with pytest.raises(OutputError) as raised:
        simulate_biobank(biobank.folder, **{**SMALL, "participants": 91})  # type: ignore[arg-type]
    assert "participants 90" in str(raised.value)
    assert "participants 91" in str(raised.value)
    assert tree(biobank.folder) == before


def test_foreign_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "covariates.tsv").write_text("IID\tage\n")
    with pytest.raises(OutputError, match=r"covariates\.tsv"):
        simulate_biobank(tmp_path, **SMALL)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["covariates.tsv"]


def test_a_file_in_the_place_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError):
        simulate_biobank(tmp_path / "taken", **SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"participants": 39}, "participants is out of range"),
        ({"size": 31}, "size is out of range"),
        ({"seed": -1}, "seed is out of range"),
        ({"variants": 499}, "too few variants"),
        ({"options": Options(image_format="tiff")}, "image_format"),
        ({"options": Options(missing=0.7)}, "missing is out of range"),
        ({"options": Options(chromosomes=30)}, "chromosomes"),
    ],
)
def test_wrong_arguments_are_one_clear_error_and_nothing_is_written(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        simulate_biobank(tmp_path / "b", **{**SMALL, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()


def test_plink2_reads_the_genotypes_as_we_wrote_them(biobank: Biobank, program, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    plink2 = program("plink2")
    if shutil.which(plink2) is None:
        pytest.skip("plink2 is not installed")
    prefix = str(biobank.genotypes.with_suffix(""))
    command = [plink2, "--bfile", prefix, "--freq", "counts", "--missing", "variant-only", "--out", str(tmp_path / "x")]
    subprocess.run(command, check=True, capture_output=True)
    counted = pl.read_csv(tmp_path / "x.acount", separator="\t")
    _, counts = counts_of(biobank)
    sums = np.where(counts < 0, 0, counts).sum(axis=1)
    np.testing.assert_array_equal(counted["ALT_CTS"].to_numpy(), sums)
