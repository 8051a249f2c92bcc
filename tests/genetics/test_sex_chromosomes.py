"""Sex chromosomes: who is coded how and where, against PLINK 2's own regressions on X, Y, MT and PAR with men and women."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import t as student_t
from toolkit.genotypes import array_genotypes, random_counts
from toolkit.plink2 import run

from clinome.formats.genotype_files import convert_genotypes, open_genotypes
from clinome.genetics.association import Options, associate
from clinome.genetics.filters import Filters
from clinome.genetics.sex_chromosomes import (
    PSEUDO_AUTOSOMAL,
    Kind,
    Sexes,
    analysed,
    copies,
    kinds,
    recode,
    sex_covariate,
    sexes,
)

SITES = [("1", 100)] * 2 + [("X", 100_000)] * 2 + [("X", 50_000_000)] * 8 + [("Y", 5_000_000)] * 4 + [("MT", 300)] * 4
MAN, WOMAN, UNKNOWN = 1, 2, 0
N = 90


class Simulated(NamedTuple):
    """A .pgen with its people's ``trait`` and covariate ``age``, (N,), and the start of the names of its files."""

    path: Path
    trait: NDArray[np.float64]
    age: NDArray[np.float64]
    stem: Path


@pytest.fixture
def simulated(program: Callable[[str], str], tmp_path: Path) -> Simulated:
    """Men, women and four people of unknown sex; a trait that differs between the sexes; heterozygous haploid calls; gaps."""
    generator = np.random.default_rng(7)
    sex = generator.integers(1, 3, N)
    sex[:4] = UNKNOWN
    names = [f"s{i}" for i in range(N)]
    lines = ["##fileformat=VCFv4.3", *(f"##contig=<ID={c}>" for c in ("1", "X", "Y", "MT"))]
    lines += ['##FORMAT=<ID=GT,Number=1,Type=String,Description="called">']
    lines += ["\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *names])]
    for number, (chromosome, position) in enumerate(SITES):
        haploid = (chromosome == "X") & (position > 3_000_000) & (sex == MAN) | (chromosome in ("Y", "MT"))
        pairs = generator.random((N, 2)) < 0.35
        calls = np.where(haploid, pairs[:, 0].astype(int).astype(str), [f"{int(a)}/{int(b)}" for a, b in pairs])
        calls[haploid & (generator.random(N) < 0.06)] = "0/1"
        calls[generator.random(N) < 0.04] = "./."
        lines.append("\t".join([chromosome, str(position + number), f"v{number}", "A", "G", ".", ".", ".", "GT", *calls]))
    stem = tmp_path / "x"
    (tmp_path / "x.vcf").write_text("\n".join(lines) + "\n")
    (tmp_path / "sex.txt").write_text("#IID\tSEX\n" + "".join(f"{n}\t{s or 'NA'}\n" for n, s in zip(names, sex, strict=True)))
    inputs = ("--vcf", tmp_path / "x.vcf", "--psam", tmp_path / "sex.txt", "--split-par", "hg38")
    run(program("plink2"), *inputs, "--make-pgen", "--out", stem)
    age = generator.normal(size=N)  # PLINK 2 wants covariates of unit variance
    trait = generator.normal(size=N) + 0.8 * sex + 0.3 * age
    pl.DataFrame({"#IID": names, "trait": trait}).write_csv(tmp_path / "x.trait", separator="\t")
    pl.DataFrame({"#IID": names, "age": age}).write_csv(tmp_path / "x.age", separator="\t")
    return Simulated(stem.with_suffix(".pgen"), trait, age, stem)


def plink2_glm(plink2: str, simulated: Simulated, *more: object) -> pl.DataFrame:
    """PLINK 2's regressions once it has been told to drop heterozygous haploid calls, a row a variant."""
    clean = simulated.stem.with_name("clean")
    run(plink2, "--pfile", simulated.stem, "--set-hh-missing", "--set-mixed-mt-missing", "--make-pgen", "--out", clean)
    inputs = ("--pfile", clean, "--pheno", simulated.stem.with_suffix(".trait"), "--covar", simulated.stem.with_suffix(".age"))
    run(plink2, *inputs, "--xchr-model", 2, "--glm", "hide-covar", "cols=+a1freq", *more, "--out", simulated.stem)
    path = simulated.stem.with_name("x.trait.glm.linear")
    return pl.read_csv(path, separator="\t", null_values="NA", schema_overrides={"#CHROM": pl.String})


def regression(
    counts: NDArray[np.int8], trait: NDArray[np.float64], covariates: list[NDArray[np.float64]]
) -> tuple[float, float, int]:
    """Ordinary least squares of the people with a genotype: beta and standard error of a count, and their number."""
    seen = counts >= 0
    design = np.column_stack([counts[seen], np.ones(seen.sum()), *(c[seen] for c in covariates)])
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ trait[seen]
    residual = trait[seen] - design @ beta
    return beta[0], np.sqrt(residual @ residual / (len(residual) - design.shape[1]) * inverse[0, 0]), int(seen.sum())


def test_regressions_on_every_chromosome_are_those_of_plink2(program: Callable[[str], str], simulated: Simulated) -> None:
    """Sex stands beside X alone in PLINK 2, by itself; each of our rows is regressed with the covariates that it has there."""
    theirs = plink2_glm(program("plink2"), simulated)
    with closing(open_genotypes(simulated.path, build="hg38")) as source:
        counts = source.read(np.arange(len(SITES))).counts
        kind, notes = kinds(source.variants, source.build)
        people = sexes(source.samples)
        assert theirs["A1"].to_list() == source.variants["effect_allele"].to_list()
    assert notes == []
    assert kind.tolist() == [Kind.AUTOSOME] * 4 + [Kind.X] * 8 + [Kind.Y] * 4 + [Kind.MT] * 4
    recoded = recode(counts, 1, kind, people)
    sex, _ = sex_covariate(kind, people, simulated.age[:, None])
    assert sex is not None
    for row in range(len(SITES)):
        beside = [simulated.age, sex] if kind[row] == Kind.X else [simulated.age]
        beta, error, n = regression(recoded.counts[row], simulated.trait, beside)
        per_copy = 2 / copies(kind)[row]
        seen = recoded.counts[row][recoded.counts[row] >= 0]
        ours = [n, seen.mean() / 2, beta * per_copy, error * per_copy]
        expected = theirs[row, "OBS_CT"], theirs[row, "A1_FREQ"], theirs[row, "BETA"], theirs[row, "SE"]
        np.testing.assert_allclose(ours, expected, rtol=2e-5, err_msg=f"{SITES[row]}")


def test_what_becomes_missing_is_what_plink2_sets_missing(program: Callable[[str], str], simulated: Simulated) -> None:
    """But for people of unknown sex, whom its files keep on X and Y and its regressions leave out."""
    plink2_glm(program("plink2"), simulated)
    with closing(open_genotypes(simulated.path)) as dirty, closing(open_genotypes(simulated.stem.with_name("clean.pgen"))) as clean:
        before, theirs = dirty.read(np.arange(len(SITES))).counts, clean.read(np.arange(len(SITES))).counts
        kind, people = kinds(dirty.variants, "GRCh38")[0], sexes(dirty.samples)
    ours = recode(before, 1, kind, people)
    known = analysed(Kind.X, people)
    assert known.sum() == N - 4
    np.testing.assert_array_equal(ours.counts[:, known], theirs[:, known])
    on_one = np.isin(kind, [Kind.X, Kind.Y])
    assert (ours.counts[on_one][:, ~known] == -1).all()
    np.testing.assert_array_equal(ours.counts[~on_one][:, ~known], theirs[~on_one][:, ~known])
    haploid = np.where((kind == Kind.MT)[:, None], True, on_one[:, None] & people.male)
    np.testing.assert_array_equal(ours.heterozygous_haploids, ((before == 1) & haploid).sum(axis=1))
    assert ours.heterozygous_haploids.sum() > 20


def test_where_nobodys_sex_is_known_x_is_as_coded(program: Callable[[str], str], simulated: Simulated) -> None:
    psam = simulated.stem.with_suffix(".psam")
    psam.write_text("#IID\tSEX\n" + "".join(f"s{i}\tNA\n" for i in range(N)))
    with closing(open_genotypes(simulated.path)) as source:
        counts, people = source.read(np.arange(len(SITES))).counts, sexes(source.samples)
        kind, _ = kinds(source.variants, "GRCh38")
    recoded = recode(counts, 1, kind, people)
    theirs = plink2_glm(program("plink2"), simulated)
    assert theirs.filter(pl.col("#CHROM") == "Y").height == 0
    assert (recoded.counts[kind == Kind.Y] == -1).all()
    on_x = np.flatnonzero(kind == Kind.X)
    ours = [regression(recoded.counts[row], simulated.trait, [simulated.age])[:2] for row in on_x]
    expected = theirs.filter(pl.col("#CHROM") == "X").select("BETA", "SE").to_numpy()
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    assert [int(analysed(one, people).sum()) for one in Kind] == [N, N, 0, N]
    column, notes = sex_covariate(kind, people, simulated.age[:, None])
    assert column is None
    assert [note.split(",")[0].split(":")[0] for note in notes] == [
        "nobody is known to be male",
        "nobody's sex is known (VCF and BGEN do not hold it)",
    ]


def test_hardy_weinberg_on_x_is_that_of_women(program: Callable[[str], str], simulated: Simulated, tmp_path: Path) -> None:
    run(program("plink2"), "--pfile", simulated.stem, "--keep-females", "--hardy", "--out", simulated.stem)
    run(program("plink2"), "--pfile", simulated.stem, "--hardy", "--out", simulated.stem.with_name("all"))
    theirs = pl.read_csv(simulated.stem.with_suffix(".hardy.x"), separator="\t")["P"].to_list()
    autosomal = pl.read_csv(simulated.stem.with_name("all.hardy"), separator="\t")["P"].to_list()
    p = np.array([*autosomal[:2], np.nan, np.nan, *theirs, *[1.0] * 8])  # nobody is tested on Y and MT
    traits = pl.DataFrame({"participant_id": [f"s{i}" for i in range(N)], "trait": simulated.trait})
    with closing(open_genotypes(simulated.path, build="hg38")) as source:
        names = source.variants["variant_id"].to_list()
        for least in np.unique(np.concatenate([p[:2], theirs]))[:-1]:
            options = Options(filters=Filters(hwe=float(least) * 1.0001))
            results = associate(source, traits, options=options, out=tmp_path / f"{least:g}")
            tested = [0, 1, *range(4, 20)]
            kept = [names[k] in set(results.variants["variant_id"]) for k in tested]
            np.testing.assert_array_equal(kept, p[tested] > least * 1.0001)


@pytest.mark.parametrize("known", [True, False])
def test_allele_counts_and_frequencies_of_filters_are_those_of_plink2(
    program: Callable[[str], str], simulated: Simulated, tmp_path: Path, known: bool
) -> None:
    """A man's one X counts once; where nobody's sex is known everybody's counts twice, and nobody has Y."""
    if not known:
        simulated.stem.with_suffix(".psam").write_text("#IID\tSEX\n" + "".join(f"s{i}\tNA\n" for i in range(N)))
    plink2_glm(program("plink2"), simulated)
    (tmp_path / "unknown.txt").write_text("".join(f"s{i}\n" for i in range(4)))
    only = ("--remove", tmp_path / "unknown.txt")
    inputs = ("--pfile", simulated.stem.with_name("clean"), *only)
    people = [f"s{i}" for i in range(4, N)]
    traits = pl.DataFrame({"participant_id": people, "trait": simulated.trait[4:]})

    def kept(path: Path) -> set[str]:
        lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("##")]
        return {line[2] for line in lines[1:]}

    sizes = set()
    with closing(open_genotypes(simulated.path, build="hg38")) as source:
        scanned = [v for v, c in source.variants.select("variant_id", "chromosome").iter_rows() if known or c != "Y"]
        for name, least in [*(("mac", k) for k in range(8, 52, 4)), *(("maf", k / 40) for k in range(6, 15, 2))]:
            run(program("plink2"), *inputs, f"--{name}", least, "--make-just-pvar", "--out", tmp_path / "kept")
            theirs = kept(tmp_path / "kept.pvar") & set(scanned)
            ours = associate(source, traits, options=Options(filters=Filters(**{name: least})), out=tmp_path / f"{name}{least}")
            assert set(ours.variants["variant_id"]) & set(scanned) == theirs, (name, least)
            sizes.add(len(theirs))
    assert len(sizes) > 5


