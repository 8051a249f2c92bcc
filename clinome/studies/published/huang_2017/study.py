"""What dense connections are worth: a small DenseNet against a plain network of as many parameters, on PneumoniaMNIST.

    clinome reproduce huang_2017 --data ../shared/data --out run

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clinome.imaging.models import densenet
from clinome.studies.plain_networks import Rival, against_plain

RIVAL = Rival(densenet.Config(blocks=(6, 6, 6), growth=16, width=32), side=56, epochs=4)
SMALL = replace(RIVAL.network, blocks=(2, 2), growth=6, width=12)


def run(data: Path, out: Path, *, small: bool = False) -> dict[str, Any]:
    """Train, compare, and write ``figures.json`` into ``out``."""
    return against_plain(RIVAL._replace(network=SMALL) if small else RIVAL, data, out, small=small)
