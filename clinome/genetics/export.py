"""A scan's results in the layouts that other programs read: one file a trait, and the table of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

import clinome
from clinome.core.errors import OutputError, StudyError
from clinome.core.files import file_name, replacing
from clinome.core.progress import track
from clinome.formats.gwas_ssf import Metadata, metadata_path
from clinome.formats.sumstats import Layout, write_sumstats
from clinome.genetics.results import Results
from clinome.genetics.selection import Selection, select

RANKED = "beta is in standard deviations of the trait's rank-normalised residuals on the covariates"
REFERENCE_FIRST = (".pgen", ".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")  # a BGEN does not say: PLINK 2 writes the reference last


@dataclass(frozen=True)
class Part:
    """What of a scan is written: ``traits`` (none named: all), in ``regions`` (chr:from-to, chr), with p at most ``p_value``."""

    traits: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    p_value: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a p-value that is none."""
        if not 0 < self.p_value <= 1:
            raise StudyError("the largest p-value to write is out of range", got=self.p_value, expected="more than 0, at most 1")

    def frames(self, results: Results, trait: str) -> Iterator[pl.DataFrame]:
        """Yield SUMMARY_STATISTICS of one trait; where p is limited, without the variants that have no estimate."""
        if self.regions:
            rows = select(results.variants, Selection(regions=self.regions)).rows
            frames = iter([results.table(rows, [trait])])
        else:
            frames = results.frames(trait)
        for frame in frames:
            yield frame if self.p_value == 1 else frame.filter(pl.col("neg_log_10_p_value") >= -np.log10(self.p_value))


WHOLE = Part()


def export(
    results: Results, out: str | Path, *, layout: Layout, source: str = "", note: str | None = None, part: Part = WHOLE
) -> pl.DataFrame:
    """Write ``out/<trait>.<layout>.tsv.gz`` for every trait, or those of ``part``, and return the table ``trait, file``.

    ``out/traits.tsv`` holds that table, with the files of other layouts that were written before. Files of this layout that
    an earlier scan left there and that this one does not write are removed, so that no trait has an answer of another scan.

    ``source`` is the name of the genotype file: where its format marks the reference allele (all but PLINK 1 and BGEN),
    GWAS-SSF files state it. ``note`` goes into their metadata (the unit of a transformed trait, say).

    Raises
    ------
    OutputError
        When ``out`` cannot be written, or holds a ``traits.tsv`` that no export wrote (a table of phenotypes, say).
    """
    out = Path(out)
    before = _listed(out / "traits.tsv")
    taken: set[str] = set()
    traits = list(dict.fromkeys(part.traits)) or results.traits["trait"].to_list()
    files = [f"{file_name(trait, taken)}.{layout}.tsv.gz" for trait in traits]
    people = dict(results.traits.select("trait", "n").iter_rows())
    for trait, file in track(list(zip(traits, files, strict=True)), f"export as {layout}"):
        about = metadata_of(results, trait, source=source, note=note, sample_size=people.get(trait))
        write_sumstats(out / file, part.frames(results, trait), layout=layout, metadata=about)
    names = pl.DataFrame({"trait": traits, "file": files})
    mine = before["file"].str.ends_with(f".{layout}.tsv.gz")
    _remove(out, set(before.filter(mine)["file"]) - set(files))
    with replacing(out / "traits.tsv") as temporary:
        pl.concat([names, before.filter(~mine)]).write_csv(temporary, separator="\t")
    return names


def metadata_of(results: Results, trait: str, *, source: str, note: str | None, sample_size: int | None = None) -> Metadata:
    """Return what GWAS-SSF says about one trait of a scan; without ``sample_size`` the largest n of the file is taken."""
    return Metadata(
        trait_description=trait,
        genome_assembly=results.run["build"],
        sample_size=sample_size,
        adjusted_covariates=tuple(results.run["covariates"]),
        analysis_software=f"Clinome {clinome.__version__}",
        author_notes=note,
        other_is_reference=source.endswith(REFERENCE_FIRST),
    )


def remove_export(out: str | Path, layout: Layout) -> None:
    """Remove what an earlier :func:`export` wrote into ``out`` in ``layout``: the answers of a scan that is no longer there."""
    out = Path(out)
    if not (out / "traits.tsv").exists():
        return
    before = _listed(out / "traits.tsv")
    mine = before["file"].str.ends_with(f".{layout}.tsv.gz")
    _remove(out, before.filter(mine)["file"])
    if mine.all():
        (out / "traits.tsv").unlink()
        return
    with replacing(out / "traits.tsv") as temporary:
        before.filter(~mine).write_csv(temporary, separator="\t")


def _remove(out: Path, files: Iterable[str]) -> None:
    for file in files:
        (out / file).unlink(missing_ok=True)
        metadata_path(out / file).unlink(missing_ok=True)


def _listed(path: Path) -> pl.DataFrame:
    """Read the table of names that an earlier export wrote: only plain names of files that are there."""
    schema = {"trait": pl.String, "file": pl.String}
    if not path.exists():
        return pl.DataFrame(schema=schema)
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline().rstrip("\r\n")
    if header != "trait\tfile":
        raise OutputError(
            "a file of another kind has the name of the table of exported traits",
            where=path,
            got=f"the header {header[:60]!r}",
            expected="no such file, or the one that an earlier export wrote",
            do="move it away; the same command goes on where it was",
        )
    frame = pl.read_csv(path, separator="\t", schema=schema)
    there = [Path(file).name == file and (path.parent / file).is_file() for file in frame["file"]]
    return frame.filter(pl.Series(there, dtype=pl.Boolean))