@pytest.mark.parametrize(("build", "name"), [("hg18", "NCBI36"), ("hg19", "GRCh37"), ("hg38", "GRCh38")])
def test_the_pseudo_autosomal_regions_are_those_of_plink2(
    program: Callable[[str], str], tmp_path: Path, build: str, name: str
) -> None:
    """Around every border, but for the first base pair beyond hg18's, which PLINK 2 takes in."""
    beyond = 2 if name == "NCBI36" else 1
    (_, end), (start, last) = PSEUDO_AUTOSOMAL[name]
    positions = [end - 1, end, end + beyond, 50_000_000, start - beyond, start, last]
    header = "##fileformat=VCFv4.3\n##contig=<ID=X>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts\n"
    (tmp_path / "x.vcf").write_text(header + "".join(f"X\t{p}\t.\tA\tG\t.\t.\t.\tGT\t0/1\n" for p in positions))
    (tmp_path / "sex.txt").write_text("#IID SEX\ns 2\n")
    inputs = ("--vcf", tmp_path / "x.vcf", "--psam", tmp_path / "sex.txt")
    run(program("plink2"), *inputs, "--split-par", build, "--make-bed", "--out", tmp_path / "split")
    with closing(open_genotypes(tmp_path / "split.bed")) as split:
        coded, notes = kinds(split.variants, None)
        plain, _ = kinds(split.variants.drop("pseudo_autosomal"), name)
    assert coded.tolist() == plain.tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert notes == []


