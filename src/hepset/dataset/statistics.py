"""Masked float64 statistics of stored arrays, block by block in row order.

Every block of events gives count, mean and M2 by two passes over data that stay in the cache;
blocks merge by the pairwise rule (`hepset.schema.statistics`). Only real, finite values count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.dataset.columns import Column, part
from hepset.dataset.counts import CountsCollector
from hepset.schema.contract import Contract
from hepset.schema.feature import Feature
from hepset.schema.statistics import (
    ColumnStatistics,
    LabelCounts,
    Statistics,
    TensorStatistics,
)
from hepset.schema.steps import apply_steps, steps_before_scaling
from hepset.schema.tensors import MOST_CLASSES, Labels, TensorSpec

BLOCK: Final = 1024
"""Events per block: its columns stay in the cache."""


@dataclass
class _Moments:
    """Count, mean, M2 and extremes of several columns at once, each of shape ``(column,)``."""

    count: Array
    mean: Array
    m2: Array
    low: Array
    high: Array
    bad: Array

    @classmethod
    def empty(cls, columns: int) -> _Moments:
        return cls(
            np.zeros(columns, np.int64),
            np.zeros(columns),
            np.zeros(columns),
            np.full(columns, np.inf),
            np.full(columns, -np.inf),
            np.zeros(columns, np.int64),
        )

    def add(self, values: Array) -> None:
        """Add values of shape ``(column, value)``, float64; NaN and infinities are only counted."""
        if not values.shape[1]:
            return
        count = np.full(len(values), values.shape[1], np.int64)
        total = values.sum(axis=1)
        if not np.isfinite(total).all():
            good = np.isfinite(values)
            count = good.sum(axis=1)
            self.bad += values.shape[1] - count
            low = np.where(good, values, np.inf).min(axis=1)
            high = np.where(good, values, -np.inf).max(axis=1)
            values = np.where(good, values, 0.0)
            mean = values.sum(axis=1) / np.maximum(count, 1)
            shifted = np.where(good, values - mean[:, None], 0.0)
        else:
            low, high = values.min(axis=1), values.max(axis=1)
            mean = total / count
            shifted = values - mean[:, None]
        # The mean is rounded; the second term takes out what that leaves (Chan et al. 1983).
        left = shifted.sum(axis=1)
        m2 = np.einsum("ij,ij->i", shifted, shifted) - left * left / np.maximum(count, 1)
        both = self.count + count
        shift = mean - self.mean
        share = count / np.maximum(both, 1)
        self.m2 += np.maximum(m2, 0) + shift * shift * self.count * share
        self.mean += shift * share
        self.count = both
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)

    def records(self) -> list[ColumnStatistics]:
        return [
            ColumnStatistics(
                count=int(self.count[i]),
                mean=float(self.mean[i]) if self.count[i] else 0.0,
                m2=float(self.m2[i]) if self.count[i] else 0.0,
                minimum=float(self.low[i]) if self.count[i] else None,
                maximum=float(self.high[i]) if self.count[i] else None,
                non_finite=int(self.bad[i]),
            )
            for i in range(len(self.count))
        ]


class _TensorCollector:
    """Statistics of one tensor: raw values, and after the declared transform where it differs."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.names = list(spec.features) or [""]
        self.steps = [
            (index, steps)
            for index, name in enumerate(self.names)
            if (steps := steps_before_scaling(self._feature(name).transform))
        ]
        self.raw = _Moments.empty(len(self.names))
        self.changed = _Moments.empty(len(self.steps))
        self.lengths = _Moments.empty(1) if spec.kind == "stream" else None

    def _feature(self, name: str) -> Feature:
        return self.spec.features.get(name, Feature())

    def add(self, column: Column, mask: Array | None) -> None:
        """Add some events; the mask says which entries of the first axes are real."""
        if isinstance(column, Ragged):
            values = column.values
        else:
            values = column if mask is None else column[mask]
        if self.spec.columns:
            wide = np.ascontiguousarray(values.reshape(-1, len(self.names)).T, np.float64)
        else:
            wide = values.reshape(1, -1).astype(np.float64)
        self.raw.add(wide)
        if self.steps:
            with np.errstate(all="ignore"):
                self.changed.add(
                    np.stack([apply_steps(wide[i], steps, np) for i, steps in self.steps])
                )

    def add_lengths(self, counts: Array) -> None:
        """Add the numbers of objects of some events."""
        if self.lengths is not None:
            self.lengths.add(counts.astype(np.float64)[None])

    def result(self) -> TensorStatistics:
        raw = dict(zip(self.names, self.raw.records(), strict=True))
        transformed = {
            name: record
            for name, record in raw.items()
            if "circular" not in self._feature(name).transform
        }
        for (index, _), record in zip(self.steps, self.changed.records(), strict=True):
            transformed[self.names[index]] = record
        return TensorStatistics(
            columns=raw,
            transformed=transformed,
            multiplicity=self.lengths.records()[0] if self.lengths is not None else None,
        )


