"""The result store of a scan: variants × traits, one Arrow file a shard, a column a trait, read by trait, region or threshold.

    run.json             the fingerprint of everything the numbers depend on, and what was counted
    variants.parquet     VARIANTS + effect_allele_frequency, missing_share, reason (why there is no estimate, or null)
    traits.parquet       trait, group (traits with the same people), n, rank (columns of its covariates, the intercept included)
    shards/000000.arrow  a row a variant: ``source_row`` (in the genotype files) and, uncompressed, a column for every

                             beta:<trait>, standard_error:<trait>  float32
                             n:<group>                             int32, people with trait and genotype
                             frequency:<group>                     float32, of the effect allele among them
                             omnibus:<set>                         float64, −log10 p

A column is one piece of the file, so reading a few traits costs their bytes alone. A shard is written under a temporary name and
renamed: one that is there is whole.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.core.schema import VARIANTS
from clinome.stats.distributions import neg_log10_chi2, neg_log10_t

Floats = NDArray[np.float64]
RESERVED = ("omnibus", "all traits")  # what tables of results call the joint test, and all traits' tests pooled
REASONS = {1: "no variation", 2: "collinear with the covariates", 3: "too few people"}


class Shard(NamedTuple):
    """Results of V variants, a row a trait: ``rows`` (V,) of a table of variants, ``beta`` and ``standard_error`` (P, V) over
    traits, ``n`` and ``frequency`` (G, V) over groups of traits, ``omnibus`` (S, V) over omnibus sets, −log10 p.
    """

    rows: NDArray[np.int64]
    beta: NDArray[np.float32]
    standard_error: NDArray[np.float32]
    n: NDArray[np.int32]
    frequency: NDArray[np.float32]
    omnibus: Floats


_TYPES = {"beta": np.float32, "standard_error": np.float32, "n": np.int32, "frequency": np.float32, "omnibus": np.float64}


def shard_frame(shard: Shard, *, traits: Sequence[str], omnibus_sets: Sequence[str] = ()) -> pl.DataFrame:
    """Lay a shard out as the columns of its file; ``traits`` and ``omnibus_sets`` name the rows of its arrays."""
    columns = [pl.Series("source_row", shard.rows, dtype=pl.Int64)]
    names = _names(traits, len(shard.n), omnibus_sets)
    for kind, dtype in _TYPES.items():
        values = np.asarray(getattr(shard, kind), dtype=dtype)
        columns += [pl.Series(name, row) for name, row in zip(names[kind], values, strict=True)]
    return pl.DataFrame(columns)


def _names(traits: Sequence[str], n_groups: int, omnibus_sets: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of a shard's columns by kind."""
    groups = [str(i) for i in range(n_groups)]
    over = {"beta": traits, "standard_error": traits, "n": groups, "frequency": groups, "omnibus": omnibus_sets}
    return {kind: [f"{kind}:{name}" for name in names] for kind, names in over.items()}


class _Estimates(NamedTuple):
    """One test at V variants, arrays (V,): NaN where there is none."""

    frequency: Floats
    n: NDArray[np.int64]
    beta: Floats
    standard_error: Floats
    neg_log_10_p: Floats


