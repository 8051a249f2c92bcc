"""Every mistake in a study file is one error that names its line; what is right is read as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from toolkit.biobank import write_files

from clinome.core.errors import StudyError
from clinome.genetics.selection import Selection
from clinome.studies.study_file import SECTIONS, Cohort, LociSettings, Scan, Study, read_study

BASE = """\
[study]
title = "Of mice"

[genotypes]
path = "data/cohort.bed"

[phenotypes]
path = "data/traits.tsv"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path / "data", n=30, variants=50)
    return tmp_path


def read(folder: Path, text: str) -> Study:
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return read_study(folder / "study.toml")


def test_what_is_left_out_has_its_default_and_paths_start_at_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    study = read(folder, BASE)
    assert study.study.title == "Of mice"
    assert study.genotypes.path == str(folder / "data" / "cohort.bed")
    assert study.phenotypes.path == folder / "data" / "traits.tsv"
    assert study.cohort == Cohort()
    assert study.gwas == Scan()
    assert study.loci == LociSettings()
    assert (study.covariates, study.images, study.truth) == (None, None, None)


def test_every_kind_of_value_is_read(folder: Path) -> None:
    study = read(
        folder,
        BASE
        + """
[covariates]
path = "data/covariates.tsv"
categorical = ["centre", "sex"]

[cohort]
kinship = 0
principal_components = 10

[gwas]
maf = 0.01
hwe = 1e-6
missing_genotypes = "drop"
omnibus = false
export = ["regenie", "plink2"]

[loci]
alpha = 1e-6
merge = 100_000
""",
    )
    assert study.covariates is not None
    assert study.covariates.categorical == ("centre", "sex")
    assert study.cohort.kinship == 0.0
    assert isinstance(study.cohort.kinship, float)
    assert (study.gwas.options.filters.maf, study.gwas.options.filters.hwe) == (0.01, 1e-6)
    assert study.gwas.options.missing_genotypes == "drop"
    assert study.gwas.omnibus is False
    assert study.gwas.export == ("regenie", "plink2")
    assert (study.loci.clumping.alpha, study.loci.clumping.merge, study.loci.clumping.r2) == (1e-6, 100_000, 0.1)


def test_lists_of_variants_start_at_the_file(folder: Path) -> None:
    (folder / "mine.txt").write_text("v1\n")
    chosen = 'path = "data/cohort.bed"\nextract = "mine.txt"\nregions = ["1:1-9", "chr2"]\n'
    study = read(folder, BASE.replace('path = "data/cohort.bed"\n', chosen) + '\n[gwas]\ncondition = ["v1", "v2"]\n')
    assert study.genotypes.scanned == Selection(extract=folder / "mine.txt", regions=("1:1-9", "chr2"))
    assert study.gwas.condition == ("v1", "v2")


def test_absolute_paths_and_patterns_are_taken_as_they_are(folder: Path) -> None:
    assert read(folder, BASE.replace("data/cohort.bed", "data/coh*.bed")).genotypes.path == str(folder / "data" / "coh*.bed")
    absolute = str(folder / "data" / "cohort.bed")
    assert read(folder, BASE.replace("data/cohort.bed", absolute)).genotypes.path == absolute


