"""What factorised convolutions are worth: a quarter of Inception-v3 against a plain network of as many parameters.

    clinome reproduce szegedy_2016 --data ../shared/data --out run

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clinome.imaging.models import inception_v3
from clinome.studies.plain_networks import Rival, against_plain

RIVAL = Rival(inception_v3.Config(width=0.25), side=80, epochs=4)
SMALL = replace(RIVAL.network, width=1 / 16)


def run(data: Path, out: Path, *, small: bool = False) -> dict[str, Any]:
    """Train, compare, and write ``figures.json`` into ``out``."""
    return against_plain(RIVAL._replace(network=SMALL) if small else RIVAL, data, out, small=small)
