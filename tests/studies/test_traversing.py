"""What a trait or an allele does to pictures: the planted change comes back with its error, few people are withheld."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clinome.core.errors import CohortError, FormatError, StudyError
from clinome.formats.picture import write_picture
from clinome.formats.plink import write_plink
from clinome.imaging.learning import transferred
from clinome.studies.task_file import Pictures
from clinome.studies.traversing import Along, traverse_images

N, SIDE = 60, 24
SPOT, COPIES = (slice(2, 6), slice(2, 6)), np.array([0] * 28 + [1] * 28 + [2] * 4)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty people with two pictures: a spot that is 20 grey levels brighter a copy, all of it 30 brighter at the second centre."""
    folder, generator = tmp_path_factory.mktemp("people"), np.random.default_rng(3)
    centre = generator.integers(0, 2, N)
    rows = []
    for k in range(N):
        for eye in ("left", "right"):
            values = generator.normal(90, 6, (SIDE, SIDE, 3)) + 30 * centre[k]
            values[SPOT] += 20 * COPIES[k]
            values = values[:, ::-1] if eye == "left" else values
            write_picture(folder / f"{k}{eye}.png", np.clip(np.rint(values), 0, 255).astype(np.uint8))
            rows.append((f"{k}{eye}", f"P{k}", f"{k}{eye}.png", eye))
    rows.append(("broken", "P0", "broken.png", "left"))
    (folder / "broken.png").touch()
    pl.DataFrame(rows, schema=["image_id", "participant_id", "path", "laterality"], orient="row").write_parquet(
        folder / "images.parquet"
    )
    people = pl.DataFrame({"participant_id": [f"P{k}" for k in range(N)]})
    people.with_columns(centre=pl.Series([f"c{c}" for c in centre])).write_csv(folder / "covariates.csv")
    people.with_columns(copies=pl.Series(COPIES.astype(float)), note=pl.lit("text")).write_csv(folder / "traits.csv")
    schema = {"variant_id": ["rs1", "rs2"], "chromosome": ["1", "1"], "position": [10, 20]}
    variants = pl.DataFrame({**schema, "effect_allele": ["T", "A"], "other_allele": ["C", "G"]})
    counts = np.array([COPIES, generator.integers(0, 3, N)], dtype=np.int8)
    write_plink(folder / "g.bed", samples=people, variants=variants, blocks=[counts])
    return folder


def test_an_allele_brightens_what_it_was_planted_to_and_few_people_are_withheld(cohort: Path, tmp_path: Path) -> None:
    along = Along(variant="rs1", genotypes=str(cohort / "g.bed"), covariates=cohort / "covariates.csv", size=SIDE)
    found = traverse_images(Pictures(cohort / "images.parquet"), tmp_path, along, threads=1)
    assert found.groups.select("label", "people").rows() == [("C/C", 28), ("T/C", 28), ("T/T", 4)]
    assert found.groups["picture_path"].to_list() == ["mean_1.png", "mean_2.png", None]
    assert not (tmp_path / "mean_3.png").exists()
    away = np.ones((SIDE, SIDE), dtype=bool)
    away[SPOT] = False
    np.testing.assert_allclose(found.difference[SPOT].mean(), 20, atol=0.5)
    error = found.standard_error[SPOT]
    assert np.abs((found.difference[SPOT] - 20) / error).mean() < 1.3  # about 0.8, the mean size of Student's t
    assert np.abs(found.difference[away] / found.standard_error[away]).mean() == pytest.approx(0.8, abs=0.1)
    assert found.pictures == 2 * N
    assert pl.read_parquet(tmp_path / "set_aside.parquet")["image_id"].to_list() == ["broken"]
    assert (tmp_path / "along.png").stat().st_size > 1000
    about = json.loads((tmp_path / "summary.json").read_text())
    assert about["withheld"] == 1
    assert about["settings"]["unit"] == "copy of T"
    assert about["pixels_clear_of_chance"] == pytest.approx(16 / SIDE**2, abs=0.02)
    assert str(cohort) not in (tmp_path / "provenance.json").read_text()