@pytest.mark.parametrize("suffix", [".bed", ".pgen"])
def test_pseudo_autosomal_variants_stay_so_when_written_again(simulated: Simulated, tmp_path: Path, suffix: str) -> None:
    with closing(open_genotypes(simulated.path)) as source:
        convert_genotypes(source, tmp_path / f"again{suffix}")
        with closing(open_genotypes(tmp_path / f"again{suffix}")) as again:
            assert again.variants.equals(source.variants)
            assert again.variants["pseudo_autosomal"].sum() == 2
            np.testing.assert_array_equal(again.read(np.arange(len(SITES))).counts, source.read(np.arange(len(SITES))).counts)


def test_x_of_a_build_without_known_regions() -> None:
    table = pl.DataFrame({"chromosome": ["X", "19"], "position": [100_000, 100_000]})
    for build, which in (("GRCm39", "of GRCm39"), (None, "the genome build is not stated")):
        kind, notes = kinds(table, build)
        assert kind.tolist() == [Kind.X, Kind.AUTOSOME]
        assert len(notes) == 1
        assert which in notes[0]
    assert kinds(table.tail(1), None)[1] == []


@given(
    counts=hnp.arrays(np.int8, (3, 12), elements=st.integers(-1, 2)),
    kind=hnp.arrays(np.int8, 3, elements=st.integers(0, 3)),
    sex=hnp.arrays(np.int8, 12, elements=st.integers(0, 2)),
)
def test_recoding_takes_away_and_changes_nothing_else(
    counts: NDArray[np.int8], kind: NDArray[np.int8], sex: NDArray[np.int8]
) -> None:
    """And again is idle; counts are copied only when something is lost, and the input is never written to."""
    given_counts = counts.copy()
    people = Sexes(sex == MAN, sex == WOMAN)
    recoded = recode(counts, 1, kind, people)
    np.testing.assert_array_equal(counts, given_counts)
    lost = recoded.counts != counts
    assert (recoded.counts[lost] == -1).all()
    assert not lost[kind == Kind.AUTOSOME].any()
    assert (recoded.counts is counts) == (not lost.any())
    again = recode(recoded.counts, 1, kind, people)
    assert again.counts is recoded.counts
    assert not again.heterozygous_haploids.any()
    assert not (recoded.counts[kind == Kind.MT] == 1).any()
    assert not (recoded.counts[kind == Kind.X][:, people.male] == 1).any()
    assert (recoded.counts[kind == Kind.Y][:, ~people.male] == -1).all()


