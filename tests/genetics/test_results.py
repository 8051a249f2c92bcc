from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats
from toolkit.store import store

from clinome.core.errors import StudyError
from clinome.core.schema import SUMMARY_STATISTICS, check
from clinome.genetics.results import Results
from clinome.genetics.studywide import summarise

ODD = ["HDL, fasting", "HDL/LDL", "HDL LDL", "hdl ldl", "n:0", "beta:x", "Größe [m]", "trait0 ", "trait0"]


def test_a_trait_whatever_its_name_comes_back_as_it_was_written(tmp_path: Path) -> None:
    t = np.random.default_rng(0).normal(size=(len(ODD), 2_500))
    results = store(tmp_path, t, names=ODD)
    for row, name in zip(t, ODD, strict=True):
        table = check(results.trait(name), SUMMARY_STATISTICS)
        assert table["trait"].unique().to_list() == [name]
        beta = (row * 0.5).astype(np.float32).astype(float)
        assert np.array_equal(table["beta"].to_numpy(), beta)
        exact = -np.log10(2 * stats.t.sf(np.abs(beta / 0.5), 1_000 - 2 - 1))
        assert np.allclose(table["neg_log_10_p_value"].to_numpy(), exact, rtol=1e-12)
        assert np.array_equal(results.estimates(name).beta, beta)


def test_degrees_of_freedom_follow_the_covariates_of_each_variant(tmp_path: Path) -> None:
    """Sex is a covariate more on X than on the autosomes: the p and the |z| of small studies see it."""
    t, n = np.full((2, 600), 2.5), np.stack([np.full(600, 30), np.full(600, 40)])
    more = np.repeat([[0, 1, 3]], 200, axis=1).repeat(2, axis=0)
    results = store(tmp_path, t, n=n, groups=[1, 0], more=more, shard_size=350)
    for name, people in (("trait0", 40), ("trait1", 30)):
        exact = stats.t.sf(2.5, people - 2 - 1 - more[0]) * 2
        np.testing.assert_allclose(results.trait(name)["neg_log_10_p_value"], -np.log10(exact), rtol=1e-12)
    z = np.concatenate([results.z(piece) for _, pieces in results.walk() for piece in pieces if piece.trait == 1])
    np.testing.assert_allclose(z, stats.norm.isf(stats.t.sf(2.5, 30 - 2 - 1 - more[0])), rtol=5e-4)


def test_an_unknown_trait_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    results = store(tmp_path, np.zeros((2, 5)), names=["height", "weight"], omnibus=np.ones((1, 5)))
    for read in (results.trait, results.estimates):
        with pytest.raises(StudyError, match="there is no trait 'heigth' in this scan; did you mean 'height'"):
            read("heigth")
    with pytest.raises(StudyError, match="an omnibus has no estimates"):
        results.estimates("omnibus")


def test_a_shard_file_is_a_column_a_trait_and_statistic_and_costs_its_bytes(tmp_path: Path) -> None:
    variants, traits = 16_384, 20
    t = np.random.default_rng(1).normal(size=(traits, variants))
    store(tmp_path, t, n=np.full((2, variants), 900), groups=[0, 1] * 10, omnibus=np.ones((1, variants)), shard_size=variants)
    (path,) = (tmp_path / "shards").iterdir()
    schema = pl.read_ipc_schema(path)
    assert schema.pop("source_row") == pl.Int64
    assert {name: schema[name] for name in ("beta:trait7", "standard_error:trait7", "n:1", "frequency:1", "omnibus:set0")} == {
        "beta:trait7": pl.Float32,
        "standard_error:trait7": pl.Float32,
        "n:1": pl.Int32,
        "frequency:1": pl.Float32,
        "omnibus:set0": pl.Float64,
    }
    assert len(schema) == 2 * traits + 2 * 2 + 1
    raw = variants * (2 * traits * 4 + 2 * 8 + 8 + 8)
    assert raw <= path.stat().st_size <= 1.01 * raw


@pytest.fixture
def genome(tmp_path: Path) -> Results:
    """Three chromosomes over five shards, positions not in order, two traits with people of their own, two omnibus sets."""
    generator = np.random.default_rng(2)
    chromosomes = ["10"] * 400 + ["2"] * 900 + ["X"] * 1_100
    positions = generator.permutation(2_400) + 1
    t, joint = generator.normal(size=(2, 2_400)), generator.exponential(size=(2, 2_400))
    t[0, ::97], t[1, 5::301] = 7.0, -9.0
    t[1, 3] = np.nan
    joint[:, 50::600] = 12.0
    n = np.stack([np.full(2_400, 700), generator.integers(300, 310, 2_400)])
    return store(tmp_path, t, n=n, groups=[0, 1], omnibus=joint, chromosomes=chromosomes, positions=positions, shard_size=500)


