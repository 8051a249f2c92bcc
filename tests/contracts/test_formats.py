"""What every genotype format promises, asked of each in turn: PLINK 2 makes the files and says what is in them.

A new format adds a line to ``FORMATS`` (docs/add_a_format.md) and is asked all of this.
"""

from __future__ import annotations

import pickle
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from toolkit.plink2 import copies, run

from clinome.core.errors import ClinomeError, FormatError, StudyError
from clinome.core.schema import VARIANTS, check
from clinome.formats.genotype_files import SUFFIXES, convert_genotypes, open_genotypes
from clinome.formats.genotypes import Genotypes, blocks

N_SAMPLES, N_VARIANTS = 37, 60


@dataclass(frozen=True)
class Format:
    """How PLINK 2 (or bcftools, from its VCF) writes a format from a .pgen, and how PLINK 2 reads it again."""

    suffix: str
    write: str
    reads: str
    scale: int = 1
    bcftools: str = ""

    @property
    def dosages(self) -> bool:
        return self.scale > 1


FORMATS = {
    "bed": Format(".bed", "--make-bed", "--bfile {0}"),
    "pgen": Format(".pgen", "--make-pgen", "--pfile {0}"),
    "pgen, pvar.zst": Format(".pgen", "--make-pgen vzs", "--pfile {0} vzs"),
    "pgen, fixed width, bim": Format(".pgen", "--make-bpgen format=2", "--bpfile {0}"),
    "pgen, dosages": Format(".pgen", "--make-pgen", "--pfile {0}", 16384),
    "pgen, phased dosages": Format(".pgen", "--make-pgen", "--pfile {0}", 16384),
    "bgen 1.2, 8 bits": Format(".bgen", "--export bgen-1.2 bits=8", "--bgen {0}.bgen ref-last --sample {0}.sample", 255),
    "bgen 1.3, 8 bits": Format(".bgen", "--export bgen-1.3 bits=8", "--bgen {0}.bgen ref-last --sample {0}.sample", 255),
    "bgen 1.3, ref-first, 16 bits": Format(
        ".bgen", "--export bgen-1.3 ref-first bits=16", "--bgen {0}.bgen ref-first --sample {0}.sample", 65535
    ),
    "vcf": Format(".vcf", "--export vcf", "--vcf {0}.vcf"),
    "vcf.gz": Format(".vcf.gz", "--export vcf bgz", "--vcf {0}.vcf.gz"),
    "vcf.gz, DS": Format(".vcf.gz", "--export vcf bgz vcf-dosage=DS-force", "--vcf {0}.vcf.gz dosage=DS", 16384),
    "bcf": Format(".bcf", "--export vcf bgz", "--vcf {0}.vcf.gz", bcftools="-Ob"),
    "bcf, DS": Format(".bcf", "--export vcf bgz vcf-dosage=DS-force", "--vcf {0}.vcf.gz dosage=DS", 16384, bcftools="-Ob"),
}


@dataclass(frozen=True)
class Case:
    """A file of a format, with the program that made it and how that reads it again."""

    name: str
    path: Path
    format: Format
    plink2: str

    @property
    def inputs(self) -> list[str]:
        return self.format.reads.format(self.path.parent / "a").split()


def make(
    format: Format, folder: Path, program: Callable[[str], str], n_samples: int, n_variants: int, phased: bool = False
) -> Path:
    """Write random genotypes, a tenth of them missing, in a format; its files are ``folder/a.*``."""
    start = folder / "start"
    kinds = (["dosage-freq=0.4"] if format.dosages else []) + (["phase-freq=0.5"] if phased else [])
    run(program("plink2"), "--dummy", n_samples, n_variants, 0.1, "acgt", *kinds, "--seed", 11, "--make-pgen", "--out", start)
    run(program("plink2"), "--pfile", start, *format.write.split(), "--out", folder / "a")
    if format.bcftools:
        run(program("bcftools"), "view", format.bcftools, "-o", folder / "a.bcf", folder / "a.vcf.gz")
    return folder / f"a{format.suffix}"


_MADE: dict[str, Case] = {}  # each format is written once


@pytest.fixture(params=FORMATS, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]) -> Case:
    name = request.param
    if name not in _MADE:
        path = make(FORMATS[name], tmp_path_factory.mktemp("case"), program, N_SAMPLES, N_VARIANTS, "phased" in name)
        _MADE[name] = Case(name, path, FORMATS[name], program("plink2"))
    return _MADE[name]


