"""Chromosomes that not everybody has twice: which variants lie on them, and how their genotypes enter a scan.

    X    a man's one chromosome counts as two copies, as if one of a woman's two were silent in every cell; people of unknown
         sex are missing; sex is a covariate; Hardy–Weinberg is tested in women
    PAR  the pseudo-autosomal regions of X, which men share with Y: as an autosome
    Y    men alone; a carrier has one copy
    MT   everybody; a carrier has one copy

A haploid person cannot be heterozygous: such calls (errors of calling, of the stated sex, or of the build; on MT also mixtures)
become missing and are counted. All this is what PLINK 2 does with ``--xchr-model 2``, its default, but for heterozygous haploid
calls, which its ``--glm`` takes as half a copy until ``--set-hh-missing`` and ``--set-mixed-mt-missing`` have been run. Where
nobody's sex is known, X is taken as it stands and Y has nobody, as in PLINK 2.

The names X, Y and MT mean this in every species; coordinates of PAR are those of man. Readers bring haploid carriers as two
copies (:mod:`clinome.formats.genotypes`), which on Y and MT is twice what beta is per; :func:`copies` says so.

References: Clayton 2008, doi:10.1093/biostatistics/kxn007 (the coding of X); Chang et al. 2015, doi:10.1186/s13742-015-0047-8;
Genome Reference Consortium (coordinates).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

Counts = NDArray[np.int8] | NDArray[np.int32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# First and last base pair of PAR1 and PAR2 on X, 1-based: https://www.ncbi.nlm.nih.gov/grc/human; NCBI36: UCSC's hg18.
PSEUDO_AUTOSOMAL = {
    "NCBI36": ((1, 2_709_520), (154_584_238, 154_913_754)),
    "GRCh37": ((60_001, 2_699_520), (154_931_044, 155_260_560)),
    "GRCh38": ((10_001, 2_781_479), (155_701_383, 156_030_895)),
}
_EXPLAINED = 1e-6  # sex is among the covariates when they leave less than this share of its variance


class Kind(IntEnum):
    """How many copies of a chromosome people have: two (autosomes and PAR), or as on X, Y or MT."""

    AUTOSOME = 0
    X = 1
    Y = 2
    MT = 3


class Sexes(NamedTuple):
    """Who is male and who female, each (N,); a person who is neither is of unknown sex."""

    male: Mask
    female: Mask


class Recoded(NamedTuple):
    """Counts (V, N) ready for a scan, and how many heterozygous haploid calls (V,) became missing."""

    counts: Counts
    heterozygous_haploids: NDArray[np.int64]


def sexes(samples: pl.DataFrame) -> Sexes:
    """Read the column ``sex`` ('male', 'female' or null) of a table of people.

    >>> sexes(pl.DataFrame({"sex": ["male", "female", None]})).female
    array([False,  True, False])
    """
    sex = samples["sex"].cast(pl.String)
    male, female = ((sex == name).fill_null(False).to_numpy() for name in ("male", "female"))
    return Sexes(male, female)


def kinds(variants: pl.DataFrame, build: str | None) -> tuple[NDArray[np.int8], list[str]]:
    """Return the :class:`Kind` of each row of a ``core.schema.VARIANTS`` table, shape (V,), and sentences for the log.

    A variant of X is pseudo-autosomal when the file's own code said so (the column ``pseudo_autosomal``) or its position lies in
    a region of ``build``. Where neither can tell, all of X is taken as outside, and a sentence says it.

    >>> table = pl.DataFrame({"chromosome": ["1", "X", "X", "MT"], "position": [5, 2_000_000, 5_000_000, 7]})
    >>> kinds(table, "GRCh38")[0]
    array([0, 0, 1, 3], dtype=int8)
    """
    chromosome, position = variants["chromosome"], variants["position"]
    result = np.full(variants.height, Kind.AUTOSOME, np.int8)
    for kind in (Kind.X, Kind.Y, Kind.MT):
        result[(chromosome == kind.name).to_numpy()] = kind
    regions = PSEUDO_AUTOSOMAL.get(build or "", ())
    shared = np.zeros(variants.height, np.bool_)
    for first, last in regions:
        shared |= position.is_between(first, last).to_numpy()
    coded = "pseudo_autosomal" in variants.columns
    if coded:
        shared |= variants["pseudo_autosomal"].fill_null(False).to_numpy()
    result[shared & (result == Kind.X)] = Kind.AUTOSOME
    notes = []
    if (result == Kind.X).any() and not regions and not coded:
        which = f"of {build}" if build else "(the genome build is not stated)"
        notes.append(
            f"all of chromosome X was taken as outside the pseudo-autosomal regions, whose place is not known {which};"
            " a build of man (GRCh37, GRCh38), or codes XY, PAR1 and PAR2 in the file, would tell"
        )
    return result, notes


def copies(kind: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return how many copies of the allele a count of 2 × scale stands for, shape (V,): 1 on Y and MT, else 2.

    Beta and its standard error per count times 2 / copies are per copy, as PLINK 2 has them; a frequency needs no change.

    >>> copies(np.array([Kind.AUTOSOME, Kind.X, Kind.Y, Kind.MT], np.int8))
    array([2, 2, 1, 1])
    """
    return np.where((kind == Kind.Y) | (kind == Kind.MT), 1, 2)


