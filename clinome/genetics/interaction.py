"""What the results of a scan with an interaction say together: does a variant have any effect, at any value of the modifier?

Beside every trait T such a scan keeps T×x. T is the marginal effect, as in a scan without interaction: where genotypes do not
depend on x, the effect at the mean of x. T×x is the change of the effect per unit of x. The joint test of both, with two degrees
of freedom, follows from the two t alone (Kraft et al. 2007, doi:10.1159/000099183).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from clinome.core.errors import StudyError
from clinome.core.files import replacing
from clinome.core.progress import track
from clinome.core.schema import INTERACTIONS, check
from clinome.genetics.results import GENOME_WIDE, Results
from clinome.stats.distributions import z_of_neg_log10_p
from clinome.stats.interaction import neg_log10_joint


def interactions(results: Results, trait: str, *, p_value: float = 1.0) -> pl.DataFrame:
    """Return INTERACTIONS of one trait: the variants with p ≤ ``p_value`` of the interaction or of the joint test.

    Raises
    ------
    StudyError
        When the scan had no interaction, or has no such trait.
    """
    modifier = results.run["interaction"]
    if modifier is None:
        raise StudyError("this scan had no interaction", where=results.folder, do="run `clinome gwas` with --interaction")
    marginal, interaction = results.estimates(trait), results.estimates(f"{trait}×{modifier}")
    df = np.maximum(interaction.worth - int(results.traits["rank"][interaction.trait]) - 1, 1).astype(np.float64)
    t = interaction.t()
    joint = neg_log10_joint(marginal.t(), t, df)
    level = -np.log10(p_value)
    # t has heavier tails than z: below the normal's limit no t is significant, and exact p are made above it alone.
    rows = np.flatnonzero((joint >= level) | (np.abs(t) >= z_of_neg_log10_p(level)))
    strength = results.strength(interaction, rows)
    kept = (joint[rows] >= level) | (strength >= level)
    rows, strength = rows[kept], strength[kept]
    columns = {
        "interaction_beta": interaction.beta[rows].astype(np.float64),
        "interaction_standard_error": interaction.standard_error[rows].astype(np.float64),
        "interaction_neg_log_10_p_value": strength,
        "joint_neg_log_10_p_value": joint[rows],
    }
    return check(results.table(rows, [trait]).hstack(pl.DataFrame(columns)), INTERACTIONS)


def save_interactions(results: Results, *, p_value: float = GENOME_WIDE) -> None:
    """Write ``interactions.parquet`` beside the shards: :func:`interactions` of all traits, those that are significant."""
    names = results.traits["trait"].to_list()
    traits = names[: len(names) // 2]  # each has its interaction in the second half
    found = [interactions(results, trait, p_value=p_value) for trait in track(traits, "interactions")]
    with replacing(results.folder / "interactions.parquet") as temporary:
        pl.concat(found).write_parquet(temporary)
