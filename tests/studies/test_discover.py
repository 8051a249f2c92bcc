from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.biobank import CAUSAL, Files, write_files

from clinome.core.errors import CohortError, StudyError
from clinome.genetics.convert import result_files
from clinome.genetics.export import Part
from clinome.genetics.results import Results
from clinome.simulate.biobank import simulate_biobank
from clinome.studies.discover import run_study
from clinome.studies.study_file import (
    Cohort,
    CovariateTable,
    GenotypeFiles,
    LociSettings,
    Phenotypes,
    Scan,
    Study,
    TruthFile,
    read_study,
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "data")


def study_of(files: Files, **changes: object) -> Study:
    plain = Study(
        genotypes=GenotypeFiles(str(files.genotypes)),
        covariates=CovariateTable(files.covariates),
        phenotypes=Phenotypes(path=files.traits),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    """Digest every table under a result folder; times and what carries them are left out."""
    kept = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".arrow", ".npy", ".png", ".gz", ".safetensors")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


def test_a_table_of_traits_becomes_loci_and_a_page(files: Files, tmp_path: Path) -> None:
    summary = run_study(study_of(files), tmp_path / "out")
    assert summary["n_participants"] == 300
    assert summary["n_traits"] == 2
    loci = pl.read_parquet(tmp_path / "out" / "loci" / "loci.parquet")
    assert loci["variant_id"].to_list() == [f"v{CAUSAL}"]
    assert loci["best_trait"].to_list() == ["height"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"v{CAUSAL}" in page
    assert "person0017" not in page  # no participant identifier in a report
    assert summary["settings"]["genotypes"]["path"] == "cohort.bed"  # names, not the folders above them


def test_a_finished_study_is_not_run_again_and_a_changed_part_is(files: Files, tmp_path: Path) -> None:
    study, out = study_of(files), tmp_path / "out"
    assert set(run_study(study, out)["seconds"]) == {"people", "phenotypes", "traits", "gwas", "loci"}
    before = contents(out)
    assert run_study(study, out)["seconds"] == {}
    assert contents(out) == before
    loose = replace(study, loci=LociSettings(pictures=3))
    assert set(run_study(loose, out)["seconds"]) == {"loci"}
    ranked = replace(study, phenotypes=replace(study.phenotypes, transform="rank-normal"))
    assert set(run_study(ranked, out)["seconds"]) == {"traits", "gwas", "loci"}
    table = pl.read_csv(files.traits, separator="\t", null_values="NA").with_columns(pl.col("height") * 2)
    table.write_csv(files.traits, separator="\t", null_value="NA")
    assert "people" in run_study(ranked, out)["seconds"]


def test_results_do_not_change_with_the_unit_of_a_covariate_or_the_order_of_people(files: Files, tmp_path: Path) -> None:
    run_study(study_of(files), tmp_path / "a")
    for path in (files.traits, files.covariates):
        table = pl.read_csv(path, separator="\t", null_values="NA").sample(fraction=1, shuffle=True, seed=3)
        if "age" in table.columns:
            table = table.with_columns(pl.col("age") * 365.25e6)
        table.write_csv(path, separator="\t", null_value="NA")
    run_study(study_of(files), tmp_path / "b")
    a, b = (Results(tmp_path / name / "gwas").trait("height") for name in "ab")
    assert ((a["beta"] - b["beta"]).abs() / a["standard_error"]).max() < 1e-6


def test_the_flow_accounts_for_everybody(files: Files, tmp_path: Path) -> None:
    (tmp_path / "remove.txt").write_text("person0005\nperson0006\n")
    covariates = pl.read_csv(files.covariates, separator="\t").with_columns(
        pl.when(pl.col("IID").is_in(["person0010", "person0011", "person0012"])).then(None).otherwise("age").alias("age")
    )
    covariates.filter(pl.col("IID") != "person0020").write_csv(files.covariates, separator="\t", null_value="NA")
    summary = run_study(study_of(files, cohort=Cohort(remove=tmp_path / "remove.txt")), tmp_path / "out")
    inputs = json.loads((tmp_path / "out" / "provenance.json").read_text())["inputs"]
    assert {"cohort.bed", "traits.tsv", "covariates.tsv", "remove.txt"} <= {i["name"] for i in inputs}
    flow = pl.read_parquet(tmp_path / "out" / "flow.parquet")
    assert dict(zip(flow["reason"], flow["dropped"], strict=True))["in the remove list"] == 2
    assert dict(zip(flow["reason"], flow["dropped"], strict=True))["no covariates"] == 1
    assert dict(zip(flow["reason"], flow["dropped"], strict=True))["a covariate is missing"] == 3
    assert flow["remaining"][-1] == summary["n_participants"] == 294
    assert pl.read_parquet(tmp_path / "out" / "exclusions.parquet").height == 6


def test_another_column_of_ids_is_linked_anew(files: Files, tmp_path: Path) -> None:
    table = pl.read_csv(files.traits, separator="\t", null_values="NA").rename({"IID": "mine"})
    swapped = pl.Series("theirs", [*table["mine"][1:], table["mine"][0]])
    table = table.drop("FID", strict=False).with_columns(swapped)
    table[:-20].write_csv(files.traits, separator="\t", null_value="NA")
    columns = tuple(c for c in table.columns if c not in ("mine", "theirs"))
    people = []
    for column in ("mine", "theirs"):
        wanted = Phenotypes(path=files.traits, columns=columns, id_column=column)
        run_study(study_of(files, phenotypes=wanted), tmp_path / "out", report=False)
        people.append(set(pl.read_parquet(tmp_path / "out" / "people" / "people.parquet")["participant_id"]))
    assert people[0] != people[1]


def test_people_who_do_not_match_are_answered_with_a_guess(files: Files, tmp_path: Path) -> None:
    table = pl.read_csv(files.traits, separator="\t", null_values="NA").with_columns(pl.format("{}_{}", "IID", "IID").alias("IID"))
    table.write_csv(files.traits, separator="\t", null_value="NA")
    with pytest.raises(CohortError, match="join FID and IID"):
        run_study(study_of(files), tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


def test_on_a_terminal_some_who_do_not_match_are_shown_and_nowhere_else(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pl.read_csv(files.traits, separator="\t", null_values="NA")
    joined = pl.when(pl.int_range(table.height) < 30).then("IID").otherwise(pl.format("{}_{}", "IID", "IID"))
    table.with_columns(joined.alias("IID")).write_csv(files.traits, separator="\t", null_value="NA")
    run_study(study_of(files), tmp_path / "quiet", report=False)
    assert "person0030" not in capsys.readouterr().err
    monkeypatch.setattr("clinome.core.progress._watched", True)
    run_study(study_of(files), tmp_path / "out", report=False)
    said = capsys.readouterr().err
    assert "phenotypes: 300 people, 270 not in the genotypes ('person0030_person0030'" in said
    assert "person0030" not in (tmp_path / "out" / "summary.json").read_text()


def test_deepnull_and_components_join_the_covariates(files: Files, tmp_path: Path) -> None:
    study = study_of(
        files,
        phenotypes=Phenotypes(path=files.traits, adjust="deepnull", transform="rank-normal"),
        cohort=Cohort(principal_components=2),
    )
    summary = run_study(replace(study, gwas=Scan(export=("gwas-ssf",))), tmp_path / "out")
    assert any("DeepNull" in sentence for sentence in summary["methods"])
    assert "rank-normalised" in (tmp_path / "out" / "height.gwas-ssf.tsv.gz-meta.yaml").read_text()
    result_files(tmp_path / "out", tmp_path / "one.tsv.gz", layout="gwas-ssf", part=Part(("height",)))
    assert "rank-normalised" in (tmp_path / "one.tsv.gz-meta.yaml").read_text()
    own = pl.read_parquet(tmp_path / "out" / "traits" / "own.parquet")
    assert own.columns == ["participant_id", "height", "weight"]
    quality = pl.read_parquet(tmp_path / "out" / "traits" / "metrics.parquet")
    weight = quality.filter((pl.col("subgroup") == "weight") & (pl.col("name") == "out_of_fold_r2:deepnull"))["value"][0]
    assert weight > 0.3  # weight follows (age − 55)², which no straight line sees
    assert {"PC1", "PC2"} <= set(pl.read_parquet(tmp_path / "out" / "traits" / "covariates.parquet").columns)
    assert pl.read_parquet(tmp_path / "out" / "loci" / "loci.parquet")["variant_id"].to_list() == [f"v{CAUSAL}"]
    with pytest.raises(StudyError, match="needs covariates"):
        run_study(replace(study, covariates=None), tmp_path / "without")


def test_what_could_not_be_done_is_not_said_to_be_done(files: Files, tmp_path: Path) -> None:
    """Too few variants to find relatives, and no more people than traits: neither is in the methods, the flow or the correction."""
    people = pl.read_csv(files.traits, separator="\t", null_values="NA")
    traits = np.random.default_rng(3).normal(size=(people.height, people.height))
    wide = people.select(people.columns[:1]).hstack(pl.DataFrame(traits, schema=[f"t{i}" for i in range(people.height)]))
    wide.write_csv(tmp_path / "wide.tsv", separator="\t")
    study = study_of(files, phenotypes=Phenotypes(path=tmp_path / "wide.tsv"), cohort=Cohort(kinship=0.0884))
    summary = run_study(study, tmp_path / "out", report=False)
    methods, notes = " ".join(summary["methods"]), " ".join(summary["notes"])
    assert "relatives were not looked for" in notes
    assert "KING" not in methods
    assert "relatives" not in pl.read_parquet(tmp_path / "out" / "flow.parquet")["stage"].to_list()
    assert "the omnibus over all traits is left out: 300 people" in notes
    assert "Wilks" not in methods
    assert summary["thresholds"]["omnibus"] is None  # and the traits are not corrected for a test that was not made
    assert summary["thresholds"]["dimension"] == pytest.approx(-np.log10(5e-8) + np.log10(summary["effective_tests"]))


PICTURES = """
[genotypes]
path = "biobank/genotypes.bed"
[covariates]
path = "biobank/covariates.tsv"
columns = ["age", "sex", "centre"]
[cohort]
kinship = 0.0884
[images]
path = "biobank/images.parquet"
size = 32
epochs = 2
dimensions = 4
training = "{training}"
encoder = "{encoder}"
[truth]
loci = "biobank/true_loci.parquet"
"""


@pytest.fixture(scope="module")
def biobank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    simulate_biobank(folder / "biobank", participants=160, variants=600, seed=2, size=32, processes=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("training", "encoder"), [("outside", "simclr"), ("cross-fit", "simclr"), ("outside", "pixels")])
def test_pictures_become_traits_of_people_whom_their_encoder_has_not_seen(
    biobank: Path, tmp_path: Path, training: str, encoder: str
) -> None:
    path = biobank / f"{training}-{encoder}.toml"
    path.write_text(PICTURES.format(training=training, encoder=encoder))
    summary = run_study(read_study(path), tmp_path)
    results = Results(tmp_path / "gwas")
    splits = pl.read_parquet(tmp_path / "phenotypes" / "splits.parquet")
    analysed = set(pl.read_parquet(tmp_path / "traits" / "traits.parquet")["participant_id"])
    if training == "cross-fit":
        assert results.omnibus_sets == ["fold1", "fold2"]
        assert results.traits["trait"].to_list() == [f"fold{k}.dim0{d}" for k in (1, 2) for d in (1, 2, 3, 4)]
        fold1 = set(splits.filter(pl.col("split") == "fold1")["participant_id"])
        traits = pl.read_parquet(tmp_path / "traits" / "traits.parquet")
        assert set(traits.filter(pl.col("fold1.dim01").is_not_null())["participant_id"]) <= fold1
        assert traits.filter(pl.col("fold1.dim01").is_not_null() & pl.col("fold2.dim01").is_not_null()).height == 0
    else:
        taught = set(splits.filter(pl.col("split") == "encoder")["participant_id"])
        assert bool(taught) == (encoder == "simclr")
        assert not taught & analysed
    omnibus = results.trait("omnibus")["neg_log_10_p_value"].drop_nulls()
    assert omnibus.len() > 500
    assert np.median(omnibus) == pytest.approx(0.301, abs=0.1)  # −log10 of 1/2
    assert summary["truth_line"].startswith("planted loci found ")


@pytest.mark.slow
def test_a_person_whose_pictures_cannot_be_read_is_counted_in_the_flow(biobank: Path, tmp_path: Path) -> None:
    images = pl.read_parquet(biobank / "biobank" / "images.parquet")
    person = images["participant_id"].unique(maintain_order=True)[7]
    (biobank / "biobank" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    broken = images.with_columns(path=pl.when(pl.col("participant_id") == person).then(pl.lit("cut.png")).otherwise("path"))
    broken.write_parquet(biobank / "biobank" / "broken.parquet")
    path = biobank / "broken.toml"
    path.write_text(PICTURES.format(training="outside", encoder="pixels").replace("images.parquet", "broken.parquet"))
    run_study(read_study(path), tmp_path)
    flow = pl.read_parquet(tmp_path / "flow.parquet")
    assert ("pictures", "none of their pictures could be read", 1) in flow.select("stage", "reason", "dropped").rows()
    assert person not in pl.read_parquet(tmp_path / "traits" / "traits.parquet")["participant_id"].to_list()


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_and_ends_with_the_same_bytes(biobank: Path, tmp_path: Path) -> None:
    path = biobank / "killed.toml"
    path.write_text(PICTURES.format(training="outside", encoder="simclr").replace("epochs = 2", "epochs = 6"))
    study = read_study(path)
    run_study(study, tmp_path / "whole")
    command = [sys.executable, "-m", "clinome", "run", str(path), "--out", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wait_for in ("phenotypes/encoder.checkpoint.safetensors", "gwas/begun.json"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / wait_for).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    # The encoder's own checkpoints are not results; every table and picture is.
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.partial.*"))
    assert json.loads((tmp_path / "killed" / "summary.json").read_text())["truth_line"]


def test_truth_counts_only_what_counts(biobank: Path, tmp_path: Path, files: Files) -> None:
    planted = pl.DataFrame(
        {
            "variant_id": [f"v{CAUSAL}", "v5"],
            "chromosome": ["1", "2"],
            "position": [(CAUSAL + 1) * 1_000_000, 5],
            "effect_allele": ["A", "A"],
            "latent": ["height", "nothing"],
            "variance_explained": [0.1, 0.1],
            "counted": [True, True],
        }
    )
    planted.write_parquet(tmp_path / "true.parquet")
    summary = run_study(study_of(files, truth=TruthFile(tmp_path / "true.parquet")), tmp_path / "out")
    assert summary["truth_line"] == "planted loci found 1/2, false loci 0"


def test_one_seed_serves_all_unless_the_pictures_have_their_own(biobank: Path) -> None:
    path = biobank / "seeds.toml"
    text = PICTURES.format(training="outside", encoder="simclr")
    path.write_text(f"[study]\nseed = 7\n{text}")
    images = read_study(path).images
    assert images is not None
    assert images.embedding.seed == 7
    path.write_text(f"[study]\nseed = 7\n{text.replace('[images]', '[images]' + chr(10) + 'seed = 9')}")
    images = read_study(path).images
    assert images is not None
    assert images.embedding.seed == 9


@pytest.mark.slow
def test_the_floor_stands_beside_an_encoder_and_goes_when_there_is_none(biobank: Path, tmp_path: Path) -> None:
    path = biobank / "floor.toml"
    path.write_text(PICTURES.format(training="outside", encoder="simclr"))
    summary = run_study(read_study(path), tmp_path)
    label, said = summary["headline"][-1]
    assert label.startswith("floor")
    assert "planted" in said
    taught = pl.read_parquet(tmp_path / "phenotypes" / "splits.parquet").filter(pl.col("split") == "encoder").height
    with_floor = pl.read_parquet(tmp_path / "floor" / "traits" / "traits.parquet").height
    assert with_floor >= summary["n_participants"] + taught - 10  # nobody had to be left out but relatives
    path.write_text(PICTURES.format(training="outside", encoder="pixels"))
    run_study(read_study(path), tmp_path)
    assert not (tmp_path / "floor").exists()
