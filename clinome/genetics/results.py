"""The result store of a scan: variants × traits, one Arrow file a shard, a column a trait, read by trait, region or threshold.

    run.json             the fingerprint of everything the numbers depend on, and what was counted
    variants.parquet     VARIANTS + effect_allele_frequency, missing_share, reason (why there is no estimate, or null); where X, Y
                         or MT are scanned heterozygous_haploids (calls set missing) and omnibus_n (people of the omnibus)
    traits.parquet       trait, group (traits with the same people), n, rank (columns of its covariates, the intercept included)
    shards/000000.arrow  a row a variant: ``source_row`` (in the genotype files) and, uncompressed, a column for every

                             beta:<trait>, standard_error:<trait>  float32
                             n:<group>                             int32, people with trait and genotype
                             frequency:<group>                     float32, of the effect allele among them
                             omnibus:<set>                         float64, −log10 p
                             more:<group>                          int8, covariates beyond the trait's rank (sex on X), in
                                                                   scans where ranks change

A column is one piece of the file, so reading a few traits costs their bytes alone. A shard is written under a temporary name and
renamed: one that is there is whole.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.genetics.selection import chromosome_among
from clinome.stats.distributions import neg_log10_chi2, neg_log10_t, z_of_t

Floats = NDArray[np.float64]
RESERVED = ("omnibus", "all traits")  # what tables of results call the joint test, and all traits' tests pooled
REASONS = {1: "no variation", 2: "collinear with the covariates", 3: "too few people"}


class Shard(NamedTuple):
    """Results of V variants, a row a trait: ``rows`` (V,) of a table of variants, ``beta`` and ``standard_error`` (P, V) over
    traits, ``n`` and ``frequency`` (G, V) over groups of traits, ``omnibus`` (S, V) over omnibus sets, −log10 p; ``more`` (G, V):
    by how many covariate columns the model of a variant exceeds the trait's ``rank`` (sex on chromosome X); no rows: by none.
    """

    rows: NDArray[np.int64]
    beta: NDArray[np.float32]
    standard_error: NDArray[np.float32]
    n: NDArray[np.int32]
    frequency: NDArray[np.float32]
    omnibus: Floats
    more: NDArray[np.int8] = np.zeros((0, 0), np.int8)


GENOME_WIDE = 5e-8
_BATCH = 1_000  # traits of a shard that are read at once: 130 MB; opening a file costs its number of columns
PLACE = ("variant_id", "chromosome", "position", "effect_allele", "other_allele", "info")
_NUMBERS = {
    "effect_allele_frequency": np.float64,
    "n": np.int64,
    "beta": np.float64,
    "standard_error": np.float64,
    "neg_log_10_p_value": np.float64,
}
_TYPES = {
    "beta": np.float32,
    "standard_error": np.float32,
    "n": np.int32,
    "frequency": np.float32,
    "omnibus": np.float64,
    "more": np.int8,
}


def shard_frame(
    shard: Shard, *, traits: Sequence[str], omnibus_sets: Sequence[str] = (), ranks_change: bool = False
) -> pl.DataFrame:
    """Lay a shard out as the columns of its file; ``traits`` and ``omnibus_sets`` name the rows of its arrays.

    ``ranks_change``: some variants of the scan have other covariates than others, so that ``more`` is kept.
    """
    columns = [pl.Series("source_row", shard.rows, dtype=pl.Int64)]
    names = _names(traits, len(shard.n), omnibus_sets, ranks_change)
    for kind, dtype in _TYPES.items():
        if names[kind]:
            values = np.asarray(getattr(shard, kind), dtype=dtype)
            columns += [pl.Series(name, row) for name, row in zip(names[kind], values, strict=True)]
    return pl.DataFrame(columns)


def _names(traits: Sequence[str], n_groups: int, omnibus_sets: Sequence[str], ranks_change: bool) -> dict[str, list[str]]:
    """Return the names of a shard's columns by kind."""
    groups = [str(i) for i in range(n_groups)]
    over = {"beta": traits, "standard_error": traits, "n": groups, "frequency": groups, "omnibus": omnibus_sets}
    over["more"] = groups if ranks_change else []
    return {kind: [f"{kind}:{name}" for name in names] for kind, names in over.items()}