@pytest.fixture
def source(case: Case) -> Iterator[Genotypes]:
    with closing(open_genotypes(case.path)) as source:
        yield source


def test_the_tables_are_those_of_the_schema(source: Genotypes, case: Case) -> None:
    assert isinstance(source, Genotypes)
    check(source.variants, VARIANTS)
    assert source.variants.height == N_VARIANTS
    assert source.samples.columns == ["participant_id", "family_id", "sex"]
    assert source.samples["participant_id"].to_list() == [f"per{i}" for i in range(N_SAMPLES)]
    assert source.paths[0] == case.path
    assert all(path.is_file() for path in source.paths)
    assert source.build is None


def test_the_values_are_those_that_plink2_reads(source: Genotypes, case: Case, tmp_path: Path) -> None:
    theirs = copies(case.plink2, case.inputs, source.variants["effect_allele"], tmp_path)
    ours = source.read(np.arange(N_VARIANTS))
    assert ours.scale == case.format.scale
    assert ours.counts.dtype == (np.int32 if case.format.dosages else np.int8)
    assert ours.counts.flags.c_contiguous
    assert (ours.counts == -1).mean() > 0.05
    np.testing.assert_array_equal(ours.counts == -1, np.isnan(theirs))
    # PLINK 2 holds 1/16384 and prints six digits: both within half a unit of what is stored, or two of a 16-bit BGEN.
    unit = max(0.51, case.format.scale / 32768 + 0.51)
    assert np.nanmax(np.abs(ours.counts - theirs * case.format.scale)) <= unit


def test_the_effect_allele_is_the_one_of_the_format(source: Genotypes, case: Case) -> None:
    """A1 of a .bim, ALT of a .pvar or VCF, the second allele of a BGEN; the first file of PLINK 2 says which is which."""
    alleles = {}
    for line in (case.path.parent / "start.pvar").read_text().splitlines():
        if not line.startswith("#"):
            _, _, name, ref, alt = line.split("\t")[:5]
            alleles[name] = (ref, alt)
    ref_is_second = "ref-last" in case.format.reads
    for name, effect, other in source.variants.select("variant_id", "effect_allele", "other_allele").iter_rows():
        assert (effect, other) == (alleles[name] if ref_is_second else alleles[name][::-1])


def test_a_part_is_the_part_of_the_whole(source: Genotypes, generator: np.random.Generator) -> None:
    whole = source.read(np.arange(N_VARIANTS)).counts
    for _ in range(8):
        rows = np.flatnonzero(generator.random(N_VARIANTS) < generator.random())
        people = generator.permutation(N_SAMPLES)[: generator.integers(1, N_SAMPLES)]
        block = source.read(rows, people)
        np.testing.assert_array_equal(block.variants, rows)
        np.testing.assert_array_equal(block.counts, whole[rows][:, people])
        assert block.counts.flags.c_contiguous
    assert source.read(np.array([], np.int64)).counts.shape == (0, N_SAMPLES)
    assert source.read(np.array([3]), np.array([], np.int64)).counts.shape == (1, 0)


@pytest.mark.parametrize("size", [1, 7, 60, 1000])
def test_the_stream_of_blocks_is_the_whole(source: Genotypes, size: int) -> None:
    whole = source.read(np.arange(N_VARIANTS))
    stream = list(blocks(source, size=size))
    assert {block.scale for block in stream} == {whole.scale}
    np.testing.assert_array_equal(np.concatenate([block.counts for block in stream]), whole.counts)
    np.testing.assert_array_equal(np.concatenate([block.variants for block in stream]), np.arange(N_VARIANTS))


def test_rows_that_are_not_there(source: Genotypes) -> None:
    for rows in ([N_VARIANTS], [-1], [2, 1]):
        with pytest.raises(IndexError):
            source.read(np.array(rows))
    with pytest.raises(IndexError):
        source.read(np.array([0]), np.array([N_SAMPLES]))


def test_another_process_can_open_it_again(source: Genotypes) -> None:
    with closing(pickle.loads(pickle.dumps(source))) as copy:
        assert copy.variants.equals(source.variants)
        np.testing.assert_array_equal(copy.read(np.arange(N_VARIANTS)).counts, source.read(np.arange(N_VARIANTS)).counts)


def test_a_file_that_is_cut_off(case: Case, tmp_path: Path) -> None:
    """Every way of losing the end is one error that names the file, before or while the genotypes are read."""
    whole = case.path.read_bytes()
    path = _copied(case, tmp_path)
    plain = case.path.suffix == ".vcf"  # nothing tells a text that ends after a line from a whole one
    for size in sorted({0, 1, 2, 3, 11, 12, 19, 25, *np.linspace(26, len(whole) - 1, 60).astype(int)}):
        if plain and whole[size - 1 : size] == b"\n":
            continue
        path.write_bytes(whole[:size])
        assert str(path) in _error_of(path, or_else="none"), size


