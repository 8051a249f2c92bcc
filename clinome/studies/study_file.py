"""The study file: what `clinome run` reads, checked before anything runs; every mistake names its line.

A study is TOML with the sections below; each is a frozen dataclass whose fields are the keys. Paths are relative to the file.

>>> print(*(section for section in SECTIONS), sep=" ")
study genotypes covariates cohort phenotypes images gwas loci truth
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clinome.core.errors import StudyError
from clinome.genetics.association import Options
from clinome.genetics.clumping import Clumping
from clinome.genetics.selection import Selection
from clinome.imaging.embedding import Config as Embedding
from clinome.studies.toml_file import read_sections


def _within(name: str, value: float | None, low: float, high: float | None = None) -> None:
    if value is not None and (value < low or (high is not None and value > high)):
        expected = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        raise StudyError(f"{name} is out of range", got=value, expected=expected)


@dataclass(frozen=True)
class About:
    """`[study]`: ``title`` and ``subtitle`` of the report; ``seed`` of everything that draws random numbers (principal
    components, DeepNull, and the encoder unless `[images]` has a seed of its own).
    """

    title: str = "A study from files to loci"
    subtitle: str = ""
    seed: int = 1


@dataclass(frozen=True)
class GenotypeFiles:
    """`[genotypes]`: ``path`` of a .bed, .pgen, .bgen, .vcf.gz or .bcf, or a pattern with * over chromosomes.

    ``build`` where the file does not state it; ``sample`` is the .sample file of a BGEN. The other keys choose what is scanned
    (kinship, principal components and linkage disequilibrium take all variants): those in ``extract`` (a file with one id a line)
    and in any of the ``regions`` ("chr:from-to", 1-based, ends included) or ``intervals`` (a .bed file, 0-based), without those in
    ``exclude``.
    """

    path: str
    build: str | None = None
    sample: Path | None = None
    scanned: Selection = field(default_factory=Selection)


@dataclass(frozen=True)
class CovariateTable:
    """`[covariates]`: ``path`` of a table; ``columns`` to use (all by default); ``categorical`` ones coded by numbers.

    ``missing`` names further codes that mean missing; ``id_column`` names the person where no usual column does.
    """

    path: Path
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    id_column: str | None = None


@dataclass(frozen=True)
class Cohort:
    """`[cohort]`: who is analysed.

    ``keep`` and ``remove`` are lists of people; ``kinship``: of people related at or above this KING coefficient (0.0884 is
    second degree) one is left out; ``principal_components``: how many genetic components join the covariates (0: none).
    """

    keep: Path | None = None
    remove: Path | None = None
    kinship: float | None = None
    principal_components: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _within("kinship", self.kinship, 0.0, 0.5)
        _within("principal_components", self.principal_components, 0)


@dataclass(frozen=True)
class Phenotypes:
    """`[phenotypes]`: where traits come from and what is done to them before the scan.

    ``path`` of a table, with ``columns`` (all by default), ``missing`` codes and ``id_column``; leave it out when `[images]` is
    there. ``transform``: 'none', or 'rank-normal' (covariates projected out, then rank-inverse-normal, trait by trait; the
    omnibus takes the traits as they are). ``adjust``: 'none', or 'deepnull' (an out-of-fold prediction of each trait from the
    covariates by neural networks joins its covariates).
    """

    path: Path | None = None
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    id_column: str | None = None
    transform: Literal["none", "rank-normal"] = "none"
    adjust: Literal["none", "deepnull"] = "none"


@dataclass(frozen=True)
class Images:
    """`[images]`: ``path`` of an images table, and how an encoder turns pictures into traits (see `clinome phenotype --help`).

    ``targets`` is a table of people with a column a target, for the encoders 'supervised' and 'identity'.
    """

    path: Path
    targets: Path | None = None
    embedding: Embedding = field(default_factory=Embedding)


@dataclass(frozen=True)
class Scan:
    """`[gwas]`: the scan; ``omnibus``: also test all traits together; ``export``: text layouts to write as well.

    ``condition`` names variants whose counts join the covariates, ``condition_list`` is a file with one id a line: what is left
    beside them is scanned. A missing genotype there takes the mean, or its person is left out, as ``missing_genotypes`` says.
    ``interaction`` names a covariate, a number or of two levels: for every trait T the scan also tests T×covariate, how a copy's
    effect changes with it.
    """

    options: Options = field(default_factory=Options)
    omnibus: bool = True
    export: tuple[Literal["gwas-ssf", "regenie", "plink2"], ...] = ()
    condition: tuple[str, ...] = ()
    condition_list: Path | None = None
    interaction: str | None = None


@dataclass(frozen=True)
class LociSettings:
    """`[loci]`: how associated variants become loci; ``genes`` is a table gene, chromosome, start, end; ``pictures``: average
    picture of each genotype at this many leads.
    """

    clumping: Clumping = field(default_factory=Clumping)
    genes: Path | None = None
    pictures: int = 12

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _within("pictures", self.pictures, 0)


@dataclass(frozen=True)
class TruthFile:
    """`[truth]`: ``loci``, a table of planted loci; one is found when a locus lies within ``distance`` base pairs."""

    loci: Path
    distance: int = 1_000_000

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        _within("distance", self.distance, 0)


@dataclass(frozen=True)
class Study:
    """A whole study. Sections that are None are left out of the flow."""

    genotypes: GenotypeFiles
    study: About = field(default_factory=About)
    covariates: CovariateTable | None = None
    cohort: Cohort = field(default_factory=Cohort)
    phenotypes: Phenotypes = field(default_factory=Phenotypes)
    images: Images | None = None
    gwas: Scan = field(default_factory=Scan)
    loci: LociSettings = field(default_factory=LociSettings)
    truth: TruthFile | None = None

    def __post_init__(self) -> None:
        """Refuse a study with no traits, or with two sources of them."""
        if (self.images is None) == (self.phenotypes.path is None):
            both = self.images is not None
            raise StudyError(
                "traits come from two places" if both else "the study says nowhere where its traits come from",
                expected="either `path` in [phenotypes] (a table) or a section [images] (pictures)",
            )


SECTIONS: dict[str, type[Any]] = {
    "study": About,
    "genotypes": GenotypeFiles,
    "covariates": CovariateTable,
    "cohort": Cohort,
    "phenotypes": Phenotypes,
    "images": Images,
    "gwas": Scan,
    "loci": LociSettings,
    "truth": TruthFile,
}


def read_study(path: str | Path) -> Study:
    """Read and check a study file; errors are those of :mod:`clinome.studies.toml_file`, each with its line."""
    found, reader = read_sections(path, SECTIONS, needed="genotypes")
    if "images" in found and "seed" in found.get("study", {}):  # one seed for all, unless [images] has its own
        found["images"].setdefault("seed", found["study"]["seed"])
    return reader.whole(Study, found, blame=("images", "phenotypes", "genotypes"))
