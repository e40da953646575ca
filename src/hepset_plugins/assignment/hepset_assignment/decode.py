"""From scores of tuples to the assignment of an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset_assignment.config import AssignmentConfig
from hepset_assignment.joint_likelihood import Joint, has_joint
from hepset_assignment.object_axes import extents_of, row
from hepset_assignment.selection import FORBIDDEN, Candidates, exact, greedy
from hepset_assignment.topology import ProcessPlan, Topology
from hepset_assignment.tuple_space import EXISTS, TupleSpace

__all__ = ["decide"]


class _Outcome(NamedTuple):
    """What one output says: tuples with ln p, the probability to be there, ln of the opposite.

    The candidates of the selection may have the detection in their scores, the tuples have not.
    """

    candidates: Candidates
    tuples: Candidates
    logarithm: Tensor
    certainty: Tensor | None
    absent: Tensor | None


def decide(
    plan: ProcessPlan,
    outputs: Mapping[str, Tensor],
    space: TupleSpace,
    config: AssignmentConfig,
) -> dict[str, Tensor]:
    """Choose the assignment of one process; fields as `AssignmentHead.decode` has them."""
    sizes, offsets = extents_of(space.topology, outputs)
    # Particles that share an output share the very tensors, of which the selection makes use.
    outcomes = {
        (particle.kind, particle.query): _outcome(
            particle.kind, particle.query, outputs, space, config
        )
        for particle in plan.particles
    }
    chosen = [outcomes[particle.kind, particle.query] for particle in plan.particles]
    candidates = [each.candidates for each in chosen]
    absent = [each.absent for each in chosen if each.absent is not None]
    count = sizes[None]
    unassigned = absent or None
    shared = space.topology.shared
    if config.selection == "greedy":
        found = greedy(candidates, count, unassigned=unassigned, shared=shared)
    else:
        found = exact(
            candidates,
            count,
            unassigned=unassigned,
            shared=shared,
            width=config.selection_width,
        )
    chances, whole = _chances(plan, chosen, found.chosen, count, space.topology, config)
    fields: dict[str, Tensor] = {f"{plan.prefix}probability": whole}
    for number, particle in enumerate(plan.particles):
        index, cell = found.indices[number], found.chosen[number]
        shift = row([offsets[s] for s in particle.streams], index)
        assigned = cell >= 0
        fields[particle.field] = torch.where(assigned[:, None], index - shift, -1)
        fields[f"{particle.field}/probability"] = torch.where(assigned, chances[number], 0.0)
        certainty = chosen[number].certainty
        if certainty is not None:
            fields[f"{particle.field}/detection"] = certainty
    if config.selection == "exact":
        fields[f"{plan.prefix}certified"] = found.certified
    return fields


def _chances(
    plan: ProcessPlan,
    outcomes: Sequence[_Outcome],
    cells: Sequence[Tensor],
    objects: int,
    topology: Topology,
    config: AssignmentConfig,
) -> tuple[list[Tensor], Tensor]:
    """Probability that each particle's tuple is right, and that all are, (B,)."""
    alone = [
        outcome.logarithm.gather(1, cell.clamp(min=0)[:, None])[:, 0]
        for outcome, cell in zip(outcomes, cells, strict=True)
    ]
    joint = config.likelihood == "joint" and config.parity == "none"
    if not (joint and has_joint(plan, shared=topology.shared)):
        parts = [
            torch.where(cell >= 0, value, 0.0) for value, cell in zip(alone, cells, strict=True)
        ]
        return [value.exp() for value in alone], torch.stack(parts).sum(0).exp()
    picked = []
    for outcome, cell in zip(outcomes, cells, strict=True):
        number = torch.arange(outcome.logarithm.shape[1], device=cell.device)
        picked.append((number == cell[:, None]) | (cell < 0)[:, None])
    tuples = [outcome.tuples for outcome in outcomes]
    combined = Joint(plan, tuples, objects, picked, fade=True)
    anything = [torch.ones_like(part) for part in picked]
    chances = [
        combined.probability([*anything[:number], part, *anything[number + 1 :]])
        for number, part in enumerate(picked)
    ]
    return chances, combined.probability(picked)


def _outcome(
    number: int,
    query: int,
    outputs: Mapping[str, Tensor],
    space: TupleSpace,
    config: AssignmentConfig,
) -> _Outcome:
    scores = outputs[f"scores.{number}"][:, query].float()
    logarithm = torch.log_softmax(scores, 1)
    value, certainty, absent = logarithm, None, None
    logits = outputs.get(f"detection.{number}")
    if logits is not None:
        logit = logits[:, query]
        certainty = torch.sigmoid(logit)
        if config.use_detection:
            value = logarithm + functional.logsigmoid(logit)[:, None]
            absent = functional.logsigmoid(-logit)
    exists = scores > EXISTS
    objects = space.of(number, outputs).objects
    return _Outcome(
        Candidates(torch.where(exists, value, FORBIDDEN), objects),
        Candidates(torch.where(exists, logarithm, FORBIDDEN), objects),
        logarithm,
        certainty,
        absent,
    )
