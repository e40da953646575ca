"""`Matching`: which true particle a particle of SPANet's network represents, event by event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hepset.interfaces.backbone import Encoded
from hepset.schema.event import EventInfo
from hepset_assignment.selection import FORBIDDEN
from hepset_spanet.losses import AssignmentTarget, combine, pair_terms, permutation_terms
from hepset_spanet.network.describing import describe_particles, sources_of
from hepset_spanet.network.network import SpanetOutputs

__all__ = ["Matching"]

_SCORES = "/log_probability"
_MASK = "mask/"


class Matching:
    """Lets targets of interchangeable particles follow the best permutation of the assignment.

    Args:
        event: What an event is.
        targets: Names of targets.
        follow: Whether to; else every target stays with the particle that it is named after.

    Attributes:
        siblings: Further targets and assignments that are needed, without ``target/``.
    """

    def __init__(self, event: EventInfo, targets: Sequence[str], *, follow: bool) -> None:
        self.particles, self.permutations = describe_particles(event, "model.heads")
        self.names = [particle.name for particle in self.particles]
        self.streams = tuple(event.streams)
        self.sources = sources_of(event)
        moved = {
            index
            for element in self.permutations
            for index, source in enumerate(element)
            if index != source
        }
        self._place = {
            name: self.names.index(name.split("/")[0])
            for name in targets
            if "/" in name and name.split("/")[0] in self.names
        }
        self.follows = follow and any(place in moved for place in self._place.values())
        self._like = {
            name: [
                like if (like := f"{other}/{name.partition('/')[2]}") in event.targets else None
                for other in self.names
            ]
            for name in self._place
        }
        self.siblings: list[str] = []
        if self.follows:
            likes = [like for each in self._like.values() for like in each if like is not None]
            self.siblings = [n for n in dict.fromkeys(likes) if n not in targets]
            self.siblings += [each.tensor.removeprefix("target/") for each in event.assignments()]

    def outputs(self, encoded: Encoded, outputs: SpanetOutputs) -> dict[str, Tensor]:
        """Give what `order` needs of a batch; nothing where it does not follow."""
        if not self.follows:
            return {}
        found = {}
        for name in self.names:
            value = outputs.log_probabilities[name].detach()
            found[name + _SCORES] = torch.where(value > FORBIDDEN / 2, value, FORBIDDEN)
        return found | {f"{_MASK}{s}": encoded.masks[s] for s in self.streams}

    def order(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor | None:
        """Return the true particle of every particle, (B, N); None where each is its own."""
        if not self.follows:
            return None
        scores = [outputs[name + _SCORES] for name in self.names]
        wanted = []
        for name in self.names:
            indices = self._positions(name, targets[f"target/assignment/{name}"], outputs)
            weight = scores[0].new_ones(len(indices))
            wanted.append(AssignmentTarget(indices, (indices >= 0).all(1), weight))
        nothing = [torch.zeros_like(each.weight) for each in wanted]
        pairs = pair_terms(
            scores, nothing, wanted, [len(p.group) for p in self.particles], self.permutations
        )
        pairs = pairs * pairs.new_tensor([1.0, 0.0])[:, None]
        best = combine(permutation_terms(pairs, self.permutations)).best
        return torch.tensor(self.permutations, device=best.device)[best]

    def target(
        self, name: str, targets: Mapping[str, Tensor], order: Tensor | None, *, missing: float
    ) -> Tensor:
        """Return what a particle's output of this name should be, (B,).

        Args:
            name: Name of the target.
            targets: Tensors by contract name.
            order: What `order` gave.
            missing: Value where there is no target.
        """
        if order is None or name not in self._place:
            return targets[f"target/{name}"]
        own = order[:, self._place[name]]
        found = torch.full_like(targets[f"target/{name}"], missing)
        for number, like in enumerate(self._like[name]):
            if like is not None:
                found = torch.where(own == number, targets[f"target/{like}"], found)
        return found

    def _positions(self, name: str, indices: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """Indices local to streams as positions among all objects."""
        starts, start = {}, 0
        for stream in self.streams:
            starts[stream] = start
            start += outputs[f"{_MASK}{stream}"].shape[1]
        columns = []
        for source, column in zip(self.sources[name], indices.unbind(1), strict=True):
            shift = 0 if source is None else starts[source]
            columns.append(torch.where(column >= 0, column + shift, -1))
        return torch.stack(columns, 1)
