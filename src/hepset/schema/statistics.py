"""Masked statistics of a training split, in float64 and mergeable.

One record per column: count, mean, sum of squared deviations (M2), extremes. Records of disjoint
parts merge by the pairwise rule of Chan, Golub and LeVeque (1979),
``M2 = M2a + M2b + d² na nb / n``. Merged in the order of the shards the result is the same bytes
for any number of workers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from pydantic import Field

from hepset.schema.base import Model


class ColumnStatistics(Model):
    """Count, mean and spread of the real, finite values of one column."""

    count: int = 0
    """Number of real, finite values."""
    mean: float = 0.0
    """Mean of the values, in the column's unit."""
    m2: float = 0.0
    """Sum of squared deviations from the mean."""
    minimum: float | None = None
    """Smallest value, null without values."""
    maximum: float | None = None
    """Largest value, null without values."""
    non_finite: int = 0
    """Number of real slots that hold NaN or infinity (for targets: without a target)."""

    @property
    def std(self) -> float:
        """Population standard deviation; 0 without values."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0

    @property
    def width(self) -> float:
        """The divisor of ``standardise``: the standard deviation, or 1 where it is below 1e-5."""
        return self.std if self.std >= 1e-5 else 1.0

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """Return the statistics of both parts together."""
        count = self.count + other.count
        non_finite = self.non_finite + other.non_finite
        if not self.count or not other.count:
            part = self if self.count else other
            return part.model_copy(update={"non_finite": non_finite})
        shift = other.mean - self.mean
        lows = [low for low in (self.minimum, other.minimum) if low is not None]
        highs = [high for high in (self.maximum, other.maximum) if high is not None]
        return ColumnStatistics(
            count=count,
            mean=self.mean + shift * other.count / count,
            m2=self.m2 + other.m2 + shift * shift * self.count * other.count / count,
            minimum=min(lows),
            maximum=max(highs),
            non_finite=non_finite,
        )


class TensorStatistics(Model):
    """Statistics of the columns of one tensor, as stored and after its declared transform."""

    columns: dict[str, ColumnStatistics]
    """Raw values by column (feature); a tensor without features has the one column ``""``."""
    transformed: dict[str, ColumnStatistics] = Field(default_factory=dict)
    """The same after the steps before ``standardise``: what `InputTransform` divides by."""
    multiplicity: ColumnStatistics | None = None
    """Number of real objects per event, for a stream."""

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Return the statistics of both parts together."""
        lengths = (self.multiplicity, other.multiplicity)
        return TensorStatistics(
            columns={name: part.merge(other.columns[name]) for name, part in self.columns.items()},
            transformed={
                name: part.merge(other.transformed[name]) for name, part in self.transformed.items()
            },
            multiplicity=lengths[0].merge(lengths[1]) if lengths[0] and lengths[1] else None,
        )


class LabelCounts(Model):
    """How often each class of a classification target occurs."""

    events: list[int]
    """Events (or objects) per class."""
    weights: list[float]
    """Sum of event weights per class; equal to `events` where the events are unweighted."""
    missing: int = 0
    """Events (or objects) without a label."""

    def merge(self, other: LabelCounts) -> LabelCounts:
        """Return the counts of both parts together; the longer list of classes decides."""
        size = max(len(self.events), len(other.events))

        def total(a: list[float], b: list[float]) -> list[float]:
            return [(a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(size)]

        return LabelCounts(
            events=[int(n) for n in total(list(self.events), list(other.events))],
            weights=total(self.weights, other.weights),
            missing=self.missing + other.missing,
        )


class EventCounts(Model):
    """How many events have how many objects, and which particles."""

    objects: dict[int, int] = Field(default_factory=dict)
    """Number of real objects of all streams together → events."""
    present: dict[str, dict[int, dict[str, int]]] = Field(default_factory=dict)
    """Process as in ``target/assignment/<process>/…`` (empty where there is one) → its number in
    ``process`` → which particles are there with all their products → events. ``"101"``: the first
    and the third, in the order of their tensors."""

    def merge(self, other: EventCounts) -> EventCounts:
        """Return the counts of both parts together."""
        present = {
            name: {
                number: _added(
                    self.present.get(name, {}).get(number, {}),
                    other.present.get(name, {}).get(number, {}),
                )
                for number in sorted(
                    {*self.present.get(name, {}), *other.present.get(name, {})},
                )
            }
            for name in dict.fromkeys([*self.present, *other.present])
        }
        return EventCounts(objects=_added(self.objects, other.objects), present=present)


K = TypeVar("K", int, str)


def _added(first: Mapping[K, int], second: Mapping[K, int]) -> dict[K, int]:
    counts: Counter[K] = Counter(first)
    counts.update(second)
    return dict(sorted(counts.items()))


class Statistics(Model):
    """Statistics of a training split as written."""

    events: int = 0
    """Number of events."""
    tensors: dict[str, TensorStatistics] = Field(default_factory=dict)
    """By tensor name: inputs, regression targets, weights."""
    labels: dict[str, LabelCounts] = Field(default_factory=dict)
    """By target tensor of kind classification, and ``process``."""
    counts: EventCounts = EventCounts()
    """By number of objects and by the particles that are there; empty in older data sets."""

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both parts together."""
        if not self.events:
            return other
        if not other.events:
            return self
        return Statistics(
            events=self.events + other.events,
            tensors={name: part.merge(other.tensors[name]) for name, part in self.tensors.items()},
            labels={name: part.merge(other.labels[name]) for name, part in self.labels.items()},
            counts=self.counts.merge(other.counts),
        )
