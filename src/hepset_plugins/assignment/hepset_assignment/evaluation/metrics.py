"""All numbers of the assignment: the head's, and what simple methods give on the same events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hepset.interfaces.head import Evaluation, Metric
from hepset_assignment.evaluation.baseline import Simple, simple_assignment
from hepset_assignment.evaluation.masses import mass_metrics
from hepset_assignment.evaluation.quality import (
    Judged,
    confidence_metrics,
    detection_by_multiplicity,
    detection_metrics,
    judge,
    purity_by_multiplicity,
    purity_metrics,
    selection_metrics,
)
from hepset_assignment.evaluation.sculpting import NOISE, sculpting_metrics
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = ["TRUTH", "Case", "baselines", "compared", "judgeable", "metrics"]

TRUTH = "true objects"
"""What an assignment without any mistake gives."""


def judgeable(topology: Topology, evaluation: Evaluation) -> Iterator[tuple[int, ProcessPlan]]:
    """Yield the processes with particles whose truth is there, with their numbers."""
    for number, plan in enumerate(topology.processes):
        if plan.particles and all(p.tensor in evaluation.targets for p in plan.particles):
            yield number, plan


class Case(NamedTuple):
    """A process as the head and a simple method assign it.

    Attributes:
        number: Of the process.
        plan: The process.
        judged: The head's assignment beside the truth.
        simple: The simple method and what it assigns.
        other: That assignment beside the truth.
    """

    number: int
    plan: ProcessPlan
    judged: Judged
    simple: Simple
    other: Judged


def compared(topology: Topology, evaluation: Evaluation) -> list[Case]:
    """Compare the assignment of every process, and a simple one, with the truth."""
    found = []
    for number, plan in judgeable(topology, evaluation):
        simple = simple_assignment(plan, topology, evaluation)
        judged = judge(plan, topology, evaluation)
        other = judge(plan, topology, evaluation, simple.predictions)
        found.append(Case(number, plan, judged, simple, other))
    return found


def metrics(
    topology: Topology, evaluation: Evaluation, cases: Sequence[Case] | None = None
) -> list[Metric]:
    """Return purities, masses, detection and selection of every process, in this order.

    The numbers by multiplicity come last.
    """
    found: list[Metric] = []
    for _, plan, judged, _, _ in cases or compared(topology, evaluation):
        found += purity_metrics(plan, judged)
        found += mass_metrics(plan, topology, evaluation, judged, evaluation.predictions)
        found += sculpting_metrics(plan, topology, evaluation, judged)
        found += detection_metrics(plan, judged, evaluation)
        found += confidence_metrics(plan, judged, evaluation)
        found += selection_metrics(plan, topology, evaluation, judged)
        found += purity_by_multiplicity(plan, judged)
        found += detection_by_multiplicity(plan, judged, evaluation)
    return found


def baselines(
    topology: Topology, evaluation: Evaluation, cases: Sequence[Case] | None = None
) -> list[Metric]:
    """Evaluate the simple assignment of every process, and the masses of the true objects."""
    found: list[Metric] = []
    for _, plan, _, simple, judged in cases or compared(topology, evaluation):
        indices = simple.predictions
        found += purity_metrics(plan, judged, simple.of)
        found += mass_metrics(plan, topology, evaluation, judged, indices, simple.of)
        found += mass_metrics(plan, topology, evaluation, judged, None, TRUTH, limit=True)
        found += sculpting_metrics(plan, topology, evaluation, judged, indices, simple.of)
        found += sculpting_metrics(plan, topology, evaluation, judged, None, NOISE, noise=True)
        found += purity_by_multiplicity(plan, judged, simple.of)
    return found
