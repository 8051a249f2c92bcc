"""What a scan says as a whole: evidence per variant over all traits, inflation, quantiles, and the effective number of tests.

Everything is gathered shard by shard in histograms of the statistic's size, so that memory does not grow with the variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.core.files import replacing
from clinome.core.progress import track
from clinome.core.schema import LAMBDAS, MANHATTAN, QQ, check
from clinome.genetics.results import Results, Shard, combined_omnibus

Floats = NDArray[np.float64]
GENOME_WIDE = 5e-8
INFLATED = 1.1  # a genomic-control factor above this is warned about …
_CHANCE = 14.0  # … and above 1 + this / √variants: six standard errors of the median, for variants in LD are fewer than they are
_EDGES = np.concatenate([np.arange(0, 8, 0.01), np.arange(8, 40.5, 0.5)])  # of |z|
_BINS = ("all", "below 0.01", "0.01 to 0.05", "above 0.05")
_SHOWN = 60  # traits with quantiles of their own; all others are in the pooled curve
_TOP = 60  # largest values kept exactly for each curve


class Thresholds(NamedTuple):
    """−log10 p that a variant must reach: for one trait's test, for the omnibus, and for the corrected ``study_wide`` value."""

    dimension: float
    omnibus: float | None
    study_wide: float


def thresholds(alpha: float, tests: float, *, has_traits: bool, has_omnibus: bool) -> Thresholds:
    """Split ``alpha`` evenly over the two kinds of test (when there are two) and over the effective number of traits."""
    level = -np.log10(alpha)
    kinds = np.log10(2.0) if has_traits and has_omnibus else 0.0
    return Thresholds(float(level + kinds + np.log10(max(tests, 1.0))), float(level + kinds) if has_omnibus else None, float(level))


@dataclass
class _Curve:
    """A histogram of |z| with the largest −log10 p kept exactly."""

    counts: NDArray[np.int64]
    top: Floats

    @staticmethod
    def empty() -> _Curve:
        return _Curve(np.zeros(len(_EDGES), dtype=np.int64), np.zeros(0))

    def add(self, z: Floats, strength: Floats) -> None:
        self.counts += np.bincount(np.searchsorted(_EDGES, z, side="right") - 1, minlength=len(_EDGES))
        largest = strength if len(strength) <= _TOP else np.partition(strength, -_TOP)[-_TOP:]
        self.top = np.sort(np.concatenate([self.top, largest]))[::-1][:_TOP]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def median(self) -> float:
        """Median |z|, interpolated inside its bin."""
        if not self.total:
            return float("nan")
        cumulative = np.cumsum(self.counts)
        k = int(np.searchsorted(cumulative, self.total / 2))
        before = cumulative[k - 1] if k else 0
        width = (_EDGES[k + 1] if k + 1 < len(_EDGES) else _EDGES[k] + 0.5) - _EDGES[k]
        return float(_EDGES[k] + width * (self.total / 2 - before) / max(self.counts[k], 1))

    def quantiles(self) -> tuple[Floats, Floats]:
        """Expected and observed −log10 p, descending: the top ones exactly, below them the edges of the histogram."""
        from clinome.stats.distributions import neg_log10_chi2

        n = self.total
        top = self.top[: min(len(self.top), n)]
        expected_top = -np.log10((np.arange(1, len(top) + 1) - 0.5) / n)
        above = n - np.cumsum(self.counts)  # number with |z| at or above the next edge
        edges = _EDGES[1:]
        inner = above[:-1]
        use = (inner > len(top)) & (self.counts[1:] > 0)
        # At most ~150 points are needed below the top: thin by expected value.
        expected, observed = -np.log10(inner[use] / n), neg_log10_chi2(edges[use] ** 2, 1.0)
        step = np.unique(np.round(expected, 2), return_index=True)[1]
        return np.concatenate([expected_top, expected[step][::-1]]), np.concatenate([top, observed[step][::-1]])


def summarise(results: Results, *, tests: float, alpha: float = GENOME_WIDE) -> None:
    """Write ``manhattan.parquet``, ``qq.parquet`` and ``lambdas.parquet`` beside the shards of ``results``.

    ``tests`` is the effective number of traits (:func:`clinome.stats.multiple_testing.effective_tests`), by which the strongest
    trait's p is corrected; with an omnibus beside the traits both are corrected for being two.

    Raises
    ------
    StudyError
        When no variant has an estimate for any trait.
    """
    variants, traits = results.variants, results.traits
    frequency = variants["effect_allele_frequency"].to_numpy()
    minor = np.minimum(frequency, 1 - frequency)
    names = traits["trait"].to_list()
    sets = results.omnibus_sets
    limits = thresholds(alpha, tests, has_traits=bool(names), has_omnibus=bool(sets))
    curves: dict[tuple[str, str], _Curve] = {}
    rows = []
    for shard in track(results.shards(), "summary over traits"):
        strength, z = _strengths(results, shard)
        bins = {"all": np.ones(len(shard.rows), dtype=np.bool_)}
        here = minor[shard.rows]
        bins |= {_BINS[1]: here < 0.01, _BINS[2]: (here >= 0.01) & (here < 0.05), _BINS[3]: here >= 0.05}
        joint = combined_omnibus(shard.omnibus) if sets else np.full(len(shard.rows), np.nan)
        for label, chosen in bins.items():
            _gather(curves, "all traits", label, z[chosen], strength[chosen])
            for p, name in enumerate(names):
                if len(names) <= _SHOWN or label == "all":
                    _gather(curves, name, label, z[chosen, p], strength[chosen, p])
            if sets:
                _gather(curves, "omnibus", label, _z_of(joint[chosen]), joint[chosen])
        rows.append(_evidence(shard, strength, joint, names, limits, -np.log10(alpha)))
    evidence = pl.concat(rows)
    keep = [c for c in variants.columns if c in {column.name for column in MANHATTAN.columns}]
    _save(variants.select(keep).hstack(evidence), MANHATTAN, results.folder / "manhattan.parquet")
    if not any(curve.total for curve in curves.values()):
        raise StudyError(
            "no variant has an estimate for any trait",
            where=results.folder,
            got="; ".join(f"{n:,} variants: {why}" for why, n in results.run["not_estimated"].items()),
            do="see that genotypes vary among the people analysed, and that there are more people than covariates",
        )
    found = {key: curve for key, curve in curves.items() if curve.total and (key[0] != "all traits" or len(names) != 1)}
    lambdas = pl.DataFrame(
        [(t, b, (c.median() ** 2) / _CHI2_MEDIAN, c.total) for (t, b), c in found.items()],
        schema={"test": pl.String, "frequency_bin": pl.String, "lambda_gc": pl.Float64, "n_variants": pl.Int64},
        orient="row",
    )
    _save(lambdas.with_columns(_flag().alias("flag")), LAMBDAS, results.folder / "lambdas.parquet")
    drawn = {key: c for key, c in found.items() if len(names) <= _SHOWN or key[0] in ("all traits", "omnibus")}
    _save(pl.concat([_quantiles(*key, curve) for key, curve in drawn.items()]), QQ, results.folder / "qq.parquet")


