"""`SpanetAssignmentHead`: the assignment that SPANet's own network gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    EncoderHandle,
    Head,
    HeadConfig,
    LossTerm,
    Prediction,
)
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_assignment.balance import object_table, particle_table
from hepset_assignment.likelihood import overlap_penalty
from hepset_assignment.selection import FORBIDDEN, dense_candidates, exact, greedy
from hepset_assignment.topology import make_topology
from hepset_spanet.backbone import read_network
from hepset_spanet.losses import AssignmentTarget, combine, pair_terms, permutation_terms
from hepset_spanet.names import weight_tensor
from hepset_spanet.network.describing import describe_particles, sources_of
from hepset_spanet.network.topology import Particle, Topology

__all__ = ["SpanetAssignmentConfig", "SpanetAssignmentHead"]

_MASK = "mask/"
_SCORES = "/log_probability"
_DETECTION = "/detection_logit"


class SpanetAssignmentConfig(HeadConfig):
    """Options of the assignment by SPANet's network."""

    topology: Topology | None = None
    """The topology of an imported network; null takes that of the event."""
    sources: dict[str, tuple[str | None, ...]] = Field(default_factory=dict)
    """Particle → stream of each product, where the event does not say it; null counts through all
    streams."""
    exclusive_sources: bool = False
    """Whether a product is looked for only in its own stream. SPANet looks everywhere, so that a
    product can be put outside its stream, where it has no index and is −1."""
    selection: Literal["greedy", "exact"] = "greedy"
    """``greedy`` takes the most probable tuple of any particle first, as SPANet does; ``exact`` the
    compatible tuples with the largest joint probability."""
    detection_loss_weight: float = Field(default=1.0, ge=0)
    """Factor of the loss of the probability that a particle is there with all its products."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Exponent γ of a factor (1 − p)^γ that turns the loss to difficult events."""
    combination: Literal["min", "softmin", "mean"] = "min"
    """How the permutations of interchangeable particles enter the loss."""
    partial_events: bool = True
    """Whether events in which a particle is missing train."""
    overlap_loss_weight: float = Field(default=0.0, ge=0)
    """Factor of exp(-J²) for interchangeable particles that both are there, with the
    Jensen-Shannon divergence J of their distributions: they are to look at different objects."""
    balance_particles: bool = False
    """Whether events count more the rarer the set of particles is that they have."""
    balance_objects: bool = False
    """Whether events count more the rarer their number of objects is."""
    parity: Literal["none", "spanet"] = "none"
    """``spanet`` scales the losses as SPANet does: sums over a batch are divided by the number of
    events in which the particle is there, those of the detection too; balanced weights have the
    mean one over kinds of events instead of over events; and the penalty of overlaps has no
    gradient."""


