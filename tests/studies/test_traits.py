from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from toolkit.genotypes import ArrayGenotypes, array_genotypes, random_counts

from clinome.cohort.flow import Flow
from clinome.core.errors import TraitError
from clinome.formats.table import LoadedTable
from clinome.studies.people import People
from clinome.studies.study_file import About, Cohort, CovariateTable, GenotypeFiles, Phenotypes, Study
from clinome.studies.traits import analyse, imbalance_warnings

PEOPLE = 60


def cohort() -> tuple[Study, People, ArrayGenotypes, pl.DataFrame, LoadedTable]:
    """A study in memory: p0 and p1 are related, p0 has one value more; a covariate, age."""
    generator = np.random.default_rng(3)
    genotypes = array_genotypes(random_counts(generator, 20, PEOPLE))
    ids = genotypes.samples.select("participant_id")
    values = generator.normal(size=(PEOPLE, 2))
    values[1, 1] = np.nan
    traits = ids.hstack(pl.DataFrame(values, schema=["a", "b"])).with_columns(pl.col("b").fill_nan(None))
    pair = pl.DataFrame({"participant_id_1": ["p0"], "participant_id_2": ["p1"], "kinship": [0.25]})
    people = People(Flow.start(ids["participant_id"]), {p: p for p in ids["participant_id"]}, pair, ())
    ages = LoadedTable(ids.with_columns(age=pl.Series(generator.uniform(40, 70, PEOPLE))), ())
    study = Study(
        study=About("a study"),
        genotypes=GenotypeFiles("none.bed"),
        covariates=CovariateTable(Path("none.tsv")),
        cohort=Cohort(kinship=0.1),
        phenotypes=Phenotypes(path=Path("none.tsv")),
    )
    return study, people, genotypes, traits, ages


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (pl.when(pl.col("participant_id") != "p0").then(1.5), "constant (1.5)"),
        (pl.when(pl.col("participant_id").is_in(["p1", "p2", "p3"])).then("a"), "3 values for 1 covariates"),
        (pl.when(pl.col("participant_id") != "p0").then(pl.col("age") * 3), "an exact linear combination of the covariates"),
        (pl.when(pl.col("participant_id").is_in(["p1", "p0"])).then("a"), "constant (-"),
    ],
    ids=["constant", "few", "explained", "constant once the relative has left"],
)
@pytest.mark.parametrize("transform", ["none", "rank-normal"])
def test_a_trait_left_out_does_not_even_decide_which_relative_stays(
    spoilt: pl.Expr, why: str, transform: Literal["none", "rank-normal"]
) -> None:
    """p1 has one trait less than p0, but as many, or more, with the spoilt one."""
    study, people, genotypes, traits, ages = cohort()
    study = dataclasses.replace(study, phenotypes=dataclasses.replace(study.phenotypes, transform=transform))
    plain = analyse(study, people, genotypes, traits, ages, [])
    assert "p0" in plain.flow.ids
    assert "p1" not in plain.flow.ids
    more = traits.join(ages.frame, on="participant_id").with_columns(x=spoilt, y=spoilt).drop("age")
    found = analyse(study, people, genotypes, more, ages, [])
    assert found.notes[0].startswith("2 traits are left out and cannot be analysed: x: ")
    assert why in found.notes[0]
    assert found.notes[1:] == plain.notes
    assert found.flow == plain.flow
    assert found.effective_tests == plain.effective_tests
    for table in ("traits", "raw", "covariates"):
        assert getattr(found, table).equals(getattr(plain, table)), table


def test_a_study_without_a_trait_that_can_be_analysed_is_refused_with_all_reasons() -> None:
    study, people, genotypes, traits, ages = cohort()
    spoilt = traits.join(ages.frame, on="participant_id").select(
        "participant_id", pl.lit(2.0).alias("same"), (pl.col("age") - 5).alias("older"), few=pl.when(pl.col("a") > 1.9).then("a")
    )
    with pytest.raises(TraitError, match="3 traits cannot be analysed") as error:
        analyse(study, people, genotypes, spoilt, ages, [])
    for reason in ("same: constant (2)", "older: an exact linear combination of the covariates", "values for 1 covariates"):
        assert reason in str(error.value)


def test_few_cases_are_warned_of_with_the_frequency_from_which_the_linear_model_holds() -> None:
    people = pl.int_range(5_000, eager=True)
    raw = pl.DataFrame(
        {
            "participant_id": people.cast(pl.String),
            "rare": (people < 250) * 1.0,
            "half": (people < 2_500) * 1.0,
            "size": people * 1.0,
        }
    )
    (said,) = imbalance_warnings(raw, maf=None)
    assert said.startswith("rare has 250 people of its rarer value: at variants of minor-allele frequency below 0.05 ")
    assert "(maf = 0.05)" in said
    assert imbalance_warnings(raw, maf=0.05) == []
    few = raw.with_columns(rare=(people < 6) * 1.0 + 1)  # coded 1 and 2
    assert imbalance_warnings(few, maf=0.3)[0].endswith("Leave the trait out.")
