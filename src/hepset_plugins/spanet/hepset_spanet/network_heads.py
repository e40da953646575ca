"""Heads that read SPANet's network: assignment, regression, classification."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import EncoderHandle, Head, HeadConfig, LossTerm
from hepset.schema.contract import Contract, compile_contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_spanet.backbone import SpanetEncoded
from hepset_spanet.losses import AssignmentTarget, combine, pair_terms, permutation_terms
from hepset_spanet.network.network import SpanetNetwork, SpanetOutputs
from hepset_spanet.network.topology import Topology
from hepset_spanet.selection import dense_candidates, exact, greedy

__all__ = [
    "SpanetAssignmentConfig",
    "SpanetAssignmentHead",
    "SpanetClassificationConfig",
    "SpanetClassificationHead",
    "SpanetRegressionConfig",
    "SpanetRegressionHead",
]

_MASK = "mask/"
_SCORES = "/log_probability"
_DETECTION = "/detection_logit"


class SpanetAssignmentConfig(HeadConfig):
    """Options of the assignment by SPANet's network."""

    topology: Topology
    """The topology of the network."""
    sources: dict[str, tuple[str | None, ...]] = Field(default_factory=dict)
    """Particle → stream of each product; null counts through all streams."""
    exclusive_sources: bool = False
    """Whether a product is looked for only in its own stream. SPANet looks everywhere, so that a
    product can be put outside its stream, where it has no index and is −1."""
    selection: Literal["greedy", "exact"] = "greedy"
    """``greedy`` takes the most probable tuple of any particle first, as SPANet does; ``exact`` the
    compatible tuples with the largest joint probability."""
    detection_scale: float = Field(default=1.0, ge=0)
    """Factor of the detection loss."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Exponent of the focal loss."""
    combine: str = "min"
    """How the losses of the event's permutations are combined: min, softmin or mean."""