@dataclass(frozen=True)
class Results:
    """A finished scan in ``folder``. Cheap to make: tables are read when they are asked for."""

    folder: Path

    def __post_init__(self) -> None:
        """Take a path in text as well."""
        object.__setattr__(self, "folder", Path(self.folder))

    @cached_property
    def run(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        path = self.folder / "run.json"
        if not path.exists():
            raise StudyError("there is no finished scan here", where=self.folder, do="run `clinome gwas` with --out there first")
        return dict(json.loads(path.read_text()))

    @cached_property
    def variants(self) -> pl.DataFrame:
        """The variants that passed the filters, in the order of the source."""
        return pl.read_parquet(self.folder / "variants.parquet")

    @cached_property
    def traits(self) -> pl.DataFrame:
        """One row a trait."""
        return pl.read_parquet(self.folder / "traits.parquet")

    @property
    def omnibus_sets(self) -> list[str]:
        """Names of the omnibus sets, in the order of the store's columns."""
        return list(self.run["omnibus_sets"])

    def shards(self, columns: tuple[str, ...] = Shard._fields[1:], *, holding: NDArray[np.int64] | None = None) -> Iterator[Shard]:
        """Yield the shards in order, ``rows`` being those of :attr:`variants`; columns that were not asked for have no rows.

        ``holding``: only the shards that hold one of these rows; others are not read.
        """
        start = 0
        for number, height in enumerate(self._heights):
            if holding is None or ((holding >= start) & (holding < start + height)).any():
                yield self._shard(number, start, columns)
            start += height

    @cached_property
    def _heights(self) -> list[int]:
        """How many variants each shard holds."""
        return [pl.scan_ipc(path).select(pl.len()).collect().item() for path in self._files]

    @cached_property
    def _files(self) -> list[Path]:
        return sorted((self.folder / "shards").glob("[0-9]*.arrow"))  # not what a killed run left half-written

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        """The names of the shards' columns by kind, in the order of the rows of :class:`Shard`."""
        return _names(self.traits["trait"].to_list(), self.traits["group"].n_unique(), self.omnibus_sets)

    def _shard(self, number: int, start: int, columns: tuple[str, ...]) -> Shard:
        """Read ``columns`` of one shard, whose first variant is row ``start``."""
        names = {kind: self._columns[kind] if kind in columns else [] for kind in _TYPES}
        frame = pl.read_ipc(self._files[number], columns=["source_row", *(name for some in names.values() for name in some)])
        arrays = {
            kind: np.stack([frame[name].to_numpy() for name in some]) if some else np.zeros((0, frame.height), _TYPES[kind])
            for kind, some in names.items()
        }
        return Shard(np.arange(start, start + frame.height), **arrays)

    def neg_log_10_p(self, t: Floats, n: NDArray[np.int64], traits: NDArray[np.int64]) -> Floats:
        """Turn beta / SE into −log10 p for the given trait numbers (same shape as ``t`` or broadcast with it)."""
        if self.run["statistic"] == "score":
            return neg_log10_chi2(t * t, 1.0)
        rank = self.traits["rank"].to_numpy()[traits]
        return neg_log10_t(t, np.maximum(n - rank - 1, 1))

    def frames(self, trait: str) -> Iterator[pl.DataFrame]:
        """Yield SUMMARY_STATISTICS of one trait shard by shard; ``trait`` may be 'omnibus' or 'omnibus:<set>' (no beta).

        Raises
        ------
        StudyError
            When the scan has no such trait.
        """
        self._number(trait)
        start = 0
        for number, height in enumerate(self._heights):
            rows = np.arange(start, start + height)
            yield self._table(rows, trait, self._estimates(self._read(number, [trait]), trait))
            start += height

    def strengths(self, wanted: Mapping[str, NDArray[np.int64]]) -> dict[str, Floats]:
        """Return −log10 p at chosen rows of :attr:`variants`, trait by trait; each shard that holds one is read once.

        ``wanted`` names for each trait ('omnibus' included) its rows, ascending.
        """
        found = {trait: np.full(len(rows), np.nan) for trait, rows in wanted.items()}
        ends = np.cumsum(self._heights)
        for number, (stop, height) in enumerate(zip(ends, self._heights, strict=True)):
            start = stop - height
            cuts = {trait: np.searchsorted(rows, (start, stop)) for trait, rows in wanted.items()}
            here = {trait: slice(*cut) for trait, cut in cuts.items() if cut[1] > cut[0]}
            if not here:
                continue
            frame = self._read(number, list(here))
            for trait, cut in here.items():
                found[trait][cut] = self._estimates(frame[wanted[trait][cut] - start], trait).neg_log_10_p
        return found

    def _number(self, trait: str) -> int | None:
        """Return the column of a trait, or None for an omnibus."""
        names = self.traits["trait"].to_list()
        if trait in names:
            return names.index(trait)
        if self.omnibus_sets and (trait == "omnibus" or trait in [f"omnibus:{name}" for name in self.omnibus_sets]):
            return None
        near = difflib.get_close_matches(trait, names, 3)
        raise StudyError(
            f"there is no trait {trait!r} in this scan" + (f"; did you mean {' or '.join(map(repr, near))}?" if near else ""),
            where=self.folder,
            expected=", ".join(names[:20]) + (", …" if len(names) > 20 else ""),
        )

    def _read(self, number: int, tests: Sequence[str]) -> pl.DataFrame:
        """Read of one shard the columns of some traits or omnibus tests."""
        columns: dict[str, None] = {}
        for test in tests:
            p = self._number(test)
            if p is not None:
                group = int(self.traits["group"][p])
                names = [f"beta:{test}", f"standard_error:{test}", f"n:{group}", f"frequency:{group}"]
            else:
                names = self._columns["omnibus"] if test == "omnibus" else [test]
            columns |= dict.fromkeys(names)
        return pl.read_ipc(self._files[number], columns=list(columns))

    def _estimates(self, frame: pl.DataFrame, test: str) -> _Estimates:
        """Take one trait or omnibus test out of what :meth:`_read` has read."""
        p = self._number(test)
        if p is None:
            nothing = np.full(frame.height, np.nan)
            names = self._columns["omnibus"] if test == "omnibus" else [test]
            joint = combined_omnibus(np.stack([frame[name].to_numpy() for name in names]))
            return _Estimates(nothing, np.full(frame.height, sum(self.run["omnibus_people"])), nothing, nothing, joint)
        group = int(self.traits["group"][p])
        names = [f"frequency:{group}", f"n:{group}", f"beta:{test}", f"standard_error:{test}"]
        frequency, n, beta, error = (frame[name].to_numpy() for name in names)
        beta, error = beta.astype(np.float64), error.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            strength = self.neg_log_10_p(beta / error, n, np.array(p))
        return _Estimates(frequency.astype(np.float64), n.astype(np.int64), beta, error, strength)

    def _table(self, rows: NDArray[np.int64], test: str, found: _Estimates) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of one test at ``rows``; an omnibus has the frequency among all people."""
        variants = self.variants[rows]
        numbers = pl.DataFrame(
            {
                "trait": pl.Series([test]).new_from_index(0, len(rows)),
                "effect_allele_frequency": variants["effect_allele_frequency"] if self._number(test) is None else found.frequency,
                "n": found.n,
                "beta": found.beta,
                "standard_error": found.standard_error,
                "neg_log_10_p_value": found.neg_log_10_p,
            }
        )
        place = [column.name for column in VARIANTS.columns if column.name in variants.columns]
        return variants.select(place).hstack(numbers.with_columns(pl.col(pl.Float64).fill_nan(None)))

    def trait(self, name: str) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of one trait over all variants."""
        return pl.concat(list(self.frames(name)))


def combined_omnibus(omnibus: Floats) -> Floats:
    """Combine the sets (S, V) of independent people (the folds of a cross-fitted embedding) by Fisher's method."""
    from clinome.stats.multiple_testing import combine_fisher

    return omnibus[0] if len(omnibus) == 1 else combine_fisher(omnibus.T)
