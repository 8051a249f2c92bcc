from __future__ import annotations

import polars as pl

from clinome.core.schema import LOCI
from clinome.studies.truth import compare

PLANTED = pl.DataFrame(
    {
        "variant_id": ["a", "b", "c", "d"],
        "chromosome": ["1", "1", "2", "2"],
        "position": [10_000_000, 20_000_000, 10_000_000, 30_000_000],
        "effect_allele": ["A"] * 4,
        "latent": ["disc", "cup", "disc", "tortuosity"],
        "variance_explained": [0.04, 0.04, 0.03, 0.001],
        "counted": [True, True, True, False],
    }
)


def found(*leads: tuple[str, int, int, int]) -> pl.DataFrame:
    rows = [
        (k, f"l{k}", chromosome, at, "A", "G", 0.3, start, end, "t", "t", 9.0, 1)
        for k, (chromosome, at, start, end) in enumerate(leads, 1)
    ]
    columns = [c for c in LOCI.columns if c.required]
    return pl.DataFrame(rows, schema={c.name: c.dtype for c in columns}, orient="row")


def test_found_missed_and_false_are_counted() -> None:
    loci = found(
        ("1", 10_400_000, 10_000_000, 10_500_000),  # near a
        ("1", 10_900_000, 10_900_000, 10_900_000),  # near a too, further away
        ("2", 20_000_000, 19_900_000, 20_000_000),  # near nothing: false
        ("2", 30_100_000, 30_100_000, 30_100_000),  # d, which does not count but is planted: not false
    )
    compared = compare(loci, PLANTED, distance=1_000_000)
    assert compared.line == "planted loci found 1/3, false loci 1"
    assert compared.table.select("found", "locus", "distance").rows() == [
        (True, 1, 400_000),
        (False, None, None),
        (False, None, None),
        (True, 4, 100_000),
    ]


def test_the_distance_counts_inclusively_on_both_sides_and_only_on_the_chromosome() -> None:
    for at in (9_000_000, 11_000_000):
        assert compare(found(("1", at, at, at)), PLANTED, distance=1_000_000)[1:] == (1, 3, 0)
    for at in (8_999_999, 11_000_001):
        assert compare(found(("1", at, at, at)), PLANTED, distance=1_000_000)[1:] == (0, 3, 1)
    assert compare(found(("3", 10_000_000, 1, 90_000_000)), PLANTED, distance=1_000_000)[1:] == (0, 3, 1)


def test_a_wide_locus_over_a_planted_variant_is_neither_found_nor_false() -> None:
    """Its lead is too far to call it found; its window holds the cause, so it is no false locus either."""
    loci = found(("1", 12_500_000, 9_500_000, 13_000_000))
    assert compare(loci, PLANTED, distance=1_000_000)[1:] == (0, 3, 0)


def test_nothing_found_and_nothing_planted() -> None:
    assert compare(found(), PLANTED, distance=1_000_000).line == "planted loci found 0/3, false loci 0"
    assert compare(found(("1", 5, 5, 5)), PLANTED.clear(), distance=1_000_000).line == "planted loci found 0/0, false loci 1"
