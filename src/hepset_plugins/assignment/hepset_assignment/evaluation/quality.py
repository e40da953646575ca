"""How many assignments are right: the definitions of SPANet's papers, exact on the groups."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation, Metric
from hepset.schema.symmetry import PermutationGroup
from hepset.uncertainty import Estimate, auc, efficiency, weighted_mean
from hepset_assignment.likelihood import best_permutation
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = [
    "Judged",
    "cluster_names",
    "confidence_metrics",
    "detection_by_multiplicity",
    "detection_metrics",
    "detection_of",
    "detection_shares",
    "judge",
    "multiplicity_rows",
    "particle_purity",
    "purity_by_multiplicity",
    "purity_metrics",
    "same_assignment",
    "selection_metrics",
]

Array = NDArray[Any]

_DETECTED = 0.5
"""Probability from which on a particle is said to be there."""
_ROWS = 3
"""Rows by number of objects; the last holds all larger ones."""


@dataclass(frozen=True)
class Judged:
    """Assignments of one process compared with the truth.

    Attributes:
        rows: Events of the process, (E,).
        present: Whether a true particle is there with all products, (E, P).
        partial: Whether it is there with some of them, (E, P).
        matched: Whether a predicted particle is a true one, under the permutation that is best
            for the event, (E, P).
        of: The true particle that each predicted one is compared with, (E, P).
        right: Number of true particles that were found, (E,).
        found: Per true particle whether it was found, (E, P).
        counts: Real objects of the streams that products come from, (E,).
        weight: Physical weights (E,), None where all are one.
    """

    rows: Array
    present: Array
    partial: Array
    matched: Array
    of: Array
    right: Array
    found: Array
    counts: Array
    weight: Array | None

    @property
    def any_present(self) -> Array:
        """Events with a reconstructable particle, (E,)."""
        return np.asarray(self.present.any(axis=1))

    @property
    def event_right(self) -> Array:
        """Events in which all reconstructable particles were found, (E,)."""
        chosen: Array = np.equal(self.right, self.present.sum(axis=1))
        return chosen


def same_tuple(predicted: Array, truth: Array, group: PermutationGroup) -> Array:
    """Whether tuples (E, k) are the same up to what may be interchanged; never with −1."""
    same = np.zeros(len(truth), bool)
    for element in group.elements:
        same |= (predicted[:, list(element)] == truth).all(axis=1)
    known: Array = same & (truth >= 0).all(axis=1)
    return known


def judge(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    predictions: Mapping[str, Array] | None = None,
) -> Judged:
    """Compare predictions of a process with its targets.

    Args:
        plan: The process.
        topology: All that is assigned.
        evaluation: Targets, inputs and the head's predictions.
        predictions: Field → indices (event, product) instead of the head's.
    """
    given = evaluation.predictions if predictions is None else predictions
    size = len(evaluation)
    rows = np.arange(size)
    if len(topology.processes) > 1:
        process = evaluation.targets.get("process")
        rows = rows[:0] if process is None else rows[np.asarray(process) == plan.number]
    count = len(plan.particles)
    truth = [np.asarray(evaluation.targets[p.tensor])[rows] for p in plan.particles]
    chosen = [np.asarray(given[p.field])[rows] for p in plan.particles]
    present = np.stack([(t >= 0).all(axis=1) for t in truth], axis=1)
    some = np.stack([(t >= 0).any(axis=1) for t in truth], axis=1)
    correct = np.zeros((len(rows), count, count), bool)
    for orbit in plan.orbits:
        for own in orbit:
            for true in orbit:
                group = plan.particles[true].group
                correct[:, own, true] = same_tuple(chosen[own], truth[true], group)
    of = _most(correct, plan)
    matched = np.take_along_axis(correct, of[..., None], 2)[..., 0]
    found = np.zeros((len(rows), count), bool)
    if len(rows):
        np.put_along_axis(found, of, matched, axis=1)
    weight = np.asarray(evaluation.weight, np.float64)[rows] if evaluation.weighted else None
    return Judged(
        rows,
        present,
        some & ~present,
        matched,
        of,
        matched.sum(axis=1),
        found,
        _counts(plan, topology, evaluation)[rows],
        weight,
    )


def multiplicity_rows(judged: Judged) -> list[tuple[str, Array]]:
    """Rows by number of objects, from the smallest with a reconstructable particle on."""
    known = judged.counts[judged.any_present]
    if not len(known):
        return []
    least = int(known.min())
    rows = [(f"{least + n}", judged.counts == least + n) for n in range(_ROWS - 1)]
    return [*rows, (f">= {least + _ROWS - 1}", judged.counts >= least + _ROWS - 1)]


def purity_metrics(plan: ProcessPlan, judged: Judged, of: str = "") -> list[Metric]:
    """Return event and particle purities of one process."""
    title = f"{plan.name}: " if plan.name else ""
    number = judged.present.sum(axis=1)
    found: list[Metric] = []

    def add(name: str, estimate: Estimate) -> None:
        found.append(Metric(f"{title}{name}", estimate.value, estimate.error, of=of))

    def event_purity(chosen: Array) -> Estimate:
        return efficiency(judged.event_right[chosen], _at(judged.weight, chosen))

    at_least_one = judged.any_present
    add("event purity", event_purity(at_least_one))
    count = len(plan.particles)
    if count > 1:
        for size in range(1, count + 1):
            name = f"event purity, {size} of {count} reconstructable"
            add(name, event_purity(number == size))
    labels = cluster_names(plan)
    for orbit, label in zip(plan.orbits, labels, strict=True):
        members = list(orbit)
        add(f"{label} purity", particle_purity(judged, members, at_least_one))
        if count > 1:
            name = f"{label} purity, all {count} reconstructable"
            add(name, particle_purity(judged, members, number == count))
    return found


def purity_by_multiplicity(plan: ProcessPlan, judged: Judged, of: str = "") -> list[Metric]:
    """Return event purities by number of objects."""
    title = f"{plan.name}: " if plan.name else ""
    number, count = judged.present.sum(axis=1), len(plan.particles)
    found: list[Metric] = []
    for label, row in multiplicity_rows(judged):
        name = f"{title}event purity, {label} objects"
        for suffix, chosen in (
            ("", judged.any_present & row),
            (f", all {count} reconstructable", (number == count) & row),
        ):
            if suffix and count == 1:
                continue
            passed = judged.event_right[chosen]
            share = efficiency(passed, _at(judged.weight, chosen))
            found.append(Metric(f"{name}{suffix}", *share, of=of))
    return found


def detection_metrics(plan: ProcessPlan, judged: Judged, evaluation: Evaluation) -> list[Metric]:
    """Return efficiency and purity of particles that are said to be there, and the AUC of that.

    Efficiency: of the reconstructable particles, the share that is found, with a probability to be
    there above one half. Purity: of the particles said to be there, the share that is right.
    """
    chance = detection_of(plan, judged, evaluation)
    if chance is None:
        return []
    title = f"{plan.name}: " if plan.name else ""
    truth = np.take_along_axis(judged.present, judged.of, axis=1)
    groups = np.broadcast_to(judged.rows[:, None], truth.shape)
    weight = None if judged.weight is None else np.broadcast_to(judged.weight[:, None], truth.shape)
    everywhere = np.ones(len(judged.rows), bool)
    efficient, pure = detection_shares(judged, chance, everywhere)
    score = auc(chance.ravel(), truth.ravel(), _flat(weight), groups.ravel())
    return [
        Metric(f"{title}efficiency of detected particles", *efficient),
        Metric(f"{title}purity of detected particles", *pure),
        Metric(f"{title}detection AUC", *score),
    ]


def detection_by_multiplicity(
    plan: ProcessPlan, judged: Judged, evaluation: Evaluation
) -> list[Metric]:
    """Return efficiency and purity of detected particles by number of objects."""
    chance = detection_of(plan, judged, evaluation)
    if chance is None:
        return []
    title = f"{plan.name}: " if plan.name else ""
    found: list[Metric] = []
    for label, row in multiplicity_rows(judged):
        efficient, pure = detection_shares(judged, chance, row)
        found += [
            Metric(f"{title}efficiency of detected particles, {label} objects", *efficient),
            Metric(f"{title}purity of detected particles, {label} objects", *pure),
        ]
    return found


def detection_of(plan: ProcessPlan, judged: Judged, evaluation: Evaluation) -> Array | None:
    """Return the predicted probabilities to be there, (E, P); None where there are none."""
    fields = [f"{p.field}/detection" for p in plan.particles]
    if any(field not in evaluation.predictions for field in fields):
        return None
    columns = [np.asarray(evaluation.predictions[field])[judged.rows] for field in fields]
    return np.stack(columns, axis=1)


def detection_shares(judged: Judged, chance: Array, rows: Array) -> tuple[Estimate, Estimate]:
    """Return efficiency and purity of what is detected in some events, given by a mask (E,)."""
    # Predicted and true particles are paired by what was assigned, as everything else.
    truth = np.take_along_axis(judged.present, judged.of, axis=1)
    detected = chance > _DETECTED
    groups = np.broadcast_to(judged.rows[:, None], truth.shape)
    weight = None if judged.weight is None else np.broadcast_to(judged.weight[:, None], truth.shape)

    def share(passed: Array, among: Array) -> Estimate:
        among = among & rows[:, None]
        return efficiency(passed[among], _at(weight, among), groups[among])

    return share(detected & judged.matched, truth), share(judged.matched, detected)


def selection_metrics(
    plan: ProcessPlan, topology: Topology, evaluation: Evaluation, judged: Judged
) -> list[Metric]:
    """Compare greedy and exact selection from the same scores, where the head has done both."""
    title = f"{plan.name}: " if plan.name else ""
    found: list[Metric] = []
    for method in ("greedy", "exact"):
        others = {p.field: f"{method}/{p.field}" for p in plan.particles}
        if any(field not in evaluation.diagnoses for field in others.values()):
            continue
        indices = {field: evaluation.diagnoses[other] for field, other in others.items()}
        rows = judged.rows
        mine = [np.asarray(evaluation.predictions[field])[rows] for field in indices]
        theirs = [np.asarray(index)[rows] for index in indices.values()]
        differ = ~same_assignment(plan, mine, theirs)
        share = efficiency(differ, judged.weight)
        found.append(Metric(f"{title}greedy and exact selection differ", *share, better="lower"))
        other = judge(plan, topology, evaluation, indices)
        chosen = other.any_present
        purity = efficiency(other.event_right[chosen], _at(other.weight, chosen))
        found.append(Metric(f"{title}event purity with {method} selection", *purity))
    return found


def confidence_metrics(plan: ProcessPlan, judged: Judged, evaluation: Evaluation) -> list[Metric]:
    """Say whether confident events are right: their AUC, and how far confidence is off on average.

    Of events with a reconstructable particle.
    """
    confidence = evaluation.predictions.get(f"{plan.prefix}confidence")
    if confidence is None:
        return []
    title = f"{plan.name}: " if plan.name else ""
    chosen = judged.any_present
    said = np.asarray(confidence, np.float64)[judged.rows][chosen]
    right, weight = judged.event_right[chosen], _at(judged.weight, chosen)
    return [
        Metric(f"{title}confidence, AUC of right events", *auc(said, right, weight)),
        Metric(f"{title}confidence: bias", *weighted_mean(said - right, weight), "", "lower"),
    ]


def same_assignment(
    plan: ProcessPlan, first: Sequence[Array], second: Sequence[Array]
) -> NDArray[np.bool_]:
    """Return whether two assignments are the same up to what may be interchanged, (E,)."""
    count = len(plan.particles)
    same = np.zeros((len(first[0]), count, count), bool)
    for orbit in plan.orbits:
        for own in orbit:
            for other in orbit:
                group = plan.particles[other].group
                neither = (first[own] < 0).all(axis=1) & (second[other] < 0).all(axis=1)
                same[:, own, other] = neither | same_tuple(first[own], second[other], group)
    order = _most(same, plan)
    return np.asarray(np.take_along_axis(same, order[..., None], 2).all(axis=(1, 2)))


def _most(agrees: Array, plan: ProcessPlan) -> Array:
    """The permutation under which most particles (E, own, true) agree, (E, P)."""
    cost = torch.from_numpy(-agrees.astype(np.float64))
    order: Array = best_permutation(cost, plan).numpy()
    return order


def particle_purity(judged: Judged, members: Sequence[int], chosen: Array) -> Estimate:
    """Return the share of the reconstructable particles of some kinds and events that are found."""
    present = judged.present[:, list(members)] & chosen[:, None]
    found = judged.found[:, list(members)][present]
    groups = np.broadcast_to(judged.rows[:, None], present.shape)[present]
    if judged.weight is None:
        return efficiency(found, None, groups if len(members) > 1 else None)
    weight = np.broadcast_to(judged.weight[:, None], present.shape)[present]
    return efficiency(found, weight, groups)


def _counts(plan: ProcessPlan, topology: Topology, evaluation: Evaluation) -> Array:
    named = {stream for particle in plan.particles for stream in particle.streams}
    streams = topology.streams if None in named else [s for s in topology.streams if s in named]
    total = np.zeros(len(evaluation), np.int64)
    for stream in streams:
        total += np.asarray(evaluation.inputs[f"{stream}.mask"]).sum(axis=1)
    return total


def cluster_names(plan: ProcessPlan) -> list[str]:
    """Return what the names of each orbit's particles have in common, or all of them."""
    found: list[str] = []
    for orbit in plan.orbits:
        names = [plan.particles[p].field.rpartition("/")[2] for p in orbit]
        common = "".join(
            letters[0]
            for letters in itertools.takewhile(
                lambda each: len(set(each)) == 1, zip(*names, strict=False)
            )
        )
        found.append(common if common and common not in found else ", ".join(names))
    return found


def _at(weight: Array | None, chosen: Array) -> Array | None:
    return None if weight is None else weight[chosen]


def _flat(weight: Array | None) -> Array | None:
    return None if weight is None else weight.ravel()
