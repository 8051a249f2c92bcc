"""iGWAS on pictures whose truth is known: embeddings taught by who is on a picture, each eye scanned alone, loci in both eyes.

The cohort is that of kirchler_2022: a hundred variants that act on all of the drawn anatomy, ten thousand that act on nothing. The
encoder tells 1,500 people apart with a margin (both eyes one class, 128 dimensions); in the other 5,000 left and right eyes are
embedded and scanned alone (ten axes, where the paper has all 128), and a variant counts where it is found in both. SimCLR and plain
pixels stand beside it.

    clinome reproduce xie_2024 --out results

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from clinome.core.files import write_json
from clinome.core.provenance import provenance
from clinome.simulate.pleiotropy import simulate_cohort
from clinome.studies.picture_power import both_eyes, phenotypes, scan, sides, told
from clinome.studies.published.kirchler_2022.study import COHORT, SMALL, TAUGHT, encoders

EYES = ("left", "right")
SHOWN = ("SimCLR", "identity margin", "plain pixels")  # the identity margin begins from SimCLR's weights


def run(data: Path | None, out: Path, *, small: bool = False, threads: int = 1) -> dict[str, Any]:
    """Simulate, embed and scan each eye; write ``figures.json`` into ``out``; return the figures."""
    start = time.process_time()
    cohort = SMALL if small else COHORT
    files = simulate_cohort(out / "cohort", cohort, processes=threads)
    who = sides(files, taught=300 if small else TAUGHT, seed=cohort.seed)
    chosen = encoders(out, weights=None, small=small, threads=threads)
    rows = []
    for name in SHOWN:
        tables = {eye: phenotypes(files, who, chosen[name], out / "encoders" / name, eye=eye) for eye in EYES}
        people = [p for p in who.associated if all(p in set(table["participant_id"]) for table in tables.values())]
        left, right = (scan(files, tables[eye], people, out / "scans" / name / eye) for eye in EYES)
        counted = both_eyes(left, right, cohort.causal, chosen[name].dimensions)
        shares = {f"told {eye}": float(told(files, tables[eye]).mean()) for eye in EYES}
        rows.append({"encoder": name, "n": len(people), **counted, **shares})
    taught = next(row for row in rows if row["encoder"] == "identity margin")
    figures = {
        "loci_in_both_eyes": taught["causal both"],
        "false_in_both_eyes": taught["null both"],
        "eyes": rows,
        "cpu_seconds": time.process_time() - start,
        "provenance": provenance(settings={"cohort": cohort, "taught": len(who.taught)}, seed=cohort.seed),
    }
    write_json(out / "figures.json", figures)
    return figures
