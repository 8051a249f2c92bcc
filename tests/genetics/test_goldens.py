"""The scan against other programs, variant by variant, on real data: PLINK 2, REGENIE, sgkit and statsmodels."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from toolkit.genotypes import array_genotypes
from toolkit.goldens import assert_same_scan, plink2_linear, regenie
from toolkit.plink2 import run

from clinome.formats.genotype_files import open_genotypes
from clinome.formats.genotypes import Genotypes
from clinome.formats.table import read_table
from clinome.genetics.association import Options, associate
from clinome.genetics.filters import Filters
from clinome.stats.distributions import neg_log10_chi2

DROP = Options(missing_genotypes="drop")


def unpacked(source: Path, stem: str, folder: Path) -> Path:
    """Lay a PLINK 1 fileset out where it can be read, and return its .bed."""
    for suffix in (".bed", ".bim", ".fam"):
        packed = source / f"{stem}{suffix}.gz"
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else (source / f"{stem}{suffix}").read_bytes()
        (folder / f"{stem}{suffix}").write_bytes(data)
    return folder / f"{stem}.bed"


def table(path: Path) -> pl.DataFrame:
    return read_table(path).frame.drop("family_id", strict=False)


def ragged(traits: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Take 5 % of every trait's values away, each trait by itself."""
    generator = np.random.default_rng(seed)
    return traits.with_columns(
        pl.when(pl.Series(generator.random(traits.height) < 0.05)).then(None).otherwise(pl.col(name)).alias(name)
        for name in traits.columns
        if name != "participant_id"
    )


