"""Genetic principal components, as EIGENSOFT and PLINK define them, and projection of new people onto them.

Allele counts are centred and divided by √(2p(1−p)); the components are eigenvectors of the genetic relationship matrix of
those. Up to ``exact_up_to`` people the matrix is formed (every pair over the variants that both have, as PLINK 2 does);
above, its leading eigenvectors are found from products with blocks of genotypes by a randomised block Krylov method, so that
memory grows with people, never with people × people.

References
----------
Price et al. (2006) Principal components analysis corrects for stratification in GWAS. Nat Genet, doi:10.1038/ng1847
Halko, Martinsson, Tropp (2011) Finding structure with randomness. SIAM Review, doi:10.1137/090771806
Halko, Martinsson, Shkolnisky, Tygert (2011) An algorithm for the PCA of large data sets. SIAM J Sci Comput, doi:10.1137/100804139
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinome.cohort.pruning import autosomal, frequencies
from clinome.core.errors import CohortError
from clinome.core.progress import track
from clinome.formats.genotypes import Genotypes, blocks

_OVERSAMPLING = 10
_MAX_PASSES = 20
_SETTLED = 1e-3


@dataclass(frozen=True)
class Components:
    """Principal components of people, and what is needed to project others.

    Attributes
    ----------
    scores
        Shape (n_participants, k), one unit-length eigenvector a column (PLINK's ``.eigenvec``), in the order of the samples.
    eigenvalues
        Shape (k,), largest first, of the genetic relationship matrix.
    loadings
        Shape (n_variants_used, k): standardised genotypes times loadings are scores.
    variants
        Rows of the source's variants table that were used, ascending.
    frequencies
        Effect-allele frequencies of those, in the people analysed.
    table
        Those rows of the variants table (for matching by identifier, position and alleles).
    build
        Genome build of the positions, when known.
    notes
        What was left out, and components that are not told apart from noise.
    """

    scores: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    loadings: NDArray[np.float64]
    variants: NDArray[np.int64]
    frequencies: NDArray[np.float64]
    table: pl.DataFrame
    build: str | None
    notes: tuple[str, ...]


class Projection(NamedTuple):
    """``scores`` of the projected people, shape (n_participants, k), and ``notes`` on how many variants were found."""

    scores: NDArray[np.float64]
    notes: tuple[str, ...]


def principal_components(
    genotypes: Genotypes,
    *,
    n: int = 10,
    variants: NDArray[np.int64] | None = None,
    samples: NDArray[np.int64] | None = None,
    maf: float = 0.01,
    seed: int = 0,
    exact_up_to: int = 5000,
) -> Components:
    """Compute the first ``n`` genetic principal components.

    Parameters
    ----------
    variants
        Rows to use, from :func:`clinome.cohort.pruning.independent_variants`; None takes all on autosomes.
    samples
        Rows of the people, who should be unrelated (relatives make components of their own; project them instead).
    maf
        Rarer variants are passed over: divided by a small variance they would dominate.
    seed
        Of the random start above ``exact_up_to`` people; there a note names components that did not settle, which happens
        only among those that are not separated from noise.

    Returns
    -------
    Components
        The sign of each is such that its largest loading is positive. A person with missing genotypes is scored from the
        others, scaled to all.

    Raises
    ------
    CohortError
        When there are too few people or variants, or somebody has no genotypes.
    """
    rows = autosomal(genotypes.variants) if variants is None else np.asarray(variants, np.int64)
    people = genotypes.samples.height if samples is None else len(samples)
    rows, frequency, called, complete = _common(genotypes, rows, samples, maf)
    if people <= n + 1 or len(rows) < n:
        raise CohortError(
            f"{n} principal components need more people and variants",
            got=f"{people} people, {len(rows)} variants of a minor-allele frequency from {maf:g}",
        )
    if not called.all():
        nobody = int((called == 0).sum())
        raise CohortError("people have no genotypes at the variants used", got=f"{nobody} people", do="leave them out")
    source = _Standardised(genotypes, rows, samples, frequency)
    scale = len(rows) / called
    if people <= exact_up_to:
        values, vectors = _eigen(_relationship(source, people, complete), n)
        notes: tuple[str, ...] = ()
    else:

        def multiply(basis: NDArray[np.float64]) -> NDArray[np.float64]:
            out = np.zeros_like(basis)
            scaled = (basis * scale[:, None]).astype(np.float32)
            for z, _ in source.blocks("principal components"):
                out += z.T @ (z @ scaled)
            return out * (scale[:, None] / len(rows))

        values, vectors, notes = _krylov(multiply, people, n, seed)
    loadings = np.concatenate([z @ (vectors * scale[:, None] / values).astype(np.float32) for z, _ in source.blocks("loadings")])
    loadings = loadings.astype(np.float64) / len(rows)
    sign = np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(n)])
    table = genotypes.variants[rows]
    return Components(vectors * sign, values, loadings * sign, rows, frequency, table, genotypes.build, notes)


def project(genotypes: Genotypes, components: Components, *, samples: NDArray[np.int64] | None = None) -> Projection:
    """Score people on components that were computed in others.

    Variants are matched by identifier and alleles, else by chromosome, position and alleles (when the builds do not differ);
    counts are turned where effect and other allele are swapped. Strands are not guessed. The scaling is that of the
    components, missing genotypes and variants count as average, and scores are scaled to all variants.

    Warnings
    --------
    Projected scores are shrunk towards 0 compared with those of the people the components were computed in, the more so the
    later the component and the fewer those people were (Lee, Zou, Wright 2010, doi:10.1214/10-AOS821). Use them to place
    people, not to adjust them together with the others.

    Raises
    ------
    CohortError
        When fewer than half of the variants are found, or somebody has no genotypes.
    """
    match = _match(genotypes, components)
    used = len(components.variants)
    if len(match.rows) < used / 2:
        raise CohortError(
            "the genotypes hold too few of the components' variants",
            got=f"{len(match.rows)} of {used}",
            expected="at least half, by identifier or position and alleles",
            do="see that the variants are named alike, or that both are on one genome build",
        )
    notes = [f"{len(match.rows)} of {used} variants were found"]
    if match.swapped.any():
        notes.append(f"{int(match.swapped.sum())} of them have effect and other allele swapped")
    people = genotypes.samples.height if samples is None else len(samples)
    scores = np.zeros((people, components.loadings.shape[1]))
    called = np.zeros(people, np.int64)
    # in the new genotypes, the frequency of what they count; turning z's sign turns the counted allele
    frequency = np.where(match.swapped, 1 - components.frequencies[match.columns], components.frequencies[match.columns])
    loadings = components.loadings[match.columns] * np.where(match.swapped, -1.0, 1.0)[:, None]
    start = 0
    size = _block_size(people)
    for block in blocks(genotypes, size=size, variants=match.rows, samples=samples):
        here = slice(start, start + len(block.variants))
        scores += _standardise(block.counts, block.scale, frequency[here]).T @ loadings[here].astype(np.float32)
        called += (block.counts >= 0).sum(axis=0)
        start = here.stop
    if not called.all():
        raise CohortError("people have no genotypes at the components' variants", got=f"{int((called == 0).sum())} people")
    return Projection(scores * (used / called)[:, None], tuple(notes))


# ------------------------------------------------------------------------------------------------ standardised genotypes


@dataclass(frozen=True)
class _Standardised:
    """Genotypes in blocks of (variants, people), centred and divided by √(2p(1−p)); missing is 0."""

    genotypes: Genotypes
    rows: NDArray[np.int64]
    samples: NDArray[np.int64] | None
    frequency: NDArray[np.float64]

    def blocks(self, title: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield standardised genotypes and where they are called."""
        people = self.genotypes.samples.height if self.samples is None else len(self.samples)
        size = _block_size(people)
        stream = blocks(self.genotypes, size=size, variants=self.rows, samples=self.samples)
        for i, block in enumerate(track(stream, title, total=-(-len(self.rows) // size))):
            frequency = self.frequency[i * size : i * size + len(block.variants)]
            yield _standardise(block.counts, block.scale, frequency), block.counts >= 0


def _block_size(people: int) -> int:
    """Return variants a block so that one of float32 takes about 64 MB."""
    return max(16, 2**24 // max(1, people))


def _standardise(counts: NDArray[np.int8] | NDArray[np.int32], scale: int, frequency: NDArray[np.float64]) -> NDArray[np.float32]:
    mean = (2 * scale * frequency)[:, None].astype(np.float32)
    deviation = (scale * np.sqrt(2 * frequency * (1 - frequency)))[:, None].astype(np.float32)
    z: NDArray[np.float32] = counts.astype(np.float32)
    z -= mean
    z /= deviation
    z[counts < 0] = 0
    return z


def _common(
    genotypes: Genotypes, rows: NDArray[np.int64], samples: NDArray[np.int64] | None, maf: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], bool]:
    """Return the rows of common variants, their frequencies, each person's number of calls, and whether none is missing."""
    people = genotypes.samples.height if samples is None else len(samples)
    kept, found = [np.empty(0, np.int64)], [np.empty(0)]
    called = np.zeros(people, np.int64)
    stream = blocks(genotypes, size=_block_size(people), variants=rows, samples=samples)
    for block in track(stream, "allele frequencies", total=-(-len(rows) // _block_size(people))):
        frequency, _ = frequencies(block)
        with np.errstate(invalid="ignore"):
            common = np.minimum(frequency, 1 - frequency) >= max(maf, 1e-9)
        kept.append(block.variants[common])
        found.append(frequency[common])
        called += (block.counts[common] >= 0).sum(axis=0)
    used = np.concatenate(kept)
    return used, np.concatenate(found), called, bool((called == len(used)).all())


# ------------------------------------------------------------------------------------------------ eigenvectors


def _relationship(source: _Standardised, people: int, complete: bool) -> NDArray[np.float64]:
    """Form the genetic relationship matrix, each pair averaged over the variants that both have."""
    total = np.zeros((people, people))
    pairs = np.zeros((people, people)) if not complete else None
    for z, called in source.blocks("relationship matrix"):
        total += z.T @ z
        if pairs is not None:
            present = called.astype(np.float32)
            pairs += present.T @ present
    return total / (len(source.rows) if pairs is None else pairs)


def _eigen(matrix: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ``n`` largest eigenvalues (descending) and their vectors of a symmetric matrix."""
    if len(matrix) <= 500:
        values, vectors = np.linalg.eigh(matrix)
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).normal(size=len(matrix))
        values, vectors = eigsh(matrix, k=n, which="LA", v0=start, tol=1e-10)
    order = np.argsort(values)[::-1][:n]
    return values[order], vectors[:, order]


def _krylov(
    multiply: Callable[[NDArray[np.float64]], NDArray[np.float64]], people: int, n: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Find the leading eigenpairs of a symmetric matrix known by its products, by block Lanczos from a random start.

    Every pass over the data multiplies one more block and adds it to the basis, fully orthogonalised; the residual of each
    pair is what the newest block says has not been seen.
    """
    width = n + _OVERSAMPLING
    newest = np.linalg.qr(np.random.default_rng(seed).normal(size=(people, width)))[0]
    basis = np.empty((people, 0))
    inner = np.empty((0, 0))
    while True:
        basis = np.column_stack([basis, newest])
        product = multiply(newest)
        known = basis.T @ product
        grown = np.zeros((basis.shape[1], basis.shape[1]))
        grown[: len(inner), : len(inner)] = inner
        grown[:, -newest.shape[1] :] = known
        grown[-newest.shape[1] :, :] = known.T
        inner = grown
        product -= basis @ known
        product -= basis @ (basis.T @ product)
        following, new = np.linalg.qr(product)
        values, weights = np.linalg.eigh(inner)
        order = np.argsort(values)[::-1][:n]
        values, weights = values[order], weights[:, order]
        residual = np.linalg.norm(new @ weights[-newest.shape[1] :], axis=0) / np.abs(values)
        passes = basis.shape[1] // width
        if (residual <= _SETTLED).all() or passes == _MAX_PASSES or basis.shape[1] + width > people:
            break
        newest = following
    loose = [f"{i + 1}" for i in np.flatnonzero(residual > _SETTLED)]
    note = f"components {', '.join(loose)} are not separated from noise: they did not settle in {passes} passes over the genotypes"
    return values, basis @ weights, (note,) if loose else ()


# ------------------------------------------------------------------------------------------------ matching variants


class _Match(NamedTuple):
    """Rows of the new genotypes (ascending), the components' variants they are, and where the alleles are swapped."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    swapped: NDArray[np.bool_]


def _match(genotypes: Genotypes, components: Components) -> _Match:
    alleles = ["effect_allele", "other_allele"]
    keys = ["variant_id", "chromosome", "position"]
    new = genotypes.variants.select(*keys, *alleles).with_row_index("row")
    old = components.table.select(*keys, *alleles).with_row_index("column")
    turned = old.rename({"effect_allele": "other_allele", "other_allele": "effect_allele"})
    both = pl.concat([old.with_columns(swapped=False), turned.select(old.columns).with_columns(swapped=True)])
    found = new.join(both, on=["variant_id", *alleles])
    if genotypes.build is None or components.build is None or genotypes.build == components.build:
        placed = both.filter(pl.col("position") > 0)
        by_position = new.join(placed, on=["chromosome", "position", *alleles])
        found = pl.concat([found.select("row", "column", "swapped"), by_position.select("row", "column", "swapped")])
    found = found.unique("column", keep="first", maintain_order=True).unique("row", keep="first", maintain_order=True).sort("row")
    rows, columns = (found[name].to_numpy().astype(np.int64) for name in ("row", "column"))
    return _Match(rows, columns, found["swapped"].to_numpy())
