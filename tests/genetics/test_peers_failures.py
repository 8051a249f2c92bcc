"""What users of REGENIE and PLINK 2 report as failures: here each ends with sensible numbers and a line on the page.

Every test names its threads in the peers' trackers. People whose ids do not match (REGENIE #10, #209, #232, #584) are in
``tests/cli/test_gwas.py`` and ``tests/cohort/test_linkage.py``; more threads than are good (REGENIE #95, #576) in
``tests/genetics/test_association.py``.
"""

from __future__ import annotations

import html
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from polars.testing import assert_frame_equal
from toolkit.biobank import CAUSAL, Files, write_files
from toolkit.command import say
from toolkit.plink2 import run as run_program

from clinome.formats.genotype_files import open_genotypes
from clinome.formats.plink import write_plink
from clinome.genetics.results import Results


class Scanned(NamedTuple):
    """What one run of ``clinome gwas`` left: its results and its page, as text."""

    results: Results
    page: str

    def trait(self, name: str) -> pl.DataFrame:
        return self.results.trait(name).drop("trait")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path / "data")


@pytest.fixture
def scan(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Scanned]:
    """Run ``clinome gwas`` on the tiny study, options replaced by those given; None leaves one out."""
    runs = 0

    def call(**options: object) -> Scanned:
        nonlocal runs
        runs += 1
        out = tmp_path / f"out{runs}"
        plain = {"genotypes": files.genotypes, "phenotypes": files.traits, "covariates": files.covariates, "out": out}
        given = {name.replace("_", "-"): value for name, value in (plain | options).items() if value is not None}
        said = say(["gwas", *(word for name, value in given.items() for word in (f"--{name}", value))], monkeypatch, capsys)
        assert said.code == 0, said.err
        return Scanned(Results(out / "gwas"), html.unescape((out / "report.html").read_text(encoding="utf-8")))

    return call


def table(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, separator="\t", null_values="NA")