_CHI2_MEDIAN = 0.454936423119572


def _flag() -> pl.Expr:
    """Say which λ departs from 1 by more than a tenth and by more than chance."""
    chance = pl.max_horizontal(pl.lit(INFLATED - 1), _CHANCE / pl.col("n_variants").sqrt())
    excess = pl.col("lambda_gc") - 1
    return pl.when(excess > chance).then(pl.lit("high")).when(excess < -chance).then(pl.lit("low")).otherwise(None)


def _strengths(results: Results, shard: Shard) -> tuple[Floats, Floats]:
    """Return −log10 p and the |z| of the same p (V, P) of every trait in a shard."""
    group = results.traits["group"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        t = shard.beta.T.astype(np.float64) / shard.standard_error.T
    strength = results.neg_log_10_p(t, shard.n[group].T, np.arange(len(group))[None, :])
    return strength, _z_of(strength)


def _z_of(strength: Floats) -> Floats:
    """Return the |z| of a two-sided −log10 p; beyond what float64 resolves, the leading asymptote."""
    from scipy.special import ndtri

    with np.errstate(invalid="ignore"):
        z = -ndtri(np.power(10.0, -np.minimum(strength, 300.0)) / 2)
        x = np.maximum(strength, 1.0) * 2 * np.log(10.0)
        deep = np.sqrt(x - np.log(x) - np.log(np.pi / 2))
    return np.asarray(np.where(strength > 300, deep, z))


def _gather(curves: dict[tuple[str, str], _Curve], test: str, label: str, z: Floats, strength: Floats) -> None:
    there = np.isfinite(strength)
    curves.setdefault((test, label), _Curve.empty()).add(z[there], strength[there])


def _evidence(shard: Shard, strength: Floats, joint: Floats, names: list[str], limits: Thresholds, level: float) -> pl.DataFrame:
    filled = np.where(np.isfinite(strength), strength, -1.0)
    index = filled.argmax(axis=1)
    best = filled[np.arange(len(filled)), index]
    corrected = best - (limits.dimension - level)
    if limits.omnibus is not None:
        corrected = np.fmax(corrected, joint - (limits.omnibus - level))
    none = best < 0
    trait = pl.Series(names)[index].set(pl.Series(none), None)
    frame = pl.DataFrame({"best": best, "best_trait": trait, "omnibus": joint, "study_wide": np.maximum(corrected, 0.0)})
    there = pl.Series(~none | np.isfinite(joint))
    return frame.with_columns(
        pl.when(pl.col("best") >= 0).then("best").alias("best"), pl.when(there).then("study_wide").alias("study_wide")
    ).with_columns(pl.col(pl.Float64).fill_nan(None))


def _quantiles(test: str, label: str, curve: _Curve) -> pl.DataFrame:
    expected, observed = curve.quantiles()
    return pl.DataFrame(
        {"test": [test] * len(expected), "frequency_bin": [label] * len(expected), "expected": expected, "observed": observed}
    )


def _save(frame: pl.DataFrame, table: object, path: Path) -> None:
    from clinome.core.schema import Table

    assert isinstance(table, Table)
    with replacing(path) as temporary:
        check(frame, table).write_parquet(temporary)


def inflation_warnings(results: Results, *, covariates: int) -> list[str]:
    """Name the traits whose λ says that relatives or strata are not accounted for, with the cure, in one sentence or none."""
    lambdas = pl.read_parquet(results.folder / "lambdas.parquet").filter(
        (pl.col("frequency_bin") == "all")
        & (pl.col("test") != "all traits")  # the pooled one rests on traits × variants, which are not independent
        & (pl.col("flag") == "high")
    )
    if not lambdas.height:
        return []
    worst = lambdas.sort("lambda_gc", descending=True)
    named = ", ".join(f"λ of {test} is {value:.2f}" for test, value in worst.select("test", "lambda_gc").head(8).iter_rows())
    more = f" (and {worst.height - 8} more traits above {INFLATED})" if worst.height > 8 else ""
    none = " (this scan had no covariates)" if not covariates else ""
    return [
        f"{named}{more}: relatives or population strata are not accounted for, or very many variants have an effect. "
        "Until then p-values are too small and loci may be false. Add genetic principal components to the covariates"
        f"{none}, leave relatives out, or fit a mixed model."
    ]
