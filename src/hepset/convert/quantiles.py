"""Exact percentiles of more values than memory holds: where ``affine: auto`` gets its constants.

Two passes over the events. float32 values are counted by the upper half of their bits, in an order
that is that of the numbers; then those that share the upper half with a wanted order statistic by
the lower half. Counts of parts add up to the counts of the whole, so the result does not depend on
how the work is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.errors import DatasetError
from hepset.schema.contract import Contract
from hepset.schema.steps import Affine, AffineStep, TransformStep, apply_steps

__all__ = ["Column", "Counts", "Quantiles", "automatic_columns", "values_before"]

Array = NDArray[Any]
Column = tuple[str, str]
"""Tensor and feature."""
Counts = dict[Column, tuple[Array, Array]]
"""Column → keys in rising order, and how many values have each."""

PERCENTS: Final = (16.0, 50.0, 84.0)
"""Low, centre, high: a normal distribution has its standard deviation between them."""

_HALF: Final = 16


def automatic_columns(contract: Contract) -> dict[Column, tuple[TransformStep, ...]]:
    """Return the columns whose transform has ``affine: auto``, with the steps before it."""
    found: dict[Column, tuple[TransformStep, ...]] = {}
    for name, spec in contract.tensors.items():
        for feature, described in spec.features.items():
            for place, step in enumerate(described.transform):
                if isinstance(step, AffineStep) and step.affine == "auto":
                    found[name, feature] = described.transform[:place]
    return found


def values_before(values: Array, steps: Iterable[TransformStep]) -> Array:
    """Apply the steps before ``affine: auto``, in float32 as the model does; NaN becomes 0."""
    with np.errstate(all="ignore"):
        found = apply_steps(np.asarray(values, np.float32), steps, np)
    return np.where(np.isnan(found), np.float32(0), found)


def _keys(values: Array) -> Array:
    """Map float32 values to uint32 in the order of the numbers."""
    bits = (values + np.float32(0)).view(np.uint32)  # −0 becomes 0.
    negative = bits >> np.uint32(31) != 0
    return np.where(negative, ~bits, bits | np.uint32(1 << 31))


def _value(key: int) -> float:
    bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


@dataclass(frozen=True)
class Quantiles:
    """The two passes for several columns.

    Attributes:
        upper: What the first pass has counted; None before it.
    """

    upper: Counts | None = None

    def count(self, column: Column, values: Array) -> tuple[Array, Array]:
        """Count the values of a part of the events, float32 without NaN, for this pass."""
        keys = _keys(values)
        if self.upper is not None:
            wanted = self._halves(column)
            keys = keys[np.isin(keys >> np.uint32(_HALF), wanted)]
        else:
            keys = keys >> np.uint32(_HALF)
        return np.unique(keys, return_counts=True)

    def affine(self, column: Column, lower: Counts) -> Affine:
        """Return the constants of a column.

        Args:
            column: The column.
            lower: What the second pass has counted.
        """
        low, centre, high = (self._percentile(column, q, lower) for q in PERCENTS)
        spread = max(high - centre, centre - low)
        return Affine(subtract=centre, multiply=1.0 if spread == 0 else 1.0 / spread)

    def _places(self, column: Column, percent: float) -> tuple[int, int, float]:
        """The two order statistics that a percentile lies between, and how far between them."""
        assert self.upper is not None
        total = int(self.upper[column][1].sum()) if column in self.upper else 0
        if not total:
            raise DatasetError(
                f"{'.'.join(column)}: affine: auto finds no value in the training events; give "
                "constants, raise prepare.affine_fraction, or select less (with prepare.on_error: "
                "skip, stop says which files are left out)"
            )
        rank = percent / 100 * (total - 1)
        first = math.floor(rank)
        return first, min(first + 1, total - 1), rank - first

    def _halves(self, column: Column) -> Array:
        """The upper halves that hold the wanted order statistics."""
        assert self.upper is not None
        halves, counts = self.upper[column]
        ends = np.cumsum(counts)
        ranks = [rank for q in PERCENTS for rank in self._places(column, q)[:2]]
        return np.unique(halves[np.searchsorted(ends, ranks, side="right")])

    def _percentile(self, column: Column, percent: float, lower: Counts) -> float:
        """Interpolate linearly between order statistics."""
        first, second, share = self._places(column, percent)
        assert self.upper is not None
        halves, counts = self.upper[column]
        ends = np.cumsum(counts)
        keys, numbers = lower[column]
        found = []
        for rank in (first, second):
            place = int(np.searchsorted(ends, rank, side="right"))
            within = rank - int(ends[place] - counts[place])
            here = keys >> np.uint32(_HALF) == halves[place]
            inside = np.cumsum(numbers[here])
            found.append(_value(int(keys[here][np.searchsorted(inside, within, side="right")])))
        # As numpy does it for float32: the difference is rounded, and the nearer end counts.
        difference = float(np.float32(found[1]) - np.float32(found[0]))
        if share < 0.5:
            return found[0] + difference * share
        return found[1] - difference * (1 - share)


def added(parts: Sequence[Counts]) -> Counts:
    """Add the counts of several parts."""
    found: Counts = {}
    for column in dict.fromkeys(column for part in parts for column in part):
        own = [part[column] for part in parts if column in part]
        keys, inverse = np.unique(np.concatenate([k for k, _ in own]), return_inverse=True)
        counts = np.concatenate([n for _, n in own])
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, inverse, counts)
        found[column] = (keys, total)
    return found