def as_plink(frame: pl.DataFrame, path: Path, *, families: bool) -> Path:
    """Write a table as PLINK reads it; ``families`` where the genotypes state FID (here the IID again)."""
    ids = {"#FID": "participant_id", "IID": "participant_id"} if families else {"#IID": "participant_id"}
    frame = frame.select(*(pl.col(one).alias(name) for name, one in ids.items()), pl.exclude("participant_id"))
    frame.write_csv(path, separator="\t", null_value="NA")
    return path


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_mice_equal_plink2(missing: str, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = real_data("hs-mice")
    genotypes = open_genotypes(unpacked(data, "hs_mice", tmp_path))
    traits, sex = table(data / "mice.q.txt.gz"), table(data / "mice.c.txt.gz")
    results = associate(genotypes, traits, covariates=sex, out=tmp_path / "out", options=Options(missing_genotypes=missing))  # type: ignore[arg-type]
    assert results.traits.height == 8
    for name in results.traits["trait"]:
        theirs = plink2_linear(data / "expected-plink2" / f"mice_q.{name}.glm.linear.gz")
        assert assert_same_scan(results.trait(name), theirs).n_variants == 10_074


def test_soybeans_equal_plink2_with_its_variants_and_its_missing_genotypes(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    data = real_data("soynam")
    genotypes = open_genotypes(unpacked(data, "soynam", tmp_path))
    traits, components = table(data / "soy.q.txt.gz"), table(data / "soy.eigenvec.gz")
    options = Options(missing_genotypes="drop", filters=Filters(maf=0.01, missing=0.2))
    results = associate(genotypes, traits, covariates=components, out=tmp_path / "out", options=options)
    assert results.run["filtered"] == {"maf": 24, "missing": 272}
    for name in results.traits["trait"]:
        theirs = plink2_linear(data / "expected-plink2" / f"soy.{name}.glm.linear.gz")
        assert results.variants["variant_id"].to_list() == theirs["variant_id"].to_list()
        assert_same_scan(results.trait(name), theirs)


def test_maize_equals_plink2(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = real_data("maize-drops")
    genotypes = open_genotypes(unpacked(data, "maize_drops", tmp_path))
    traits, components = table(data / "maize.q.txt"), table(data / "maize.eigenvec")
    results = associate(genotypes, traits, covariates=components, out=tmp_path / "out", options=DROP)
    for name in ("anthesis_Mur13W", "grain.yield_Kar12W"):
        theirs = plink2_linear(data / "expected-plink2" / f"maize.{name}.glm.linear.gz")
        assert assert_same_scan(results.trait(name), theirs).n_variants == 41_722


@pytest.mark.slow
def test_ragged_traits_equal_plink2_run_on_each_alone(
    real_data: Callable[[str], Path], program: Callable[[str], str], tmp_path: Path
) -> None:
    """Eight traits with eight sets of people in one scan; then two where 5 % of the genotypes are missing too."""
    for name, stem, q, c, n_traits, few in (
        ("hs-mice", "hs_mice", "mice.q.txt.gz", "mice.c.txt.gz", 8, ("--autosome-num", 19, "--chr", "1-19")),
        ("soynam", "soynam", "soy.q.txt.gz", "soy.eigenvec.gz", 2, ("--autosome-num", 20)),
    ):
        data = real_data(name)
        bed = unpacked(data, stem, tmp_path)
        traits, covariates = ragged(table(data / q)[:, : n_traits + 1], seed=5), table(data / c)
        results = associate(open_genotypes(bed), traits, covariates=covariates, out=tmp_path / name, options=DROP)
        groups = results.traits["group"].n_unique()
        assert groups == results.traits.height
        files = (
            "--pheno",
            as_plink(traits, tmp_path / "q.txt", families=True),
            "--covar",
            as_plink(covariates, tmp_path / "c.txt", families=True),
        )
        options = ("--covar-variance-standardize", "--threads", 1, "--memory", 1000)
        run(
            program("plink2"),
            "--bfile",
            bed.with_suffix(""),
            *few,
            *files,
            *options,
            "--glm",
            "hide-covar",
            "--out",
            tmp_path / name,
        )
        for trait in results.traits["trait"]:
            theirs = plink2_linear(tmp_path / f"{name}.{trait}.glm.linear")
            assert theirs.height > 4_000
            estimated = theirs.drop_nulls("beta")  # PLINK 2 says nothing where the counted allele varies among too few
            assert_same_scan(results.trait(trait), estimated)


def test_dosages_equal_plink2(program: Callable[[str], str], tmp_path: Path) -> None:
    """A .pgen of dosages with 4 % missing, two traits with their own gaps and a covariate."""
    plink2, pgen = program("plink2"), tmp_path / "dosages"
    run(plink2, "--dummy", 300, 400, 0.04, 0.03, "dosage-freq=0.6", "--seed", 3, "--make-pgen", "--out", pgen, "--threads", 1)
    genotypes = open_genotypes(pgen.with_suffix(".pgen"))
    generator = np.random.default_rng(8)
    block = genotypes.read(np.arange(genotypes.variants.height))
    assert block.scale > 1
    assert (block.counts % block.scale > 0).mean() > 0.3
    assert (block.counts < 0).mean() > 0.02
    ids = genotypes.samples["participant_id"]
    signal = np.maximum(block.counts[0], 0) / block.scale
    columns = {"a": generator.normal(size=len(ids)) + signal, "b": generator.exponential(size=len(ids))}
    traits = ragged(pl.DataFrame({"participant_id": ids, **columns}), seed=6)
    covariates = pl.DataFrame({"participant_id": ids, "age": generator.normal(50, 8, len(ids))})
    results = associate(genotypes, traits, covariates=covariates, out=tmp_path / "out", options=DROP)
    files = (
        "--pheno",
        as_plink(traits, tmp_path / "q.txt", families=False),
        "--covar",
        as_plink(covariates, tmp_path / "c.txt", families=False),
    )
    options = ("--covar-variance-standardize", "--threads", 1, "--glm", "hide-covar")
    run(plink2, "--pfile", pgen, *files, *options, "--out", tmp_path / "theirs")
    for trait in ("a", "b"):
        assert assert_same_scan(results.trait(trait), plink2_linear(tmp_path / f"theirs.{trait}.glm.linear")).n_variants == 400


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_thousand_genomes_vcf_equals_statsmodels(
    missing: str, gaps: bool, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    data = real_data("glow-1kg-gwas")
    genotypes = open_genotypes(data / "genotypes.vcf.gz")
    traits, covariates = table(data / "continuous-phenotypes.csv.gz"), table(data / "covariates.csv.gz")
    traits = ragged(traits, seed=7) if gaps else traits
    options = Options(missing_genotypes=missing)  # type: ignore[arg-type]
    results = associate(genotypes, traits, covariates=covariates, out=tmp_path / "out", options=options)
    counts = genotypes.read(np.arange(genotypes.variants.height)).counts
    order = genotypes.samples.select("participant_id")
    base = sm.add_constant(
        order.join(covariates, on="participant_id", how="left", maintain_order="left").drop("participant_id").to_numpy()
    )
    y = order.join(traits, on="participant_id", how="left", maintain_order="left")
    n_compared = 0
    for trait in results.traits["trait"]:
        ours = results.trait(trait)
        values = y[trait].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for v in range(len(counts)):
            people = np.isfinite(values) & (counts[v] >= 0)
            g = counts[v, people].astype(float)
            if g.std() == 0:
                assert ours["beta"][v] is None
                continue
            fit = sm.OLS(values[people], np.column_stack([g, base[people]])).fit()
            row = ours.row(v, named=True)
            assert row["n"] == people.sum()
            assert abs(row["beta"] - fit.params[0]) <= 1e-4 * fit.bse[0]
            assert row["standard_error"] == pytest.approx(fit.bse[0], rel=1e-4)
            strength = -np.log10(fit.pvalues[0])
            assert abs(row["neg_log_10_p_value"] - strength) <= 1e-3 * max(1, strength)
            n_compared += 1
    assert n_compared >= 100


def leave_one_out(path: Path, ids: pl.Series) -> dict[str, np.ndarray]:
    """Read REGENIE's .loco: the prediction of each person without each chromosome, in the order of ``ids``."""
    rows = [line.split() for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    people = {name: j for j, name in enumerate(rows[0])}
    columns = [people[f"{one}_{one}"] for one in ids]
    return {row[0]: np.array(row, dtype=object)[columns].astype(float) for row in rows[1:]}


def score_without_chromosome(
    genotypes: Genotypes, values: np.ndarray, covariates: np.ndarray, predictions: dict[str, np.ndarray], out: Path
) -> pl.DataFrame:
    """Do as REGENIE's step 2: the trait's unit-variance residual less the prediction, scored chromosome by chromosome."""
    base = np.column_stack([np.ones(len(values)), covariates])
    residual = values - base @ np.linalg.lstsq(base, values, rcond=None)[0]
    size = np.sqrt((residual**2).sum() / (len(values) - base.shape[1]))
    ids = genotypes.samples["participant_id"]
    names = [f"c{k}" for k in range(covariates.shape[1])]
    table = pl.DataFrame({"participant_id": ids}).hstack(pl.DataFrame(covariates, schema=names)) if names else None
    frames = []
    for chromosome in genotypes.variants["chromosome"].unique(maintain_order=True):
        if chromosome not in predictions:
            continue
        rows = (genotypes.variants["chromosome"] == chromosome).arg_true().to_numpy().astype(np.int64)
        traits = pl.DataFrame({"participant_id": ids, "y": residual - size * predictions[chromosome]})
        options = Options(statistic="score")
        results = associate(genotypes, traits, covariates=table, out=out / chromosome, options=options, variants=rows)
        frames.append(results.trait("y"))
    return pl.concat(frames)


def with_residual_df(theirs: pl.DataFrame, *, n: int, rank: int) -> pl.DataFrame:
    """Bring REGENIE 1 to REGENIE 4's degrees of freedom: it divides by n − 1 where 4 divides by n − rank; and state n."""
    factor = (n - rank) / (n - 1)
    strength = neg_log10_chi2(theirs["chisq"].to_numpy() * factor, 1.0)
    return theirs.with_columns(
        pl.lit(n, pl.Int64).alias("n"),
        pl.col("standard_error") / np.sqrt(factor),
        pl.Series("neg_log_10_p_value", strength),
    )


@pytest.mark.parametrize("trait", ["Y1", "Y2"])
def test_score_statistic_equals_regenie_1(trait: str, real_data: Callable[[str], Path], tmp_path: Path) -> None:
    """One chromosome, so REGENIE's prediction is zero and the two do the same."""
    data = real_data("regenie-example")
    genotypes = open_genotypes(data / "example.bgen")
    doubled = pl.format("{}_{}", "participant_id", "participant_id").alias("participant_id")  # the BGEN's samples are FID_IID
    traits = table(data / "phenotype.txt").with_columns(doubled)
    covariates = table(data / "covariates.txt").with_columns(doubled)
    results = associate(genotypes, traits, covariates=covariates, out=tmp_path / "out", options=Options(statistic="score"))
    theirs = regenie(data / "expected-glow-regenie-1.0.6.7" / f"test_lin_out_{trait}.regenie.gz")
    assert assert_same_scan(results.trait(trait), with_residual_df(theirs, n=500, rank=4)).n_variants == 1_000


def test_score_statistic_equals_regenie_4_less_its_predictions(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    mice = real_data("hs-mice")
    genotypes = open_genotypes(unpacked(mice, "hs_mice", tmp_path))
    order = genotypes.samples.select("participant_id")
    values = order.join(table(mice / "mice.q.txt.gz"), on="participant_id", maintain_order="left")["Obesity.EndNormalBW"].to_numpy()
    sex = order.join(table(mice / "mice.c.txt.gz"), on="participant_id", maintain_order="left")["male"].to_numpy()[:, None]
    predictions = leave_one_out(mice / "expected-regenie-4.1.2" / "mice_s1_3.loco.gz", order["participant_id"])
    ours = score_without_chromosome(genotypes, values, sex, predictions, tmp_path / "out")
    theirs = regenie(mice / "expected-regenie-4.1.2" / "mice_s2_Obesity.EndNormalBW.regenie.gz")
    assert_same_scan(ours, theirs)


def zarr_array(path: Path, name: str) -> np.ndarray:
    """Read an array of one chunk from a zipped Zarr 2 store."""
    from numcodecs import Blosc

    with zipfile.ZipFile(path) as store:
        about = json.loads(store.read(f"{name}/.zarray"))
        (chunk,) = (n for n in store.namelist() if n.startswith(f"{name}/") and not n.startswith(f"{name}/."))
        return np.frombuffer(Blosc().decode(store.read(chunk)), about["dtype"]).reshape(about["chunks"])


def test_five_traits_equal_sgkits_linear_regression_without_covariates(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    """sgkit's scan of standardised traits less the predictions of the other contigs: every t and p of ten contigs × five traits."""
    data = real_data("sgkit-wgr-sim")
    dataset, name = data / "dataset" / "sim_sm_02", "genotypes.zarr.zip"
    counts = zarr_array(dataset / name, "call_genotype").sum(axis=2)
    contig = zarr_array(dataset / name, "variant_contig")
    offsets = zarr_array(dataset / "glow_offsets_nocovariate.zarr.zip", "regenie_loco_prediction")  # contigs × people × traits
    genotypes = array_genotypes(counts, chromosomes=[str(c + 1) for c in contig])
    values = pl.read_csv(dataset / "traits.csv").drop("sample_id")
    standardised = (values.to_numpy() - values.to_numpy().mean(axis=0)) / values.to_numpy().std(axis=0, ddof=1)
    theirs = pl.read_csv(data / "result" / "sim_sm_02-wgr_02" / "gwas_loco_nocovariate.csv.gz")
    compared = 0
    for c in np.unique(contig):
        rows = np.flatnonzero(contig == c)
        traits = genotypes.samples.select("participant_id").hstack(pl.DataFrame(standardised - offsets[c], schema=values.columns))
        results = associate(genotypes, traits, variants=rows, out=tmp_path / str(c))
        for trait in values.columns:
            ours, stored = results.trait(trait), theirs.filter(contigName=int(c) + 1, phenotype=trait).sort("start")
            assert stored["start"].to_list() == rows.tolist()
            t = (ours["beta"] / ours["standard_error"]).to_numpy()
            np.testing.assert_allclose(t, stored["tvalue"].to_numpy(), atol=1e-6, rtol=1e-6)
            np.testing.assert_allclose(10.0 ** -ours["neg_log_10_p_value"].to_numpy(), stored["pvalue"].to_numpy(), rtol=1e-5)
            compared += len(rows)
    assert compared == 250 * 5
