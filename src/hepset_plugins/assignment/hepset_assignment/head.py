"""`AssignmentHead`: which objects are the products of which particle."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    EncoderHandle,
    Head,
    HeadConfig,
    LossTerm,
    Prediction,
)
from hepset.nn.export_mode import is_exporting
from hepset.nn.mlp import MLP
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_assignment.confidence import Confidence, features_of, right_events
from hepset_assignment.config import AssignmentConfig
from hepset_assignment.decode import decide
from hepset_assignment.joint_likelihood import has_joint
from hepset_assignment.loss import AssignmentLoss, Compared
from hepset_assignment.object_axes import (
    Axis,
    absolute,
    axes_again,
    axes_of,
    extents_of,
    kept,
    row,
    trimmed,
)
from hepset_assignment.particle_targets import (
    Placed,
    Quantities,
    Quantity,
    QuantityKind,
    Seen,
    quantities_of,
)
from hepset_assignment.selection import FORBIDDEN
from hepset_assignment.topology import Particle, ProcessPlan, Topology, make_topology
from hepset_assignment.tuple_scorer import TupleScorer, Where
from hepset_assignment.tuple_space import EXISTS, TupleSpace

__all__ = ["AssignmentConfig", "AssignmentHead"]

_LOG = logging.getLogger(__name__)


class AssignmentHead(Head):
    """Scores tuples of objects for every particle, and chooses them jointly.

    Particles of equal structure are one batched computation with common weights. A tuple exists
    where its objects are real and distinct, and come from the streams that the products declare;
    only those are computed. Its probability is a softmax over all tuples of the particle.

    Args:
        name: Name of the head.
        config: Options.
    """

    Config: ClassVar[type[HeadConfig]] = AssignmentConfig
    proofs: ClassVar[frozenset[str]] = frozenset({"certified"})
    config: AssignmentConfig
    weighs_targets: ClassVar[bool] = True

    def __init__(self, name: str, config: HeadConfig) -> None:
        super().__init__(name, config)
        self._event: EventInfo | None = None
        self._quantities: list[Quantity] = []

    def contract(self, event: EventInfo) -> Contract:
        """Require the indices of every particle, and the process where there are several.

        Raises:
            ConfigurationError: If the event has no particles, or symmetric ones differ.
        """
        where = f"model.heads.{self.name}"
        topology = make_topology(event, queries=self.config.particle_queries, where=where)
        if self.config.mass_features and not _with_momentum(event, topology):
            raise ConfigurationError(
                f"{where}.mass_features: no stream of a product has a four-momentum; declare `p4` "
                "in the event file, or set mass_features: false"
            )
        self._event = event
        specs = compile_contract(event)
        named: dict[QuantityKind, Sequence[str]] = {
            "regression": self.config.regressions,
            "classification": self.config.classifications,
        }
        self._quantities = quantities_of(event, topology, named, where)
        wanted = [particle.tensor for plan in topology.processes for particle in plan.particles]
        wanted += [f"target/{each.target}" for each in self._quantities]
        if len(topology.processes) > 1:
            wanted.append("process")
        tensors = {
            name: specs[name].model_copy(update={"required": True, "wanted_by": (self.name,)})
            for name in wanted
        }
        return Contract(tensors=tensors)

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Make the layers; `contract` has been called with the event before.

        Raises:
            ConfigurationError: If `contract` has not been called.
        """
        event = self._event
        if event is None:
            raise ConfigurationError(
                f"model.heads.{self.name}: call contract(event) before build: the symmetries are "
                "part of the event, not of the tensors"
            )
        config = self.config
        where = f"model.heads.{self.name}"
        self.topology = make_topology(event, queries=config.particle_queries, where=where)
        self.momenta = _with_momentum(event, self.topology)
        uses_masses = config.mass_features is not False and bool(self.momenta)
        scale = _scale(event, statistics, self.momenta)
        slots: dict[str | None, int] = {
            name: contract.slots.get(name) or 1 for name in self.topology.streams
        }
        slots[None] = sum(slots.values())
        self.space = TupleSpace(self.topology, slots, config.max_tuples)
        self.compare = AssignmentLoss(self.topology, config, self.space, statistics, where)
        self.scorers = nn.ModuleList(
            TupleScorer(
                kind,
                width,
                config.hidden,
                momenta=[uses_masses and _has_momentum(s, self.momenta) for s in kind.streams],
                scale=scale,
            )
            for kind in self.topology.kinds
        )
        self.pointers = nn.ModuleDict(
            {
                str(number): nn.Linear(width, len(kind.group.orbits), bias=False)
                for number, kind in enumerate(self.topology.kinds)
                if self.space.limits[number] is not None
            }
        )
        self.quantities: Quantities | None = None
        if self._quantities:
            self.quantities = Quantities(
                self._quantities,
                contract,
                statistics,
                width=width,
                hidden=config.hidden,
                where=where,
            )
        self.confidences = nn.ModuleList(Confidence() for _ in self.topology.processes)
        self.detectors: nn.ModuleList | None = None
        if config.detection_loss_weight > 0:
            self.detectors = nn.ModuleList(
                MLP(width + config.hidden, [config.hidden], 1) for _ in self.topology.kinds
            )

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Score the tuples of every kind of particle.

        Returns:
            Per kind of particle ``scores.<kind>`` (B, query, tuple), hugely negative where there
            is no such tuple, and ``detection.<kind>`` (B, query), a logit; the masks
            ``mask.<stream>``; where candidates are limited, ``places.<kind>.<block>``
            (B, candidate) and ``pointers.<kind>`` (B, object, orbit).
        """
        del encoder
        # Graphs are given all slots; their costs are those of the ones in use.
        return self.score(trimmed(encoded, self.topology.streams) if is_exporting() else encoded)

    def score(self, encoded: Encoded) -> dict[str, Tensor]:
        """Score the tuples; as `forward`, with every slot that was given."""
        outputs = {f"mask.{name}": encoded.masks[name] for name in self.topology.streams}
        needs_momenta = any(scorer.mass_network is not None for scorer in self._scorers)
        axes = axes_of(self.topology, encoded, needs_momenta=needs_momenta)
        for number in range(len(self.topology.kinds)):
            if str(number) in self.pointers:
                outputs |= self._candidates(number, axes)
            tuples = self.space.of(number, outputs)
            exists = self.space.exist(number, tuples, outputs)
            scores, detection = self._scores(number, axes, tuples.places, exists, encoded.event)
            outputs[f"scores.{number}"] = scores
            if detection is not None:
                outputs[f"detection.{number}"] = detection
        if self.quantities is not None:
            outputs |= {"event": encoded.event, **kept(axes)}
        return outputs

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Compute ``assignment`` and ``detection``, and ``candidates`` where they are limited.

        Each is a sum over the particles of the event, under the best permutation of them.
        ``assignment`` counts where some product of a particle is known (all of them, without
        `partial_products`), ``detection`` in every event of the process.
        """
        terms: dict[str, LossTerm]
        terms, compared = self.compare(outputs, targets)
        if self.quantities is None:
            return terms
        placed = {}
        for plan in self.topology.processes:
            if plan.number in compared:
                for true in range(len(plan.particles)):
                    key = plan.number, true
                    placed[key] = self._true(plan, true, compared[plan.number], outputs, targets)
        found = self.quantities.loss(self._seen(outputs), placed, self.topology.processes, targets)
        regressions = set(self.config.regressions)
        for name, term in found.items():
            factor = (
                self.config.regression_loss_weight
                if name in regressions
                else self.config.classification_loss_weight
            )
            terms[name] = LossTerm(factor * term.value, term.valid)
        return terms

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose an assignment per process.

        Returns:
            Per particle, behind ``<process>/`` where processes are named: ``<particle>``
            (B, product) indices, local to the product's stream or counted through all of them,
            −1 = none; ``<particle>/probability`` that the chosen objects are right, 0 where there
            are none; ``<particle>/detection`` that all its products are there. Per process
            ``probability`` that all assigned particles are right, ``confidence`` that all
            reconstructable ones are, calibrated on the validation split, both 0 where nothing is
            assigned, and, with exact selection, ``certified``: whether no other assignment is
            jointly more probable.
        """
        fields: dict[str, Tensor] = {}
        for number, plan in enumerate(self.topology.processes):
            if plan.particles:
                found = decide(plan, outputs, self.space, self.config)
                features = features_of(plan, found, self._objects(outputs))
                found[f"{plan.prefix}confidence"] = self.confidences[number](features)
                nothing = torch.stack(
                    [(found[particle.field] < 0).all(1) for particle in plan.particles]
                ).all(0)
                for name in ("probability", "confidence"):
                    field = f"{plan.prefix}{name}"
                    found[field] = torch.where(nothing, 0.0, found[field])
                fields |= found
        if self.quantities is not None:
            self._order_products(fields, outputs)
            placed = {
                (plan.number, number): self._chosen(particle, fields, outputs)
                for plan in self.topology.processes
                for number, particle in enumerate(plan.particles)
            }
            fields |= self.quantities.decode(self._seen(outputs), placed, self.topology.processes)
        return fields

    @property
    def learns_jointly(self) -> bool:
        """Whether scores are learnt for all particles of a process together."""
        config, shared = self.config, self.topology.shared
        joint = config.likelihood == "joint" and config.parity == "none"
        return joint and any(has_joint(plan, shared=shared) for plan in self.topology.processes)

    def _order_products(self, fields: dict[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Name interchangeable products by their objects, not by slots: the leading one first.

        Where no four-momentum is known, by the sum of the embedding.
        """
        axes = axes_again(self.topology, outputs)
        extents = extents_of(self.topology, outputs)
        whole = axes[None]
        key = whole.x.sum(-1) if whole.moving is None else whole.moving[..., 4]
        placed = {(q.process, q.particle) for q in self._quantities if q.product is not None}
        for plan in self.topology.processes:
            for number, particle in enumerate(plan.particles):
                if (plan.number, number) not in placed:
                    continue
                members = absolute(particle.streams, fields[particle.field], extents)
                columns = list(fields[particle.field].unbind(1))
                for orbit in particle.group.orbits:
                    if len(orbit) < 2:
                        continue
                    places = members[:, list(orbit)]
                    order = key.gather(1, places.clamp(min=0)).argsort(1, descending=True)
                    moved = fields[particle.field][:, list(orbit)].gather(1, order)
                    for place, product in enumerate(orbit):
                        columns[product] = moved[:, place]
                fields[particle.field] = torch.stack(columns, 1)

    def _seen(self, outputs: Mapping[str, Tensor]) -> Seen:
        """What quantities are learnt from."""
        axes = axes_again(self.topology, outputs)

        def tuples(number: int, objects: Tensor, query: Tensor) -> Tensor:
            kind, scorer = self.topology.kinds[number], self._scorers[number]
            rows = torch.arange(objects.shape[0], device=objects.device)
            chosen = [axes[stream] for stream in kind.streams]
            index = [
                rows * axis.mask.shape[1] + objects[:, product] - axis.offset
                for product, axis in enumerate(chosen)
            ]
            moving = [axis.moving for axis in chosen if axis.moving is not None]
            inside = scorer([axis.x for axis in chosen], moving or None, Where(rows, index))[1]
            which = query[:, None, None].expand(-1, 1, inside.shape[-1])
            found: Tensor = inside.gather(1, which)[:, 0]
            return found

        return Seen(outputs["event"], axes[None].x, tuples)

    def _true(
        self,
        plan: ProcessPlan,
        true: int,
        compared: Compared,
        outputs: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
    ) -> Placed:
        """The most probable tuple that agrees with what is known of a true particle."""
        particle = plan.particles[true]
        own = [torch.where(compared.order[:, i] == true, p.query, 0)
               for i, p in enumerate(plan.particles)]  # fmt: skip
        query = torch.stack(own).sum(0)
        scores = outputs[f"scores.{particle.kind}"].detach()
        scores = scores.gather(1, query[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]
        cell = torch.where(compared.agrees[true], scores, FORBIDDEN).argmax(1)
        objects = self.space.of(particle.kind, outputs).objects
        if objects.dim() == 3:
            each = cell[:, None, None].expand(-1, 1, objects.shape[2])
            chosen = objects.gather(1, each)[:, 0]
        else:
            chosen = objects.index_select(0, cell)
        extents = extents_of(self.topology, outputs)
        members = absolute(particle.streams, targets[particle.tensor], extents)
        return Placed(chosen, members, compared.known[:, true], query)

    def _chosen(
        self, particle: Particle, fields: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
    ) -> Placed:
        """The tuple that a decision has given to a particle."""
        extents = extents_of(self.topology, outputs)
        members = absolute(particle.streams, fields[particle.field], extents)
        there = (members >= 0).all(1)
        kind = self.topology.kinds[particle.kind]
        first = row([extents.offsets[stream] for stream in kind.streams], members)
        query = torch.full_like(members[:, 0], particle.query)
        return Placed(torch.where(members >= 0, members, first), members, there, query)

    def calibrate(
        self, held_out: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
    ) -> None:
        """Fit the confidence on events that were not trained on."""
        features: dict[int, list[Tensor]] = {}
        right: dict[int, list[Tensor]] = {}
        for outputs, targets in held_out:
            for number, plan in enumerate(self.topology.processes):
                if not plan.particles or any(p.tensor not in targets for p in plan.particles):
                    continue
                fields = decide(plan, outputs, self.space, self.config)
                hit, known = right_events(plan, fields, targets)
                if len(self.topology.processes) > 1 and "process" in targets:
                    known = known & (targets["process"] == plan.number)
                each = features_of(plan, fields, self._objects(outputs))
                features.setdefault(number, []).append(each[known])
                right.setdefault(number, []).append(hit[known])
        for number, parts in features.items():
            confidence = self.confidences[number]
            assert isinstance(confidence, Confidence)
            if not confidence.fit(torch.cat(parts), torch.cat(right[number])):
                _LOG.info(
                    "head %s: too few events of the validation split are right, or too few are "
                    "wrong, to calibrate the confidence; it is the joint probability",
                    self.name,
                )

    def _objects(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Number of real objects of all streams, (B,)."""
        return torch.stack([outputs[f"mask.{s}"].sum(1) for s in self.topology.streams]).sum(0)

    def diagnose(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose with the other way of selection from the same scores.

        Returns:
            ``greedy/<particle>`` or ``exact/<particle>``, as `decode` has ``<particle>``.
        """
        other = "exact" if self.config.selection == "greedy" else "greedy"
        config = self.config.model_copy(update={"selection": other})
        fields: dict[str, Tensor] = {}
        for plan in self.topology.processes:
            if plan.particles:
                found = decide(plan, outputs, self.space, config)
                fields |= {f"{other}/{p.field}": found[p.field] for p in plan.particles}
        return fields

    def predictions(self, event: EventInfo) -> list[Prediction]:
        """Say that the fields are assignments of objects to the particles."""
        topology = make_topology(
            event, queries=self.config.particle_queries, where=f"model.heads.{self.name}"
        )
        fields = {p.field: p.field for plan in topology.processes for p in plan.particles}
        options = {"topology": topology, "quantities": self._quantities}
        return [Prediction("assignments", fields=fields, options=options)]

    @property
    def _scorers(self) -> list[TupleScorer]:
        return [scorer for scorer in self.scorers if isinstance(scorer, TupleScorer)]

    def _scores(
        self,
        number: int,
        axes: Mapping[str | None, Axis],
        places: Tensor,
        exists: Tensor,
        event: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (B, Q, C), `FORBIDDEN` where a tuple does not exist, and logits (B, Q)."""
        kind, scorer = self.topology.kinds[number], self._scorers[number]
        batch, tuples = exists.shape
        # A GPU is not waited for to count them: it scores those that do not exist, too.
        every = torch.arange(exists.numel(), device=exists.device)
        flat = exists.flatten().nonzero()[:, 0] if exists.is_cpu else every
        rows = torch.div(flat, tuples, rounding_mode="floor")
        index = []
        for product, stream in enumerate(kind.streams):
            place = places[..., product].expand(batch, tuples).flatten().index_select(0, flat)
            index.append(rows * axes[stream].mask.shape[1] + place)
        chosen = [axes[stream] for stream in kind.streams]
        moving = [axis.moving for axis in chosen if axis.moving is not None]
        score, inside = scorer([axis.x for axis in chosen], moving or None, Where(rows, index))
        queries = score.shape[1]
        full = score.new_full((batch * tuples, queries), FORBIDDEN).index_copy(0, flat, score)
        full = torch.where(exists[..., None], full.reshape(batch, tuples, queries), FORBIDDEN)
        if self.detectors is None:
            return full.transpose(1, 2), None
        share = torch.softmax(full, 1) * exists[..., None]
        weights = share.reshape(batch * tuples, queries).index_select(0, flat)
        content = weights[..., None] * inside
        pooled = _sum_of_events(content, flat, rows, (batch, tuples))
        seen = torch.cat([event[:, None].expand(-1, queries, -1), pooled.to(event.dtype)], -1)
        logit: Tensor = self.detectors[number](seen)[..., 0].float()
        return full.transpose(1, 2), logit

    def _candidates(self, number: int, axes: Mapping[str | None, Axis]) -> dict[str, Tensor]:
        """The objects with the largest scores for each product, ascending by slot."""
        limits = self.space.limits[number]
        assert limits is not None
        found: dict[str, Tensor] = {}
        for place, (block, limit) in enumerate(zip(self.space.blocks[number], limits, strict=True)):
            axis = axes[block.stream]
            pointer = self.pointers[str(number)](axis.x)[..., block.orbit].float()
            pointer = torch.where(axis.mask, pointer, FORBIDDEN)
            found[f"pointer.{number}.{block.orbit}"] = pointer
            # An exported model may be given fewer slots than candidates.
            enough = torch.cat([pointer, pointer.new_full((pointer.shape[0], limit), FORBIDDEN)], 1)
            best, top = enough.detach().topk(limit, 1)
            known = best > EXISTS
            slots = pointer.shape[1]
            top = torch.where(known, top, slots).sort(1).values
            found[f"places.{number}.{place}"] = top
        return found


def _with_momentum(event: EventInfo, topology: Topology) -> tuple[str, ...]:
    """Streams of products that have a four-momentum."""
    named = {stream for kind in topology.kinds for stream in kind.streams}
    wanted = set(topology.streams) if None in named else named
    return tuple(
        name for name in topology.streams if name in wanted and event.streams[name].momentum
    )


def _sum_of_events(content: Tensor, flat: Tensor, rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sum tuples over events, (B, ...).

    Args:
        content: One row per tuple that exists, (R, ...).
        flat: Number of each among all (event, tuple), (R,).
        rows: Event of each, (R,).
        shape: Number of events and of tuples.
    """
    if is_exporting():
        # ONNX Runtime's ScatterND adds from several threads at once, and loses some of it.
        table = content.new_zeros((shape[0] * shape[1], *content.shape[1:]))
        found: Tensor = table.index_copy(0, flat, content).unflatten(0, shape).sum(1)
        return found
    return content.new_zeros((shape[0], *content.shape[1:])).index_add(0, rows, content)


def _has_momentum(stream: str | None, momenta: Sequence[str]) -> bool:
    return stream is None or stream in momenta


def _scale(event: EventInfo, statistics: Statistics, momenta: Sequence[str]) -> float:
    """Mean transverse momentum (or energy) of the training split, for numbers of order one."""
    for name in momenta:
        roles = event.streams[name].momentum or {}
        column = roles.get("pt") or roles.get("energy")
        known = statistics.tensors.get(name)
        if known is not None and column in known.columns:
            mean = known.columns[column].mean
            if mean > 0:
                return float(mean)
    return 1.0