def test_a_mans_dosage_stands_and_a_certain_heterozygote_does_not() -> None:
    """On X at scale 255: a man, a woman."""
    people = Sexes(np.array([True, False]), np.array([False, True]))
    counts = np.array([[254, 254], [255, 255], [256, 256], [510, 0]], np.int32)
    recoded = recode(counts, 255, np.full(4, Kind.X, np.int8), people)
    assert recoded.counts.tolist() == [[254, 254], [-1, 255], [256, 256], [510, 0]]
    assert recoded.heterozygous_haploids.tolist() == [0, 1, 0, 0]


ON_X = np.array([Kind.AUTOSOME, Kind.X], np.int8)


def test_sex_is_added_where_it_lacks() -> None:
    male = np.array([True, True, False, False, False, False, False])
    people = Sexes(male, np.array([False, False, True, True, True, True, False]))
    other = np.array([[1.0, 5, 2, 4, 3, 9, 7]]).T
    for covariates in (other, np.zeros((7, 0))):
        column, notes = sex_covariate(ON_X, people, covariates)
        assert column is not None
        np.testing.assert_allclose(column, [1, 1, 0, 0, 0, 0, 1 / 3])
        assert notes[0] == "1 people of unknown sex are missing on chromosome X"
        assert notes[1].startswith("sex was added to the covariates, because chromosome X is scanned")
        assert "2 men" in notes[1]
        assert "4 women" in notes[1]
    for where in (Kind.AUTOSOME, Kind.Y, Kind.MT):
        assert sex_covariate(np.array([where], np.int8), people, other) == (None, [])