class _LabelCollector:
    """How often each class occurs."""

    def __init__(self, classes: int) -> None:
        self.events = np.zeros(classes, np.int64)
        self.weights = np.zeros(classes)
        self.missing = 0

    def add(self, labels: Array, weights: Array) -> None:
        known = (labels >= 0) & (labels < max(MOST_CLASSES, len(self.events)))
        self.missing += int(labels.size - known.sum())
        found = labels[known].astype(np.int64)
        size = max(len(self.events), int(found.max(initial=-1)) + 1)
        if size > len(self.events):
            # Only where a violated contract was let through (check: report).
            self.events = np.pad(self.events, (0, size - len(self.events)))
            self.weights = np.pad(self.weights, (0, size - len(self.weights)))
        self.events += np.bincount(found, minlength=size)
        finite = np.where(np.isfinite(weights[known]), weights[known], 0.0)
        self.weights += np.bincount(found, finite, minlength=size)

    def result(self) -> LabelCounts:
        return LabelCounts(
            events=self.events.tolist(), weights=self.weights.tolist(), missing=self.missing
        )


class StatisticsCollector:
    """Collects the statistics of events in the order in which they are added.

    The result depends on how the rows are divided into calls of `add` only by rounding; callers
    that need the same bytes divide them alike.
    """

    def __init__(self, contract: Contract, present: Iterable[str]) -> None:
        """Prepare for some tensors.

        Args:
            contract: Features with their transforms, and the number of classes.
            present: Tensors that will be given.
        """
        here = set(present)
        self._events = 0
        self._tensors: dict[str, _TensorCollector] = {}
        self._labels: dict[str, _LabelCollector] = {}
        for spec in contract.tensors.values():
            if spec.name not in here or 0 in spec.event_shape:
                continue
            labels = next((rule for rule in spec.rules if isinstance(rule, Labels)), None)
            if labels is not None:
                self._labels[spec.name] = _LabelCollector(labels.classes or 0)
            elif spec.kind in {"stream", "pairs", "global", "weight"} or (
                spec.kind == "target" and spec.dtype.startswith("float")
            ):
                self._tensors[spec.name] = _TensorCollector(spec)
        self._masks = {spec.name: spec.mask for spec in contract.tensors.values()}
        self._counts = CountsCollector(contract, here)

    def add(self, columns: Mapping[str, Column], rows: int) -> None:
        """Add some events.

        Args:
            columns: Stored columns; the mask of a jagged stream as counts.
            rows: Number of events.
        """
        for start in range(0, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            self._add({name: part(c, start, stop) for name, c in columns.items()}, stop - start)

    def result(self) -> Statistics:
        """Return the statistics of all events added so far."""
        return Statistics(
            events=self._events,
            tensors={name: collector.result() for name, collector in self._tensors.items()},
            labels={name: collector.result() for name, collector in self._labels.items()},
            counts=self._counts.result(),
        )

    def _add(self, columns: Mapping[str, Column], rows: int) -> None:
        self._events += rows
        self._counts.add(columns, rows)
        weight = columns.get("weight")
        weights = weight if isinstance(weight, np.ndarray) else np.ones(rows)
        for name, collector in self._tensors.items():
            column, mask = columns[name], self._mask(name, columns)
            if collector.lengths is not None:
                if isinstance(column, Ragged):
                    collector.add_lengths(column.counts)
                elif mask is not None:
                    collector.add_lengths(mask.sum(axis=1))
            if collector.spec.kind == "pairs" and mask is not None:
                mask = mask[:, :, None] & mask[:, None, :]
            collector.add(column, mask)
        for name, counter in self._labels.items():
            column, mask = columns[name], self._mask(name, columns)
            if isinstance(column, Ragged):
                counter.add(column.values, np.repeat(weights, column.counts))
            elif mask is not None and column.ndim > 1:
                spread = np.broadcast_to(weights[:, None], mask.shape)
                counter.add(column[mask], spread[mask])
            else:
                rest = column.shape[1:]
                spread = np.broadcast_to(weights.reshape(-1, *(1,) * len(rest)), column.shape)
                counter.add(column.reshape(-1), spread.reshape(-1))

    def _mask(self, name: str, columns: Mapping[str, Column]) -> Array | None:
        mask = columns.get(self._masks[name] or "")
        if isinstance(mask, np.ndarray) and mask.dtype == bool:
            return mask
        return None