class SpanetAssignmentHead(Head):
    """Reads joint distributions and detections, and selects one tuple per particle.

    Without a possible tuple a particle is −1.
    """

    Config: ClassVar[type[HeadConfig]] = SpanetAssignmentConfig
    config: SpanetAssignmentConfig

    def contract(self, event: EventInfo) -> Contract:
        """Require the assignment targets."""
        names = {each.tensor for each in event.assignments()}
        tensors = compile_contract(event).keep(names).tensors
        return Contract(
            tensors={
                name: spec.model_copy(update={"required": True, "wanted_by": (self.name,)})
                for name, spec in tensors.items()
            }
        )

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Nothing is built: the parameters are the network's."""

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Give ``<particle>/log_probability``, ``<particle>/detection_logit``, ``mask/<stream>``.

        Raises:
            ConfigurationError: If the backbone is another one.
        """
        del encoder
        outputs = _read(self, encoded)[1]
        found: dict[str, Tensor] = {}
        for name, value in outputs.log_probabilities.items():
            found[name + _SCORES] = value
            found[name + _DETECTION] = outputs.detections[name]
        return found | {f"{_MASK}{s}": encoded.masks[s] for s in self.config.topology.streams}

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Give ``assignment`` and ``detection``, summed over particles, under the symmetries."""
        topology = self.config.topology
        names = [particle.name for particle in topology.particles]
        wanted = []
        for particle in topology.particles:
            indices = self._positions(
                particle.name, targets[f"target/assignment/{particle.name}"], outputs
            )
            present = (indices >= 0).all(1)
            wanted.append(
                AssignmentTarget(indices, present, torch.ones_like(indices[:, 0].float()))
            )
        pairs = pair_terms(
            [outputs[name + _SCORES] for name in names],
            [outputs[name + _DETECTION] for name in names],
            wanted,
            [len(particle.group) for particle in topology.particles],
            topology.permutations,
            focal_gamma=self.config.focal_gamma,
        )
        scale = pairs.new_tensor([1.0, self.config.detection_scale])[:, None]
        terms = permutation_terms(pairs * scale, topology.permutations)
        combined = combine(terms, self.config.combine).terms
        any_present = torch.stack([each.mask for each in wanted]).any(0)
        return {
            "assignment": LossTerm(combined[:, 0].sum(0), any_present),
            "detection": LossTerm(combined[:, 1].sum(0), torch.ones_like(any_present)),
        }

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``<particle>`` (B, product), ``<particle>/probability`` and ``/detection`` (B,)."""
        mask = torch.cat([outputs[f"{_MASK}{s}"] for s in self.config.topology.streams], 1)
        scores = {
            particle.name: self._possible(particle.name, outputs, mask)
            for particle in self.config.topology.particles
        }
        select = exact if self.config.selection == "exact" else greedy
        selected = select([dense_candidates(each) for each in scores.values()], mask.shape[1])
        found = {}
        particles = self.config.topology.particles
        for particle, chosen in zip(particles, selected.indices, strict=True):
            name = particle.name
            logarithm = _at(scores[name], chosen) + math.log(len(particle.group))
            found[name] = self._indices(name, chosen, outputs)
            found[f"{name}/probability"] = torch.exp(logarithm).clamp(max=1.0)
            found[f"{name}/detection"] = torch.sigmoid(outputs[name + _DETECTION])
        return found

    def _possible(self, name: str, outputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Log-probabilities, -inf where a tuple is impossible."""
        scores = outputs[name + _SCORES]
        scores = torch.where(torch.isnan(scores), -torch.inf, scores)
        for axis, source in enumerate(self._sources(name)):
            allowed = mask
            if self.config.exclusive_sources and source is not None:
                start, end = self._span(source, outputs)
                position = torch.arange(mask.shape[1], device=mask.device)
                allowed = mask & (position >= start) & (position < end)
            scores = torch.where(_along(allowed, axis, scores.ndim), scores, -torch.inf)
        return scores

    def _sources(self, name: str) -> tuple[str | None, ...]:
        products = next(p.products for p in self.config.topology.particles if p.name == name)
        return self.config.sources.get(name, (None,) * len(products))

    def _span(self, source: str, outputs: Mapping[str, Tensor]) -> tuple[int, int]:
        """First position of a stream, and the one after its last."""
        start = 0
        for stream in self.config.topology.streams:
            length = outputs[f"{_MASK}{stream}"].shape[1]
            if stream == source:
                return start, start + length
            start = start + length
        raise ConfigurationError(
            f"model.heads.{self.name}.sources: {source!r} is not an input of the network; "
            f"it has {', '.join(self.config.topology.streams)}"
        )

    def _indices(self, name: str, positions: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Positions as indices into the products' own streams; −1 outside of them."""
        columns = []
        for source, column in zip(self._sources(name), positions.unbind(1), strict=True):
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
        for source, column in zip(self._sources(name), indices.unbind(1), strict=True):
            start = 0 if source is None else self._span(source, outputs)[0]
            columns.append(torch.where(column >= 0, column + start, -1))
        return torch.stack(columns, 1)


class SpanetRegressionConfig(HeadConfig):
    """Options of the regressions of SPANet's network."""

    targets: dict[str, str]
    """Target → SPANet's key."""


class SpanetRegressionHead(Head):
    """Reads the regressions, in the targets' own units."""

    Config: ClassVar[type[HeadConfig]] = SpanetRegressionConfig
    config: SpanetRegressionConfig

    def contract(self, event: EventInfo) -> Contract:
        """Require the targets."""
        return _required(self, event, self.config.targets)

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Nothing is built: the parameters are the network's."""

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Give SPANet's key → value, and ``<key>.std``, the width of the target, (B,) both.

        Raises:
            ConfigurationError: If the backbone is another one.
        """
        del encoder
        network, outputs = _read(self, encoded)
        found = {}
        for key in self.config.targets.values():
            value = outputs.regressions[key]
            found[key] = value
            found[f"{key}.std"] = network.regression_decoder.std(key).expand_as(value)
        return found

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Give the squared error of each target, in units of its width."""
        found = {}
        for name, key in self.config.targets.items():
            target = targets[f"target/{name}"]
            valid = ~torch.isnan(target)
            difference = outputs[key] - torch.where(valid, target, 0.0)
            found[name] = LossTerm((difference / outputs[f"{key}.std"]) ** 2, valid)
        return found

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``<target>``, (B,)."""
        return {name: outputs[key] for name, key in self.config.targets.items()}


class SpanetClassificationConfig(HeadConfig):
    """Options of one classification of SPANet's network."""

    target: str
    """The target."""
    key: str
    """SPANet's key of it."""


class SpanetClassificationHead(Head):
    """Reads one classification."""

    Config: ClassVar[type[HeadConfig]] = SpanetClassificationConfig
    config: SpanetClassificationConfig

    def contract(self, event: EventInfo) -> Contract:
        """Require the target."""
        return _required(self, event, [self.config.target])

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Nothing is built: the parameters are the network's."""

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Give SPANet's key → logits, (B, C).

        Raises:
            ConfigurationError: If the backbone is another one.
        """
        del encoder
        return {self.config.key: _read(self, encoded)[1].classifications[self.config.key]}

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Give the cross-entropy."""
        labels = targets[f"target/{self.config.target}"]
        valid = labels >= 0
        value = functional.cross_entropy(
            outputs[self.config.key], labels.clamp(min=0), reduction="none"
        )
        return {"cross_entropy": LossTerm(value, valid)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``probabilities``, (B, C)."""
        return {"probabilities": torch.softmax(outputs[self.config.key], -1)}


def _at(scores: Tensor, positions: Tensor) -> Tensor:
    """Score of one tuple per event; -inf where it is none."""
    flat = torch.zeros_like(positions[:, 0])
    for column in positions.clamp(min=0).unbind(1):
        flat = flat * scores.shape[1] + column
    value = scores.flatten(1).gather(1, flat[:, None])[:, 0]
    return torch.where((positions >= 0).all(1), value, -torch.inf)


def _along(mask: Tensor, axis: int, ndim: int) -> Tensor:
    """A mask ``(B, T)`` along one of the axes after the first."""
    shape = [mask.shape[0], *(mask.shape[1] if a == axis else 1 for a in range(ndim - 1))]
    return mask.reshape(shape)


def _required(head: Head, event: EventInfo, names: Iterable[str]) -> Contract:
    tensors = {}
    for name in names:
        if name not in event.targets:
            raise ConfigurationError(
                f"model.heads.{head.name}: the event declares no target {name!r}; it has "
                f"{', '.join(event.targets) or 'none'}"
            )
        spec = target_spec(event, name, wanted_by=head.name)
        tensors[spec.name] = spec.model_copy(update={"required": True})
    return Contract(tensors=tensors)


def _read(head: Head, encoded: Encoded) -> tuple[SpanetNetwork, SpanetOutputs]:
    if not isinstance(encoded, SpanetEncoded) or encoded.network is None:
        raise ConfigurationError(
            f"model.heads.{head.name}: this head reads SPANet's network; it needs "
            "model.backbone.name: spanet"
        )
    return encoded.network, encoded.outputs
