"""What measuring one structure in one picture gives: named numbers with units, and why one should not be used."""

from __future__ import annotations

import math
from typing import NamedTuple


class Trait(NamedTuple):
    """A number read from a picture.

    ``flag`` is None when the value is sound, else the reason why it should not be used; such a value is kept in the table of
    measurements and left out when pictures are folded to people.

    >>> trait("calibre", 7.2, "px")
    Trait(name='calibre', value=7.2, unit='px', flag=None)
    >>> trait("calibre", float("nan"), "px").flag
    'could not be measured'
    """

    name: str
    value: float
    unit: str
    flag: str | None


def trait(name: str, value: float, unit: str, flag: str | None = None) -> Trait:
    """Return a trait; a value that is not finite is flagged."""
    value = float(value)
    return Trait(name, value, unit, flag or (None if math.isfinite(value) else "could not be measured"))
