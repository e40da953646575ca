"""Weights against rare kinds of events, from the counts of the training split.

The weight of a class with c of n events is (1 − β) / (1 − βᶜ) with β = 1 − 1/n, the inverse
"effective number" of Cui et al., arXiv:1901.05555, as SPANet has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hepset.errors import ConfigurationError
from hepset.schema.statistics import Statistics
from hepset.schema.symmetry import PermutationGroup

__all__ = ["effective_weights", "object_table", "particle_table"]

Array = NDArray[np.float64]


def effective_weights(counts: Sequence[int], events: int) -> Array:
    """Return the weight of every class; 0 where it has no event."""
    number = np.asarray(counts, np.float64)
    if events < 2:
        return (number > 0).astype(np.float64)
    beta = 1 - 1 / events
    known = np.maximum(number, 1)
    found: Array = np.where(number > 0, (1 - beta) / -np.expm1(known * math.log(beta)), 0.0)
    return found


def particle_table(
    statistics: Statistics,
    group: PermutationGroup,
    *,
    process: str,
    number: int,
    parity: bool,
    where: str,
) -> Array:
    """Return the weight of an event by the particles that it has.

    Sets that a permutation of the group makes one another are one class, and every class counts
    one event more than it has, so that none is without weight.

    Args:
        statistics: Of the training split.
        group: What may be interchanged among the particles.
        process: The process in names of tensors; empty where there is one.
        number: Its number in ``process``.
        parity: The mean over classes is 1, as in SPANet; else that over training events.
        where: Name of the option, for messages.

    Returns:
        (2 ** P,), indexed by the sum of 2 ** i over the particles i that are there.

    Raises:
        ConfigurationError: If the statistics do not hold the counts.
    """
    found = statistics.counts.present.get(process, {}).get(number)
    if not found:
        raise ConfigurationError(
            f"{where}: the data set does not say how many training events have which particles; "
            "convert it again"
        )
    size = len(group.names)
    counts = np.zeros(2**size)
    for pattern, events in found.items():
        counts[sum(1 << place for place, there in enumerate(pattern) if there == "1")] += events
    codes = [
        [sum(1 << place for place in subset) for subset in same] for same in group.subset_classes
    ]
    totals = [int(counts[same].sum()) + 1 for same in codes]
    weights = effective_weights(totals, int(counts.sum()))
    weights *= len(weights) / weights.sum()
    table = np.zeros(2**size)
    for same, weight in zip(codes, weights, strict=True):
        table[same] = weight
    return table if parity else _mean_one(table, counts)


def object_table(statistics: Statistics, *, parity: bool, where: str) -> Array:
    """Return the weight of an event by its number of objects, up to the largest that occurs.

    Args:
        statistics: Of the training split.
        parity: The mean over the numbers from the smallest to the largest is 1, as in SPANet; else
            that over training events.
        where: Name of the option, for messages.

    Raises:
        ConfigurationError: If the statistics do not hold the counts.
    """
    found: Mapping[int, int] = statistics.counts.objects
    if not found:
        raise ConfigurationError(
            f"{where}: the data set does not say how many training events have how many objects; "
            "convert it again"
        )
    counts = np.zeros(max(found) + 1)
    for size, events in found.items():
        counts[size] = events
    weights = effective_weights([int(n) for n in counts], int(counts.sum()))
    if not parity:
        return _mean_one(weights, counts)
    scaled: Array = weights * (max(found) - min(found) + 1) / weights.sum()
    return scaled


def _mean_one(weights: Array, counts: Array) -> Array:
    scaled: Array = weights * counts.sum() / (weights * counts).sum()
    return scaled