def test_a_file_that_is_too_long(case: Case, tmp_path: Path) -> None:
    path = _copied(case, tmp_path)
    path.write_bytes(case.path.read_bytes() + b"\x00\x01\x02")
    assert str(path) in _error_of(path, or_else="none")


def test_a_file_with_damaged_bytes(case: Case, tmp_path: Path, generator: np.random.Generator) -> None:
    """Damage is an error of ours or other values, never a crash of a library or an exception of Python."""
    whole = np.frombuffer(case.path.read_bytes(), np.uint8)
    path = _copied(case, tmp_path)
    for _ in range(60):
        damaged = whole.copy()
        damaged[generator.integers(0, len(whole), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        assert str(tmp_path) in _error_of(path, or_else=str(tmp_path))


def test_a_file_under_another_name(case: Case, tmp_path: Path) -> None:
    other = ".bgen" if case.path.suffix in (".bed", ".pgen") else ".bed"
    path = tmp_path / f"a{other}"
    shutil.copy(case.path, path)
    with pytest.raises(FormatError, match="not what its name says") as error:
        open_genotypes(path)
    assert str(path) in str(error.value)


def test_what_is_written_is_what_was_read(source: Genotypes, case: Case, tmp_path: Path) -> None:
    people = np.array([5, 0, 17, 36])
    convert_genotypes(source, tmp_path / "b.pgen", variants=np.arange(3, 50), samples=people)
    with closing(open_genotypes(tmp_path / "b.pgen")) as again:
        assert again.samples.equals(source.samples[people])
        assert again.variants.equals(source.variants[3:50])
        ours, theirs = source.read(np.arange(3, 50), people), again.read(np.arange(47))
    if case.format.scale in (1, 16384):
        np.testing.assert_array_equal(theirs.counts, ours.counts)
        assert theirs.scale == ours.scale
    else:
        np.testing.assert_array_equal(theirs.counts == -1, ours.counts == -1)
        assert np.abs(theirs.counts / theirs.scale - ours.counts / ours.scale)[ours.counts >= 0].max() <= 0.5001 / 16384


def test_hard_calls_become_a_bed_and_dosages_do_not(source: Genotypes, case: Case, tmp_path: Path) -> None:
    if case.format.dosages:
        with pytest.raises(StudyError, match=r"write a \.pgen"):
            convert_genotypes(source, tmp_path / "b.bed")
        assert not list(tmp_path.iterdir())
        return
    convert_genotypes(source, tmp_path / "b.bed")
    with closing(open_genotypes(tmp_path / "b.bed")) as again:
        np.testing.assert_array_equal(again.read(np.arange(N_VARIANTS)).counts, source.read(np.arange(N_VARIANTS)).counts)
        assert again.variants.equals(source.variants)


@pytest.mark.parametrize("name", ["bed", "pgen", "pgen, dosages", "bgen 1.2, 8 bits", "vcf.gz", "bcf, DS"])
def test_memory_is_that_of_a_block(name: str, tmp_path: Path, program: Callable[[str], str]) -> None:
    """Streaming 3,000 people × 800 variants (2.4 MB of hard calls, 9.6 MB of dosages) in blocks of 10 takes no such memory."""
    source = open_genotypes(make(FORMATS[name], tmp_path, program, 3000, 800))
    tracemalloc.start()
    try:
        for block in blocks(source, size=10):
            assert block.counts.nbytes <= 10 * 3000 * 4
        assert tracemalloc.get_traced_memory()[1] < 1_200_000
    finally:
        tracemalloc.stop()
        source.close()


def test_every_suffix_is_asked() -> None:
    assert {format.suffix for format in FORMATS.values()} == set(SUFFIXES) - {".vcf.bgz"}, ".vcf.bgz is another name of .vcf.gz"


def _error_of(path: Path, *, or_else: str) -> str:
    try:
        source = open_genotypes(path)
    except ClinomeError as error:
        return str(error)
    with closing(source):
        try:
            source.read(np.arange(source.variants.height))
        except ClinomeError as error:
            return str(error)
    return or_else


def _copied(case: Case, folder: Path) -> Path:
    for path in case.path.parent.glob("a.*"):
        shutil.copy(path, folder)
    return folder / case.path.name