WRONG = {
    "unknown section": (BASE + "\n[covarates]\n", 10, "there is no section [covarates]; did you mean 'covariates'?"),
    "unknown key": (BASE + '\n[gwas]\nmissing_genotype = "mean"\n', 11, "did you mean 'missing_genotypes'?"),
    "a region that is none": (BASE.replace('.bed"\n', '.bed"\nregions = ["1:9-5"]\n'), 6, "one of the regions ends before"),
    "text for a number": (BASE + '\n[gwas]\nstatistic = "t"\nmaf = "0.01"\n', 12, "expected: a number"),
    "fraction for a whole number": (BASE.replace('title = "Of mice"', "seed = 1.5"), 2, "expected: a whole number"),
    "number for true": (BASE + "\n[gwas]\nomnibus = 1\n", 11, "expected: true or false"),
    "true for a number": (BASE + "\n[gwas]\nmaf = true\n", 11, "expected: a number"),
    "text for a list": (BASE + '\n[gwas]\nexport = "regenie"\n', 11, "a list of 'gwas-ssf' or 'regenie' or 'plink2'"),
    "unknown word": (BASE + '\n[gwas]\nmissing_genotypes = "middle"\n', 11, "expected: 'mean' or 'drop'"),
    "unknown word in a list": (BASE + '\n[gwas]\nexport = ["saige"]\n', 11, "got:      'saige'"),
    "filter out of range": (BASE + '\n[gwas]\nmissing_genotypes = "mean"\nmissing = 2\n', 12, "the filter missing is out of range"),
    "clumping out of range": (BASE + "\n[loci]\nradius = 10\nalpha = 0.0\n", 12, "the clumping setting alpha is out of range"),
    "shard of nothing": (BASE + "\n[gwas]\nshard_size = 0\n", 11, "shard_size is out of range"),
    "kinship of seven": (BASE + "\n[cohort]\nkinship = 7\n", 11, "kinship is out of range"),
    "fewer than no components": (BASE + "\n[cohort]\nprincipal_components = -3\n", 11, "principal_components is out of range"),
    "negative distance": (BASE + '\n[truth]\nloci = "data/traits.tsv"\ndistance = -5\n', 12, "distance is out of range"),
    "missing table": (BASE.replace("traits.tsv", "trait.tsv"), 8, "near it are traits.tsv"),
    "missing genotypes": (BASE.replace("cohort.bed", "cohrt.bed"), 5, "near it are cohort.bed"),
    "pattern without a file": (BASE.replace("cohort.bed", "chr*.bed"), 5, "a pattern that no file matches"),
    "missing key": (BASE.replace('path = "data/cohort.bed"', 'build = "GRCh38"'), 4, "the key 'path' is missing in [genotypes]"),
    "two sources of traits": (BASE + '\n[images]\npath = "data/traits.tsv"\n', 10, "traits come from two places"),
    "no source of traits": (
        BASE.replace('path = "data/traits.tsv"', 'transform = "none"'),
        7,
        "nowhere where its traits come from",
    ),
    "a key outside a section": ("seed = 3\n" + BASE, 1, "there is no section [seed]"),
    "a section twice in brackets": (BASE.replace("[study]", "[[study]]"), 1, "[study] once, in single brackets"),
    "dotted keys": (BASE + "\n[gwas]\n\n[loci]\nr22 = 0.1\n", 13, "did you mean 'r2'?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_names_its_line(case: str, folder: Path) -> None:
    text, line, words = WRONG[case]
    with pytest.raises(StudyError) as caught:
        read(folder, text)
    assert f"study.toml, line {line}\n" in str(caught.value) + "\n"
    assert words in str(caught.value)


def test_dotted_keys_without_a_header_name_their_line_too(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"did you mean 'maf'\?\n  where: .*study\.toml, line 3"):
        read(folder, 'genotypes.path = "data/cohort.bed"\nphenotypes.path = "data/traits.tsv"\ngwas.maff = 0.1\n')


def test_a_file_that_is_no_study(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"is not TOML\n(.*\n)*.*line 10"):
        read(folder, BASE + "\n[gwas\n")
    with pytest.raises(StudyError, match=r"the section \[genotypes\] is missing"):
        read(folder, '[phenotypes]\npath = "data/traits.tsv"\n')
    with pytest.raises(StudyError, match="the study file cannot be read"):
        read_study(folder / "none.toml")
    with pytest.raises(StudyError, match="the study file cannot be read"):
        read_study(folder)
    (folder / "latin.toml").write_bytes(b'[study]\ntitle = "\xe9tude"\n')
    with pytest.raises(StudyError, match=r"not UTF-8 text\n  where: .*latin\.toml, line 2"):
        read_study(folder / "latin.toml")


def test_every_section_says_what_its_keys_mean() -> None:
    assert set(SECTIONS) == set(Study.__dataclass_fields__)
    for name, kind in SECTIONS.items():
        assert f"`[{name}]`" in str(kind.__doc__)