class SpanetAssignmentHead(Head):
    """Reads joint distributions and detections, and selects one tuple per particle.

    Without a possible tuple a particle is −1.

    Args:
        name: Name of the head.
        config: Options.
    """

    Config: ClassVar[type[HeadConfig]] = SpanetAssignmentConfig
    config: SpanetAssignmentConfig
    weighs_targets: ClassVar[bool] = True

    def __init__(self, name: str, config: HeadConfig) -> None:
        super().__init__(name, config)
        self._event: EventInfo | None = None

    def contract(self, event: EventInfo) -> Contract:
        """Require the assignment targets.

        Raises:
            ConfigurationError: If the event has no particle, or several processes.
        """
        make_topology(event, queries=True, where=f"model.heads.{self.name}")
        self._event = event
        self._topology(event)
        names = {each.tensor for each in event.assignments()}
        tensors = compile_contract(event).keep(names).tensors
        return Contract(
            tensors={
                name: spec.model_copy(update={"required": True, "wanted_by": (self.name,)})
                for name, spec in tensors.items()
            }
        )

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Keep the weights of balanced losses; the other parameters are the network's.

        Raises:
            ConfigurationError: If `contract` has not been called, or the statistics lack counts.
        """
        del contract, width
        where = f"model.heads.{self.name}"
        if self._event is None:
            raise ConfigurationError(f"{where}: call contract(event) before build")
        parity = self.config.parity == "spanet"
        process = next(iter(self._event.processes.values()))
        self.pairs: Sequence[tuple[int, int]] = process.event_group.transpositions
        if self.config.balance_particles:
            table = particle_table(
                statistics,
                process.event_group,
                process="",
                number=0,
                parity=parity,
                where=f"{where}.balance_particles",
            )
            self.register_buffer("particle_weights", torch.from_numpy(table).float())
        if self.config.balance_objects:
            table = object_table(statistics, parity=parity, where=f"{where}.balance_objects")
            self.register_buffer("object_weights", torch.from_numpy(table).float())

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Give ``<particle>/log_probability``, ``<particle>/detection_logit``, ``mask/<stream>``.

        The logarithm of an impossible tuple is `FORBIDDEN`, so that everything is finite.

        Raises:
            ConfigurationError: If the backbone is another one.
        """
        del encoder
        outputs = read_network(self.name, encoded)[1]
        found: dict[str, Tensor] = {}
        for name, value in outputs.log_probabilities.items():
            # Compared with NaN, which an event with too few objects has, nothing is larger.
            found[name + _SCORES] = torch.where(value > FORBIDDEN / 2, value, FORBIDDEN)
            found[name + _DETECTION] = outputs.detections[name]
        return found | {f"{_MASK}{s}": encoded.masks[s] for s in self.streams}

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Give ``assignment``, ``detection`` and ``overlap``, summed, under the symmetries."""
        wanted = self._targets(outputs, targets)
        pairs = pair_terms(
            [outputs[particle.name + _SCORES] for particle in self.particles],
            [outputs[particle.name + _DETECTION] for particle in self.particles],
            wanted,
            [len(particle.group) for particle in self.particles],
            self.permutations,
            focal_gamma=self.config.focal_gamma,
        )
        scale = pairs.new_tensor([1.0, self.config.detection_loss_weight])[:, None]
        terms = permutation_terms(pairs * scale, self.permutations)
        combined = combine(terms, self.config.combination)
        order = torch.tensor(self.permutations, device=terms.device)[combined.best].T
        there = torch.stack([each.mask for each in wanted]).gather(0, order)
        used = there.all(0) if not self.config.partial_events else torch.ones_like(there[0])
        balance = self._balance(there, outputs)
        values = combined.terms * balance
        learns = {"assignment": used & there.any(0), "detection": used}
        parity = self.config.parity == "spanet"
        if parity:
            present = (there & used).sum(1).clamp(min=1)
            values = values * (used.sum() / present)[:, None, None]
            learns["assignment"] = used
        found = {
            name: LossTerm(values[:, column].sum(0), learns[name])
            for column, name in enumerate(learns)
        }
        if self.config.detection_loss_weight == 0:
            del found["detection"]
        if self.config.overlap_loss_weight > 0 and self.pairs:
            found["overlap"] = self._overlap(outputs, there & used, used, balance)
        return found

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``<particle>`` (B, product), ``<particle>/probability`` and ``/detection`` (B,)."""
        mask = torch.cat([outputs[f"{_MASK}{s}"] for s in self.streams], 1)
        scores = {
            particle.name: self._possible(particle.name, outputs, mask)
            for particle in self.particles
        }
        select = exact if self.config.selection == "exact" else greedy
        selected = select([dense_candidates(each) for each in scores.values()], mask.shape[1])
        found = {}
        for particle, chosen in zip(self.particles, selected.indices, strict=True):
            name = particle.name
            logarithm = _at(scores[name], chosen) + math.log(len(particle.group))
            found[name] = self._indices(name, chosen, outputs)
            found[f"{name}/probability"] = torch.exp(logarithm).clamp(max=1.0)
            found[f"{name}/detection"] = torch.sigmoid(outputs[name + _DETECTION])
        return found

    def predictions(self, event: EventInfo) -> list[Prediction]:
        """Say that the fields are assignments, as those of the head ``assignment`` are."""
        topology = make_topology(event, queries=True, where=f"model.heads.{self.name}")
        fields = {p.field: p.field for plan in topology.processes for p in plan.particles}
        return [Prediction("assignments", fields=fields, options={"topology": topology})]

    # --- the topology -------------------------------------------------------------------------

    def _topology(self, event: EventInfo) -> None:
        given = self.config.topology
        if given is not None:
            self.particles: tuple[Particle, ...] = given.particles
            self.permutations: tuple[tuple[int, ...], ...] = given.permutations
            self.streams: tuple[str, ...] = given.streams
        else:
            self.particles, self.permutations = describe_particles(
                event, f"model.heads.{self.name}"
            )
            self.streams = tuple(event.streams)
        self.sources = {**sources_of(event), **self.config.sources}

    def _span(self, source: str, outputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """First position of a stream, and the one after its last."""
        start = 0
        for stream in self.streams:
            length = outputs[f"{_MASK}{stream}"].shape[1]
            if stream == source:
                return start, start + length
            start = start + length
        raise ConfigurationError(
            f"model.heads.{self.name}.sources: {source!r} is not an input of the network; "
            f"it has {', '.join(self.streams)}"
        )

    def _indices(self, name: str, positions: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Positions as indices into the products' own streams; −1 outside of them."""
        columns = []
        for source, column in zip(self.sources[name], positions.unbind(1), strict=True):
            if source is None:
                columns.append(column)
                continue
            start, end = self._span(source, outputs)
            inside = (column >= start) & (column < end)
            columns.append(torch.where(inside, column - start, -1))
        return torch.stack(columns, 1)

    def _positions(self, name: str, indices: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `_indices`."""
        columns = []
        for source, column in zip(self.sources[name], indices.unbind(1), strict=True):
            start = 0 if source is None else self._span(source, outputs)[0]
            columns.append(torch.where(column >= 0, column + start, -1))
        return torch.stack(columns, 1)

    # --- loss ---------------------------------------------------------------------------------

    def _targets(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> list[AssignmentTarget]:
        wanted = []
        for particle in self.particles:
            name = f"target/assignment/{particle.name}"
            indices = self._positions(particle.name, targets[name], outputs)
            weight = targets.get(weight_tensor(name))
            if weight is None:
                weight = torch.ones_like(indices[:, 0].float())
            wanted.append(AssignmentTarget(indices, (indices >= 0).all(1), weight.float()))
        return wanted

    def _balance(self, there: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        weight = torch.ones_like(there[0], dtype=torch.float32)
        if self.config.balance_particles:
            powers = 1 << torch.arange(len(there), device=there.device)
            code = (there * powers[:, None]).sum(0)
            weight = weight * self.get_buffer("particle_weights")[code]
        if self.config.balance_objects:
            table = self.get_buffer("object_weights")
            number = torch.stack([outputs[f"{_MASK}{s}"].sum(1) for s in self.streams]).sum(0)
            weight = weight * table[number.clamp(max=len(table) - 1)]
        return weight

    def _overlap(
        self, outputs: Mapping[str, Tensor], there: Tensor, used: Tensor, balance: Tensor
    ) -> LossTerm:
        parity = self.config.parity == "spanet"
        total = torch.zeros_like(balance)
        for i, j in self.pairs:
            first, second = (outputs[self.particles[n].name + _SCORES].flatten(1) for n in (i, j))
            penalty = overlap_penalty(first, second, parity=parity)
            total = total + torch.where(there[i] & there[j], penalty, 0.0)
        value = self.config.overlap_loss_weight * balance * total / len(self.pairs)
        if not parity:
            return LossTerm(value, there.sum(0) > 1)
        # SPANet sums the penalty once for every particle and kind of term.
        value = value * 2 * len(self.particles) * used.sum() / there.sum().clamp(min=1)
        return LossTerm(value, used)

    # --- decision -----------------------------------------------------------------------------

    def _possible(self, name: str, outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Log-probabilities, `FORBIDDEN` where a tuple is impossible."""
        scores = outputs[name + _SCORES]
        for axis, source in enumerate(self.sources[name]):
            allowed = mask
            if self.config.exclusive_sources and source is not None:
                start, end = self._span(source, outputs)
                position = torch.arange(mask.shape[1], device=mask.device)
                allowed = mask & (position >= start) & (position < end)
            scores = torch.where(_along(allowed, axis, scores.ndim), scores, FORBIDDEN)
        return scores


def _at(scores: Tensor, positions: Tensor) -> Tensor:
    """Score of one tuple per event; `FORBIDDEN` where it is none."""
    flat = torch.zeros_like(positions[:, 0])
    for column in positions.clamp(min=0).unbind(1):
        flat = flat * scores.shape[1] + column
    value = scores.flatten(1).gather(1, flat[:, None])[:, 0]
    return torch.where((positions >= 0).all(1), value, FORBIDDEN)


def _along(mask: Tensor, axis: int, ndim: int) -> Tensor:
    """A mask ``(B, T)`` along one of the axes after the first."""
    shape = [mask.shape[0], *(mask.shape[1] if a == axis else 1 for a in range(ndim - 1))]
    return mask.reshape(shape)
