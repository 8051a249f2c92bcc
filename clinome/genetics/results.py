"""The result store of a scan: variants × traits, one Arrow file a shard, read shard by shard or trait by trait.

    run.json             the fingerprint of everything the numbers depend on, and what was counted
    variants.parquet     VARIANTS + effect_allele_frequency, missing_share, reason (why there is no estimate, or null)
    traits.parquet       trait, group (traits with the same people), n, rank (columns of its covariates, the intercept included)
    shards/000000.arrow  a row a variant: ``source_row`` (in the genotype files) and fixed-size lists over traits (``beta``,
                         ``standard_error``: float32), over groups (``n``: int32, ``frequency``: float32) and over omnibus sets
                         (``omnibus``: float64, −log10 p)

A shard is written under a temporary name and renamed, so a shard that is there is whole.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.stats.distributions import neg_log10_chi2, neg_log10_t

Floats = NDArray[np.float64]
RESERVED = ("omnibus", "all traits")  # what tables of results call the joint test, and all traits' tests pooled
REASONS = {1: "no variation", 2: "collinear with the covariates", 3: "too few people"}


class Shard(NamedTuple):
    """Arrays of one shard: ``rows`` (V,) of a table of variants, ``beta`` and ``standard_error`` (V, P) over traits, ``n`` and
    ``frequency`` (V, G) over groups, ``omnibus`` (V, S) over omnibus sets.
    """

    rows: NDArray[np.int64]
    beta: Floats
    standard_error: Floats
    n: NDArray[np.int64]
    frequency: Floats
    omnibus: Floats


def shard_frame(shard: Shard) -> pl.DataFrame:
    """Lay a shard out as the columns of its file."""
    columns = {"source_row": pl.Series(shard.rows, dtype=pl.Int64)}
    for name, values, dtype in (
        ("beta", shard.beta, np.float32),
        ("standard_error", shard.standard_error, np.float32),
        ("n", shard.n, np.int32),
        ("frequency", shard.frequency, np.float32),
        ("omnibus", shard.omnibus, np.float64),
    ):
        if values.shape[1]:
            columns[name] = pl.Series(np.ascontiguousarray(values, dtype=dtype))
    return pl.DataFrame(columns)


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
        """Yield the shards in order, ``rows`` being those of :attr:`variants`; columns that were not asked for have no width.

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

    def _shard(self, number: int, start: int, columns: tuple[str, ...]) -> Shard:
        """Read ``columns`` of one shard, whose first variant is row ``start``."""
        groups = self.traits["group"].to_list()
        width = {"beta": len(groups), "standard_error": len(groups), "n": max(groups) + 1, "frequency": max(groups) + 1}
        width["omnibus"] = len(self.omnibus_sets)
        wanted = [name for name in columns if width[name]]
        frame = pl.read_ipc(self._files[number], columns=["source_row", *wanted])
        arrays = {name: np.zeros((frame.height, 0)) for name in width}
        for name in wanted:
            arrays[name] = frame[name].to_numpy().reshape(frame.height, width[name]).astype(np.float64)
        rows = np.arange(start, start + frame.height)
        n = arrays["n"].astype(np.int64)
        return Shard(rows, arrays["beta"], arrays["standard_error"], n, arrays["frequency"], arrays["omnibus"])

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
        p = self._number(trait)
        if p is None:
            for shard in self.shards(("omnibus",)):
                nothing = np.full(len(shard.rows), np.nan)
                frequency = self.variants["effect_allele_frequency"].to_numpy()[shard.rows]
                n = np.full(len(shard.rows), sum(self.run["omnibus_people"]))
                yield self._frame(shard, trait, frequency, n, nothing, nothing, self._joint(trait, shard.omnibus))
            return
        group = int(self.traits["group"][p])
        for shard in self.shards(("beta", "standard_error", "n", "frequency")):
            beta, error = shard.beta[:, p], shard.standard_error[:, p]
            strength = self._strength(beta, error, shard.n[:, group], p)
            yield self._frame(shard, trait, shard.frequency[:, group], shard.n[:, group], beta, error, strength)

    def strengths(self, wanted: Mapping[str, NDArray[np.int64]]) -> dict[str, Floats]:
        """Return −log10 p at chosen rows of :attr:`variants`, trait by trait; each shard that holds one is read once.

        ``wanted`` names for each trait ('omnibus' included) its rows, ascending.
        """
        numbers = {trait: self._number(trait) for trait in wanted}
        found = {trait: np.full(len(rows), np.nan) for trait, rows in wanted.items()}
        ends = np.cumsum(self._heights)
        for shard_number, (stop, height) in enumerate(zip(ends, self._heights, strict=True)):
            start = stop - height
            cuts = {trait: np.searchsorted(rows, (start, stop)) for trait, rows in wanted.items()}
            here = {trait: slice(*cut) for trait, cut in cuts.items() if cut[1] > cut[0]}
            if not here:
                continue
            columns = ("omnibus",) if all(numbers[t] is None for t in here) else ("beta", "standard_error", "n", "omnibus")
            shard = self._shard(shard_number, start, columns)
            for trait, cut in here.items():
                at, p = wanted[trait][cut] - start, numbers[trait]
                if p is None:
                    found[trait][cut] = self._joint(trait, shard.omnibus[at])
                else:
                    n = shard.n[at, int(self.traits["group"][p])]
                    found[trait][cut] = self._strength(shard.beta[at, p], shard.standard_error[at, p], n, p)
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

    def _joint(self, trait: str, omnibus: Floats) -> Floats:
        return combined_omnibus(omnibus) if trait == "omnibus" else omnibus[:, self.omnibus_sets.index(trait.split(":", 1)[1])]

    def _strength(self, beta: Floats, error: Floats, n: NDArray[np.int64], p: int) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.neg_log_10_p(beta / error, n, np.array(p))

    def _frame(
        self, shard: Shard, trait: str, frequency: Floats, n: NDArray[np.int64], beta: Floats, error: Floats, strength: Floats
    ) -> pl.DataFrame:
        keep = [
            c
            for c in ("variant_id", "chromosome", "position", "effect_allele", "other_allele", "info")
            if c in self.variants.columns
        ]
        columns = {
            "trait": pl.Series([trait]).new_from_index(0, len(n)),
            "effect_allele_frequency": frequency,
            "n": n,
            "beta": beta,
            "standard_error": error,
            "neg_log_10_p_value": strength,
        }
        numbers = pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))
        return self.variants[shard.rows].select(keep).hstack(numbers)

    def trait(self, name: str) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of one trait over all variants."""
        return pl.concat(list(self.frames(name)))


def combined_omnibus(omnibus: Floats) -> Floats:
    """Combine the sets (V, S) of independent people (the folds of a cross-fitted embedding) by Fisher's method."""
    from clinome.stats.multiple_testing import combine_fisher

    return omnibus[:, 0] if omnibus.shape[1] == 1 else combine_fisher(omnibus)