@pytest.mark.parametrize("code", [(1, 0), (1, 2), (-1e6, 1e-3), (1950, 1951)])
def test_sex_in_any_coding_or_combination_is_not_added_again(code: tuple[float, float]) -> None:
    generator = np.random.default_rng(3)
    male = generator.random(200) < 0.4
    people = Sexes(male, ~male)
    age = generator.normal(60, 8, 200)
    coded = np.where(male, *code)
    size = abs(code[0] - code[1])
    for covariates in ([coded], [age, coded], [age, coded + size * age, np.ones(200)]):
        assert sex_covariate(ON_X, people, np.column_stack(covariates)) == (None, [])
    near = np.where(generator.random(200) < 0.02, ~male, male)
    assert sex_covariate(ON_X, people, near[:, None].astype(float))[0] is not None


def test_one_sex_alone_needs_no_covariate() -> None:
    everybody = np.ones(5, np.bool_)
    for people in (Sexes(everybody, ~everybody), Sexes(~everybody, everybody)):
        assert sex_covariate(ON_X, people, np.zeros((5, 0))) == (None, [])
    _, notes = sex_covariate(np.array([Kind.Y], np.int8), Sexes(~everybody, everybody), np.zeros((5, 0)))
    assert notes == ["nobody is known to be male, so that no variant of chromosome Y can be analysed"]


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_scan_of_every_chromosome_is_plink2s(
    program: Callable[[str], str], simulated: Simulated, tmp_path: Path, missing: str
) -> None:
    """From the file, heterozygous haploid calls and people of unknown sex in it; at the mean, n is that of the people analysed."""
    theirs = plink2_glm(program("plink2"), simulated)
    people = [f"s{i}" for i in range(N)]
    with closing(open_genotypes(simulated.path, build="hg38")) as source:
        traits = pl.DataFrame({"participant_id": people, "trait": simulated.trait})
        covariates = pl.DataFrame({"participant_id": people, "age": simulated.age})
        options = Options(missing_genotypes=missing, block_size=5)
        results = associate(source, traits, covariates=covariates, options=options, out=tmp_path / "scan")
        everybody = {Kind.AUTOSOME: N, Kind.X: N - 4, Kind.Y: int(sexes(source.samples).male.sum()), Kind.MT: N}
        kind, _ = kinds(source.variants, source.build)
    ours = results.trait("trait")
    np.testing.assert_allclose(ours["effect_allele_frequency"], theirs["A1_FREQ"], rtol=2e-5)
    if missing == "drop":
        np.testing.assert_array_equal(ours["n"], theirs["OBS_CT"])
        np.testing.assert_allclose(ours["beta"], theirs["BETA"], rtol=2e-5)
        np.testing.assert_allclose(ours["standard_error"], theirs["SE"], rtol=2e-5)
        np.testing.assert_allclose(10.0 ** -ours["neg_log_10_p_value"], theirs["P"], rtol=2e-5)
    else:
        assert ours["n"].to_list() == [everybody[Kind(one)] for one in kind]


