"""What share of planted variants a picture's phenotypes find, against the number of people, beside what could be found at best.

For each encoder: phenotypes of people it has not seen, ranked to normal, scanned against causal and null variants. A causal variant
counts as found where ``axes × the smallest p`` over axes is below 5e-8 (transferGWAS), or where the omnibus is. Beside the
measured points stands a curve: the power of a Wilks test on the latents themselves, of non-central χ² with as many degrees of
freedom as latents, each scaled by the share of its variance that the axes tell.

References
----------
Kirchler M et al. transferGWAS. Bioinformatics 38:3621–3628 (2022), doi:10.1093/bioinformatics/btac369. Xie Z et al. iGWAS. PLOS
Genetics 20:e1011273 (2024), doi:10.1371/journal.pgen.1011273 (a locus counts where it is found in both eyes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from clinome.core.schema import IMAGES
from clinome.formats.genotype_files import open_genotypes
from clinome.formats.table import read_checked
from clinome.genetics.association import Options, associate
from clinome.imaging.embedding import Config, embed
from clinome.simulate.anatomy import LATENTS
from clinome.simulate.pleiotropy import Files
from clinome.stats.transform import rank_inverse_normal

ALPHA = 5e-8
NOMINAL = (0.05, 0.001)  # levels at which false positives are counted among null variants


class Sides(NamedTuple):
    """Who teaches encoders and who is associated, in a random order: the first n are the people of size n."""

    taught: list[str]
    associated: list[str]

    def table(self) -> pl.DataFrame:
        """Return the splits table that :func:`clinome.imaging.embedding.embed` takes."""
        names = [*self.taught, *self.associated]
        return pl.DataFrame(
            {"participant_id": names, "split": ["encoder"] * len(self.taught) + ["association"] * len(self.associated)}
        )


def sides(files: Files, *, taught: int, seed: int) -> Sides:
    """Choose ``taught`` people at random; the others are associated."""
    people = pl.read_parquet(files.true_latents)["participant_id"].to_list()
    order = [people[k] for k in np.random.default_rng([seed, 21]).permutation(len(people))]
    return Sides(order[:taught], order[taught:])


def phenotypes(files: Files, who: Sides, config: Config, out: Path, *, eye: str | None = None) -> pl.DataFrame:
    """Return phenotypes of the people to associate; of one ``eye`` alone by the encoder that both eyes of others taught."""
    images, decoded = read_checked(files.images, IMAGES), files.folder / "decoded"
    if eye is None or config.is_taught:
        both = embed(images, root=files.folder, out=out, config=config, splits=who.table(), pictures_in=decoded)
        if eye is None:
            return both.phenotypes.drop_nulls()
    one = images.filter((pl.col("laterality") == eye) & pl.col("participant_id").is_in(who.associated))
    if config.is_taught:
        config = replace(config, encoder="transfer", weights=out / "encoder.safetensors")
    return embed(one, root=files.folder, out=out / eye, config=config).phenotypes.drop_nulls()


class Scan(NamedTuple):
    """−log10 p of each variant, shape (n_variants,): the smallest over axes times their number, and of the omnibus."""

    corrected: NDArray[np.float64]
    omnibus: NDArray[np.float64]
    single: NDArray[np.float64]


def scan(files: Files, table: pl.DataFrame, people: Sequence[str], out: Path) -> Scan:
    """Associate every variant with the rank-normal phenotypes of ``people``; ``single`` is the first axis's own −log10 p."""
    mine = pl.DataFrame({"participant_id": people}).join(table, on="participant_id", maintain_order="left")
    names = [name for name in mine.columns if name != "participant_id"]
    values = rank_inverse_normal(mine.select(names).to_numpy())
    ranked = mine.with_columns(pl.Series(name, values[:, k]) for k, name in enumerate(names))
    genotypes = open_genotypes(str(files.genotypes))
    try:
        results = associate(genotypes, ranked, out=out, omnibus_sets={"all": mine}, options=Options(radial_omnibus=True, threads=1))
        axes = np.column_stack([results.trait(name)["neg_log_10_p_value"].to_numpy() for name in names])
        omnibus = results.trait("omnibus")["neg_log_10_p_value"].to_numpy()
    finally:
        genotypes.close()
    return Scan(np.maximum(axes.max(axis=1) - np.log10(len(names)), 0.0), omnibus, axes[:, 0])


def told(files: Files, table: pl.DataFrame) -> NDArray[np.float64]:
    """Return the share of each latent's variance that a linear regression on the phenotypes tells, shape (6,), adjusted."""
    latents = table.select("participant_id").join(pl.read_parquet(files.true_latents), on="participant_id", maintain_order="left")
    y = latents.select(LATENTS).to_numpy()
    x = np.column_stack([np.ones(table.height), table.drop("participant_id").to_numpy()])
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    n, k = x.shape
    share = 1 - (left**2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0) * (n - 1) / (n - k)
    return np.asarray(np.clip(share, 0.0, 1.0))


