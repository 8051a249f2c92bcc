"""Power beside its curve: closed forms, and phenotypes whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from clinome.simulate.anatomy import LATENTS
from clinome.simulate.pleiotropy import Cohort, Files, simulate_cohort
from clinome.studies.picture_power import Scan, both_eyes, expected_power, measure, more_found, sides, told, wilson


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A cohort without its pictures: their latents stand for what an encoder sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clinome.simulate.pleiotropy.write_picture", lambda path, picture: None)
        patch.setattr("clinome.simulate.pleiotropy.render_fundus", lambda eyes, size, generator: np.zeros(len(eyes)))
        cohort = Cohort(participants=2_400, causal=40, null=1_000, heritability=0.6, seed=2)
        return simulate_cohort(tmp_path_factory.mktemp("cohort"), cohort)


def test_sides_are_apart_and_whole(files: Files) -> None:
    who = sides(files, taught=400, seed=1)
    assert (len(who.taught), len(who.associated)) == (400, 2_000)
    assert not set(who.taught) & set(who.associated)
    assert who.table().height == 2_400


def test_what_axes_tell_of_latents(files: Files) -> None:
    latents = pl.read_parquet(files.true_latents)
    generator = np.random.default_rng(1)
    noise = generator.normal(size=latents.height)
    axes = latents.select("participant_id", dim01=pl.col(LATENTS[0]) * 2, dim02=pl.col(LATENTS[1]) + pl.Series(noise))
    found = told(files, axes)
    assert found[0] == pytest.approx(1.0)
    assert found[1] == pytest.approx(0.5, abs=0.05)
    assert (found[2:] < 0.1).all()


def test_measured_power_lies_on_the_curve_where_the_axes_are_the_latents(files: Files, tmp_path: Path) -> None:
    who = sides(files, taught=400, seed=1)
    table = pl.read_parquet(files.true_latents)
    found = measure(files, who, {"the latents": table}, (500, 2_000), tmp_path)
    omnibus = found.filter(pl.col("test") == "omnibus")
    np.testing.assert_allclose(omnibus["expected"], omnibus["ceiling"], rtol=1e-9)
    for row in omnibus.iter_rows(named=True):
        assert row["lower"] - 0.08 <= row["expected"] <= row["upper"] + 0.08, row
    assert omnibus["power"].to_list() == sorted(omnibus["power"])
    smallest = found.filter(pl.col("test") == "corrected")
    assert (omnibus["found"].to_numpy() >= smallest["found"].to_numpy()).all()
    for row in found.iter_rows(named=True):
        assert row["false_0.05_lower"] - 0.005 <= 0.05 <= row["false_0.05_upper"] + 0.005, row


def test_the_curve_is_the_non_central_chi_square(files: Files) -> None:
    truth = pl.read_parquet(files.true_loci).filter(pl.col("latent") == LATENTS[0])["variance_explained"].to_numpy()
    only_first = np.array([1.0, 0, 0, 0, 0, 0])
    n, limit = 3_000, stats.norm.isf(5e-8 / 2)
    shift = np.sqrt(n * truth / (1 - truth))
    by_normal = (stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift)).mean()
    assert expected_power(files, n, only_first) == pytest.approx(by_normal, rel=1e-6)
    assert expected_power(files, 10, np.ones(6)) < 1e-3
    assert expected_power(files, 10**6, np.ones(6)) > 0.99


def test_both_eyes_count_what_is_below_the_uncorrected_level_in_each() -> None:
    def scan(single: list[float]) -> Scan:
        corrected = np.array(single) - np.log10(10)
        return Scan(corrected, corrected, corrected)

    found = both_eyes(scan([9, 7, 8, 8, 1]), scan([9, 9, 7, 8, 8]), planted=3, axes=10)
    assert (found["causal left"], found["causal right"], found["causal both"]) == (2, 2, 1)
    assert (found["null left"], found["null right"], found["null both"]) == (1, 2, 1)


def test_intervals_of_shares_are_wilsons() -> None:
    share, lower, upper = wilson(29, 100)
    z, n = stats.norm.isf(0.025), 100
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (lower, upper) == (pytest.approx(middle - half), pytest.approx(middle + half))


def test_two_encoders_are_compared_variant_by_variant() -> None:
    rows = [("old", 100, "omnibus", [0, 1, 2]), ("a", 200, "omnibus", [0, 1, 2, 3, 4, 5, 9]), ("b", 200, "omnibus", [0, 8])]
    power = pl.DataFrame(rows, schema=["encoder", "n", "test", "which"], orient="row")
    found = more_found(power, "a", "b")
    assert (found["value"], found["first_alone"], found["second_alone"]) == (5, 6, 1)
    assert found["p"] == pytest.approx(2 * (1 + 7) / 2**7)  # two-sided binomial of 1 in 7
    assert more_found(power, "a", "a")["p"] == 1.0
