"""What shortcuts are worth: a residual network of 34 layers against the same without them, on PneumoniaMNIST.

    clinome reproduce he_2016 --data ../shared/data --out run

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clinome.imaging.models import resnet
from clinome.studies.plain_networks import Rival, against_plain

RIVAL = Rival(resnet.Config(layers=34, width=16, stem="small"), side=28, epochs=4, layers=34)
SMALL = replace(RIVAL.network, width=4)


def run(data: Path, out: Path, *, small: bool = False) -> dict[str, Any]:
    """Train, compare, and write ``figures.json`` into ``out``."""
    return against_plain(RIVAL._replace(network=SMALL) if small else RIVAL, data, out, small=small)
