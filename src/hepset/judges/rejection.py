"""How much background a score rejects at a given efficiency for signal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Metric
from hepset.judges.labelled import Labelled
from hepset.uncertainty import effective_number, efficiency, largest_efficiency

__all__ = ["rejection", "threshold_at"]

Array = NDArray[Any]


def rejection(
    score: Array, entries: Labelled, share: float, *, prefix: str = "", of: str = ""
) -> Metric:
    """Return one over the background's efficiency where `share` of the signal passes.

    The error is the binomial one of the background at a fixed threshold. Where no background
    passes the value is a lower bound at 95 % confidence; NaN where a class is absent or a score is
    no number.

    Args:
        score: Shape ``(entry,)``.
        entries: Truth 1 is signal, all else background.
        share: Efficiency for signal.
        prefix: What the metric's name begins with.
        of: Who reached it.
    """
    percent = f"{100 * share:g} %"
    name = f"{prefix}background rejection at {percent} signal efficiency"
    signal = entries.truth == 1
    if signal.all() or not signal.any() or np.isnan(score).any():
        return Metric(name, math.nan, math.nan, of=of)
    threshold = threshold_at(score, signal, share, entries.weight)
    background = entries.only(~signal)
    passed = score[~signal] >= threshold
    value, error = efficiency(passed, background.weight, background.groups)
    if not passed.any():
        size = effective_number(len(background), background.weight, background.groups)
        limit = largest_efficiency(size)
        return Metric(name, 1 / limit, math.nan, of=of, bound=True)
    if not value > 0:
        return Metric(name, math.nan, math.nan, of=of)
    return Metric(name, 1 / value, error / value**2, of=of)


def threshold_at(score: Array, chosen: Array, share: float, weight: Array | None = None) -> float:
    """Return the largest threshold that at least `share` of the chosen entries reach.

    Args:
        score: Shape ``(entry,)``.
        chosen: Which entries count, bool ``(entry,)``; at least one.
        share: Of the sum of their weights.
        weight: Physical weights, shape ``(entry,)``.
    """
    values, index = np.unique(np.asarray(score, np.float64)[chosen], return_inverse=True)
    sums = np.bincount(index, None if weight is None else weight[chosen], len(values))
    reached = np.cumsum(sums[::-1])
    # Rounding of the sum must not move a threshold that reaches the share exactly.
    enough = reached >= share * reached[-1] * (1 - 1e-12)
    return float(values[::-1][int(np.argmax(enough))])
