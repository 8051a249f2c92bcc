"""What a scan says as a whole: evidence per variant over all traits, inflation, quantiles, and the effective number of tests.

Traits are gathered shard by shard in histograms of the statistic's size: of variants × traits nothing is held but the hits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.core.errors import StudyError
from clinome.core.files import replacing
from clinome.core.progress import track
from clinome.core.schema import LAMBDAS, MANHATTAN, QQ, check
from clinome.genetics.curves import Curve, Deviates, histogram, lambda_gc, quantiles
from clinome.genetics.hits import Hits
from clinome.genetics.results import GENOME_WIDE, Piece, Results, combined_omnibus
from clinome.stats.distributions import z_of_neg_log10_p

Floats = NDArray[np.float64]
INFLATED = 1.1  # a genomic-control factor above this is warned about …
_ERRORS = 4.0  # … when it is this many standard errors above 1 …
_ERROR = 2.332  # … which are this / √independent variants: 1 / (2 m f(m)), f the density of χ²₁ and m its median
_NULL_MEDIAN = 0.67449  # of |z|
_STRETCHES = 20  # of the genome, at least, between which the share of small |z| is compared
_ASKED = 50  # traits, at most, that say how many variants count as one
_BINS = ("all", "below 0.01", "0.01 to 0.05", "above 0.05")
_LABELS = len(_BINS)  # the bins after 'all', and variants without a frequency
_SHOWN = 60  # traits with quantiles of their own; all others are in the pooled curve


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


def summarise(results: Results, *, tests: float, alpha: float = GENOME_WIDE, hits_below: float = GENOME_WIDE) -> None:
    """Write ``manhattan.parquet``, ``qq.parquet``, ``lambdas.parquet`` and ``hits.parquet`` beside the shards of ``results``.

    Parameters
    ----------
    tests
        The effective number of traits (:func:`clinome.stats.multiple_testing.effective_tests`), by which the strongest trait's p is
        corrected; with an omnibus beside the traits both are corrected for being two.
    hits_below
        The p-value up to which a variant and trait stand in ``hits.parquet``.

    Raises
    ------
    StudyError
        When no variant has an estimate for any trait.
    """
    names, sets = results.traits["trait"].to_list(), results.omnibus_sets
    label = _labels(results.variants["effect_allele_frequency"].to_numpy())
    detailed, linkage = len(names) <= _SHOWN, _Linkage(results)
    pooled, joint = Curve(_LABELS), Curve(_LABELS)
    curves = [Curve(_LABELS if detailed else 1) for _ in names]
    hits = Hits(results, p_value=hits_below)
    limits = thresholds(alpha, tests, has_traits=bool(names), has_omnibus=bool(sets))
    evidence = []
    for (rows, pieces), shard in zip(track(results.walk(), "summary over traits"), results.shards(("omnibus",)), strict=True):
        here = label[rows]
        best, both = _Best(len(rows)), np.full(len(rows), np.nan)
        for piece in pieces:
            z, exact = results.z(piece), partial(_columns, piece)
            counts = histogram(z, here, _LABELS)
            pooled.add(z, here, counts, exact)
            if detailed:
                curves[piece.trait].add(z, here, counts, exact)
            else:
                curves[piece.trait].counts += counts.sum(axis=0)  # for λ; no curve of it is drawn
            best.add(z, piece)
            hits.add(rows, z, piece)
            linkage.add(rows, z, piece.trait)
        if sets:
            both = combined_omnibus(shard.omnibus)
            z = z_of_neg_log10_p(both).astype(np.float32)
            joint.add(z, here, histogram(z, here, _LABELS), partial(np.take, both[None], axis=1))
            hits.add_omnibus(rows, both)
        evidence.append(_evidence(best, results, both, limits, -np.log10(alpha)))
    keep = [c for c in results.variants.columns if c in {column.name for column in MANHATTAN.columns}]
    _save(results.variants.select(keep).hstack(pl.concat(evidence)), MANHATTAN, results.folder / "manhattan.parquet")
    hits.write()
    gathered = ({"all traits": pooled} if len(names) != 1 else {}) | dict(zip(names, curves, strict=True)) | {"omnibus": joint}
    _save_curves(results, gathered, linkage.effect(), drawn=None if detailed else ("all traits", "omnibus"))


def _save_curves(results: Results, gathered: dict[str, Curve], effect: float, *, drawn: tuple[str, ...] | None) -> None:
    """Write λ of every test and frequency bin, and the quantiles of the tests ``drawn`` (None: of all).

    ``effect``: how many variants count as one (:class:`_Linkage`), which says what of a λ is chance.
    """
    lambdas, curves = [], []
    for test, curve in gathered.items():
        for label, name in zip((None, *range(len(_BINS) - 1)), _BINS, strict=True):
            if label is not None and len(curve.counts) == 1:
                continue  # gathered over all frequencies alone
            counts, columns = curve.of(label)
            if not counts.any():
                continue
            lambdas.append((test, name, lambda_gc(counts), int(counts.sum())))
            if drawn is None or test in drawn:
                top = columns[0] if test == "omnibus" else results.neg_log_10_p(columns[0], columns[1], columns[2].astype(np.int64))
                expected, observed = quantiles(counts, np.sort(top)[::-1])
                frame = pl.DataFrame({"expected": expected, "observed": observed})
                curves.append(frame.select(pl.lit(test).alias("test"), pl.lit(name).alias("frequency_bin"), pl.all()))
    if not lambdas:
        raise StudyError(
            "no variant has an estimate for any trait",
            where=results.folder,
            got="; ".join(f"{n:,} variants: {why}" for why, n in results.run["not_estimated"].items()),
            do="see that genotypes vary among the people analysed, and that there are more people than covariates",
        )
    schema = {"test": pl.String, "frequency_bin": pl.String, "lambda_gc": pl.Float64, "n_variants": pl.Int64}
    table = pl.DataFrame(lambdas, schema=schema, orient="row")
    table = table.with_columns(_flag(effect, results.traits.height).alias("flag"))
    _save(table, LAMBDAS, results.folder / "lambdas.parquet")
    _save(pl.concat(curves), QQ, results.folder / "qq.parquet")


def _columns(piece: Piece, at: NDArray[np.int64]) -> Floats:
    """Return what the p-values of a trait are made from at some places: t, n and the number of the trait."""
    return np.vstack([piece.t(at), piece.worth[at], np.full(len(at), piece.trait)])


def _labels(frequency: Floats) -> NDArray[np.int64]:
    """Return the number of each variant's bin of minor-allele frequency, of ``_BINS`` after 'all'; the last is none."""
    minor = np.minimum(frequency, 1 - frequency)
    return np.where(np.isnan(minor), _LABELS - 1, np.searchsorted([0.01, 0.05], minor, side="right"))


