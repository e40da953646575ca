"""From the lengths of events to the slots of a stream, and to how it is stored.

Tasks count how many selected events have how many objects; counts of parts are added, so that the
result does not depend on how the work was cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from hepset.arrays import Ragged
from hepset.dataset.columns import FEW_REAL, MANY_SLOTS
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo, Quantile

__all__ = [
    "Lengths",
    "added_lengths",
    "count_lengths",
    "jagged_streams",
    "quantile_of",
    "slots_for",
]

Lengths = dict[str, Counter[int]]
"""Stream → number of objects → events that have as many."""


def count_lengths(streams: Mapping[str, Ragged]) -> Lengths:
    """Return how many events have how many objects."""
    found = {}
    for name, stream in streams.items():
        lengths, events = np.unique(stream.counts, return_counts=True)
        found[name] = Counter(dict(zip(lengths.tolist(), events.tolist(), strict=True)))
    return found


def added_lengths(parts: Iterable[Lengths]) -> Lengths:
    """Add the counts of several parts."""
    found: Lengths = {}
    for part in parts:
        for name, counts in part.items():
            found.setdefault(name, Counter()).update(counts)
    return found


def slots_for(lengths: Counter[int], quantile: float = 1.0) -> int:
    """Return the fewest slots, at least one, that hold all objects of a fraction of the events.

    Args:
        lengths: Number of objects → events.
        quantile: Fraction of the events that is not cut; 1 takes the longest event.
    """
    wanted, so_far = quantile * lengths.total(), 0
    for length in sorted(lengths):
        so_far += lengths[length]
        # As fractions are written: 0.99 of 100 events are 99, not 99.00000000000001.
        if so_far >= wanted * (1 - 1e-12):
            return max(1, length)
    return 1


def jagged_streams(event: EventInfo, contract: Contract, counted: Lengths) -> frozenset[str]:
    """Return the streams that are stored jagged.

    As `storage` says; left to hepset, those with very many slots, and those whose slots were
    counted and are mostly empty.

    Args:
        event: Says how streams are to be stored.
        contract: With all slots resolved.
        counted: Lengths of the streams whose slots were found by counting.
    """
    found = set()
    for name, slots in contract.slots.items():
        assert slots is not None
        storage = event.streams[name].storage if name in event.streams else "auto"
        lengths = counted.get(name, Counter())
        real = sum(min(length, slots) * events for length, events in lengths.items())
        sparse = bool(lengths) and real < FEW_REAL * slots * lengths.total() and slots > 1
        whole = (
            any(name in spec.dims for spec in contract.tensors.values() if spec.is_table)
            or f"{name}.pairs" in contract
        )
        by_itself = slots > MANY_SLOTS or (sparse and not whole)
        if storage == "jagged" or (storage == "auto" and by_itself):
            found.add(name)
    return frozenset(found)


def quantile_of(event: EventInfo, stream: str) -> float:
    """Return the fraction of the events that the slots of a stream are to hold."""
    slots = event.streams[stream].slots
    return slots.quantile if isinstance(slots, Quantile) else 1.0
