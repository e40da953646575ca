"""`AssignmentLoss`: losses per event of the head ``assignment``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.interfaces.head import LossTerm
from hepset.schema.statistics import Statistics
from hepset_assignment.balance import object_table, particle_table
from hepset_assignment.config import AssignmentConfig
from hepset_assignment.joint_likelihood import IMPOSSIBLE, Joint, has_joint, touching
from hepset_assignment.likelihood import (
    compatible,
    focal,
    negative_log_likelihood,
    overlap_penalty,
    symmetrise,
)
from hepset_assignment.object_axes import absolute, extents_of
from hepset_assignment.selection import Candidates
from hepset_assignment.topology import Particle, ProcessPlan, Topology
from hepset_assignment.tuple_space import EXISTS, TupleSpace

__all__ = ["AssignmentLoss", "Compared"]

_MOST_SOFTMIN = 10
"""Interchangeable particles whose permutations ``softmin`` can weight."""


@dataclass
class Compared:
    """One process of a batch compared with its targets.

    Attributes:
        mine: Events of the process, (B,).
        agrees: Per true particle, which tuples agree with what is known of it, (B, C).
        known: Whether anything is known that a tuple agrees with, (B, P) by true particle.
        complete: Whether a true particle is there with all its products, (B, P).
        taken: Per true particle, which objects its known products are, (B, T).
        order: The true particle that each particle is compared with, (B, P).
        terms: Losses by name.
    """

    mine: Tensor
    agrees: list[Tensor] = field(default_factory=list)
    taken: list[Tensor] = field(default_factory=list)
    known: Tensor = field(default_factory=lambda: torch.empty(0))
    complete: Tensor = field(default_factory=lambda: torch.empty(0))
    order: Tensor = field(default_factory=lambda: torch.empty(0))
    terms: dict[str, LossTerm] = field(default_factory=dict)


class AssignmentLoss(nn.Module):
    """Compares the scores of tuples with the true ones.

    Args:
        topology: What is assigned.
        config: Options of the head.
        space: The tuples.
        statistics: Of the training split.
        where: Name of the head's configuration, for messages.

    Raises:
        ConfigurationError: If the options do not fit the topology, or the statistics lack what
            they need.
    """

    def __init__(
        self,
        topology: Topology,
        config: AssignmentConfig,
        space: TupleSpace,
        statistics: Statistics,
        where: str,
    ) -> None:
        super().__init__()
        self.topology = topology
        self.config = config
        self.space = space
        self.parity = config.parity == "spanet"
        for plan in topology.processes:
            largest = max((len(orbit) for orbit in plan.orbits), default=1)
            if config.combination == "softmin" and plan.order > 1 and largest > _MOST_SOFTMIN:
                raise ConfigurationError(
                    f"{where}.combination: softmin cannot weight the permutations of {largest} "
                    f"particles, at most of {_MOST_SOFTMIN}; use min"
                )
            if config.balance_particles and plan.particles:
                table = particle_table(
                    statistics,
                    plan.group,
                    process=plan.name,
                    number=plan.number,
                    parity=self.parity,
                    where=f"{where}.balance_particles",
                )
                self.register_buffer(f"particles{plan.number}", torch.from_numpy(table).float())
        if config.balance_objects:
            table = object_table(statistics, parity=self.parity, where=f"{where}.balance_objects")
            self.register_buffer("objects", torch.from_numpy(table).float())

    def forward(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[dict[str, LossTerm], dict[int, Compared]]:
        """Compute the terms, summed over processes, and what they were made of by process.

        Returns:
            ``assignment``, ``detection``, ``overlap`` and, where they are limited, ``candidates``.
        """
        batch = outputs["scores.0"].shape[0]
        zero = outputs["scores.0"].new_zeros(batch)
        never = torch.zeros_like(zero, dtype=torch.bool)
        sums = {name: LossTerm(zero, never) for name in self._terms}
        compared = {}
        for plan in self.topology.processes:
            if not plan.particles or any(p.tensor not in targets for p in plan.particles):
                continue
            found = self._process(plan, outputs, targets)
            compared[plan.number] = found
            for name, term in found.terms.items():
                before = sums[name]
                value = before.value + torch.where(term.valid, term.value, 0.0)
                sums[name] = LossTerm(value, before.valid | term.valid)
        return sums, compared

    @property
    def _limited(self) -> bool:
        return any(limits is not None for limits in self.space.limits)

    @property
    def _terms(self) -> list[str]:
        terms = ["assignment"]
        if self.config.detection_loss_weight > 0:
            terms.append("detection")
        if self.config.overlap_loss_weight > 0 and any(p.order > 1 for p in self._plans):
            terms.append("overlap")
        if self._limited:
            terms.append("candidates")
        return terms

    @property
    def _plans(self) -> list[ProcessPlan]:
        return [plan for plan in self.topology.processes if plan.particles]

    def _process(
        self, plan: ProcessPlan, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> Compared:
        zero = outputs["scores.0"].new_zeros(outputs["scores.0"].shape[0])
        mine = torch.ones_like(zero, dtype=torch.bool)
        if len(self.topology.processes) > 1:
            process = targets.get("process")
            mine = mine & (False if process is None else process == plan.number)
        extents = extents_of(self.topology, outputs)
        count = len(plan.particles)
        orbit_of = {p: number for number, orbit in enumerate(plan.orbits) for p in orbit}
        losses: dict[tuple[int, int], Tensor] = {}
        found: dict[tuple[int, int], Tensor] = {}
        compared = Compared(mine)
        known, complete, weights, pointed = [], [], [], zero
        for true, particle in enumerate(plan.particles):
            kind = self.topology.kinds[particle.kind]
            objects = self.space.of(particle.kind, outputs).objects
            wanted = absolute(particle.streams, targets[particle.tensor], extents)
            scores = outputs[f"scores.{particle.kind}"]
            agrees = compatible(objects, wanted, kind) & (scores[:, 0] > EXISTS)
            compared.agrees.append(agrees)
            whole = (wanted >= 0).all(1)
            some = (wanted >= 0).any(1) if self._partial else whole
            used = some & mine & agrees.any(1)
            slot = torch.arange(extents.sizes[None], device=wanted.device)
            compared.taken.append((wanted[..., None] == slot).any(1) & used[:, None])
            known.append(used)
            complete.append(whole)
            weights.append(_weight(particle, targets, zero))
            value = negative_log_likelihood(scores, agrees, self.config.focal_gamma)
            value = torch.where(used[:, None], value, 0.0)
            if f"pointer.{particle.kind}.0" in outputs:
                part = self._pointer_loss(particle.kind, wanted, outputs)
                pointed = pointed + torch.where(some & mine, part, 0.0)
            logits = outputs.get(f"detection.{particle.kind}")
            if logits is not None:
                truth = whole[:, None].expand_as(logits).to(logits.dtype)
                detected = functional.binary_cross_entropy_with_logits(
                    logits, truth, reduction="none"
                )
            for own, other in enumerate(plan.particles):
                if orbit_of[own] == orbit_of[true]:
                    losses[own, true] = value[:, other.query]
                    if logits is not None:
                        found[own, true] = detected[:, other.query]
        compared.known = torch.stack(known, 1)
        compared.complete = torch.stack(complete, 1)
        if not self.config.partial_events:
            mine = mine & compared.complete.all(1)
            compared.mine, compared.known = mine, compared.known & mine[:, None]
        weight = torch.stack(weights, 1)[:, None, :]
        assignment = _matrix(losses, count, zero)
        detection = self.config.detection_loss_weight * _matrix(found, count, zero)
        # A negative weight must not make the worst permutation the best.
        choice = (assignment + detection) * (weight if self.parity else weight.abs())
        combined = symmetrise(
            assignment * weight, detection * weight, plan, self.config.combination, choice
        )
        compared.order = combined.order
        balance = self._balance(plan, compared, outputs)
        scaled = balance[:, None] * torch.stack([combined.assignment, combined.detection])
        if self.parity:
            present = (compared.complete & mine[:, None]).gather(1, combined.order)
            scaled = scaled * _parity_factor(present, mine)
            sums, used = scaled.sum(2), mine
        else:
            sums, used = scaled.sum(2), compared.known.any(1)
            if self.config.likelihood == "joint" and has_joint(plan, shared=self.topology.shared):
                value, fits = self._joint(plan, compared, outputs)
                worth = (torch.stack(weights, 1) * compared.known).sum(1)
                worth = balance * worth / compared.known.sum(1).clamp(min=1)
                sums = torch.stack([torch.where(fits, worth * value, sums[0]), sums[1]])
        compared.terms = {"assignment": LossTerm(sums[0], used)}
        if self.config.detection_loss_weight > 0:
            compared.terms["detection"] = LossTerm(sums[1], mine)
        if "overlap" in self._terms and plan.order > 1:
            compared.terms["overlap"] = self._overlap(plan, compared, outputs, balance)
        if self._limited:
            compared.terms["candidates"] = LossTerm(balance * pointed, mine & (pointed > 0))
        return compared

    def _joint(
        self, plan: ProcessPlan, compared: Compared, outputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """-ln of the probability of everything known together, and where it is one, (B,).

        Not where the truth is no combination that is listed.
        """
        extents = extents_of(self.topology, outputs)
        listed = {
            (p.kind, p.query): Candidates(
                outputs[f"scores.{p.kind}"][:, p.query], self.space.of(p.kind, outputs).objects
            )
            for p in plan.particles
        }
        allowed = [
            agrees | ~known[:, None]
            for agrees, known in zip(compared.agrees, compared.known.unbind(1), strict=True)
        ]
        candidates = [listed[p.kind, p.query] for p in plan.particles]
        joint = Joint(
            plan,
            candidates,
            extents.sizes[None],
            [
                part & ~touching(candidates[own].objects, _others(compared.taken, own))
                for own, part in enumerate(allowed)
            ],
        )
        logarithm = joint.logarithm(allowed)
        fits = compared.known.any(1) & (logarithm > IMPOSSIBLE)
        return focal(torch.where(fits, logarithm, 0.0), self.config.focal_gamma), fits

    @property
    def _partial(self) -> bool:
        return self.config.partial_products and not self.parity

    def _balance(
        self, plan: ProcessPlan, compared: Compared, outputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Weight of each event against rare kinds of events, (B,)."""
        weight = torch.ones_like(outputs["scores.0"][:, 0, 0])
        if self.config.balance_particles:
            table = self.get_buffer(f"particles{plan.number}")
            powers = 1 << torch.arange(len(plan.particles), device=weight.device)
            weight = weight * table[(compared.complete * powers).sum(1)]
        if self.config.balance_objects:
            table = self.get_buffer("objects")
            masks = [outputs[f"mask.{name}"].sum(1) for name in self.topology.streams]
            number = torch.stack(masks).sum(0).clamp(max=len(table) - 1)
            weight = weight * table[number]
        return weight

    def _overlap(
        self,
        plan: ProcessPlan,
        compared: Compared,
        outputs: Mapping[str, Tensor],
        balance: Tensor,
    ) -> LossTerm:
        """Penalty of interchangeable particles that look at the same tuples."""
        present = (compared.complete & compared.mine[:, None]).gather(1, compared.order)
        total = torch.zeros_like(balance)
        pairs = plan.group.transpositions
        for i, j in pairs:
            first, second = plan.particles[i], plan.particles[j]
            scores = outputs[f"scores.{first.kind}"]
            penalty = overlap_penalty(
                scores[:, first.query], scores[:, second.query], parity=self.parity
            )
            total = total + torch.where(present[:, i] & present[:, j], penalty, 0.0)
        value = self.config.overlap_loss_weight * balance * total / len(pairs)
        valid = present.sum(1) > 1
        if self.parity:
            # SPANet sums the penalty once for every particle and kind of term.
            events = compared.mine.sum() / present.sum().clamp(min=1)
            value, valid = 2 * len(plan.particles) * value * events, compared.mine
        return LossTerm(value, valid)

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


def _parity_factor(present: Tensor, mine: Tensor) -> Tensor:
    """Turns the mean over events into SPANet's sum over events by those with the particle, (P,)."""
    factor: Tensor = mine.sum() / present.sum(0).clamp(min=1)
    return factor


def _others(taken: Sequence[Tensor], own: int) -> Tensor:
    """Objects that the other particles are known to have, (B, T)."""
    return torch.stack([part for number, part in enumerate(taken) if number != own]).any(0)


def _weight(particle: Particle, targets: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Weight of a true particle's terms, (B,)."""
    weight = targets.get(particle.weight_tensor)
    return torch.ones_like(like) if weight is None else weight.to(like.dtype)


def _matrix(values: Mapping[tuple[int, int], Tensor], count: int, zero: Tensor) -> Tensor:
    """(B, P, P) of values by (particle, target); 0 where the two are never compared."""
    rows = [
        torch.stack([values.get((own, true), zero) for true in range(count)], -1)
        for own in range(count)
    ]
    return torch.stack(rows, 1)
