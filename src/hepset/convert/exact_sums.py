"""Sums of floating-point numbers that do not depend on the order of the terms.

A cutflow must be the same number for any chunk size. A float64 is an integer times a power of two,
so a sum of float64 is kept as one Python integer in units of the smallest positive float64, 2⁻¹⁰⁷⁴.
Integers add up exactly in any order; the result is rounded once, at the end.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_UNIT: Final = 1074
_MANTISSA: Final = 53


def exact_sum(values: NDArray[Any]) -> int:
    """Add up the finite values without rounding, in units of 2⁻¹⁰⁷⁴.

    Args:
        values: Numbers of any shape; NaN and infinities are left out (the check reports them).
    """
    flat = np.asarray(values, np.float64).ravel()
    flat = flat[np.isfinite(flat) & (flat != 0)]
    if not flat.size:
        return 0
    fractions, exponents = np.frexp(flat)
    mantissas = np.ldexp(fractions, _MANTISSA).astype(np.int64)
    powers, places = np.unique(exponents, return_inverse=True)
    # Halves of at most 27 bits: their sums stay far below 2**63 for any array that fits memory.
    low = np.zeros(len(powers), np.int64)
    high = np.zeros(len(powers), np.int64)
    np.add.at(low, places, mantissas & 0x7FFFFFF)
    np.add.at(high, places, mantissas >> 27)
    total = 0
    for power, small, large in zip(powers.tolist(), low.tolist(), high.tolist(), strict=True):
        term = small + (large << 27)
        shift = power - _MANTISSA + _UNIT
        # A subnormal has trailing zeros instead of the bits that a negative shift drops.
        total += term << shift if shift >= 0 else term >> -shift
    return total


def rounded(total: int) -> float:
    """Return the float64 nearest to a sum in units of 2⁻¹⁰⁷⁴."""
    return float(Fraction(total, 1 << _UNIT))
