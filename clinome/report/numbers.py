"""Writes numbers the way the field prints them: p = 3×10⁻²⁴, 87,108,308 bp, an allele frequency with three decimals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
NOTHING = "–"  # stands where there is no value
FEW = 10  # of fewer people nothing is shown but that they are fewer


def whole(value: float | None) -> str:
    """Write a count or a position with thousands separators.

    >>> whole(87108308), whole(None)
    ('87,108,308', '–')
    """
    return NOTHING if value is None else f"{round(value):,}"


def parts_of_a_whole(counts: Sequence[tuple[int, int]]) -> list[str]:
    """Write how many examples, of how many people, are in each part of a whole that is shown.

    A part of one to nine people is not told; where it is the only one, the smallest other part is withheld, or the whole would
    tell it.

    >>> parts_of_a_whole([(120, 60), (30, 15), (8, 4)]), parts_of_a_whole([(120, 60), (0, 0)])
    (['120', 'withheld', 'fewer than 10 people'], ['120', '0'])
    """
    few = [k for k, (_, people) in enumerate(counts) if 0 < people < FEW]
    others = [k for k, (_, people) in enumerate(counts) if people >= FEW]
    withheld = min(others, key=lambda k: counts[k]) if len(few) == 1 and others else None
    said = [whole(n) for n, _ in counts]
    return [f"fewer than {FEW} people" if k in few else "withheld" if k == withheld else said[k] for k in range(len(counts))]


def decimals(value: float | None, digits: int) -> str:
    """Write a number with a fixed number of decimals and a true minus sign.

    >>> decimals(-0.1234, 2), decimals(float("nan"), 2)
    ('−0.12', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}".replace("-", "−")


def p_value(neg_log_10_p: float | None, *, digits: int = 0) -> str:
    """Write p from −log10 p, which does not underflow.

    >>> p_value(23.5229), p_value(7.30103), p_value(1.69897), p_value(400.0), p_value(3.0001)
    ('3×10⁻²⁴', '5×10⁻⁸', '0.020', '1×10⁻⁴⁰⁰', '0.0010')
    """
    if neg_log_10_p is None or not math.isfinite(neg_log_10_p):
        return NOTHING
    if neg_log_10_p < 3.005:
        p = 10**-neg_log_10_p
        return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}" if p >= 0.01 else f"{p:.4f}"
    exponent = math.ceil(neg_log_10_p)
    mantissa = f"{10 ** (exponent - neg_log_10_p):.{digits}f}"
    if float(mantissa) >= 10:
        exponent, mantissa = exponent - 1, f"{1:.{digits}f}"
    return f"{mantissa}×10{str(-exponent).translate(_RAISED)}"


def base_pairs(length: float) -> str:
    """Write a length on the chromosome with the unit that fits.

    >>> base_pairs(950), base_pairs(42_000), base_pairs(1_250_000)
    ('950 bp', '42 kb', '1.25 Mb')
    """
    if abs(length) < 1_000:
        return f"{length:.0f} bp"
    return f"{length / 1e3:.0f} kb" if abs(length) < 1e6 else f"{length / 1e6:.3g} Mb"


def file_size(n_bytes: float) -> str:
    """Write a file's size.

    >>> file_size(900), file_size(5_300_000)
    ('900 B', '5.3 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def plain(value: Any) -> str:
    """Write a setting or a headline number of any JSON type.

    >>> plain(30000), plain(0.0123456), plain(True), plain(["a", 2]), plain(None), plain(1e-06)
    ('30,000', '0.01235', 'yes', 'a, 2', '–', '1×10⁻⁶')
    """
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return _significant(value)
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{key} = {plain(item)}" for key, item in value.items())
    return str(value)


def _significant(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}".replace("-", "−")
    if 1e-4 <= abs(value) < 1e7:
        return f"{value:,.4g}".replace("-", "−") if abs(value) < 1e4 else f"{value:,.1f}".replace("-", "−")
    mantissa, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else (f"{value:.3g}", "0")
    return f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")
