"""The pleiotropic cohort: the stated effects are in the latents, null variants in nothing, kills and processes change no byte."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import OutputError, StudyError
from clinome.core.schema import IMAGES, TRUE_LOCI, check
from clinome.formats.genotype_files import open_genotypes
from clinome.simulate.anatomy import LATENTS
from clinome.simulate.pleiotropy import Cohort, simulate_cohort

SMALL = Cohort(participants=160, causal=10, null=40, size=32, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_processes_and_a_killed_run_change_no_byte(tmp_path: Path) -> None:
    whole = simulate_cohort(tmp_path / "a", SMALL)
    simulate_cohort(tmp_path / "b", SMALL, processes=2)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    cut = simulate_cohort(tmp_path / "c", SMALL).folder
    (cut / "cohort.json").unlink()
    (cut / "begun.json").write_text(json.dumps(asdict(SMALL)))
    next((cut / "images").rglob("*_right.png")).unlink()
    simulate_cohort(cut, SMALL)
    assert contents(cut) == contents(tmp_path / "a")
    images = check(pl.read_parquet(whole.images), IMAGES)
    assert images.height == 320
    assert all((whole.folder / path).exists() for path in images["path"])
    with pytest.raises(OutputError, match="holds another cohort"):
        simulate_cohort(tmp_path / "a", replace(SMALL, seed=4))


def test_effects_are_those_of_the_truth_and_null_variants_have_none(tmp_path: Path) -> None:
    cohort = Cohort(participants=4_000, causal=20, null=200, size=32, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clinome.simulate.pleiotropy.write_picture", lambda path, picture: None)
        patch.setattr("clinome.simulate.pleiotropy.render_fundus", lambda eyes, size, generator: np.zeros(len(eyes)))
        files = simulate_cohort(tmp_path, cohort)
    truth = check(pl.read_parquet(files.true_loci), TRUE_LOCI)
    assert truth.height == 20 * 6
    total = truth.group_by("latent").agg(pl.col("variance_explained").sum())["variance_explained"].to_numpy()
    np.testing.assert_allclose(total, 0.5, rtol=0.1)  # causal variants are drawn independently: nearly no covariance
    latents = pl.read_parquet(files.true_latents).drop("participant_id").to_numpy()
    np.testing.assert_allclose(latents.std(axis=0), 1, rtol=0.05)
    genotypes = open_genotypes(str(files.genotypes))
    counts = genotypes.read(np.arange(220)).counts.astype(np.float64)
    genotypes.close()
    z = (counts - counts.mean(axis=1, keepdims=True)) / counts.std(axis=1, keepdims=True)
    r2 = (z @ ((latents - latents.mean(axis=0)) / latents.std(axis=0)) / 4_000) ** 2
    wanted = np.array([truth.filter(pl.col("latent") == name)["variance_explained"] for name in LATENTS]).T
    assert np.corrcoef(r2[:20].ravel(), wanted.ravel())[0, 1] > 0.97
    assert (4_000 * r2[20:]).mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / (200 * 6)))  # χ² of one degree of freedom


@pytest.mark.parametrize("change", [{"participants": 10}, {"heritability": 1.0}, {"size": 8}])
def test_arguments_out_of_range(change: dict[str, float]) -> None:
    with pytest.raises(StudyError, match="is out of range"):
        replace(SMALL, **change)  # type: ignore[arg-type]
