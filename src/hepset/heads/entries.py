"""The entries of an evaluation that a target judges: events, or real objects, that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation

__all__ = ["Entries", "entries_with_label", "entries_with_number", "first_events"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Entries:
    """Which entries have a target, with what their statistics need.

    Attributes:
        keep: True where there is a target, shape ``(event,)`` or ``(event, slot)``.
        truth: The targets, shape ``(entry,)``.
        weight: Physical weights, shape ``(entry,)``; None where all are one.
        groups: Event of each entry, shape ``(entry,)``; None where an entry is an event.
    """

    keep: Array
    truth: Array
    weight: Array | None
    groups: Array | None

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.truth)

    def of(self, values: Array) -> Array:
        """Return the values of the entries from an array with one per event, or per slot."""
        if self.keep.ndim == 2 and values.ndim == 1:
            values = np.broadcast_to(values[:, None], self.keep.shape)
        chosen: Array = values[self.keep]
        return chosen

    def only(self, chosen: Array) -> Entries:
        """Return some of the entries, given by a mask ``(entry,)``."""
        keep = self.keep.copy()
        keep[self.keep] = chosen
        return Entries(
            keep,
            self.truth[chosen],
            None if self.weight is None else self.weight[chosen],
            None if self.groups is None else self.groups[chosen],
        )


def entries_with_label(evaluation: Evaluation, target: str) -> Entries:
    """Return the entries with a label, integers."""
    truth = np.asarray(evaluation.targets[f"target/{target}"])
    return _entries(evaluation, truth, truth >= 0)


def entries_with_number(evaluation: Evaluation, target: str) -> Entries:
    """Return the entries with a finite number, float64."""
    truth = np.asarray(evaluation.targets[f"target/{target}"], dtype=np.float64)
    return _entries(evaluation, truth, np.isfinite(truth))


def first_events(evaluation: Evaluation, count: int) -> Evaluation:
    """Return at most so many events, for fits that need no more."""
    if len(evaluation) <= count:
        return evaluation
    return Evaluation(
        evaluation.event,
        evaluation.contract,
        {name: array[:count] for name, array in evaluation.predictions.items()},
        {name: array[:count] for name, array in evaluation.targets.items()},
        {name: array[:count] for name, array in evaluation.inputs.items()},
        evaluation.weight[:count],
        evaluation.weighted,
        None,
        evaluation.statistics,
        {name: array[:count] for name, array in evaluation.extra.items()},
    )


def _entries(evaluation: Evaluation, truth: Array, keep: Array) -> Entries:
    rows = np.nonzero(keep)[0]
    return Entries(
        keep,
        truth[keep],
        np.asarray(evaluation.weight, np.float64)[rows] if evaluation.weighted else None,
        rows if keep.ndim == 2 else None,
    )
