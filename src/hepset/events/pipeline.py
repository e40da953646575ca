"""`EventPipeline`: all that happens to events between a reader and a dataset or a model.

Derive → select → split → check → pick → conform, always in this order. A conversion goes all the
way, its counting passes stop after the split, ``hepset check`` and ``hepset inspect`` after the
check. A prediction keeps a row for every event, so it marks those that pass the cuts
(`EventPipeline.mark`) and brings only them into the slots of the model.

Every step looks at one event after the other; the result does not depend on how files are cut into
chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.check import check_batch
from hepset.dataset.manifest import Truncation
from hepset.events.rows import pick
from hepset.events.select import Tally, derive, passes, possible, surviving, without_columns
from hepset.events.slots import conform
from hepset.events.split import Splitter
from hepset.interfaces.reader import Purpose
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.report import Report

__all__ = ["EventPipeline", "Prepared", "Step"]

Step = Literal["select", "check", "conform"]


@dataclass(frozen=True)
class Prepared:
    """Events on their way through a pipeline.

    Attributes:
        batch: The events as the last step left them.
        step: The last step that was made.
        split: Index of each event's split in `Splitter.names`, shape ``(event,)``; None where the
            pipeline has no splitter.
        hashed: What decided the splits: ``event`` or ``entry``.
        selected: Which events pass all cuts, shape ``(event,)``, where they were only marked.
        tallies: What was there before any cut, and after each; empty where nobody asked for it.
        report: What the check found.
        truncated: Stream → what was cut to fit its slots.
    """

    batch: EventBatch
    step: Step = "select"
    split: Array | None = None
    hashed: str = "entry"
    selected: Array | None = None
    tallies: tuple[Tally, ...] = ()
    report: Report = field(default_factory=Report)
    truncated: Mapping[str, Truncation] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of events."""
        return len(self.batch)

    def take(self, rows: Array) -> Prepared:
        """Keep some events, given by a mask or by number."""
        split = None if self.split is None else self.split[rows]
        selected = None if self.selected is None else self.selected[rows]
        return replace(self, batch=self.batch.take(rows), split=split, selected=selected)


@dataclass(frozen=True)
class EventPipeline:
    """The steps, and what they need to know.

    Attributes:
        event: What a prepared event is, derived features included.
        contract: What the arrays have to obey; `conform` needs all slots resolved.
        derivations: New column → expression.
        cuts: Cut → expression; NaN fails a cut.
        splitter: What assigns events to splits; None where there are none.
        purpose: For a prediction, targets need not be there, nor what is derived from absent ones.
        strict: Whether events are not conformed where one of them does not obey the contract.
        tally: Whether events and weights are counted cut by cut, which costs a pass for each.
    """

    event: EventInfo
    contract: Contract
    derivations: Mapping[str, str] = field(default_factory=dict)
    cuts: Mapping[str, str] = field(default_factory=dict)
    splitter: Splitter | None = None
    purpose: Purpose = "train"
    strict: bool = True
    tally: bool = False

    def run(
        self, batch: EventBatch, upto: Step = "conform", *, only: str | None = None
    ) -> Prepared:
        """Make all steps up to one, as long as there are events that can be used.

        Args:
            batch: As a reader gives it.
            upto: The last step.
            only: Keep the events of this split.

        Raises:
            ExpressionError: If an expression cannot be compiled or evaluated.
            ConfigurationError: If the splits need what the files do not have.
        """
        found = self.select(batch, only=only)
        if upto == "select":
            return found
        found = self.check(found)
        usable = len(found) and (found.report.ok_as_part or not self.strict)
        return self.conform(found) if upto == "conform" and usable else found

    def select(self, batch: EventBatch, *, only: str | None = None) -> Prepared:
        """Apply the cuts, derive columns for the events that pass, and assign them to splits.

        Cuts may use derived columns; of those only what they need is computed for the other events.
        """
        derivations = self._derivations(batch)
        alive, tallies = surviving(batch, self.event, derivations, self.cuts, tally=self.tally)
        batch = derive(batch if alive.all() else batch.take(alive), self.event, derivations)
        found = Prepared(batch, tallies=tallies)
        if self.splitter is not None:
            split, hashed = self._split(batch, self.splitter)
            found = replace(found, split=split, hashed=hashed)
            if only is not None:
                found = found.take(split == self.splitter.names.index(only))
        return replace(found, batch=without_columns(found.batch, derivations))

    def mark(self, batch: EventBatch) -> Prepared:
        """Derive columns for all events, and mark those that pass the cuts."""
        derivations = self._derivations(batch)
        batch = derive(batch, self.event, derivations)
        selected = np.ones(len(batch), bool)
        for passed in passes(batch, self.event, self.cuts).values():
            selected &= passed
        return Prepared(without_columns(batch, derivations), selected=selected)

    def check(self, found: Prepared) -> Prepared:
        """Check the events against the contract, with all objects that they have."""
        training = self.purpose == "train"
        report = check_batch(self.contract, found.batch, training=training, raw=True)
        return replace(found, report=report, step="check")

    def conform(self, found: Prepared) -> Prepared:
        """Keep what the contract names, order the objects, and cut them to the slots."""
        picked = pick(found.batch, self.contract)
        batch, truncated = conform(picked, self.event, self.contract)
        return replace(found, batch=batch, truncated=truncated, step="conform")

    def _split(self, batch: EventBatch, splitter: Splitter) -> tuple[Array, str]:
        expressions = splitter.config.expressions
        if not expressions:
            return splitter.assign(batch)
        passing = passes(batch, self.event, expressions, where="prepare.split")
        return splitter.of_passing(batch, passing), "entry"

    def _derivations(self, batch: EventBatch) -> Mapping[str, str]:
        if self.purpose == "train":
            return self.derivations
        return possible(batch, self.event, self.derivations)
