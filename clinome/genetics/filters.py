"""Which variants a scan leaves out, and how many for which reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.stats.hwe import hardy_weinberg

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Filters:
    """Thresholds; None is off. A variant is kept when it meets all of them over the people of the scan.

    ``maf``: least minor-allele frequency; ``mac``: least minor-allele count; ``missing``: largest share of missing genotypes;
    ``hwe``: least p of the exact Hardy–Weinberg test (hard calls, all people; X, Y and MT are not tested); ``info``: least
    imputation INFO of the file (a variant without INFO is kept).
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


class Counted(NamedTuple):
    """Per variant of a block (V,): frequency of the effect allele, share missing, and the first filter it fails ('' if none)."""

    frequency: Floats
    missing_share: Floats
    failed: NDArray[np.str_]


def count(
    counts: NDArray[np.int8] | NDArray[np.int32],
    scale: int,
    info: Floats | None,
    filters: Filters,
    *,
    autosomal: NDArray[np.bool_] | None = None,
) -> Counted:
    """Count alleles over all people (columns) of ``counts`` and apply ``filters``.

    ``autosomal`` (V,) says where the Hardy–Weinberg test applies (None: everywhere): men have one X.
    """
    n = counts.shape[1]
    gaps = (counts < 0).sum(axis=1)
    observed = n - gaps
    total = counts.sum(axis=1, dtype=np.int64) + gaps  # a missing count is −1
    frequency = np.where(observed > 0, total / np.maximum(2 * scale * observed, 1), np.nan)
    missing_share = gaps / max(n, 1)
    minor = np.minimum(frequency, 1 - frequency)
    failed = np.full(len(counts), "", dtype="<U8")

    def leave_out(name: str, bad: NDArray[np.bool_]) -> None:
        failed[(failed == "") & bad] = name

    if filters.missing is not None:
        leave_out("missing", missing_share > filters.missing)
    if filters.maf is not None:
        leave_out("maf", ~(minor >= filters.maf))
    if filters.mac is not None:
        leave_out("mac", ~(np.minimum(total, 2 * scale * observed - total) / scale >= filters.mac))
    if filters.info is not None and info is not None:
        leave_out("info", info < filters.info)
    if filters.hwe is not None:
        if scale != 1:
            raise StudyError(
                "the Hardy–Weinberg filter needs hard calls; this file holds dosages", do="leave --hwe out, or use --info"
            )
        tested = failed == "" if autosomal is None else (failed == "") & autosomal
        rows = np.flatnonzero(tested)
        homozygotes, heterozygotes, others = ((counts[rows] == k).sum(axis=1) for k in (2, 1, 0))
        low = np.zeros(len(counts), dtype=np.bool_)
        low[rows] = hardy_weinberg(homozygotes, heterozygotes, others) < filters.hwe
        leave_out("hwe", low)
    return Counted(frequency, missing_share, failed)