def expected_power(files: Files, n: int, told_of: NDArray[np.float64], *, alpha: float = ALPHA) -> float:
    """Return the mean power over causal variants of a joint test in ``n`` people of latents told to the shares ``told_of``.

    A variant that explains v of a latent explains v × told of what is read of it; the latents are nearly uncorrelated, so that the
    non-centrality is n Σ v told / (1 − Σ v told), with one degree of freedom a latent that is told at all.
    """
    truth = pl.read_parquet(files.true_loci)
    shares = np.column_stack([truth.filter(pl.col("latent") == name)["variance_explained"].to_numpy() for name in LATENTS])
    explained = (shares * told_of).sum(axis=1)
    freedom = int((told_of > 0).sum())
    limit = stats.chi2.isf(alpha, freedom)
    return float(stats.ncx2.sf(limit, freedom, n * explained / (1 - explained)).mean())


def measure(files: Files, who: Sides, tables: Mapping[str, pl.DataFrame], sizes: Sequence[int], out: Path) -> pl.DataFrame:
    """Scan every encoder's phenotypes in the first n people for each n of ``sizes``.

    Returns
    -------
    pl.DataFrame
        encoder, n, test ('corrected', 'omnibus'), found and which of the planted variants (their rows), power with its 95 % Wilson
        interval, expected (the curve with what the axes tell), ceiling (with all), and the share of null variants below each of
        :data:`NOMINAL` with its interval.
    """
    planted = pl.read_parquet(files.true_loci)["variant_id"].n_unique()
    rows = []
    for name, table in tables.items():
        known = set(table["participant_id"])
        people = [person for person in who.associated if person in known]
        tells = told(files, table)
        for n in sorted({min(size, len(people)) for size in sizes}):
            found = scan(files, table, people[:n], out / name / f"{n}")
            for test, evidence in (("corrected", found.corrected), ("omnibus", found.omnibus)):
                which = np.flatnonzero(evidence[:planted] > -np.log10(ALPHA)).tolist()
                row = {"encoder": name, "n": n, "test": test, "found": len(which), "planted": planted, "which": which}
                row |= dict(zip(("power", "lower", "upper"), wilson(len(which), planted), strict=True))
                row |= {"expected": expected_power(files, n, tells), "ceiling": expected_power(files, n, np.ones(len(LATENTS)))}
                nulls = (found.single if test == "corrected" else found.omnibus)[planted:]
                for level in NOMINAL:
                    false = wilson(int((nulls > -np.log10(level)).sum()), len(nulls))
                    row |= {f"false_{level}": false[0], f"false_{level}_lower": false[1], f"false_{level}_upper": false[2]}
                rows.append(row)
    return pl.DataFrame(rows)


def more_found(power: pl.DataFrame, first: str, second: str, *, test: str = "omnibus") -> dict[str, float]:
    """Compare two encoders in the most people, paired by variant: what each alone finds and the exact p of McNemar's test.

    References
    ----------
    McNemar Q. Psychometrika 12:153–157 (1947), doi:10.1007/BF02295996; two-sided, binomial of the variants found by one alone.
    """
    most = power.filter((pl.col("n") == pl.col("n").max()) & (pl.col("test") == test))
    one, other = (set(most.filter(pl.col("encoder") == name)["which"].item()) for name in (first, second))
    alone, other_alone = len(one - other), len(other - one)
    p = float(stats.binomtest(alone, alone + other_alone).pvalue) if alone + other_alone else 1.0
    return {"value": alone - other_alone, "first_alone": alone, "second_alone": other_alone, "p": p}


def both_eyes(left: Scan, right: Scan, planted: int, axes: int) -> dict[str, int]:
    """Count variants that iGWAS would report: the smallest p over axes, uncorrected, below 5e-8 in either eye and in both."""
    limit = -np.log10(ALPHA) - np.log10(axes)
    one, other = (scanned.corrected > limit for scanned in (left, right))
    counted = {"left": one, "right": other, "both": one & other}
    return {f"{what} {eye}": int(some[part].sum()) for eye, some in counted.items() for what, part in _parts(planted).items()}


def _parts(planted: int) -> dict[str, slice]:
    return {"causal": slice(0, planted), "null": slice(planted, None)}


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """Return a share and its 95 % interval (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    >>> [round(x, 3) for x in wilson(9, 10)]
    [0.9, 0.596, 0.982]
    """
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return hits / n, float(interval.low), float(interval.high)
