"""What an evaluation found: a split and what every head says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hepset.arrays import Array
from hepset.evaluate.variations import Shift
from hepset.interfaces.judge import Drawing, Evaluation, Metric

__all__ = ["HeadResult", "Judgement", "drawn_shares", "effective_events"]

if TYPE_CHECKING:
    from hepset.model import Model


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


def drawn_shares(model: Model) -> dict[str, Sequence[float]]:
    """Return the shares of classes that ``train.sampling`` drew; empty where it was not used.

    Returns:
        Target tensor → share of every class among the events of training, which the outputs have
        as their prior; NaN for objects' classes, which are not drawn themselves.
    """
    provenance: Mapping[str, Any] = model.provenance
    if (provenance.get("train") or {}).get("sampling") is None:
        return {}
    shares: Mapping[str, Sequence[float]] = provenance.get("prior") or {}
    targets = model.event.targets
    of_objects = {f"target/{name}" for name, target in targets.items() if target.stream is not None}
    return {
        name: [math.nan] * len(found) if name in of_objects else found
        for name, found in shares.items()
    }


def effective_events(weight: Array) -> float:
    """Return (Σw)² / Σw²: how many unweighted events would have the same relative error."""
    squares = float(np.sum(np.square(weight)))
    return float(np.sum(weight)) ** 2 / squares if squares else 0.0
