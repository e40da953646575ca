"""`Acceptances`: the probability with which each event is drawn, learnt in one pass over events."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.errors import ConfigurationError
from hepset.sampling.cache import Learnt
from hepset.sampling.reweighting import OUTSIDE, Histograms
from hepset.sampling.rule import SamplingRule

__all__ = ["Acceptances"]

Array = NDArray[Any]

_LOG = logging.getLogger(__name__)


class Acceptances:
    """The probabilities of events; 8 bytes per event are kept of those of the pass.

    Args:
        rule: The compiled configuration.
        batches: All training events, in any portions.

    Attributes:
        rows: Acceptance of every event of the pass, float32 (event,).
        strata: Class of every event of the pass, 0 where it is in none, (event,).
        histograms: Spectra of the classes.

    Raises:
        ConfigurationError: If a class is empty, a factor is no probability, or too few events
            have one above 0.
    """

    def __init__(self, rule: SamplingRule, batches: Iterable[EventBatch]) -> None:
        self.rule = rule
        self.histograms = Histograms(rule.config, rule.classes)
        cells, factors = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for batch in batches:
            values, members, base = rule.evaluate(batch)
            cells.append(self.histograms.add(values, members, base).astype(np.int32))
            if base is not None:
                factors.append(base.astype(np.float32))
        found = np.concatenate(cells)
        self._table = np.ones(1, np.float32)
        self._level = np.float32(1)
        if rule.config.method != "weights":
            self._table = np.append(self.histograms.acceptances(), 0.0).astype(np.float32)
        base = None if rule.base is None else np.concatenate(factors)
        self.rows = self._of(found, base)
        if rule.config.method != "weights" and base is not None:
            self._level = self._reference_level()
            self.rows = self.rows / self._level
        if not self.rows.any():
            raise ConfigurationError(
                f"train.sampling: all {len(self.rows)} training events have the probability 0; "
                f"fix base_weight: {rule.config.base_weight!r}"
            )
        self.strata = np.where(found == OUTSIDE, 0, found // self.histograms.bins)
        self._announce(int((found == OUTSIDE).sum()))

    def _of(self, cells: Array, base: Array | None) -> Array:
        if self.rule.config.method == "weights":
            assert base is not None
            return base
        acceptance: Array = self._table[cells]
        return acceptance if base is None else acceptance * base

    def _reference_level(self) -> np.float32:
        """What counts as certain; weaver takes it from all events, those outside the bins too."""
        percentile = 100 - self.rule.config.threshold
        level = np.float32(np.percentile(self.rows, percentile)) if len(self.rows) else 0.0
        if not level > 0:
            raise ConfigurationError(
                f"train.sampling: of the training events sorted by their probabilities, the one at "
                f"{percentile:g} % has 0, so that base_weight cannot be scaled by it; lower "
                "threshold, or select fewer events before"
            )
        return np.float32(level)

    def _announce(self, outside: int) -> None:
        config = self.rule.config
        if outside and config.method != "weights":
            _LOG.info(
                "sampling: %d of %d training events are in no class%s and never drawn",
                outside,
                len(self.rows),
                " or outside the bins" if config.out_of_range == "drop" else "",
            )

    @property
    def expected(self) -> float:
        """Events of the pass that are accepted on average when each is tried once."""
        config = self.rule.config
        # A throw cannot accept an event more than once.
        exact = config.sampler == "exact"
        certain = self.rows if exact else np.minimum(self.rows / config.scale, 1)
        return float(certain.sum(dtype=np.float64))

    @property
    def learnt(self) -> Learnt:
        """What the pass teaches about other events."""
        return Learnt(self._table, float(self._level), len(self.rows), self.expected)
