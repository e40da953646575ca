"""`AssignmentHead`: which objects are the products of which particle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    Drawing,
    EncoderHandle,
    Evaluation,
    Head,
    HeadConfig,
    LossTerm,
    Metric,
)
from hepset.nn.exporting import is_exporting
from hepset.nn.mlp import MLP
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_spanet.assignment.objective import (
    Symmetrised,
    compatible,
    negative_log_likelihood,
    symmetrise,
)
from hepset_spanet.assignment.scoring import TupleScorer, Where, kinematics
from hepset_spanet.assignment.topology import Kind, ProcessPlan, Topology, make_topology
from hepset_spanet.assignment.tuples import (
    Block,
    blocks_of,
    candidate_limits,
    canonical,
    combine_blocks,
)
from hepset_spanet.selection import FORBIDDEN, Candidates, exact, greedy

__all__ = ["AssignmentConfig", "AssignmentHead"]

_MOST_SIZES = 64
"""Numbers of slots whose tuples are remembered."""
_EXISTS = FORBIDDEN / 2
"""Scores above are of tuples that exist."""


class AssignmentConfig(HeadConfig):
    """Options of the assignment."""

    hidden: PositiveInt = 32
    """Width of what is computed per tuple of objects."""
    mass_features: bool | None = None
    """Whether a tuple's score may see the masses and distances of its members; null = where a
    stream that products come from has a four-momentum. Without them the score cannot sculpt a
    mass peak in backgrounds as directly."""
    particle_queries: bool = False
    """Whether interchangeable particles, which share one network, have an output each, so that
    they can specialise; else they share the output too, at half the cost for two."""
    combination: Literal["min", "softmin", "mean"] = "min"
    """How the permutations of interchangeable particles enter the loss; only with
    `particle_queries` do they differ."""
    partial_products: bool = True
    """Whether a particle with some of its products missing trains, through the probability that
    its known ones are right, whatever the others; false is SPANet's way."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Exponent γ of a factor (1 − p)^γ that turns the loss to difficult events."""
    detection_loss_weight: float = Field(default=0.5, ge=0)
    """Factor of the loss of the probability that a particle is there with all its products; 0 =
    do not predict it."""
    selection: Literal["exact", "greedy"] = "exact"
    """How one assignment is chosen: the jointly most probable one, or the best tuple first."""
    selection_width: PositiveInt = 64
    """Tuples per particle that ``exact`` combines before it has to search; in an exported model
    ``certified`` says whether they were enough."""
    use_detection: bool = False
    """Whether the selection may leave a particle out because it probably is not there; else only
    where no tuple is left."""
    max_tuples: PositiveInt = 6000
    """Most tuples per particle. Where there are more, each product keeps the objects with the
    largest scores of its own, as many as fit, and learns these scores too."""


class _Axis(NamedTuple):
    """Objects that products may be: those of a stream, or of all streams one after the other."""

    x: Tensor
    mask: Tensor
    moving: Tensor | None
    offset: int


class _Tuples(NamedTuple):
    """Tuples of objects: positions among all, places within the products' streams.

    (C, k) for all events alike, or (B, C, k) where candidates are limited; then `known` (B, C)
    is False where there are fewer objects than candidates.
    """

    objects: Tensor
    places: Tensor
    known: Tensor | None


