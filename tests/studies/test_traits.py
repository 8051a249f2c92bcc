from __future__ import annotations

import polars as pl

from clinome.studies.traits import imbalance_warnings


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
