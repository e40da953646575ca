"""Turn a simple variable into a prediction: lines, power laws, medians in bins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEWEST", "Calibration", "calibrate"]

Array = NDArray[Any]
Map = Callable[[Array], Array]

FEWEST = 20
"""A calibration needs so many entries."""
_PER_BIN = 50
_BINS = 20


class Calibration(NamedTuple):
    """A fitted map from a variable to the target.

    Attributes:
        kind: ``linear``, ``power law`` or ``binned median``.
        apply: Takes the variable, NaN where it does not exist, and returns the prediction.
        error: Mean absolute error on entries that a fit to the other half has not seen.
    """

    kind: str
    apply: Map
    error: float


def calibrate(x: Array, y: Array) -> Calibration | None:
    """Fit a target by a variable in three ways and keep the one with the least absolute error.

    The error is that of fits to one half of the entries, taken on the other half: a flexible fit
    does not win by its flexibility.

    A line by least squares; a power law (a line of the logarithms) where both are positive; the
    medians of the target in bins of equal numbers of entries, joined by lines and constant beyond
    the outermost. Where the variable does not exist the prediction is the median of the target.

    Args:
        x: Variable, shape ``(n,)``, may hold NaN.
        y: Target, shape ``(n,)``, finite.

    Returns:
        None where the variable exists less than `FEWEST` times or has one value only.
    """
    known = np.isfinite(x)
    if np.count_nonzero(known) < FEWEST or np.ptp(x[known]) == 0:
        return None
    kinds = {"linear": _line, "binned median": _medians}
    if (x[known] > 0).all() and (y[known] > 0).all():
        kinds["power law"] = _power_law
    first = np.arange(len(x)) % 2 == 0
    tried = []
    for kind, fit in kinds.items():
        missed = 0.0
        for half in (first, ~first):
            apply = _fitted(fit, x[half], y[half])
            missed += float(np.abs(apply(x[~half]) - y[~half]).sum())
        tried.append(Calibration(kind, _fitted(fit, x, y), missed / len(y)))
    return min(tried, key=lambda one: one.error)


def _fitted(fit: Callable[[Array, Array], Map], x: Array, y: Array) -> Map:
    """Fit where the variable exists; elsewhere, or where it has one value, take the median."""
    middle = float(np.median(y))
    known = np.isfinite(x)
    if not known.any() or np.ptp(x[known]) == 0:
        return lambda values: np.full(len(values), middle)
    function = fit(x[known], y[known])

    def apply(values: Array) -> Array:
        there = np.isfinite(values)
        out = np.full(len(values), middle)
        out[there] = function(values[there])
        return out

    return apply


def _line(x: Array, y: Array) -> Map:
    centre = float(x.mean())
    slope = float(((x - centre) * (y - y.mean())).sum() / ((x - centre) ** 2).sum())
    start = float(y.mean())
    return lambda values: start + slope * (values - centre)


def _power_law(x: Array, y: Array) -> Map:
    line = _line(np.log(x), np.log(y))
    lowest = float(x.min())
    return lambda values: np.exp(line(np.log(np.maximum(values, lowest))))


def _medians(x: Array, y: Array) -> Map:
    bins = int(np.clip(len(x) // _PER_BIN, 1, _BINS))
    edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
    index = np.clip(np.searchsorted(edges, x, "right") - 1, 0, len(edges) - 2)
    points = [
        (np.median(x[index == b]), np.median(y[index == b]))
        for b in range(len(edges) - 1)
        if (index == b).any()
    ]
    at, values_at = (np.asarray(part) for part in zip(*points, strict=True))
    return lambda values: np.interp(values, at, values_at)
