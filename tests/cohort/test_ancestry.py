from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.cohort.ancestry import Components, principal_components, project
from clinome.core.errors import CohortError
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.genotypes import Genotypes


@pytest.fixture(scope="module")
def real_people(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Genotypes] = {}

    def opened(folder: Path, name: str) -> Genotypes:
        if name not in made:
            to = tmp_path_factory.mktemp(name)
            for suffix in ("bed", "bim"):
                (to / f"{name}.{suffix}").write_bytes(gzip.decompress((folder / f"{name}.{suffix}.gz").read_bytes()))
            shutil.copy(folder / f"{name}.fam", to / f"{name}.fam")
            made[name] = open_genotypes(to / f"{name}.bed")
        return made[name]

    return opened


def expected_of_plink(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    text = gzip.decompress((folder / "expected-plink2" / f"pca_{name}.eigenvec.gz").read_bytes())
    table = pl.read_csv(text, separator="\t", infer_schema=False)
    vectors = table.select(pl.col("^PC.*$").cast(pl.Float64)).to_numpy()
    return vectors, np.loadtxt(folder / "expected-plink2" / f"pca_{name}.eigenval")


def differences(scores: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.abs(scores * np.sign((scores * expected).sum(axis=0)) - expected).max(axis=0)


def structured(rng: np.random.Generator, n_people: int = 300, n_variants: int = 3000, *, missing: float = 0.0) -> ArrayGenotypes:
    """Three populations (Balding–Nichols, F = 0.05), so that two components stand out."""
    ancestral = rng.uniform(0.1, 0.9, n_variants)
    frequency = rng.beta(ancestral * 19, (1 - ancestral) * 19, size=(3, n_variants))
    counts = rng.binomial(2, frequency[np.arange(n_people) % 3]).T.astype(np.int8)
    counts[rng.random(counts.shape) < missing] = -1
    return array_genotypes(counts)


@pytest.mark.parametrize("name", ["kg", "hm3"])
def test_equal_to_plink2(real_data, real_people, name: str) -> None:
    folder = real_data("1kg-hm3-thinned")
    vectors, values = expected_of_plink(folder, name)
    components = principal_components(real_people(folder, name))
    np.testing.assert_allclose(components.eigenvalues, values, rtol=1e-5)
    assert differences(components.scores, vectors).max() < 5e-6, "PLINK prints six digits"
    assert components.notes == ()
    random = principal_components(real_people(folder, name), exact_up_to=0)
    np.testing.assert_allclose(random.eigenvalues, values, rtol=1e-3)
    separated = np.flatnonzero(values / np.append(values[1:], values[-1]) > 1.1)
    assert len(separated) >= 4
    assert differences(random.scores, vectors)[separated].max() < 2e-4


def test_projection_returns_the_scores_and_places_another_cohort(real_data, real_people) -> None:
    folder = real_data("1kg-hm3-thinned")
    kg, hm3 = real_people(folder, "kg"), real_people(folder, "hm3")
    components = principal_components(kg, n=4)
    same = project(kg, components)
    np.testing.assert_allclose(same.scores, components.scores, atol=1e-6)
    assert same.notes == ("14057 of 14057 variants were found",)
    placed = project(hm3, components).scores
    population = pl.read_csv(folder / "hm3_relationships_w_pops_121708.txt", separator="\t", infer_schema=False)
    joined = hm3.samples.join(population, left_on="participant_id", right_on="IID", how="left", maintain_order="left")
    group = joined["population"].replace_strict(
        {"YRI": "Africa", "LWK": "Africa", "CEU": "Europe", "TSI": "Europe", "CHB": "Asia", "JPT": "Asia", "CHD": "Asia"},
        default=None,
    )
    centres = {g: placed[(group == g).fill_null(False).to_numpy(), :2].mean(axis=0) for g in ("Africa", "Europe", "Asia")}
    known = group.is_not_null().to_numpy()
    assert known.sum() > 600
    nearest = np.argmin([np.linalg.norm(placed[:, :2] - c, axis=1) for c in centres.values()], axis=0)
    wrong = np.array(list(centres))[nearest][known] != group.to_numpy()[known]
    assert wrong.sum() == 0, "every person lies nearest to their own continent"


def test_the_randomised_route_agrees_with_the_exact_one(generator: np.random.Generator) -> None:
    for missing, tolerance in ((0.0, 1e-4), (0.02, 2e-3)):
        genotypes = structured(generator, missing=missing)
        exact = principal_components(genotypes, n=4)
        random = principal_components(genotypes, n=4, exact_up_to=0)
        np.testing.assert_allclose(random.eigenvalues[:2], exact.eigenvalues[:2], rtol=max(1e-5, 10 * tolerance * (missing > 0)))
        assert differences(random.scores, exact.scores)[:2].max() < tolerance
        again = principal_components(genotypes, n=4, exact_up_to=0)
        np.testing.assert_array_equal(again.scores, random.scores)


def test_memory_of_the_randomised_route_is_blocks_not_people_squared(generator: np.random.Generator, monkeypatch) -> None:
    genotypes = structured(generator, 200, 500)
    monkeypatch.setattr("clinome.cohort.ancestry._block_size", lambda people: 64)
    principal_components(genotypes, n=2, exact_up_to=0)
    assert max(rows for rows, _ in genotypes.reads) == 64


def test_noise_settles_too_and_what_does_not_is_named(monkeypatch) -> None:
    genotypes = array_genotypes(random_counts(np.random.default_rng(5), 3000, 1000))
    exact = principal_components(genotypes, n=3)
    random = principal_components(genotypes, n=3, exact_up_to=0)
    assert random.notes == ()
    np.testing.assert_allclose(random.eigenvalues, exact.eigenvalues, rtol=1e-5)
    assert np.abs((random.scores * exact.scores).sum(axis=0)).min() > 0.999
    monkeypatch.setattr("clinome.cohort.ancestry._MAX_PASSES", 3)
    hurried = principal_components(genotypes, n=3, exact_up_to=0)
    assert hurried.notes == ("components 1, 2, 3 are not separated from noise: they did not settle in 3 passes over the genotypes",)


def test_frequencies_variants_and_scaling(generator: np.random.Generator) -> None:
    genotypes = structured(generator, 120, 900)
    genotypes.counts[5] = 0
    genotypes.counts[6] = 0
    genotypes.counts[6, 0] = 1
    components = principal_components(genotypes, n=3)
    assert not {5, 6} & set(components.variants)
    np.testing.assert_allclose(components.frequencies, genotypes.counts[components.variants].mean(axis=1) / 2)
    np.testing.assert_allclose((components.scores**2).sum(axis=0), 1)
    z = genotypes.counts[components.variants] - 2 * components.frequencies[:, None]
    z /= np.sqrt(2 * components.frequencies * (1 - components.frequencies))[:, None]
    np.testing.assert_allclose(components.eigenvalues, np.linalg.eigvalsh(z.T @ z / len(z))[::-1][:3], rtol=1e-5)
    np.testing.assert_allclose(z.T @ components.loadings, components.scores, atol=1e-5)
    largest = np.abs(components.loadings).argmax(axis=0)
    assert (components.loadings[largest, np.arange(3)] > 0).all()


def test_dosages_give_the_components_of_the_calls_they_are(generator: np.random.Generator) -> None:
    genotypes = structured(generator, 150, 800, missing=0.01)
    dosages = ArrayGenotypes(
        genotypes.samples, genotypes.variants, np.where(genotypes.counts < 0, -1, genotypes.counts * np.int32(16384)), 16384
    )
    np.testing.assert_allclose(principal_components(dosages, n=2).scores, principal_components(genotypes, n=2).scores, atol=1e-5)


def swapped(genotypes: ArrayGenotypes, rows: np.ndarray) -> ArrayGenotypes:
    table = genotypes.variants.with_row_index("row").with_columns(turn=pl.col("row").is_in(rows.tolist()))
    table = table.with_columns(
        effect_allele=pl.when("turn").then("other_allele").otherwise("effect_allele"),
        other_allele=pl.when("turn").then("effect_allele").otherwise("other_allele"),
    )
    counts = genotypes.counts.copy()
    counts[rows] = np.where(counts[rows] < 0, -1, 2 - counts[rows])
    return ArrayGenotypes(genotypes.samples, table.drop("row", "turn"), counts, build=genotypes.build)


def test_swapped_alleles_other_names_and_order_project_alike(generator: np.random.Generator) -> None:
    genotypes = structured(generator, 100, 600, missing=0.01)
    components = principal_components(genotypes, n=2)
    plain = project(genotypes, components).scores
    turned = swapped(genotypes, np.arange(0, 600, 3))
    projection = project(turned, components)
    np.testing.assert_allclose(projection.scores, plain, atol=1e-6)
    assert (
        projection.notes[1]
        == f"{len(set(components.variants) & set(range(0, 600, 3)))} of them have effect and other allele swapped"
    )
    order = generator.permutation(600)
    renamed = turned.variants.with_columns(variant_id="new" + pl.col("variant_id"))[order]
    moved = ArrayGenotypes(turned.samples, renamed, turned.counts[order], build="GRCh38")
    np.testing.assert_allclose(project(moved, components, samples=np.array([3, 1])).scores, plain[[3, 1]], atol=1e-6)


def test_projection_of_few_variants_is_an_error_and_of_most_is_scaled(generator: np.random.Generator) -> None:
    genotypes = structured(generator, 100, 2000)
    components = principal_components(genotypes, n=2)
    part = np.sort(generator.permutation(2000)[:1500])
    some = ArrayGenotypes(genotypes.samples, genotypes.variants[part], genotypes.counts[part])
    scores = project(some, components).scores
    assert np.corrcoef(scores[:, 0], components.scores[:, 0])[0, 1] > 0.98
    assert np.polyfit(components.scores[:, 0], scores[:, 0], 1)[0] == pytest.approx(1, abs=0.1)
    strange = genotypes.variants.with_columns(variant_id="x" + pl.col("variant_id"))
    other_build = ArrayGenotypes(genotypes.samples, strange, genotypes.counts, build="GRCh37")
    on_38 = Components(**{**components.__dict__, "build": "GRCh38"})
    with pytest.raises(CohortError, match=r"(?s)too few of the components' variants.*0 of "):
        project(other_build, on_38)
    with pytest.raises(CohortError, match=r"no genotypes at the components' variants"):
        project(ArrayGenotypes(genotypes.samples, genotypes.variants, np.full_like(genotypes.counts, -1)), components)


def test_too_few_people_and_people_without_genotypes(generator: np.random.Generator) -> None:
    with pytest.raises(CohortError, match=r"(?s)10 principal components need more.*9 people"):
        principal_components(structured(generator, 9, 50))
    genotypes = structured(generator, 50, 200)
    genotypes.counts[:, 7] = -1
    with pytest.raises(CohortError, match=r"(?s)no genotypes at the variants used.*1 people"):
        principal_components(genotypes, n=2)
