"""Which variants a scan leaves out, and how many for which reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.stats.exact import Columns, Counts
from clinome.stats.hwe import hardy_weinberg
from clinome.stats.moments import Cells

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Filters:
    """Thresholds; None is off. A variant is kept when it meets all of them over the people of the scan.

    ``maf``: least minor-allele frequency; ``mac``: least minor-allele count (a man's one X, Y and anybody's MT count once in
    both, as in PLINK 2); ``missing``: largest share of missing genotypes; ``hwe``: least p of the exact Hardy–Weinberg test (hard
    calls; women on X, nobody on Y and MT); ``info``: least imputation INFO of the file (a variant without INFO is kept).
    """

    maf: float | None = None
    mac: float | None = None
    missing: float | None = None
    hwe: float | None = None
    info: float | None = None

    def __post_init__(self) -> None:
        """Refuse thresholds outside their range."""
        for name, most in (("maf", 0.5), ("missing", 1.0), ("hwe", 1.0), ("info", 1.0), ("mac", np.inf)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise StudyError(f"the filter {name} is out of range", got=value, expected=f"0 to {most:g}")

    @property
    def counting(self) -> bool:
        """Whether genotypes must be counted before the scan."""
        return any(value is not None for value in (self.maf, self.mac, self.missing, self.hwe))


class Tally(NamedTuple):
    """Per variant (V,): how many people are observed, the sum of their counts, and of the squares."""

    observed: Floats
    total: Floats
    squares: Floats


def tally(counts: Counts, people: Columns) -> list[Tally]:
    """Count alleles of ``counts`` (V, N; −1 missing) over sets of people: one 0/1 column (N,) of ``people`` a set."""
    cells = Cells.of(counts)
    gone = cells.summed(people.floats)
    squared = counts * counts if counts.dtype == np.int8 else counts.astype(np.int64) ** 2
    total, squares = (people.product(values).T for values in (counts, squared))
    observed = np.repeat(people.integers.sum(axis=0).astype(np.float64)[:, None], len(counts), axis=1)
    total[:, cells.rows] += gone  # a missing count is −1, and so is 1 among the squares
    squares[:, cells.rows] -= gone
    observed[:, cells.rows] -= gone
    return [Tally(*parts) for parts in zip(observed, total, squares, strict=True)]


def failed(
    counted: Tally, *, n: int, scale: int, haploid: Tally | None, filters: Filters, info: Floats | None, hwe: Tally | None
) -> NDArray[np.str_]:
    """Name for each variant (V,) the first filter that it does not pass, or ''.

    Parameters
    ----------
    counted
        Over the ``n`` people of the scan.
    haploid
        Counts over those of them who have one copy, for which a count of 2 × ``scale`` stands; None: nobody.
    hwe
        Counts over the people in whom Hardy–Weinberg proportions are expected, of hard calls; None: nobody.
    """
    result = np.full(len(counted.total), "", dtype="<U8")

    def leave_out(name: str, bad: NDArray[np.bool_]) -> None:
        result[(result == "") & bad] = name

    alleles, copies = 2 * counted.observed, counted.total / scale
    if haploid is not None:
        alleles, copies = alleles - haploid.observed, copies - haploid.total / (2 * scale)
    minor = np.minimum(copies, alleles - copies)
    with np.errstate(invalid="ignore", divide="ignore"):
        frequency = minor / alleles
    if filters.missing is not None:
        leave_out("missing", 1 - counted.observed / max(n, 1) > filters.missing)
    if filters.maf is not None:
        leave_out("maf", ~(frequency >= filters.maf))
    if filters.mac is not None:
        leave_out("mac", ~(minor >= filters.mac))
    if filters.info is not None and info is not None:
        leave_out("info", info < filters.info)
    if filters.hwe is not None and hwe is not None:
        rows = np.flatnonzero(result == "")
        observed, total, squares = (values[rows].astype(np.int64) for values in hwe)
        homozygotes, heterozygotes = (squares - total) // 2, 2 * total - squares
        low = np.zeros(len(result), dtype=np.bool_)
        low[rows] = hardy_weinberg(homozygotes, heterozygotes, observed - homozygotes - heterozygotes) < filters.hwe
        leave_out("hwe", low)
    return result