def _flag(effect: float, n_traits: int) -> pl.Expr:
    """Say which λ departs from 1 by more than a tenth and by more than chance; traits pooled count as copies of one."""
    copies = pl.when(pl.col("test") == "all traits").then(n_traits).otherwise(1)
    independent = pl.col("n_variants") / (copies * effect)
    chance = pl.max_horizontal(pl.lit(INFLATED - 1), _ERRORS * _ERROR / independent.sqrt())
    excess = pl.col("lambda_gc") - 1
    return pl.when(excess > chance).then(pl.lit("high")).when(excess < -chance).then(pl.lit("low")).otherwise(None)


class _Linkage:
    """How many variants count as one: the design effect of linkage on a median, learned from the scan itself.

    Where neighbours share their tests, the share of |z| below the median differs more between stretches of the genome than among
    independent variants; the ratio of the variances is the design effect of a cluster sample (Kish 1965, Survey Sampling, §5.4),
    and what the variance of λ is multiplied by. Stretches are chromosomes, each cut evenly where there are fewer than 20: they
    should be longer than linkage reaches. A share, unlike a mean χ², is not led by single loci; and what inflates the whole genome
    moves all stretches alike, so that inflation does not excuse itself. Traits are pooled, for the genome is the same.
    """

    def __init__(self, results: Results) -> None:
        self._stretch = _stretches(results.variants["chromosome"])
        n_traits = results.traits.height
        self._every = -(-n_traits // _ASKED)
        shape = (-(-n_traits // max(self._every, 1)), int(self._stretch.max(initial=0)) + 1)
        self._below, self._tested = np.zeros(shape), np.zeros(shape)

    def add(self, rows: NDArray[np.int64], z: Deviates, trait: int) -> None:
        """Count |z| (V,) of a trait at ``rows`` of the variants."""
        if trait % self._every:
            return
        here = self._stretch[rows]
        starts = np.flatnonzero(np.diff(here, prepend=-1))
        for sums, counted in ((self._below, z < _NULL_MEDIAN), (self._tested, ~np.isnan(z))):
            np.add.at(sums[trait // self._every], here[starts], np.add.reduceat(counted, starts, dtype=np.int64))

    def effect(self) -> float:
        """Return variants for an independent one, at least 1; infinite where nothing varies, so that λ says nothing."""
        total = np.maximum(self._tested.sum(axis=1, keepdims=True), 1)
        share = self._below.sum(axis=1, keepdims=True) / total
        found = (self._below - self._tested * share) ** 2
        independent = share * (1 - share) * (self._tested - self._tested**2 / total)
        return max(float(found.sum() / independent.sum()), 1.0) if independent.sum() > 0 else float("inf")


def _stretches(chromosomes: pl.Series) -> NDArray[np.int64]:
    """Return the number of each variant's stretch: a chromosome, or an even part of one."""
    chromosome = pl.col("chromosome")
    parts = -(-_STRETCHES // max(chromosomes.n_unique(), 1))
    part = pl.int_range(pl.len()).over(chromosome) * parts // pl.len().over(chromosome)
    named = chromosomes.to_frame("chromosome").select(chromosome.rank("dense").cast(pl.Int64) * parts + part)
    return named.to_series().rank("dense").to_numpy().astype(np.int64) - 1


class _Best:
    """The trait of the largest |z| at every variant of a shard, with what its exact p is made from."""

    def __init__(self, n_variants: int) -> None:
        self.z = np.full(n_variants, -1.0, dtype=np.float32)
        self.trait = np.full(n_variants, -1, dtype=np.int32)
        self.t, self.n = np.full(n_variants, np.nan), np.zeros(n_variants, dtype=np.int32)

    def add(self, z: Deviates, piece: Piece) -> None:
        at = np.flatnonzero(z > self.z)
        self.z[at], self.trait[at], self.n[at], self.t[at] = z[at], piece.trait, piece.worth[at], piece.t(at)


def _evidence(best: _Best, results: Results, joint: Floats, limits: Thresholds, level: float) -> pl.DataFrame:
    """Return the columns of MANHATTAN that follow the variant's own; ``joint`` is the omnibus, NaN where there is none."""
    strength = results.neg_log_10_p(best.t, best.n, best.trait)
    study_wide = strength - (limits.dimension - level)
    if limits.omnibus is not None:
        study_wide = np.fmax(study_wide, joint - (limits.omnibus - level))
    trait = results.traits["trait"].gather(np.maximum(best.trait, 0)).set(pl.Series(best.trait < 0), None)
    columns = {"best": strength, "best_trait": trait, "omnibus": joint, "study_wide": np.maximum(study_wide, 0.0)}
    return pl.DataFrame(columns).with_columns(pl.col(pl.Float64).fill_nan(None))


def _save(frame: pl.DataFrame, table: object, path: Path) -> None:
    from clinome.core.schema import Table

    assert isinstance(table, Table)
    with replacing(path) as temporary:
        check(frame, table).write_parquet(temporary)


def inflation_warnings(results: Results, *, covariates: int) -> list[str]:
    """Name the tests whose λ says that something is not accounted for, with the likely causes and the cure.

    One sentence for traits (and the omnibus), one for interactions, whose λ answers first to another cause.
    """
    lambdas = pl.read_parquet(results.folder / "lambdas.parquet").filter(
        (pl.col("frequency_bin") == "all")
        & (pl.col("test") != "all traits")  # the pooled one rests on traits × variants, which are not independent
        & (pl.col("flag") == "high")
    )
    names, modifier = results.traits["trait"], results.run["interaction"]
    interactions = pl.col("test").is_in(names[len(names) // 2 :].implode()) if modifier is not None else pl.lit(False)
    said = []
    if (inflated := lambdas.filter(~interactions)).height:
        none = " (this scan had no covariates)" if not covariates else ""
        said.append(
            f"{_named(inflated)}: relatives or population strata are not accounted for, or very many variants have an effect. "
            "Until then p-values are too small and loci may be false. Add genetic principal components to the covariates"
            f"{none}, leave relatives out, or fit a mixed model."
        )
    if (inflated := lambdas.filter(interactions)).height:
        said.append(
            f"{_named(inflated)}: most likely the variance of the trait changes with {modifier}; differences between relatives "
            "or strata that change with it do the same. Until then p-values of these interactions are too small. Transform the "
            "trait so that its variance stays the same, or divide χ² by λ."
        )
    return said


def _named(lambdas: pl.DataFrame) -> str:
    """Name the tests of the largest λ."""
    worst = lambdas.sort("lambda_gc", descending=True)
    named = ", ".join(f"λ of {test} is {value:.2f}" for test, value in worst.select("test", "lambda_gc").head(8).iter_rows())
    return named + (f" (and {worst.height - 8} more)" if worst.height > 8 else "")
