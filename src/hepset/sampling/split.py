"""`SplitSampler`: how often each event of a split is drawn, from the sampling configuration.

One pass over the columns that the configuration names gives a cell and, where asked for, a factor
per event; nothing else is kept, 8 bytes per event.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.dataset import Split
from hepset.errors import ConfigurationError, did_you_mean
from hepset.prepare.expressions import Expression, compile_expression
from hepset.prepare.select import BatchColumns, plugin_functions
from hepset.sampling.drawing import accepted_counts, exact_counts, repeats_of, throws
from hepset.sampling.reweighting import OUTSIDE, Histograms
from hepset.schema.event import EventInfo
from hepset.schema.sampling import SamplingConfig

__all__ = ["SamplingRule", "SplitSampler"]

Array = NDArray[Any]

_LOG = logging.getLogger(__name__)

_READ: Final = 65_536
"""Events that are read at a time."""
_ALL: Final = "all"
"""Name of the one class where none are given."""
_EXPECTATION: Final = 3
"""First number of the key of the throw that weaver's number of repetitions hangs on."""


class SamplingRule:
    """The compiled expressions of a sampling configuration.

    Args:
        config: What to compile.
        event: What an event of the data set is.
        example: Some events, for the columns that there are.
        class_names: Classes of targets that the event file leaves open.

    Raises:
        ExpressionError: If an expression cannot be compiled.
        ConfigurationError: If the target does not exist, or an expression is not one number per
            event.
    """

    def __init__(
        self,
        config: SamplingConfig,
        event: EventInfo,
        example: EventBatch,
        class_names: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.config = config
        self._event = event
        self._scope = BatchColumns(example, event).scope
        self.variables = [self._compile(text, "variables") for text in config.variables]
        self.members = {
            name: self._compile(text, f"classes.{name}") for name, text in config.classes.items()
        }
        self.base = None
        if config.base_weight is not None:
            self.base = self._compile(config.base_weight, "base_weight")
        self.classes: tuple[str, ...] = tuple(config.classes) or (_ALL,)
        if config.target is not None:
            self.classes = _target_classes(config, event, class_names)

    def _compile(self, text: str, option: str) -> Expression:
        where = f"train.sampling.{option}"
        expression = compile_expression(text, self._scope, plugin_functions(), where=where)
        if expression.kind != "event":
            raise ConfigurationError(
                f"{where}: {text!r} has one value for each of the {expression.kind}, expected one "
                "per event; take the sum, the largest, or the count of them"
            )
        return expression

    @property
    def columns(self) -> list[str]:
        """Names that the expressions read: ``jets.pt``, ``extra/jet_pt``, ``target/label``."""
        expressions = [*self.variables, *self.members.values(), *filter(None, [self.base])]
        names = {name for e in expressions for name in (*e.names, *e.streams)}
        if self.config.target is not None:
            names.add(f"target/{self.config.target}")
        return sorted(names)

    def evaluate(self, batch: EventBatch) -> tuple[list[Array], Array, Array | None]:
        """Return the variables, which classes each event is in (event, class), and the factor.

        Raises:
            ConfigurationError: If a factor is negative or not finite, or a class is neither
                true-or-false nor 0 or 1.
        """
        columns = BatchColumns(batch, self._event)
        count = len(batch)
        values = [np.broadcast_to(e.evaluate(columns), (count,)) for e in self.variables]
        if self.config.target is not None:
            labels = np.asarray(batch.arrays[f"target/{self.config.target}"])
            members = labels[:, None] == np.arange(len(self.classes))
        elif self.members:
            members = np.stack(
                [
                    np.broadcast_to(np.asarray(e.evaluate(columns)) == 1, (count,))
                    for e in self.members.values()
                ],
                axis=1,
            )
        else:
            members = np.ones((count, 1), bool)
        base = None
        if self.base is not None:
            base = np.broadcast_to(self.base.evaluate(columns), (count,)).astype(np.float64)
            wrong = np.flatnonzero(~(base >= 0) | np.isinf(base))
            if wrong.size:
                source, entry = batch.where(int(wrong[0]))
                raise ConfigurationError(
                    f"train.sampling.base_weight: {wrong.size} of {count} events have a factor "
                    f"that is negative or not finite, first {base[wrong[0]]:g} in entry {entry} of "
                    f"{source}; a probability is not negative: use abs(), or leave signed "
                    "weights to the loss"
                )
        return values, members, base


class SplitSampler:
    """Draws the events of a split, `hepset.dataset.order.RowSampler`.

    Args:
        split: What to draw from.
        config: How.
        seed: Seed of the training.

    Attributes:
        events: Events drawn in an epoch.

    Raises:
        ConfigurationError: If an expression does not fit the data, or a class is empty.
        ExpressionError: If an expression cannot be compiled.
    """

    def __init__(self, split: Split, config: SamplingConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        rule = _compiled(split, config)
        self.classes = rule.classes
        tensors = _tensors(rule.columns, split)
        self._histograms = Histograms(config, rule.classes)
        cells = np.full(len(split), OUTSIDE, np.int32)
        base = None if rule.base is None else np.zeros(len(split), np.float32)
        start = 0
        for batch in split.batches(_READ, tensors):
            values, members, factors = rule.evaluate(batch)
            rows = slice(start, start + len(batch))
            cells[rows] = self._histograms.add(values, members, factors)
            if base is not None:
                base[rows] = factors
            start = rows.stop
        self._strata = np.where(cells == OUTSIDE, 0, cells // max(1, self._bins))
        self.acceptance = self._acceptance(cells, base)
        self.repeats = self._repeats()
        expected = float(self.acceptance.sum(dtype=np.float64)) / (config.scale or 1.0)
        self.events = config.events or max(1, int(self.repeats * expected))
        self._announce(cells)

    def counts(self, epoch: int) -> Array:
        """Return how often each event of the split is drawn in an epoch, (event,)."""
        if self.config.sampler == "exact":
            return exact_counts(
                self.acceptance, self._strata, self.events, seed=self.seed, epoch=epoch
            )
        return accepted_counts(
            self.acceptance,
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
        drawn = np.bincount(labels[known], self.acceptance[known], minlength=classes)
        shares: Array = drawn / max(drawn.sum(), np.finfo(float).tiny)
        return shares

    def document(self) -> dict[str, Any]:
        """Return what was found, for the run's records: events and acceptances by class."""
        found: dict[str, Any] = {"events": self.events, "repeats": self.repeats}
        if self.config.method != "weights":
            acceptances = self._histograms.acceptances().reshape(len(self.classes), -1)
            found["classes"] = {
                name: {"events": float(h.sum()), "acceptances": a.tolist()}
                for name, h, a in zip(
                    self.classes, self._histograms.counts, acceptances, strict=True
                )
            }
        return found

    @property
    def _bins(self) -> int:
        return self._histograms.counts.shape[1]

    def _acceptance(self, cells: Array, base: Array | None) -> Array:
        if self.config.method == "weights":
            assert base is not None
            return base
        table = np.append(self._histograms.acceptances(), 0.0).astype(np.float32)
        acceptance: Array = table[cells]
        if base is not None:
            acceptance = acceptance * base
            # weaver: the percentile of all events, those outside the bins included.
            level = np.percentile(acceptance, 100 - self.config.threshold)
            if not level > 0:
                raise ConfigurationError(
                    f"train.sampling: {100 - self.config.threshold:g} % of the training events "
                    "have the probability 0; lower threshold, or select fewer events before"
                )
            acceptance = acceptance / np.float32(level)
        return acceptance

    def _repeats(self) -> int:
        """How often weaver would try each event: it throws once to find out."""
        if self.config.sampler == "exact":
            accepted = float(self.acceptance.sum(dtype=np.float64))
        else:
            dice = throws(len(self.acceptance), self.seed, _EXPECTATION)
            accepted = float((dice * self.config.scale < self.acceptance).sum())
        return repeats_of(len(self.acceptance), accepted, self.config.max_repeats)

    def _announce(self, cells: Array) -> None:
        outside = int((cells == OUTSIDE).sum())
        drawn = self.acceptance * (self.events / max(self.acceptance.sum(dtype=np.float64), 1e-300))
        most = float(drawn.max(initial=0))
        _LOG.info(
            "sampling: %d events per epoch out of %d, %d of them never; an event at most %.3g "
            "times on average",
            self.events,
            len(cells),
            int((self.acceptance == 0).sum()),
            most,
        )
        if outside and self.config.method != "weights":
            _LOG.info(
                "sampling: %d training events are in no class%s",
                outside,
                " or outside the bins" if self.config.out_of_range == "drop" else "",
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


def _target_classes(
    config: SamplingConfig, event: EventInfo, class_names: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    name = config.target or ""
    target = event.targets.get(name)
    if target is None or target.kind != "classification" or target.stream is not None:
        known = [n for n, t in event.targets.items() if t.kind == "classification"]
        raise ConfigurationError(
            f"train.sampling.classes: {name!r} is no classification target of the event; there "
            f"are {', '.join(known) or 'none'}{did_you_mean(name, known)}"
        )
    classes = target.classes or class_names.get(name, ())
    for other in [*config.class_weights, *filter(None, [config.reference])]:
        if other not in classes:
            raise ConfigurationError(
                f"train.sampling: the target {name!r} has no class {other!r}"
                f"{did_you_mean(other, classes)}"
            )
    return classes
