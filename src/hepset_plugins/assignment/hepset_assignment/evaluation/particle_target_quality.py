"""How well quantities of particles and products are predicted, where the objects are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation, Metric
from hepset.uncertainty import efficiency, half_width, median
from hepset_assignment.evaluation.quality import judge
from hepset_assignment.particle_targets import Quantity
from hepset_assignment.topology import Topology

__all__ = ["quantity_baselines", "quantity_metrics"]

Array = NDArray[np.float64]


class _Entries(NamedTuple):
    """Predictions and targets of like particles or products, of rightly assigned ones."""

    predicted: Array
    truth: Array
    weight: Array | None
    events: Array


def quantity_metrics(
    quantities: Sequence[Quantity], topology: Topology, evaluation: Evaluation
) -> list[Metric]:
    """Return bias and half 68 % width of numbers, and accuracy of classes.

    Like targets are taken together, for particles whose objects are all right. A target is that of
    the true particle, and of the true product, that the objects belong to.
    """
    found: list[Metric] = []
    for name, members in _alike(quantities).items():
        entries = _entries(members, topology, evaluation)
        unit = evaluation.event.targets[members[0].target].unit or ""
        if members[0].kind == "classification":
            share = efficiency(entries.predicted == entries.truth, entries.weight, entries.events)
            found.append(Metric(f"{name}: accuracy", *share))
            continue
        found += _residuals(name, entries.predicted - entries.truth, entries, unit)
    return found


def quantity_baselines(
    quantities: Sequence[Quantity], topology: Topology, evaluation: Evaluation
) -> list[Metric]:
    """Evaluate the median, or the most frequent class, of the targets in the training split."""
    source = evaluation if evaluation.train is None else evaluation.train
    of = "median" if evaluation.train is not None else "median of these events"
    found: list[Metric] = []
    for name, members in _alike(quantities).items():
        known = np.concatenate([np.asarray(source.targets[f"target/{m.target}"]) for m in members])
        entries = _entries(members, topology, evaluation)
        unit = evaluation.event.targets[members[0].target].unit or ""
        if members[0].kind == "classification":
            labels = known[known >= 0]
            best = np.bincount(labels.astype(np.int64)).argmax() if len(labels) else 0
            share = efficiency(entries.truth == best, entries.weight, entries.events)
            of_class = of.replace("median", "most frequent class")
            found.append(Metric(f"{name}: accuracy", *share, of=of_class))
            continue
        numbers = known[np.isfinite(known)]
        middle = float(np.median(numbers)) if len(numbers) else 0.0
        found += _residuals(name, middle - entries.truth, entries, unit, of)
    return found


def _residuals(
    name: str, residual: Array, entries: _Entries, unit: str, of: str = ""
) -> list[Metric]:
    bias = median(residual, entries.weight, entries.events)
    width = half_width(residual, entries.weight, entries.events)
    return [
        Metric(f"{name}: half 68 % width", *width, unit=unit, better="lower", of=of),
        Metric(f"{name}: bias", *bias, unit=unit, better="lower", of=of),
    ]


def _alike(quantities: Sequence[Quantity]) -> dict[str, list[Quantity]]:
    """Like targets by the name that they are shown with: that of the first."""
    groups: dict[str, list[Quantity]] = {}
    for each in quantities:
        groups.setdefault(each.learner, []).append(each)
    return {members[0].target: members for members in groups.values()}


def _entries(members: Sequence[Quantity], topology: Topology, evaluation: Evaluation) -> _Entries:
    predicted, truth, weight, events = [], [], [], []
    weighted = evaluation.weighted
    for plan in topology.processes:
        mine = [each for each in members if each.process == plan.number]
        if not mine or any(p.tensor not in evaluation.targets for p in plan.particles):
            continue
        judged = judge(plan, topology, evaluation)
        like = {(each.particle, each.product): each for each in mine}
        for each in mine:
            field = each.target if each.kind == "regression" else f"{each.target}/probabilities"
            value = np.asarray(evaluation.predictions[field], np.float64)[judged.rows]
            if each.kind == "classification":
                value = value.argmax(1).astype(np.float64)
            for (true, product), other in like.items():
                chosen = judged.matched[:, each.particle] & (judged.of[:, each.particle] == true)
                if each.product is not None and product is not None:
                    own = np.asarray(evaluation.predictions[plan.particles[each.particle].field])
                    real = np.asarray(evaluation.targets[plan.particles[true].tensor])
                    chosen = chosen & (own[judged.rows, each.product] == real[judged.rows, product])
                target = np.asarray(evaluation.targets[f"target/{other.target}"], np.float64)
                target = target[judged.rows]
                known = target >= 0 if each.kind == "classification" else np.isfinite(target)
                chosen = chosen & known
                predicted.append(value[chosen])
                truth.append(target[chosen])
                events.append(judged.rows[chosen])
                weight.append(np.asarray(evaluation.weight, np.float64)[judged.rows[chosen]])

    def joined(parts: list[Array]) -> Array:
        return np.concatenate(parts) if parts else np.zeros(0)

    return _Entries(
        joined(predicted),
        joined(truth),
        joined(weight) if weighted else None,
        joined([part.astype(np.float64) for part in events]).astype(np.int64),
    )