class Piece(NamedTuple):
    """One trait (``trait``: its row in the table of traits) at V variants: arrays (V,) as in :class:`Shard`."""

    trait: int
    beta: NDArray[np.float32]
    standard_error: NDArray[np.float32]
    n: NDArray[np.int32]
    frequency: NDArray[np.float32]
    more: NDArray[np.int8]

    @property
    def worth(self) -> NDArray[np.int32]:
        """People less the covariates beyond the trait's rank: what degrees of freedom are counted from."""
        return self.n - self.more

    def t(self, at: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """Return beta / standard error, everywhere or at some places."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.beta[at].astype(np.float64) / self.standard_error[at]


@dataclass(frozen=True)
class Results:
    """A finished scan in ``folder``, or in the folder ``gwas`` there, where `clinome gwas` and `clinome run` keep it.

    Cheap to make: tables are read when they are asked for.

    Raises
    ------
    StudyError
        When there is no finished scan.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Find the scan."""
        given = Path(self.folder)
        folder = next((folder for folder in (given, given / "gwas") if (folder / "run.json").is_file()), None)
        if folder is None:
            raise StudyError(
                "there is no finished scan here",
                where=given,
                do="name the folder that was given as --out, or to associate; of a killed scan, run the same command again",
            )
        object.__setattr__(self, "folder", folder)

    @cached_property
    def run(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        return dict(json.loads((self.folder / "run.json").read_text()))

    @cached_property
    def variants(self) -> pl.DataFrame:
        """The variants that passed the filters, in the order of the source."""
        return pl.read_parquet(self._variants)

    @cached_property
    def traits(self) -> pl.DataFrame:
        """One row a trait."""
        return pl.read_parquet(self.folder / "traits.parquet")

    @property
    def omnibus_sets(self) -> list[str]:
        """Names of the omnibus sets, in the order of the store's columns."""
        return list(self.run["omnibus_sets"])

    def trait(self, name: str) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of one trait over all variants; ``name`` as in :meth:`frames`."""
        return self.table(np.arange(self._bounds[-1][1]), [name])

    def frames(self, trait: str) -> Iterator[pl.DataFrame]:
        """Yield SUMMARY_STATISTICS of one trait shard by shard; ``trait`` may be 'omnibus' or 'omnibus:<set>' (no beta).

        Raises
        ------
        StudyError
            When the scan has no such trait.
        """
        for start, stop in self._bounds:
            yield self._table(self.variants[start:stop], np.arange(start, stop), [trait])

    def region(self, chromosome: str | int, start: int, end: int, traits: str | Sequence[str] | None = None) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of ``traits`` (one or several; None: all) at the positions ``start`` to ``end``, both included.

        ``chromosome`` is named as on the command line: 6, '6' or 'chr6', 23 or 'X'.

        Raises
        ------
        StudyError
            When the scan has no such chromosome or trait.
        """
        tests = self._traits if traits is None else [traits] if isinstance(traits, str) else traits
        return self.table(self.rows_within(chromosome, start, end), tests)

    def rows_within(self, chromosome: str | int, start: int, end: int) -> NDArray[np.int64]:
        """Return the rows of :attr:`variants` at the positions ``start`` to ``end``; of the table only places are read."""
        places = pl.scan_parquet(self._variants).select("chromosome", "position").with_row_index("row")
        known = places.select(pl.col("chromosome").unique(maintain_order=True)).collect()["chromosome"].to_list()
        name = chromosome_among(str(chromosome), known)
        if name not in known:
            raise StudyError(f"the scan has no chromosome {chromosome!r}", where=self.folder, expected=", ".join(known[:40]))
        here = places.filter(chromosome=name).collect()
        return here.filter(pl.col("position").is_between(start, end))["row"].to_numpy().astype(np.int64)

    def hits(self, p_value: float = GENOME_WIDE) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of every variant and trait, the omnibus included, with p ≤ ``p_value``, in order of place.

        Raises
        ------
        StudyError
            When the scan was not summarised, or its hits were gathered at a smaller p.
        """
        level = float(self.about_hits["p_value"])
        if p_value > level:
            raise StudyError(
                "the hits of this scan were gathered at a smaller p",
                where=self.folder,
                got=p_value,
                expected=f"at most {level:g}",
                do=f"filter trait() or region(), or gather anew: clinome.genetics.studywide.summarise(…, hits_below={p_value:g})",
            )
        return pl.scan_parquet(self.folder / "hits.parquet").filter(pl.col("neg_log_10_p_value") >= -np.log10(p_value)).collect()

    @property
    def about_hits(self) -> dict[str, str]:
        """What hits.parquet says of itself: ``p_value``, the level; ``found``, how many there are; ``kept``, how many it holds."""
        path = self.folder / "hits.parquet"
        if not path.exists():
            raise StudyError("this scan has not been summarised", where=self.folder, do="call clinome.genetics.studywide.summarise")
        return pl.read_parquet_metadata(path)

    def table(self, rows: NDArray[np.int64], tests: Sequence[str]) -> pl.DataFrame:
        """Return SUMMARY_STATISTICS of traits or omnibus tests at ``rows`` (ascending) of the variants, one test after another."""
        if not tests:
            return self._table(self._variants_at(rows[:0]), rows[:0], self._traits[:1])
        return self._table(self._variants_at(rows), rows, tests)

    def omnibus_people(self, variants: pl.DataFrame) -> NDArray[np.int64]:
        """Return how many people the omnibus has at each row of a table of variants of this scan (V,): fewer on X and Y."""
        if "omnibus_n" in variants.columns:
            return variants["omnibus_n"].to_numpy()
        return np.full(variants.height, sum(self.run["omnibus_people"]))

    def _table(self, variants: pl.DataFrame, rows: NDArray[np.int64], tests: Sequence[str]) -> pl.DataFrame:
        frequency, people = variants["effect_allele_frequency"].to_numpy(), self.omnibus_people(variants)
        columns = {name: np.empty((len(tests), len(rows)), dtype=dtype) for name, dtype in _NUMBERS.items()}
        done = 0
        for number, at in self._parts(rows):
            read, here = self._read(number, tests, at), slice(done, done + len(at))
            done += len(at)
            for k, test in enumerate(tests):
                for column, values in zip(columns.values(), self._numbers(read, test, frequency[here], people[here]), strict=True):
                    column[k, here] = values
        place = pl.concat([variants.select(name for name in PLACE if name in variants.columns)] * len(tests))
        trait = pl.Series("trait", tests, dtype=pl.String).gather(np.repeat(np.arange(len(tests)), len(rows)))
        numbers = pl.DataFrame({name: column.ravel() for name, column in columns.items()})
        return place.with_columns(trait).hstack(numbers.with_columns(pl.col(pl.Float64).fill_nan(None)))

    def estimates(self, trait: str) -> Piece:
        """Return the arrays of one trait over all variants; the table of variants is not read."""
        p = self._number(trait)
        if p is None:
            raise StudyError(
                "an omnibus has no estimates", where=self.folder, got=trait, do="take frames() or trait() for its p-values"
            )
        pieces = [self._piece(self._read(number, [trait]), p) for number in range(len(self._files))]
        return Piece(pieces[0].trait, *(np.concatenate(columns) for columns in list(zip(*pieces, strict=True))[1:]))

    def walk(self, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[NDArray[np.int64], Iterator[Piece]]]:
        """Yield shard by shard the rows of :attr:`variants` that it holds and, trait by trait, what it says of them.

        ``rows`` (ascending): only these; shards that hold none of them are not read.
        """
        if rows is None:
            for number, (start, stop) in enumerate(self._bounds):
                yield np.arange(start, stop), self._pieces(number, None)
            return
        for number, at in self._parts(rows):
            yield at + self._bounds[number][0], self._pieces(number, at)

    def _pieces(self, number: int, at: NDArray[np.int64] | None) -> Iterator[Piece]:
        for first in range(0, len(self._traits), _BATCH):
            batch = self._traits[first : first + _BATCH]
            read = self._read(number, batch, at)
            for p in range(first, first + len(batch)):
                yield self._piece(read, p)

    def shards(self, columns: tuple[str, ...] = Shard._fields[1:]) -> Iterator[Shard]:
        """Yield the shards in order, ``rows`` being those of :attr:`variants`; columns that were not asked for have no rows."""
        for number, (start, _stop) in enumerate(self._bounds):
            yield self._shard(number, start, columns)

    def strengths(self, wanted: Mapping[str, NDArray[np.int64]]) -> dict[str, Floats]:
        """Return −log10 p at chosen rows of :attr:`variants`, trait by trait; each shard that holds one is read once.

        ``wanted`` names for each trait ('omnibus' included) its rows, ascending.
        """
        found = {trait: np.full(len(rows), np.nan) for trait, rows in wanted.items()}
        for number, (start, stop) in enumerate(self._bounds):
            cuts = {trait: np.searchsorted(rows, (start, stop)) for trait, rows in wanted.items()}
            here = {trait: slice(*cut) for trait, cut in cuts.items() if cut[1] > cut[0]}
            read = self._read(number, list(here)) if here else {}
            for trait, cut in here.items():
                at = wanted[trait][cut] - start
                some = {name: column[at] for name, column in read.items()}
                *_, found[trait][cut] = self._numbers(some, trait, np.full(len(at), np.nan), np.zeros(len(at), np.int64))
        return found

    def neg_log_10_p(self, t: Floats, n: NDArray[Any], traits: NDArray[Any]) -> Floats:
        """Turn beta / SE into −log10 p; ``n`` people less covariates beyond the rank, and trait numbers, broadcast with ``t``."""
        if self.run["statistic"] == "score":
            return neg_log10_chi2(t * t, 1.0)
        return neg_log10_t(t, np.maximum(n - self._rank[traits] - 1, 1))

    def strength(self, piece: Piece, at: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """Return the exact −log10 p of one trait, everywhere or at some places of its arrays."""
        return self.neg_log_10_p(piece.t(at), piece.worth[at], np.array(piece.trait))

    def z(self, piece: Piece) -> NDArray[np.float32]:
        """Return the |z| that have these p, fast (:func:`clinome.stats.distributions.z_of_t`); NaN where there is no estimate."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = piece.beta / piece.standard_error
        if self.run["statistic"] == "score":
            return np.where(np.isfinite(t), np.abs(t), np.float32(np.nan))
        n = piece.worth
        n = n[:1] if len(t) and n.min() == n.max() else n
        return z_of_t(t, np.maximum(n - self._rank[piece.trait] - 1, 1))

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        """The rows of :attr:`variants` that each shard holds: the first, and the one after the last."""
        ends = np.cumsum([pl.scan_ipc(path).select(pl.len()).collect().item() for path in self._files]).tolist()
        return list(pairwise([0, *ends]))

    @cached_property
    def _files(self) -> list[Path]:
        return sorted((self.folder / "shards").glob("[0-9]*.arrow"))  # not what a killed run left half-written

    @property
    def _variants(self) -> Path:
        return self.folder / "variants.parquet"

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        """The names of the shards' columns by kind, in the order of the rows of :class:`Shard`."""
        return _names(self.traits["trait"].to_list(), self.traits["group"].n_unique(), self.omnibus_sets, self._ranks_change)

    @cached_property
    def _traits(self) -> list[str]:
        return self.traits["trait"].to_list()

    @cached_property
    def _numbers_of(self) -> dict[str, int]:
        return {name: p for p, name in enumerate(self._traits)}

    @cached_property
    def _groups(self) -> list[int]:
        return self.traits["group"].to_list()

    @property
    def _ranks_change(self) -> bool:
        """Whether shards hold ``more``."""
        return bool(self.run.get("ranks_change", False))

    @cached_property
    def _rank(self) -> NDArray[np.int64]:
        return self.traits["rank"].to_numpy()

    def _variants_at(self, rows: NDArray[np.int64]) -> pl.DataFrame:
        """Return the table of variants at ``rows`` (ascending), reading no more than their stretch of it."""
        if not len(rows):
            return pl.scan_parquet(self._variants).head(0).collect()
        if "variants" in self.__dict__:
            return _taken(self.variants, rows)
        first = int(rows[0])
        return _taken(pl.scan_parquet(self._variants).slice(first, int(rows[-1]) + 1 - first).collect(), rows - first)

    def _parts(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the shards that hold some of ``rows`` (ascending), and where in them."""
        for number, (start, stop) in enumerate(self._bounds):
            first, last = np.searchsorted(rows, (start, stop))
            if last > first:
                yield number, rows[first:last] - start

    def _number(self, test: str) -> int | None:
        """Return the row of a trait in the table of traits, or None for an omnibus."""
        if test in self._numbers_of:
            return self._numbers_of[test]
        if self.omnibus_sets and test in ("omnibus", *self._columns["omnibus"]):
            return None
        names = self._traits
        near = difflib.get_close_matches(test, names, 3)
        raise StudyError(
            f"there is no trait {test!r} in this scan" + (f"; did you mean {' or '.join(map(repr, near))}?" if near else ""),
            where=self.folder,
            expected=", ".join(names[:20]) + (", …" if len(names) > 20 else ""),
        )

    def _columns_of(self, test: str) -> list[str]:
        """Return the columns of a trait, in the order of :class:`Piece`, or of an omnibus test."""
        p = self._number(test)
        if p is None:
            return self._columns["omnibus"] if test == "omnibus" else [test]
        group = self._groups[p]
        more = [f"more:{group}"] if self._ranks_change else []
        return [f"beta:{test}", f"standard_error:{test}", f"n:{group}", f"frequency:{group}", *more]

    def _read(self, number: int, tests: Sequence[str], at: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Read of one shard the columns of some traits or omnibus tests, whole or ``at`` some places (ascending)."""
        columns = dict.fromkeys(column for test in tests for column in self._columns_of(test))
        read = pl.read_ipc(self._files[number], columns=list(columns)).get_columns()
        if at is None:
            return {column.name: column.to_numpy() for column in read}
        stretch = int(at[-1] - at[0]) + 1 == len(at)
        part = slice(int(at[0]), int(at[-1]) + 1) if stretch else at
        return {column.name: column.to_numpy()[part] for column in read}

    def _piece(self, read: Mapping[str, NDArray[Any]], p: int) -> Piece:
        arrays = [read[name] for name in self._columns_of(self._traits[p])]
        return Piece(p, *(arrays if self._ranks_change else [*arrays, np.zeros(len(arrays[0]), np.int8)]))

    def _numbers(
        self, read: Mapping[str, NDArray[Any]], test: str, everybody: Floats, people: NDArray[np.int64]
    ) -> tuple[NDArray[Any], ...]:
        """Return what ``_NUMBERS`` names, of one test; an omnibus is of ``people``, its frequency that among ``everybody``."""
        p = self._number(test)
        if p is None:
            joint = combined_omnibus(np.stack([read[name] for name in self._columns_of(test)]))
            nothing = np.full(len(joint), np.nan)
            return everybody, people, nothing, nothing, joint
        piece = self._piece(read, p)
        return piece.frequency, piece.n, piece.beta, piece.standard_error, self.strength(piece)

    def _shard(self, number: int, start: int, columns: tuple[str, ...]) -> Shard:
        """Read ``columns`` of one shard, whose first variant is row ``start``."""
        names = {kind: self._columns[kind] if kind in columns else [] for kind in _TYPES}
        frame = pl.read_ipc(self._files[number], columns=["source_row", *(name for some in names.values() for name in some)])
        arrays = {
            kind: np.stack([frame[name].to_numpy() for name in some]) if some else np.zeros((0, frame.height), _TYPES[kind])
            for kind, some in names.items()
        }
        return Shard(np.arange(start, start + frame.height), **arrays)


def _taken(frame: pl.DataFrame, rows: NDArray[np.int64]) -> pl.DataFrame:
    """Take rows, ascending and at least one; a stretch of them without a copy."""
    first, last = int(rows[0]), int(rows[-1])
    return frame.slice(first, len(rows)) if last - first + 1 == len(rows) else frame[rows]


def combined_omnibus(omnibus: Floats) -> Floats:
    """Combine the sets (S, V) of independent people (the folds of a cross-fitted embedding) by Fisher's method."""
    from clinome.stats.multiple_testing import combine_fisher

    return omnibus[0] if len(omnibus) == 1 else combine_fisher(omnibus.T)
