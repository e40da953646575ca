"""How many events have how many objects, and which particles: counts for balanced losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.dataset.columns import Column
from hepset.schema.contract import Contract
from hepset.schema.event import ASSIGNMENT
from hepset.schema.statistics import EventCounts

__all__ = ["CountsCollector"]

_MOST_PARTICLES: Final = 62
"""Particles whose presence fits into the bits of one integer."""


class CountsCollector:
    """Counts events by their number of objects, and by the particles that they have.

    Args:
        contract: Names the streams and the assignment targets.
        present: Tensors that will be given.
    """

    def __init__(self, contract: Contract, present: Iterable[str]) -> None:
        here = set(present)
        self._streams = {
            spec.name: spec.mask for spec in contract.of_kind("stream") if spec.name in here
        }
        self._particles: dict[str, list[str]] = {}
        for spec in contract.of_kind("index"):
            if spec.name.startswith(ASSIGNMENT) and spec.name in here:
                process = spec.name.removeprefix(ASSIGNMENT).rpartition("/")[0]
                self._particles.setdefault(process, []).append(spec.name)
        self._particles = {
            process: names
            for process, names in self._particles.items()
            if len(names) <= _MOST_PARTICLES
        }
        self._objects: Counter[int] = Counter()
        self._present: dict[str, dict[int, Counter[str]]] = {name: {} for name in self._particles}

    def add(self, columns: Mapping[str, Column], rows: int) -> None:
        """Add some events; columns as `StatisticsCollector.add` takes them."""
        if self._streams:
            total = np.zeros(rows, np.int64)
            for name, mask in self._streams.items():
                total += _lengths(columns[name], columns.get(mask or ""))
            self._objects.update(_counted(total))
        process = columns.get("process")
        number = process if isinstance(process, np.ndarray) else np.zeros(rows, np.int64)
        for name, particles in self._particles.items():
            code = np.zeros(rows, np.int64)
            for place, particle in enumerate(particles):
                indices = columns[particle]
                assert isinstance(indices, np.ndarray)
                code |= (indices >= 0).all(axis=1).astype(np.int64) << place
            for value in np.unique(number):
                found = self._present[name].setdefault(int(value), Counter())
                for bits, count in _counted(code[number == value]).items():
                    pattern = "".join("01"[bits >> p & 1] for p in range(len(particles)))
                    found[pattern] += count

    def result(self) -> EventCounts:
        """Return the counts of all events added so far."""
        return EventCounts(
            objects=dict(sorted(self._objects.items())),
            present={
                name: {number: dict(sorted(found.items())) for number, found in by_process.items()}
                for name, by_process in self._present.items()
                if by_process
            },
        )


def _lengths(column: Column, mask: Column | None) -> Array:
    """Number of real objects of each event, (event,)."""
    if isinstance(column, Ragged):
        return column.counts.astype(np.int64)
    if isinstance(mask, np.ndarray):
        total: Array = mask.sum(axis=1, dtype=np.int64) if mask.ndim > 1 else mask.astype(np.int64)
        return total
    return np.full(len(column), column.shape[1], np.int64)


def _counted(values: Array) -> Counter[int]:
    found, counts = np.unique(values, return_counts=True)
    return Counter({int(v): int(n) for v, n in zip(found, counts, strict=True)})