def analysed(kind: Kind, people: Sexes) -> Mask:
    """Say who is analysed on a chromosome, (N,): on X people of known sex (everybody where none is known), on Y men, else all.

    A scan of Y needs models of men alone: among them sex is constant, and women would count among its people.
    """
    if kind == Kind.Y:
        return people.male
    known = people.male | people.female
    return known if kind == Kind.X and known.any() else np.ones_like(known)


def recode(counts: Counts, scale: int, kind: NDArray[np.int8], people: Sexes) -> Recoded:
    """Set missing what cannot be: heterozygous haploid calls, anybody but men on Y, people of unknown sex on X.

    ``counts`` (V, N) in units of 1 / ``scale``, −1 missing, are returned as they are when nothing changes, and never written to.
    A dosage of exactly one copy is a heterozygous call; any other of a man is his expected count and stands.
    """
    heterozygous = np.zeros(len(counts), np.int64)
    result = counts
    for one in (Kind.X, Kind.Y, Kind.MT):
        rows = np.flatnonzero(kind == one)
        if not len(rows):
            continue
        haploid, absent = np.ones_like(people.male) if one == Kind.MT else people.male, ~analysed(one, people)
        part = counts[rows]
        lost = (part == scale) & haploid
        heterozygous[rows] = lost.sum(axis=1)
        lost |= (part >= 0) & absent
        if lost.any():
            np.putmask(part, lost, -1)
            result = counts.copy() if result is counts else result
            result[rows] = part
    return Recoded(result, heterozygous)


def sex_covariate(kind: NDArray[np.int8], people: Sexes, covariates: Floats) -> tuple[Floats | None, list[str]]:
    """Return the covariate of sex that a scan of X needs and has not, shape (N,), and sentences for the log.

    Men have 0 or 2 copies on X where women have 0, 1 or 2, and a trait that differs between the sexes would make variants of X
    look associated. The column is 1 for men, 0 for women and their mean for people of unknown sex, who are missing on X and so
    meet it on other chromosomes only. It is None when no variant of X is scanned, one sex is absent, or sex is already a linear
    combination of ``covariates`` (N, C) and the intercept, however coded.
    """
    n_men, n_women = int(people.male.sum()), int(people.female.sum())
    n_unknown = len(people.male) - n_men - n_women
    notes = []
    if (kind == Kind.Y).any() and not n_men:
        notes.append("nobody is known to be male, so that no variant of chromosome Y can be analysed")
    if not (kind == Kind.X).any():
        return None, notes
    if not n_men + n_women:
        notes.append(
            "nobody's sex is known (VCF and BGEN do not hold it): chromosome X is analysed as it is coded, without sex as a"
            " covariate; a .sample, .psam or .fam with sex would change that"
        )
        return None, notes
    if n_unknown:
        notes.append(f"{n_unknown:,} people of unknown sex are missing on chromosome X")
    if not n_men or not n_women or _explained(people, covariates):
        return None, notes
    notes.append(
        f"sex was added to the covariates, because chromosome X is scanned, where the one copy of {n_men:,} men counts as two"
        f" and {n_women:,} women have two"
    )
    return np.where(people.male | people.female, people.male, n_men / (n_men + n_women)).astype(np.float64), notes


def _explained(people: Sexes, covariates: Floats) -> bool:
    """Say whether an intercept and ``covariates`` leave nothing of sex, among people of known sex."""
    known = people.male | people.female
    centred = covariates[known] - covariates[known].mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    design = centred[:, length > 0] / length[length > 0]  # units must not decide the rank
    sex = people.male[known] - people.male[known].mean()
    left = sex - design @ np.linalg.lstsq(design, sex, rcond=1e-9)[0]
    return bool(left @ left <= _EXPLAINED * (sex @ sex))
