from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.result_folder import LEADS, TRAITS, result_folder

from clinome.core.schema import EVIDENCE, check
from clinome.report.loci import FEWEST, MOST_COLUMNS, MOST_POINTS, loci
from clinome.report.page import write_report
from clinome.report.truth import truth

LINES = {"dimension": 8.1, "omnibus": 7.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result_folder(tmp_path_factory.mktemp("result"), n_variants=3_000)


def test_pictures_are_in_the_page_by_copies_and_the_difference_last(folder: Path) -> None:
    found = loci(folder, LINES)
    assert found is not None
    pictures = found.rows[0].pictures
    assert [(p.kind, p.genotype, p.copies, p.n) for p in pictures] == [
        ("mean", "G/G", 0, 1_702),
        ("mean", "G/A", 1, 1_409),
        ("mean", "A/A", 2, 301),
        ("difference", "", None, 2_003),
    ]
    address = pictures[0].address
    assert address is not None
    assert base64.b64decode(address.split(",")[1]) == (folder / "loci/pictures/locus_1_0.png").read_bytes()


def test_an_average_of_few_people_is_withheld_and_so_is_the_difference_made_of_it(folder: Path) -> None:
    found = loci(folder, LINES)
    assert found is not None
    last = found.rows[-1].pictures
    assert [p.withheld for p in last] == [False, False, True, True]
    page = write_report(folder).read_text()
    for name, shown in (("locus_4_0", True), ("locus_4_2", False), ("locus_4_difference", False)):
        content = base64.b64encode((folder / f"loci/pictures/{name}.png").read_bytes()).decode()
        assert (content in page) is shown
    assert page.count(f"fewer than {FEWEST} people") == 2


def test_every_locus_has_its_region_with_genes_in_lanes_that_do_not_overlap(folder: Path) -> None:
    found = loci(folder, LINES)
    assert found is not None
    for locus, (chromosome, position, trait, value, gene) in zip(found.rows, LEADS, strict=True):
        region = locus.region
        assert region is not None
        assert (region["chromosome"], region["trait"], region["line"]) == (chromosome, trait, 8.1)
        lead = region["id"].index(region["lead"])
        assert region["position"][lead] == position
        assert (region["value"][lead], region["r2"][lead]) == (value, 1)
        assert gene in [g["gene"] for g in region["genes"]]
        for lane in {g["lane"] for g in region["genes"]}:
            ends = [(g["start"], g["end"]) for g in region["genes"] if g["lane"] == lane]
            assert all(a[1] < b[0] for a, b in pairwise(ends))
            assert len(region["genes"]) == 7


def test_a_dense_region_keeps_its_lead_and_its_linked_variants(tmp_path: Path, generator: np.random.Generator) -> None:
    folder = result_folder(tmp_path, n_variants=300)
    n = 20_000
    r2 = generator.beta(0.2, 8, n)
    r2[7_000] = 1
    position = np.sort(generator.integers(24_000_000, 25_000_000, n))
    names = [f"v{i}" for i in range(n)]
    frame = pl.DataFrame(
        {"locus": 1, "variant_id": names, "chromosome": "1", "position": position, "neg_log_10_p_value": r2 * 30, "r2": r2}
    )
    frame.write_parquet(folder / "loci/regions.parquet")
    found = loci(folder, {})
    assert found is not None
    region = found.rows[0].region
    assert region is not None
    assert len(region["id"]) <= MOST_POINTS
    assert set(frame.filter(pl.col("r2") > 0.5)["variant_id"]) <= set(region["id"])
    assert np.ptp(region["position"]) > 900_000


def test_the_joint_evidence_of_a_lead_comes_from_the_scan(folder: Path) -> None:
    found = loci(folder, LINES)
    assert found is not None
    scan = pl.read_parquet(folder / "gwas/manhattan.parquet")
    for locus in found.rows:
        row = scan.filter(pl.col("variant_id") == locus.row["variant_id"]).row(0, named=True)
        assert (locus.omnibus, locus.study_wide) == (row["omnibus"], row["study_wide"])
        assert f"{row['omnibus']:.1f}, {row['study_wide']:.1f}" in write_report(folder).read_text()


def test_evidence_is_a_grid_of_loci_by_traits(folder: Path) -> None:
    found = loci(folder, LINES)
    assert found is not None
    assert found.evidence is not None
    assert found.evidence["traits"] == TRAITS
    assert found.evidence["loci"] == [1, 2, 3, 4]
    for i, (_, _, trait, value, _) in enumerate(LEADS):
        assert found.evidence["value"][i][TRAITS.index(trait)] == value


def test_of_thousands_of_traits_the_strongest_are_in_the_grid(tmp_path: Path) -> None:
    folder = result_folder(tmp_path, n_variants=300)
    plain = pl.read_parquet(folder / "loci/evidence.parquet")
    weak = [f"weak{k}" for k in range(3_000)]
    others = pl.DataFrame(
        {"locus": 1, "trait": weak, "neg_log_10_p_value": np.linspace(0, 2, len(weak)), "beta": 0.1, "standard_error": 1.0}
    )
    pl.concat([others.select(plain.columns).cast(plain.schema), plain]).write_parquet(folder / "loci/evidence.parquet")
    check(pl.read_parquet(folder / "loci/evidence.parquet"), EVIDENCE)
    found = loci(folder, LINES)
    assert found is not None
    assert found.evidence is not None
    assert len(found.evidence["traits"]) == MOST_COLUMNS
    assert {trait for _, _, trait, _, _ in LEADS if trait in TRAITS} <= set(found.evidence["traits"])
    assert weak[0] not in found.evidence["traits"]
    assert f"Of 3,0{len(TRAITS):02d} dimensions the {MOST_COLUMNS} with the strongest evidence" in write_report(folder).read_text()


def test_no_loci_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "loci").mkdir()
    pl.read_parquet(folder / "loci/loci.parquet").clear().write_parquet(tmp_path / "loci/loci.parquet")
    assert "No variant reached significance." in write_report(tmp_path).read_text()


def test_truth_counts_recovered_missed_and_false(folder: Path) -> None:
    found = truth(folder, 1_000_000)
    assert found is not None
    assert (found.counted, found.recovered, found.missed) == (4, 3, 1)
    assert [row["variant_id"] for row in found.false] == ["rs3"]  # no planted locus within 1 Mb
    everywhere = truth(folder, 24_000_000)
    assert everywhere is not None
    assert everywhere.false == ()
    page = write_report(folder).read_text()
    assert page.count("✓ recovered") == 3
    assert page.count("✗ missed") == 2  # one of them not counted
    assert page.count("✗ false") == 1
    assert "planted loci found 3/4, false loci 1" in page


def test_the_line_of_a_region_is_that_of_the_test_it_shows(tmp_path: Path) -> None:
    folder = result_folder(tmp_path, n_variants=500)
    path = folder / "loci/loci.parquet"
    table = pl.read_parquet(path)
    by_omnibus = pl.when(pl.col("locus") == 1).then(pl.lit("omnibus")).otherwise("best_trait").alias("best_trait")
    table.with_columns(by_omnibus).write_parquet(path)
    found = loci(folder, LINES)
    assert found is not None
    regions = [locus.region for locus in found.rows if locus.number <= 2]
    assert [None if region is None else region["line"] for region in regions] == [7.6, 8.1]