def saved(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_csv(path, separator="\t", null_value="NA")
    return path


def with_rows(files: Files, rows: dict[int, NDArray[np.int8]], folder: Path) -> Path:
    """Write the genotypes of ``files`` with some variants (rows) replaced."""
    source = open_genotypes(files.genotypes)
    counts = files.counts.copy()
    for row, values in rows.items():
        counts[row] = values
    folder.mkdir()
    write_plink(folder / "cohort.bed", samples=source.samples, variants=source.variants, blocks=[counts])
    return folder / "cohort.bed"


def close(ours: pl.DataFrame, theirs: pl.DataFrame, *, within: float = 1e-6) -> None:
    """Betas equal ``within`` that many standard errors, and standard errors by that share; people counted alike."""
    a, b = (frame.select("beta", "standard_error").to_numpy().astype(np.float64) for frame in (ours, theirs))
    assert np.isfinite(a).all()
    np.testing.assert_array_less(np.abs(a[:, 0] - b[:, 0]) / b[:, 1], within)
    np.testing.assert_allclose(a[:, 1], b[:, 1], rtol=within)
    assert ours["n"].to_list() == theirs["n"].to_list()


def least_squares(trait: pl.Series, covariates: NDArray[np.float64], genotype: NDArray[np.generic]) -> tuple[float, float]:
    """Fit one variant by the textbook: beta and its standard error."""
    design = np.column_stack([np.ones(len(genotype)), covariates, genotype])
    beta, *_ = np.linalg.lstsq(design, trait.to_numpy(), rcond=None)
    rest = trait.to_numpy() - design @ beta
    variance = rest @ rest / (len(design) - design.shape[1]) * np.linalg.inv(design.T @ design)[-1, -1]
    return float(beta[-1]), float(np.sqrt(variance))


def numeric(covariates: pl.DataFrame) -> NDArray[np.float64]:
    """Code the covariates of the tiny study as a textbook would."""
    sites = [pl.col("centre").eq(site).cast(pl.Float64).alias(site) for site in ("north", "south")]
    return covariates.select("age", "sex", *sites).to_numpy().astype(np.float64)


# --- variants -----------------------------------------------------------------------------------------------------------------


def test_variants_with_little_or_no_variation_are_named_and_harm_no_other(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path
) -> None:
    """REGENIE #16, #33, #537, #542, #568, #570, #580, #640, #664: 'SNP has low variance' ends the run."""
    n = files.counts.shape[1]
    single = np.zeros(n, np.int8)
    single[7] = 1
    everybody, nobody, unseen = np.full(n, 2, np.int8), np.zeros(n, np.int8), np.full(n, -1, np.int8)
    spoilt = {3: nobody, 10: everybody, 50: unseen, 60: single, 61: np.where(np.arange(n) < 2, -1, 0).astype(np.int8)}
    clean, odd = scan(), scan(genotypes=with_rows(files, spoilt, tmp_path / "odd"))
    others = [row for row in range(len(files.counts)) if row not in spoilt]
    for trait in ("height", "weight"):
        assert_frame_equal(odd.trait(trait)[others], clean.trait(trait)[others], check_exact=True)
        assert odd.trait(trait)[[3, 10, 50, 61]]["beta"].null_count() == 4
    row = odd.trait("height").row(60, named=True)
    beta, error = least_squares(table(files.traits)["height"], numeric(table(files.covariates)), single)
    assert row["beta"] == pytest.approx(beta, rel=1e-5)
    assert row["standard_error"] == pytest.approx(error, rel=1e-5)
    assert "4 variants have no estimate: no variation" in odd.page
    assert "have no estimate" not in clean.page


def test_a_covariate_that_is_a_variant_leaves_that_variant_out_and_says_so(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path
) -> None:
    """REGENIE #620 and others of the above: common variants collinear with the variants conditioned on end the run."""
    known = int(np.flatnonzero((files.counts >= 0).all(axis=1))[0])
    plain = table(files.covariates)
    one = plain.with_columns(known=pl.Series(files.counts[known].astype(np.float64)))
    twice = one.with_columns(again=5 - 3 * pl.col("known"))
    once, doubled = (scan(covariates=saved(frame, tmp_path / f"{frame.width}.tsv")) for frame in (one, twice))
    for conditioned in (once, doubled):
        assert conditioned.trait("height")["beta"].is_null().arg_true().to_list() == [known]
        assert "1 variants have no estimate: collinear with the covariates" in conditioned.page
    assert "covariate again is a linear combination of known and left out" in doubled.page
    assert_frame_equal(doubled.trait("height"), once.trait("height"), check_exact=True)
    complete = next(row for row in np.flatnonzero((files.counts >= 0).all(axis=1)) if row != known)
    conditioned_on = np.column_stack([numeric(plain), files.counts[known]])
    beta, error = least_squares(table(files.traits)["height"], conditioned_on, files.counts[complete])
    assert once.trait("height")["beta"][int(complete)] == pytest.approx(beta, rel=1e-4)
    assert once.trait("height")["standard_error"][int(complete)] == pytest.approx(error, rel=1e-5)


def test_conditioning_on_variants_that_repeat_each_other_or_do_not_vary(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path
) -> None:
    """The same threads: a variant conditioned on that repeats another, a covariate, or nothing at all."""
    known = int(np.flatnonzero((files.counts >= 0).all(axis=1))[0])
    same, flipped, constant = known + 1, known + 2, known + 3
    spoilt = {same: files.counts[known], flipped: 2 - files.counts[known], constant: np.zeros(files.counts.shape[1], np.int8)}
    genotypes = with_rows(files, spoilt, tmp_path / "repeats")
    once = scan(genotypes=genotypes, condition=f"v{known}")
    repeated = scan(genotypes=genotypes, condition=f"v{known},v{same},v{flipped},v{constant}")
    held = table(files.covariates).with_columns(known=pl.Series(files.counts[known].astype(np.float64)))
    beside = scan(genotypes=genotypes, condition=f"v{known}", covariates=saved(held, tmp_path / "held.tsv"))
    for other in (repeated, beside):
        assert other.trait("height")["beta"].is_null().arg_true().to_list() == [known, same, flipped, constant]
        close(other.trait("height").drop_nulls("beta"), once.trait("height").drop_nulls("beta"))
        assert "3 variants have no estimate: collinear with the covariates" in other.page
        assert "1 variants have no estimate: no variation" in other.page
    for row in (same, flipped):
        assert f"covariate v{row}_A is a linear combination of v{known}_A and left out" in repeated.page
    assert f"covariate v{constant}_A is constant and left out" in repeated.page
    assert f", v{known}_A; an intercept is always included" in once.page


# --- covariates ---------------------------------------------------------------------------------------------------------------


def test_covariates_of_any_unit_give_the_same_numbers(scan: Callable[..., Scanned], files: Files, tmp_path: Path) -> None:
    """PLINK 2 #85, #95, #98: unscaled covariates make the whole column NA (VIF_TOO_HIGH, CORR_TOO_HIGH)."""
    plain = table(files.covariates).with_columns(square=(pl.col("age") - 55) ** 2)
    born = 2026 - pl.col("age")
    raw = plain.select(
        "IID", "sex", "centre", born=born, income=1e6 * pl.col("age") + 3e5 * pl.col("square"), trace=1e-9 * born + 1e-12
    )
    raw = raw.select("IID", "born", "income", "sex", "centre", "trace")
    scaled, unscaled = scan(covariates=saved(plain, tmp_path / "plain.tsv")), scan(covariates=saved(raw, tmp_path / "raw.tsv"))
    for trait in ("height", "weight"):
        close(unscaled.trait(trait), scaled.trait(trait))
    assert "Covariates: born, income, sex, centre=" in unscaled.page
    assert "covariate trace is a linear combination of born and left out" in unscaled.page


# --- BGEN ---------------------------------------------------------------------------------------------------------------------


def index_of(variants: list[tuple[str, int, int]], path: Path) -> None:
    """Write a .bgi that lists (id, start, size) and, as older bgenix does, no metadata."""
    with closing(sqlite3.connect(path)) as database:
        columns = "chromosome TEXT, position INT, rsid TEXT, number_of_alleles INT, allele1 TEXT, allele2 TEXT"
        database.execute(f"CREATE TABLE Variant ({columns}, file_start_position INT, size_in_bytes INT)")
        rows = [("1", 1_000_000, name, 2, "G", "A", start, size) for name, start, size in variants]
        database.executemany("INSERT INTO Variant VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        database.commit()


def as_bgen(plink2: str, files: Files, path: Path) -> Path:
    run_program(plink2, "--bfile", files.genotypes.with_suffix(""), "--export", "bgen-1.2", "bits=8", "--out", path.with_suffix(""))
    return path


def test_the_index_of_another_bgen_is_passed_over(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path, program: Callable[[str], str]
) -> None:
    """REGENIE's `--bgi` trusts any index: one left from an older file of this name gives other variants, or none."""
    bgen = as_bgen(program("plink2"), files, tmp_path / "cohort.bgen")
    clean = scan(genotypes=bgen)
    index_of([("elsewhere", 24, 100), ("beyond", 124, 90)], tmp_path / "cohort.bgen.bgi")
    stale = scan(genotypes=bgen)
    for trait in ("height", "weight"):
        assert_frame_equal(stale.trait(trait), clean.trait(trait), check_exact=True)
    assert "cohort.bgen.bgi was not used: it belongs to another file" in stale.page


def test_files_of_people_in_another_order_change_nothing(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path, program: Callable[[str], str]
) -> None:
    """REGENIE #10, #209, #232, #584: samples are taken by position, so another order gives nobody, or somebody else."""
    bgen = as_bgen(program("plink2"), files, tmp_path / "cohort.bgen")
    head, people = (lines := bgen.with_suffix(".sample").read_text().splitlines())[:2], lines[2:]
    turned = tmp_path / "turned.sample"
    turned.write_text("\n".join([*head, *people[::-1]]) + "\n")
    clean = scan(genotypes=bgen)
    traits, covariates = (
        saved(table(path).sample(fraction=1, shuffle=True, seed=seed), tmp_path / f"shuffled{seed}.tsv")
        for seed, path in enumerate((files.traits, files.covariates))
    )
    shuffled = scan(genotypes=bgen, phenotypes=traits, covariates=covariates, sample=turned)
    for trait in ("height", "weight"):
        assert_frame_equal(shuffled.trait(trait), clean.trait(trait), check_exact=True)
    assert shuffled.trait("height").sort("neg_log_10_p_value")["variant_id"][-1] == f"v{CAUSAL}"
    assert "turned.sample lists the people in another order than the BGEN" in shuffled.page
    assert "in another order" not in clean.page


def test_chromosomes_with_people_in_another_order_are_one_cohort(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path
) -> None:
    """The same threads: files over chromosomes whose people differ in order are refused, or mixed up."""
    source = open_genotypes(files.genotypes)
    for chromosome, order in (("1", np.arange(300)), ("2", np.random.default_rng(4).permutation(300))):
        rows = (source.variants["chromosome"] == chromosome).arg_true().to_numpy().astype(np.int64)
        write_plink(
            tmp_path / f"chr{chromosome}.bed",
            samples=source.samples[order],
            variants=source.variants[rows],
            blocks=[files.counts[rows][:, order]],
        )
    whole, parts = scan(), scan(genotypes=tmp_path / "chr*.bed")
    for trait in ("height", "weight"):
        assert_frame_equal(parts.trait(trait), whole.trait(trait), check_exact=True)
    assert "chr2.bed: the people are in another order than in the first file" in parts.page


def test_phased_bgen_with_men_on_x_is_read_as_plink_reads_it(
    scan: Callable[..., Scanned], files: Files, tmp_path: Path, program: Callable[[str], str]
) -> None:
    """REGENIE #113, #555: phased BGEN is refused, and X with haploid men. PLINK 2: sex beside X is CORR_TOO_HIGH."""
    ids = table(files.traits)["IID"].to_list()
    male = table(files.covariates)["sex"].to_numpy() == 1
    generator = np.random.default_rng(5)
    lines = ["##fileformat=VCFv4.3", "##contig=<ID=1>", "##contig=<ID=X>", '##FORMAT=<ID=GT,Number=1,Type=String,Description="x">']
    lines.append("\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *ids]))
    for j in range(20):
        first, second = generator.random((2, len(ids))) < generator.uniform(0.2, 0.8)
        on_x = j >= 10
        calls = [f"{a:d}" if on_x and man else f"{a:d}|{b:d}" for a, b, man in zip(first, second, male, strict=True)]
        place = ["X", 50_000_000 + j] if on_x else ["1", 1000 + j]
        lines.append("\t".join(map(str, [*place, f"v{j}", "G", "A", ".", ".", ".", "GT", *calls])))
    (tmp_path / "x.vcf").write_text("\n".join(lines) + "\n")
    (tmp_path / "sex.txt").write_text("#IID SEX\n" + "".join(f"{i} {1 if man else 2}\n" for i, man in zip(ids, male, strict=True)))
    plink2 = program("plink2")
    run_program(plink2, "--vcf", tmp_path / "x.vcf", "--update-sex", tmp_path / "sex.txt", "--make-pgen", "--out", tmp_path / "x")
    run_program(plink2, "--pfile", tmp_path / "x", "--make-bed", "--out", tmp_path / "x")
    run_program(plink2, "--pfile", tmp_path / "x", "--export", "bgen-1.3", "ref-first", "--out", tmp_path / "phased")
    run_program(
        plink2,
        "--bgen",
        tmp_path / "phased.bgen",
        "ref-first",
        "--sample",
        tmp_path / "phased.sample",
        "--export",
        "vcf",
        "--out",
        tmp_path / "y",
    )
    written = (tmp_path / "y.vcf").read_text()
    assert "0|1" in written, "the BGEN is not phased"
    assert "/" not in written.split("#CHROM")[1]
    bed, phased = scan(genotypes=tmp_path / "x.bed"), scan(genotypes=tmp_path / "phased.bgen")
    for trait in ("height", "weight"):
        close(phased.trait(trait), bed.trait(trait), within=1e-4)
        assert phased.trait(trait)["effect_allele"].to_list() == bed.trait(trait)["effect_allele"].to_list()
        assert phased.trait(trait)["chromosome"].value_counts().sort("chromosome").rows() == [("1", 10), ("X", 10)]
    assert "have no estimate" not in phased.page
    # Sex in the table of covariates and sex in the .sample are one: given, it is not added; not given, X is adjusted for it.
    unsexed = saved(table(files.covariates).drop("sex"), tmp_path / "unsexed.tsv")
    added = scan(genotypes=tmp_path / "phased.bgen", covariates=unsexed)
    close(added.trait("height")[10:], phased.trait("height")[10:], within=1e-5)
    assert "sex was added to the covariates, because chromosome X is scanned" in added.page
    assert "sex was added" not in phased.page


# --- traits -------------------------------------------------------------------------------------------------------------------


def test_traits_named_alike_or_with_marks_keep_apart(scan: Callable[..., Scanned], files: Files, tmp_path: Path) -> None:
    """PLINK 2 #273: phenotypes whose names make one file name write over each other."""
    plain = table(files.traits)
    names = ["a/b", "a_b", "a b", "A B", "HDL (mmol/L), fasting", "../up", "größe", "beta:height", "<b>", "x" * 200]
    generator = np.random.default_rng(3)
    values = {name: plain["height"].to_numpy() + generator.normal(size=plain.height) for name in names}
    odd = scan(phenotypes=saved(plain.select("IID").with_columns(**values), tmp_path / "odd.tsv"), export="plink2")
    same = {f"trait{k}": values[name] for k, name in enumerate(names)}
    clean = scan(phenotypes=saved(plain.select("IID").with_columns(**same), tmp_path / "same.tsv"))
    folder = odd.results.folder.parent
    written = table(folder / "traits.tsv")
    assert written["trait"].to_list() == names
    assert written["file"].str.to_lowercase().n_unique() == len(names), "two files differ by case alone"
    assert {path.name for path in folder.glob("*.plink2.tsv.gz")} == set(written["file"])
    for k, name in enumerate(names):
        assert_frame_equal(odd.trait(name), clean.trait(f"trait{k}"), check_exact=True)
        text = pl.read_csv(folder / written["file"][k], separator="\t", null_values="NA")
        np.testing.assert_allclose(text["BETA"].to_numpy(), odd.trait(name)["beta"].to_numpy(), rtol=1e-6)
        assert name in odd.page


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_traits_numbers_do_not_depend_on_what_runs_beside_it(
    missing: str, scan: Callable[..., Scanned], files: Files, tmp_path: Path
) -> None:
    """REGENIE #486, #647, #650: a trait's results change with the traits in the run, because missing values are filled jointly."""
    plain = table(files.traits)
    n = plain.height
    generator = np.random.default_rng(9)
    ragged = plain.select("IID").with_columns(
        **{
            f"r{k}": pl.Series(np.where(generator.random(n) < 0.6, generator.normal(size=n), np.nan)).fill_nan(None)
            for k in range(5)
        },
        huge=pl.Series(1e9 * generator.normal(size=n)),
        case=pl.Series((generator.random(n) < 0.2).astype(np.float64)),
    )
    beside = ragged.join(plain, on="IID", maintain_order="left").select(
        "IID", "r0", "weight", "huge", "r1", "height", "r2", "r3", "r4", "case"
    )
    together = scan(phenotypes=saved(beside, tmp_path / "beside.tsv"), missing_genotypes=missing, export="regenie")
    for trait in ("height", "weight", "r3"):
        alone = scan(phenotypes=tmp_path / "beside.tsv", traits=trait, missing_genotypes=missing, export="regenie")
        assert_frame_equal(alone.trait(trait), together.trait(trait), check_exact=True)
        file = f"{trait}.regenie.tsv.gz"
        assert (alone.results.folder.parent / file).read_bytes() == (together.results.folder.parent / file).read_bytes()
    missing_r3 = beside["r3"].null_count()
    assert together.trait("r3")["n"].max() == n - missing_r3
