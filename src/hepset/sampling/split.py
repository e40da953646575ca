"""`SplitSampler`: how often each event of a split is drawn, from the sampling configuration.

One pass over the columns that the configuration names gives a cell and, where asked for, a factor
per event; nothing else is kept, 8 bytes per event.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.dataset import Split
from hepset.errors import ConfigurationError
from hepset.sampling.acceptance import Acceptances
from hepset.sampling.drawing import accepted_counts, exact_counts, repeats_of, throws
from hepset.sampling.rule import SamplingRule
from hepset.schema.sampling import SamplingConfig

__all__ = ["SplitSampler"]

Array = NDArray[Any]

_LOG = logging.getLogger(__name__)

_READ: Final = 65_536
"""Events that are read at a time."""
_EXPECTATION: Final = 3
"""First number of the key of the throw that weaver's number of repetitions depends on."""


class SplitSampler:
    """Draws the events of a split, `hepset.dataset.order.RowSampler`.

    Args:
        split: What to draw from.
        config: How.
        seed: Seed of the training.

    Attributes:
        events: Events drawn in an epoch.
        repeats: How often each event is tried in a pass.
        acceptances: Probabilities of the events of the split.

    Raises:
        ConfigurationError: If an expression does not fit the data, or a class is empty.
        ExpressionError: If an expression cannot be compiled.
    """

    def __init__(self, split: Split, config: SamplingConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        rule = _compiled(split, config)
        self.acceptances = Acceptances(rule, split.batches(_READ, _tensors(rule.columns, split)))
        rows = self.acceptances.rows
        expected = self.acceptances.expected
        self.repeats = repeats_of(len(rows), self._accepted(expected), config.max_repeats)
        self.events = config.events or max(1, int(self.repeats * expected))
        self._announce()

    def counts(self, epoch: int) -> Array:
        """Return how often each event of the split is drawn in an epoch, (event,)."""
        rows = self.acceptances.rows
        if self.config.sampler == "exact":
            strata = self.acceptances.strata
            return exact_counts(rows, strata, self.events, seed=self.seed, epoch=epoch)
        return accepted_counts(
            rows,
            self.events,
            repeats=self.repeats,
            scale=self.config.scale,
            seed=self.seed,
            epoch=epoch,
        )

    def fractions(self, labels: Array, classes: int) -> Array:
        """Return the expected share of every label among the drawn events, (class,).

        Args:
            labels: Class of each event of the split, −1 = none, (event,).
            classes: Number of classes.
        """
        known = labels >= 0
        drawn = np.bincount(labels[known], self.acceptances.rows[known], minlength=classes)
        shares: Array = drawn / max(drawn.sum(), np.finfo(float).tiny)
        return shares

    def _accepted(self, expected: float) -> float:
        """Events that a throw for each accepts; weaver finds out how often to try by one."""
        if self.config.sampler == "exact":
            return expected
        rows = self.acceptances.rows
        dice = throws(len(rows), self.seed, _EXPECTATION)
        return float((dice * self.config.scale < rows).sum())

    def _announce(self) -> None:
        rows = self.acceptances.rows
        total = float(rows.sum(dtype=np.float64))
        most = float(rows.max(initial=0)) * self.events / total if total else 0.0
        _LOG.info(
            "sampling: %d events per epoch out of %d; an event at most %.3g times on average",
            self.events,
            len(rows),
            most,
        )
        if most > self.config.max_repeats:
            _LOG.warning(
                "sampling: some events are drawn %.3g times in an epoch, more often than "
                "max_repeats = %d; lower train.sampling.events",
                most,
                self.config.max_repeats,
            )


def _compiled(split: Split, config: SamplingConfig) -> SamplingRule:
    for example in split.batches(1):
        dataset = split.dataset
        names = {name: tuple(c) for name, c in dataset.manifest.class_names.items()}
        return SamplingRule(config, dataset.event, example, names)
    raise ConfigurationError(f"train.sampling: no event is in the split {split.name!r}")


def _tensors(columns: list[str], split: Split) -> list[str]:
    """Tensors of the data set that hold some columns."""
    found = {name if name in split.layouts else name.partition(".")[0] for name in columns}
    return sorted(found)
