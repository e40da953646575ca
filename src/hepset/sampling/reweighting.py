"""From spectra of classes to acceptances: flat, or like a reference class.

The formulas are weaver's (``hqucms/weaver-core``), so that its configurations draw the same
spectra. H is the histogram of a class, with n bins that hold something:

* flat: ``w = min(1, r / H)``, r the `threshold` percentile of the bins with H above a hundredth of
  the median of the n bins;
* reference: ``w = min(1, R / u)`` with ``R = H_reference / H`` and u the (100 − `threshold`)
  percentile of the bins with R > 0;
* then, for both, ``N = Σ H w / class_weight``, and every class is scaled by ``0.9 min(N) / N``, so
  that the accepted events are in the proportion of the class weights and no acceptance is
  above 0.9.

Histograms are filled chunk by chunk in float64; memory is that of the histograms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.errors import ConfigurationError
from hepset.schema.sampling import SamplingConfig

__all__ = ["OUTSIDE", "Histograms"]

Array = NDArray[Any]

OUTSIDE: Final = -1
"""Cell of an event that is in no class or, with ``out_of_range: drop``, in no bin."""

_LARGEST: Final = 0.9
"""Largest acceptance, so that throws decide about every event."""


class Histograms:
    """Spectra of the classes, filled chunk by chunk.

    Args:
        config: Variables, classes and method.
        classes: Names of the classes, in order.

    Attributes:
        bins: Number of bins of a class.
        counts: The histograms, (class, bin).
    """

    def __init__(self, config: SamplingConfig, classes: Sequence[str]) -> None:
        self.config = config
        self.classes = tuple(classes)
        self.edges = [np.asarray(edges, np.float64) for edges in config.variables.values()]
        self.bins = math.prod(len(edges) - 1 for edges in self.edges)
        self.counts = np.zeros((len(self.classes), self.bins))

    def add(self, values: Sequence[Array], members: Array, base: Array | None = None) -> Array:
        """Count events.

        Args:
            values: One array (event,) per variable, in the configuration's order.
            members: (event, class), True where an event is in a class.
            base: Factor of each event's probability (event,); it weights the histograms.

        Returns:
            The cell of each event (event,): its last class times the number of bins plus its
            bin, `OUTSIDE` where it cannot be drawn.
        """
        inside, bins = self._bin(values, len(members))
        for number in range(len(self.classes)):
            chosen = inside & members[:, number]
            weights = None if base is None else np.asarray(base, np.float64)[chosen]
            self.counts[number] += np.bincount(bins[chosen], weights, minlength=self.bins)
        return self._cells(inside, bins, members)

    def find(self, values: Sequence[Array], members: Array) -> Array:
        """Return the cells of events as `add` does, without counting them."""
        return self._cells(*self._bin(values, len(members)), members)

    def _bin(self, values: Sequence[Array], events: int) -> tuple[Array, Array]:
        """Which events are inside, and the bin of each."""
        inside = np.ones(events, bool)
        bins = np.zeros(events, np.int64)
        for edges, column in zip(self.edges, values, strict=True):
            number = np.asarray(column, np.float64)
            if self.config.out_of_range == "clip":
                inside &= ~np.isnan(number)
            else:
                inside &= (number >= edges[0]) & (number <= edges[-1])
            found = np.searchsorted(edges, number, side="right") - 1
            bins = bins * (len(edges) - 1) + np.clip(found, 0, len(edges) - 2)
        return inside, bins

    def _cells(self, inside: Array, bins: Array, members: Array) -> Array:
        cells = np.full(len(bins), OUTSIDE, np.int64)
        for number in range(len(self.classes)):
            chosen = inside & members[:, number]
            cells[chosen] = number * self.bins + bins[chosen]
        return cells

    def acceptances(self, class_weights: Mapping[str, float] | None = None) -> Array:
        """Return the acceptance of every cell, (class × bin,).

        Args:
            class_weights: Share of each class, relative to the others; 1 where not given.

        Raises:
            ConfigurationError: If a class has no event in the bins.
        """
        shares = class_weights if class_weights is not None else self.config.class_weights
        empty = [n for n, h in zip(self.classes, self.counts, strict=True) if not (h > 0).any()]
        if empty:
            raise ConfigurationError(
                f"train.sampling: no training event in the class{'es' * (len(empty) > 1)} "
                f"{', '.join(empty)} has its variables inside the bins, so it cannot be drawn; "
                "leave the class out, or fix its expression or the edges"
            )
        acceptance = np.stack(
            [self._flat(h) for h in self.counts]
            if self.config.method == "flat"
            else [self._like_reference(h) for h in self.counts]
        )
        shared = np.array([shares.get(name, 1.0) for name in self.classes])
        expected = (self.counts * acceptance).sum(1) / shared
        scaled: Array = acceptance * (_LARGEST * expected.min() / expected)[:, None]
        return scaled.ravel()

    def _flat(self, histogram: Array) -> Array:
        floor = 0.01 * np.median(histogram[histogram > 0])
        level = np.percentile(histogram[histogram > floor], self.config.threshold)
        ratio = np.divide(level, histogram, out=np.zeros_like(histogram), where=histogram > 0)
        capped: Array = np.minimum(1, ratio)
        return capped

    def _like_reference(self, histogram: Array) -> Array:
        name = self.config.reference or self.classes[0]
        wanted = self.counts[self.classes.index(name)]
        ratio = np.divide(wanted, histogram, out=np.zeros_like(wanted), where=histogram > 0)
        if not (ratio > 0).any():
            raise ConfigurationError(
                f"train.sampling: the class {name!r} and another one have no bin in common, so "
                "the other cannot take its spectrum; use method: flat, or coarser bins"
            )
        capped: Array = np.minimum(
            1, ratio / np.percentile(ratio[ratio > 0], 100 - self.config.threshold)
        )
        return capped
