"""splitmix64: the mixer behind splits, orders and draws that depend on an identity alone.

It is a bijection of 64-bit integers whose output passes the usual tests of randomness (Steele, Lea
and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["INCREMENT", "Hashes", "splitmix64"]

Hashes = NDArray[np.uint64]

INCREMENT: Final = 0x9E3779B97F4A7C15
"""What the generator adds from one number to the next."""


def splitmix64(values: Hashes) -> Hashes:
    """Mix 64-bit integers, shape kept."""
    mixed = values + np.uint64(INCREMENT)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Hashes = mixed ^ (mixed >> np.uint64(31))
    return result
