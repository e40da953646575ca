"""What of an evaluation has a known truth: events, or real objects, with weights and groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Evaluation

__all__ = ["Labelled", "first_events", "with_label", "with_number"]

Array = NDArray[Any]


def no_mean(weight: Array | None) -> str:
    """Say why a mean with some weights has no meaning; empty where it has one.

    Args:
        weight: Physical weights, shape ``(entry,)``; None where all are one.
    """
    if weight is None or not len(weight) or (total := float(weight.sum())) > 0:
        return ""
    return f"the weights of {len(weight)} entries sum to {total:.4g}, which is not positive"


@dataclass(frozen=True)
class Labelled:
    """Which entries have a target, with what their statistics need.

    Attributes:
        keep: True where there is a target, shape ``(event,)`` or ``(event, slot)``.
        truth: The targets, shape ``(entry,)``.
        weight: Physical weights, shape ``(entry,)``; None where all are one.
        groups: Event of each entry, shape ``(entry,)``; None where every entry is an event of its
            own. Objects of one event, and its copies, are drawn together.
    """

    keep: Array
    truth: Array
    weight: Array | None
    groups: Array | None

    @property
    def meaningless(self) -> str:
        """Why no mean over these entries has a meaning; empty where one has."""
        return no_mean(self.weight)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.truth)

    def of(self, values: Array) -> Array:
        """Return the values of the entries from an array with one per event, or per slot."""
        if self.keep.ndim == 2 and values.ndim == 1:
            values = np.broadcast_to(values[:, None], self.keep.shape)
        chosen: Array = values[self.keep]
        return chosen

    def at(self, values: Array, of_part: Callable[[Array], Array]) -> Array:
        """Return what a function makes of the values, at the entries.

        Args:
            values: First axes as `keep`; further axes are what the function is for.
            of_part: Takes some events' values and drops the last axis; it is given parts, so that
                a map of a file is never in memory as a whole.
        """
        size = 50_000
        parts = [of_part(values[start : start + size]) for start in range(0, len(values), size)]
        return self.of(np.concatenate(parts)) if parts else np.zeros(0)

    def only(self, chosen: Array) -> Labelled:
        """Return some of the entries, given by a mask ``(entry,)``."""
        keep = self.keep.copy()
        keep[self.keep] = chosen
        return Labelled(
            keep,
            self.truth[chosen],
            None if self.weight is None else self.weight[chosen],
            None if self.groups is None else self.groups[chosen],
        )


def with_label(evaluation: Evaluation, target: str) -> Labelled:
    """Return the entries with a label, integers."""
    truth = np.asarray(evaluation.targets.get(f"target/{target}", np.full(len(evaluation), -1)))
    return _entries(evaluation, truth, truth >= 0)


def with_number(evaluation: Evaluation, target: str) -> Labelled:
    """Return the entries with a finite number, float64."""
    missing = np.full(len(evaluation), np.nan)
    truth = np.asarray(evaluation.targets.get(f"target/{target}", missing), dtype=np.float64)
    return _entries(evaluation, truth, np.isfinite(truth))


def first_events(evaluation: Evaluation, count: int) -> Evaluation:
    """Return at most so many events, for fits that need no more."""
    if len(evaluation) <= count:
        return evaluation
    return replace(evaluation.take(slice(count)), train=None)


def _entries(evaluation: Evaluation, truth: Array, keep: Array) -> Labelled:
    rows = np.nonzero(keep)[0]
    groups = evaluation.groups
    if groups is not None:
        groups = groups[rows]
    elif keep.ndim > 1:
        groups = rows
    return Labelled(
        keep,
        truth[keep],
        np.asarray(evaluation.weight, np.float64)[rows] if evaluation.weighted else None,
        groups,
    )