@pytest.mark.parametrize("missing", ["drop", "mean"])
def test_traits_that_lack_women_or_people_of_unknown_sex_are_scanned_on_every_chromosome(missing: str, tmp_path: Path) -> None:
    """No trait has everybody, and on X and Y some have the same people: each is a regression of its own on its own people."""
    generator = np.random.default_rng(5)
    kind = [Kind.AUTOSOME] * 3 + [Kind.X] * 3 + [Kind.Y] * 3 + [Kind.MT] * 2
    sex = generator.permutation(["male"] * 60 + ["female"] * 58 + [None] * 2)  # type: ignore[list-item]
    men, known = sex == "male", sex != None  # noqa: E711
    counts = random_counts(generator, len(kind), 120, missing=0.03)
    counts[8:] = np.where(counts[8:] == 1, 2, counts[8:])
    haploid = np.array(
        [np.ones(120, bool) if k == Kind.MT else men if k in (Kind.X, Kind.Y) else np.zeros(120, bool) for k in kind]
    )
    counts = np.where((counts == 1) & haploid, 2, counts).astype(np.int8)
    genotypes = array_genotypes(counts, chromosomes=["1" if k == Kind.AUTOSOME else k.name for k in kind], build="GRCh38")
    places = pl.Series("position", np.arange(len(kind)) * 1_000 + 50_000_000)
    genotypes = replace(
        genotypes,
        samples=genotypes.samples.with_columns(sex=pl.Series(sex.tolist(), dtype=pl.String)),
        variants=genotypes.variants.with_columns(places),
    )
    values = generator.normal(size=(120, 3))
    lacking = [np.flatnonzero(~men & known)[0], np.flatnonzero(~men & known)[1], np.flatnonzero(~known)[0]]
    values[lacking, [0, 1, 2]] = np.nan
    traits = genotypes.samples.select("participant_id").hstack(pl.DataFrame(values, schema=["a", "b", "c"]).fill_nan(None))
    options = Options(missing_genotypes=missing)  # type: ignore[arg-type]
    results = associate(genotypes, traits, omnibus_sets={"all": traits}, options=options, out=tmp_path / "out")
    for p, trait in enumerate("abc"):
        ours = results.trait(trait)
        for v, k in enumerate(kind):
            people = np.isfinite(values[:, p]) & (men if k == Kind.Y else known if k == Kind.X else True)
            g = np.where(counts[v] >= 0, counts[v] / (2.0 if k in (Kind.Y, Kind.MT) else 1.0), np.nan)[people]
            y, others = values[people, p], [np.ones(people.sum()), men[people].astype(float)][: 1 + (k == Kind.X)]
            there = np.isfinite(g) if missing == "drop" else np.ones(len(g), bool)
            g = np.where(np.isnan(g), np.nanmean(g), g)
            design = np.column_stack([g, *others])[there]
            beta, residue, *_ = np.linalg.lstsq(design, y[there], rcond=None)
            df = there.sum() - design.shape[1]
            error = np.sqrt(residue[0] / df * np.linalg.inv(design.T @ design)[0, 0])
            assert ours["beta"][v] == pytest.approx(beta[0], abs=1e-5 * error)
            assert ours["standard_error"][v] == pytest.approx(error, rel=1e-5)
            assert ours["n"][v] == there.sum()
            assert 10.0 ** -ours["neg_log_10_p_value"][v] == pytest.approx(2 * student_t.sf(abs(beta[0] / error), df), rel=1e-4)
    everybody = np.isfinite(values).all(axis=1)
    expected = [int((everybody & (men if k == Kind.Y else known if k == Kind.X else True)).sum()) for k in kind]
    assert results.trait("omnibus")["n"].to_list() == expected