def whole(results: Results) -> pl.DataFrame:
    return pl.concat([results.trait(name) for name in (*results.traits["trait"], "omnibus")])


@pytest.mark.parametrize("bounds", [(1, 2_400), (500, 600), (777, 777)])
@pytest.mark.parametrize("chromosome", ["10", "2", "X"])
def test_a_region_is_that_part_of_the_whole(genome: Results, chromosome: str, bounds: tuple[int, int]) -> None:
    place = (pl.col("chromosome") == chromosome) & pl.col("position").is_between(*bounds)
    tests = ["trait1", "omnibus"]
    here = Results(genome.folder).region(chromosome, *bounds, traits=tests)
    assert_frame_equal(here, whole(genome).filter(place, pl.col("trait").is_in(tests)))
    assert set(genome.region(chromosome, *bounds)["trait"]) <= {"trait0", "trait1"}


def test_region_and_estimates_do_not_read_the_table_of_variants(genome: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = genome.trait("trait1")
    fresh = Results(genome.folder)
    monkeypatch.setattr(Results, "variants", property(lambda self: pytest.fail("the table of variants was read")))
    found = fresh.estimates("trait1")
    assert np.array_equal(found.n, expected["n"].to_numpy())
    assert np.array_equal(found.beta, expected["beta"].to_numpy().astype(np.float32), equal_nan=True)
    assert fresh.region("2", 1, 2_400, traits=["trait0"]).height == 900


def test_an_empty_region_is_an_empty_table_and_an_unknown_chromosome_an_error(genome: Results) -> None:
    nothing = genome.region("2", 5_000, 6_000)
    assert nothing.height == 0
    check(nothing, SUMMARY_STATISTICS)
    with pytest.raises(StudyError, match=r"the scan has no chromosome 'chr3'[\s\S]*expected: 10, 2, X"):
        genome.region("chr3", 1, 10)


@pytest.mark.parametrize(("same", "name"), [("chr2", "2"), (2, "2"), ("02", "2"), ("chrX", "X"), (23, "X"), ("x", "X")])
def test_a_chromosome_is_named_as_on_the_command_line(genome: Results, same: str | int, name: str) -> None:
    assert_frame_equal(genome.region(same, 1, 2_400), genome.region(name, 1, 2_400))


def test_one_trait_of_a_region_by_its_name_and_none_at_all(genome: Results) -> None:
    assert_frame_equal(genome.region("2", 1, 99, "trait1"), genome.region("2", 1, 99, ["trait1"]))
    assert_frame_equal(genome.region("2", 1, 99, []), genome.region("2", 1, 99)[:0])


def test_the_folder_of_a_study_holds_its_scan(tmp_path: Path) -> None:
    """`clinome gwas --out study` keeps the store in study/gwas: both name it."""
    inside = store(tmp_path / "study" / "gwas", np.ones((1, 5)))
    outside = Results(str(tmp_path / "study"))  # type: ignore[arg-type]
    assert outside.folder == inside.folder
    assert_frame_equal(outside.trait("trait0"), inside.trait("trait0"))


def test_a_folder_without_a_finished_scan_is_refused_at_once(tmp_path: Path) -> None:
    store(tmp_path / "killed", np.ones((1, 5)))
    (tmp_path / "killed" / "run.json").unlink()
    for folder in (tmp_path / "killed", tmp_path / "nowhere", tmp_path):
        with pytest.raises(StudyError, match=rf"no finished scan here[\s\S]*where: *{folder}\n[\s\S]*--out"):
            Results(folder)


def test_hits_at_a_larger_p_than_they_were_gathered_at_are_refused_with_what_to_do(tmp_path: Path) -> None:
    results = store(tmp_path, np.array([[1.0, 4.0, 7.0]]))
    summarise(results, tests=1.0)
    assert results.hits()["variant_id"].to_list() == ["v2"]
    with pytest.raises(StudyError, match=r"got: *0\.001\n *expected: at most 5e-08\n *do: .*summarise\(…, hits_below=0\.001\)"):
        results.hits(1e-3)
    summarise(results, tests=1.0, hits_below=1e-3)
    assert results.hits(1e-3)["variant_id"].to_list() == ["v1", "v2"]


def test_strengths_at_rows_are_those_of_the_whole(genome: Results) -> None:
    rows = {"trait1": np.array([3, 499, 500, 2_399]), "omnibus": np.array([1_200]), "omnibus:set1": np.array([0, 50])}
    for name, found in genome.strengths(rows).items():
        exact = genome.trait(name)["neg_log_10_p_value"].fill_null(np.nan).to_numpy()[rows[name]]
        assert np.array_equal(found, exact, equal_nan=True)
