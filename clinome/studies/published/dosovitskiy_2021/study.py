"""What attention without convolutions costs where pictures are few: a small ViT against a plain network of as many parameters.

    clinome reproduce dosovitskiy_2021 --data ../shared/data --out run

A run that is killed goes on when the command is given again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clinome.imaging.models import vit
from clinome.studies.plain_networks import Rival, against_plain

RIVAL = Rival(vit.Config(size=28, patch=4, width=128, layers=6, heads=4), side=28, epochs=6)
SMALL = replace(RIVAL.network, width=32, layers=2)


def run(data: Path, out: Path, *, small: bool = False) -> dict[str, Any]:
    """Train, compare, and write ``figures.json`` into ``out``."""
    return against_plain(RIVAL._replace(network=SMALL) if small else RIVAL, data, out, small=small)
