"""Hits in full: every variant and trait, the omnibus included, whose p-value reaches a level.

``hits.parquet`` is SUMMARY_STATISTICS sorted by chromosome, position and trait; its metadata say the level and how many there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.files import replacing
from clinome.core.schema import SUMMARY_STATISTICS, check
from clinome.genetics.results import PLACE, Floats, Piece, Results
from clinome.report.reading import natural
from clinome.stats.distributions import z_of_neg_log10_p

MOST = 10_000_000  # hits that are written; of more, each trait's strongest
_MARGIN = 0.995  # |z| is right to 1.2e-3: from this share of its limit on p is taken exactly
_HIT = np.dtype(
    [
        ("row", np.int64),  # of the variants
        ("trait", np.int32),  # of the traits; their number stands for the omnibus
        ("effect_allele_frequency", np.float32),
        ("n", np.int32),
        ("beta", np.float32),
        ("standard_error", np.float32),
        ("neg_log_10_p_value", np.float64),
    ]
)

_NUMBERS = ("effect_allele_frequency", "beta", "standard_error", "neg_log_10_p_value")


class Hits:
    """Gathers hits shard by shard, holding twice ``MOST`` at most, and writes them."""

    def __init__(self, results: Results, *, p_value: float) -> None:
        """Take every variant and trait whose p is at most ``p_value``."""
        self._results = results
        self._p_value = p_value
        self._names = [*results.traits["trait"], "omnibus"]
        self._limit = np.float32(_MARGIN * z_of_neg_log10_p(-np.log10(p_value)))
        self._level = np.full(len(self._names), -np.log10(p_value))  # −log10 p from which hits of a trait are kept
        self._found: list[NDArray[Any]] = []
        self._held = self._total = 0

    def add(self, rows: NDArray[np.int64], z: NDArray[np.float32], piece: Piece) -> None:
        """Add one trait at ``rows`` (V,) of the variants, given its |z|."""
        at = np.flatnonzero(z >= self._limit)
        if len(at):
            found = self._filled(rows[at], piece.trait, piece.n[at], self._results.strength(piece, at))
            found["effect_allele_frequency"] = piece.frequency[at]
            found["beta"], found["standard_error"] = piece.beta[at], piece.standard_error[at]
            self._keep(found)

    def add_omnibus(self, rows: NDArray[np.int64], strength: Floats) -> None:
        """Add the omnibus at ``rows`` (V,) of the variants, given its −log10 p."""
        number = len(self._names) - 1
        at = np.flatnonzero(strength >= -np.log10(self._p_value))
        if len(at):
            variants = self._results.variants[rows[at]]
            found = self._filled(rows[at], number, self._results.omnibus_people(variants), strength[at])
            found["effect_allele_frequency"] = variants["effect_allele_frequency"].to_numpy()
            found["beta"] = found["standard_error"] = np.nan
            self._keep(found)

    @staticmethod
    def _filled(rows: NDArray[np.int64], trait: int, n: NDArray[np.int32] | NDArray[np.int64], strength: Floats) -> NDArray[Any]:
        found = np.zeros(len(rows), dtype=_HIT)
        found["row"], found["trait"], found["n"], found["neg_log_10_p_value"] = rows, trait, n, strength
        return found

    def _keep(self, found: NDArray[Any]) -> None:
        found = found[found["neg_log_10_p_value"] >= -np.log10(self._p_value)]
        self._total += len(found)
        found = found[found["neg_log_10_p_value"] >= self._level[found["trait"]]]
        self._found.append(found)
        self._held += len(found)
        if self._held > 2 * MOST:
            self._prune()

    def _prune(self) -> None:
        """Leave each trait its strongest hits, so many that all are at most ``MOST``, and take no weaker ones from now on."""
        found = np.concatenate(self._found)
        found = found[np.lexsort((-found["neg_log_10_p_value"], found["trait"]))]
        rank = np.arange(len(found)) - np.searchsorted(found["trait"], found["trait"])
        share = MOST // len(self._names)
        last = found[rank == share - 1]
        self._level[last["trait"]] = last["neg_log_10_p_value"]
        self._found = [found[rank < share]]
        self._held = len(self._found[0])

    def write(self) -> None:
        """Write ``hits.parquet`` beside the shards."""
        if self._total > MOST:
            self._prune()
        found = np.concatenate([np.zeros(0, dtype=_HIT), *self._found])
        variants = self._results.variants
        names = sorted(variants["chromosome"].unique(), key=natural)
        place = variants.select(pl.col("chromosome").replace_strict(names, range(len(names)), return_dtype=pl.Int64), "position")
        rows = found["row"]
        order = np.lexsort((found["trait"], place["position"].to_numpy()[rows], place["chromosome"].to_numpy()[rows]))
        found = found[order]
        frame = variants.select(name for name in PLACE if name in variants.columns)[found["row"]].with_columns(
            pl.Series("trait", self._names, dtype=pl.String).gather(found["trait"]),
            *(pl.Series(name, found[name].astype(np.float64)).fill_nan(None) for name in _NUMBERS),
            pl.Series("n", found["n"]),
        )
        frame = check(frame, SUMMARY_STATISTICS).select(c.name for c in SUMMARY_STATISTICS.columns if c.name in frame.columns)
        about = {"p_value": str(self._p_value), "found": str(self._total), "kept": str(frame.height)}
        with replacing(self._results.folder / "hits.parquet") as temporary:
            frame.write_parquet(temporary, metadata=about)


def hit_notes(results: Results) -> list[str]:
    """Say that not all hits are in the file, when they were too many."""
    about = results.about_hits
    found, kept = int(about["found"]), int(about["kept"])
    if found == kept:
        return []
    return [
        f"{found:,} pairs of variant and trait have p ≤ {float(about['p_value']):g}; "
        f"hits.parquet holds {kept:,}, the strongest of each trait"
    ]
