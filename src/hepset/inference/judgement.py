"""What an evaluation found: a split and what every head says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hepset.batch import Array
from hepset.inference.variations import Shift
from hepset.interfaces.head import Drawing, Evaluation, Metric

__all__ = ["HeadResult", "Judgement", "effective_events"]


@dataclass(frozen=True)
class HeadResult:
    """What a head says of its predictions.

    Attributes:
        metrics: The model's numbers.
        baselines: What simple methods give on the same events.
        drawings: Figures of the report.
    """

    metrics: list[Metric]
    baselines: list[Metric]
    drawings: list[Drawing]

    def add(self, metrics: list[Metric], baselines: list[Metric], drawings: list[Drawing]) -> None:
        """Add what was found beside the head."""
        self.metrics.extend(metrics)
        self.baselines.extend(baselines)
        self.drawings.extend(drawings)


@dataclass(frozen=True)
class Judgement:
    """A split with its predictions and what all heads say of them.

    Attributes:
        split: Name of the split.
        evaluation: Inputs, targets and weights of the split, without predictions of one head.
        heads: Head name → its result.
        variations: Variation → head → what it does to the head's metrics.
        displays: Drawings of single events.
    """

    split: str
    evaluation: Evaluation
    heads: dict[str, HeadResult]
    variations: dict[str, dict[str, list[Shift]]] = field(default_factory=dict)
    displays: list[Drawing] = field(default_factory=list)


def effective_events(weight: Array) -> float:
    """Return (Σw)² / Σw²: how many unweighted events would have the same relative error."""
    squares = float(np.sum(np.square(weight)))
    return float(np.sum(weight)) ** 2 / squares if squares else 0.0