def test_the_slope_a_copy_is_the_allele_s_effect_whatever_its_frequency_and_who_lacks_what(tmp_path: Path) -> None:
    generator, n = np.random.default_rng(8), 200
    who = [f"P{k:03d}" for k in range(n)]
    with_picture, with_genotype, with_age = np.arange(n) < 180, np.arange(n) >= 15, np.arange(n) % 20 != 7
    ancestry = generator.normal(size=n)
    dosage = np.where(generator.random(n) < 0.12, generator.uniform(0.6, 1.9, n), generator.uniform(0, 0.2, n))
    dosage = np.round(np.clip(dosage + 0.1 * ancestry, 0, 2), 3)
    dosage[~with_picture] = 2.0  # those without pictures have another spread
    truth = 100 + 12 * dosage + 6 * ancestry  # grey levels: twelve a copy
    for k in np.flatnonzero(with_picture):
        values = truth[k] + generator.normal(0, 3, (SIDE, SIDE, 1)) + np.zeros(3)
        write_picture(tmp_path / f"{who[k]}.png", np.clip(np.rint(values), 0, 255).astype(np.uint8))
    table = pl.DataFrame({"image_id": who, "participant_id": who, "path": [f"{one}.png" for one in who]})
    table.filter(pl.Series(with_picture)).write_csv(tmp_path / "images.csv")
    aged = pl.DataFrame({"participant_id": who, "ancestry": ancestry, "dosage": dosage})
    aged.select("participant_id", "ancestry").filter(pl.Series(with_age)).write_csv(tmp_path / "covariates.csv")
    aged.select("participant_id", "dosage").filter(pl.Series(with_genotype)).write_csv(tmp_path / "traits.csv")
    seen = [k for k in range(n) if with_genotype[k]]
    lines = ["##fileformat=VCFv4.2", "##contig=<ID=1>", '##FORMAT=<ID=DS,Number=1,Type=Float,Description="dosage">']
    lines += ["\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *(who[k] for k in seen)])]
    lines += ["\t".join(["1", "9", "rs1", "C", "T", ".", ".", ".", "DS", *(f"{dosage[k]:.3f}" for k in seen)])]
    (tmp_path / "g.vcf").write_text("\n".join(lines) + "\n")
    images, given = Pictures(tmp_path / "images.csv"), {"covariates": tmp_path / "covariates.csv", "size": SIDE}
    by_copy = Along(variant="rs1", genotypes=str(tmp_path / "g.vcf"), **given)  # type: ignore[arg-type]
    along = Along(trait="dosage", phenotypes=tmp_path / "traits.csv", **given)  # type: ignore[arg-type]
    copy = traverse_images(images, tmp_path / "copy", by_copy, threads=1)
    deviation = traverse_images(images, tmp_path / "trait", along, threads=1)
    kept = np.flatnonzero(with_picture & with_genotype & with_age)
    assert copy.groups["people"].sum() == len(kept)
    assert abs(copy.difference.mean() - 12) < 0.2
    one = np.load(tmp_path / "copy" / "pictures.npy")[kept, 5, 7, 0].astype(float)
    design = np.column_stack([np.ones(len(kept)), dosage[kept], ancestry[kept]])
    beta, left, *_ = np.linalg.lstsq(design, one, rcond=None)
    np.testing.assert_allclose(copy.difference[5, 7, 0], beta[1], rtol=1e-3)  # dosages are kept to 1 / 16384
    error = np.sqrt(left[0] / (len(kept) - 3) * np.linalg.inv(design.T @ design)[1, 1])
    np.testing.assert_allclose(copy.standard_error[5, 7, 0], error, rtol=1e-3)
    np.testing.assert_allclose(deviation.difference, copy.difference * dosage[kept].std(), rtol=1e-3, atol=1e-3)


def test_a_number_without_spread_of_its_own_is_refused(cohort: Path, tmp_path: Path) -> None:
    pl.read_csv(cohort / "traits.csv").select("participant_id", size="copies").write_csv(tmp_path / "same.csv")
    pl.read_csv(cohort / "traits.csv").select("participant_id", flat=pl.lit(3.0)).write_csv(tmp_path / "flat.csv")
    images = Pictures(cohort / "images.parquet")
    with pytest.raises(CohortError, match="does not vary") as raised:
        traverse_images(images, tmp_path / "a", Along(trait="flat", phenotypes=tmp_path / "flat.csv", size=SIDE), threads=1)
    assert "60 people, flat from 3 to 3" in str(raised.value)
    along = Along(trait="copies", phenotypes=cohort / "traits.csv", covariates=tmp_path / "same.csv", size=SIDE)
    with pytest.raises(CohortError, match="its covariates say all of it"):
        traverse_images(images, tmp_path / "b", along, threads=1)


def test_a_trait_is_cut_at_its_quantiles_and_covariates_leave_the_difference(cohort: Path, tmp_path: Path) -> None:
    given = {"trait": "copies", "phenotypes": cohort / "traits.csv", "size": SIDE, "groups": 2}
    images = Pictures(cohort / "images.parquet")
    clean = traverse_images(images, tmp_path / "clean", Along(**given, covariates=cohort / "covariates.csv"), threads=1)  # type: ignore[arg-type]
    raw = traverse_images(images, tmp_path / "raw", Along(**given), threads=1)  # type: ignore[arg-type]
    np.testing.assert_allclose(clean.difference[SPOT].mean(), 20 * COPIES.std(), atol=0.5)
    assert clean.standard_error.mean() < 0.5 * raw.standard_error.mean()  # the centres' light is gone
    assert raw.groups["people"].to_list() == [30, 30]
    (tmp_path / "raw/mean_3.npy").touch()  # of a run with more groups
    traverse_images(images, tmp_path / "raw", Along(**given), threads=1)  # type: ignore[arg-type]
    assert {path.name for path in (tmp_path / "raw").glob("mean_*.npy")} == {"mean_1.npy", "mean_2.npy"}


def test_an_encoder_says_where_it_responds_and_a_second_call_gives_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    model = tmp_path / "phenotypes"
    model.mkdir()
    transferred("small", None, size=SIDE, seed=1).save(model / "encoder.safetensors")
    (model / "embedding.json").write_text(json.dumps({"config": {"size": SIDE, "mirror": True}}))
    pl.read_csv(cohort / "traits.csv").select("participant_id", dim01="copies").write_parquet(model / "phenotypes.parquet")
    images, along = Pictures(cohort / "images.parquet"), Along(trait="dim01")
    traverse_images(images, tmp_path / "a", along, model=model, threads=1)
    response = np.load(tmp_path / "a" / "response.npy")
    assert response.shape == (SIDE, SIDE, 3)
    assert np.abs(response).max() > 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").glob("*.*") if path.name != "provenance.json"}
    traverse_images(images, tmp_path / "a", along, model=model, threads=2)
    assert {name: (tmp_path / "a" / name).read_bytes() for name in first} == first


def test_what_is_not_there_is_said(cohort: Path, tmp_path: Path) -> None:
    images = Pictures(cohort / "images.parquet")
    with pytest.raises(StudyError, match="no such variant") as raised:
        traverse_images(images, tmp_path, Along(variant="rs9", genotypes=str(cohort / "g.bed")))
    assert "one of 2: rs1, rs2" in str(raised.value)
    with pytest.raises(StudyError, match="no such trait") as raised:
        traverse_images(images, tmp_path, Along(trait="dim01", phenotypes=cohort / "traits.csv"))
    assert "expected: copies, note" in str(raised.value)
    with pytest.raises(StudyError, match="along numbers only"):
        traverse_images(images, tmp_path, Along(trait="note", phenotypes=cohort / "traits.csv"))
    with pytest.raises(StudyError, match="nothing says where the trait is"):
        traverse_images(images, tmp_path, Along(trait="dim01"))
    with pytest.raises(FormatError, match="no encoder of people's pictures"):
        traverse_images(images, tmp_path, Along(trait="dim01"), model=cohort)
    with pytest.raises(StudyError, match="one of --along and --variant"):
        Along()
    with pytest.raises(StudyError, match="nothing says where the variant is"):
        Along(variant="rs1")
    pl.read_csv(cohort / "traits.csv").with_columns(participant_id="X" + pl.col("participant_id")).write_csv(tmp_path / "t.csv")
    with pytest.raises(CohortError, match="nobody has both"):
        traverse_images(images, tmp_path / "o", Along(trait="copies", phenotypes=tmp_path / "t.csv", size=SIDE))
