"""`AssignmentLoss`: losses per event of the head ``assignment``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hepset.interfaces.head import LossTerm
from hepset_spanet.assignment.candidates import EXISTS, TupleSpace
from hepset_spanet.assignment.config import AssignmentConfig
from hepset_spanet.assignment.objective import (
    Symmetrised,
    compatible,
    negative_log_likelihood,
    symmetrise,
)
from hepset_spanet.assignment.places import absolute, extents_of
from hepset_spanet.assignment.topology import ProcessPlan, Topology

__all__ = ["AssignmentLoss"]


class AssignmentLoss:
    """Compares the scores of tuples with the true ones.

    Args:
        topology: What is assigned.
        config: Options of the head.
        space: The tuples.
    """

    def __init__(self, topology: Topology, config: AssignmentConfig, space: TupleSpace) -> None:
        self.topology = topology
        self.config = config
        self.space = space

    def __call__(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Compute ``assignment`` and ``detection``, and ``candidates`` where they are limited."""
        batch = outputs["scores.0"].shape[0]
        zero = outputs["scores.0"].new_zeros(batch)
        never = torch.zeros_like(zero, dtype=torch.bool)
        sums = {name: LossTerm(zero, never) for name in self._terms}
        for plan in self.topology.processes:
            if not plan.particles or any(p.tensor not in targets for p in plan.particles):
                continue
            for name, term in self._process(plan, outputs, targets).items():
                before = sums[name]
                value = before.value + torch.where(term.valid, term.value, 0.0)
                sums[name] = LossTerm(value, before.valid | term.valid)
        return sums

    @property
    def _limited(self) -> bool:
        return any(limits is not None for limits in self.space.limits)

    @property
    def _terms(self) -> list[str]:
        terms = ["assignment"]
        if self.config.detection_loss_weight > 0:
            terms.append("detection")
        if self._limited:
            terms.append("candidates")
        return terms

    def _process(
        self, plan: ProcessPlan, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        batch = outputs["scores.0"].shape[0]
        device = outputs["scores.0"].device
        mine = torch.ones(batch, dtype=torch.bool, device=device)
        if len(self.topology.processes) > 1:
            process = targets.get("process")
            mine = mine & (False if process is None else process == plan.number)
        extents = extents_of(self.topology, outputs)
        count = len(plan.particles)
        orbit_of = {p: number for number, orbit in enumerate(plan.orbits) for p in orbit}
        zero = outputs["scores.0"].new_zeros(batch)
        losses: dict[tuple[int, int], Tensor] = {}
        found: dict[tuple[int, int], Tensor] = {}
        pointed = zero
        any_used = torch.zeros_like(mine)
        for true, particle in enumerate(plan.particles):
            kind = self.topology.kinds[particle.kind]
            objects = self.space.of(particle.kind, outputs).objects
            wanted = absolute(particle.streams, targets[particle.tensor], extents)
            scores = outputs[f"scores.{particle.kind}"]
            agrees = compatible(objects, wanted, kind) & (scores[:, 0] > EXISTS)
            complete = (wanted >= 0).all(1)
            known = (wanted >= 0).any(1) if self.config.partial_products else complete
            used = known & mine & agrees.any(1)
            any_used = any_used | used
            value = negative_log_likelihood(scores, agrees, self.config.focal_gamma)
            value = torch.where(used[:, None], value, 0.0)
            if f"pointer.{particle.kind}.0" in outputs:
                part = self._pointer_loss(particle.kind, wanted, outputs)
                pointed = pointed + torch.where(known & mine, part, 0.0)
            logits = outputs.get(f"detection.{particle.kind}")
            if logits is not None:
                truth = complete[:, None].expand_as(logits).to(logits.dtype)
                detected = functional.binary_cross_entropy_with_logits(
                    logits, truth, reduction="none"
                )
            for own, other in enumerate(plan.particles):
                if orbit_of[own] == orbit_of[true]:
                    losses[own, true] = value[:, other.query]
                    if logits is not None:
                        found[own, true] = detected[:, other.query]
        combined = symmetrise(
            _matrix(losses, count, zero),
            _matrix(found, count, zero) if found else None,
            plan.elements,
            self.config.combination,
            self.config.detection_loss_weight,
        )
        return self._named(combined, pointed, any_used, mine)

    def _named(
        self, combined: Symmetrised, pointed: Tensor, used: Tensor, mine: Tensor
    ) -> dict[str, LossTerm]:
        terms = {"assignment": LossTerm(combined.assignment, used)}
        weight = self.config.detection_loss_weight
        if weight > 0:
            terms["detection"] = LossTerm(weight * combined.detection, mine)
        if self._limited:
            terms["candidates"] = LossTerm(pointed, mine & (pointed > 0))
        return terms

    def _pointer_loss(self, number: int, wanted: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the known products with the scores that limit the candidates, (B,)."""
        offsets = extents_of(self.topology, outputs).offsets
        kind = self.topology.kinds[number]
        total = torch.zeros_like(outputs["scores.0"][:, 0, 0])
        for product, orbit in enumerate(kind.orbit_of):
            pointer = outputs[f"pointer.{number}.{orbit}"]
            place = wanted[:, product] - offsets[kind.streams[product]]
            known = (wanted[:, product] >= 0) & (place >= 0) & (place < pointer.shape[1])
            slot = torch.where(known, place, 0)[:, None]
            chosen = pointer.gather(1, slot)[:, 0]
            known = known & (chosen > EXISTS)
            value = torch.logsumexp(pointer, 1) - torch.where(known, chosen, 0.0)
            total = total + torch.where(known, value, 0.0)
        return total


def _matrix(values: Mapping[tuple[int, int], Tensor], count: int, zero: Tensor) -> Tensor:
    """(B, P, P) of values by (particle, target); 0 where the two are never compared."""
    rows = [
        torch.stack([values.get((own, true), zero) for true in range(count)], -1)
        for own in range(count)
    ]
    return torch.stack(rows, 1)