class _Outcome(NamedTuple):
    """What one output says: tuples with ln p, the probability to be there, ln of the opposite."""

    candidates: Candidates
    logarithm: Tensor
    certainty: Tensor | None
    absent: Tensor | None


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
    config: AssignmentConfig

    def __init__(self, name: str, config: HeadConfig) -> None:
        super().__init__(name, config)
        self._event: EventInfo | None = None
        self._known_tuples: dict[tuple[Any, ...], _Tuples] = {}

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
        wanted = [particle.tensor for plan in topology.processes for particle in plan.particles]
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
        self.blocks = [blocks_of(kind) for kind in self.topology.kinds]
        self.limits = [candidate_limits(b, slots, config.max_tuples) for b in self.blocks]
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
                if self.limits[number] is not None
            }
        )
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
        outputs = {f"mask.{name}": encoded.masks[name] for name in self.topology.streams}
        axes = self._axes(encoded)
        for number, kind in enumerate(self.topology.kinds):
            if str(number) in self.pointers:
                outputs |= self._candidates(number, axes)
            tuples = self._tuples(number, outputs)
            exists = self._exists(kind, tuples, outputs)
            scores, detection = self._scores(number, axes, tuples.places, exists, encoded.event)
            outputs[f"scores.{number}"] = scores
            if detection is not None:
                outputs[f"detection.{number}"] = detection
        return outputs

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Compute ``assignment`` and ``detection``, and ``candidates`` where they are limited.

        Each is a sum over the particles of the event, under the best permutation of them.
        ``assignment`` counts where some product of a particle is known (all of them, without
        `partial_products`), ``detection`` in every event of the process.
        """
        batch = outputs["scores.0"].shape[0]
        zero = outputs["scores.0"].new_zeros(batch)
        never = torch.zeros_like(zero, dtype=torch.bool)
        sums = {name: LossTerm(zero, never) for name in self._terms}
        for plan in self.topology.processes:
            if not plan.particles or any(p.tensor not in targets for p in plan.particles):
                continue
            for name, term in self._process_loss(plan, outputs, targets).items():
                before = sums[name]
                value = before.value + torch.where(term.valid, term.value, 0.0)
                sums[name] = LossTerm(value, before.valid | term.valid)
        return sums

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose an assignment per process.

        Returns:
            Per particle, behind ``<process>/`` where processes are named: ``<particle>``
            (B, product) indices, local to the product's stream or counted through all of them,
            −1 = none; ``<particle>/probability`` that the chosen objects are right, 0 where there
            are none; ``<particle>/detection`` that all its products are there. Per process, with
            exact selection, ``certified``: whether no other assignment is jointly more probable.
        """
        fields: dict[str, Tensor] = {}
        for plan in self.topology.processes:
            if plan.particles:
                fields |= self._decode_process(plan, outputs)
        return fields

    def metrics(self, evaluation: Evaluation) -> list[Metric]:
        """Give event and particle purities with binomial errors, and the detection's efficiency.

        An event is right if all its reconstructable particles are, under the best permutation
        that changes nothing; purities are also given by number of reconstructable particles and
        of objects. Definitions: section 8 of SPANet's papers (arXiv:2106.03898).
        """
        from hepset_spanet.assignment.quality import metrics  # noqa: PLC0415

        return metrics(self.topology, evaluation)

    def baselines(self, evaluation: Evaluation) -> list[Metric]:
        """Judge the mass χ² on all-hadronic top pairs, elsewhere the leading objects."""
        from hepset_spanet.assignment.baseline import baselines  # noqa: PLC0415

        return baselines(self.topology, evaluation)

    def figures(self, evaluation: Evaluation) -> list[Drawing]:
        """Draw purity by multiplicity, reconstructed masses, and the calibration."""
        from hepset_spanet.assignment.figures import figures  # noqa: PLC0415  matplotlib

        return figures(self.topology, evaluation)

    # --- tuples -------------------------------------------------------------------------------

    def _axes(self, encoded: Encoded) -> dict[str | None, _Axis]:
        """Objects of each stream, and of all streams under the key None."""
        found: dict[str | None, _Axis] = {}
        offset = 0
        needs_p4 = any(scorer.mass_network is not None for scorer in self._scorers)
        for name in self.topology.streams:
            x, mask = encoded.objects[name], encoded.masks[name]
            moving = None
            if needs_p4:
                has_p4 = name in encoded.p4
                p4 = encoded.p4[name] if has_p4 else x.new_zeros((*mask.shape, 4))
                moving = kinematics(p4, mask if has_p4 else torch.zeros_like(mask))
            found[name] = _Axis(x, mask, moving, offset)
            offset = offset + mask.shape[1]
        parts = list(found.values())
        if len(parts) == 1:
            found[None] = parts[0]
        else:
            moving = None
            if needs_p4:
                moving = torch.cat([part.moving for part in parts if part.moving is not None], 1)
            found[None] = _Axis(
                torch.cat([part.x for part in parts], 1),
                torch.cat([part.mask for part in parts], 1),
                moving,
                0,
            )
        return found

    @property
    def _scorers(self) -> list[TupleScorer]:
        return [scorer for scorer in self.scorers if isinstance(scorer, TupleScorer)]

    @property
    def _terms(self) -> list[str]:
        terms = ["assignment"]
        if self.detectors is not None:
            terms.append("detection")
        if len(self.pointers):
            terms.append("candidates")
        return terms

    def _sizes(self, outputs: Mapping[str, Tensor]) -> tuple[dict[str | None, int], dict[Any, int]]:
        """Slots, and the first position, of every stream and of all."""
        sizes: dict[str | None, int] = {}
        offsets: dict[Any, int] = {None: 0}
        total = 0
        for name in self.topology.streams:
            offsets[name] = total
            sizes[name] = outputs[f"mask.{name}"].shape[1]
            total = total + sizes[name]
        sizes[None] = total
        return sizes, offsets

    def _tuples(self, number: int, outputs: Mapping[str, Tensor]) -> _Tuples:
        """All tuples of a kind of particle, whether an event has them or not."""
        sizes, offsets = self._sizes(outputs)
        blocks, kind = self.blocks[number], self.topology.kinds[number]
        device = outputs[f"mask.{self.topology.streams[0]}"].device
        limits = self.limits[number]
        if limits is not None:
            local = combine_blocks(blocks, limits, device)
            columns, known = [], []
            for product, block in enumerate(_block_of(blocks)):
                place = outputs[f"places.{number}.{block}"].index_select(1, local[:, product])
                last = sizes[blocks[block].stream] - 1
                known.append(place <= last)
                columns.append(place.clamp(max=last))
            places = torch.stack(columns, -1)
            objects = places + _row([offsets[s] for s in kind.streams], places)
            return _Tuples(objects, places, torch.stack(known, -1).all(-1))
        if is_exporting():
            places = combine_blocks(blocks, [sizes[b.stream] for b in blocks], device)
            return _Tuples(places + _row([offsets[s] for s in kind.streams], places), places, None)
        key = (number, device, *sizes.values())
        if key not in self._known_tuples:
            places = combine_blocks(blocks, [sizes[b.stream] for b in blocks], device)
            if len(self._known_tuples) >= _MOST_SIZES:
                self._known_tuples.clear()
            objects = places + _row([offsets[s] for s in kind.streams], places)
            self._known_tuples[key] = _Tuples(objects, places, None)
        return self._known_tuples[key]

    def _exists(self, kind: Kind, tuples: _Tuples, outputs: Mapping[str, Tensor]) -> Tensor:
        """Which tuples an event has, (B, C)."""
        objects, places = tuples.objects, tuples.places
        masks: dict[str | None, Tensor] = {
            name: outputs[f"mask.{name}"] for name in self.topology.streams
        }
        masks[None] = torch.cat([masks[name] for name in self.topology.streams], 1)
        cells = places.shape[-2]
        # The last tuple is there so that there is one; it never exists.
        possible = torch.arange(cells, device=places.device) < cells - 1
        if tuples.known is not None:
            possible = possible & tuples.known
        count = len(kind.products)
        for a in range(count):
            for b in range(a + 1, count):
                possible = possible & (objects[..., a] != objects[..., b])
        chosen = canonical(objects, kind, masks[None].shape[1])
        if chosen is not None:
            possible = possible & chosen
        found = possible if possible.dim() == 2 else possible[None]
        for product, stream in enumerate(kind.streams):
            place = places[..., product]
            mask = masks[stream]
            real = mask.index_select(1, place) if place.dim() == 1 else mask.gather(1, place)
            found = found & real
        return found

    def _scores(
        self,
        number: int,
        axes: Mapping[str | None, _Axis],
        places: Tensor,
        exists: Tensor,
        event: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (B, Q, C), `FORBIDDEN` where a tuple does not exist, and logits (B, Q)."""
        kind, scorer = self.topology.kinds[number], self._scorers[number]
        batch, tuples = exists.shape
        flat = None
        if is_exporting():
            rows = torch.arange(batch, device=exists.device)[:, None].expand(batch, tuples)
            rows = rows.flatten()
        else:
            flat = exists.flatten().nonzero()[:, 0]
            rows = torch.div(flat, tuples, rounding_mode="floor")
        index = []
        for product, stream in enumerate(kind.streams):
            place = places[..., product].expand(batch, tuples).flatten()
            place = place if flat is None else place.index_select(0, flat)
            index.append(rows * axes[stream].mask.shape[1] + place)
        chosen = [axes[stream] for stream in kind.streams]
        moving = [axis.moving for axis in chosen if axis.moving is not None]
        score, inside = scorer([axis.x for axis in chosen], moving or None, Where(rows, index))
        queries = score.shape[1]
        if flat is None:
            full = torch.where(exists[..., None], score.reshape(batch, tuples, queries), FORBIDDEN)
        else:
            full = score.new_full((batch * tuples, queries), FORBIDDEN).index_copy(0, flat, score)
            full = full.reshape(batch, tuples, queries)
        if self.detectors is None:
            return full.transpose(1, 2), None
        share = torch.softmax(full, 1) * exists[..., None]
        if flat is None:
            content = inside.reshape(batch, tuples, queries, -1)
            pooled = (share[..., None] * content).sum(1)
        else:
            weights = share.reshape(batch * tuples, queries).index_select(0, flat)
            content = weights[..., None] * inside
            pooled = content.new_zeros((batch, *content.shape[1:])).index_add(0, rows, content)
        seen = torch.cat([event[:, None].expand(-1, queries, -1), pooled.to(event.dtype)], -1)
        logit: Tensor = self.detectors[number](seen)[..., 0].float()
        return full.transpose(1, 2), logit

    def _candidates(self, number: int, axes: Mapping[str | None, _Axis]) -> dict[str, Tensor]:
        """The objects with the largest scores for each product, ascending by slot."""
        limits = self.limits[number]
        assert limits is not None
        found: dict[str, Tensor] = {}
        for place, (block, limit) in enumerate(zip(self.blocks[number], limits, strict=True)):
            axis = axes[block.stream]
            pointer = self.pointers[str(number)](axis.x)[..., block.orbit].float()
            pointer = torch.where(axis.mask, pointer, FORBIDDEN)
            found[f"pointer.{number}.{block.orbit}"] = pointer
            # An exported model may be given fewer slots than candidates.
            enough = torch.cat([pointer, pointer.new_full((pointer.shape[0], limit), FORBIDDEN)], 1)
            best, top = enough.detach().topk(limit, 1)
            known = best > _EXISTS
            slots = pointer.shape[1]
            top = torch.where(known, top, slots).sort(1).values
            found[f"places.{number}.{place}"] = top
        return found

    # --- loss ---------------------------------------------------------------------------------

    def _process_loss(
        self, plan: ProcessPlan, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        batch = outputs["scores.0"].shape[0]
        device = outputs["scores.0"].device
        mine = torch.ones(batch, dtype=torch.bool, device=device)
        if len(self.topology.processes) > 1:
            process = targets.get("process")
            mine = mine & (False if process is None else process == plan.number)
        count = len(plan.particles)
        orbit_of = {p: number for number, orbit in enumerate(plan.orbits) for p in orbit}
        zero = outputs["scores.0"].new_zeros(batch)
        losses: dict[tuple[int, int], Tensor] = {}
        found: dict[tuple[int, int], Tensor] = {}
        pointed = zero
        any_used = torch.zeros_like(mine)
        for true, particle in enumerate(plan.particles):
            kind = self.topology.kinds[particle.kind]
            objects = self._tuples(particle.kind, outputs).objects
            wanted = self._absolute(particle.streams, targets[particle.tensor], outputs)
            scores = outputs[f"scores.{particle.kind}"]
            agrees = compatible(objects, wanted, kind) & (scores[:, 0] > _EXISTS)
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
        if self.detectors is not None:
            weight = self.config.detection_loss_weight
            terms["detection"] = LossTerm(weight * combined.detection, mine)
        if len(self.pointers):
            terms["candidates"] = LossTerm(pointed, mine & (pointed > 0))
        return terms

    def _pointer_loss(self, number: int, wanted: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy of the known products with the scores that limit the candidates, (B,)."""
        _, offsets = self._sizes(outputs)
        kind = self.topology.kinds[number]
        total = torch.zeros_like(outputs["scores.0"][:, 0, 0])
        for product, orbit in enumerate(kind.orbit_of):
            pointer = outputs[f"pointer.{number}.{orbit}"]
            place = wanted[:, product] - offsets[kind.streams[product]]
            known = (wanted[:, product] >= 0) & (place >= 0) & (place < pointer.shape[1])
            slot = torch.where(known, place, 0)[:, None]
            chosen = pointer.gather(1, slot)[:, 0]
            known = known & (chosen > _EXISTS)
            value = torch.logsumexp(pointer, 1) - torch.where(known, chosen, 0.0)
            total = total + torch.where(known, value, 0.0)
        return total

    def _absolute(
        self, streams: Sequence[str | None], target: Tensor, outputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Positions among all objects (B, k), −1 = missing."""
        sizes, offsets = self._sizes(outputs)
        columns = []
        for product, stream in enumerate(streams):
            local = target[:, product].to(torch.int64)
            known = (local >= 0) & (local < sizes[stream])
            columns.append(torch.where(known, local + offsets[stream], -1))
        return torch.stack(columns, -1)

    # --- decision -----------------------------------------------------------------------------

    def _outcome(self, number: int, query: int, outputs: Mapping[str, Tensor]) -> _Outcome:
        scores = outputs[f"scores.{number}"][:, query].float()
        logarithm = torch.log_softmax(scores, 1)
        value, certainty, absent = logarithm, None, None
        if self.detectors is not None:
            logit = outputs[f"detection.{number}"][:, query]
            certainty = torch.sigmoid(logit)
            if self.config.use_detection:
                value = logarithm + functional.logsigmoid(logit)[:, None]
                absent = functional.logsigmoid(-logit)
        value = torch.where(scores > _EXISTS, value, FORBIDDEN)
        objects = self._tuples(number, outputs).objects
        return _Outcome(Candidates(value, objects), logarithm, certainty, absent)

    def _decode_process(
        self, plan: ProcessPlan, outputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        sizes, offsets = self._sizes(outputs)
        # Particles that share an output share the very tensors, of which the selection makes use.
        outcomes = {
            (particle.kind, particle.query): self._outcome(particle.kind, particle.query, outputs)
            for particle in plan.particles
        }
        chosen = [outcomes[particle.kind, particle.query] for particle in plan.particles]
        candidates = [each.candidates for each in chosen]
        absent = [each.absent for each in chosen if each.absent is not None]
        count = sizes[None]
        unassigned = absent or None
        shared = self.topology.shared
        if self.config.selection == "greedy":
            found = greedy(candidates, count, unassigned=unassigned, shared=shared)
        else:
            found = exact(
                candidates,
                count,
                unassigned=unassigned,
                shared=shared,
                width=self.config.selection_width,
            )
        fields: dict[str, Tensor] = {}
        for number, particle in enumerate(plan.particles):
            index, cell = found.indices[number], found.chosen[number]
            shift = _row([offsets[s] for s in particle.streams], index)
            assigned = cell >= 0
            fields[particle.field] = torch.where(assigned[:, None], index - shift, -1)
            chance = chosen[number].logarithm.gather(1, cell.clamp(min=0)[:, None])[:, 0].exp()
            fields[f"{particle.field}/probability"] = torch.where(assigned, chance, 0.0)
            certainty = chosen[number].certainty
            if certainty is not None:
                fields[f"{particle.field}/detection"] = certainty
        if self.config.selection == "exact":
            fields[f"{plan.prefix}certified"] = found.certified
        return fields


def _matrix(values: Mapping[tuple[int, int], Tensor], count: int, zero: Tensor) -> Tensor:
    """(B, P, P) of values by (particle, target); 0 where the two are never compared."""
    rows = [
        torch.stack([values.get((own, true), zero) for true in range(count)], -1)
        for own in range(count)
    ]
    return torch.stack(rows, 1)


def _row(numbers: Sequence[int], like: Tensor) -> Tensor:
    """A row of integers, which may be symbolic."""
    zero = torch.zeros(1, dtype=torch.int64, device=like.device)
    return torch.cat([zero + number for number in numbers])


def _block_of(blocks: Sequence[Block]) -> list[int]:
    """Number of the block of every product."""
    of = {product: n for n, block in enumerate(blocks) for product in block.products}
    return [of[product] for product in sorted(of)]


def _with_momentum(event: EventInfo, topology: Topology) -> tuple[str, ...]:
    """Streams of products that have a four-momentum."""
    named = {stream for kind in topology.kinds for stream in kind.streams}
    wanted = set(topology.streams) if None in named else named
    return tuple(
        name for name in topology.streams if name in wanted and event.streams[name].momentum
    )


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
